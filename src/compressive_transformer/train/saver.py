"""Saving while training goes on: a copy is taken at once, and written by a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressive_transformer.checkpoint import WEIGHTS, Store, save_tensors, save_weights
from compressive_transformer.train.config import SaveConfig
from compressive_transformer.train.parallel import World

SHOWN_WITHIN = 60.0
"""Seconds until the first process of a network disk sees what others wrote."""


class Saver:
    """Writes the checkpoints of a run, one at a time.

    Args:
        run: run folder, the same for all processes, on a disk that all of them see.
        world: the processes; each makes a saver and calls ``save`` at the same steps.
        config: which checkpoints stay.
        failed: is told what hindered a checkpoint, when the next one or the end comes; training can go on.
    """

    def __init__(self, run: Path, world: World, config: SaveConfig, failed: Callable[[str], None]):
        self.run, self.world, self.config, self.failed = run, world, config, failed
        self.store = Store(run)
        self._thread = ThreadPoolExecutor(1, "saver", initializer=self._begin)
        self._writing: Future[None] | None = None
        self._step = 0

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        facts: dict[str, Any],
        weights: dict[str, Tensor] | None,
    ) -> None:
        """Copies everything and begins to write it, once the checkpoint before is written.

        Args:
            step: names the checkpoint.
            tensors: what each process has of the state; shards are DTensors.
            facts: the rest, JSON-able; those of the first process count.
            weights: what becomes ``model.safetensors`` of the run; None takes it from ``tensors``.
        """
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        copies: dict[str, Tensor] = stager.stage(dict(tensors))  # pyright: ignore[reportAssignmentType]
        stager.close()
        if weights is None:
            weights = {n.removeprefix("model."): x for n, x in copies.items() if n.startswith("model.")}
        self._step = step
        self._writing = self._thread.submit(self._write, step, copies, facts, weights)

    def _begin(self) -> None:
        if self.world.device.type == "cuda":  # a new thread would use the first of all GPUs
            torch.cuda.set_device(self.world.device)

    def wait(self) -> bool:
        """Until nothing is being written. Returns whether the last checkpoint is whole, for all processes."""
        writing, self._writing = self._writing, None
        if writing is None:
            return True
        try:
            writing.result()
        except OSError as error:
            reason = error.strerror or str(error)
            left = next(iter(self.store.steps()), None)
            if left == self._step:
                self.failed(f"{WEIGHTS} of step {left} could not be written ({reason}); its checkpoint was")
                return False
            earlier = "there is no earlier one" if left is None else f"the one of step {left} stays"
            self.failed(f"the checkpoint of step {self._step} could not be written ({reason}); {earlier}")
            return False
        return True

    def close(self) -> None:
        """Ends the thread, when it has written what it was given."""
        self._thread.shutdown()

    def _write(
        self, step: int, tensors: Mapping[str, Tensor], facts: dict[str, Any], weights: dict[str, Tensor]
    ) -> None:
        partial = self.store.partial(step)
        try:
            self._by_first(lambda: self.store.begin(step))
            save_tensors(partial, tensors, self.world.saving)
            self._by_first(lambda: self._finish(partial, facts, weights))
        except OSError:
            if self.world.first:
                self.store.abandon(partial)
            raise

    def _by_first(self, work: Callable[[], object]) -> None:
        """What the first process does for all: they wait for it, and know whether it failed."""
        error = None
        if self.world.first:
            try:
                work()
            except OSError as found:
                error = found
        if self.world.any(error is not None, self.world.saving):
            raise error or OSError("see what the first process says")

    def _finish(self, partial: Path, facts: dict[str, Any], weights: dict[str, Tensor]) -> None:
        end = time.monotonic() + SHOWN_WITHIN
        while (count := len(list(partial.glob("*.safetensors")))) < self.world.size:
            if time.monotonic() > end:
                found = f"{count} of {self.world.size} processes"
                raise OSError(f"{found} wrote to {partial.parent}; all need the same disk")
            time.sleep(1)
        self.store.finish(partial, facts)
        self.store.prune(latest=self.config.keep_latest, every=self.config.keep_every)
        save_weights(self.run, weights)
