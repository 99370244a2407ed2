"""``compressive tokenizer``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.data.trained import Kind
from compressive_transformer.errors import UsageError
from compressive_transformer.tasks.tokenizer import make_tokenizer


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Make a tokenizer from text: compressive tokenizer train PATH ... --out FILE.json.

    'compressive train --tokenizer FILE.json' then trains on its tokens; a run keeps a copy of the file.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Text: files, folders, patterns, .gz, .xz, .bz2, or - for standard input. The training text alone."""
    out: str | None = None
    """File to make, FILE.json."""
    kind: Kind = "subwords"
    """subwords: byte-pair encoding, for any text; words: a closed vocabulary of the words between spaces, and
    ends of lines, as WikiText is read."""
    vocab_size: int | None = None
    """Tokens, the document token included; if not given, 32,000 subwords, or all words."""


def main(arguments: Sequence[str]) -> None:
    """Makes a tokenizer."""
    if not arguments or arguments[0] not in ("train", "-h", "--help"):
        given = f"unknown verb {arguments[0]!r}" if arguments else "no verb given"
        raise UsageError(f"{given}; use 'compressive tokenizer train PATH ... --out FILE.json'")
    a = parse(Arguments, arguments[arguments[0] == "train" :], verb="tokenizer train")
    if not a.paths:
        raise UsageError("no text given; name the files or folders that the tokenizer is to be made from")
    if not a.out:
        raise UsageError("no file given to put the tokenizer in; use --out FILE.json")
    print(make_tokenizer(a.paths, a.out, kind=a.kind, vocab_size=a.vocab_size))
