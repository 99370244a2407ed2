"""The source is a house: imports only go down, and optional packages stay in their rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "compressive_transformer"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

# Neighbours on one floor do not know each other. Errors are the ground that every floor stands on.
HOUSE = {
    -2: {"errors"},
    -1: {"settings", "storage"},
    0: {"memory", "ops", "losses", "precision", "allocator"},
    1: {"nn", "data"},
    2: {"model"},
    3: {"generate", "evaluate", "checkpoint", "interop", "formulas", "codec", "analysis"},
    4: {"train"},
    5: {"tasks", "hf", "report"},
    6: {"rl"},
    7: {"recipes"},
    8: {"cli"},
    9: {"__main__", "__init__"},
}
FLOOR = {unit: floor for floor, units in HOUSE.items() for unit in units}
STRANGERS = {("model", "data")}  # (importer, imported): lower, and yet closed

OPTIONAL = {
    "PIL": {"rl"},
    "datasets": {"data"},
    "gymnasium": {"rl"},
    "matplotlib": {"report", "tasks"},
    "miniworld": {"rl"},
    "pyglet": {"rl"},
    "soundfile": {"data"},
    "soxr": {"data"},
    "tensorboard": {"train"},
    "tokenizers": {"data"},
    "trackio": {"train"},
    "transformers": {"hf"},
    "triton": {"ops"},
    "wandb": {"train"},
}


def imports(path: Path, root: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name of each import, also under TYPE_CHECKING and inside functions."""
    here = [root.name, *path.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)


def fault(unit: str, name: list[str]) -> str | None:
    """Why the unit may not import the name, or None if it may."""
    if name[0] != PACKAGE:
        rooms = OPTIONAL.get(name[0], {unit})
        return None if unit in rooms else f"{name[0]} belongs to {', '.join(sorted(rooms))}"
    target = name[1] if len(name) > 1 else "__init__"
    if unit in (target, "__init__") or target == "__version__":
        return None
    if target not in FLOOR:
        return f"place {target} on a floor, or import from the module that owns it"
    if FLOOR[target] >= FLOOR[unit] or (unit, target) in STRANGERS:
        return f"{unit} (floor {FLOOR[unit]}) may not import {target} (floor {FLOOR[target]})"
    return None


def faults(root: Path) -> list[str]:
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        unit = place.parts[0].removesuffix(".py")
        if unit not in FLOOR:
            found.append(f"{place}: place {unit} on a floor of the table in tests/test_floors.py")
            continue
        checked = ((line, fault(unit, name)) for line, name in imports(path, root))
        found += [f"{place}:{line}: {why}" for line, why in checked if why]
    return list(dict.fromkeys(found))  # one line may import several names


def test_imports_only_go_down():
    assert not (found := faults(SOURCE)), "\n".join(found)


@pytest.mark.parametrize(
    ("place", "code", "why"),
    [
        ("memory.py", f"from {PACKAGE}.ops import attend", "memory (floor 0) may not import ops (floor 0)"),
        ("ops/fast.py", "from ..memory import Memory", "ops (floor 0) may not import memory (floor 0)"),
        ("nn/block.py", f"import {PACKAGE}.model", "nn (floor 1) may not import model (floor 2)"),
        ("losses.py", "from . import memory", "losses (floor 0) may not import memory (floor 0)"),
        ("model.py", "from .data.lanes import Lanes", "model (floor 2) may not import data (floor 1)"),
        ("data/lanes.py", "def f():\n    from ..model import Model", "data (floor 1) may not import model"),
        ("model.py", "if TYPE_CHECKING:\n    from .train import loop", "model.py:2: model (floor 2) may not"),
        ("errors.py", "from . import memory", "errors (floor -2) may not import memory (floor 0)"),
        ("train/loop.py", f"from {PACKAGE} import Model", "import from the module that owns it"),
        ("cli/train.py", f"import {PACKAGE}", "cli (floor 8) may not import __init__ (floor 9)"),
        ("attic/junk.py", "", "place attic on a floor"),
        ("train/loop.py", "import matplotlib.pyplot as plt", "matplotlib belongs to report"),
        ("nn/attention.py", "from triton import language", "triton belongs to ops"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, place: str, code: str, why: str):
    path = tmp_path / PACKAGE / place
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert len(found := faults(tmp_path / PACKAGE)) == 1
    assert why in found[0]


def test_right_imports_pass(tmp_path: Path):
    house = {
        "__init__.py": "from .model import Model\nfrom .cli import main",
        "memory.py": "import torch\nfrom .errors import ConfigError",
        "nn/block.py": "from .attention import Heads\nfrom ..ops import attend\nfrom .. import memory",
        "report/figures.py": "import matplotlib.pyplot as plt",
        "cli/main.py": f"from {PACKAGE} import __version__, recipes, evaluate",
    }
    for place, code in house.items():
        path = tmp_path / PACKAGE / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    assert faults(tmp_path / PACKAGE) == []
