"""Scores: each token of each document once, as if it were read alone and in one piece."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.data import Corpus
from compressive_transformer.evaluate import (
    Evaluation,
    Score,
    attention_by_bucket,
    bucket_sums,
    evaluate,
    excerpt,
)
from tiny import BOUNDARY, SHAPES, corpus_of, some_bytes, tiny_model, tokens_of

SEGMENT = 8


def nats_of(model: LanguageModel, tokens: Tensor, **sizes: Any) -> Tensor:
    """float64 [T - 1] -log probability of each token after the first, all read in one call."""
    with torch.no_grad():
        logits = model(tokens[:, :-1], model.init_memory(1, **sizes)).logits.double()
    return -logits.log_softmax(-1)[0].gather(1, tokens[0, 1:, None])[:, 0]


def alone(model: LanguageModel, corpus: Corpus, **sizes: Any) -> list[float]:
    documents = (
        tokens_of(bytes(np.asarray(corpus.document(i)).tolist())) for i in range(corpus.num_documents)
    )
    return [float(nats_of(model, tokens, **sizes).sum()) for tokens in documents]


def found(model: LanguageModel, corpus: Corpus, **options: Any) -> list[float]:
    return [d.nats for d in evaluate(model, corpus, precision="float32", **options).documents]


lengths = st.lists(st.integers(1, 45) | st.sampled_from([SEGMENT, 3 * SEGMENT]), min_size=1, max_size=6)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(lengths=lengths, num_rows=st.integers(1, 7))
@example(lengths=[20, 1, 30, 8, 17], num_rows=1)
@example(lengths=[20, 1, 30, 8, 17], num_rows=2)
def test_each_document_is_scored_as_if_read_alone(shape: dict[str, Any], lengths: list[int], num_rows: int):
    model = tiny_model(dtype=torch.float64, **shape)
    corpus = corpus_of(*(some_bytes(length, seed) for seed, length in enumerate(lengths)))
    assert found(model, corpus, num_rows=num_rows) == pytest.approx(alone(model, corpus), rel=1e-9)


def test_in_float32_too():
    model = tiny_model()
    corpus = corpus_of(some_bytes(100), some_bytes(3), some_bytes(16))
    assert found(model, corpus) == pytest.approx(alone(model, corpus), rel=1e-4)


def test_memory_is_used():
    """Else all of the above would be cheap."""
    model, corpus = tiny_model(dtype=torch.float64), corpus_of(some_bytes(100))
    assert found(model, corpus) != pytest.approx(found(model, corpus, memory=0), rel=1e-4)
    assert found(model, corpus) != pytest.approx(found(model, corpus, compressed_memory=0), rel=1e-4)


@pytest.mark.parametrize("sizes", [{"memory": 16}, {"compressed_memory": (12, 2)}, {"memory": 0}], ids=str)
@pytest.mark.parametrize("reset", [True, False])
def test_memory_may_have_another_size_than_in_training(sizes: dict[str, Any], reset: bool):
    model, corpus = tiny_model(dtype=torch.float64), corpus_of(some_bytes(100))
    got = found(model, corpus, reset_documents=reset, **sizes)
    assert got == pytest.approx(alone(model, corpus, **sizes), rel=1e-9)
    assert got != pytest.approx(alone(model, corpus), rel=1e-4)


@pytest.mark.parametrize("sizes", [{"memory": -1}, {"compressed_memory": -1}, {"memory": (8,)}], ids=str)
def test_sizes_that_are_not_allowed_are_refused(sizes: dict[str, Any]):
    with pytest.raises(UsageError):
        evaluate(tiny_model(), corpus_of(b"text"), **sizes)


def test_a_transformer_xl_has_no_compressed_memory_to_enlarge():
    with pytest.raises(UsageError, match="Transformer-XL"):
        evaluate(tiny_model(compressed_memory=0), corpus_of(b"text"), compressed_memory=8)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_carried_memory_is_one_long_call(shape: dict[str, Any]):
    model = tiny_model(dtype=torch.float64, **shape)
    datas = [some_bytes(length, seed) for seed, length in enumerate([20, 1, 8, 33, 7])]
    stream = torch.tensor([[token for data in datas for token in (BOUNDARY, *data)]])
    per_token, expected, at = nats_of(model, stream), [], 0
    for data in datas:  # the token that opens a document is read and not scored
        expected.append(float(per_token[at : at + len(data)].sum()))
        at += len(data) + 1
    corpus = corpus_of(*datas)
    assert found(model, corpus, reset_documents=False) == pytest.approx(expected, rel=1e-9)
    if any(np.ravel(model.config.memory)):
        assert found(model, corpus, reset_documents=False) != pytest.approx(alone(model, corpus), rel=1e-4)


@pytest.mark.parametrize("reset", [True, False])
def test_counts_and_names(reset: bool):
    corpus = corpus_of(some_bytes(20), b"x", some_bytes(8))
    evaluation = evaluate(tiny_model(), corpus, reset_documents=reset, num_rows=2)
    assert [(d.name, d.num_tokens, d.num_bytes) for d in evaluation.documents] == [
        ("document 0", 20, 20),
        ("document 1", 1, 1),
        ("document 2", 8, 8),
    ]
    assert evaluation.unit == "byte"


def test_progress_adds_up_to_the_tokens():
    told: list[int] = []
    evaluate(tiny_model(), corpus_of(some_bytes(20), b"x", some_bytes(8)), progress=told.append)
    assert sum(told) == 29


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary():
    model = tiny_model()
    torch.nn.init.zeros_(model.get_parameter("head.weight"))
    total = evaluate(model, corpus_of(some_bytes(50), b"x"), precision="float32").total
    assert total.perplexity == pytest.approx(257, rel=1e-5)
    assert total.bits_per_byte == pytest.approx(math.log2(257), rel=1e-5)


def test_dropout_is_off():
    model = tiny_model(dropout=0.5)
    corpus = corpus_of(some_bytes(30))
    model.train()
    assert found(model, corpus) == pytest.approx(alone(tiny_model(), corpus), rel=1e-4)


def test_in_the_total_every_token_weighs_the_same():
    long = Score(name="long", num_bytes=300, num_tokens=99, nats=99.0)
    short = Score(name="short", num_bytes=3, num_tokens=1, nats=11.0)
    total = Evaluation(documents=(long, short), unit="subword").total
    assert (total.num_tokens, total.num_bytes, total.nats) == (100, 303, 110.0)
    assert total.perplexity == pytest.approx(math.exp(1.1))
    assert total.bits_per_byte == pytest.approx(110 / math.log(2) / 303)


def test_a_hopeless_score_is_infinite_and_no_error():
    assert Score(name="", num_bytes=1, num_tokens=1, nats=1e6).perplexity == math.inf


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    pieces=st.integers(1, 6),
    length=st.integers(1, 9),
)
def test_an_excerpt_is_equal_pieces_from_everywhere(lengths: list[int], pieces: int, length: int):
    corpus = corpus_of(*(some_bytes(n, seed) for seed, n in enumerate(lengths)))
    part = excerpt(corpus, num_pieces=pieces, length=length)
    sizes, apart = np.diff(part.starts), corpus.num_tokens // part.num_documents
    for i, piece in enumerate(np.split(part.tokens, part.starts[1:-1])):
        assert np.array_equal(piece, corpus.tokens[i * apart :][: len(piece)])
    assert (sizes == sizes[0]).all()
    assert part.num_bytes.tolist() == sizes.tolist()
    if corpus.num_tokens >= pieces * length:
        assert (part.num_documents, sizes[0]) == (pieces, length)
    else:
        assert part.num_documents <= pieces
        assert part.num_tokens > corpus.num_tokens - pieces  # no more is left than can't be divided


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
