"""Environments side by side, whatever they are: one interface for the agents that act in them.

``NonMatch`` is one set of arrays. Any gymnasium environment with discrete or box actions runs in this
process, or shared out among several (``workers``), whose death is survived once.

Shape legend: B environments, A numbers in an action.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.nonmatch import NonMatch

Array = NDArray[Any]
NONMATCH = "NonMatch-v0"
OWN = {"NonMatch3D-v0": "compressive_transformer.rl.rooms:NonMatch3D-v0"}
"""Environments of ours that gymnasium knows by their module."""
EXTRA = "pip install 'compressive-transformer[rl]'"


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """What an agent sees and does."""

    observation_shape: tuple[int, ...]
    """Of one environment."""
    symbols: bool = False
    """Observations are uint8 [height, width, channels]: symbols of a grid, or pixels; else float32."""
    num_actions: int = 0
    """Of discrete actions; 0 where they are numbers."""
    low: tuple[float, ...] = ()
    """[A] limits of an action, of numbers."""
    high: tuple[float, ...] = ()
    """[A]."""

    @property
    def discrete(self) -> bool:
        """Whether an action is one of several, and not numbers."""
        return self.num_actions > 0


class Moment(NamedTuple):
    """What environments give for one step."""

    seen: Array
    """[B, ...], of the next episode where one ended."""
    rewards: Array
    """float32 [B]."""
    ended: Array
    """bool [B], by their end or by a limit of time."""
    limited: Array
    """bool [B], those that a limit of time ended, or another cause from outside."""
    success: Array
    """float32 [B]: of the episodes that ended, how far they succeeded, 0 to 1; NaN elsewhere."""
    lost: Array
    """bool [B], those that ended because their process died: nothing is told of them."""


class Environments(Protocol):
    """B environments that begin anew by themselves."""

    num_envs: int
    spaces: Spaces

    def reset(self, at: int = 0) -> Array:
        """Begins all episodes.

        Args:
            at: step of the run; a resumed one begins other episodes than it began with.
        """
        ...

    def step(self, actions: Array) -> Moment:
        """One step of each."""
        ...

    def state(self) -> dict[str, Any] | None:
        """What ``load_state`` takes; None if the environments can't be saved."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was taken."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


def make_envs(
    name: str, options: Sequence[str] = (), *, num_envs: int = 1, workers: int = 0, seed: int = 0
) -> Environments:
    """Environments by name.

    Args:
        name: ``NonMatch-v0``, ``NonMatch3D-v0``, or a name that ``gymnasium.make`` takes.
        options: ``NAME=VALUE`` of the environment's own settings, values as in JSON.
        num_envs: B.
        workers: processes that gymnasium's environments are shared out among; 0 runs them in this one.
        seed: decides all episodes.

    Raises:
        UsageError: there is no such environment, or it has no such option, or spaces that an agent can't use.
    """
    settings = parse_options(options)
    if num_envs < 1 or not 0 <= workers <= num_envs:
        raise UsageError(f"num_envs {num_envs}, workers {workers}: use at least 1, and at most one for each")
    if name == NONMATCH:
        if workers:
            raise UsageError(f"workers {workers}: {NONMATCH} is one set of arrays; use workers 0")
        return NonMatchEnvs(num_envs, settings, seed)
    from compressive_transformer.rl.workers import GymEnvs

    return GymEnvs(OWN.get(name, name), settings, num_envs=num_envs, workers=workers, seed=seed)


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Settings by name, of words such as ``delay=30``.

    Raises:
        UsageError: a word is something else.
    """
    settings = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"option {option!r} is no NAME=VALUE; write it as in delay=30")
        try:
            settings[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            settings[name] = value
    return settings


class NonMatchEnvs:
    """``NonMatch`` by the common interface. An episode succeeds by the share of its choices that are right.

    Args:
        num_envs: B.
        settings: of ``NonMatch``.
        seed: decides all episodes.
    """

    def __init__(self, num_envs: int, settings: dict[str, Any], seed: int):
        known = [p for p in inspect.signature(NonMatch).parameters if p != "num_envs"]
        if unknown := sorted(set(settings) - set(known)):
            raise UsageError(f"{NONMATCH} has no option {unknown[0]!r}; it has {', '.join(known)}")
        try:
            self.envs = NonMatch(num_envs, **settings)
        except (TypeError, ValueError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"an option of {NONMATCH} is of a wrong type ({error}); see --help") from None
        self.num_envs, self.seed = num_envs, seed
        self.spaces = Spaces(
            observation_shape=self.envs.observation_shape,
            symbols=self.envs.observation_type is np.uint8,
            num_actions=self.envs.num_actions,
        )

    def reset(self, at: int = 0) -> Array:
        return self.envs.reset(self.seed + at)

    def step(self, actions: Array) -> Moment:
        seen, rewards, ended, counts = self.envs.step(actions)
        return Moment(seen, rewards, ended, ended, counts["success"], np.zeros_like(ended))

    def state(self) -> dict[str, Any]:
        return self.envs.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.envs.load_state(state)

    def close(self) -> None:
        pass


def describe_difference(saved: Spaces, given: Spaces) -> str | None:
    """How two environments differ for an agent, or None."""
    for name, value in asdict(given).items():
        if (before := asdict(saved)[name]) != value:
            return f"{name} {before} -> {value}"
    return None
