"""An agent: what it sees becomes features, a core remembers, two heads act and judge.

Beside the observation it gets its last action and reward, as IMPALA's.

Shape legend: T steps of a window, B environments, A actions (or numbers in an action), D width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from compressive_transformer.errors import UsageError
from compressive_transformer.model import ModelConfig
from compressive_transformer.rl.config import CoreName
from compressive_transformer.rl.core import CompressiveCore, Core, LSTMCore, NoMemoryCore
from compressive_transformer.rl.envs import Spaces

SYMBOL_DIM = 16
SYMBOL_SIDE = 16
"""Grids up to this side are symbols; larger ones are pixels."""


class Inputs(NamedTuple):
    """What an agent is given, of one step [B, ...] or of a window [T, B, ...]."""

    seen: Tensor
    """float32, or uint8 [..., height, width, channels]."""
    action: Tensor
    """The last one: int64, or float32 [..., A]."""
    reward: Tensor
    """float32, the last one."""
    resets: Tensor
    """bool, whether an episode begins here: then the last action and reward count for nothing."""


class Decision(NamedTuple):
    """What the heads say."""

    policy: Tensor
    """[..., A] logits of actions, or means of the numbers in an action."""
    values: Tensor
    """[...]: scaled rewards to come."""


class Agent(nn.Module):
    """Encoder, core and heads.

    Args:
        spaces: of the environment.
        core: which.
        config: the shape of the core.
        reward_scale: by which the last reward is multiplied.
    """

    def __init__(self, spaces: Spaces, core: CoreName, config: ModelConfig, *, reward_scale: float = 1.0):
        super().__init__()
        self.spaces, self.reward_scale = spaces, reward_scale
        self.num_actions = spaces.num_actions or len(spaces.low)
        self.encoder = _encoder(spaces, config.dim)
        input_dim = config.dim + self.num_actions + 1
        self.core: Core
        if core in ("compressive", "transformer-xl"):
            self.core = CompressiveCore(input_dim, config)
        elif core == "lstm":
            self.core = LSTMCore(input_dim, config.dim, config.num_layers)
        else:
            self.core = NoMemoryCore(input_dim, config.dim)
        self.policy, self.value = nn.Linear(config.dim, self.num_actions), nn.Linear(config.dim, 1)
        nn.init.normal_(self.policy.weight, std=0.01 * config.dim**-0.5)  # to begin with, all are tried
        nn.init.zeros_(self.policy.bias)
        self.log_std = None if spaces.discrete else nn.Parameter(torch.zeros(self.num_actions))

    def features(self, inputs: Inputs) -> Tensor:
        """[..., F] what the core reads."""
        known = ~inputs.resets[..., None]
        if self.spaces.discrete:
            action = one_hot(inputs.action, self.num_actions).to(torch.float32)
        else:
            action = inputs.action
        reward = (inputs.reward * self.reward_scale)[..., None]
        return torch.cat([self.encoder(inputs.seen), action * known, reward * known], dim=-1)

    def decide(self, features: Tensor) -> Decision:
        """What the heads say of the core's features [..., D]."""
        return Decision(self.policy(features), self.value(features)[..., 0])

    @torch.no_grad()
    def act(self, inputs: Inputs, state: Any) -> tuple[Decision, Any]:
        """One step of each environment; see ``Core.step``."""
        features, state = self.core.step(self.features(inputs), state, inputs.resets)
        return self.decide(features), state

    def learn(self, inputs: Inputs, state: Any) -> tuple[Decision, Tensor]:
        """A window, and the loss of the compressors; see ``Core.unroll``."""
        unrolled = self.core.unroll(self.features(inputs), state, inputs.resets)
        return self.decide(unrolled.features), unrolled.compression_loss

    def sample(self, policy: Tensor, random: torch.Generator, *, greedy: bool = False) -> Tensor:
        """Actions [...], or [..., A], drawn from the policy, or its likeliest."""
        if self.log_std is not None:
            noise = torch.randn(policy.shape, generator=random, device=policy.device)
            return policy if greedy else policy + self.log_std.exp() * noise
        if greedy:
            return policy.argmax(dim=-1)
        # Of exponential clocks that tick at these rates, which is first?
        clocks = torch.empty_like(policy).exponential_(generator=random)
        return (policy.softmax(dim=-1) / clocks).argmax(dim=-1)

    def log_probs(self, policy: Tensor, actions: Tensor) -> Tensor:
        """Of actions under the policy [...]."""
        if self.log_std is None:
            return policy.log_softmax(dim=-1).gather(-1, actions[..., None])[..., 0]
        away = (actions - policy) * (-self.log_std).exp()
        return -(away.square() / 2 + self.log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, policy: Tensor) -> Tensor:
        """Of the policy [...], in nats."""
        if self.log_std is None:
            logs = policy.log_softmax(dim=-1)
            return -(logs.exp() * logs).sum(dim=-1)
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum().expand(policy.shape[:-1])


def _encoder(spaces: Spaces, dim: int) -> nn.Module:
    if not spaces.symbols:
        return nn.Sequential(nn.Linear(spaces.observation_shape[0], dim), nn.ReLU())
    if max(spaces.observation_shape[:2]) <= SYMBOL_SIDE:
        return Symbols(spaces.observation_shape, dim)
    return Pixels(spaces.observation_shape, dim)


class Symbols(nn.Module):
    """A grid of symbols, such as MiniGrid's: each has a vector, those of a cell are added up.

    Args:
        shape: height, width, channels.
        dim: of what comes out.
    """

    def __init__(self, shape: tuple[int, ...], dim: int):
        super().__init__()
        height, width, channels = shape
        self.table = nn.Embedding(256 * channels, SYMBOL_DIM)
        self.map = nn.Linear(height * width * SYMBOL_DIM, dim)
        self.offset: Tensor
        self.register_buffer("offset", 256 * torch.arange(channels), persistent=False)

    def forward(self, seen: Tensor) -> Tensor:
        """uint8 [..., height, width, channels] to [..., dim]."""
        cells = self.table(seen.long() + self.offset).sum(dim=-2)
        return self.map(cells.flatten(-3)).relu()


class Pixels(nn.Module):
    """A picture through two convolutions, as the smaller of IMPALA's networks.

    Args:
        shape: height, width, channels.
        dim: of what comes out.
    """

    def __init__(self, shape: tuple[int, ...], dim: int):
        super().__init__()
        height, width, channels = shape
        if min(height, width) < 20:
            raise UsageError(f"pictures of {height} x {width} pixels are too small; use at least 20 x 20")
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU()
        )
        with torch.no_grad():
            size = self.convolutions(torch.zeros(1, channels, height, width)).numel()
        self.map = nn.Linear(size, dim)

    def forward(self, seen: Tensor) -> Tensor:
        """uint8 [..., height, width, channels] to [..., dim]."""
        flat = seen.flatten(0, -4).movedim(-1, 1) / 255
        return self.map(self.convolutions(flat).flatten(1)).relu().unflatten(0, seen.shape[:-3])
