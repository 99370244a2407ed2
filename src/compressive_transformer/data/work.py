"""One unit of text to one shard of tokens: what worker processes do."""

import copy
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from compressive_transformer.data.audio import Notes, SampleTokenizer, read_recording
from compressive_transformer.data.disk import whole_file
from compressive_transformer.data.sources import divide, read_chunks
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.data.units import Piece, Unit
from compressive_transformer.errors import UsageError

TOKENS, TABLE, RECORD = ".bin", ".npy", ".json"
"""What is left of a unit: its tokens; a row of numbers of tokens and bytes for each document; and, written
last, the record that says that both are whole."""
Report = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all units have in common."""

    folder: Path
    tokenizer: Tokenizer
    separator: bytes | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the tokens."""
        return np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a finished shard."""

    num_tokens: int
    sha256: str
    documents: list[int]
    """How many begin in each piece of the unit, or go on there."""
    opens: bool
    """It begins with text, so a document may go on from the shard before."""
    closes: bool
    """It ends with a separator."""
    skipped: list[str]
    """Why recordings were left out."""
    notes: dict[str, Any]
    """Of those that were read, see ``Notes``."""

    @classmethod
    def read(cls, folder: Path, number: int, dtype: np.dtype[Any]) -> "Record | None":
        """The record of a shard, or None if the shard is not whole."""
        stem = folder / shard_name(number)
        try:
            record = cls(**json.loads(stem.with_suffix(RECORD).read_text(encoding="utf-8")))
            whole = stem.with_suffix(TOKENS).stat().st_size == record.num_tokens * dtype.itemsize
            return record if whole and stem.with_suffix(TABLE).is_file() else None
        except (OSError, ValueError, TypeError):
            return None


def shard_name(number: int) -> str:
    """Of its files, without what they end in."""
    return f"shard-{number:05d}"


def make_shard(job: Job, number: int, unit: Unit, report: Report) -> None:
    """Writes the tokens of a unit, its table and its record.

    Raises:
        UsageError: A source can't be read, or has changed.
        OSError: The folder can't be written to.
    """
    stem = job.folder / shard_name(number)
    with whole_file(stem.with_suffix(TOKENS)) as file:
        writer = _Writer(job, file)
        documents = [writer.add(piece, report) for piece in unit]
    with whole_file(stem.with_suffix(TABLE)) as file:
        np.save(file, np.stack([writer.num_tokens, writer.num_bytes], axis=1).astype(np.int64))
    record = Record(
        num_tokens=sum(writer.num_tokens),
        sha256=writer.hasher.hexdigest(),
        documents=documents,
        opens=writer.opens,
        closes=not writer.inside,
        skipped=writer.skipped,
        notes=asdict(writer.notes),
    )
    with whole_file(stem.with_suffix(RECORD)) as file:
        file.write(json.dumps(asdict(record)).encode())


class _Writer:
    """Writes tokens, and keeps count of documents."""

    def __init__(self, job: Job, file: BinaryIO) -> None:
        self.job, self.file = job, file
        self.hasher = hashlib.sha256()
        self.num_tokens, self.num_bytes = array("q"), array("q")  # far smaller than lists
        self.opens = self.inside = False
        self.skipped: list[str] = []
        self.notes = Notes()

    def add(self, piece: Piece, report: Report) -> int:
        """Writes the documents of a piece; returns how many they are."""
        before, start, hasher = len(self.num_tokens), self.file.tell(), self.hasher.copy()
        notes = copy.deepcopy(self.notes)
        try:
            self._write(piece, report)
        except UsageError as error:
            check_unchanged(piece)  # the better reason, if it has changed
            if piece.source.named or not isinstance(self.job.tokenizer, SampleTokenizer):
                raise
            # One bad recording among many is left out, with what was written of it.
            self.file.seek(start)
            self.file.truncate()
            self.hasher, self.notes = hasher, notes
            del self.num_tokens[before:], self.num_bytes[before:]
            self.skipped.append(str(error))
        check_unchanged(piece)
        return len(self.num_tokens) - before

    def _chunks(self, piece: Piece, report: Report) -> Iterator[bytes]:
        if isinstance(self.job.tokenizer, SampleTokenizer):
            return read_recording(piece.source, self.job.tokenizer.rate, self.notes, report)
        return read_chunks(piece.source, piece.start, piece.stop, report)

    def _write(self, piece: Piece, report: Report) -> None:
        self.inside = False
        chunks = self._chunks(piece, report)
        for place, part in enumerate(divide(chunks, self.job.separator)):
            if part is None:
                self.inside = False
                continue
            if not self.inside:
                self.num_tokens.append(0)
                self.num_bytes.append(0)
                self.inside = True
            self.opens |= place == 0
            tokens = self.job.tokenizer.encode(part).astype(self.job.dtype, copy=False)
            self.file.write(tokens.data)
            self.hasher.update(tokens.data)
            self.num_tokens[-1] += len(tokens)
            self.num_bytes[-1] += len(part)


def check_unchanged(piece: Piece) -> None:
    """Compares a source with its stamp.

    Raises:
        UsageError: It has changed.
    """
    if piece.source.stamp() != piece.stamp:
        raise UsageError(
            f"{piece.source.name} was changed while it was read: start again when nothing writes to it"
        )


@dataclass
class _Process:
    """What a worker process knows."""

    job: Job
    bytes_read: "Synchronized[int]"
    stop: Event


class StoppedError(Exception):
    """The work is not wanted any more."""


_process: _Process | None = None


def start_process(job: Job, bytes_read: "Synchronized[int]", stop: Event) -> None:
    """Makes this process a worker."""
    global _process
    _process = _Process(job, bytes_read, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def work(number: int, unit: Unit) -> int:
    """Makes a shard in a worker process; returns its number."""
    process = _process
    assert process is not None

    def report(size: int) -> None:
        if process.stop.is_set():
            raise StoppedError
        with process.bytes_read.get_lock():
            process.bytes_read.value += size

    make_shard(process.job, number, unit, report)
    return number


def _leave_with_parent() -> None:
    """Ends the process when its parent was killed, or it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
