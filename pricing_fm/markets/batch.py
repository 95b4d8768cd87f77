"""Many retail markets side by side, priced week by week by the caller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.parameters import RetailSettings, sample_retail_parameters
from pricing_fm.markets.retail import RetailInfo, RetailState, compute_myopic_price, start_retail, step
from pricing_fm.markets.streams import build_streams


@dataclass(frozen=True)
class RetailView:
    """What a seller knows before he sets this week's prices. Arrays `(markets, products, segments)`.

    Attributes:
        period: Weeks since the start, int64, `(markets,)`.
        units: Units sold last week; NaN before the first week.
        price: Price charged last week, currency per unit; NaN before the first week.
        promotion: 1.0 if last week was promoted, else 0.0; NaN before the first week.
        list_price: Regular price of this week, currency per unit.
        cost: Unit cost of this week, currency.
        inventory: Units available this week; infinite where no stock is kept.
    """

    period: np.ndarray
    units: np.ndarray
    price: np.ndarray
    promotion: np.ndarray
    list_price: np.ndarray
    cost: np.ndarray
    inventory: np.ndarray


@dataclass(frozen=True)
class RetailTruth(RetailInfo):
    """Hidden side of the week just sold; never part of what a policy sees. Arrays `(markets, products, segments)`.

    Attributes:
        optimal_price: Myopic optimum of the week's expected margin inside the price bounds, currency, not rounded.
        item_rewards: Margin of each item, currency a week.
    """

    optimal_price: np.ndarray
    item_rewards: np.ndarray


class RetailBatch:
    """A batch of retail markets with `reset()` and `step(prices)`.

    A market's path depends on the seed, its name and its own prices; not on the markets beside it.

    Args:
        settings: Ranges from which the markets are drawn.
        market_ids: Integer names of the markets, >= 0, `(markets,)`.
        seed: Seed of everything, >= 0.
        num_periods: Weeks until an episode is cut off (a truncation: the shop goes on).
        price_bounds: Lowest and highest admissible price as multiples of the list price of the week.

    Raises:
        ValueError: If a market id, the seed, the number of periods or the bounds are out of range.
    """

    def __init__(
        self,
        settings: RetailSettings,
        market_ids: np.ndarray,
        seed: int,
        num_periods: int = 52,
        price_bounds: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        if num_periods < 1:
            raise ValueError(f"num_periods is {num_periods}; it must be 1 or more")
        if not 0 < price_bounds[0] <= price_bounds[1]:
            raise ValueError(f"price_bounds is {price_bounds}; it must be a positive, increasing pair")
        self.settings, self.num_periods, self.price_bounds = settings, num_periods, price_bounds
        self.parameters = sample_retail_parameters(settings, market_ids, seed)
        self.random = build_streams(seed, market_ids)
        self.state = start_retail(self.parameters, self.random)
        self._solved_for = np.full((2, *self.shape), np.nan)
        self._optimal_prices = np.full(self.shape, np.nan)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(markets, products, segments)."""
        return self.parameters.shape

    def reset(self) -> RetailView:
        """Go back to the first week; the same prices then lead down the same path.

        Returns:
            What the sellers know before the first week.
        """
        self.state = start_retail(self.parameters, self.random)
        unknown = np.full(self.shape, np.nan)
        return self._view(unknown, unknown, unknown)

    def step(
        self, prices: np.ndarray, promotions: np.ndarray | None = None
    ) -> tuple[RetailView, np.ndarray, np.ndarray, np.ndarray, RetailTruth]:
        """Sell for one week.

        Args:
            prices: Currency per unit, `(markets, products, segments)`; the last axis may be left out if it is one.
            promotions: 1 in promoted weeks, same shape; None = no promotion.

        Returns:
            View before the next week, rewards (margin of a market, currency, `(markets,)`), terminations and
            truncations (bool, `(markets,)`; a shop never terminates) and the hidden truth.

        Raises:
            ValueError: If a shape is wrong or a price is NaN, infinite or outside the bounds; the markets stay as they
                were.
        """
        charged = self._check_shape("prices", prices)
        promoted = np.zeros(self.shape) if promotions is None else self._check_shape("promotions", promotions)
        self._check_prices(charged)
        if not np.all((promoted == 0) | (promoted == 1)):
            raise ValueError("promotions holds a value other than 0 and 1")
        before = self.state
        self.state, observation, item_rewards, info = step(self.parameters, before, charged, promoted, self.random)
        truth = RetailTruth(
            mean_demand=info.mean_demand,
            demand=info.demand,
            hidden_shock=info.hidden_shock,
            optimal_price=self.compute_optimal_prices(before),
            item_rewards=item_rewards,
        )
        view = self._view(observation.units, charged, promoted)
        truncations = self.state.period >= self.num_periods
        return view, item_rewards.sum(axis=(1, 2)), np.zeros_like(truncations), truncations, truth

    def compute_optimal_prices(self, state: RetailState) -> np.ndarray:
        """Myopic optimum of the expected margin in a state's week inside the bounds, currency, not rounded."""
        # Costs move rarely: only the items whose cost or list price changed since the last call are solved again.
        key = np.stack([state.cost, state.list_price])
        moved = np.any(key != self._solved_for, axis=0)
        if moved.any():
            cost, regular = (values[moved].reshape(-1, 1, 1) for values in key)
            bounds = (self.price_bounds[0] * regular, self.price_bounds[1] * regular)
            self._optimal_prices[moved] = compute_myopic_price(
                self.parameters.select_items(moved), cost, bounds
            ).ravel()
            self._solved_for = key
        return self._optimal_prices.copy()

    def _view(self, units: np.ndarray, price: np.ndarray, promotion: np.ndarray) -> RetailView:
        state = self.state
        return RetailView(state.period, units, price, promotion, state.list_price, state.cost, state.inventory)

    def _check_shape(self, name: str, values: np.ndarray) -> np.ndarray:
        array = np.asarray(values, dtype=np.float64)
        if array.shape == self.shape[:2] and self.shape[2] == 1:
            array = array[..., None]
        if array.shape != self.shape:
            raise ValueError(f"{name} has shape {array.shape}; it must be {self.shape} (markets, products, segments)")
        return array

    def _check_prices(self, prices: np.ndarray) -> None:
        low, high = (bound * self.state.list_price for bound in self.price_bounds)
        tick = self.parameters.price_tick
        # Half a coin of grace: a bound rounded to whole coins is still inside.
        wrong = ~((prices >= low - 0.5 * tick) & (prices <= high + 0.5 * tick))
        if wrong.any():
            market, product, segment = np.argwhere(wrong)[0]
            place = (market, product, segment)
            raise ValueError(
                f"prices[{market}, {product}, {segment}] is {prices[place]}; it must lie in"
                f" [{low[place]:.4g}, {high[place]:.4g}]"
            )


def make(name: str, num_markets: int = 1, seed: int = 0, settings: RetailSettings | None = None) -> RetailBatch:
    """Build a batch of markets of one domain.

    Args:
        name: Domain; "retail".
        num_markets: Markets side by side, >= 1.
        seed: Seed of everything, >= 0.
        settings: Ranges from which the markets are drawn; None = the defaults.

    Returns:
        The batch, ready for `reset()` and `step(prices)`.

    Raises:
        ValueError: If the domain is unknown, `num_markets` is below 1 or the seed is negative.
    """
    if name != "retail":
        raise ValueError(f"name is {name!r}; known markets: 'retail'")
    if num_markets < 1:
        raise ValueError(f"num_markets is {num_markets}; it must be 1 or more")
    return RetailBatch(settings or RetailSettings(), np.arange(num_markets), seed)
