"""How fast each arm reads a text in order, memory carried, to score it.

    python benchmarks/reading.py --out benchmarks/results/reading.json
    python benchmarks/reading.py --text book.txt --rows 1 8
    python benchmarks/reading.py --size tiny --tokens 500 --rounds 1              # tries everything

"ours" keeps keys and values of its memory from segment to segment; "ours-no-cache" computes them anew. Others
read as their library does. Each in a process of its own, in rounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import harness
from compressive_transformer.data import embedded_books, read_documents
from peers import SIZES, build_arm
from peers.ours import Ours

NO_CACHE = "ours-no-cache"


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (harness.SHAPES[0], NO_CACHE, *harness.SHAPES[1:]))
    made.add_argument("--text", type=Path, help="a text file (default: a novel that comes with the package)")
    made.add_argument("--tokens", type=int, default=65536, help="of all rows together (default: 65536)")
    made.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="side by side (default: 1 8)")
    made.add_argument("--rounds", type=int, default=3, help="how often each arm is measured (default: 3)")
    a = harness.parse(made, child)
    if a.text and not a.text.is_file():
        made.error(f"there is no file {a.text}; give --text a text file")
    harness.by_rows("reading", a, {"size": a.size, "tokens": a.tokens, "text": str(a.text or "")})


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


if __name__ == "__main__":
    main()
