"""Lanes: each row is one piece of the circle of documents, without a gap, for ever."""

import json
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    Document,
    Lanes,
    Stream,
    embedded_books,
    prepare,
    read_documents,
    units,
)
from compressive_transformer.errors import UsageError

DOCUMENT = ByteTokenizer.document_token


def corpus_of(datas: list[bytes]) -> Corpus:
    return Corpus.from_documents((Document(str(i), data) for i, data in enumerate(datas)), ByteTokenizer())


def circle(datas: list[bytes], order: list[int]) -> list[int]:
    """The slow truth: all tokens in a list."""
    return [token for i in order for token in (DOCUMENT, *datas[i])]


def lanes_of(datas: list[bytes], **options: Any) -> Lanes:
    return Lanes(corpus_of(datas), **{"num_lanes": 2, "length": 3, "seed": 0, **options})


documents = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6)
settings = st.fixed_dictionaries(
    {"num_lanes": st.integers(1, 3), "length": st.integers(1, 6), "seed": st.integers(0, 99)}
)
Case = tuple[list[bytes], dict[str, Any]]
long_enough = st.tuples(documents, settings).filter(
    lambda pair: sum(map(len, pair[0])) + len(pair[0]) >= pair[1]["num_lanes"] * pair[1]["length"]
)


@given(datas=documents, data=st.data(), start=st.integers(0, 200), count=st.integers(1, 90))
def test_a_stream_is_a_circle(datas: list[bytes], data: st.DataObject, start: int, count: int):
    order = data.draw(st.permutations(range(len(datas))))
    stream, truth = Stream(corpus_of(datas), order), circle(datas, order)
    assert len(stream) == len(truth)
    assert stream.read(start, count).tolist() == [truth[(start + i) % len(truth)] for i in range(count)]


def test_a_stream_keeps_the_order_of_the_corpus():
    assert Stream(corpus_of([b"ab", b"c"])).read(0, 5).tolist() == [DOCUMENT, 97, 98, DOCUMENT, 99]


@given(case=long_enough, steps=st.integers(1, 12))
def test_a_lane_goes_on_round_the_circle(case: Case, steps: int):
    datas, options = case
    num_lanes, length = options["num_lanes"], options["length"]
    lanes = Lanes(corpus_of(datas), **options)
    truth = circle(datas, lanes.stream.order.tolist())
    batches = list(islice(lanes, steps))
    for lane in range(num_lanes):
        start = lane * len(truth) // num_lanes
        expected = [truth[(start + i) % len(truth)] for i in range(steps * length + 1)]
        assert torch.cat([batch.inputs[lane] for batch in batches]).tolist() == expected[:-1]
        assert torch.cat([batch.targets[lane] for batch in batches]).tolist() == expected[1:]
    for batch in batches:
        assert batch.inputs.shape == batch.targets.shape == (num_lanes, length)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert lanes.tokens_read == steps * num_lanes * length
    assert lanes.epoch == lanes.tokens_read / len(truth)


@given(case=long_enough, steps=st.integers(1, 12))
def test_resets_stand_where_documents_begin(case: Case, steps: int):
    datas, options = case
    corpus = corpus_of(datas)
    with_resets, without = Lanes(corpus, **options), Lanes(corpus, **options, reset_documents=False)
    for batch, plain in zip(islice(with_resets, steps), islice(without, steps), strict=True):
        begins = batch.inputs == DOCUMENT
        if begins.any():
            assert batch.resets is not None
            assert batch.resets.dtype == torch.bool
            assert torch.equal(batch.resets, begins)
        else:
            assert batch.resets is None
        assert plain.resets is None
        assert torch.equal(plain.inputs, batch.inputs)


@given(case=long_enough, before=st.integers(0, 9))
def test_saved_lanes_go_on_the_same(case: Case, before: int):
    datas, options = case
    lanes = Lanes(corpus_of(datas), **options)
    list(islice(lanes, before))
    state = json.loads(json.dumps(lanes.state_dict()))
    resumed = Lanes(corpus_of(datas), **options)
    resumed.load_state_dict(state)
    for expected, got in zip(islice(lanes, 5), islice(resumed, 5), strict=True):
        assert torch.equal(expected.inputs, got.inputs)
        assert torch.equal(expected.targets, got.targets)
    assert resumed.state_dict() == lanes.state_dict() != state


def test_a_state_is_not_changed_by_going_on():
    lanes = lanes_of([b"abcdefgh"])
    state = lanes.state_dict()
    kept = json.dumps(state)
    next(lanes)
    assert json.dumps(state) == kept


