"""Documents out of files, folders, patterns and standard input."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from pathlib import Path

from compressive_transformer.data.files import Source, find_sources, reading
from compressive_transformer.errors import UsageError

CHUNK = 1 << 24
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
    sources, divider = find_sources(paths), parse_separator(separator)
    return (Document(name, b"".join(chunks)) for name, chunks in stream_documents(sources, divider))


def embedded_books() -> tuple[Path, ...]:
    """The public-domain books that come with the package, 1.5 MB of English prose."""
    folder = Path(str(files("compressive_transformer") / "data" / "books"))
    return tuple(sorted(folder.glob("*.txt.xz")))


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


def stream_documents(
    sources: Sequence[Source], separator: bytes | None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content, in chunks of some megabytes, of each document in the files.

    Read the chunks of a document before asking for the next. Memory does not grow with the files.

    Raises:
        UsageError: A file is empty, damaged or may not be read, or no file has a document.
    """
    nothing = True
    for source in sources:
        for number, pieces in groupby(_pieces(source, separator), key=lambda piece: piece[0]):
            nothing = False
            yield (
                source.name if separator is None else f"{source.name}#{number}",
                (chunk for _, chunk in pieces),
            )
    if nothing:
        raise UsageError(f"nothing but separators in {sources[0].name}: choose another separator, or none")


def _pieces(source: Source, separator: bytes | None) -> Iterator[tuple[int, bytes]]:
    """Chunks of the file, none of them empty, each with the number of the document that it belongs to."""
    if separator is None:
        yield from ((1, chunk) for chunk in _chunks(source))
        return
    keep = len(separator) - 1  # what may yet turn out to be the beginning of a separator
    number, begun, rest = 1, False, b""
    for chunk in _chunks(source):
        *ended, rest = (rest + chunk).split(separator)
        for piece in ended:
            if piece:
                yield number, piece
            number += begun or bool(piece)
            begun = False
        if len(rest) > keep:
            yield number, rest[: len(rest) - keep]
            begun, rest = True, rest[len(rest) - keep :]
    if rest:
        yield number, rest


def _chunks(source: Source) -> Iterator[bytes]:
    """The unpacked file in chunks that end with a line where lines are not endless."""
    empty = source.named
    with reading(source.name), source.open() as file:
        while chunk := file.read(CHUNK) + file.readline(CHUNK):
            empty = False
            yield chunk
    if empty:
        raise UsageError(f"{source.name} is empty: give a file with text in it")
