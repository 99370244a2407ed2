"""recurrent-memory-transformer-pytorch: memory tokens handed from segment to segment, and XL memories."""

from __future__ import annotations

from typing import Any

import torch
from recurrent_memory_transformer_pytorch import (  # pyright: ignore[reportMissingImports]
    RecurrentMemoryTransformer,
    RecurrentMemoryTransformerWrapper,
)
from torch import Tensor, nn

from peers.base import Arm, Read, Size


class RecurrentMemory(Arm):
    """Rotary positions; as many memory tokens as there are compressed slots elsewhere.

    Memory tokens learn from later segments alone, so rows have four. Its wrapper forgets the XL memories
    between segments unless it replays the backward pass; hence the loop over segments here.
    """

    segments = 4

    def build(self, size: Size) -> nn.Module:
        return RecurrentMemoryTransformer(
            num_tokens=size.vocab,
            dim=size.dim,
            depth=size.layers,
            heads=size.heads,
            dim_head=size.dim // size.heads,
            seq_len=size.segment,
            num_memory_tokens=size.compressed,
            xl_mem_len=min(size.memory, size.segment),
            abs_pos_emb=False,
            rotary_pos_emb=True,
        )

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        memory, recent = state or (None, None)
        logits = []
        for segment in tokens_BT.split(self.size.segment, dim=1):
            read, memory, recent = self.model(segment, memory, xl_memories=recent)
            logits.append(read)
        assert memory is not None
        return Read(torch.cat(logits, dim=1), (memory.detach(), recent))

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        wrapper = RecurrentMemoryTransformerWrapper(self.model)
        wrapper.generate(prompt_BT, length=prompt_BT.shape[1] + length)
