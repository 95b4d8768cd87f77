"""What a clinic adds to markets: few referrers, welfare instead of margin, shows by chance, budgets that remember.

Segments are acuity classes, from the most urgent to the least; products are services (slots, beds, imaging).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.stats import binom

from pricing_fm.markets.core import Market
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.noise import Noise
from pricing_fm.markets.parts import Part
from pricing_fm.markets.payoffs import Payoff
from pricing_fm.markets.streams import DEMAND, SHOW, Streams

ACUITIES = ("urgent", "soon", "routine")
URGENT, SOON, ROUTINE = range(3)


def serve_by_acuity(wanted: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """Give out capacity in order of acuity, whatever each class pays.

    Args:
        wanted: Patients of each class, `(markets, services, acuities)`, the most urgent first.
        capacity: Patients that can be taken, `(markets, services, 1)`.

    Returns:
        Patients served, shape of `wanted`.
    """
    reached = np.minimum(np.cumsum(wanted, axis=2), capacity)
    served = reached.copy()
    served[:, :, 1:] -= reached[:, :, :-1]
    return served


def split_services(market: Market) -> Market:
    """Clinics of several services as clinics of one service each, for oracles.

    Services share no capacity and no patients, so values add up; a common regime of an epidemic changes only how they
    vary together.

    Args:
        market: Clinics, `(markets, services, acuities)`.

    Returns:
        Clinics, `(markets x services, 1, acuities)`, the services of a clinic side by side.
    """
    markets, services, _ = market.shape

    def split(owner: Market | Part) -> dict[str, Any]:
        arrays = {field.name: getattr(owner, field.name) for field in fields(owner)}
        return {
            name: np.broadcast_to(values, (markets, services, *values.shape[2:])).reshape(-1, 1, *values.shape[2:])
            for name, values in arrays.items()
            if isinstance(values, np.ndarray)
        }

    changed = split(market)
    changed |= {name: replace(part, **split(part)) for name, part in market.parts.items()}
    return replace(market, **changed)


@dataclass(frozen=True, kw_only=True)
class ReferralNoise(Noise):
    """Referrals of a handful of referrers, each of whom sends at most one patient of a class a period: binomial counts.

    Counts are bounded, so dynamic programs of coupled classes stay small and exact.

    Attributes:
        referrers: Referrers of each class, whole and above the largest mean, `(markets, services, acuities)`.
    """

    referrers: np.ndarray

    def _draw(self, random: Streams, period: np.ndarray, mean: np.ndarray) -> np.ndarray:
        referrers = np.broadcast_to(self.referrers, mean.shape)
        return random.binomial(period, DEMAND, referrers, mean / referrers)

    def tabulate(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every count with its probability; see `Noise`."""
        if self.silent.any():
            return Noise(self.silent).tabulate(mean)
        referrers = np.broadcast_to(self.referrers, mean.shape)[:, 0, 0]
        counts = np.arange(referrers.max() + 1.0)
        pmf = binom.pmf(counts, referrers[:, None], (mean[:, 0, 0] / referrers)[:, None])
        return np.broadcast_to(counts, pmf.shape), pmf


@dataclass(frozen=True)
class BudgetMemory(ReferencePrice):
    """Departments plan their budgets with the price they remember; a rise hurts more than a fall of its size helps.

    Classes whose gain and loss are both zero do not compare prices; their memory is no coordinate of a dynamic program.
    """

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """One point where nothing is compared; see `ReferencePrice`."""
        if not (np.any(self.gain) or np.any(self.loss)):
            return [list_price.reshape(-1)]
        return super().build_grid(list_price, bounds, points)


@dataclass(frozen=True)
class WelfarePayoff(Payoff):
    """Welfare of the patients served: (benefit - cost of care - burden x price) x patients.

    A price is a transfer from a referrer's budget to the clinic's, hence neither gain nor loss; `burden` is what moving
    a unit of currency costs (administration, budgets that run short). Harm by waiting or refusal is a charge of the
    supply.

    Attributes:
        benefit: Benefit of care of one patient, currency.
        burden: Loss per unit of currency moved, in [0, 1).
    """

    benefit: np.ndarray
    burden: np.ndarray

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """See `Payoff`."""
        return (self.benefit - cost - self.burden * prices) * units


