"""Shards made by several processes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

from compressive_transformer.data.units import Unit
from compressive_transformer.data.work import Job, Record, make_shard, start_process, work
from compressive_transformer.errors import UsageError

TELL_EVERY = 0.2
"""Seconds."""


@dataclass(frozen=True, kw_only=True)
class Preparing:
    """How far the work is."""

    bytes_read: int = 0
    """Of the sources, as they lie on the disk."""
    bytes_total: int | None = None
    """None if a stream is among them."""
    shards: int = 0
    """Finished, and kept if the work is broken off."""
    shards_total: int = 0
    waiting: bool = False
    """For another process that prepares the same."""


Progress = Callable[[Preparing], None]


def default_workers() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Teller:
    """Keeps account of the work, and tells it."""

    def __init__(self, tell: Progress, size: int | None, shards: int) -> None:
        self._tell, self._size, self._total = tell, size, shards
        self.bytes_read = self.shards = 0

    def add(self, size: int, *, shards: int = 0) -> None:
        """More bytes were read, and more shards finished."""
        self.bytes_read += size
        self.shards += shards
        self._tell(
            Preparing(
                bytes_read=self.bytes_read,
                bytes_total=self._size,
                shards=self.shards,
                shards_total=self._total,
            )
        )


def make_shards(job: Job, units: Sequence[Unit], workers: int, teller: Teller) -> None:
    """Makes the shards that are not there."""
    missing = [n for n in range(len(units)) if Record.read(job.folder, n, job.dtype) is None]
    found = set(range(len(units))).difference(missing)
    teller.add(sum(_size_of(units[n]) for n in found), shards=len(found))
    streams = [n for n in missing if units[n][0].stamp is None]  # only this process has standard input
    files = [n for n in missing if units[n][0].stamp is not None]
    apart = files if min(workers, len(files)) > 1 else []
    for number in streams if apart else missing:
        make_shard(job, number, units[number], teller.add)
        teller.add(0, shards=1)
    if apart:
        _make_apart(job, {n: units[n] for n in apart}, min(workers, len(apart)), teller)


def _size_of(unit: Unit) -> int:
    """Bytes on the disk."""
    return sum((p.stamp.size if p.stop is None else p.stop) - p.start for p in unit if p.stamp)


def _make_apart(job: Job, units: dict[int, Unit], workers: int, teller: Teller) -> None:
    """Makes shards in other processes."""
    context = get_context("spawn")
    bytes_read, stop = context.Value("q", 0), context.Event()
    told = 0
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=start_process, initargs=(job, bytes_read, stop)
    ) as pool:
        try:
            waiting = {pool.submit(work, number, unit) for number, unit in units.items()}
            while waiting:
                done, waiting = wait(waiting, timeout=TELL_EVERY, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                now = bytes_read.value
                teller.add(now - told, shards=len(done))
                told = now
        except BrokenProcessPool:
            raise UsageError(
                "a process that made tokens was ended from outside, perhaps for want of memory: use fewer "
                "workers; and in a script of your own, prepare under if __name__ == '__main__'"
            ) from None
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
