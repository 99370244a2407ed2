"""What threads without work should do: look for it, as torch has them, or sleep at once.

    python benchmarks/waiting.py --out benchmarks/results/waiting.json
    python benchmarks/waiting.py --rounds 1 --seconds 0.5      # tries it in a minute

Steps of the recipe ``tiny``, and tokens of one row that its model generates, alone and beside a process that
keeps a processor busy. Each is measured in a process of its own, in one way and then in the other, in rounds.
Medians over rounds; the ratio is that within rounds.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch

import harness
from allocation import trainer_of
from compressive_transformer.generate import generate

WARM = 3
"""Times before the clock starts."""
WORK = {"a step of 32 segments": 32, "a step of 8": 8, "a token": 0}
"""Lanes of a step; none for generation."""
WAYS: tuple[dict[str, str], ...] = ({}, {"OMP_WAIT_POLICY": "PASSIVE"})
HEADER = ("ms, looking", "asleep", "× time")


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (), sizes=False)
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    made.add_argument("--seconds", type=float, default=5, help="of work in each measurement (default: 5)")
    a = harness.parse(made, child)
    cases = {
        f"{name}, beside another process" if beside else name: {"lanes": lanes, "beside": beside}
        for beside in (False, True)
        for name, lanes in WORK.items()
    }
    tasks = {
        (name, way): case | {"seconds": a.seconds, "environment": environment}
        for name, case in cases.items()
        for way, environment in enumerate(WAYS)
    }
    found = harness.in_rounds("waiting", tasks, a.rounds, a.threads)
    arms = {name: summary(found[name, 0], found[name, 1]) for name in cases}
    harness.record(a.out, "tiny", harness.about(a), arms)
    harness.show("waiting", ("", *HEADER), [(name, *cells(m)) for name, m in arms.items()])


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One kind of work, once."""
    trainer = trainer_of("tiny", lanes=task["lanes"] or 1)
    tokens = generate(trainer.model, torch.zeros(1, 1024, dtype=torch.int64))
    work: Callable[[], Any] = (lambda: trainer.train_step(0.0)) if task["lanes"] else tokens.__next__
    with ExitStack() as stack:
        if task["beside"]:
            other = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(other.kill)
        for _ in range(WARM):
            work()
        seconds: list[float] = []
        while sum(seconds) < task["seconds"]:
            seconds.append(harness.seconds(work))
    return {"seconds": median(seconds)}


def summary(looking: list[dict[str, Any]], asleep: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, in one way and the other."""
    if failed := [m for m in (*looking, *asleep) if "failed" in m]:
        return failed[0]
    ratio = median(s["seconds"] / k["seconds"] for k, s in zip(looking, asleep, strict=True))
    return {"seconds": [median(m["seconds"] for m in way) for way in (looking, asleep)], "ratio": ratio}


def cells(m: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    if "failed" in m:
        return (m["failed"],)
    return (*(f"{1000 * s:,.1f}" for s in m["seconds"]), f"{m['ratio']:.2f}")


if __name__ == "__main__":
    main()
