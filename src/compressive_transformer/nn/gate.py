"""How a sub-layer's output joins the stream, other than by a sum.

Shape legend: D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

OPEN = 2.0
"""Bias b_g of Parisotto et al.: at first a gate lets little of the sub-layer through."""


class Gate(nn.Module):
    """A gate as in a GRU, which lets agents learn before their memory is worth anything (GTrXL).

    With x the stream and y the rectified output of the sub-layer (Parisotto et al. 2020, section 3.2):
    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b_g), h = tanh(W_h y + U_h (r * x)), and the
    stream goes on as (1 - z) * x + z * h.

    Args:
        dim: D.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.made = nn.Linear(dim, 3 * dim, bias=False)
        """W_r, W_z, W_h."""
        self.stream = nn.Linear(dim, 2 * dim, bias=False)
        """U_r, U_z."""
        self.chosen = nn.Linear(dim, dim, bias=False)
        """U_h."""
        self.bias = nn.Parameter(torch.full((dim,), OPEN))

    def forward(self, stream: Tensor, made: Tensor) -> Tensor:
        """The stream [..., D] after a sub-layer that made [..., D]."""
        made_r, made_z, made_h = self.made(made.relu()).chunk(3, dim=-1)
        stream_r, stream_z = self.stream(stream).chunk(2, dim=-1)
        update = (made_z + stream_z - self.bias).sigmoid()
        chosen = self.chosen((made_r + stream_r).sigmoid() * stream)
        return torch.lerp(stream, (made_h + chosen).tanh().to(stream.dtype), update.to(stream.dtype))
