"""Scoring files with a trained run."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.progress import Progress

from compressive_transformer.analysis import Part, loss_by_frequency, loss_by_position
from compressive_transformer.checkpoint import load_run
from compressive_transformer.data import get_tokenizer
from compressive_transformer.data import join_folders as joined
from compressive_transformer.data.benchmarks import Part as BenchmarkPart
from compressive_transformer.data.benchmarks import part_of
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import Evaluation, Score, evaluate, perplexity, total
from compressive_transformer.precision import Device, Precision, pick_device
from compressive_transformer.storage import as_json
from compressive_transformer.tasks.prepare import prepare_shown

PLACES = tuple(2**n for n in range(6, 18))
"""Where parts of a document begin when the loss is told by place: 64, 128 ... 131,072."""


@dataclass(frozen=True)
class Scored:
    """Scores, and the loss by what was asked for."""

    evaluation: Evaluation
    compressed_memory: int | None
    """Slots of each layer; None if as in training."""
    by_position: list[Part] | None
    by_frequency: list[Part] | None
    part: BenchmarkPart | None
    """Of which benchmark this is a part, if it is."""
    groups: tuple[Score, ...] = ()
    """Sums over documents that were asked for, such as those of each speaker."""
    memory: int | None = None
    """Recent slots of each layer; None if as in training."""
    carry: bool = False
    """Whether memory was carried on from document to document."""

    @property
    def official_word_perplexity(self) -> float | None:
        """Per word, of as many words as all count who report on this whole part; None if there is no such."""
        if self.part is None or not self.part.official or self.part.official_words is None:
            return None
        return replace(self.evaluation.total, num_words=self.part.official_words).word_perplexity


def score_files(
    run: str,
    paths: Sequence[str],
    *,
    memory: Sequence[int | None],
    compressed_memory: Sequence[int | None],
    carry: bool,
    separator: str | None,
    join_folders: bool,
    rows: int,
    device: Device,
    precision: Precision,
    learning_rate: float | None,
    by_position: bool,
    frequencies: str | None,
    groups: str | None,
) -> list[Scored]:
    """Reads the run and the files, and scores each document behind a progress bar.

    Returns:
        The scores for each number of recent slots with each of compressed ones.
    """
    if rows < 1:
        raise UsageError(f"rows {rows} is not allowed; use 1 or more")
    pattern = compiled(groups)
    vocabulary = get_tokenizer(frequencies) if frequencies else None
    loaded = load_run(run, pick_device(device))
    sizes = list(itertools.product(memory, compressed_memory))
    if len(sizes) > 1 and (by_position or frequencies or groups):
        raise UsageError(
            "several sizes of memory are told in a line each; leave out --by-position, --frequencies and "
            "--groups, or give one size"
        )
    if frequencies and loaded.tokenizer.unit == "sample":
        raise UsageError("--frequencies tells of words, and this is a model of sound; leave it out")
    if vocabulary and not hasattr(vocabulary, "counts"):
        raise UsageError(
            f"{frequencies} has no words with counts; make some of the training text by 'compressive "
            "tokenizer train --kind words'"
        )
    for recent, compressed in sizes:  # before hours of work
        loaded.model.init_memory(1, memory=recent, compressed_memory=compressed)
    corpus = prepare_shown(paths, loaded.tokenizer, separator=separator)
    part = part_of(Path(paths[0]).absolute()) if len(paths) == 1 else None
    if part and part.num_bytes != corpus.num_bytes.sum():
        raise UsageError(
            f"{paths[0]} holds other text than the record beside it says; make it again by 'compressive "
            "benchmark' with another --out"
        )
    corpus = joined(corpus) if join_folders else corpus
    names = [group_of(name, pattern) for name in corpus.names] if pattern else []
    from rich.console import Console

    console = Console(file=sys.stderr)
    scored = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        total = len(sizes) * corpus.num_tokens
        task = bar.add_task(f"reading {corpus.num_tokens:,} {corpus.unit}s", total=total)
        for recent, compressed in sizes:
            found = evaluate(
                loaded.model,
                corpus,
                memory=recent,
                compressed_memory=compressed,
                reset_documents=not carry,
                num_rows=rows,
                precision=precision,
                learning_rate=learning_rate,
                with_losses=by_position or vocabulary is not None,
                progress=lambda tokens: bar.advance(task, tokens),
            )
            losses = found.losses or ()
            places = loss_by_position(losses, PLACES) if by_position else None
            words = loss_by_frequency(corpus, losses, vocabulary) if vocabulary else None
            sums = grouped(found.documents, names)
            scored.append(Scored(found, compressed, places, words, part, sums, recent, carry))
    return scored


def compiled(groups: str | None) -> re.Pattern[str] | None:
    """The pattern that tells to which group a document belongs.

    Raises:
        UsageError: it is none, or has not one group in brackets.
    """
    if groups is None:
        return None
    try:
        pattern = re.compile(groups)
    except re.error as error:
        raise UsageError(f"--groups {groups!r} is no regular expression ({error})") from None
    if pattern.groups != 1:
        raise UsageError(
            f"--groups {groups!r} must have one pair of brackets around what names the group: '_([a-z]+)_'"
        )
    return pattern


def group_of(name: str, pattern: re.Pattern[str]) -> str:
    """The group of a document: by the name of its file, or if it is not found there by the whole path.

    Raises:
        UsageError: it belongs to none.
    """
    match = pattern.search(Path(name).name) or pattern.search(name)
    if match is None or match[1] is None:
        raise UsageError(f"--groups {pattern.pattern!r} is not found in the name {name}")
    return match[1]


def grouped(documents: Sequence[Score], names: Sequence[str]) -> tuple[Score, ...]:
    """Sums over the documents of each group, by its name; none if there are no names."""
    members: dict[str, list[Score]] = {}
    for document, name in zip(documents, names, strict=False):
        members.setdefault(name, []).append(document)
    return tuple(total(name, scores) for name, scores in sorted(members.items()))


def scores_as_json(scored: Scored) -> dict[str, Any]:
    """All scores, with their units in the names."""
    found = scored.evaluation
    answer: dict[str, Any] = {"total": _as_json(found.total, found.unit)}
    answer["documents"] = [_as_json(document, found.unit) for document in found.documents]
    if scored.groups:
        answer["groups"] = [_as_json(group, found.unit) for group in scored.groups]
    if scored.memory is not None:
        answer["memory"] = scored.memory
    if scored.compressed_memory is not None:
        answer["compressed_memory"] = scored.compressed_memory
    answer["carry"] = scored.carry
    if found.learning_rate is not None:
        answer["dynamic_evaluation"] = {"learning_rate": found.learning_rate}
    if scored.part:
        answer["benchmark"] = asdict(scored.part)
        answer["benchmark"]["perplexity_per_official_word"] = scored.official_word_perplexity
    for name in ("by_position", "by_frequency"):
        if parts := getattr(scored, name):
            answer[name] = [asdict(part) for part in parts]
    return as_json(answer)


def _as_json(score: Score, unit: str) -> dict[str, Any]:
    if unit == "sample":
        sound = {"name": score.name, "num_samples": score.num_tokens, "nats": score.nats}
        bits = score.by("bits per sample")
        return sound | {"bits_per_sample": bits, "nats_per_sample": bits * math.log(2)}
    answer = {
        "name": score.name,
        "num_bytes": score.num_bytes,
        "num_words": score.num_words,
        "nats": score.nats,
        "bits_per_byte": score.bits_per_byte,
        f"perplexity_per_{unit}": score.perplexity,
    }
    return answer | {"perplexity_per_word": score.word_perplexity}


def describe_scores(scored: Scored) -> str:
    """Tables: a line for each document and the total last, and what else was asked for."""
    found = scored.evaluation
    documents = [*found.documents, found.total] if len(found.documents) > 1 else found.documents
    lines = [_head(found.unit) + "  document"]
    lines += [f"{_cells(score, found.unit)}  {score.name}" for score in documents]
    if scored.groups:
        lines += ["", _head(found.unit) + "  group"]
        lines += [f"{_cells(score, found.unit)}  {score.name}" for score in scored.groups]
    lines += _notices(scored)
    if scored.official_word_perplexity is not None and scored.part:
        words = f"the {scored.part.official_words:,} words that all count who report on it"
        lines.append(f"Perplexity per word, by {words}: {scored.official_word_perplexity:.4f}")
    if scored.by_position:
        lines += ["", *_parts(scored.by_position, f"{found.unit} of its document", found.unit)]
    if scored.by_frequency:
        lines += ["", *_parts(scored.by_frequency, "times in the training text", "word")]
    return "\n".join(lines)


def _head(unit: str) -> str:
    """Titles of the columns that ``_cells`` gives."""
    if unit == "sample":
        return f"{'samples':>12}  {'bits/sample':>11}  {'nats/sample':>11}"
    units = dict.fromkeys([unit, "word"])
    return f"{'bytes':>12}  {'bits/byte':>9}" + "".join(f"  {f'perplexity/{u}':>18}" for u in units)


def _cells(score: Score, unit: str) -> str:
    """Size and scores: per token, and per word if that is something else."""
    if unit == "sample":
        bits = score.by("bits per sample")
        return f"{score.num_tokens:>12,}  {bits:>11.4f}  {bits * math.log(2):>11.4f}"
    values = dict.fromkeys([unit, "word"])
    perplexities = [score.perplexity, score.word_perplexity][: len(values)]
    return f"{score.num_bytes:>12,}  {score.bits_per_byte:>9.4f}" + "".join(
        f"  {value:>18,.4f}" for value in perplexities
    )


def _notices(scored: Scored) -> list[str]:
    """What nobody may overlook who compares scores."""
    lines, part = [], scored.part
    if scored.carry:
        lines.append("Memory was carried on from document to document")
    if (rate := scored.evaluation.learning_rate) is not None:
        lines.append(
            f"Dynamic evaluation: the model learnt from the text as it went, by Adam at {rate:g}; not to be "
            "compared with scores of a model that stays as it is"
        )
    if part:
        lines.append(f"This is {part.describe()}")
    if part and part.books and not part.complete:
        lines.append(f"Books: {', '.join(part.books)}. Perplexity per word is by the words counted here")
    return lines


def describe_sweep(scored: Sequence[Scored]) -> str:
    """A line for each pair of sizes."""
    unit = scored[0].evaluation.unit
    lines = [f"{'recent slots':>12}  {'compressed slots':>16}  {_head(unit)}"]
    for one in scored:
        recent, compressed = (
            "as trained" if slots is None else f"{slots:,}" for slots in (one.memory, one.compressed_memory)
        )
        lines.append(f"{recent:>12}  {compressed:>16}  {_cells(one.evaluation.total, unit)}")
    return "\n".join([*lines, *_notices(scored[0])])


def _parts(parts: Sequence[Part], title: str, unit: str) -> list[str]:
    lines = [f"{unit + 's':>12}  {f'bits/{unit}':>12}  {f'perplexity/{unit}':>18}  {title}"]
    for part in parts:
        if part.count:
            bits, each = part.nats / part.count / math.log(2), perplexity(part.nats, part.count)
            lines.append(f"{part.count:>12,}  {bits:>12.4f}  {each:>18,.4f}  {part.name}")
    return lines
