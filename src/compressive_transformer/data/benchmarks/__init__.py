"""The paper's text data sets: which files they are, whether they are whole, and what counts in them.

A data set that is not whole is refused unless a part of it is asked for; then nothing is called by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from compressive_transformer.data.benchmarks.enwik8 import Enwik8
from compressive_transformer.data.benchmarks.parts import SPLITS, Benchmark, Found, Tell, count
from compressive_transformer.data.benchmarks.pg19 import PG19
from compressive_transformer.data.benchmarks.wikitext import WIKITEXT_2, WIKITEXT_103
from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.words import WordTokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import read_json, write_json

Name = Literal["enwik8", "wikitext-103", "wikitext-2", "pg19"]
BENCHMARKS: dict[str, Benchmark] = {
    "enwik8": Enwik8(),
    "wikitext-103": WIKITEXT_103,
    "wikitext-2": WIKITEXT_2,
    "pg19": PG19(),
}
RECORD = "benchmark.json"
"""Beside the tokens of the parts: what is known of them."""
PIECE = 1 << 24
"""Tokens that are counted at once."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a data set, as it was found."""

    benchmark: str
    split: str
    complete: bool
    """Whether it is the whole part that others report on."""
    num_bytes: int
    num_words: int
    """As they are counted here."""
    official_words: int | None
    """By which all divide who report on the whole part; None if by those that are counted."""
    books: tuple[str, ...]
    """Their numbers, if it consists of books."""
    num_unknown: int = 0
    """Words that are ``<unk>`` in the text."""
    num_lost: int = 0
    """Words that became ``<unk>`` because the vocabulary lacks them."""

    @property
    def official(self) -> bool:
        """Whether its score may be called the data set's: all is there, and none of it is made easier."""
        return self.complete and not self.num_lost

    def describe(self) -> str:
        """What it is, so that nobody takes it for more."""
        name = f"the {self.split} part of {self.benchmark}"
        what = name if self.complete else f"only some of {name}"
        books = f"{len(self.books)} books, " if self.books else ""
        lost = f", of which the vocabulary lacks {self.num_lost:,}" if self.num_lost else ""
        return f"{what}: {books}{self.num_words:,} words in {self.num_bytes:,} bytes{lost}"


def check_part(name: str, split: str, files: Sequence[Found], tell: Tell, *, part: bool) -> Part:
    """Reads the files of a part once, and says what is in them.

    Raises:
        UsageError: a file is empty or not UTF-8, or the part is not whole although it should be.
    """
    benchmark = BENCHMARKS[name]
    counts = count(files, utf8=benchmark.utf8, tell=tell)
    reason = benchmark.lacks(split, files, counts)
    if reason and not part:
        raise UsageError(
            f"this is not the {split} part of {name}: {reason}; fetch it again, or add --part to go on with "
            "what is there, which is then not called by that name"
        )
    return Part(
        benchmark=name,
        split=split,
        complete=reason is None,
        num_bytes=counts.num_bytes,
        num_words=counts.num_words + (counts.lines if benchmark.line_ends_count else 0),
        official_words=benchmark.official_words(split),
        books=tuple(found.book for found in files if found.book),
        num_unknown=counts.unknown,
    )


def as_read(part: Part, corpus: Corpus) -> Part:
    """A part, with how many of its words the vocabulary of its tokens lacks."""
    if not isinstance(words := corpus.tokenizer, WordTokenizer):
        return part
    unknown = sum(
        int(np.count_nonzero(np.asarray(corpus.tokens[start : start + PIECE]) == words.unknown))
        for start in range(0, corpus.num_tokens, PIECE)
    )
    return replace(part, num_lost=unknown - part.num_unknown)


def write_record(folder: Path, parts: Sequence[Part]) -> None:
    """Says in a folder what the parts in it are."""
    write_json(folder / RECORD, {"parts": [asdict(part) for part in parts]})


def part_of(dataset: Path) -> Part | None:
    """What is known of a folder of tokens, if it is a part of a data set.

    Raises:
        UsageError: the record is damaged.
    """
    record = dataset.parent / RECORD
    if not record.is_file():
        return None
    try:
        parts = [from_plain(Part, values, str(record)) for values in read_json(record)["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"{record} is damaged; make the data set again by 'compressive benchmark' with another --out"
        ) from None
    return next((part for part in parts if part.split == dataset.name), None)


__all__ = [
    "BENCHMARKS",
    "SPLITS",
    "Benchmark",
    "Found",
    "Name",
    "Part",
    "Tell",
    "as_read",
    "check_part",
    "part_of",
    "write_record",
]
