"""The formulas against counting: weights, bytes, keys, and how far an input can be felt."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressive_transformer import CompressiveTransformer, ModelConfig
from compressive_transformer.formulas import costs

BASE: dict[str, Any] = {
    "dim": 12,
    "num_heads": 3,
    "num_layers": 2,
    "segment": 6,
    "memory": 12,
    "compressed_memory": 9,
    "compression_rate": 2,
}
CONFIGS: list[dict[str, Any]] = [
    {"compressor": compressor, "compression_loss": loss, "positions": positions}
    for compressor in ("conv", "dilated", "mean", "max", "most-used")
    for loss in ("attention", "auto-encoding", "none")
    for positions in ("continued", "time", "separate")
] + [
    {},
    {"compressed_memory": 0},
    {"compressed_memory": 0, "positions": "separate", "compressor": "most-used"},
    {"memory": 0},
    {"memory": (12, 0), "compressed_memory": (0, 5), "positions": "separate"},
    {"memory": (3, 7), "compressed_memory": (2, 0), "compressor": "most-used"},
    {"compression_rate": 3, "num_layers": 3},
    {"compression_rate": 4, "compression_loss": "auto-encoding"},
    {"compressor": "dilated", "dilations": (1, 3)},
    {"position_features": 4, "positions": "separate"},
    {"mlp_dim": 7},
    {"gating": "gru"},
    {"final_norm": False, "norm": "post"},
    {"faithful": True},
]


def config_of(settings: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**BASE | settings)


def unallocated(settings: dict[str, Any]) -> CompressiveTransformer:
    with torch.device("meta"):
        return CompressiveTransformer(config_of(settings))


def count(*modules: nn.Module | None) -> int:
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_parameters(settings: dict[str, Any]):
    model, told = unallocated(settings), costs(config_of(settings))
    assert told.parameters == count(model)
    compressing = [part for layer in model.layers for part in (layer.compressor, layer.auto_encoding)]
    assert told.compressor_parameters == count(*compressing)


@pytest.mark.parametrize("settings", CONFIGS, ids=str)
def test_bytes_of_the_state(settings: dict[str, Any]):
    assert costs(config_of(settings)).state_bytes == unallocated(settings).init_memory(1).num_bytes()


@pytest.mark.parametrize("settings", CONFIGS[-14:], ids=str)
def test_attention_of_the_last_token_of_a_segment(settings: dict[str, Any]):
    """Counted as the keys with any weight, once memory is full."""
    model = CompressiveTransformer(config_of(settings)).eval()
    with torch.no_grad():
        before = model(torch.randn(1, 119, 12)).memory
        attention = model(torch.randn(1, 1, 12), before, with_attention=True).attention
    assert attention is not None
    keys = sum(int((weights > 0).sum()) for weights in attention)
    missing = sum(int((layer.document[:, :-6] < 0).sum()) for layer in before.layers)
    if config_of(settings).segment % config_of(settings).compression_rate == 0:
        assert missing == 0
    assert keys + missing == costs(config_of(settings)).attention_per_token


def reach(settings: dict[str, Any], at: int) -> int:
    """How far back the furthest input is that changes the output at ``at``, the first of a segment."""
    torch.manual_seed(0)
    model = CompressiveTransformer(config_of(settings)).double().eval()
    inputs = torch.randn(1, at + 1, 12, dtype=torch.float64).expand(at + 1, -1, -1).clone()
    inputs[torch.arange(at), torch.arange(at)] *= -3  # row i has another input i; the last row has none
    with torch.no_grad():
        output: Tensor = model(inputs).features[:, at]
    felt = (output[:-1] - output[-1]).abs().amax(dim=1) > 1e-12
    return at - min(felt.nonzero()[:, 0].tolist(), default=at)


@pytest.mark.parametrize(
    "settings",
    [
        {"compressed_memory": 0},
        {"memory": 0, "compressed_memory": 0},
        {"memory": 0},
        {"memory": 5},
        {"compressor": "mean"},
        {"compressor": "max", "positions": "time"},
        {"compression_rate": 3},
        {"compression_rate": 6, "compressed_memory": 4},
        {"compression_rate": 1},
    ],
    ids=str,
)
def test_temporal_range_of_one_layer_by_experiment(settings: dict[str, Any]):
    settings = settings | {"num_layers": 1}
    # At the beginning of a segment; what the segment itself holds is not reached through memory.
    assert reach(settings, at=60) == costs(config_of(settings)).temporal_range


@pytest.mark.parametrize(
    "settings", [{"compressed_memory": 0}, {"memory": 6, "compressed_memory": 3}], ids=str
)
def test_temporal_range_of_two_layers_by_experiment(settings: dict[str, Any]):
    """Whole segments a layer, so that each layer begins where the other's memory begins."""
    assert reach(settings, at=60) == costs(config_of(settings)).temporal_range
