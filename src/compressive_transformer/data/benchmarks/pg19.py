"""PG-19: books of Project Gutenberg of before 1919 (paper section 4)."""

from __future__ import annotations

import csv
import hashlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressive_transformer.data.benchmarks.parts import Counts, Files, Found, check_overlap, folder_of
from compressive_transformer.data.disk import whole_file
from compressive_transformer.data.files import reading
from compressive_transformer.data.hub import PREFIX, HubText, reaching, splits_of
from compressive_transformer.errors import UsageError

FOLDERS = {"train": "train", "validation": "valid", "test": "test"}
"""The authors' names of parts."""
BOOKS = {"train": 28_602, "valid": 50, "test": 100}
WORDS = {"train": 1_973_136_207, "valid": 3_007_061, "test": 6_966_499}
"""By which the authors divide, whatever is counted (paper section 4.2 and Table 2)."""
TOLERANCE = 0.1
"""The authors do not say how they count words; but books that were cut short have far fewer."""
LISTS = {
    "valid": "e66d9f76a39a7a73a62270e98395c9532d306ecd2b7a10ae4098dcdd133d179b",
    "test": "c84c08139695f3312df83239a1a41e7b9cde1baf7c08bfcf230ae09eaaf18d8c",
}
"""SHA-256 of the authors' lists of files: lines such as ``test/10146.txt``, sorted."""


class PG19:
    """The authors' folders ``train/10002.txt``, ``validation/...``, ``test/...``; or a mirror in tables.

    A mirror is a data set of the Hugging Face hub, or local parquet, with columns ``url`` and ``text``.
    """

    utf8 = True
    line_ends_count = False

    def find(self, source: str, work: Path, *, part: bool) -> Files:
        hub = source.startswith(PREFIX)
        found = _of_tables(source, work) if hub else _of_folder(folder_of(source))
        places: dict[str, str] = {}
        for split, books in found.items():
            for book in books:
                if other := places.get(book.book):
                    raise UsageError(f"book {book.book} is in {other} and in {split}; take it out of one")
                places[book.book] = split
        if part:
            check_overlap(found)
        return found

    def lacks(self, split: str, files: Sequence[Found], counts: Counts) -> str | None:
        if len(files) != (expected := BOOKS[split]):
            return f"{len(files):,} books, not {expected:,}"
        names = {ours: theirs for theirs, ours in FOLDERS.items()}
        lines = sorted(f"{names[split]}/{book.book}.txt\n" for book in files)
        if not 1 - TOLERANCE < counts.num_words / WORDS[split] < 1 + TOLERANCE:
            return f"{counts.num_words:,} words, not about {WORDS[split]:,}"
        same = hashlib.sha256("".join(lines).encode()).hexdigest() == LISTS.get(split)
        return None if same or split not in LISTS else "other books than on the authors' list"

    def official_words(self, split: str) -> int | None:
        return WORDS[split]


def _of_folder(folder: Path) -> Files:
    found, metadata = Files(), folder / "metadata.csv"
    known = _metadata(metadata)
    for name, split in FOLDERS.items():
        for path in sorted((folder / name).glob("*.txt")):
            if known is not None and path.stem not in known:
                raise UsageError(f"{metadata} does not know {path}; restore the two")
            found.setdefault(split, []).append(Found(path=path, book=path.stem))
    if not found:
        raise UsageError(f"{folder} has no books such as train/10002.txt; give the folder of PG-19")
    there = {book.book for books in found.values() for book in books}
    missing = sorted(book for book in (known or set()) - there if book.isdigit())  # no title of a column
    if missing:
        warnings.warn(
            f"{metadata} knows {len(missing):,} books that are not there, such as {missing[0]}", stacklevel=2
        )
    return found


def _metadata(path: Path) -> set[str] | None:
    """The books that the metadata know of: its first column, with or without a header."""
    if not path.exists():
        return None
    with reading(str(path)), path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            return {row[0] for row in csv.reader(file) if row}
        except csv.Error as error:
            raise UsageError(f"{path} is damaged ({error}); fetch it again, or remove it") from None


def _of_tables(source: str, work: Path) -> Files:
    """Books of a mirror, written down as files."""
    path, _, rest = source.removeprefix(PREFIX).partition(":")
    if rest:
        raise UsageError(f"{source}: name the mirror alone, such as hf:emozilla/pg19; all its parts are read")
    found, there = Files(), splits_of(source)
    if not any(name in there for name in FOLDERS):
        raise UsageError(f"{source} has {', '.join(there)}, and not one of the parts {', '.join(FOLDERS)}")
    for name, split in FOLDERS.items():
        if name not in there:
            continue
        (work / name).mkdir(parents=True, exist_ok=True)
        books: dict[str, Found] = {}
        for row in _rows(HubText.open(f"{PREFIX}{path}::{name}")):
            number = re.search(r"(\d+)/?$", str(row.get("url", "")))
            if number is None or not isinstance(text := row.get("text"), str):
                raise UsageError(f"{source} has no columns url and text, as mirrors of PG-19 have")
            target, data = work / name / f"{number[1]}.txt", text.encode()
            if number[1] in books:
                raise UsageError(f"{source} has book {number[1]} twice in {name}; take another mirror")
            if not target.exists() or target.read_bytes() != data:  # a file that stays has its tokens
                with whole_file(target) as file:
                    file.write(data)
            books[number[1]] = Found(path=target, book=number[1])
        if books:
            found[split] = [book for _, book in sorted(books.items())]
    return found


def _rows(hub: HubText) -> Iterator[Mapping[str, Any]]:
    with reaching(hub.name):
        yield from hub.dataset
