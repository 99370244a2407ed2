"""This library, with several settings."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from compressive_transformer import LanguageModel, Memory, ModelConfig
from compressive_transformer.generate import generate
from compressive_transformer.train import OptimizerConfig, TrainConfig
from compressive_transformer.train.compiled import compile_layers, is_compiled
from compressive_transformer.train.optimizer import Optimizer
from peers.base import Arm, Learner, Read, Size


class Ours(Arm):
    """The Compressive Transformer, as it comes."""

    rates = (3e-3,)
    batches = (32,)
    """As in the recipes, which were chosen by runs scored on other books (docs/performance.md)."""
    optimizer: ClassVar[OptimizerConfig] = OptimizerConfig()
    cached = True
    """Whether keys and values of the memory are kept from one call to the next while scoring."""

    @classmethod
    def config(cls, size: Size) -> ModelConfig:
        """The sizes, positions as in the recipes, and nothing but defaults otherwise."""
        return ModelConfig(
            dim=size.dim,
            num_layers=size.layers,
            num_heads=size.heads,
            segment=size.segment,
            compression_rate=size.rate,
            position_features=64,
            **cls.settings(size),
        )

    @classmethod
    def settings(cls, size: Size) -> dict[str, Any]:
        """What one arm of ours has otherwise than another."""
        return {"memory": size.memory, "compressed_memory": size.compressed}

    def build(self, size: Size) -> nn.Module:
        self.language_model = LanguageModel(self.config(size), vocab_size=size.vocab)
        return self.language_model

    compiled = False
    """Whether the layers are compiled from the first step on, however long training takes."""

    def compile_for(self, minutes: float) -> None:
        """Compiles the layers if training for so long does."""
        if not self.compiled and is_compiled(TrainConfig(minutes=minutes), torch.device("cpu")):
            compile_layers(list(self.language_model.core.layers))

    def start(self, rows: int) -> Memory:
        empty = self.language_model.init_memory(rows)
        return self.language_model.core.with_cache(empty) if self.cached else empty

    def read(self, tokens_BT: Tensor, state: Memory | None, resets: Tensor | None = None) -> Read:
        output = self.language_model(tokens_BT, state, resets)
        return Read(output.logits, output.memory.detach(), output.compression_loss)

    def generate(self, prompt_BT: Tensor, length: int) -> None:
        for _ in generate(self.language_model, prompt_BT, length=length):
            pass

    def learner(self, rate: float) -> Learner:
        usual = self.optimizer
        return Optimizer(
            self.language_model,
            OptimizerConfig(name=usual.name, lr=rate, muon_lr=usual.muon_lr * rate / usual.lr),
        )


class OursCompiled(Ours):
    """Compiled, as training does by itself if it lasts 4 minutes or more."""

    compiled = True

    def build(self, size: Size) -> nn.Module:
        model = super().build(size)
        compile_layers(list(self.language_model.core.layers))
        return model


class OursAdamW(Ours):
    """The same, with the optimiser of the peers."""

    rates = Arm.rates
    optimizer = OptimizerConfig(name="adamw")


class OursTransformerXL(Ours):
    """Transformer-XL: as many slots, none compressed; attention costs as much."""

    @classmethod
    def settings(cls, size: Size) -> dict[str, Any]:
        return {"memory": size.slots, "compressed_memory": 0}


class OursWindow(Ours):
    """A memory of one segment."""

    @classmethod
    def settings(cls, size: Size) -> dict[str, Any]:
        return {"memory": size.segment, "compressed_memory": 0}


class OursNoMemory(Ours):
    """No memory: each segment begins anew."""

    carries = False

    @classmethod
    def settings(cls, size: Size) -> dict[str, Any]:
        return {"memory": 0, "compressed_memory": 0}


class OursMeanPooled(Ours):
    """As the baseline of the Expire-Span paper (facebookresearch/transformer-sequential, ``--compress``):
    mean pooling, norms behind, ReLU, AdamW, and nothing to learn about compression.

    Theirs slides its window token by token; ours moves by segments.
    """

    rates = Arm.rates
    optimizer = OptimizerConfig(name="adamw")

    @classmethod
    def settings(cls, size: Size) -> dict[str, Any]:
        return super().settings(size) | {
            "compressor": "mean",
            "compression_loss": "none",
            "norm": "post",
            "final_norm": False,
            "activation": "relu",
        }
