r"""The paper's Figure 4 in small: sound by the sample, beside Transformer-XL and WaveNet of equal size.

    python experiments/speech.py --out experiments/speech_digits.json --rate 8000 \
        --train 'digits/*_[5-9].wav' 'digits/*_[1-4][0-9].wav' --test 'digits/*_[0-4].wav'
    python experiments/speech.py --out experiments/speech_kerstin.json --rate 24000 --train kerstin
    python experiments/speech.py --out experiments/speech_rates.json --rate 8000 --seeds 0 --arms rates \
        --train 'digits/*_[5-9].wav' 'digits/*_[1-4][0-9].wav' --test 'digits/*_[0-4].wav'
    python experiments/speech.py --out experiments/speech_digits.json --table

Without --test the last tenth of the recordings is held out. 8-bit µ-law, all arms the recipe ``speech`` in
the same order of as many samples, and WaveNet also for as long; state carried along a recording and reset
between two. A test score is taken now and then while the learning rate falls, on pieces from everywhere in
the test recordings; the last one is on all of them. Its time does not count. With --sounds each model of the
first seed also goes on with a test recording, kept as FLAC and as a picture. ``--arms rates`` tries other
learning rates than the recipe's, which text chose.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lab import Record, Runs, by_arm, markdown, mean, parse, shown, spread

from compressive_transformer import LanguageModel
from compressive_transformer.data import Corpus, Lanes, excerpt, get_tokenizer, prepare, split
from compressive_transformer.evaluate import evaluate
from compressive_transformer.recipes import speech, wavenet
from compressive_transformer.tasks.sound import classical, write_sample
from compressive_transformer.train import TrainConfig, Trainer

POINTS = 10
"""Scores while a run trains."""
PIECES, LENGTH = 32, 4096
BASE = speech()
SHAPE = BASE.model
WIDER = 4 * SHAPE.dim + 4 * SHAPE.dim // 2
"""Two maps of d x 2d more are c d^2 weights at c = 4."""


def arm(base: TrainConfig = BASE, **model: Any) -> TrainConfig:
    """The recipe with another model."""
    return replace(
        base, minutes=None, validate_minutes=math.inf, compile="off", model=replace(base.model, **model)
    )


ARMS = {
    "Compressive, rate 4": arm(),
    "Compressive, rate 2": arm(compression_rate=2),
    "Compressive, rate 8": arm(compression_rate=8),
    "Transformer-XL": arm(memory=512, compressed_memory=0, mlp_dim=WIDER),
    "WaveNet": arm(wavenet()),
    "WaveNet, 2.5 times the samples": arm(wavenet()),
}
RATES = {
    f"{name}, {how} the rates": replace(
        config,
        optimizer=replace(
            config.optimizer, lr=factor * config.optimizer.lr, muon_lr=factor * config.optimizer.muon_lr
        ),
    )
    for name, config in ARMS.items()
    if name in ("Compressive, rate 4", "Transformer-XL", "WaveNet")
    for how, factor in (("half", 0.5), ("twice", 2.0))
}
LONGER = {"WaveNet, 2.5 times the samples": 2.5}
"""It is that much faster than the others: as many samples are not as much time."""
PAPER = {"Compressive, rate 4": 1.8097, "WaveNet": 1.8124, "Transformer-XL": 1.8134}
"""Nats per sample (its figure 4, read off it), after 400,000 steps at 24 kHz; how samples were rounded is not
said, so only the order can be compared."""


def main() -> None:
    """Trains and records what is missing, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", help="recordings to learn from")
    parser.add_argument("--test", nargs="+", help="recordings to score")
    parser.add_argument("--rate", type=int, default=8000, help="samples a second (default: 8000)")
    names = [*ARMS, *RATES, "rates"]
    parser.add_argument(
        "--arms", nargs="+", choices=names, metavar="ARM", default=list(ARMS), help="(the first six)"
    )
    parser.add_argument("--samples", type=int, default=1_000_000, help="of a run (default: 1,000,000)")
    parser.add_argument("--sounds", type=Path, help="folder for recordings that the models went on with")
    a = parse(parser, __file__, seeds=(0, 1, 2))
    a.arms = list(RATES) if a.arms == ["rates"] else a.arms
    if not a.table:
        if not a.train:
            parser.error("give --train, or --table")
        record(a)
    print(shown(a.out, table))


