"""What a run says while it trains: a live display, and ``metrics.jsonl`` to be read by programs."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import as_json, open_plain, parse_json
from compressive_transformer.train.progress import Progress
from compressive_transformer.train.sinks import Sink

METRICS = "metrics.jsonl"
NUMBERS = {"step", "tokens", "seconds", "tokens_per_second", "bits_per_token"}
NUMBERS |= {"bits_per_byte", "bits_per_sample", "perplexity_per_word"}
"""What records may have, and then as a number or null."""


class Metrics:
    """Appends one JSON object a line; each line is on disk before the next begins.

    Args:
        run: the run folder.
        offset: of the checkpoint that is resumed. Records that were written after it are cut off, for
            training goes through their steps again.
        sinks: are given every record too. One that fails is dropped with a warning: training goes on.
    """

    def __init__(self, run: Path, *, offset: int | None = None, sinks: Sequence[Sink] = ()):
        self.path = run / METRICS
        self._sinks = list(sinks)
        if offset is not None:
            self._cut(offset)

    @property
    def offset(self) -> int:
        """Bytes written so far, to be kept in checkpoints."""
        return self.path.stat().st_size if self.path.exists() else 0

    def write(self, event: str, **values: Any) -> None:
        """Adds ``{"event": event, ...}``; numbers that are not finite become null."""
        line = json.dumps(as_json({"event": event, **values}), allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self._tell(lambda sink: sink.write(event, values.get("step"), values))

    def progress(self, progress: Progress) -> None:
        """Adds a training record."""
        self.write("train", **asdict(progress))

    def close(self) -> None:
        """Closes the sinks."""
        self._tell(lambda sink: sink.close())
        self._sinks.clear()

    def _cut(self, offset: int) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        if len(content) < offset:
            warnings.warn(
                f"{self.path} has {len(content)} bytes, and had {offset} when the checkpoint was saved; "
                "records are missing, and what is left is kept",
                stacklevel=3,
            )
        with self.path.open("ab") as file:
            file.truncate(content.rfind(b"\n", 0, offset) + 1)  # whole lines, or the next would be none

    def _tell(self, message: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                message(sink)
            except Exception as error:  # of a package, a network, a disk: none of them is worth the training
                self._sinks.remove(sink)
                warnings.warn(
                    f"{sink.name} failed ({type(error).__name__}: {error}); it gets no more of this run, and "
                    f"{METRICS} has all",
                    stacklevel=3,
                )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run, with None for what is not a number; a last line that was cut off is left out.

    Raises:
        UsageError: the file is missing, or broken before its last line.
    """
    path = run / METRICS
    if not os.path.isfile(path):  # unlike Path.is_file, also where the name itself is impossible
        raise UsageError(f"{run} has no {METRICS}; give a run folder that 'compressive train' made")
    try:
        with open_plain(path) as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise UsageError(f"{path} can't be read ({error.strerror})") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(_record(line))
        except ValueError as error:
            if number < len(lines):
                raise UsageError(
                    f"{path} is broken in line {number} ({error}); remove that line, or restore the file"
                ) from None
    return records


def _record(line: bytes) -> dict[str, Any]:
    record = as_json(parse_json(line))  # early runs wrote NaN
    if not isinstance(record, dict) or not isinstance(record.get("event"), str):
        raise ValueError("not a record")
    for name in NUMBERS & record.keys():
        if type(record[name]) not in (int, float, NoneType):
            raise ValueError(f"{name} is no number")
    return record


class Display:
    """A progress bar with loss, speed and time left; plain lines where there is no terminal."""

    def __init__(self, unit: str, *, every: float = 0.1):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.unit, self.every, self._next = unit, every, 0.0
        self.console = Console(file=sys.stderr)
        columns = (
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
        )
        self.bar = Bar(*columns, console=self.console, transient=False, expand=True)
        self.task = self.bar.add_task("starting ...", total=1.0)

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.bar.stop()

    def show(self, progress: Progress) -> None:
        """Shows a training record."""
        self.advance(progress.done, describe(progress, self.unit))

    def advance(self, done: float, text: str) -> None:
        """Shows how much of the budget is spent, 0 to 1, and how it goes."""
        self.bar.update(self.task, completed=done, description=text)
        if not self.console.is_terminal and (done >= self._next or done == 1):
            self.say(f"{done:4.0%}  {text}")
            self._next = done + self.every

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


def describe(p: Progress, unit: str) -> str:
    """One line: loss, auxiliary loss, learning rate, speed, time left."""
    left = p.seconds * (1 - p.done) / max(p.done, 1e-9)
    aux = sum(p.compression_losses) / len(p.compression_losses)
    return (
        f"{p.bits_per_token:.3f} bits/{unit}  aux {aux:.4f}  lr {p.learning_rate:.1e}  "
        f"{p.tokens_per_second:,.0f} {unit}s/s  {int(left // 60)}:{int(left % 60):02d} left"
    )
