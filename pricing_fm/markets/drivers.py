"""Drivers: as many as planned, as many as the last period's earnings drew, or wherever rides have taken them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pricing_fm.markets.capacity import SharedSupply
from pricing_fm.markets.supply import Supply


@dataclass(frozen=True)
class ScheduledDrivers(Supply):
    """Drivers of every period as planned: each can give one ride a period; nothing is carried over.

    Attributes:
        drivers: Drivers online, whole, `(markets, products, segments)`.
    """

    drivers: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """No layers: nothing moves. See `Supply`."""
        return np.zeros((*shape, 0))

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Drivers online; see `Supply`."""
        return np.array(np.broadcast_to(self.drivers, shape), dtype=np.float64)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        return np.minimum(demand, self.drivers), state, None

    def build_grid(self) -> list[np.ndarray]:
        """No coordinates; see `Supply`."""
        return []


@dataclass(frozen=True)
class RespondingDrivers(Supply):
    """Drivers come online where last period's drivers earned well, and go home where they did not.

    A ride pays a driver the same whatever the rider's fare, so earnings per driver are the pay times rides per driver
    u. The drivers who want to be online are fleet x u^k / (u^k + h^k) (a supply curve with elasticity k where half of
    the fleet is online; Hall and Krueger 2018, ILR Review, on entry until earnings level off); every period they close
    `speed` of the gap, in whole drivers. State: drivers online, one layer.

    Attributes:
        fleet: Drivers there are, whole.
        first_drivers: Drivers online at the start, whole.
        half_use: Rides per driver and period h at which half of the fleet wants to be online.
        elasticity: k > 0.
        speed: In (0, 1].
    """

    fleet: np.ndarray
    first_drivers: np.ndarray
    half_use: np.ndarray
    elasticity: np.ndarray
    speed: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Drivers online at the start; see `Supply`."""
        return np.array(np.broadcast_to(self.first_drivers, shape), dtype=np.float64)[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Drivers online; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        online = state[..., 0]
        units = np.minimum(demand, online)
        drawn = (units / online) ** self.elasticity
        wanted = self.fleet * drawn / (drawn + self.half_use**self.elasticity)
        # One driver always waits: with nobody online there would be no earnings to learn of.
        following = np.maximum(np.floor(online + self.speed * (wanted - online) + 0.5), 1.0)
        return units, following[..., None], None

    def build_grid(self) -> list[np.ndarray]:
        """Every number of drivers; see `Supply`."""
        return [np.arange(1.0, self.fleet.item() + 1.0)]


@dataclass(frozen=True)
class DriverFlow(SharedSupply):
    """Drivers of a city by zone: a ride carries its driver to the zone of the destination; nobody comes or goes.

    A fixed share of the rides of a zone goes to each zone, in whole drivers (cumulated shares are rounded, so that
    every ride ends somewhere). Products are zones, and a zone's rider groups share its drivers in the order of `rank`.
    State: drivers of every zone but the last, which has the rest (Banerjee, Freund and Lykouris 2022, Operations
    Research, treat prices that steer such flows).

    Attributes:
        first_drivers: Drivers of every zone at the start, whole, `(markets, zones, 1)`.
        destination: Share of the rides of a zone (products axis) that end in each zone (last axis), sums to one,
            `(markets, zones, 1, zones)`.
    """

    first_drivers: np.ndarray
    destination: np.ndarray

    @cached_property
    def _reach(self) -> np.ndarray:
        """Share of a zone's rides that end in a zone or one before it, `(markets, zones, zones)`."""
        return np.cumsum(self.destination[:, :, 0], axis=2)

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Drivers of every zone but the last; see `Supply`."""
        return np.array(self.first_drivers[:, :-1, 0], dtype=np.float64)

    def get_left(self, state: np.ndarray) -> np.ndarray:
        """Drivers of every zone, `(markets, zones)`."""
        rest = self.first_drivers.sum(axis=(1, 2)) - state.sum(axis=1)
        return np.concatenate([state, np.maximum(rest, 0.0)[:, None]], axis=1)

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Drivers of the zone; see `Supply`."""
        return np.array(np.broadcast_to(self.get_left(state)[:, :, None], shape))

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        left = self.get_left(state)
        # Rider groups queue for the drivers of their zone; one group alone needs no order.
        units = np.minimum(demand, left[..., None]) if demand.shape[2] == 1 else self.serve(demand, left)
        rides = units.sum(axis=2)
        ended = rides[..., None] * self._reach
        # Rounded half up in place: this is the largest array of the period.
        ended += 0.5
        np.floor(ended, out=ended)
        arrived = np.diff(ended.sum(axis=1), axis=1, prepend=0.0)
        return units, state + (arrived - ended[..., -1])[:, :-1], None

    def build_grid(self) -> list[np.ndarray]:
        """Every number of drivers in every zone but the last; see `Supply`."""
        return [np.arange(self.first_drivers.sum() + 1.0)] * (self.first_drivers.shape[1] - 1)
