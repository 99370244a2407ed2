"""Environments of others: what an agent gets of them, and what is said when they fail."""

import os
import signal
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from compressive_transformer.errors import UsageError
from compressive_transformer.model import ModelConfig
from compressive_transformer.rl.actor import Actor
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.envs import make_envs, parse_options
from tiny import TINY


class Counter(gymnasium.Env):
    """Shows how many steps there were since the episode began; ends after ``length``; may go wrong."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = spaces.Discrete(3, start=5)

    def __init__(self, length: int = 4, wrong: str = "", render_mode: str | None = None):
        self.length, self.wrong, self.time, self.begun = length, wrong, 0, 0
        if wrong == "space":
            self.observation_space = spaces.Text(4)
        if wrong == "actions":
            self.action_space = spaces.MultiBinary(2)
        if wrong == "two":
            self.action_space = spaces.MultiDiscrete([2, 3], start=[0, 10])
        if wrong == "outside":
            self.observation_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(9)])
        if wrong == "box":
            self.action_space = spaces.Box(-1, np.array([1, np.inf], np.float32), (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.time, self.begun = 0, self.begun + 1
        return self._seen(), {}

    def step(self, action: Any):
        self.time += 1
        if self.wrong == "die" and self.time == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.wrong == "raise":
            raise RuntimeError("the motor is hot")
        reward = np.nan if self.wrong == "reward" else float(np.sum(action))
        return self._seen(), reward, self.time == self.length, False, {}

    def _seen(self) -> Any:
        if self.wrong == "outside":
            return self.time, self.begun
        if self.wrong == "shape" and self.time == 2:
            return np.zeros(3, np.float32)
        nan = self.wrong == "nan" and self.time == 2
        return np.array([np.nan if nan else self.time, self.begun], np.float32)


gymnasium.register("Counter-v0", f"{__name__}:Counter")
NAME = f"{__name__}:Counter-v0"


def of_counter(num_envs: int = 3, workers: int = 0, **settings: Any):
    options = [f"{name}={value}" for name, value in settings.items()]
    return make_envs(NAME, options, num_envs=num_envs, workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_episodes_follow_one_another(workers: int):
    envs = of_counter(workers=workers)
    try:
        assert envs.spaces.num_actions == 3
        assert (envs.reset() == [[0, 1]] * 3).all()
        for step in range(1, 9):
            seen, rewards, ended, limited, success, _ = envs.step(np.array([0, 1, 2]))
            assert (seen[:, 0] == step % 4).all()
            assert (seen[:, 1] == 1 + step // 4).all()
            assert list(rewards) == [5, 6, 7]  # actions begin with 5
            assert ended.all() == (step % 4 == 0)
            assert not limited.any()
            assert np.isnan(success).all() if step % 4 else (success == 1).all()
    finally:
        envs.close()


def test_numbers_as_actions_stay_within_their_limits():
    envs = of_counter(wrong="box")
    assert (envs.spaces.low, envs.spaces.high[0]) == ((-1, -1), 1)
    assert np.isfinite(envs.spaces.high).all()  # JSON has no infinity
    envs.reset()
    assert list(envs.step(np.full((3, 2), 9.0, np.float32)).rewards) == [10, 10, 10]


def test_a_process_that_dies_is_started_once_more_and_named():
    envs = of_counter(num_envs=2, workers=1, wrong="die")
    try:
        envs.reset()
        for _ in range(2):
            envs.step(np.zeros(2, int))
        with pytest.warns(
            UserWarning, match=r"environments 0 to 1 of .* died \(exit code -9\) and was started"
        ):
            seen, rewards, ended, limited, success, lost = envs.step(np.zeros(2, int))
        assert (seen[:, 0] == 0).all()
        assert ended.all()
        assert lost.all()
        assert limited.all()
        assert not rewards.any()
        assert np.isnan(success).all()
        for _ in range(2):
            envs.step(np.zeros(2, int))
        with pytest.raises(UsageError, match="died again"):
            envs.step(np.zeros(2, int))
    finally:
        envs.close()


def test_episodes_that_were_lost_are_not_told_of():
    envs = of_counter(num_envs=2, workers=1, wrong="die")
    try:
        agent = Agent(envs.spaces, "none", ModelConfig(**TINY))
        actor = Actor(agent, envs, torch.Generator().manual_seed(0))
        with pytest.warns(UserWarning, match="was started"):
            window, episodes = actor.window(4)
        assert window.ended[2].all()  # the third step, which killed the process
        assert not episodes
        assert (actor.lengths == 1).all()
    finally:
        envs.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_for_who_asks(number: int):
    """On Ctrl-C all processes get one; those of environments still finish the window."""
    envs = of_counter(num_envs=2, workers=1)
    try:
        envs.reset()
        os.kill(envs.groups[0].process.pid, number)  # pyright: ignore[reportAttributeAccessIssue]
        assert (envs.step(np.zeros(2, int)).seen[:, 0] == 1).all()
    finally:
        envs.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_begins_other_episodes(workers: int):
    name = "compressive_transformer.rl.gym:NonMatch-v0"
    envs = make_envs(name, num_envs=4, workers=workers, seed=3)
    try:
        first = envs.reset()
        assert not (envs.reset(at=100) == first).all()
        assert (envs.reset() == first).all()
        assert len({row.tobytes() for row in first}) > 1
        limited = [envs.step(np.zeros(4, int)).limited.all() for _ in range(180)]
        assert limited == [False] * 179 + [True]
    finally:
        envs.close()
    other = make_envs(name, num_envs=4, seed=4).reset()
    assert not (other[:-1] == first[1:]).all()


def run(workers: int = 0, **settings: Any) -> None:
    envs = of_counter(workers=workers, **settings)
    envs.reset()
    for _ in range(3):
        envs.step(np.zeros(3, int))


def test_mistakes_take_one_line():
    for call, message in (
        (lambda: make_envs("NonMatch-v1"), "did you mean 'NonMatch-v0'"),
        (lambda: make_envs("Nowhere-v0"), "can't be made"),
        (lambda: make_envs("nowhere:Nowhere-v0"), "can't be made"),
        (lambda: of_counter(speed=1), "can't be made .*speed"),
        (lambda: make_envs("NonMatch-v0", ["speed=1"]), "has no option 'speed'; it has objects, delay"),
        (
            lambda: make_envs("NonMatch-v0", ["objects=many"]),
            "objects 'many' is not allowed; use a whole number",
        ),
        (lambda: make_envs("NonMatch-v0", ["objects"]), "no NAME=VALUE"),
        (lambda: make_envs("NonMatch-v0", workers=1), "one set of arrays"),
        (lambda: of_counter(workers=4), "at most one for each"),
        (
            lambda: of_counter(wrong="space"),
            r"observations of .* are Text.*; give an environment with numbers",
        ),
        (lambda: of_counter(wrong="actions"), r"actions of .* are MultiBinary.*; give an environment with"),
        (lambda: run(wrong="nan"), "environment 0 of .* an observation that is no number"),
        (lambda: run(wrong="shape"), r"environment 0 of .* shape \(3,\), its space says \(2,\)"),
        (lambda: run(wrong="outside"), "environment 0 of .* an observation that is not in its space"),
        (lambda: run(wrong="raise"), r"an environment of .* failed \(RuntimeError: the motor is hot\)"),
        (lambda: run(wrong="raise", workers=1), "the motor is hot"),
        (lambda: make_envs("NonMatch-v0", ["objects=6.0"]), "objects 6.0 is not allowed; use a whole number"),
        (lambda: run(wrong="reward"), "environment 0 of .* gave the reward nan"),
    ):
        with pytest.raises(UsageError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_several_choices_are_one():
    """Of each pair one action; what several choices show is a 1 for each."""
    envs = of_counter(1, wrong="two")
    envs.reset()
    assert envs.spaces.num_actions == 6
    rewards = [envs.step(np.array([action])).rewards[0] for action in range(6)]
    assert rewards == [10, 11, 12, 11, 12, 13]
    envs = of_counter(1, wrong="outside")
    assert envs.spaces.observation_shape == (12,)
    assert np.flatnonzero(envs.reset()[0]).tolist() == [0, 3 + 1]
    assert np.flatnonzero(envs.step(np.array([0])).seen[0]).tolist() == [1, 3 + 1]


@pytest.mark.parametrize("name", ["Autoencode", "Battleship", "Concentration", "PositionOnlyPendulum"])
def test_popgym(name: str):
    pytest.importorskip("popgym")
    envs = make_envs(f"popgym:popgym-{name}Easy-v0", num_envs=2)
    seen = envs.reset()
    assert seen.shape == (2, *envs.spaces.observation_shape)
    actions = np.zeros((2,) if envs.spaces.discrete else (2, 1), int)
    assert envs.step(actions).seen.shape == seen.shape
    envs.close()


def test_options_are_read_as_json():
    assert parse_options(["a=1", "b=true", "c=[1, 0.5]", "d=view", "e=False"]) == {
        "a": 1,
        "b": True,
        "c": [1, 0.5],
        "d": "view",
        "e": False,
    }


def test_minigrid_with_a_view_of_three():
    pytest.importorskip("minigrid")
    envs = make_envs("MiniGrid-MemoryS7-v0", ["agent_view_size=3"], num_envs=2)
    assert envs.spaces.symbols
    assert envs.reset().shape == (2, 3, 3, 3)
    moments = [envs.step(np.array([2, 0])) for _ in range(5)]
    assert moments[-1].seen.dtype == np.uint8
    envs.close()
