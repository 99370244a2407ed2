"""How far back a fact can be recalled: a made-up stream, and the share of right answers by distance.

    python experiments/recall.py            # trains, writes recall.json
    python experiments/recall.py --table    # prints its table

In a stream of random filler a fact is said now and then (STORE key value), and once, after a gap, asked for
(ASK key value): the value behind ASK key can be known, and nothing else. Gaps are drawn evenly by their
logarithm, up to a longest one that doubles whenever nearly all answers are right (a curriculum). The loss is
that of the answers alone.

All arms have 2 layers of width 128, segments of 32, and Transformer-XL as many slots (hence bytes of state
and cost of attention) as both tiers of the others, and a feed-forward that is wider by as much as the
convolutions at rate 4 weigh. What the paper promises is a reach of l (n_m + c n_cm); what one layer reaches
by itself is n_m + c n_cm, beyond the window: 288 at rate 4, 544 at rate 8, and 96 slots of Transformer-XL.
"""

from __future__ import annotations

import argparse
import heapq
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from lab import Record, Runs, markdown, mean, parse, shown
from numpy.typing import NDArray
from torch import Tensor

from compressive_transformer import LanguageModel, ModelConfig
from compressive_transformer.precision import autocast
from compressive_transformer.train import OptimizerConfig
from compressive_transformer.train.compiled import compile_layers
from compressive_transformer.train.optimizer import Optimizer, learning_rate_factor

FILLER, KEYS, VALUES = 16, 64, 64
STORE, ASK = FILLER + KEYS + VALUES, FILLER + KEYS + VALUES + 1
VOCABULARY = ASK + 1
STORES = 1 / 24
"""Facts to a token."""
LANES, TOKENS = 16, 256
"""Of a training step: 8 segments of 32, in as many calls as an arm's unroll divides them into. An arm that
unrolls more has as many times fewer lanes."""
BUCKETS = tuple(2**n for n in range(3, 12))
"""Distances are told in parts that begin at 8, 16 ... 2,048."""
FARTHEST = 2 * BUCKETS[-1]
ENOUGH = 0.9
"""Share of right answers at the longest gaps, from which on they double."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A model, and how it learns."""

    model: ModelConfig
    unroll: int
    """Segments through which gradients flow."""


