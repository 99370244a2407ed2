"""What the default recipe is made of: one thing changed at a time, at equal tokens, on books.

    python experiments/recipe.py --train pg19/train --valid pg19/tune          # trains, writes recipe.json
    python experiments/recipe.py --table                                       # prints its table

Text as bytes, scored on 32 pieces of 8,192 bytes of books that nothing is reported on: here the first ten of
the validation books, in the other experiments the last ten. What is in recipe.json already is not made again.
"""

from typing import Any

from lab import Runs, arm, by_arm, main, markdown, mean

from compressive_transformer.recipes import tiny, tiny_paper
from compressive_transformer.train import TrainConfig

RECIPE = "the recipe"


def whole(base: TrainConfig | None = None, **changes: Any) -> TrainConfig:
    """An arm with as many lanes as the recipe has."""
    return arm(base, **({"lanes": tiny().lanes} | changes))


ARMS = {
    RECIPE: whole(),
    "GELU": whole(model={"activation": "gelu"}),
    "ReLU": whole(model={"activation": "relu"}),
    "queries and keys without norm": whole(model={"qk_norm": False}),
    "GELU, without norm": whole(model={"activation": "gelu", "qk_norm": False}),
    "post-norm": whole(model={"norm": "post", "final_norm": False}),
    "256 position features": whole(model={"position_features": None}),
    "cosine": whole(optimizer={"schedule": "cosine"}),
    "half the rates": whole(optimizer={"lr": 1.5e-3, "muon_lr": 0.01}),
    "twice the rates": whole(optimizer={"lr": 6e-3, "muon_lr": 0.04}),
    "AdamW at 0.001": whole(optimizer={"name": "adamw", "lr": 1e-3}),
    "AdamW at 0.003": whole(optimizer={"name": "adamw", "lr": 3e-3}),
    "8 lanes": whole(lanes=8),
    "16 lanes": whole(lanes=16),
    "64 lanes": whole(lanes=64),
    "16 lanes, segments of 256": whole(lanes=16, model={"segment": 256}),
    "64 lanes, segments of 64": whole(lanes=64, model={"segment": 64}),
    "Transformer-XL, 192 slots": whole(model={"memory": 192, "compressed_memory": 0}),
    "no memory": whole(model={"memory": 0, "compressed_memory": 0}),
    "the paper's parts (tiny-paper)": whole(tiny_paper()),
}


def table(runs: Runs) -> str:
    """By the mean over seeds."""
    bits, steps = by_arm(runs), by_arm(runs, "steps")
    rows = []
    for name, found in bits.items():
        change = f"{mean(found) - mean(bits[RECIPE]):+.3f}" if name != RECIPE else ""
        rows.append([name, f"{mean(found):.3f}", change, f"{steps[name][0]:,}", str(len(found))])
    return markdown(["", "bits per byte", "against the recipe", "steps", "seeds"], rows)


if __name__ == "__main__":
    main(__file__, __doc__, ARMS, table, tokens=1_500_000, seeds=(0,))
