"""The tables and figures of docs/results.md, from what the experiments have recorded.

    python experiments/tables.py            # prints the tables
    python experiments/tables.py --write    # writes them into the document, and draws the figures

The document says by a comment which table stands where.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from lab import Runs, mean
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "results.md"
FIGURES = DOCUMENT.parent / "figures"
MARK = re.compile(r"(<!-- experiment (\w+)(?: in (\w+))? -->\n).*?(<!-- end -->)", re.DOTALL)
"""A script, and its record if that has another name."""
NOTHING = "Not recorded yet."
PAPER_ATTENTION = {
    "compressed": [0.049, 0.047, 0.048, 0.048, 0.051, 0.059],
    "recent": [0.029, 0.032, 0.035, 0.040, 0.046, 0.058],
    "window": [0.099, 0.091, 0.083, 0.074, 0.064, 0.047],
}
"""Figure 2, read off it."""


def main() -> None:
    """Prints, or writes and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write tables and figures into docs/")
    write = parser.parse_args().write
    text = MARK.sub(
        lambda match: f"{match[1]}{section(match[2], match[3] or match[2])}\n\n{match[4]}",
        DOCUMENT.read_text("utf-8"),
    )
    if not write:
        print("\n".join(match[0] for match in MARK.finditer(text)))
        return
    DOCUMENT.write_text(text, encoding="utf-8")
    FIGURES.mkdir(exist_ok=True)
    plt.rcParams["svg.hashsalt"] = "figures"  # with no date either, what is drawn changes with its data only
    for name, drawings in DRAWN.items():
        for draw in drawings if recorded(name) else ():
            figure = draw()
            figure.savefig(FIGURES / f"{draw.__name__}.svg", metadata={"Date": None})
            plt.close(figure)


def recorded(name: str) -> bool:
    """Whether there is a record of an experiment."""
    return (HERE / f"{name}.json").exists()


def load(name: str) -> dict[str, Any]:
    """The record of an experiment."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def section(script: str, name: str) -> str:
    """The tables of a record, its figures, and where they come from."""
    if not recorded(name):
        return NOTHING
    found = load(name)
    tables = importlib.import_module(script).table(found["runs"])
    if "classical" in found:
        values = ", ".join(f"{way} {bits:.3f}" for way, bits in found["classical"].items())
        tables += f"\n\nOn the same recordings, in bits per sample: {values}."
    threads = " or ".join(map(str, sorted({run["threads"] for run in found["runs"]})))
    threads += " thread" if threads == "1" else " threads"
    day = max(run["date"] for run in found["runs"])
    machine, torch = (
        " or ".join(sorted({run[key] for run in found["runs"]})) for key in ("machine", "torch")
    )
    made = f"{threads} of {machine}, torch {torch}, {day}"
    figures = [f"![{inspect.getdoc(draw)}](figures/{draw.__name__}.svg)" for draw in DRAWN.get(name, ())]
    return "\n\n".join([tables, *figures, f"<sub>{made}: `{found['command']}`</sub>"])


def attention() -> Figure:
    """Figure 2: where attention goes, beside the paper's."""
    ours = only("attention")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    titles = ("here: bytes of books, 64 + 128 + 128", "paper: enwik8, 768 + 768 + 768")
    for axis, title, tiers in zip(axes, titles, (ours, PAPER_ATTENTION), strict=True):
        at = 0
        for tier, values in tiers.items():
            axis.bar(range(at, at + len(values)), values, label=tier)
            at += len(values)
        axis.set(title=title, xlabel="sixths of each tier, oldest first", xticks=[])
    axes[0].set_ylabel("attention")
    axes[0].legend()
    return figure


def compression_losses() -> Figure:
    """Figure 6: the auxiliary loss of each layer."""
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    axis.boxplot(only("compression"), whis=(5, 95), showfliers=False)
    axis.set(xlabel="layer", ylabel="attention-reconstruction loss")
    return figure


def only(what: str) -> Any:
    """Of the one run of experiments/sizes.py that has it."""
    return next(run[what] for run in load("sizes")["runs"] if what in run)


def by_distance() -> Figure:
    """Right answers by distance."""
    from recall import ARMS, BUCKETS

    found = load("recall")
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for name in ARMS:
        runs: Runs = [run for run in found["runs"] if run["arm"] == name]
        if runs:
            shares = [
                mean([run["recalled"][str(d)][0] / max(run["recalled"][str(d)][1], 1) for run in runs])
                for d in BUCKETS
            ]
            axis.plot(BUCKETS, shares, marker="o", label=name)
    axis.set(xscale="log", xlabel="tokens between fact and question", ylabel="right answers", ylim=(0, 1))
    axis.set_xticks(BUCKETS, [f"{d:,}" for d in BUCKETS])
    axis.legend(fontsize="small")
    return figure


