"""What customers remember: prices seen before, stocks at home, purchases put off.

A memory changes this period's mean demand and is changed by this period's prices. States have the shape
`(markets, products, segments, layers)`; updates use mean demand (the average of many households), so they are known
once prices are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.parts import Part

_MOST_WHO_WAIT = 0.95


@dataclass(frozen=True)
class Memory(Part):
    """Base of all memories."""

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """State of customers who have long seen the list price, `(markets, products, segments, layers)`."""
        raise NotImplementedError

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """Mean demand of customers with a memory.

        Args:
            mean: Mean demand of customers without one, units, `(markets, products, segments)`.
            traffic: Customers of the period, same shape.
            state: What they remember.
            prices: Prices charged, currency per unit, same shape.
            period: Period of each market, `(markets,)`.

        Returns:
            Mean demand, units, same shape.
        """
        raise NotImplementedError

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """What customers remember after the period; `mean` is the adjusted mean demand."""
        raise NotImplementedError

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Grid of every layer of a one-item market for a dynamic program, within which the state stays.

        Args:
            list_price: Of the one market, currency, shape `(1, 1, 1)`.
            bounds: Lowest and highest price as multiples of the list price.
            points: Grid points of a continuous layer.

        Returns:
            One increasing array per layer.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ReferencePrice(Memory):
    """Customers compare the price with a remembered one: log demand + gain x (fall)+ - loss x (rise)+.

    Loss aversion is loss > gain (Greenleaf 1995, Marketing Science; Popescu and Wu 2007, Operations Research). Falls
    and rises are logarithms of remembered price over price; the memory is a weighted mean of log prices.

    Attributes:
        gain, loss: Added elasticity below and above the remembered price, >= 0.
        persistence: Weight of the old memory in the new one, in [0, 1).
    """

    gain: np.ndarray
    loss: np.ndarray
    persistence: np.ndarray

    @property
    def is_symmetric(self) -> bool:
        """Whether rises and falls count alike: the memory then adds the same elasticity at every price."""
        return bool(np.all(self.gain == self.loss))

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """The list price; see `Memory`."""
        return list_price[..., None].copy()

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        fall = np.log(state[..., 0] / prices)
        return mean * np.exp(np.where(fall > 0, self.gain, self.loss) * fall)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        log_price = self.persistence * np.log(state[..., 0]) + (1.0 - self.persistence) * np.log(prices)
        return np.exp(log_price)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps of log price; see `Memory`."""
        return [list_price.item() * np.geomspace(min(bounds[0], 1.0), max(bounds[1], 1.0), points)]


@dataclass(frozen=True)
class LinearReferencePrice(Memory):
    """As `ReferencePrice`, in units: demand + gain x (remembered - price)+ - loss x (price - remembered)+.

    With gain = loss and linear demand this is the problem that `oracles.reference_price_policy` solves.

    Attributes:
        gain, loss: Units of demand per unit of currency below and above the remembered price, over `Market.volume`.
        persistence: Weight of the old memory in the new one, in [0, 1).
    """

    gain: np.ndarray
    loss: np.ndarray
    persistence: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """The list price; see `Memory`."""
        return list_price[..., None].copy()

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        fall = state[..., 0] - prices
        return np.maximum(mean + traffic * np.where(fall > 0, self.gain, self.loss) * fall, 0.0)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return (self.persistence * state[..., 0] + (1.0 - self.persistence) * prices)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps of price; see `Memory`."""
        return [list_price.item() * np.linspace(min(bounds[0], 1.0), max(bounds[1], 1.0), points)]


@dataclass(frozen=True)
class Pantry(Memory):
    """Households buy ahead when it is cheap and then live on their stock (Hendel and Nevo 2006, Econometrica).

    The stock is counted in periods of use at home. It dampens purchases: the fuller the pantry, the fewer buy; a
    price below the list price makes households fill it: mean x (1 + eagerness x (1 - price / list)+) x (1 - stock /
    capacity).

    Attributes:
        capacity: Periods of use that fit in a pantry, > 1.
        use: Use a period, in multiples of demand at the list price, > 0.
        eagerness: How much more is bought per unit of relative discount.
        list_price: Price below which households buy ahead, currency per unit.
    """

    capacity: np.ndarray
    use: np.ndarray
    eagerness: np.ndarray
    list_price: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """Empty pantries; see `Memory`."""
        return np.zeros((*list_price.shape, 1))

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        discount = np.maximum(1.0 - prices / self.list_price, 0.0)
        return mean * (1.0 + self.eagerness * discount) * (1.0 - state[..., 0] / self.capacity)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        stock = state[..., 0] + mean / traffic - self.use
        return np.clip(stock, 0.0, self.capacity)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps of the stock; see `Memory`."""
        return [np.linspace(0.0, self.capacity.item(), points)]


