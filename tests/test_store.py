"""The store of checkpoints: what comes and goes, and what is refused before it is opened."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from safetensors.torch import save_file

from compressive_transformer import UsageError
from compressive_transformer.checkpoint import Store
from compressive_transformer.checkpoint.store import FACTS, MANIFEST, verify
from compressive_transformer.storage import MAX_DEPTH, MAX_HEADER, checksum, read_header, read_json


def add(store: Store, step: int, score: float | None = None) -> Path:
    partial = store.begin(step)
    save_file({"x": torch.arange(6.0)}, partial / "a.safetensors")
    return store.finish(partial, {"step": step, "score": score})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "run")


@pytest.fixture
def whole(store: Store) -> Path:
    return add(store, 5)


def sign(path: Path) -> None:
    """Makes a manifest that is true of the files."""
    files = [file for file in path.iterdir() if file.name != MANIFEST]
    table = {file.name: {"bytes": file.stat().st_size, "sha256": checksum(file)} for file in files}
    (path / MANIFEST).write_text(json.dumps({"format": 1, "files": table}))


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens tensors or unpickles fails the test."""

    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was opened")

    monkeypatch.setattr(safetensors, "safe_open", fail)
    monkeypatch.setattr(safetensors.torch, "safe_open", fail)
    monkeypatch.setattr(safetensors.torch, "load_file", fail)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(pickle, "load", fail)
    monkeypatch.setattr(pickle, "loads", fail)


# What comes and goes


def test_the_newest_comes_first(store: Store):
    assert store.steps() == []
    for step in (7, 100, 20):
        add(store, step)
    assert store.steps() == [100, 20, 7]
    assert store.newest() == (store.path(100), {"step": 100, "score": None})


def test_only_names_of_ours_count(store: Store):
    add(store, 7)
    for name in ("step-8", "step-0000000009.damaged", "step-٠٠٠٠٠٠٠٠٩٩", "step-00000000100", "lock"):
        (store.folder / name).mkdir()
    assert store.steps() == [7]


def test_begin_removes_what_was_left(store: Store, tmp_path: Path):
    store.begin(3).joinpath("half").touch()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    store.partial(4).symlink_to(precious)
    store.partial(5).touch()
    partial = store.begin(5)
    assert list(store.folder.iterdir()) == [partial]
    assert list(partial.iterdir()) == []
    assert (precious / "file").exists()  # the link went, and not what it led to


def test_abandon(store: Store):
    add(store, 3)
    store.abandon(store.begin(4))
    assert [path.name for path in store.folder.iterdir()] == ["step-0000000003"]


def test_finish_takes_the_place_of_an_earlier_run(store: Store):
    add(store, 3, score=1.0)
    add(store, 3, score=2.0)
    assert store.newest()[1]["score"] == 2.0


@pytest.mark.parametrize("dies", [1, 2])
def test_a_process_that_dies_over_replacing_a_checkpoint(
    store: Store, whole: Path, monkeypatch: pytest.MonkeyPatch, dies: int
):
    """At every moment there is one to take."""
    rename, count = Path.rename, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == dies:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        add(store, 5, score=2.0)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="was not written to its end"):
        assert store.newest() == (whole, {"step": 5, "score": None})
    assert add(store, 5, score=2.0) == whole
    assert store.newest()[1]["score"] == 2.0
    assert [path.name for path in store.folder.iterdir()] == [whole.name]


@pytest.mark.parametrize(
    ("latest", "every", "left"),
    [(1, None, [6, 3]), (2, None, [6, 5, 3]), (1, 2, [6, 4, 3, 2]), (9, None, [6, 5, 4, 3, 2, 1])],
)
def test_prune(store: Store, latest: int, every: int | None, left: list[int]):
    for step, score in {1: 3.0, 2: None, 3: 1.5, 4: float("nan"), 5: 2.0, 6: None}.items():
        add(store, step, score)
    store.prune(latest=latest, every=every)
    assert store.steps() == left
    assert not list(store.folder.glob(".*"))
    assert (store.best(), store.best_score()) == (3, 1.5)


@pytest.mark.parametrize("score", ["NaN", "-Infinity", '"1"', "true", "1", "[0.1]", "{", "[" * 9999])
def test_a_score_that_is_none(store: Store, score: str):
    add(store, 1, score=2.0)
    (add(store, 2) / FACTS).write_text(f'{{"score": {score}}}')
    assert store.best() == 1


