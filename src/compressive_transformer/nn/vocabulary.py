"""Tokens to vectors, and vectors to what follows: by plain tables, or adaptively where words are many.

An embedding maps int64 tokens [...] to [..., D]. A head maps features [..., D] to logits [..., V], and
features with targets to losses [...], for which an adaptive head does not need all logits.

Shape legend: D model width, V vocabulary, N tokens of a call, W width of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding

IGNORED = -1
"""The target of what is not to be predicted; its loss is 0."""


class Head(nn.Linear):
    """A linear map to logits."""

    def __init__(self, dim: int, vocab_size: int):
        super().__init__(dim, vocab_size, bias=False)

    def losses(self, features: Tensor, targets: Tensor) -> Tensor:
        """-log probability of each target in nats, in float32 at least."""
        logits = self(features).flatten(0, -2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        losses = cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="none")
        return losses.view(targets.shape)


class AdaptiveHead(nn.Module):
    """Adaptive softmax (Grave et al. 2017): rare words by their cluster first, in fewer dimensions.

    Unlike torch's own it takes exact logarithms under autocast too.

    Args:
        dim: D.
        vocab_size: V; tokens are in falling order of frequency.
        cutoffs: the first token of each cluster but the first.
        factor: each cluster is narrower by this than the one before it.
    """

    def __init__(self, dim: int, vocab_size: int, cutoffs: Sequence[int], factor: int):
        super().__init__()
        self.dim, self.starts, self.ends = dim, tuple(cutoffs), (*cutoffs[1:], vocab_size)
        self.first = nn.Linear(dim, cutoffs[0] + len(cutoffs), bias=False)
        self.tails = nn.ModuleList()
        for i, (low, high) in enumerate(zip(self.starts, self.ends, strict=True), start=1):
            width = max(dim // factor**i, 1)
            narrow, table = nn.Linear(dim, width, bias=False), nn.Linear(width, high - low, bias=False)
            self.tails.append(nn.Sequential(narrow, table))
        for weight in self.parameters():  # [rows, fan_in]
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities [..., V], which are logits as good as any."""
        first = log_softmax(self.first(features))
        words = [first[..., : self.starts[0]]]
        for i, tail in enumerate(self.tails, start=self.starts[0]):
            words.append(first[..., i : i + 1] + log_softmax(tail(features)))
        return torch.cat(words, dim=-1)

    def losses(self, features: Tensor, targets: Tensor) -> Tensor:
        """-log probability of each target in nats, in float32 at least. The work is that of its cluster."""
        features_ND, target_N = features.flatten(0, -2), targets.flatten()
        # Row of the first cluster that stands for the target: itself, or its cluster.
        cluster_N = torch.stack([target_N >= start for start in self.starts]).sum(0)
        row_N = target_N.clamp(min=0).where(cluster_N == 0, self.starts[0] - 1 + cluster_N)
        found_N = log_softmax(self.first(features_ND)).gather(1, row_N[:, None])[:, 0]
        for i, (low, tail) in enumerate(zip(self.starts, self.tails, strict=True), start=1):
            at = (cluster_N == i).nonzero()[:, 0]
            within = log_softmax(tail(features_ND[at])).gather(1, target_N[at, None] - low)
            found_N = found_N.index_add(0, at, within[:, 0])
        return -found_N.view(targets.shape).where(targets != IGNORED, 0)


def log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return logits.log_softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32))


class AdaptiveEmbedding(nn.Module):
    """Adaptive input representations (Baevski & Auli 2019), which share all weights with an adaptive head."""

    def __init__(self, head: AdaptiveHead):
        super().__init__()
        self._head = (head,)  # in a tuple, so that its weights belong to the head alone

    def forward(self, tokens: Tensor) -> Tensor:
        (head,) = self._head
        flat_N = tokens.flatten()
        first = head.starts[0]
        found_ND = embedding(flat_N.clamp(max=first - 1), head.first.weight[:first])
        for low, high, tail in zip(head.starts, head.ends, head.tails, strict=True):
            narrow, table = cast("nn.Sequential", tail).parameters()  # [W, D], [high - low, W]
            # Also for no token, so that every weight has a gradient in every step.
            at = ((flat_N >= low) & (flat_N < high)).nonzero()[:, 0]
            rows_nD = embedding(flat_N[at] - low, table) @ narrow
            found_ND = found_ND.index_copy(0, at, rows_nD.to(found_ND.dtype))
        return found_ND.view(*tokens.shape, -1) * head.dim**0.5
