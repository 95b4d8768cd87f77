"""What scales demand or cost whatever the seller does: calendar, hidden shock, regimes and costs that move."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pricing_fm.markets.parts import Part
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import COST_JUMP, COST_MOVE, LIST_PRICE, REGIME, SHOCK, START, Streams


@dataclass(frozen=True)
class Calendar(Part):
    """Season, trend and a profile over the periods of an episode, on log demand.

    Attributes:
        amplitude, phase: Cosine of log demand over a season; the phase in seasons.
        trend: Growth of log demand a period.
        season_length: Periods of a season.
        profile: Log factor of every period (lifecycle, events, traffic, arrivals by time of booking), `(..., periods)`;
            the last one holds ever after. None = none.
    """

    amplitude: np.ndarray
    phase: np.ndarray
    trend: np.ndarray
    season_length: float
    profile: np.ndarray | None = None
    time_invariant = False

    def compute_log_factor(self, period: np.ndarray) -> np.ndarray:
        """Log factor on demand for periods of shape `(markets,)`."""
        time = period.reshape(-1, 1, 1)
        angle = 2.0 * np.pi * (time / self.season_length - self.phase)
        factor = self.amplitude * np.cos(angle) + self.trend * time
        if self.profile is not None:
            rows = np.minimum(period, self.profile.shape[-1] - 1)
            factor = factor + self.profile[np.arange(len(rows)), :, :, rows]
        return factor


@dataclass(frozen=True)
class HiddenShock(Part):
    """A stationary autoregressive log shock on demand that no seller sees.

    Attributes:
        scale: Stationary standard deviation.
        persistence: Autocorrelation from period to period.
        common: Share of the innovation's variance that all items of a market have in common.
    """

    scale: np.ndarray
    persistence: np.ndarray
    common: np.ndarray

    def start(self, random: Streams, period: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Draw from the stationary distribution, `(markets, products, segments)`."""
        return self.scale * self._combine(random.normal(period, START, (shape[1] + 1, shape[2])))

    def advance(self, shock: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Shock of the coming period."""
        draws = random.normal(period, SHOCK, (shock.shape[1] + 1, shock.shape[2]))
        return self.persistence * shock + self._innovation * self._combine(draws)

    def normalize(self, shock: np.ndarray) -> np.ndarray:
        """Log factor on demand, shifted so that the factor has mean 1."""
        return shock - self._shift

    def _combine(self, draws: np.ndarray) -> np.ndarray:
        """Unit variance from one common draw per market and segment (the first row) and one per item."""
        together, apart = self._weights
        return together * draws[:, :1] + apart * draws[:, 1:]

    @cached_property
    def _innovation(self) -> np.ndarray:
        return np.sqrt(1.0 - self.persistence**2) * self.scale

    @cached_property
    def _shift(self) -> np.ndarray:
        return 0.5 * self.scale**2

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        return np.sqrt(self.common), np.sqrt(1.0 - self.common)


@dataclass(frozen=True)
class Regimes(Part):
    """A Markov chain that scales demand and unit cost: surges, events, funding markets, fuel prices.

    Attributes:
        transition: Probability of the next regime (last axis) given this one, `(markets, 1, 1, regimes, regimes)`.
        volume_factor: Factor on demand, `(markets, 1 or products, 1 or segments, regimes)`.
        cost_factor: Factor on unit cost, same shape.
    """

    transition: np.ndarray
    volume_factor: np.ndarray
    cost_factor: np.ndarray

    @property
    def count(self) -> int:
        """Number of regimes."""
        return self.transition.shape[-1]

    def start(self, random: Streams, period: np.ndarray) -> np.ndarray:
        """First regime of every market, the most lasting one."""
        stay = np.diagonal(self.transition[:, 0, 0], axis1=1, axis2=2)
        return np.argmax(stay, axis=1)

    def advance(self, regime: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Regime of the coming period, `(markets,)`."""
        rows = self.transition[np.arange(len(regime)), 0, 0, regime]
        uniform = random.uniform(period, REGIME, (1,))
        return np.minimum((uniform > np.cumsum(rows, axis=1)).sum(axis=1), self.count - 1)

    def get_volume_factor(self, regime: np.ndarray) -> np.ndarray:
        """Factor on demand in the given regimes."""
        return self.volume_factor[np.arange(len(regime)), :, :, regime]

    def get_cost_factor(self, regime: np.ndarray) -> np.ndarray:
        """Factor on unit cost in the given regimes."""
        return self.cost_factor[np.arange(len(regime)), :, :, regime]


@dataclass(frozen=True)
class Costs(Part):
    """Unit costs that jump now and then by a factor of mean 1; list prices follow to the old share of cost, later.

    Attributes:
        unit_cost: Currency per unit at period 0.
        list_price: Regular price at period 0, currency per unit; needed where costs move.
        price_tick: Smallest step between prices, currency; needed where costs move.
        change_probability, change_scale: Chance a period and size of a move of log cost; None = costs stand still.
        list_revision_probability: Chance a period that the list price follows the cost.
    """

    unit_cost: np.ndarray
    list_price: np.ndarray | None = None
    price_tick: np.ndarray | None = None
    change_probability: np.ndarray | None = None
    change_scale: np.ndarray | None = None
    list_revision_probability: np.ndarray | None = None

    @property
    def is_moving(self) -> bool:
        """Whether costs can move."""
        return self.change_probability is not None

    def start(self, shape: tuple[int, int, int]) -> np.ndarray:
        """Unit cost of the first period."""
        return np.array(np.broadcast_to(self.unit_cost, shape))

    def advance(
        self, cost: np.ndarray, list_price: np.ndarray, random: Streams, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit costs and list prices of the coming period."""
        if self.change_probability is None or self.change_scale is None or self.list_revision_probability is None:
            return cost, list_price
        if self.list_price is None or self.price_tick is None:
            raise ValueError("costs that move need list_price and price_tick")
        shape = cost.shape[1:]
        moves = random.uniform(period, COST_MOVE, shape) < self.change_probability
        if np.any(moves):
            jump = np.exp(self.change_scale * random.normal(period, COST_JUMP, shape) - 0.5 * self.change_scale**2)
            # A cost above 90 % of the list price would leave no admissible margin.
            cost = np.minimum(np.where(moves, cost * jump, cost), 0.9 * list_price)
        revised = random.uniform(period, LIST_PRICE, shape) < self.list_revision_probability
        if np.any(revised):
            target = cost * self.list_price / self.unit_cost
            list_price = np.where(revised, round_to_tick(target, self.price_tick), list_price)
        return cost, list_price
