"""The panels of a picture; one that the runs have no records of stays empty.

A single run gives each of its curves a colour; several runs have one colour each, and tell their curves apart
by the stroke.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from compressive_transformer.analysis import TIERS
from compressive_transformer.evaluate import key_of
from compressive_transformer.report.runs import Array, Run, buckets

COLORS = {"compressed": "#7b3294", "recent": "#2c7bb6", "window": "#1a9850"}
ALONE = {
    "training": "#2b4c7e",
    "validation": "#d7191c",
    "model": "#2b4c7e",
    "compressors": "#7b3294",
    "environment": "#1a9850",
    "acting": "#2c7bb6",
    "learning": "#7b3294",
} | COLORS
"""Colours of a single run's curves."""
STROKES = ("-", "--", ":", "-.")
MARKS = {
    "spike": ("spike", "^", "", 0.035, "#d7191c"),
    "skipped": ("skipped update", "x", "", 0.085, "#e66101"),
    "resume": ("resumed", "", ":", 0, "0.3"),
}
"""Label, sign, stroke, height and colour of what is marked below a loss."""
UNITS = {"hours": 3600, "minutes": 60, "seconds": 1}
Parts = Mapping[str, tuple[str | int, ...]]
"""Curves of a run by their labels, and the keys by which a training record has them."""


def color_of(runs: Sequence[Run], run: Run) -> str:
    """The colour that stands for a run in all panels."""
    if len(runs) == 1:
        return ALONE["training"]
    colors = matplotlib.colormaps["tab10" if len(runs) <= 10 else "turbo"]
    at = runs.index(run)
    return to_hex(colors(at if len(runs) <= 10 else (at + 0.5) / len(runs)))


SAME = ("byte", "sample")
"""Kinds of tokens whose training loss is in the measure of their validation."""


def draw_loss(axes: Axes, runs: Sequence[Run], unit: str, x: str) -> None:
    """Training loss of the runs with this kind of token; validation too, if it has the same unit."""
    alike = [run for run in runs if run.unit == unit]
    heights = []
    for run in alike:
        color = color_of(runs, run)
        _curve(axes, run.at("train", x), run.series("train", "bits_per_token"), color)
        heights.append(run.series("train", "bits_per_token"))
        if unit in SAME:
            heights += _scores(axes, runs, run, x)
    if unit in SAME and len(runs) == 1:
        _compressors(axes, runs[0])
    _limit(axes, np.concatenate(heights))
    marks = _marks(axes, runs, alike, x)
    if x == "tokens":
        axes.legend(handles=[*_kinds(runs, unit), *marks], loc="upper right")
    _along(axes, alike, x)
    axes.set(title=f"Loss over {'tokens' if x == 'tokens' else 'time'}", ylabel=f"bits per {unit}")


def _kinds(runs: Sequence[Run], unit: str) -> list[Line2D]:
    """What the strokes and signs of a loss panel stand for."""
    kinds = [("training", "training", "-", ""), ("validation excerpt", "validation", "-", "o")]
    kinds += [("validation", "validation", "", "*")]
    return [
        Line2D([], [], color=ALONE[color] if len(runs) == 1 else "0.3", ls=ls, marker=m, mfc="w", label=label)
        for label, color, ls, m in (kinds if unit in SAME else kinds[:1])
    ]


def draw_validation(axes: Axes, runs: Sequence[Run], measure: str) -> None:
    """Validation in a measure in which runs with different kinds of tokens can be compared."""
    alike = [run for run in runs if run.measure == measure]
    for run in alike:
        _scores(axes, runs, run, "tokens")
    _along(axes, alike, "tokens")
    axes.set(title="Validation over tokens", ylabel=measure)


