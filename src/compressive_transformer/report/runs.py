"""What the records of a run tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compressive_transformer.checkpoint import is_agent_run, read_config, run_folder, run_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import measure_of
from compressive_transformer.train.log import read_metrics

Records = list[dict[str, Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run as its records tell it, whatever they leave out."""

    path: Path
    name: str
    unit: str
    """What a token stands for; of an agent ``step``."""
    records: Records
    is_agent: bool = False

    @property
    def measure(self) -> str:
        """What validation is told in."""
        return measure_of(self.unit)

    def of(self, event: str) -> Records:
        """The records of one kind."""
        return [r for r in self.records if r["event"] == event]

    def series(self, event: str, *keys: str | int) -> Array:
        """A number of each record, found by one key inside the other; NaN where there is none."""
        return np.array([_number(r, keys) for r in self.of(event)], np.float64)

    def at(self, event: str, axis: str) -> Array:
        """Where the records of one kind lie on the axis ``tokens`` (of an agent its steps) or ``seconds``."""
        along = self.series("train", "step" if self.is_agent and axis == "tokens" else axis)
        if axis == "seconds":
            along = _without_restarts(along)
        steps = self.series("train", "step")
        if not len(steps):
            return np.full(len(self.of(event)), np.nan)
        return np.interp(self.series(event, "step"), np.append(0, steps), np.append(0, along))


def _number(value: Any, keys: Sequence[str | int]) -> float:
    try:
        for key in keys:
            value = value[key]
        return float(value)
    except (LookupError, TypeError, ValueError):
        return math.nan


def _without_restarts(seconds: Array) -> Array:
    """Time that goes on where a process began to count anew."""
    passed = np.diff(seconds, prepend=0)
    return np.where(passed < 0, seconds, passed).cumsum()


def read_runs(paths: Sequence[str | Path]) -> list[Run]:
    """Reads run folders. Runs are named after their folders, or by whole paths where these are the same.

    Raises:
        UsageError: a folder has no metrics, or broken ones; or agents stand beside models.
    """
    runs = [_read_run(run_folder(path)) for path in paths]
    agents, models = ([run.path for run in runs if run.is_agent == kind] for kind in (True, False))
    if agents and models:
        raise UsageError(f"{agents[0]} is an agent's run and {models[0]} a model's; report them apart")
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _read_run(path: Path) -> Run:
    records, name = read_metrics(path), path.resolve().name
    if is_agent_run(path):
        return Run(path=path, name=name, unit="step", records=records, is_agent=True)
    try:
        unit = run_tokenizer(path, read_config(path)).unit
    except UsageError:
        unit = "token"
    return Run(path=path, name=name, unit=unit, records=records)


def buckets(run: Run) -> dict[str, list[float]]:
    """Attention to the parts of each tier, as measured last; empty if it never was."""
    return next((r["buckets"] for r in reversed(run.of("attention")) if r["buckets"]), {})
