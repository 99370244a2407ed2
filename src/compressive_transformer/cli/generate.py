"""``compressive generate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import tyro

from compressive_transformer.checkpoint import REFERENCE, load_run
from compressive_transformer.cli.parse import parse
from compressive_transformer.data.audio import SampleTokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.generate import check_sampling
from compressive_transformer.precision import Device, pick_device
from compressive_transformer.tasks.sound import record
from compressive_transformer.tasks.write import Sampling, stream_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Write text with a trained model, or make sound, at the same cost per token however long it gets."""

    run: Annotated[str, tyro.conf.Positional] = REFERENCE
    """Run folder, or the model that comes with the package."""
    prompt: str = ""
    """Text to go on from; '-' reads it from standard input, of any length. For sound: a recording."""
    length: int | None = None
    """Tokens to make; 0 goes on until Ctrl-C. If not given, 1000, or a second of sound."""
    seconds: float | None = None
    """Seconds of sound to make, instead of --length."""
    out: str | None = None
    """Recording to write, .wav, .flac, .ogg or .mp3, with a picture beside it; generated.wav if not given."""
    temperature: float | None = None
    """Below 1 plays safe, 0 takes the likeliest token; 0.8 if not given, and 1 for sound."""
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
    usual = Sampling(temperature=0.8, top_k=a.top_k, top_p=a.top_p, seed=a.seed)
    sampling = usual if a.temperature is None else replace(usual, temperature=a.temperature)
    check_sampling(length=a.length, **asdict(sampling))
    run = load_run(a.run, pick_device(a.device))
    if isinstance(run.tokenizer, SampleTokenizer):
        if a.temperature is None:
            sampling = replace(usual, temperature=1.0)
        if a.length is not None and a.seconds is not None:
            raise UsageError("--length and --seconds both say how long; give one of them")
        out = a.out or "generated.wav"
        made = record(run, prompt=a.prompt, out=out, seconds=a.seconds, length=a.length, sampling=sampling)
        told = f"{out}: {made['seconds']:.2f} s at {made['rate']:,} samples a second"
        picture = f"; picture: {made['picture']}" if made["picture"] else ""
        print(json.dumps(made, indent=2) if a.json else told + picture)
        return
    for name in ("seconds", "out"):
        if getattr(a, name) is not None:
            raise UsageError(f"--{name} is for models of sound, and {a.run} writes text; leave it out")
    length = 1000 if a.length is None else a.length
    stream_text(run, prompt=a.prompt, length=length, sampling=sampling, as_json=a.json)
