"""``compressive train rl``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from compressive_transformer.cli.parse import parse
from compressive_transformer.errors import UsageError
from compressive_transformer.recipes.rl import rl
from compressive_transformer.report import picture_of
from compressive_transformer.rl.config import AgentConfig
from compressive_transformer.rl.folder import check_resumed, saved_agent_config
from compressive_transformer.rl.run import train_agent
from compressive_transformer.rl.score import describe_score
from compressive_transformer.tasks.folder import restarted_run

BUDGET = ("minutes", "steps")


@dataclass(frozen=True, kw_only=True)
class Arguments(AgentConfig):
    """All settings of an agent's run, and the run to go on with."""

    resume: str | None = None
    """Run folder to go on with, from its newest checkpoint and with its settings; flags change some."""


def main(arguments: Sequence[str], *, size: str | None = None, resume: str | None = None) -> None:
    """Trains an agent, or goes on with one; flags change its settings.

    Args:
        arguments: the flags.
        size: of the recipe.
        resume: the run folder, which is among the flags too.
    """
    if size not in (None, "small", "paper"):
        raise UsageError(f"size {size!r} is unknown; use one of paper, small")
    spaces = None
    if resume:
        default, spaces = saved_agent_config(resume)
    else:
        default = rl("paper" if size == "paper" else "small")
    settings: dict[str, Any] = {field.name: getattr(default, field.name) for field in fields(AgentConfig)}
    settings |= dict.fromkeys(BUDGET)
    a = parse(
        Arguments,
        arguments,
        verb="train rl",
        default=Arguments(**settings),
        description=f"Train an agent: compressive train rl [flags], or train --resume RUN. {rl.__doc__}",
    )
    config = AgentConfig(**{field.name: getattr(a, field.name) for field in fields(AgentConfig)})
    given = any(word.replace("_", "-").startswith("--env-options") for word in arguments)
    if config.env != default.env and not given:
        config = replace(config, env_options=())  # the recipe's are those of its own environment
    if all(getattr(config, budget) is None for budget in BUDGET):
        config = replace(config, **{budget: getattr(default, budget) for budget in BUDGET})
    if resume and config.out != default.out:
        raise UsageError(
            f"--out {config.out} and --resume {resume}: a run stays in its folder; leave out --out"
        )
    if spaces:
        check_resumed(default, spaces, config)
    run, score = train_agent(config, resume=Path(resume) if resume else restarted_run(config.out))
    if score is None:
        return
    print(describe_score(score))
    print(f"Run folder: {run}")
    print(f"Picture:    {picture_of(run)}")
    print(f"See it play: compressive evaluate {run} --gif episode.gif")
