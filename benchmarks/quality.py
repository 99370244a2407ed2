r"""How well each arm predicts text it has not seen, after equal minutes of training on this machine.

    python benchmarks/quality.py --train pg19/train --valid pg19/heldout --tune pg19/tune \
        --batch 8 32 --out benchmarks/results/quality.json
    python benchmarks/quality.py --train book.txt --valid other.txt --size tiny --minutes 0.05 \
        --sweep-minutes 0.02 --valid-bytes 2000 --arms ours lucidrains             # tries it out

First each library tries each --batch for --sweep-minutes, and with the best of them its learning rates (or
those of --lr); best is what predicts --tune best, or text of the held-out books behind what counts later.
This library has its recipe's batch and rate, chosen by longer runs scored on other books. Then each
trains with each seed for each of --minutes. Scoring takes as long as it takes: it does not count. Every run
is a process of its own, and is written down when it ends; started again with the same --out, only runs that
are missing, that failed, or that had another rate or batch than is best now are made.

The same for all: text as bytes, in lanes that go on where the step before stopped, with the memory carried;
warmup, a linear fall to the end of the minutes, clipping; AdamW, but for arms of ours that say otherwise.
Scored is on pieces that are spread evenly over the held-out texts, each read from an empty memory on.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

import harness
from compressive_transformer.data import ByteTokenizer, Corpus, Lanes, read_documents
from compressive_transformer.errors import UsageError
from compressive_transformer.precision import autocast
from compressive_transformer.train import OptimizerConfig
from compressive_transformer.train.optimizer import learning_rate_factor
from peers import SIZES, Arm, build_arm
from peers.base import train_step
from peers.ours import Ours

TRAINING = 0.8
"""Part of a run's progress bar that is training; the rest is scoring."""
PIECES = 32
"""Of the held-out texts, scored side by side."""
SWEEP_PART = 4
"""The sweep is scored on this part of what counts later."""


def main() -> None:
    """Sweeps, trains, prints a table; what is done is written down at once."""
    made = harness.parser(__doc__)
    made.add_argument("--train", nargs="+", default=[], help="files or folders of text to learn from")
    made.add_argument("--valid", nargs="+", default=[], help="files or folders of text to score")
    made.add_argument("--tune", nargs="+", default=[], help="to choose by (default: what follows in --valid)")
    made.add_argument("--minutes", type=float, nargs="+", default=[4, 10], help="(default: 4 10)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(default: 0 1)")
    made.add_argument("--lr", type=float, nargs="+", help="to try (default: a few for each arm)")
    made.add_argument("--sweep-minutes", type=float, default=1, help="for each learning rate (default: 1)")
    made.add_argument("--batch", type=int, nargs="+", help="segments a step to try (default: of --size)")
    made.add_argument("--valid-bytes", type=int, default=262_144, help="of all books (default: 262144)")
    made.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    a = harness.parse(made, child)
    if not a.train or not a.valid:
        made.error("give text to learn from and text to score: --train FOLDER --valid FOLDER")
    try:
        a.texts = {
            name: Corpus.from_documents(read_documents(paths), ByteTokenizer()).fingerprint
            for name, paths in (("train", a.train), ("valid", a.valid), ("tune", a.tune))
            if paths
        }
    except UsageError as error:
        made.error(str(error))
    runs = Runs(a)
    runs.check()
    for seed in a.seeds:
        for name in a.arms:
            best = runs.best(name)
            for minutes in a.minutes if best else ():
                runs.do(f"{minutes:g} minutes", name, f"seed {seed}", minutes=minutes, seed=seed, **best)
    show(a, runs)


