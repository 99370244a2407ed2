"""The task: its rules, its scale, and gymnasium's own checks."""

import warnings
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.nonmatch import (
    ASIDE,
    BETWEEN,
    END,
    EXAMPLE,
    FIRST,
    HALF,
    OBJECTS,
    PADS,
    SECOND,
    WALL,
    NonMatch,
)

AHEAD, BACK, LEFT, RIGHT = range(4)
NAME = "compressive_transformer.rl.gym:NonMatch-v0"


def at(envs: NonMatch, name: str) -> int:
    """Of the first environment."""
    return int(envs._state[name][0])


def walk(envs: NonMatch, *actions: int) -> tuple[Any, float, bool]:
    """Takes these steps in the first environment; what came of the last."""
    seen, rewards, ended = None, np.zeros(1), np.zeros(1, bool)
    for action in actions:
        seen, rewards, ended, _ = envs.step(np.full(envs.num_envs, action))
    return seen, float(rewards[0]), bool(ended[0])


def choose(envs: NonMatch, *, right: bool) -> tuple[int, ...]:
    """The steps from the beginning of the second room to an object."""
    to_match = LEFT if at(envs, "match_side") < 0 else RIGHT
    side = to_match ^ 1 if right else to_match
    return (AHEAD,) * END + (side,) * ASIDE


def score(policy: Any, episodes: int, **settings: Any) -> float:
    envs = NonMatch(episodes, **settings)
    envs.reset(seed=0)
    total, ended = np.zeros(episodes), np.zeros(episodes, bool)
    for _ in range(envs.length):
        _, rewards, ended, _ = envs.step(policy(envs))
        total += rewards
    assert ended.all()
    return float(total.mean())


def test_scores_are_on_the_scale_of_the_level():
    """DeepMind Lab's: random 0.312, a human 65.9, which is six trials and a bit."""
    random = np.random.default_rng(1)
    assert score(lambda envs: random.integers(4, size=envs.num_envs), 4000) == pytest.approx(0.312, abs=0.12)
    assert score(lambda envs: envs.best_actions(), 50) == 67


def test_a_trial_by_its_steps():
    envs = NonMatch(objects=5)
    envs.reset(seed=0)
    seen, reward, _ = walk(envs, *(AHEAD,) * (END - 1))
    assert (at(envs, "room"), reward) == (FIRST, 0)
    seen, reward, _ = walk(envs, AHEAD)
    assert (at(envs, "room"), at(envs, "x"), at(envs, "y"), reward) == (SECOND, 0, 0, 1)
    assert list(seen[0, :3]) == [0, 0, 1]
    _, reward, ended = walk(envs, *choose(envs, right=True))
    assert (at(envs, "room"), at(envs, "right"), reward, ended) == (FIRST, 1, 10, False)
    _, reward, _ = walk(envs, *(AHEAD,) * END)
    _, reward, _ = walk(envs, *choose(envs, right=False))
    assert (at(envs, "room"), at(envs, "wrong"), reward) == (FIRST, 1, -10)


def test_the_match_stays_through_the_episode_and_all_else_is_drawn_anew():
    envs = NonMatch(objects=6)
    envs.reset(seed=0)
    matches, others, sides, examples = set(), set(), set(), set()
    for _ in range(6):
        walk(envs, *(AHEAD,) * END)
        matches.add(at(envs, "match"))
        others.add(at(envs, "other"))
        sides.add(at(envs, "match_side"))
        examples.add(at(envs, "example_side"))
        walk(envs, *choose(envs, right=True))
    assert len(matches) == 1
    assert not matches & others
    assert len(others) > 2
    assert sides == examples == {-1, 1}


def test_redraw_shows_another_object_in_each_trial():
    envs = NonMatch(objects=50, redraw=True)
    envs.reset(seed=0)
    matches = set()
    for _ in range(6):
        matches.add(at(envs, "match"))
        walk(envs, *(AHEAD,) * END)
        assert at(envs, "match") != at(envs, "other")
        walk(envs, *choose(envs, right=True))
    assert len(matches) > 3


def test_an_episode_ends_after_its_steps_and_the_next_begins():
    envs = NonMatch(3, length=30, objects=4)
    envs.reset(seed=0)
    for step in range(60):
        _, _, ended, counts = envs.step(envs.best_actions())
        assert ended.all() == (step % 30 == 29)
        assert (counts["right"] == (step % 30 == 29)).all()
    assert at(envs, "time") == 0


@pytest.mark.parametrize("delay", [0, 1, 7])
def test_between_the_rooms_there_is_nothing_to_see_or_to_do(delay: int):
    envs = NonMatch(objects=4, delay=delay)
    envs.reset(seed=0)
    seen, reward, _ = walk(envs, *(AHEAD,) * END)
    assert reward == 1
    for _ in range(delay):
        assert at(envs, "room") == BETWEEN
        assert list(np.flatnonzero(seen[0])) == [BETWEEN]
        seen, reward, _ = walk(envs, RIGHT)
        assert reward == 0
    assert (at(envs, "room"), at(envs, "x")) == (SECOND, 0)


