"""Pricing by least squares on a straight demand line: greedy, and with forced dispersion of prices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.oracles.checks import check_integer, check_number, check_numbers
from pricing_fm.markets.policies.online import Situation, check_feedback, check_runs


@dataclass(frozen=True)
class LeastSquaresSettings:
    """What a seller that believes in a straight demand line starts with.

    Attributes:
        price_bounds: Lowest and highest price, currency.
        first_prices: The two different prices of the first two periods, within the bounds.
        dispersion: Forced distance of a price from the mean of all earlier ones in period t is dispersion x t ** -1/4,
            currency; 0 = greedy.

    Raises:
        ValueError: If the bounds are no interval, the first prices are equal or outside it, or the dispersion is
            negative or wider than half the interval (it would not fit on either side of the mean).
    """

    price_bounds: tuple[float, float]
    first_prices: tuple[float, float]
    dispersion: float = 0.0

    def __post_init__(self) -> None:
        low, high = check_numbers("price_bounds", self.price_bounds, least=0, length=2)
        if low >= high:
            raise ValueError(f"price_bounds is {self.price_bounds}; the highest price must exceed the lowest")
        first = check_numbers("first_prices", self.first_prices, least=float(low), most=float(high), length=2)
        if first[0] == first[1]:
            raise ValueError(f"first_prices is {self.first_prices}; two different prices are needed to fit a line")
        check_number("dispersion", self.dispersion, least=0, most=float(high - low) / 2.0)


class IteratedLeastSquares:
    """Charges the price that is best if the least-squares line through all sales so far were the truth.

    Greedy (dispersion 0, iterated least squares, ILS): the prices settle before the line is right, new sales at one
    price say nothing about the slope, and the error stays for ever: regret is linear in time. With dispersion above 0
    (constrained iterated least squares, CILS), a price that comes closer than dispersion x t ** -1/4 to the mean of the
    earlier ones is moved that far away, on the side it was on; the squared deviations then grow like the square root of
    time, and so does the regret, which is the best order there is. At a bound, where that side has no room, the price
    moves to the other side: the forced deviation is what the bound on the regret rests on.

    Args:
        settings: Bounds, first prices and dispersion.
        runs: Independent runs.

    Raises:
        ValueError: If there is no run.

    References:
        Lai and Robbins 1982, Advances in Applied Probability 14(3); Keskin and Zeevi 2014, Operations Research 62(5).
    """

    def __init__(self, settings: LeastSquaresSettings, runs: int) -> None:
        self.settings = settings
        self.runs = check_integer("runs", runs, least=1)
        self.periods = 0
        # Running means and centred sums: plain sums of squares lose the tiny spread of settled prices.
        self.mean_price = np.zeros(self.runs)
        self.mean_sales = np.zeros(self.runs)
        self.price_deviation = np.zeros(self.runs)  # sum of (price - mean price) ** 2
        self.joint_deviation = np.zeros(self.runs)  # sum of (price - mean price) x (sales - mean sales)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; the same for the same past (nothing is drawn).

        Raises:
            ValueError: If the situation has another number of runs.
        """
        check_runs(situation, self.runs)
        if self.periods < 2:
            return np.full(self.runs, float(self.settings.first_prices[self.periods]))
        greedy = self.compute_greedy_price(situation.unit_costs)
        return greedy if self.settings.dispersion == 0.0 else self._keep_away_from_mean(greedy)

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Add one period to the least-squares sums.

        Raises:
            ValueError: If there is not one price and one number of units per run, or one of them is NaN.
        """
        check_feedback(prices, sales, self.runs)
        self.periods += 1
        price_step, sales_step = prices - self.mean_price, sales - self.mean_sales
        self.mean_price = self.mean_price + price_step / self.periods
        self.mean_sales = self.mean_sales + sales_step / self.periods
        self.price_deviation = self.price_deviation + price_step * (prices - self.mean_price)
        self.joint_deviation = self.joint_deviation + price_step * (sales - self.mean_sales)

    def compute_greedy_price(self, unit_costs: np.ndarray) -> np.ndarray:
        """Best price within the bounds if the fitted line were the demand, shape `(runs,)`, currency."""
        low, high = self.settings.price_bounds
        slope = self.joint_deviation / self.price_deviation
        intercept = self.mean_sales - slope * self.mean_price
        falls = slope < 0
        inside = np.clip((unit_costs - intercept / np.where(falls, slope, -1.0)) / 2.0, low, high)
        # A line that does not fall has its best price at an end.
        at_low = (low - unit_costs) * (intercept + slope * low)
        at_high = (high - unit_costs) * (intercept + slope * high)
        return np.where(falls, inside, np.where(at_high >= at_low, high, low))

    def _keep_away_from_mean(self, greedy: np.ndarray) -> np.ndarray:
        low, high = self.settings.price_bounds
        distance = self.settings.dispersion * self.periods**-0.25
        side = np.where(greedy >= self.mean_price, 1.0, -1.0)
        moved = self.mean_price + side * distance
        moved = np.where((moved < low) | (moved > high), self.mean_price - side * distance, moved)
        return np.where(np.abs(greedy - self.mean_price) < distance, moved, greedy)
