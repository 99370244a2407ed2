"""Optimisers, the learning rate, and clipping of the two objectives apart."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from compressive_transformer.train.config import OptimizerConfig
from compressive_transformer.train.muon import Muon
from compressive_transformer.train.sharded import whole


class Optimizer:
    """AdamW, or Muon for the matrices of the layers and AdamW for the rest, under one learning-rate factor.

    Compressors and decoders stay on AdamW: their kernels are convolutions, and their objective is another.
    """

    def __init__(self, model: nn.Module, config: OptimizerConfig):
        self.config = config
        self.main, self.compression = split_objectives(model)
        matrices = layer_matrices(model) if config.name == "muon" else []
        taken = {id(p) for p in matrices}
        rest = [p for p in self.main if id(p) not in taken] + self.compression
        biases = {id(p) for name, p in model.named_parameters() if p.ndim < 2 or name.endswith("bias")}
        groups = [
            {"params": [p for p in rest if id(p) not in biases], "weight_decay": config.weight_decay},
            {"params": [p for p in rest if id(p) in biases], "weight_decay": 0.0},
        ]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)
        ]
        if matrices:
            self.parts.append(Muon(matrices, lr=config.muon_lr))
        self.names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        self.peaks = [[group["lr"] for group in part.param_groups] for part in self.parts]
        self.factor = 1.0
        """Of all learning rates."""

    def set_factor(self, factor: float) -> None:
        """Sets every learning rate to a fraction of its peak."""
        self.factor = factor
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor

    def clip(self) -> tuple[Tensor, Tensor]:
        """Clips the gradients. Returns the norms of model and compressors before."""
        norms = (
            nn.utils.clip_grad_norm_(parameters, self.config.clip)
            for parameters in (self.main, self.compression)
        )
        main, compression = (whole(x) for x in norms)
        return main, compression

    def step(self) -> None:
        """Updates the weights by their gradients."""
        for part in self.parts:
            part.step()

    def clear(self) -> None:
        """Forgets the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Moments and counts by name; empty before the first step."""
        return {
            f"{self.names[p]}.{key}": value
            for part in self.parts
            for p, values in part.state.items()
            for key, value in values.items()
        }

    def allocate(self, known: Collection[str] | None = None) -> dict[str, Tensor]:
        """Makes room for a state that is then read into ``state()``, by a step that changes nothing.

        Args:
            known: names that the state has; weights of none of these had no gradient yet. All if not given.
        """
        self.set_factor(0.0)
        for p in self.names:
            p.grad = torch.zeros_like(p)
        self.step()
        self.clear()
        if known is not None:
            self._forget_but(known)
        return self.state()

    def _forget_but(self, known: Collection[str]) -> None:
        for part in self.parts:
            for p, values in list(part.state.items()):
                if not any(f"{self.names[p]}.{key}" in known for key in values):
                    del part.state[p]


def split_objectives(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights that learn from the main loss, and those of compressors and decoders.

    Without an auxiliary loss (training over several segments) the compressors learn from the main loss too;
    they are still clipped apart.
    """
    main, compression = [], []
    for name, parameter in model.named_parameters():
        (compression if ".compressor." in name or ".auto_encoding." in name else main).append(parameter)
    return main, compression


def layer_matrices(model: Any) -> list[nn.Parameter]:
    """Weights of the linear maps inside the layers, those of compressors not among them."""
    return [p for layer in model.core.layers for p in layer.matrices()]


def learning_rate_factor(progress: float, step: int, config: OptimizerConfig) -> float:
    """Linear warmup, then a fall that reaches its end with the budget.

    Args:
        progress: part of the budget that is spent, 0 to 1.
        step: steps done.
    """
    # A small budget must reach its peak too: the warmup never takes more than a fifth of it.
    warmup = min(max((step + 1) / config.warmup_steps, progress / 0.2), 1.0) if config.warmup_steps else 1.0
    left = 1 - min(progress, 1.0)
    height = left if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))
    return warmup * (config.final_lr + (1 - config.final_lr) * height)