def test_saved_lanes_go_on_with_another_length():
    lanes, longer = lanes_of([b"abcdefgh"]), lanes_of([b"abcdefgh"], length=4)
    first = next(lanes)
    longer.load_state_dict(lanes.state_dict())
    assert torch.equal(next(longer).inputs[:, 0], first.targets[:, -1])


@pytest.mark.parametrize(
    ("datas", "options", "message"),
    [
        (
            [b"abcdefghi"],
            {},
            "the saved lanes have num_tokens 8 and these 9: resume with the text, seed and lanes",
        ),
        ([b"abcd", b"efgh"], {}, "num_documents 1 and these 2"),
        ([b"abcdefgh"], {"num_lanes": 1}, "num_lanes 2 and these 1"),
        ([b"abcdefgh"], {"seed": 7}, "seed 0 and these 7"),
    ],
)
def test_lanes_of_something_else_are_refused(datas: list[bytes], options: dict[str, int], message: str):
    lanes = lanes_of(datas, **options)
    before = lanes.state_dict()
    with pytest.raises(UsageError, match=message):
        lanes.load_state_dict(lanes_of([b"abcdefgh"]).state_dict())
    assert lanes.state_dict() == before


def test_the_seed_decides_the_order():
    datas = [bytes([i]) for i in range(50)]
    orders = [lanes_of(datas, seed=seed).stream.order.tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(50)) != orders[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"num_lanes": 4, "length": 3},
            r"^the text has 9 tokens, and 4 lanes of 3 need 12: take fewer lanes \(at most 3\), "
            r"shorter segments \(at most 2\), or more text$",
        ),
        ({"num_lanes": 0}, "must be at least 1, got 0 and 3$"),
        ({"length": 0}, "must be at least 1, got 2 and 0$"),
    ],
)
def test_bad_lanes(options: dict[str, int], message: str):
    with pytest.raises(UsageError, match=message):
        lanes_of([b"abcdefgh"], **options)


