"""Files that are whole or not there, and files that are looked at before they are believed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compressive_transformer.errors import UsageError

MAX_HEADER = 1 << 24
"""Bytes; the header of a model of a million tensors has fewer."""
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of torch.save and of pickle begin."""
MAX_JSON = 1 << 26
"""Bytes; the manifest of a million files has more, and nobody has so many."""
MAX_DEPTH = 32
"""Of tables in tables; what this library writes has 5."""
MAX_DIGITS = 40
"""Of whole numbers; the states of random generators have numbers of 128 bits."""
MAX_NUMBER = 1 << 63
"""Numbers below it fit into int64."""
ITEM_BYTES: dict[str, int] = dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1)
ITEM_BYTES |= dict.fromkeys(("I16", "U16", "F16", "BF16"), 2)
ITEM_BYTES |= dict.fromkeys(("I32", "U32", "F32"), 4) | dict.fromkeys(("I64", "U64", "F64"), 8)
"""By the names of types in safetensors files."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` make a file beside, syncs it and moves it to ``path``: the old file stays till then."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.touch()
        mode = beside.stat().st_mode  # that of any new file, where safetensors lets the owner alone read
        write(beside)
        beside.chmod(mode)
        sync(beside)
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a whole JSON file, or leaves the old one."""
    write_whole(path, lambda p: _write_text(p, json.dumps(value, indent=2) + "\n"))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows can't open folders
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def open_plain(path: Path) -> io.BufferedReader:
    """Opens a file to read, if it is one: a pipe would never end, and a device may be anything.

    Raises:
        OSError: it can't be read, or is no plain file.
    """
    return open(path, "rb", opener=_open_plain)


def _open_plain(path: str, flags: int) -> int:
    if stat.S_ISREG(os.stat(path).st_mode):
        number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe that took its place: no waiting
        if stat.S_ISREG(os.fstat(number).st_mode):
            return number
        os.close(number)
    raise OSError(errno.EINVAL, "not a plain file", path)


def read_json(path: Path, limit: int = MAX_JSON) -> Any:
    """What a JSON file of at most so many bytes holds.

    Raises:
        OSError: it can't be read, or is no plain file.
        ValueError: it is no JSON, or not such as this library writes.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ValueError(f"{size:,} bytes are more than {limit:,}")
        return parse_json(file.read(size))


def as_json(value: Any) -> Any:
    """The value with null for the numbers that JSON does not have."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: as_json(part) for key, part in value.items()}
        case list() | tuple():
            return [as_json(part) for part in value]
    return value


def parse_json(data: bytes | str) -> Any:
    """What JSON holds that may be of anybody.

    Raises:
        ValueError: it is no JSON, a table has a name twice, a number is too long, or tables lie too deep in
            each other.
    """
    try:
        if isinstance(data, bytes):
            data = data.decode("utf-8")
        value = json.loads(data, object_pairs_hook=_table, parse_int=_whole_number)
    except RecursionError:
        value, deep = None, True
    else:
        deep = _is_deep(value)
    if deep:
        raise ValueError(f"tables lie more than {MAX_DEPTH} deep in each other")
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a name is there twice")
    return table


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for x in level if isinstance(x, dict | list) for part in _parts(x)]
    return bool(level)


def _parts(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def checksum(path: Path) -> str:
    """SHA-256 of a plain file."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, checked before anything else of the file is read.

    Raises:
        UsageError: the file is not there, is a pickle, or does not begin as a safetensors file does.
    """
    try:
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(PICKLES):
                raise UsageError(f"{path} is a pickle, which could run any code; it was not opened")
            if len(start) < 8 or length > size - 8:
                raise UsageError(f"{path} is broken (cut short, or no safetensors file); restore it")
            if length > MAX_HEADER:
                raise UsageError(f"{path} has a header of {length:,} bytes, allowed are {MAX_HEADER:,}")
            header = parse_json(file.read(length))
    except OSError as error:
        raise UsageError(f"{path} is broken ({error.strerror}); restore it or train again") from None
    except UsageError:
        raise
    except ValueError:
        raise UsageError(f"{path} is broken (in its header); restore it or train again") from None
    if not isinstance(header, dict) or not _is_header(header, size - 8 - length):
        raise UsageError(f"{path} is broken (in its header); restore it or train again")
    return header


def _is_header(header: dict[str, Any], num_bytes: int) -> bool:
    """Whether names, types, shapes and places are such as can be, in so many bytes of numbers."""
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        return False
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    if not all(_is_entry(entry, num_bytes) for entry in entries):
        return False
    stop = 0
    for place in sorted(entry["data_offsets"] for entry in entries):  # one behind the other, up to the end
        if place[0] != stop:
            return False
        stop = place[1]
    return stop == num_bytes


def _is_entry(entry: Any, num_bytes: int) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    kind, shape, place = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in ITEM_BYTES:
        return False
    if not all(isinstance(numbers, list) and all(map(is_count, numbers)) for numbers in (shape, place)):
        return False
    if len(shape) > 16 or len(place) != 2 or not place[0] <= place[1] <= num_bytes:
        return False
    return math.prod(shape) * ITEM_BYTES[kind] == place[1] - place[0]


def is_count(value: Any) -> bool:
    """Whether it is a number of things: an int that is no bool, 0 or more, and fits into int64."""
    return type(value) is int and 0 <= value < MAX_NUMBER
