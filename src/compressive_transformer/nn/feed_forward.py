"""The second sub-layer.

Shape legend: B batch, T time, D model width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from compressive_transformer.nn.dropout import Dropout


class SquaredReLU(nn.Module):
    """max(x, 0)^2 (So et al. 2021, Primer)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu().square()


ACTIVATIONS = {"relu2": SquaredReLU, "gelu": nn.GELU, "relu": nn.ReLU}
ActivationName = Literal["relu2", "gelu", "relu"]


class FeedForward(nn.Module):
    """Two linear maps with an activation between."""

    def __init__(self, dim: int, hidden: int, activation: str, dropout: Dropout):
        super().__init__()
        self.up = nn.Linear(dim, hidden)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = dropout
        self.down = nn.Linear(hidden, dim)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.activation(self.dropout(self.up(x_BTD))))
