"""Sources to a dataset, by several processes, in steps that are kept when the work is broken off."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from compressive_transformer.data.audio import Notes, SampleTokenizer
from compressive_transformer.data.dataset import (
    DOCUMENTS,
    FORMAT,
    Manifest,
    ShardEntry,
    SourceEntry,
    open_dataset,
)
from compressive_transformer.data.disk import PART, whole_file
from compressive_transformer.data.files import DATASET, LOCK, UNFINISHED, Source, Stamp
from compressive_transformer.data.pool import Preparing, Progress, Teller, default_workers, make_shards
from compressive_transformer.data.shards import FILES
from compressive_transformer.data.sources import nothing_but_separators, parse_separator
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.data.units import Unit, plan_units
from compressive_transformer.data.work import (
    RECORD,
    TABLE,
    TOKENS,
    Job,
    Record,
    shard_name,
)
from compressive_transformer.errors import UsageError

NAMED = 5
"""Recordings that are named of all that are skipped."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which text is to become which tokens."""

    sources: Sequence[Source]
    stamps: Sequence[Stamp | None]
    separator: str | None
    tokenizer: Tokenizer
    key: str
    """Equal for equal recipes. Streams can't be told apart, so with one no two are equal."""

    @classmethod
    def of(cls, sources: Sequence[Source], separator: str | None, tokenizer: Tokenizer) -> "Recipe":
        """A recipe for sources as they are now."""
        stamps = [source.stamp() for source in sources]
        about: list[Any] = [FORMAT, tokenizer.name, separator]
        for source, stamp in zip(sources, stamps, strict=True):
            place = str(source.path.resolve()) if source.path and stamp else uuid4().hex
            about.append([source.name, place, stamp])
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        return cls(sources=sources, stamps=stamps, separator=separator, tokenizer=tokenizer, key=key)

    @property
    def has_streams(self) -> bool:
        """Something can be read only once."""
        return None in self.stamps

    @property
    def size(self) -> int | None:
        """Bytes on the disk, if all of the sources lie there."""
        return None if self.has_streams else sum(stamp.size for stamp in self.stamps if stamp)


def build(
    folder: Path, recipe: Recipe, *, workers: int | None = None, progress: Progress | None = None, own: bool
) -> None:
    """Makes the folder a whole dataset, if it isn't one yet.

    Shards that an earlier attempt has finished are kept. Others who build the same wait until it is done.

    Args:
        folder: Is made if need be.
        recipe: The text and its tokenizer.
        workers: Processes; as many as there are processors if left out.
        progress: Called now and then.
        own: Nobody else puts anything in the folder, so what is damaged there is made again.

    Raises:
        UsageError: A source can't be used or changes, or the folder holds something else.
        OSError: The folder can't be written to.
    """
    tell = progress or (lambda preparing: None)
    folder.mkdir(parents=True, exist_ok=True)
    if not own:
        _refuse_foreign(folder)
    with _alone(folder, tell):
        if _is_done(folder, recipe, own=own):
            return
        _begin(folder, recipe, own=own)
        separator = parse_separator(recipe.separator)
        cut = not isinstance(recipe.tokenizer, SampleTokenizer)
        units = plan_units(recipe.sources, recipe.stamps, separator, cut=cut)
        job = Job(folder=folder, tokenizer=recipe.tokenizer, separator=separator)
        make_shards(job, units, workers or default_workers(), Teller(tell, recipe.size, len(units)))
        _finish(job, recipe, units)
        FILES.close()  # of what was made again the damaged files may yet be open


