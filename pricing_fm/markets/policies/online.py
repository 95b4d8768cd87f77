"""The one form of a policy that sets prices period by period, for many independent runs at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

NOT_OFFERED = np.inf  # the price of a product that is not for sale: nobody pays it


@dataclass(frozen=True)
class Situation:
    """What a seller sees before it sets a price.

    Attributes:
        time_left: float64, shape `(runs,)`: periods still to sell in, the coming one included, or time.
        stock: float64, shape `(runs,)`: units left; infinite where stock sets no limit.
        unit_costs: float64, shape `(runs,)`: cost of a unit, currency.
        rival_prices: float64, shape `(runs,)`: what the rival charges, currency; NaN = not seen.
    """

    time_left: np.ndarray
    stock: np.ndarray
    unit_costs: np.ndarray
    rival_prices: np.ndarray

    @property
    def runs(self) -> int:
        """Independent runs that stand side by side."""
        return len(self.stock)


class OnlinePolicy(Protocol):
    """Sets a price in every run, then sees what was sold. A policy that learns carries what it learned."""

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices of the coming period, float64, shape `(runs,)`, currency; infinite = not offered."""
        ...

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Take in the units sold at these prices; both float64, shape `(runs,)`."""
        ...


def build_situation(
    runs: int,
    time_left: float | np.ndarray = np.inf,
    stock: float | np.ndarray = np.inf,
    unit_costs: float | np.ndarray = 0.0,
    rival_prices: float | np.ndarray = np.nan,
) -> Situation:
    """Situation of all runs from numbers that are common to them or one per run.

    Args:
        runs: Independent runs.
        time_left: Scalar or shape `(runs,)`; likewise the others.
        stock: Units, >= 0.
        unit_costs: Currency.
        rival_prices: Currency; NaN = not seen.

    Returns:
        The situation, every array of shape `(runs,)`.

    Raises:
        ValueError: If an array is not of shape `(runs,)` or a stock is negative or NaN.
    """
    spread = [np.broadcast_to(np.asarray(v, dtype=np.float64), runs) for v in (time_left, stock, unit_costs)]
    if not (spread[1] >= 0).all():
        raise ValueError(f"stock is as low as {spread[1].min()}; it must be at least 0 in every run")
    rivals = np.broadcast_to(np.asarray(rival_prices, dtype=np.float64), runs)
    return Situation(time_left=spread[0], stock=spread[1], unit_costs=spread[2], rival_prices=rivals)


def check_runs(situation: Situation, runs: int) -> None:
    """Refuse a situation of another number of runs than the policy has learned for.

    Raises:
        ValueError: If the numbers differ.
    """
    if situation.runs != runs:
        raise ValueError(f"situation has {situation.runs} runs; this policy was built for runs = {runs}")


def check_prices(prices: np.ndarray, runs: int) -> np.ndarray:
    """Return the prices of a policy if there is one per run, none of them NaN or negative.

    Raises:
        ValueError: If the shape is wrong or a price is NaN or negative.
    """
    if np.shape(prices) != (runs,):
        raise ValueError(f"prices has shape {np.shape(prices)}; it must be ({runs},), one price per run")
    if not (prices >= 0).all():
        run = int(np.flatnonzero(~(prices >= 0))[0])
        raise ValueError(f"prices[{run}] is {prices[run]}; a price must be at least 0 (infinite = not offered)")
    return prices


def check_feedback(prices: np.ndarray, sales: np.ndarray, runs: int) -> None:
    """Refuse feedback that would spoil what a policy has learned.

    Raises:
        ValueError: If there is not one price and one number of units per run, or one of them is NaN.
    """
    for name, values in (("prices", prices), ("sales", sales)):
        if np.shape(values) != (runs,):
            raise ValueError(f"{name} has shape {np.shape(values)}; it must be ({runs},), one entry per run")
        if np.isnan(values).any():
            run = int(np.flatnonzero(np.isnan(values))[0])
            raise ValueError(f"{name}[{run}] is nan; every run needs a number")
