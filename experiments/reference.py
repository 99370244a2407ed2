r"""The model that comes with the package, and a Transformer-XL of equal attention cost, on whole books.

    OMP_NUM_THREADS=1 compressive train --data pg19/train --out runs/compressive --minutes 70 &
    OMP_NUM_THREADS=1 compressive train --data pg19/train --out runs/transformer-xl --minutes 70 \
        --model.memory 192 --model.compressed-memory 0 --model.mlp-dim 1536
    python experiments/reference.py runs/compressive runs/transformer-xl --test pg19/test
    python experiments/reference.py runs/compressive --pack "one thread of an Intel Xeon with AMX"
    python experiments/reference.py --table

Both train at the same time for the same time, a processor each, so that their cost is the same whatever the
machine does besides. The wider feed-forward of Transformer-XL weighs as much as the convolutions. Scored are
all bytes of each test book, from an empty memory on; words are what stands between spaces. --pack makes a run
the one that comes with the package, and says in its card where it was trained.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from lab import Record, Runs, markdown, parse, shown
from safetensors.torch import load_file

from compressive_transformer.checkpoint import (
    CONFIG,
    REFERENCE_FOLDER,
    WEIGHTS,
    load_run,
    save_weights,
)
from compressive_transformer.data import prepare
from compressive_transformer.evaluate import evaluate
from compressive_transformer.storage import read_json, write_json
from compressive_transformer.train.log import METRICS, read_metrics

EVERY = 10
"""One of so many training records goes into the package."""


def main() -> None:
    """Scores and records what is missing, packs, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="run folders")
    parser.add_argument("--test", nargs="+", help="files or folders of text to score")
    parser.add_argument("--pack", metavar="WHERE", help="make the one run the package's")
    a = parse(parser, __file__, seeds=(0,))
    if a.pack:
        if len(a.runs) != 1:
            parser.error("give the one run to pack")
        scored = [run for run in json.loads(a.out.read_text())["runs"] if run["arm"] == a.runs[0].name]
        if not scored:
            parser.error(f"{a.runs[0].name} is not in {a.out}; score it first")
        pack(a.runs[0], scored[0], a.pack)
        return
    if not a.table:
        if not a.runs or not a.test:
            parser.error("give runs and --test, or --table")
        record(a)
    print(shown(a.out, table))


def record(a: argparse.Namespace) -> None:
    """Scores each run that is missing."""
    test = prepare(a.test, load_run(a.runs[0]).tokenizer)
    made = Record(a, {"test": test.fingerprint, "books": list(test.names)})
    for path in a.runs:
        config = read_json(path / CONFIG)
        if not made.has(config, arm=path.name):
            made.add(config, {"arm": path.name} | measured(path, test))


def measured(path: Path, test: Any) -> dict[str, Any]:
    """How a run was trained, and its scores."""
    model = load_run(path).model
    model.load_state_dict({name: x.bfloat16() for name, x in model.state_dict().items()})  # as it is packed
    found = evaluate(model, test, num_rows=16)
    print(f"{path.name}: {found.total.bits_per_byte:.4f} bits a byte", flush=True)
    last = [record for record in read_metrics(path) if record["event"] == "train"][-1]
    return {name: last[name] for name in ("step", "tokens", "seconds")} | {
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_byte": found.total.bits_per_byte,
        "word_perplexity": found.total.word_perplexity,
        "bytes": found.total.num_bytes,
        "words": found.total.num_words,
        "books": {document.name: document.bits_per_byte for document in found.documents},
    }


CARD = Path(__file__).with_name("reference_card.md")


def pack(path: Path, scored: dict[str, Any], where: str) -> None:
    """Puts config, weights in bfloat16, a thinned log and a model card into the package."""
    folder = REFERENCE_FOLDER
    folder.mkdir(exist_ok=True)
    config = read_json(path / CONFIG)
    training = config["training"]
    for name in ("data", "validation"):
        training[name] = [Path(text).name for text in training[name]]
    training["out"] = None
    write_json(folder / CONFIG, config)
    save_weights(folder, {name: x.to(torch.bfloat16) for name, x in load_file(path / WEIGHTS).items()})
    steps = 0
    with (folder / METRICS).open("w", encoding="utf-8") as file:
        for kept in read_metrics(path):
            if kept["event"] == "train":
                steps += 1
                if steps % EVERY:
                    continue
            if kept["event"] != "saved":
                file.write(json.dumps(kept) + "\n")
    card = CARD.read_text(encoding="utf-8").format(
        millions=scored["parameters"] / 1e6,
        tokens=scored["tokens"],
        minutes=scored["seconds"] / 60,
        steps=scored["step"],
        where=where,
        command=f"OMP_NUM_THREADS=1 compressive train --data pg19/train {budget_of(training)}",
        bits=scored["bits_per_byte"],
        perplexity=scored["word_perplexity"],
        bytes=scored["bytes"],
        books=", ".join(sorted(Path(name).stem for name in scored["books"])),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    load_run(folder)


def budget_of(training: dict[str, Any]) -> str:
    """As a flag."""
    budget = next(name for name in ("minutes", "steps", "tokens") if training[name] is not None)
    return f"--{budget} {training[budget]:g}"


def table(runs: Runs) -> str:
    """A row for each model."""
    rows = [
        [
            run["arm"],
            f"{run['bits_per_byte']:.3f}",
            f"{run['word_perplexity']:,.1f}",
            f"{run['tokens'] / 1e6:.1f} M",
            f"{run['seconds'] / 60:.0f}",
            f"{run['parameters'] / 1e6:.2f} M",
        ]
        for run in runs
    ]
    header = ["", "bits per byte", "perplexity per word", "bytes trained on", "minutes", "parameters"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
