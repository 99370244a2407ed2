"""Cores: what acting gives, learning gives, whatever the windows and wherever episodes begin."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressive_transformer.errors import UsageError
from compressive_transformer.model import ModelConfig
from compressive_transformer.rl import CompressiveCore, Core, LSTMCore, NoMemoryCore
from tiny import TINY

F, B = 5, 3
SMALL: dict[str, Any] = TINY | {"segment": 4, "memory": 4, "compressed_memory": 4}


def small(settings: dict[str, Any]) -> CompressiveCore:
    return CompressiveCore(F, ModelConfig(**SMALL | settings))


CORES: dict[str, Any] = {
    "compressive": lambda: small({}),
    "rate does not divide": lambda: small({"compression_rate": 3}),
    "compressed only": lambda: small({"memory": 0}),
    "gated": lambda: small({"gating": "gru"}),
    "most-used": lambda: small({"compressor": "most-used"}),
    "true time": lambda: small({"positions": "time", "norm": "post"}),
    "Transformer-XL": lambda: small({"compressed_memory": 0}),
    "LSTM": lambda: LSTMCore(F, 16, 2),
    "no memory": lambda: NoMemoryCore(F, 16),
}


def core_of(name: str, dtype: torch.dtype = torch.float32) -> Core:
    """With random and large weights, so that memory is worth something."""
    torch.manual_seed(0)
    core = CORES[name]().to(dtype)
    with torch.no_grad():
        for parameter_name, parameter in core.named_parameters():
            parameter.normal_(std=0.3)
            if parameter_name.endswith("norm.weight"):
                parameter += 1
    return core


def stream(length: int, ends: float, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Features [T, B, F] and resets [T, B]; the first step of all begins an episode."""
    random = torch.Generator().manual_seed(seed)
    resets_TB = torch.rand(length, B, generator=random) < ends
    resets_TB[0] = True
    return torch.randn(length, B, F, generator=random, dtype=dtype), resets_TB


def acted(core: Core, features_TBF: Tensor, resets_TB: Tensor, window: int) -> tuple[Tensor, list[Any]]:
    """What acting gives [T, B, D], and the state that a learner keeps of each window."""
    state, outputs, kept = core.initial_state(B), [], []
    for t, (features_BF, resets_B) in enumerate(zip(features_TBF, resets_TB, strict=True)):
        if t % window == 0:
            kept.append(core.snapshot(state))
        output, state = core.step(features_BF, state, resets_B)
        outputs.append(output)
    return torch.stack(outputs), kept


def difference(name: str, window: int, ends: float, seed: int, dtype: torch.dtype) -> float:
    """Of log-probabilities between acting for four windows, and learning from each of them."""
    core = core_of(name, dtype)
    head = torch.nn.Linear(core.dim, 4, dtype=dtype)
    features_TBF, resets_TB = stream(4 * window, ends, seed, dtype)
    outputs, kept = acted(core, features_TBF, resets_TB, window)
    learned = [
        core.unroll(features_TBF[t : t + window], state, resets_TB[t : t + window]).features
        for t, state in zip(range(0, 4 * window, window), kept, strict=True)
    ]
    both = [head(x).log_softmax(-1) for x in (outputs, torch.cat(learned))]
    return float((both[0] - both[1]).detach().abs().max())


@pytest.mark.parametrize("name", CORES)
@settings(max_examples=8, deadline=None)
@given(window=st.integers(1, 9), ends=st.sampled_from([0.0, 0.1, 0.4]), seed=st.integers(0, 99))
def test_acting_is_learning(name: str, window: int, ends: float, seed: int):
    """With windows at every alignment to segments and episodes."""
    assert difference(name, window, ends, seed, torch.float64) < 1e-10


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("window", [4, 5])
def test_acting_is_learning_to_1e_5_in_float32(name: str, window: int):
    assert difference(name, window, 0.1, 0, torch.float32) < 1e-5


