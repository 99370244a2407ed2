"""compressive-transformer-pytorch: the best-known implementation."""

from __future__ import annotations

from typing import Any

from compressive_transformer_pytorch import (  # pyright: ignore[reportMissingImports]
    AutoregressiveWrapper,
    CompressiveTransformer,
)
from torch import Tensor, nn

from peers.base import Arm, Read, Size


class Lucidrains(Arm):
    """As its README builds it, with the sizes of all arms.

    Its keys and values stop learning with the first training step that compresses, for it sets
    ``requires_grad`` of their weights to False; this is left as it is.
    """

    def build(self, size: Size) -> nn.Module:
        return CompressiveTransformer(
            num_tokens=size.vocab,
            dim=size.dim,
            depth=size.layers,
            heads=size.heads,
            seq_len=size.segment,
            mem_len=size.memory,
            cmem_len=size.compressed,
            cmem_ratio=size.rate,
        )

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        logits, memory, auxiliary = self.model(tokens_BT, memories=state)
        return Read(logits, memory, auxiliary.sum())  # it is [1], or a scalar at first

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        AutoregressiveWrapper(self.model).generate(prompt_BT, length)
