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
    markets, segments = np.arange(len(demand)), demand.shape[2]
    wanted, remaining, sold = demand.reshape(len(demand), -1), left.copy(), np.empty(order.shape)
    for item in order.T:
        need = uses[markets, item // segments, 0]
        reach = np.where(need > 0, remaining, np.inf).min(axis=1)
        sold[markets, item] = served = np.minimum(wanted[markets, item], reach)
        remaining = np.maximum(remaining - served[:, None] * need, 0.0)
    return sold.reshape(demand.shape)


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

    # Sums and minima over a short last axis are slow: these copies bring the axis that is reduced to the front.

    @cached_property
    def _uses_by_product(self) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(self.uses[:, :, 0], 1, 0))

    @cached_property
    def _is_free_of(self) -> np.ndarray:
        """Infinite where a product does not need a resource, else 0, `(resources, markets, products)`."""
        return np.ascontiguousarray(np.moveaxis(np.where(self.uses[:, :, 0] > 0, 0.0, np.inf), 2, 0))

    def sum_uses(self, units: np.ndarray) -> np.ndarray:
        """Units of each resource that units `(markets, products, segments)` take, `(markets, resources)`."""
        return (units.sum(axis=2).T[:, :, None] * self._uses_by_product).sum(axis=0)

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """What the scarcest resource of an item has left; see `Supply`."""
        scarcest = (self.get_left(state).T[:, :, None] + self._is_free_of).min(axis=0)
        return np.array(np.broadcast_to(scarcest[:, :, None], shape))

    def serve(self, demand: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Units sold of what is wanted, `(markets, products, segments)`."""
        short = np.flatnonzero((self.sum_uses(demand) > left).any(axis=1))
        units = demand.copy()
        if len(short):
            units[short] = ration(demand[short], left[short], self.uses[short], self._order[short])
        return units


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
        return units, np.maximum(state - self.sum_uses(units), 0.0), None

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
