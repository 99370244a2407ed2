"""What goes wrong in long runs: signals, losses that are no numbers, losses that leap."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from compressive_transformer.errors import UsageError


class DataLost(UsageError):
    """The text can't be read any more; all else is as it was."""


class Signals:
    """Remembers that SIGINT or SIGTERM came, so that the step at hand is finished and saved first."""

    def __init__(self) -> None:
        self.received = 0
        """Number of the signal, 0 if none came."""

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
        if self.received:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar hid the cursor
            os._exit(128 + number)
        self.received = number


@dataclass
class Spikes:
    """Tells losses that leap: further above the running mean than they ever strayed from it.

    Mean and variance fade exponentially; they are part of a checkpoint.
    """

    mean: float = 0.0
    variance: float = 0.0
    steps: int = 0

    FADE = 0.02
    WARMUP = 50
    """Steps before anything is called a spike."""
    SIGMAS = 6.0
    LEAST = 0.1
    """Part of the mean that a spike is above it at least."""

    def add(self, loss: float) -> bool:
        """Takes a loss into account, and says whether it is a spike."""
        if not math.isfinite(loss):
            return False
        above = loss - self.mean
        limit = max(self.SIGMAS * math.sqrt(self.variance), self.LEAST * self.mean)
        spike = self.steps >= self.WARMUP and above > limit
        if spike:
            above = limit  # it counts as the largest loss that is none
        # The first losses count in full.
        fade = max(self.FADE, 1 / (self.steps + 1))
        self.mean += fade * above
        self.variance = (1 - fade) * (self.variance + fade * above**2)
        self.steps += 1
        return spike
