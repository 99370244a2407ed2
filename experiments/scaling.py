"""What a training step costs each process: the tables of docs/scaling.md, computed and not measured.

python experiments/scaling.py            # prints the tables
python experiments/scaling.py --write    # writes them into docs/scaling.md
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compressive_transformer.model import ModelConfig
from compressive_transformer.recipes import tiny
from compressive_transformer.tasks.info import size_of
from compressive_transformer.train import OptimizerConfig, TrainConfig
from compressive_transformer.train.scaling import Scaling, scaling

DOC = Path(__file__).parents[1] / "docs" / "scaling.md"
PLACES: tuple[tuple[int, str], ...] = (
    *((1, "ddp"), (8, "ddp"), (64, "ddp"), (1000, "ddp")),
    *((8, "fsdp"), (64, "fsdp"), (1000, "fsdp")),
)
COMPUTE = 200e12
"""Assumed: useful flops a second of one process."""
LINKS = {8: 200e9, 1024: 25e9}
"""Assumed: bytes a second that a process sends, if no more processes than this take part."""


@dataclass(frozen=True)
class Case:
    """A model to train, with so many lanes in each process."""

    config: TrainConfig
    vocab_size: int
    lanes: int

    def cost(self, processes: int, **changes: Any) -> Scaling:
        config = replace(self.config, lanes=self.lanes * processes, **changes)
        return scaling(config, vocab_size=self.vocab_size, processes=processes)


def _paper(**shape: Any) -> TrainConfig:
    slots = dict.fromkeys(("segment", "memory", "compressed_memory"), 512)
    model = ModelConfig(**slots, position_features=128, **shape)
    return TrainConfig(steps=1, precision="bfloat16", model=model)


CASES = {
    "demo": Case(replace(tiny(), precision="bfloat16"), 257, 16),
    "40M": Case(_paper(dim=512, num_layers=9, num_heads=8), 257, 16),
    # The paper gives depth, slots and rate; width and heads are those of its WikiText-103 model.
    "PG-19": Case(_paper(dim=1024, num_layers=36, num_heads=16, compression_rate=2), 32_000, 2),
}


def main() -> None:
    """Prints or writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scaling.md")
    if parser.parse_args().write:
        DOC.write_text(filled(DOC.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(table() for table in TABLES.values()))


def filled(text: str) -> str:
    """The document with its tables computed anew."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        text, count = re.subn(pattern, lambda m, t=table: f"{m[1]}\n{t()}\n\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, name
    return text


def models() -> str:
    """What the others are about."""
    rows = []
    for name, case in CASES.items():
        m, cost = case.config.model, case.cost(1)
        slots = f"{m.segment} + {m.memory} + {m.compressed_memory}"
        shape = f"{m.num_layers} × {m.dim}, {slots}, c = {m.compression_rate}"
        rows.append(
            (name, f"{cost.parameters:,}", shape, f"{case.vocab_size:,}", case.lanes, f"{cost.tokens:,}")
        )
    header = (
        "model",
        "parameters",
        "layers × width, slots, rate",
        "V",
        "lanes a process",
        "tokens a process",
    )
    return _markdown(header, rows)


def memory() -> str:
    """Bytes of one process."""
    rows = []
    for name, case in CASES.items():
        for processes, strategy in PLACES:
            if strategy == "ddp" and processes > 8:
                continue  # as for 8
            m = case.cost(processes, parallel=strategy).memory
            where = "alone" if processes == 1 else f"{strategy}, {processes if strategy == 'fsdp' else 'any'}"
            rows.append((name, where, *map(size_of, vars(m).values()), f"**{size_of(m.total)}**"))
    names = vars(CASES["demo"].cost(1).memory)
    return _markdown(("model", "processes", *names, "total"), rows)


def messages() -> str:
    """Bytes, seconds and what takes longest."""
    rows = []
    for name, case in CASES.items():
        for processes, strategy in PLACES:
            cost = case.cost(processes, parallel=strategy)
            compute, update, send = seconds(cost, processes)
            longest = max((compute, "computing"), (update, "Muon"), (send, "links"))[1]
            times = (f"{1000 * x:.3g}" for x in (compute, update, send))
            disk = size_of(cost.checkpoint.whole)
            rows.append((name, strategy, processes, size_of(cost.sent.total), *times, longest, disk))
    header = ("model", "by", "processes", "sent a step", "computing, ms", "Muon, ms", "links, ms", "longest")
    return _markdown((*header, "checkpoint"), rows)


def seconds(cost: Scaling, processes: int) -> tuple[float, float, float]:
    """Of computing, of Muon and of sending, by the assumed speeds."""
    link = next(speed for most, speed in LINKS.items() if processes <= most)
    return cost.flops / COMPUTE, cost.update_flops / COMPUTE, cost.sent.total / link


CHANGES: dict[str, tuple[int, dict[str, Any]]] = {
    "as above": (64, {}),
    "`--recompute`": (64, {"recompute": True}),
    "`--unroll 2`": (64, {"unroll": 2}),
    "`--optimizer.update-period 4`": (64, {"optimizer": OptimizerConfig(update_period=4)}),
    "`--optimizer.name adamw`": (64, {"optimizer": OptimizerConfig(name="adamw")}),
    "`--precision float32`": (64, {"precision": "float32"}),
    "1000 processes": (1000, {}),
    "1024 processes": (1024, {}),
}


def changes() -> str:
    """What one flag does to the largest model."""
    rows = []
    for what, (processes, settings) in CHANGES.items():
        costs = (CASES["PG-19"].cost(processes, parallel=by, **settings) for by in ("ddp", "fsdp"))
        rows.append((what, *(size_of(x) for c in costs for x in (c.memory.total, c.sent.total))))
    return _markdown(("PG-19, 64 processes", "ddp: memory", "sent", "fsdp: memory", "sent"), rows)


def _markdown(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    def lines() -> Iterator[tuple[Any, ...]]:
        yield header
        yield ("---",) * len(header)
        yield from rows

    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in lines())


TABLES = {"models": models, "memory": memory, "messages": messages, "changes": changes}


if __name__ == "__main__":
    main()
