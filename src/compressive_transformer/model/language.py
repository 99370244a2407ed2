"""A language model around the core.

Shape legend: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.model.config import ModelConfig, configure
from compressive_transformer.model.core import CompressiveTransformer, Output
from compressive_transformer.model.wavenet import WaveNet
from compressive_transformer.nn.samples import LogisticHead, SampleEmbedding
from compressive_transformer.nn.vocabulary import AdaptiveEmbedding, AdaptiveHead, Head

CORES = {"compressive": CompressiveTransformer, "wavenet": WaveNet}


class LanguageModel(nn.Module):
    """Tokens in, logits of the next token out, around the same core.

    Args:
        config: the shape of the core.
        vocab_size: V.
        settings: fields of ``ModelConfig`` to change.
    """

    def __init__(self, config: ModelConfig | None = None, *, vocab_size: int = 257, **settings: Any):
        super().__init__()
        config = configure(config, settings)
        self.core = CORES[config.core](config)
        if vocab_size < 1:
            raise UsageError(f"vocab_size {vocab_size} is not allowed; use 1 or more")
        self.vocab_size = vocab_size
        dim, cutoffs = self.config.dim, self.config.adaptive_cutoffs
        self.embedding: nn.Embedding | AdaptiveEmbedding | SampleEmbedding
        self.head: Head | AdaptiveHead | LogisticHead
        if bits := config.sample_bits:
            if vocab_size != 2**bits + 1:
                raise UsageError(
                    f"sample_bits {bits} has {2**bits + 1:,} tokens, and the tokenizer {vocab_size:,}; "
                    f"use --tokenizer {'mulaw' if bits == 8 else 'linear'}-RATE, or another sample_bits"
                )
            self.embedding = SampleEmbedding(bits, dim)
            self.head = Head(dim, vocab_size) if bits == 8 else LogisticHead(dim, bits, config.mixtures)
        elif cutoffs:
            if cutoffs[-1] >= vocab_size:
                raise UsageError(
                    f"adaptive_cutoffs {cutoffs} is not allowed for a vocabulary of {vocab_size}; use less"
                )
            self.head = AdaptiveHead(dim, vocab_size, cutoffs, self.config.adaptive_factor)
            self.embedding = AdaptiveEmbedding(self.head)
        else:
            self.embedding = nn.Embedding(vocab_size, dim)
            self.head = Head(dim, vocab_size)
            nn.init.normal_(self.embedding.weight, std=1.0)
        if isinstance(self.head, Head):
            nn.init.normal_(self.head.weight, std=dim**-0.5)

    @property
    def config(self) -> ModelConfig:
        return self.core.config

    def init_memory(self, batch_size: int, **sizes: Any) -> Memory:
        """See ``CompressiveTransformer.init_memory``."""
        return self.core.init_memory(batch_size, **sizes)

    def forward(
        self,
        tokens: Tensor,
        memory: Memory | None = None,
        resets: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        with_attention: bool = False,
    ) -> Output:
        """Reads int64 tokens [B, T]; ``logits[:, t]`` are for the token after t. See the core's ``forward``.

        Args:
            tokens, memory, resets, with_attention: as for the core.
            targets: int64 [B, T], -1 where nothing is to be predicted; if given, the output has ``losses``
                instead of ``logits``.

        Raises:
            UsageError: as ``features``.
        """
        output = self.features(tokens, memory, resets, with_attention=with_attention)
        if targets is None:
            return output._replace(features=self.head(output.features))
        return output._replace(features=self.head.losses(output.features, targets))

    def features(
        self,
        tokens: Tensor,
        memory: Memory | None = None,
        resets: Tensor | None = None,
        *,
        with_attention: bool = False,
    ) -> Output:
        """Reads as ``forward``, and gives what the head makes logits of, [B, T, D]: where few are wanted.

        Raises:
            UsageError: a token is not in the vocabulary (checked on CPU; a GPU would have to wait for it).
        """
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.numel() < 1:
            raise UsageError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; give int64 [batch, time]"
            )
        if tokens.device.type == "cpu" and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise UsageError(
                f"token ids run from {int(tokens.min())} to {int(tokens.max())}; the vocabulary has "
                f"{self.vocab_size}: use ids from 0 to {self.vocab_size - 1}"
            )
        with self.arithmetic(tokens.device):
            inputs = self.core.dropout(self.embedding(tokens))
            return self.core(inputs, memory, resets, with_attention=with_attention)

    def arithmetic(self, device: torch.device) -> AbstractContextManager:
        """How the model reads: in float32 for 16-bit samples; bfloat16 is wrong by dozens of their levels."""
        if self.config.sample_bits != 16:
            return nullcontext()
        return torch.autocast(device.type, enabled=False)
