"""Training batches whose rows go on where the batch before stopped.

Shape legend: B lanes, T tokens of a segment.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressive_transformer.data.corpus import Corpus
from compressive_transformer.data.saved import check_count, check_identity, check_list, damaged_state
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


def make_batch(tokens: NDArray[np.int64], reset_at: int | None) -> Batch:
    """The batch of tokens [B, T + 1], with resets wherever ``reset_at`` is read."""
    rows = torch.from_numpy(tokens)
    inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
    resets = None if reset_at is None else inputs == reset_at
    return Batch(inputs, targets, resets if resets is not None and bool(resets.any()) else None)


def check_rows(rows: range | None, num_lanes: int) -> range:
    """The lanes that this process reads, all if not given.

    Raises:
        UsageError: There are none, or not so many.
    """
    rows = range(num_lanes) if rows is None else rows
    if not rows or rows.step != 1 or rows.start < 0 or rows.stop > num_lanes:
        raise UsageError(
            f"rows {rows.start} to {rows.stop} are not rows of {num_lanes} lanes: use at least one lane for "
            "each process"
        )
    return rows


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
        rows: Which of the lanes this process reads; all of them if left out. Its batches have a row for each,
            and all else (positions, ``tokens_read``, the state) is that of all lanes, equal in every process.

    Raises:
        UsageError: The corpus has less than one batch.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        num_lanes: int,
        length: int,
        seed: int,
        reset_documents: bool = True,
        rows: range | None = None,
    ) -> None:
        if num_lanes < 1 or length < 1:
            raise UsageError(f"num_lanes and length must be at least 1, got {num_lanes} and {length}")
        self.stream = Stream(corpus, np.random.default_rng(seed).permutation(corpus.num_documents))
        self.num_lanes, self.length, self.seed = num_lanes, length, seed
        self.reset_documents = reset_documents
        self.rows = check_rows(rows, num_lanes)
        size = len(self.stream)
        if size < num_lanes * length:
            fewer = f"fewer lanes (at most {size // length}), " if size >= length else ""
            shorter = f"shorter segments (at most {size // num_lanes}), " if size >= num_lanes else ""
            raise UsageError(
                f"the text has {size} tokens, and {num_lanes} lanes of {length} need {num_lanes * length}: "
                f"take {fewer}{shorter}or more text".replace("take or", "take")
            )
        self._positions = self._starts()
        self._tokens_read = 0
        self._last: list[int] = []

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
        self._last = [self._positions[row] for row in self.rows]
        rows = np.stack([self.stream.read(position, self.length + 1) for position in self._last])
        self._positions = [(position + self.length) % len(self.stream) for position in self._positions]
        self._tokens_read += self.num_lanes * self.length
        return make_batch(rows, self.stream.corpus.tokenizer.document_token if self.reset_documents else None)

    def documents(self, rows: Iterable[int] | None = None) -> list[str]:
        """Names of the documents that rows of the last batch come from (all rows if not given), each once."""
        positions = self._last if rows is None else [self._last[row] for row in rows]
        met = (self.stream.documents(position, self.length) for position in positions)
        return [self.stream.corpus.names[i] for i in dict.fromkeys(chain.from_iterable(met))]

    def advance_to(self, tokens_read: int) -> None:
        """Stands where these lanes would stand after so many tokens, all together, from the start.

        Raises:
            UsageError: That is not a number of tokens.
        """
        self._tokens_read = check_count(tokens_read, "tokens_read")
        each = tokens_read // self.num_lanes
        self._positions = [(start + each) % len(self.stream) for start in self._starts()]
        self._last = []

    def state_dict(self) -> dict[str, Any]:
        """Where the lanes stand, and which text they belong to: ints and a list of ints."""
        return {**self._identity(), "positions": list(self._positions), "tokens_read": self._tokens_read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, also with segments of another length.

        Raises:
            UsageError: The state belongs to another text, seed, or number of lanes, or is no such state.
        """
        check_identity(state, self._identity())
        positions = check_list(state.get("positions"), self.num_lanes, "positions")
        for position in positions:
            if check_count(position, "positions") >= len(self.stream):
                raise damaged_state("positions", f"numbers below {len(self.stream)}", position)
        self._tokens_read = check_count(state.get("tokens_read"), "tokens_read")
        self._positions = positions
        self._last = []

    def _starts(self) -> list[int]:
        """Where lanes start."""
        return [lane * len(self.stream) // self.num_lanes for lane in range(self.num_lanes)]

    def _identity(self) -> dict[str, int | str]:
        """What must be equal for positions to mean the same."""
        corpus = self.stream.corpus
        return {
            "num_tokens": corpus.num_tokens,
            "num_documents": corpus.num_documents,
            "num_lanes": self.num_lanes,
            "seed": self.seed,
            "fingerprint": corpus.fingerprint,
        }
