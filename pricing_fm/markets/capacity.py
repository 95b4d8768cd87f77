"""Seats: legs that products share, bookings beyond capacity, bookings that are cancelled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betainc
from scipy.stats import binom

from pricing_fm.markets.streams import RELEASE, Streams
from pricing_fm.markets.supply import Supply


def ration(demand: np.ndarray, left: np.ndarray, uses: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Serve items one after the other from resources they share, each as far as its scarcest resource reaches.

    Args:
        demand: Units customers want, >= 0, `(markets, products, segments)`.
        left: Units of each resource, >= 0, `(markets, resources)`.
        uses: 1 where a unit of the product takes a unit of the resource, else 0, `(markets, products, 1, resources)`.
        order: Items (flat positions over products and segments) from the first served to the last, int,
            `(markets, products * segments)`.

    Returns:
        Units sold, shape of `demand`.
    """
    taken = np.einsum("mps,mpr->mr", demand, uses[:, :, 0])
    short = np.flatnonzero((taken > left).any(axis=1))
    if len(short) == 0:
        return demand
    wanted = demand[short].reshape(len(short), -1)
    needs = np.repeat(uses[short, :, 0], demand.shape[2], axis=1)
    remaining, rows, sold = left[short].copy(), np.arange(len(short)), np.empty_like(wanted)
    for item in order[short].T:
        need = needs[rows, item]
        reach = np.where(need > 0, remaining, np.inf).min(axis=1)
        sold[rows, item] = np.minimum(wanted[rows, item], reach)
        remaining = np.maximum(remaining - sold[rows, item, None] * need, 0.0)
    units = demand.copy()
    units[short] = sold.reshape(len(short), *demand.shape[1:])
    return units


