"""What the records of a run tell: its curves and its summary."""

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
from compressive_transformer.evaluate import key_of, measure_of
from compressive_transformer.train.log import read_metrics

Records = list[dict[str, Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run as its records tell it, whatever they leave out."""

    path: Path
    name: str
    unit: str
    """What a token stands for."""
    records: Records

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
        """Where on the axis, ``tokens`` or ``seconds``, the records of one kind lie, by their steps."""
        along = self.series("train", axis)
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
        UsageError: a folder has no metrics, or broken ones.
    """
    runs = [_read_run(run_folder(path)) for path in paths]
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


def _read_run(path: Path) -> Run:
    if is_agent_run(path):
        raise UsageError(
            f"{path} is the run of an agent, of which there is no report; its curves are in metrics.jsonl, "
            "and 'compressive evaluate' scores it"
        )
    records = read_metrics(path)
    try:
        unit = run_tokenizer(path, read_config(path)).unit
    except UsageError:
        unit = "token"
    return Run(path=path, name=path.resolve().name, unit=unit, records=records)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in a line; None is what it has no record of."""

    run: str
    unit: str
    steps: int | None
    tokens: int | None
    hours: float | None
    tokens_per_second: float | None
    """Median over the records."""
    training_bits_per_token: float | None
    """Of the last record."""
    measure: str
    """Of the two that follow."""
    best_excerpt: float | None
    validation: float | None
    """At the end of training."""
    validation_whole: bool | None
    """False if an interrupted run read an excerpt only."""
    attention: dict[str, float] | None
    """Share of each tier at the end of training."""
    spikes: int
    skipped: int
    resumes: int


def summarize(run: Run) -> Summary:
    """The numbers by which runs are compared."""
    train, validation = run.of("train")[-1:], run.of("validation")[-1:]
    last = train[0] if train else {}
    hours = run.at("train", "seconds")[-1:] / 3600
    return Summary(
        run=run.name,
        unit=run.unit,
        steps=last.get("step"),
        tokens=last.get("tokens"),
        hours=_finite(hours, np.max),
        tokens_per_second=_finite(run.series("train", "tokens_per_second"), np.median),
        training_bits_per_token=last.get("bits_per_token"),
        measure=run.measure,
        best_excerpt=_finite(run.series("excerpt", key_of(run.measure)), np.min),
        validation=validation[0].get(key_of(run.measure)) if validation else None,
        validation_whole=validation[0].get("whole", True) if validation else None,
        attention={tier: sum(shares) for tier, shares in buckets(run).items()} or None,
        spikes=len(run.of("spike")),
        skipped=len(run.of("skipped")),
        resumes=len(run.of("resume")),
    )


def buckets(run: Run) -> dict[str, list[float]]:
    """Attention to the parts of each tier, as measured last; empty if it never was."""
    return next((r["buckets"] for r in reversed(run.of("attention")) if r["buckets"]), {})


def _finite(values: Array, choose: Any) -> float | None:
    values = values[np.isfinite(values)]
    return float(choose(values)) if len(values) else None


def describe(summaries: Sequence[Summary]) -> str:
    """A table: a line for each run."""
    head = ("run", "steps", "tokens", "hours", "tokens/s", "training", "best excerpt", "validation")
    rows = [head, *map(_row, summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _row(s: Summary) -> tuple[str, ...]:
    whole = "" if s.validation_whole is not False else " (excerpt)"
    return (
        s.run,
        _text(s.steps, ","),
        _text(s.tokens, ","),
        _text(s.hours, ".2f"),
        _text(s.tokens_per_second, ",.0f"),
        _text(s.training_bits_per_token, ".3f", f" bits/{s.unit}"),
        _text(s.best_excerpt, ".3f", f" {_short(s.measure)}"),
        _text(s.validation, ".3f", f" {_short(s.measure)}{whole}"),
    )


def _short(measure: str) -> str:
    return measure.replace(" per ", "/")


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
