"""Models of this library and of others, behind one interface; see ``base.py``."""

from __future__ import annotations

import importlib
from importlib.util import find_spec

from peers.base import SIZES, Arm, Size

ARMS = {
    "ours": "ours:Ours",
    "ours-compiled": "ours:OursCompiled",
    "ours-adamw": "ours:OursAdamW",
    "ours-xl": "ours:OursTransformerXL",
    "ours-window": "ours:OursWindow",
    "ours-no-memory": "ours:OursNoMemory",
    "ours-mean-pooled": "ours:OursMeanPooled",
    "lucidrains": "lucidrains:Lucidrains",
    "labml": "labml_compressive:Labml",
    "x-transformers": "x_transformers_xl:XTransformers",
    "titans": "titans:Titans",
    "rmt": "rmt:RecurrentMemory",
    "mamba": "mamba:Mamba",
    "lstm": "recurrent:LSTM",
}
"""Where each arm is made."""
IMPORTS = {
    "lucidrains": "compressive_transformer_pytorch",
    "labml": "labml_nn",
    "x-transformers": "x_transformers",
    "titans": "titans_pytorch",
    "rmt": "recurrent_memory_transformer_pytorch",
    "mamba": "mambapy",
}
"""The module that an arm cannot do without."""
PACKAGES = {
    "lucidrains": "compressive-transformer-pytorch",
    "labml": "labml-nn",
    "x-transformers": "x-transformers",
    "titans": "titans-pytorch",
    "rmt": "recurrent-memory-transformer-pytorch",
    "mamba": "mambapy",
}
"""What pip calls it."""


def build_arm(name: str, size: Size) -> Arm:
    """The arm of that name; imports its library."""
    module, kind = ARMS[name].split(":")
    return getattr(importlib.import_module(f"peers.{module}"), kind)(size)


def present(names: list[str]) -> list[str]:
    """Those whose library is installed; says of the others how to come by it."""
    found = [name for name in names if name not in IMPORTS or find_spec(IMPORTS[name])]
    if missing := [name for name in names if name not in found]:
        how = "pip install --no-deps -r benchmarks/peers/environment.txt"
        print(f"skipped, for their libraries are not installed ({how}): {', '.join(missing)}")
    return found


__all__ = ["ARMS", "PACKAGES", "SIZES", "Arm", "Size", "build_arm", "present"]
