"""Broken files are told in one line: every case that ever was not, and some that nobody has seen."""

import itertools
import sys
from pathlib import Path

import pytest

from fuzz import Real, fresh, make, run_cases

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="limits of memory and fork are those of Linux"
)

KEPT: dict[str, tuple[int, ...]] = {
    "cli_run": (85566394, 443234884, 835284099),
    "from_plain": (651243197, 918558912),
    "lanes": (792878159, 902613186),
    "load_checkpoint": (
        345397099,
        376283007,
        399854044,
        476894097,
        660093418,
        772485789,
        787082911,
        843329664,
        921169916,
        943515540,
    ),
    "load_run": (571486987, 956286704),
    "load_tensors": (
        24880065,
        39970919,
        69645980,
        80727746,
        126886739,
        159354502,
        255925790,
        279445760,
        346119246,
        391165987,
        446561497,
        611180221,
        639450656,
        643077375,
        653133459,
        679318849,
        703013335,
        726636910,
        830852965,
        895235935,
        902439933,
    ),
    "memory": (459386403, 965261386),
    "open_dataset": (427249702, 455215547, 687129087, 970969071),
    "read_metrics": (996241054,),
    "restore": (
        11329342,
        66153488,
        268486325,
        425264298,
        434002350,
        513336199,
        648292398,
        650528509,
        771458726,
        860493774,
        892561716,
        921102930,
        954879051,
        975538009,
    ),
    "saved_config": (89452948, 806711023),
    "streamed": (683905828,),
    "verify_dataset": (956731343,),
}
"""Cases that failed once, by their loaders."""
SEEDS = (11, 12)
FAST = ("load_run", "store", "memory", "from_plain", "saved_config", "read_metrics", "open_dataset")
FAST += ("verify_dataset", "lanes", "streamed", "load_checkpoint", "load_tensors", "restore")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, cache: None) -> Real:
    return make(tmp_path_factory.mktemp("real") / "real")


def test_kept_cases(real: Real):
    assert run_cases(real, [(name, number) for name, numbers in KEPT.items() for number in numbers]) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_fresh_cases(real: Real, seed: int):
    assert run_cases(real, itertools.islice(fresh(seed, FAST), 117)) == []


def test_the_command_line(real: Real):
    assert run_cases(real, itertools.islice(fresh(13, ("cli", "cli_run")), 8)) == []


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
        "takes": lambda *_: bytearray(fuzz.in_use() + 2 * fuzz.BYTES),  # more than is free in any heap
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
