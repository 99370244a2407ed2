"""``compressive benchmark``: the paper's data sets, whole and in part, and what is wrong with others."""

import hashlib
import json
import math
import warnings
import zipfile
from pathlib import Path

import pytest

from compressive_transformer.cli import main
from compressive_transformer.data import ByteTokenizer, open_dataset
from compressive_transformer.data.benchmarks import enwik8, pg19, wikitext
from tiny import SENTENCE, refused, train_tiny

SHARED = Path(__file__).parents[2] / "shared" / "data"
Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    main(arguments)
    return capsys.readouterr().out


def text_of(folder: Path) -> bytes:
    corpus = open_dataset(folder, ByteTokenizer())
    return corpus.tokenizer.decode(corpus.tokens[:])


# enwik8

DATA = bytes(range(256)) * 4  # not UTF-8 all over, as enwik8 is not where it is cut


@pytest.fixture
def small_enwik8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What the library takes for enwik8."""
    monkeypatch.setattr(enwik8, "MD5", hashlib.md5(DATA).hexdigest())
    monkeypatch.setattr(enwik8, "BYTES", len(DATA))
    monkeypatch.setattr(enwik8, "PERCENT", {"train": 50, "valid": 25, "test": 25})
    path = tmp_path / "enwik8"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_enwik8_is_divided_and_nothing_is_lost(
    tmp_path: Path, capsys: Capture, small_enwik8: Path, packed: bool
):
    if packed:
        with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as archive:
            archive.write(small_enwik8, "enwik8")
        small_enwik8 = tmp_path / "enwik8.zip"
    out = tmp_path / "out"
    said = answer(capsys, "benchmark", "enwik8", str(small_enwik8), "--out", str(out))
    parts = [text_of(out / split) for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [512, 256, 256]
    assert b"".join(parts) == DATA
    assert "512 bytes, the train part of enwik8" in said
    assert "only some" not in said
    again = answer(capsys, "benchmark", "enwik8", str(small_enwik8), "--out", str(out))
    assert again == said


def test_another_file_is_not_enwik8_and_a_part_of_it_is_not_called_so(tmp_path: Path, capsys: Capture):
    path, out = tmp_path / "some", tmp_path / "out"
    path.write_bytes(DATA)
    said = refused(capsys, "benchmark", "enwik8", str(path), "--out", str(out))
    assert "it has 1,024 bytes and md5" in said
    assert "a1fa5ffddb56f4953e226637dabbb36a" in said
    assert not list(out.glob("*/dataset.json"))
    said = answer(capsys, "benchmark", "enwik8", str(path), "--out", str(out), "--part")
    assert "921 bytes, only some of the train part of enwik8" in said


def test_another_file_of_the_same_length_is_not_called_enwik8(
    tmp_path: Path, capsys: Capture, small_enwik8: Path
):
    small_enwik8.write_bytes(DATA[::-1])
    arguments = ("benchmark", "enwik8", str(small_enwik8), "--out", str(tmp_path / "out"), "--part")
    assert "512 bytes, only some of the train part of enwik8" in answer(capsys, *arguments)


def test_a_refused_source_leaves_no_folder(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "cannot read" in refused(capsys, "benchmark", "enwik8", "none")
    assert not (tmp_path / "data").exists()


def test_damaged_and_unlike_archives_are_named(tmp_path: Path, capsys: Capture):
    path = tmp_path / "enwik8.zip"
    path.write_bytes(b"PK no zip")
    assert "is damaged or packed oddly" in refused(capsys, "benchmark", "enwik8", str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"a")
        archive.writestr("b", b"b")
    assert "has 2 files in it" in refused(capsys, "benchmark", "enwik8", str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("enwik8", b"a")
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data[data.index(signature) + flags] |= 1  # encrypted
    path.write_bytes(data)
    assert "is damaged or packed oddly" in refused(capsys, "benchmark", "enwik8", str(path))
    assert "is a folder" in refused(capsys, "benchmark", "enwik8", str(tmp_path))
    assert "cannot read" in refused(capsys, "benchmark", "enwik8", str(tmp_path / "none"))


# WikiText

LINE = b" the <unk> of memory \n"


@pytest.fixture
def wiki(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    for split, lines in (("train", 40), ("valid", 4), ("test", 5)):
        (folder / f"wiki.{split}.tokens").write_bytes(LINE * lines)
    return folder


def counted(monkeypatch: pytest.MonkeyPatch, **changes: int) -> None:
    """What the library takes for WikiText-2."""
    words = {"train": 200, "valid": 20, "test": 25} | changes
    monkeypatch.setattr(wikitext.WIKITEXT_2, "words", words)
    monkeypatch.setattr(wikitext.WIKITEXT_2, "unknown", {"valid": 4, "test": 5})


def test_wikitext_has_the_vocabulary_of_its_training_part(
    tmp_path: Path, capsys: Capture, wiki: Path, monkeypatch: pytest.MonkeyPatch
):
    counted(monkeypatch)
    out = tmp_path / "out"
    said = answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(out))
    assert f"{out / 'valid'}: 20 words, the valid part of wikitext-2: 20 words in 88 bytes" in said
    words = json.loads((out / "tokenizer.json").read_text())["words"]
    assert sorted(words) == sorted(["the", "<unk>", "of", "memory", "\n"])
    train_tiny(out / "train", tmp_path / "run", "--steps=2", "--tokenizer", str(out / "tokenizer.json"))
    said = answer(capsys, "evaluate", str(tmp_path / "run"), str(out / "test"))
    assert "This is the test part of wikitext-2: 25 words" in said
    vocabulary = ("--vocab-size", "4")
    again = ("benchmark", "wikitext-2", str(wiki), "--out", str(out))
    assert "has 6 tokens, not 4; remove it" in refused(capsys, *again, *vocabulary)
    (wiki / "wiki.train.tokens").write_bytes(LINE * 41)
    assert "tokenizer.json is of another training part" in refused(capsys, *again, "--part")


def test_words_that_the_vocabulary_lacks_make_no_official_score(
    tmp_path: Path, capsys: Capture, wiki: Path, monkeypatch: pytest.MonkeyPatch
):
    counted(monkeypatch)
    out, run = tmp_path / "out", tmp_path / "run"
    vocabulary = ("--vocab-size", "4")  # <unk>, the end of line, one word, and the document token
    said = answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(out), *vocabulary)
    assert "the test part of wikitext-2: 25 words in 110 bytes, of which the vocabulary lacks 10" in said
    train_tiny(out / "train", run, "--steps=1", "--tokenizer", str(out / "tokenizer.json"))
    said = answer(capsys, "evaluate", str(run), str(out / "test"))
    assert "of which the vocabulary lacks 10" in said
    assert "all count" not in said
    assert answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(out), *vocabulary)  # goes on


def test_a_refused_text_leaves_the_record_as_it_was(tmp_path: Path, capsys: Capture, wiki: Path):
    out = tmp_path / "out"
    arguments = ("benchmark", "wikitext-2", str(wiki), "--out", str(out), "--part")
    answer(capsys, *arguments)
    before = (out / "benchmark.json").read_bytes()
    (wiki / "wiki.test.tokens").write_bytes(LINE * 6)
    assert "holds a dataset of another text" in refused(capsys, *arguments)
    assert (out / "benchmark.json").read_bytes() == before


def test_a_word_with_unk_in_it_is_lost_like_others(tmp_path: Path, capsys: Capture, wiki: Path):
    (wiki / "wiki.test.tokens").write_bytes(LINE + b" a<unk>b <unk>c \n")
    said = answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(tmp_path / "out"), "--part")
    assert "of which the vocabulary lacks 2" in said


def test_a_record_of_other_text_is_refused(tmp_path: Path, capsys: Capture, wiki: Path):
    out, run = tmp_path / "out", tmp_path / "run"
    answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(out), "--part")
    train_tiny(out / "train", run, "--steps=1", "--tokenizer", str(out / "tokenizer.json"))
    record = json.loads((out / "benchmark.json").read_text())
    record["parts"][2]["num_bytes"] += 1
    (out / "benchmark.json").write_text(json.dumps(record))
    assert "holds other text than the record" in refused(capsys, "evaluate", str(run), str(out / "test"))


def test_a_vocabulary_that_was_broken_off_is_made_again(
    tmp_path: Path, capsys: Capture, wiki: Path, monkeypatch: pytest.MonkeyPatch
):
    from compressive_transformer.tasks import benchmark

    arguments = ("benchmark", "wikitext-2", str(wiki), "--out", str(tmp_path / "out"), "--part")

    def broken(*a: object, **k: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "prepare_dataset", broken)  # the vocabulary is there, its tokens are not
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(arguments)
    assert "the test part of wikitext-2" in answer(capsys, *arguments)


def test_a_model_of_bytes_is_scored_by_the_words_of_wikitext(
    tmp_path: Path, capsys: Capture, wiki: Path, monkeypatch: pytest.MonkeyPatch
):
    counted(monkeypatch)
    out, run = tmp_path / "out", tmp_path / "run"
    answer(capsys, "benchmark", "wikitext-2", str(wiki), "--out", str(out), "--tokenizer", "bytes")
    train_tiny(out / "train", run, "--steps=2")
    found = json.loads(answer(capsys, "evaluate", str(run), str(out / "test"), "--json"))
    per_word = math.exp(found["total"]["nats"] / 25)  # ends of lines are words there
    assert found["benchmark"]["perplexity_per_official_word"] == pytest.approx(per_word)
    assert found["total"]["num_words"] == 20


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train": 201}, "wikitext-2: 200 words and ends of lines, not 201"),
        ({}, "are <unk>, not 4"),
    ],
)
def test_another_text_is_not_wikitext(
    capsys: Capture,
    wiki: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, int],
    reason: str,
):
    counted(monkeypatch, **changes)
    if not changes:
        (wiki / "wiki.valid.tokens").write_bytes(LINE.replace(b"<unk>", b"use") * 4)
    arguments = ("benchmark", "wikitext-2", str(wiki), "--out", str(tmp_path / "out"))
    assert reason in refused(capsys, *arguments)
    assert "only some of" in answer(capsys, *arguments, "--part")


def test_what_is_wrong_with_a_folder_of_wikitext(tmp_path: Path, capsys: Capture, wiki: Path):
    arguments = ("benchmark", "wikitext-103", str(wiki), "--out", str(tmp_path / "out"))
    (wiki / "wiki.train.tokens").unlink()
    assert "has no train part" in refused(capsys, *arguments)
    assert "give one by --tokenizer FILE" in refused(capsys, *arguments, "--part")
    (wiki / "wiki.test.tokens.gz").touch()
    assert "leave one there" in refused(capsys, *arguments)
    assert "has no wiki.train.tokens" in refused(capsys, "benchmark", "wikitext-2", str(tmp_path))
    assert "is not a folder" in refused(capsys, "benchmark", "wikitext-2", str(tmp_path / "none"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs WikiText")
def test_the_real_test_part_is_known(tmp_path: Path, capsys: Capture):
    for file in (SHARED / "wikitext").glob("wikitext-103.*"):
        (tmp_path / file.name).symlink_to(file)
    arguments = ("--part", "--tokenizer", "bytes", "--out", str(tmp_path / "out"))
    said = answer(capsys, "benchmark", "wikitext-103", str(tmp_path), *arguments)
    assert "the test part of wikitext-103: 245,569 words" in said
    assert "only some" not in said


# PG-19


@pytest.fixture
def books(tmp_path: Path) -> Path:
    folder = tmp_path / "pg19"
    for name, numbers in (("train", (1, 22, 333)), ("validation", (4,)), ("test", (10146, 5, 60))):
        (folder / name).mkdir(parents=True)
        for number in numbers:
            (folder / name / f"{number}.txt").write_bytes(f"Book {number}.\n".encode() + SENTENCE * 9)
    rows = "".join(f'{n},"A, title",1900,http://x/{n}\n' for n in (1, 22, 333, 4, 10146, 5, 60))
    (folder / "metadata.csv").write_text(rows)
    return folder


def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library takes for PG-19."""
    monkeypatch.setattr(pg19, "BOOKS", {"train": 3, "valid": 1, "test": 3})
    monkeypatch.setattr(pg19, "WORDS", {"train": 270, "valid": 90, "test": 280})
    lists = {"valid": "validation/4.txt\n", "test": "test/10146.txt\ntest/5.txt\ntest/60.txt\n"}
    digests = {split: hashlib.sha256(text.encode()).hexdigest() for split, text in lists.items()}
    monkeypatch.setattr(pg19, "LISTS", digests)


