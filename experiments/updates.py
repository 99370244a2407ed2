"""The paper's Figure 3 in small: what follows when updates become smaller or fewer in the midst of training.

    python experiments/updates.py --train pg19/train    # trains, writes updates.json
    python experiments/updates.py --table               # prints its table

Books as bytes, the recipe ``tiny`` with Adam at a constant rate. After the first part of the steps each
branch goes on from the same weights, memory and place in the text: as before, with a small learning rate or
hardly any, or with an update every 2 or 4 steps. Shown is the mean training loss of the last steps of each.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lab import Record, Runs, arm, by_arm, markdown, mean, parse, shown

from compressive_transformer import LanguageModel
from compressive_transformer.checkpoint import save_tensors
from compressive_transformer.data import ByteTokenizer, Corpus, Lanes, prepare
from compressive_transformer.train import Progress, TrainConfig, Trainer
from compressive_transformer.train.state import facts_of, restore, tensors_of

RATE = 1e-3
ADAM = {"name": "adamw", "lr": RATE, "final_lr": 1.0, "weight_decay": 0.0, "beta2": 0.999}
"""Without decay AdamW is Adam."""
BEFORE = "before"
BRANCHES: dict[str, dict[str, Any]] = {
    "as before": {},
    "hardly any learning rate": {"lr": RATE * 1e-9 / 3e-4},
    "a 3000th of the learning rate": {"lr": RATE / 3000},
    "an update every 2 steps": {"update_period": 2},
    "an update every 4 steps": {"update_period": 4},
}
PAPER = {
    "as before": 0.914,
    "hardly any learning rate": 1.09,
    "a 3000th of the learning rate": 0.96,
    "an update every 2 steps": 0.867,
}
"""Bits per character on enwik8's training text, 3,400 steps later, read off the figure; 0.935 before. There
the rate 3e-4 becomes 1e-9 or 1e-7."""
LAST = 10
"""Records of the loss, of ten steps each, that are averaged."""


def main() -> None:
    """Trains and records what is missing, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", help="files or folders of text to learn from")
    parser.add_argument(
        "--steps", type=int, nargs=2, default=[500, 200], help="before, after (default: 500 200)"
    )
    a = parse(parser, __file__, seeds=(0, 1, 2))
    if not a.table:
        if not a.train:
            parser.error("give --train, or --table")
        record(prepare(a.train, ByteTokenizer()), a)
    print(shown(a.out, table))


def record(train: Corpus, a: argparse.Namespace) -> None:
    """All branches of each seed that is missing."""
    made = Record(a, {"steps": a.steps, "train": train.fingerprint})
    for seed in a.seeds:
        usual = replace(arm(optimizer=ADAM, seed=seed, steps=a.steps[0]), compile="off")
        if not made.has(usual, seed=seed):
            with TemporaryDirectory() as folder:
                made.add(usual, *branches(train, usual, a.steps[1], Path(folder)))


def branches(train: Corpus, usual: TrainConfig, after: int, folder: Path) -> Runs:
    """What comes of each branch."""
    seed, before = usual.seed, usual.steps or 0
    trunk, curve = new_trainer(usual, train)
    trunk.run()
    runs = [{"arm": BEFORE, "seed": seed, "bits": curve}]
    save_tensors(folder, tensors_of(trunk))
    for name, changes in BRANCHES.items():
        optimizer = replace(usual.optimizer, **changes)
        branch, curve = new_trainer(replace(usual, optimizer=optimizer, steps=before + after), train)
        restore(branch, folder, facts_of(trunk))
        branch.run()
        runs.append({"arm": name, "seed": seed, "bits": curve})
        print(f"{name}, seed {seed}: {mean(curve[-LAST:]):.4f} bits a byte of training text", flush=True)
    return runs


def new_trainer(config: TrainConfig, train: Corpus) -> tuple[Trainer, list[float]]:
    """A trainer, and the list that its losses go to."""
    torch.manual_seed(config.seed)
    model = LanguageModel(config.model, vocab_size=train.tokenizer.vocab_size)
    lanes = Lanes(train, num_lanes=config.lanes, length=config.model.segment, seed=config.seed)
    curve: list[float] = []

    def keep(progress: Progress) -> None:
        curve.append(round(progress.bits_per_token, 4))

    return Trainer(model, lanes, config, on_record=keep), curve


def table(runs: Runs) -> str:
    """The end of each branch."""
    ends = by_arm([run | {"end": mean(run["bits"][-LAST:])} for run in runs], "end")
    rows = [
        [name, f"{mean(found):.3f}", f"{mean(found) - mean(ends[BEFORE]):+.3f}", paper(name)]
        for name, found in ends.items()
    ]
    return markdown(["", "bits per byte in training", "against before", "paper, against before"], rows)


def paper(name: str) -> str:
    """The same difference in the paper."""
    return f"{PAPER[name] - 0.935:+.3f}" if name in PAPER else ""


if __name__ == "__main__":
    main()
