"""Work that is killed, stopped or doubled goes on or waits, and nothing half-made ever counts."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from folders import BYTES, TEXT, finished, same, wait_until
from numpy.typing import NDArray

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    Preparing,
    files,
    pool,
    prepare,
    prepare_dataset,
    read_documents,
    units,
    verify_dataset,
    work,
)
from compressive_transformer.errors import UsageError

SLOWLY = """
import signal, sys, time
from compressive_transformer.cli import main
from compressive_transformer.data import pool, units
make_shard = pool.make_shard
def slowly(*arguments):
    time.sleep(0.1)  # so that it can be broken off in time
    make_shard(*arguments)
if __name__ == "__main__":
    units.UNIT, pool.make_shard = 64, slowly
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
    main(sys.argv[1:])
"""


def start_slowly(text: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOWLY, "prepare", str(text), "--out", str(out), "--workers", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_killed_preparation_goes_on(text: Path, tmp_path: Path, tiny_units: None):
    out = tmp_path / "out"
    with start_slowly(text, out) as process:
        wait_until(lambda: finished(out) >= 3)
        process.kill()
    with pytest.raises(UsageError, match=r"is an unfinished dataset: go on with the command that began it$"):
        prepare(out, BYTES)
    (out / "shard-00099.bin.1.part").write_bytes(b"half")
    done = finished(out)
    assert 3 <= done < 15
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.bin")}
    seen: list[Preparing] = []
    corpus = prepare_dataset(text, out, BYTES, workers=1, progress=seen.append)
    assert (seen[0].shards, seen[-1].shards) == (done, seen[0].shards_total)
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.bin")}
    assert sum(times[name] == kept.get(name) for name in times) == done
    assert same(corpus, Corpus.from_documents(read_documents(text), BYTES))
    verify_dataset(out)
    assert {path.suffix for path in out.iterdir()} == {"", ".bin", ".json", ".npy"}
    assert [path.name for path in out.glob("*.json")] == [files.DATASET]


def test_an_interrupted_preparation_says_how_far_it_is(text: Path, tmp_path: Path):
    with start_slowly(text, tmp_path / "out") as process:
        wait_until(lambda: finished(tmp_path / "out") >= 2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    done = finished(tmp_path / "out")
    *_, last = said.splitlines()
    assert last == f"stopped: {done} of 16 shards are done; the same command goes on from there"


def test_two_processes_may_prepare_the_same(text: Path, tmp_path: Path):
    out = tmp_path / "out"
    with start_slowly(text, out) as first:
        wait_until(lambda: finished(out) >= 1)
        with start_slowly(text, out) as second:
            said = [process.communicate() for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert said[0][0] == said[1][0]
    assert "waiting for another process that prepares the same" in said[1][1]
    verify_dataset(out)


def test_workers_are_stopped_and_their_shards_kept(text: Path, tmp_path: Path, tiny_units: None):
    def interrupt(now: Preparing) -> None:
        if now.shards > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(text, tmp_path / "out", BYTES, workers=2, progress=interrupt)
    assert finished(tmp_path / "out") > 4
    assert not list(tmp_path.glob("out/*.part"))
    seen: list[Preparing] = []
    corpus = prepare_dataset(text, tmp_path / "out", BYTES, workers=1, progress=seen.append)
    assert seen[0].shards > 4
    assert same(corpus, Corpus.from_documents(read_documents(text), BYTES))


def test_a_worker_that_is_told_to_stop_leaves_nothing(text: Path, tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    stop, (source, *_) = context.Event(), files.find_sources(text / "a.txt")
    stop.set()
    job = work.Job(folder=tmp_path, tokenizer=BYTES, separator=None)
    process = work._Process(job, context.Value("q", 0), stop)
    unit = (units.Piece(source, 0, source.stamp()),)
    with patch.object(work, "_process", process), pytest.raises(work.StoppedError):
        work.work(0, unit)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


ORPHAN = """
import sys, time
from compressive_transformer.data import ByteTokenizer, prepare_dataset, units
class Slow(ByteTokenizer):
    def encode(self, data):
        import os
        open(sys.argv[2] + f"/{os.getpid()}.pid", "w").close()
        time.sleep(60)
