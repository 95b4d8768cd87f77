"""Many markets of one family side by side, priced period by period by the caller."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pricing_fm.markets.arguments import check_count, check_market_ids, check_reals
from pricing_fm.markets.core import (
    Market,
    MarketState,
    Observation,
    Truth,
    compute_final_value,
    get_inventory,
    get_unit_cost,
    start,
    step,
)
from pricing_fm.markets.demand import Demand, LogitDemand, NestedLogitDemand, OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.payoffs import Margin
from pricing_fm.markets.responses import CONSTANT_ELASTICITY, EXPONENTIAL, LOGIT
from pricing_fm.markets.streams import Streams, build_streams

# Half a tick of grace: a bound rounded to whole ticks is still inside, whatever the last digit of the rounding.
_GRACE = 0.5 + 1e-6


class MarketView(NamedTuple):
    """What a seller knows before he sets this period's prices. Arrays `(markets, products, segments)`, read-only.

    Attributes:
        period: Periods since the start, int64, `(markets,)`.
        units: Units sold last period; NaN before the first one.
        price: Price charged last period, currency per unit; NaN before the first one.
        promotion: 1.0 if last period was promoted, else 0.0; NaN before the first one.
        list_price: Regular price of this period, currency per unit.
        cost: Unit cost of this period, currency.
        inventory: Units that can be sold this period at most; infinite where nothing limits sales.
        competitor_price: Rival's price of this period as reported, currency per unit; NaN where the report is missing
            or there is no rival.
    """

    period: np.ndarray
    units: np.ndarray
    price: np.ndarray
    promotion: np.ndarray
    list_price: np.ndarray
    cost: np.ndarray
    inventory: np.ndarray
    competitor_price: np.ndarray


class MarketTruth(NamedTuple):
    """Hidden side of the period just sold; never part of what a policy sees. Arrays `(markets, products, segments)`.

    Attributes:
        mean_demand: Expected demand given prices and all that is hidden, units.
        demand: Units customers wanted.
        hidden_shock: Log factor of the hidden shock on demand; None without one.
        item_rewards: Reward of each item, currency a period; the worth of what is left is part of the last one.
        optimal_price: Price that would have been best for the period alone if nothing limited sales, currency, not
            rounded; None where the family has no cheap one (see `MarketBatch.get_optimal_prices`).
        willingness_to_pay: Price at which half of the customers whom `Market.volume` counts would buy the item were it
            the only one on offer, currency per unit; None for latent classes and linear systems.
    """

    mean_demand: np.ndarray
    demand: np.ndarray
    hidden_shock: np.ndarray | None
    item_rewards: np.ndarray
    optimal_price: np.ndarray | None
    willingness_to_pay: np.ndarray | None


class MarketBatch:
    """A batch of markets with `reset()` and `step(prices)`.

    A market's path depends on the seed, its name and its own prices; not on the markets beside it.

    Args:
        market: Truth of the markets.
        random: Streams of the markets.

    Attributes:
        periods_left: Periods until the episode is over, so that only `reset` is left.
        willingness_to_pay: See `MarketTruth`.

    Raises:
        ValueError: If there is not one stream per market, or the number of periods or the price bounds are out of
            range.
    """

    def __init__(self, market: Market, random: Streams) -> None:
        if len(random.keys) != market.shape[0]:
            raise ValueError(f"random holds {len(random.keys)} streams; it needs one for each of {market.shape[0]}")
        check_count("num_periods", market.num_periods)
        if not 0 < market.price_bounds[0] <= market.price_bounds[1] < np.inf:
            raise ValueError(f"price_bounds is {market.price_bounds}; it must be a positive, increasing pair")
        self.market, self.random, self.shape = market, random, market.shape
        self._best = _OwnBestPrices(market) if _OwnBestPrices.can_solve(market) else None
        self.willingness_to_pay = _compute_median_willingness(market.demand, self.shape)
        self._unknown, self._zeros = _freeze(np.full(self.shape, np.nan)), _freeze(np.zeros(self.shape))
        self._running, self._over = (np.full(self.shape[0], over) for over in (False, True))
        self._bounded: np.ndarray | None = None
        self.reset()

    def reset(self) -> MarketView:
        """Go back to the first period; the same prices then lead down the same path.

        Returns:
            What the sellers know before the first period.
        """
        self.state: MarketState = start(self.market, self.random)
        self.periods_left = self.market.num_periods
        return self._view(self._unknown, self._unknown, self._unknown)

    def step(
        self, prices: np.ndarray, promotions: np.ndarray | None = None
    ) -> tuple[MarketView, np.ndarray, np.ndarray, np.ndarray, MarketTruth]:
        """Sell for one period.

        Args:
            prices: Currency per unit, `(markets, products, segments)`; the last axis may be left out if it is one.
            promotions: 1 in promoted periods, same shape; None = no promotion.

        Returns:
            View before the next period, rewards (currency, `(markets,)`), terminations (the market's end) and
            truncations (cut off though it goes on; bool, `(markets,)` each) and the hidden truth.

        Raises:
            ValueError: If the episode is over, a shape is wrong, a price is no real number, NaN, infinite or outside
                the bounds, or a promotion is neither 0 nor 1; the markets stay as they were.
        """
        self.check_running()
        # A copy: what the view shows does not change with the caller's array.
        charged = _freeze(self._check_shape("prices", check_reals("prices", prices)))
        promoted = None
        if promotions is not None:
            promoted = _freeze(self._check_shape("promotions", check_reals("promotions", promotions, flags=True)))
            _check_promotions(promoted)
        self._check_prices(charged)
        best = self.get_optimal_prices()
        observation, item_rewards, truth = self.sell(charged, promoted)
        view = self._view(observation.units, charged, self._zeros if promoted is None else promoted)
        terminations = truncations = self._running
        if self.periods_left == 0:
            terminations, truncations = (self._over, self._running) if self.market.ends else (self._running, self._over)
        hidden = MarketTruth(
            truth.mean_demand, truth.demand, truth.hidden_shock, item_rewards, best, self.willingness_to_pay
        )
        rewards = item_rewards.reshape(self.shape[0], -1).sum(axis=1)
        return view, rewards, terminations.copy(), truncations.copy(), hidden

    def sell(self, prices: np.ndarray, promotions: np.ndarray | None = None) -> tuple[Observation, np.ndarray, Truth]:
        """Sell for one period at prices that are known to be admissible: `step` without its checks and its view.

        Args:
            prices: Currency per unit, float64, `(markets, products, segments)`; kept, so it must not be changed later.
            promotions: 1 or True in promoted periods, same shape; None = no promotion.

        Returns:
            Observation of the period, item rewards (the worth of what is left is part of the last ones) and the truth.

        Raises:
            ValueError: If the episode is over.
        """
        self.check_running()
        self.state, observation, item_rewards, truth = step(self.market, self.state, prices, self.random, promotions)
        self.periods_left -= 1
        if self.periods_left == 0 and self.market.ends:
            item_rewards = item_rewards + compute_final_value(self.market, self.state)
        return observation, item_rewards, truth

    def get_optimal_prices(self) -> np.ndarray | None:
        """Price that is best for the coming period alone if nothing limited sales, `(markets, products, segments)`.

        Returns:
            Currency per unit inside the bounds, not rounded, read-only; None unless items respond to their own prices
            alone (`OwnPriceDemand`) and the reward is the margin. Supply and its charges are left out.
        """
        return None if self._best is None else self._best.solve(self.state)

    def check_running(self) -> None:
        """Refuse to go on after the last period.

        Raises:
            ValueError: If the episode is over.
        """
        if self.periods_left == 0:
            raise ValueError(f"the episode of {self.market.num_periods} periods is over; call reset() before step()")

    def _view(self, units: np.ndarray, price: np.ndarray, promotion: np.ndarray) -> MarketView:
        market, state = self.market, self.state
        competitor_price = self._unknown
        if market.rivals is not None:
            competitor_price = market.rivals.report(state.rivals, state.period, self.random)
        # The state lives on in some of these arrays: who writes into a view must not change the market.
        return MarketView(
            period=_freeze(state.period),
            units=units,
            price=price,
            promotion=promotion,
            list_price=_freeze(state.list_price),
            cost=_freeze(get_unit_cost(market, state)),
            inventory=_freeze(get_inventory(market, state)),
            competitor_price=competitor_price,
        )

    def _check_shape(self, name: str, array: np.ndarray) -> np.ndarray:
        if array.shape == self.shape[:2] and self.shape[2] == 1:
            array = array[..., None]
        if array.shape != self.shape:
            raise ValueError(f"{name} has shape {array.shape}; it must be {self.shape} (markets, products, segments)")
        return array

    def _check_prices(self, prices: np.ndarray) -> None:
        if self._bounded is not self.state.list_price:
            low, high = (bound * self.state.list_price for bound in self.market.price_bounds)
            grace = _GRACE * self.market.price_tick
            self._low, self._high, self._bounded = low - grace, high + grace, self.state.list_price
        # Written so that NaN is outside.
        inside = (prices >= self._low) & (prices <= self._high)
        if not inside.all():
            place = tuple(np.argwhere(~inside)[0])
            low, high = (bound * self.state.list_price[place] for bound in self.market.price_bounds)
            index = ", ".join(map(str, place))
            raise ValueError(f"prices[{index}] is {prices[place]}; it must lie in [{low:.4g}, {high:.4g}]")


class _OwnBestPrices:
    """Best price of the period alone for items that respond to their own price.

    Traffic, season, shock, promotion and rivals scale demand at all prices alike and drop out; so does the remembered
    price, but for which side of it the price lies on. Costs move rarely, so solutions are kept until they do.
    """

    def __init__(self, market: Market) -> None:
        assert isinstance(market.demand, OwnPriceDemand)
        self._market, memory = market, market.memory
        added: list[Any] = [memory.loss, memory.gain] if isinstance(memory, ReferencePrice) else [0.0]
        if len(added) == 2 and np.array_equal(added[0], added[1]):
            added = added[:1]
        self._added = [np.broadcast_to(values, market.shape) for values in added]
        self._solved: list[np.ndarray] = [np.full(market.shape, np.nan) for _ in added]
        self._cost = self._list_price = np.full(market.shape, np.nan)

    @staticmethod
    def can_solve(market: Market) -> bool:
        """Whether the market is of the kind solved here."""
        memory = market.memory
        # Where falls count more than rises the reward has two peaks.
        one_peak = memory is None or (type(memory) is ReferencePrice and bool(np.all(memory.loss >= memory.gain)))
        return type(market.demand) is OwnPriceDemand and type(market.payoff) is Margin and one_peak

    def solve(self, state: MarketState) -> np.ndarray:
        """Currency per unit, `(markets, products, segments)`, read-only."""
        cost, list_price = get_unit_cost(self._market, state), state.list_price
        if cost is not self._cost or list_price is not self._list_price:
            moved = (cost != self._cost) | (list_price != self._list_price)
            if moved.any():
                self._solve_again(moved, cost, list_price)
            self._cost, self._list_price = cost, list_price
        if len(self._solved) == 1:
            return self._solved[0]
        # Dearer than remembered the slope is that of losses, cheaper that of gains; in between the kink itself is best.
        above, below = self._solved
        return np.clip(state.memory[..., 0], above, below)

    def _solve_again(self, moved: np.ndarray, cost: np.ndarray, list_price: np.ndarray) -> None:
        demand, shape = self._market.demand, self._market.shape
        assert isinstance(demand, OwnPriceDemand)
        some = demand if moved.all() else demand.select_items(shape, moved)
        take = (lambda values: values) if moved.all() else (lambda values: values[moved].reshape(-1, 1, 1))
        low, high = (bound * take(list_price) for bound in self._market.price_bounds)
        for index, added in enumerate(self._added):
            prices = self._solved[index].copy()
            prices[moved] = some.compute_optimal_price(take(cost), (low, high), take(added)).ravel()
            self._solved[index] = _freeze(prices)


def make(
    name: str,
    num_markets: int = 1,
    seed: int = 0,
    family: str | None = None,
    settings: Any = None,
    num_periods: int | None = None,
) -> MarketBatch:
    """Build a batch of markets of one domain.

    Args:
        name: Domain: a key of `DOMAINS`, such as "retail".
        num_markets: Markets side by side, a whole number >= 1.
        seed: Seed of everything, a whole number >= 0.
        family: One of the domain's families; None = its first.
        settings: Ranges from which the markets are drawn, of the domain's settings type; None = the defaults.
        num_periods: Periods of an episode, a whole number >= 1; None = as the family has it.

    Returns:
        The batch, ready for `reset()` and `step(prices)`.

    Raises:
        ValueError: If the domain or family is unknown, the settings belong elsewhere, or `num_markets`, `num_periods`
            or the seed is no whole number (floats and bool are none) or too small.
    """
    market_ids = np.arange(check_count("num_markets", num_markets))
    return open_batch(name, market_ids, seed, family, settings, num_periods)


def open_batch(
    name: str,
    market_ids: np.ndarray,
    seed: int = 0,
    family: str | None = None,
    settings: Any = None,
    num_periods: int | None = None,
) -> MarketBatch:
    """As `make`, for markets with given names.

    Args:
        name: Domain.
        market_ids: Integer names of the markets, >= 0, `(markets,)`, at least one. A name that stands there twice is
            the same market with the same luck twice, each priced by itself: two price plans on one market.
        seed: As in `make`.
        family: As in `make`.
        settings: As in `make`.
        num_periods: As in `make`.

    Returns:
        The batch.

    Raises:
        ValueError: As `make`, and if the names are empty, negative, no integers or no list.
    """
    if not isinstance(name, str) or name not in DOMAINS:
        raise ValueError(f"name is {name!r}; known markets: {', '.join(map(repr, DOMAINS))}")
    domain = DOMAINS[name]
    chosen = domain.families[0] if family is None else family
    if chosen not in domain.families:
        raise ValueError(f"family is {chosen!r}; known {name} families: {', '.join(map(repr, domain.families))}")
    ranges = domain.settings() if settings is None else settings
    if not isinstance(ranges, domain.settings):
        raise ValueError(f"settings is a {type(ranges).__name__}; {name} needs {domain.settings.__name__}")
    ids, root = check_market_ids(market_ids), check_count("seed", seed, 0)
    periods = None if num_periods is None else check_count("num_periods", num_periods)
    market = domain.sample(ranges, chosen, ids, root)
    if periods is not None:
        market = replace(market, num_periods=periods)
    return MarketBatch(market, build_streams(root, ids))


def _compute_median_willingness(demand: Demand, shape: tuple[int, int, int]) -> np.ndarray | None:
    """See `MarketTruth.willingness_to_pay`."""
    if isinstance(demand, LogitDemand | NestedLogitDemand | PurchaseProbability):
        price = demand.utility / demand.sensitivity
    elif isinstance(demand, OwnPriceDemand):
        # Price ratios at which the response is one half; the last family is the linear one.
        family, elasticity, share = demand.family, demand.elasticity, demand.purchase_share
        ratio = np.select(
            [family == CONSTANT_ELASTICITY, family == EXPONENTIAL, family == LOGIT],
            [
                2.0 ** (1.0 / elasticity),
                1.0 + np.log(2.0) / elasticity,
                1.0 - np.log((1.0 - share) / (2.0 - share)) * (1.0 - share) / elasticity,
            ],
            1.0 + 0.5 / elasticity,
        )
        price = ratio * demand.reference_price
    else:
        return None
    return _freeze(np.array(np.broadcast_to(np.maximum(price, 0.0), shape)))


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _check_promotions(promotions: np.ndarray) -> None:
    if not np.all((promotions == 0) | (promotions == 1)):
        raise ValueError("promotions holds a value other than 0 and 1")
