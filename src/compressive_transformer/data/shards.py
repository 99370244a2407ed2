"""Tokens that lie in many files, read where they are wanted."""

import atexit
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from compressive_transformer.errors import UsageError

OPEN_FILES = 64
"""How many token files a process keeps open."""


@dataclass(frozen=True)
class Shard:
    """A file of nothing but tokens."""

    path: Path
    num_tokens: int
    sha256: str
    """Of the file."""


@dataclass(frozen=True, eq=False)
class Shards:
    """A range of the tokens in several files one after the other, like an array that is never in memory.

    Slices are views. ``np.asarray`` reads, by position: mapped pages would count as memory of the process,
    and the end of a file that was cut short would kill it.
    """

    shards: tuple[Shard, ...]
    ends: NDArray[np.int64]
    """[num_shards] tokens in each shard and all before it."""
    dtype: np.dtype[Any]
    start: int
    stop: int

    @classmethod
    def over(cls, shards: Sequence[Shard], dtype: DTypeLike) -> "Shards":
        """All tokens of the files."""
        ends = np.cumsum([shard.num_tokens for shard in shards], dtype=np.int64)
        return cls(tuple(shards), ends, np.dtype(dtype), 0, int(ends[-1]))

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "Shards":
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError(f"tokens are read in steps of 1, got {step}")
        return replace(self, start=self.start + start, stop=self.start + max(start, stop))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The tokens, read now.

        Raises:
            UsageError: A file is gone, cut short, or may not be read.
            ValueError: A copy was forbidden.
        """
        if copy is False:
            raise ValueError("tokens of files can't be had without a copy")
        tokens = np.empty(len(self), self.dtype)
        shard, position = int(np.searchsorted(self.ends, self.start, side="right")), self.start
        while position < self.stop:
            end = min(int(self.ends[shard]), self.stop)
            first = int(self.ends[shard]) - self.shards[shard].num_tokens
            FILES.read(
                self.shards[shard].path,
                (position - first) * self.dtype.itemsize,
                tokens[position - self.start : end - self.start].view(np.uint8),
            )
            shard, position = shard + 1, end
        return tokens if dtype is None else tokens.astype(dtype, copy=False)

    def astype(self, dtype: DTypeLike) -> NDArray[Any]:
        """The tokens, read now, as numbers of that type."""
        return self.__array__(dtype)

    @property
    def fingerprint(self) -> str:
        """Tells which tokens these are, without reading them: sha256 in hexadecimal digits."""
        sums = [(shard.num_tokens, shard.sha256) for shard in self.shards]
        return hashlib.sha256(repr((self.dtype.name, sums, self.start, self.stop)).encode()).hexdigest()


class OpenFiles:
    """Files to read from, of which the last used few stay open."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._files: OrderedDict[tuple[int, Path], BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, offset: int, into: NDArray[np.uint8]) -> None:
        """Fills the array with the bytes of the file from that place on.

        Raises:
            UsageError: The file is gone, cut short, or may not be read.
        """
        with self._lock:
            try:
                file = self._open(path)
                file.seek(offset)
                view, filled = into.data, 0
                while filled < len(view) and (count := file.readinto(view[filled:])):  # pyright: ignore[reportAttributeAccessIssue]
                    filled += count
            except OSError as error:
                raise UsageError(
                    f"cannot read the token file {path} ({error.strerror}): prepare the text again"
                ) from None
        if filled < len(view):
            raise UsageError(f"the token file {path} has been cut short: prepare the text again")

    def close(self) -> None:
        """Closes all of them; they are opened again when needed."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def _open(self, path: Path) -> BinaryIO:
        key = os.getpid(), path  # a forked process would move the place where its parent reads
        if key not in self._files:
            if len(self._files) >= self.limit:
                self._files.popitem(last=False)[1].close()
            self._files[key] = path.open("rb", buffering=0)  # pyright: ignore[reportArgumentType]
        self._files.move_to_end(key)
        return self._files[key]


FILES = OpenFiles(OPEN_FILES)
atexit.register(FILES.close)
