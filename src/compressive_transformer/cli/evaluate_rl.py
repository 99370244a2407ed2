"""``compressive evaluate`` of an agent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.precision import Device, pick_device
from compressive_transformer.rl.film import check_film, draw_episode
from compressive_transformer.rl.folder import load_agent
from compressive_transformer.rl.score import describe_score, evaluate_agent


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score an agent on new episodes."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    episodes: int = 100
    """How many."""
    seed: int = 0
    """Of the episodes and of the actions."""
    greedy: bool = False
    """Take the likeliest action instead of drawing one."""
    device: Device = "auto"
    """Where to act; auto takes a GPU if there is one."""
    gif: str | None = None
    """Also draw an episode, with attention over the tiers of memory beside it (extra: rl)."""
    json: bool = False
    """Answer for programs."""


def main(arguments: Sequence[str]) -> None:
    """Scores an agent, and draws it at play."""
    a = parse(Arguments, arguments, verb="evaluate")
    run = load_agent(a.run, pick_device(a.device))
    if a.gif:
        check_film(a.gif)
    score = evaluate_agent(run, episodes=a.episodes, seed=a.seed, greedy=a.greedy)
    print(json.dumps(asdict(score), indent=2) if a.json else describe_score(score), flush=True)
    if a.gif:
        draw_episode(run, a.gif, seed=a.seed, greedy=a.greedy)