@contextmanager
def _alone(folder: Path, tell: Progress) -> Iterator[None]:
    """Waits until no other process works in the folder."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        tell(Preparing(waiting=True))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_foreign(folder: Path) -> None:
    """Raises a UsageError if the folder holds what no work on a dataset has put there."""
    names = {entry.name for entry in folder.iterdir()}
    if names - {LOCK} and not names & {DATASET, UNFINISHED}:
        raise UsageError(f"{folder} is not empty; nothing was written: choose another folder")


def _is_done(folder: Path, recipe: Recipe, *, own: bool) -> bool:
    """Whether the folder is a whole dataset of the recipe.

    Raises:
        UsageError: It is a dataset of something else, or perhaps is.
    """
    if not (folder / DATASET).exists():
        return False
    try:
        manifest = Manifest.read(folder)
    except UsageError:
        if not own:
            raise
        return False
    if manifest.key != recipe.key:
        raise UsageError(
            f"{folder} holds a dataset of another text, or of this text before it changed: choose another "
            "folder, or remove it"
        )
    try:
        open_dataset(folder, recipe.tokenizer)
    except UsageError:
        return False
    return True


def _begin(folder: Path, recipe: Recipe, *, own: bool) -> None:
    """Leaves in the folder only finished shards of this recipe.

    Raises:
        UsageError: Shards of something else were finished there.
    """
    begun = folder / UNFINISHED
    goes_on = begun.exists() and begun.read_text(encoding="utf-8") == recipe.key
    if not own and begun.exists() and not goes_on and list(folder.glob(f"shard-*{RECORD}")):
        raise UsageError(
            f"{folder} holds an unfinished dataset of another text, or of this text before it changed: go on "
            "with the command that began it, choose another folder, or remove it"
        )
    (folder / DATASET).unlink(missing_ok=True)
    for path in folder.glob("shard-*"):
        if not goes_on or path.suffix == PART:
            path.unlink()
    if not goes_on:
        with whole_file(begun) as file:
            file.write(recipe.key.encode())


def _finish(job: Job, recipe: Recipe, units: Sequence[Unit]) -> None:
    """Writes the table of documents and the manifest."""
    records = [_record(job, number) for number in range(len(units))]
    table, counts = _join(job.folder, units, records, len(recipe.sources))
    skipped = [reason for record in records for reason in record.skipped]
    if not len(table):
        raise UsageError(skipped[0]) if skipped else nothing_but_separators(recipe.sources)
    _tell(recipe, records)
    with whole_file(job.folder / DOCUMENTS) as file:
        np.save(file, table)
    with (job.folder / DOCUMENTS).open("rb") as file:
        documents_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    sources = (
        SourceEntry(
            name=source.name,
            size=stamp and stamp.size,
            mtime_ns=stamp and stamp.mtime_ns,
            documents=int(count),
        )
        for source, stamp, count in zip(recipe.sources, recipe.stamps, counts, strict=True)
    )
    shards = (
        ShardEntry(file=shard_name(number) + TOKENS, tokens=record.num_tokens, sha256=record.sha256)
        for number, record in enumerate(records)
    )
    Manifest(
        key=recipe.key,
        tokenizer=recipe.tokenizer.name,
        dtype=job.dtype.name,
        separator=recipe.separator,
        sources=tuple(sources),
        shards=tuple(shards),
        documents_sha256=documents_sha256,
    ).write(job.folder)
    for path in job.folder.glob("shard-*"):
        if path.suffix in (TABLE, RECORD):
            path.unlink()
    (job.folder / UNFINISHED).unlink()


def _tell(recipe: Recipe, records: Sequence[Record]) -> None:
    """Warns of what was unusual in recordings."""
    skipped = [reason for record in records for reason in record.skipped]
    named = "; ".join(skipped[:NAMED]) + (" ..." if len(skipped) > NAMED else "")
    lines = [f"skipped {len(skipped)} of {len(recipe.sources)} recordings: {named}"] if skipped else []
    if isinstance(recipe.tokenizer, SampleTokenizer):
        notes = Notes()
        for record in records:
            found = record.notes
            notes.rates |= {int(rate): name for rate, name in found["rates"].items()}
            notes.many_channels += found["many_channels"]
            notes.clipped += found["clipped"]
        lines += notes.tell(recipe.tokenizer.rate)
    for line in lines:
        warnings.warn(line, stacklevel=2)


def _record(job: Job, number: int) -> Record:
    record = Record.read(job.folder, number, job.dtype)
    if record is None:
        raise UsageError(f"{job.folder / shard_name(number)}{TOKENS} was changed: prepare the text again")
    return record


def _join(
    folder: Path, units: Sequence[Unit], records: Sequence[Record], num_sources: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The table [num_documents, 2] of tokens and bytes of all documents, and their number [num_sources].

    A document that goes on in the next shard counts where it begins.
    """
    tables = [np.empty((0, 2), np.int64)]
    counts = np.zeros(num_sources, np.int64)
    inside = False
    for number, (unit, record) in enumerate(zip(units, records, strict=True)):
        table = np.load(folder / f"{shard_name(number)}{TABLE}", allow_pickle=False)
        for piece, count in zip(unit, record.documents, strict=True):
            counts[piece.position] += count
        if inside and record.opens and unit[0].start:
            tables[-1][-1] += table[0]
            counts[unit[0].position] -= 1
            table = table[1:]
        if len(table):
            tables.append(table)
        inside = not record.closes
    return np.concatenate(tables), counts
