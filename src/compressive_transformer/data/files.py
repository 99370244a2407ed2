"""Which files the given paths stand for: files, folders, glob patterns and standard input."""

import bz2
import gzip
import io
import lzma
import os
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from compressive_transformer.errors import UsageError

STDIN = "-"
DATASET, UNFINISHED = "dataset.json", "unfinished.json"
"""What a folder of tokens is known by, once it is whole and before; beside it lies ``LOCK``."""
LOCK = ".lock"
PACKED: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
ARCHIVE = re.compile(r"\.(tar(\.(gz|xz|bz2|zst|z))?|tgz|tbz2?|txz|zip|7z|rar|zst|lz4)$", re.IGNORECASE)
# Other files that hold no text give themselves away by a NUL byte.
NO_TEXT = re.compile(r"\.(pdf|png|jpe?g|gif|webp|mp4)$", re.IGNORECASE)
AUDIO = re.compile(r"\.(wav|flac|og[ga]|opus|mp3|aiff?|au|caf|w64)$", re.IGNORECASE)
SNIFF = 4096


class Stamp(NamedTuple):
    """What tells that a file is still the same without reading it."""

    size: int
    mtime_ns: int


class Opened(NamedTuple):
    """A source to read from."""

    file: io.BufferedIOBase | BinaryIO
    """Unpacked."""
    raw: BinaryIO
    """As it lies on the disk."""


