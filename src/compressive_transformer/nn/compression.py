"""Compression functions f_c: R rows that leave the recent memory become R / c slots (paper section 3.2).

All have one signature: ``forward(rows_BRD, valid_BR, usage_BR) -> (slots_BnD, valid_Bn)``. Rows that are not
valid (empty, or of an earlier document) count for nothing; a slot is valid if anything in it is.

Shape legend: B batch, R rows, n slots, c rate, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError


class Compressor(nn.Module):
    """What all compression functions share: the rate, and how many slots a number of rows makes."""

    def __init__(self, dim: int, rate: int):
        super().__init__()
        if rate < 1:
            raise UsageError(f"compression rate {rate} is not allowed; use 1 or more")
        self.rate = rate

    def num_slots(self, rows: int) -> int:
        """Slots made of ``rows`` rows, which must be a multiple of the rate."""
        if rows % self.rate:
            raise UsageError(f"{rows} rows cannot be compressed at rate {self.rate}; give a multiple of it")
        return rows // self.rate

    def groups(self, rows_BRD: Tensor) -> Tensor:
        """[B, n, c, ...] the rows of each slot."""
        B, R = rows_BRD.shape[:2]
        return rows_BRD.reshape(B, self.num_slots(R), self.rate, *rows_BRD.shape[2:])


class MeanPool(Compressor):
    """Mean of c rows."""

    def forward(self, rows_BRD: Tensor, valid_BR: Tensor, usage_BR: Tensor | None = None):
        valid = self.groups(valid_BR)[..., None]
        total = self.groups(rows_BRD).where(valid, 0).sum(dim=2)
        return total / valid.sum(dim=2).clamp(min=1), valid.any(dim=2)[..., 0]


class MaxPool(Compressor):
    """Maximum over c rows, feature by feature."""

    def forward(self, rows_BRD: Tensor, valid_BR: Tensor, usage_BR: Tensor | None = None):
        valid = self.groups(valid_BR)[..., None]
        slots = self.groups(rows_BRD).where(valid, -torch.inf).amax(dim=2)
        filled = valid.any(dim=2)
        return slots.where(filled, 0), filled[..., 0]


class Conv(Compressor):
    """1D convolution with kernel = stride = c, no bias: the paper's best.

    Since its windows do not overlap, it is one linear map of c rows laid end to end.
    """

    def __init__(self, dim: int, rate: int):
        super().__init__(dim, rate)
        self.kernel = nn.Linear(rate * dim, dim, bias=False)

    def forward(self, rows_BRD: Tensor, valid_BR: Tensor, usage_BR: Tensor | None = None):
        rows = rows_BRD.where(valid_BR[..., None], 0)
        return self.kernel(self.groups(rows).flatten(2)), self.groups(valid_BR).any(dim=2)


class DilatedConv(Conv):
    """A stack of 2-tap dilated convolutions with ReLU, then the strided convolution.

    The rows are padded by zeros on the old side, so that R rows give R / c slots. With ``padded=False`` the
    stack shortens them by the sum of the dilations, as the authors' code does (fewer slots).
    """

    def __init__(self, dim: int, rate: int, dilations: Sequence[int] = (1, 2, 4), padded: bool = True):
        super().__init__(dim, rate)
        if not dilations or min(dilations) < 1:
            raise UsageError(f"dilations {tuple(dilations)} are not allowed; give one or more numbers >= 1")
        self.dilations, self.padded = tuple(dilations), padded
        self.taps = nn.ModuleList(nn.Linear(2 * dim, dim, bias=False) for _ in dilations)

    def num_slots(self, rows: int) -> int:
        if self.padded:
            return super().num_slots(rows)
        return max((rows - sum(self.dilations)) // self.rate, 0)

    def forward(self, rows_BRD: Tensor, valid_BR: Tensor, usage_BR: Tensor | None = None):
        n = self.num_slots(rows_BRD.shape[1])
        rows = rows_BRD.where(valid_BR[..., None], 0)
        for dilation, taps in zip(self.dilations, self.taps, strict=True):
            if self.padded:
                rows = nn.functional.pad(rows, (0, 0, dilation, 0))
            rows = taps(torch.cat([rows[:, :-dilation], rows[:, dilation:]], dim=-1)).relu()
        # A row that the stack made of empty rows alone is zero again, for nothing here has a bias.
        slots = self.kernel(rows[:, : n * self.rate].unflatten(1, (n, self.rate)).flatten(2))
        start = 0 if self.padded else sum(self.dilations)
        valid = valid_BR[:, start : start + n * self.rate].unflatten(1, (n, self.rate)).any(dim=2)
        return slots, valid


class MostUsed(Compressor):
    """Keeps, of every R rows, the R / c that received most attention, in their order in time.

    Usage is attention averaged over the queries that could see the row, so that a row's age is no advantage.
    """

    def forward(self, rows_BRD: Tensor, valid_BR: Tensor, usage_BR: Tensor | None = None):
        if usage_BR is None:
            raise UsageError("the most-used compressor needs the usage of each row; use a memory made for it")
        n = self.num_slots(rows_BRD.shape[1])
        rank = usage_BR.where(valid_BR, -torch.inf)
        kept_Bn = rank.topk(n, dim=1).indices.sort(dim=1).values
        slots = rows_BRD.gather(1, kept_Bn[..., None].expand(-1, -1, rows_BRD.shape[-1]))
        valid = valid_BR.gather(1, kept_Bn)
        return slots.where(valid[..., None], 0), valid


COMPRESSORS: dict[str, type[Compressor]] = {
    "conv": Conv,
    "dilated": DilatedConv,
    "mean": MeanPool,
    "max": MaxPool,
    "most-used": MostUsed,
}
"""Every compression function by its name in ``ModelConfig.compressor``."""
