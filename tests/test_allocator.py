"""Memory that tensors gave back is used again, not fetched from the system anew."""

import importlib
import platform
import subprocess
import sys

import pytest

LARGE = 2**24
"""Floats of a tensor: far more than glibc keeps by itself."""
SCRIPT = f"""
import resource, sys, torch
from compressive_transformer.allocator import keep_freed_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        x = torch.ones({LARGE})
        y = x * 2
        (x + y).relu()
        del x, y
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    keep_freed_memory()
pages()  # blocks of the heap find their places
print(pages())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_large_tensors_do_not_come_from_the_system_again() -> None:
    # In processes of their own: one that trained before keeps its memory already.
    returned, kept = (
        int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, check=True).stdout)
        for how in ("returned", "kept")
    )
    assert kept < returned / 3


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_commands_with_large_tensors_keep_theirs(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command, calls = importlib.import_module(f"compressive_transformer.cli.{verb}"), []
    monkeypatch.setattr(command, "keep_freed_memory", lambda: calls.append(verb))
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert calls == [verb]
