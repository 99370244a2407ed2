"""The documents of a corpus as one stream of tokens."""

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

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """The tokens [count] from position ``start`` on, in O(count + log num_documents)."""
        tokens = np.empty(count, np.int64)
        position = start % len(self)
        index = int(np.searchsorted(self._starts, position, side="right")) - 1
        filled = 0
        while filled < count:
            skipped = position - int(self._starts[index])
            document = self.corpus.document(self.order[index])
            if skipped == 0:
                tokens[filled] = self.corpus.tokenizer.document_token
                filled, skipped = filled + 1, 1
            piece = document[skipped - 1 : skipped - 1 + count - filled]
            tokens[filled : filled + len(piece)] = piece
            filled += len(piece)
            index = (index + 1) % len(self.order)
            position = int(self._starts[index])
        return tokens
