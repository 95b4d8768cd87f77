"""Who asks when: customers who book late and pay more, customers who did not buy and come back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.memory import Memory


@dataclass(frozen=True)
class LateBookers(Memory):
    """Two groups that cannot be told apart by price: the later a booking, the more likely a business trip.

    The market's demand model is that of leisure travellers; business travellers respond by exp(-elasticity x (price /
    reference price - 1)), less strongly. Nothing is remembered (no layers); this is a memory because of all parts
    only memories see the period together with the mean demand.

    Attributes:
        business_share: Share of business travellers among the customers of every period, in [0, 1], `(markets, 1 or
            products, 1 or segments, periods)`; the last one holds ever after.
        elasticity: Of business travellers at the reference price, > 0.
        reference_price: Price at which both groups respond with one, currency per unit.
    """

    business_share: np.ndarray
    elasticity: np.ndarray
    reference_price: np.ndarray
    time_invariant = False

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """No layers; see `Memory`."""
        return np.zeros((*list_price.shape, 0))

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        rows = np.minimum(period, self.business_share.shape[-1] - 1)
        share = self.business_share[np.arange(len(rows)), :, :, rows]
        business = traffic * np.exp(-self.elasticity * (prices / self.reference_price - 1.0))
        return mean + share * (business - mean)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """Nothing; see `Memory`."""
        return state

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """No coordinates; see `Memory`."""
        return []


@dataclass(frozen=True)
class PatientPool(Memory):
    """Customers whom the price turns away wait, and some of them ask again in the next period.

    As `StrategicWaiting` without expectations: a waiting customer takes the next price as it comes. Those who would
    pay but find nothing to buy have gone elsewhere. The demand model's response must be a purchase probability, and
    traffic must not change by period (the pool is counted in periods of newcomers).

    Attributes:
        patience: Chance that a customer who did not want to pay asks again, in [0, 1).
    """

    patience: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """Nobody waits; one layer: waiting over newcomers. See `Memory`."""
        return np.zeros((*list_price.shape, 1))

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return mean * (1.0 + state[..., 0])

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return (self.patience * np.maximum(1.0 + state[..., 0] - mean / traffic, 0.0))[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Waiting up to the pool of a seller who never sells; see `Memory`."""
        return [np.linspace(0.0, (self.patience / (1.0 - self.patience)).item(), points)]
