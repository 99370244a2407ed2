"""What an action was worth: V-trace (Espeholt et al. 2018), and advantages for PPO (Schulman et al. 2016).

Shape legend: T steps of a window, B environments.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """What values and policy learn from."""

    values: Tensor
    """[T, B] what each value should have been."""
    advantages: Tensor
    """[T, B] how much better an action was than expected."""


@torch.no_grad()
def vtrace(
    log_ratios_TB: Tensor,
    rewards_TB: Tensor,
    discounts_TB: Tensor,
    values_TB: Tensor,
    bootstrap_B: Tensor,
    *,
    trace: float = 1.0,
    rho: float = 1.0,
    c: float = 1.0,
) -> Targets:
    """V-trace: returns of the policy that learns, from actions of the one that acted.

    v_t = V_t + delta_t + gamma_t c_t (v_{t+1} - V_{t+1}), with delta_t = rho_t (r_t + gamma_t V_{t+1} - V_t);
    the advantage is rho_t (r_t + gamma_t v_{t+1} - V_t).

    Args:
        log_ratios_TB: log probability of each action now, less that when it was taken.
        rewards_TB: of the actions.
        discounts_TB: gamma, 0 where the episode ended with the action.
        values_TB: of what was seen before the actions.
        bootstrap_B: value of what is seen after the last.
        trace: lambda, by which c is multiplied; 1 in the paper.
        rho, c: limits of the ratios.
    """
    ratios_TB = log_ratios_TB.exp()
    rho_TB, c_TB = ratios_TB.clamp(max=rho), trace * ratios_TB.clamp(max=c)
    next_values_TB = torch.cat([values_TB[1:], bootstrap_B[None]])
    deltas_TB = rho_TB * (rewards_TB + discounts_TB * next_values_TB - values_TB)
    away_B, away = torch.zeros_like(bootstrap_B), []
    for t in reversed(range(len(rewards_TB))):
        away_B = deltas_TB[t] + discounts_TB[t] * c_TB[t] * away_B
        away.append(away_B)
    targets_TB = values_TB + torch.stack(away[::-1])
    next_targets_TB = torch.cat([targets_TB[1:], bootstrap_B[None]])
    return Targets(targets_TB, rho_TB * (rewards_TB + discounts_TB * next_targets_TB - values_TB))


@torch.no_grad()
def generalized_advantages(
    rewards_TB: Tensor, discounts_TB: Tensor, values_TB: Tensor, bootstrap_B: Tensor, *, trace: float
) -> Targets:
    """GAE: the sum of what each step was better than expected, fading by gamma lambda.

    Args:
        rewards_TB, discounts_TB, values_TB, bootstrap_B: as for ``vtrace``.
        trace: lambda.
    """
    # With ratios of 1, the errors that V-trace adds up are those of GAE.
    nothing = torch.zeros_like(rewards_TB)
    targets_TB = vtrace(nothing, rewards_TB, discounts_TB, values_TB, bootstrap_B, trace=trace).values
    return Targets(targets_TB, targets_TB - values_TB)