def test_the_whole_of_pg19_is_scored_by_the_official_words(
    tmp_path: Path, capsys: Capture, books: Path, monkeypatch: pytest.MonkeyPatch
):
    official(monkeypatch)
    out, run = tmp_path / "out", tmp_path / "run"
    vocabulary = ("--vocab-size", "280")
    said = answer(capsys, "benchmark", "pg19", str(books), "--out", str(out), *vocabulary)
    assert "subwords, the test part of pg19: 3 books, 276 words in" in said
    train_tiny(out / "train", run, "--steps=2", "--tokenizer", str(out / "tokenizer.json"))
    found = json.loads(answer(capsys, "evaluate", str(run), str(out / "test"), "--json"))
    perplexity = found["benchmark"]["perplexity_per_official_word"]
    assert perplexity == pytest.approx(2.718281828 ** (found["total"]["nats"] / 280))
    said = answer(capsys, "evaluate", str(run), str(out / "test"))
    assert f"by the 280 words that all count who report on it: {perplexity:.4f}" in said


def test_a_part_of_pg19_tells_its_books_and_counts_its_own_words(
    tmp_path: Path, capsys: Capture, books: Path
):
    out, run = tmp_path / "out", tmp_path / "run"
    arguments = ("benchmark", "pg19", str(books), "--out", str(out), "--tokenizer", "bytes")
    assert "3 books, not 28,602" in refused(capsys, *arguments)
    assert "only some of the test part of pg19: 3 books" in answer(capsys, *arguments, "--part")
    train_tiny(out / "train", run, "--steps=2")
    said = answer(capsys, "evaluate", str(run), str(out / "test"))
    assert "Books: 10146, 5, 60. Perplexity per word is by the words counted here" in said
    assert "all count" not in said
    found = json.loads(answer(capsys, "evaluate", str(run), str(out / "test"), "--json"))
    assert found["benchmark"]["perplexity_per_official_word"] is None
    assert found["benchmark"]["num_words"] == found["total"]["num_words"]


