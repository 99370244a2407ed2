"""Files of tokenizers that were made from text: JSON, named by what is in them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from compressive_transformer.data.subwords import SubwordTokenizer, learn_subwords
from compressive_transformer.data.tokenizers import Tokenizer
from compressive_transformer.data.words import WordTokenizer, count_words
from compressive_transformer.errors import UsageError
from compressive_transformer.storage import is_count, read_json, write_json

Kind = Literal["subwords", "words"]
FORMAT = "compressive-transformer-tokenizer-1"
SUBWORDS = 32_000
"""Subwords that are made if nothing else is said (paper section 5.2)."""
MAX_BYTES = 1 << 30
"""Of a tokenizer's file: some forty million words."""
LEAST = 257
"""Subwords: every byte, and the document token."""


def learn(parts: Iterable[bytes], kind: Kind, size: int | None, *, progress: bool = False) -> dict[str, Any]:
    """The content of a tokenizer's file.

    Args:
        parts: of a text, each ending with a line.
        kind: ``subwords`` (byte-pair encoding, any text) or ``words`` (a closed vocabulary).
        size: tokens, the document token included; None is 32,000 subwords, or all words.
        progress: show how far it is.

    Raises:
        UsageError: a size is not allowed, or a library is missing.
    """
    if size is not None and size < (LEAST if kind == "subwords" else 3):
        least = "257 (every byte, and the document token)" if kind == "subwords" else "3"
        raise UsageError(f"vocab-size {size} is not allowed; use at least {least}")
    if kind == "subwords":
        model = learn_subwords(parts, (size or SUBWORDS) - 1, progress=progress)
        return {"format": FORMAT, "kind": kind, "model": json.loads(model)}
    words, counts = count_words(parts, size and size - 1)
    texts = [word.decode(errors="surrogateescape") for word in words]
    return {"format": FORMAT, "kind": kind, "words": texts, "counts": counts}


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a tokenizer's file, whole or not at all."""
    write_json(path, content)


def load(path: Path) -> Tokenizer:
    """The tokenizer in a file.

    Raises:
        UsageError: there is none, or the file is damaged.
    """
    try:
        content = read_json(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read the tokenizer {path} ({error.strerror}); give another file") from None
    except ValueError as error:
        raise UsageError(
            f"{path} is no tokenizer ({error}); 'compressive tokenizer train' makes one"
        ) from None
    given = content if isinstance(content, dict) else {}
    if given.get("format") != FORMAT:
        raise UsageError(f"{path} is no tokenizer of this version; 'compressive tokenizer train' makes one")
    name = _name(given)
    if given.get("kind") == "subwords" and isinstance(given.get("model"), dict):
        return SubwordTokenizer(json.dumps(given["model"]), name)
    if given.get("kind") != "words":
        raise UsageError(f"{path} is damaged (its kind, or its subwords); make it again")
    words, counts = given.get("words"), given.get("counts")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UsageError(f"{path} is damaged (its words); make it again")
    if (
        not isinstance(counts, list)
        or not all(map(is_count, counts))
        or counts != sorted(counts, reverse=True)
    ):
        raise UsageError(f"{path} is damaged (its counts); make it again")
    return WordTokenizer([word.encode(errors="surrogateescape") for word in words], counts, name)


def _name(content: dict[str, Any]) -> str:
    """Another vocabulary has another name."""
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return f"{content.get('kind')}-{digest[:16]}"
