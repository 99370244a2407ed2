"""What the model that comes with the package does with memories of other sizes than it learnt with.

    python experiments/sizes.py --train pg19/train --valid pg19/heldout    # reads, writes sizes.json
    python experiments/sizes.py --table                                    # prints its tables

The paper's Tables 8 and 9 in small: nothing is trained, memory is enlarged or taken away in evaluation. The
score is that of ``experiments/memory.py``: in all, by place, and by how often a word stands in the training
text. Beside it, where attention goes (Figure 2), and the loss of compression in each layer (Figure 6).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from lab import Record, Runs, markdown, parse, shown
from memory import LENGTH, PIECES, in_parts, measure

from compressive_transformer import LanguageModel
from compressive_transformer.analysis import attention_by_bucket
from compressive_transformer.checkpoint import load_run
from compressive_transformer.data import ByteTokenizer, Corpus, excerpt, prepare

LEARNT = "128 + 64, as in training"
SIZES = {
    "no memory": (0, 0),
    "128 + 0": (128, 0),
    "128 + 32": (128, 32),
    LEARNT: (128, 64),
    "128 + 128": (128, 128),
    "128 + 256": (128, 256),
    "192 + 0": (192, 0),
    "256 + 64": (256, 64),
}
"""Recent and compressed slots of each layer, at rate 4."""


def main() -> None:
    """Reads and records what is missing, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", nargs="+", help="files or folders of text, to count words in")
    parser.add_argument("--valid", nargs="+", help="files or folders of text to score")
    a = parse(parser, __file__, seeds=(0,))
    if not a.table:
        if not a.train or not a.valid:
            parser.error("give --train and --valid, or --table")
        record(a)
    print(shown(a.out, table))


def record(a: argparse.Namespace) -> None:
    """The sizes that are missing."""
    train, valid = (prepare(paths, ByteTokenizer()) for paths in (a.train, a.valid))
    made = Record(a, {"train": train.fingerprint, "valid": valid.fingerprint})
    model = load_run().model
    for name, (recent, compressed) in SIZES.items():
        config = {"memory": recent, "compressed_memory": compressed}
        if made.has(config, arm=name):
            continue
        facts = measure(model, train, valid, **config)
        if name == LEARNT:
            text = excerpt(valid, num_pieces=PIECES, length=LENGTH)
            facts |= {
                "attention": attention_by_bucket(model, text),
                "compression": compression_losses(model, text),
            }
        print(f"{name}: {facts['bits_per_byte']:.4f}", flush=True)
        made.add(config, {"arm": name} | facts)


@torch.no_grad()
def compression_losses(model: LanguageModel, text: Corpus) -> list[list[float]]:
    """Of each layer, the loss of compressing each segment of the first piece once memory is full."""
    model.train()  # reading alone needs no such loss; there is no dropout here
    tokens = torch.from_numpy(np.asarray(text.document(0)).astype(np.int64))[None]
    memory, found = model.init_memory(1), []
    for segment in tokens.split(model.config.segment, dim=1):
        output = model(segment, memory)
        memory = output.memory
        found.append(output.compression_losses.tolist())
    c = model.config
    full = max(m + c.compression_rate * n for m, n in c.layer_sizes()) // c.segment
    return [list(layer) for layer in zip(*found[full:], strict=True)]


def table(runs: Runs) -> str:
    """The score with each size, in all and in parts."""
    by_size: dict[str, dict[str, Any]] = {run["arm"]: run for run in runs}
    names = [name for name in SIZES if name in by_size]
    learnt = by_size[LEARNT]["bits_per_byte"] if LEARNT in by_size else float("nan")
    rows = [
        [name, f"{by_size[name]['bits_per_byte']:.3f}", f"{by_size[name]['bits_per_byte'] - learnt:+.3f}"]
        for name in names
    ]
    header = ["slots in evaluation, recent + compressed", "bits per byte", "against training's"]
    return "\n\n".join([markdown(header, rows), *in_parts(runs, names)])


if __name__ == "__main__":
    main()