def record(a: argparse.Namespace) -> None:
    """The runs that are missing, arms side by side for each seed."""
    train, test = corpora(a)
    text = {"train": train.fingerprint, "test": test.fingerprint, "samples": a.samples}
    made = Record(a, text)
    beside: dict[str, Any] = {}
    for seed in a.seeds:
        for name in a.arms:
            samples = int(a.samples * LONGER.get(name, 1))
            config = replace((ARMS | RATES)[name], tokens=samples, seed=seed, tokenizer=train.tokenizer.name)
            if made.has(config, arm=name, seed=seed):
                continue
            beside = beside or {"classical": classical(train, test), "rate": a.rate}
            model, facts = trained(config, train, test)
            print(f"{name}, seed {seed}: {facts['bits_per_sample']:.4f} bits a sample", flush=True)
            made.add(config, {"arm": name, "seed": seed} | facts, **beside)
            if a.sounds and seed == a.seeds[0]:
                a.sounds.mkdir(parents=True, exist_ok=True)
                print(write_sample(a.sounds / sound_of(name), model, test, seed, count=a.rate), flush=True)


def sound_of(arm: str) -> str:
    """File name of an arm's recording."""
    return f"{'-'.join(re.findall('[a-z0-9]+', arm.lower()))}.flac"


def corpora(a: argparse.Namespace) -> tuple[Corpus, Corpus]:
    """Recordings to learn from, and to score."""
    tokenizer = get_tokenizer(f"mulaw-{a.rate}")
    train = prepare(a.train, tokenizer)
    return (train, prepare(a.test, tokenizer)) if a.test else split(train, fraction=0.1)


def trained(config: TrainConfig, train: Corpus, test: Corpus) -> tuple[LanguageModel, dict[str, Any]]:
    """A model, and how its run went: test scores by samples and seconds, the last on all test recordings."""
    torch.manual_seed(config.seed)
    torch._dynamo.reset()
    model = LanguageModel(config.model, vocab_size=train.tokenizer.vocab_size)
    lanes = Lanes(train, num_lanes=config.lanes, length=config.model.segment, seed=config.seed)
    pieces, curve, lost = excerpt(test, num_pieces=PIECES, length=LENGTH), [], 0.0

    def score(trainer: Trainer, validate: bool) -> None:
        nonlocal lost
        if not validate and trainer.done < 1:
            return  # time to save, which nobody wants here
        begun = time.monotonic()
        bits = evaluate(model, pieces, num_rows=PIECES).total.by("bits per sample")
        curve.append((trainer.tokens, begun - start - lost, bits))
        lost += time.monotonic() - begun

    at = tuple((i + 1) / POINTS for i in range(POINTS - 1))
    trainer = Trainer(model, lanes, config, validate_at=at, on_pause=score)
    start = time.monotonic()
    trainer.run()
    return model, {
        "steps": trainer.step,
        "curve": curve,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_sample": evaluate(model, test, num_rows=32).total.by("bits per sample"),
        "seconds": curve[-1][1],
    }


def table(runs: Runs) -> str:
    """A row for each arm."""
    bits = by_arm(runs, "bits_per_sample")
    parameters, seconds = by_arm(runs, "parameters"), by_arm(runs, "seconds")
    rows = []
    for name in (name for name in ARMS | RATES if name in bits):
        found = bits[name]
        rows.append(
            [
                name,
                f"{mean(found):.3f}",
                spread(found),
                f"{mean(found) * 0.6931471805599453:.3f}",
                f"{PAPER[name]:.4f}" if name in PAPER else "",
                f"{sorted(seconds[name])[len(found) // 2]:,.0f}",
                f"{parameters[name][0] / 1e6:.2f} M",
                str(len(found)),
            ]
        )
    header = ["", "bits per sample", "range", "nats", "paper, nats", "seconds", "parameters", "seeds"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
