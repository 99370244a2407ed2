"""One picture of one run or of several: a panel for each thing that they have records of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from compressive_transformer.report import panels
from compressive_transformer.report.runs import Run
from compressive_transformer.report.summary import summarize

STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": "0.92",
    "font.size": 9,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.7,
    "legend.fontsize": 8,
}
PANEL = (4.4, 3.2)
"""Inches."""
Drawing = Callable[[Axes, Sequence[Run]], None]
OTHERS = (
    panels.draw_attention,
    panels.draw_compression,
    panels.draw_throughput,
    panels.draw_gradients,
    panels.draw_memory,
)


def draw(runs: Sequence[Run]) -> Figure:
    """Draws all panels that have something to show; of runs of agents, those of agents."""
    drawings = _of_agents() if runs[0].is_agent else _of_models(runs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        kept = [axes for drawing in drawings if (axes := _drawn(drawing, figure, runs))]
        columns = min(max(len(kept), 1), min((3, 4), key=lambda number: -len(kept) % number))
        rows = max(-(-len(kept) // columns), 1)
        figure.set_size_inches(max(PANEL[0] * columns, 6), PANEL[1] * rows + 0.5)
        grid = figure.add_gridspec(rows, columns)
        for i, axes in enumerate(kept):
            axes.set_subplotspec(grid[i])
        _title(figure, runs, nothing=not kept)
    return figure


def _of_models(runs: Sequence[Run]) -> list[Drawing]:
    units = list(dict.fromkeys(run.unit for run in runs))
    losses = [partial(panels.draw_loss, unit=unit, x=x) for x, unit in product(("tokens", "seconds"), units)]
    apart = dict.fromkeys(run.measure for run in runs if run.unit not in panels.SAME)
    validation = [partial(panels.draw_validation, measure=measure) for measure in apart]
    return [*losses, *validation, *OTHERS]


def _of_agents() -> list[Drawing]:
    returns = [partial(panels.draw_return, x=x) for x in ("tokens", "seconds")]
    return [*returns, *(partial(panels.draw_of_agent, what=what) for what in panels.OF_AGENTS)]


def _drawn(drawing: Drawing, figure: Figure, runs: Sequence[Run]) -> Axes | None:
    """The axes with the panel, or None if it had nothing to show."""
    axes = figure.add_subplot()
    drawing(axes, runs)
    if axes.has_data():
        return axes
    axes.remove()
    return None


def _title(figure: Figure, runs: Sequence[Run], *, nothing: bool) -> None:
    if len(runs) > 1:
        handles = [
            Line2D([], [], color=panels.color_of(runs, run), lw=3, label=summarize(run).label) for run in runs
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(runs), 5), fontsize=10)
    else:
        title = summarize(runs[0]).title
        figure.suptitle(f"{title}  ·  no records yet" if nothing else title, fontsize=12)
