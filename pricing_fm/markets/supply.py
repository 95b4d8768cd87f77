"""What can be sold: stocks that are replenished, stocks that perish, capacities that products share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.parts import Part
from pricing_fm.markets.streams import Streams

_FORECAST_SMOOTHING = 0.2
_SOLD_OUT_CORRECTION = 1.25  # a buyer who sold out orders for more than he sold


@dataclass(frozen=True)
class Supply(Part):
    """Base of all supplies.

    A state has the shape `(markets, products, segments, layers)` or, for resources that products share (`is_shared`),
    `(markets, resources)`.
    """

    is_shared = False
    is_finite_season = False  # True = a stock for the whole season that is never added to: `describe_season` says which
    is_random = False  # True = resources come free by chance: `drift` and `build_kernel` say how

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """State before the first period; `volume` is `Market.volume`."""
        raise NotImplementedError

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Units of each item that can be sold at most, infinite = no limit, `(markets, products, segments)`."""
        raise NotImplementedError

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Serve demand and let the certain part of supply follow.

        Args:
            state: Supply before the period.
            demand: Units customers want, `(markets, products, segments)`.
            period: Period of each market, `(markets,)`.

        Returns:
            Units sold, supply after the period, charges (holding, lost sales, waste; currency, shape of `demand`, or
            None).
        """
        raise NotImplementedError

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Supply before the coming period, where chance frees resources."""
        return state

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Worth of what is left when the market ends, currency, `(markets, products, segments)`."""
        return np.zeros(shape)

    def describe_season(self, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resources of one market's season.

        Args:
            shape: (1, products, segments).

        Returns:
            Capacity in units `(resources,)`, units of each resource that a sale of each item takes
            `(products x segments, resources)`, worth of a unit left at the end in currency `(resources,)`.

        Raises:
            ValueError: If the stock is not for a season.
        """
        raise ValueError(f"{type(self).__name__} is not a stock for a season")

    def build_grid(self) -> list[np.ndarray]:
        """Grid of every layer (or resource) of one market for a dynamic program.

        Raises:
            ValueError: If the state is not finite.
        """
        raise ValueError(f"{type(self).__name__} has no finite grid of states")

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Probability of the layer after `drift` (columns) given before (rows), where `is_random`."""
        return np.eye(len(grid))


@dataclass(frozen=True)
class OrderUpToStock(Supply):
    """A stock filled up every period to some periods of forecast sales; the forecast follows sales.

    Attributes:
        cover: Periods of forecast demand the stock is filled up to; infinite = no stock is kept.
    """

    cover: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Layers: inventory, forecast of sales a period. See `Supply`."""
        forecast = np.array(np.broadcast_to(volume, shape))
        return np.stack([self._fill_up(forecast), forecast], axis=-1)

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """The inventory; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        inventory, forecast = state[..., 0], state[..., 1]
        units = np.minimum(demand, inventory)
        wanted = np.where(units >= inventory, np.maximum(units * _SOLD_OUT_CORRECTION, forecast), units)
        forecast = forecast + _FORECAST_SMOOTHING * (wanted - forecast)
        left = np.maximum(inventory - units, self._fill_up(forecast))
        return units, np.stack([left, forecast], axis=-1), None

    def _fill_up(self, forecast: np.ndarray) -> np.ndarray:
        """Order-up-to level in whole units; infinite where no stock is kept."""
        return np.ceil(self.cover * forecast + 1.0)


@dataclass(frozen=True)
class PerishableStock(Supply):
    """A stock that is never replenished and is worth little at the end: a season's collection, seats, rooms.

    Attributes:
        units: Stock at the start, whole units.
        salvage: Worth of a unit left at the end, currency; negative = it costs to get rid of it.
    """

    units: np.ndarray
    salvage: np.ndarray
    is_finite_season = True

    def describe_season(self, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every item is its own resource; see `Supply`."""
        capacity = np.broadcast_to(self.units, shape).reshape(-1).astype(np.float64)
        return capacity, np.eye(len(capacity)), np.broadcast_to(self.salvage, shape).reshape(-1).astype(np.float64)

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """One layer: units left. See `Supply`."""
        return np.array(np.broadcast_to(self.units, shape), dtype=np.float64)[..., None]

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Units left; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = np.minimum(demand, state[..., 0])
        return units, state - units[..., None], None

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Salvage value; see `Supply`."""
        return state[..., 0] * self.salvage

    def build_grid(self) -> list[np.ndarray]:
        """Every stock; see `Supply`."""
        return [np.arange(self.units.item() + 1.0)]


@dataclass(frozen=True)
class FreshStock(Supply):
    """Deliveries of goods that keep two periods: what is left of the older ones is thrown away, older ones sell first.

    Attributes:
        delivery: Units that come every period, whole.
        waste_charge: Cost of throwing a unit away, currency.
    """

    delivery: np.ndarray
    waste_charge: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """One layer: units on the shelf from the last delivery. See `Supply`."""
        return np.zeros((*shape, 1))

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Older and fresh units; see `Supply`."""
        return state[..., 0] + self.delivery

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        old = state[..., 0]
        units = np.minimum(demand, old + self.delivery)
        wasted = np.maximum(old - units, 0.0)
        left = np.minimum(old + self.delivery - units, self.delivery)
        return units, left[..., None], wasted * self.waste_charge

    def build_grid(self) -> list[np.ndarray]:
        """Every stock of older units; see `Supply`."""
        return [np.arange(self.delivery.item() + 1.0)]


@dataclass(frozen=True)
class LeadTimeStock(Supply):
    """A base-stock policy with a lead time: what was sold is ordered, and arrives one period later than the next.

    Attributes:
        base_stock: Units on hand plus on order after every order, whole.
        holding_charge: Cost of a unit on hand after sales, currency a period.
        lost_sale_charge: Cost of a customer who finds nothing, currency a unit.
    """

    base_stock: np.ndarray
    holding_charge: np.ndarray
    lost_sale_charge: np.ndarray

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Layers: on hand, arriving after this period's sales. All is on hand at the start. See `Supply`."""
        level = np.array(np.broadcast_to(self.base_stock, shape), dtype=np.float64)
        return np.stack([level, np.zeros(shape)], axis=-1)

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """On hand; see `Supply`."""
        return state[..., 0]

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        hand, arriving = state[..., 0], state[..., 1]
        units = np.minimum(demand, hand)
        left = hand - units
        charges = self.holding_charge * left + self.lost_sale_charge * (demand - units)
        ordered = np.maximum(self.base_stock - left - arriving, 0.0)
        return units, np.stack([left + arriving, ordered], axis=-1), charges

    def build_grid(self) -> list[np.ndarray]:
        """Every stock on hand and on order; see `Supply`."""
        levels = np.arange(self.base_stock.item() + 1.0)
        return [levels, levels]