@pytest.mark.parametrize("name", CORES)
def test_states_after_acting_and_learning_are_the_same(name: str):
    core = core_of(name)
    features_TBF, resets_TB = stream(23, 0.15, seed=1)
    state = core.initial_state(B)
    for features_BF, resets_B in zip(features_TBF, resets_TB, strict=True):
        _, state = core.step(features_BF, state, resets_B)
    expected = core.unroll(features_TBF, core.initial_state(B), resets_TB).state
    got, expected = core.snapshot(state).tensors(), expected.tensors()
    assert got.keys() == expected.keys()
    for key, x in got.items():
        torch.testing.assert_close(x, expected[key], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", CORES)
def test_an_episode_knows_nothing_of_the_one_before(name: str):
    """Neither when acting nor when learning, and the other rows do not change by one bit."""
    core = core_of(name)
    features_TBF, resets_TB = stream(20, 0.0, seed=2)
    resets_TB[9, 1] = True
    other = features_TBF.clone()
    other[:9, 1] += 1
    for read in (
        lambda x: acted(core, x, resets_TB, 20)[0],
        lambda x: core.unroll(x, core.initial_state(B), resets_TB).features,
    ):
        a, b = read(features_TBF), read(other)
        assert torch.equal(a[9:, 1], b[9:, 1])
        assert torch.equal(a[:, [0, 2]], b[:, [0, 2]])
        assert not torch.allclose(a[:9, 1], b[:9, 1])


def test_the_compression_loss_teaches_the_compressor_alone():
    core = core_of("compressive").train()
    features_TBF, resets_TB = stream(12, 0.1, seed=3)
    core.unroll(features_TBF, core.initial_state(B), resets_TB).compression_loss.backward()
    for name, parameter in core.named_parameters():
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert learns == ("compressor" in name), name


@pytest.mark.parametrize("fused", [False, True])
def test_changed_weights_are_noticed(fused: bool):
    """Keys that were made by other weights would make acting differ from learning."""
    core = core_of("compressive")
    features_TBF, resets_TB = stream(7, 0.0, seed=4)
    start = core.initial_state(B)
    state = start
    for t in range(6):
        _, state = core.step(features_TBF[t], state)
    kept = core.snapshot(state)
    optimizer = torch.optim.AdamW(core.parameters(), lr=0.1, fused=fused)
    core.unroll(features_TBF[:6], start, resets_TB[:6]).features.sum().backward()
    optimizer.step()
    output, _ = core.step(features_TBF[6], state)
    torch.testing.assert_close(output, core.unroll(features_TBF[6:], kept).features[0], atol=1e-5, rtol=0)


def test_a_state_is_good_for_one_step_and_a_snapshot_for_many():
    core = core_of("compressive")
    features_TBF, _ = stream(3, 0.0, seed=5)
    _, first = core.step(features_TBF[0], core.initial_state(B))
    kept = core.snapshot(first)
    a, _ = core.step(features_TBF[1], first)
    with pytest.raises(UsageError, match="has been stepped on; go on with the one that step returned"):
        core.step(features_TBF[1], first)
    b, _ = core.step(features_TBF[1], kept)
    c, _ = core.step(features_TBF[1], kept)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)  # keys of many rows at once are rounded otherwise
    assert torch.equal(b, c)


def test_the_state_does_not_grow_with_the_steps():
    core = core_of("compressive")
    features_TBF, _ = stream(30, 0.0, seed=6)
    state, sizes = core.initial_state(B), set()
    for features_BF in features_TBF:
        sizes.add(core.snapshot(state).num_bytes())
        _, state = core.step(features_BF, state)
    assert len(sizes) == 1


def test_mistakes_take_one_line():
    core = core_of("compressive")
    state = core.initial_state(B)
    for call, message in (
        (lambda: core.step(torch.zeros(B, F + 1), state), r"features have shape \(3, 6\); give \[B, 5\]"),
        (lambda: core.unroll(torch.zeros(B, F), state), r"features have shape \(3, 5\); give \[T, B, 5\]"),
        (lambda: core.step(torch.zeros(B, F), state, torch.zeros(B)), "give bool"),
        (lambda: core.step(torch.zeros(2, F), state), "the state has 3 rows, the features 2"),
        (lambda: CompressiveCore(F, dropout=0.1), "acting and learning would not give the same"),
        (lambda: small({"faithful": True}), "resets rows inside a window"),
    ):
        with pytest.raises(UsageError, match=message):
            call()
