"""Documents out of files, folders, patterns and standard input."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from pathlib import Path

from compressive_transformer.data.files import Source, find_sources, reading
from compressive_transformer.errors import UsageError

CHUNK = 1 << 22
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "0": "\0", "\\": "\\"}


@dataclass(frozen=True)
class Document:
    """A text that stands for itself: a file, or a piece of one."""

    name: str
    data: bytes


def read_documents(
    paths: str | Path | Sequence[str | Path], *, separator: str | None = None
) -> Iterator[Document]:
    r"""The documents in the files that the paths stand for (see `find_sources`), in order.

    Args:
        paths: Files, folders, glob patterns, ``-`` for standard input. Files that end in .gz, .xz or .bz2 are
            unpacked; nothing else is changed in any byte.
        separator: Divides files into documents, named ``file#1``, ``file#2`` …; empty ones are dropped.
            Escapes such as ``\n\n`` are understood. Without it every file is one document.

    Raises:
        UsageError: The paths stand for nothing; a file is empty, damaged or may not be read; nothing is left.
    """
    sources = find_sources(paths)
    if datasets := [source.name for source in sources if source.is_dataset]:
        raise UsageError(f"{datasets[0]} is a dataset of tokens: give the text that it was made from")
    return _documents(sources, parse_separator(separator))


def embedded_books() -> tuple[Path, ...]:
    """The public-domain books that come with the package, 1.5 MB of English prose."""
    folder = Path(str(files("compressive_transformer") / "data" / "books"))
    return tuple(sorted(folder.glob("*.txt.xz")))


def embedded_recordings() -> tuple[Path, ...]:
    """The public-domain recordings that come with the package, a minute of English speech."""
    folder = Path(str(files("compressive_transformer") / "data" / "recordings"))
    return tuple(sorted(folder.glob("*.flac")))


def parse_separator(separator: str | None) -> bytes | None:
    r"""The bytes that divide documents: backslash escapes of ``\n \r \t \f \0 \\`` are resolved.

    Raises:
        UsageError: The separator is empty.
    """
    if separator == "":
        raise UsageError(
            r"the separator is empty: give the text between documents, such as '\n\n\n', or leave it out"
        )
    if separator is None:
        return None
    return re.sub(r"\\([nrtf0\\])", lambda match: ESCAPES[match[1]], separator).encode()


def _documents(sources: Sequence[Source], separator: bytes | None) -> Iterator[Document]:
    nothing = True
    for source in sources:
        pieces: list[bytes] = []
        number = 0
        for part in chain(divide(read_chunks(source), separator), [None]):
            if part is not None:
                pieces.append(part)
            elif pieces:
                nothing, number = False, number + 1
                yield Document(f"{source.name}#{number}" if separator else source.name, b"".join(pieces))
                pieces = []
    if nothing:
        raise nothing_but_separators(sources)


def nothing_but_separators(sources: Sequence[Source]) -> UsageError:
    """For the caller to raise."""
    return UsageError(f"nothing but separators in {sources[0].name}: choose another separator, or none")


def divide(chunks: Iterable[bytes], separator: bytes | None) -> Iterator[bytes | None]:
    """Parts of documents, none of them empty, and None wherever a separator ends a document.

    Memory does not grow with the text.
    """
    if separator is None:
        yield from chunks
        return
    keep = len(separator) - 1  # what may yet turn out to be the beginning of a separator
    rest = b""
    for chunk in chunks:
        *ended, rest = (rest + chunk).split(separator)
        for part in ended:
            if part:
                yield part
            yield None
        if len(rest) > keep:
            yield rest[: len(rest) - keep]
            rest = rest[len(rest) - keep :]
    if rest:
        yield rest


def read_chunks(
    source: Source, start: int = 0, stop: int | None = None, report: Callable[[int], None] = lambda size: None
) -> Iterator[bytes]:
    """The unpacked file, or the range [start, stop) of a plain one, in chunks of some megabytes.

    They end with a line where lines are not endless. What was read from the disk is told to ``report``.

    Raises:
        UsageError: The file is empty although it was asked for by name, damaged, or may not be read.
    """
    empty = source.named
    with reading(source.name), source.open() as (file, raw):
        seekable = raw.seekable()
        if start:
            file.seek(start)
        before, left = start, sys.maxsize if stop is None else stop - start
        while chunk := file.read(min(CHUNK, left)):
            chunk += file.readline(min(CHUNK, left - len(chunk)))
            empty, left = False, left - len(chunk)
            position = raw.tell() if seekable else before + len(chunk)
            report(position - before)
            before = position
            yield chunk
    if empty:
        raise UsageError(f"{source.name} is empty: give a file with text in it")