def _scores(axes: Axes, runs: Sequence[Run], run: Run, x: str) -> list[Array]:
    """Validation excerpts as a line, and the final validation as a star at its end."""
    color = ALONE["validation"] if len(runs) == 1 else color_of(runs, run)
    key = key_of(run.measure)
    excerpts, ends = run.series("excerpt", key), run.series("validation", key)[-1:]
    if np.isfinite(excerpts).any():
        axes.plot(run.at("excerpt", x), excerpts, "-o", color=color, lw=1, ms=5, mfc="w", zorder=3)
    end = run.at("train", x)[-1:]
    if len(end) and np.isfinite(ends).any():
        axes.plot(end, ends, "*", color=color, ms=10, mec="w", mew=0.5, zorder=4)
        if len(runs) == 1:  # of several, the numbers would cover each other: the legend has them
            beside = {"xytext": (0, 8), "textcoords": "offset points", "annotation_clip": True}
            axes.annotate(
                f"{ends[0]:.3f}", (end[0], ends[0]), **beside, ha="right", color=color, weight="bold"
            )
    return [excerpts, ends]


def _compressors(axes: Axes, run: Run) -> None:
    """What general compressors need for the validation text."""
    for record in run.of("validation")[-1:]:
        for name, bits in record.get("compressors", {}).items():
            axes.axhline(bits, color="0.7", lw=0.8, ls=(0, (4, 3)), zorder=0)
            # One that lies outside of the axes is not named: it would take all the room for itself.
            at_left = {"xycoords": ("axes fraction", "data"), "annotation_clip": True}
            axes.annotate(name, (0.01, bits), **at_left, va="bottom", fontsize=7, color="0.45")


def _limit(axes: Axes, values: Array) -> None:
    """Leaves the steep beginning out, which would flatten all the rest."""
    values = values[np.isfinite(values)]
    if len(values):
        low, high = values.min(), min(np.quantile(values, 0.9), values.min() + 3)
        margin = max(0.08 * (high - low), 0.02)
        axes.set_ylim(low - 1.5 * margin, high + margin)


def _marks(axes: Axes, runs: Sequence[Run], shown: Sequence[Run], x: str) -> list[Line2D]:
    """Spikes and skipped updates at the lower edge, resumes as lines; what the legend says of them."""
    legend = []
    for event, (label, sign, stroke, height, color) in MARKS.items():
        places = [(run, at) for run in shown for at in run.at(event, x) if np.isfinite(at)]
        for run, at in places:
            own = color if len(runs) == 1 else color_of(runs, run)
            if sign:
                axes.plot(at, height, sign, color=own, ms=6, transform=axes.get_xaxis_transform(), zorder=4)
            else:
                axes.axvline(at, color=own, ls=stroke, lw=0.9)
        if places:
            own = color if len(runs) == 1 else "0.3"
            legend.append(Line2D([], [], color=own, marker=sign, ls=stroke, label=f"{label} ({len(places)})"))
    return legend


def draw_attention(axes: Axes, runs: Sequence[Run]) -> None:
    """Where attention goes, as the paper's Figure 2, with the sum of each tier."""
    found = {run: buckets(run) for run in runs}
    tiers = [tier for tier in TIERS if any(tier in shares for shares in found.values())]
    if not tiers:
        return
    start = 0
    for tier in tiers:
        length = max(len(shares.get(tier, [])) for shares in found.values())
        axes.axvspan(start - 0.5, start + length - 0.5, color=COLORS[tier], alpha=0.07, lw=0)
        shown = {run: found[run][tier] for run in runs if tier in found[run]}
        _tier(axes, runs, tier, np.arange(start, start + length, dtype=np.float64), shown)
        start += length + 1
    axes.set_ylim(0, axes.dataLim.ymax * (1.25 + 0.08 * len(runs)))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xticks([])
    axes.set(title="Attention", xlabel="slots, oldest to newest", ylabel="share of attention")


