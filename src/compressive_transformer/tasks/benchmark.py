"""The paper's text data sets made ready: checked, divided, counted, and turned into tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from compressive_transformer.data import Tokenizer, get_tokenizer, prepare_dataset
from compressive_transformer.data.benchmarks import (
    BENCHMARKS,
    SPLITS,
    Found,
    Name,
    Part,
    Tell,
    as_read,
    check_part,
    part_of,
    write_record,
)
from compressive_transformer.data.disk import writing
from compressive_transformer.data.files import reading
from compressive_transformer.data.trained import Kind
from compressive_transformer.errors import UsageError
from compressive_transformer.tasks.prepare import PATIENCE, PrepareDisplay
from compressive_transformer.tasks.tokenizer import make_tokenizer

KINDS: dict[str, Kind | None] = {
    "enwik8": None,
    "wikitext-103": "words",
    "wikitext-2": "words",
    "pg19": "subwords",
}
"""What the paper's tokens are; None is bytes."""
TOKENIZER = "tokenizer.json"


def make_benchmark(
    name: Name, source: str, out: str, *, part: bool, tokenizer: str | None, vocab_size: int | None
) -> str:
    """Makes a folder with the tokens of each part of a data set, and says in lines what they are.

    Args:
        name: of the data set.
        source: as it comes, see ``Benchmark.find``.
        out: folder to make; what an earlier call has finished there is kept.
        part: whether less than the whole data set will do.
        tokenizer: ``bytes`` or a file; if not given, as the paper: bytes, or made from the training part.
        vocab_size: of that vocabulary.

    Raises:
        UsageError: the source is not the data set, or can't be read, or ``out`` can't be written.
    """
    folder = Path(out)
    with writing(f"the folder {out}", "choose another folder, or make room there"):
        found = BENCHMARKS[name].find(source, folder / "text", part=part)
        if not part and (missing := [split for split in SPLITS if split not in found]):
            lacks = f"{' and no '.join(missing)} part of {name}"
            raise UsageError(f"{source} has no {lacks}; get the whole, or add --part")
        parts: list[Part] = []
        for split in (split for split in SPLITS if split in found):
            with _reading(split, found[split]) as tell:
                parts.append(check_part(name, split, found[split], tell, part=part))
        chosen = _tokenizer(name, folder, found, parts, tokenizer, vocab_size)
        lines, known = [], []
        for part_found in parts:
            paths = [file.path for file in found[part_found.split]]
            with PrepareDisplay(patience=PATIENCE) as display:
                corpus = prepare_dataset(paths, folder / part_found.split, chosen, progress=display)
            known.append(as_read(part_found, corpus))
            size = f"{corpus.num_tokens:,} {corpus.unit}s"
            lines.append(f"{folder / part_found.split}: {size}, {known[-1].describe()}")
        write_record(folder, known)
    return "\n".join(lines)


def _tokenizer(
    name: Name,
    folder: Path,
    found: dict[str, list[Found]],
    parts: list[Part],
    given: str | None,
    vocab_size: int | None,
) -> Tokenizer:
    """The tokenizer; a vocabulary that an earlier call has made of the same text is kept."""
    kind = KINDS[name]
    if given or kind is None:
        if vocab_size is not None:
            raise UsageError(f"--vocab-size {vocab_size} is for a vocabulary to be made; leave it out")
        return get_tokenizer(given or "bytes")
    target, train = folder / TOKENIZER, next((part for part in parts if part.split == "train"), None)
    if target.exists():
        before = part_of(folder / "train")
        if (before and replace(before, num_lost=0)) != train:
            raise UsageError(f"{target} is of another training part; remove it, or choose another --out")
        size = get_tokenizer(str(target)).vocab_size
        if vocab_size is not None and vocab_size != size:
            raise UsageError(f"{target} has {size:,} tokens, not {vocab_size:,}; remove it to make another")
    else:
        if "train" not in found:
            raise UsageError(
                f"there is no training part to make a vocabulary of {kind} from; give one by --tokenizer FILE"
            )
        assert train is not None
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, [train])  # what the vocabulary is of, for a call that goes on
        make_tokenizer(
            [str(file.path) for file in found["train"]], str(target), kind=kind, vocab_size=vocab_size
        )
    return get_tokenizer(str(target))


@contextmanager
def _reading(split: str, files: list[Found]) -> Iterator[Tell]:
    """A display of how much of a part was read."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    columns = (
        TextColumn(f"checking the {split} part"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    total = 0
    for file in files:
        with reading(str(file.path)):
            total += file.path.stat().st_size
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)
