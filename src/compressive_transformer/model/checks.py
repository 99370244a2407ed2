"""Refusals, each in one line: what was given, what is allowed, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory

if TYPE_CHECKING:
    from compressive_transformer.model.core import CompressiveTransformer


def check_inputs(inputs: Tensor, width: int) -> None:
    """Refuses inputs that are not [B, T, width] features."""
    if inputs.ndim != 3 or inputs.shape[2] != width or inputs.shape[1] < 1:
        raise UsageError(f"inputs have shape {tuple(inputs.shape)}; give [batch, time >= 1, {width}]")


def check_memory(model: CompressiveTransformer, memory: Memory, batch_size: int) -> None:
    """Refuses a memory of another model, batch, dtype or device."""
    remedy = "make one by model.init_memory(batch_size) and pass on the memory that each call returns"
    weight, c = next(model.layers[0].parameters()), model.config
    if len(memory.layers) != c.num_layers:
        raise UsageError(f"memory has {len(memory.layers)} layers, the model {c.num_layers}; {remedy}")
    if memory.batch_size != batch_size:
        raise UsageError(f"memory has {memory.batch_size} rows, the inputs {batch_size}; {remedy}")
    for layer, m in zip(model.layers, memory.layers, strict=True):
        (C, _, N), dim = m.sizes, m.window.shape[2]
        if (N, dim) != (c.segment, c.dim):
            raise UsageError(
                f"memory is of a model with segment {N} and dim {dim}, this one has {c.segment} and {c.dim}; "
                + remedy
            )
        tracks_usage = c.compressor == "most-used" and C > 0
        if (C > 0 and layer.compressor is None) or (m.usage is not None) != tracks_usage:
            raise UsageError(f"memory is of a model with another compressor; {remedy}")
        if m.window.dtype != weight.dtype or m.window.device != weight.device:
            raise UsageError(
                f"memory is {m.window.dtype} on {m.window.device}, the model {weight.dtype} on "
                f"{weight.device}; use memory.to(device, dtype)"
            )
    if memory.cache is not None and torch.is_grad_enabled():
        raise UsageError(
            "memory keeps keys and values, which give no gradient; use torch.no_grad() for reading, or "
            "memory._replace(cache=None) for training"
        )


def check_resets(resets: Tensor | None, shape: torch.Size, faithful: bool) -> None:
    """Refuses resets that are not bool [B, T], or that the model can't honour."""
    if resets is None:
        return
    if resets.dtype != torch.bool or resets.shape != shape:
        raise UsageError(
            f"resets are {resets.dtype} of shape {tuple(resets.shape)}; give bool {tuple(shape)}"
        )
    if faithful:
        raise UsageError(
            "resets inside a call need empty slots to be hidden, and a faithful model attends to them; use "
            "memory.reset(rows) between calls"
        )
