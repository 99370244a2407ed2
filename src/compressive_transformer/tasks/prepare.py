"""Making tokens, with a display of how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from compressive_transformer.data import (
    Corpus,
    Preparing,
    Tokenizer,
    get_tokenizer,
    prepare,
    prepare_dataset,
    verify_dataset,
)
from compressive_transformer.errors import UsageError

PATIENCE = 1.5
"""Seconds that pass in silence where the work was not asked for by name."""
LINES_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class PrepareDisplay:
    """A progress bar with bytes, speed and time left; plain lines where there is no terminal.

    Args:
        patience: Seconds before anything is shown.
    """

    def __init__(self, *, patience: float = 0.0) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self.last = Preparing()
        self.console = Console(file=sys.stderr)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task("preparing")
        self._next_line = time.monotonic() + patience
        self._shown_from = self._next_line

    def __enter__(self) -> PrepareDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def __call__(self, now: Preparing) -> None:
        """Shows how far it is."""
        self.last = now
        line = f"{_megabytes(now.bytes_read, now.bytes_total)}, {now.shards} of {now.shards_total} shards"
        what = "waiting for another process that prepares the same" if now.waiting else "preparing"
        self._show(what, now.bytes_read, now.bytes_total, "" if now.waiting else f": {line}")

    def check(self, done: int, total: int) -> None:
        """Shows how far a check is."""
        self._show("checking", done, total, f": {_megabytes(done, total)}")

    def _show(self, what: str, done: int, total: int | None, line: str) -> None:
        time_now = time.monotonic()
        self._bar.update(self._task, description=what, completed=done, total=total)
        if time_now < self._shown_from:
            return
        if self.console.is_terminal:
            self._bar.start()
        elif time_now >= self._next_line:
            self._next_line = time_now + LINES_EVERY
            self.say(what + line)

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _megabytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:,.1f}" + ("" if total is None else f" of {total / 1e6:,.1f}") + " MB"


def prepare_shown(paths: Sequence[str], tokenizer: Tokenizer, *, separator: str | None = None) -> Corpus:
    """`prepare`, with a display if it takes a while."""
    with PrepareDisplay(patience=PATIENCE) as display:
        return prepare(paths, tokenizer, separator=separator, progress=display)


def make_dataset(
    paths: Sequence[str], out: str, *, tokenizer: str, separator: str | None, workers: int | None
) -> str:
    """Prepares a dataset behind a display, and says in a line what it holds.

    Raises:
        UsageError: As `prepare_dataset`; or there are no workers.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers {workers} is not allowed; use 1 or more")
    with PrepareDisplay() as display:
        try:
            corpus = prepare_dataset(
                paths, out, get_tokenizer(tokenizer), separator=separator, workers=workers, progress=display
            )
        except KeyboardInterrupt:
            last = display.last
            goes_on = "" if last.bytes_total is None else "; the same command goes on from there"
            display.say(f"stopped: {last.shards} of {last.shards_total} shards are done{goes_on}")
            raise
    return f"{out}: {corpus.num_tokens:,} {corpus.unit}s in {corpus.num_documents:,} document(s)"


def check_datasets(folders: Sequence[str]) -> str:
    """Compares datasets with their checksums behind a display, and says in lines that they are whole.

    Raises:
        UsageError: One is damaged, or is none.
    """
    with PrepareDisplay() as display:
        manifests = [verify_dataset(Path(folder).expanduser(), display.check) for folder in folders]
    lines = (
        f"{folder}: {len(manifest.shards)} shard(s) as they were made"
        for folder, manifest in zip(folders, manifests, strict=True)
    )
    return "\n".join(lines)
