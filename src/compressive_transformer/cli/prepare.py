"""``compressive prepare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.tasks.prepare import check_datasets, make_dataset


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Turn text or recordings into a dataset: a folder of tokens to train on and to evaluate.

    Broken off, the same command goes on where it stood. 'compressive train --data DATASET' reads the folder.
    """

    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Text: files, folders, patterns, .gz, .xz, .bz2, or - for standard input. Or recordings, if --tokenizer
    says so. With --check, datasets."""
    out: str | None = None
    """Folder to make."""
    separator: str | None = None
    """Divides files into documents, e.g. '\\n\\n'; a file is a document if not given."""
    tokenizer: str = "bytes"
    """bytes; the file of a tokenizer that 'compressive tokenizer train' made; or of recordings mulaw-RATE or
    linear-RATE, such as mulaw-16000."""
    workers: int | None = None
    """Processes that make tokens; as many as there are processors if not given."""
    check: bool = False
    """Read whole datasets again and compare them with their checksums."""


def main(arguments: Sequence[str]) -> None:
    """Makes a dataset, or checks some."""
    a = parse(Arguments, arguments, verb="prepare")
    if not a.paths:
        raise UsageError("no text given; name files or folders, or with --check datasets")
    if a.check and a.out:
        raise UsageError(f"--check makes nothing; leave out --out {a.out}, and name the dataset alone")
    if a.check:
        print(check_datasets(a.paths))
    elif a.out:
        made = make_dataset(a.paths, a.out, tokenizer=a.tokenizer, separator=a.separator, workers=a.workers)
        print(made)
    else:
        raise UsageError("no folder given to put the dataset in; use --out DATASET")
