"""Training in processes of its own, to be interrupted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from compressive_transformer.train.parallel import join
from tiny import TINY

START = "import sys, torch; torch.set_num_threads(1)\nfrom compressive_transformer.cli import main\n"
SHAPE = [f"--model.{name.replace('_', '-')}={value}" for name, value in TINY.items()]
USUAL = [*SHAPE, "--lanes=4", "--precision=float32", "--model.dropout=0.2", "--model.compressed-memory=8"]


def start(
    *arguments: str, prelude: str = "", limit: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Runs the command line.

    Args:
        prelude: Python that is run before, to break something.
        limit: is called in the new process.
    """
    return subprocess.Popen(
        [sys.executable, "-c", f"{START}{prelude}\nmain(sys.argv[1:])", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def torchrun(count: int, *arguments: str, options: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Runs the command line in several processes."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"),
            *(*options, "-m", "compressive_transformer", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def result(process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str]:
    """Exit code, and what it wrote to standard error."""
    try:
        _, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, errors


def until(condition: Callable[[], object], process: subprocess.Popen[str], timeout: float = 60) -> None:
    """Waits for something that the process does."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def checkpoints(run: Path) -> list[Path]:
    """Those that are whole, as their names say."""
    return sorted(path for path in (run / "state").glob("step-*") if path.suffix != ".damaged")


def signal_at_checkpoint(process: subprocess.Popen[str], run: Path, number: signal.Signals) -> None:
    """Sends a signal as soon as there is a checkpoint, hence in the midst of some step."""
    until(lambda: checkpoints(run), process)
    process.send_signal(number)


def _worker(rank: int, size: int, port: int, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with join("cpu") as world:
        job(world, *arguments)


def in_processes(size: int, job: Callable[..., None], *arguments: Any) -> None:
    """Calls ``job(world, *arguments)`` in several processes that know each other."""
    port = 20000 + os.getpid() % 20000
    start_processes(_worker, (size, port, job, arguments), nprocs=size, start_method="spawn")
