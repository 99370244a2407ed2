"""Training batches whose rows go on where the batch before stopped.

Shape legend: B lanes, T tokens of a segment.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.stream import Stream
from compressive_transformer.errors import UsageError


class Batch(NamedTuple):
    """One segment of every lane."""

    inputs: Tensor
    """int64 [B, T]."""
    targets: Tensor
    """int64 [B, T] the token after each input."""
    resets: Tensor | None
    """bool [B, T] True where the state must be cleared before the input is read; None if nowhere."""


class Lanes:
    """An endless stream of batches; row i of each goes on where row i of the one before stopped.

    The documents, in an order drawn once from the seed and each behind its document token, form a circle of
    ``len(stream)`` tokens. Lane i starts at the i-th of its ``num_lanes`` equal parts and goes round for
    ever. What comes depends on the seed and the positions alone.

    Args:
        corpus: The text.
        num_lanes: Rows of a batch, B.
        length: Tokens that a batch reads from each lane, T.
        seed: Decides the order of the documents.
        reset_documents: Say where documents begin, so that they do not see each other.

    Raises:
        UsageError: The corpus has less than one batch.
    """

    def __init__(
        self, corpus: Corpus, *, num_lanes: int, length: int, seed: int, reset_documents: bool = True
    ) -> None:
        if num_lanes < 1 or length < 1:
            raise UsageError(f"num_lanes and length must be at least 1, got {num_lanes} and {length}")
        self.stream = Stream(corpus, np.random.default_rng(seed).permutation(corpus.num_documents))
        self.num_lanes, self.length, self.seed = num_lanes, length, seed
        self.reset_documents = reset_documents
        size = len(self.stream)
        if size < num_lanes * length:
            fewer = f"fewer lanes (at most {size // length}), " if size >= length else ""
            shorter = f"shorter segments (at most {size // num_lanes}), " if size >= num_lanes else ""
            raise UsageError(
                f"the text has {size} tokens, and {num_lanes} lanes of {length} need {num_lanes * length}: "
                f"take {fewer}{shorter}or more text".replace("take or", "take")
            )
        self._positions = [lane * size // num_lanes for lane in range(num_lanes)]
        self._tokens_read = 0

    @property
    def tokens_read(self) -> int:
        """Tokens given out so far, as inputs, by all lanes together."""
        return self._tokens_read

    @property
    def epoch(self) -> float:
        """How many times the whole text has been read; 1.0 when every lane reaches the start of the next."""
        return self._tokens_read / len(self.stream)

    def __iter__(self) -> "Lanes":
        return self

    def __next__(self) -> Batch:
        rows = np.stack([self.stream.read(position, self.length + 1) for position in self._positions])
        self._positions = [(position + self.length) % len(self.stream) for position in self._positions]
        self._tokens_read += self.num_lanes * self.length
        tokens = torch.from_numpy(rows)
        inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        resets = inputs == self.stream.corpus.tokenizer.document_token
        return Batch(inputs, targets, resets if self.reset_documents and bool(resets.any()) else None)

    def state_dict(self) -> dict[str, Any]:
        """Where the lanes stand, and which text they belong to: ints and a list of ints."""
        return {**self._identity(), "positions": list(self._positions), "tokens_read": self._tokens_read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, also with segments of another length.

        Raises:
            UsageError: The state belongs to another text, seed, or number of lanes.
        """
        for key, here in self._identity().items():
            if state.get(key) != here:
                raise UsageError(
                    f"the saved lanes have {key} {state.get(key)} and these {here}: "
                    "resume with the text, seed and lanes of the run"
                )
        self._positions = [int(position) for position in state["positions"]]
        self._tokens_read = int(state["tokens_read"])

    def _identity(self) -> dict[str, int]:
        """What must be equal for positions to mean the same."""
        corpus = self.stream.corpus
        return {
            "num_tokens": corpus.num_tokens,
            "num_documents": corpus.num_documents,
            "num_lanes": self.num_lanes,
            "seed": self.seed,
        }
