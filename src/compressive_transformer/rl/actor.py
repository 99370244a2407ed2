"""Acting: an agent in its environments, window after window.

Shape legend: T steps of a window, B environments.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from compressive_transformer.memory import Memory
from compressive_transformer.rl.agent import Agent, Inputs
from compressive_transformer.rl.envs import Environments


class Window(NamedTuple):
    """T steps of B environments, and the state of the core before them: one, whatever T is."""

    inputs: Inputs
    """[T, B, ...]."""
    actions: Tensor
    """[T, B], or float32 [T, B, A]: what was done then."""
    log_probs: Tensor
    """[T, B] of these actions."""
    values: Tensor
    """[T, B] of what was seen."""
    rewards: Tensor
    """float32 [T, B] that came of it, not scaled."""
    ended: Tensor
    """bool [T, B], whether an episode ended with it."""
    limited: Tensor
    """bool [T, B], whether it ended by a limit of time alone."""
    bootstrap: Tensor
    """[B] value of what is seen after the window."""
    state: Any
    """Of the core before the window."""


class Episode(NamedTuple):
    """How an episode went."""

    row: int
    """Of the environment."""
    total: float
    """Sum of its rewards."""
    length: int
    success: float
    """0 to 1; NaN if nothing was tried."""


@dataclass
class Clock:
    """Seconds spent on each part of a run."""

    environment: float = 0.0
    acting: float = 0.0
    learning: float = 0.0

    def shares(self) -> dict[str, float]:
        """Of the whole."""
        total = max(self.environment + self.acting + self.learning, 1e-9)
        return {name: value / total for name, value in vars(self).items()}


@dataclass
class Actor:
    """Carries an agent's state from window to window.

    Args:
        agent: who acts.
        envs: where.
        random: decides the actions.
        greedy: take the likeliest action.
    """

    agent: Agent
    envs: Environments
    random: torch.Generator
    greedy: bool = False
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self):
        self.state = self.agent.core.initial_state(self.envs.num_envs)
        self._begin()

    def _begin(self, at: int = 0) -> None:
        """New episodes; see ``Environments.reset``."""
        B, device = self.envs.num_envs, self.random.device
        action = torch.zeros(B, dtype=torch.int64, device=device)
        if not self.agent.spaces.discrete:
            action = torch.zeros(B, self.agent.num_actions, device=device)
        resets = torch.ones(B, dtype=torch.bool, device=device)
        seen = self._tensor(self.envs.reset(at))
        self.inputs = Inputs(seen, action, torch.zeros(B, device=device), resets)
        self.totals, self.lengths = np.zeros(B), np.zeros(B, np.int64)

    def window(self, length: int) -> tuple[Window, list[Episode]]:
        """Acts for a number of steps of each environment."""
        self.agent.eval()
        begun, inside = time.perf_counter(), self.clock.environment
        state, rows, episodes = self.agent.core.snapshot(self.state), [], []
        for _ in range(length):
            row, ended = self.step()
            rows.append(row)
            episodes += ended
        kept = self.agent.core.snapshot(self.state)
        values = self.agent.act(self.inputs, kept)[0].values
        inputs, *rest = zip(*rows, strict=True)
        inputs = Inputs._make(map(torch.stack, zip(*inputs, strict=True)))
        actions, log_probs, seen_values, rewards, ended, limited = map(torch.stack, rest)
        window = Window(inputs, actions, log_probs, seen_values, rewards, ended, limited, values, state)
        inside = self.clock.environment - inside
        self.clock.acting += time.perf_counter() - begun - inside
        return window, episodes

    def step(self) -> tuple[tuple[Any, ...], list[Episode]]:
        """One step: what a window keeps of it, and the episodes that came to their end."""
        inputs = self.inputs
        decision, self.state = self.agent.act(inputs, self.state)
        actions = self.agent.sample(decision.policy, self.random, greedy=self.greedy).detach()
        log_probs = self.agent.log_probs(decision.policy, actions).detach()
        begun = time.perf_counter()
        moment = self.envs.step(actions.cpu().numpy())
        self.clock.environment += time.perf_counter() - begun
        rewards, ended = self._tensor(moment.rewards), self._tensor(moment.ended)
        self.inputs = Inputs(self._tensor(moment.seen), actions, rewards, ended)
        self.totals += moment.rewards
        self.lengths += 1
        episodes = [
            Episode(int(i), float(self.totals[i]), int(self.lengths[i]), float(moment.success[i]))
            for i in np.flatnonzero(moment.ended & ~moment.lost)
        ]
        self.totals[moment.ended], self.lengths[moment.ended] = 0, 0
        limited = self._tensor(moment.limited)
        return (inputs, actions, log_probs, decision.values, rewards, ended, limited), episodes

    def _tensor(self, x: Any) -> Tensor:
        return torch.from_numpy(x).to(self.random.device)

    def tensors(self) -> dict[str, Tensor]:
        """What decides the next windows, but for the environments' own state."""
        found = {f"inputs.{name}": x for name, x in self.inputs._asdict().items()}
        kept = self.agent.core.snapshot(self.state)
        found |= {f"state.{name}": x for name, x in kept.tensors().items()}
        found |= {"totals": torch.from_numpy(self.totals), "lengths": torch.from_numpy(self.lengths)}
        return found | {"random": self.random.get_state()}

    @property
    def position(self) -> int:
        """Of the core's memory."""
        kept = self.agent.core.snapshot(self.state)
        return kept.position if isinstance(kept, Memory) else 0

    def load(self, tensors: dict[str, Tensor], position: int, *, at: int, same_episodes: bool) -> None:
        """Goes on where ``tensors`` were taken, at step ``at``, in the same episodes or in new ones."""
        device = self.random.device
        self.random.set_state(tensors["random"])
        state = {n.removeprefix("state."): x.to(device) for n, x in tensors.items() if n.startswith("state.")}
        self.state = self.agent.core.restored(state, position)
        if same_episodes:
            self.inputs = Inputs(*(tensors[f"inputs.{name}"].to(device) for name in Inputs._fields))
            self.totals, self.lengths = (tensors[name].numpy().copy() for name in ("totals", "lengths"))
        else:
            self._begin(at)
