"""Training: settings, optimisers, the loop."""

from compressive_transformer.train.config import OptimizerConfig, TrainConfig
from compressive_transformer.train.loop import Trainer
from compressive_transformer.train.progress import Progress

__all__ = ["OptimizerConfig", "Progress", "TrainConfig", "Trainer"]
