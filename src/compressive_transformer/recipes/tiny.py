"""A model that learns something in minutes on a laptop."""

from compressive_transformer.model import ModelConfig
from compressive_transformer.train import OptimizerConfig, TrainConfig


def tiny() -> TrainConfig:
    """Text as bytes, 3 minutes: 4 layers of width 256, 128 + 128 + 64 slots at rate 4."""
    return TrainConfig(
        minutes=3,
        model=ModelConfig(position_features=64, compressed_memory=64),
        optimizer=OptimizerConfig(),
    )
