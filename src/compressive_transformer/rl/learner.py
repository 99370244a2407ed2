"""Learning from windows: V-trace's actor-critic, or PPO.

Shape legend: T steps of a window, B environments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from compressive_transformer.rl.actor import Window
from compressive_transformer.rl.agent import Agent, Inputs
from compressive_transformer.rl.config import LearnConfig
from compressive_transformer.rl.returns import Targets, generalized_advantages, vtrace
from compressive_transformer.train import OptimizerConfig
from compressive_transformer.train.faults import Diverged
from compressive_transformer.train.optimizer import Optimizer
from compressive_transformer.train.parallel import World


class Losses(NamedTuple):
    """What an update was made of; means over the updates of a window."""

    policy: float
    value: float
    entropy: float
    """In nats."""
    compression: float
    ratio_error: float
    """Largest |log ratio| before the first update: rounding alone, or acting is not learning."""
    gradient_norm: float
    compression_gradient_norm: float


@dataclass
class Spread:
    """Standard deviation of advantages, over many windows.

    Where rewards are rare, most windows have none. If each were scaled by its own, these would teach as much
    as the others, and what they teach is noise: the policy settles on anything.
    """

    variance: float = 0.0
    windows: int = 0

    FADE = 0.01

    def add(self, variance: float) -> float:
        """Takes a window into account, and gives the deviation."""
        self.windows += 1
        self.variance += max(self.FADE, 1 / self.windows) * (variance - self.variance)
        return math.sqrt(self.variance) + 1e-8


class Learner:
    """Updates an agent by windows.

    Args:
        agent: who learns.
        config: how.
        world: the processes that learn together, each from windows of its own; alone by default.
    """

    def __init__(self, agent: Agent, config: LearnConfig, world: World | None = None):
        self.agent, self.config = agent, config
        self.world = world or World(device=next(agent.parameters()).device)
        self.spread = Spread()
        self.optimizer = Optimizer(
            agent,
            OptimizerConfig(
                name="adamw", lr=config.lr, beta2=0.999, weight_decay=0.0, warmup_steps=0, clip=config.clip
            ),
        )

    def update(self, window: Window, done: float, random: torch.Generator) -> Losses:
        """All passes over one window; what is told of it are means over the processes.

        Args:
            window: as it was acted.
            done: part of the budget that is spent, which decides the learning rate.
            random: decides which environments make a minibatch.

        Raises:
            Diverged: loss or gradient are no numbers; the weights are as they were before that update.
        """
        c = self.config
        self.agent.train()
        self.optimizer.set_factor(1 + (c.final_lr - 1) * min(done, 1.0))
        targets = self._targets(window) if c.algorithm == "ppo" else None
        found: list[tuple[float, ...]] = []
        for rows in self._minibatches(window.rewards.shape[1], random):
            part = _rows(window, rows)
            known = None if targets is None else Targets(*(x[:, rows] for x in targets))
            found.append(self._update(part, known))
        policy, value, entropy, compression, _, main, auxiliary = (
            sum(x) / len(found) for x in zip(*found, strict=True)
        )
        return Losses(policy, value, entropy, compression, found[0][4], main, auxiliary)

    def _minibatches(self, num_envs: int, random: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.config.epochs):
            order = torch.randperm(num_envs, generator=random)
            yield from order.chunk(self.config.minibatches)

    def _targets(self, window: Window) -> Targets:
        """Of PPO, by the values from when it was acted; advantages of variance 1 over many windows."""
        c = self.config
        rewards, discounts = self._scaled(window)
        found = generalized_advantages(rewards, discounts, window.values, window.bootstrap, trace=c.trace)
        exact = found.advantages.double()
        mean, square = self.world.gather([float(exact.mean()), float(exact.square().mean())]).mean(0).tolist()
        spread = self.spread.add(max(square - mean**2, 0.0))
        return found._replace(advantages=(found.advantages - mean) / spread)

    def _scaled(self, window: Window) -> tuple[Tensor, Tensor]:
        """Rewards and discounts of a window.

        What a limit of time cut off is worth the value before its last step, for what is seen after it is
        not kept: nearly the same, unless that step was rewarded.
        """
        c = self.config
        rewards = window.rewards * c.reward_scale
        if c.beyond_limits:
            rewards = rewards + c.discount * window.values * window.limited
        return rewards, c.discount * (~window.ended).to(torch.float32)

    def _update(self, window: Window, targets: Targets | None) -> tuple[float, ...]:
        c = self.config
        decision, compression = self.agent.learn(window.inputs, window.state)
        log_ratios = self.agent.log_probs(decision.policy, window.actions) - window.log_probs
        entropy = self.agent.entropy(decision.policy).mean()
        if targets is None:
            rewards, discounts = self._scaled(window)
            targets = vtrace(
                log_ratios.detach(),
                rewards,
                discounts,
                decision.values.detach(),
                window.bootstrap,
                trace=c.trace,
            )
            # The gradient of the log probability, which the ratio has no part in but through the target.
            policy = -(targets.advantages * log_ratios).mean()
        else:
            ratios, limited = log_ratios.exp(), log_ratios.exp().clamp(1 - c.ratio, 1 + c.ratio)
            policy = -torch.minimum(ratios * targets.advantages, limited * targets.advantages).mean()
        value = (targets.values - decision.values).square().mean() / 2
        (policy + c.value * value - c.entropy * entropy + compression).backward()
        self.world.average([p.grad for p in self.agent.parameters() if p.grad is not None])
        main, auxiliary = (float(norm) for norm in self.optimizer.clip())
        own = torch.stack([policy, value, entropy, compression, log_ratios.abs().max()]).tolist()
        found = self.world.gather(own)
        parts = [*found[:, :-1].mean(0).tolist(), float(found[:, -1].max())]
        if not all(map(math.isfinite, (*parts, main, auxiliary))):
            self.optimizer.clear()
            raise Diverged("the loss or its gradient is no number; use a lower --learn.lr", suspect_from=0)
        self.optimizer.step()
        self.optimizer.clear()
        return (*parts, main, auxiliary)


def _rows(window: Window, rows: Tensor) -> Window:
    """Some environments of a window."""
    rows = rows.to(window.rewards.device)
    names = ("actions", "log_probs", "values", "rewards", "ended", "limited")
    return window._replace(
        inputs=Inputs._make(x[:, rows] for x in window.inputs),
        **{name: getattr(window, name)[:, rows] for name in names},
        bootstrap=window.bootstrap[rows],
        state=window.state.reorder(rows),
    )
