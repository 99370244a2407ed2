"""Sound sample by sample (paper section 5.6), of any folder of recordings."""

from __future__ import annotations

from compressive_transformer.model import ModelConfig
from compressive_transformer.recipes.paper import Size
from compressive_transformer.recipes.tiny import tiny
from compressive_transformer.train import OptimizerConfig, TrainConfig


def speech(size: Size = "small") -> TrainConfig:
    """Recordings as 8-bit µ-law. Small: 8,000 samples a second, 3 minutes. Paper: 24,000, 20 layers."""
    if size == "small":
        model = ModelConfig(
            dim=128,
            num_layers=4,
            segment=256,
            memory=256,
            compressed_memory=256,
            position_features=64,
            sample_bits=8,
        )
        return TrainConfig(
            minutes=3, tokenizer="mulaw-8000", lanes=16, model=model, optimizer=tiny().optimizer
        )
    # The width is not in the paper: it makes the 40 million parameters that are.
    model = ModelConfig(
        dim=344,
        num_layers=20,
        num_heads=8,
        segment=768,
        memory=768,
        compressed_memory=768,
        compression_rate=4,
        norm="post",
        final_norm=False,
        activation="relu",
        qk_norm=False,
        sample_bits=8,
    )
    optimizer = OptimizerConfig(
        name="adamw",
        lr=3e-4,
        beta2=0.999,
        weight_decay=0.0,
        warmup_steps=4_000,
        schedule="cosine",
        final_lr=1e-6 / 3e-4,
        clip=0.1,
    )
    return TrainConfig(
        steps=400_000, tokenizer="mulaw-24000", lanes=32, unroll=5, model=model, optimizer=optimizer
    )


def wavenet(size: Size = "small") -> TrainConfig:
    """The baseline: dilated convolutions in place of attention, on the same batches, as many parameters."""
    usual = speech(size)
    cycle = tuple(2**n for n in range(10))
    dim, layers = (96, 20) if size == "small" else (472, 30)
    model = ModelConfig(
        core="wavenet",
        dim=dim,
        num_heads=1,
        num_layers=layers,
        segment=usual.model.segment,
        memory=cycle * (layers // 10),
        compressed_memory=0,
        sample_bits=8,
    )
    settings = {name: getattr(usual, name) for name in ("minutes", "steps", "tokenizer", "lanes", "unroll")}
    return TrainConfig(**settings, model=model, optimizer=usual.optimizer)
