"""Losses: of the next token, and the two auxiliary ones that teach the compressors (paper section 3.2).

An auxiliary loss gives gradient to the compressor (and the decoder) and to nothing else: letting it into the
main network "prevents learning" says the paper. The functions here detach what must not learn from them;
the gradient enters through the compressed slots alone.

Shape legend: B batch, T queries, R rows, n slots, H heads, K head width, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy in nats per token, in float32 at least."""
    logits = logits_BTV.flatten(0, -2)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), targets_BT.flatten())


def attention_reconstruction(
    q_BHTK: Tensor,
    old: tuple[Tensor, Tensor],
    new: tuple[Tensor, Tensor],
    old_valid_BR: Tensor,
    new_valid_Bn: Tensor,
    counts_BT: Tensor,
) -> Tensor:
    """Attention-reconstruction loss (Algorithm 2): reading the slots should give what reading the rows gave.

    Both readings are by content only, softmax over the rows or slots alone. As in the authors' code it is the
    mean square of the difference (the paper writes an unsquared norm, its figures fit the mean square).

    Args:
        q_BHTK: scaled queries without biases; constant.
        old: keys and values [B, H, R, K] of the rows; constant.
        new: keys and values [B, H, n, K] of their slots, made with constant projections.
        old_valid_BR, new_valid_Bn: bool, which rows and slots hold something.
        counts_BT: bool, the queries that had something of this to read.

    Returns:
        Scalar: mean over all queries, heads and features, to which queries that do not count give 0. So each
        query weighs the same, and the loss of a batch is the mean of the losses of its parts.
    """
    q_BHTK = q_BHTK.detach()
    target = _read(q_BHTK, old[0].detach(), old[1].detach(), old_valid_BR)
    exact = torch.promote_types(target.dtype, torch.float32)
    error = (
        (target.to(exact) - _read(q_BHTK, new[0], new[1], new_valid_Bn).to(exact)).square().mean(dim=(1, 3))
    )
    counts_BT = counts_BT & old_valid_BR.any(dim=1, keepdim=True)
    return error.where(counts_BT, 0).sum() / max(counts_BT.numel(), 1)


def _read(q_BHTK: Tensor, k_BHRK: Tensor, v_BHRK: Tensor, valid_BR: Tensor) -> Tensor:
    # The lowest finite number, not -inf: a row of the batch with nothing valid must not become NaN.
    logits = q_BHTK @ k_BHRK.transpose(-1, -2)
    logits = logits.masked_fill(~valid_BR[:, None, None], torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1) @ v_BHRK


class AutoEncoding(nn.Module):
    """Auto-encoding loss: a decoder, with weights of its own, rebuilds the rows from their slots.

    The decoder is a transposed convolution with kernel = stride = c and no bias, hence a linear map of each
    slot to c rows. Mean square over rows and features, to which rows that hold nothing give 0.
    """

    def __init__(self, dim: int, rate: int):
        super().__init__()
        self.decoder = nn.Linear(dim, rate * dim, bias=False)

    def forward(self, rows_BRD: Tensor, slots_BnD: Tensor, valid_BR: Tensor) -> Tensor:
        rebuilt = self.decoder(slots_BnD).reshape(rows_BRD.shape)
        error = (rebuilt - rows_BRD.detach()).square().mean(dim=2)
        return error.where(valid_BR, 0).sum() / max(valid_BR.numel(), 1)