@dataclass(frozen=True)
class SharedSupply(Supply):
    """Base of supplies whose resources the products share; state `(markets, resources)`.

    Where the demand of one period exceeds what is left, items are served whole one after the other in the order of
    `rank`, each as far as its scarcest resource reaches; nothing is ever sold beyond what is there.

    Attributes:
        uses: 1 where a unit of the product takes a unit of the resource, else 0, `(markets, products, 1, resources)`.
        rank: Order in which items are served, smallest first, distinct, `(markets, products, segments)`.
    """

    uses: np.ndarray
    rank: np.ndarray
    is_separable = False
    is_shared = True

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.rank.reshape(len(self.rank), -1), axis=1, kind="stable")

    def get_left(self, state: np.ndarray) -> np.ndarray:
        """Units of every resource that are left, `(markets, resources)`."""
        return state

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """What the scarcest resource of an item has left; see `Supply`."""
        left = self.get_left(state)[:, None, None, :]
        return np.array(np.broadcast_to(np.where(self.uses > 0, left, np.inf).min(axis=-1), shape))

    def serve(self, demand: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Units sold of what is wanted, `(markets, products, segments)`."""
        return ration(demand, left, self.uses, self._order)


@dataclass(frozen=True)
class CapacityLegs(SharedSupply):
    """Legs of a network: an itinerary takes one seat on every leg it flies; seats perish at departure.

    State: seats left on every leg.

    Attributes:
        capacity: Seats on every leg, whole, `(markets, 1, 1, legs)`.
    """

    capacity: np.ndarray
    is_finite_season = True

    def describe_season(self, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seats of the legs, and which legs an item flies; an empty seat is worth nothing. See `Supply`."""
        capacity = self.capacity[0, 0, 0].astype(np.float64)
        return capacity, np.repeat(self.uses[0, :, 0], shape[2], axis=0), np.zeros(len(capacity))

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Every seat is free; see `Supply`."""
        return np.array(self.capacity[:, 0, 0], dtype=np.float64)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = self.serve(demand, state)
        left = state - np.einsum("mps,mpr->mr", units, self.uses[:, :, 0])
        return units, np.maximum(left, 0.0), None

    def build_grid(self) -> list[np.ndarray]:
        """Every number of free seats on every leg; see `Supply`."""
        return [np.arange(seats + 1.0) for seats in self.capacity[0, 0, 0]]


@dataclass(frozen=True)
class OverbookedSeats(Supply):
    """Bookings up to a limit above the seats, because not everyone shows up; who is denied boarding is paid.

    Tickets are not refunded to those who stay away. State: bookings so far, one layer.

    Attributes:
        seats: Seats of the aircraft, whole.
        booking_limit: Bookings that may be taken at most, whole, >= `seats`.
        show_probability: Chance that a booking shows up, independent of the others, in (0, 1].
        denied_charge: Cost of a show above the seats, currency.
    """

    seats: np.ndarray
    booking_limit: np.ndarray
    show_probability: np.ndarray
    denied_charge: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """No booking yet; see `Supply`."""
        return np.zeros((*shape, 1))

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Bookings that may still be taken; see `Supply`."""
        return np.array(np.broadcast_to(self.booking_limit - state[..., 0], shape))

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = np.minimum(demand, self.booking_limit - state[..., 0])
        return units, state + units[..., None], None

    def compute_denied(self, bookings: np.ndarray) -> np.ndarray:
        """Expected shows above the seats: E(X - seats)+ for binomial X, shape of `bookings`.

        E(X - c)+ = n q P(Y >= c) - c P(X > c), where Y counts the shows of one booking fewer. Bookings are whole but
        for markets without noise, where they are rounded.
        """
        number, chance = np.round(bookings), np.broadcast_to(self.show_probability, bookings.shape)
        seats = np.broadcast_to(self.seats, bookings.shape)
        # Up to as many bookings as seats nobody is denied; the formula's tails are not defined there.
        over = number > seats
        total = np.where(over, number, seats + 1.0)
        # P(X > k) of n trials is the incomplete beta function at k + 1 and n - k.
        some, beyond = betainc(seats, total - seats, chance), betainc(seats + 1.0, total - seats, chance)
        expected = total * chance * some - seats * beyond
        return np.where(over, expected, 0.0)

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Minus what denied boardings are expected to cost; see `Supply`."""
        return -self.denied_charge * self.compute_denied(state[..., 0])

    def build_grid(self) -> list[np.ndarray]:
        """Every number of bookings; see `Supply`."""
        return [np.arange(self.booking_limit.item() + 1.0)]


@dataclass(frozen=True)
class CancellableSeats(Supply):
    """Booked seats come free at random: every booking is cancelled with the same chance every period.

    Who cancels gets a fixed sum back; the expectation of what the bookings after a period's sales will be refunded
    before the next one is charged with these sales. State: seats free, one layer.

    Attributes:
        seats: Seats of the aircraft, whole.
        cancel_probability: Chance that a booking is cancelled before the next period, in [0, 1).
        refund: Sum paid back, currency.
    """

    seats: np.ndarray
    cancel_probability: np.ndarray
    refund: np.ndarray
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Every seat is free; see `Supply`."""
        return np.array(np.broadcast_to(self.seats, shape), dtype=np.float64)[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Seats free; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = np.minimum(demand, state[..., 0])
        left = state[..., 0] - units
        return units, left[..., None], self.refund * self.cancel_probability * (self.seats - left)

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Cancelled seats come free. Without noise demand may be a fraction; only whole bookings are cancelled."""
        booked = np.floor(self.seats[..., None] - state + 1e-9)
        freed = random.binomial(period, RELEASE, booked, self.cancel_probability[..., None])
        return state + freed

    def build_grid(self) -> list[np.ndarray]:
        """Every number of free seats; see `Supply`."""
        return [np.arange(self.seats.item() + 1.0)]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Binomial numbers of cancelled bookings; see `Supply`."""
        freed = grid[None, :] - grid[:, None]
        return binom.pmf(freed, self.seats.item() - grid[:, None], self.cancel_probability.item())
