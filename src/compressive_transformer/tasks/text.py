"""Language modelling of text, and of sound: the main job, from files to a run folder."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressive_transformer.analysis import attention_by_bucket
from compressive_transformer.checkpoint import save_config
from compressive_transformer.data import (
    Corpus,
    Lanes,
    StreamedLanes,
    Tokenizer,
    excerpt,
    get_tokenizer,
)
from compressive_transformer.data.audio import SampleTokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import Evaluation, evaluate, key_of, measure_of
from compressive_transformer.generate import generate
from compressive_transformer.model import LanguageModel
from compressive_transformer.tasks.corpora import Text, load_text
from compressive_transformer.tasks.folder import open_run
from compressive_transformer.tasks.resume import Resumed
from compressive_transformer.tasks.session import Session
from compressive_transformer.tasks.sound import classical, write_sample
from compressive_transformer.train import TrainConfig, Trainer
from compressive_transformer.train.log import Display, Metrics
from compressive_transformer.train.parallel import World, join, whole_weights
from compressive_transformer.train.sinks import check_sinks, open_sinks

CHECKPOINTS = (0.2, 0.4, 0.6, 0.8)
"""Parts of the budget after which the run is saved and validated on an excerpt."""
EXCERPT = {"num_pieces": 16, "length": 2048}
SAMPLE_LENGTH = 400


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a finished training run has to tell."""

    run: Path
    evaluation: Evaluation
    """Of the whole validation text."""
    compressors: dict[str, float]
    """Of general compressors on the same bytes, or of classical predictors on the same sound, in the same
    measure; empty of a closed vocabulary."""
    sample: str
    """Text made by the model, or where sound made by it is."""


@dataclass(frozen=True, kw_only=True)
class Resume:
    """A run to go on with."""

    run: Path
    reset_memory: bool = False
    """Begin with an empty memory; then lanes and processes may be others."""
    accept_changes: bool = False
    """Go on although text, seed, tokenizer or model are others."""


def train_text(config: TrainConfig, *, name: str = "tiny", resume: Resume | None = None) -> Result | None:
    """Trains a language model on text and leaves a run folder.

    Args:
        config: data, budget, model, optimiser; on resume all settings of the run, changed or not.
        name: of the recipe, for the run folder.
        resume: the run to go on with.

    Returns:
        How it went; None in all processes but the first.

    Raises:
        UsageError: the data can't be used, or the run folder exists, or the run can't be resumed so.
        Stopped: SIGINT or SIGTERM came; the run was saved.
    """
    check_sinks(config.sinks)
    with join(config.device) as world:
        tokenizer = get_tokenizer(config.tokenizer)
        text = load_text(config, tokenizer, world)
        lanes = text.lanes(world)
        torch.manual_seed(config.seed)
        model = LanguageModel(config.model, vocab_size=tokenizer.vocab_size).to(world.device)
        if world.size > 1:
            torch.manual_seed(config.seed + world.rank)  # processes drop out other units
        run, lock = open_run(config.out, name, resume.run if resume else None, world)
        with lock:
            trainer, session = _begin(config, run, resume, world, text, lanes, model)
            with session.showing():
                session.train(trainer)
                weights = whole_weights(trainer.model) if trainer.is_sharded else None
                if not world.first:
                    return None
                session.say("reading the validation text ...")
                model = session.whole_model(trainer.model, weights)
                return _finish(model, config, text, session.metrics, run, len(lanes.rows))


def _begin(
    config: TrainConfig,
    run: Path,
    resume: Resume | None,
    world: World,
    text: Text,
    lanes: Lanes | StreamedLanes,
    model: LanguageModel,
) -> tuple[Trainer, Session]:
    """A trainer and what goes on around it: new, or where the run was left."""
    tokenizer = text.validation.tokenizer
    trainer = Trainer(model, lanes, config, world=world, validate_at=CHECKPOINTS)
    found = None
    if resume:
        found = Resumed.find(resume.run, config, text.identity, world)
        found = found.check(reset_memory=resume.reset_memory, accept_changes=resume.accept_changes)
        found.restore(trainer)  # nothing has been written yet, should this be refused
    metrics = display = None
    if world.first:
        _save_config(run, model, tokenizer, asdict(config))  # before the metrics are cut: it may be refused
        sinks = open_sinks(config.sinks, run, asdict(config), step=trainer.step)
        metrics = Metrics(run, offset=found.facts["metrics"] if found else 0, sinks=sinks)
        display = Display(tokenizer.unit)
    measure = measure_of(tokenizer.unit)
    score = _excerpt_score(text.validation, config, measure)
    session = Session(run, world, config.save, {"text": text.identity}, metrics, display, measure, score)
    session.say(_opening(model, text, run))
    if found:
        session.resumed(trainer, found.changed)
    return trainer, session


