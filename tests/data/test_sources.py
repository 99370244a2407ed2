"""Paths to documents: what is read, in which order, and what is said when nothing can be."""

import bz2
import gzip
import hashlib
import io
import lzma
import re
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressive_transformer.data import embedded_books, files, read_documents, sources
from compressive_transformer.errors import UsageError

TEXT = "One line.\nAnother – the last.\n".encode() * 50
PACK = {".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}


def make(root: Path, contents: dict[str, bytes]) -> Path:
    for name, data in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def found(*paths: str | Path, below: Path) -> list[str]:
    """The documents' names, as seen from a folder."""
    return [str(Path(document.name).relative_to(below)) for document in read_documents(paths)]


def stdin(data: bytes):
    return patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_a_named_file_is_read_byte_for_byte(tmp_path: Path):
    everything = bytes(range(256)) * 20
    path = make(tmp_path, {"image.png": everything}) / "image.png"
    (document,) = read_documents(path)
    assert (document.name, document.data) == (str(path), everything)


@pytest.mark.parametrize("suffix", [*PACK, ".GZ"])
def test_packed_files_are_unpacked(tmp_path: Path, suffix: str):
    make(tmp_path, {f"book.txt{suffix}": PACK[suffix.lower()](TEXT)})
    assert [document.data for document in read_documents([tmp_path])] == [TEXT]


def test_a_folder_is_read_in_order_without_what_is_hidden(tmp_path: Path):
    make(tmp_path, dict.fromkeys(["b.txt", "a/2", "a/10", "c/d/e.md", ".git/config", "a/.hidden"], TEXT))
    assert found(tmp_path, below=tmp_path) == ["a/10", "a/2", "b.txt", "c/d/e.md"]


def test_a_folder_skips_what_is_no_text(tmp_path: Path):
    binary = {
        "x.bin": b"MZ\0\1",
        "x.bin.gz": gzip.compress(b"\0"),
        "page.pdf": TEXT,
        "all.tar.gz": TEXT,
        "0": b"",
    }
    make(tmp_path, {"a.txt": TEXT, **binary})
    with pytest.warns(UserWarning, match=r"^skipped 5 file\(s\) that hold no text, such as .*/0$"):
        assert found(tmp_path, below=tmp_path) == ["a.txt"]


def test_patterns(tmp_path: Path):
    make(tmp_path, dict.fromkeys(["b.txt", "a.txt", "c.md", "in/d.txt", "in/deep/e.txt", ".in/f.txt"], TEXT))
    assert found(tmp_path / "*.txt", below=tmp_path) == ["a.txt", "b.txt"]
    assert found(tmp_path / "**/*.txt", below=tmp_path) == ["a.txt", "b.txt", "in/d.txt", "in/deep/e.txt"]
    assert found(tmp_path / "i[m-o]", below=tmp_path) == ["in/d.txt", "in/deep/e.txt"]
    assert found(tmp_path / ".i*/*", below=tmp_path) == [".in/f.txt"]
    assert found(tmp_path / "[c]*", tmp_path / "a*", below=tmp_path) == ["c.md", "a.txt"]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path):
    make(tmp_path, {"[ab].txt": TEXT, "a.txt": TEXT})
    assert found(tmp_path / "[ab].txt", below=tmp_path) == ["[ab].txt"]


def test_the_same_file_counts_once(tmp_path: Path):
    make(tmp_path, {"in/a.txt": TEXT, "in/b.txt": TEXT})
    (tmp_path / "link.txt").symlink_to(tmp_path / "in/a.txt")
    several = (tmp_path / "in/b.txt", tmp_path / "in", tmp_path / "in/../in/*.txt", tmp_path / "link.txt")
    assert found(*several, below=tmp_path) == ["in/b.txt", "in/a.txt"]


@pytest.mark.parametrize("pattern", ["", "**", "**/*.txt", "*"])
def test_links_that_lead_round_do_not_hang(tmp_path: Path, pattern: str):
    make(tmp_path, {"a.txt": TEXT, "in/b.txt": TEXT})
    for name in ("in/up", "in/again", "loop"):
        (tmp_path / name).symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    documents = read_documents(tmp_path / pattern)
    assert sorted(Path(document.name).name for document in documents) == ["a.txt", "b.txt"]


def test_standard_input():
    with stdin(b"\xff\r\nabc"):
        assert [(document.name, document.data) for document in read_documents("-")] == [("-", b"\xff\r\nabc")]
    with stdin(b"a--b"):
        documents = list(read_documents(["-", "-"], separator="--"))
    assert [document.name for document in documents] == ["-#1", "-#2"]