class Runs:
    """What was found, in memory and on disk, and the way to more of it."""

    def __init__(self, a: Any):
        self.a = a
        self.found = harness.load(a.out) if a.out else {}

    def of(self, group: str, name: str) -> dict[str, Any]:
        """The runs of an arm in a group."""
        return self.found.get(f"{self.a.size}/{group}", {}).get("arms", {}).get(name, {})

    def do(self, group: str, name: str, key: str, *, part: int = 1, **settings: Any) -> dict[str, Any]:
        """A run, unless it is there."""
        done = self.of(group, name).get(key, {})
        if "bits_per_byte" in done and all(done[x] == settings[x] for x in ("lr", "batch")):
            return done
        a, title = self.a, f"{name}: {group}, {key}"
        task = {"arm": name, "size": a.size, "train": a.train, "valid": a.valid, "precision": a.precision}
        task |= {"valid_bytes": a.valid_bytes, "part": part} | settings
        if part != 1 and a.tune:
            task |= {"valid": a.tune}
        with harness.bar(title, 1.0) as advance:
            result = harness.measure(task, a.threads, tell=lambda share: advance(at=share))
        said = f"{result['bits_per_byte']:.4f} bits a byte" if "bits_per_byte" in result else result["failed"]
        harness.console.print(f"{title}: {said}")
        about = harness.about(a)
        place = self.found.setdefault(f"{a.size}/{group}", {"about": about, "arms": {}})
        place["about"]["versions"] |= about["versions"]
        place["arms"].setdefault(name, {})[key] = result
        harness.record(a.out, f"{a.size}/{group}", place["about"], place["arms"])
        return result

    def check(self) -> None:
        """Refuses to add to what was made otherwise."""
        for group, place in self.found.items():
            made = place["about"]["settings"]
            for name in ("threads", "precision", "valid_bytes", "sweep_minutes", "texts"):
                if group.startswith(f"{self.a.size}/") and made[name] != getattr(self.a, name):
                    how = "other texts" if name == "texts" else f"--{name.replace('_', '-')} {made[name]}"
                    raise SystemExit(f"{self.a.out} was made with {how}: use that, or another --out")

    def best(self, name: str) -> dict[str, Any]:
        """The batch that does best at the middle rate, and the rate that does best with it; empty if none."""
        arm = build_arm(name, SIZES["tiny"])
        rates = self.a.lr or arm.rates
        batches = arm.batches or self.a.batch or [SIZES[self.a.size].batch]
        middle = sorted(rates)[len(rates) // 2]
        found = self._best_of(name, [{"lr": middle, "batch": batch} for batch in batches])
        return found and self._best_of(name, [found | {"lr": rate} for rate in rates])

    def _best_of(self, name: str, tried: list[dict[str, Any]]) -> dict[str, Any]:
        if len(tried) == 1:
            return tried[0]
        settings: dict[str, Any] = {"minutes": self.a.sweep_minutes, "seed": self.a.seeds[0]}
        scores = []
        for one in tried:
            key = f"lr {one['lr']:g}, batch {one['batch']}"
            scores.append(
                self.do("sweep", name, key, part=SWEEP_PART, **one, **settings).get("bits_per_byte")
            )
        done = [(score, i) for i, score in enumerate(scores) if score is not None]
        return tried[min(done)[1]] if done else {}


def child(task: dict[str, Any]) -> dict[str, Any]:
    """Trains one arm, and scores it. What it compiles, it compiles anew: a user's first run does."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        return run(task)


def run(task: dict[str, Any]) -> dict[str, Any]:
    """What ``child`` does."""
    arm = build_arm(task["arm"], replace(SIZES[task["size"]], batch=task["batch"]))
    if isinstance(arm, Ours):
        arm.compile_for(task["minutes"])
    corpus = Corpus.from_documents(read_documents(task["train"]), ByteTokenizer())
    lanes = Lanes(corpus, num_lanes=arm.lanes, length=arm.length, seed=task["seed"])
    steps, seconds = train(arm, lanes, 60 * task["minutes"], task["lr"], task["precision"])
    books = held_out(task["valid"], task["valid_bytes"], task["part"])
    count, read = books[:, 1:].numel(), 0

    def progress(tokens: int) -> None:
        nonlocal read
        read += tokens
        harness.say(TRAINING + (1 - TRAINING) * read / count)

    with autocast("cpu", task["precision"]):
        nats, half = arm.score(books, progress), torch.is_autocast_enabled("cpu")
    if not math.isfinite(nats):
        raise SystemExit("what it predicts is no number")
    return {
        "bits_per_byte": nats / math.log(2) / count,
        "bytes": count,
        "lr": task["lr"],
        "batch": task["batch"],
        "steps": steps,
        "tokens": steps * arm.lanes * arm.length,
        "seconds": seconds,
        "parameters": arm.parameters,
        "precision": "bfloat16" if half else "float32",
        "text": {"bytes": int(corpus.num_bytes.sum()), "fingerprint": corpus.fingerprint},
    }


def train(arm: Arm, lanes: Lanes, budget: float, rate: float, precision: Any) -> tuple[int, float]:
    """Steps and seconds of training until the budget of seconds is spent."""
    learner, schedule, steps = arm.learner(rate), OptimizerConfig(), 0
    begun = time.perf_counter()
    while (spent := time.perf_counter() - begun) < budget:
        factor = learning_rate_factor(spent / budget, steps, schedule)
        loss = train_step(arm, learner, next(lanes), factor=factor, precision=autocast("cpu", precision))
        if not math.isfinite(float(loss)):
            raise SystemExit(f"the loss is no number at step {steps + 1}")
        steps += 1
        if steps % 10 == 0:
            harness.say(TRAINING * min(spent / budget, 1.0))
    return steps, spent


def held_out(paths: list[str], num_bytes: int, part: int) -> Tensor:
    """int64 [32, 1 + n]: the document token and n bytes of pieces that are spread evenly over all texts.

    If ``part`` is not 1, so small a part of the bytes that follow each piece.
    """
    data = np.frombuffer(b"".join(document.data for document in read_documents(paths)), dtype=np.uint8)
    each, apart = num_bytes // PIECES, len(data) // PIECES
    skip, size = (0, each) if part == 1 else (each, max(each // part, 1))
    if skip + size > apart:
        most = apart * PIECES if part == 1 else int(apart / (1 + 1 / part)) * PIECES
        raise SystemExit(f"the held-out texts have {len(data)} bytes; use --valid-bytes {most} or less")
    rows = np.stack([data[i * apart + skip : i * apart + skip + size] for i in range(PIECES)])
    boundary = torch.full((PIECES, 1), ByteTokenizer().document_token)
    return torch.cat([boundary, torch.from_numpy(rows.astype(np.int64))], dim=1)


def show(a: Any, runs: Runs) -> None:
    """Prints means over seeds."""
    rows = []
    for name in a.arms:
        cells = []
        for minutes in a.minutes:
            done = [run for run in runs.of(f"{minutes:g} minutes", name).values() if "bits_per_byte" in run]
            bits = [run["bits_per_byte"] for run in done]
            cells += [f"{mean(bits):.3f} of {len(bits)}" if bits else "–"]
            cells += [f"{mean(run['steps'] for run in done):,.0f}" if done else "–"]
        rows.append((name, *cells))
    header = [cell for minutes in a.minutes for cell in (f"bits a byte, {minutes:g} min", "steps")]
    harness.show(f"quality, {a.size}", ("arm", *header), rows)


if __name__ == "__main__":
    main()
