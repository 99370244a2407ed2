"""How an agent does on episodes that it did not learn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.actor import Actor, Episode
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.envs import NONMATCH, Environments, describe_difference, make_envs
from compressive_transformer.rl.folder import AgentRun

RANDOM, HUMAN = 0.312, 65.9
"""Scores on the level, by which the paper's are normalised."""
MOST = 100_000
"""Steps of each environment without the end of any episode, after which scoring gives up."""
EVALUATION_SEED = 1_000_003
"""Added to the seed, so that episodes are scored that were not learnt from."""


@dataclass(frozen=True, kw_only=True)
class AgentScore:
    """How an agent did over some episodes."""

    env: str
    episodes: int
    mean_return: float
    interval: float | None
    """Half the width of the 95 % confidence interval of the mean; None of one episode."""
    success: float | None
    success_interval: float | None
    mean_length: float
    normalised: float | None = None
    """Of NonMatch with the level's rewards and steps: 0 is a random agent, 1 a human."""


def evaluate_agent(run: AgentRun, *, episodes: int = 100, seed: int = 0, greedy: bool = False) -> AgentScore:
    """Scores new episodes.

    Args:
        run: of the agent.
        episodes: how many; each environment plays as many, so that short ones are not preferred.
        seed: of the episodes and actions.
        greedy: take the likeliest action instead of drawing one.

    Raises:
        UsageError: there are no episodes to score, they don't end, or the environment is another now.
    """
    if episodes < 1:
        raise UsageError(f"episodes {episodes} is not allowed; use 1 or more")
    envs = evaluation_envs(run, min(episodes, 32), seed)
    try:
        found = _episodes(run.agent, envs, episodes, seed, greedy)
    finally:
        envs.close()
    totals = [e.total for e in found]
    tried = [e.success for e in found if math.isfinite(e.success)]
    mean, interval = _interval(totals)
    success, success_interval = _interval(tried) if tried else (None, None)
    return AgentScore(
        env=run.config.env,
        episodes=len(found),
        mean_return=mean,
        interval=interval,
        success=success,
        success_interval=success_interval,
        mean_length=float(np.mean([e.length for e in found])),
        normalised=(mean - RANDOM) / (HUMAN - RANDOM) if _is_the_level(envs) else None,
    )


def evaluation_envs(run: AgentRun, num_envs: int, seed: int, *, pictures: bool = False) -> Environments:
    """New episodes, without a curriculum: at its whole delay.

    Args:
        run: of the agent.
        num_envs: how many side by side.
        seed: of the episodes.
        pictures: have gymnasium's environments draw themselves.

    Raises:
        UsageError: the environment is not what it was.
    """
    c = run.config
    options = [option for option in c.env_options if not option.startswith("curriculum=")]
    if pictures and c.env != NONMATCH:
        options.append("render_mode=rgb_array")
    workers = 0 if pictures else min(c.workers, num_envs)
    envs = make_envs(c.env, options, num_envs=num_envs, workers=workers, seed=EVALUATION_SEED + seed)
    if difference := describe_difference(run.agent.spaces, envs.spaces):
        envs.close()
        raise UsageError(f"{run.path} is of another environment: {difference}; use the one of then")
    return envs


def _is_the_level(envs: Environments) -> bool:
    """Whether scores compare with those of people: the rewards and steps are the level's."""
    task = getattr(envs, "envs", None)
    return (
        getattr(envs, "name", NONMATCH) == NONMATCH
        and getattr(task, "length", 0) == 180
        and list(getattr(task, "rewards", ())) == [1, 10, -10]
    )


def _episodes(agent: Agent, envs: Environments, count: int, seed: int, greedy: bool) -> list[Episode]:
    device = next(agent.parameters()).device
    agent.eval()
    actor = Actor(agent, envs, torch.Generator(device).manual_seed(seed), greedy)
    each = [count // envs.num_envs + (row < count % envs.num_envs) for row in range(envs.num_envs)]
    found: list[list[Episode]] = [[] for _ in each]
    waited = 0
    while any(len(of_row) < wanted for of_row, wanted in zip(found, each, strict=True)):
        waited += 1
        for episode in actor.step()[1]:
            if len(found[episode.row]) < each[episode.row]:
                found[episode.row].append(episode)
                waited = 0
        if waited >= MOST:
            raise UsageError(
                f"an episode did not end in {MOST:,} steps; give the environment a limit of time, such as "
                "--env-options max_episode_steps=1000"
            )
    return [episode for of_row in found for episode in of_row]


def _interval(values: list[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval (normal approximation)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    return mean, float(1.96 * np.std(values, ddof=1) / math.sqrt(len(values)))


def describe_score(score: AgentScore) -> str:
    """What a score says, in some lines."""
    interval = "" if score.interval is None else f" ± {score.interval:.2f}"
    lines = [
        f"{score.env}: return {score.mean_return:.2f}{interval} over {score.episodes} episodes "
        f"of {score.mean_length:.0f} steps (95 % confidence)"
    ]
    if score.success is not None:
        interval = "" if score.success_interval is None else f" ± {score.success_interval:.1%}"
        lines.append(f"success {score.success:.1%}{interval}")
    if score.normalised is not None:
        lines.append(f"human-normalised {score.normalised:.1%} (0 % is a random agent, 100 % a human)")
    return "\n".join(lines)
