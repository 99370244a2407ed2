"""``compressive generate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.cli.parse import parse
from compressive_transformer.precision import Device
from compressive_transformer.tasks.write import stream_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write text with a trained model, at the same cost per token however long it gets."""

    run: Annotated[str, tyro.conf.Positional]
    """Run folder."""
    prompt: str = ""
    """Text to go on from; '-' reads it from standard input, of any length."""
    length: int = 1000
    """Tokens to make; 0 goes on until Ctrl-C."""
    temperature: float = 0.8
    """Below 1 plays safe, 0 takes the likeliest token."""
    top_k: int | None = None
    """Choose among the k likeliest tokens only."""
    top_p: float = 1.0
    """Choose among the fewest tokens that hold this probability."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    seed: int = 0
    """Equal seeds give equal text."""
    json: bool = False
    """Answer for programs, when all is made."""


def main(arguments: Sequence[str]) -> None:
    """Writes text to standard output as it is made."""
    a = parse(Arguments, arguments, verb="generate")
    stream_text(
        a.run,
        prompt=a.prompt,
        length=a.length,
        temperature=a.temperature,
        top_k=a.top_k,
        top_p=a.top_p,
        seed=a.seed,
        device=a.device,
        as_json=a.json,
    )
