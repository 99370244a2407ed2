"""``compressive info``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.recipes import RECIPES
from compressive_transformer.tasks.info import describe, facts


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show what a model is: its shape and size, how far it sees, what a token and its state cost."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, or the name of a recipe."""
    json: bool = False
    """Answer for programs."""


def main(arguments: Sequence[str]) -> None:
    """Describes a run or a recipe."""
    a = parse(Arguments, arguments, verb="info")
    found = facts(a.run, RECIPES)
    print(json.dumps(found, indent=2) if a.json else describe(found))
