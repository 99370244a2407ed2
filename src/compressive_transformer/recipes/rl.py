"""Agents whose memory is the Compressive Transformer (paper section 5.7)."""

from __future__ import annotations

from compressive_transformer.model import ModelConfig
from compressive_transformer.recipes.paper import Size
from compressive_transformer.rl.config import AgentConfig, LearnConfig


def rl(size: Size = "small") -> AgentConfig:
    """Small: six objects, PPO, 5 minutes on a CPU. Paper: 36 objects, V-trace, the paper's fixed rates."""
    if size == "small":
        model = ModelConfig(
            dim=128,
            num_layers=1,
            segment=32,
            memory=32,
            compressed_memory=32,
            position_features=32,
        )
        learn = LearnConfig(reward_scale=0.3, final_lr=0.1, entropy=0.015)
        # A wrong choice costs nothing: where it costs 10, an agent that can't tell soon stops choosing.
        options = ("objects=6", "rewards=[1, 10, 0]")
        return AgentConfig(env_options=options, minutes=5, model=model, learn=learn)
    # Depth and width are not in the paper; the window is IMPALA's, and so is all that is not said.
    model = ModelConfig(
        dim=256,
        num_layers=4,
        segment=100,
        memory=64,
        compressed_memory=64,
        gating="gru",
    )
    learn = LearnConfig(
        algorithm="vtrace",
        lr=1.5e-5,
        entropy=2e-3,
        beyond_limits=False,
        trace=1.0,
        reward_scale=1.0,
        epochs=1,
        minibatches=1,
        clip=40.0,
    )
    return AgentConfig(
        env_options=("observe=view",), steps=1_000_000_000, window=100, model=model, learn=learn
    )
