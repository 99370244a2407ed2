"""Datasets: cut anywhere, broken off anywhere, they hold what the files hold, or say what is wrong."""

import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    Document,
    Preparing,
    Shards,
    files,
    open_dataset,
    pool,
    prepare,
    prepare_dataset,
    read_documents,
    shards,
    sources,
    split,
    units,
    verify_dataset,
    work,
)
from compressive_transformer.data.shards import Shard
from compressive_transformer.errors import UsageError

BYTES = ByteTokenizer()
TEXT = b"".join(b"line %d\n\n" % i for i in range(100))


def same(a: Corpus, b: Corpus) -> bool:
    arrays = ((a.tokens, b.tokens), (a.starts, b.starts), (a.num_bytes, b.num_bytes))
    return list(a.names) == list(b.names) and all(np.array_equal(x, y) for x, y in arrays)


def write(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write(tmp_path / "text", {"a.txt": TEXT, "b.txt.gz": b"b" * 50, "c.txt": b"c\n\nd"})


@pytest.fixture
def tiny_units():
    with patch.object(units, "UNIT", 64):
        yield


def finished(folder: Path) -> int:
    return len(list(folder.glob("*.json"))) - (folder / files.UNFINISHED).exists() if folder.exists() else 0


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Cut anywhere


@settings(max_examples=200, deadline=None)
@given(
    contents=st.lists(st.text("ab\n", min_size=1, max_size=40).map(str.encode), min_size=1, max_size=4),
    packed=st.integers(0, 4),
    separator=st.none() | st.text("ab\n", min_size=1, max_size=4),
    sizes=st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(1, 5)),
)
@example(contents=[b"aaaaaaaaab"], packed=4, separator="aa", sizes=(3, 2, 1))
@example(contents=[b"aaabaaabaaab"], packed=4, separator="aab", sizes=(3, 9, 5))
@example(contents=[b"b\n\n\n\n\nb\n\n\nb"], packed=4, separator="\n\n", sizes=(2, 4, 5))
@example(contents=[b"bb", b"b"], packed=4, separator="a", sizes=(1, 1, 1))
def test_a_text_in_shards_is_the_text(
    contents: list[bytes], packed: int, separator: str | None, sizes: tuple[int, int, int]
):
    contents[0] += b"end"
    names = [f"{i}.txt{'.gz' * (i == packed)}" for i in range(len(contents))]
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place) / "text", dict(zip(names, contents, strict=True)))
        expected = Corpus.from_documents(read_documents(folder, separator=separator), BYTES)
        unit, window, chunk = sizes
        with (
            patch.object(units, "UNIT", unit),
            patch.object(units, "WINDOW", window),
            patch.object(sources, "CHUNK", chunk),
        ):
            corpus = prepare_dataset(folder, Path(place) / "out", BYTES, separator=separator, workers=1)
        assert same(corpus, expected)
        assert corpus.tokens.dtype == expected.tokens.dtype
        verify_dataset(Path(place) / "out")


def test_a_large_file_is_cut_behind_separators_or_lines(tmp_path: Path):
    path = write(tmp_path, {"a.txt": b"one\n--two\nthree--four\nfive\nsix"}) / "a.txt"
    (source,) = files.find_sources(path)

    def cut(separator: bytes | None) -> list[bytes]:
        ends = [(u[0].start, u[0].stop) for u in units.plan_units([source], [source.stamp()], separator)]
        return [path.read_bytes()[start:stop] for start, stop in ends]

    with patch.object(units, "UNIT", 5), patch.object(units, "WINDOW", 12):
        assert cut(None) == [b"one\n--two\n", b"three--four\n", b"five\n", b"six"]
        assert cut(b"--") == [b"one\n--", b"two\nthree--", b"four\n", b"five\n", b"six"]


