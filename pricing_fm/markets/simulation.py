"""What a pricing policy earns in a market: expected reward over many repetitions of the same market."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pricing_fm.markets.core import Market, MarketState, compute_final_value, start, step
from pricing_fm.markets.streams import build_streams

Chooser = Callable[[MarketState], np.ndarray]


class SimulatedValue(NamedTuple):
    """Mean reward of an episode over repetitions.

    Attributes:
        mean: Currency an episode.
        standard_error: Of the mean, currency.
        num_rollouts: Repetitions.
    """

    mean: float
    standard_error: float
    num_rollouts: int

    def score(self, value: float) -> float:
        """Distance from a claimed value in standard errors; 0 where nothing is random and both agree to 1e-6."""
        gap = self.mean - value
        if self.standard_error <= 1e-9 * max(abs(value), 1.0):
            return 0.0 if abs(gap) <= 1e-6 * max(abs(value), 1.0) else float(np.copysign(np.inf, gap))
        return gap / self.standard_error


def simulate_policy(market: Market, choose: Chooser, num_rollouts: int = 1_000, seed: int = 0) -> SimulatedValue:
    """Run one market many times under a policy that may look at the true state.

    Args:
        market: One market.
        choose: Prices `(rollouts, products, segments)` from the state of all repetitions.
        num_rollouts: Repetitions.
        seed: Seed of the luck.

    Returns:
        Mean reward of an episode, what is left at the end included where the market ends.

    Raises:
        ValueError: If several markets are given or there are fewer than two repetitions.
    """
    total = simulate_items(market, choose, num_rollouts, seed).sum(axis=(1, 2))
    return SimulatedValue(float(total.mean()), float(total.std(ddof=1) / np.sqrt(num_rollouts)), num_rollouts)


def simulate_items(market: Market, choose: Chooser, num_rollouts: int = 1_000, seed: int = 0) -> np.ndarray:
    """As `simulate_policy`, but what every item earns in every repetition.

    The luck depends on the seed alone: two policies can be compared on it, and where items are separable the reward of
    an item depends on its own prices alone.

    Args:
        market: One market.
        choose: Prices `(rollouts, products, segments)` from the state of all repetitions.
        num_rollouts: Repetitions.
        seed: Seed of the luck.

    Returns:
        Currency an episode, `(rollouts, products, segments)`.

    Raises:
        ValueError: If several markets are given or there are fewer than two repetitions.
    """
    if market.shape[0] != 1 or num_rollouts < 2:
        raise ValueError(
            f"market holds {market.shape[0]} markets and num_rollouts is {num_rollouts}; one market and two or more"
            " rollouts are needed"
        )
    copies = market.select(np.zeros(num_rollouts, dtype=int))
    random = build_streams(seed, np.zeros(num_rollouts, dtype=int), np.arange(num_rollouts))
    state = start(copies, random)
    total = np.zeros(copies.shape)
    for _ in range(market.num_periods):
        state, _, reward, _ = step(copies, state, choose(state), random)
        total += reward
    return total + compute_final_value(copies, state)
