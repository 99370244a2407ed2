"""Samples of sound: µ-law and the mixture of logistics against NumPy and SciPy in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax, logsumexp

from compressive_transformer import LanguageModel
from compressive_transformer.data.audio import (
    SampleTokenizer,
    mulaw_decode,
    mulaw_encode,
    mulaw_levels,
    mulaw_table,
)
from compressive_transformer.errors import UsageError
from compressive_transformer.nn.samples import LogisticHead, SampleEmbedding
from tiny import TINY


def test_mulaw_is_its_definition():
    for level in range(0, 2**16, 997):
        x = (level - 2**15) / 2**15
        curve = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
        assert mulaw_table()[level] == math.floor((curve + 1) / 2 * 255 + 0.5)
    levels = np.arange(256)
    assert (mulaw_encode(mulaw_decode(levels)) == levels).all()
    assert (mulaw_table()[mulaw_levels().astype(int) + 2**15] == levels).all()  # also in 16 bits
    assert (np.diff(mulaw_table().astype(int)) >= 0).all()


@pytest.mark.parametrize("kind", ["mulaw", "linear"])
def test_samples_become_tokens_and_samples_again(kind: str):
    tokenizer = SampleTokenizer(kind, 8000)
    pcm = np.arange(-(2**15), 2**15).astype("<i2")
    tokens = tokenizer.encode(pcm.tobytes())
    assert len(tokens) == 2**16
    assert tokens.max() < tokenizer.document_token
    again = np.frombuffer(tokenizer.decode(tokens), "<i2")
    if kind == "linear":
        assert (again == pcm).all()
    else:  # the error grows with the sample
        assert np.abs(again.astype(int) - pcm).max() < 2**15 * 0.023
        assert (tokenizer.encode(again.tobytes()) == tokens).all()
    with_token = np.append(tokenizer.document_token, tokens[:5])
    assert tokenizer.decode(with_token) == tokenizer.decode(tokens[:5])


def mixture(features: torch.Tensor, head: LogisticHead) -> Any:
    """Log probabilities [N, V - 1] in float64, by the distribution function at the edges of each level."""
    raw = features.double().numpy() @ head.raw.weight.detach().double().numpy().T
    raw = raw + head.raw.bias.detach().double().numpy()
    weight, mean, scale = np.split(raw, 3, axis=-1)
    V = head.levels
    edges = (2 * np.arange(V - 1) + 1) / (V - 1) - 1
    inside = expit((edges - mean[..., None]) / np.exp(scale)[..., None])
    whole = np.concatenate([np.zeros_like(inside[..., :1]), inside, np.ones_like(inside[..., :1])], axis=-1)
    with np.errstate(divide="ignore"):
        log = np.log(np.diff(whole, axis=-1))
    return logsumexp(log_softmax(weight, axis=-1)[..., None] + log, axis=-2)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_mixture_of_logistics_is_its_definition(bits: int):
    torch.manual_seed(0)
    head = LogisticHead(12, bits, components=5)
    features = torch.randn(7, 12)
    expected = mixture(features, head)
    found = head.double()(features.double()).detach().numpy()
    likely = expected > -25  # of others float64 differences have lost all digits
    assert likely.mean() > 0.02
    np.testing.assert_allclose(found[:, :-1][likely], expected[likely], atol=1e-4)
    assert (found[:, -1] == -np.inf).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, atol=1e-9)


@pytest.mark.parametrize("sharpest", [-6.0, -10.0, -13.0])
def test_in_float32_the_mixture_is_nearly_its_definition(sharpest: float):
    """Down to scales of a fourteenth of a 16-bit level."""
    torch.manual_seed(0)
    head = LogisticHead(12, 16, components=5)
    with torch.no_grad():
        head.raw.bias.view(3, 5)[2] = torch.linspace(sharpest, -3.0, 5)
    features = 0.3 * torch.randn(3, 12)
    expected, found = mixture(features, head), head(features).detach().double().numpy()
    np.testing.assert_allclose(np.exp(found).sum(axis=-1), 1, atol=2e-3)
    likely = expected > -18
    np.testing.assert_allclose(found[:, :-1][likely], expected[likely], atol=0.02)
    targets = torch.from_numpy(expected.argmax(-1))
    losses = head.losses(features, targets).detach().numpy()
    np.testing.assert_allclose(losses, -expected.max(-1), atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_those_of_all_levels(dtype: torch.dtype):
    torch.manual_seed(1)
    head = LogisticHead(12, 16, components=4).to(dtype)
    features = torch.randn(3, 9, 12, dtype=dtype)
    targets = torch.randint(0, 2**16, (3, 9))
    targets[0, :4] = torch.tensor([0, 2**16 - 1, 2**16, -1])
    losses = head.losses(features, targets)
    assert losses[0, 2] == losses[0, 3] == 0  # neither the token of recordings nor nothing is predicted
    known = (targets >= 0) & (targets < 2**16)
    all_levels = -head(features).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(losses[known], all_levels[known], rtol=1e-5, atol=1e-4)
    losses.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


def test_far_targets_have_finite_losses_and_gradients():
    head = LogisticHead(4, 16, components=2)
    with torch.no_grad():
        head.raw.bias.view(3, 2)[2] = -30.0  # sharper than a level, and far from most of them
    losses = head.losses(torch.zeros(3, 4), torch.tensor([0, 40_000, 2**16 - 1]))
    assert losses.isfinite().all()
    losses.sum().backward()
    assert head.raw.bias.grad is not None
    assert head.raw.bias.grad.isfinite().all()


@pytest.mark.parametrize("bits", [8, 16])
def test_alike_samples_have_alike_vectors(bits: int):
    torch.manual_seed(0)
    embedding = SampleEmbedding(bits, 64)
    step = 2**bits // 256
    tokens = torch.arange(0, 2**bits, step)
    vectors = embedding(tokens).detach()
    assert vectors.std() == pytest.approx(1, rel=0.3)
    near = (vectors[1:] - vectors[:-1]).norm(dim=-1).mean()
    far = (vectors[100:] - vectors[:-100]).norm(dim=-1).mean()
    assert near < 0.95 * far
    assert embedding(torch.tensor([2**bits])).isfinite().all()
    assert len(torch.unique(embedding(torch.arange(0, 2**bits)).detach(), dim=0)) == 2**bits


def test_a_model_of_samples_wants_its_vocabulary():
    with pytest.raises(UsageError, match="sample_bits 16 has 65,537 tokens, and the tokenizer 257"):
        LanguageModel(vocab_size=257, sample_bits=16, **TINY)
    model = LanguageModel(vocab_size=65_537, sample_bits=16, **TINY)
    losses = model(torch.randint(0, 65_537, (2, 11)), targets=torch.randint(0, 65_536, (2, 11))).losses
    assert losses.shape == (2, 11)
