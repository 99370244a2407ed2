"""Streams of a data set: each text once an epoch, none that is held out, and resumed to the token."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from compressive_transformer.data import (
    Batch,
    ByteTokenizer,
    open_stream,
)
from compressive_transformer.data.streamed import LanesFactory
from compressive_transformer.errors import UsageError

needs_datasets = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs datasets")
BYTES = ByteTokenizer()
DOCUMENT = BYTES.document_token
TEXTS = [f"text {i} " * (i % 5 + 1) for i in range(24)]


@pytest.fixture(autouse=True)
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("datasets"):
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hub"))


def write(folder: Path, texts: list[str], num_files: int = 1, column: str = "text", **more: Any) -> str:
    folder.mkdir(exist_ok=True)
    size = -(-len(texts) // num_files)
    for i in range(num_files):
        rows = [json.dumps({column: text, **more}) + "\n" for text in texts[i * size : (i + 1) * size]]
        (folder / f"{i}.jsonl").write_text("".join(rows))
    return f"hf:{folder}"


def factory(folder: Path, texts: list[str] = TEXTS, num_files: int = 1, tokens: int = 20) -> LanesFactory:
    return open_stream(write(folder, texts, num_files), BYTES, validation_tokens=tokens)[1]


def expected_batches(documents: Iterator[str], num_rows: int, length: int) -> Iterator[list[list[int]]]:
    """The slow truth: a list for each lane, which takes the next document when it runs out."""
    lanes: list[list[int]] = [[] for _ in range(num_rows)]
    while True:
        for lane in lanes:
            while len(lane) <= length:
                lane += [DOCUMENT, *next(documents).encode()]
        yield [lane[: length + 1] for lane in lanes]
        lanes = [lane[length:] for lane in lanes]


def for_ever(texts: list[str]) -> Iterator[str]:
    while True:
        yield from texts


def equal(a: Batch, b: Batch) -> bool:
    resets = a.resets is b.resets is None or (
        a.resets is not None and b.resets is not None and torch.equal(a.resets, b.resets)
    )
    return torch.equal(a.inputs, b.inputs) and torch.equal(a.targets, b.targets) and resets


@needs_datasets
@pytest.mark.parametrize("num_files", [1, 3])
@pytest.mark.parametrize(("num_lanes", "length"), [(1, 7), (3, 4), (4, 60)])
def test_lanes_take_the_next_document(tmp_path: Path, num_files: int, num_lanes: int, length: int):
    held_out, make = open_stream(write(tmp_path, TEXTS, num_files), BYTES, validation_tokens=20)
    assert held_out is not None
    assert list(held_out.names) == [f"hf:{tmp_path}#1", f"hf:{tmp_path}#2"]
    assert BYTES.decode(held_out.tokens) == (TEXTS[0] + TEXTS[1]).encode()[:20]
    lanes = make(num_lanes=num_lanes, length=length)
    truth = expected_batches(for_ever(TEXTS[2:]), num_lanes, length)
    for batch, rows in zip(islice(lanes, 60), truth, strict=False):
        assert batch.inputs.tolist() == [row[:-1] for row in rows]
        assert batch.targets.tolist() == [row[1:] for row in rows]
        begins = batch.inputs == DOCUMENT
        assert (batch.resets is None) == (not begins.any())
        assert batch.resets is None or torch.equal(batch.resets, begins)
    assert lanes.tokens_read == 60 * num_lanes * length
    assert lanes.epoch is None
    assert next(make(num_lanes=num_lanes, length=length, reset_documents=False)).resets is None


@needs_datasets
@pytest.mark.parametrize("num_files", [1, 2])
@pytest.mark.parametrize("before", [0, 1, 2, 5, 13, 40])
def test_a_saved_stream_goes_on_the_same(tmp_path: Path, num_files: int, before: int):
    shape: dict[str, Any] = {"num_lanes": 3, "length": 11}
    lanes = factory(tmp_path, num_files=num_files)(**shape)
    list(islice(lanes, before))
    state = json.loads(json.dumps(lanes.state_dict()))
    rest = list(islice(lanes, 30))
    resumed = factory(tmp_path, num_files=num_files)(**shape)
    next(resumed)
    resumed.load_state_dict(state)
    assert resumed.documents() == []
    assert json.loads(json.dumps(resumed.state_dict())) == state
    for expected in rest:
        assert equal(next(resumed), expected)
    assert resumed.state_dict() == lanes.state_dict()
    assert resumed.documents() == lanes.documents()


@needs_datasets
@pytest.mark.parametrize("num_files", [2, 3])
def test_processes_share_the_stream(tmp_path: Path, num_files: int):
    make = factory(tmp_path, num_files=num_files)
    lanes = [
        make(num_lanes=4, length=500, rows=range(2 * rank, 2 * rank + 2), rank=rank, world=2)
        for rank in range(2)
    ]
    batches = [next(part) for part in lanes]
    assert all(batch.inputs.shape == (2, 500) for batch in batches)
    numbers = [
        {int(n) for n in re.findall(rb"text (\d+) ", BYTES.decode(batch.inputs.flatten()))}
        for batch in batches
    ]
    assert not numbers[0] & numbers[1]
    assert numbers[0] | numbers[1] == set(range(2, 24))
    assert [part.tokens_read for part in lanes] == [2000, 2000]
    assert lanes[1].documents()[0].startswith(f"hf:{tmp_path} part 1/2#")
    with pytest.raises(UsageError, match="rank 0 and these 1"):
        lanes[1].load_state_dict(lanes[0].state_dict())


@needs_datasets
def test_what_is_held_out_never_comes_again(tmp_path: Path):
    texts = ["held out", "and this", "held out", "other", "", "and this", "more"]
    make = open_stream(write(tmp_path, texts), BYTES, validation_tokens=10)[1]
    assert BYTES.decode(next(make(num_lanes=1, length=40)).inputs[0]).startswith(b"othermoreothermore")


@needs_datasets
def test_lanes_say_what_they_read(tmp_path: Path):
    lanes = factory(tmp_path, ["x" * 9, "aaaa", "bb", "c", "dddddd"], tokens=9)(num_lanes=2, length=4)
    assert lanes.documents() == []
    found = []
    for _ in range(4):
        next(lanes)
        found.append([name.rpartition("#")[2] for name in lanes.documents()])
    # x is held out; four at a time, one lane reads |aaa a|dd dddd |bb| and the other |bb| c|aa aa|c |ddd
    assert found == [["2", "3", "4"], ["2", "5", "4"], ["5", "2", "4"], ["3", "2", "5"]]


@needs_datasets
def test_lanes_advance(tmp_path: Path):
    make = factory(tmp_path)
    lanes, jumped = make(num_lanes=2, length=5), make(num_lanes=2, length=5)
    list(islice(lanes, 7))
    jumped.advance_to(70)
    assert jumped.state_dict() == lanes.state_dict()
    assert equal(next(jumped), next(lanes))
    with pytest.raises(UsageError, match="can't go back from token 80 to 70"):
        jumped.advance_to(70)


@needs_datasets
def test_without_anything_held_out(tmp_path: Path):
    held_out, make = open_stream(write(tmp_path, ["one"]), BYTES, validation_tokens=0)
    assert held_out is None
    assert BYTES.decode(next(make(num_lanes=1, length=9)).inputs[0]) == b"oneone"


@needs_datasets
def test_of_a_short_stream_a_part_is_held_out(tmp_path: Path):
    held_out, make = open_stream(write(tmp_path, TEXTS), BYTES)
    assert held_out is not None
    total = sum(map(len, TEXTS))
    assert 0.05 * total <= held_out.num_tokens < 0.1 * total
    assert b"text 23" in BYTES.decode(next(make(num_lanes=1, length=2000)).inputs[0])


@needs_datasets
def test_text_files_are_documents(tmp_path: Path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n\nfour\n")
    held_out, make = open_stream(f"hf:{tmp_path}", BYTES, validation_tokens=5)
    assert held_out is not None
    assert BYTES.decode(held_out.tokens) == b"one\nt"
    assert BYTES.decode(next(make(num_lanes=1, length=13)).inputs[0]) == b"three\n\nfour\n"


@needs_datasets
def test_parquet_and_other_columns(tmp_path: Path):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"id": [1, 2, 3], "body": ["first", None, "second"]})
    parquet.write_table(table, tmp_path / "a.parquet")
    held_out, make = open_stream(f"hf:{tmp_path}", BYTES, validation_tokens=3)
    assert held_out is not None
    assert BYTES.decode(held_out.tokens) == b"fir"
    assert BYTES.decode(next(make(num_lanes=1, length=7)).inputs[0]) == b"second"


@needs_datasets
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens_read": -1}, "tokens_read should be 0 or more"),
        ({"tokens_read": None}, "tokens_read should be 0 or more"),
        ({"unread": [[]]}, "unread should be a list of 2"),
        ({"unread": "no"}, "unread should be a list of 2"),
        ({"unread": [{}, {}]}, "unread should be a list"),
        ({"unread": [[3], []]}, "document should be 0 or more"),
        ({"unread": [[{"document": 1, "tokens": "?"}], []]}, "unread should be tokens"),
        ({"unread": [[{"document": 1, "tokens": 7}], []]}, "unread should be tokens"),
        ({"unread": [[{"document": 1, "tokens": "AAA="}], []]}, "unread should be tokens"),
        ({"unread": [[{"document": 1, "tokens": ""}], []]}, "unread should be tokens below 257"),
        ({"unread": [[{"document": 1, "tokens": "////fw=="}], []]}, "unread should be tokens below 257"),
        ({"documents": None}, "texts should be a table"),
        ({"documents": {"epoch": 0, "number": 0, "stream": {"epoch": 0}}}, "stream should be"),
        ({"documents": {"epoch": 0, "number": 0}}, "stream should be the state of"),
        ({"documents": {"epoch": -1, "number": 0}}, "epoch should be 0 or more"),
        ({"documents": {"epoch": 0, "number": "1"}}, "number should be 0 or more"),
        (
            {"documents": {"epoch": 0, "number": 0, "stream": {"epoch": 0, "examples_iterable": []}}},
            "stream should be the state of a data set",
        ),
        ({"data": "hf:other"}, "the saved lanes have data hf:other and these hf:"),
        ({"held_out": ""}, "held_out"),
        ({"num_lanes": 3}, "num_lanes 3 and these 2"),
    ],
)
def test_a_state_that_makes_no_sense(tmp_path: Path, change: dict[str, Any], message: str):
    lanes = factory(tmp_path)(num_lanes=2, length=5)
    next(lanes)
    state = lanes.state_dict()
    with pytest.raises(UsageError, match=message) as caught:
        lanes.load_state_dict({**state, **change})
    assert "\n" not in str(caught.value)
    lanes.load_state_dict(state)
    assert lanes.state_dict() == state


@needs_datasets
def test_lanes_that_can_not_be(tmp_path: Path):
    make = factory(tmp_path)
    with pytest.raises(UsageError, match="must be at least 1, got 2 and 0"):
        make(num_lanes=2, length=0)
    with pytest.raises(UsageError, match="are not rows of 2 lanes"):
        make(num_lanes=2, length=3, rows=range(3))
    starved = make(num_lanes=64, length=5, rows=range(1), rank=40, world=64)
    with pytest.raises(UsageError, match="has no text for each of the processes"):
        next(starved)


@needs_datasets
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", r"^'hf:' is not the name of a data set: use hf:PATH"),
        ("hf:a:b:c:d", "is not the name of a data set"),
        ("hf:{}/none", r"none was not found \(.*\): name a data set of the hub, or a folder"),
        ("hf:{}/good::test", r"Bad split: test. Available splits: \['train'\]"),
        ("hf:{}/good:large", "large"),
        ("hf:{}/two", r"two has columns a, b, of which 2 hold text and none is called 'text': choose"),
        ("hf:{}/number", r"number has columns text, of which 0 hold text"),
        ("hf:{}/one", r"one is too small to hold out a part for validation: use a larger one, or give"),
        ("hf:{}/empty", r"empty"),
    ],
)
def test_streams_that_can_not_be_had(tmp_path: Path, name: str, message: str):
    write(tmp_path / "good", TEXTS)
    write(tmp_path / "two", ["x", "y"], column="a", b="z")
    write(tmp_path / "one", ["x", "x"])
    (tmp_path / "number").mkdir()
    (tmp_path / "number" / "0.jsonl").write_text('{"text": 3}\n')
    write(tmp_path / "empty", [])
    with pytest.raises(UsageError, match=message) as caught:
        open_stream(name.format(tmp_path), BYTES)
    assert "\n" not in str(caught.value)


@needs_datasets
def test_a_hub_out_of_reach():
    import datasets

    gone = ConnectionError("Couldn't reach the Hub\nand more")
    with (
        patch.object(datasets, "load_dataset_builder", side_effect=gone),
        pytest.raises(UsageError, match=r"^cannot read hf:some/data: Couldn't reach the Hub$"),
    ):
        open_stream("hf:some/data", BYTES)


def test_the_package_is_missing():
    said = r"^hf:some needs the package datasets: pip install 'compressive-transformer\[datasets\]'$"
    with patch.dict(sys.modules, {"datasets": None}), pytest.raises(UsageError, match=said):
        open_stream("hf:some", BYTES)
