"""One layer: attention over its three memory tiers, a feed-forward, and the shift of its memory.

Shape legend: B batch, T queries in this piece of a segment, N segment, M recent, C compressed, S keys,
R rows that leave, n slots that they become, D model width, H heads, K head width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from compressive_transformer.losses import AutoEncoding, attention_reconstruction
from compressive_transformer.memory import (
    EMPTY,
    KeysValues,
    LayerMemory,
    append,
    drop_stale,
    held_rows,
)
from compressive_transformer.nn.attention import Places, RelativeAttention, places
from compressive_transformer.nn.compression import Compressor
from compressive_transformer.nn.dropout import Dropout
from compressive_transformer.nn.feed_forward import FeedForward
from compressive_transformer.nn.gate import Gate
from compressive_transformer.nn.piece import Piece, Step

NormPlacement = Literal["pre", "post"]
LossName = Literal["attention", "auto-encoding", "none"]


class Reading(NamedTuple):
    """What a layer knows after attending, before its memory shifts."""

    memory: LayerMemory
    """With the piece in the window, and no slot of an earlier document."""
    keys_values: KeysValues
    """Of all slots filled so far."""
    queries: Tensor
    """[B, H, T, K] scaled queries without biases."""


class CompressiveLayer(nn.Module):
    """A Transformer layer with a compressed memory (paper Algorithm 1), or without (Transformer-XL).

    Args:
        attention: the attention, which owns the projections that the auxiliary loss reads with.
        feed_forward: the second sub-layer.
        compressor: f_c, or None for a Transformer-XL layer.
        loss: what teaches the compressor, if it has weights; ``none`` leaves it to back-propagation through
            time over several segments.
        norm: ``pre`` (as the authors' code: memory holds normed activations) or ``post`` (as the paper).
        dropout: on each sub-layer's output.
        gated: join each sub-layer's output to the stream by a ``Gate`` instead of a sum.
        mask_empty: hide empty slots; the authors attend to their zeros.
    """

    def __init__(
        self,
        dim: int,
        attention: RelativeAttention,
        feed_forward: FeedForward,
        compressor: Compressor | None,
        *,
        loss: LossName = "attention",
        norm: NormPlacement = "pre",
        dropout: Dropout | None = None,
        gated: bool = False,
        mask_empty: bool = True,
    ):
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.compressor = compressor
        learns = compressor is not None and any(True for _ in compressor.parameters())
        self.loss: LossName = loss if learns else "none"
        self.auto_encoding = AutoEncoding(dim, self.rate) if self.loss == "auto-encoding" else None
        self.dropout = dropout or Dropout(0.0)
        self.attention_gate, self.feed_forward_gate = (Gate(dim) if gated else None for _ in range(2))
        self.pre_norm, self.mask_empty = norm == "pre", mask_empty

    @property
    def rate(self) -> int:
        """Compression rate c; 1 where nothing is compressed."""
        return self.compressor.rate if self.compressor else 1

    def forward(
        self,
        hidden: Tensor,
        memory: LayerMemory,
        cache: KeysValues | None,
        piece: Piece,
        visible_BTS: Tensor,
        with_loss: bool,
    ) -> Step:
        """Reads T tokens of one segment, and shifts the memory if they finish it.

        All that has to do with numbers is in this one call, so that it can be sharded, compiled or computed
        again as a whole.

        Args:
            hidden: [B, T, D].
            memory: of this layer.
            cache: keys and values of its filled slots, or None; if given, they are moved along.
            piece: documents and place of the tokens.
            visible_BTS: of ``visible``.
            with_loss: whether to compute the auxiliary loss.
        """
        N = memory.sizes[2]
        fill, segments = piece.phase % N, piece.phase // N
        x_BTD = self.attention_norm(hidden) if self.pre_norm else hidden
        # Slots by themselves, before the piece is among them, for in training no gradient is owed to them.
        old = self.cache(memory, fill) if cache is None else cache
        new = self.attention.keys_values(x_BTD)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(old, new, strict=True))
        memory = append(memory, x_BTD.to(memory.window.dtype), piece.document_BT, fill)
        queries = self.attention.queries(x_BTD)
        at = self._places(memory, fill, x_BTD)
        with_weights = piece.with_weights or memory.usage is not None
        attended, weights = self.attention(queries, keys, values, at, visible_BTS, with_weights)
        if memory.usage is not None:
            memory = memory._replace(usage=self._count_usage(memory, weights, visible_BTS))
        if piece.resets:
            memory = drop_stale(memory, piece.last_document)
        loss, kept = None, None if cache is None else KeysValues(keys, values)
        if fill + piece.length == N:
            reading = Reading(memory, KeysValues(keys, values), queries)
            memory, kept, loss = self._shift(
                reading, piece.last_document, segments, with_loss=with_loss, with_cache=cache is not None
            )
        return Step(
            self.finish(hidden, attended), memory, kept, loss, weights if piece.with_weights else None
        )

    def _shift(
        self, reading: Reading, document_B: Tensor, segments: int, *, with_loss: bool, with_cache: bool
    ) -> tuple[LayerMemory, KeysValues | None, Tensor]:
        """Moves a full window into the recent memory and compresses what falls out of it.

        Args:
            reading: of the piece that filled the window.
            document_B: the document that each row is in at the end of the segment.
            segments: number of this segment, from 0, modulo the rate.
            with_loss: whether to compute the auxiliary loss.
            with_cache: whether to move keys and values along.

        Returns:
            The memory with an empty window, the moved keys and values, and the auxiliary loss (scalar).
        """
        memory = reading.memory
        C, M, N = memory.sizes
        rate = self.rate if C else 1  # with nothing to compress into, nothing waits for a whole group
        held, held_next = (held_rows(s, M, N, rate) for s in (segments, segments + 1))
        first, last = M - held, M + N - held_next  # the rows of [recent ; window] that leave
        rows = torch.cat([memory.recent, memory.window], dim=1)
        document = memory.document[:, C:]
        valid = self._valid(document[:, first:last])
        old = rows[:, first:last].detach().where(valid[..., None], 0)
        usage = None if memory.usage is None else memory.usage[:, first:last]
        new, new_document = (
            self._compress(old, valid, usage, document_B) if C else (old[:, :0], document[:, :0])
        )
        loss = new.new_zeros(())
        if with_loss and C and self.loss != "none":
            loss = self._auxiliary_loss(reading, (first, last), old, valid, new, new_document, document_B)
        cache = (
            self._shift_cache(reading.keys_values, new, C, C + last, gap=M - held_next)
            if with_cache
            else None
        )
        shifted = LayerMemory(
            # Copies: views would keep what left allocated, and compiled code looks at strides.
            _fit(torch.cat([memory.compressed, new], dim=1), C).clone(memory_format=torch.contiguous_format),
            _fit(rows[:, last:], M).clone(memory_format=torch.contiguous_format),
            torch.zeros_like(memory.window),
            torch.cat(
                [
                    _fit(torch.cat([memory.document[:, :C], new_document], dim=1), C, EMPTY),
                    _fit(document[:, last:], M, EMPTY),
                    torch.full_like(document[:, :N], EMPTY),
                ],
                dim=1,
            ),
            None if memory.usage is None else _fit(_fit(memory.usage[:, last:], M), M + N, right=True),
        )
        return shifted, cache, loss

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """The output, when all has been attended to."""
        hidden = _join(hidden, self.dropout(attended), self.attention_gate)
        if not self.pre_norm:
            hidden = self.attention_norm(hidden)
        y = self.feed_forward_norm(hidden) if self.pre_norm else hidden
        hidden = _join(hidden, self.dropout(self.feed_forward(y)), self.feed_forward_gate)
        return hidden if self.pre_norm else self.feed_forward_norm(hidden)

    def matrices(self) -> list[nn.Parameter]:
        """Weights of the linear maps inside attention and feed-forward."""
        parts = (self.attention, self.feed_forward)
        named = (pair for part in parts for pair in part.named_parameters())
        return [p for name, p in named if p.ndim == 2 and name.endswith("weight")]

    def visible(self, memory: LayerMemory, piece: Piece) -> Tensor:
        """bool [B, T, S]: a query sees the slots of its own document that are not after it.

        Compiled with the softmax it would be computed anew for each head and in each pass over the logits.
        """
        C, M, N = memory.sizes
        start = C + M + piece.phase % N
        key_BS = torch.cat([memory.document[:, :start], piece.document_BT], dim=1)
        place = torch.arange(key_BS.shape[1], device=key_BS.device)
        visible = self.sees(key_BS[:, None], piece.document_BT[:, :, None])
        return visible & (place <= place[start:, None])

    def sees(self, slot_document: Tensor, document: Tensor) -> Tensor:
        """bool: whether a query of a document sees a slot before it."""
        seen = slot_document == document
        return seen if self.mask_empty else seen | (slot_document == EMPTY)

    def _valid(self, document: Tensor) -> Tensor:
        return document != EMPTY if self.mask_empty else torch.ones_like(document, dtype=torch.bool)

    def _places(self, memory: LayerMemory, fill: int, x_BTD: Tensor) -> Places:
        dtype = torch.promote_types(memory.window.dtype, torch.float32)
        scheme, learnt = self.attention.scheme, self.attention.learnt
        length, device = x_BTD.shape[1], x_BTD.device
        return places(scheme, memory.sizes, learnt, fill, length, self.rate, device, dtype)

    def cache(self, memory: LayerMemory, fill: int) -> KeysValues:
        """Keys and values of the filled slots."""
        return KeysValues(*self.attention.keys_values(self.slots(memory, fill)))

    def slots(self, memory: LayerMemory, fill: int) -> Tensor:
        """[B, C + M + fill, D] the filled slots, zero where empty, whatever stands there."""
        slots = torch.cat([memory.compressed, memory.recent, memory.window[:, :fill]], dim=1)
        if not self.mask_empty:
            return slots
        return slots.where(memory.document[:, : slots.shape[1], None] != EMPTY, 0)

    def _count_usage(self, memory: LayerMemory, weights: Tensor, visible_BTS: Tensor) -> Tensor:
        assert memory.usage is not None
        C = memory.sizes[0]
        received = weights.detach().mean(dim=1).sum(dim=1).to(memory.usage.dtype)
        count = visible_BTS.sum(dim=1).to(memory.usage.dtype)
        added = torch.stack([received, count], dim=-1)[:, C:]
        return memory.usage + _fit(added, memory.usage.shape[1], right=True)

    def _compress(self, old: Tensor, valid: Tensor, usage: Tensor | None, document_B: Tensor):
        """The new slots [B, n, D] and their documents [B, n]."""
        assert self.compressor is not None
        mean_usage = None if usage is None else usage[..., 0] / usage[..., 1].clamp(min=1)
        new, new_valid = self.compressor(old, valid, mean_usage)
        return new.to(old.dtype), document_B[:, None].where(new_valid, EMPTY)

    def _auxiliary_loss(
        self,
        reading: Reading,
        leaving: tuple[int, int],
        old: Tensor,
        valid: Tensor,
        new: Tensor,
        new_document: Tensor,
        document_B: Tensor,
    ) -> Tensor:
        """Loss of one layer. Its queries are those of the whole segment, whatever pieces it was read in."""
        if self.auto_encoding is not None:
            return self.auto_encoding(old, new, valid)
        (C, M, N), (first, last) = reading.memory.sizes, leaving
        counts = (reading.memory.document[:, C + M :] == document_B[:, None]) | (not self.mask_empty)
        queries = reading.queries
        if queries.shape[2] < N:  # the segment came in pieces
            with torch.no_grad():
                queries = self.attention.queries(reading.memory.window.where(counts[..., None], 0))
        target = [x[:, :, C + first : C + last] for x in reading.keys_values]
        # Rows that leave straight from the window (M < N) can't be read by the queries that stood there too.
        late = max(last - M, 0)
        return attention_reconstruction(
            queries[:, :, late:],
            (target[0], target[1]),
            self.attention.constant_keys_values(new),
            valid,
            self._valid(new_document),
            counts[:, late:],
        )

    def _shift_cache(self, cache: KeysValues, new: Tensor, C: int, start: int, gap: int) -> KeysValues:
        made = self.attention.keys_values(new)

        def move(x: Tensor, x_new: Tensor) -> Tensor:
            compressed = torch.cat([x[:, :, :C], x_new], dim=2)
            compressed = compressed[:, :, compressed.shape[2] - C :]  # not [-C:], which keeps all if C is 0
            pad = x.new_zeros(*x.shape[:2], gap, x.shape[3])
            return torch.cat([compressed, pad, x[:, :, start:]], dim=2)

        return KeysValues(move(cache.keys, made[0]), move(cache.values, made[1]))


def _join(hidden: Tensor, made: Tensor, gate: Gate | None) -> Tensor:
    """The stream after a sub-layer."""
    return hidden + made if gate is None else gate(hidden, made)


def _fit(x: Tensor, size: int, fill: float = 0, right: bool = False) -> Tensor:
    """Cuts [B, n, ...] to its newest ``size`` rows, or pads it: on the old side, or on the right."""
    missing = size - x.shape[1]
    if missing <= 0:
        return x[:, x.shape[1] - size :]
    pad = x.new_full((x.shape[0], missing, *x.shape[2:]), fill)
    return torch.cat([x, pad] if right else [pad, x], dim=1)
