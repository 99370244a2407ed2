"""labml-nn: the annotated implementation, with the memory of its experiment.

The experiment itself no longer imports (it asks for ``SimpleStateModule``), so its few lines about memory,
``CompressedMemory`` and ``merge_compress_memory``, are written anew here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from labml import tracker  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

if not hasattr(tracker, "debug"):  # called in each attention, and gone from every version that pip finds
    vars(tracker)["debug"] = lambda *arguments: None

from labml_nn.transformers.compressive import (  # pyright: ignore[reportMissingImports]
    AttentionReconstructionLoss,
    CompressiveTransformer,
    CompressiveTransformerLayer,
    Conv1dCompression,
)
from labml_nn.transformers.feed_forward import FeedForward  # pyright: ignore[reportMissingImports]
from labml_nn.transformers.xl import RelativeMultiHeadAttention  # pyright: ignore[reportMissingImports]

from peers.base import Arm, Read, Size, sample


class Slots(NamedTuple):
    """Of each layer, [slots, B, D], oldest first."""

    recent: list[Tensor]
    compressed: list[Tensor]


class Labml(Arm):
    """As its experiment builds it, with the sizes of all arms."""

    def build(self, size: Size) -> nn.Module:
        layer = CompressiveTransformerLayer(
            d_model=size.dim,
            self_attn=RelativeMultiHeadAttention(size.heads, size.dim, 0.0),
            feed_forward=FeedForward(size.dim, 4 * size.dim, 0.0),
            dropout_prob=0.0,
            compress=Conv1dCompression(size.rate, size.dim),
        )
        self.transformer = CompressiveTransformer(layer, size.layers)
        self.reconstruction = AttentionReconstructionLoss(self.transformer.layers)
        self.embedding = nn.Embedding(size.vocab, size.dim)
        self.head = nn.Linear(size.dim, size.vocab)
        return nn.ModuleList([self.embedding, self.transformer, self.head])

    def read(self, tokens_BT: Tensor, state: Slots | None, resets: Tensor | None = None) -> Read:
        state = state or Slots([], [])
        length = tokens_BT.shape[1]
        seen = sum(len(tier[0]) for tier in state if tier)
        mask = torch.ones(length, seen + length).tril(diagonal=seen)[:, :, None]
        hidden, new = self.transformer(self.embedding(tokens_BT.T), state.recent, state.compressed, mask)
        state, old = self._merge(state, new)
        auxiliary = self.reconstruction(new, old) if old and self.model.training else 0.0
        return Read(self.head(hidden).transpose(0, 1), state, auxiliary)

    @torch.no_grad()
    def _merge(self, state: Slots, new: list[Tensor]) -> tuple[Slots, list[Tensor]]:
        """The next memory, and what was compressed into it."""
        s = self.size
        recent = [torch.cat(pair) for pair in zip(state.recent, new, strict=True)] if state.recent else new
        count = max(-(-(len(recent[0]) - s.memory) // s.rate), 0) * s.rate
        if not count:
            return Slots(recent, state.compressed), []
        old = [x[:count] for x in recent]
        slots: list[Any] = [layer.compress(x) for layer, x in zip(self.transformer.layers, old, strict=True)]
        if state.compressed:
            slots = [torch.cat(pair) for pair in zip(state.compressed, slots, strict=True)]
        return Slots([x[count:] for x in recent], [x[-s.compressed :] for x in slots]), old

    @torch.no_grad()
    def generate(self, prompt_BT: Tensor, length: int) -> None:
        """Token by token through the memory, as its experiment does."""
        self.model.eval()
        *before, last = prompt_BT.split(self.length, dim=1)
        state = None
        for piece in before:
            state = self.read(piece, state).state
        for _ in range(length):
            logits, state, _ = self.read(last, state)
            last = sample(logits[:, -1])[:, None]