@dataclass(frozen=True)
class StrategicWaiting(Memory):
    """Customers who do not buy may come back, and hold back while the price is above what they expect.

    Customers of a period are the newcomers and those who waited. A price above the expected one makes them hold back by
    exp(-foresight x log(price / expected)); those who do not buy stay with probability `patience`. They learn what to
    expect from prices: it is a weighted mean of log prices (Besbes and Lobel 2015, Management Science; Conlisk,
    Gerstner and Sobel 1984, Quarterly Journal of Economics).

    The demand model's response must be a purchase probability (logit), for `Market.volume` counts customers.

    Attributes:
        patience: Chance that a customer who has not bought comes back, in [0, 1).
        foresight: Elasticity by which customers hold back above the expected price, >= 0.
        persistence: Weight of the old expectation in the new one, in [0, 1).
    """

    patience: np.ndarray
    foresight: np.ndarray
    persistence: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """Nobody waits, the list price is expected. Layers: waiting over newcomers, expected price."""
        return np.stack([np.zeros_like(list_price), list_price], axis=-1)

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        above = np.maximum(np.log(prices / state[..., 1]), 0.0)
        return mean * (1.0 + state[..., 0]) * np.exp(-self.foresight * above)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        waiting = self.patience * np.maximum(1.0 + state[..., 0] - mean / traffic, 0.0)
        expected = self.persistence * np.log(state[..., 1]) + (1.0 - self.persistence) * np.log(prices)
        return np.stack([waiting, np.exp(expected)], axis=-1)

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Waiting up to the pool of a shop that never sells; expected price in equal steps of its logarithm."""
        most = (self.patience / (1.0 - self.patience)).item()
        prices = list_price.item() * np.geomspace(min(bounds[0], 1.0), max(bounds[1], 1.0), points)
        return [np.linspace(0.0, most, points), prices]


@dataclass(frozen=True)
class LearnedClearance(Memory):
    """A customer base that learns the policy over repeated seasons: who expects a clearance puts off the purchase.

    A season has `season_length` periods and ends with the clearance. Before it, a share of the buyers waits: strength x
    (price - expected clearance price)+ / price, at most 95 % (the rest needs it now); `recall` of those who waited
    return at the clearance and buy if the price then is at most what they expected, ever fewer above it. After each
    clearance the expected clearance price moves towards the one seen (Su 2007, Management Science; Liu and van Ryzin
    2008, Management Science).

    Attributes:
        strength: Share of buyers who wait per unit of relative saving, >= 0.
        recall: Share of those who waited that return, in [0, 1].
        persistence: Weight of the old expectation in the new one, in [0, 1).
        season_length: Periods of a season, >= 2.
    """

    strength: np.ndarray
    recall: np.ndarray
    persistence: np.ndarray
    season_length: int
    time_invariant = False

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """No clearance is expected, nobody waits. Layers: expected clearance price, waiting over volume."""
        return np.stack([list_price, np.zeros_like(list_price)], axis=-1)

    def _is_clearance(self, period: np.ndarray) -> np.ndarray:
        return (period % self.season_length == self.season_length - 1).reshape(-1, 1, 1)

    def _share_who_wait(self, state: np.ndarray, prices: np.ndarray) -> np.ndarray:
        return np.clip(self.strength * (1.0 - state[..., 0] / prices), 0.0, _MOST_WHO_WAIT)

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        regular = mean * (1.0 - self._share_who_wait(state, prices))
        # A clearance dearer than expected loses waiting customers in proportion to the fourth power of the excess.
        willing = np.minimum((state[..., 0] / prices) ** 4, 1.0)
        clearance = mean + traffic * state[..., 1] * willing
        return np.where(self._is_clearance(period), clearance, regular)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        share = self._share_who_wait(state, prices)
        # Mean demand is what is left of the buyers after those who wait.
        waited = mean / traffic * share / (1.0 - share)
        learned = np.exp(self.persistence * np.log(state[..., 0]) + (1.0 - self.persistence) * np.log(prices))
        ends = self._is_clearance(period)
        expected = np.where(ends, learned, state[..., 0])
        waiting = np.where(ends, 0.0, state[..., 1] + self.recall * waited)
        return np.stack([expected, waiting], axis=-1)

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Expected price in equal steps of its logarithm; waiting up to two periods' volume per regular period."""
        prices = list_price.item() * np.geomspace(min(bounds[0], 1.0), max(bounds[1], 1.0), points)
        return [prices, np.linspace(0.0, 2.0 * (self.season_length - 1), points)]
