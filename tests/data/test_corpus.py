"""Tokens: nothing is lost, whether in memory, in the cache or in a split."""

import os
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from compressive_transformer.data import (
    ByteTokenizer,
    Corpus,
    Document,
    Preparing,
    Shards,
    default_cache,
    files,
    get_tokenizer,
    pool,
    prepare,
    read_documents,
    sources,
    split,
)
from compressive_transformer.data.tokenizers import TokenArray, Tokenizer
from compressive_transformer.errors import UsageError


class PairTokenizer:
    """Two equal letters are one token; wide on purpose."""

    name, unit, vocab_size, document_token = "pairs", "subword", 1 << 17, 512

    def encode(self, data: bytes) -> TokenArray:
        tokens: list[int] = []
        for byte in data:
            if tokens and tokens[-1] == byte:
                tokens[-1] += 256
            else:
                tokens.append(byte)
        return np.array(tokens, np.uint32)

    def decode(self, ids: ArrayLike) -> bytes:
        kept = (int(i) for i in np.asarray(ids) if i != self.document_token)
        return b"".join(bytes([i % 256]) * (i // 256 + 1) for i in kept)


BYTES = ByteTokenizer()
TOKENIZERS = [BYTES, PairTokenizer()]
texts = st.lists(
    st.binary(min_size=1, max_size=12) | st.sampled_from([b"aabbbc", b"zz"]), min_size=1, max_size=6
)


def corpus_of(datas: list[bytes], tokenizer: Tokenizer | None = None) -> Corpus:
    return Corpus.from_documents((Document(str(i), data) for i, data in enumerate(datas)), tokenizer or BYTES)


def decoded(corpus: Corpus) -> list[bytes]:
    return [corpus.tokenizer.decode(corpus.document(i)) for i in range(corpus.num_documents)]


def same(a: Corpus, b: Corpus) -> bool:
    arrays = ((a.tokens, b.tokens), (a.starts, b.starts), (a.num_bytes, b.num_bytes))
    equal = all(np.array_equal(np.asarray(x), np.asarray(y)) and x.dtype == y.dtype for x, y in arrays)
    return list(a.names) == list(b.names) and equal


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def entries(folder: Path) -> list[str]:
    return sorted(os.listdir(folder / "tokens"))


# Tokenizers


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(data=st.binary(), cut=st.integers(0, 100))
def test_decoding_undoes_encoding_piece_by_piece(tokenizer: Tokenizer, data: bytes, cut: int):
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids[:cut]) + tokenizer.decode(ids[cut:]) == data
    assert tokenizer.decode(np.insert(ids, cut % (len(ids) + 1), tokenizer.document_token)) == data


def test_bytes_are_tokens():
    ids = get_tokenizer("bytes").encode(b"a\xff\0")
    assert (ids.tolist(), ids.dtype) == ([97, 255, 0], np.uint16)


@pytest.mark.parametrize("ids", [[257], [-1, 5]])
def test_what_is_no_token_is_not_decoded(ids: list[int]):
    with pytest.raises(ValueError, match=r"tokens must lie in \[0, 256\]"):
        ByteTokenizer().decode(ids)


def test_an_unknown_tokenizer():
    with pytest.raises(UsageError, match=r"^unknown tokenizer 'byte': use bytes, a file"):
        get_tokenizer("byte")


# Corpora


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(datas=texts)
def test_a_corpus_holds_its_documents(tokenizer: Tokenizer, datas: list[bytes]):
    corpus = corpus_of(datas, tokenizer)
    assert decoded(corpus) == datas
    assert corpus.num_bytes.tolist() == [len(data) for data in datas]
    assert (corpus.num_documents, corpus.num_tokens) == (len(datas), len(corpus.tokens))
    assert corpus.unit == tokenizer.unit


def test_a_corpus_of_nothing():
    with pytest.raises(UsageError, match="no text given: every document is empty"):
        corpus_of([b"", b""])


@pytest.mark.parametrize(
    ("starts", "names"), [([0, 2], ("a",)), ([1, 3], ("a",)), ([0, 1, 3], ("a",)), ([0, 3], ("a", "b"))]
)
def test_a_corpus_that_contradicts_itself(starts: list[int], names: tuple[str, ...]):
    with pytest.raises(ValueError, match="starts"):
        Corpus(np.zeros(3, np.uint16), np.array(starts), names, np.ones(1, np.int64), BYTES)


# The cache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for name, data in {
        "a.txt": b"one\n\ntwo\nlines",
        "b.txt": b"three\n\n\n\n",
        "c.txt": b"\n\nfour",
    }.items():
        (tmp_path / "text" / name).write_bytes(data)
    return tmp_path / "text"


@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
@pytest.mark.parametrize("separator", [None, "\\n\\n"])
def test_prepared_equals_read(folder: Path, tmp_path: Path, separator: str | None, chunk: int):
    expected = Corpus.from_documents(read_documents(folder, separator=separator), BYTES)
    seen: list[Preparing] = []
    with patch.object(sources, "CHUNK", chunk):
        corpus = prepare(
            folder,
            BYTES,
            separator=separator,
            cache_dir=tmp_path,
            progress=seen.append,
        )
    assert same(corpus, expected)
    assert isinstance(corpus.tokens, Shards)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert seen[-1] == Preparing(bytes_read=size, bytes_total=size, shards=1, shards_total=1)


