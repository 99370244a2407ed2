"""`import compressive_transformer` is light: what only the command line or the figures need stays out."""

import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
HEAVY = {"matplotlib", "rich", "tensorboard", "trackio", "tyro", "wandb"}


def test_import_is_light():
    code = f"import sys, compressive_transformer; print({HEAVY} & set(sys.modules) or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCE, capture_output=True, text=True)
    assert done.stdout.strip() == "light", done.stdout or done.stderr
