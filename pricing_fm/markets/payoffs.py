"""What a sold unit earns the seller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.parts import Part
from pricing_fm.markets.streams import Streams


@dataclass(frozen=True)
class Payoff(Part):
    """Base of all payoffs: a reward that is known once sales are, and optionally chance after the sale."""

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Expected reward given sales, currency a period.

        Args:
            units: Units sold, `(markets, products, segments)`.
            prices: Prices charged, currency per unit, same shape.
            cost: Unit cost, currency, same shape.
            mean: Mean demand, units, same shape.

        Returns:
            Same shape.
        """
        raise NotImplementedError

    def realize(
        self, expected: np.ndarray, units: np.ndarray, prices: np.ndarray, random: Streams, period: np.ndarray
    ) -> np.ndarray:
        """Reward with the chance that comes after the sale (defaults); the expected reward where there is none."""
        return expected


@dataclass(frozen=True)
class Margin(Payoff):
    """Price minus unit cost."""

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """(price - cost) x units; see `Payoff`."""
        return (prices - cost) * units


MARGIN = Margin()
