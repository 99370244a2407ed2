"""Text as streams of tokens: sources, tokenizers, the token cache, lanes. Knows nothing of models."""

from compressive_transformer.data.cache import default_cache, prepare
from compressive_transformer.data.corpus import Corpus, split
from compressive_transformer.data.lanes import Batch, Lanes
from compressive_transformer.data.sources import Document, embedded_books, read_documents
from compressive_transformer.data.stream import Stream
from compressive_transformer.data.tokenizers import ByteTokenizer, Tokenizer, get_tokenizer

__all__ = [
    "Batch",
    "ByteTokenizer",
    "Corpus",
    "Document",
    "Lanes",
    "Stream",
    "Tokenizer",
    "default_cache",
    "embedded_books",
    "get_tokenizer",
    "prepare",
    "read_documents",
    "split",
]
