"""Reinforcement learning: the memory of an agent, the paper's task, and two ways to learn it."""

from compressive_transformer.rl.core import CompressiveCore, Core, LSTMCore, NoMemoryCore, Unrolled

__all__ = ["CompressiveCore", "Core", "LSTMCore", "NoMemoryCore", "Unrolled"]
