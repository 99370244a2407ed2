"""Compiled layers give what the others give, and are compiled once."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.data import Lanes
from compressive_transformer.recipes import wavenet
from compressive_transformer.train import OptimizerConfig, TrainConfig, Trainer, compiled
from compressive_transformer.train.compiled import is_compiled
from tiny import SENTENCE, corpus_of, tiny_config

CPU = torch.device("cpu")
# Dynamo looks at the gradients of tensors that are no leaves, and hides the warning from logs only.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")


def trained(compile_: str, steps: int = 7, **settings: Any) -> Trainer:
    settings = {"model": tiny_config(), "optimizer": OptimizerConfig(name="adamw"), **settings}
    config = TrainConfig(lanes=3, precision="float32", steps=steps, compile=compile_, **settings)  # pyright: ignore
    torch.manual_seed(0)
    lanes = Lanes(corpus_of(SENTENCE * 3, b"short", SENTENCE[::-1] * 2), num_lanes=3, length=8, seed=0)
    trainer = Trainer(LanguageModel(config.model).double(), lanes, config)
    trainer.run()
    return trainer


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def through(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    whole = torch.compile
    monkeypatch.setattr(compiled.torch, "compile", lambda f, **options: whole(f, backend=backend, **options))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "settings",
    [{}, {"model": tiny_config(compressor="dilated", positions="separate"), "recompute": True}],
    ids=["plain", "dilated, recomputed"],
)
def test_compiled_training_is_training(
    settings: dict[str, Any], backend: str, monkeypatch: pytest.MonkeyPatch
):
    """Weights and memory at the end: outputs, gradients and shifts are all in these."""
    through(monkeypatch, backend)
    a, b = (trained(how, **settings) for how in ("off", "on"))
    for name, x in a.model.state_dict().items():
        torch.testing.assert_close(b.model.state_dict()[name], x, rtol=1e-8, atol=1e-9, msg=name)
    for x, y in zip(a.memory.layers, b.memory.layers, strict=True):
        for p, q in zip(x[:4], y[:4], strict=True):
            torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rate", [4, 3])
def test_one_graph_for_all_layers_and_steps(monkeypatch: pytest.MonkeyPatch, rate: int):
    """As many for each phase, if the rate does not divide the segment."""
    counter = CompileCounterWithBackend("aot_eager")
    through(monkeypatch, counter)
    trained("on", 24, model=tiny_config(num_layers=3, compression_rate=rate))
    assert 1 <= counter.frame_count <= math.lcm(8, rate) // 8


@pytest.mark.parametrize(
    ("settings", "graphs"),
    [
        ({"compression_rate": 11, "memory": 11}, 11),
        ({"core": "wavenet", "num_layers": 10, "memory": tuple(range(1, 11)), "compressed_memory": 0}, 10),
    ],
    ids=["a rate that does not divide the segment", "a WaveNet of many dilations"],
)
def test_more_graphs_than_torch_allows_by_itself(
    settings: dict[str, Any], graphs: int, monkeypatch: pytest.MonkeyPatch
):
    counter = CompileCounterWithBackend("aot_eager")
    through(monkeypatch, counter)
    with torch._dynamo.config.patch(recompile_limit=8):
        trained("on", 24, model=tiny_config(**settings))
    assert counter.frame_count == graphs > 8


def test_scores_do_not_compile(monkeypatch: pytest.MonkeyPatch):
    through(monkeypatch, "aot_eager")
    trainer = trained("on", 1)
    count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trainer.model.eval()
    with torch.no_grad():
        trainer.model(torch.zeros(5, 3, dtype=torch.int64))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == count


def test_auto_compiles_long_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compiled, "_has_compiler", lambda: True)
    assert is_compiled(TrainConfig(minutes=4), CPU)
    assert not is_compiled(TrainConfig(minutes=3), CPU)
    assert not is_compiled(TrainConfig(steps=10**9), CPU)  # nobody knows how long that is
    assert not is_compiled(TrainConfig(minutes=90, compile="off"), CPU)
    assert not is_compiled(replace(wavenet(), minutes=90), CPU)
    assert is_compiled(replace(wavenet(), compile="on"), CPU)
    monkeypatch.setattr(compiled, "_has_compiler", lambda: False)
    assert not is_compiled(TrainConfig(minutes=90), CPU)
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        is_compiled(TrainConfig(minutes=90, compile="on"), CPU)
