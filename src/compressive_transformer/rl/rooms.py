"""``NonMatch3D-v0``: the task in rendered rooms, on MiniWorld (extra ``rl3d``).

The rules are those of ``NonMatch``; what is seen are pictures of 72 x 96 pixels, as in DeepMind Lab, drawn by
OpenGL without a display. The pad is 9 m away and the objects 10 m, 4 m to either side, at 0.7 m a step: the
level's distances at its walking speed.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.gym import NonMatchEnv
from compressive_transformer.rl.nonmatch import BETWEEN, FIRST, SECOND, NonMatch

try:
    import pyglet

    pyglet.options["headless"] = sys.platform == "linux"  # heeded only before MiniWorld is imported
    from miniworld.entity import COLOR_NAMES, Ball, Key, MeshEnt
    from miniworld.entity import Box as Block
    from miniworld.miniworld import MiniWorldEnv
    from miniworld.params import DEFAULT_PARAMS
except ModuleNotFoundError:
    raise UsageError("NonMatch3D-v0 needs MiniWorld: pip install 'compressive-transformer[rl3d]'") from None
except ImportError as error:
    raise UsageError(
        f"NonMatch3D-v0 draws by OpenGL, which is missing here ({error}); on Debian: "
        "apt-get install libegl1 libgl1 libglu1-mesa"
    ) from None

Array = NDArray[Any]
NAME = "NonMatch3D-v0"
HEIGHT, WIDTH = 72, 96
STEP, TURN = 0.7, 15
"""Metres and degrees of an action."""
ACTIONS = (
    *((1, 0, 0), (-1, 0, 0), (0, -1, 0), (0, 1, 0)),
    *((0, 0, 1), (0, 0, -1), (1, 0, 1), (1, 0, -1), (0, 0, 0)),
)
"""Steps ahead and to the right, turns to the left: ahead, back, left, right, two looks, two looks on the way
ahead, and one that fires, which does nothing here."""
DEPTH, SIDE = 10.4, 5.0
"""Rooms reach so far ahead of where an agent starts, and to either side."""
BEHIND = 1.0
PAD = 9.0
"""Where the pad begins, which is as wide as the room."""
EXAMPLE, CHOICE = (7.0, 3.0), (10.0, 4.0)
"""Metres ahead and to a side, of the object that is shown and of the two to choose from."""
REACH = 1.0
"""An object is taken from so near; the one that is shown keeps an agent so far away."""
SECOND_ROOM = 12.0
"""Where the second room begins: behind the first, that one light is enough."""
LIGHT = [11.0, 12.0, 0.0]
AGENT = 0.4
"""Radius of an agent."""
MESHES = (
    *("barrel", "barrier", "building", "cone", "duckie", "keycard"),
    *("medkit", "office_chair", "office_desk", "potion", "tree", "tree_pine"),
)
SIZE = 0.9
PEDESTAL: Any = (0.8, 0.5, 0.8)  # MiniWorld takes three numbers, and says that it takes one
PAD_SIZE: Any = (DEPTH - PAD, 0.02, 2 * SIDE)
PILLAR: Any = (0.4, 1.4, 0.4)
COLORED: tuple[Callable[[str], Any], ...] = (
    *(lambda color: Block(color, SIZE), lambda color: Ball(color, SIZE)),
    *(lambda color: Block(color, PILLAR), lambda color: Key(color)),
)
OBJECTS: tuple[Callable[[], Any], ...] = (
    *(partial(kind, color) for kind in COLORED for color in COLOR_NAMES),
    *(partial(MeshEnt, mesh, height=SIZE, static=False) for mesh in MESHES),
)
"""36: cubes, balls, pillars and keys in six colours, and what MiniWorld has besides."""


class World(MiniWorldEnv):
    """The two rooms, one agent, and what lies there; no rules."""

    agent: Any
    pad: Any

    def __init__(self):
        params = DEFAULT_PARAMS.copy()
        params.set("light_pos", LIGHT, LIGHT, LIGHT)
        with contextlib.redirect_stdout(sys.stderr):  # which is told how pictures are smoothed
            super().__init__(
                obs_width=WIDTH, obs_height=HEIGHT, window_width=480, window_height=360, params=params
            )

    def _gen_world(self) -> None:
        self.starts = {FIRST: 0.0, SECOND: SECOND_ROOM}
        for start, floor in zip(self.starts.values(), ("floor_tiles_bw", "wood_planks"), strict=True):
            self.add_rect_room(
                min_x=start - BEHIND,
                max_x=start + DEPTH,
                min_z=-SIDE,
                max_z=SIDE,
                wall_tex="brick_wall",
                floor_tex=floor,
            )
        self.pad, *self.pedestals = (
            self._made(Block(color, size=size))
            for color, size in (("blue", PAD_SIZE), *[("grey", PEDESTAL)] * 2)
        )
        self.pad.pos = np.array([(PAD + DEPTH) / 2, 0.0, 0.0])
        self.objects: dict[int, Any] = {}
        self.place_agent(pos=np.zeros(3), dir=0.0)
        self.room, self.things = FIRST, []

    def _made(self, thing: Any) -> Any:
        thing.dir = 0.0
        thing.randomize(self.params, None)
        if isinstance(thing, MeshEnt):  # none wider than the others are high
            thing.scale *= SIZE / max(thing.height, 2 * thing.radius)
        return thing

    def thing(self, number: int) -> Any:
        """An object, which is made when it is first seen: to read a mesh takes time."""
        if number not in self.objects:
            self.objects[number] = self._made(OBJECTS[number]())
        return self.objects[number]

    @property
    def ahead(self) -> float:
        """Of the agent, from where the room begins, in metres."""
        return float(self.agent.pos[0]) - self.starts[self.room]

    @property
    def across(self) -> float:
        """Of the agent, to the right."""
        return float(self.agent.pos[2])

    def enter(self, room: int, things: list[tuple[float, float, int]]) -> None:
        """Puts the agent where a room begins.

        Args:
            room: the first or the second.
            things: metres ahead, metres to the right and number of the objects there.
        """
        self.room, self.things = room, things
        self.agent.pos, self.agent.dir = np.array([self.starts[room], 0.0, 0.0]), 0.0
        self.entities = [self.agent] + ([self.pad] if room == FIRST else [])
        for pedestal, (ahead, across, number) in zip(self.pedestals, things, strict=False):
            thing = self.thing(number)
            pedestal.pos = np.array([self.starts[room] + ahead, 0.0, across])
            thing.pos = pedestal.pos + np.array([0.0, PEDESTAL[1], 0.0])
            self.entities += [pedestal, thing]

    def go(self, action: int) -> None:
        """One action; walls stop an agent."""
        steps, sideways, turn = ACTIONS[action]
        self.agent.dir += math.radians(TURN * turn)
        to = self.agent.pos + STEP * (steps * self.agent.dir_vec + sideways * self.agent.right_vec)
        start = self.starts[self.room]
        to[0] = np.clip(to[0], start - BEHIND + AGENT, start + DEPTH - AGENT)
        to[2] = np.clip(to[2], -SIDE + AGENT, SIDE - AGENT)
        before, self.agent.pos = self.agent.pos, to
        if self.room == FIRST and self.touched() is not None:
            self.agent.pos = before

    def touched(self) -> float | None:
        """How far to the right the object lies that is in reach, if one is."""
        for ahead, across, _ in self.things:
            if math.hypot(self.ahead - ahead, self.across - across) < REACH:
                return across
        return None


class Rooms(NonMatch):
    """One environment of ``NonMatch``, in a world.

    Args:
        settings: of ``NonMatch``, but for ``observe``; ``objects`` up to 36.
    """

    num_actions = len(ACTIONS)

    def __init__(self, *, objects: int = len(OBJECTS), **settings: Any):
        if objects > len(OBJECTS):
            raise UsageError(f"objects {objects} is not allowed; {NAME} has {len(OBJECTS)}")
        if "observe" in settings:
            raise UsageError(f"observe {settings['observe']!r}: {NAME} shows pictures; leave observe out")
        if settings.get("curriculum"):
            raise UsageError(f"curriculum: each environment of {NAME} would have its own; give a delay")
        self.world = World()
        super().__init__(objects=objects, **settings)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        return HEIGHT, WIDTH, 3

    @property
    def observation_type(self) -> type:
        return np.uint8

    @property
    def room(self) -> int:
        """Where the agent is."""
        return int(self._state["room"][0])

    def _move(self, actions_B: Array) -> None:
        if self.room != BETWEEN:
            self.world.go(int(actions_B[0]))

    def _at_pad(self) -> Array:
        return np.array([self.world.ahead >= PAD])

    def _touched(self) -> Array:
        return np.array([np.sign(self.world.touched() or 0)], np.int64)

    def _enter(self, rows: Array) -> None:
        if len(rows):
            ahead, across = EXAMPLE if self.room == FIRST else CHOICE
            things = [
                (ahead, across * np.sign(column[0]), int(what[0]))
                for there, column, _, what in self._things()
                if there[0]
            ]
            self.world.enter(self.room, things)

    def see(self) -> Array:
        """uint8 [1, 72, 96, 3]; black between the rooms."""
        if self.room == BETWEEN:
            return np.zeros((1, *self.observation_shape), np.uint8)
        return self.world.render_obs()[None]

    def best_actions(self) -> Array:
        """int64 [1]: what a perfect agent does: it looks where it has to go, and goes."""
        goal = (DEPTH, 0.0)
        if self.room == SECOND:
            goal = CHOICE[0], -CHOICE[1] * float(self._state["match_side"][0])
        w = self.world
        away = math.atan2(-(goal[1] - w.across), goal[0] - w.ahead) - w.agent.dir
        turns = round(math.degrees((away + math.pi) % (2 * math.pi) - math.pi) / TURN)
        return np.array([ACTIONS.index((1, 0, int(np.sign(turns))))])

    def render(self, row: int = 0, cell: int = 12) -> Array:
        """uint8 [360, 480, 3]: what the agent sees, larger; black between the rooms."""
        fine = self.world.vis_fb
        if self.room == BETWEEN:
            return np.zeros((fine.height, fine.width, 3), np.uint8)
        return self.world.render_obs(fine)


class NonMatch3DEnv(NonMatchEnv):
    """One environment; episodes are truncated when their steps are over.

    Args:
        render_mode: ``rgb_array`` or None.
        settings: of ``Rooms``.
    """

    def __init__(self, render_mode: str | None = None, **settings: Any):
        self.envs, self.render_mode = Rooms(**settings), render_mode
        self.observation_space = Box(0, 255, self.envs.observation_shape, np.uint8)
        self.action_space = Discrete(self.envs.num_actions)

    def close(self) -> None:
        assert isinstance(self.envs, Rooms)
        self.envs.world.shadow_window.close()


gymnasium.register(NAME, f"{__name__}:NonMatch3DEnv")