def test_units_are_of_one_size(tmp_path: Path):
    contents = {"a": 40, "b": 30, "c": 30, "d": 200, "e": 5, "f.gz": 1000, "g": 1}
    write(tmp_path, {name: os.urandom(size // 2).hex().encode() or b"g" for name, size in contents.items()})
    found = files.find_sources([tmp_path / name for name in contents])
    with patch.object(units, "UNIT", 64):
        plan = units.plan_units(found, [source.stamp() for source in found], None)
    assert [[Path(piece.source.name).name for piece in unit] for unit in plan] == [
        ["a"],
        ["b", "c"],
        *[["d"]] * 4,
        ["e"],
        ["f.gz"],
        ["g"],
    ]
    assert [unit[0].start for unit in plan[2:6]] == [0, 65, 129, 193]


def test_workers_make_the_same(text: Path, tmp_path: Path, tiny_units: None):
    seen: list[Preparing] = []
    one = prepare_dataset(text, tmp_path / "one", BYTES, separator="\\n\\n", workers=1)
    two = prepare_dataset(text, tmp_path / "two", BYTES, separator="\\n\\n", workers=2, progress=seen.append)
    assert same(one, two)
    assert one.fingerprint == two.fingerprint
    size = sum(path.stat().st_size for path in text.iterdir())
    names = sorted(os.listdir(tmp_path / "one"))
    assert names == sorted(os.listdir(tmp_path / "two"))
    total = len([name for name in names if name.endswith(".bin")])
    assert total > 10
    assert seen[-1] == Preparing(bytes_read=size, bytes_total=size, shards=total, shards_total=total)
    assert [now.shards for now in seen] == sorted(now.shards for now in seen)
    for name in set(names) - {".lock"}:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path):
    path = write(tmp_path, {"a.txt": b"x\n" * 50_000}) / "a.txt"
    tracemalloc.start()
    corpus = prepare_dataset(path, tmp_path / "out", BYTES, separator="\\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.num_documents == 50_000
    assert corpus.names[-1] == f"{path}#50000"
    assert peak < 50_000 * 120


# Broken off

SLOWLY = """
import sys, time
from compressive_transformer.cli import main
from compressive_transformer.data import pool, units
make_shard = pool.make_shard
def slowly(*arguments):
    time.sleep(0.05)
    make_shard(*arguments)
if __name__ == "__main__":
    units.UNIT, pool.make_shard = 64, slowly
    main(sys.argv[1:])
"""


def start_slowly(text: Path, out: Path, *more: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SLOWLY, "prepare", str(text), "--out", str(out), "--workers", "1", *more]
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


# What is wrong


@pytest.mark.parametrize("file", ["shard-00003.bin", "documents.npy"])
def test_a_check_names_what_is_damaged(text: Path, tmp_path: Path, tiny_units: None, file: str):
    prepare_dataset(text, tmp_path / "out", BYTES, workers=1)
    seen: list[tuple[int, int]] = []
    verify_dataset(tmp_path / "out", lambda *n: seen.append(n))
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.bin"))
    assert seen[-1] == (size, size)
    data = bytearray((tmp_path / "out" / file).read_bytes())
    data[-2] ^= 1
    (tmp_path / "out" / file).write_bytes(data)
    with pytest.raises(UsageError, match=rf"^.*{file} is missing or damaged: remove .*out and prepare"):
        verify_dataset(tmp_path / "out")


def test_a_dataset_that_is_not_whole(text: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_dataset(text, out, BYTES)
    os.truncate(out / "shard-00000.bin", 8)
    for use in (lambda: prepare(out, BYTES), lambda: verify_dataset(out)):
        with pytest.raises(UsageError, match=r"shard-00000.bin is missing or damaged: remove"):
            use()
    corpus = prepare_dataset(text, out, BYTES)  # the same command mends it
    assert same(corpus, Corpus.from_documents(read_documents(text), BYTES))
    (out / "shard-00000.bin").unlink()
    with pytest.raises(UsageError, match=r"shard-00000.bin is missing or damaged"):
        prepare(out, BYTES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", r"dataset.json is damaged: remove .*out and prepare it again$"),
        ("[]", "dataset.json is damaged"),
        ("{}", "dataset.json is damaged"),
        ('{"format": "compressive-transformer-dataset-1", "dtype": "object"}', "dataset.json is damaged"),
        (
            '{"format": "compressive-transformer-dataset-1", "dtype": "uint16", "shards": [], "sources": [], '
            '"key": "", "tokenizer": "bytes", "separator": null, "documents_sha256": ""}',
            "dataset.json is damaged",
        ),
        ('{"format": "x"}', r"has format 'x', this version reads 'compressive-transformer-dataset-1'"),
    ],
)
def test_a_manifest_that_is_none(text: Path, tmp_path: Path, content: str, message: str):
    prepare_dataset(text, tmp_path / "out", BYTES)
    (tmp_path / "out" / files.DATASET).write_text(content)
    for use in (
        lambda: prepare(tmp_path / "out", BYTES),
        lambda: verify_dataset(tmp_path / "out"),
        lambda: prepare_dataset(text, tmp_path / "out", BYTES),
    ):
        with pytest.raises(UsageError, match=message):
            use()
    assert (tmp_path / "out" / files.DATASET).read_text() == content


def test_no_pickle_in_a_table(text: Path, tmp_path: Path):
    prepare_dataset(text, tmp_path / "out", BYTES)
    np.save(tmp_path / "out" / "documents.npy", np.array([[print, 1]], object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"documents.npy is missing or damaged"):
        prepare(tmp_path / "out", BYTES)


def test_a_dataset_is_read_in_place_of_its_text(text: Path, tmp_path: Path):
    made = prepare_dataset(text, tmp_path / "out", BYTES, separator="\\n\\n")
    assert same(prepare(tmp_path / "out", BYTES), made)
    assert same(prepare([str(tmp_path / "out")], BYTES, separator="\n\n"), made)
    assert same(prepare_dataset(text, tmp_path / "out", BYTES, separator="\\n\\n"), made)


class Other(ByteTokenizer):
    name = "other"


def test_a_dataset_in_the_wrong_place(text: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare_dataset(text, out, BYTES)
    cases: dict[str, Callable[[], object]] = {
        "out has tokens of the tokenizer 'bytes', not of 'other': prepare": lambda: prepare(out, Other()),
        "was prepared with separator None, not '-': leave": lambda: prepare(out, BYTES, separator="-"),
        "out can't be joined with other text: give it alone$": lambda: prepare([text, out], BYTES),
        "is a dataset of tokens: give the text": lambda: read_documents(out),
        "is a dataset already: give text": lambda: prepare_dataset(out, tmp_path / "more", BYTES),
        "another text, or of this text before": lambda: prepare_dataset(text / "a.txt", out, BYTES),
        "text is not empty; nothing was written": lambda: prepare_dataset(text, text, BYTES),
        "cannot write to the dataset .*a.txt": lambda: prepare_dataset(text, text / "a.txt", BYTES),
        "hf:some is a stream of a data set": lambda: prepare("hf:some", BYTES),
    }
    before = sorted(os.listdir(text))
    for message, use in cases.items():
        with pytest.raises(UsageError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)
    assert sorted(os.listdir(text)) == before


def test_tokens_are_not_read_as_text(text: Path, tmp_path: Path):
    out = text / "tokens"
    prepare_dataset(text / "a.txt", out, BYTES)
    with pytest.raises(UsageError, match=r"tokens holds tokens among text: take it from there, or name"):
        prepare(text, BYTES)
    (text / "dataset.json").write_bytes(b'{"a": "text of that name"}')
    (named,) = read_documents(text / "dataset.json")
    assert named.data == b'{"a": "text of that name"}'


def test_a_full_disk(text: Path, tmp_path: Path, tiny_units: None):
    full = OSError(28, "No space left on device")
    said = r"^cannot write to the dataset .*out \(No space left on device\): choose another"
    with patch.object(os, "fsync", side_effect=full), pytest.raises(UsageError, match=said):
        prepare_dataset(text, tmp_path / "out", BYTES, workers=1)
    assert same(
        prepare_dataset(text, tmp_path / "out", BYTES, workers=1),
        Corpus.from_documents(read_documents(text), BYTES),
    )


# Fingerprints


def test_fingerprints_tell_texts_apart(text: Path, tmp_path: Path):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    with patch.object(shards.OpenFiles, "read", side_effect=AssertionError("tokens were read")):
        again = prepare_dataset(text, tmp_path / "out", BYTES)
        assert again.fingerprint == corpus.fingerprint
    parts = [part.fingerprint for part in split(again, fraction=0.01)]
    in_memory = [
        Corpus.from_documents([Document("", data) for data in datas], BYTES).fingerprint
        for datas in ([b"ab", b"c"], [b"a", b"bc"], [b"abd"], [b"ab", b"d"])
    ]
    divided = prepare_dataset(text, tmp_path / "divided", BYTES, separator="\\n\\n").fingerprint
    every = [corpus.fingerprint, divided, *parts, *in_memory]
    assert len(set(every)) == len(every)
    assert all(len(fingerprint) == 64 for fingerprint in every)
    renamed = Corpus.from_documents([Document("other name", b"ab"), Document("", b"c")], BYTES)
    assert renamed.fingerprint == in_memory[0]


# Tokens in files


def in_files(folder: Path, pieces: list[NDArray[np.uint16]]) -> Shards:
    made = []
    for number, piece in enumerate(pieces):
        (folder / f"{number}.bin").write_bytes(piece.tobytes())
        made.append(Shard(folder / f"{number}.bin", len(piece), ""))
    return Shards.over(made, np.uint16)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    cuts=st.lists(st.tuples(*[st.none() | st.integers(-40, 40)] * 2), max_size=3),
)
def test_shards_are_like_an_array(sizes: list[int], cuts: list[tuple[int | None, int | None]]):
    truth = np.arange(sum(sizes), dtype=np.uint16)
    with tempfile.TemporaryDirectory() as folder, patch.object(shards, "FILES", shards.OpenFiles(2)):
        tokens = in_files(Path(folder), np.split(truth, np.cumsum(sizes)[:-1]))
        for start, stop in cuts:
            tokens, truth = tokens[start:stop], truth[start:stop]
        assert len(tokens) == len(truth)
        assert (np.asarray(tokens).tolist(), np.asarray(tokens).dtype) == (truth.tolist(), truth.dtype)
        assert tokens.astype(np.int64).dtype == np.int64
        assert np.array_equal(pickle.loads(pickle.dumps(tokens)), truth)
        assert len(shards.FILES._files) <= 2
        shards.FILES.close()


def test_what_shards_can_not_do(tmp_path: Path):
    tokens = in_files(tmp_path, [np.arange(4, dtype=np.uint16)])
    with pytest.raises(ValueError, match="in steps of 1, got 2"):
        tokens[::2]
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tokens, copy=False)


def test_a_corpus_in_files_is_small_when_pickled(text: Path, tmp_path: Path):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    assert len(pickle.dumps(corpus)) < 3000
    assert same(pickle.loads(pickle.dumps(corpus)), corpus)


@pytest.mark.parametrize(
    ("opened", "message"),
    [
        (False, r"^cannot read the token file .*shard-00000.bin \(No such file or directory\): prepare"),
        (True, r"^the token file .*shard-00000.bin has been cut short: prepare the text again$"),
    ],
)
def test_a_token_file_that_goes_away(text: Path, tmp_path: Path, opened: bool, message: str):
    corpus = prepare_dataset(text, tmp_path / "out", BYTES)
    path = tmp_path / "out" / "shard-00000.bin"
    if opened:
        np.asarray(corpus.tokens[:10])
        os.truncate(path, 100)
    else:
        path.unlink()
    with pytest.raises(UsageError, match=message):
        np.asarray(corpus.tokens)


def test_the_manifest_says_what_the_dataset_is(text: Path, tmp_path: Path):
    prepare_dataset(text, tmp_path / "out", BYTES, separator="\\n\\n")
    manifest = json.loads((tmp_path / "out" / files.DATASET).read_text())
    assert (manifest["tokenizer"], manifest["dtype"], manifest["separator"]) == ("bytes", "uint16", "\\n\\n")
    stat = (text / "a.txt").stat()
    assert manifest["sources"][0] == {
        "name": str(text / "a.txt"),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "documents": 100,
    }
    assert [source["documents"] for source in manifest["sources"]] == [100, 1, 2]
    names = open_dataset(tmp_path / "out", BYTES).names[100:]
    assert list(names) == [f"{text / 'b.txt.gz'}#1", f"{text / 'c.txt'}#1", f"{text / 'c.txt'}#2"]
