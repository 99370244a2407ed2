"""Scores: each token of each document once, as if it were read alone and in one piece."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer import evaluate as evaluating
from compressive_transformer.data import ByteTokenizer, Corpus, Document, excerpt, prepare, split
from compressive_transformer.data.shards import Shards
from compressive_transformer.data.words import WordTokenizer
from compressive_transformer.evaluate import (
    Evaluation,
    Score,
    count_words,
    evaluate,
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
    long = Score(name="long", num_bytes=300, num_tokens=99, num_words=20, nats=99.0)
    short = Score(name="short", num_bytes=3, num_tokens=1, num_words=2, nats=11.0)
    total = Evaluation(documents=(long, short), unit="subword").total
    assert (total.num_tokens, total.num_bytes, total.nats) == (100, 303, 110.0)
    assert total.perplexity == pytest.approx(math.exp(1.1))
    assert total.word_perplexity == pytest.approx(math.exp(5))
    assert total.bits_per_byte == pytest.approx(110 / math.log(2) / 303)


def test_a_hopeless_score_is_infinite_and_no_error():
    assert Score(name="", num_bytes=1, num_tokens=1, num_words=1, nats=1e6).perplexity == math.inf


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


@pytest.mark.parametrize("carry", [False, True])
def test_losses_of_tokens_add_up_to_scores(carry: bool):
    model, corpus = tiny_model(), corpus_of(some_bytes(37, 1), some_bytes(5, 2), some_bytes(20, 3))
    result = evaluate(
        model, corpus, num_rows=2, reset_documents=not carry, precision="float32", with_losses=True
    )
    assert result.losses is not None
    assert [len(x) for x in result.losses] == [d.num_tokens for d in result.documents]
    for losses, document in zip(result.losses, result.documents, strict=True):
        assert losses.sum(dtype=np.float64) == pytest.approx(document.nats, rel=1e-5)
    exact = nats_of(model, tokens_of(bytes(np.asarray(corpus.document(0)).tolist())))
    np.testing.assert_allclose(result.losses[0], exact, rtol=1e-3)


@given(
    words=st.lists(st.sampled_from(["a", "bé", " ", "\n", "\u00a0", "d,", "—"]), min_size=1),
    chunk=st.integers(1, 5),
)
def test_words_are_counted_whole(words: list[str], chunk: int):
    text = "".join(words)
    assert count_words(corpus_of(b"x", text.encode()), 1, chunk=chunk) == len(text.split())


# Dynamic evaluation


def dynamically(model: LanguageModel, data: bytes, rate: float) -> float:
    """Segment after segment: score, learn. By a model of its own."""
    model = copy.deepcopy(model)
    adam, memory, nats = torch.optim.Adam(model.parameters(), lr=rate), None, 0.0
    tokens = tokens_of(data)
    for start in range(0, len(data), SEGMENT):
        piece = tokens[:, start : start + SEGMENT + 1]
        output = model(piece[:, :-1], memory)
        loss = torch.nn.functional.cross_entropy(output.logits[0], piece[0, 1:])
        adam.zero_grad()
        loss.backward()
        adam.step()
        nats += float(loss.detach()) * (piece.shape[1] - 1)
        memory = output.memory.detach()
    return nats


@pytest.mark.parametrize("carry", [False, True])
def test_dynamic_evaluation_learns_what_it_has_scored(carry: bool):
    model, data = tiny_model(), some_bytes(5 * SEGMENT)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    result = evaluate(
        model, corpus_of(data), reset_documents=not carry, learning_rate=1e-2, precision="float32"
    )
    assert result.total.nats == pytest.approx(dynamically(model, data, 1e-2), rel=1e-4)
    assert result.total.nats != pytest.approx(found(model, corpus_of(data))[0], rel=1e-3)
    assert result.learning_rate == 1e-2
    assert all(x.equal(before[name]) for name, x in model.state_dict().items())


def test_dynamic_evaluation_goes_on_learning_from_document_to_document():
    model, text = tiny_model(), some_bytes(4 * SEGMENT)
    result = evaluate(model, corpus_of(*[text] * 5), learning_rate=1e-2, precision="float32")
    nats = [document.nats for document in result.documents]
    assert nats == sorted(nats, reverse=True)
    assert nats[-1] < 0.7 * nats[0]


def test_dynamic_evaluation_in_half_precision_uses_the_new_weights():
    model, data = tiny_model(), some_bytes(3 * SEGMENT)
    fixed, learnt = (
        evaluate(model, corpus_of(data), learning_rate=rate, precision="bfloat16", with_losses=True).losses
        for rate in (None, 1e-2)
    )
    assert fixed is not None
    assert learnt is not None
    np.testing.assert_allclose(learnt[0][:SEGMENT], fixed[0][:SEGMENT], rtol=0.05)
    assert np.abs(learnt[0][SEGMENT:] - fixed[0][SEGMENT:]).max() > 0.5


@pytest.mark.parametrize("rate", [0.0, -1.0, math.inf, math.nan])
def test_a_learning_rate_that_is_none_is_refused(rate: float):
    with pytest.raises(UsageError, match="use more than 0"):
        evaluate(tiny_model(), corpus_of(b"abc"), learning_rate=rate)


@pytest.mark.parametrize("carry", [False, True])
def test_documents_without_words_score_nothing(carry: bool):
    tokenizer = WordTokenizer([b"a", b"\n", b"<unk>"], [2, 1, 0], "words-0")
    texts = [b"  ", b"a a\n", b" ", b"a b\n\n"]
    corpus = Corpus.from_documents([Document(f"{i}", text) for i, text in enumerate(texts)], tokenizer)
    model = tiny_model(vocab_size=4)
    result = evaluate(model, corpus, reset_documents=not carry, precision="float32", with_losses=True)
    assert result.losses is not None
    assert [document.num_tokens for document in result.documents] == [0, 3, 0, 4]
    assert [len(x) for x in result.losses] == [0, 3, 0, 4]
    assert [document.nats > 0 for document in result.documents] == [False, True, False, True]
    empty = Corpus.from_documents([Document("none", b"  ")], tokenizer)
    with pytest.raises(UsageError, match="there is no word to score"):
        evaluate(model, empty, reset_documents=not carry)


def test_bytes_of_words_are_shared_out_by_words():
    tokenizer = WordTokenizer([b"a", b"\n", b"<unk>"], [2, 1, 0], "words-0")
    text = b"a  unknown    \n" * 100  # of which decoding keeps the length as little as the words
    corpus = Corpus.from_documents([Document("d", text)], tokenizer)
    before, after = split(corpus, fraction=0.25)
    assert before.num_bytes.sum() + after.num_bytes.sum() == len(text)
    assert after.num_bytes.sum() == pytest.approx(0.25 * len(text), rel=0.02)


@pytest.mark.parametrize("carry", [False, True])
def test_a_long_document_is_read_segment_by_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carry: bool
):
    """Nobody reads more of a file at once than a segment and the token before it."""
    (tmp_path / "long.txt").write_bytes(bytes(range(97, 123)) * 40)
    corpus = prepare([str(tmp_path / "long.txt")], ByteTokenizer(), cache_dir=tmp_path / "cache")
    in_memory = corpus_of(np.asarray(corpus.tokens).astype(np.uint8).tobytes())
    model, read, as_array = tiny_model(), [], Shards.__array__
    monkeypatch.setattr(evaluating, "count_words", lambda *_: 0)  # reads a megabyte at a time

    def watched(self: Shards, *arguments: Any, **settings: Any) -> Any:
        read.append(len(self))
        return as_array(self, *arguments, **settings)

    monkeypatch.setattr(Shards, "__array__", watched)
    nats = found(model, corpus, reset_documents=not carry)
    assert 0 < max(read) <= model.config.segment + 1
    assert nats == pytest.approx(found(model, in_memory, reset_documents=not carry), rel=1e-6)