@dataclass(frozen=True)
class ShowPayoff(WelfarePayoff):
    """Welfare where the booked show up by chance and those above capacity are seen in overtime.

    The cost of care is that of the booked slot and falls due with the booking; benefit and price come with the show:
    (benefit - burden x price) x shows - cost x bookings - overtime_cost x (shows of all classes - capacity)+, the last
    shared equally by the classes. Urgent patients always show.

    Attributes:
        show: Chance that a booked patient of a class other than urgent shows up, in (0, 1], `(markets, 1, 1)`.
        capacity: Patients a period without overtime, whole, `(markets, services, 1)`.
        overtime_cost: Added cost of a patient above capacity, currency, `(markets, services or 1, 1)`.
        overtime: Expected patients above k when n are booked who may not show, `(markets, 1, 1, n, k)`; from
            `tabulate_overtime`.
    """

    show: np.ndarray
    capacity: np.ndarray
    overtime_cost: np.ndarray
    overtime: np.ndarray
    is_separable = False

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Expected over shows; see `Payoff`."""
        attended = self._compute_chances(units) * units
        shared = self.overtime_cost * self._expect_overtime(units) / units.shape[2]
        return (self.benefit - self.burden * prices) * attended - cost * units - shared

    def realize(
        self, expected: np.ndarray, units: np.ndarray, prices: np.ndarray, random: Streams, period: np.ndarray
    ) -> np.ndarray:
        """Reward after the shows are known; see `Payoff`."""
        chances = self._compute_chances(units)
        whole = np.floor(units)
        # Without noise there are fractions of patients; they show up in their mean.
        shows = random.binomial(period, SHOW, whole, chances) + (units - whole) * chances
        above = np.maximum(shows.sum(axis=2, keepdims=True) - self.capacity, 0.0)
        surprise = self.overtime_cost * (above - self._expect_overtime(units)) / units.shape[2]
        return expected + (self.benefit - self.burden * prices) * (shows - chances * units) - surprise

    def _compute_chances(self, units: np.ndarray) -> np.ndarray:
        chances = np.array(np.broadcast_to(self.show, units.shape))
        chances[:, :, URGENT] = 1.0
        return chances

    def _expect_overtime(self, units: np.ndarray) -> np.ndarray:
        """Expected patients above capacity, `(markets, services, 1)`; linear between whole numbers."""
        booked = units[:, :, 1:].sum(axis=2)
        room = self.capacity[:, :, 0] - units[:, :, URGENT]
        # Where urgent patients alone exceed the capacity, everyone who shows is above it.
        surplus, room = np.maximum(-room, 0.0), np.maximum(room, 0.0)
        rows = np.arange(len(units))[:, None]
        n, k = booked.astype(np.int64), room.astype(np.int64)
        table = self.overtime[:, 0, 0]
        most_n, most_k = table.shape[1] - 1, table.shape[2] - 1
        above = table[rows, n, k]
        part_n, part_k = booked - n, room - k
        if part_n.any() or part_k.any():
            next_n, next_k = np.minimum(n + 1, most_n), np.minimum(k + 1, most_k)
            above = (1.0 - part_n) * ((1.0 - part_k) * above + part_k * table[rows, n, next_k]) + part_n * (
                (1.0 - part_k) * table[rows, next_n, k] + part_k * table[rows, next_n, next_k]
            )
        return (above + surplus)[:, :, None]


def tabulate_overtime(show: np.ndarray, most_booked: int, most_room: int) -> np.ndarray:
    """Expected shows above every room for every number of bookings, exact.

    Args:
        show: Chance that a booked patient shows up, `(markets, 1, 1)`.
        most_booked: Largest number of bookings.
        most_room: Largest room.

    Returns:
        E[(binomial(n, show) - k)+], `(markets, 1, 1, most_booked + 1, most_room + 1)`.
    """
    n, k, shows = np.ogrid[: most_booked + 1, : most_room + 1, : most_booked + 1]
    pmf = binom.pmf(shows[0], n[:, 0], show[:, 0, 0, None, None])
    above = np.maximum(shows[0] - k[0], 0)
    return np.einsum("mns,ks->mnk", pmf, above)[:, None, None]
