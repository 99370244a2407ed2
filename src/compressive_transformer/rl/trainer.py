"""The loop: act for a window, learn from it, again; and all that it is between two windows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressive_transformer.checkpoint import load_tensors, tensor_shapes
from compressive_transformer.errors import Stopped, UsageError
from compressive_transformer.rl.actor import Actor, Episode
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.config import AgentConfig
from compressive_transformer.rl.envs import Environments
from compressive_transformer.rl.learner import Learner, Losses, Spread
from compressive_transformer.rl.nonmatch import NonMatch
from compressive_transformer.settings import from_plain
from compressive_transformer.train.faults import Signals
from compressive_transformer.train.loop import ECHO, LAUNCHER
from compressive_transformer.train.parallel import World
from compressive_transformer.train.state import as_tensor, below, from_tensor

LOG_EVERY = 10
"""Windows between two records."""


@dataclass(frozen=True, kw_only=True)
class AgentProgress:
    """Where a run stands; what the display shows and ``metrics.jsonl`` keeps."""

    step: int
    """Of all environments together."""
    seconds: float
    done: float
    """Part of the budget that is spent, 0 to 1."""
    episodes: int
    """That ended since the last record."""
    episode_return: float
    """Their mean; NaN if there were none."""
    episode_length: float
    success: float
    """Mean over those in which something was tried."""
    steps_per_second: float
    shares: dict[str, float]
    """Of the time: environment, acting, learning."""
    learning_rate: float
    losses: dict[str, float]
    """Means since the last record; see ``Losses``."""
    delay: int | None = None
    """That a curriculum of NonMatch-v0 has come to."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The numbers of a trainer that are the same in every process."""

    step: int
    seconds: float
    spread: Spread
    losses: tuple[tuple[float, ...], ...]
    """Of the windows since the last record."""
    processes: int


@dataclass(frozen=True, kw_only=True)
class OwnFacts:
    """What a process alone knows, besides tensors."""

    position: int
    """Of the memory."""
    environment: dict[str, Any] | None
    """What an environment tells of itself; None if it can't be saved."""
    waiting: tuple[tuple[float | None, ...], ...]
    """Episodes since the last record, with None for no number."""


