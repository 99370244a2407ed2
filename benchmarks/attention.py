"""Relative attention by each of the package's functions: time of a forward and a backward pass, and memory.

    python benchmarks/attention.py --out benchmarks/results/attention.json
    python benchmarks/attention.py --rounds 1           # tries it in a minute

Random numbers of the shapes of recipes, on a GPU if there is one, else on processors. The Triton kernels are
left out there, and where heads or features are too wide for them. Medians over rounds; the ratio is to
``rotated``, within rounds. On a GPU memory is the most that was allocated, on a processor the most that was
resident.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any, NamedTuple

import torch

import harness
from compressive_transformer import ops
from compressive_transformer.ops.attention import WIDEST_TILE

FUNCTIONS = ("rotated", "shifted", "fused", "tiled")
HEADER = ("ms", "× rotated", "MB")


class Shape(NamedTuple):
    """Rows, heads, window, keys, head width and position features."""

    B: int
    H: int
    T: int
    S: int
    K: int
    F: int


SHAPES = {
    "tiny, 32 rows": Shape(32, 4, 128, 320, 64, 64),
    "tiny-paper, 32 rows": Shape(32, 4, 128, 320, 64, 256),
    "40 M parameters, 16 rows": Shape(16, 8, 512, 1280, 64, 64),
    "enwik8 of the paper, 2 rows": Shape(2, 8, 768, 2304, 128, 1024),
}


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (), sizes=False)
    made.add_argument(
        "--shapes", nargs="+", choices=SHAPES, metavar="SHAPE", default=list(SHAPES), help="(all)"
    )
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    made.add_argument("--seconds", type=float, default=4, help="of each measurement (default: 4)")
    a = harness.parse(made, child)
    gpu = torch.cuda.is_available()
    cases = [
        (shape, name)
        for shape in a.shapes
        for name in FUNCTIONS
        if name != "tiled" or (gpu and max(SHAPES[shape].K, SHAPES[shape].F) <= WIDEST_TILE)
    ]
    tasks = {
        (shape, name): {"shape": shape, "name": name, "precision": a.precision, "seconds": a.seconds}
        for shape, name in cases
    }
    if gpu:
        a.machine = torch.cuda.get_device_name()
    found = harness.in_rounds("attention", tasks, a.rounds, a.threads)
    arms = {f"{shape}: {name}": summary(found[shape, name], found[shape, "rotated"]) for shape, name in cases}
    group = f"{'GPU' if gpu else 'CPU'}/{a.precision}"
    harness.record(a.out, group, harness.about(a), arms)
    harness.show(group, ("", *HEADER), [(name, *cells(m)) for name, m in arms.items()])


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One function on one shape: forward and backward, time after time."""
    B, H, T, S, K, F = SHAPES[task["shape"]]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, task["precision"])

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    q, k, v = random(B, H, T, K), random(B, H, S, K), random(B, H, S, K)
    place = torch.arange(T - S, T, device=device, dtype=torch.float32)
    tables = [ops.PositionTable(random(H, K, F), random(H, K), place)]
    content_bias, query_place = random(H, K), place[S - T :]
    visible = (place <= query_place[:, None]).expand(B, T, S).contiguous()
    attend = getattr(ops, task["name"])

    def step() -> None:
        attended, _ = attend(q, k, v, content_bias, tables, query_place, visible)
        attended.backward(torch.ones_like(attended))
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < task["seconds"]:
        times.append(harness.seconds(step))
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else harness.peak_mb()
    return {"seconds": median(times), "peak_mb": peak}


def summary(rounds: list[dict[str, Any]], plain: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds."""
    if failed := [m for m in (*rounds, *plain) if "failed" in m]:
        return failed[0]
    return {name: median(m[name] for m in rounds) for name in rounds[0]} | {
        "ratio": median(m["seconds"] / p["seconds"] for m, p in zip(rounds, plain, strict=True))
    }


def cells(m: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    if "failed" in m:
        return (m["failed"],)
    return f"{1000 * m['seconds']:,.1f}", f"{m['ratio']:.2f}", f"{m['peak_mb']:,.0f}"


if __name__ == "__main__":
    main()
