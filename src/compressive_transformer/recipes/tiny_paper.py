"""The paper's choices, in the size of ``tiny``: what ours are to be compared with."""

from dataclasses import replace

from compressive_transformer.recipes.tiny import tiny
from compressive_transformer.train import OptimizerConfig, TrainConfig


def tiny_paper() -> TrainConfig:
    """As tiny, with the paper's layers and Adam: post-norm, ReLU, no norm of queries and keys."""
    config = tiny()
    model = replace(
        config.model, norm="post", final_norm=False, activation="relu", qk_norm=False, position_features=None
    )
    optimizer = OptimizerConfig(name="adamw", lr=3e-4, weight_decay=0.0, clip=0.1, schedule="cosine")
    return replace(config, model=model, optimizer=optimizer)
