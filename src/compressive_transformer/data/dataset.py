"""A dataset: a folder with files of tokens, a table of documents, and a manifest of what belongs to it.

dataset.json       the manifest, written last: what is without it is not whole
documents.npy      int64 [num_documents, 2] tokens and bytes of each
shard-00000.bin …  tokens, and nothing else
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.disk import whole_file
from compressive_transformer.data.files import DATASET, UNFINISHED
from compressive_transformer.data.saved import shown
from compressive_transformer.data.shards import Shard, Shards
from compressive_transformer.data.sources import parse_separator
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import is_count, open_plain, read_json

T = TypeVar("T")
FORMAT = "compressive-transformer-dataset-1"
DOCUMENTS = "documents.npy"
SHARD = re.compile(r"shard-[0-9]{5,9}\.bin")
NPY = re.compile(
    rb"\x93NUMPY\x01\0..\{'descr': '<i8', 'fortran_order': False, 'shape': \(([0-9]{1,18}), 2\), \} *\n",
    re.DOTALL,
)
"""How the table of documents begins, as np.save writes it."""


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """What the manifest says about a file that the text came from."""

    name: str
    size: int | None
    """Bytes; None if it was a stream."""
    mtime_ns: int | None
    documents: int
    """Documents that begin in it."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the manifest says about a file of tokens."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What belongs to a dataset."""

    key: str
    """Stands for tokenizer, separator and sources."""
    tokenizer: str
    dtype: str
    separator: str | None
    sources: tuple[SourceEntry, ...]
    shards: tuple[ShardEntry, ...]
    documents_sha256: str
    format: str = FORMAT

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """The manifest in a folder.

        Raises:
            UsageError: There is none, or none that can be read.
        """
        try:
            values: dict[str, Any] = read_json(folder / DATASET)
            if (found := values["format"]) != FORMAT:
                raise UsageError(
                    f"the dataset {folder} has format {shown(found)!r}, this version reads {FORMAT!r}: "
                    "prepare it again"
                )
            values["sources"] = tuple(_entry(SourceEntry, entry) for entry in values["sources"])
            values["shards"] = tuple(_entry(ShardEntry, entry) for entry in values["shards"])
            manifest = _entry(cls, values)
            manifest.check()
            return manifest
        except UsageError:
            raise
        except OSError as error:
            raise UsageError(
                f"cannot read the dataset {folder} ({error.strerror}): prepare it again"
            ) from None
        except (ValueError, TypeError, KeyError):
            raise UsageError(f"{folder / DATASET} is damaged: remove {folder} and prepare it again") from None

    def check(self) -> None:
        """Compares what it says with what can be.

        Raises:
            ValueError: It says something else.
        """
        counts = [source.documents for source in self.sources], [shard.tokens for shard in self.shards]
        names = {shard.file for shard in self.shards}
        sound = (
            self.dtype in ("uint16", "uint32")
            and all(numbers and is_count(sum(numbers)) and min(numbers) >= 0 for numbers in counts)
            and all(map(SHARD.fullmatch, names))  # no name leads out of the folder
            and len(names) == len(self.shards)
        )
        if not sound:
            raise ValueError(self.key)

    def write(self, folder: Path) -> None:
        """Makes the dataset in the folder whole."""
        with whole_file(folder / DATASET) as file:
            file.write(json.dumps(asdict(self), indent=1).encode())


def _entry(kind: type[T], values: Any) -> T:
    """The dataclass, if these are values for it.

    Raises:
        ValueError: They are not.
    """
    if not isinstance(values, dict):
        raise ValueError(kind.__name__)
    try:
        return from_plain(kind, values, DATASET)
    except UsageError as error:
        raise ValueError(str(error)) from None


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Names of documents, made when asked for: the file, and the number in it if files are divided."""

    sources: tuple[str, ...]
    ends: NDArray[np.int64]
    """[num_sources] documents in each source and all before it."""
    numbered: bool
    part: range
    """The documents meant."""

    def __len__(self) -> int:
        return len(self.part)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Names": ...
    def __getitem__(self, index: int | slice) -> "str | Names":
        if isinstance(index, slice):
            return Names(self.sources, self.ends, self.numbered, self.part[index])
        document = self.part[index]
        source = int(np.searchsorted(self.ends, document, side="right"))
        before = int(self.ends[source - 1]) if source else 0
        return f"{self.sources[source]}#{document - before + 1}" if self.numbered else self.sources[source]


