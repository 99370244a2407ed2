"""The task of the paper's agents (section 5.7), ``rooms_select_nonmatching_object``, on a grid.

An object is shown in the first room. A pad at its end teleports the agent, for +1, to a second room with two
objects: the one that was shown costs 10, the other one gives 10, and either ends the trial. Trials follow one
another until 180 steps are over. The object that is shown stays the same through the episode; all else is
drawn anew for each trial.

Distances are those of the level at its walking speed, 13 steps to the pad and 14 to an object, so scores are
on its scale: a perfect agent gets 67, a random one about 0.3 (DeepMind Lab: a human 65.9, random 0.312).

Many environments are one set of arrays. Agents look ahead (up, in pictures) and move in four directions.

Shape legend: B environments.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.picture import AGENT, looks, picture

Observe = Literal["compact", "view"]
Array = NDArray[Any]

HALF = 4
"""Rooms run from column -HALF to HALF."""
END = 13
"""Last row of a room: in the first that of the pad, as wide as the room, in the second that of the two
objects. Agents start in row 0."""
ASIDE = 1
"""Column of these objects, on either side of where an agent starts."""
EXAMPLE = (2, 9)
"""Column, on either side, and row of the object that is shown; it can't be reached."""
MOVES = np.array([(0, 1), (0, -1), (-1, 0), (1, 0)])
"""Ahead, back, left, right: columns and rows."""
ROOMS = ("first", "between", "second")
FIRST, BETWEEN, SECOND = range(3)
WIDTH, HEIGHT = 2 * HALF + 1, END + 1
"""Columns and rows of a room."""
VIEW = 7
"""Columns and rows of the view, with the agent in the middle of the lowest row."""
FLOOR, WALL, PADS, OBJECTS = range(4)
"""Symbols in the view; object i is OBJECTS + i."""
RIGHT_SHARE, CHOICES = 0.8, 100
"""A curriculum goes on when so many of the last choices, about so many, are right."""


