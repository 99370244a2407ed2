"""Memory that tensors gave back is used again, not fetched from the system anew."""

import importlib
import platform
import resource

import pytest
import torch

from compressive_transformer.allocator import keep_freed_memory

SIZE, ROUNDS = 2**24, 8
"""Of tensors, in floats: far more than glibc keeps by itself."""


def faults() -> int:
    """Pages that the system had to give this process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(ROUNDS):
        x = torch.ones(SIZE)
        y = x * 2
        (x + y).relu()
        del x, y
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_do_not_come_from_the_system_again() -> None:
    keep_freed_memory()
    faults()  # blocks of the heap find their places
    pages = ROUNDS * 4 * SIZE * 4 // resource.getpagesize()
    assert faults() < pages / 3


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_commands_with_large_tensors_keep_theirs(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, calls = importlib.import_module(f"compressive_transformer.cli.{verb}"), []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(verb))
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert calls == [verb]
