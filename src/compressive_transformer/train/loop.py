"""The training loop: lanes in, memory carried from step to step, weights out.

Shape legend: B lanes, T tokens of a step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compressive_transformer.data import Lanes
from compressive_transformer.errors import UsageError
from compressive_transformer.losses import next_token_loss
from compressive_transformer.model import LanguageModel
from compressive_transformer.precision import autocast
from compressive_transformer.train.config import TrainConfig
from compressive_transformer.train.optimizer import Optimizer, learning_rate_factor

LOG_EVERY = 10
"""Steps between records of the loss."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; what the display shows and ``metrics.jsonl`` keeps."""

    step: int
    tokens: int
    seconds: float
    done: float
    """Part of the budget that is spent, 0 to 1."""
    bits_per_token: float
    """Mean training loss since the last record."""
    compression_losses: tuple[float, ...]
    """Auxiliary loss of each layer, mean since the last record."""
    learning_rate: float
    gradient_norm: float
    """Of the model, before clipping."""
    compression_gradient_norm: float
    """Of compressors and decoders, before clipping."""
    tokens_per_second: float


@dataclass
class _Sums:
    """What is added up between two records, kept on the device so that nothing waits for it."""

    steps: int = 0
    loss: Tensor | float = 0.0
    compression: Tensor | float = 0.0
    since: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains a model on lanes until the budget is spent.

    Args:
        model: on its device.
        lanes: batches of ``unroll`` segments.
        config: budget, optimiser and precision.
        on_record: is given a ``Progress`` every few steps.
        checkpoints: fractions of the budget at which ``on_checkpoint`` is called.
        on_checkpoint: validates, saves.
    """

    def __init__(
        self,
        model: LanguageModel,
        lanes: Lanes,
        config: TrainConfig,
        *,
        on_record: Callable[[Progress], None] = lambda progress: None,
        checkpoints: tuple[float, ...] = (),
        on_checkpoint: Callable[[Trainer], None] = lambda trainer: None,
    ):
        if config.minutes is config.tokens is config.steps is None:
            raise UsageError("the run has no budget; give one of minutes, steps, tokens")
        self.model, self.lanes, self.config = model, lanes, config
        self.optimizer = Optimizer(model, config.optimizer)
        self.device = next(model.parameters()).device
        self.memory = model.init_memory(lanes.num_lanes)
        self.on_record, self.on_checkpoint = on_record, on_checkpoint
        self.checkpoints = list(checkpoints)
        self.step = 0
        self.gradient_norm: Tensor | float = 0.0
        self.compression_gradient_norm: Tensor | float = 0.0
        self._waiting = 0
        self._started = time.monotonic()
        self._sums = _Sums()

    @property
    def seconds(self) -> float:
        """Wall-clock time since training began."""
        return time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Part of the budget that is spent."""
        c = self.config
        if c.minutes is not None:
            return self.seconds / 60 / c.minutes
        if c.tokens is not None:
            return self.lanes.tokens_read / c.tokens
        assert c.steps is not None
        return self.step / c.steps

    def run(self) -> None:
        """Trains to the end of the budget. Stopped at any step, the model is as good as its last update."""
        self._started = time.monotonic()
        self._sums = _Sums()
        while (done := self.done) < 1:
            self.model.train()
            self.train_step(done)
            if self.step % LOG_EVERY == 0:
                self._record()
            if self.checkpoints and self.done >= self.checkpoints[0]:
                while self.checkpoints and self.done >= self.checkpoints[0]:
                    self.checkpoints.pop(0)
                self._pause()
        if self._waiting:
            self._update(1.0)
        if self._sums.steps:
            self._record()

    def train_step(self, done: float) -> None:
        """Reads one batch, carries the memory on, and updates the weights if an update is due."""
        batch = next(self.lanes)
        inputs, targets = batch.inputs.to(self.device), batch.targets.to(self.device)
        resets = None if batch.resets is None else batch.resets.to(self.device)
        with autocast(self.device, self.config.precision):
            output = self.model(inputs, self.memory, resets)
            loss = next_token_loss(output.logits, targets)
        period = self._update_period()
        ((loss + output.compression_loss) / period).backward()
        self.memory = output.memory.detach()
        self.step += 1
        self._waiting += 1
        if (self.step - self.config.optimizer.update_period_from) % period == 0:
            self._update(done)
        self._sums.steps += 1
        self._sums.loss += loss.detach()
        self._sums.compression += output.compression_losses.detach()

    def _update(self, done: float) -> None:
        """Applies the gradients that wait: of a whole update period, or of what the budget left of one."""
        self.optimizer.set_factor(learning_rate_factor(done, self.step - 1, self.config.optimizer))
        self.gradient_norm, self.compression_gradient_norm = self.optimizer.update()
        self._waiting = 0

    def _update_period(self) -> int:
        o = self.config.optimizer
        return o.update_period if self.step >= o.update_period_from else 1

    def _record(self) -> None:
        sums, now = self._sums, time.monotonic()
        steps, bits = sums.steps, float(sums.loss) / sums.steps / math.log(2)
        tokens = steps * self.lanes.num_lanes * self.lanes.length
        self.on_record(
            Progress(
                step=self.step,
                tokens=self.lanes.tokens_read,
                seconds=self.seconds,
                done=min(self.done, 1.0),
                bits_per_token=bits,
                compression_losses=tuple((torch.as_tensor(sums.compression) / steps).tolist()),
                learning_rate=self.optimizer.parts[0].param_groups[0]["lr"],
                gradient_norm=float(self.gradient_norm),
                compression_gradient_norm=float(self.compression_gradient_norm),
                tokens_per_second=tokens / max(now - sums.since, 1e-9),
            )
        )
        if not math.isfinite(bits):
            raise UsageError(f"the loss is {bits} at step {self.step}; use a lower learning rate")
        self._sums = _Sums()

    def _pause(self) -> None:
        """Lets ``on_checkpoint`` work, without counting its time into the speed."""
        before = time.monotonic()
        self.on_checkpoint(self)
        self._sums.since += time.monotonic() - before