def updates() -> Figure:
    """Figure 3: training loss when updates become smaller or fewer."""
    from updates import BEFORE

    found = load("updates")
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    trunks = {run["seed"]: run["bits"] for run in found["runs"] if run["arm"] == BEFORE}
    for name in dict.fromkeys(run["arm"] for run in found["runs"]):
        curves = [run["bits"] for run in found["runs"] if run["arm"] == name]
        start = 0 if name == BEFORE else len(next(iter(trunks.values())))
        values = [mean(list(x)) for x in zip(*curves, strict=True)]
        axis.plot([10 * (start + i + 1) for i in range(len(values))], values, label=name)
    top = sorted(next(iter(trunks.values())))[-len(next(iter(trunks.values()))) // 2]
    axis.set(xlabel="step", ylabel="bits per byte in training", ylim=(None, top))
    axis.legend(fontsize="small")
    return figure


def speech() -> Figure:
    """Figure 4: scores against samples and seconds."""
    parts = ("digits", "kerstin")
    found = {part: load(f"speech_{part}") for part in parts if recorded(f"speech_{part}")}
    figure, axes = plt.subplots(
        len(found), 2, figsize=(9, 3 * len(found)), layout="constrained", squeeze=False
    )
    for (name, record), row in zip(found.items(), axes, strict=True):
        for arm in dict.fromkeys(run["arm"] for run in record["runs"]):
            curves = [run["curve"] for run in record["runs"] if run["arm"] == arm]
            points = [
                [mean(list(values)) for values in zip(*at, strict=True)] for at in zip(*curves, strict=True)
            ]
            samples, seconds, bits = zip(*points, strict=True)
            for axis, along in zip(row, (samples, seconds), strict=True):
                axis.plot(along, bits, marker="o", ms=3, label=arm)
        row[0].set(xlabel="samples", ylabel=f"bits per sample, {name}")
        row[1].set(xlabel="seconds")
    axes[0, 0].legend(fontsize="small")
    return figure


def agents() -> Figure:
    """Figure 5: returns while training, at the delay reached, and that delay; mean and range of the seeds."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.5), layout="constrained")
    draw_agents(axes[:2], load("rl")["runs"], RETURN)
    draw_agents(axes[2:], load("rl")["runs"], DELAY)
    axes[2].set(ylabel="blank steps between the rooms")
    return figure


def agents_on_the_level() -> Figure:
    """Returns against steps and CPU-minutes, mean and range of the seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    draw_agents(axes, load("rl_level")["runs"], RETURN)
    return figure


STEPS, MINUTES, RETURN, _, DELAY = range(5)
"""What a point of an agent's curve has."""


def draw_agents(axes: Any, runs: Runs, what: int) -> None:
    """Curves against steps and CPU-minutes; returns are smoothed over three records."""
    from rl import SHOWN

    kernel = np.ones(3 if what == RETURN else 1)
    names = {run["arm"] for run in runs}
    for number, name in enumerate(name for name in SHOWN if name in names):
        curves = np.array([run["curve"] for run in runs if run["arm"] == name], dtype=np.float64)
        known = np.isfinite(curves[..., what])
        sums, counts = (
            np.array([np.convolve(row, kernel, "same") for row in rows])
            for rows in (np.where(known, curves[..., what], 0), known)
        )
        values = sums / np.maximum(counts, 1)
        for axis, along in zip(axes, (STEPS, MINUTES), strict=False):
            x = curves[..., along].mean(0)
            axis.plot(x, values.mean(0), color=f"C{number}", label=name, linewidth=1.2)
            axis.fill_between(x, values.min(0), values.max(0), color=f"C{number}", alpha=0.12, linewidth=0)
    for axis, along in zip(axes, ("steps", "CPU-minutes"), strict=False):
        axis.set(xlabel=along, ylabel="return of an episode")
        if along == "steps":
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes[0].legend(fontsize="x-small")


DRAWN: dict[str, tuple[Callable[[], Figure], ...]] = {
    "sizes": (attention, compression_losses),
    "recall": (by_distance,),
    "updates": (updates,),
    "speech_digits": (speech,),
    "rl": (agents,),
    "rl_level": (agents_on_the_level,),
}
"""Figures below the table of a record."""


if __name__ == "__main__":
    main()
