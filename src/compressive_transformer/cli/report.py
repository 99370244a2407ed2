"""``compressive report``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.report import draw_report, read_runs
from compressive_transformer.report.summary import describe, summarize


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draw and compare runs, finished or not: loss, compression, attention, speed; of agents returns."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders; 'reference' is the model that comes with the package."""
    out: str | None = None
    """Picture: .png, .svg or .pdf; if not given, figures/report.png in the folder of a single run, and
    report.png here for several."""
    json: bool = False
    """Answer for programs."""


def main(arguments: Sequence[str]) -> None:
    """Prints a table of runs and draws their picture."""
    a = parse(Arguments, arguments, verb="report")
    if not a.runs:
        raise UsageError("no run is given; name one or more run folders")
    runs = read_runs(a.runs)
    summaries = [summarize(run) for run in runs]
    print(json.dumps([asdict(s) for s in summaries], indent=2) if a.json else describe(summaries))
    picture = draw_report(runs, a.out)
    if not a.json:
        print(f"Picture: {picture}")
