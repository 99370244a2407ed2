"""Relative attention as pure functions: ``reference`` is the truth, the others fast paths equal to it."""

from compressive_transformer.ops.attention import (
    PositionTable,
    for_gpu,
    fused,
    reference,
    rotated,
    sinusoid,
    tiled,
)

__all__ = ["PositionTable", "for_gpu", "fused", "reference", "rotated", "sinusoid", "tiled"]