def _tier(
    axes: Axes, runs: Sequence[Run], tier: str, places: Array, found: Mapping[Run, Sequence[float]]
) -> None:
    """The parts of a tier: as bars, or of several runs as curves; and above, what they come to."""
    above = {"ha": "center", "va": "top", "transform": axes.get_xaxis_transform()}
    axes.text(places.mean(), 0.99, tier, color=COLORS[tier], weight="bold", **above)
    for i, (run, shares) in enumerate(found.items()):
        color = COLORS[tier] if len(runs) == 1 else color_of(runs, run)
        if len(runs) == 1:
            axes.bar(places, shares, color=color)
        else:
            axes.plot(places[: len(shares)], shares, "-o", ms=4, lw=1.2, color=color)
        axes.text(places.mean(), 0.92 - 0.06 * i, f"{sum(shares):.1%}", color=color, **above)


def draw_compression(axes: Axes, runs: Sequence[Run]) -> None:
    """Auxiliary loss of each layer; of several runs their mean, and the span from layer to layer."""
    for run in runs:
        x, layers = run.at("train", "tokens"), _layers(run)
        if not layers:
            continue
        if len(runs) == 1:
            colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(layers)))
            for color, (layer, losses) in zip(colors, layers.items(), strict=True):
                named = len(layers) <= 8 or layer in (min(layers), max(layers))
                _curve(axes, x, losses, to_hex(color), label=f"layer {layer}" if named else None)
            axes.legend(ncols=2)
        else:
            color, losses = color_of(runs, run), np.array(list(layers.values()))
            _curve(axes, x, losses.mean(0), color)
            axes.fill_between(
                x, _smooth(losses.min(0)), _smooth(losses.max(0)), color=color, alpha=0.12, lw=0
            )
    _along(axes, runs, "tokens")
    about = "" if len(runs) == 1 else ": mean and span of the layers"
    axes.set(title=f"Compression loss{about}", ylabel="auxiliary loss of a layer")


def _layers(run: Run) -> dict[int, Array]:
    """Losses of the layers that compress; NaN where a record has none."""
    number = max((len(r.get("compression_losses") or ()) for r in run.of("train")), default=0)
    rows = {layer: run.series("train", "compression_losses", layer) for layer in range(number)}
    return {layer: row for layer, row in rows.items() if np.nan_to_num(row).any()}


def draw_throughput(axes: Axes, runs: Sequence[Run]) -> None:
    """Tokens per second."""
    _parts(axes, runs, {"training": ("tokens_per_second",)})
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set(title="Throughput", ylabel=f"{_tokens(runs)} per second")
    if axes.has_data():
        axes.set_ylim(0, 1.15 * axes.dataLim.ymax)


def draw_gradients(axes: Axes, runs: Sequence[Run]) -> None:
    """Gradient norms, before clipping."""
    parts = {"model": ("gradient_norm",), "compressors": ("compression_gradient_norm",)}
    _parts(axes, runs, parts, log=True)
    axes.set(title="Gradient norm before clipping", ylabel="L2 norm")


def draw_memory(axes: Axes, runs: Sequence[Run]) -> None:
    """Size of what memory holds: one that grows without end tells of trouble."""
    _parts(axes, runs, {tier: ("memory_norms", tier) for tier in ("recent", "compressed")})
    axes.set(title="Memory norm", ylabel="root mean square of a slot")


def draw_return(axes: Axes, runs: Sequence[Run], x: str) -> None:
    """Return of the episodes of training, and as a star at its end that of new ones, with its interval."""
    for run in runs:
        color = color_of(runs, run)
        _curve(axes, run.at("train", x), run.series("train", "episode_return"), color)
        score, interval = (run.series("score", key)[-1:] for key in ("mean_return", "interval"))
        if np.isfinite(score).any():
            at = run.at("score", x)[-1:]
            axes.errorbar(at, score, np.nan_to_num(interval), color=color, fmt="*", ms=9, mec="w", capsize=3)
    _along(axes, runs, x)
    axes.set(title=f"Return over {'steps' if x == 'tokens' else 'time'}", ylabel="return of an episode")


