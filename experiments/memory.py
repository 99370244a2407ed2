"""What compressed memory gains over Transformer-XL, where in a text, for which words, at which rate and size.

    python experiments/memory.py --train pg19/train --valid pg19/heldout       # trains, writes memory.json
    python experiments/memory.py --table                                       # prints its tables

Books as bytes, each arm the recipe ``tiny`` at width 128, with 16 lanes and equal tokens, but for what its
name says. Transformer-XL has as many slots, so that attention costs as much; or, to have as many parameters
too, a feed-forward that is wider by as much as a convolution at rate 4 weighs. Scored are 16 pieces of 8,192
bytes from an empty memory on; again with other sizes of memory than in training (the paper's Tables 8 and 9);
the loss by place in the piece, and by how often a word stands in the training text (Table 7); where attention
goes (Figure 2), and the loss of compression segment by segment (Figure 6).
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from lab import Runs, arm, by_arm, main, markdown, mean, spread

from compressive_transformer import LanguageModel
from compressive_transformer.analysis import (
    Part,
    attention_by_bucket,
    loss_by_frequency,
    loss_by_position,
)
from compressive_transformer.data import Corpus, excerpt
from compressive_transformer.data.words import WordTokenizer, count_words
from compressive_transformer.evaluate import evaluate

PIECES, LENGTH = 16, 8192
PLACES = tuple(128 * 2**n for n in range(7))
SIZES = (0, 32, 64, 128, 256)
"""Slots that are tried in evaluation, besides 128 recent ones: compressed, or of a Transformer-XL recent."""
SHAPE = arm().model
RECENT, SLOTS = 128, 192
WIDER = 4 * SHAPE.dim + 4 * SHAPE.dim // 2
"""Two maps of d x 2d more are c d^2 weights at c = 4."""
RATE_4 = "rate 4 (the recipe)"
ARMS = {
    "rate 1": arm(model={"compression_rate": 1}),
    "rate 2": arm(model={"compression_rate": 2}),
    "rate 3": arm(model={"compression_rate": 3}),
    RATE_4: arm(),
    "rate 8": arm(model={"compression_rate": 8}),
    "Transformer-XL, 192 slots": arm(model={"memory": SLOTS, "compressed_memory": 0}),
    "Transformer-XL, 192 slots, as many weights": arm(
        model={"memory": SLOTS, "compressed_memory": 0, "mlp_dim": WIDER}
    ),
    "no memory": arm(model={"memory": 0, "compressed_memory": 0}),
}


def measure(model: LanguageModel, train: Corpus, valid: Corpus) -> dict[str, Any]:
    """All that is shown, as it can be written down."""
    text = excerpt(valid, num_pieces=PIECES, length=LENGTH)
    found = evaluate(model, text, num_rows=PIECES, with_losses=True)
    assert found.losses is not None
    compresses = any(compressed for _, compressed in model.config.layer_sizes())
    remembers = any(recent for recent, _ in model.config.layer_sizes())
    sizes = SIZES if remembers else ()

    def with_slots(size: int) -> float:
        slots = {"compressed_memory": size} if compresses else {"memory": RECENT + size}
        return evaluate(model, text, num_rows=PIECES, **slots).total.bits_per_byte  # pyright: ignore[reportArgumentType]

    return {
        "bits_per_byte": found.total.bits_per_byte,
        "by_position": _bits(loss_by_position(found.losses, PLACES)),
        "by_frequency": _bits(loss_by_frequency(text, found.losses, _vocabulary(train))),
        "by_slots": {str(size): with_slots(size) for size in sizes},
        "attention": attention_by_bucket(model, text),
        "compression": compression_losses(model, text) if compresses else [],
    }


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
    full = (c.memory + c.compression_rate * c.compressed_memory) // c.segment  # pyright: ignore[reportOperatorIssue]
    return [list(layer) for layer in zip(*found[full:], strict=True)]


@cache
def _vocabulary(train: Corpus) -> WordTokenizer:
    data = train.tokenizer.decode(train.tokens[:])
    return WordTokenizer(*count_words([data]), name="words of the training text")


def _bits(parts: list[Part]) -> dict[str, float]:
    return {part.name: part.nats / part.count / 0.6931471805599453 for part in parts if part.count}


def table(runs: Runs) -> str:
    """One table for each question."""
    names = [name for name in ARMS if name in by_arm(runs)]
    bits, parameters = by_arm(runs), by_arm(runs, "parameters")
    rows = [
        [
            name,
            f"{mean(bits[name]):.3f}",
            spread(bits[name]),
            f"{parameters[name][0] / 1e6:.2f} M",
            str(len(bits[name])),
        ]
        for name in names
    ]
    found = [markdown(["", "bits per byte", "range", "parameters", "seeds"], rows)]
    for what, title in (
        ("by_position", "bits per byte at"),
        ("by_frequency", "bits per word that stands in all training books"),
        ("by_slots", "bits per byte with 128 slots in evaluation and"),
    ):
        columns = list(dict.fromkeys(key for run in runs for key in run[what]))
        rows = []
        for name in names:
            values = [[run[what].get(key) for run in runs if run["arm"] == name] for key in columns]
            rows.append([name, *(f"{mean(v):.3f}" if None not in v else "–" for v in values)])
        found.append(markdown([title, *columns], rows))
    return "\n\n".join(found)


if __name__ == "__main__":
    main(__file__, __doc__, ARMS, table, measure=measure, tokens=1_000_000, seeds=(0, 1, 2))
