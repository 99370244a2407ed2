"""How time and memory of a training step of ours grow with each size, beside what the formulas say.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json
    python benchmarks/scaling.py --size tiny --rounds 1 --seconds 0.2             # tries everything

One size is changed at a time, with the same number of lanes. The formulas are those of ``compressive info``
(``compressive_transformer.train.scaling``): floating-point operations of the products of forward, backward
and update, and bytes that a process holds. Time and operations are given as multiples of the usual step.
Each in a process of its own, in rounds.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import harness
from compressive_transformer.train import TrainConfig
from compressive_transformer.train.scaling import Scaling, scaling
from peers import SIZES, Size
from peers.ours import Ours
from training import library_mb, time_steps

USUAL = "usual"
FACTORS: dict[str, tuple[float, ...]] = {
    "segment": (0.5, 2, 4),
    "memory": (0.25, 2, 4),
    "compressed": (0, 2, 8),
    "dim": (0.5, 2),
    "layers": (0.5, 2, 4),
}
"""By which each size is multiplied."""


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, ())
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    made.add_argument("--seconds", type=float, default=5, help="of steps in each measurement (default: 5)")
    a = harness.parse(made, child)
    about = {"size": a.size, "precision": a.precision, "seconds": a.seconds}
    tasks = {name: about | {"changes": changes} for name, changes in cases(SIZES[a.size]).items()}
    found = harness.in_rounds("scaling", tasks, a.rounds, a.threads)
    rows = {name: summary(rounds, found[USUAL]) for name, rounds in found.items()}
    predict(rows, a)
    harness.record(a.out, f"{a.size}/{a.precision}", harness.about(a), rows)
    header = ("", "ms/step", "× usual", "by formula", "MB", "MB by formula")
    harness.show(f"scaling, {a.size}, {a.precision}", header, [cells(*item) for item in rows.items()])


def cases(size: Size) -> dict[str, dict[str, int]]:
    """The usual sizes, and each that is changed."""
    found: dict[str, dict[str, int]] = {USUAL: {}}
    for name, factors in FACTORS.items():
        for factor in factors:
            value = int(getattr(size, name) * factor)
            heads = {"heads": max(int(size.heads * factor), 1)} if name == "dim" else {}
            found[f"{name} {value}"] = {name: value} | heads
    return found


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One shape, once."""
    library = library_mb(Ours(SIZES["tiny"]))
    arm = Ours(replace(SIZES[task["size"]], **task["changes"]))
    measured = time_steps(arm, task["precision"], task["seconds"])
    return measured | {"peak_mb": measured["peak_mb"] - library}


def summary(rounds: list[dict[str, Any]], usual: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and over the ratios within rounds."""
    pairs = [(m, u) for m, u in zip(rounds, usual, strict=True) if "failed" not in u]
    if failed := [m for m in (*rounds, *(() if pairs else usual)) if "failed" in m]:
        return failed[0]
    return {
        "seconds": median(m["seconds"] for m in rounds),
        "ratio": median(m["seconds"] / u["seconds"] for m, u in pairs),
        "peak_mb": median(m["peak_mb"] for m in rounds),
        "parameters": rounds[0]["parameters"],
        "tokens": rounds[0]["tokens"],
    }


def predict(rows: dict[str, dict[str, Any]], a: Any) -> None:
    """Adds what the formulas say."""
    size = SIZES[a.size]
    usual = formula(size, a.precision)
    for name, changes in cases(size).items():
        cost = formula(replace(size, **changes), a.precision)
        rows[name]["flops"] = cost.flops + cost.update_flops
        rows[name]["flops_ratio"] = rows[name]["flops"] / (usual.flops + usual.update_flops)
        rows[name]["predicted_mb"] = cost.memory.total / 1e6


def formula(size: Size, precision: Any) -> Scaling:
    """The figures of a step of ours of this size."""
    config = TrainConfig(steps=1, lanes=size.batch, precision=precision, model=Ours.config(size))
    return scaling(config, vocab_size=size.vocab, processes=1)


def cells(name: str, m: dict[str, Any]) -> tuple[str, ...]:
    """A row of the printed table."""
    if "failed" in m:
        return name, m["failed"], "", "", "", ""
    ratios = f"{m['ratio']:.2f}", f"{m['flops_ratio']:.2f}"
    return name, f"{1000 * m['seconds']:,.1f}", *ratios, f"{m['peak_mb']:,.0f}", f"{m['predicted_mb']:,.0f}"


if __name__ == "__main__":
    main()
