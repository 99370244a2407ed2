"""Dropout, of each number or of whole features.

Shape legend: B batch, T time, D features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Dropout(nn.Module):
    """Drops units in training.

    Args:
        p: probability.
        variational: draw one mask for all tokens of a row, instead of one for each (Gal & Ghahramani 2016).
    """

    def __init__(self, p: float, variational: bool = False):
        super().__init__()
        self.p, self.variational = p, variational

    def forward(self, x_BTD: Tensor) -> Tensor:
        if not self.training or not self.p:
            return x_BTD
        if not self.variational:
            return F.dropout(x_BTD, self.p)
        return x_BTD * F.dropout(x_BTD.new_ones(x_BTD.shape[0], 1, x_BTD.shape[2]), self.p)
