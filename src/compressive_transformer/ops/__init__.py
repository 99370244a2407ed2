"""Relative attention as pure functions: ``reference`` is the truth, the others fast paths equal to it."""

from compressive_transformer.ops.attention import (
    Attention,
    PositionTable,
    for_gpu,
    fused,
    reference,
    rotated,
    shift_pays,
    shifted,
    sinusoid,
    tiled,
)

__all__ = [
    "Attention",
    "PositionTable",
    "for_gpu",
    "fused",
    "reference",
    "rotated",
    "shift_pays",
    "shifted",
    "sinusoid",
    "tiled",
]