def test_set_aside(store: Store):
    for step in (1, 2, 3):
        add(store, step)
    store.path(3).with_suffix(".why").write_text("a file in its way")
    assert store.set_aside(2, "why") == 1
    assert store.steps() == [1]
    assert len(list(store.folder.glob("*.why"))) == 2
    assert store.set_aside(1, "why") is None


def test_newest_falls_back_once(store: Store):
    for step in (1, 2, 3):
        add(store, step)
    (store.path(3) / FACTS).write_text("{}")
    with pytest.warns(UserWarning, match=r"facts.json has 2 bytes.* it was set aside, and step-0000000002"):
        assert store.newest()[0] == store.path(2)
    assert store.steps() == [2, 1]
    for step in (1, 2):
        (store.path(step) / FACTS).write_text("{}")
    with pytest.raises(UsageError, match=r"step-0000000001.*2 bytes"):
        store.newest()
    assert store.steps() == [2, 1]


def test_nothing_to_fall_back_to(store: Store, whole: Path):
    (whole / FACTS).unlink()
    with pytest.raises(UsageError, match="no earlier checkpoint: train anew"):
        store.newest()
    with pytest.raises(UsageError, match="no checkpoint to resume from"):
        Store(store.folder / "elsewhere").newest()
    assert store.steps() == [5]


def test_half_a_checkpoint_is_told_and_ignored(store: Store, whole: Path):
    store.partial(9).mkdir()
    with pytest.warns(UserWarning, match="step-0000000009 was not written to its end"):
        assert store.newest()[0] == whole


@pytest.mark.filterwarnings("ignore")
def test_a_file_in_the_place_of_a_checkpoint(store: Store, whole: Path):
    store.path(6).write_text("no folder")
    assert store.newest()[0] == whole


@pytest.mark.parametrize("name", [".", FACTS, MANIFEST, "a.safetensors"])
def test_what_may_not_be_read_is_no_damage(
    store: Store, whole: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    add(store, 6)
    closed = store.path(6) / name
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != closed)  # root may read all
    with pytest.raises(UsageError, match="may not be read by this user; change its permissions"):
        store.newest()
    assert store.steps() == [6, 5]


# What is refused unopened


class Mark:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("protocol", [*range(6), "torch"])
def test_a_pickle_in_place_of_tensors(
    whole: Path, tmp_path: Path, protocol: Any, signed: bool, unopened: None
):
    mark, file = tmp_path / "mark", whole / "a.safetensors"
    if protocol == "torch":
        torch.save({"x": Mark(mark)}, file)
    else:
        file.write_bytes(pickle.dumps(Mark(mark), protocol=protocol))
    if signed:
        sign(whole)
    with pytest.raises(UsageError, match=r"a\.safetensors"):
        verify(whole)
    with pytest.raises(UsageError, match=r"is a pickle|is broken|has a header of"):
        read_header(file)
    assert not mark.exists()


def test_a_header_of_a_terabyte(whole: Path, unopened: None):
    file = whole / "a.safetensors"
    file.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(UsageError, match="cut short, or no safetensors file"):
        read_header(file)


def test_a_header_over_the_limit(whole: Path, unopened: None):
    file = whole / "a.safetensors"
    with file.open("wb") as sparse:
        sparse.write((MAX_HEADER + 1).to_bytes(8, "little"))
        sparse.truncate(MAX_HEADER + 100)
    with pytest.raises(UsageError, match=r"header of 16,777,217 bytes, allowed are 16,777,216"):
        read_header(file)


def entry(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | changes}


HEADERS: list[Any] = [
    *(b"", b"{", b"\xff\xfe", b"[]", b"3", b"null", b"[" * 9999, b'{"a": 1' + b"0" * 5000 + b"}"),
    *(
        b'{"x": {}, "x": {}}',
        {"x": 3},
        {"x": []},
        {"x": {}},
        {"__metadata__": []},
        {"__metadata__": {"a": 1}},
    ),
    *(entry(shape=shape) for shape in ([2], [2, -3], [2.0, 3], [True, 6], "23", None, [10**30, 0], [1] * 99)),
    *(entry(data_offsets=place) for place in ([0], [24, 0], [0, 25], [0, 10**12], [-24, 0], [4, 24], "024")),
    *(entry(dtype=dtype) for dtype in ("F64", "X", 3, None, [])),
    entry(more=1),
    entry() | {"y": entry()["x"]},  # one on top of the other
    {},  # and 24 bytes of nothing
]


