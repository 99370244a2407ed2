"""What the experiments share: arms trained on equal tokens of books, each run written down when it ends.

A script names its arms and says what to measure; ``main`` does the rest. The record lies beside the script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import date
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from compressive_transformer import LanguageModel
from compressive_transformer.allocator import keep_freed_memory
from compressive_transformer.data import ByteTokenizer, Corpus, Lanes, excerpt, prepare
from compressive_transformer.evaluate import evaluate
from compressive_transformer.precision import has_bfloat16
from compressive_transformer.recipes import tiny
from compressive_transformer.storage import write_json
from compressive_transformer.train import Progress, TrainConfig, Trainer

Runs = list[dict[str, Any]]
Measure = Callable[[LanguageModel, Corpus, Corpus], dict[str, Any]]
"""Is given a trained model, the text that it was trained on and the text to score."""
PIECES, LENGTH = 32, 8192
DIM, LANES = 128, 16
"""Half the width and half the lanes of the recipes: all arms with three seeds then take an hour or two on two
cores, not a night. Fewer lanes make more updates of as many tokens, which at this length lowers the loss
(experiments/recipe.py)."""


def arm(base: TrainConfig | None = None, **changes: Any) -> TrainConfig:
    """The recipe ``tiny``, or another, at width 128 with 16 lanes, but for ``changes``.

    Args:
        base: the other recipe.
        changes: fields of it; of ``model`` and ``optimizer`` a dict of theirs.
    """
    base = base or tiny()
    model = replace(base.model, dim=DIM)
    base = replace(base, minutes=None, steps=None, tokens=None, compile="on", lanes=LANES, model=model)
    inner = {
        name: replace(getattr(base, name), **changes.pop(name))
        for name in ("model", "optimizer")
        if name in changes
    }
    return replace(base, **inner, **changes)


def bits_per_byte(model: LanguageModel, train: Corpus, valid: Corpus) -> dict[str, Any]:
    """The score on 32 pieces of 8,192 bytes, spread over the text."""
    text = excerpt(valid, num_pieces=PIECES, length=LENGTH)
    return {"bits_per_byte": evaluate(model, text, num_rows=PIECES).total.bits_per_byte}


def main(
    script: str,
    description: str | None,
    arms: Mapping[str, TrainConfig],
    table: Callable[[Runs], str],
    *,
    measure: Measure = bits_per_byte,
    tokens: int,
    seeds: tuple[int, ...],
) -> None:
    """Trains and records what is missing, or prints what is there.

    Args:
        script: ``__file__`` of the caller.
        description: of the experiment.
        arms: settings by name; budget and seed are put in.
        table: the markdown of all runs.
        measure: what to find out about a trained model.
        tokens, seeds: of each arm, if the command does not say.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", help="files or folders of text to learn from")
    parser.add_argument("--valid", nargs="+", help="files or folders of text to score")
    parser.add_argument("--arms", nargs="+", choices=arms, metavar="ARM", default=list(arms), help="(all)")
    parser.add_argument("--tokens", type=int, default=tokens, help=f"of each run (default: {tokens:,})")
    a = parse(parser, script, seeds)
    if not a.table:
        if not a.train or not a.valid:
            parser.error("give --train and --valid, or --table")
        _record(a, {name: arms[name] for name in a.arms}, measure)
    print(shown(a.out, table))


def parse(parser: argparse.ArgumentParser, script: str, seeds: tuple[int, ...]) -> argparse.Namespace:
    """The arguments, with those that every experiment has; torch then has its threads and memory."""
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds), help=f"(default: {seeds})")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".json"), help="the record")
    parser.add_argument("--table", action="store_true", help="print the tables of what is recorded")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    keep_freed_memory()
    return a


def _record(a: Any, arms: Mapping[str, TrainConfig], measure: Measure) -> None:
    """The runs that are missing, arms side by side for each seed."""
    train, valid = (prepare(paths, ByteTokenizer()) for paths in (a.train, a.valid))
    text = {"train": train.fingerprint, "valid": valid.fingerprint, "tokens": a.tokens}
    made = Record(a, text)
    for seed in a.seeds:
        for name, config in arms.items():
            config = replace(config, tokens=a.tokens, seed=seed)
            if made.has(config, arm=name, seed=seed):
                continue
            model, facts = trained(config, train)
            facts |= measure(model, train, valid)
            print(f"{name}, seed {seed}: {facts.get('bits_per_byte', float('nan')):.4f}", flush=True)
            made.add(config, {"arm": name, "seed": seed} | facts)


