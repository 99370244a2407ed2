"""Run folders: made once, used by one run at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from compressive_transformer.checkpoint import CONFIG, STATE, Store
from compressive_transformer.errors import UsageError
from compressive_transformer.train.parallel import World

LOCK = "lock"
LAUNCH = "launch"
"""File in ``state/`` that tells which torchrun made the run."""


def make_run_folder(out: str | None, name: str) -> Path:
    """A new folder; one that holds anything is never written to, unless ``is_restarted``.

    Args:
        out: the folder; ``runs/NAME-DATE-TIME`` if not given.
        name: of the recipe.
    """
    try:
        if not out:
            return _new_folder(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
        run = Path(out)
        if not is_restarted(run) and run.exists() and (not run.is_dir() or any(run.iterdir())):
            if in_use(run):
                what, remedy = "is being trained by another process", "wait for it, or choose another --out"
            elif Store(run).steps():
                what, remedy = "holds a run", f"go on with it by --resume {run}, or choose another --out"
            elif (run / CONFIG).exists():
                what, remedy = "holds a run that was never saved", "remove it, or choose another --out"
            else:
                what, remedy = "exists and is not an empty folder", "choose another --out, or remove it"
            raise UsageError(f"{run} {what}; nothing was written: {remedy}")
        (run / STATE).mkdir(parents=True, exist_ok=True)
        if launch := _launch():
            (run / STATE / LAUNCH).write_text(launch)
    except OSError as error:
        raise UsageError(f"{out or 'runs'} can't be made ({error.strerror}); choose another --out") from None
    return run


def open_run(
    out: str | None, name: str, resume: Path | None, world: World
) -> tuple[Path, AbstractContextManager[None]]:
    """The run folder, new or to go on with, and what keeps others from it: the first process does.

    Args:
        out, name: see ``make_run_folder``.
        resume: the run to go on with.
        world: the processes.

    Raises:
        UsageError: there is a run, or several processes were not told where.
    """
    if resume:
        run = resume
    elif world.size > 1 and not out:
        raise UsageError("several processes need one run folder; give it by --out")
    else:
        run = make_run_folder(out, name) if world.first else Path(out or "")
    return run, locked(run) if world.first else nullcontext()


def is_restarted(run: Path) -> bool:
    """Whether torchrun starts again after a fault, and the run is the one that it began."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    try:
        return (run / STATE / LAUNCH).read_text() == _launch()
    except OSError:
        return False


def restarted_run(out: str | None) -> Path | None:
    """The run folder, if torchrun started this process again after a fault and there is a checkpoint."""
    run = Path(out or "")
    return run if is_restarted(run) and Store(run).steps() else None


def _launch() -> str:
    """Tells one torchrun from another; empty without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return f"none, {os.getppid()}" if name == "none" else name


def _new_folder(path: Path) -> Path:
    """The folder, or the first of path-2, path-3, ... that nobody else makes at the same moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        run = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            return run
    raise AssertionError("unreachable")


def in_use(run: Path) -> bool:
    """Whether a process trains the run now."""
    path = run / STATE / LOCK
    if not path.exists():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return True
    lock.release()
    return False


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other processes from writing to the run; a process that dies lets go of it.

    Raises:
        UsageError: another process has it.
    """
    try:
        (run / STATE).mkdir(parents=True, exist_ok=True)
        lock = FileLock(run / STATE / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{run} is being trained by another process; wait for it, stop it, or use another folder"
        ) from None
    except OSError as error:
        raise UsageError(f"{run} can't be written to ({error.strerror}); choose another folder") from None
    try:
        yield
    finally:
        lock.release()
