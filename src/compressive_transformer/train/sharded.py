"""Tensors that may be sharded (DTensor), whose module takes long to import where nothing is."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor


def is_sharded(x: Tensor) -> bool:
    """Whether it is a DTensor."""
    return hasattr(x, "full_tensor")


def whole(x: Tensor) -> Tensor:
    """A tensor, gathered if it is sharded; then all processes must call this."""
    return cast("Any", x).full_tensor() if is_sharded(x) else x


def local(x: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return cast("Any", x).to_local() if is_sharded(x) else x
