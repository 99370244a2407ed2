"""Relative attention as pure functions: ``reference`` is the truth, the others fast paths equal to it."""

from compressive_transformer.ops.attention import PositionTable, fused, reference, rotated, sinusoid

__all__ = ["PositionTable", "fused", "reference", "rotated", "sinusoid"]
