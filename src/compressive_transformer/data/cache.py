"""Text to tokens, once: the next time they are found in the cache, or where they were put."""

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from compressive_transformer.data.audio import SampleTokenizer
from compressive_transformer.data.build import Recipe, build
from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.dataset import Manifest, open_dataset
from compressive_transformer.data.disk import writing
from compressive_transformer.data.files import Source, find_sources
from compressive_transformer.data.pool import Progress
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.errors import UsageError

Paths = str | Path | Sequence[str | Path]


def prepare(
    paths: Paths,
    tokenizer: Tokenizer,
    *,
    separator: str | None = None,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The documents in the files as tokens, read from the cache and put there if need be.

    Memory does not grow with the text. Several processes may prepare the same at the same time. Broken off,
    the work goes on the next time from the shards that were finished.

    Args:
        paths: As for `read_documents`; or a dataset that `prepare_dataset` has made.
        tokenizer: Makes the tokens; it is given chunks of some megabytes.
        separator: As for `read_documents`.
        cache_dir: Instead of `default_cache`.
        workers: Processes that make tokens where there is much to do; all processors if left out.
        progress: Called now and then.

    Raises:
        UsageError: As `read_documents`; or the cache cannot be written; or the dataset is not whole, or has
            tokens of another tokenizer.
    """
    sources = _sources(paths, tokenizer, separator)
    if any(source.is_dataset for source in sources):
        return open_dataset(_only_dataset(sources), tokenizer, separator=separator)
    recipe = Recipe.of(sources, separator, tokenizer)
    root = Path(cache_dir or default_cache()) / "tokens"
    with writing(f"the cache {root}", "set COMPRESSIVE_CACHE to another folder"):
        if recipe.has_streams:
            return _keep_stream(root, recipe, workers, progress)
        folder = root / recipe.key
        with suppress(UsageError):
            found = open_dataset(folder, tokenizer)
            _remind(folder, tokenizer)
            return found
        build(folder, recipe, workers=workers, progress=progress, own=True)
        return open_dataset(folder, tokenizer)


def prepare_dataset(
    paths: Paths,
    out: str | Path,
    tokenizer: Tokenizer,
    *,
    separator: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """The documents in the files as tokens in a folder of their own, made there if need be.

    Args:
        paths: As for `read_documents`.
        out: A folder that is new, empty, or left by an earlier call that was broken off.
        tokenizer, separator, workers, progress: As for `prepare`.

    Raises:
        UsageError: As `read_documents`; or the folder cannot be written, or holds something else.
    """
    sources = _sources(paths, tokenizer, separator)
    if any(source.is_dataset for source in sources):
        raise UsageError(f"{_only_dataset(sources)} is a dataset already: give text, or leave --out away")
    with writing(f"the dataset {out}", "choose another folder, or make room there, and go on"):
        recipe = Recipe.of(sources, separator, tokenizer)
        build(Path(out), recipe, workers=workers, progress=progress, own=False)
    return open_dataset(Path(out), tokenizer)


def default_cache() -> Path:
    """``$COMPRESSIVE_CACHE``, or ``compressive-transformer`` in ``$XDG_CACHE_HOME`` or else ``~/.cache``."""
    if own := os.environ.get("COMPRESSIVE_CACHE"):
        return Path(own).expanduser()
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise UsageError("no home folder to keep the cache in: set COMPRESSIVE_CACHE to a folder") from None
    return base / "compressive-transformer"


def _sources(paths: Paths, tokenizer: Tokenizer, separator: str | None) -> list[Source]:
    """Text, or recordings if the tokenizer is one of samples."""
    audio = isinstance(tokenizer, SampleTokenizer)
    if audio and separator is not None:
        raise UsageError("recordings have no separators; leave the separator out, every file is a document")
    return find_sources(paths, audio=audio)


def _remind(folder: Path, tokenizer: Tokenizer) -> None:
    """Warns of recordings that were left out when a dataset was made; it was said why then."""
    sources = Manifest.read(folder).sources
    bad = [source.name for source in sources if not source.documents]
    if bad and isinstance(tokenizer, SampleTokenizer):
        warnings.warn(f"{len(bad)} of {len(sources)} recordings are left out, as {bad[0]}", stacklevel=3)


def _only_dataset(sources: Sequence[Source]) -> Path:
    """The folder of the dataset, which stands alone.

    Raises:
        UsageError: It doesn't.
    """
    dataset = next(source for source in sources if source.is_dataset)
    if len(sources) > 1:
        raise UsageError(f"the dataset {dataset.name} can't be joined with other text: give it alone")
    assert dataset.path is not None
    return dataset.path.parent


def _keep_stream(root: Path, recipe: Recipe, workers: int | None, progress: Progress | None) -> Corpus:
    """The dataset of something that must be read to be known, kept under what it turned out to hold."""
    with _temporary(root) as folder:
        build(folder, recipe, workers=workers, progress=progress, own=True)
        manifest = Manifest.read(folder)
        found = [manifest.tokenizer, manifest.separator, manifest.documents_sha256]
        found += [
            (source.name, source.size, source.mtime_ns, source.documents) for source in manifest.sources
        ]
        found += [shard.sha256 for shard in manifest.shards]
        target = root / hashlib.sha256(repr(found).encode()).hexdigest()
        with suppress(UsageError):
            return open_dataset(target, recipe.tokenizer)
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            folder.rename(target)
        return open_dataset(target, recipe.tokenizer)


@contextmanager
def _temporary(root: Path) -> Iterator[Path]:
    """The name of a new folder in the cache, gone at the end if it still has this name."""
    folder = root / f".{uuid4().hex}"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