@given(
    text=st.text("ab\n", max_size=40).map(str.encode),
    separator=st.text("ab\n", min_size=1, max_size=4),
    chunk=st.integers(1, 5),
)
def test_a_separator_divides_like_split(text: bytes, separator: str, chunk: int):
    text += b"end"  # so that there is a document
    with stdin(text), patch.object(sources, "CHUNK", chunk):
        documents = list(read_documents("-", separator=separator))
    pieces = [piece for piece in text.split(separator.encode()) if piece]
    assert [document.data for document in documents] == pieces
    assert [document.name for document in documents] == [f"-#{i + 1}" for i in range(len(pieces))]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (r"\n\n", b"\n\n"),
        ("\n", b"\n"),
        (r"a\tb\r\0", b"a\tb\r\0"),
        (r"\\n", rb"\n"),
        (r"\d–", r"\d–".encode()),
    ],
)
def test_escapes_in_the_separator(written: str, meant: bytes):
    assert sources.parse_separator(written) == meant


BAD: dict[str, tuple[dict[str, bytes], list[str], str]] = {
    "no path": ({}, [], "no text given: name files, folders"),
    "missing": ({}, ["gone.txt"], "no such file or folder: .*gone.txt$"),
    "no match": ({"a.txt": TEXT}, ["*.md"], r"no file matches '.*\*\.md'$"),
    "bad pattern": ({"b.txt": TEXT}, ["a**.txt"], r"the pattern '.*a\*\*\.txt' is not valid|no file matches"),
    "no text": ({"in/a.bin": b"\0"}, ["in"], r"no text in .*in, which has 1 visible file\(s\)$"),
    "hidden": ({"in/.a": TEXT}, ["in"], r"no text in .*in, which has 0 visible file\(s\)$"),
    "empty": ({"a.txt": b""}, ["a.txt"], "a.txt is empty: give a file with text in it$"),
    "packed nothing": ({"a.txt.gz": gzip.compress(b"")}, ["a.txt.gz"], "a.txt.gz is empty"),
    "cut gz": (
        {"a.gz": gzip.compress(TEXT)[:-12]},
        ["a.gz"],
        "a.gz is damaged or cut short .*: fetch or pack",
    ),
    "cut xz": ({"a.xz": lzma.compress(TEXT)[:-12]}, ["a.xz"], "a.xz is damaged or cut short"),
    "cut bz2": ({"a.bz2": bz2.compress(TEXT)[:-12]}, ["a.bz2"], "a.bz2 is damaged or cut short"),
    "no gz": ({"a.gz": TEXT}, ["a.gz"], "a.gz is damaged or cut short"),
    "no xz": ({"a.xz": TEXT}, ["a.xz"], "a.xz is damaged or cut short"),
    "no bz2": ({"a.bz2": TEXT}, ["a.bz2"], "a.bz2 is damaged or cut short"),
    "bad deflate": (
        {"a.gz": gzip.compress(TEXT)[:10] + b"\xff" * 99},
        ["a.gz"],
        "a.gz is damaged or cut short",
    ),
    "damaged in folder": ({"in/a.gz": TEXT}, ["in"], "in/a.gz is damaged or cut short"),
    "tar": (
        {"a.tar": TEXT},
        ["a.tar"],
        "a.tar is an archive: unpack it first and give the folder or the files$",
    ),
    "tar.gz": ({"a.tar.gz": TEXT}, ["a.tar.gz"], "a.tar.gz is an archive"),
    "zip": ({"a.ZIP": TEXT}, ["a.ZIP"], "a.ZIP is an archive"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_paths_get_one_clear_line(tmp_path: Path, case: str):
    contents, names, message = BAD[case]
    make(tmp_path, contents)
    with pytest.raises(UsageError, match=message) as caught:
        list(read_documents([tmp_path / name for name in names]))
    assert "\n" not in str(caught.value)


def test_bad_paths_are_told_before_the_first_document_is_asked_for(tmp_path: Path):
    with pytest.raises(UsageError, match="no such file"):
        read_documents(tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("data", "separator", "message"),
    [
        (b"--", "-", "nothing but separators in -: choose another separator, or none"),
        (b"a", "", "is empty: give"),
    ],
)
def test_bad_separators(data: bytes, separator: str, message: str):
    with stdin(data), pytest.raises(UsageError, match=message):
        list(read_documents("-", separator=separator))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(13, "Permission denied", "secret.txt"),
            "^no permission to read secret.txt: change its",
        ),
        (OSError(5, "Input/output error", "x"), "^cannot read .*a.txt: Input/output error$"),
    ],
)
@pytest.mark.parametrize("refuses", ["open", "is_dir"])
def test_a_file_that_may_not_be_read(tmp_path: Path, error: OSError, message: str, refuses: str):
    def refuse(*_: object, **__: object) -> None:
        raise error

    make(tmp_path, {"a.txt": TEXT})
    with patch.object(files.Path, refuses, refuse), pytest.raises(UsageError, match=message):
        list(read_documents(tmp_path / "a.txt"))


def test_the_books_are_those_of_their_readme():
    books = embedded_books()
    assert [book.name for book in books] == ["moonfleet.txt.xz", "old-saint-pauls.txt.xz"]
    assert sum(book.stat().st_size for book in books) < 800_000
    promised = re.findall(r"`([0-9a-f]{64})`", (books[0].parent / "README.md").read_text(encoding="utf-8"))
    assert [hashlib.sha256(document.data).hexdigest() for document in read_documents(books)] == promised