@pytest.mark.parametrize("header", HEADERS, ids=map(str, range(len(HEADERS))))
def test_a_header_that_is_none(whole: Path, header: Any, unopened: None):
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    (whole / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(24))
    with pytest.raises(UsageError, match=r"a\.safetensors is broken \(in its header\)"):
        read_header(whole / "a.safetensors")


def test_a_header_that_is_one(whole: Path):
    data = json.dumps(entry()).encode()
    (whole / "a.safetensors").write_bytes(len(data).to_bytes(8, "little") + data + bytes(24))
    assert read_header(whole / "a.safetensors") == entry()


# The manifest


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    edit(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


NAMES = [
    "../x",
    "/etc/passwd",
    "a\0b",
    "b/c.json",
    "..",
    "",
    ".hidden.json",
    "x.pkl",
    "é.json",
    MANIFEST,
    "a.json\n",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere(whole: Path, name: str, unopened: None):
    (whole.parent / "x").write_text("not yours")
    change(whole, lambda m: m["files"].update({name: m["files"][FACTS]}))
    with pytest.raises(UsageError, match="not a name of ours; refused") as caught:
        verify(whole)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a.safetensors", FACTS])
@pytest.mark.parametrize("how", ["symlink", "folder", "pipe"])
def test_what_is_no_plain_file(whole: Path, tmp_path: Path, name: str, how: str, unopened: None):
    file = whole / name
    file.rename(tmp_path / "elsewhere")
    if how == "symlink":
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.mkdir() if how == "folder" else os.mkfifo(file)
    with pytest.raises(UsageError, match="is not a plain file"):
        verify(whole)


@pytest.mark.parametrize("how", ["folder", "pipe", "device"])
def test_a_manifest_that_is_no_plain_file(whole: Path, how: str):
    (whole / MANIFEST).unlink()
    if how == "device":
        (whole / MANIFEST).symlink_to("/dev/zero")
    else:
        (whole / MANIFEST).mkdir() if how == "folder" else os.mkfifo(whole / MANIFEST)
    with pytest.raises(UsageError, match=r"can't be read .not a plain file"):
        verify(whole)


@pytest.mark.parametrize("name", ["extra.safetensors", ".metadata", "x\n.pkl", "x" * 200])
def test_a_file_too_many(whole: Path, name: str, unopened: None):
    (whole / name).touch()
    with pytest.raises(UsageError, match="does not belong to the checkpoint") as caught:
        verify(whole)
    assert str(caught.value).isprintable()


def test_a_file_twice_in_the_manifest(whole: Path):
    text = (whole / MANIFEST).read_text()
    (whole / MANIFEST).write_text(text.replace('"files": {', '"files": {"facts.json": {},'))
    with pytest.raises(UsageError, match="a name is there twice"):
        verify(whole)


WRONG: list[Any] = [None, True, -1, 1.5, 10**30, "x", [], {}, [[]], float("nan")]


@pytest.mark.parametrize("value", WRONG, ids=repr)
@pytest.mark.parametrize("place", ["manifest", "format", "files", "entry", "bytes", "sha256"])
def test_wrong_types_in_the_manifest(whole: Path, place: str, value: Any, unopened: None):
    manifest = json.loads((whole / MANIFEST).read_text())
    if place == "manifest":
        manifest = value
    elif place in manifest:
        manifest[place] = value
    elif place == "entry":
        manifest["files"][FACTS] = value
    else:
        manifest["files"][FACTS][place] = value
    (whole / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UsageError):
        verify(whole)


@pytest.mark.parametrize("facts", ["[]", "3", "null", "{", '{"a": 1, "a": 2}', "[" * 9999, "\ufeff{}"])
def test_facts_that_are_none(whole: Path, facts: str):
    (whole / FACTS).write_text(facts, encoding="utf-8")
    sign(whole)
    with pytest.raises(UsageError, match=r"facts\.json is broken"):
        verify(whole)


def test_json_has_a_depth(tmp_path: Path):
    path = tmp_path / "x.json"
    path.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    read_json(path)
    path.write_text("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="deep"):
        read_json(path)


def test_a_whole_one_is_taken(whole: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert verify(whole) == {"step": 5, "score": None}
