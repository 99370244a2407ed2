"""What the default recipe is made of: one thing changed at a time, at equal tokens, on books.

    python experiments/recipe.py --train pg19/train --valid pg19/validation    # trains, writes recipe.json
    python experiments/recipe.py --table                                       # prints its table

Text as bytes, scored on 32 pieces of 8,192 bytes. What is in recipe.json already is not made again.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from compressive_transformer import LanguageModel
from compressive_transformer.data import ByteTokenizer, Corpus, Lanes, excerpt, prepare
from compressive_transformer.evaluate import evaluate
from compressive_transformer.precision import has_bfloat16
from compressive_transformer.recipes import tiny, tiny_paper
from compressive_transformer.train import TrainConfig, Trainer

OUTPUT = Path(__file__).with_suffix(".json")
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "the recipe": {},
    "GELU": {"model": {"activation": "gelu"}},
    "ReLU": {"model": {"activation": "relu"}},
    "queries and keys without norm": {"model": {"qk_norm": False}},
    "GELU, without norm": {"model": {"activation": "gelu", "qk_norm": False}},
    "post-norm": {"model": {"norm": "post", "final_norm": False}},
    "256 position features": {"model": {"position_features": None}},
    "cosine": {"optimizer": {"schedule": "cosine"}},
    "half the rates": {"optimizer": {"lr": 1.5e-3, "muon_lr": 0.01}},
    "twice the rates": {"optimizer": {"lr": 6e-3, "muon_lr": 0.04}},
    "AdamW at 0.001": {"optimizer": {"name": "adamw", "lr": 1e-3}},
    "AdamW at 0.003": {"optimizer": {"name": "adamw", "lr": 3e-3}},
    "8 lanes": {"run": {"lanes": 8}},
    "16 lanes": {"run": {"lanes": 16}},
    "64 lanes": {"run": {"lanes": 64}},
    "16 lanes, segments of 256": {"run": {"lanes": 16}, "model": {"segment": 256}},
    "64 lanes, segments of 64": {"run": {"lanes": 64}, "model": {"segment": 64}},
    "Transformer-XL, 192 slots": {"model": {"memory": 192, "compressed_memory": 0}},
    "no memory": {"model": {"memory": 0, "compressed_memory": 0}},
}
PAPER = "the paper's parts (tiny-paper)"


def main() -> None:
    """Trains and records, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", help="files or folders of text to learn from")
    parser.add_argument("--valid", nargs="+", help="files or folders of text to score")
    parser.add_argument("--tokens", type=int, default=1_500_000, help="of each run (default: 1,500,000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(default: 0)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(default: all)")
    parser.add_argument("--table", action="store_true", help="print the table of what is recorded")
    a = parser.parse_args()
    if not a.table:
        if not a.train or not a.valid:
            parser.error("give --train and --valid, or --table")
        torch.set_num_threads(a.threads)
        record(prepare(a.train, ByteTokenizer()), prepare(a.valid, ByteTokenizer()), a)
    print(table(json.loads(OUTPUT.read_text(encoding="utf-8"))["runs"]))


def record(train: Corpus, valid: Corpus, a: argparse.Namespace) -> None:
    """The runs that are missing, each written down when it ends."""
    found = json.loads(OUTPUT.read_text(encoding="utf-8")) if OUTPUT.exists() else {"runs": []}
    done = {(run["arm"], run["seed"], run["budget"]) for run in found["runs"]}
    valid = excerpt(valid, num_pieces=32, length=8192)
    for seed in a.seeds:
        for arm in (*ARMS, PAPER):
            if (arm, seed, a.tokens) in done:
                continue
            config = replace(config_of(arm), tokens=a.tokens, seed=seed)
            run = {"arm": arm, "seed": seed, "budget": a.tokens} | trained(config, train, valid)
            print(f"{arm}, seed {seed}: {run['bits_per_byte']:.4f} bits a byte", flush=True)
            found["runs"].append(run)
            machine = {"machine": platform.machine(), "bfloat16": has_bfloat16("cpu"), "threads": a.threads}
            text = {"train_bytes": int(train.num_bytes.sum()), "train": train.fingerprint}
            versions = {"date": str(date.today()), "torch": torch.__version__}
            made = json.dumps(found | versions | machine | text, indent=1)
            OUTPUT.write_text(made + "\n", encoding="utf-8")


def config_of(arm: str) -> TrainConfig:
    """The settings of an arm; budget and seed are still to come."""
    if arm == PAPER:
        return replace(tiny_paper(), minutes=None, compile="on")
    recipe, changes = tiny(), ARMS[arm]
    return replace(
        recipe,
        minutes=None,
        compile="on",
        model=replace(recipe.model, **changes.get("model", {})),
        optimizer=replace(recipe.optimizer, **changes.get("optimizer", {})),
        **changes.get("run", {}),
    )


def trained(config: TrainConfig, train: Corpus, valid: Corpus) -> dict[str, float]:
    """One run."""
    torch.manual_seed(config.seed)
    torch._dynamo.reset()  # or graphs of the arms before count as recompiled
    model = LanguageModel(config.model, vocab_size=ByteTokenizer().vocab_size)
    lanes = Lanes(train, num_lanes=config.lanes, length=config.model.segment, seed=config.seed)
    trainer = Trainer(model, lanes, config)
    begun = time.monotonic()
    trainer.run()
    seconds = time.monotonic() - begun
    bits = evaluate(model, valid, num_rows=32).total.bits_per_byte
    return {"bits_per_byte": bits, "steps": trainer.step, "tokens": trainer.tokens, "seconds": seconds}


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown, by the mean over seeds."""
    lines = ["| | bits per byte | against the recipe | steps | seeds |", "|---|---:|---:|---:|---:|"]
    bits = {arm: [run["bits_per_byte"] for run in runs if run["arm"] == arm] for arm in (*ARMS, PAPER)}
    mean = {arm: sum(x) / len(x) for arm, x in bits.items() if x}
    steps = {run["arm"]: run["steps"] for run in runs}
    for arm in mean:
        change = f"{mean[arm] - mean['the recipe']:+.3f}" if arm != "the recipe" else ""
        lines.append(f"| {arm} | {mean[arm]:.3f} | {change} | {steps[arm]} | {len(bits[arm])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
