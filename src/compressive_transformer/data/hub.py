"""Texts out of data sets of the Hugging Face hub, or of local files in its formats, read as a stream."""

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressive_transformer.data.saved import check_count, damaged_state
from compressive_transformer.errors import UsageError

if TYPE_CHECKING:
    from datasets import IterableDataset

PREFIX, COLUMN, SPLIT = "hf:", "text", "train"


@dataclass(frozen=True)
class Row:
    """A text, and where it stands in its part of the stream."""

    number: int
    """From 1, in its epoch."""
    data: bytes

    @property
    def digest(self) -> bytes:
        """Equal texts have equal ones."""
        return hashlib.sha256(self.data).digest()


@dataclass(frozen=True)
class HubText:
    """A data set that texts are read from."""

    name: str
    """As given: ``hf:PATH[:CONFIG[:SPLIT]]``."""
    dataset: "IterableDataset"
    column: str

    @classmethod
    def open(cls, name: str) -> "HubText":
        """The data set of that name.

        Raises:
            UsageError: The package ``datasets`` is missing; there is no such data set, configuration or
                split; it is empty, or doesn't say which column is the text.
        """
        path, config, split = _parse(name)
        datasets = _package(name)
        with reaching(name):
            builder = datasets.load_dataset_builder(path, config)
            settings: Any = builder.config
            if hasattr(settings, "sample_by"):
                settings.sample_by = "document"  # a text file, not each line
            dataset = builder.as_streaming_dataset(split)
            first = next(iter(dataset), None)
        if first is None:
            raise UsageError(f"{name} is empty: choose another data set or split")
        assert isinstance(dataset, datasets.IterableDataset)  # of several splits only if none is named
        return cls(name, dataset, _text_column(name, first))

    def rows(self) -> Iterator[Row]:
        """All texts that are not empty, from the beginning, once."""
        with reaching(self.name):
            for number, row in enumerate(self.dataset, 1):
                if data := (row[self.column] or "").encode():
                    yield Row(number, data)


class EndlessRows:
    """The texts of one process's part of a data set, over and over, and where they stand.

    Args:
        text: The data set.
        excluded: Digests of texts that never come.
        rank: Number of the process.
        world: How many there are.
    """

    def __init__(self, text: HubText, excluded: Collection[bytes], *, rank: int, world: int) -> None:
        self._text, self._excluded, self._part = text, excluded, (rank, world)
        self._epoch = 0
        self._begin()

    @property
    def name(self) -> str:
        """Of the data set."""
        return self._text.name

    def __next__(self) -> Row:
        """The next text.

        Raises:
            UsageError: There is none, or the data set can't be reached.
        """
        ends = 0
        while ends < 2:  # the first may have been near
            with reaching(self.name):
                self._iterator = self._iterator or iter(self._dataset)
                values = next(self._iterator, None)
            if values is None:
                ends, self._epoch = ends + 1, self._epoch + 1
                self._begin()
                continue
            self._number += 1
            row = Row(self._number, (values[self._text.column] or "").encode())
            if row.data and row.digest not in self._excluded:
                return row
        raise UsageError(
            f"{self.name} has no text for each of the processes besides what is held out for validation: use "
            "fewer processes or more text"
        )

    def state_dict(self) -> dict[str, Any]:
        """Where the texts stand, fit for JSON."""
        stream = self._dataset.state_dict() if self._iterator else deepcopy(self._stream)
        return {"epoch": self._epoch, "number": self._number, "stream": stream}

    def load_state_dict(self, state: Any) -> None:
        """Goes on where the state was taken.

        Raises:
            UsageError: It is no such state, or the data set can't be reached.
        """
        if not isinstance(state, dict):
            raise damaged_state("texts", "a table", state)
        epoch, number = (check_count(state.get(key), key) for key in ("epoch", "number"))
        stream: Any = state.get("stream")
        dataset = self._new_dataset()
        if not _is_like(stream, dataset.state_dict()):
            raise damaged_state("stream", "the state of a data set", stream)
        dataset.load_state_dict(deepcopy(stream))
        self._dataset, self._iterator = dataset, None
        self._epoch, self._number, self._stream = epoch, number, deepcopy(stream)

    def _begin(self) -> None:
        """Goes back to the first text."""
        self._dataset = self._new_dataset()
        self._iterator: Iterator[dict[str, Any]] | None = None
        self._number, self._stream = 0, self._dataset.state_dict()

    def _new_dataset(self) -> "IterableDataset":
        """One that stands at its first text: those that go on from a state do so each time they are read.

        Its own epoch stays 0, for others would give its files another order, and other files to each process.
        """
        from datasets.distributed import split_dataset_by_node

        rank, world = self._part
        return split_dataset_by_node(self._text.dataset, rank, world)


def _is_like(given: Any, known: Any) -> bool:
    """Whether the state has the form of one that is known; what is None there may be a state."""
    if isinstance(known, dict):
        same_keys = isinstance(given, dict) and given.keys() == known.keys()
        return same_keys and all(_is_like(given[key], value) for key, value in known.items())
    if isinstance(known, list):
        return isinstance(given, list) and all(map(_is_like, given, known)) and len(given) == len(known)
    if type(known) is int:
        return type(given) is int and given >= 0
    return type(given) is type(known) or (known is None and isinstance(given, dict))


def splits_of(name: str) -> list[str]:
    """The splits that a data set has.

    Raises:
        UsageError: The package ``datasets`` is missing, or there is no such data set.
    """
    path, config, _ = _parse(name)
    datasets = _package(name)
    with reaching(name):
        return datasets.get_dataset_split_names(path, config)


def _package(name: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise UsageError(
            f"{name} needs the package datasets: pip install 'compressive-transformer[datasets]'"
        ) from None
    return datasets


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Tells in one line what goes wrong in the package datasets and in the network below it."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        yield
    except UsageError:
        raise
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise UsageError(
            f"{name} was not found ({_first_line(error)}): name a data set of the hub, or a folder with "
            "parquet, jsonl or text files"
        ) from None
    except Exception as error:  # each of the packages below has exceptions of its own
        raise UsageError(f"cannot read {name}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _parse(name: str) -> tuple[str, str | None, str]:
    """Path, configuration and split."""
    parts = name.removeprefix(PREFIX).split(":")
    if not parts[0] or len(parts) > 3:
        raise UsageError(f"{name!r} is not the name of a data set: use hf:PATH, hf:PATH:CONFIG:SPLIT")
    path, config, split = [*parts, "", ""][:3]
    if (folder := Path(path).expanduser()).exists():
        path = str(folder)
    return path, config or None, split or SPLIT


def _text_column(name: str, first: dict[str, Any]) -> str:
    strings = [column for column, value in first.items() if isinstance(value, str)]
    if COLUMN in strings:
        return COLUMN
    if len(strings) != 1:
        raise UsageError(
            f"{name} has columns {', '.join(first)}, of which {len(strings)} hold text and none is called "
            f"{COLUMN!r}: choose a data set with one column of text"
        )
    return strings[0]
