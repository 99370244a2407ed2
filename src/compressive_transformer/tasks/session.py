"""What happens around the steps of any run: display, metrics, scores, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressive_transformer.errors import Stopped, UsageError
from compressive_transformer.evaluate import key_of
from compressive_transformer.model import LanguageModel
from compressive_transformer.train import Progress, Trainer
from compressive_transformer.train.config import SaveConfig
from compressive_transformer.train.faults import DataLost, Diverged
from compressive_transformer.train.log import Display, Metrics
from compressive_transformer.train.parallel import World, whole_weights
from compressive_transformer.train.saver import Saver
from compressive_transformer.train.sharded import local
from compressive_transformer.train.state import facts_of, tensors_of


class Session:
    """One process's part in a run, from its start or resume to its end or stop.

    Args:
        run: run folder.
        world: the processes; the first one displays, logs and scores.
        save: when to save, and what to keep.
        facts: go into every checkpoint beside those of the trainer.
        metrics, display: to write to, in the first process.
        measure: what ``score`` tells, see ``measure_of``; lower is better.
        score: of a model on an excerpt of the validation text.
    """

    def __init__(
        self,
        run: Path,
        world: World,
        save: SaveConfig,
        facts: dict[str, Any],
        metrics: Metrics | None,
        display: Display | None,
        measure: str,
        score: Callable[[LanguageModel], float],
    ):
        self.run, self.world, self.facts = run, world, facts
        self.metrics, self.display, self.measure, self.score = metrics, display, measure, score
        self.saver = Saver(run, world, save, failed=self._save_failed)
        self._saved: int | None = None

    @contextmanager
    def showing(self) -> Iterator[None]:
        """While this is open the display is there; then the metrics are closed."""
        try:
            with self.display or nullcontext():
                yield
        finally:
            if self.metrics:
                self.metrics.close()

    def train(self, trainer: Trainer) -> None:
        """Runs the trainer, watched; whatever ends it, the run is saved if there is anything whole to save.

        Raises:
            Stopped: a signal came, and the run was saved.
            UsageError: training can't go on, or the last checkpoint could not be written.
        """
        trainer.on_record, trainer.on_event, trainer.on_pause = self.record, self.event, self.pause
        go_on = f"go on with: {self._command()} train --resume {self.run}"
        with trainer.signals.heeded():  # also while the last checkpoint is written
            try:
                trainer.run()
                self._must_be_saved(trainer)
            except Stopped as reason:
                self._must_be_saved(trainer)
                raise Stopped(f"{reason} and saved; {go_on}") from None
            except DataLost as error:
                if self.world.size > 1:  # saving is for all processes, and the others are not here
                    raise
                self.pause(trainer, False)
                self._must_be_saved(trainer)
                raise UsageError(f"{error}; saved at step {trainer.step}, {go_on}") from None
            except Diverged as error:
                self.saver.wait()
                if not self.world.first:
                    raise
                left = self.saver.store.set_aside(error.suspect_from, "diverged")
                raise UsageError(f"{error}; {go_on}, from step {left}" if left else str(error)) from None
            finally:
                self.saver.close()
            if self.world.any(bool(trainer.signals.received)):
                raise Stopped(
                    f"stopped at step {trainer.step}, the end of the run, and saved; score it with: "
                    f"compressive train --resume {self.run}"
                )

    def _command(self) -> str:
        if self.world.size == 1:
            return "compressive"
        here = os.environ.get("LOCAL_WORLD_SIZE", self.world.size)
        nodes = f"--nnodes {self.world.size // int(here)} " if int(here) < self.world.size else ""
        return f"torchrun {nodes}--nproc-per-node {here} -m compressive_transformer"

    def _must_be_saved(self, trainer: Trainer) -> None:
        if not self.saver.wait() or self._saved != trainer.step:
            raise UsageError(
                f"the run could not be saved at its end, step {trainer.step}; see the warning above"
            )

    def record(self, progress: Progress) -> None:
        """Shows and keeps a training record."""
        self._keep("train", **asdict(progress))
        if self.display:
            self.display.show(progress)

    def event(self, event: str, **facts: Any) -> None:
        """Tells and keeps what happened to a step."""
        self._keep(event, **facts)
        documents = facts["documents"]
        where = ", ".join(documents[:3]) + (f" and {len(documents) - 3} more" if len(documents) > 3 else "")
        if event == "skipped":
            what = f"the update was skipped, for {facts['reason']}"
        else:
            what = f"the loss leapt to {facts['bits_per_token']:.3f} bits, from {facts['expected']:.3f}"
        self.say(f"step {facts['step']}: {what}; read: {where}")

    def pause(self, trainer: Trainer, validate: bool) -> None:
        """Scores if asked to, and saves."""
        if trainer.step == self._saved and not validate:
            return
        model, world = trainer.model, self.world
        spoiled = not all(bool(p.isfinite().all()) for p in map(local, model.parameters()))
        if world.any(spoiled):
            self.say(f"step {trainer.step}: the weights are no numbers and are not saved")
            return
        weights = whole_weights(model) if trainer.is_sharded else None
        score = None
        if validate:
            if world.first:
                score = self._scored(trainer, weights)
            world.wait()  # here, where patience is long
        before = time.monotonic()
        offset = self.metrics.offset if self.metrics else 0
        facts = facts_of(trainer) | self.facts | {"metrics": offset, "score": score}
        self.saver.save(trainer.step, tensors_of(trainer), facts, weights)
        self._saved = trainer.step
        self._keep("saved", step=trainer.step, seconds=time.monotonic() - before)

    def _scored(self, trainer: Trainer, weights: dict[str, Tensor] | None) -> float | None:
        """The score on the excerpt, told and kept; None if scoring fails, for training goes on."""
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):  # scoring must not change what is dropped out later
                score = self.score(self.whole_model(trainer.model, weights))
        except (UsageError, OSError, torch.OutOfMemoryError) as error:
            self.say(f"warning: step {trainer.step} could not be scored ({error})")
            return None
        best = self.saver.store.best_score()
        facts = {key_of(self.measure): score, "seconds": trainer.seconds, "tokens": trainer.tokens}
        self._keep("excerpt", step=trainer.step, **facts, best=best is None or score < best)
        self.say(f"step {trainer.step}: {score:.3f} {self.measure} on an excerpt for validation")
        return score

    def whole_model(self, model: LanguageModel, weights: dict[str, Tensor] | None) -> LanguageModel:
        """The model, or one with these weights if it is sharded: scoring is not for all processes."""
        if weights is None:
            return model
        whole = LanguageModel(model.config, vocab_size=model.vocab_size).to(self.world.device)
        whole.load_state_dict(weights)
        return whole

    def resumed(self, trainer: Trainer, changed: dict[str, str]) -> None:
        """Tells from where the run goes on, and with what changes."""
        self._saved = trainer.step
        self._keep("resume", step=trainer.step, changed=changed)
        told = "".join(f"; {name} {change}" for name, change in changed.items())
        self.say(f"goes on from step {trainer.step}{told}")

    def say(self, text: str) -> None:
        """Prints a line, once for all processes."""
        if self.display:
            self.display.say(text)

    def _save_failed(self, reason: str) -> None:
        self.say(f"warning: {reason}")
        self._keep("save failed", reason=reason)
        self._saved = None

    def _keep(self, event: str, **values: Any) -> None:
        """Adds to the metrics; a full disk does not stop training."""
        if self.metrics:
            try:
                self.metrics.write(event, **values)
            except OSError as error:
                self.say(f"warning: {self.metrics.path} can't be written ({error.strerror})")
