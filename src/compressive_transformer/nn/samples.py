"""Samples of sound to vectors, and vectors to what sample follows.

Levels are numbered from the lowest to the highest, 2^bits of them; the token behind them opens a recording.

Shape legend: D model width, K components, V levels and the token that opens a recording.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

SHARPEST = -14.0
"""Least logarithm of a component's scale, in units of half the range: a 37th of a 16-bit level."""
WIDEST = 7.0
"""The greatest."""


class SampleEmbedding(nn.Module):
    """Vectors that are alike where samples are: sines of the level, and a table for what they leave.

    Of 16 bits the table is two, for the upper and the lower byte.

    Args:
        bits: 8 or 16.
        dim: D.
    """

    def __init__(self, bits: int, dim: int):
        super().__init__()
        self.levels = 2**bits
        self.upper = nn.Embedding(257, dim)
        self.lower = nn.Embedding(256, dim) if bits == 16 else None
        self.value = nn.Linear(2 * bits + 1, dim, bias=False)
        for table in (self.upper, self.lower):
            if table is not None:
                nn.init.normal_(table.weight, std=0.3)
        nn.init.normal_(self.value.weight, std=(bits + 1) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [...] to [..., D]."""
        inside = tokens < self.levels
        value = tokens.where(inside, 0).to(self.value.weight.dtype) / (self.levels - 1)
        # The fastest wave that makes sense has a period of four levels.
        bits = self.levels.bit_length() - 1
        angle = value[..., None] * math.pi * 2.0 ** torch.arange(bits, device=value.device)
        wave = torch.cat([2 * value[..., None] - 1, angle.sin(), angle.cos()], dim=-1)
        found = self.value(wave * inside[..., None])
        if self.lower is None:
            return found + self.upper(tokens)
        fine = self.lower(tokens % 256) * inside[..., None]
        return found + fine + self.upper((tokens // 256).clamp(max=256))


class LogisticHead(nn.Module):
    """A mixture of logistic distributions, rounded to levels (Salimans et al. 2017).

    A level has the probability of its range; the lowest and the highest have all that lies beyond. No
    probability is left for the token that opens a recording, so as a target it is ignored.

    Args:
        dim: D.
        bits: levels are 2^bits.
        components: K.
    """

    def __init__(self, dim: int, bits: int, components: int):
        super().__init__()
        self.levels = 2**bits
        self.raw = nn.Linear(dim, 3 * components)
        nn.init.normal_(self.raw.weight, std=0.3 * dim**-0.5)
        with torch.no_grad():  # narrow ones in the middle, where soft sounds are, and wide ones
            weight, mean, scale = self.raw.bias.view(3, components)
            weight.zero_()
            mean.zero_()
            scale.copy_(torch.linspace(-7.0, -1.0, components))

    def forward(self, features: Tensor) -> Tensor:
        """Log probabilities [..., V] of all levels, and -inf for the token behind them."""
        weight, mean, scale = self._components(features[..., None, :])
        level = torch.arange(self.levels, device=features.device)
        found = level.new_full((*features.shape[:-1], self.levels), -math.inf, dtype=mean.dtype)
        for k in range(mean.shape[-1]):  # one after the other, for the sake of memory
            inside = self._log_probability(level, mean[..., k], scale[..., k])
            found = torch.logaddexp(found, weight[..., k] + inside)
        return nn.functional.pad(found, (0, 1), value=-math.inf)

    def losses(self, features: Tensor, targets: Tensor) -> Tensor:
        """-log probability of each target in nats, in float32 at least; 0 where it is no level."""
        weight, mean, scale = self._components(features)
        known = (targets >= 0) & (targets < self.levels)
        inside = self._log_probability(targets.where(known, 0)[..., None], mean, scale)
        return -(weight + inside).logsumexp(-1).where(known, 0)

    def _components(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of weights, means and logarithms of scales, each [..., K]."""
        with torch.autocast(features.device.type, enabled=False):  # a level is far below bfloat16's steps
            weight, mean, scale = self.raw(features).unflatten(-1, (3, -1)).unbind(-2)
        return weight.log_softmax(-1), mean, scale.clamp(SHARPEST, WIDEST)

    def _log_probability(self, level: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """Of each level, under one component each."""
        half = 1 / (self.levels - 1)
        middle = 2 * half * level.to(mean.dtype) - 1 - mean
        sharpness = (-scale).exp()
        above, below = (middle + half) * sharpness, (middle - half) * sharpness
        # s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)) loses nothing where the two are nearly equal.
        between = logsigmoid(above) + logsigmoid(-below) + (-torch.expm1(-2 * half * sharpness)).log()
        between = torch.where(level == 0, logsigmoid(above), between)
        return torch.where(level == self.levels - 1, logsigmoid(-below), between)