def test_wide_tokens_survive_the_cache(folder: Path, tmp_path: Path):
    corpus = prepare(folder, PairTokenizer(), cache_dir=tmp_path)
    assert same(corpus, Corpus.from_documents(read_documents(folder), PairTokenizer()))
    assert corpus.tokens.dtype == np.uint32


def test_what_is_in_the_cache_is_not_made_again(folder: Path, tmp_path: Path):
    first = prepare(folder, BYTES, cache_dir=tmp_path)
    with patch.object(ByteTokenizer, "encode", side_effect=AssertionError("made again")):
        assert same(first, prepare([folder], BYTES, cache_dir=tmp_path))


def test_what_differs_is_made_again(folder: Path, tmp_path: Path):
    expected = count(1)

    def makes_another(*paths: Path, tokenizer: Tokenizer = BYTES, separator: str | None = None) -> bool:
        prepare(paths or folder, tokenizer, separator=separator, cache_dir=tmp_path)
        return len(entries(tmp_path)) == next(expected)

    def change(data: bytes, time: int) -> None:
        (folder / "a.txt").write_bytes(data)
        os.utime(folder / "a.txt", ns=(time, time))

    assert makes_another()
    assert makes_another(separator="x")
    assert makes_another(tokenizer=PairTokenizer())
    assert makes_another(folder / "a.txt")
    change(b"1st", time=1)
    assert makes_another()
    change(b"2nd", time=2)
    assert makes_another()
    change(b"third", time=2)
    assert makes_another()
    (folder / "d.txt").write_bytes(b"new")
    assert makes_another()


def test_standard_input_is_known_by_its_content(tmp_path: Path):
    def piped(data: bytes, separator: str | None = None) -> Corpus:
        with patch.object(sys, "stdin", TextIOWrapper(BytesIO(data))):
            return prepare("-", BYTES, separator=separator, cache_dir=tmp_path)

    assert decoded(piped(b"abc")) == decoded(piped(b"abc")) == [b"abc"]
    assert len(entries(tmp_path)) == 1
    assert decoded(piped(b"abd")) == [b"abd"]
    assert decoded(piped(b"ab-d", "-")) == [b"ab", b"d"]
    assert decoded(piped(b"a-bd", "-")) == [b"a", b"bd"]
    assert len(entries(tmp_path)) == 4


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_a_stream(tmp_path: Path):
    for text in (b"first", b"other"):  # equal in name, size and all that can be seen from outside
        os.mkfifo(pipe := tmp_path / "pipe")
        writer = threading.Thread(target=pipe.write_bytes, args=(text,))
        writer.start()
        assert decoded(prepare(pipe, BYTES, cache_dir=tmp_path)) == [text]
        writer.join()
        pipe.unlink()


def test_what_is_broken_off_leaves_nothing(folder: Path, tmp_path: Path):
    encode = ByteTokenizer.encode
    with (
        patch.object(ByteTokenizer, "encode", side_effect=[encode(BYTES, b"one"), KeyboardInterrupt]),
        pytest.raises(KeyboardInterrupt),
    ):
        prepare(folder, BYTES, cache_dir=tmp_path)
    (entry,) = entries(tmp_path)
    assert sorted(os.listdir(tmp_path / "tokens" / entry)) == [".lock", files.UNFINISHED]
    assert prepare(folder, BYTES, cache_dir=tmp_path).num_documents == 3


@pytest.mark.parametrize("file", ["shard-00000.bin", "documents.npy", "dataset.json"])
def test_what_is_damaged_is_made_again(folder: Path, tmp_path: Path, file: str):
    prepare(folder, BYTES, cache_dir=tmp_path)
    expected = Corpus.from_documents(read_documents(folder), BYTES)
    (entry,) = entries(tmp_path)
    os.truncate(tmp_path / "tokens" / entry / file, 8)
    assert same(prepare(folder, BYTES, cache_dir=tmp_path), expected)


def test_several_may_prepare_the_same_at_once(folder: Path, tmp_path: Path):
    together = threading.Barrier(4, timeout=60)
    make_shard, made, waited, results = pool.make_shard, count(), [], []

    def tell(preparing: Preparing) -> None:
        if preparing.waiting:
            waited.append(True)

    def make_slowly(*args: Any) -> None:
        next(made)
        wait_until(lambda: len(waited) == 3)
        make_shard(*args)

    def run() -> None:
        together.wait()
        results.append(prepare(folder, BYTES, cache_dir=tmp_path, progress=tell))

    with patch.object(pool, "make_shard", make_slowly):
        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(results) == 4
    assert all(same(result, results[0]) for result in results)
    assert len(entries(tmp_path)) == 1
    assert next(made) == 1  # one worked, three waited


