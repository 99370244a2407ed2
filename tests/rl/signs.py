"""A task that nobody solves without memory, small enough to be learnt in seconds."""

from typing import Any

import numpy as np

from compressive_transformer.rl.envs import Moment, Spaces

LENGTH = 4


class Recall:
    """The first step shows one of two signs, the last of four asks for it: 1 if it is given, else 0."""

    spaces = Spaces(observation_shape=(3,), num_actions=2)

    def __init__(self, num_envs: int, seed: int = 0):
        self.num_envs, self.random, self.time = num_envs, np.random.default_rng(seed), 0

    def reset(self, at: int = 0) -> Any:
        self.time, self.sign = 0, self.random.integers(2, size=self.num_envs)
        return self._see()

    def step(self, actions: Any) -> Moment:
        self.time += 1
        ended = np.full(self.num_envs, self.time == LENGTH)
        right = (actions == self.sign).astype(np.float32)
        rewards = right * ended
        success = np.where(ended, right, np.nan).astype(np.float32)
        seen = self.reset() if ended.all() else self._see()
        no = np.zeros_like(ended)
        return Moment(seen, rewards, ended, no, success, no)

    def _see(self) -> Any:
        seen = np.zeros((self.num_envs, 3), np.float32)
        if self.time == 0:
            seen[np.arange(self.num_envs), self.sign] = 1
        seen[:, 2] = self.time == LENGTH - 1
        return seen

    def state(self) -> None:
        return None

    def load_state(self, state: dict[str, Any]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass
