"""What the benchmarks beside other libraries share: a process for each measurement, and records of it all.

A benchmark's child is the same script, started with ``--task`` and a JSON object; it answers in JSON lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from peers import ARMS, PACKAGES, SIZES, present

RESULTS = Path(__file__).parent / "results"
SHAPES = tuple(name for name in ARMS if name not in ("ours-adamw", "ours-compiled"))
"""Arms that differ otherwise than in training."""
MAX_RSS = 1024 if sys.platform != "darwin" else 1  # bytes in what the system counts in
console = Console(stderr=True)


def parser(
    description: str | None, arms: tuple[str, ...] = tuple(ARMS), *, sizes: bool = True
) -> argparse.ArgumentParser:
    """With the arguments that every benchmark has; without a choice of arms if there are none."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    made.set_defaults(arms=["ours"])
    if arms:
        made.add_argument(
            "--arms",
            nargs="+",
            default=list(arms),
            choices=arms,
            metavar="ARM",
            help=f"models to measure, of: {', '.join(arms)}\n(default: all whose library is installed)",
        )
    if sizes:
        made.add_argument(
            "--size", choices=SIZES, default="standard", help="of all models (default: standard)"
        )
    made.add_argument("--threads", type=int, default=2, help="of torch, in each process (default: 2)")
    made.add_argument("--machine", default=processor(), help="what to call this machine in the record")
    made.add_argument("--out", type=Path, help="JSON to write; other groups in it stay")
    made.add_argument("--task", type=json.loads, help=argparse.SUPPRESS)
    return made


def parse(
    made: argparse.ArgumentParser, child: Callable[[dict[str, Any]], dict[str, Any]], *, keep: bool = True
) -> Any:
    """The arguments; in a child, does its task instead, and ends.

    Args:
        keep: freed memory is kept, for any library that is measured.
    """
    a = made.parse_args()
    if a.task is not None:
        import torch

        from compressive_transformer.allocator import keep_freed_memory

        if keep:
            keep_freed_memory()
        torch.set_num_threads(a.threads)
        torch.manual_seed(a.task.get("seed", 0))
        print(json.dumps({"result": child(a.task)}), flush=True)
        sys.exit()
    for name, value in vars(a).items():
        for x in value if isinstance(value, list) else [value]:
            if type(x) in (int, float) and name != "seeds" and not 0 < x < math.inf:
                made.error(f"--{name.replace('_', '-')} {x} is not allowed; use a number above 0")
    a.arms = present(a.arms)
    return a


def measure(task: dict[str, Any], threads: int, tell: Callable[[float], None] = lambda done: None) -> Any:
    """What this script's child finds out about a task, in a process of its own.

    A child that fails gives ``{"failed": what it said last}``.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | task.get("environment", {})
    command = [sys.executable, sys.argv[0], "--threads", str(threads), "--task", json.dumps(task)]
    with Errors() as errors:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": errors.file, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as process:
            assert process.stdout is not None
            result = None
            for line in process.stdout:
                said = json.loads(line) if line.startswith('{"') else {}
                if "done" in said:
                    tell(said["done"])
                result = said.get("result", result)
        return result if result is not None else {"failed": errors.last(process.returncode)}


def in_rounds(
    title: str, tasks: dict[Any, dict[str, Any]], rounds: int, threads: int
) -> dict[Any, list[Any]]:
    """Measures every task once in each round, one after the other, so that a slow while is slow for all."""
    found: dict[Any, list[Any]] = {key: [] for key in tasks}
    with bar(title, rounds * len(tasks)) as advance:
        for _ in range(rounds):
            for key, task in tasks.items():
                advance(now=f"{title}: {task.get('arm', key)}")
                found[key].append(measure(task, threads))
                advance(1)
    return found


def speeds(rounds: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds of ``tokens`` in ``seconds``, and of the ratio to ours within a round."""
    if failed := [m for m in rounds if "failed" in m]:
        return failed[0]
    pairs = [(m, o) for m, o in zip(rounds, ours, strict=False) if "failed" not in o]
    return {
        "tokens_per_second": median(m["tokens"] / m["seconds"] for m in rounds),
        "speed_of_ours": median(o["seconds"] / m["seconds"] for m, o in pairs) if pairs else None,
        "tokens": rounds[0]["tokens"],
        "rounds_seconds": [m["seconds"] for m in rounds],
    }


def speed_cells(m: dict[str, Any]) -> tuple[str, str]:
    """Tokens a second and the ratio to ours, or why there are none."""
    if "failed" in m:
        return m["failed"], ""
    ratio = f"{m['speed_of_ours']:.2f}" if m["speed_of_ours"] else "–"
    return f"{m['tokens_per_second']:,.0f}", ratio


class Errors:
    """A file for what a child complains of: a pipe that nobody reads would fill up."""

    def __enter__(self) -> Errors:
        import tempfile

        self.file = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def last(self, code: int) -> str:
        """The last line that says something."""
        self.file.seek(0)
        lines = [line.strip() for line in self.file if line.strip()]
        return f"exit {code}: {lines[-1] if lines else 'no message'}"


def say(done: float) -> None:
    """Tells the parent how much of the task is done, 0 to 1."""
    print(json.dumps({"done": done}), flush=True)


@contextmanager
def bar(description: str, total: float) -> Iterator[Callable[..., None]]:
    """A progress bar; what it gives takes steps, and what is under way."""
    columns = (TextColumn("{task.description:<40}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        row = shown.add_task(description, total=total)

        def advance(steps: float = 0, now: str | None = None, at: float | None = None) -> None:
            shown.update(row, advance=steps, description=now)
            if at is not None:
                shown.update(row, completed=at)

        yield advance


def record(out: Path | None, group: str, about: dict[str, Any], arms: dict[str, Any]) -> None:
    """Writes a group of results into the JSON, beside the groups that it has."""
    if out is None:
        return
    found = load(out) | {group: {"about": about, "arms": arms}}
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".part")
    draft.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draft.replace(out)


def load(path: Path) -> dict[str, Any]:
    """The groups of a JSON; none if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def about(arguments: Any, **more: Any) -> dict[str, Any]:
    """How, where and of what the figures were made."""
    hidden = ("task", "machine", "out", "train", "valid", "tune", "text")
    settings = {name: value for name, value in vars(arguments).items() if name not in hidden}
    words = (Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])
    return {
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "settings": settings,
        "machine": f"{arguments.threads} threads of {arguments.machine}",
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version()} | versions(arguments.arms),
    } | more


def versions(arms: list[str]) -> dict[str, str]:
    """Of torch, of this library and of those that the arms are made of."""
    found = {}
    for package in ("torch", "compressive-transformer", *(PACKAGES[arm] for arm in arms if arm in PACKAGES)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "source"
    return found


def processor() -> str:
    """What the processor calls itself."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def peak_mb() -> float:
    """Most memory that was resident at once in this process."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAX_RSS / 1e6, 1)


def seconds(job: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def show(title: str, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Prints a table."""
    table = Table(title=title)
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)


def by_rows(name: str, a: Any, task: dict[str, Any]) -> None:
    """Measures, shows and records every arm at every number of rows."""
    tasks = {
        (arm, rows): task | {"arm": arm, "rows": rows} for arm, rows in itertools.product(a.arms, a.rows)
    }
    found = in_rounds(name, tasks, a.rounds, a.threads)
    for rows in a.rows:
        arms = {arm: speeds(found[arm, rows], found.get(("ours", rows), [])) for arm in a.arms}
        record(a.out, f"{a.size}/{rows} rows", about(a), arms)
        table = [(arm, *speed_cells(m)) for arm, m in arms.items()]
        show(f"{name}, {a.size}, {rows} rows", ("arm", "tokens/s", "× ours"), table)