def trained(config: TrainConfig, train: Corpus) -> tuple[LanguageModel, dict[str, Any]]:
    """A model, and how its training went."""
    torch.manual_seed(config.seed)
    torch._dynamo.reset()  # or graphs of the arms before count as recompiled
    model = LanguageModel(config.model, vocab_size=train.tokenizer.vocab_size)
    length = config.model.segment * config.unroll
    lanes = Lanes(
        train,
        num_lanes=config.lanes,
        length=length,
        seed=config.seed,
        reset_documents=config.reset_documents,
    )
    records: list[Progress] = []
    trainer = Trainer(model, lanes, config, on_record=records.append)
    begun = time.monotonic()
    trainer.run()
    facts = {
        "steps": trainer.step,
        "tokens": trainer.tokens,
        "seconds": time.monotonic() - begun,
        "parameters": sum(p.numel() for p in model.parameters()),
        "compression_losses": records[-1].compression_losses,
        "training": [(r.tokens, round(r.bits_per_token, 4)) for r in records],
    }
    return model, facts


class Record:
    """The runs of an experiment on disk. Several processes may add to it, each other arms or seeds.

    Args:
        a: the arguments; ``out`` and ``threads`` are used.
        settings: what all runs must have in common; one that was made otherwise is not added to.
    """

    def __init__(self, a: argparse.Namespace, settings: dict[str, Any]):
        self.out, self.threads, self.settings = Path(a.out), a.threads, settings
        self._read()

    def has(self, config: Any, **facts: Any) -> bool:
        """Whether there is a run with these facts; one by another config is not gone on with."""
        for run in self._read()["runs"]:
            if facts.items() <= run.items():
                if run["config"] != digest(config):
                    raise SystemExit(f"{self.out}: {facts} was made with other settings; use another --out")
                return True
        return False

    def add(self, config: Any, *runs: dict[str, Any], **facts: Any) -> None:
        """Writes runs of a config down, each with how and where it was made, and facts beside all runs."""
        how = {
            "config": digest(config),
            "threads": self.threads,
            "date": str(date.today()),
            "torch": torch.__version__,
            "machine": f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
            "bfloat16": has_bfloat16("cpu"),
        }
        with FileLock(self.out.with_suffix(".lock")):
            found = self._read()
            key = ("arm", "seed")  # another process may have made it meanwhile
            there = [[run.get(name) for name in key] for run in found["runs"]]
            found["runs"] += [run | how for run in runs if [run.get(name) for name in key] not in there]
            command = _command(sorted({run["seed"] for run in found["runs"] if "seed" in run}))
            write_json(self.out, found | {"command": command} | facts)

    def _read(self) -> dict[str, Any]:
        if not self.out.exists():
            return {"settings": self.settings, "runs": []}
        found = json.loads(self.out.read_text(encoding="utf-8"))
        if found["settings"] != self.settings:
            raise SystemExit(
                f"{self.out} was made with {found['settings']}, not {self.settings}; use another --out"
            )
        return found


def digest(config: Any) -> str:
    """Tells settings, a dataclass or a dict, from others."""
    plain = config if isinstance(config, dict) else asdict(config)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _command(seeds: list[int]) -> str:
    """That makes all arms with these seeds, of which one process made some."""
    script = Path(sys.argv[0])
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    flags = ["--arms", "--seeds"]
    if ("--out", script.with_suffix(".json").name) in pairwise(words):
        flags.append("--out")  # where it goes by itself
    for flag in flags:
        if flag in words:
            at = words.index(flag)
            words[at:] = dropwhile(lambda word: not word.startswith("--"), words[at + 1 :])
    words += ["--seeds", *map(str, seeds)] if seeds else []
    return shlex.join(["python", f"experiments/{script.name}", *words])


def shown(out: Path, table: Callable[[Runs], str]) -> str:
    """The tables of a record."""
    if not out.exists():
        raise SystemExit(f"{out} is not there; train first (--help explains)")
    return table(json.loads(out.read_text(encoding="utf-8"))["runs"])


def by_arm(runs: Runs, value: str = "bits_per_byte") -> dict[str, list[float]]:
    """A value of all seeds of each arm."""
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run["arm"], []).append(run[value])
    return found


def spread(values: list[float]) -> str:
    """From the lowest to the highest; nothing of one alone."""
    return f"{min(values):.3f}–{max(values):.3f}" if len(values) > 1 else ""


def mean(values: list[float]) -> float:
    """Of the values."""
    return sum(values) / len(values)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))
