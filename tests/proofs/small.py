"""Small random models and streams in float64, and what the proofs ask of them."""

from typing import Any

import torch
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor

from compressive_transformer import CompressiveTransformer, Memory

SMALL: dict[str, Any] = {
    "dim": 4,
    "num_heads": 2,
    "num_layers": 2,
    "mlp_dim": 5,
    "segment": 4,
    "memory": 6,
    "compressed_memory": 3,
    "compression_rate": 2,
    "dilations": (1, 2),
}
COMPRESSORS = ("conv", "dilated", "mean", "max", "most-used")
EXACT = 1e-10
"""Tolerance of sums that are added up in another order."""


def examples(number: int):
    """How hypothesis runs here: the same few examples each time, however slow the machine is."""
    return hypothesis_settings(max_examples=number, deadline=None, derandomize=True, database=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(
    *, seed: int = 0, dtype: torch.dtype = torch.float64, input_dim: int | None = None, **settings: Any
) -> CompressiveTransformer:
    """A model of which every parameter is random, in training mode."""
    model, random = CompressiveTransformer(input_dim=input_dim, **SMALL | settings).to(dtype), generator(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.5, generator=random)
            if name.endswith("norm.weight"):
                parameter += 1
    return model


def stream(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=generator(seed))


def some_resets(batch: int, length: int, seed: int, share: float = 0.1) -> Tensor:
    return torch.rand(batch, length, generator=generator(seed)) < share


def tensors(memory: Memory) -> list[Tensor]:
    return [x for layer in memory.layers for x in layer if x is not None] + [memory.document]


def assert_same(got: Tensor, expected: Tensor, tolerance: float = 0) -> None:
    """Equal to the bit, or within the tolerance."""
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


def assert_same_memory(got: Memory, expected: Memory, tolerance: float = 0) -> None:
    """The same in every slot, document and count."""
    assert got.position == expected.position
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        assert_same(a, b, tolerance)


@st.composite
def shapes(draw: st.DrawFn, **fixed: Any) -> dict[str, Any]:
    """Settings of any small model; ``fixed`` ones are not drawn."""
    segment, rate = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    least = rate - 1 if segment % rate else 0
    drawn = {
        "segment": segment,
        "compression_rate": rate,
        "memory": (draw(st.integers(least, 6)), draw(st.integers(least, 6))),
        "compressed_memory": (draw(st.integers(0, 4)), draw(st.integers(0, 4))),
        "compressor": draw(st.sampled_from(COMPRESSORS)),
        "compression_loss": draw(st.sampled_from(["attention", "auto-encoding"])),
        "positions": draw(st.sampled_from(["continued", "time", "separate"])),
        "position_features": draw(st.sampled_from([None, 2])),
        "norm": draw(st.sampled_from(["pre", "post"])),
        "final_norm": draw(st.booleans()),
        "activation": draw(st.sampled_from(["relu2", "gelu", "relu"])),
        "qk_norm": draw(st.booleans()),
        "faithful": draw(st.booleans()),
        "dilations": draw(st.sampled_from([(1,), (2,), (1, 2)])),
    } | fixed
    if drawn["faithful"] and drawn["compressor"] == "dilated":
        drawn["compression_loss"] = "attention"  # rows that are lost can't be rebuilt
    return drawn


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[int]:
    """Lengths of the ragged pieces that a stream of this length is fed in."""
    pieces = []
    while sum(pieces) < length:
        pieces.append(draw(st.integers(1, min(9, length - sum(pieces)))))
    return pieces