def test_other_books_are_not_the_official_ones(
    capsys: Capture, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    official(monkeypatch)
    (books / "test" / "5.txt").rename(books / "test" / "99.txt")
    (books / "metadata.csv").unlink()
    arguments = ("benchmark", "pg19", str(books), "--out", str(tmp_path / "out"))
    assert "other books than on the authors' list" in refused(capsys, *arguments)


def test_books_that_were_cut_short_are_not_the_official_ones(
    capsys: Capture, books: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    official(monkeypatch)
    (books / "test" / "5.txt").write_bytes(SENTENCE)
    arguments = ("benchmark", "pg19", str(books), "--out", str(tmp_path / "out"))
    assert "words, not about 280" in refused(capsys, *arguments)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the list of PG-19")
def test_the_digest_is_that_of_the_authors_list():
    lines = (SHARED / "pg19" / "official_test_files.txt").read_bytes()
    assert hashlib.sha256(b"".join(sorted(lines.splitlines(keepends=True)))).hexdigest() == pg19.LISTS["test"]


def damage(books: Path, how: str) -> None:
    path = books / "train" / "22.txt"
    if how == "empty":
        path.write_bytes(b"")
    elif how == "not UTF-8":
        path.write_bytes(b"caf\xe9 and more")
    elif how == "cut in a letter":
        path.write_bytes("café".encode()[:-1])
    elif how == "in two parts":
        (books / "test" / "22.txt").write_bytes(path.read_bytes())
    elif how == "the same text in two parts":
        (books / "test" / "5.txt").write_bytes(path.read_bytes())
    elif how == "a link to nothing":
        path.unlink()
        path.symlink_to(books / "none.txt")
    elif how == "damaged metadata":
        (books / "metadata.csv").write_text('1,a\n22,"' + 200_000 * "x")
    elif how == "unknown to the metadata":
        path.rename(books / "train" / "23.txt")
    else:
        for book in books.glob("*/*.txt"):
            book.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "22.txt is empty"),
        ("not UTF-8", "22.txt is not UTF-8 (it has a byte 0xe9)"),
        ("cut in a letter", "22.txt is not UTF-8"),
        ("in two parts", "book 22 is in train and in test"),
        ("the same text in two parts", "22.txt and"),
        ("a link to nothing", "22.txt: No such file"),
        ("damaged metadata", "metadata.csv is damaged (field larger"),
        ("unknown to the metadata", "metadata.csv does not know"),
        ("no books", "has no books such as train/10002.txt"),
    ],
)
def test_what_is_wrong_with_books_is_told(
    tmp_path: Path, capsys: Capture, books: Path, how: str, message: str
):
    damage(books, how)
    arguments = ("benchmark", "pg19", str(books), "--out", str(tmp_path / "out"), "--part")
    assert message in refused(capsys, *arguments)