def test_a_huge_corpus_is_not_read_to_read_a_segment(tmp_path: Path):
    size = 1 << 32  # 8 GiB, of which the disk holds nothing
    with (path := tmp_path / "tokens.bin").open("wb") as file:
        file.truncate(2 * size)
    tokens = np.memmap(path, np.uint16, mode="r")
    starts = np.array([0, 5, size // 3, size])
    corpus = Corpus(tokens, starts, ("a", "b", "c"), np.diff(starts), ByteTokenizer())
    tracemalloc.start()
    lanes = Lanes(corpus, num_lanes=8, length=512, seed=0)
    for _ in range(20):
        next(lanes)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_book_through_lanes(tmp_path: Path):
    corpus = prepare(embedded_books()[:1], ByteTokenizer(), cache_dir=tmp_path)
    batch = next(Lanes(corpus, num_lanes=4, length=200, seed=0))
    assert batch.inputs[0, 0] == DOCUMENT
    assert b"MOONFLEET" in corpus.tokenizer.decode(batch.inputs[0])
    assert corpus.num_bytes.tolist() == [428_948]


# Rows, documents, and what is believed of a state


@given(case=long_enough, data=st.data(), steps=st.integers(1, 8))
def test_rows_are_slices_of_the_whole(case: Case, data: st.DataObject, steps: int):
    datas, options = case
    cuts = data.draw(st.lists(st.integers(1, options["num_lanes"]), max_size=2).map(sorted))
    ends = sorted({0, *cuts, options["num_lanes"]})
    parts = [range(*pair) for pair in pairwise(ends)]
    whole = Lanes(corpus_of(datas), **options)
    lanes = [Lanes(corpus_of(datas), **options, rows=rows) for rows in parts]
    for _ in range(steps):
        batch, pieces = next(whole), [next(part) for part in lanes]
        assert torch.equal(torch.cat([piece.inputs for piece in pieces]), batch.inputs)
        assert torch.equal(torch.cat([piece.targets for piece in pieces]), batch.targets)
        for piece, rows in zip(pieces, parts, strict=True):
            resets = None if batch.resets is None else batch.resets[rows.start : rows.stop]
            assert (piece.resets is None) == (resets is None or not resets.any())
            assert piece.resets is None or (resets is not None and torch.equal(piece.resets, resets))
        named = [name for part in lanes for name in part.documents()]
        assert list(dict.fromkeys(named)) == whole.documents()
    for part in lanes:
        assert part.state_dict() == whole.state_dict()
        assert (part.tokens_read, part.epoch) == (whole.tokens_read, whole.epoch)


@given(case=long_enough, steps=st.integers(1, 8))
def test_lanes_name_the_documents_that_they_read(case: Case, steps: int):
    datas, options = case
    lanes = Lanes(corpus_of(datas), **options)
    assert lanes.documents() == []
    names = [str(i) for i in lanes.stream.order.tolist() for _ in (0, *datas[i])]
    for step in range(steps):
        next(lanes)
        expected: dict[str, None] = {}
        for lane in range(options["num_lanes"]):
            start = lane * len(names) // options["num_lanes"] + step * options["length"]
            expected |= {names[(start + i) % len(names)]: None for i in range(options["length"])}
        assert lanes.documents() == list(expected)


@given(case=long_enough, steps=st.integers(0, 9), more=st.integers(0, 9))
def test_lanes_advance_to_where_they_would_stand(case: Case, steps: int, more: int):
    datas, options = case
    lanes, jumped = Lanes(corpus_of(datas), **options), Lanes(corpus_of(datas), **options)
    list(islice(lanes, steps))
    list(islice(jumped, more))
    jumped.advance_to(lanes.tokens_read)
    assert jumped.state_dict() == lanes.state_dict()
    assert torch.equal(next(jumped).inputs, next(lanes).inputs)


def test_other_lanes_advance_to_the_same_place():
    datas = [bytes(range(200))]
    two, five = lanes_of(datas, num_lanes=2, length=10), lanes_of(datas, num_lanes=5, length=10)
    list(islice(two, 4))
    five.advance_to(two.tokens_read)
    assert five.tokens_read == two.tokens_read == 80
    assert five.state_dict()["positions"] == [lane * 201 // 5 + 16 for lane in range(5)]
    with pytest.raises(UsageError, match="tokens_read should be 0 or more, not '-1'"):
        five.advance_to(-1)


@pytest.mark.parametrize("rows", [range(0), range(1, 1), range(1, 3), range(-1, 1), range(0, 2, 2)])
def test_rows_that_are_none(rows: range):
    with pytest.raises(UsageError, match=r"are not rows of 2 lanes: use at least one lane for each process"):
        lanes_of([b"abcdefgh"], rows=rows)


def test_another_text_of_the_same_size_is_told_apart():
    lanes = lanes_of([b"abcdefgh"])
    with pytest.raises(UsageError, match=r"the saved lanes have fingerprint [0-9a-f]{64} and these"):
        lanes.load_state_dict(lanes_of([b"abcdefgx"]).state_dict())


@pytest.mark.parametrize("state", [None, [], "state", 3])
def test_what_is_no_state(state: Any):
    with pytest.raises(UsageError, match=r"^the saved lanes are damaged, the state should be a table"):
        lanes_of([b"abcdefgh"]).load_state_dict(state)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("positions", value) for value in (None, 3, [1], [1, 2, 3], [0, 9], [0, -1], [0, 1.0], [0, "1"])],
        *[("positions", value) for value in ([0, True], [0, None], {"0": 1, "1": 2}, "01", [[0], [1]])],
        *[("tokens_read", value) for value in (None, -1, 1.5, "1", True, [], float("nan"))],
        *[("num_lanes", value) for value in (2.0, "2", None, True)],
    ],
)
def test_a_state_that_makes_no_sense(key: str, value: Any):
    lanes = lanes_of([b"abcdefgh"])
    next(lanes)
    before = lanes.state_dict()
    with pytest.raises(UsageError, match=key) as caught:
        lanes.load_state_dict({**before, key: value})
    assert "\n" not in str(caught.value)
    without = {name: kept for name, kept in before.items() if name != key}
    with pytest.raises(UsageError, match=key):
        lanes.load_state_dict(without)
    assert lanes.state_dict() == before


def test_lanes_through_many_shards(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"".join(b"%d\n" % i for i in range(500)))
    with patch.object(units, "UNIT", 100):
        corpus = prepare(tmp_path / "a.txt", ByteTokenizer(), separator="7\\n", cache_dir=tmp_path, workers=1)
    in_memory = Corpus.from_documents(read_documents(tmp_path / "a.txt", separator="7\\n"), ByteTokenizer())
    pair = [Lanes(c, num_lanes=3, length=50, seed=1) for c in (corpus, in_memory)]
    for a, b in islice(zip(*pair, strict=True), 30):
        assert torch.equal(a.inputs, b.inputs)
        assert pair[0].documents() == pair[1].documents()
