"""The gate between stream and sub-layer, against its equations."""

import numpy as np
import torch

from compressive_transformer import CompressiveTransformer
from compressive_transformer.nn.gate import Gate
from tiny import TINY


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_it_computes_the_equations():
    torch.manual_seed(0)
    gate = Gate(4).double()
    stream, made = torch.randn(2, 4, dtype=torch.float64)
    x, y = stream.numpy(), np.maximum(made.numpy(), 0)
    weights = {name: p.detach().numpy() for name, p in gate.named_parameters()}
    w_r, w_z, w_h = np.split(weights["made.weight"], 3)
    u_r, u_z = np.split(weights["stream.weight"], 2)
    r = sigmoid(w_r @ y + u_r @ x)
    z = sigmoid(w_z @ y + u_z @ x - weights["bias"])
    h = np.tanh(w_h @ y + weights["chosen.weight"] @ (r * x))
    np.testing.assert_allclose(gate(stream, made).detach().numpy(), (1 - z) * x + z * h, atol=1e-12)


def test_at_first_the_stream_goes_through():
    """What a gated model makes is nearer to its input than what a plain one makes."""
    torch.manual_seed(0)
    x = torch.randn(2, 8, 16)
    gated, plain = (
        CompressiveTransformer(**TINY, final_norm=False, gating=name).eval() for name in ("gru", "none")
    )
    away = [(model(x).features - x).square().mean() for model in (gated, plain)]
    assert away[0] < 0.5 * away[1]
