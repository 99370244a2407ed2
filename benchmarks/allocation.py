"""What it is worth to keep the memory that tensors gave back, as ``compressive train`` does.

    python benchmarks/allocation.py --out benchmarks/results/allocation.json
    python benchmarks/allocation.py --recipes wavenet --rounds 1 --steps 2      # tries it in a minute

Steps of recipes on the text or sound that comes with the package, each in a process of its own, with
``keep_freed_memory`` and without, one after the other in rounds. Medians over rounds; the ratio is that
within rounds. Pages are those that the system had to give the process in a step; MB is the most that was
resident.
"""

from __future__ import annotations

import resource
from dataclasses import replace
from statistics import median
from typing import Any

import torch

import harness
from compressive_transformer import LanguageModel
from compressive_transformer.allocator import keep_freed_memory
from compressive_transformer.data import get_tokenizer
from compressive_transformer.recipes import get_recipe
from compressive_transformer.tasks.corpora import load_text
from compressive_transformer.train import Trainer
from compressive_transformer.train.parallel import World

WARM = 3
"""Steps before the clock starts: memory is full then, and all graphs are made."""
RECIPES = ("tiny", "speech", "wavenet")
HEADER = ("ms/step", "kept", "× time", "pages/step", "kept", "MB", "kept")


def main() -> None:
    """Measures, prints a table, writes it down."""
    made = harness.parser(__doc__, (), sizes=False)
    made.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, help="(default: all)")
    made.add_argument("--compile", nargs="+", choices=("off", "on"), default=("off", "on"))
    made.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: 3)")
    made.add_argument("--steps", type=int, default=6, help="in each measurement (default: 6)")
    a = harness.parse(made, child, keep=False)
    cases = [(r, c) for r in a.recipes for c in a.compile if (r, c) != ("wavenet", "on")]
    tasks = {
        (recipe, mode, kept): {"recipe": recipe, "compile": mode, "kept": kept, "steps": a.steps}
        for recipe, mode in cases
        for kept in (False, True)
    }
    found = harness.in_rounds("allocation", tasks, a.rounds, a.threads)
    arms = {
        f"{recipe}, compiled" if mode == "on" else recipe: summary(
            found[recipe, mode, False], found[recipe, mode, True]
        )
        for recipe, mode in cases
    }
    harness.record(a.out, "recipes", harness.about(a), arms)
    harness.show("allocation", ("recipe", *HEADER), [(name, *cells(m)) for name, m in arms.items()])


def child(task: dict[str, Any]) -> dict[str, Any]:
    """One recipe, once."""
    if task["kept"]:
        keep_freed_memory()
    trainer = trainer_of(task["recipe"], compile=task["compile"])
    for _ in range(WARM):
        trainer.train_step(0.0)
    before = pages()
    seconds = [harness.seconds(lambda: trainer.train_step(0.0)) for _ in range(task["steps"])]
    given = (pages() - before) / task["steps"]
    return {"seconds": median(seconds), "pages": given, "peak_mb": harness.peak_mb()}


def trainer_of(recipe: str, **changed: Any) -> Trainer:
    """What trains a recipe, with no end."""
    config = replace(
        get_recipe(recipe, None), **{"minutes": None, "steps": 10**6, "compile": "off"} | changed
    )
    world = World(device=torch.device("cpu"))
    text = load_text(config, get_tokenizer(config.tokenizer), world)
    model = LanguageModel(config.model, vocab_size=text.validation.tokenizer.vocab_size)
    return Trainer(model, text.lanes(world), config)


def pages() -> int:
    """That the system gave this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def summary(returned: list[dict[str, Any]], kept: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, without and with."""
    if failed := [m for m in (*returned, *kept) if "failed" in m]:
        return failed[0]
    pairs = {name: [median(m[name] for m in half) for half in (returned, kept)] for name in kept[0]}
    return pairs | {"ratio": median(k["seconds"] / r["seconds"] for r, k in zip(returned, kept, strict=True))}


def cells(m: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table."""
    if "failed" in m:
        return (m["failed"],)
    time = (*(f"{1000 * s:,.0f}" for s in m["seconds"]), f"{m['ratio']:.2f}")
    return (*time, *(f"{n:,.0f}" for n in m["pages"]), *(f"{n:,.0f}" for n in m["peak_mb"]))


if __name__ == "__main__":
    main()
