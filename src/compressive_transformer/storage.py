"""Files that are whole or not there, and safetensors files that are looked at before they are opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compressive_transformer.errors import UsageError

MAX_HEADER = 1 << 24
"""Bytes; the header of a model of a million tensors has fewer."""
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""How files of torch.save and of pickle begin."""


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


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, checked before anything else of the file is read.

    Raises:
        UsageError: the file is not there, is a pickle, or does not begin as a safetensors file does.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(PICKLES):
                raise UsageError(f"{path} is a pickle, which could run any code; it was not opened")
            if len(start) < 8 or length > size - 8:
                raise UsageError(f"{path} is broken (cut short, or no safetensors file); restore it")
            if length > MAX_HEADER:
                raise UsageError(f"{path} has a header of {length:,} bytes, allowed are {MAX_HEADER:,}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise UsageError(f"{path} is broken ({error.strerror}); restore it or train again") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} is broken (in its header); restore it or train again") from None
    if not isinstance(header, dict):
        raise UsageError(f"{path} is broken (in its header); restore it or train again")
    return header