SEGMENT, DIM, RATE = 32, 128, 4
SHAPE = ModelConfig(
    dim=DIM,
    num_layers=2,
    num_heads=4,
    segment=SEGMENT,
    memory=SEGMENT,
    compressed_memory=2 * SEGMENT,
    compression_rate=RATE,
    position_features=64,
)
XL = replace(SHAPE, memory=3 * SEGMENT, compressed_memory=0, mlp_dim=4 * DIM + RATE * DIM // 2)
ARMS = {
    "window only": Arm(model=replace(XL, memory=0), unroll=1),
    "Transformer-XL": Arm(model=XL, unroll=1),
    "Transformer-XL, unrolled": Arm(model=XL, unroll=8),
    "compressive": Arm(model=SHAPE, unroll=1),
    "compressive, unrolled": Arm(model=SHAPE, unroll=8),
    "compressive at rate 8, unrolled twice as far": Arm(
        model=replace(SHAPE, compression_rate=2 * RATE), unroll=16
    ),
    "compressive, unrolled, no other loss": Arm(model=replace(SHAPE, compression_loss="none"), unroll=8),
}


class Stream:
    """One lane: tokens, and of each token that answers how far back the fact was said."""

    def __init__(self, seed: int, longest: float):
        self.random, self.longest = np.random.default_rng(seed), longest
        self.time = 0
        self.asks: list[tuple[int, int, int, int]] = []
        self.free = set(range(KEYS))
        self.tokens: list[int] = []
        self.distances: list[int] = []

    def read(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """So many tokens, and the distance of each answer; 0 where there is none."""
        while len(self.tokens) < count:
            self._say()
        tokens, self.tokens = self.tokens[:count], self.tokens[count:]
        distances, self.distances = self.distances[:count], self.distances[count:]
        return np.array(tokens), np.array(distances)

    def _say(self) -> None:
        if self.asks and self.asks[0][0] <= self.time:
            _, key, value, said = heapq.heappop(self.asks)
            self.free.add(key)
            self._add([ASK, FILLER + key, FILLER + KEYS + value], distance=self.time + 2 - said)
        elif self.free and self.random.random() < STORES:
            key, value = int(self.random.choice(sorted(self.free))), int(self.random.integers(VALUES))
            self.free.remove(key)
            said = self.time + 2
            self._add([STORE, FILLER + key, FILLER + KEYS + value])
            gap = int(np.exp(self.random.uniform(np.log(BUCKETS[0]), np.log(self.longest))))
            heapq.heappush(self.asks, (said + gap, key, value, said))
        else:
            self._add([int(self.random.integers(FILLER))])

    def _add(self, tokens: list[int], distance: int = 0) -> None:
        self.tokens += tokens
        self.distances += [0] * (len(tokens) - 1) + [distance]
        self.time += len(tokens)


class Lanes:
    """Several streams side by side."""

    def __init__(self, count: int, seed: int, longest: float):
        self.streams = [Stream(seed * 1000 + i, longest) for i in range(count)]
        self.last = torch.zeros(count, 1, dtype=torch.int64)

    def read(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, targets (-1 where there is no answer) and distances, each int64 [lanes, count]."""
        rows = [stream.read(count) for stream in self.streams]
        tokens, distances = (torch.from_numpy(np.stack(parts)) for parts in zip(*rows, strict=True))
        inputs = torch.cat([self.last, tokens[:, :-1]], dim=1)
        self.last = tokens[:, -1:]
        return inputs, tokens.where(distances > 0, -1), distances

    def lengthen(self, longest: float) -> None:
        """From now on gaps are up to so long."""
        for stream in self.streams:
            stream.longest = longest


def train(arm: Arm, seed: int, steps: int) -> tuple[LanguageModel, dict[str, Any]]:
    """A model, and the longest gaps that it was taught."""
    torch.manual_seed(seed)
    torch._dynamo.reset()  # or graphs of the arms before count as recompiled
    model = LanguageModel(arm.model, vocab_size=VOCABULARY)
    compile_layers(list(model.core.layers))
    settings = OptimizerConfig()
    length = max(TOKENS, arm.unroll * SEGMENT)
    count = LANES * TOKENS // length
    optimizer, lanes, memory = Optimizer(model, settings), Lanes(count, seed, 32.0), model.init_memory(count)
    longest, right, begun, taught = 32.0, 0.0, time.monotonic(), [(0, 32)]
    for step in range(steps):
        inputs, targets, distances = lanes.read(length)
        optimizer.set_factor(learning_rate_factor(step / steps, step, settings))
        answered = max(int((targets >= 0).sum()), 1)
        hits = asked = 0
        for part in range(0, length, arm.unroll * SEGMENT):
            piece = slice(part, part + arm.unroll * SEGMENT)
            with autocast("cpu", "auto"):
                output = model(inputs[:, piece], memory)
            logits = output.logits.float()
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), targets[:, piece].flatten(), ignore_index=-1, reduction="sum"
            )
            share = arm.unroll * SEGMENT / length
            (loss / answered + share * output.compression_loss).backward()
            memory = output.memory.detach()
            far = distances[:, piece] > longest / 2
            hits += int((logits.argmax(-1) == targets[:, piece])[far].sum())
            asked += int(far.sum())
        optimizer.clip()
        optimizer.step()
        optimizer.clear()
        right = right + 0.05 * (hits / asked - right) if asked else right
        if right > ENOUGH and longest < FARTHEST:
            longest, right = 2 * longest, 0.0
            lanes.lengthen(longest)
            taught.append((step + 1, int(longest)))
    return model, {"seconds": time.monotonic() - begun, "longest": int(longest), "taught": taught}


@torch.no_grad()
def recalled(model: LanguageModel, *, length: int = 32_768, rows: int = 16) -> dict[str, list[int]]:
    """Right answers and questions, by the beginning of the part that the distance is in."""
    model.eval()
    lanes = Lanes(rows, seed=10**6, longest=FARTHEST)
    memory = model.core.with_cache(model.init_memory(rows))
    found = {str(start): [0, 0] for start in BUCKETS}
    for at in range(0, length, SEGMENT):
        inputs, targets, distances = lanes.read(SEGMENT)
        with autocast("cpu", "auto"):
            output = model(inputs, memory)
        memory, right = output.memory, output.logits.argmax(-1) == targets
        if at < FARTHEST:
            continue  # until every distance has had its time
        for start in BUCKETS:
            inside = (distances >= start) & (distances < 2 * start)
            found[str(start)][0] += int(right[inside].sum())
            found[str(start)][1] += int(inside.sum())
    return found


def main() -> None:
    """Trains and records what is missing, or prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM", default=list(ARMS), help="(all)")
    parser.add_argument("--steps", type=int, default=2000, help="of training (default: 2000)")
    a = parse(parser, __file__, seeds=(0, 1, 2))
    if not a.table:
        record(a)
    print(shown(a.out, table))


def record(a: argparse.Namespace) -> None:
    """The runs that are missing, arms side by side for each seed."""
    made = Record(a, {"steps": a.steps})
    for seed in a.seeds:
        for name in a.arms:
            if made.has(ARMS[name], arm=name, seed=seed):
                continue
            model, facts = train(ARMS[name], seed, a.steps)
            facts |= {"recalled": recalled(model), "parameters": sum(p.numel() for p in model.parameters())}
            shares = [f"{hits / max(asked, 1):.2f}" for hits, asked in facts["recalled"].values()]
            print(f"{name}, seed {seed}: {' '.join(shares)}, taught to {facts['longest']}", flush=True)
            made.add(ARMS[name], {"arm": name, "seed": seed} | facts)


def table(runs: Runs) -> str:
    """Shares of right answers, means over seeds."""
    rows = []
    for name in (name for name in ARMS if any(run["arm"] == name for run in runs)):
        mine = [run for run in runs if run["arm"] == name]
        cells = []
        for start in map(str, BUCKETS):
            shares = [run["recalled"][start][0] / max(run["recalled"][start][1], 1) for run in mine]
            cells.append(f"{mean(shares):.0%}")
        taught = ", ".join(f"{longest:,}" for longest in sorted({run["longest"] for run in mine}))
        rows.append([name, *cells, taught, f"{mine[0]['parameters'] / 1e3:,.0f} k", str(len(mine))])
    header = ["distance from", *(f"{start:,}" for start in BUCKETS), "taught to", "parameters", "seeds"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
