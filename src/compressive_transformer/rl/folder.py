"""The run folder of an agent: its ``config.json`` and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from compressive_transformer.checkpoint import AGENT, CONFIG, WEIGHTS
from compressive_transformer.errors import UsageError
from compressive_transformer.rl.agent import Agent
from compressive_transformer.rl.config import AgentConfig
from compressive_transformer.rl.envs import Spaces, describe_difference, make_envs
from compressive_transformer.settings import from_plain
from compressive_transformer.storage import read_json

FORMAT = 1
MAY_CHANGE = ("out", "minutes", "steps", "sinks", "save", "device", "workers", "learn")
"""Settings that may be others when a run is resumed; the rest is what it is."""


@dataclass(frozen=True, kw_only=True)
class AgentRun:
    """A trained agent and what belongs to it."""

    path: Path
    agent: Agent
    config: AgentConfig


def make_agent(config: AgentConfig, spaces: Spaces) -> Agent:
    """With new weights."""
    return Agent(spaces, config.core, config.core_config(), reward_scale=config.learn.reward_scale)


def config_content(config: AgentConfig, spaces: Spaces) -> dict[str, Any]:
    """What ``config.json`` of an agent's run says."""
    return {"format": FORMAT, "kind": AGENT, "spaces": asdict(spaces), "training": asdict(config)}


def saved_agent_config(path: str | Path) -> tuple[AgentConfig, Spaces]:
    """The settings of a run, and the spaces of its environment.

    Raises:
        UsageError: it is not the run folder of an agent, or broken.
    """
    where = f"{path}/{CONFIG}"
    try:
        content = read_json(Path(path) / CONFIG)
    except (OSError, ValueError) as error:
        raise UsageError(f"{where} can't be read ({error}); give a run folder of an agent") from None
    if not isinstance(content, Mapping) or content.get("kind") != AGENT:
        raise UsageError(f"{path} is no run of an agent; give a folder that 'compressive train rl' made")
    if content.get("format") != FORMAT:
        raise UsageError(f"{path} has format {content.get('format')}, this version reads {FORMAT}")
    training, spaces = content.get("training"), content.get("spaces")
    if not isinstance(training, Mapping) or not isinstance(spaces, Mapping):
        raise UsageError(f"{where} lacks training or spaces; restore it")
    return from_plain(AgentConfig, training, where), from_plain(Spaces, spaces, where)


def check_resumed(saved: AgentConfig, spaces: Spaces, config: AgentConfig) -> None:
    """Refuses settings that would make it another run.

    Args:
        saved, spaces: of the run.
        config: that it is to go on with.

    Raises:
        UsageError: environment, core, or another setting that may not change is not that of the run.
    """
    before, now = asdict(saved), asdict(config)
    changed = [name for name in before if name not in MAY_CHANGE and before[name] != now[name]]
    for values in (before, now):  # weights and values are on its scale
        values["learn.reward_scale"] = values["learn"]["reward_scale"]
    if before["learn.reward_scale"] != now["learn.reward_scale"]:
        changed.append("learn.reward_scale")
    if changed:
        name = changed[0]
        raise UsageError(
            f"the run is another: {name} {before[name]} -> {now[name]}; resume with what it was trained "
            "with, or train anew"
        )
    envs = make_envs(config.env, config.env_options)
    envs.close()
    if difference := describe_difference(spaces, envs.spaces):
        raise UsageError(f"the checkpoint is of another environment: {difference}; use the one of then")


def load_agent(path: str | Path, device: torch.device | str = "cpu") -> AgentRun:
    """Reads a run folder of an agent, which is then in evaluation mode.

    Raises:
        UsageError: it is not such a folder, or a file of it is missing, broken or of another agent.
    """
    config, spaces = saved_agent_config(path)
    weights, agent = Path(path) / WEIGHTS, make_agent(config, spaces)
    if not weights.exists():
        raise UsageError(f"{weights} is missing; the run was stopped before its first save, train again")
    try:
        agent.load_state_dict(load_file(weights))
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{weights} is broken ({error}); restore it or train again") from None
    except RuntimeError:
        raise UsageError(
            f"{weights} is not of the agent in {CONFIG}; restore the two files of one run"
        ) from None
    return AgentRun(path=Path(path), agent=agent.to(device).eval(), config=config)
