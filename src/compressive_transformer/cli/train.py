"""``compressive train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.recipes import RECIPES, get_recipe
from compressive_transformer.report import picture_of
from compressive_transformer.tasks.summary import describe_result
from compressive_transformer.tasks.text import train_text
from compressive_transformer.train import TrainConfig

BUDGET = ("minutes", "steps", "tokens")


def main(arguments: Sequence[str]) -> None:
    """Trains by a recipe whose settings the flags change."""
    name, rest = ("tiny", arguments)
    if arguments and not arguments[0].startswith("-"):
        name, *rest = arguments
    recipe = get_recipe(name)
    # A budget on the command line takes the place of the recipe's, whichever of the three it is.
    blank = replace(recipe, **dict.fromkeys(BUDGET))
    summary = (
        f"Train a language model. Recipe {name!r} of {', '.join(sorted(RECIPES))}: {RECIPES[name].__doc__}"
    )
    config = parse(TrainConfig, rest, verb=f"train {name}", default=blank, description=summary)
    if "--data" in rest and not config.data:
        raise UsageError("--data stands there without a path; name files or folders, or leave it out")
    if all(getattr(config, budget) is None for budget in BUDGET):
        config = replace(config, **{budget: getattr(recipe, budget) for budget in BUDGET})
    result = train_text(config, name=name)
    print(describe_result(result, picture_of(result.run)))