OF_AGENTS: Mapping[str, tuple[Parts, str]] = {
    "Success": ({"training": ("success",)}, "share of episodes or choices"),
    "Delay": ({"training": ("delay",)}, "steps, by the curriculum"),
    "Entropy of the policy": ({"training": ("losses", "entropy")}, "nats"),
    "Compression loss": ({"training": ("losses", "compression")}, "mean of the layers"),
    "Throughput": ({"training": ("steps_per_second",)}, "steps per second"),
    "Time": ({part: ("shares", part) for part in ("environment", "acting", "learning")}, "share"),
    "Gradient norm before clipping": (
        {"model": ("losses", "gradient_norm"), "compressors": ("losses", "compression_gradient_norm")},
        "L2 norm",
    ),
}
"""Panels of an agent by their titles: what is drawn, and its unit."""


def draw_of_agent(axes: Axes, runs: Sequence[Run], what: str) -> None:
    """One of ``OF_AGENTS``."""
    parts, unit = OF_AGENTS[what]
    _parts(axes, runs, parts, log=what.startswith("Gradient"), zeros=what in ("Success", "Delay"))
    axes.set(title=what, ylabel=unit)
    if unit.startswith("share") and axes.has_data():
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def _parts(axes: Axes, runs: Sequence[Run], parts: Parts, *, log: bool = False, zeros: bool = False) -> None:
    """Curves of training records: each part in a colour, or, of several runs, with a stroke.

    What is 0 throughout is not there, such as the loss of compressors; unless ``zeros`` says something.
    """
    seen = {}
    for run, (label, keys) in product(runs, parts.items()):
        y = run.series("train", *keys)
        if not (np.isfinite(y) if zeros else np.nan_to_num(y)).any():
            continue
        stroke = STROKES[list(parts).index(label)] if len(runs) > 1 else "-"
        color = color_of(runs, run) if len(runs) > 1 else ALONE[label]
        shown = np.where(y > 0, y, np.nan) if log else y
        _curve(axes, run.at("train", "tokens"), shown, color, stroke=stroke)
        seen[label] = Line2D([], [], color=color if len(runs) == 1 else "0.3", ls=stroke, label=label)
    if len(seen) > 1:
        axes.legend(handles=list(seen.values()))
    if log and seen:
        axes.set_yscale("log")
    _along(axes, runs, "tokens")


def _curve(
    axes: Axes, x: Array, y: Array, color: str, *, stroke: str = "-", label: str | None = None
) -> None:
    """The records, faintly, and what is left of them when the noise is taken out."""
    if not (np.isfinite(x) & np.isfinite(y)).any():
        return
    axes.plot(x, y, color=color, lw=0.8, alpha=0.25)
    axes.plot(x, _smooth(y), color=color, ls=stroke, lw=1.6, label=label, marker="." if len(x) == 1 else "")


def _smooth(y: Array) -> Array:
    """A mean over the neighbours, the more of them the longer the curve; gaps stay gaps."""
    width = len(y) // 50
    kernel = np.exp(-0.5 * np.linspace(-2, 2, 2 * width + 1) ** 2) if width else np.ones(1)
    known = np.isfinite(y)
    sums = np.convolve(np.where(known, y, 0), kernel)[width : width + len(y)]
    weights = np.convolve(known.astype(float), kernel)[width : width + len(y)]
    return np.where(known, sums / np.where(known, weights, 1), np.nan)


def _along(axes: Axes, runs: Sequence[Run], x: str) -> None:
    """Names the horizontal axis: tokens of which kind, or time in a unit that suits the longest run."""
    if x == "tokens":
        axes.set_xlabel(f"training {_tokens(runs)}")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        return
    longest = np.nanmax([1.0, *(run.at("train", x)[-1:].max(initial=0) for run in runs)])
    unit, size = next((u, s) for u, s in UNITS.items() if longest >= 2 * s or s == 1)
    ticks = np.asarray(MaxNLocator(6).tick_values(0, longest / size))
    axes.set_xticks(ticks[(ticks >= 0) & (ticks <= longest / size)] * size)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / size:g}")
    axes.set_xlabel(f"{unit} of training")


def _tokens(runs: Sequence[Run]) -> str:
    """What the tokens of the runs are."""
    return " or ".join(dict.fromkeys(f"{run.unit}s" for run in runs))
