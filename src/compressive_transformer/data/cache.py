"""Text to a file of tokens, once: the next time it is found in the cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.files import Source, find_sources, reading
from compressive_transformer.data.sources import parse_separator, stream_documents
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.errors import UsageError

FORMAT = "compressive-transformer-tokens-1"
TOKENS, DOCUMENTS = "tokens.bin", "documents.json"
Progress = Callable[[int, int], None]


def prepare(
    paths: str | Path | Sequence[str | Path],
    tokenizer: Tokenizer,
    *,
    separator: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The documents in the files as tokens, mapped from a file in the cache and made there if need be.

    Memory does not grow with the text. Several processes may prepare the same at the same time, and any of
    them may be broken off: the cache never shows a half-made file.

    Args:
        paths: As for `read_documents`.
        tokenizer: Makes the tokens; it is given chunks of some megabytes.
        separator: As for `read_documents`.
        cache_dir: Instead of `default_cache`.
        progress: Called now and then with the bytes and the documents read so far.

    Raises:
        UsageError: As `read_documents`; or the cache cannot be written.
    """
    sources, divider = find_sources(paths), parse_separator(separator)
    root = Path(cache_dir or default_cache()) / "tokens"
    keys: list[Any] = [FORMAT, tokenizer.name, separator, [_key(source) for source in sources]]
    # Name, size and time tell a file without reading it; what comes through a pipe must be read to be known.
    streams = any(source.is_stream for source in sources)
    if not streams and (corpus := _load(root / _digest(keys), tokenizer)):
        return corpus
    with _temporary(root) as folder:
        documents = _write(folder, stream_documents(sources, divider), tokenizer, progress)
        if streams:
            with (folder / TOKENS).open("rb") as file:
                keys += [hashlib.file_digest(file, "sha256").hexdigest(), documents]
        return _publish(folder, root / _digest(keys), tokenizer)


def default_cache() -> Path:
    """``$COMPRESSIVE_CACHE``, or ``compressive-transformer`` in ``$XDG_CACHE_HOME`` or else ``~/.cache``."""
    if own := os.environ.get("COMPRESSIVE_CACHE"):
        return Path(own).expanduser()
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise UsageError("no home folder to keep the cache in: set COMPRESSIVE_CACHE to a folder") from None
    return base / "compressive-transformer"


def _key(source: Source) -> list[Any]:
    if source.path is None or source.is_stream:
        return [source.name]
    with reading(source.name):
        stat = source.path.stat()
    return [source.name, str(source.path.resolve()), stat.st_size, stat.st_mtime_ns]


def _digest(keys: list[Any]) -> str:
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def _write(
    folder: Path,
    documents: Iterator[tuple[str, Iterator[bytes]]],
    tokenizer: Tokenizer,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write a file of tokens, and beside it the table of documents that is returned."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    names: list[str] = []
    num_tokens: list[int] = []
    num_bytes: list[int] = []
    total = 0
    with (folder / TOKENS).open("wb") as file:
        for name, chunks in documents:
            names.append(name)
            num_tokens.append(0)
            num_bytes.append(0)
            for chunk in chunks:
                tokens = tokenizer.encode(chunk).astype(dtype, copy=False)
                file.write(tokens.data)
                num_tokens[-1] += len(tokens)
                num_bytes[-1] += len(chunk)
                total += len(chunk)
                if progress:
                    progress(total, len(names))
    table = {"dtype": dtype.name, "names": names, "num_tokens": num_tokens, "num_bytes": num_bytes}
    (folder / DOCUMENTS).write_text(json.dumps(table), encoding="utf-8")
    return table


def _load(folder: Path, tokenizer: Tokenizer) -> Corpus | None:
    """The corpus in a folder of the cache, or None if there is none that is whole."""
    try:
        table = json.loads((folder / DOCUMENTS).read_text(encoding="utf-8"))
        return Corpus(
            # A plain array over the map: slices of np.memmap itself are slow.
            tokens=np.asarray(np.memmap(folder / TOKENS, table["dtype"], mode="r")),
            starts=np.cumsum([0, *table["num_tokens"]], dtype=np.int64),
            names=tuple(table["names"]),
            num_bytes=np.array(table["num_bytes"], np.int64),
            tokenizer=tokenizer,
        )
    except (OSError, ValueError, KeyError):
        return None


def _publish(folder: Path, target: Path, tokenizer: Tokenizer) -> Corpus:
    """Move what was made to its place in the cache, unless another process was quicker."""
    if target.exists() and _load(target, tokenizer) is None:
        shutil.rmtree(target, ignore_errors=True)
    try:
        folder.rename(target)
    except OSError:
        if not target.exists():
            raise
    corpus = _load(target, tokenizer)
    if corpus is None:
        raise OSError("what was written there cannot be read")
    return corpus


@contextmanager
def _temporary(root: Path) -> Iterator[Path]:
    """A new folder in the cache, gone at the end if it still has this name."""
    folder = root / f".{uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"cannot write to the cache {root} ({reason}): set COMPRESSIVE_CACHE to another folder"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
