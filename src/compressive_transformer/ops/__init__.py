"""Relative attention as pure functions: ``reference`` is the truth, ``rotated`` the fast path equal to it."""

from compressive_transformer.ops.attention import PositionTable, reference, rotated, sinusoid

__all__ = ["PositionTable", "reference", "rotated", "sinusoid"]
