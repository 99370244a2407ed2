"""x-transformers, as Transformer-XL."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from x_transformers import (  # pyright: ignore[reportMissingImports]
    Decoder,
    TransformerWrapper,
    XLAutoregressiveWrapper,
)

from peers.base import Arm, Read, Size


class XTransformers(Arm):
    """Rotary positions, and a memory that makes attention cost as much as both tiers together."""

    def build(self, size: Size) -> nn.Module:
        return TransformerWrapper(
            num_tokens=size.vocab,
            max_seq_len=size.segment,
            max_mem_len=size.slots,
            attn_layers=Decoder(
                dim=size.dim,
                depth=size.layers,
                heads=size.heads,
                attn_dim_head=size.dim // size.heads,
                attn_flash=True,
                rotary_pos_emb=True,
            ),
        )

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        logits, memory = self.model(tokens_BT, mems=state, return_mems=True)
        return Read(logits, [x.detach() for x in memory])

    @torch.no_grad()
    def generate(self, prompt_BT: Tensor, length: int) -> None:
        XLAutoregressiveWrapper(self.model).generate(prompt_BT, length)
