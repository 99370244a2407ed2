"""A corpus: documents as one long array of tokens."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.data.shards import Shards
from compressive_transformer.data.sources import Document
from compressive_transformer.data.tokenizers import TokenArray, Tokenizer
from compressive_transformer.errors import UsageError


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents as tokens, in memory or in files.

    Only what the documents themselves say is stored; the document token that opens each of them is put in
    where tokens are read (see `Stream`). So a part of a corpus is a plain view of it.
    """

    tokens: TokenArray | Shards
    """uint16 or uint32 [num_tokens], document after document; ``np.asarray`` reads what lies in files."""
    starts: NDArray[np.int64]
    """[num_documents + 1] where in ``tokens`` each document starts, and last where the last one ends."""
    names: Sequence[str]
    """[num_documents] the file that each comes from."""
    num_bytes: NDArray[np.int64]
    """[num_documents] length of the text in bytes, for bits per byte."""
    tokenizer: Tokenizer

    def __post_init__(self) -> None:
        if not len(self.starts) - 1 == len(self.names) == len(self.num_bytes):
            raise ValueError(
                f"{len(self.starts)} starts, {len(self.names)} names, {len(self.num_bytes)} lengths"
            )
        if (self.starts[0], self.starts[-1]) != (0, len(self.tokens)):
            raise ValueError(
                f"starts must run from 0 to {len(self.tokens)}, got {self.starts[0]}, {self.starts[-1]}"
            )

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.names)

    @property
    def num_tokens(self) -> int:
        """How many tokens the documents have, their document tokens not counted."""
        return len(self.tokens)

    @property
    def unit(self) -> str:
        """What one token stands for: "byte", "subword"."""
        return self.tokenizer.unit

    @cached_property
    def fingerprint(self) -> str:
        """Tells the text and its tokens from others: sha256 in hexadecimal digits.

        Prepared tokens are not read for it: their checksums were taken when they were made.
        """
        hasher = hashlib.sha256(self.tokenizer.name.encode())
        if isinstance(self.tokens, Shards):
            hasher.update(self.tokens.fingerprint.encode())
        else:
            hasher.update(np.ascontiguousarray(self.tokens).data)
        for table in (self.starts, self.num_bytes):
            hasher.update(np.ascontiguousarray(table, np.int64).data)
        return hasher.hexdigest()

    def document(self, index: int) -> TokenArray | Shards:
        """The tokens of one document, without its document token: a view."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]

    @classmethod
    def from_documents(cls, documents: Iterable[Document], tokenizer: Tokenizer) -> "Corpus":
        """A corpus in memory. `prepare` makes one of any size from files.

        Raises:
            UsageError: There is no text in the documents.
        """
        kept = [document for document in documents if document.data]
        if not kept:
            raise UsageError("no text given: every document is empty")
        pieces = [tokenizer.encode(document.data) for document in kept]
        return cls(
            tokens=np.concatenate(pieces),
            starts=np.cumsum([0, *map(len, pieces)], dtype=np.int64),
            names=tuple(document.name for document in kept),
            num_bytes=np.array([len(document.data) for document in kept], np.int64),
            tokenizer=tokenizer,
        )


def split(corpus: Corpus, *, fraction: float = 0.05, max_tokens: int | None = None) -> tuple[Corpus, Corpus]:
    """Divide a corpus into a first part to train on and a last part to validate on, as views.

    The last part is made of the fewest whole documents that hold ``fraction`` of the tokens. If they hold
    more than twice as much, or more than ``max_tokens``, or half of what training should have, the foremost
    of them is cut: its end goes to the last part, as a document of its own, and its beginning to the first.

    Args:
        corpus: Stays as it is.
        fraction: How much of the tokens the last part gets, at least; in (0, 1).
        max_tokens: The last part never gets more than this.

    Raises:
        UsageError: The numbers are out of their range, or the corpus has fewer than two tokens.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the fraction for validation must lie between 0 and 1, got {fraction}")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"validation needs at least 1 token, got max_tokens={max_tokens}")
    total = corpus.num_tokens
    if total < 2:
        raise UsageError(
            f"a text of {total} {corpus.unit}(s) is too short to keep a part for validation: give more"
        )
    most = total - 1 if max_tokens is None else min(max_tokens, total - 1)
    wanted = min(math.ceil(fraction * total), most)
    foremost = int(np.searchsorted(corpus.starts, total - wanted, side="right")) - 1
    cut = int(corpus.starts[foremost])
    if total - cut > min(2 * wanted, (total + wanted) // 2, most):
        cut = total - wanted
    return _divide(corpus, foremost, cut)


def join_folders(corpus: Corpus) -> Corpus:
    """The same tokens, with neighbours that lie in one folder as one document: a speaker, an author."""
    folders = [str(PurePath(name).parent) for name in corpus.names]
    first = [i for i in range(len(folders)) if i == 0 or folders[i] != folders[i - 1]]
    return replace(
        corpus,
        starts=np.append(corpus.starts[first], corpus.starts[-1]),
        names=tuple(folders[i] for i in first),
        num_bytes=np.add.reduceat(corpus.num_bytes, first),
    )


def excerpt(corpus: Corpus, *, num_pieces: int, length: int) -> Corpus:
    """Equal pieces spread evenly over a corpus, as documents: a quick look, read side by side.

    Each piece begins with an empty state, so it scores a little worse than the whole.
    """
    length = max(min(length, corpus.num_tokens // num_pieces), 1)
    count = min(num_pieces, corpus.num_tokens // length)
    apart = corpus.num_tokens // max(count, 1)
    pieces = [np.asarray(corpus.tokens[i * apart : i * apart + length]) for i in range(count)]
    sizes = [len(corpus.tokenizer.decode(piece)) for piece in pieces]
    return Corpus(
        tokens=np.concatenate(pieces),
        starts=np.arange(count + 1, dtype=np.int64) * length,
        names=tuple(f"piece {i + 1}" for i in range(count)),
        num_bytes=np.array(sizes, np.int64),
        tokenizer=corpus.tokenizer,
    )


def _divide(corpus: Corpus, index: int, cut: int) -> tuple[Corpus, Corpus]:
    """Divide at token ``cut``, which lies in document ``index`` or is its start."""
    start, stop = map(int, corpus.starts[index : index + 2])
    after = replace(
        corpus,
        tokens=corpus.tokens[cut:],
        starts=np.concatenate([[0], corpus.starts[index + 1 :] - cut]),
        names=corpus.names[index:],
        num_bytes=corpus.num_bytes[index:].copy(),
    )
    after.num_bytes[0] = corpus.num_bytes[index] if cut == start else _count_bytes(corpus, cut, stop)
    shared = int(cut > start)  # a document that is cut is in both parts
    before = replace(
        corpus,
        tokens=corpus.tokens[:cut],
        starts=np.append(corpus.starts[: index + shared], cut),
        names=corpus.names[: index + shared],
        num_bytes=corpus.num_bytes[: index + shared].copy(),
    )
    if shared:
        before.num_bytes[-1] -= after.num_bytes[0]
    return before, after


def _count_bytes(corpus: Corpus, start: int, stop: int, chunk: int = 1 << 20) -> int:
    """How many bytes the tokens in [start, stop) of a document stand for."""
    if corpus.tokenizer.unit == "word":  # what they decode to is not quite what they came from
        index = int(np.searchsorted(corpus.starts, start, side="right")) - 1
        whole = len(corpus.document(index))
        return int(corpus.num_bytes[index]) * (stop - start) // max(whole, 1)
    pieces = (corpus.tokens[i : min(i + chunk, stop)] for i in range(start, stop, chunk))
    return sum(len(corpus.tokenizer.decode(piece)) for piece in pieces)
