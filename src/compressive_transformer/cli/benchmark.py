"""``compressive benchmark``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.data.benchmarks import Name
from compressive_transformer.errors import UsageError
from compressive_transformer.tasks.benchmark import make_benchmark


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make one of the paper's data sets ready: check that it is whole, divide it, count words, make tokens.

    Leaves a folder with train, valid and test for 'compressive train' and 'compressive evaluate', which then
    know what they read. Broken off, the same command goes on.
    """

    name: Annotated[Name, tyro.conf.Positional]
    """enwik8, wikitext-103, wikitext-2 or pg19."""
    source: Annotated[str, tyro.conf.Positional]
    """As it comes: the file enwik8 or enwik8.zip; the folder with wiki.train.tokens; the folder with
    train/10002.txt, validation/ and test/, or a mirror of PG-19 in tables such as hf:emozilla/pg19."""
    out: str | None = None
    """Folder to make; data/NAME if not given."""
    part: bool = False
    """Go on although it is not the whole data set; what comes of it is not called by its name."""
    tokenizer: str | None = None
    """bytes, or FILE.json; if not given, as in the paper: bytes for enwik8, for WikiText the words of its
    training part, for PG-19 32,000 subwords made from its training part."""
    vocab_size: int | None = None
    """Tokens of the vocabulary that is made; if not given, all words, or 32,000 subwords."""


def main(arguments: Sequence[str]) -> None:
    """Makes a data set ready."""
    a = parse(Arguments, arguments, verb="benchmark")
    if not a.source:
        raise UsageError("no source given; name the file or folder of the data set")
    out = a.out or f"data/{a.name}"
    print(make_benchmark(a.name, a.source, out, part=a.part, tokenizer=a.tokenizer, vocab_size=a.vocab_size))
