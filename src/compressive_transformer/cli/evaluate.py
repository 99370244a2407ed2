"""``compressive evaluate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from compressive_transformer.allocator import keep_freed_memory
from compressive_transformer.checkpoint import is_agent_run
from compressive_transformer.cli import evaluate_rl
from compressive_transformer.cli.parse import parse
from compressive_transformer.precision import Device, Precision
from compressive_transformer.tasks.score import (
    describe_scores,
    describe_sweep,
    score_files,
    scores_as_json,
)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score text with a trained model: bits per byte and perplexity, for each document and in all. Or sound:
    bits per sample.

    Each document is read from beginning to end with the model's memory carried through it.
    """

    run: Annotated[str, tyro.conf.Positional]
    """Run folder, or 'reference': the model that comes with the package."""
    paths: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Text: files, folders, patterns, .gz, .xz, .bz2, or - for standard input; recordings for sound."""
    memory: tuple[int, ...] = ()
    """Recent slots per layer, if other than in training."""
    compressed_memory: tuple[int, ...] = ()
    """Compressed slots per layer, if other than in training; more helped the paper's models. Of several
    sizes each is tried with each: choose by validation text, and score with the best."""
    carry: bool = False
    """Carry memory on from one document to the next, in order."""
    separator: str | None = None
    """Divides files into documents."""
    join_folders: bool = False
    """Files of one folder are one document, as in a run that was trained so."""
    rows: int = 8
    """Documents read side by side; changes the speed only."""
    device: Device = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    precision: Precision = "auto"
    """bfloat16 for matrix products where the processor is fast at it."""
    dynamic: float | None = None
    """Dynamic evaluation: learn from each segment once it is scored, by Adam at this rate, e.g. 1e-4."""
    by_position: bool = False
    """Also tell the loss by the place in the document: does it fall beyond the reach of a window?"""
    frequencies: str | None = None
    """Also tell the loss by how frequent a word is: FILE.json of 'tokenizer train --kind words' made from
    the training text."""
    groups: str | None = None
    """Also tell the scores of documents together, by a regular expression with brackets around what their
    names share: '_([a-z]+)_' for the speaker in 3_jackson_17.wav."""
    json: bool = False
    """Answer for programs."""


def main(arguments: Sequence[str]) -> None:
    """Scores files with a run, or an agent in its environment."""
    keep_freed_memory()
    if any(is_agent_run(word) for word in arguments if not word.startswith("-")):
        evaluate_rl.main(arguments)
        return
    a = parse(Arguments, arguments, verb="evaluate")
    scored = score_files(
        a.run,
        a.paths,
        memory=a.memory or (None,),
        compressed_memory=a.compressed_memory or (None,),
        carry=a.carry,
        separator=a.separator,
        join_folders=a.join_folders,
        rows=a.rows,
        device=a.device,
        precision=a.precision,
        learning_rate=a.dynamic,
        by_position=a.by_position,
        frequencies=a.frequencies,
        groups=a.groups,
    )
    alone = len(scored) == 1
    if a.json:
        found = [scores_as_json(one) for one in scored]
        print(json.dumps(found[0] if alone else found, indent=2))
    else:
        print(describe_scores(scored[0]) if alone else describe_sweep(scored))
