"""Making tokenizers from text."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from compressive_transformer.data.disk import writing
from compressive_transformer.data.files import find_sources
from compressive_transformer.data.sources import read_chunks
from compressive_transformer.data.trained import Kind, learn, load, save
from compressive_transformer.errors import UsageError


def make_tokenizer(paths: Sequence[str], out: str, *, kind: Kind, vocab_size: int | None) -> str:
    """Learns a tokenizer from files behind a display, and says in a line what came of it.

    Raises:
        UsageError: the text can't be read, a setting is not allowed, or the file can't be written.
    """
    target = Path(out)
    if target.suffix != ".json":
        raise UsageError(f"--out {out} is not allowed; use a name that ends in .json")
    if target.exists():
        raise UsageError(f"{out} is there already, and was left as it is; choose another name, or remove it")
    sources = find_sources(paths)
    if datasets := [source.name for source in sources if source.is_dataset]:
        raise UsageError(f"{datasets[0]} is a dataset of tokens: give the text that it was made from")
    stamps = [source.stamp() for source in sources]
    total = None if None in stamps else sum(stamp.size for stamp in stamps if stamp)
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console, begun = Console(file=sys.stderr), time.monotonic()
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=total)

        def parts() -> Iterator[bytes]:
            for source in sources:
                yield from read_chunks(source, report=lambda size: bar.advance(task, size))
            bar.stop()  # what follows has a display of its own

        content = learn(parts(), kind, vocab_size, progress=console.is_terminal)
    with writing(f"the tokenizer {out}", "choose another name, or make room there"):
        target.parent.mkdir(parents=True, exist_ok=True)
        save(content, target)
    made = load(target)
    seconds = time.monotonic() - begun
    return f"{out}: {made.vocab_size:,} {made.unit}s, the document token among them ({seconds:.0f} s)"
