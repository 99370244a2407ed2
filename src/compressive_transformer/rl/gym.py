"""``NonMatch-v0`` for gymnasium: ``gymnasium.make("compressive_transformer.rl.gym:NonMatch-v0")``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from compressive_transformer.rl.nonmatch import OBJECTS, NonMatch

NAME = "NonMatch-v0"


class NonMatchEnv(gymnasium.Env):
    """One environment; episodes are truncated when their steps are over.

    Args:
        render_mode: ``rgb_array`` or None.
        settings: of ``NonMatch``.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 gymnasium's own name

    def __init__(self, render_mode: str | None = None, **settings: Any):
        self.envs, self.render_mode = NonMatch(1, **settings), render_mode
        self.observation_space, self.action_space = spaces(self.envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.envs.random = self.np_random
        return self.envs.reset()[0], {}

    def step(self, action: Any):
        seen, rewards, ended, counts = self.envs.step(np.array([action]), begin_anew=False)
        info = {name: count[0].item() for name, count in counts.items()}
        if np.isnan(info["success"]):
            info["success"] = None  # NaN would not be equal to itself
        return seen[0], float(rewards[0]), False, bool(ended[0]), info

    def render(self) -> Any:
        return self.envs.render() if self.render_mode == "rgb_array" else None


class NonMatchVectorEnv(VectorEnv):
    """Many environments in one set of arrays: hundreds of thousands of steps a second.

    Args:
        num_envs: how many.
        render_mode: ``rgb_array`` or None.
        settings: of ``NonMatch``.
    """

    metadata = {  # noqa: RUF012 gymnasium's own name
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, **settings: Any):
        self.envs, self.num_envs, self.render_mode = NonMatch(num_envs, **settings), num_envs, render_mode
        self.single_observation_space, self.single_action_space = spaces(self.envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.envs.random = self.np_random
        return self.envs.reset(), {}

    def step(self, actions: Any):
        seen, rewards, ended, counts = self.envs.step(actions, begin_anew=False)
        infos: dict[str, Any] = {}
        if ended.any():
            infos = {"final_obs": seen, "final_info": counts, "_final_obs": ended, "_final_info": ended}
            self.envs.begin(ended)
            seen = self.envs.see()
        return seen, rewards, np.zeros_like(ended), ended, infos

    def render(self) -> Any:
        if self.render_mode != "rgb_array":
            return None
        return tuple(self.envs.render(row) for row in range(self.num_envs))


def spaces(envs: NonMatch) -> tuple[Box, Discrete]:
    """Observations and actions of one environment."""
    view = envs.observation_type is np.uint8
    low, high = (0, OBJECTS + envs.objects - 1) if view else (-2.0, 2.0)
    return Box(low, high, envs.observation_shape, envs.observation_type), Discrete(envs.num_actions)


here = __name__
gymnasium.register(NAME, f"{here}:NonMatchEnv", vector_entry_point=f"{here}:NonMatchVectorEnv")
