"""``compressive train``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compressive_transformer.allocator import keep_freed_memory
from compressive_transformer.checkpoint import is_agent_run
from compressive_transformer.cli import train_rl
from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.recipes import RECIPES, get_recipe
from compressive_transformer.recipes.paper import Size
from compressive_transformer.report import picture_of
from compressive_transformer.tasks.folder import restarted_run
from compressive_transformer.tasks.resume import saved_config
from compressive_transformer.tasks.summary import describe_result
from compressive_transformer.tasks.text import Resume, train_text
from compressive_transformer.train import TrainConfig

BUDGET = ("minutes", "steps", "tokens")


@dataclass(frozen=True, kw_only=True)
class Arguments(TrainConfig):
    """All settings of a run, and what to do with a run that is there already."""

    resume: str | None = None
    """Run folder to go on with, from its newest checkpoint and with its settings; flags change them."""
    reset_memory: bool = False
    """Resume with an empty memory; then lanes and processes may be others than before."""
    accept_changes: bool = False
    """Resume although text, seed, tokenizer or model are others than before."""
    size: Size | None = None
    """Of a recipe for one of the paper's experiments: paper or small; paper if not given, but for sound."""


def main(arguments: Sequence[str]) -> None:
    """Trains by a recipe, or goes on with a run; flags change its settings."""
    keep_freed_memory()
    name, rest = ("tiny", list(arguments))
    run = _resumed(rest)
    if run == "":
        raise UsageError("--resume stands there without a run folder; name the one to go on with")
    if rest and not rest[0].startswith("-"):
        name, *rest = rest
        if run:
            raise UsageError(
                f"recipe {name!r} and --resume {run}: the run has its settings; leave out the recipe"
            )
    size, rest = _size(rest)
    if name == "rl" or (run and is_agent_run(run)):
        if run and size:
            raise UsageError(f"--size {size} and --resume {run}: the run has its size; leave out --size")
        train_rl.main(rest, size=size, resume=run)
        return
    if run and size:
        raise UsageError(f"--size {size} and --resume {run}: the run has its size; leave out --size")
    default = saved_config(Path(run)) if run else get_recipe(name, size)
    a = _parse(name, rest, default)
    config = TrainConfig(**{field.name: getattr(a, field.name) for field in fields(TrainConfig)})
    if all(getattr(config, budget) is None for budget in BUDGET):
        config = replace(config, **{budget: getattr(default, budget) for budget in BUDGET})
    if run and config.out != default.out:
        raise UsageError(f"--out {config.out} and --resume {run}: a run stays in its folder; leave out --out")
    if not run and (a.reset_memory or a.accept_changes):
        raise UsageError("--reset-memory and --accept-changes are for --resume RUN")
    usual = (*default.data, *default.validation)
    paths = (*config.data, *config.validation)
    missing = [path for path in paths if path in usual and not Path(path).exists()]
    if missing and not run:
        raise UsageError(
            f"recipe {name!r} reads {missing[0]}, which is not there; make it by 'compressive benchmark' "
            "(--help explains), or give --data and --validation"
        )
    resume = None
    if folder := run or restarted_run(config.out):
        resume = Resume(run=Path(folder), reset_memory=a.reset_memory, accept_changes=a.accept_changes)
    if result := train_text(config, name=name, resume=resume):
        print(describe_result(result, picture_of(result.run)))


def _parse(name: str, arguments: Sequence[str], default: TrainConfig) -> Arguments:
    # A budget on the command line takes the place of the default's, whichever of the three it is.
    settings: dict[str, Any] = {field.name: getattr(default, field.name) for field in fields(TrainConfig)}
    settings |= dict.fromkeys(BUDGET)
    summary = (
        "Train a model of text or sound: compressive train [RECIPE] [flags], or train --resume RUN [flags]. "
        f"Recipes: {', '.join(sorted(RECIPES))}, and rl for agents. These are the settings of {name!r}. "
        f"{RECIPES[name].__doc__}"
    )
    a = parse(Arguments, arguments, verb=f"train {name}", default=Arguments(**settings), description=summary)
    if "--data" in arguments and not a.data:
        raise UsageError("--data stands there without a path; name files or folders, or leave it out")
    return a


def _resumed(arguments: Sequence[str]) -> str | None:
    """The run to go on with, which must be known before its settings can be the defaults of the flags."""
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if word == "--resume" and not after.startswith("-"):
            return after
        if word.startswith("--resume="):
            return word.partition("=")[2]
    return None


def _size(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The size of the recipe, which must be known before its settings can be the defaults; and the rest."""
    for i, word in enumerate(arguments):
        if word == "--size" and i + 1 < len(arguments):
            return arguments[i + 1], [*arguments[:i], *arguments[i + 2 :]]
        if word.startswith("--size="):
            return word.partition("=")[2], [*arguments[:i], *arguments[i + 1 :]]
    return None, arguments