def test_what_is_seen_tells_the_objects_and_the_way_to_them():
    envs = NonMatch(200, objects=7)
    seen = envs.reset(seed=0)
    s = envs._state
    shown, left, right = np.split(seen[:, 5:], 3, axis=1)
    assert (shown[:, 0] == 1).all()
    assert not left.any()
    assert not right.any()
    assert (np.sign(shown[:, 1]) == s["example_side"]).all()
    assert (shown[:, 3:].argmax(axis=1) == s["match"]).all()
    for _ in range(END):
        seen, *_ = envs.step(np.zeros(200, int))
    shown, left, right = np.split(seen[:, 5:], 3, axis=1)
    assert not shown.any()
    match = np.where((s["match_side"] > 0)[:, None], right, left)
    other = np.where((s["match_side"] > 0)[:, None], left, right)
    assert (match[:, 3:].argmax(axis=1) == s["match"]).all()
    assert (other[:, 3:].argmax(axis=1) == s["other"]).all()
    assert (np.sign(match[:, 1]) == s["match_side"]).all()


def test_once_shows_the_object_in_the_first_trial_alone():
    envs = NonMatch(objects=4, once=True)
    seen = envs.reset(seed=0)
    assert seen[0, 5:].any()
    walk(envs, *(AHEAD,) * END)
    seen, _, _ = walk(envs, *choose(envs, right=True))
    assert at(envs, "room") == FIRST
    assert not seen[0, 5:].any()


def test_the_shown_object_is_out_of_reach_and_walls_hold():
    envs = NonMatch(objects=4)
    envs.reset(seed=0)
    aside = LEFT if at(envs, "example_side") < 0 else RIGHT
    walk(envs, *(aside,) * EXAMPLE[0], *(AHEAD,) * 12)
    assert (abs(at(envs, "x")), at(envs, "y")) == (EXAMPLE[0], EXAMPLE[1] - 1)
    walk(envs, *(BACK,) * 20, *(aside,) * 20)
    assert (abs(at(envs, "x")), at(envs, "y")) == (HALF, 0)


def test_the_view_is_the_cells_ahead():
    envs = NonMatch(objects=4, observe="view")
    seen = envs.reset(seed=0)
    assert seen.shape == (1, 7, 7, 1)
    assert not seen.any()  # floor alone: the object is too far
    seen, _, _ = walk(envs, *(AHEAD,) * 7)
    side = at(envs, "example_side")
    assert seen[0, 0, 0, 0] == PADS
    assert seen[0, 6 - (EXAMPLE[1] - 7), 3 + EXAMPLE[0] * side, 0] == OBJECTS + at(envs, "match")
    seen, _, _ = walk(envs, *(LEFT,) * 4)
    assert (seen[0, :, :3, 0] == WALL).all()
    assert (seen[0, :, 3:, 0] != WALL).all()


def test_a_curriculum_lengthens_the_delay_as_choices_are_right():
    envs = NonMatch(50, objects=4, delay=20, curriculum=True, length=60)
    envs.reset(seed=0)
    assert envs.delay_now == 0
    delays = []
    for _ in range(2500):
        envs.step(envs.best_actions())
        delays.append(envs.delay_now)
    assert delays == sorted(delays)
    assert delays[-1] == 20
    envs.reset()
    assert envs.delay_now == 20
    envs.reset(seed=0)
    assert envs.delay_now == 0
    blind = NonMatch(50, objects=4, delay=20, curriculum=True)
    for _ in range(1500):
        second = blind._state["room"] == SECOND
        the_left_one = np.where(blind._state["x"] > -ASIDE, LEFT, AHEAD)
        blind.step(np.where(second, the_left_one, blind.best_actions()))
    assert blind.delay_now == 0


def test_it_goes_on_where_its_state_was_taken():
    envs, other = (NonMatch(8, objects=4, delay=3, curriculum=True, observe="view") for _ in range(2))
    envs.reset(seed=3)
    random = np.random.default_rng(0)
    for _ in range(100):
        envs.step(random.integers(4, size=8))
    other.load_state(envs.state())
    for _ in range(200):
        actions = random.integers(4, size=8)
        for a, b in zip(envs.step(actions)[:3], other.step(actions)[:3], strict=True):
            assert (a == b).all()


@pytest.mark.parametrize("settings", [{}, {"observe": "view", "objects": 5}, {"delay": 4, "once": True}])
def test_gymnasium_accepts_it(settings: dict[str, Any]):
    env = gymnasium.make(NAME, render_mode="rgb_array", **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not within the observation space", category=UserWarning)
        check_env(env.unwrapped)
    env.reset(seed=0)
    for _ in range(END - 1):
        env.step(AHEAD)
    picture: Any = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8
    assert len(np.unique(picture)) > 3


def test_many_at_once_are_the_same_environment():
    envs = gymnasium.make_vec(NAME, num_envs=3, objects=4, length=20)
    seen, _ = envs.reset(seed=1)
    assert seen in envs.observation_space
    for step in range(1, 41):
        seen, rewards, terminated, truncated, infos = envs.step(np.array([0, 1, 2]))
        assert truncated.all() == (step % 20 == 0)
        assert not terminated.any()
        assert ("final_obs" in infos) == (step % 20 == 0)
        assert (rewards == [step % 20 == END, 0, 0]).all()


def test_mistakes_take_one_line():
    for settings, message in (
        ({"objects": 1}, "objects 1 is not allowed; use 2 to 250"),
        ({"delay": -1}, "delay -1"),
        ({"observe": "pixels"}, "use one of compact, view"),
        ({"rewards": (1, 2)}, "give three"),
        ({"once": True, "redraw": True}, "use one"),
    ):
        with pytest.raises(UsageError, match=message):
            NonMatch(**cast("dict[str, Any]", settings))
    for actions in ([4], [0, 0], [-1]):
        with pytest.raises(UsageError, match="give 1 numbers from 0 to 3"):
            NonMatch().step(np.array(actions))
