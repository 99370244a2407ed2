"""Tokenizers that are made from text: what they give back, where text may be cut, damaged files."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressive_transformer import UsageError
from compressive_transformer.data import embedded_books, get_tokenizer, read_documents
from compressive_transformer.data.trained import Kind, learn, save
from compressive_transformer.data.words import UNKNOWN, WordTokenizer

BOOK = next(iter(read_documents(embedded_books()[0]))).data[:200_000]
LINES = BOOK.splitlines(keepends=True)
WIKI = Path(__file__).parents[3] / "shared" / "data" / "wikitext"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    for kind in ("subwords", "words"):
        save(learn([BOOK], kind, 700), folder / f"{kind}.json")
    return {kind: folder / f"{kind}.json" for kind in ("subwords", "words")}


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_subwords_give_back_any_bytes(files: dict[str, Path], data: bytes):
    tokenizer = get_tokenizer(str(files["subwords"]))
    ids = tokenizer.encode(data)
    assert tokenizer.decode(ids) == data
    assert b"".join(tokenizer.decode([i]) for i in ids) == data
    assert tokenizer.document_token not in ids


@settings(max_examples=50, deadline=None)
@given(cut=st.integers(0, len(LINES)), first=st.integers(0, len(LINES) - 50))
def test_text_may_be_cut_behind_any_line(files: dict[str, Path], cut: int, first: int):
    lines = LINES[first : first + 50]
    cut = cut % (len(lines) + 1)
    for path in files.values():
        encode = get_tokenizer(str(path)).encode
        whole = encode(b"".join(lines))
        parts = [encode(b"".join(lines[:cut])), encode(b"".join(lines[cut:]))]
        assert np.array_equal(whole, np.concatenate(parts))


def test_subwords_are_fewer_than_bytes_and_as_many_as_asked_for(files: dict[str, Path]):
    tokenizer = get_tokenizer(str(files["subwords"]))
    assert tokenizer.vocab_size == 700
    assert tokenizer.unit == "subword"
    assert len(tokenizer.encode(BOOK)) < 0.45 * len(BOOK)


def test_words_are_those_between_spaces_and_ends_of_lines(files: dict[str, Path]):
    tokenizer = get_tokenizer(str(files["words"]))
    assert isinstance(tokenizer, WordTokenizer)
    assert (tokenizer.vocab_size, tokenizer.unit) == (700, "word")
    ids = tokenizer.encode(BOOK)
    assert len(ids) == len(BOOK.split()) + BOOK.count(b"\n")
    counts = Counter(ids.tolist())
    assert [counts[i] for i in range(len(tokenizer.words))] == list(tokenizer.counts)
    assert list(tokenizer.counts) == sorted(tokenizer.counts, reverse=True)
    known = {*tokenizer.words} - {UNKNOWN}
    expected = [word if word in known else UNKNOWN for word in BOOK.split()]
    assert tokenizer.decode(ids).split() == expected


def test_words_without_a_limit_are_all(tmp_path: Path):
    save(learn([b"b a b\n", b"c\xff b\n"], "words", None), tmp_path / "w.json")
    tokenizer = get_tokenizer(str(tmp_path / "w.json"))
    assert isinstance(tokenizer, WordTokenizer)
    assert tokenizer.words == (b"b", b"\n", b"a", b"c\xff", b"<unk>")
    assert tokenizer.counts == (3, 2, 1, 1, 0)
    assert tokenizer.encode(b"a new b\nb").tolist() == [2, 4, 0, 1, 0]
    assert tokenizer.decode([2, 4, 0, 1, 0, tokenizer.document_token]) == b" a <unk> b \n b"


@pytest.mark.skipif(not WIKI.is_dir(), reason="needs WikiText")
@pytest.mark.parametrize(("part", "count"), [("test", 245_569), ("valid", 217_646)])
def test_wikitext_has_as_many_words_as_published_and_comes_back(tmp_path: Path, part: str, count: int):
    (document,) = read_documents(WIKI / f"wikitext-103.wiki.{part}.tokens.xz")
    save(learn([document.data], "words", None), tmp_path / "w.json")
    tokenizer = get_tokenizer(str(tmp_path / "w.json"))
    ids = tokenizer.encode(document.data)
    assert len(ids) == count
    assert tokenizer.decode(ids) == document.data


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_tokenizers_travel_to_other_processes(files: dict[str, Path], kind: str):
    tokenizer = get_tokenizer(str(files[kind]))
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.name == tokenizer.name
    assert np.array_equal(other.encode(BOOK[:1000]), tokenizer.encode(BOOK[:1000]))


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_another_text_has_another_name_and_the_same_the_same(tmp_path: Path, kind: Kind):
    texts = {"a": b"x y x y x\n" * 5, "b": b"x y x y x\n" * 5, "c": b"x y z y x\n" * 5}
    for name, text in texts.items():
        save(learn([text], kind, 300), tmp_path / f"{name}.json")
    a, b, c = (get_tokenizer(str(tmp_path / f"{name}.json")).name for name in texts)
    assert a == b != c


@pytest.mark.parametrize("kind", ["subwords", "words"])
def test_numbers_that_are_no_tokens_are_refused(files: dict[str, Path], kind: str):
    with pytest.raises(ValueError, match="must lie in"):
        get_tokenizer(str(files[kind])).decode([700])


DAMAGES: dict[str, tuple[Callable[[Any], object], str]] = {
    "no format": (lambda c: c.pop("format"), "no tokenizer of this version"),
    "other format": (lambda c: c.update(format="x"), "no tokenizer of this version"),
    "words are text": (lambda c: c.update(words="abc"), "damaged .its words"),
    "a word is a number": (lambda c: c["words"].append(7), "damaged .its words"),
    "no counts": (lambda c: c.update(counts=None), "damaged .its counts"),
    "counts that do not fall": (lambda c: c["counts"].reverse(), "damaged .its counts"),
    "no model of subwords": (lambda c: c.update(kind="subwords", model=7), "damaged .its kind, or its sub"),
    "a count less": (lambda c: c["counts"].pop(), "not as many counts"),
    "a word twice": (lambda c: (c["words"].append("the"), c["counts"].append(1)), "words twice"),
    "no unknown": (lambda c: c["words"].__setitem__(c["words"].index("<unk>"), "unk"), "lacks <unk>"),
    "empty model": (lambda c: c.update(kind="subwords", model={}), "are damaged"),
    "half a model": (lambda c: c.update(kind="subwords", model={"model": {"type": "BPE"}}), "are damaged"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_named(
    files: dict[str, Path], tmp_path: Path, change: Callable[[Any], object], message: str
):
    content = json.loads(files["words"].read_text())
    change(content)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message) as error:
        get_tokenizer(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[1]", b'"text"', b"7"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: bytes):
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"t\.json is (damaged|no tokenizer)"):
        get_tokenizer(str(path))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"cannot read the tokenizer .*No such file"):
        get_tokenizer(str(tmp_path / "t.json"))


@pytest.mark.parametrize(("kind", "size"), [("subwords", 256), ("words", 2), ("words", -1)])
def test_too_small_a_vocabulary_is_refused(kind: Kind, size: int):
    with pytest.raises(UsageError, match="is not allowed; use at least"):
        learn([BOOK], kind, size)
