"""The training loop: lanes in, memory carried from step to step, weights out.

Shape legend: B lanes, T tokens of a step, L layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from compressive_transformer.data import Batch, Lanes, StreamedLanes
from compressive_transformer.errors import Stopped, UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.model import LanguageModel, Output
from compressive_transformer.precision import autocast
from compressive_transformer.train.compiled import is_compiled
from compressive_transformer.train.config import TrainConfig
from compressive_transformer.train.faults import DataLost, Diverged, Signals, Spikes
from compressive_transformer.train.optimizer import Optimizer, learning_rate_factor
from compressive_transformer.train.parallel import World, gradients_stay, parallelize
from compressive_transformer.train.progress import Progress, Sums, memory_norms
from compressive_transformer.train.sharded import is_sharded

LOG_EVERY = 10
"""Steps between records of the loss."""
ECHO, LAUNCHER = 0.5, 5.0
"""Seconds in which a signal is the same once more: sent to a process and its group; passed on by torchrun."""


class Told(NamedTuple):
    """What all processes know after a step."""

    done: float
    signal: int
    save: bool
    validate: bool
    loss: float


class Trainer:
    """Trains a model on lanes until the budget is spent.

    Args:
        model: on its device, with equal weights in all processes.
        lanes: batches of ``unroll`` segments, of the lanes that this process reads.
        config: budget, optimiser, precision.
        world: the processes that train together.
        on_record: is given a ``Progress`` every few steps, in the first process.
        on_event: is given what happened (``spike``, ``skipped``) and its facts, in the first process.
        validate_at: fractions of the budget after which ``on_pause`` is asked to validate.
        on_pause: is given the trainer and whether to validate; it saves. Called in all processes at once.
    """

    def __init__(
        self,
        model: LanguageModel,
        lanes: Lanes | StreamedLanes,
        config: TrainConfig,
        *,
        world: World | None = None,
        on_record: Callable[[Progress], None] = lambda progress: None,
        on_event: Callable[..., None] = lambda event, **facts: None,
        validate_at: tuple[float, ...] = (),
        on_pause: Callable[[Trainer, bool], None] = lambda trainer, validate: None,
    ):
        if config.minutes is config.tokens is config.steps is None:
            raise UsageError("the run has no budget; give one of minutes, steps, tokens")
        self.model, self.lanes, self.config = model, lanes, config
        self.world = world or World(device=next(model.parameters()).device)
        self.signals = Signals(grace=LAUNCHER if self.world.size > 1 else ECHO)
        """Asked after each step whether to stop."""
        self.memory = model.init_memory(len(lanes.rows))
        self.call = parallelize(
            model,
            self.world,
            config.parallel,
            recompute=config.recompute,
            compile_them=is_compiled(config, self.world.device),
        )
        self.optimizer = Optimizer(model, config.optimizer)
        self.on_record, self.on_event, self.on_pause = on_record, on_event, on_pause
        self.validate_at = list(validate_at)
        self.step = self.tokens = self.updates = 0
        self.waiting = 0
        """Steps since the last update."""
        self.skipped = 0
        """Updates in a row that were skipped."""
        self.norms = (0.0, 0.0)
        self.spikes = Spikes()
        self.seconds_before = 0.0
        """Spent on training before this process began."""
        self.spoiled = False
        """Whether a loss of this update period was no number, here."""
        self.proven = 1
        """Step of the last update: weights before it gave numbers, those after it may not."""
        self._suspects: dict[str, None] = {}
        self.sums = Sums.of_none(self.memory)
        self._started = self._saved = self._validated = self._since = time.monotonic()
        self._recorded, self._recorded_tokens = 0, 0
        """Step of the last record, and tokens from which the speed is counted."""

    @property
    def seconds(self) -> float:
        """Wall-clock time spent on training."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Part of the budget that is spent."""
        c = self.config
        if c.minutes is not None:
            return self.seconds / 60 / c.minutes
        if c.tokens is not None:
            return self.tokens / c.tokens
        assert c.steps is not None
        return self.step / c.steps

    @property
    def is_sharded(self) -> bool:
        """Whether no process has all weights."""
        return is_sharded(next(self.model.parameters()))

    def run(self) -> None:
        """Trains to the end of the budget, from wherever the trainer stands.

        Raises:
            Stopped: a signal came; the step at hand was finished and ``on_pause`` called.
            DataLost: the text can't be read any more; the trainer stands where it was before the step.
            Diverged: loss or gradients are no numbers, too many times in a row.
        """
        self._started = self._saved = self._validated = self._since = time.monotonic()
        self._recorded_tokens = self.tokens
        if not self.sums.steps:
            self._recorded = self.step
        told = self._agree(math.nan)
        if told.validate:  # what the last session was stopped before
            self._pause(True)
        while told.done < 1 and not told.signal:
            self.model.train()
            told = self._agree(self.train_step(told.done))
            self._watch(told)
            if self.step % LOG_EVERY == 0:
                self._record(told.done)
            if (told.save or told.validate) and told.done < 1 and not told.signal and not self.skipped:
                self._pause(told.validate)
        if told.signal and told.done < 1:
            self._pause(False)
            raise Stopped(f"stopped at step {self.step}")
        if self.waiting:
            self._finish_period()
        if self.step > self._recorded:
            self._record(told.done)
        self._pause(False)

    def train_step(self, done: float) -> float:
        """Reads one batch, carries the memory on, and updates the weights if an update is due.

        Returns:
            The loss of this process's lanes, in nats per token.
        """
        try:
            batch = next(self.lanes)
        except UsageError as error:
            raise DataLost(str(error)) from None
        due = (self.step + 1 - self.config.optimizer.update_period_from) % self._update_period() == 0
        with gradients_stay(self.call, stay=not due):
            output, loss = self._read(batch)
            ((loss + output.compression_loss) / self._update_period()).backward()
        # The one place in a step where the host waits for the device.
        main, auxiliary = torch.stack([loss.detach(), output.compression_loss.detach()]).tolist()
        self.memory = self._carry(output, batch, main + auxiliary)
        self.step += 1
        self.tokens += self.lanes.num_lanes * self.lanes.length
        self.waiting += 1
        if math.isfinite(main):
            self.sums.steps += 1
            self.sums.loss += main
            self.sums.compression += output.compression_losses.detach()
        if due:
            self._update(done)
        return main

    def _read(self, batch: Batch) -> tuple[Output, Tensor]:
        device = self.world.device
        inputs, targets = batch.inputs.to(device), batch.targets.to(device)
        resets = None if batch.resets is None else batch.resets.to(device)
        with autocast(device, self.config.precision):
            output = self.call(inputs, self.memory, resets, targets=targets)
        return output, output.losses.mean()

    def _carry(self, output: Output, batch: Batch, loss: float) -> Memory:
        """The memory for the next step. What gave no number is not remembered: the batch leaves a gap."""
        if math.isfinite(loss):
            return output.memory.detach()
        self.spoiled = True
        rows = (~output.losses.detach().isfinite()).any(dim=1).nonzero()[:, 0].tolist()
        self._suspects |= dict.fromkeys(self.lanes.documents(rows or None))
        return self.memory if batch.resets is None else self.memory.reset(batch.resets.any(dim=1))

    def _update(self, done: float) -> None:
        """Applies the gradients that wait, if they are numbers."""
        self.optimizer.set_factor(learning_rate_factor(done, self.step - 1, self.config.optimizer))
        main, compression = self.optimizer.clip()
        self.norms = (float(main), float(compression))
        if self.world.any(self.spoiled or not all(map(math.isfinite, self.norms))):
            self._skip()
        else:
            self.optimizer.step()
            self.updates += 1
            self.skipped = 0
            self.proven = self.step
        self.optimizer.clear()
        self.waiting, self.spoiled = 0, False
        self._suspects.clear()

    def _skip(self) -> None:
        """Tells of an update that is not made, and gives up after too many in a row."""
        self.skipped += 1
        documents = self._documents(list(self._suspects))
        reason = f"the {'loss' if documents else 'gradient'} is no number"
        documents = documents or self._documents(self.lanes.documents())
        if self.world.first:
            self.on_event("skipped", step=self.step, reason=reason, documents=documents)
        if self.skipped >= self.config.max_skipped:
            raise Diverged(
                f"{reason} at step {self.step}, and {self.skipped} updates in a row were skipped for that; "
                "use a lower --optimizer.lr and --optimizer.muon-lr",
                suspect_from=self.proven,
            )

    def _finish_period(self) -> None:
        """Updates by what the budget left of an update period."""
        if self.world.size > 1 and not self.is_sharded:  # DDP has not added these up yet
            self.world.average([p.grad for p in self.model.parameters() if p.grad is not None])
        self._update(1.0)

    def _update_period(self) -> int:
        o = self.config.optimizer
        return o.update_period if self.step >= o.update_period_from else 1

    def _agree(self, loss: float) -> Told:
        """Decisions are those of the first process's clock, and signals those that any process got."""
        now, save, c = time.monotonic(), self.config.save, self.config
        due = any(self.step % n == 0 for n in (save.steps, save.keep_every) if n)
        validate = any(self.done >= part for part in self.validate_at)
        validate = validate or now - self._validated >= 60 * c.validate_minutes
        own = [
            self.done,
            self.signals.received,
            due or now - self._saved >= 60 * save.minutes,
            validate,
            loss,
        ]
        rows = self.world.gather(own)
        done, _, save_now, validate_now, _ = rows[0].tolist()
        return Told(done, int(rows[:, 1].max()), bool(save_now), bool(validate_now), float(rows[:, 4].mean()))

    def _watch(self, told: Told) -> None:
        """Tells of a loss that leaps."""
        expected = self.spikes.mean
        if self.spikes.add(told.loss):
            documents = self._documents(self.lanes.documents())
            if self.world.first:
                bits = {"bits_per_token": told.loss / math.log(2), "expected": expected / math.log(2)}
                self.on_event("spike", step=self.step, **bits, documents=documents)

    def _documents(self, names: list[str]) -> list[str]:
        """The names that all processes give, each once."""
        told = "\n".join(filter(None, self.world.texts("\n".join(names))))
        return list(dict.fromkeys(told.split("\n"))) if told else []

    def _record(self, done: float) -> None:
        sums, now = self.sums, time.monotonic()
        own = [sums.steps, sums.loss, *sums.compression.tolist()]
        steps, loss, *compression = self.world.gather(own).mean(dim=0).tolist()
        progress = Progress(
            step=self.step,
            tokens=self.tokens,
            seconds=self.seconds,
            done=min(done, 1.0),
            bits_per_token=loss / steps / math.log(2) if steps else math.nan,
            compression_losses=tuple(x / max(steps, 1) for x in compression),
            learning_rate=self.optimizer.parts[0].param_groups[0]["lr"],
            gradient_norm=self.norms[0],
            compression_gradient_norm=self.norms[1],
            memory_norms=memory_norms(self.memory, self.world),
            tokens_per_second=(self.tokens - self._recorded_tokens) / max(now - self._since, 1e-9),
        )
        if self.world.first:
            self.on_record(progress)
        self.sums, self._since = Sums.of_none(self.memory), now
        self._recorded, self._recorded_tokens = self.step, self.tokens

    def _pause(self, validate: bool) -> None:
        """Lets ``on_pause`` work, without counting its time into the speed."""
        before = time.monotonic()
        if validate:
            self.validate_at = [part for part in self.validate_at if part > self.done]
        self.on_pause(self, validate)
        now = time.monotonic()
        self._since += now - before
        self._saved = now
        if validate:
            self._validated = now
