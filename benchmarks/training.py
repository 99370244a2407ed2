"""What a training step costs, beside other libraries: time, memory, and how much of it is matrix products.

    python benchmarks/training.py --out benchmarks/results/training.json
    python benchmarks/training.py --precision bfloat16 --size large --rounds 3
    python benchmarks/training.py --size tiny --rounds 1 --seconds 0.2      # tries everything in a minute

A step is forward, backward, clipping and the update, on as many tokens for every arm, memory carried from
step to step. Each arm is measured in a process of its own, one arm after the other, and again in the next
round, so that what slows the machine for a while slows all; a table gives medians over rounds, and medians of
the ratio to ours of the same round.

"matrix products" is the time that the step's products would take at the best rate of any product on this
machine, found in the same rounds, as a part of the step: 100 % is a step that does nothing else. The products
are those of forward and backward, counted by torch; the optimiser's are not among them.

"MB" is the most memory that was resident, less what the code of the library takes up in itself.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import harness
from compressive_transformer.data import Batch
from compressive_transformer.precision import Precision, autocast
from peers import SIZES, Arm, build_arm
from peers.base import train_step

WARM = 4
"""Steps before the clock starts: memory is full then."""
SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 256, 1024), (4096, 512, 512))
"""Products of which the fastest is the floor."""


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__)
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    made.add_argument("--rounds", type=int, default=5, help="how often each arm is measured (default: 5)")
    made.add_argument("--seconds", type=float, default=10, help="of steps in each measurement (default: 10)")
    a = harness.parse(made, child)
    about = {"size": a.size, "precision": a.precision, "seconds": a.seconds}
    tasks = {name: about | {"arm": name} for name in ("products", *a.arms)}
    found = harness.in_rounds("training", tasks, a.rounds, a.threads)
    rate = max((m.get("flops_per_second", 0.0) for m in found.pop("products")), default=0.0)
    arms = {name: summary(rounds, found.get("ours", []), rate) for name, rounds in found.items()}
    show(a, arms)
    facts = harness.about(a, best_flops_per_second=rate)
    harness.record(a.out, f"{a.size}/{a.precision}", facts, arms)


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One arm, once; or the rate of the best product."""
    if task["arm"] == "products":
        return {"flops_per_second": best_rate(task["precision"])}
    library = library_mb(build_arm(task["arm"], SIZES["tiny"]))
    arm = build_arm(task["arm"], SIZES[task["size"]])
    measured = time_steps(arm, task["precision"], task["seconds"]) | {"library_mb": library}
    batch = random_batch(arm, torch.Generator().manual_seed(0))
    return measured | {"flops": count_flops(arm, batch, autocast("cpu", task["precision"]))}


def library_mb(arm: Arm) -> float:
    """Memory that the code takes up, once a step of a tiny arm has imported all there is."""
    train_step(arm, arm.learner(1e-3), random_batch(arm, torch.Generator().manual_seed(0)))
    return harness.peak_mb()


def time_steps(arm: Arm, precision: Precision, enough: float) -> dict[str, Any]:
    """Steps for so many seconds, once the memory is full."""
    learner, generator = arm.learner(1e-3), torch.Generator().manual_seed(0)

    def step() -> None:
        train_step(arm, learner, random_batch(arm, generator), precision=autocast("cpu", precision))

    for _ in range(WARM):
        step()
    steps: list[float] = []
    while len(steps) < 3 or sum(steps) < enough:
        steps.append(harness.seconds(step))
    return {
        "seconds": median(steps),
        "steps": len(steps),
        "tokens": arm.lanes * arm.length,
        "parameters": arm.parameters,
        "peak_mb": harness.peak_mb(),
    }


def random_batch(arm: Arm, generator: torch.Generator) -> Batch:
    """Tokens that mean nothing: their cost is the same."""
    tokens = torch.randint(256, (arm.lanes, arm.length + 1), generator=generator)
    return Batch(tokens[:, :-1], tokens[:, 1:], None)


def count_flops(arm: Arm, batch: Batch, precision: AbstractContextManager) -> int | None:
    """Of the matrix products of a step, forward and backward; None where torch can't follow."""
    # oneDNN's LSTM and fused attention may be operations that torch doesn't count; without them, none is.
    plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False, allow_tf32=False)
    try:
        eager = torch.compiler.set_stance("force_eager")
        with plain[0], plain[1], eager, FlopCounterMode(display=False) as counter:
            with precision:
                loss = arm.loss(batch)
            loss.backward()
    except RuntimeError:
        return None
    return counter.get_total_flops()


def best_rate(precision: str) -> float:
    """Floating-point operations a second of the fastest of some products."""
    rates = []
    for m, k, n in SHAPES:
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        x, y = torch.randn(m, k, dtype=dtype), torch.randn(k, n, dtype=dtype)
        until = time.perf_counter() + 1.0
        while time.perf_counter() < until:
            rates.append(2 * m * k * n / harness.seconds(lambda x=x, y=y: x @ y))
    return max(rates)


def summary(rounds: list[dict[str, Any]], ours: list[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Medians over rounds, and over the ratios within rounds."""
    speeds = harness.speeds(rounds, ours)
    if "failed" in speeds:
        return speeds
    first, second = rounds[0], median(m["seconds"] for m in rounds)
    return speeds | {
        "step_seconds": second,
        "parameters": first["parameters"],
        "peak_mb": median(m["peak_mb"] for m in rounds),
        "library_mb": median(m["library_mb"] for m in rounds),
        "flops": first["flops"],
        "matrix_products": first["flops"] / rate / second if first["flops"] and rate else None,
    }


def show(a: Any, arms: dict[str, Any]) -> None:
    """Prints the table."""
    rows: list[tuple[Any, ...]] = []
    for name, m in arms.items():
        cells = harness.speed_cells(m)
        if "failed" not in m:
            share = f"{m['matrix_products']:.0%}" if m["matrix_products"] else "–"
            cells += (f"{1000 * m['step_seconds']:,.0f}", share)
            cells += (f"{m['peak_mb'] - m['library_mb']:,.0f}", f"{m['parameters']:,}")
        rows.append((name, *cells))
    header = ("arm", "tokens/s", "× ours", "ms/step", "matrix products", "MB", "parameters")
    harness.show(f"training, {a.size}, {a.precision}, {a.threads} threads", header, rows)


if __name__ == "__main__":
    main()
