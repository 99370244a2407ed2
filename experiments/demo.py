"""The demo's model beside Transformer-XL of equal attention cost and beside no memory, at equal steps.

    python experiments/demo.py            # trains all arms, writes demo.json (half an hour on 2 cores)
    python experiments/demo.py --table    # prints the table of docs/results.md from it

Data: the two novels in the package, as bytes; validation is the end of the second, 77,772 bytes. Steps
are equal, so the load of the machine changes the seconds only. All arms have width 256 and 4 layers; a conv
compressor adds c d^2 weights a layer.
"""

import argparse
import json
import platform
import statistics
from dataclasses import replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from compressive_transformer.precision import has_bfloat16
from compressive_transformer.recipes import tiny
from compressive_transformer.tasks.text import train_text
from compressive_transformer.train.log import read_metrics

OUTPUT = Path(__file__).with_suffix(".json")
STEPS, SEEDS = 300, (0, 1, 2)
ARMS = {
    "compressive, 128 + 64 slots": {},
    "Transformer-XL, 192 slots (equal attention cost)": {"memory": 192, "compressed_memory": 0},
    "no memory": {"memory": 0, "compressed_memory": 0},
}


def main() -> None:
    """Trains and records, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", action="store_true", help="print the table from the recorded output")
    if not parser.parse_args().table:
        record()
    print(table(json.loads(OUTPUT.read_text(encoding="utf-8"))))


def record() -> None:
    """One run after the other, arms interleaved over seeds."""
    runs = []
    for seed in SEEDS:
        for name, settings in ARMS.items():
            runs.append({"arm": name, "seed": seed} | train(seed, settings))
            machine = {"machine": platform.machine(), "bfloat16": has_bfloat16("cpu")}
            versions = {"date": str(date.today()), "torch": torch.__version__, **machine}
            found = {**versions, "threads": torch.get_num_threads(), "steps": STEPS, "runs": runs}
            OUTPUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def train(seed: int, settings: dict[str, int]) -> dict[str, float]:
    """One arm."""
    recipe = tiny()
    model = replace(recipe.model, **settings)
    with TemporaryDirectory() as folder:
        config = replace(recipe, minutes=None, steps=STEPS, seed=seed, model=model, out=f"{folder}/run")
        result = train_text(config)
        assert result
        last = [r for r in read_metrics(result.run) if r["event"] == "train"][-1]
    return {
        "bits_per_byte": result.evaluation.total.bits_per_byte,
        "seconds": last["seconds"],
        "tokens": last["tokens"],
    }


def table(found: dict) -> str:
    """Markdown: mean and range over seeds."""
    lines = ["| model | bits per byte: mean | lowest | highest | seconds (median) |", "|---|---|---|---|---|"]
    for arm in ARMS:
        bits = [r["bits_per_byte"] for r in found["runs"] if r["arm"] == arm]
        seconds = statistics.median(r["seconds"] for r in found["runs"] if r["arm"] == arm)
        lines.append(
            f"| {arm} | {statistics.mean(bits):.3f} | {min(bits):.3f} | {max(bits):.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