def open_dataset(folder: Path, tokenizer: Tokenizer, *, separator: str | None = None) -> Corpus:
    """The corpus in a dataset, whose tokens stay on the disk.

    Args:
        folder: Holds the dataset.
        tokenizer: That the tokens were made with.
        separator: That the documents were divided at; not asked for if left out.

    Raises:
        UsageError: There is no whole dataset, or it was made with another tokenizer or separator.
    """
    manifest = Manifest.read(folder)
    if manifest.tokenizer != tokenizer.name:
        raise UsageError(
            f"the dataset {folder} has tokens of the tokenizer {manifest.tokenizer!r}, not of "
            f"{tokenizer.name!r}: give --tokenizer {manifest.tokenizer}, or prepare it again with the other"
        )
    if separator is not None and parse_separator(separator) != parse_separator(manifest.separator):
        raise UsageError(
            f"the dataset {folder} was prepared with separator {manifest.separator!r}, not {separator!r}: "
            "leave the separator out, or prepare the text again"
        )
    shards = _find_shards(folder, manifest)
    ends = np.cumsum([entry.documents for entry in manifest.sources], dtype=np.int64)
    table = _read_table(folder, int(ends[-1]))
    tokens = Shards.over(shards, manifest.dtype)
    longest = int(table[:, 0].max(initial=0))
    if longest > len(tokens) or longest * len(table) >= 1 << 63 or int(table[:, 0].sum()) != len(tokens):
        raise _damaged(folder, DOCUMENTS)
    return Corpus(
        tokens=tokens,
        starts=np.concatenate([[0], np.cumsum(table[:, 0])]),
        names=Names(
            tuple(entry.name for entry in manifest.sources),
            ends,
            manifest.separator is not None,
            range(len(table)),
        ),
        num_bytes=np.ascontiguousarray(table[:, 1]),
        tokenizer=tokenizer,
    )


def verify_dataset(folder: str | Path, progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Reads all of a dataset, and compares it with the checksums taken when it was made.

    Args:
        folder: Holds the dataset.
        progress: Called now and then with the bytes read so far and the bytes of all.

    Raises:
        UsageError: There is no whole dataset, or a file is damaged.
    """
    folder = Path(folder)
    if (folder / UNFINISHED).exists():
        raise UsageError(f"{folder} is an unfinished dataset: go on with the command that began it")
    manifest = Manifest.read(folder)
    itemsize = np.dtype(manifest.dtype).itemsize
    sizes = [shard.num_tokens * itemsize for shard in _find_shards(folder, manifest)]
    expected = {DOCUMENTS: manifest.documents_sha256, **{s.file: s.sha256 for s in manifest.shards}}
    done = 0
    for file, sha256 in expected.items():
        hasher = hashlib.sha256()
        try:
            with open_plain(folder / file) as stream:
                while chunk := stream.read(1 << 22):
                    hasher.update(chunk)
                    done += len(chunk) if file != DOCUMENTS else 0
                    if progress:
                        progress(done, sum(sizes))
        except OSError as error:
            raise UsageError(f"cannot read {folder / file} ({error.strerror}): prepare it again") from None
        if hasher.hexdigest() != sha256:
            raise _damaged(folder, file)
    return manifest


def _find_shards(folder: Path, manifest: Manifest) -> list[Shard]:
    """The files of tokens, all there and of the right size."""
    itemsize = np.dtype(manifest.dtype).itemsize
    for entry in manifest.shards:
        path = folder / entry.file
        if not os.path.isfile(path) or os.path.getsize(path) != entry.tokens * itemsize:
            raise _damaged(folder, entry.file)
    return [Shard(folder / entry.file, entry.tokens, entry.sha256) for entry in manifest.shards]


def _read_table(folder: Path, num_documents: int) -> NDArray[np.int64]:
    """The table of so many documents. Not by np.load, which makes room for whatever a broken file says."""
    try:
        with open_plain(folder / DOCUMENTS) as file:
            size = os.fstat(file.fileno()).st_size
            head = NPY.match(file.read(1024))
            if not head or int(head[1]) != num_documents or head.end() + 16 * num_documents != size:
                raise _damaged(folder, DOCUMENTS)
            file.seek(head.end())
            table = np.frombuffer(file.read(), "<i8").reshape(-1, 2)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, UsageError) else _damaged(folder, DOCUMENTS) from None
    if len(table) != num_documents or (table < 0).any():
        raise _damaged(folder, DOCUMENTS)
    return table


def _damaged(folder: Path, file: str) -> UsageError:
    return UsageError(f"{folder / file} is missing or damaged: remove {folder} and prepare it again")