if __name__ == "__main__":
    units.UNIT = 64
    prepare_dataset(sys.argv[1], sys.argv[3], Slow(), workers=2)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_no_worker_survives_its_parent(text: Path, tmp_path: Path):
    (tmp_path / "pids").mkdir()
    (tmp_path / "orphan.py").write_text(ORPHAN)
    command = [sys.executable, tmp_path / "orphan.py", text, tmp_path / "pids", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
        process.kill()
    pids = [int(path.stem) for path in (tmp_path / "pids").iterdir()]
    wait_until(lambda: not any(map(is_alive, pids)))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("damage", ["cut", "no table", "no record", "bad record"])
def test_what_is_half_made_is_made_again(text: Path, tmp_path: Path, tiny_units: None, damage: str):
    calls = 0

    def interrupt(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        work.make_shard(*arguments)  # pyright: ignore[reportArgumentType]

    with patch.object(pool, "make_shard", interrupt), pytest.raises(KeyboardInterrupt):
        prepare_dataset(text, tmp_path / "out", BYTES, workers=1)
    assert finished(tmp_path / "out") == 3
    stem = tmp_path / "out" / "shard-00001"
    match damage:
        case "cut":
            os.truncate(stem.with_suffix(".bin"), 10)
        case "no table":
            stem.with_suffix(".npy").unlink()
        case "no record":
            stem.with_suffix(".json").unlink()
        case _:
            stem.with_suffix(".json").write_text('{"num_tokens": 3}')
    seen: list[Preparing] = []
    corpus = prepare_dataset(text, tmp_path / "out", BYTES, workers=1, progress=seen.append)
    assert seen[0].shards == 2
    assert same(corpus, Corpus.from_documents(read_documents(text), BYTES))


def test_shards_of_a_changed_text_are_not_kept(text: Path, tmp_path: Path, tiny_units: None):
    def interrupt(now: Preparing) -> None:
        if now.shards == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(text, tmp_path / "out", BYTES, workers=1, progress=interrupt)
    (text / "a.txt").write_bytes(TEXT.upper())
    kept = sorted(tmp_path.rglob("out/*"))
    with pytest.raises(UsageError, match="an unfinished dataset of another text, or of this text before"):
        prepare_dataset(text, tmp_path / "out", BYTES, workers=1)
    with pytest.raises(UsageError, match="is an unfinished dataset: go on with the command that began it"):
        verify_dataset(tmp_path / "out")
    assert sorted(tmp_path.rglob("out/*")) == kept
    shutil.rmtree(tmp_path / "out")
    corpus = prepare_dataset(text, tmp_path / "out", BYTES, workers=1)
    assert same(corpus, Corpus.from_documents(read_documents(text), BYTES))


class Meddler(ByteTokenizer):
    """Writes to the file that is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def encode(self, data: bytes) -> NDArray[np.uint16]:
        with self.path.open("ab") as file:
            file.write(b"more")
        return super().encode(data)


@pytest.mark.parametrize("name", ["a.txt", "b.txt.gz"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_changes(text: Path, tmp_path: Path, tiny_units: None, name: str, workers: int):
    said = rf"^.*{name} was changed while it was read: start again when nothing writes to it$"
    with pytest.raises(UsageError, match=said):
        prepare_dataset(text / name, tmp_path / "out", Meddler(text / name), workers=workers)
    assert not (tmp_path / "out" / files.DATASET).exists()


class Deadly(ByteTokenizer):
    def encode(self, data: bytes) -> NDArray[np.uint16]:
        os._exit(9)


def test_a_worker_that_dies(text: Path, tmp_path: Path, tiny_units: None):
    with pytest.raises(UsageError, match=r"^a process that made tokens was ended from outside") as caught:
        prepare_dataset(text, tmp_path / "out", Deadly(), workers=2)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / files.DATASET).exists()