def test_memory_does_not_grow_with_the_text(tmp_path: Path):
    (tmp_path / "big.txt").write_bytes(b"All work and no play.\n" * 200_000)
    with patch.object(sources, "CHUNK", 1 << 14):
        tracemalloc.start()
        corpus = prepare(tmp_path / "big.txt", BYTES, separator="--", cache_dir=tmp_path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert corpus.num_tokens == 4_400_000
    assert peak < 500_000


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path):
    (tmp_path / "file").touch()
    remedy = r"^cannot write to the cache .* \(.+\): set COMPRESSIVE_CACHE to another folder$"
    with pytest.raises(UsageError, match=remedy):
        prepare(folder, BYTES, cache_dir=tmp_path / "file")
    full = OSError(28, "No space left on device")
    with (
        patch.object(os, "fsync", side_effect=full),
        pytest.raises(UsageError, match=r"^cannot write .*No space left"),
    ):
        prepare(folder, BYTES, cache_dir=tmp_path)
    assert prepare(folder, BYTES, cache_dir=tmp_path).num_documents == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"COMPRESSIVE_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/compressive-transformer"),
        ({"HOME": "/h"}, "/h/.cache/compressive-transformer"),
    ],
)
def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str):
    monkeypatch.delenv("COMPRESSIVE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache() == Path(expected)


def test_no_home_for_the_cache(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COMPRESSIVE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with (
        patch.object(Path, "home", side_effect=RuntimeError),
        pytest.raises(UsageError, match="set COMPRESSIVE_CACHE"),
    ):
        default_cache()


# Splits


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(
    datas=texts,
    fraction=st.floats(0.01, 0.99),
    max_tokens=st.none() | st.integers(1, 30),
)
def test_a_split_loses_nothing(
    tokenizer: Tokenizer, datas: list[bytes], fraction: float, max_tokens: int | None
):
    corpus = corpus_of([*datas, b"xyz"], tokenizer)
    train, valid = split(corpus, fraction=fraction, max_tokens=max_tokens)
    assert np.array_equal(np.concatenate([train.tokens, valid.tokens]), corpus.tokens)
    assert np.shares_memory(train.tokens, corpus.tokens)
    assert np.shares_memory(valid.tokens, corpus.tokens)
    parts = train.num_documents + valid.num_documents
    assert parts in (corpus.num_documents, corpus.num_documents + 1)
    if parts == corpus.num_documents:
        assert decoded(train) + decoded(valid) == decoded(corpus)
        assert [*train.names, *valid.names] == list(corpus.names)
    else:  # cut: the beginning of the document in one, its end in the other
        assert train.names[-1] == valid.names[0]
        *head, a = decoded(train)
        b, *tail = decoded(valid)
        assert [*head, a + b, *tail] == decoded(corpus)
        assert a
        assert b
    for part in (train, valid):
        assert part.num_bytes.tolist() == [len(data) for data in decoded(part)]

    wanted = fraction * corpus.num_tokens
    assert valid.num_tokens >= min(wanted, max_tokens or wanted, corpus.num_tokens - 1)
    assert valid.num_tokens <= min(2 * np.ceil(wanted), max_tokens or np.inf)
    assert train.num_tokens >= 1


def test_whole_documents_where_they_fit():
    def sizes(*parts: Corpus) -> list[list[int]]:
        return [np.diff(part.starts).tolist() for part in parts]

    corpus = corpus_of([b"a" * 80, b"b" * 11, b"c" * 9])
    assert sizes(*split(corpus, fraction=0.09)) == [[80, 11], [9]]
    assert sizes(*split(corpus, fraction=0.10)) == [[80], [11, 9]]
    assert sizes(*split(corpus, fraction=0.25)) == [[75], [5, 11, 9]]
    assert sizes(*split(corpus, fraction=0.10, max_tokens=6)) == [[80, 11, 3], [6]]
    assert sizes(*split(corpus_of([b"a" * 25, b"b" * 75]), fraction=0.4)) == [[25, 35], [40]]


def test_a_split_leaves_the_corpus_alone():
    corpus = corpus_of([b"a" * 70, b"b" * 30])
    split(corpus, fraction=0.1)
    assert corpus.num_bytes.tolist() == [70, 30]


def test_a_cut_document_knows_its_bytes_where_tokens_have_several():
    train, valid = split(corpus_of([b"aabbbccd"], PairTokenizer()), fraction=0.5)  # aa bb | b cc d
    assert (train.num_bytes.tolist(), valid.num_bytes.tolist()) == ([4], [4])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (b"a", {}, r"^a text of 1 byte\(s\) is too short to keep a part for validation: give more$"),
        (b"abc", {"fraction": 0.0}, "must lie between 0 and 1, got 0.0$"),
        (b"abc", {"fraction": 1.0}, "must lie between 0 and 1, got 1.0$"),
        (b"abc", {"fraction": float("nan")}, "got nan$"),
        (b"abc", {"max_tokens": 0}, "needs at least 1 token, got max_tokens=0$"),
    ],
)
def test_bad_splits(text: bytes, options: dict[str, float], message: str):
    with pytest.raises(UsageError, match=message):
        split(corpus_of([text]), **options)  # pyright: ignore[reportArgumentType]
