"""A run in a line: the numbers by which runs are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from compressive_transformer.evaluate import key_of
from compressive_transformer.report.runs import Array, Run, buckets


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A model's run; None is what it has no record of."""

    HEAD: ClassVar = (
        *("run", "steps", "tokens", "hours", "tokens/s"),
        *("training", "best excerpt", "validation"),
    )

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

    @property
    def row(self) -> tuple[str, ...]:
        """What stands below ``HEAD``."""
        whole = "" if self.validation_whole is not False else " (excerpt)"
        measure = self.measure.replace(" per ", "/")
        return (
            self.run,
            _text(self.steps, ","),
            _text(self.tokens, ","),
            _text(self.hours, ".2f"),
            _text(self.tokens_per_second, ",.0f"),
            _text(self.training_bits_per_token, ".3f", f" bits/{self.unit}"),
            _text(self.best_excerpt, ".3f", f" {measure}"),
            _text(self.validation, ".3f", f" {measure}{whole}"),
        )

    @property
    def title(self) -> str:
        """Over the picture of the run alone."""
        steps = (
            [f"{self.steps:,} steps", f"{self.tokens:,} {self.unit}s"] if self.steps and self.tokens else []
        )
        return "  ·  ".join([self.run, *steps])

    @property
    def label(self) -> str:
        """In the legend of several runs."""
        return self.run if self.validation is None else f"{self.run}: {self.validation:.3f} {self.measure}"


@dataclass(frozen=True, kw_only=True)
class AgentSummary:
    """An agent's run; None is what it has no record of."""

    HEAD: ClassVar = ("run", "steps", "hours", "steps/s", "return in training", "return", "success")

    run: str
    steps: int | None
    """Of all environments together."""
    hours: float | None
    steps_per_second: float | None
    """Median over the records."""
    training_return: float | None
    """Mean over the last tenth of the records."""
    env: str | None
    """That the following are scores in."""
    mean_return: float | None
    """Of new episodes, at the end of training."""
    interval: float | None
    """Half the width of its 95 % interval."""
    success: float | None
    resumes: int

    @property
    def row(self) -> tuple[str, ...]:
        """What stands below ``HEAD``."""
        return (
            self.run,
            _text(self.steps, ","),
            _text(self.hours, ".2f"),
            _text(self.steps_per_second, ",.0f"),
            _text(self.training_return, ".2f"),
            _text(self.mean_return, ".2f") + ("" if self.interval is None else f" ± {self.interval:.2f}"),
            _text(self.success, ".0%"),
        )

    @property
    def title(self) -> str:
        """Over the picture of the run alone."""
        steps = "" if self.steps is None else f"{self.steps:,} steps"
        return "  ·  ".join(fact for fact in (self.run, self.env, steps) if fact)

    @property
    def label(self) -> str:
        """In the legend of several runs."""
        return self.run if self.mean_return is None else f"{self.run}: return {self.mean_return:.2f}"


def summarize(run: Run) -> Summary | AgentSummary:
    """What the records of a run come to."""
    return _of_agent(run) if run.is_agent else _of_model(run)


def _of_model(run: Run) -> Summary:
    last, validation = _last(run, "train"), _last(run, "validation")
    return Summary(
        run=run.name,
        unit=run.unit,
        steps=last.get("step"),
        tokens=last.get("tokens"),
        hours=_finite(run.at("train", "seconds")[-1:] / 3600, np.max),
        tokens_per_second=_finite(run.series("train", "tokens_per_second"), np.median),
        training_bits_per_token=last.get("bits_per_token"),
        measure=run.measure,
        best_excerpt=_finite(run.series("excerpt", key_of(run.measure)), np.min),
        validation=validation.get(key_of(run.measure)),
        validation_whole=validation.get("whole", True) if validation else None,
        attention={tier: sum(shares) for tier, shares in buckets(run).items()} or None,
        spikes=len(run.of("spike")),
        skipped=len(run.of("skipped")),
        resumes=len(run.of("resume")),
    )


def _of_agent(run: Run) -> AgentSummary:
    returns, score = run.series("train", "episode_return"), _last(run, "score")
    return AgentSummary(
        run=run.name,
        steps=_last(run, "train").get("step"),
        hours=_finite(run.at("train", "seconds")[-1:] / 3600, np.max),
        steps_per_second=_finite(run.series("train", "steps_per_second"), np.median),
        training_return=_finite(returns[-max(len(returns) // 10, 1) :], np.mean),
        env=score.get("env"),
        mean_return=score.get("mean_return"),
        interval=score.get("interval"),
        success=score.get("success"),
        resumes=len(run.of("resume")),
    )


def _last(run: Run, event: str) -> dict[str, Any]:
    return (run.of(event) or [{}])[-1]


def _finite(values: Array, choose: Any) -> float | None:
    values = values[np.isfinite(values)]
    return float(choose(values)) if len(values) else None


def describe(summaries: Sequence[Summary | AgentSummary]) -> str:
    """A table: a line for each run."""
    rows = [summaries[0].HEAD, *(summary.row for summary in summaries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _text(value: float | None, form: str, unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"
