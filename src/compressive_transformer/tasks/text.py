"""Language modelling of text: the main job, from files to a run folder."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import lzma
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import torch

from compressive_transformer.checkpoint import CONFIG, save_config, save_weights
from compressive_transformer.data import (
    Corpus,
    Lanes,
    Tokenizer,
    embedded_books,
    get_tokenizer,
    prepare,
    split,
)
from compressive_transformer.data.files import find_sources
from compressive_transformer.errors import UsageError
from compressive_transformer.evaluate import Evaluation, attention_by_bucket, evaluate, excerpt
from compressive_transformer.generate import generate
from compressive_transformer.model import LanguageModel
from compressive_transformer.precision import pick_device
from compressive_transformer.train import Progress, TrainConfig, Trainer
from compressive_transformer.train.log import Display, Metrics

VALIDATION_FRACTION, VALIDATION_TOKENS = 0.05, 2**18
"""How much text is held out: a part of all, but not more than can be read in seconds."""
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
    """Bits per byte of general compressors on the same bytes."""
    sample: str
    """Text made by the model."""
    finished: bool
    """False if it was interrupted."""


def train_text(config: TrainConfig, *, name: str = "tiny") -> Result:
    """Trains a language model on text and leaves a run folder.

    Interrupted (Ctrl-C), it saves what it has and returns all the same.

    Args:
        config: data, budget, model, optimiser.
        name: of the recipe, for the run folder.

    Raises:
        UsageError: the data can't be used, or the run folder exists.
    """
    tokenizer = get_tokenizer(config.tokenizer)
    training, validation = load_corpora(config, tokenizer)
    torch.manual_seed(config.seed)
    length = config.model.segment * config.unroll
    lanes = Lanes(
        training,
        num_lanes=config.lanes,
        length=length,
        seed=config.seed,
        reset_documents=config.reset_documents,
    )
    model = LanguageModel(config.model, vocab_size=tokenizer.vocab_size).to(pick_device(config.device))
    run = make_run_folder(config.out, name)
    save_config(run, model, tokenizer, asdict(config))
    metrics = Metrics(run)
    with Display(training.unit) as display:
        display.say(_opening(model, training, validation, run))
        finished = _train(model, lanes, config, validation, metrics, display)
        display.say("reading the validation text ...")
        result = _finish(model, config, validation, metrics, run, finished)
    return result


def load_corpora(config: TrainConfig, tokenizer: Tokenizer) -> tuple[Corpus, Corpus]:
    """Text to train on and text to validate on, which share nothing."""
    corpus = prepare(list(config.data or map(str, embedded_books())), tokenizer, separator=config.separator)
    if not config.validation:
        return split(corpus, fraction=VALIDATION_FRACTION, max_tokens=VALIDATION_TOKENS)
    both = [{s.path.resolve() for s in find_sources(p) if s.path} for p in (config.data, config.validation)]
    if same := both[0] & both[1]:
        raise UsageError(f"{min(same)} is in the training and in the validation text; leave it out of one")
    validation = prepare(list(config.validation), tokenizer, separator=config.separator)
    return corpus, validation


def make_run_folder(out: str | None, name: str) -> Path:
    """A new folder; one that holds anything is never written to."""
    try:
        if not out:
            return _new_folder(Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}")
        run = Path(out)
        if run.exists() and (not run.is_dir() or any(run.iterdir())):
            what = "holds a run" if (run / CONFIG).exists() else "exists and is not an empty folder"
            raise UsageError(f"{run} {what}; nothing was written: choose another --out, or remove it")
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out or 'runs'} can't be made ({error.strerror}); choose another --out") from None
    return run


def _new_folder(path: Path) -> Path:
    """The folder, or the first of path-2, path-3, ... that nobody else makes at the same moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        run = path if number == 1 else path.with_name(f"{path.name}-{number}")
        with contextlib.suppress(FileExistsError):
            run.mkdir()
            return run
    raise AssertionError("unreachable")


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


def _opening(model: LanguageModel, training: Corpus, validation: Corpus, run: Path) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return (
        f"{parameters:,} parameters; {training.num_tokens:,} {training.unit}s to train on, "
        f"{validation.num_tokens:,} to validate on; run folder {run} (Ctrl-C stops and saves)"
    )


def _train(
    model: LanguageModel,
    lanes: Lanes,
    config: TrainConfig,
    validation: Corpus,
    metrics: Metrics,
    display: Display,
) -> bool:
    """Trains to the end of the budget, or until Ctrl-C. Returns whether it came to the end."""

    def checkpoint(trainer: Trainer) -> None:
        if not _is_finite(model):
            return  # the next record stops the run, and the last good weights stay
        save_weights(metrics.path.parent, model)
        score = evaluate(model, excerpt(validation, **EXCERPT), num_rows=16, precision=config.precision).total
        metrics.write(
            "excerpt", step=trainer.step, bits_per_byte=score.bits_per_byte, seconds=trainer.seconds
        )
        bits = f"{score.bits_per_byte:.3f} bits per byte"
        display.say(f"step {trainer.step}: {bits} on an excerpt of the validation text")

    def record(progress: Progress) -> None:
        metrics.progress(progress)
        display.show(progress)

    trainer = Trainer(
        model, lanes, config, on_record=record, checkpoints=CHECKPOINTS, on_checkpoint=checkpoint
    )
    finished = True
    try:
        trainer.run()
    except KeyboardInterrupt:
        display.say(f"stopped at step {trainer.step}; saving")
        finished = False
    if not _is_finite(model):
        raise UsageError(
            "the weights are no longer finite; nothing of that was saved: use a lower learning rate"
        )
    save_weights(metrics.path.parent, model)
    return finished


def _is_finite(model: LanguageModel) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


def _finish(
    model: LanguageModel, config: TrainConfig, validation: Corpus, metrics: Metrics, run: Path, finished: bool
) -> Result:
    """Scores, compares, shows where attention goes, and writes a sample."""
    whole = validation if finished else excerpt(validation, **EXCERPT)
    evaluation = evaluate(
        model,
        whole,
        reset_documents=config.reset_documents,
        num_rows=config.lanes,
        precision=config.precision,
    )
    compressors = compressed_sizes(text_of(whole))
    metrics.write(
        "validation",
        bits_per_byte=evaluation.total.bits_per_byte,
        num_bytes=evaluation.total.num_bytes,
        whole=finished,
        compressors=compressors,
    )
    metrics.write("attention", buckets=attention_by_bucket(model, validation, precision=config.precision))
    sample = _sample(model, validation, config)
    (run / "sample.txt").write_text(sample, encoding="utf-8")
    return Result(run=run, evaluation=evaluation, compressors=compressors, sample=sample, finished=finished)


def _sample(model: LanguageModel, validation: Corpus, config: TrainConfig) -> str:
    """Text after the first kilobyte of the validation text, which is marked off."""
    tokenizer = validation.tokenizer
    prompt = torch.from_numpy(validation.document(0)[:1024].astype("int64"))[None]
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
