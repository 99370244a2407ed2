"""Texts divided into units of work, the same whatever the number of workers."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from compressive_transformer.data.files import Source, Stamp, reading

UNIT = 1 << 26
"""Bytes on the disk that make a unit."""
UNPACKED = 4
"""How many bytes of text are expected behind a packed one."""
WINDOW = 1 << 20
"""How far to look for a good place to cut."""


class Piece(NamedTuple):
    """A file, or a range of a large one."""

    source: Source
    position: int
    """Of the source among all."""
    stamp: Stamp | None
    """Of the source, when work began."""
    start: int = 0
    stop: int | None = None
    """None is the end of the file."""


Unit = tuple[Piece, ...]
"""What becomes one shard: a stream, a range, or small files together."""


def plan_units(
    sources: Sequence[Source], stamps: Sequence[Stamp | None], separator: bytes | None, *, cut: bool = True
) -> list[Unit]:
    """All of the sources, in order, in units of about ``UNIT`` bytes.

    A large plain file is cut into ranges such that dividing each at its separators finds the separators of
    the whole. A packed file cannot be cut, nor any if ``cut`` says so: recordings.
    """
    units: list[Unit] = []
    together: list[Piece] = []
    filled = 0
    for position, (source, stamp) in enumerate(zip(sources, stamps, strict=True)):
        size = 0 if stamp is None else stamp.size * (UNPACKED if source.is_packed else 1)
        alone = stamp is None or size > UNIT
        if together and (alone or filled + size > UNIT):
            units.append(tuple(together))
            together, filled = [], 0
        if stamp is None or (alone and (source.is_packed or not cut)):
            units.append((Piece(source, position, stamp),))
        elif alone:
            units += [
                (Piece(source, position, stamp, *ends),) for ends in _ranges(source, stamp.size, separator)
            ]
        else:
            together.append(Piece(source, position, stamp))
            filled += size
    return [*units, tuple(together)] if together else units


def _ranges(source: Source, size: int, separator: bytes | None) -> Iterator[tuple[int, int]]:
    """Where ranges of a file start and stop."""
    keep = len(separator or b" ") - 1
    start = 0
    with reading(source.name), source.open() as (file, _):
        for wanted in range(UNIT, size, UNIT):
            if wanted <= start:
                continue
            seen = max(wanted - keep, 0)
            file.seek(seen)
            cut = _find_cut(file.read(WINDOW + 2 * keep), separator, keep)
            if cut is not None and seen + cut < size:
                yield start, seen + cut
                start = seen + cut
    yield start, size


def _find_cut(data: bytes, separator: bytes | None, keep: int) -> int | None:
    """Where to cut: behind a separator, or else a line, or else anywhere, but never through a separator.

    Where separators overlap ("--" in "---"), which of them count depends on all that stands before, except
    behind a place that none of them covers. So no occurrence may reach over the cut. There is no place if the
    window is one chain of them.

    Args:
        data: A window of the file.
        separator: Divides documents.
        keep: The first and the last ``keep`` bytes are there to be seen, not to be cut.
    """
    for marker in (separator, b"\n", b""):
        if marker is None:
            continue
        at = data.find(marker, max(keep + 1 - len(marker), 0))
        while at >= 0 and (cut := at + len(marker)) <= len(data) - keep:
            if separator is None or separator not in data[cut - keep : cut + keep]:
                return cut
            at = data.find(marker, at + 1)
    return None
