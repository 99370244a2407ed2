"""Parts of a data set: their files, and what counts in them."""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from compressive_transformer.data.files import Source, reading
from compressive_transformer.data.sources import read_chunks
from compressive_transformer.data.words import UNKNOWN, WordCounter
from compressive_transformer.errors import UsageError

SPLITS = ("train", "valid", "test")
ALONE = re.compile(rb"(?<!\S)" + UNKNOWN + rb"(?!\S)")
"""``<unk>`` as a word, as ``WordTokenizer`` takes it."""
Tell = Callable[[int], None]
"""Is told how many bytes were read."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A file of a part."""

    path: Path
    book: str = ""
    """Its number, if it is a book."""
    genuine: bool = True
    """Whether a checksum, if there is one, says that it is what it should be."""


Files = dict[str, list[Found]]
"""By part."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What is in the files of a part."""

    num_bytes: int
    num_words: int
    """Between spaces."""
    lines: int
    unknown: int
    """Words that are ``<unk>``."""


class Benchmark(Protocol):
    """A data set that others report on."""

    utf8: bool
    """Whether its text must be UTF-8."""
    line_ends_count: bool
    """Whether each end of a line counts as a word."""

    def find(self, source: str, work: Path, *, part: bool) -> Files:
        """The files of each part of it, of which those that must be unpacked or cut are put into ``work``.

        Raises:
            UsageError: the source is not the data set.
        """
        ...

    def lacks(self, split: str, files: Sequence[Found], counts: Counts) -> str | None:
        """Why a part is not the whole part that others report on; None if it is."""
        ...

    def official_words(self, split: str) -> int | None:
        """By which all divide who report on the whole part; None if by the words that are counted."""
        ...


def count(files: Sequence[Found], *, utf8: bool, tell: Tell) -> Counts:
    """Reads the files of a part.

    Raises:
        UsageError: one is empty, or not UTF-8 although it must be.
    """
    totals = [0, 0, 0, 0]
    for found in files:
        for i, number in enumerate(_count(found.path, utf8, tell)):
            totals[i] += number
    num_bytes, num_words, lines, unknown = totals
    return Counts(num_bytes=num_bytes, num_words=num_words, lines=lines, unknown=unknown)


def _count(path: Path, utf8: bool, tell: Tell) -> tuple[int, int, int, int]:
    words, num_bytes, lines, unknown = WordCounter(strict=utf8), 0, 0, 0
    try:
        for chunk in read_chunks(Source(str(path), path, named=True), report=tell):  # empty ones are refused
            num_bytes += len(chunk)
            lines += chunk.count(b"\n")
            unknown += len(ALONE.findall(chunk))
            words.add(chunk)
        words.add(b"", final=True)
    except UnicodeDecodeError as error:
        byte = f"{error.object[error.start]:#04x}"
        raise UsageError(f"{path} is not UTF-8 (it has a byte {byte}); convert it, or leave it out") from None
    return num_bytes, words.count, lines, unknown


def check_overlap(found: Files) -> None:
    """For data sets that are not whole; of whole ones, words and lists of books tell what is where.

    Raises:
        UsageError: two parts have a file of the same content.
    """
    known: dict[int, list[tuple[str, Path]]] = {}
    for split, files in found.items():
        for path in (file.path for file in files):
            with reading(str(path)):
                same_size = known.setdefault(path.stat().st_size, [])
                others = [other for where, other in same_size if where != split]
                same = [other for other in others if filecmp.cmp(other, path, shallow=False)]
            if same:
                raise UsageError(f"{same[0]} and {path} are the same text; take it out of one")
            same_size.append((split, path))


def folder_of(source: str) -> Path:
    """The source as a folder.

    Raises:
        UsageError: it is none.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise UsageError(f"{source} is not a folder; give the folder that the data set was unpacked to")
    return folder
