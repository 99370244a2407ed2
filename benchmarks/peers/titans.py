"""titans-pytorch: a neural memory that learns while it reads (memory as context)."""

from __future__ import annotations

from typing import Any

from titans_pytorch import MemoryAsContextTransformer, MemoryMLP  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn

from peers.base import Arm, Read, Size


class Titans(Arm):
    """The settings of its training script, with the sizes of all arms and a neural memory in every other
    layer; the neural memory learns once every eighth of a segment.

    Nothing is carried from one call to the next, so rows have four segments.
    """

    segments = 4
    carries = False

    def build(self, size: Size) -> nn.Module:
        head = size.dim // size.heads
        model = MemoryAsContextTransformer(
            num_tokens=size.vocab,
            dim=size.dim,
            depth=size.layers,
            heads=size.heads,
            dim_head=head,
            segment_len=size.segment,
            num_persist_mem_tokens=4,
            num_longterm_mem_tokens=4,
            neural_memory_layers=tuple(range(2, size.layers + 1, 2)),
            neural_memory_segment_len=max(size.segment // 8, 1),
            neural_memory_batch_size=size.segment,
            neural_mem_weight_residual=True,
            neural_memory_qkv_receives_diff_views=True,
            sliding_window_attn=True,
            neural_memory_model=MemoryMLP(dim=head, depth=2),
            neural_memory_kwargs={
                "dim_head": head,
                "heads": size.heads,
                "attn_pool_chunks": True,
                "qk_rmsnorm": True,
                "momentum": True,
                "momentum_order": 1,
                "default_step_transform_max_lr": 1e-1,
                "use_accelerated_scan": False,
                "per_parameter_lr_modulation": True,
                "spectral_norm_surprises": True,
            },
        )
        for weights in model.parameters():
            # The first weights of the memory are one head's, expanded to all: one place in storage, which an
            # optimiser that writes in place cannot update (the fused one crashes).
            weights.data = weights.data.contiguous()
        return model

    def read(self, tokens_BT: Tensor, state: Any, resets: Tensor | None = None) -> Read:
        return Read(self.model(tokens_BT), None)

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        total = prompt_BT.shape[1] + length
        self.model.sample(prompt_BT, total, use_cache=True, show_progress=False)  # pyright: ignore[reportCallIssue]