@dataclass(frozen=True)
class Source:
    """A file to read, or standard input."""

    name: str
    """As given, or as found in what was given."""
    path: Path | None
    """None is standard input."""
    named: bool
    """Given by its own name and not through a folder or pattern: it is read whatever it holds."""
    is_dataset: bool = False
    """It is the manifest of a folder of tokens."""

    @property
    def is_stream(self) -> bool:
        """It can be read only once: standard input, a pipe."""
        return self.path is None or not self.path.is_file()

    @property
    def is_audio(self) -> bool:
        """It is a recording, by its suffix."""
        return AUDIO.search(self.name) is not None

    @property
    def is_packed(self) -> bool:
        """It is smaller on the disk than its text."""
        return self.path is not None and self.path.suffix.lower() in PACKED

    def stamp(self) -> Stamp | None:
        """Its size and time of change; None if it is a stream."""
        if self.path is None or self.is_stream:
            return None
        with reading(self.name):
            stat = self.path.stat()
        return Stamp(stat.st_size, stat.st_mtime_ns)

    @contextmanager
    def open(self) -> Iterator[Opened]:
        """The file, unpacked by its suffix."""
        if self.path is None:
            yield Opened(sys.stdin.buffer, sys.stdin.buffer)
            return
        with self.path.open("rb") as raw:
            if self.is_packed:
                with PACKED[self.path.suffix.lower()](raw) as file:
                    yield Opened(file, raw)
            else:
                yield Opened(raw, raw)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Tell what goes wrong with the file in one line."""
    try:
        yield
    except PermissionError as error:
        place = error.filename or name
        raise UsageError(f"no permission to read {place}: change its permissions or leave it out") from None
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        # The unpackers' own complaints have no number.
        if isinstance(error, OSError) and error.errno is not None:
            raise UsageError(f"cannot read {name}: {error.strerror}") from None
        raise UsageError(f"{name} is damaged or cut short ({error}): fetch or pack it again") from None


def find_sources(paths: str | Path | Sequence[str | Path], *, audio: bool = False) -> list[Source]:
    """The files that the paths stand for, each once, in the order given; folders are sorted by name.

    Args:
        paths: Files, folders (with all that lies below, hidden files left out), glob patterns (``**`` too),
            and ``-`` for standard input. Files that hold no text are left out of folders and patterns, with a
            warning.
        audio: Look for recordings, by their suffix, instead of text.

    Raises:
        UsageError: A path stands for nothing, for an archive, or may not be read; or there is no path.
    """
    found: dict[Path | None, Source] = {}
    skipped: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for source in _expand(str(path), skipped, audio):
            found.setdefault(source.path and source.path.resolve(), source)
    if not found:
        raise UsageError(
            "no recording given: name files, folders, or patterns such as 'speech/*.wav'"
            if audio
            else "no text given: name files, folders, patterns such as 'books/*.txt', or - for standard input"
        )
    if skipped:
        what = "are no recordings" if audio else "hold no text"
        warnings.warn(f"skipped {len(skipped)} file(s) that {what}, such as {skipped[0]}", stacklevel=2)
    return list(found.values())


def _expand(name: str, skipped: list[Path], audio: bool) -> list[Source]:
    """The files that one path stands for; those of no use are added to ``skipped``."""
    if not name:
        raise UsageError("a path is empty: give the name of a file or folder, . for this folder")
    if name == STDIN:
        if audio:
            raise UsageError("recordings are not read from standard input; give a file")
        return [Source(name, None, named=True)]
    path = Path(os.path.expanduser(name))
    with reading(name):
        if name.startswith("hf:"):
            raise UsageError(f"{name} is a stream of a data set, which only 'train --data' reads, and alone")
        if _has_tokens(path, DATASET):
            return [Source(name, path / DATASET, named=True, is_dataset=True)]
        if _has_tokens(path, UNFINISHED):
            raise UsageError(f"{name} is an unfinished dataset: go on with the command that began it")
        if path.is_dir():
            candidates = list(_walk(path, set()))
        elif path.exists():
            if ARCHIVE.search(name):
                raise UsageError(f"{name} is an archive: unpack it first and give the folder or the files")
            return [Source(name, path, named=True)]
        elif any(character in name for character in "*?["):
            candidates = list(_glob(path))
            if not candidates:
                raise UsageError(f"no file matches {name!r}")
        else:
            raise UsageError(f"no such file or folder: {name}")
    texts = []
    for file in candidates:
        source = Source(str(file), file, named=False)
        if source.is_audio if audio else _holds_text(source):
            texts.append(source)
        else:
            skipped.append(file)
    if not texts:
        what = "recording" if audio else "text"
        raise UsageError(f"no {what} in {name}, which has {len(candidates)} visible file(s)")
    return texts


def _has_tokens(folder: Path, mark: str) -> bool:
    return (folder / mark).is_file() and (folder / LOCK).is_file()


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    """The visible files below a folder. No folder is entered twice, so that links cannot lead round."""
    stat = folder.stat()
    if (stat.st_dev, stat.st_ino) in seen:
        return
    seen.add((stat.st_dev, stat.st_ino))
    if _has_tokens(folder, DATASET) or _has_tokens(folder, UNFINISHED):
        raise UsageError(f"{folder} holds tokens among text: take it from there, or name the text apart")
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen)
        elif entry.is_file():
            yield entry


def _glob(path: Path) -> Iterator[Path]:
    """The visible files that match, and those below the folders that match.

    Not `glob.glob`, whose ``**`` follows links: two that lead upwards would keep it busy for ever.
    """
    first = next(i for i, part in enumerate(path.parts) if any(character in part for character in "*?["))
    base, pattern = Path(*path.parts[:first]), path.parts[first:]
    seen: set[tuple[int, int]] = set()
    try:
        matches = sorted(base.glob("/".join(pattern)))
    except ValueError as error:
        raise UsageError(f"the pattern '{path}' is not valid: {error}") from None
    for match in matches:
        hidden = any(part.startswith(".") for part in match.relative_to(base).parts)
        if hidden and not any(part.startswith(".") for part in pattern):
            continue
        if match.is_dir():
            yield from _walk(match, seen)
        elif match.is_file():
            yield match


def _holds_text(source: Source) -> bool:
    if ARCHIVE.search(source.name) or NO_TEXT.search(source.name) or source.is_audio:
        return False
    with reading(source.name), source.open() as opened:
        head = opened.file.read(SNIFF)
    return bool(head) and b"\0" not in head
