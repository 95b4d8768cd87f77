"""Seats of a flight sold to fare classes that come in order or mixed, with exact values and simulation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from scipy import special, stats

from pricing_fm.markets.oracles import fare_class_dynamic_program
from pricing_fm.markets.oracles.checks import check_integer, check_numbers


class SeatControl(Protocol):
    """Says how many seats a fare class may take now."""

    def open_seats(self, fare_class: np.ndarray, seats_left: np.ndarray, periods_left: int) -> np.ndarray:
        """Seats that the class may take of those left, >= 0, int64, shape `(runs,)`.

        Args:
            fare_class: Class that asks, 0 = highest fare, shape `(runs,)`.
            seats_left: Shape `(runs,)`.
            periods_left: Periods still to come, the present one included; 0 where classes come in order.
        """
        ...


@dataclass(frozen=True)
class OrderedFareClasses:
    """Classes that come one after the other, the lowest fare first, each with an independent number of requests.

    Attributes:
        fares: Falling, currency, > 0.
        means: Mean requests of every class, >= 0.
        stds: Standard deviation, >= 0. Normal requests are rounded, and none below zero; Poisson: the root of the mean.
        capacity: Seats, whole, >= 0.
        law: "normal" or "poisson".

    Raises:
        ValueError: If lengths differ, fares do not fall, or a number is out of bounds.
    """

    fares: tuple[float, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    capacity: int
    law: Literal["normal", "poisson"] = "normal"

    def __post_init__(self) -> None:
        fares = check_numbers("fares", self.fares, above=0)
        means = check_numbers("means", self.means, least=0, length=len(fares))
        stds = check_numbers("stds", self.stds, least=0, length=len(fares))
        check_integer("capacity", self.capacity)
        if np.any(np.diff(fares) >= 0):
            raise ValueError(f"fares is {self.fares}; it must fall from one class to the next")
        if self.law not in ("normal", "poisson"):
            raise ValueError(f"law is {self.law!r}; it must be 'normal' or 'poisson'")
        if self.law == "poisson" and not np.allclose(stds, np.sqrt(means), rtol=1e-6):
            raise ValueError(f"stds is {self.stds}; Poisson requests have the roots of the means {self.means}")

    def request_chances(self) -> np.ndarray:
        """Chance of every number of requests, the last for `capacity` or more, shape `(classes, capacity + 1)`."""
        counts = np.arange(self.capacity + 1)
        means, stds = np.asarray(self.means)[:, None], np.asarray(self.stds)[:, None]
        if self.law == "poisson":
            at_most = stats.poisson.cdf(counts, means)
        else:
            # Requests are rounded, half upwards; a certain number has no deviation.
            below = counts + 0.5 - means
            at_most = np.where(stds > 0, special.ndtr(below / np.where(stds > 0, stds, 1.0)), below > 0)
        at_most[:, -1] = 1.0
        return np.diff(at_most, axis=1, prepend=0.0)

    def draw_requests(self, fare_class: int, runs: int, random: np.random.Generator) -> np.ndarray:
        """Requests of a class, int64, shape `(runs,)`."""
        if self.law == "poisson":
            return random.poisson(self.means[fare_class], runs)
        draws = random.normal(self.means[fare_class], self.stds[fare_class], runs)
        # Half goes up, as in the chances above.
        return np.maximum(np.floor(draws + 0.5), 0.0).astype(np.int64)


@dataclass(frozen=True)
class SeatOptimum:
    """Best nested control of classes that come in order.

    Attributes:
        value: Expected revenue, currency.
        protection_levels: Seats kept for classes 1, 1-2, ..., all but the lowest.
    """

    value: float
    protection_levels: tuple[int, ...]


def compute_ordered_optimum(market: OrderedFareClasses) -> SeatOptimum:
    """Exact dynamic program over the classes: keep the seats that are worth more than the fare to the classes above.

    Args:
        market: The classes.

    Returns:
        Value and protection levels, whole seats.

    References:
        Brumelle and McGill 1993, Operations Research 41(1); Robinson 1995, Operations Research 43(2).
    """
    values, levels = np.zeros(market.capacity + 1), []
    for j in range(len(market.fares)):
        # The value of a seat falls in their number, so the seats worth more than the fare are the first ones.
        level = int((np.diff(values) > market.fares[j]).sum())
        values = _add_class(market, j, level, values)
        levels.append(level)
    return SeatOptimum(float(values[-1]), tuple(levels[1:]))


def compute_ordered_value(market: OrderedFareClasses, protection_levels: tuple[int, ...]) -> float:
    """Exact expected revenue of nested protection levels when the classes come in order.

    Args:
        market: The classes.
        protection_levels: Whole seats kept for classes 1, 1-2, ..., all but the lowest.

    Returns:
        Revenue, currency.

    Raises:
        ValueError: If there is not one level less than classes or one is negative.
    """
    if len(protection_levels) != len(market.fares) - 1:
        raise ValueError(f"protection_levels has {len(protection_levels)} entries; it needs {len(market.fares) - 1}")
    values = np.zeros(market.capacity + 1)
    for j, level in enumerate((0, *protection_levels)):
        values = _add_class(market, j, check_integer("protection_levels", level), values)
    return float(values[-1])


def simulate_ordered(
    market: OrderedFareClasses, control: SeatControl, runs: int, random: np.random.Generator
) -> np.ndarray:
    """Revenue of a control when the classes come in order.

    Args:
        market: The classes.
        control: Seats open to each class.
        runs: Independent runs, >= 1.
        random: Draws the requests.

    Returns:
        float64, shape `(runs,)`, currency.

    Raises:
        ValueError: If there is no run or the control opens a negative number of seats.
    """
    left = np.full(check_integer("runs", runs, least=1), market.capacity)
    revenue = np.zeros(runs)
    for j in reversed(range(len(market.fares))):
        sold = np.minimum(market.draw_requests(j, runs, random), _ask(control, np.full(runs, j), left, 0))
        left, revenue = left - sold, revenue + market.fares[j] * sold
    return revenue


@dataclass(frozen=True)
class MixedFareClasses:
    """Requests of all classes mixed, at most one in a period, with the same chances in every period.

    Attributes:
        fares: Falling, currency, > 0.
        arrival_probabilities: Chance of a request of every class in a period, together at most 1.
        periods: Whole, >= 1.
        capacity: Seats, whole, >= 0.

    Raises:
        ValueError: If lengths differ, fares do not fall, or a number is out of bounds.

    References:
        Lee and Hersh 1993, Transportation Science 27(3).
    """

    fares: tuple[float, ...]
    arrival_probabilities: tuple[float, ...]
    periods: int
    capacity: int

    def __post_init__(self) -> None:
        fares = check_numbers("fares", self.fares, above=0)
        if np.any(np.diff(fares) >= 0):
            raise ValueError(f"fares is {self.fares}; it must fall from one class to the next")
        check_integer("periods", self.periods, least=1)
        fare_class_dynamic_program(self.fares, self.arrival_probabilities, 0, check_integer("capacity", self.capacity))

    def optimal_value(self) -> float:
        """Expected revenue of the best control (`oracles.fare_class_dynamic_program`), currency."""
        answer = fare_class_dynamic_program(self.fares, self.arrival_probabilities, self.periods, self.capacity)
        return answer["value"]


def simulate_mixed(
    market: MixedFareClasses, control: SeatControl, runs: int, random: np.random.Generator
) -> np.ndarray:
    """Revenue of a control when the requests come mixed.

    Args:
        market: The classes.
        control: Seats open to each class; a request is accepted where one is.
        runs: Independent runs, >= 1.
        random: Draws the requests.

    Returns:
        float64, shape `(runs,)`, currency.

    Raises:
        ValueError: If there is no run or the control opens a negative number of seats.
    """
    left = np.full(check_integer("runs", runs, least=1), market.capacity)
    revenue, fares = np.zeros(runs), np.append(market.fares, 0.0)
    chances = np.cumsum(market.arrival_probabilities)
    for t in range(market.periods):
        asks = np.searchsorted(chances, random.random(runs), side="right")  # past the last class: nobody
        comes = asks < len(market.fares)
        open_seats = _ask(control, np.minimum(asks, len(market.fares) - 1), left, market.periods - t)
        sold = comes & (open_seats > 0)
        left, revenue = left - sold, revenue + np.where(sold, fares[asks], 0.0)
    return revenue


def _add_class(market: OrderedFareClasses, fare_class: int, level: int, values: np.ndarray) -> np.ndarray:
    """Value of every number of seats before a class comes, from the values after it."""
    seats = np.arange(market.capacity + 1)
    chances = market.request_chances()[fare_class]
    sold = np.minimum(seats[None, :], np.maximum(seats - level, 0)[:, None])  # [seats, requests]
    return (chances * (market.fares[fare_class] * sold + values[seats[:, None] - sold])).sum(axis=1)


def _ask(control: SeatControl, fare_class: np.ndarray, seats_left: np.ndarray, periods_left: int) -> np.ndarray:
    """Open seats, no more than there are."""
    opened = control.open_seats(fare_class, seats_left, periods_left)
    if np.shape(opened) != seats_left.shape or opened.min() < 0:
        raise ValueError(f"open_seats has shape {np.shape(opened)}; it must be {seats_left.shape}, none below 0")
    return np.minimum(opened, seats_left)
