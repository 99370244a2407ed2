"""Gymnasium's environments, in this process or shared out among several.

A process that dies is started once more: the episodes of its environments end there, and it is named. What an
environment gives is looked at before an agent gets it.

Shape legend: B environments of a process or of all.
"""

from __future__ import annotations

import contextlib
import difflib
import multiprocessing
import signal
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.envs import EXTRA, NONMATCH, OWN, Moment
from compressive_transformer.rl.spaces import spaces_of

Array = NDArray[Any]
LARGE_PRIME = 100_003
"""By which the seeds of a process that was started again differ."""


class GymEnvs:
    """B gymnasium environments. An episode succeeds if ``is_success`` or ``success`` says so at its end, or
    else if its rewards add up to more than 0.

    Args:
        name: as ``gymnasium.make`` takes it; ``MODULE:NAME`` imports a module first.
        settings: of the environment.
        num_envs: B.
        workers: processes; 0 runs all in this one.
        seed: decides all episodes.
    """

    def __init__(
        self, name: str, settings: dict[str, Any], *, num_envs: int, workers: int = 0, seed: int = 0
    ):
        self.name, self.num_envs, self.seed = name, num_envs, seed
        shares = np.array_split(np.arange(num_envs), max(workers, 1))
        make = _Remote if workers else _Group
        # One here first: what is wrong with an environment is told before any process is started.
        first = _Group(name, settings, [0])
        first.close()
        self.spaces = first.spaces
        self.groups = [make(name, settings, share.tolist()) for share in shares]

    def reset(self, at: int = 0) -> Array:
        seeds = np.random.SeedSequence((self.seed, at)).generate_state(self.num_envs)
        return np.concatenate(self._all("reset", [(part.tolist(),) for part in self._shared(seeds)]))

    def step(self, actions: Array) -> Moment:
        moments = self._all("step", [(part,) for part in self._shared(np.asarray(actions))])
        return Moment(*(np.concatenate(parts) for parts in zip(*moments, strict=True)))

    def state(self) -> None:
        """Gymnasium has no way to save an environment."""
        return None

    def load_state(self, state: dict[str, Any]) -> None:
        raise UsageError(f"{self.name} can't be put back to where it was; its episodes begin anew")

    def render(self) -> Any:
        """A picture of the first, where all run in this process and ``render_mode`` is ``rgb_array``."""
        group = self.groups[0]
        assert isinstance(group, _Group)
        with group.named():
            return group.envs[0].render()

    def close(self) -> None:
        for group in self.groups:
            group.close()

    def _shared(self, values: Array) -> list[Array]:
        """What is each group's of the values of all environments."""
        return np.split(values, np.cumsum([len(group.rows) for group in self.groups])[:-1])

    def _all(self, what: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Asks all groups first, then waits for each."""
        for group, given in zip(self.groups, arguments, strict=True):
            group.ask(what, *given)
        return [group.answer() for group in self.groups]


class _Group:
    """Environments one after the other, in this process.

    Args:
        name, settings: as for ``GymEnvs``.
        rows: the environments' numbers among all.
    """

    def __init__(self, name: str, settings: dict[str, Any], rows: list[int]):
        self.name, self.rows = name, rows
        self.envs = [_make(name, settings) for _ in rows]
        self.spaces, self.read, self.say = spaces_of(name, self.envs[0])
        self.returns = np.zeros(len(rows))
        self._answer: Any = None

    def reset(self, seeds: list[int]) -> Array:
        """Begins all episodes, by the seeds."""
        self.returns[:] = 0
        with self.named():
            seen = [env.reset(seed=seed)[0] for env, seed in zip(self.envs, seeds, strict=True)]
        return np.stack([self._seen(x, row) for x, row in zip(seen, self.rows, strict=True)])

    def step(self, actions: Array) -> Moment:
        """One step of each."""
        steps = (self._step(i, action) for i, action in enumerate(actions))
        return Moment(*(np.stack(parts) for parts in zip(*steps, strict=True)))

    def _step(self, i: int, action: Any) -> tuple[Any, ...]:
        env, row = self.envs[i], self.rows[i]
        with self.named():
            seen, reward, terminated, truncated, info = env.step(self.say(action))
        if not np.isfinite(reward):
            raise UsageError(f"environment {row} of {self.name} gave the reward {reward}; mend it")
        self.returns[i] += reward
        ended, success = bool(terminated or truncated), np.nan
        if ended:
            told = info.get("is_success", info.get("success", self.returns[i] > 0))
            success = np.nan if told is None else float(told)
            self.returns[i] = 0
            with self.named():
                seen, _ = env.reset()
        limited = ended and not terminated
        flags = np.bool_(ended), np.bool_(limited)
        return self._seen(seen, row), np.float32(reward), *flags, np.float32(success), np.bool_(False)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Tells of what fails in an environment that we don't know."""
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {_line(error)}"
            raise UsageError(f"an environment of {self.name} failed ({reason}); mend it") from None

    def _seen(self, seen: Any, row: int) -> Array:
        try:
            x = self.read(seen)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UsageError(
                f"environment {row} of {self.name} gave an observation that is not in its space "
                f"({_line(error)}); mend it"
            ) from None
        if x.shape != self.spaces.observation_shape:
            raise UsageError(
                f"environment {row} of {self.name} gave an observation of shape {x.shape}, its space says "
                f"{self.spaces.observation_shape}; mend it"
            )
        if not self.spaces.symbols and not np.isfinite(x).all():
            raise UsageError(
                f"environment {row} of {self.name} gave an observation that is no number; mend it"
            )
        return x

    def ask(self, what: str, *arguments: Any) -> None:
        """Does it at once."""
        self._answer = getattr(self, what)(*arguments)

    def answer(self) -> Any:
        """What was asked for."""
        return self._answer

    def close(self) -> None:
        """Closes the environments."""
        for env in self.envs:
            env.close()


class _Remote:
    """A group in a process of its own.

    Args:
        name, settings, rows: as for ``_Group``.
    """

    def __init__(self, name: str, settings: dict[str, Any], rows: list[int]):
        self.name, self.settings, self.rows = name, settings, rows
        self.seeds: list[int] = []
        """Of the last reset."""
        self.restarted = False
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads, and hang
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, self.name, self.settings, self.rows)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()  # or its death would go unnoticed
        self.asked = ""

    @property
    def who(self) -> str:
        """The process and its environments."""
        return (
            f"process {self.process.pid} with environments {self.rows[0]} to {self.rows[-1]} of {self.name}"
        )

    def ask(self, what: str, *arguments: Any) -> None:
        """Sends what is to be done."""
        self.asked = what
        if what == "reset":
            (self.seeds,) = arguments
        with contextlib.suppress(OSError):  # it died: ``answer`` will see
            self.pipe.send((what, *arguments))

    def answer(self) -> Any:
        """Waits for what was asked for.

        Raises:
            UsageError: an environment refused, or the process died for the second time.
        """
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError):
            return self._again()
        if kind == "error":
            raise UsageError(value)
        return value

    def _again(self) -> Any:
        """Starts a process that died once more, at the beginning of other episodes."""
        self.process.join()
        if self.restarted:
            raise UsageError(
                f"{self.who} died again (exit code {self.process.exitcode}); mend the environment, or run it "
                "with fewer workers if memory is short"
            )
        warnings.warn(
            f"{self.who} died (exit code {self.process.exitcode}) and was started again; its episodes ended",
            stacklevel=4,
        )
        asked, self.restarted = self.asked, True
        self._start()
        self.ask("reset", [seed + LARGE_PRIME for seed in self.seeds])
        seen = self.answer()
        n = len(self.rows)
        if asked == "reset":
            return seen
        ended = np.ones(n, bool)
        return Moment(seen, np.zeros(n, np.float32), ended, ended, np.full(n, np.nan, np.float32), ended)

    def close(self) -> None:
        """Ends the process."""
        self.pipe.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: Connection, name: str, settings: dict[str, Any], rows: list[int]) -> None:
    """What a process does until its pipe is closed. Signals are for who asks: it finishes its window."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        group = _Group(name, settings, rows)
        while True:
            what, *arguments = pipe.recv()
            try:
                pipe.send(("done", getattr(group, what)(*arguments)))
            except UsageError as error:
                pipe.send(("error", str(error)))
    except (EOFError, BrokenPipeError):
        return


def _make(name: str, settings: dict[str, Any]) -> Any:
    """One environment.

    Raises:
        UsageError: gymnasium is missing, or has no such environment, or the settings are others.
    """
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise UsageError(f"environment {name!r} needs gymnasium: {EXTRA}") from None
    try:
        return gymnasium.make(name, disable_env_checker=True, **settings)  # we look ourselves
    except gymnasium.error.Error as error:
        near = difflib.get_close_matches(name, [NONMATCH, *OWN, *gymnasium.registry], 1)
        hint = f"did you mean {near[0]!r}?" if near else "install the package that has it, or use MODULE:NAME"
        raise UsageError(f"environment {name!r} can't be made ({_line(error)}); {hint}") from None
    except UsageError:
        raise
    except Exception as error:  # of an environment that we don't know
        raise UsageError(f"environment {name!r} can't be made ({_line(error)}); see its options") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
