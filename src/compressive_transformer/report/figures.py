"""One picture of a run: its loss, where attention goes, and what compression loses in each layer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressive_transformer.train.log import read_metrics

COLORS = {"compressed": "#7b3294", "recent": "#2c7bb6", "window": "#1a9850"}
Records = list[dict[str, Any]]


def draw_run(run: Path) -> Path:
    """Draws ``figures/run.png`` from a run's metrics and returns its path."""
    records = read_metrics(run)
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        axes = figure.subplots(1, 3)
        _draw_loss(axes[0], records)
        _draw_attention(axes[1], records)
        _draw_compression(axes[2], records)
        path = run / "figures" / "run.png"
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=150)
    return path


def _draw_loss(axes: Axes, records: Records) -> None:
    """Training loss, validation on an excerpt, and the final validation beside general compressors."""
    train = _of(records, "train")
    axes.plot(
        [r["tokens"] for r in train],
        [r["bits_per_token"] for r in train],
        lw=1,
        color="0.55",
        label="training",
    )
    excerpts = _of(records, "excerpt") if train else []
    if excerpts:
        x = [_tokens_at(r["step"], train) for r in excerpts]
        axes.plot(
            x, [r["bits_per_byte"] for r in excerpts], "o-", ms=4, color="#d7191c", label="validation excerpt"
        )
    # What lies outside of the axes is not named: it would take all the room for itself.
    at_height: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "annotation_clip": True}
    for record in _of(records, "validation"):
        axes.axhline(record["bits_per_byte"], color="#d7191c", ls="--", lw=1)
        label = f"validation {record['bits_per_byte']:.3f}"
        axes.annotate(label, (0.02, record["bits_per_byte"]), **at_height, va="top", fontsize=8)
        for name, bits in record["compressors"].items():
            axes.axhline(bits, color="0.8", lw=0.8, zorder=0)
            axes.annotate(name, (1, bits), **at_height, ha="right", va="bottom", fontsize=7)
    losses = [r["bits_per_token"] for r in train if math.isfinite(r["bits_per_token"])] or [2.0, 8.0]
    axes.set_ylim(min(losses) - 0.3, min(max(losses), min(losses) + 2.5))
    axes.set(title="Loss", xlabel="training tokens", ylabel="bits per byte")
    axes.legend(frameon=False, loc="upper right")


def _tokens_at(step: int, train: Records) -> int:
    return min(train, key=lambda r: abs(r["step"] - step))["tokens"]


def _draw_attention(axes: Axes, records: Records) -> None:
    """Attention by bucket, as the paper's Figure 2."""
    axes.set(title="Attention by tier, oldest to newest", ylabel="share of attention")
    found = [r for r in _of(records, "attention") if r["buckets"]]
    if not found:
        return
    start = 0
    for tier, shares in found[-1]["buckets"].items():
        x = range(start, start + len(shares))
        axes.bar(x, shares, color=COLORS[tier], label=f"{tier} {sum(shares):.0%}")
        start += len(shares)
    axes.set_xticks([])
    axes.legend(frameon=False, loc="upper left")


def _draw_compression(axes: Axes, records: Records) -> None:
    """Compression loss by layer over the last tenth of training, as the paper's Figure 6."""
    axes.set(title="Compression loss by layer", xlabel="layer", ylabel="auxiliary loss")
    train = _of(records, "train")
    last = [r["compression_losses"] for r in train[-max(len(train) // 10, 1) :]]
    if last and any(any(losses) for losses in last):
        axes.boxplot(list(zip(*last, strict=True)), widths=0.5)
    else:
        axes.text(
            0.5, 0.5, "none: nothing to compress, or no auxiliary loss", ha="center", transform=axes.transAxes
        )


def _of(records: Records, event: str) -> Records:
    return [r for r in records if r["event"] == event]
