"""An episode as a GIF, with attention over the tiers of memory beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compressive_transformer.errors import UsageError
from compressive_transformer.rl.actor import Actor
from compressive_transformer.rl.core import CompressiveCore
from compressive_transformer.rl.envs import EXTRA, Environments, NonMatchEnvs
from compressive_transformer.rl.folder import AgentRun
from compressive_transformer.rl.score import evaluation_envs
from compressive_transformer.rl.workers import GymEnvs

Picture = NDArray[np.uint8]
TIERS = ("compressed", "recent", "window")
COLOURS = ((120, 60, 150), (40, 120, 180), (60, 150, 80))
WIDTH, BAR, LINE = 320, 48, 16
"""Pixels: of the panel beside the picture, of the bars of a layer, of a line of text."""
MOST = 1000
"""Steps of an episode that are drawn."""


def draw_episode(
    run: AgentRun, path: str | Path, *, seed: int = 0, greedy: bool = False, milliseconds: int = 80
) -> Path:
    """Plays an episode and writes it down as an animated GIF.

    Args:
        run: of the agent.
        path: where to, ending in .gif.
        seed: of the episode.
        greedy: take the likeliest action instead of drawing one.
        milliseconds: that each step is shown.

    Raises:
        UsageError: pillow is missing, the name ends otherwise, or the file can't be written.
    """
    check_film(path)
    from PIL import Image

    pictures = [Image.fromarray(picture) for picture in _frames(run, seed, greedy)]
    try:
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=True
        )
    except OSError as error:
        raise UsageError(f"{path} can't be written ({error.strerror}); choose another place") from None
    return Path(path)


def check_film(path: str | Path) -> None:
    """Refuses what ``draw_episode`` could not write.

    Raises:
        UsageError: pillow is missing, or the name ends otherwise.
    """
    if Path(path).suffix.lower() != ".gif":
        raise UsageError(f"{path} can't be drawn; use a name that ends in .gif")
    if find_spec("PIL") is None:
        raise UsageError(f"a GIF needs pillow: {EXTRA}")


def _frames(run: AgentRun, seed: int, greedy: bool) -> list[Picture]:
    """A picture of each step, all of one size."""
    envs = evaluation_envs(run, 1, seed, pictures=True)
    try:
        device = next(run.agent.parameters()).device
        actor = Actor(run.agent, envs, torch.Generator(device).manual_seed(seed), greedy)
        total, reward, frames = 0.0, 0.0, []
        for step in range(MOST):
            attention = attention_of(actor)
            frames.append(_frame(_picture(envs), attention, f"step {step}   return {total:g}   {reward:+g}"))
            ended = actor.step()[1]
            reward = float(actor.inputs.reward[0])
            total += reward
            if ended:
                break
        return frames
    finally:
        envs.close()


@torch.no_grad()
def attention_of(actor: Actor) -> list[tuple[NDArray[Any], ...]]:
    """Of each layer, the weight of each slot of the three tiers for what is seen now, mean over heads.

    Empty for cores that attend to nothing.
    """
    agent, core = actor.agent, actor.agent.core
    if not isinstance(core, CompressiveCore):
        return []
    memory, features = core.snapshot(actor.state), agent.features(actor.inputs)
    output = core.model(features[:, None], memory, actor.inputs.resets[:, None], with_attention=True)
    assert output.attention is not None
    found = []
    for weights, layer in zip(output.attention, memory.layers, strict=True):
        C, M, _ = layer.sizes
        found.append(tuple(part.cpu().numpy() for part in weights.tensor_split((C, C + M))))
    return found


def _picture(envs: Environments) -> Picture:
    """Of the first environment."""
    if isinstance(envs, NonMatchEnvs):
        return envs.envs.render()
    assert isinstance(envs, GymEnvs)
    picture = envs.render()
    if not isinstance(picture, np.ndarray):
        raise UsageError(f"{envs.name} draws no pictures; leave out --gif")
    return picture.astype(np.uint8)


def _frame(picture: Picture, attention: list[tuple[NDArray[Any], ...]], caption: str) -> Picture:
    """The picture, a caption, and bars for each layer on its right."""
    from PIL import Image, ImageDraw

    height = max(picture.shape[0] + LINE, len(attention) * (BAR + LINE) + LINE)
    width = picture.shape[1] + (WIDTH if attention else 0)
    image = Image.new("RGB", (max(width, 200), height), "white")
    image.paste(Image.fromarray(picture), (0, LINE))
    draw = ImageDraw.Draw(image)
    draw.text((4, 2), caption, fill="black")
    for layer, tiers in enumerate(attention):
        top = LINE + layer * (BAR + LINE)
        slots = sum(map(len, tiers))
        left, each = picture.shape[1] + 8, (WIDTH - 16) / max(slots, 1)
        for name, colour, weights in zip(TIERS, COLOURS, tiers, strict=True):
            if len(weights):
                draw.text((left, top), f"{name} {weights.sum():.0%}", fill=colour)
            for weight in weights:
                size = BAR * min(float(weight) ** 0.5, 1.0)  # square roots show small weights too
                bottom = top + LINE + BAR - 4
                draw.rectangle((left, bottom - size, left + max(each - 1, 1), bottom), fill=colour)
                left += each
    return np.asarray(image)
