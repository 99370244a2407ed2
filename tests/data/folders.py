"""Folders of text to prepare, and what to know of them."""

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    files,
)

BYTES = ByteTokenizer()
TEXT = b"".join(b"line %d\n\n" % i for i in range(100))


def same(a: Corpus, b: Corpus) -> bool:
    arrays = ((a.tokens, b.tokens), (a.starts, b.starts), (a.num_bytes, b.num_bytes))
    return list(a.names) == list(b.names) and all(np.array_equal(x, y) for x, y in arrays)


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


def finished(folder: Path) -> int:
    return len(list(folder.glob("*.json"))) - (folder / files.UNFINISHED).exists() if folder.exists() else 0


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)
