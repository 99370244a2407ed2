"""What compressed memory gains over Transformer-XL, where in a text, for which words, and at which rate.

    python experiments/memory.py --train pg19/train --valid pg19/heldout       # trains, writes memory.json
    python experiments/memory.py --table                                       # prints its tables

Books as bytes, each arm the recipe ``tiny`` at width 128, with 16 lanes and equal tokens, but for what its
name says. Transformer-XL has as many slots, so that attention costs as much; or, to have as many parameters
too, a feed-forward that is wider by as much as a convolution at rate 4 weighs. Scored are 16 pieces of 8,192
bytes from an empty memory on: in all, by place in the piece, and by how often a word stands in the training
text (the paper's Table 7).
"""

from functools import cache
from typing import Any

from lab import Runs, arm, by_arm, main, markdown, mean, spread

from compressive_transformer import LanguageModel
from compressive_transformer.analysis import Part, loss_by_frequency, loss_by_position
from compressive_transformer.data import Corpus, excerpt
from compressive_transformer.data.words import WordTokenizer, count_words
from compressive_transformer.evaluate import evaluate

PIECES, LENGTH = 16, 8192
PLACES = tuple(128 * 2**n for n in range(7))
SHAPE = arm().model
SLOTS = 192
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


def measure(
    model: LanguageModel,
    train: Corpus,
    valid: Corpus,
    *,
    memory: int | None = None,
    compressed_memory: int | None = None,
) -> dict[str, Any]:
    """The score of pieces of a text, in all and in parts.

    Args:
        memory, compressed_memory: slots, if they are to be others than in training.
    """
    text = excerpt(valid, num_pieces=PIECES, length=LENGTH)
    found = evaluate(
        model,
        text,
        num_rows=PIECES,
        with_losses=True,
        memory=memory,
        compressed_memory=compressed_memory,
    )
    assert found.losses is not None
    return {
        "bits_per_byte": found.total.bits_per_byte,
        "by_position": _bits(loss_by_position(found.losses, PLACES)),
        "by_frequency": _bits(loss_by_frequency(text, found.losses, _vocabulary(train))),
    }


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
    whole = markdown(["", "bits per byte", "range", "parameters", "seeds"], rows)
    return "\n\n".join([whole, *in_parts(runs, names)])


def in_parts(runs: Runs, names: list[str]) -> list[str]:
    """Tables of the score by place and by frequency."""
    found = []
    for what, title in (
        ("by_position", "bits per byte at"),
        ("by_frequency", "bits per word, by how often it stands in the training books"),
    ):
        columns = list(dict.fromkeys(key for run in runs for key in run[what]))
        rows = [
            [
                name,
                *(f"{mean([run[what][key] for run in runs if run['arm'] == name]):.3f}" for key in columns),
            ]
            for name in names
        ]
        found.append(markdown([title, *columns], rows))
    return found


if __name__ == "__main__":
    main(__file__, __doc__, ARMS, table, measure=measure, tokens=1_000_000, seeds=(0, 1, 2))
