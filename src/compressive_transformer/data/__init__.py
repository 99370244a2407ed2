"""Text as streams of tokens: sources, tokenizers, datasets, lanes. Knows nothing of models."""

import importlib
from typing import TYPE_CHECKING, Any

from compressive_transformer.data.cache import default_cache, prepare, prepare_dataset
from compressive_transformer.data.corpus import Corpus, excerpt, join_folders, split
from compressive_transformer.data.dataset import open_dataset, verify_dataset
from compressive_transformer.data.pool import Preparing
from compressive_transformer.data.shards import Shards
from compressive_transformer.data.sources import Document, embedded_books, embedded_recordings, read_documents
from compressive_transformer.data.stream import Stream
from compressive_transformer.data.tokenizers import ByteTokenizer, Tokenizer, get_tokenizer

if TYPE_CHECKING:
    from compressive_transformer.data.lanes import Batch, Lanes
    from compressive_transformer.data.streamed import StreamedLanes, open_stream

_HOMES = {"Batch": "lanes", "Lanes": "lanes", "StreamedLanes": "streamed", "open_stream": "streamed"}

__all__ = [
    "Batch",
    "ByteTokenizer",
    "Corpus",
    "Document",
    "Lanes",
    "Preparing",
    "Shards",
    "Stream",
    "StreamedLanes",
    "Tokenizer",
    "default_cache",
    "embedded_books",
    "embedded_recordings",
    "excerpt",
    "get_tokenizer",
    "join_folders",
    "open_dataset",
    "open_stream",
    "prepare",
    "prepare_dataset",
    "read_documents",
    "split",
    "verify_dataset",
]


def __getattr__(name: str) -> Any:
    """Imports torch on first use: processes that make tokens do without."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
