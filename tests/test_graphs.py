"""One graph of kernels for all tokens of a segment: the model's numbers at every place.

Without a GPU, graphs are stood in for by a list of the operations that a step was made of, on the tensors
that it was made with. As in a graph, nothing that Python knew of the step before is known of the next.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressive_transformer import UsageError
from compressive_transformer.generate import generate
from compressive_transformer.model import Decoder
from compressive_transformer.ops import graphs
from test_generate import decoder_is, prompts
from tiny import SHAPES, tiny_model

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "unique", "masked_select")
"""Operations that wait for a GPU, which no graph allows."""


class Operations(TorchDispatchMode):
    """Writes down what is done with which tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, Any, Any, list[Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not func.__name__.startswith(WAITS), func
        if func.__name__.startswith("index"):  # by bools: how many are there?
            assert not any(x.dtype == torch.bool for x in tree_leaves(args[1]) if isinstance(x, Tensor)), func
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        held = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        views = any(x.untyped_storage().data_ptr() in held for x in outputs)
        if func._schema.is_mutable or not views:  # a view is where it was
            self.made.append((func, args, kwargs, [] if func._schema.is_mutable else outputs))
        return out

    def again(self) -> None:
        for func, args, kwargs, outputs in self.made:
            made = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for old, new in zip(outputs, made, strict=bool(outputs)):
                old.copy_(new)


def stand_in(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """As ``graphs.captured``."""
    step()
    with Operations() as operations:
        output = step()
    output.fill_(torch.nan)

    def replay() -> Tensor:
        operations.again()
        return output

    return replay


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Graphs are wanted; as long as what was captured."""
    found, real = [], stand_in if DEVICE.type == "cpu" else graphs.captured

    def captured(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
        found.append(1)
        return real(step, device)

    monkeypatch.setattr(graphs, "wanted", lambda device: True)
    monkeypatch.setattr(graphs, "captured", captured)
    return found


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(("read", "reset"), [(3, False), (29, True)], ids=["", "one row reset"])
def test_a_graph_is_the_model(captures: list[int], shape: dict[str, Any], read: int, reset: bool):
    model = tiny_model(dtype=torch.float64, **shape).to(DEVICE)
    decoder_is(model, read, reset)
    assert captures == [1] * (model.config.compressor != "most-used")


@pytest.mark.parametrize("sizes", [(21, 6), (8, 15), (3, 20)], ids=str)
@pytest.mark.parametrize("positions", ["continued", "time", "separate"])
def test_with_a_larger_memory(captures: list[int], positions: Any, sizes: tuple[int, int]):
    model = tiny_model(dtype=torch.float64, positions=positions, compression_rate=3).to(DEVICE)
    decoder_is(model, 70, memory=sizes[0], compressed_memory=sizes[1])
    assert captures == [1]


def test_rows_begin_documents_between_replays(captures: list[int]):
    model = tiny_model(dtype=torch.float64).to(DEVICE)
    tokens = prompts(3, 50).to(DEVICE)
    resets = torch.rand(3, 50, generator=torch.Generator().manual_seed(0)).to(DEVICE) < 0.1
    with torch.no_grad():
        expected = model(tokens, resets=resets).logits
        features = Decoder(model, model.init_memory(3)).features
        inputs = model.embedding(tokens)
        got = [features.read(*both) for both in zip(inputs.unbind(1), resets.unbind(1), strict=True)]
    torch.testing.assert_close(model.head(torch.stack(got, dim=1)), expected, atol=1e-10, rtol=1e-10)
    assert captures == [1]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_text_is_the_same(monkeypatch: pytest.MonkeyPatch, captures: list[int], precision: Any):
    model, prompt = tiny_model().to(DEVICE), prompts(1, 21).to(DEVICE)
    graphed = list(generate(model, prompt, length=60, seed=3, precision=precision))
    assert captures == [1]
    monkeypatch.setattr(graphs, "wanted", lambda device: False)
    assert graphed == list(generate(model, prompt, length=60, seed=3, precision=precision))


def test_where_graphs_are_wanted(monkeypatch: pytest.MonkeyPatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("COMPRESSIVE_GRAPHS", raising=False)
    assert not graphs.wanted(gpu)
    monkeypatch.setenv("COMPRESSIVE_GRAPHS", "1")
    assert graphs.wanted(gpu)
    assert not graphs.wanted(cpu)
    monkeypatch.setenv("COMPRESSIVE_GRAPHS", "yes")
    with pytest.raises(UsageError, match=r"^COMPRESSIVE_GRAPHS=yes is not known; use 0 or 1$"):
        graphs.wanted(cpu)
