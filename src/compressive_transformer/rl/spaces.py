"""What an agent sees and does in an environment of gymnasium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.envs import Spaces

Array = NDArray[Any]
LIMIT = 1e30
"""Of actions that have none: JSON has no infinity."""


def spaces_of(name: str, env: Any) -> tuple[Spaces, Callable[[Any], Array], Callable[[Any], Any]]:
    """The spaces of an environment, and how to go between them and it.

    Returns:
        The spaces; how to read its observations; how to say its actions.

    Raises:
        UsageError: the spaces are others than Box, Discrete, MultiDiscrete, or Tuple and Dict of them; or
            actions others than Box, Discrete, MultiDiscrete.
    """
    from gymnasium import spaces
    from gymnasium.spaces.utils import flatdim, flatten

    space: Any = env.observation_space
    part = None
    if isinstance(space, spaces.Dict) and "image" in space.spaces:
        space, part = space["image"], "image"  # MiniGrid's mission and direction are left out
    symbols = space.dtype == np.uint8 and len(space.shape or ()) == 3

    def read(seen: Any) -> Array:
        x = seen if part is None else seen[part]
        return np.asarray(x) if symbols else np.asarray(flatten(space, x), np.float32)

    try:
        if isinstance(space, spaces.Text):
            raise ValueError("letters are no features")
        shape = tuple(space.shape or ()) if symbols else (flatdim(space),)
    except (NotImplementedError, ValueError):
        raise UsageError(
            f"observations of {name} are {_line_of(space)}; give an environment with numbers, choices, or a "
            "Dict with 'image', by a wrapper of gymnasium if need be"
        ) from None
    known: dict[str, Any] = {"observation_shape": shape, "symbols": symbols}
    action = env.action_space
    if isinstance(action, spaces.Discrete):
        return Spaces(num_actions=int(action.n), **known), read, lambda one: one + action.start
    if isinstance(action, spaces.MultiDiscrete):
        sizes, start = action.nvec.ravel(), action.start
        return (
            Spaces(num_actions=int(np.prod(sizes)), **known),
            read,
            lambda one: np.reshape(np.unravel_index(one, sizes), action.shape) + start,
        )
    if isinstance(action, spaces.Box):
        low, high = (tuple(map(float, np.clip(x, -LIMIT, LIMIT).ravel())) for x in (action.low, action.high))
        return Spaces(low=low, high=high, **known), read, lambda one: _within(action, one)
    raise UsageError(
        f"actions of {name} are {_line_of(action)}; give an environment with Discrete, MultiDiscrete or Box, "
        "by a wrapper of gymnasium if need be"
    )


def _within(space: Any, action: Array) -> Array:
    return np.clip(action, space.low.ravel(), space.high.ravel()).reshape(space.shape).astype(space.dtype)


def _line_of(space: Any) -> str:
    return " ".join(str(space).split())[:100]
