"""What a run says while it trains: a live display, and ``metrics.jsonl`` to be read by programs."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from compressive_transformer.train.loop import Progress

METRICS = "metrics.jsonl"


class Metrics:
    """Appends one JSON object a line; each line is on disk before the next begins."""

    def __init__(self, run: Path):
        self.path = run / METRICS

    def write(self, event: str, **values: Any) -> None:
        """Adds ``{"event": event, ...}``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def progress(self, progress: Progress) -> None:
        """Adds a training record."""
        self.write("train", **asdict(progress))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All records of a run; a last line that was cut off is left out."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    records = []
    for i, line in enumerate(lines):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise
    return records


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
        text = describe(progress, self.unit)
        self.bar.update(self.task, completed=progress.done, description=text)
        if not self.console.is_terminal and (progress.done >= self._next or progress.done == 1):
            self.say(f"{progress.done:4.0%}  {text}")
            self._next = progress.done + self.every

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
