"""Sellers who learn their prices while they compete, many independent runs side by side.

A seller sets a price for every run, then sees the rival's price and its own sales. Two of them meet in
`simulate_competition`; one alone is a learning rival against any pricing policy: call `set_prices`, sell, `observe`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.competition import Duopoly, compute_profit_gain_index
from pricing_fm.markets.streams import DECISION, START, Streams, build_streams

_BLOCK = 512  # periods whose draws are made at once


class Seller:
    """Base of all sellers: the draws of every run, and the periods gone.

    Args:
        streams: Random streams, one per run.
    """

    def __init__(self, streams: Streams) -> None:
        self.streams, self.period = streams, 0
        self._drawn = np.empty((0, 2, len(streams.keys)))

    @property
    def num_runs(self) -> int:
        """Independent runs side by side."""
        return len(self.streams.keys)

    def set_prices(self) -> np.ndarray:
        """Prices of the coming period, currency, `(runs,)`."""
        raise NotImplementedError

    def observe(self, rival_prices: np.ndarray, sales: np.ndarray) -> None:
        """Learn from the period: the rival's prices, currency, and own sales, units per customer; `(runs,)` each."""
        self.period += 1

    def draw(self) -> np.ndarray:
        """Two uniform numbers per run for this period, `(2, runs)`."""
        place = self.period % _BLOCK
        if place == 0 or not len(self._drawn):
            block = self.streams.uniform(self.period // _BLOCK, DECISION, (_BLOCK, 2))
            self._drawn = np.ascontiguousarray(np.moveaxis(block, 0, 2))
        return self._drawn[place]

    def draw_first(self, ladder: np.ndarray) -> np.ndarray:
        """Rungs at random for own and rival's price before the first period, int, `(runs, 2)`."""
        return (self.streams.uniform(0, START, (2,)) * len(ladder)).astype(np.int64)


class QLearningSeller(Seller):
    """Tabular Q-learning whose state is the last period's pair of prices.

    A rival's price off the ladder counts as the nearest rung.

    Args:
        streams: Random streams, one per run.
        ladder, rival_ladder: Equally spaced prices, currency, `(rungs,)` each.
        cost: Unit cost, currency.
        initial_values: Value of each own rung before learning, currency, `(rungs,)`.
        settings: How it learns.
    """

    def __init__(
        self,
        streams: Streams,
        ladder: np.ndarray,
        rival_ladder: np.ndarray,
        cost: float,
        initial_values: np.ndarray,
        settings: QLearning,
    ) -> None:
        super().__init__(streams)
        self.settings, self.ladder, self.cost = settings, ladder, cost
        self._low, self._step, self._top = rival_ladder[0], rival_ladder[1] - rival_ladder[0], len(rival_ladder) - 1
        states = len(ladder) * len(rival_ladder)
        self.values = np.tile(np.asarray(initial_values, dtype=np.float64), (self.num_runs * states, 1))
        self._cells = self.values.reshape(-1)
        self._offsets = np.arange(self.num_runs) * states
        first = self.draw_first(ladder)
        self._rows = self._offsets + first[:, 0] * len(rival_ladder) + first[:, 1] % len(rival_ladder)
        self._rung = first[:, 0]
        self._greedy = self.values.take(self._rows, axis=0).argmax(axis=1)

    def set_prices(self) -> np.ndarray:
        """Greedy rung, or any with a chance that falls exponentially; see `Seller`."""
        explore, which = self.draw()
        chance = math.exp(-self.settings.exploration_decay * self.period)
        self._rung = np.where(explore < chance, (which * len(self.ladder)).astype(np.int64), self._greedy)
        return self.ladder.take(self._rung)

    def observe(self, rival_prices: np.ndarray, sales: np.ndarray) -> None:
        """One step of Q-learning; see `Seller`."""
        rival = np.minimum(np.maximum(np.rint((rival_prices - self._low) / self._step), 0.0), self._top)
        following = self._offsets + self._rung * (self._top + 1) + rival.astype(np.int64)
        profits = (self.ladder.take(self._rung) - self.cost) * sales
        ahead = self.values.take(following, axis=0)
        target = profits + self.settings.discount * ahead.max(axis=1)
        cells = self._rows * len(self.ladder) + self._rung
        before = self._cells.take(cells)
        self._cells[cells] = before + self.settings.step_size * (target - before)
        # Where the state stays the same, the row that was read has just been written.
        same = np.flatnonzero(following == self._rows)
        if len(same):
            ahead[same] = self.values[following[same]]
        self._greedy = ahead.argmax(axis=1)
        self._rows = following
        super().observe(rival_prices, sales)


class BanditSeller(Seller):
    """Epsilon-greedy on the ladder: the mean profit of every rung so far, blind to the rival.

    Args:
        streams: Random streams, one per run.
        ladder: Prices, currency, `(rungs,)`.
        cost: Unit cost, currency.
        settings: How it learns.
    """

    def __init__(self, streams: Streams, ladder: np.ndarray, cost: float, settings: Bandit) -> None:
        super().__init__(streams)
        self.settings, self.ladder, self.cost = settings, ladder, cost
        self.means = np.zeros((self.num_runs, len(ladder)))
        self.counts = np.zeros((self.num_runs, len(ladder)))
        self._runs = np.arange(self.num_runs)
        self._rung = np.zeros(self.num_runs, dtype=np.int64)

    def set_prices(self) -> np.ndarray:
        """Every rung once, in an order of the run's own, then the best so far or, by chance, any; see `Seller`."""
        explore, which = self.draw()
        rungs = len(self.ladder)
        if self.period < rungs:
            first = self.draw_first(self.ladder)[:, 0]
            self._rung = (first + self.period) % rungs
        else:
            chance = self.settings.least_exploration + (1.0 - self.settings.least_exploration) * np.exp(
                -self.settings.exploration_decay * self.period
            )
            greedy = self.means.argmax(axis=1)
            self._rung = np.where(explore < chance, (which * rungs).astype(np.int64), greedy)
        return self.ladder[self._rung]

    def observe(self, rival_prices: np.ndarray, sales: np.ndarray) -> None:
        """Move the rung's mean; see `Seller`."""
        here = self._runs, self._rung
        self.counts[here] += 1.0
        profits = (self.ladder[self._rung] - self.cost) * sales
        weight = np.maximum(1.0 / self.counts[here], self.settings.step_size)
        self.means[here] += weight * (profits - self.means[here])
        super().observe(rival_prices, sales)


class LeastSquaresSeller(Seller):
    """Certainty equivalence: fits a line of own sales on own price by least squares and charges its best price.

    The rival is left out of the fitted model. Where the line does not fall, the top price looks best and is charged.

    Args:
        streams: Random streams, one per run.
        bounds: Lowest and highest price, currency.
        cost: Unit cost, currency.
    """

    def __init__(self, streams: Streams, bounds: tuple[float, float], cost: float) -> None:
        super().__init__(streams)
        self.bounds, self.cost = bounds, cost
        # Count, means of price and sales, centred sums of squares and products: updated in place, stable.
        self._price_mean, self._sales_mean, self._squares, self._products = np.zeros((4, self.num_runs))
        self._price = np.zeros(self.num_runs)

    def set_prices(self) -> np.ndarray:
        """Two prices at random, then the best of the fitted line; see `Seller`."""
        low, high = self.bounds
        if self.period < 2:
            self._price = low + (high - low) * self.draw()[0]
            return self._price
        slope = self._products / np.where(self._squares > 0, self._squares, 1.0)
        falls = slope < 0
        intercept = self._sales_mean - slope * self._price_mean
        best = 0.5 * (self.cost - intercept / np.where(falls, slope, -1.0))
        self._price = np.where(falls, np.clip(best, low, high), high)
        return self._price

    def observe(self, rival_prices: np.ndarray, sales: np.ndarray) -> None:
        """Take one more point into the fit; see `Seller`."""
        super().observe(rival_prices, sales)
        gap = self._price - self._price_mean
        self._price_mean = self._price_mean + gap / self.period
        self._squares = self._squares + gap * (self._price - self._price_mean)
        self._products = self._products + gap * (sales - self._sales_mean) * (self.period - 1) / self.period
        self._sales_mean = self._sales_mean + (sales - self._sales_mean) / self.period


class BestResponseSeller(Seller):
    """Knows the market and answers the rival's last price with the best price for one period.

    Args:
        streams: Random streams, one per run.
        duopoly: The market.
        position: Which seller of it, 0 or 1.
    """

    def __init__(self, streams: Streams, duopoly: Duopoly, position: int) -> None:
        super().__init__(streams)
        self.duopoly, self.position = duopoly, position
        rival_ladder = duopoly.build_price_ladder(1 - position)
        self._rival = rival_ladder[self.draw_first(rival_ladder)[:, 1]]

    def set_prices(self) -> np.ndarray:
        """Best response; see `Seller`."""
        return self.duopoly.compute_best_response(self.position, self._rival)

    def observe(self, rival_prices: np.ndarray, sales: np.ndarray) -> None:
        """Remember the rival's price; see `Seller`."""
        self._rival = rival_prices
        super().observe(rival_prices, sales)


class FixedPriceSeller(Seller):
    """Charges one price for ever.

    Args:
        streams: Random streams, one per run.
        price: Currency.
    """

    def __init__(self, streams: Streams, price: float) -> None:
        super().__init__(streams)
        self._prices = np.full(self.num_runs, price)

    def set_prices(self) -> np.ndarray:
        """The price; see `Seller`."""
        return self._prices


@dataclass(frozen=True)
class QLearning:
    """Settings of `QLearningSeller`; the defaults are the baseline of Calvano et al. 2020.

    Attributes:
        step_size: Weight of the new observation, in (0, 1].
        exploration_decay: Exploration in period t has the chance exp(-exploration_decay x t), > 0.
        discount: In [0, 1).
        rungs: Prices of the ladder.

    Raises:
        ValueError: If a number is out of bounds.
    """

    step_size: float = 0.15
    exploration_decay: float = 4e-6
    discount: float = 0.95
    rungs: int = 15

    def __post_init__(self) -> None:
        if not (0.0 < self.step_size <= 1.0 and self.exploration_decay > 0.0 and 0.0 <= self.discount < 1.0):
            raise ValueError(f"{self}: step_size in (0, 1], exploration_decay > 0 and discount in [0, 1) are needed")
        if self.rungs < 2:
            raise ValueError(f"rungs is {self.rungs}; a ladder needs 2 or more")

    def start(self, duopoly: Duopoly, position: int, streams: Streams) -> Seller:
        """A seller whose values start at the mean profit against a rival who charges any rung, for ever."""
        own, rival = (duopoly.build_price_ladder(who, self.rungs) for who in (position, 1 - position))
        pairs = np.stack(np.meshgrid(own, rival, indexing="ij")[:: 1 if position == 0 else -1], axis=-1)
        values = duopoly.compute_profits(pairs)[..., position].mean(axis=1) / (1.0 - self.discount)
        return QLearningSeller(streams, own, rival, duopoly.costs[position], values, self)


@dataclass(frozen=True)
class Bandit:
    """Settings of `BanditSeller`.

    Attributes:
        exploration_decay: As of `QLearning`.
        least_exploration: Chance of exploration that is never left, in [0, 1].
        step_size: Least weight of a new observation, in [0, 1]; 0 = plain means.
        rungs: Prices of the ladder.

    Raises:
        ValueError: If a number is out of bounds.
    """

    exploration_decay: float = 1e-3
    least_exploration: float = 0.0
    step_size: float = 0.05
    rungs: int = 15

    def __post_init__(self) -> None:
        shares = (self.least_exploration, self.step_size)
        if not (self.exploration_decay > 0.0 and all(0.0 <= share <= 1.0 for share in shares) and self.rungs >= 2):
            raise ValueError(f"{self}: exploration_decay > 0, shares in [0, 1] and 2 or more rungs are needed")

    def start(self, duopoly: Duopoly, position: int, streams: Streams) -> Seller:
        """A seller who has seen nothing."""
        return BanditSeller(streams, duopoly.build_price_ladder(position, self.rungs), duopoly.costs[position], self)


@dataclass(frozen=True)
class LeastSquares:
    """Settings of `LeastSquaresSeller`, whose prices stay within the ladder's ends."""

    def start(self, duopoly: Duopoly, position: int, streams: Streams) -> Seller:
        """A seller who has seen nothing."""
        ladder = duopoly.build_price_ladder(position)
        return LeastSquaresSeller(streams, (float(ladder[0]), float(ladder[-1])), duopoly.costs[position])


@dataclass(frozen=True)
class BestResponse:
    """Settings of `BestResponseSeller`: none."""

    def start(self, duopoly: Duopoly, position: int, streams: Streams) -> Seller:
        """A seller who believes the rival to have charged a rung at random."""
        return BestResponseSeller(streams, duopoly, position)


@dataclass(frozen=True)
class FixedPrice:
    """Settings of `FixedPriceSeller`.

    Attributes:
        price: Currency.
    """

    price: float

    def start(self, duopoly: Duopoly, position: int, streams: Streams) -> Seller:
        """A seller who does not learn."""
        return FixedPriceSeller(streams, self.price)


Learner = QLearning | Bandit | LeastSquares | BestResponse | FixedPrice


@dataclass(frozen=True)
class Competition:
    """How runs of a repeated duopoly ended. Averages over the last periods.

    Attributes:
        prices: Currency, `(runs, 2)`.
        profits: Currency per customer, `(runs, 2)`.
        profit_gain: Index of each run, `(runs,)`; 0 is the one-period equilibrium, 1 joint pricing.
    """

    prices: np.ndarray
    profits: np.ndarray
    profit_gain: np.ndarray

    @property
    def mean_profit_gain(self) -> float:
        """Mean index over the runs."""
        return float(self.profit_gain.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean index, from the scatter of the runs."""
        return float(self.profit_gain.std(ddof=1) / np.sqrt(len(self.profit_gain)))


def simulate_competition(
    duopoly: Duopoly,
    learners: tuple[Learner, Learner],
    run_ids: np.ndarray,
    num_periods: int,
    measured_periods: int = 1_000,
    seed: int = 0,
) -> Competition:
    """Let two sellers meet again and again; demand is its mean, all luck is the sellers' own.

    Args:
        duopoly: The market.
        learners: How each seller learns.
        run_ids: Integer names of the runs, >= 0, `(runs,)`; the same name gives the same run in any company.
        num_periods: Periods of a run. Q-learning with the baseline's exploration needs two million or so.
        measured_periods: Last periods over which results are averaged.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        Prices, profits and profit gains of the runs.

    Raises:
        ValueError: If no run is given or `measured_periods` is not between 1 and `num_periods`.
    """
    ids = np.asarray(run_ids, dtype=np.int64)
    if not 1 <= measured_periods <= num_periods or not len(ids):
        raise ValueError(
            f"measured_periods is {measured_periods} of {num_periods} and there are {len(ids)} runs; at least one run"
            " and between 1 and all periods are needed"
        )
    first, second = (
        learner.start(duopoly, position, build_streams(seed, ids, position))
        for position, learner in enumerate(learners)
    )
    prices, price_sum, profit_sum = np.empty((len(ids), 2)), np.zeros((len(ids), 2)), np.zeros((len(ids), 2))
    costs = np.array(duopoly.costs)
    for period in range(num_periods):
        prices[:, 0], prices[:, 1] = first.set_prices(), second.set_prices()
        shares = duopoly.compute_shares(prices)
        first.observe(prices[:, 1].copy(), shares[:, 0])
        second.observe(prices[:, 0].copy(), shares[:, 1])
        if period >= num_periods - measured_periods:
            price_sum += prices
            profit_sum += (prices - costs) * shares
    profits = profit_sum / measured_periods
    return Competition(price_sum / measured_periods, profits, compute_profit_gain_index(profits, duopoly))
