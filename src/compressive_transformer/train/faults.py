"""What goes wrong in long runs: signals, losses that are no numbers, losses that leap."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from compressive_transformer.errors import UsageError


class DataLost(UsageError):
    """The text can't be read any more; all else is as it was."""


class Diverged(UsageError):
    """Loss or gradients are no numbers, again and again.

    ``suspect_from``: the first step after which the weights were those that gave no numbers.
    """

    def __init__(self, message: str, suspect_from: int):
        super().__init__(message)
        self.suspect_from = suspect_from


class Signals:
    """Remembers that SIGINT or SIGTERM came, so that the step at hand is finished and saved first.

    Args:
        grace: seconds in which a second signal is taken for the first one: a launcher hands on to its
            processes what the terminal or the scheduler sent them already.
    """

    def __init__(self, grace: float = 0.0) -> None:
        self.grace = grace
        self.received = 0
        """Number of the signal, 0 if none came."""
        self._at = 0.0

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """While this is open the first signal is remembered, and a second one ends the process at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may listen
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in before:
                signal.signal(number, self._receive)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and time.monotonic() - self._at < self.grace:
            return
        if self.received:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar hid the cursor
            os._exit(128 + number)
        self.received, self._at = number, time.monotonic()


@dataclass
class Spikes:
    """Tells losses that leap: above the running mean by far more than losses differ from step to step.

    Mean and variance fade exponentially; they are part of a checkpoint.
    """

    mean: float = 0.0
    variance: float = 0.0
    """Of the noise: half the mean square of the difference between two losses, whatever their trend."""
    last: float = 0.0
    steps: int = 0

    FADE = 0.05
    WARMUP = 50
    """Steps before anything is called a spike."""
    SIGMAS = 6.0
    LEAST = 0.1
    """Part of the mean that a spike is above it at least."""

    def add(self, loss: float) -> bool:
        """Takes a loss into account, and says whether it is a spike."""
        if not math.isfinite(loss):
            return False
        noise = self.SIGMAS * math.sqrt(self.variance)
        limit = self.mean + max(noise, self.LEAST * self.mean)
        spike = self.steps >= self.WARMUP and loss > limit
        if spike:
            loss = limit  # as much as it may say about the losses to come
        fade = max(self.FADE, 1 / (self.steps + 1))  # the first losses count in full
        if self.steps:
            self.variance += fade * ((loss - self.last) ** 2 / 2 - self.variance)
        self.mean += fade * (loss - self.mean)
        self.last = loss
        self.steps += 1
        return spike