class AgentTrainer:
    """Trains an agent until the budget is spent.

    Args:
        agent: on its device.
        envs: this process's, new; their episodes begin here.
        config: budget and how to learn.
        world: the processes; alone by default.
        on_record: is given an ``AgentProgress`` every few windows.
        on_pause: is given the trainer when it is time to save.
    """

    def __init__(
        self,
        agent: Agent,
        envs: Environments,
        config: AgentConfig,
        *,
        world: World | None = None,
        on_record: Callable[[AgentProgress], None] = lambda progress: None,
        on_pause: Callable[[AgentTrainer], None] = lambda trainer: None,
    ):
        if config.minutes is config.steps is None:
            raise UsageError("the run has no budget; give one of minutes, steps")
        device = next(agent.parameters()).device
        self.agent, self.envs, self.config = agent, envs, config
        self.world = world or World(device=device)
        random = torch.Generator(device).manual_seed(config.seed + self.world.rank)
        self.actor = Actor(agent, envs, random)
        self.learner = Learner(agent, config.learn, self.world)
        self.order = torch.Generator().manual_seed(config.seed)
        """Decides which environments make a minibatch."""
        self.on_record, self.on_pause = on_record, on_pause
        self.signals = Signals(grace=LAUNCHER if self.world.size > 1 else ECHO)
        self.step = 0
        self.seconds_before = 0.0
        self.episodes: list[Episode] = []
        self.losses: list[Losses] = []
        self._started = self._saved = self._since = time.monotonic()
        self._recorded = 0

    @property
    def seconds(self) -> float:
        """Wall-clock time spent on training."""
        return self.seconds_before + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Part of the budget that is spent."""
        c = self.config
        if c.minutes is not None:
            return self.seconds / 60 / c.minutes
        assert c.steps is not None
        return self.step / c.steps

    def run(self) -> None:
        """Trains to the end of the budget, from wherever the trainer stands.

        Raises:
            Stopped: a signal came; the window at hand was finished and ``on_pause`` called.
            Diverged: loss or gradient are no numbers.
        """
        self._started = self._saved = self._since = time.monotonic()
        self._recorded = self.step
        done, signal, _ = self._agree()
        while done < 1 and not signal:
            self.train_window(done)
            done, signal, save = self._agree()
            if len(self.losses) >= LOG_EVERY:
                self.record(done)
            if save and done < 1 and not signal:
                self._pause()
        if done < 1:
            self._pause()
            raise Stopped(f"stopped at step {self.step:,}")
        if self.losses:
            self.record(done)
        self._pause()

    def train_window(self, done: float) -> None:
        """Acts for a window, and learns from it.

        Args:
            done: part of the budget that is spent.
        """
        window, episodes = self.actor.window(self.config.window)
        self.episodes += episodes
        begun = time.perf_counter()
        self.losses.append(self.learner.update(window, done, self.order))
        self.actor.clock.learning += time.perf_counter() - begun
        self.step += self.config.window * self.config.envs

    def record(self, done: float) -> None:
        """Tells of what came since the last record, in all processes."""
        now, episodes = time.monotonic(), self.episodes
        tried = [e.success for e in episodes if math.isfinite(e.success)]
        own = [len(episodes), sum(e.total for e in episodes), sum(e.length for e in episodes)]
        counts = self.world.gather([*own, len(tried), sum(tried)]).sum(0).tolist()
        count, total, length, num_tried, success = counts
        progress = AgentProgress(
            step=self.step,
            seconds=self.seconds,
            done=min(done, 1.0),
            episodes=int(count),
            episode_return=total / count if count else math.nan,
            episode_length=length / count if count else math.nan,
            success=success / num_tried if num_tried else math.nan,
            steps_per_second=(self.step - self._recorded) / max(now - self._since, 1e-9),
            shares=self.actor.clock.shares(),
            learning_rate=self.learner.optimizer.parts[0].param_groups[0]["lr"],
            losses={n: float(np.mean([getattr(x, n) for x in self.losses])) for n in Losses._fields},
            delay=self._delay(),
        )
        if self.world.first:
            self.on_record(progress)
        self.episodes, self.losses = [], []
        self._since, self._recorded = now, self.step

    def _agree(self) -> tuple[float, bool, bool]:
        """Part of the budget that is spent and whether to save, by the first process; a signal to any."""
        save, before = self.config.save, self.step - self.config.window * self.config.envs
        passed = any(self.step // n > before // n for n in (save.steps, save.keep_every) if n)
        due = passed or time.monotonic() - self._saved >= 60 * save.minutes
        found = self.world.gather([self.done, bool(self.signals.received), due])
        return float(found[0, 0]), bool(found[:, 1].any()), bool(found[0, 2])

    def _pause(self) -> None:
        """Lets ``on_pause`` work, without counting its time into the speed."""
        before = time.monotonic()
        self.on_pause(self)
        self._saved = time.monotonic()
        self._since += self._saved - before

    def _delay(self) -> int | None:
        """That a curriculum has come to in all processes."""
        task = getattr(self.envs, "envs", None)
        if not isinstance(task, NonMatch) or not task.curriculum:
            return None
        return int(self.world.gather([task.delay_now]).min())

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint: not copies, so save them before the next window."""
        tensors = {f"model.{name}": x for name, x in self.agent.state_dict().items()}
        tensors |= {f"optimizer.{name}": x for name, x in self.learner.optimizer.state().items()}
        own, state = {f"actor.{name}": x for name, x in self.actor.tensors().items()}, self.envs.state()
        own["order"] = self.order.get_state()
        if state is not None:
            own |= {f"environment.{name}": torch.from_numpy(x) for name, x in state["arrays"].items()}
        facts = OwnFacts(
            position=self.actor.position,
            environment=None if state is None else state["facts"],
            waiting=tuple(tuple(None if math.isnan(x) else x for x in e) for e in self.episodes),
        )
        own["facts"] = as_tensor(asdict(facts))
        return tensors | {f"{self._own}{name}": x for name, x in own.items()}

    @property
    def _own(self) -> str:
        return f"process.{self.world.rank}."

    def facts(self) -> dict[str, Any]:
        """The rest of a checkpoint."""
        facts = Facts(
            step=self.step,
            seconds=self.seconds,
            spread=self.learner.spread,
            losses=tuple(map(tuple, self.losses)),
            processes=self.world.size,
        )
        return asdict(facts)

    def restore(self, folder: Path, facts: Mapping[str, Any]) -> bool:
        """Puts a new trainer where the checkpoint was taken.

        Args:
            folder: a checkpoint that was verified.
            facts: what was stored with it.

        Returns:
            Whether episodes go on too; else they begin anew, and the rest is as it was.

        Raises:
            UsageError: the checkpoint does not fit.
        """
        names = {field.name for field in fields(Facts)}
        known = from_plain(Facts, {n: x for n, x in facts.items() if n in names}, f"{folder}/facts.json")
        if known.processes != self.world.size:
            raise UsageError(
                f"the run was trained by {known.processes} processes, and these are {self.world.size}; "
                "start as many"
            )
        into = {f"model.{name}": x for name, x in self.agent.state_dict().items()}
        shapes = tensor_shapes(folder)
        if known.step:
            moments = [name.removeprefix("optimizer.") for name in shapes if name.startswith("optimizer.")]
            optimizer = self.learner.optimizer.allocate(known=moments)
            into |= {f"optimizer.{name}": x for name, x in optimizer.items()}
        other = {
            name: torch.empty(size, dtype=dtype)
            for name, (size, dtype) in shapes.items()
            if name.startswith(self._own)
        }
        load_tensors(folder, into | other)
        try:
            other = below(self._own, other)
            own = from_plain(OwnFacts, from_tensor(other["facts"]), "the facts of a process")
            same = own.environment is not None
            if own.environment is not None:
                arrays = {name: x.numpy() for name, x in below("environment.", other).items()}
                self.envs.load_state({"arrays": arrays, "facts": own.environment})
            self.actor.load(below("actor.", other), own.position, at=known.step, same_episodes=same)
            self.order.set_state(other["order"])
            self.episodes = [Episode._make(math.nan if x is None else x for x in e) for e in own.waiting]
            self.losses = [Losses._make(x) for x in known.losses]
        except (KeyError, TypeError, RuntimeError) as error:
            raise UsageError(f"{folder} does not fit this version ({error}); train anew") from None
        self.learner.spread = known.spread
        self.step, self.seconds_before = known.step, float(known.seconds)
        return same
