"""How fast a large text becomes tokens and is read through lanes, and how much memory that takes.

    python benchmarks/corpus.py --gigabytes 10 --out benchmarks/corpus.json

Makes a file of that size from the novels that come with the package, in a temporary folder that needs three
times as much, prepares it, reads batches, and removes all. Each part is a process of its own, so that the
peaks of memory are its own.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from compressive_transformer.data import (
    ByteTokenizer,
    embedded_books,
    open_dataset,
    prepare_dataset,
    read_documents,
)

SEPARATOR = "\\n\\n\\n"
LANES, LENGTH = 32, 512
MAX_RSS = 1024 if sys.platform != "darwin" else 1  # bytes in what the system counts in


def main() -> None:
    """Runs the parts, prints a table and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--batches", type=int, default=2000)
    parser.add_argument("--machine", default=platform.processor() or platform.machine())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.part:
        print(json.dumps(PARTS[a.part](a)))
        return
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        size = make_text(Path(folder) / "text.txt", int(a.gigabytes * 1e9))
        for part in PARTS:
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--folder", folder]
            figures[part] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    figures["prepare"]["mb_per_second"] = round(size / 1e6 / figures["prepare"]["seconds"], 1)
    for part, values in figures.items():
        for name, value in values.items():
            print(f"{part:>8}  {name:<22} {value:>16,}")
    about = {
        "command": " ".join(["python", "benchmarks/corpus.py", f"--gigabytes {a.gigabytes:g}"]),
        "text": f"{size:,} bytes: the two embedded novels, again and again",
        "separator": SEPARATOR,
        "batches": f"{a.batches} of {LANES} lanes of {LENGTH} tokens, document order shuffled",
        "machine": a.machine,
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "torch")},
    }
    if a.out:
        a.out.write_text(json.dumps(about | figures, indent=2) + "\n", encoding="utf-8")


def make_text(path: Path, size: int) -> int:
    """Writes at least so many bytes; returns how many."""
    text = b"\n\n\n".join(document.data for document in read_documents(embedded_books())) + b"\n\n\n"
    with path.open("wb") as file:
        while file.tell() < size:
            file.write(text)
        return file.tell()


def run_prepare(a: argparse.Namespace) -> dict[str, Any]:
    """Prepares the text."""
    began = time.perf_counter()
    corpus = prepare_dataset(
        a.folder / "text.txt", a.folder / "dataset", ByteTokenizer(), separator=SEPARATOR
    )
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "workers": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "documents": corpus.num_documents,
        "parent_peak_mb": peak_mb(resource.RUSAGE_SELF),
        "worker_peak_mb": peak_mb(resource.RUSAGE_CHILDREN),
    }


def run_read(a: argparse.Namespace) -> dict[str, Any]:
    """Reads batches."""
    from compressive_transformer.data import Lanes

    imported = peak_mb(resource.RUSAGE_SELF)
    began = time.perf_counter()
    corpus = open_dataset(a.folder / "dataset", ByteTokenizer())
    lanes = Lanes(corpus, num_lanes=LANES, length=LENGTH, seed=0)
    opened = time.perf_counter()
    for _ in range(a.batches):
        next(lanes)
    seconds = time.perf_counter() - opened
    return {
        "seconds_to_open": round(opened - began, 2),
        "ms_per_batch": round(seconds * 1000 / a.batches, 3),
        "tokens_per_second": round(a.batches * LANES * LENGTH / seconds),
        "peak_mb": peak_mb(resource.RUSAGE_SELF),
        "of_which_imports_mb": imported,
    }


def peak_mb(who: int) -> float:
    """Most memory that was resident at once: of this process, or of the largest of its children."""
    return round(resource.getrusage(who).ru_maxrss * MAX_RSS / 1e6, 1)


PARTS = {"prepare": run_prepare, "read": run_read}

if __name__ == "__main__":
    main()
