"""The task in rendered rooms: the rules are those on the grid, the pictures those of the rules."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from compressive_transformer.cli import main
from compressive_transformer.errors import UsageError
from compressive_transformer.train.log import read_metrics
from tiny import TINY

if not find_spec("miniworld"):  # it must not be imported before ``rooms``, which tells it to need no display
    pytest.skip("could not import 'miniworld'", allow_module_level=True)

from compressive_transformer.rl.nonmatch import BETWEEN, FIRST, SECOND
from compressive_transformer.rl.rooms import ACTIONS, EXAMPLE, REACH, NonMatch3DEnv, Rooms

AHEAD, BACK, LEFT, RIGHT = range(4)
FIRE = len(ACTIONS) - 1
TO_PAD = 13


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms()


def walk(rooms: Rooms, *actions: int) -> float:
    """Takes these steps; what the last one brought."""
    return [float(rooms.step(np.array([action]))[1][0]) for action in actions][-1]


def test_a_perfect_agent_scores_as_a_human_on_the_level(rooms: Rooms):
    rooms.reset(seed=1)
    assert sum(float(rooms.step(rooms.best_actions())[1][0]) for _ in range(180)) == 66


@pytest.mark.parametrize("right", [True, False])
def test_a_trial_by_its_steps(rooms: Rooms, right: bool):
    rooms.reset(seed=0)
    assert walk(rooms, *(AHEAD,) * (TO_PAD - 1)) == 0
    assert rooms.room == FIRST
    assert walk(rooms, AHEAD) == 1
    assert rooms.room == SECOND
    rewards = [walk(rooms, toward(rooms, right=right)) for _ in range(15)]
    assert rewards == [0] * 14 + [10 if right else -10]
    assert rooms.room == FIRST
    assert (int(rooms._state["right"][0]), int(rooms._state["wrong"][0])) == (int(right), int(not right))


def toward(rooms: Rooms, *, right: bool) -> int:
    """The step from the second room's beginning to one of its objects."""
    side = rooms._state["match_side"].copy()
    rooms._state["match_side"] = side if right else -side
    action = int(rooms.best_actions()[0])
    rooms._state["match_side"] = side
    return action


def test_walls_and_the_object_that_is_shown_stop_an_agent(rooms: Rooms):
    rooms.reset(seed=0)
    walk(rooms, *(BACK,) * 20)
    assert rooms.world.ahead == pytest.approx(-0.6)
    walk(rooms, *(LEFT,) * 20)
    assert rooms.world.across == pytest.approx(-4.6)
    walk(rooms, *(RIGHT,) * 40)
    assert rooms.world.across == pytest.approx(4.6)
    rooms.reset(seed=0)
    side = int(rooms._state["example_side"][0])
    walk(rooms, *(RIGHT if side > 0 else LEFT,) * 4, *(AHEAD,) * 12)
    away = np.hypot(rooms.world.ahead - EXAMPLE[0], rooms.world.across - side * EXAMPLE[1])
    assert REACH <= away < REACH + 0.7
    assert rooms.room == FIRST


def test_pictures_show_what_differs():
    """Another object, another side, another room: another picture; fire changes nothing."""
    rooms = Rooms(delay=3)
    picture = rooms.reset(seed=0)
    assert (rooms.step(np.array([FIRE]))[0] == picture).all()
    seen = {picture.tobytes()}
    for number in range(36):
        rooms._state["match"][0] = number
        rooms._enter(np.array([0]))
        seen.add(rooms.see().tobytes())
    assert len(seen) == 36
    rooms._state["example_side"] *= -1
    rooms._enter(np.array([0]))
    assert rooms.see().tobytes() not in seen
    assert walk(rooms, *(AHEAD,) * TO_PAD) == 1
    for _ in range(3):
        assert rooms.room == BETWEEN
        assert not rooms.see().any()
        walk(rooms, AHEAD)
    assert rooms.room == SECOND
    assert rooms.see().any()


def test_gymnasium_finds_nothing_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*spec")
        check_env(NonMatch3DEnv(render_mode="rgb_array"))


def test_settings_that_can_not_be():
    with pytest.raises(UsageError, match="objects 37 is not allowed; NonMatch3D-v0 has 36"):
        Rooms(objects=37)
    with pytest.raises(UsageError, match="leave observe out"):
        Rooms(observe="view")
    with pytest.raises(UsageError, match="leave observe out"):
        Rooms(observe="pixels")


def test_an_agent_is_trained_from_pictures(tmp_path: Path):
    shape = [f"--model.{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    usual = ["--envs=2", "--window=8", "--learn.minibatches=1", "--env-options", "length=20", *shape]
    run = tmp_path / "agent"
    main(["train", "rl", "--env=NonMatch3D-v0", f"--out={run}", "--steps=160", *usual])
    assert read_metrics(run)[0]["losses"]["ratio_error"] < 1e-5
    main(["evaluate", str(run), "--episodes=1", "--gif", str(tmp_path / "one.gif")])
    assert (tmp_path / "one.gif").read_bytes().startswith(b"GIF")
