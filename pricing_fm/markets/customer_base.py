"""A customer base that switches: dear periods drive customers to the market, cheap ones win them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.memory import Memory

_MOST_WHO_SWITCH = 0.5  # more would let the base overshoot its own steady share


@dataclass(frozen=True)
class CustomerBase(Memory):
    """Every period some of the seller's customers leave and some of the others join, by his price against the market's.

    leave = leave_share x ratio**strength, join = join_share / ratio**strength with ratio = price / market_price, at
    most one half each; base' = base (1 - leave) + (1 - base) join. `Market.volume` counts the customers of everybody,
    the state is the share of them that are the seller's. A switching model with inertia as in Klemperer 1987
    (Quarterly Journal of Economics) and Beggs and Klemperer 1992 (Econometrica).

    Attributes:
        leave_share: Share of the seller's customers who leave in a period at the market's price, in (0, 0.5].
        join_share: Share of the others who join in a period at the market's price, in (0, 0.5].
        strength: Elasticity of both with respect to the price ratio, >= 0.
        market_price: The price at which others sell, which stands still, currency per unit.
    """

    leave_share: np.ndarray
    join_share: np.ndarray
    strength: np.ndarray
    market_price: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """The share at which as many join as leave at the list price; see `Memory`."""
        return np.array(self._compute_steady_share(list_price))[..., None]

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return mean * state[..., 0]

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        leave, join = self._compute_flows(prices)
        base = state[..., 0]
        return (base * (1.0 - leave) + (1.0 - base) * join)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps between the steady shares of the highest and the lowest price; see `Memory`."""
        prices = list_price.item() * np.array([max(bounds[1], 1.0), min(bounds[0], 1.0)])
        low, high = np.broadcast_to(self._compute_steady_share(prices), (1, 1, 2)).ravel()
        return [np.linspace(low, max(high, low * (1.0 + 1e-9)), points)]

    def _compute_flows(self, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pull = (prices / self.market_price) ** self.strength
        return (
            np.minimum(self.leave_share * pull, _MOST_WHO_SWITCH),
            np.minimum(self.join_share / pull, _MOST_WHO_SWITCH),
        )

    def _compute_steady_share(self, prices: np.ndarray) -> np.ndarray:
        leave, join = self._compute_flows(prices)
        return join / (join + leave)
