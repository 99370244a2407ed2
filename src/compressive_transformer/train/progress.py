"""Where a run stands, for people and for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compressive_transformer.memory import EMPTY, Memory
from compressive_transformer.train.parallel import World


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands; what the display shows and ``metrics.jsonl`` keeps."""

    step: int
    tokens: int
    seconds: float
    """Spent on training, in all sessions of the run together."""
    done: float
    """Part of the budget that is spent, 0 to 1."""
    bits_per_token: float
    """Mean training loss since the last record, over steps whose loss is a number."""
    compression_losses: tuple[float, ...]
    """Auxiliary loss of each layer, mean since the last record."""
    learning_rate: float
    gradient_norm: float
    """Of the model, before clipping."""
    compression_gradient_norm: float
    """Of compressors and decoders, before clipping."""
    memory_norms: dict[str, float]
    """Root mean square of what the filled slots of a tier hold: ``recent``, ``compressed``."""
    tokens_per_second: float


@dataclass
class Sums:
    """What is added up between two records."""

    compression: Tensor
    """[L], on the device."""
    steps: int = 0
    loss: float = 0.0

    @staticmethod
    def of_none(memory: Memory) -> Sums:
        """Nothing yet, of a model with this memory."""
        device = memory.document.device
        return Sums(compression=torch.zeros(len(memory.layers), dtype=torch.float64, device=device))


def memory_norms(memory: Memory, world: World) -> dict[str, float]:
    """Root mean square of what the filled slots of a tier hold, over all layers and processes."""
    found = {}
    for tier in ("recent", "compressed"):
        squares = count = 0.0
        for m in memory.layers:
            C, M, _ = m.sizes
            slots = m.document[:, :C] if tier == "compressed" else m.document[:, C : C + M]
            filled, x = slots != EMPTY, getattr(m, tier)
            squares += float(x.square().sum(dim=2).where(filled, 0).sum())
            count += float(filled.sum()) * x.shape[2]
        squares, count = world.gather([squares, count]).sum(dim=0).tolist()
        if count:
            found[tier] = math.sqrt(squares / count)
    return found
