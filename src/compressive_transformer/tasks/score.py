"""Scoring files with a trained run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.progress import Progress

from compressive_transformer.checkpoint import load_run
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import Evaluation, Score, evaluate
from compressive_transformer.precision import Device, Precision, pick_device
from compressive_transformer.tasks.prepare import prepare_shown


def score_files(
    run: str,
    paths: Sequence[str],
    *,
    memory: int | None,
    compressed_memory: int | None,
    carry: bool,
    separator: str | None,
    rows: int,
    device: Device,
    precision: Precision,
) -> Evaluation:
    """Reads the run and the files, and scores each document behind a progress bar."""
    if rows < 1:
        raise UsageError(f"rows {rows} is not allowed; use 1 or more")
    loaded = load_run(run, pick_device(device))
    corpus = prepare_shown(paths, loaded.tokenizer, separator=separator)
    from rich.console import Console

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"reading {corpus.num_tokens:,} {corpus.unit}s", total=corpus.num_tokens)
        return evaluate(
            loaded.model,
            corpus,
            memory=memory,
            compressed_memory=compressed_memory,
            reset_documents=not carry,
            num_rows=rows,
            precision=precision,
            progress=lambda tokens: bar.advance(task, tokens),
        )


def scores_as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All scores, with their units in the names."""
    return {"total": _as_json(evaluation.total, evaluation.unit)} | {
        "documents": [_as_json(d, evaluation.unit) for d in evaluation.documents]
    }


def _as_json(score: Score, unit: str) -> dict[str, Any]:
    return {
        "name": score.name,
        "num_bytes": score.num_bytes,
        "nats": score.nats,
        "bits_per_byte": score.bits_per_byte,
        f"perplexity_per_{unit}": score.perplexity,
    }


def describe_scores(evaluation: Evaluation) -> str:
    """A table: a line for each document, and the total last."""
    head = f"{'bytes':>12}  {'bits/byte':>9}  {f'perplexity/{evaluation.unit}':>15}  document"
    rows = (
        [*evaluation.documents, evaluation.total] if len(evaluation.documents) > 1 else evaluation.documents
    )
    lines = [f"{s.num_bytes:>12,}  {s.bits_per_byte:>9.4f}  {s.perplexity:>15.4f}  {s.name}" for s in rows]
    return "\n".join([head, *lines])
