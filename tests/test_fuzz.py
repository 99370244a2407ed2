"""Broken files are told in one line: every case that ever was not, and some that nobody has seen."""

import itertools
import sys
from pathlib import Path

import pytest

from fuzz import Real, fresh, make, run_cases

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of memory and fork are those of Linux"
)

KEPT = [
    ("lanes", 902613186),  # a control character in the complaint
    ("load_checkpoint", 843329664),  # numbers that no tensor has, in a header that is signed
    ("load_tensors", 69645980),
    ("load_tensors", 80727746),
    ("load_tensors", 159354502),
    ("restore", 771458726),
]
SEEDS = (11, 12)
FAST = ("load_run", "store", "memory", "from_plain", "saved_config", "read_metrics", "open_dataset")
FAST += ("verify_dataset", "lanes", "streamed", "load_checkpoint", "load_tensors", "restore")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Real:
    return make(tmp_path_factory.mktemp("real") / "real")


def test_kept_cases(real: Real):
    assert run_cases(real, KEPT) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_fresh_cases(real: Real, seed: int):
    assert run_cases(real, itertools.islice(fresh(seed, FAST), 117)) == []


def test_the_command_line(real: Real):
    assert run_cases(real, itertools.islice(fresh(13, ("cli", "cli_run")), 16)) == []


def test_findings_are_found(real: Real, monkeypatch: pytest.MonkeyPatch):
    """The tests above can fail: by an exception, a hang, memory, a mark of a pickle, a file outside."""
    import fuzz

    def outside(real: Real, here: Path, r: object) -> None:
        (here.parent / "outside").touch()

    def unpickles(real: Real, here: Path, r: object) -> None:
        (here / fuzz.PWNED).touch()

    def hangs(real: Real, here: Path, r: object) -> None:
        while True:
            pass

    bad = {
        "raises": lambda *_: {}["x"],
        "hangs": hangs,
        "takes": lambda *_: bytearray(2 << 30),
        "unpickles": unpickles,
        "outside": outside,
    }
    monkeypatch.setattr(fuzz, "LOADERS", bad)
    monkeypatch.setattr(fuzz, "SECONDS", 0.5)
    found = run_cases(real, [(name, 0) for name in bad])
    assert [(name, problem.split(":")[0]) for name, _, problem in found] == [
        ("raises", "KeyError"),
        ("hangs", "hangs"),
        ("takes", "MemoryError"),
        ("unpickles", "unpickled"),
        ("outside", "written outside"),
    ]
