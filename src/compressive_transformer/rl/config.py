"""Settings of an agent's run, beside the code that obeys them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from compressive_transformer.errors import UsageError
from compressive_transformer.model import ModelConfig
from compressive_transformer.precision import Device
from compressive_transformer.train.config import SaveConfig
from compressive_transformer.train.sinks import SinkName

CoreName = Literal["compressive", "transformer-xl", "lstm", "none"]


@dataclass(frozen=True, kw_only=True)
class LearnConfig:
    """How an agent learns from a window."""

    algorithm: Literal["ppo", "vtrace"] = "ppo"
    """ppo, for small budgets; vtrace: IMPALA's actor-critic, which has epochs 1 and trace 1 there."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    final_lr: float = 1.0
    """Where it ends with the budget, as a fraction of it; 1 keeps it fixed, as in IMPALA."""
    entropy: float = 0.02
    """Weight of the policy's entropy, which keeps the agent trying."""
    discount: float = 0.99
    """What a reward is worth one step earlier."""
    beyond_limits: bool = True
    """Value episodes that a limit of time ends as if they went on; IMPALA values them 0 from there."""
    trace: float = 0.95
    """Lambda: how far the returns of a window are trusted beside the values."""
    value: float = 0.5
    """Weight of the loss of the values."""
    reward_scale: float = 1.0
    """By which rewards are multiplied before anything is learnt from them."""
    epochs: int = 4
    """Passes over each window; with vtrace 1, or more to make up for few environments."""
    minibatches: int = 2
    """Updates in each pass, of some environments each."""
    ratio: float = 0.2
    """How far ppo lets the probability of an action leave the old one in a window."""
    clip: float = 0.5
    """Largest gradient norm, for the agent and for the compressors apart."""

    def __post_init__(self):
        if self.algorithm not in ("ppo", "vtrace"):
            raise UsageError(f"algorithm {self.algorithm!r} is unknown; use ppo or vtrace")
        for name in ("lr", "reward_scale", "ratio", "clip"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use more than 0")
        for name in ("entropy", "value", "final_lr"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 0 or more")
        for name in ("discount", "trace"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 0 to 1")
        for name in ("epochs", "minibatches"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 1 or more")


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """A whole run of an agent."""

    env: str = "NonMatch-v0"
    """The paper's task on a grid, NonMatch-v0, or in rooms, NonMatch3D-v0; or any that gymnasium has."""
    env_options: tuple[str, ...] = ()
    """Its own settings, such as delay=30 objects=6 of NonMatch-v0, or agent_view_size=3 of MiniGrid."""
    core: CoreName = "compressive"
    """What remembers: compressive; transformer-xl (as many slots, none compressed); lstm; none."""
    out: str | None = None
    """Run folder to make; runs/rl-DATE-TIME if not given."""
    minutes: float | None = None
    """Budget in minutes of training on this machine."""
    steps: int | None = None
    """Budget in steps of all environments together."""
    seed: int = 0
    """Decides weights, episodes and actions."""
    envs: int = 32
    """Environments side by side."""
    workers: int = 0
    """Processes that gymnasium's environments are shared out among; 0 runs them in this one."""
    window: int = 32
    """Steps of each environment from one update to the next."""
    device: Device = "auto"
    """Where to act and learn; auto takes a GPU if there is one."""
    sinks: tuple[SinkName, ...] = ()
    """Where metrics also go: tensorboard, trackio, wandb."""
    save: SaveConfig = field(default_factory=SaveConfig)
    """When the run is saved, and which checkpoints stay."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The shape of the core; an LSTM takes dim and num_layers of it."""
    learn: LearnConfig = field(default_factory=LearnConfig)
    """How the agent learns."""

    def __post_init__(self):
        if self.minutes is not None and self.steps is not None:
            raise UsageError("minutes and steps are both budgets; give one of them")
        for name in ("minutes", "steps"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UsageError(f"{name} {value} is not allowed; use more than 0")
        for name in ("envs", "window"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} {getattr(self, name)} is not allowed; use 1 or more")
        if self.envs % self.learn.minibatches:
            raise UsageError(
                f"envs {self.envs} can't be divided into {self.learn.minibatches} minibatches; use a multiple"
            )
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed {self.seed} is not allowed; use 0 or more, and less than 2^31")

    def core_config(self) -> ModelConfig:
        """The shape of the core that is asked for."""
        m = self.model
        if self.core != "transformer-xl":
            return m
        recent = tuple(memory + compressed for memory, compressed in m.layer_sizes())
        return replace(m, memory=recent, compressed_memory=0)
