"""Whole runs as plain Python functions: the settings of a name."""

from collections.abc import Callable
from pathlib import Path

from compressive_transformer.errors import UsageError
from compressive_transformer.recipes.tiny import tiny
from compressive_transformer.recipes.tiny_paper import tiny_paper
from compressive_transformer.train import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {"tiny": tiny, "tiny-paper": tiny_paper}


def get_recipe(name: str) -> TrainConfig:
    """The settings of a recipe.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in RECIPES:
        hint = (
            f"did you mean --data {name}?"
            if Path(name).exists()
            else f"choose from {', '.join(sorted(RECIPES))}"
        )
        raise UsageError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]()


__all__ = ["RECIPES", "get_recipe", "tiny", "tiny_paper"]
