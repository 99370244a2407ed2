"""How long a checkpoint holds training up, and how long it takes to reach the disk.

    python benchmarks/saving.py --out benchmarks/saving.json

Trains a few steps between checkpoints, so that the thread that writes has a training loop beside it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from compressive_transformer import LanguageModel, ModelConfig
from compressive_transformer.data import ByteTokenizer, Corpus, Lanes, embedded_books, read_documents
from compressive_transformer.recipes import tiny
from compressive_transformer.train import TrainConfig, Trainer
from compressive_transformer.train.config import SaveConfig
from compressive_transformer.train.parallel import World
from compressive_transformer.train.saver import Saver
from compressive_transformer.train.state import facts_of, tensors_of

SIZES: dict[str, ModelConfig] = {
    "demo": tiny().model,
    "40M": ModelConfig(dim=512, num_layers=9, num_heads=8, memory=256, compressed_memory=128, segment=128),
}


def measure(config: ModelConfig, folder: Path, rounds: int) -> dict[str, Any]:
    """Medians over some checkpoints."""
    corpus = Corpus.from_documents(read_documents(list(embedded_books())), ByteTokenizer())
    lanes = Lanes(corpus, num_lanes=8, length=config.segment, seed=0)
    trainer = Trainer(LanguageModel(config), lanes, TrainConfig(model=config, lanes=8, steps=10**6))
    saver = Saver(folder, World(device=torch.device("cpu")), SaveConfig(), failed=print)
    steps, held, beside, written = [], [], [], []
    for _ in range(2):
        trainer.train_step(0.1)
    for _ in range(rounds):
        steps.append(seconds(lambda: trainer.train_step(0.1)))
        begun = time.perf_counter()
        held.append(seconds(lambda: saver.save(trainer.step, tensors_of(trainer), facts_of(trainer), None)))
        beside.append(seconds(lambda: trainer.train_step(0.1)))
        saver.wait()
        written.append(time.perf_counter() - begun)
    saver.close()
    size = sum(file.stat().st_size for file in saver.store.path(saver.store.steps()[0]).iterdir())
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "checkpoint_bytes": size,
        "step_seconds": median(steps),
        "held_seconds": median(held),
        "step_beside_writing_seconds": median(beside),
        "written_after_seconds": median(written),
    }


def seconds(job: Any) -> float:
    """Wall-clock time of a call."""
    begun = time.perf_counter()
    job()
    return time.perf_counter() - begun


def main() -> None:
    """Measures, prints a table, writes it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="checkpoints of each size")
    parser.add_argument("--out", type=Path, help="JSON to write")
    arguments = parser.parse_args()
    sizes = {}
    print("| model | parameters | checkpoint | a step | training held | a step meanwhile | on disk within |")
    print("|---|---|---|---|---|---|---|")
    for name, config in SIZES.items():
        with TemporaryDirectory() as folder:
            m = sizes[name] = measure(config, Path(folder), arguments.rounds)
        cells = (f"{m[key] * 1000:,.0f} ms" for key in m if key.endswith("seconds"))
        print(
            f"| {name} | {m['parameters']:,} | {m['checkpoint_bytes'] / 1e6:,.0f} MB | {' | '.join(cells)} |"
        )
    if arguments.out:
        found = {
            "command": "python benchmarks/saving.py --out benchmarks/saving.json",
            "date": date.today().isoformat(),
            "machine": f"{torch.get_num_threads()} threads of {platform.processor() or platform.machine()}",
            "torch": torch.__version__,
            "sizes": sizes,
        }
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
