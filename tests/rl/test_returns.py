"""V-trace and advantages, against their definitions as loops in float64."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compressive_transformer.rl.returns import generalized_advantages, vtrace

Array = NDArray[Any]
T, B = 7, 4


def drawn(seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {
        "log_ratios": random.normal(size=(T, B)),
        "rewards": random.normal(size=(T, B)),
        "discounts": 0.9 * (random.random((T, B)) > 0.2),
        "values": random.normal(size=(T, B)),
        "bootstrap": random.normal(size=B),
    }


def vtrace_by_definition(x: dict[str, Array], trace: float, rho: float, c: float) -> tuple[Array, Array]:
    """Equation 1 of Espeholt et al. 2018: each target as a sum over all later steps."""
    ratios = np.exp(x["log_ratios"])
    targets, advantages = np.zeros((T, B)), np.zeros((T, B))
    for b in range(B):
        values = [*x["values"][:, b], x["bootstrap"][b]]
        for s in range(T):
            targets[s, b] = values[s]
            for t in range(s, T):
                weight = 1.0
                for i in range(s, t):
                    weight *= x["discounts"][i, b] * trace * min(c, ratios[i, b])
                error = x["rewards"][t, b] + x["discounts"][t, b] * values[t + 1] - values[t]
                targets[s, b] += weight * min(rho, ratios[t, b]) * error
        for s in range(T):
            after = targets[s + 1, b] if s + 1 < T else x["bootstrap"][b]
            better = x["rewards"][s, b] + x["discounts"][s, b] * after - values[s]
            advantages[s, b] = min(rho, ratios[s, b]) * better
    return targets, advantages


@pytest.mark.parametrize(("trace", "rho", "c"), [(1.0, 1.0, 1.0), (0.9, 1.0, 1.0), (1.0, 2.0, 0.7)])
def test_vtrace_is_its_definition(trace: float, rho: float, c: float):
    for seed in range(5):
        x = drawn(seed)
        found = vtrace(*map(torch.from_numpy, x.values()), trace=trace, rho=rho, c=c)
        expected = vtrace_by_definition(x, trace, rho, c)
        for got, value in zip(found, expected, strict=True):
            np.testing.assert_allclose(got.numpy(), value, atol=1e-12)


def test_advantages_are_their_definition():
    """GAE: the sum of errors, each by (gamma lambda) to the power of its distance, within the episode."""
    x = drawn(1)
    del x["log_ratios"]
    found = generalized_advantages(*map(torch.from_numpy, x.values()), trace=0.8)
    values = np.vstack([x["values"], x["bootstrap"]])
    errors = x["rewards"] + x["discounts"] * values[1:] - values[:-1]
    for b in range(B):
        for s in range(T):
            weight, total = 1.0, 0.0
            for t in range(s, T):
                total += weight * errors[t, b]
                weight *= 0.8 * x["discounts"][t, b]
            assert found.advantages[s, b].item() == pytest.approx(total, abs=1e-12)
            assert found.values[s, b].item() == pytest.approx(total + values[s, b], abs=1e-12)


def test_on_policy_vtrace_is_the_return():
    """Of an episode that ends in the window, with the policy that acted: the discounted rewards."""
    rewards, discounts = torch.ones(3, 1), torch.tensor([[0.5], [0.5], [0.0]])
    found = vtrace(torch.zeros(3, 1), rewards, discounts, torch.rand(3, 1), torch.rand(1))
    torch.testing.assert_close(found.values[:, 0], torch.tensor([1.75, 1.5, 1.0]))


def test_torchrl_agrees():
    torchrl = pytest.importorskip("torchrl.objectives.value.functional")
    x = {name: torch.from_numpy(value) for name, value in drawn(2).items()}
    ended = x["discounts"] == 0
    values = torch.cat([x["values"][1:], x["bootstrap"][None]])

    def in_its_shape(part: torch.Tensor) -> torch.Tensor:
        return part.T[..., None]

    advantages, targets = torchrl.vtrace_advantage_estimate(
        0.9,
        in_its_shape(x["log_ratios"]),
        torch.zeros(B, T, 1, dtype=torch.float64),
        in_its_shape(x["values"]),
        in_its_shape(values),
        in_its_shape(x["rewards"]),
        in_its_shape(ended),
        in_its_shape(ended),
    )
    found = vtrace(*x.values())
    torch.testing.assert_close(found.values, targets[..., 0].T)
    torch.testing.assert_close(found.advantages, advantages[..., 0].T)
