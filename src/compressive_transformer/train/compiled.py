"""Layers compiled by torch.compile: one graph, fewer passes over memory, the same numbers to rounding."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import KeysValues, LayerMemory
from compressive_transformer.nn.piece import Piece, Step
from compressive_transformer.train.config import TrainConfig

PAYS_AFTER = 4.0
"""Minutes of training from which on compiling, which takes up to one, is sooner or later won back. A WaveNet
has a graph for each dilation, and gained nothing where it was tried, in float32 on a CPU."""


def is_compiled(config: TrainConfig, device: torch.device) -> bool:
    """Whether layers are compiled on this device.

    What ``auto`` decides depends on settings and machine alone, so that a resumed run computes as before.

    Raises:
        UsageError: they should be, and there is nothing to compile with.
    """
    possible = device.type != "cpu" or _has_compiler()
    pays = (config.minutes or 0) >= PAYS_AFTER and config.model.core == "compressive"
    if config.compile == "on" and not possible:
        raise UsageError("compile on needs a C++ compiler, and none was found; install g++, or use off")
    return config.compile == "on" or (config.compile == "auto" and possible and pays)


def compile_layers(layers: list[Any]) -> None:
    """From now on the layers train compiled. Reading without gradients, in many shapes, stays as it was.

    There is a graph for each size of memory, and for each place of a segment in the groups that become slots.
    """
    limits: Any = torch._dynamo.config  # beyond its limits Dynamo raises
    graphs = sum(layer.rate for layer in layers)
    limits.recompile_limit = max(limits.recompile_limit, graphs)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, graphs)
    for layer in layers:
        eager = layer.forward
        layer.forward = functools.partial(
            _dispatch, eager, torch.compile(eager, dynamic=False, fullgraph=True)
        )


def _dispatch(
    eager: Callable[..., Step],
    compiled: Callable[..., Step],
    hidden: Tensor,
    memory: LayerMemory,
    cache: KeysValues | None,
    piece: Piece,
    *rest: Any,
) -> Step:
    if not torch.is_grad_enabled():
        return eager(hidden, memory, cache, piece, *rest)
    # One graph for pieces with and without resets: where memory is copied, looking for resets costs nothing.
    piece = piece._replace(resets=True, document_BT=piece.document_BT.contiguous())
    return compiled(hidden, memory, cache, piece, *rest)


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name)
