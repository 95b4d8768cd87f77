"""What a shop can sell under a policy that was never run: stock follows sales by a known rule of replenishment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pricing_fm.markets.supply import Supply


class Stock(Protocol):
    """A known recursion of stock. States have the shape `(units, draws, layers)`."""

    def start(self, draws: int) -> np.ndarray:
        """State before the first period, one copy per draw."""

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """Units that can be sold at most, infinite = no limit, `(units, draws)`."""

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """State before the next period, after what the stock served of `demand` `(units, draws)`."""


@dataclass(frozen=True)
class UnlimitedStock:
    """Nothing limits sales.

    Attributes:
        num_units: Number of units.
    """

    num_units: int

    def start(self, draws: int) -> np.ndarray:
        """No layers; see `Stock`."""
        return np.zeros((self.num_units, draws, 0))

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """Infinite; see `Stock`."""
        return np.full(state.shape[:2], np.inf)

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """Nothing changes; see `Stock`."""
        return state


@dataclass(frozen=True)
class BaseStock:
    """A base-stock rule with a lead time: after every period the stock on hand and on order is filled up to a level.

    What is ordered after period t can be sold from period t + 1 + lead_time on. Unmet demand is lost.

    Attributes:
        level: Units on hand plus on order after every order, `(units,)`, >= 0, or `(units, periods)` where the level
            follows a plan.
        on_hand: Units that can be sold in the first period, `(units,)`.
        on_order: Units that arrive after the first, second, ... period, `(units, lead_time)`; without lead time no
            columns.

    Raises:
        ValueError: If shapes differ or a number is negative.
    """

    level: np.ndarray
    on_hand: np.ndarray
    on_order: np.ndarray

    def __post_init__(self) -> None:
        units = self.on_hand.shape
        if len(units) != 1 or self.level.shape[:1] != units or self.on_order.shape[:1] != units:
            raise ValueError(
                f"level {self.level.shape}, on_hand {self.on_hand.shape}, on_order {self.on_order.shape} do not fit"
            )
        if min(self.level.min(), self.on_hand.min(), self.on_order.min(initial=0.0)) < 0:
            raise ValueError("levels and stocks must be 0 or more")

    def start(self, draws: int) -> np.ndarray:
        """Layers: on hand, then arriving after this, the next, ... period. See `Stock`."""
        layers = np.column_stack([self.on_hand, self.on_order]).astype(np.float64)
        return np.repeat(layers[:, None], draws, axis=1)

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """On hand; see `Stock`."""
        return state[..., 0]

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """See `Stock`."""
        level = self.level if self.level.ndim == 1 else self.level[:, period]
        left = np.maximum(state[..., 0] - demand, 0.0)
        ordered = np.maximum(level[:, None] - left - state[..., 1:].sum(axis=-1), 0.0)
        if state.shape[-1] == 1:
            return (left + ordered)[..., None]
        return np.concatenate([(left + state[..., 1])[..., None], state[..., 2:], ordered[..., None]], axis=-1)


@dataclass(frozen=True)
class Deliveries:
    """Stock that is delivered by a fixed plan, whatever is sold.

    Attributes:
        on_hand: Units that can be sold in the first period, `(units,)`; infinite = no limit is known.
        arrivals: Units that arrive after each period, `(units, periods)`. A finite delivery after an unlimited period
            is all that can be sold in the next one; an infinite one leaves that unlimited.
    """

    on_hand: np.ndarray
    arrivals: np.ndarray

    def start(self, draws: int) -> np.ndarray:
        """One layer: on hand. See `Stock`."""
        return np.repeat(self.on_hand.astype(np.float64)[:, None, None], draws, axis=1)

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """On hand; see `Stock`."""
        return state[..., 0]

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """See `Stock`."""
        left = np.where(np.isinf(state), 0.0, np.maximum(state - demand[..., None], 0.0))
        return left + self.arrivals[:, period, None, None]


@dataclass(frozen=True)
class FollowingDeliveries:
    """The deliveries of a log, moved by what a policy sells more or less than was sold in it.

    A buyer who fills stock up to a level, known or not, orders what was sold: whatever his level, a unit sold more is a
    unit ordered more, which can be sold `lead_time` periods later than without lead time. What is sold less is taken
    off the next deliveries.

    Attributes:
        logged: Stock and deliveries of the log.
        sold: Units sold in the log, `(units, periods)`; NaN = not recorded: that period moves no order.
        lead_time: Periods from an order to the period after which it arrives, 0 or more.

    Raises:
        ValueError: If shapes differ or the lead time is negative.
    """

    logged: Deliveries
    sold: np.ndarray
    lead_time: int

    def __post_init__(self) -> None:
        if self.sold.shape != self.logged.arrivals.shape:
            raise ValueError(f"sold {self.sold.shape} and arrivals {self.logged.arrivals.shape} must fit together")
        if self.lead_time < 0:
            raise ValueError(f"lead_time is {self.lead_time}; expected 0 or more periods")

    def start(self, draws: int) -> np.ndarray:
        """Layers: on hand, then what is ordered beyond the log and arrives after this, the next, ... period."""
        on_hand = self.logged.start(draws)
        return np.concatenate([on_hand, np.zeros((*on_hand.shape[:2], self.lead_time + 1))], axis=-1)

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """On hand; see `Stock`."""
        return state[..., 0]

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """See `Stock`."""
        on_hand, sold = state[..., 0], self.sold[:, period, None]
        known = np.isfinite(on_hand) & np.isfinite(sold)
        beyond = state[..., 1:].copy()
        beyond[..., -1] += np.where(known, np.minimum(demand, on_hand) - sold, 0.0)
        arriving = self.logged.arrivals[:, period, None] + beyond[..., 0]
        left = np.where(np.isinf(on_hand), 0.0, np.maximum(on_hand - demand, 0.0))
        following = np.concatenate([beyond[..., 1:], np.zeros_like(beyond[..., :1])], axis=-1)
        following[..., 0] += np.minimum(arriving, 0.0)
        return np.concatenate([(left + np.maximum(arriving, 0.0))[..., None], following], axis=-1)


@dataclass(frozen=True)
class MarketStock:
    """The stock of simulated markets, by the simulator's own recursion; its charges are those of the `shop.Shop`.

    Attributes:
        supply: Of one-item markets, arrays `(units, 1, 1)`; not shared between items and without chance.
        state: Its state before the first period, `(units, 1, 1, layers)`.
        first_period: Period of the market that the first period is.

    Raises:
        ValueError: If the supply is shared or random.
    """

    supply: Supply
    state: np.ndarray
    first_period: int = 0

    def __post_init__(self) -> None:
        if self.supply.is_shared or self.supply.is_random:
            raise ValueError(f"{type(self.supply).__name__} is shared by items or random; its recursion is not known")

    def start(self, draws: int) -> np.ndarray:
        """The supply's layers; see `Stock`."""
        return np.repeat(self.state[:, 0], draws, axis=1)

    def get_available(self, state: np.ndarray, period: int) -> np.ndarray:
        """See `Stock`."""
        flat, supply = self._spread(state)
        return supply.get_available(flat, (len(flat), 1, 1)).reshape(state.shape[:2])

    def advance(self, state: np.ndarray, demand: np.ndarray, period: int) -> np.ndarray:
        """See `Stock`."""
        flat, supply = self._spread(state)
        periods = np.full(len(flat), self.first_period + period)
        return supply.sell(flat, demand.reshape(-1, 1, 1), periods)[1].reshape(state.shape)

    def _spread(self, state: np.ndarray) -> tuple[np.ndarray, Supply]:
        """Draws as markets of their own."""
        units, draws, layers = state.shape
        return state.reshape(-1, 1, 1, layers), self.supply.select(np.repeat(np.arange(units), draws))
