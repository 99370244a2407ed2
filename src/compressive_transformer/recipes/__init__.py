"""Whole runs as plain Python functions: the settings of a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from compressive_transformer.errors import UsageError
from compressive_transformer.recipes.paper import Size, enwik8, pg19, wikitext103
from compressive_transformer.recipes.rl import rl
from compressive_transformer.recipes.speech import speech, wavenet
from compressive_transformer.recipes.tiny import tiny
from compressive_transformer.recipes.tiny_paper import tiny_paper
from compressive_transformer.train import TrainConfig

RECIPES: dict[str, Callable[..., TrainConfig]] = {
    "tiny": tiny,
    "tiny-paper": tiny_paper,
    "enwik8": enwik8,
    "wikitext103": wikitext103,
    "pg19": pg19,
    "speech": speech,
    "wavenet": wavenet,
}
VOCABULARIES = {"wikitext103": 267_736, "pg19": 32_000}
"""Tokens of data sets whose tokenizer has to be made first, the document token among them."""


def get_recipe(name: str, size: str | None = None) -> TrainConfig:
    """The settings of a recipe.

    Args:
        name: of the recipe.
        size: ``paper`` or ``small``, of those that have sizes; None is the paper's, or small of sound.

    Raises:
        UsageError: there is none of that name or size.
    """
    if name not in RECIPES:
        hint = (
            f"did you mean --data {name}?"
            if Path(name).exists()
            else f"choose from {', '.join(sorted(RECIPES))}"
        )
        raise UsageError(f"unknown recipe {name!r}; {hint}")
    if size is None:
        return RECIPES[name]()
    if not inspect.signature(RECIPES[name]).parameters:
        raise UsageError(f"recipe {name!r} has one size; leave out --size {size}")
    if size not in get_args(Size):
        raise UsageError(f"size {size!r} is unknown; use one of {', '.join(get_args(Size))}")
    return RECIPES[name](size)


__all__ = [
    "RECIPES",
    "VOCABULARIES",
    "enwik8",
    "get_recipe",
    "pg19",
    "rl",
    "speech",
    "tiny",
    "tiny_paper",
    "wavenet",
    "wikitext103",
]