def _save_config(run: Path, model: LanguageModel, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    try:
        save_config(run, model, tokenizer, settings)
    except OSError as error:
        raise UsageError(
            f"{run} can't be written to ({error.strerror}), and is as it was; make room or allow it"
        ) from None


def _excerpt_score(validation: Corpus, config: TrainConfig, measure: str) -> Callable[[LanguageModel], float]:
    text = excerpt(validation, **EXCERPT)

    def score(model: LanguageModel) -> float:
        return evaluate(model, text, num_rows=16, precision=config.precision).total.by(measure)

    return score


def compressed_sizes(text: bytes) -> dict[str, float]:
    """Bits per byte of gzip, bzip2 and xz at their best, each on this text alone."""
    sizes = {
        "gzip -9": len(gzip.compress(text, 9, mtime=0)),
        "bzip2 -9": len(bz2.compress(text, 9)),
        "xz -9e": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}


def text_of(corpus: Corpus) -> bytes:
    """The bytes of a corpus, document after document."""
    return b"".join(corpus.tokenizer.decode(corpus.document(i)) for i in range(corpus.num_documents))


def _opening(model: LanguageModel, text: Text, run: Path) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters:,} parameters; {text.size} to train on, {text.validation.num_tokens:,} to validate on; "
        f"run folder {run} (Ctrl-C stops and saves)"
    )


def _finish(
    model: LanguageModel,
    config: TrainConfig,
    text: Text,
    metrics: Metrics | None,
    run: Path,
    num_rows: int,
) -> Result:
    """Scores, compares, shows where attention goes, and writes a sample."""
    assert metrics is not None
    validation = text.validation
    evaluation = evaluate(
        model,
        validation,
        reset_documents=config.reset_documents,
        num_rows=num_rows,
        precision=config.precision,
    )
    measure, sound = measure_of(validation.unit), isinstance(validation.tokenizer, SampleTokenizer)
    if sound:
        compressors = classical(text.training, validation) if text.training else {}
    else:
        compressors = {} if validation.unit == "word" else compressed_sizes(text_of(validation))
    scores = {key_of(measure): evaluation.total.by(measure)}
    metrics.write("validation", **scores, num_bytes=evaluation.total.num_bytes, compressors=compressors)
    if config.model.core == "compressive":
        metrics.write("attention", buckets=attention_by_bucket(model, validation, precision=config.precision))
    if sound:
        sample = write_sample(run / "sample.wav", model, validation, config.seed)
    else:
        sample = _sample(model, validation, config)
        (run / "sample.txt").write_text(sample, encoding="utf-8")
    return Result(run=run, evaluation=evaluation, compressors=compressors, sample=sample)


def _sample(model: LanguageModel, validation: Corpus, config: TrainConfig) -> str:
    """Text after the first kilobyte of the validation text, which is marked off."""
    tokenizer = validation.tokenizer
    first = int((np.diff(validation.starts) > 0).argmax())  # of those that have words at all
    prompt = torch.from_numpy(validation.document(first)[:1024].astype("int64"))[None]
    tokens = generate(
        model,
        prompt,
        length=SAMPLE_LENGTH,
        temperature=0.8,
        seed=config.seed,
        banned=[tokenizer.document_token],
    )
    made = tokenizer.decode([int(token) for token in tokens])
    lead = tokenizer.decode(prompt[0][-80:].numpy())
    return f"{lead.decode(errors='replace')}|{made.decode(errors='replace')}"
