"""Text to numbers and back."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressive_transformer.errors import UsageError

TokenArray = NDArray[np.uint16 | np.uint32]


class Tokenizer(Protocol):
    """What the data needs from a tokenizer.

    Decoding undoes encoding byte for byte (but for ``WordTokenizer``, which knows its own words only), also
    piece by piece:
    ``decode(a) + decode(b) == decode(concatenate(a, b))`` wherever tokens are cut.
    """

    @property
    def name(self) -> str:
        """Stands for what the tokenizer does in cache keys: another vocabulary needs another name."""
        ...

    @property
    def unit(self) -> str:
        """What one token stands for, to print results with: "byte", "subword"."""
        ...

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the document token included."""
        ...

    @property
    def document_token(self) -> int:
        """The token that opens every document. Encoding never gives it; decoding leaves it out."""
        ...

    def encode(self, data: bytes) -> TokenArray:
        """The tokens of any bytes, [num_tokens], without a document token."""
        ...

    def decode(self, ids: ArrayLike) -> bytes:
        """The bytes that the tokens [num_tokens] stand for."""
        ...


def dtype_of(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest type that holds all tokens."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def table_index(ids: ArrayLike, vocab_size: int) -> list[int]:
    """Tokens as numbers to look up.

    Raises:
        ValueError: A number is not a token.
    """
    tokens = np.asarray(ids)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ValueError(f"tokens must lie in [0, {vocab_size}), got [{tokens.min()}, {tokens.max()}]")
    return tokens.tolist()


class ByteTokenizer:
    """Every byte is a token; token 256 opens a document."""

    name = "bytes"
    unit = "byte"
    vocab_size = 257
    document_token = 256

    def encode(self, data: bytes) -> NDArray[np.uint16]:
        """The bytes as numbers, uint16 [len(data)]."""
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def decode(self, ids: ArrayLike) -> bytes:
        """The bytes again, document tokens left out.

        Raises:
            ValueError: A number is not a token.
        """
        tokens = np.asarray(ids)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() <= self.document_token:
            raise ValueError(f"tokens must lie in [0, 256], got [{tokens.min()}, {tokens.max()}]")
        return tokens[tokens != self.document_token].astype(np.uint8).tobytes()


def get_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of that name: ``bytes``, ``mulaw-RATE`` of sound, or the file of one made from text.

    Raises:
        UsageError: There is none, or its file is damaged.
    """
    if name == ByteTokenizer.name:
        return ByteTokenizer()
    if not name.endswith(".json"):
        from compressive_transformer.data.audio import sample_tokenizer

        if (samples := sample_tokenizer(name)) is not None:
            return samples
        raise UsageError(
            f"unknown tokenizer {name!r}: use bytes, a file of 'compressive tokenizer train', or of "
            "recordings mulaw-RATE or linear-RATE, such as mulaw-16000"
        )
    from compressive_transformer.data.trained import load

    return load(Path(name))
