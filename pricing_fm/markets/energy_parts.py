"""What energy adds to a market: use that comes back or becomes a habit, own generation, storage, peak charges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.memory import Memory
from pricing_fm.markets.payoffs import Payoff
from pricing_fm.markets.streams import RELEASE, Streams
from pricing_fm.markets.supply import Supply


@dataclass(frozen=True)
class Rebound(Memory):
    """Load that customers shed when energy is dear partly comes back a period later (shifted, not saved).

    Customers need 1 + pool times their normal use; what they do not use of it is shed, and a share of that joins the
    next period's need. The pool answers to the price as everything else does.

    Attributes:
        recall: Share of shed load that comes back, in [0, 1).
        normal: Use at the list price over `Market.volume`; only use below it counts as shed.
    """

    recall: np.ndarray
    normal: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """Nothing was shed. One layer: load put off over volume. See `Memory`."""
        return np.zeros((*list_price.shape, 1))

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return mean * (1.0 + state[..., 0] / self.normal)

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        shed = np.maximum(self.normal + state[..., 0] - mean / traffic, 0.0)
        return (self.recall * shed)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps up to the pool of customers who shed everything for ever; see `Memory`."""
        return [np.linspace(0.0, (self.normal * self.recall / (1.0 - self.recall)).item(), points)]


@dataclass(frozen=True)
class Habit(Memory):
    """Use follows the equipment and habits that past use has built: demand x stock**strength.

    The stock moves towards use: stock' = persistence x stock + (1 - persistence) x use / normal. With short-run
    elasticity e the long-run elasticity is e / (1 - strength) (Houthakker and Taylor 1970, Consumer Demand in the
    United States).

    Attributes:
        strength: Elasticity of use with respect to the stock, in [0, 1).
        persistence: Weight of the old stock in the new one, in [0, 1).
        normal: Use over `Market.volume` at which a stock of one persists.
        least, most: Bounds of the stock, least < 1 < most.
    """

    strength: np.ndarray
    persistence: np.ndarray
    normal: np.ndarray
    least: np.ndarray
    most: np.ndarray

    def start(self, list_price: np.ndarray) -> np.ndarray:
        """A stock of one; see `Memory`."""
        return np.ones((*list_price.shape, 1))

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        return mean * state[..., 0] ** self.strength

    def advance(
        self, state: np.ndarray, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        use = mean / traffic / self.normal
        stock = self.persistence * state[..., 0] + (1.0 - self.persistence) * use
        return np.clip(stock, self.least, self.most)[..., None]

    def build_grid(self, list_price: np.ndarray, bounds: tuple[float, float], points: int) -> list[np.ndarray]:
        """Equal steps of the logarithm of the stock; see `Memory`."""
        return [np.geomspace(self.least.item(), self.most.item(), points)]


@dataclass(frozen=True)
class DailySupply(Supply):
    """Own generation that comes anew every period, evenly between a cloudy and a clear day's; what is not sold is lost.

    Attributes:
        least, most: Units of the poorest and of the best period, whole, least <= most.
    """

    least: np.ndarray
    most: np.ndarray
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """One layer: units of the period, at first in the middle of the range. See `Supply`."""
        return np.array(np.broadcast_to(np.floor((self.least + self.most) / 2.0), shape))[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Units of the period; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        return np.minimum(demand, state[..., 0]), state, None

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """The coming period's units; see `Supply`."""
        return _draw_between(self.least, self.most, state.shape[:3], random, period)[..., None]

    def build_grid(self) -> list[np.ndarray]:
        """Every number of units; see `Supply`."""
        return [np.arange(self.least.item(), self.most.item() + 1.0)]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """The same for every row: tomorrow's weather does not depend on today's; see `Supply`."""
        return np.full((len(grid), len(grid)), 1.0 / len(grid))


@dataclass(frozen=True)
class Reservoir(Supply):
    """A battery or reservoir that an inflow fills up by chance after every period, up to its capacity; the rest spills.

    Attributes:
        capacity: Units it holds, whole.
        least, most: Units of the poorest and of the best inflow, whole; all between have the same chance.
    """

    capacity: np.ndarray
    least: np.ndarray
    most: np.ndarray
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Half full. One layer: units stored. See `Supply`."""
        return np.array(np.broadcast_to(np.floor(self.capacity / 2.0), shape))[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Units stored; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = np.minimum(demand, state[..., 0])
        return units, state - units[..., None], None

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Inflow before the coming period; see `Supply`."""
        inflow = _draw_between(self.least, self.most, state.shape[:3], random, period)
        return np.minimum(state[..., 0] + inflow, self.capacity)[..., None]

    def build_grid(self) -> list[np.ndarray]:
        """Every level; see `Supply`."""
        return [np.arange(self.capacity.item() + 1.0)]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Levels after the inflow; see `Supply`."""
        capacity, least, most = (int(values.reshape(-1)[layer]) for values in (self.capacity, self.least, self.most))
        kernel = np.zeros((len(grid), len(grid)))
        for inflow in range(least, most + 1):
            reached = np.minimum(np.arange(len(grid)) + inflow, capacity)
            np.add.at(kernel, (np.arange(len(grid)), reached), 1.0 / (most - least + 1))
        return kernel


def _draw_between(
    least: np.ndarray, most: np.ndarray, shape: tuple[int, ...], random: Streams, period: np.ndarray
) -> np.ndarray:
    """Whole numbers between two, all with the same chance."""
    uniform = random.uniform(period, RELEASE, shape[1:])
    return np.minimum(np.floor(least + uniform * (most - least + 1.0)), most)


@dataclass(frozen=True)
class MeritOrderMargin(Payoff):
    """Price minus unit cost, minus the dearer plants that must run where a block's expected load exceeds a threshold.

    Plants are called in the order of their cost, so that every unit above the threshold costs more than the one
    before: charge x (load - threshold)+**2 / (2 x threshold) for every product (block of the day), all segments
    together, booked on the mean load. As the charge grows the threshold becomes a capacity, as in peak-load pricing
    (Steiner 1957, Quarterly Journal of Economics).

    Attributes:
        threshold: Load that costs no more than `Market.costs`, units a period, `(markets, 1, 1)`, > 0.
        charge: Added cost of the last unit at twice the threshold, currency, `(markets, 1, 1)`.
    """

    threshold: np.ndarray
    charge: np.ndarray
    is_separable = False

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Margin of each item minus its segment's equal share of the block's charge; see `Payoff`."""
        excess = np.maximum(mean.sum(axis=2, keepdims=True) - self.threshold, 0.0)
        return (prices - cost) * units - self.charge * excess**2 / (2.0 * self.threshold * mean.shape[2])


@dataclass(frozen=True)
class DemandCharge(Supply):
    """A grid fee on the highest load of the billing month so far: only what exceeds it is charged. Never cuts sales.

    Attributes:
        contracted: Load already paid for when the month starts, whole units.
        most: Load at which the meter ends, whole units; more costs no more.
        charge: Currency per unit by which the highest load rises.
    """

    contracted: np.ndarray
    most: np.ndarray
    charge: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """One layer: highest load paid for. See `Supply`."""
        return np.array(np.broadcast_to(self.contracted, shape))[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """No limit; see `Supply`."""
        return np.broadcast_to(np.inf, shape)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        peak = np.minimum(np.maximum(state[..., 0], demand), self.most)
        return demand, peak[..., None], self.charge * (peak - state[..., 0])

    def build_grid(self) -> list[np.ndarray]:
        """Every load from the contracted to the highest; see `Supply`."""
        return [np.arange(self.contracted.item(), self.most.item() + 1.0)]
