"""The model equals the oracle: outputs, memory, losses, usage and attention, call by call."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from oracle import EMPTY, LayerState, Oracle, Slot, Stream, empty, mean_loss
from small import cuts, examples, shapes, small, some_resets, stream
from torch import Tensor

from compressive_transformer import CompressiveTransformer
from compressive_transformer.memory import LayerMemory

THEIRS = {"final_norm": False, "activation": "relu", "qk_norm": False}
CASES: dict[str, dict[str, Any]] = {
    "conv": {},
    "conv, auto-encoding": {"compression_loss": "auto-encoding"},
    "dilated": {"compressor": "dilated"},
    "dilated, auto-encoding": {"compressor": "dilated", "compression_loss": "auto-encoding"},
    "dilated, loses rows": {"compressor": "dilated", "segment": 6, "faithful": True},
    "mean": {"compressor": "mean"},
    "max": {"compressor": "max"},
    "most-used": {"compressor": "most-used"},
    "rate 1": {"compression_rate": 1},
    "rate 4, the segment": {"compression_rate": 4},
    "rate 3 does not divide segment 4": {"compression_rate": 3},
    "rate 3, auto-encoding": {"compression_rate": 3, "compression_loss": "auto-encoding"},
    "rate 3, dilated": {"compression_rate": 3, "compressor": "dilated"},
    "rate 3, mean": {"compression_rate": 3, "compressor": "mean"},
    "rate 3, max": {"compression_rate": 3, "compressor": "max"},
    "rate 3, most-used": {"compression_rate": 3, "compressor": "most-used"},
    "rate 3, zeros seen": {"compression_rate": 3, "faithful": True},
    "rate 5 > segment 3": {"compression_rate": 5, "segment": 3, "memory": 4},
    "memory 2 < segment 4": {"memory": 2},
    "memory 2, rate 3": {"memory": 2, "compression_rate": 3},
    "memory 2, most-used": {"memory": 2, "compressor": "most-used"},
    "no recent memory": {"memory": 0},
    "one slot": {"compressed_memory": 1},
    "Transformer-XL": {"compressed_memory": 0},
    "Transformer-XL, window alone": {"compressed_memory": 0, "memory": 0},
    "sizes by layer": {"memory": (3, 8), "compressed_memory": (5, 2)},
    "one layer compresses": {"memory": (6, 2), "compressed_memory": (0, 3), "positions": "separate"},
    "zeros seen": {"faithful": True},
    "zeros seen, post-norm": {"faithful": True, "norm": "post"},
    "zeros seen, mean": {"faithful": True, "compressor": "mean"},
    "zeros seen, max": {"faithful": True, "compressor": "max"},
    "zeros seen, most-used": {"faithful": True, "compressor": "most-used"},
    "the authors": {
        "faithful": True,
        "positions": "separate",
        "final_norm": False,
        "activation": "relu",
        "qk_norm": False,
    },
    "the paper": {"norm": "post", "final_norm": False, "activation": "relu", "qk_norm": False},
    "post-norm, most-used": {"norm": "post", "compressor": "most-used"},
    "places in time": {"positions": "time"},
    "places in time, rate 3": {"positions": "time", "compression_rate": 3},
    "separate places": {"positions": "separate"},
    "few sinusoids": {"position_features": 2},
    "few sinusoids, separate": {"position_features": 2, "positions": "separate"},
    "one head": {"num_heads": 1},
    "three layers": {"num_layers": 3},
}
PIECES = [3, 6, 1, 7, 2, 8]
RESETS = [9, 18, 19]
"""Where row 1 begins a document, the first in the middle of a group of rows; row 0 never does."""


class Pair:
    """The model and the oracle side by side: one Memory, and as many streams as it has rows."""

    def __init__(self, model: CompressiveTransformer, batch: int, position: int = 0, **sizes: Any):
        weights = {name: w.numpy() for name, w in model.state_dict().items()}
        self.model, self.oracle = model, Oracle(model.config, weights)
        self.memory = model.init_memory(batch, position=position, **sizes)
        layers = [layer.sizes for layer in self.memory.layers]
        self.streams = [self.oracle.begin(position, [(M, C) for C, M, _ in layers]) for _ in range(batch)]

    def read(self, x: Tensor, resets: Tensor) -> None:
        """Reads a piece with both, and compares all that they give."""
        segments = len(self.streams[0].errors)
        for row in self.streams:
            for state in row.layers:
                state.attention.clear()
        if self.model.config.faithful:  # takes resets between calls only
            resets = resets & (torch.arange(resets.shape[1]) == 0)
            self.memory = self.memory.reset(resets[:, 0])
        expected = [self._read_row(*row) for row in zip(self.streams, x, resets, strict=True)]
        output = self.model(
            x, self.memory, None if self.model.config.faithful else resets, with_attention=True
        )
        self.memory = output.memory.detach()
        self.compare("outputs", output.features, expected)
        loss = mean_loss(self.streams, segments, len(self.model.layers))
        self.compare("losses", output.compression_losses, loss)
        assert output.attention is not None
        for i, layer in enumerate(self.memory.layers):
            states = [stream.layers[i] for stream in self.streams]
            self.compare_layer(layer, states)
            for j, attention in enumerate(output.attention[i].tolist()):
                shares = [state.attention.get(j, 0.0) / x.shape[1] for state in states]
                self.compare("attention", attention, np.mean(shares))
        assert self.memory.position == self.streams[0].position
        assert self.memory.document.tolist() == [stream.document for stream in self.streams]

    def _read_row(self, stream: Stream, x: Tensor, resets: Tensor) -> list[np.ndarray]:
        outputs = []
        for token, reset in zip(x.numpy(), resets.tolist(), strict=True):
            if reset:
                self.oracle.reset(stream)
            outputs.append(self.oracle.read(stream, token))
        return outputs

    def compare_layer(self, layer: LayerMemory, states: list[LayerState]) -> None:
        rows = [padded(state, layer) for state in states]
        assert layer.document.tolist() == [[slot.document for slot in row] for row in rows]
        slots = torch.cat([layer.compressed, layer.recent, layer.window], dim=1)
        self.compare("memory", slots, [[slot.vector for slot in row] for row in rows])
        if layer.usage is not None:
            filled = (layer.document != EMPTY)[:, layer.sizes[0] :]
            used = [[(s.received, s.readers) for s in row[layer.sizes[0] :]] for row in rows]
            self.compare("usage", layer.usage[filled], np.array(used)[filled.numpy()])

    def compare(self, what: str, got: Any, expected: Any) -> None:
        got = got.detach().numpy() if isinstance(got, Tensor) else got
        assert_allclose(got, np.reshape(expected, np.shape(got)), atol=1e-10, rtol=0, err_msg=what)


def padded(state: LayerState, layer: LayerMemory) -> list[Slot]:
    """All C + M + N slots: the recent memory is filled from the right, the window from the left."""
    _, M, N = layer.sizes
    nothing = empty(layer.window.shape[2])
    recent = [nothing] * (M - len(state.recent)) + state.recent
    return state.compressed + recent + state.window + [nothing] * (N - len(state.window))


@pytest.mark.parametrize("name", CASES)
def test_model_equals_oracle(name):
    pair = Pair(small(**CASES[name]), batch=2)
    x, resets = stream(2, sum(PIECES), 4), torch.zeros(2, sum(PIECES), dtype=torch.bool)
    resets[1, RESETS] = True
    for piece, reset in zip(x.split(PIECES, dim=1), resets.split(PIECES, dim=1), strict=True):
        pair.read(piece, reset)
    assert all(state.forgotten for state in pair.streams[0].layers if state.C), "memory never overflowed"


def test_features_enter_through_a_linear_map():
    for faithful in (False, True):
        pair = Pair(small(input_dim=3, faithful=faithful), batch=1)
        pair.read(stream(1, 20, 3), torch.zeros(1, 20, dtype=torch.bool))


@examples(40)
@given(
    settings=shapes(),
    sizes=st.sampled_from([{}, {"memory": 7, "compressed_memory": 5}]),
    position=st.integers(0, 11),
    pieces=cuts(24),
    seed=st.integers(0, 2**16),
)
def test_any_model_equals_oracle(settings, sizes, position, pieces, seed):
    model = small(seed=seed, **settings)
    if 0 in settings["compressed_memory"]:
        sizes = {}  # a layer without a compressor can't be given compressed memory
    pair = Pair(model, 2, position, **sizes)
    x, resets = stream(2, sum(pieces), 4, seed=seed), some_resets(2, sum(pieces), seed)
    for piece, reset in zip(x.split(pieces, dim=1), resets.split(pieces, dim=1), strict=True):
        pair.read(piece, reset)
