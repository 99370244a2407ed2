"""The examples of docs/rl.md run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "rl.md").read_text(encoding="utf-8")
LOOP, TORCHRL = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


def test_a_loop_of_ones_own_runs():
    exec(compile(LOOP, "docs/rl.md", "exec"), {})


def test_torchrl_runs(tmp_path: Path):
    """In a process of its own, for its warnings are not ours."""
    pytest.importorskip("torchrl", exc_type=ImportError)
    script = tmp_path / "example.py"
    script.write_text(TORCHRL)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
