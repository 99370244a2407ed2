"""What a model does with its memory, and what it gains by it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressive_transformer import UsageError
from compressive_transformer.analysis import (
    attention_by_bucket,
    bucket_sums,
    loss_by_frequency,
    loss_by_position,
)
from compressive_transformer.data import ByteTokenizer, Corpus, Document, get_tokenizer
from compressive_transformer.data.trained import learn, save
from compressive_transformer.data.words import WordTokenizer
from tiny import corpus_of, some_bytes, tiny_model

SEGMENT = 8


def test_attention_by_bucket_is_that_of_the_segments_after_memory_is_full():
    model = tiny_model(compressed_memory=9)
    corpus = corpus_of(some_bytes(400))
    got = attention_by_bucket(model, corpus, num_rows=3, segments=2, precision="float32")
    full = -(-(8 + 2 * 9) // SEGMENT) * SEGMENT
    pieces = [corpus.tokens[i : i + full + 2 * SEGMENT] for i in range(0, 399, 400 // 3)]
    inputs = torch.from_numpy(np.stack(pieces).astype(np.int64))
    with torch.no_grad():
        output = model(inputs[:, full:], model(inputs[:, :full]).memory, with_attention=True)
    sums = [bucket_sums(a, (9, 8, 8)) for a in output.attention]
    for name, shares in got.items():
        assert shares == pytest.approx(np.mean([s[name] for s in sums], axis=0))
    assert sum(map(sum, got.values())) == pytest.approx(1)
    assert list(got) == ["compressed", "recent", "window"]


def test_a_layer_without_a_tier_gives_it_nothing():
    model = tiny_model(memory=(8, 0), compressed_memory=(0, 12))
    got = attention_by_bucket(model, corpus_of(some_bytes(400)), precision="float32")
    assert sum(map(sum, got.values())) == pytest.approx(1)
    assert 0 < sum(got["recent"]) < 0.5


def test_a_tier_of_few_slots_is_left_out():
    got = attention_by_bucket(tiny_model(compressed_memory=0), corpus_of(some_bytes(400)))
    assert list(got) == ["recent", "window"]


@pytest.mark.parametrize("length", [1, 5, 100])
def test_attention_by_bucket_of_a_short_text(length: int):
    got = attention_by_bucket(tiny_model(), corpus_of(some_bytes(length)), precision="float32")
    assert sum(map(sum, got.values())) == pytest.approx(1)


def test_bucket_sums_count_each_slot_once():
    attention = torch.arange(1.0, 22)  # 7 compressed, 8 recent, 6 in the window
    assert bucket_sums(attention, (7, 8, 6)) == {
        "compressed": [1, 2, 3, 4, 5, 6 + 7],
        "recent": [8, 9, 10, 11, 12, 13 + 14 + 15],
        "window": [16, 17, 18, 19, 20, 21],
    }


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), edges=st.sets(st.integers(1, 35)))
def test_every_token_has_one_place(lengths: list[int], edges: set[int]):
    losses = [np.arange(1, n + 1, dtype=np.float32) for n in lengths]  # the loss tells the place
    parts = loss_by_position(losses, sorted(edges))
    assert len(parts) == len(edges) + 1
    bounds = [0, *sorted(edges), math.inf]
    for part, start, stop in zip(parts, bounds, bounds[1:], strict=False):
        inside = [place for n in lengths for place in range(n) if start <= place < stop]
        assert (part.count, part.nats) == (len(inside), sum(inside) + len(inside))


WORDS = [b"the", b"\n", b"often", b"some", b"rare", b"<unk>"]
COUNTS = [10_001, 10_000, 1_001, 101, 100, 0]
TEXT = b" the often  some\nrare new the "


def test_the_loss_of_a_word_is_that_of_its_bytes_and_of_the_space_before():
    corpus = corpus_of(TEXT, b"often")
    places = np.arange(len(TEXT), dtype=np.float32)  # the loss tells the byte
    parts = loss_by_frequency(
        corpus, [places, np.full(5, 0.5, np.float32)], WordTokenizer(WORDS, COUNTS, "words-0")
    )
    assert [part.count for part in parts] == [2, 2, 1, 2]
    spaced = [b" the", b" often", b"  some", b"\nrare", b" new", b" the "]  # none stands behind the last
    ends = np.cumsum([len(word) for word in spaced])
    the, often, some, rare, new, last = (float(part.sum()) for part in np.split(places, ends[:-1]))
    assert [part.nats for part in parts] == [the + last, often + 2.5, some, rare + new]
    assert [part.name for part in parts] == [
        "more than 10,000",
        "1,000 to 10,000",
        "100 to 1,000",
        "at most 100",
    ]


def test_of_a_vocabulary_of_words_each_token_is_a_word():
    tokenizer = WordTokenizer(WORDS, COUNTS, "words-0")
    corpus = Corpus.from_documents([Document("d", TEXT)], tokenizer)
    losses = np.arange(1, corpus.num_tokens + 1, dtype=np.float32)
    parts = loss_by_frequency(corpus, [losses], tokenizer)  # the often some \n rare <unk> the
    assert [(part.count, part.nats) for part in parts] == [(2, 1 + 7), (2, 2 + 4), (1, 3), (2, 5 + 6)]


def test_subwords_add_up_to_words(tmp_path: Path):
    save(learn([TEXT * 9], "subwords", 300), tmp_path / "s.json")
    corpus = Corpus.from_documents([Document("d", TEXT)], get_tokenizer(str(tmp_path / "s.json")))
    parts = loss_by_frequency(
        corpus, [np.ones(corpus.num_tokens, np.float32)], WordTokenizer(WORDS, COUNTS, "words-0")
    )
    assert [part.count for part in parts] == [2, 1, 1, 2]
    assert sum(part.nats for part in parts) == corpus.num_tokens < len(TEXT)


def test_without_counts_there_are_no_frequencies():
    with pytest.raises(UsageError, match="bytes has no words with counts"):
        loss_by_frequency(corpus_of(b"a"), [np.ones(1, np.float32)], ByteTokenizer())


def test_a_document_of_spaces_has_no_words():
    corpus = corpus_of(b" \n ", b"the")
    losses = [np.ones(3, np.float32), np.full(3, 2, np.float32)]
    parts = loss_by_frequency(corpus, losses, WordTokenizer(WORDS, COUNTS, "words-0"))
    assert [(part.count, part.nats) for part in parts] == [(1, 6), (0, 0), (0, 0), (0, 0)]


def test_a_vocabulary_without_rare_words_is_refused():
    few = WordTokenizer([b"the", b"often", b"\n", b"<unk>"], [500, 101, 9, 3], "words-0")
    with pytest.raises(UsageError, match="without --vocab-size"):
        loss_by_frequency(corpus_of(b"the"), [np.ones(3, np.float32)], few)


def test_attention_is_told_without_logits(monkeypatch: pytest.MonkeyPatch):
    model = tiny_model(adaptive_cutoffs=(50, 100))
    monkeypatch.setattr(model.head, "forward", lambda *a: pytest.fail("logits were made"))
    got = attention_by_bucket(model, corpus_of(some_bytes(400)), precision="float32")
    assert sum(map(sum, got.values())) == pytest.approx(1)