class NonMatch:
    """B environments of the task, whose episodes begin anew by themselves.

    Args:
        num_envs: B.
        objects: different objects there are; the level has 36 (12 shapes of 3 looks).
        delay: steps between the rooms, in which there is nothing to see or to do.
        once: show the object in the first trial of an episode alone.
        redraw: show another object in each trial, so that what a choice brought tells nothing of the next.
        rewards: of the pad, of the right object, of the wrong one. Where trials are rare, -10 soon teaches
            never to choose: use 1, 10, 0.
        curriculum: begin without a delay, and lengthen it whenever four choices out of five are right.
        length: steps of an episode.
        observe: ``compact``: places and objects as a vector; ``view``: the 7 x 7 cells ahead, as symbols.

    Raises:
        UsageError: a setting is outside its range.
    """

    num_actions = len(MOVES)

    def __init__(
        self,
        num_envs: int = 1,
        *,
        objects: int = 36,
        delay: int = 0,
        once: bool = False,
        redraw: bool = False,
        rewards: tuple[float, float, float] = (1.0, 10.0, -10.0),
        curriculum: bool = False,
        length: int = 180,
        observe: Observe = "compact",
    ):
        numbers = {"objects": objects, "delay": delay, "length": length}
        if wrong := [name for name, value in numbers.items() if not isinstance(value, int)]:
            raise UsageError(f"{wrong[0]} {numbers[wrong[0]]!r} is not allowed; use a whole number")
        if not 2 <= objects <= 250:
            raise UsageError(f"objects {objects} is not allowed; use 2 to 250")
        if num_envs < 1 or delay < 0 or length < 1:
            raise UsageError(
                f"num_envs {num_envs}, delay {delay}, length {length}: use at least 1, at least 0, at least 1"
            )
        if observe not in get_args(Observe):
            raise UsageError(f"observe {observe!r} is unknown; use one of {', '.join(get_args(Observe))}")
        if len(rewards) != 3:
            raise UsageError(f"rewards {rewards}: give three, of the pad, the right object and the wrong one")
        if once and redraw:
            raise UsageError("once shows the object in the first trial, and redraw another in each; use one")
        self.num_envs, self.objects, self.delay, self.length = num_envs, objects, delay, length
        self.once, self.redraw, self.curriculum, self.observe = once, redraw, curriculum, observe
        self.rewards = np.array(rewards, np.float32)
        self.random = np.random.default_rng(0)
        self._begin_curriculum()
        self._state = {name: np.zeros(num_envs, np.int64) for name in STATE}
        self.begin(np.ones(num_envs, bool))

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one environment."""
        return (VIEW, VIEW, 1) if self.observe == "view" else (len(ROOMS) + 2 + 3 * (3 + self.objects),)

    @property
    def observation_type(self) -> type:
        """uint8 of the view, float32 of the vector."""
        return np.uint8 if self.observe == "view" else np.float32

    def reset(self, seed: int | None = None) -> Array:
        """Begins all episodes, and gives what is seen [B, ...]; with a seed the same ones again."""
        if seed is not None:
            self.random = np.random.default_rng(seed)
            self._begin_curriculum()
        self.begin(np.ones(self.num_envs, bool))
        return self.see()

    def step(
        self, actions_B: Array, *, begin_anew: bool = True
    ) -> tuple[Array, Array, Array, dict[str, Array]]:
        """One step of each environment.

        Args:
            actions_B: ahead, back, left, right as 0 to 3.
            begin_anew: begin the next episode where one ended; else call ``begin`` before the next step.

        Returns:
            What is seen [B, ...], of the next episode where that began; float32 [B] rewards; bool [B] whether
            an episode ended; and of these episodes ``right`` and ``wrong``, int64 [B], the choices made, and
            ``success``, float32 [B], the share that is right, NaN where none was made.

        Raises:
            UsageError: there are other actions.
        """
        actions_B = np.asarray(actions_B)
        known_B = (actions_B >= 0) & (actions_B < self.num_actions)
        if actions_B.shape != (self.num_envs,) or not known_B.all():
            raise UsageError(
                f"actions {actions_B.tolist()} are not allowed; give {self.num_envs} numbers from 0 to "
                f"{self.num_actions - 1}"
            )
        s = self._state
        room = s["room"].copy()
        self._move(actions_B)
        rewards_B = np.zeros(self.num_envs, np.float32)
        on_pad = (room == FIRST) & self._at_pad()
        rewards_B[on_pad] = self.rewards[0]
        s["room"][on_pad], s["wait"][on_pad] = BETWEEN, self.delay_now
        s["wait"][room == BETWEEN] -= 1
        enters = (s["room"] == BETWEEN) & (s["wait"] <= 0)
        s["room"][enters] = SECOND
        self._enter(np.flatnonzero(enters))
        side = np.where(room == SECOND, self._touched(), 0)
        took = side != 0
        wrong = took & (side == s["match_side"])
        rewards_B[took] = np.where(wrong, self.rewards[2], self.rewards[1])[took]
        s["right"][took & ~wrong] += 1
        s["wrong"][wrong] += 1
        self._learn_delay((~wrong)[took])
        s["time"] += 1
        s["trial"][took] += 1
        self._begin_trial(np.flatnonzero(took))
        ended_B = s["time"] >= self.length
        counts: dict[str, Array] = {name: np.where(ended_B, s[name], 0) for name in ("right", "wrong")}
        choices = counts["right"] + counts["wrong"]
        share = np.full(self.num_envs, np.nan, np.float32)
        counts["success"] = np.divide(counts["right"], choices, out=share, where=choices > 0)
        if begin_anew:
            self.begin(ended_B)
        return self.see(), rewards_B, ended_B, counts

    def _begin_curriculum(self) -> None:
        self.delay_now = 0 if self.curriculum else self.delay
        """Delay of trials that begin now."""
        self.right_share, self.choices = 0.5, 0
        """Of the last choices; choices since the delay last changed."""

    def _move(self, actions_B: Array) -> None:
        """Walls and the edge of the room stop an agent; between the rooms it stands still."""
        s = self._state
        across, ahead = np.where(s["room"] == BETWEEN, 0, MOVES[actions_B].T)
        s["x"] = (s["x"] + across).clip(-HALF, HALF)
        s["y"] = (s["y"] + ahead).clip(0, END)
        shown = (s["room"] == FIRST) & (s["x"] == EXAMPLE[0] * s["example_side"]) & (s["y"] == EXAMPLE[1])
        s["x"][shown] -= MOVES[actions_B[shown], 0]
        s["y"][shown] -= MOVES[actions_B[shown], 1]

    def _at_pad(self) -> Array:
        """bool [B], in the first room."""
        return self._state["y"] == END

    def _touched(self) -> Array:
        """int [B]: the side of the object that is reached in the second room, -1 or 1, or 0."""
        x, y = self._state["x"], self._state["y"]
        return np.where((y == END) & (np.abs(x) == ASIDE), np.sign(x), 0)

    def _enter(self, rows: Array) -> None:
        """Puts these agents where a room begins."""
        self._state["x"][rows] = self._state["y"][rows] = 0

    def begin(self, ended_B: Array) -> None:
        """The next episode, of the environments where this is True."""
        rows = np.flatnonzero(ended_B)
        for name in ("time", "trial", "right", "wrong"):
            self._state[name][rows] = 0
        self._state["match"][rows] = self.random.integers(self.objects, size=len(rows))
        self._begin_trial(rows)

    def _begin_trial(self, rows: Array) -> None:
        """The first room again: all that is not the episode's is drawn anew."""
        s, n = self._state, len(rows)
        if not n:
            return
        for name in ("room", "wait"):
            s[name][rows] = 0
        if self.redraw:
            s["match"][rows] = self.random.integers(self.objects, size=n)
        s["other"][rows] = (s["match"][rows] + self.random.integers(1, self.objects, size=n)) % self.objects
        for name in ("example_side", "match_side"):
            s[name][rows] = self.random.choice([-1, 1], size=n)
        self._enter(rows)

    def _learn_delay(self, right: Array) -> None:
        """Lengthens the delay of a curriculum, by a tenth at least, when choices are right."""
        if not self.curriculum or self.delay_now >= self.delay:
            return
        for is_right in right:
            self.right_share += (is_right - self.right_share) / CHOICES
        self.choices += len(right)
        if self.choices >= CHOICES and self.right_share >= RIGHT_SHARE:
            self.delay_now = min(self.delay_now + max(1, self.delay // 10), self.delay)
            self.right_share, self.choices = 0.5, 0

    def see(self) -> Array:
        """What each agent sees now [B, ...]."""
        return self._view() if self.observe == "view" else self._vector()

    def _things(self) -> list[tuple[Array, Array, Array, Array]]:
        """What may lie in a room: whether it does [B], its column, its row, its object."""
        s = self._state
        shown = (s["room"] == FIRST) & ((s["trial"] == 0) | (not self.once))
        second, side = s["room"] == SECOND, s["match_side"]
        left, right = (np.where(side == which, s["match"], s["other"]) for which in (-1, 1))
        column, row = np.full_like(side, ASIDE), np.full_like(side, END)
        return [
            (shown, EXAMPLE[0] * s["example_side"], np.full_like(row, EXAMPLE[1]), s["match"]),
            (second, -column, row, left),
            (second, column, row, right),
        ]

    def _vector(self) -> Array:
        """float32 [B, 3 + 2 + 3 (3 + objects)].

        The room; the way to its end; of the shown, the left and the right object whether it is there, the way
        to it, and which it is.
        """
        s = self._state
        seen = np.zeros((self.num_envs, *self.observation_shape), np.float32)
        seen[np.arange(self.num_envs), s["room"]] = 1
        inside = s["room"] != BETWEEN
        seen[:, 3], seen[:, 4] = s["x"] / HALF * inside, (END - s["y"]) / END * inside
        for i, (there, column, row, what) in enumerate(self._things()):
            rows, at = np.flatnonzero(there), 5 + i * (3 + self.objects)
            seen[rows, at] = 1
            seen[rows, at + 1] = (column - s["x"])[rows] / HALF
            seen[rows, at + 2] = (row - s["y"])[rows] / END
            seen[rows, at + 3 + what[rows]] = 1
        return seen

    def _view(self) -> Array:
        """uint8 [B, 7, 7, 1] symbols, the farthest row first."""
        s = self._state
        across = s["x"][:, None] + np.arange(-(VIEW // 2), VIEW // 2 + 1)
        ahead = s["y"][:, None] + np.arange(VIEW)[::-1]
        inside = (np.abs(across) <= HALF)[:, None] & (ahead <= END)[:, :, None]
        seen = np.where(inside, FLOOR, WALL)
        pad = (s["room"] == FIRST)[:, None, None] & inside & (ahead == END)[:, :, None]
        seen[pad] = PADS
        for there, column, row, what in self._things():
            here = (across == column[:, None])[:, None] & (ahead == row[:, None])[:, :, None]
            seen = np.where(here & there[:, None, None], OBJECTS + what[:, None, None], seen)
        seen[s["room"] == BETWEEN] = FLOOR
        return seen[..., None].astype(np.uint8)

    def best_actions(self) -> Array:
        """int64 [B]: what a perfect agent does, which knows what was shown."""
        s = self._state
        column = np.where(s["room"] == SECOND, -ASIDE * s["match_side"], 0)
        return np.where(s["x"] == column, 0, np.where(s["x"] > column, 2, 3))

    def state(self) -> dict[str, Any]:
        """All that decides what comes: arrays by name, and the rest as JSON has it."""
        facts = {
            "random": self.random.bit_generator.state,
            "delay_now": self.delay_now,
            "right_share": float(self.right_share),
            "choices": self.choices,
        }
        return {"arrays": {name: x.copy() for name, x in self._state.items()}, "facts": facts}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was taken."""
        facts = state["facts"]
        self._state = {name: np.array(state["arrays"][name], np.int64) for name in STATE}
        self.random.bit_generator.state = facts["random"]
        self.delay_now, self.right_share = facts["delay_now"], facts["right_share"]
        self.choices = facts["choices"]

    def render(self, row: int = 0, cell: int = 12) -> Array:
        """uint8 [height, width, 3]: one environment from above.

        Args:
            row: which.
            cell: side of a cell in pixels.
        """
        s = {name: x[row] for name, x in self._state.items()}
        if s["room"] == BETWEEN:
            return picture(WIDTH, HEIGHT, cell)
        things = [
            (column[row] + HALF, y[row], looks(what[row], self.objects))
            for there, column, y, what in self._things()
            if there[row]
        ]
        agent = (s["x"] + HALF, s["y"], AGENT)
        return picture(WIDTH, HEIGHT, cell, [*things, agent], inside=True, pad=s["room"] == FIRST)


STATE = (
    "time",
    "trial",
    "room",
    "x",
    "y",
    "wait",
    "match",
    "other",
    "example_side",
    "match_side",
    "right",
    "wrong",
)
"""Names of the arrays [B] that an environment is."""
