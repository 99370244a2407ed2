"""``compressive info``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.recipes import RECIPES, VOCABULARIES, get_recipe
from compressive_transformer.recipes.paper import Size
from compressive_transformer.tasks.info import describe, facts
from compressive_transformer.train.parallel import Strategy


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Show what a model is: its shape and size, how far it sees, what a token and its state cost."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, or 'reference' (the model that comes with the package), or the name of a recipe."""
    size: Size | None = None
    """Of the recipe; without it the paper's, or small of sound."""
    processes: int | None = None
    """Also show what a training step costs each of so many processes (docs/scaling.md)."""
    parallel: Strategy | None = None
    """For these: ddp or fsdp, if not that of the run."""
    lanes: int | None = None
    """For these: lanes of all of them together, if not those of the run."""
    json: bool = False
    """Answer for programs."""


def main(arguments: Sequence[str]) -> None:
    """Describes a run or a recipe."""
    a = parse(Arguments, arguments, verb="info")
    changes = {k: v for k, v in {"parallel": a.parallel, "lanes": a.lanes}.items() if v is not None}
    if changes and a.processes is None:
        raise UsageError(f"--{' and --'.join(changes)} are for many processes; add --processes N")
    if a.size and a.run not in RECIPES:
        raise UsageError(f"--size {a.size} is for recipes ({', '.join(sorted(RECIPES))}), not for {a.run}")
    recipes = {name: partial(get_recipe, name, a.size) for name in RECIPES}
    found = facts(a.run, recipes, VOCABULARIES, processes=a.processes, changes=changes)
    print(json.dumps(found, indent=2) if a.json else describe(found))
