"""What every layer of a core is given for a piece of the stream, and what it gives for it.

Shape legend: B batch, T queries in this piece of a segment, S keys, D model width, H heads.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from compressive_transformer.memory import KeysValues, LayerMemory


class Piece(NamedTuple):
    """What all layers need to know of the T tokens at hand, a part of one segment."""

    document_BT: Tensor
    """int64, the document of each token."""
    phase: int
    """Tokens read before these, modulo those after which all that a layer does repeats itself: compiled for
    each phase that comes, it needs to be compiled once where the rate divides the segment."""
    resets: bool
    """Whether a document may begin among these."""
    with_weights: bool = False
    """Whether to give attention weights."""

    @property
    def last_document(self) -> Tensor:
        """int64 [B], the document that each row is in at the end."""
        return self.document_BT[:, -1]

    @property
    def length(self) -> int:
        """T."""
        return self.document_BT.shape[1]


class Step(NamedTuple):
    """What a layer gives for one piece."""

    hidden: Tensor
    """[B, T, D] its output."""
    memory: LayerMemory
    """Its memory after the piece, shifted if that filled the window."""
    cache: KeysValues | None
    """Keys and values of the filled slots of that memory, if they are kept."""
    loss: Tensor | None
    """Scalar auxiliary loss, if the piece filled the window."""
    weights: Tensor | None
    """[B, H, T, S] attention weights, if they were asked for."""
