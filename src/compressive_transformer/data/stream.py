"""The documents of a corpus as one stream of tokens."""

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compressive_transformer.data.corpus import Corpus


class Stream:
    """The documents of a corpus one after the other, each behind its document token, read in a circle.

    Args:
        corpus: Not copied.
        order: The documents' numbers in the order wanted; in the order of the corpus if left out.
    """

    def __init__(self, corpus: Corpus, order: ArrayLike | None = None) -> None:
        self.corpus = corpus
        self.order = np.arange(corpus.num_documents) if order is None else np.asarray(order)
        lengths = np.diff(corpus.starts)[self.order] + 1
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    def __len__(self) -> int:
        """Length of the circle: all tokens of the documents, and a document token for each."""
        return int(self._starts[-1])

    def documents(self, start: int, count: int) -> list[int]:
        """Numbers, in the corpus, of the documents that a read meets: in order, each once."""
        first = self._index(start % len(self))
        met, left = [], count + start % len(self) - int(self._starts[first])
        for place in itertools.chain(range(first, len(self.order)), range(first)):
            if left <= 0:
                break
            met.append(int(self.order[place]))
            left -= int(self._starts[place + 1] - self._starts[place])
        return met

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """The tokens [count] from position ``start`` on, in O(count + log num_documents)."""
        tokens = np.empty(count, np.int64)
        position = start % len(self)
        index = self._index(position)
        filled = 0
        while filled < count:
            skipped = position - int(self._starts[index])
            document = self.corpus.document(self.order[index])
            if skipped == 0:
                tokens[filled] = self.corpus.tokenizer.document_token
                filled, skipped = filled + 1, 1
            piece = np.asarray(document[skipped - 1 : skipped - 1 + count - filled])
            tokens[filled : filled + len(piece)] = piece
            filled += len(piece)
            index = (index + 1) % len(self.order)
            position = int(self._starts[index])
        return tokens

    def _index(self, position: int) -> int:
        """Which document of the order covers the position."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1
