"""A run that is interrupted and resumed ends as the run that never was: to the last bit, on CPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel
from compressive_transformer.checkpoint import save_tensors
from compressive_transformer.data import Lanes
from compressive_transformer.errors import Stopped
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer
from compressive_transformer.train.faults import Signals
from compressive_transformer.train.state import facts_of, restore, tensors_of
from tiny import SENTENCE, corpus_of, tiny_config

STEPS = 12
RUNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "update period": {"optimizer": OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2)},
    "dropout": {"model": tiny_config(dropout=0.3)},
    "AdamW, documents carried on": {"optimizer": OptimizerConfig(name="adamw"), "reset_documents": False},
    "several segments": {"unroll": 2, "model": tiny_config(compression_loss="none")},
    "most-used": {"model": tiny_config(compressor="most-used")},
    "rate does not divide": {"model": tiny_config(compression_rate=3, compression_loss="auto-encoding")},
    "recomputed": {"recompute": True, "model": tiny_config(dropout=0.3)},
    "everything": {
        "optimizer": OptimizerConfig(update_period=5),
        "model": tiny_config(dropout=0.2, compressor="dilated", positions="separate"),
        "unroll": 2,
        "precision": "bfloat16",
    },
}


class StopAt(Signals):
    """A signal that comes in the midst of a step."""

    def __init__(self, step: int | None):
        self.step = step
        self.trainer: Trainer | None = None

    @property
    def received(self) -> int:
        return 15 if self.trainer and self.trainer.step == self.step else 0


class Recorded(Lanes):
    """Lanes that remember what they gave."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.given: list[Tensor] = []

    def __next__(self):
        batch = super().__next__()
        self.given.append(batch.inputs)
        return batch


def new_trainer(stop_at: int | None = None, *, seed: int = 0, **settings: Any) -> Trainer:
    """As a fresh process makes it; documents end in the midst of batches."""
    settings = {"lanes": 3, "precision": "float32", "steps": STEPS, "model": tiny_config(), **settings}
    config = TrainConfig(**settings)
    torch.manual_seed(seed)
    model = LanguageModel(config.model)
    corpus = corpus_of(SENTENCE * 3, b"short", SENTENCE[::-1] * 2, b"x" * 50)
    lanes = Recorded(
        corpus,
        num_lanes=config.lanes,
        length=config.model.segment * config.unroll,
        seed=config.seed,
        reset_documents=config.reset_documents,
    )
    signals = StopAt(stop_at)
    trainer = Trainer(model, lanes, config, signals=signals)
    signals.trainer = trainer
    return trainer


def whole_state(trainer: Trainer) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in tensors_of(trainer).items()}


def given(trainer: Trainer) -> list[Tensor]:
    assert isinstance(trainer.lanes, Recorded)
    return trainer.lanes.given


def resumed_at(
    cuts: list[int],
    folder: Path,
    change: Callable[[dict[str, Tensor], dict[str, Any]], object],
    **settings: Any,
) -> tuple[Trainer, list[Tensor]]:
    """A trainer at its end that went through a file at each cut, and the batches of all sessions."""
    batches: list[Tensor] = []
    trainer = new_trainer(cuts[0], **settings)
    for this, after in zip(cuts, [*cuts[1:], None], strict=True):
        with pytest.raises(Stopped):
            trainer.run()
        batches += given(trainer)
        tensors, facts = tensors_of(trainer), json.loads(json.dumps(facts_of(trainer)))
        change(tensors, facts)
        save_tensors(folder / str(this), tensors)
        trainer = new_trainer(
            after, seed=this + 1000, **settings
        )  # what it draws at its start must not matter
        restore(trainer, folder / str(this), facts)
    trainer.run()
    return trainer, batches + given(trainer)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not a[name].equal(b[name])]


@pytest.mark.parametrize("cuts", [[1], [4], [5], [7], [11], [2, 3, 9]], ids=str)
@pytest.mark.parametrize("settings", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_is_the_run(tmp_path: Path, settings: dict[str, Any], cuts: list[int]):
    straight = new_trainer(**settings)
    straight.run()
    trainer, batches = resumed_at(cuts, tmp_path, lambda tensors, facts: None, **settings)
    assert differing(whole_state(straight), whole_state(trainer)) == []
    assert all(a.equal(b) for a, b in zip(given(straight), batches, strict=True))
    same = {name: value for name, value in facts_of(straight).items() if name != "seconds"}
    assert same == {name: value for name, value in facts_of(trainer).items() if name != "seconds"}


def without(part: str) -> Callable[[dict[str, Tensor], dict[str, Any]], object]:
    """What a library that forgets a part of the state does."""

    def forget(tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        for name, x in tensors.items():
            if part in name and x.is_floating_point():
                tensors[name] = torch.zeros_like(x)
        if part == "lanes":
            fresh = new_trainer(
                optimizer=OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2)
            )
            state = tensors_of(fresh)["process.0.lanes"]
            tensors["process.0.lanes"] = state
        if part == "random":
            tensors["process.0.random.cpu"] = torch.Generator().manual_seed(5).get_state()
        if part == "step":
            facts[part] = 0

    return forget


@pytest.mark.parametrize(
    "part",
    [
        "memory.layers.0.recent",
        "memory.layers.1.compressed",
        "lanes",
        "random",
        "gradient",
        "optimizer",
        "exp_avg_sq",
        "momentum",
        "step",
    ],
)
def test_a_run_that_forgets_is_another(tmp_path: Path, part: str):
    """The proof above can fail: each part of the state is needed."""
    settings = {
        "optimizer": OptimizerConfig(update_period=4, update_period_from=3, warmup_steps=2),
        "model": tiny_config(dropout=0.3),
    }
    straight = new_trainer(**settings)
    straight.run()
    trainer, _ = resumed_at([5], tmp_path, without(part), **settings)
    a, b = whole_state(straight), whole_state(trainer)
    assert a.keys() != b.keys() or differing(a, b)
