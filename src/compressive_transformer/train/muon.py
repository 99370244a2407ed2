"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024), many of one shape at once.

It computes what ``torch.optim.Muon`` does, which goes through one matrix after the other, in products too
small for several threads; here all matrices of one shape are one batch. It also works for sharded matrices.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from compressive_transformer.precision import has_bfloat16
from compressive_transformer.train.sharded import is_sharded, whole

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic polynomial that takes singular values to about 1."""


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; a learning rate for square matrices, larger for tall ones.

    Args:
        params: matrices; all sharded (DTensor) or none.
        lr: of square matrices; one of r rows and c columns has sqrt(max(1, r / c)) times that.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates the matrices by their gradients."""
        for group in self.param_groups:
            batches: dict[Any, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    # Sharded, one is a batch: no more than one should be whole at a time.
                    batches[p if is_sharded(p) else p.shape].append(p)
            for matrices in batches.values():
                self._update(matrices, group["lr"])

    def _update(self, matrices: list[Tensor], lr: float) -> None:
        """Updates matrices of one shape."""
        updates = []
        for p in matrices:
            assert p.grad is not None
            momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p.grad))
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            updates.append(whole(p.grad.lerp(momentum, MOMENTUM)))
        rows, columns = matrices[0].shape
        changes = orthogonalised(torch.stack(updates)).to(updates[0].dtype)
        changes *= -lr * max(1.0, rows / columns) ** 0.5
        for p, change in zip(matrices, changes, strict=True):
            p.add_(_shared_as(p, change))


def orthogonalised(x_nRC: Tensor) -> Tensor:
    """n matrices with singular values near 1, by Newton-Schulz.

    In bfloat16 where the processor is fast at that, else in float32.
    """
    x = x_nRC.bfloat16() if has_bfloat16(x_nRC.device.type) else x_nRC.float()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    # The short way is not for bfloat16, in which small singular values drown once they are squared.
    short = x.dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]
    x = _by_gram(x) if short else _by_steps(x)
    return x.mT if tall else x


def _by_steps(x: Tensor) -> Tensor:
    """(a + b G + c G^2) x, where G = x x^T, again and again."""
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor) -> Tensor:
    """The same, cheaper for a wide x: steps are taken by G, and x meets the product of their factors once.

    A step by the factor P makes of G = x x^T the G of the next one: (P x) (P x)^T = P G P.
    """

    def factor(gram: Tensor) -> Tensor:
        a, b, c = COEFFICIENTS
        made = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        made.diagonal(dim1=-2, dim2=-1).add_(a)
        return made

    gram = x @ x.mT
    step = product = factor(gram)
    for _ in range(STEPS - 1):
        gram = step @ gram @ step
        step = factor(gram)
        product = step @ product
    return product @ x


def _shared_as(p: Tensor, change: Tensor) -> Tensor:
    """A whole matrix, of which each process keeps its shard if ``p`` is sharded."""
    if not is_sharded(p):
        return change
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = p
    replicated = DTensor.from_local(change.contiguous(), sharded.device_mesh, [Replicate()])
    return replicated.redistribute(placements=sharded.placements)
