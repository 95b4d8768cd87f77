"""Who may have a seat: nested protection levels (EMSR-b), first come first served, and the optimal control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.oracles import emsr
from pricing_fm.markets.oracles.checks import check_numbers
from pricing_fm.markets.policies.seat_markets import MixedFareClasses, OrderedFareClasses


@dataclass(frozen=True)
class ProtectionLevels:
    """Keeps seats for the higher classes whatever came before.

    Attributes:
        levels: Seats kept for classes 1, 1-2, ..., all but the lowest, >= 0.

    Raises:
        ValueError: If a level is negative or not finite.
    """

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.levels:
            check_numbers("levels", self.levels, least=0)

    def whole_levels(self) -> tuple[int, ...]:
        """Seats kept, whole and rising: a lower class never sees more seats than a higher one.

        Rounding half upwards is the continuity correction of the normal law: seat n is kept where P(requests > n - 1/2)
        is high enough.
        """
        whole = np.floor(np.array(self.levels, dtype=np.float64) + 0.5).astype(int)
        return tuple(np.maximum.accumulate(whole).tolist())

    def open_seats(self, fare_class: np.ndarray, seats_left: np.ndarray, periods_left: int) -> np.ndarray:
        """Seats left beyond those kept for the classes above, int64, shape `(runs,)`."""
        kept = np.array([0, *self.whole_levels()])[fare_class]
        return np.maximum(seats_left - kept, 0)


@dataclass(frozen=True)
class UpdatedProtectionLevels:
    """EMSR-b computed anew in every period from the requests that are still to be expected.

    Attributes:
        fares: Falling, currency, > 0.
        arrival_probabilities: Chance of a request of every class in a period.

    Raises:
        ValueError: If lengths differ or a number is out of bounds.
    """

    fares: tuple[float, ...]
    arrival_probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        check_numbers("arrival_probabilities", self.arrival_probabilities, least=0, most=1, length=len(self.fares))
        _build_expected_emsr(self.fares, self.arrival_probabilities, 1)

    def open_seats(self, fare_class: np.ndarray, seats_left: np.ndarray, periods_left: int) -> np.ndarray:
        """Seats left beyond those kept for the classes above, int64, shape `(runs,)`."""
        # The present request is one of a period; those to be kept for come in the later ones.
        control = _build_expected_emsr(self.fares, self.arrival_probabilities, max(periods_left - 1, 0))
        return control.open_seats(fare_class, seats_left, periods_left)


class BestSeatControl:
    """Accepts a request where the fare is at least the value of the seat: the exact optimum of mixed requests.

    Args:
        market: The classes; values are computed for all its periods and seats.

    Attributes:
        values: float64, shape `(periods + 1, capacity + 1)`: expected revenue with so many periods and seats left.

    References:
        Lee and Hersh 1993, Transportation Science 27(3).
    """

    def __init__(self, market: MixedFareClasses) -> None:
        self.fares = np.asarray(market.fares, dtype=np.float64)
        chances = np.asarray(market.arrival_probabilities)[:, None]
        self.values = np.zeros((market.periods + 1, market.capacity + 1))
        for t in range(1, market.periods + 1):
            before = self.values[t - 1]
            self.values[t] = before
            gain = np.maximum(self.fares[:, None] - np.diff(before), 0.0)
            self.values[t, 1:] += (chances * gain).sum(axis=0)

    def open_seats(self, fare_class: np.ndarray, seats_left: np.ndarray, periods_left: int) -> np.ndarray:
        """One seat where the fare reaches its value in the later periods, else none; int64, shape `(runs,)`."""
        later = self.values[periods_left - 1]
        worth = later[seats_left] - later[np.maximum(seats_left - 1, 0)]
        return ((seats_left > 0) & (self.fares[fare_class] >= worth)).astype(np.int64)


def build_emsr_control(fares: Sequence[float], means: Sequence[float], stds: Sequence[float]) -> ProtectionLevels:
    """EMSR-b: each class is held back for the classes above it put together.

    Args:
        fares: Falling, currency, > 0.
        means: Mean requests of every class, >= 0.
        stds: Standard deviations, >= 0.

    Returns:
        The control, with the levels of `oracles.emsr`.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Belobaba 1989, Operations Research 37(2).
    """
    return ProtectionLevels(tuple(emsr(fares, means, stds, "b")["protection_levels"]))


def build_first_come_control(num_classes: int) -> ProtectionLevels:
    """First come, first served: no seat is kept for anybody.

    Args:
        num_classes: Fare classes, >= 1.

    Returns:
        The control.
    """
    return ProtectionLevels((0.0,) * (num_classes - 1))


def build_emsr_for(market: OrderedFareClasses | MixedFareClasses) -> ProtectionLevels:
    """EMSR-b with the true means and deviations of a market, fixed for the whole sale.

    Args:
        market: Classes in order or mixed.

    Returns:
        The control.
    """
    if isinstance(market, OrderedFareClasses):
        return build_emsr_control(market.fares, market.means, market.stds)
    return _build_expected_emsr(market.fares, market.arrival_probabilities, market.periods)


def _build_expected_emsr(fares: Sequence[float], chances: Sequence[float], periods: int) -> ProtectionLevels:
    """EMSR-b for the binomial numbers of requests of so many periods."""
    p = np.asarray(chances, dtype=np.float64)
    return build_emsr_control(fares, (p * periods).tolist(), np.sqrt(p * (1.0 - p) * periods).tolist())
