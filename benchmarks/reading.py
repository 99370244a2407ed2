"""How fast each arm reads a text in order, memory carried, to score it.

    python benchmarks/reading.py --out benchmarks/results/reading.json
    python benchmarks/reading.py --text book.txt --rows 1 8
    python benchmarks/reading.py --size tiny --tokens 500 --rounds 1              # tries everything

"ours" keeps keys and values of its memory from segment to segment; "ours, no cache" computes them anew. Others
read as their library does. Each in a process of its own, in rounds.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import median
from typing import Any

import harness
import numpy as np
import torch
from torch import Tensor

from compressive_transformer.data import embedded_books, read_documents
from peers import ARMS, SIZES, build_arm
from peers.ours import Ours

NO_CACHE = "ours-no-cache"


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, ("ours", NO_CACHE, *(name for name in ARMS if name != "ours")))
    made.add_argument("--text", type=Path, help="a text file (default: a novel that comes with the package)")
    made.add_argument("--tokens", type=int, default=65536, help="to read in all rows together (default: 65536)")
    made.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="side by side (default: 1 8)")
    made.add_argument("--rounds", type=int, default=3, help="how often each arm is measured (default: 3)")
    a = harness.parse(made, child)
    cases = list(itertools.product(a.arms, a.rows))
    found: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    with harness.bar("reading", a.rounds * len(cases)) as advance:
        for _ in range(a.rounds):
            for name, rows in cases:
                advance(now=f"{name}, {rows} rows")
                task = {"arm": name, "size": a.size, "rows": rows, "tokens": a.tokens}
                found[name, rows].append(harness.measure(task | {"text": str(a.text or "")}, a.threads))
                advance(1)
    for rows in a.rows:
        arms = {name: summary(found[name, rows], found.get(("ours", rows), [])) for name in a.arms}
        harness.record(a.out, f"{a.size}/{rows} rows", harness.about(a), arms)
        header = ("arm", "tokens/s", "× ours")
        harness.show(f"reading, {a.size}, {rows} rows", header, [cells(*item) for item in arms.items()])


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One arm at one number of rows, weights as they were drawn: their values cost nothing."""
    name = task["arm"]
    arm = build_arm("ours" if name == NO_CACHE else name, SIZES[task["size"]])
    if isinstance(arm, Ours):
        arm.cached = name != NO_CACHE
    tokens = read_text(task["text"], task["rows"], task["tokens"] // task["rows"])
    arm.score(tokens[:, : 4 * arm.length + 1])
    return {"seconds": harness.seconds(lambda: arm.score(tokens)), "tokens": tokens[:, 1:].numel()}


def read_text(text: str, rows: int, length: int) -> Tensor:
    """int64 [rows, length + 1]: the first bytes, row after row."""
    data = Path(text).read_bytes() if text else next(iter(read_documents(embedded_books()))).data
    count = min(length, len(data) // rows - 1)
    tokens = np.frombuffer(data, dtype=np.uint8)[: rows * (count + 1)].astype(np.int64)
    return torch.from_numpy(tokens).view(rows, -1)


def summary(rounds: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and over the ratios within rounds."""
    if failed := [m for m in rounds if "failed" in m]:
        return failed[0]
    pairs = [(m, o) for m, o in zip(rounds, ours, strict=False) if "failed" not in o]
    return {
        "tokens_per_second": median(m["tokens"] / m["seconds"] for m in rounds),
        "rounds_seconds": [m["seconds"] for m in rounds],
        "speed_of_ours": median(o["seconds"] / m["seconds"] for m, o in pairs) if pairs else None,
    }


def cells(name: str, m: dict[str, Any]) -> tuple[str, ...]:
    """A row of the printed table."""
    if "failed" in m:
        return (name, m["failed"], "")
    ratio = f"{m['speed_of_ours']:.2f}" if m["speed_of_ours"] else "–"
    return (name, f"{m['tokens_per_second']:,.0f}", ratio)


if __name__ == "__main__":
    main()
