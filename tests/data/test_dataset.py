"""Datasets: cut anywhere, they hold what the files hold, or say what is wrong."""

import json
import os
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from folders import BYTES, same, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    Document,
    Preparing,
    files,
    open_dataset,
    prepare,
    prepare_dataset,
    read_documents,
    shards,
    sources,
    split,
    units,
    verify_dataset,
)
from compressive_transformer.errors import UsageError

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


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return os.mkdir, (self.path,)


def test_no_pickle_in_a_table(text: Path, tmp_path: Path):
    prepare_dataset(text, tmp_path / "out", BYTES)
    table = np.array([[Trap(tmp_path / "trapped"), 1]], object)
    np.save(tmp_path / "out" / "documents.npy", table, allow_pickle=True)
    with pytest.raises(UsageError, match=r"documents.npy is missing or damaged"):
        prepare(tmp_path / "out", BYTES)
    assert not (tmp_path / "trapped").exists()


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
        "out has tokens of the tokenizer 'bytes', not of 'other': give": lambda: prepare(out, Other()),
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


def test_fingerprints_of_equal_shapes(tmp_path: Path):
    write(tmp_path, {"a.txt": b"aabb", "b.txt": b"aabc"})
    a, b = (prepare_dataset(tmp_path / f"{n}.txt", tmp_path / n, BYTES) for n in "ab")
    halves = [replace(a, tokens=a.tokens[i : i + 2], starts=np.array([0, 2])) for i in (0, 2)]
    assert len({corpus.fingerprint for corpus in (a, b, *halves)}) == 4


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