def test_metadata_of_books_that_are_not_there(tmp_path: Path, capsys: Capture, books: Path):
    (books / "train" / "22.txt").unlink()
    arguments = ("--out", str(tmp_path / "out"), "--part", "--tokenizer", "bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        main(("benchmark", "pg19", str(books), *arguments))
    assert "knows 1 books that are not there, such as 22\n" in capsys.readouterr().err


@pytest.mark.parametrize("columns", [("url", "text"), ("link", "text")])
def test_mirrors_in_tables_are_read(tmp_path: Path, capsys: Capture, books: Path, columns: tuple[str, str]):
    from datasets import Dataset

    tables = tmp_path / "tables"
    for name in ("train", "validation", "test"):
        rows = [
            {columns[0]: f"http://www.gutenberg.org/ebooks/{path.stem}", columns[1]: path.read_text()}
            for path in sorted((books / name).glob("*.txt"))
        ]
        Dataset.from_list(rows).to_parquet(str(tables / f"{name}-00000-of-00001.parquet"))
    out = [str(tmp_path / name) for name in ("of tables", "of files")]
    arguments = ("--tokenizer", "bytes", "--part", "--out")
    mirror = ("benchmark", "pg19", f"hf:{tables}", *arguments, out[0])
    if columns[0] == "link":
        assert "has no columns url" in refused(capsys, *mirror)
        return
    answer(capsys, *mirror)
    answer(capsys, "benchmark", "pg19", str(books), *arguments, out[1])
    for split in ("train", "valid", "test"):
        assert text_of(Path(out[0], split)) == text_of(Path(out[1], split))
    rows = [{"url": f"http://www.gutenberg.org/ebooks/{number}", "text": "New."} for number in (1, 22, 333)]
    Dataset.from_list(rows).to_parquet(str(tables / "train-00000-of-00001.parquet"))
    assert "train holds a dataset of another text" in refused(capsys, *mirror)
    Dataset.from_list([*rows, rows[0]]).to_parquet(str(tables / "train-00000-of-00001.parquet"))
    assert "has book 1 twice in train" in refused(capsys, *mirror)
    for name in ("train", "validation"):
        (tables / f"{name}-00000-of-00001.parquet").unlink()
    some = (
        "benchmark",
        "pg19",
        f"hf:{tables}",
        "--tokenizer",
        "bytes",
        "--out",
        str(tmp_path / "test alone"),
    )
    assert "has no train and no valid part of pg19" in refused(capsys, *some)
    assert "only some of the test part" in answer(capsys, *some, "--part")


def test_a_vocabulary_of_another_size_can_only_be_made(tmp_path: Path, capsys: Capture, books: Path):
    arguments = ("--part", "--tokenizer", "bytes", "--vocab-size", "300", "--out", str(tmp_path / "out"))
    assert "leave it out" in refused(capsys, "benchmark", "pg19", str(books), *arguments)


def test_a_damaged_record_is_named(tmp_path: Path, capsys: Capture, books: Path):
    out, run = tmp_path / "out", tmp_path / "run"
    answer(capsys, "benchmark", "pg19", str(books), "--out", str(out), "--tokenizer", "bytes", "--part")
    train_tiny(out / "train", run, "--steps=1")
    (out / "benchmark.json").write_text("{}")
    assert "benchmark.json is damaged" in refused(capsys, "evaluate", str(run), str(out / "test"))
