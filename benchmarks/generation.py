"""How fast each arm makes text, and whether ours stays as fast and as small however long it runs.

    python benchmarks/generation.py --out benchmarks/results/generation.json
    python benchmarks/generation.py --long --tokens 1000000 --out benchmarks/results/generation.json
    python benchmarks/generation.py --device cuda --arms ours ours-graph           # on a GPU
    python benchmarks/generation.py --size tiny --tokens 20 --rounds 1             # tries everything

Every arm reads a prompt that fills its memory, and goes on from there by the means of its own library; what
reading the prompt takes is measured too, and not counted. Each in a process of its own, in rounds. On a GPU
"ours-graph" is ours with all kernels of a token launched at once.

--long runs ours alone, one row, and notes tokens a second and resident memory for every hundredth of the way.
"""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path
from typing import Any

import torch

import harness
from compressive_transformer.generate import generate
from peers import SIZES, build_arm
from peers.ours import Ours

GRAPH = "ours-graph"
WINDOWS = 100
"""Parts of a long run."""


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (harness.SHAPES[0], GRAPH, *harness.SHAPES[1:]))
    made.add_argument("--tokens", type=int, help="to make in each row (default: 256; 100,000 with --long)")
    made.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="at once (default: 1 8)")
    made.add_argument("--rounds", type=int, default=3, help="how often each arm is measured (default: 3)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: cpu)")
    made.add_argument("--long", action="store_true", help="one long run of ours")
    a = harness.parse(made, child)
    if a.device == "cuda":
        if a.long:
            made.error("--long is for processors; leave --device out")
        if not torch.cuda.is_available():
            made.error("--device cuda: torch finds no GPU here")
        a.machine = torch.cuda.get_device_name()
    else:
        a.arms = [arm for arm in a.arms if arm != GRAPH]
    if a.long:
        a.arms, a.rows, a.tokens = ["ours"], [1], a.tokens or 100_000
        run_long(a)
    else:
        a.tokens = a.tokens or 256
        harness.by_rows("generation", a, {"size": a.size, "tokens": a.tokens, "device": a.device})


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One arm at one number of rows."""
    if task.get("long"):
        return follow(task)
    size = SIZES[task["size"]]
    os.environ["COMPRESSIVE_GRAPHS"] = str(int(task["arm"] == GRAPH))
    arm = build_arm("ours" if task["arm"] == GRAPH else task["arm"], size)
    arm.model.eval().to(task["device"])
    length = -(-(size.memory + size.rate * size.compressed) // size.segment) * size.segment
    prompt = torch.randint(256, (task["rows"], length), device=task["device"])

    def generate_them(count: int) -> None:
        arm.generate(prompt, count)
        if task["device"] == "cuda":
            torch.cuda.synchronize()

    begin = 3  # with what is made at the first tokens: tables, a graph
    generate_them(begin)
    before = harness.seconds(lambda: generate_them(begin))
    whole = harness.seconds(lambda: generate_them(begin + task["tokens"]))
    return {"seconds": max(whole - before, 1e-9), "tokens": task["rows"] * task["tokens"]}


def run_long(a: Any) -> None:
    """One row of ours, for as long as is asked for."""
    with harness.bar("one long run", 1.0) as advance:
        task = {"size": a.size, "tokens": a.tokens, "long": True}
        found = harness.measure(task, a.threads, tell=lambda done: advance(at=done))
    harness.record(a.out, f"{a.size}/long", harness.about(a), {"ours": found})
    if "failed" in found:
        raise SystemExit(found["failed"])
    windows = found["windows"]
    names = ("tokens", "tokens_per_second", "resident_mb")
    rows = [tuple(f"{w[name]:,.0f}" for name in names) for w in windows[:: len(windows) // 10 or 1]]
    harness.show(f"one long run, {a.size}", ("tokens", "tokens/s", "resident MB"), rows)


def follow(task: dict[str, Any]) -> dict[str, Any]:
    """Speed and resident memory of a long run, part by part."""
    model = Ours(SIZES[task["size"]]).language_model
    made = generate(model, torch.zeros(1, 1, dtype=torch.int64), length=task["tokens"])
    part, windows, tokens = max(task["tokens"] // WINDOWS, 1), [], 0
    while True:
        begun = time.perf_counter()
        count = sum(1 for _ in itertools.islice(made, part))
        if not count:
            return {"windows": windows}
        speed, tokens = count / (time.perf_counter() - begun), tokens + count
        windows.append({"tokens": tokens, "tokens_per_second": speed, "resident_mb": resident_mb()})
        harness.say(tokens / task["tokens"])


def resident_mb() -> float:
    """Memory that is resident now; at most so far where the system doesn't tell."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return harness.peak_mb()
    import resource

    return round(int(status.read_text(encoding="utf-8").split()[1]) * resource.getpagesize() / 1e6, 1)


if __name__ == "__main__":
    main()
