"""Logged data sets: markets run under their managers, written as a panel, with the truth in a table of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.markets.managers import (
    DEMAND_FOLLOWER,
    MANAGERS,
    Habits,
    ManagerSettings,
    decide,
    round_to_ladder,
    sample_habits,
)
from pricing_fm.markets.parameters import RetailParameters, RetailSettings, sample_retail_parameters
from pricing_fm.markets.retail import (
    RetailState,
    compute_myopic_price,
    compute_short_run_elasticity,
    start_retail,
    step,
)
from pricing_fm.markets.streams import INTERVENTION, Streams, build_streams

_INTERVENTION_PROMOTION = 0.1  # chance of a promotion in a randomised week, drawn apart from the price


@dataclass(frozen=True)
class LogSettings:
    """How markets are logged.

    Attributes:
        num_markets: Markets (store x category) side by side.
        num_periods: Weeks logged.
        start: First day of the first week, ISO date.
        randomized_periods: Shortest and longest stretch at the end of an item's log in which prices are drawn at random
            whatever the manager did before; None = none.
        randomized_share: Share of the items that have such a stretch.
        randomized_categories: Number of leading categories that may have it; None = all. The others are plain logs.
        intervention_ladder: Multiples of the list price that are drawn, each with the same chance.
        seed: Seed of everything, >= 0.
        first_market: Name of the first market; batches of one seed with other names continue one data set.
        name: Prefix of the category names; None = the seed.

    Raises:
        ValueError: If a count or share is out of bounds.
    """

    num_markets: int = 12
    num_periods: int = 120
    start: str = "2022-01-03"
    randomized_periods: tuple[int, int] | None = None
    randomized_share: float = 1.0
    randomized_categories: int | None = None
    intervention_ladder: tuple[float, ...] = tuple(round(0.65 + 0.05 * rung, 2) for rung in range(14))
    seed: int = 0
    first_market: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        if self.num_markets < 1 or self.num_periods < 2:
            raise ValueError(
                f"num_markets is {self.num_markets} and num_periods {self.num_periods}; at least 1 and 2 are needed"
            )
        if self.randomized_periods is not None:
            low, high = self.randomized_periods
            if not 1 <= low <= high <= self.num_periods:
                raise ValueError(
                    f"randomized_periods is {self.randomized_periods}; it must be an increasing pair"
                    f" in [1, num_periods={self.num_periods}]"
                )
        if not 0.0 <= self.randomized_share <= 1.0:
            raise ValueError(f"randomized_share is {self.randomized_share}; it must lie in [0, 1]")
        if not self.intervention_ladder or min(self.intervention_ladder) <= 0:
            raise ValueError(f"intervention_ladder is {self.intervention_ladder}; it needs positive multiples")


@dataclass(frozen=True)
class LoggedArrays:
    """The log as arrays of shape `(periods, markets, products, segments)`; see `RetailObservation` and `RetailInfo`.

    `price_is_intervention` is True where the price was drawn at random, whatever the manager did before.
    """

    units: np.ndarray
    price: np.ndarray
    list_price: np.ndarray
    cost: np.ndarray
    inventory: np.ndarray
    promotion: np.ndarray
    price_is_intervention: np.ndarray
    propensity: np.ndarray
    mean_demand: np.ndarray
    hidden_shock: np.ndarray


@dataclass(frozen=True)
class SimulatedLog:
    """A logged data set and the market that it came from, ready to be continued.

    Attributes:
        settings: How it was logged.
        parameters: Truth of the markets.
        habits: How the managers work.
        state: State after the last logged week.
        market_ids: Names of the markets, int64, `(markets,)`.
        num_stores: Stores per category.
        arrays: The log, period first.
    """

    settings: LogSettings
    parameters: RetailParameters
    habits: Habits
    state: RetailState
    market_ids: np.ndarray
    num_stores: int
    arrays: LoggedArrays

    @property
    def num_items(self) -> int:
        """Number of items: markets x products x segments."""
        return int(np.prod(self.parameters.shape))

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per item in the order of per-item arrays: item_id, category, product_id, location_id, segment."""
        markets, products, segments = self.parameters.shape
        category, store = np.divmod(self.market_ids, self.num_stores)
        prefix = self.settings.name if self.settings.name is not None else f"s{self.settings.seed}"
        rows = [
            (f"{prefix}-c{c:05d}", f"{prefix}-c{c:05d}-p{p:02d}", f"store-{s}", f"group-{g}")
            for c, s in zip(category, store, strict=True)
            for p in range(products)
            for g in range(segments)
        ]
        frame = pd.DataFrame(rows, columns=[names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID, names.SEGMENT])
        item_id = frame[names.PRODUCT_ID] + "|" + frame[names.LOCATION_ID]
        if segments > 1:
            item_id = item_id + "|" + frame[names.SEGMENT]
        else:
            frame = frame.drop(columns=names.SEGMENT)
        frame.insert(0, names.ITEM_ID, item_id)
        return frame

    @cached_property
    def panel(self) -> pd.DataFrame:
        """The log under panel column names, sorted by item and week; `inventory` is NaN where no stock is kept.

        `propensity` is the probability of the price given all that the manager knew.
        """
        frame = self._index()
        for column in (names.UNITS, names.PRICE, names.LIST_PRICE, names.COST):
            frame[column] = self._column(column)
        inventory = self._column(names.INVENTORY)
        frame[names.INVENTORY] = np.where(np.isinf(inventory), np.nan, inventory)
        for column in ("promotion", names.PRICE_IS_INTERVENTION, "propensity"):
            frame[column] = self._column(column)
        for column in self.items.columns[1:]:
            frame[column] = np.repeat(self.items[column].to_numpy(), self.settings.num_periods)
        return frame

    @cached_property
    def truth(self) -> pd.DataFrame:
        """What only the simulator knows, row for row with `panel`.

        Columns: item_id; timestamp; mean_demand (units, given price, promotion and shock); elasticity (minus
        d log demand / d log price at the logged price, within the week, > 0); optimal_price (myopic optimum of the
        expected margin within half to twice the list price, currency, not rounded); hidden_shock (log factor on
        demand, whose exponential has mean 1); manager; confounding (of a demand follower, else 0).
        """
        frame = self._index()
        frame["mean_demand"] = self._column("mean_demand")
        elasticity = np.stack([compute_short_run_elasticity(self.parameters, price) for price in self.arrays.price])
        frame["elasticity"] = _item_major(elasticity)
        frame["optimal_price"] = _item_major(self._optimal_prices())
        frame["hidden_shock"] = self._column("hidden_shock")
        rows_per_market = self.num_items // len(self.market_ids) * self.settings.num_periods
        confounding = np.where(self.habits.manager == DEMAND_FOLLOWER, self.habits.confounding[:, 0, 0], 0.0)
        frame["manager"] = np.repeat(np.array(MANAGERS, dtype=object)[self.habits.manager], rows_per_market)
        frame["confounding"] = np.repeat(confounding, rows_per_market)
        return frame

    def _index(self) -> pd.DataFrame:
        periods = self.settings.num_periods
        weeks = pd.date_range(self.settings.start, periods=periods, freq="7D").to_numpy().astype("datetime64[s]")
        return pd.DataFrame(
            {
                names.ITEM_ID: np.repeat(self.items[names.ITEM_ID].to_numpy(), periods),
                names.TIMESTAMP: np.tile(weeks, self.num_items),
            }
        )

    def _column(self, name: str) -> np.ndarray:
        return _item_major(getattr(self.arrays, name))

    def _optimal_prices(self) -> np.ndarray:
        """Solved once per stretch of constant cost and list price, then carried forward."""
        cost, list_price = self.arrays.cost, self.arrays.list_price
        moved = np.ones(cost.shape, dtype=bool)
        moved[1:] = (cost[1:] != cost[:-1]) | (list_price[1:] != list_price[:-1])
        result = np.full(cost.shape, np.nan)
        period, market, product, segment = np.nonzero(moved)
        regular = list_price[moved].reshape(-1, 1, 1)
        prices = compute_myopic_price(
            self.parameters.select_items((market, product, segment)),
            cost[moved].reshape(-1, 1, 1),
            (0.5 * regular, 2.0 * regular),
        )
        result[period, market, product, segment] = prices.ravel()
        last = np.maximum.accumulate(np.where(moved, np.arange(len(cost)).reshape(-1, 1, 1, 1), 0), axis=0)
        return np.take_along_axis(result, last, axis=0)


def simulate_log(
    market: RetailSettings | None = None, managers: ManagerSettings | None = None, log: LogSettings | None = None
) -> SimulatedLog:
    """Run retail markets under their managers and keep the log.

    Args:
        market: Ranges of the truth; None = the defaults.
        managers: Ranges of the managers' habits; None = the defaults.
        log: Sizes, seed and randomised stretch; None = the defaults.

    Returns:
        The log with its panel, its truth and all that is needed to continue it.
    """
    market, managers, log = market or RetailSettings(), managers or ManagerSettings(), log or LogSettings()
    ids = np.arange(log.first_market, log.first_market + log.num_markets)
    parameters = sample_retail_parameters(market, ids, log.seed)
    habits = sample_habits(managers, parameters, ids, market.num_stores, log.seed)
    random = build_streams(log.seed, ids)
    state = start_retail(parameters, random)
    random_prices = _plan_interventions(log, ids // market.num_stores, parameters.shape, random)
    records: dict[str, np.ndarray] = {
        field.name: np.empty((log.num_periods, *parameters.shape)) for field in fields(LoggedArrays)
    }
    records["price_is_intervention"] = random_prices.here
    for period in range(log.num_periods):
        decision = decide(habits, parameters, state, random)
        prices, promotions, propensity = decision.prices, decision.promotions, decision.propensities
        drawn = random_prices.here[period]
        if np.any(drawn):
            multiplier = random_prices.multiplier[period]
            prices = np.where(drawn, round_to_ladder(state.list_price, multiplier, parameters.price_tick), prices)
            promotions = np.where(drawn, random_prices.promotion[period], promotions)
            propensity = np.where(drawn, random_prices.propensity[period], propensity)
        state, observation, _, info = step(parameters, state, prices, promotions, random)
        for field in fields(observation):
            records[field.name][period] = getattr(observation, field.name)
        records["propensity"][period] = propensity
        records["mean_demand"][period], records["hidden_shock"][period] = info.mean_demand, info.hidden_shock
    return SimulatedLog(log, parameters, habits, state, ids, market.num_stores, LoggedArrays(**records))


@dataclass(frozen=True)
class _Interventions:
    """Randomised prices of every period; arrays `(periods, markets, products, segments)`."""

    here: np.ndarray  # True = the price is drawn at random
    multiplier: np.ndarray  # of the list price
    propensity: np.ndarray  # of the multiplier, given those of the weeks before
    promotion: np.ndarray


def _plan_interventions(
    log: LogSettings, category: np.ndarray, shape: tuple[int, int, int], random: Streams
) -> _Interventions:
    """Draw each item's randomised stretch: half keep one price throughout, the others change it now and then."""
    periods = log.num_periods
    here = np.zeros((periods, *shape), dtype=bool)
    multiplier, propensity, promotion = (np.ones((periods, *shape)) for _ in range(3))
    if log.randomized_periods is None:
        return _Interventions(here, multiplier, propensity, promotion)
    low, high = log.randomized_periods
    plan = random.uniform(periods, INTERVENTION, (4, *shape[1:]))
    length = low + (plan[:, 0] * (high - low + 1)).astype(int)
    takes_part = plan[:, 1] < log.randomized_share
    if log.randomized_categories is not None:
        takes_part &= (category < log.randomized_categories).reshape(-1, 1, 1)
    start = np.where(takes_part, periods - length, periods)
    redraw = np.where(plan[:, 2] < 0.5, 0.0, 0.2 + 0.8 * plan[:, 3])
    ladder = np.array(log.intervention_ladder)
    current = np.ones(shape)
    for period in range(periods - high, periods):
        draws = random.uniform(period, INTERVENTION, (3, *shape[1:]))
        fresh = (period == start) | ((period > start) & (draws[:, 0] < redraw))
        drawn = ladder[(draws[:, 1] * len(ladder)).astype(int)]
        current, previous = np.where(fresh, drawn, current), current
        # A redraw may return the same price, so keeping it has two causes.
        kept = np.where(current == previous, 1.0 - redraw + redraw / len(ladder), redraw / len(ladder))
        here[period] = period >= start
        multiplier[period] = current
        propensity[period] = np.where(period == start, 1.0 / len(ladder), kept)
        promotion[period] = draws[:, 2] < _INTERVENTION_PROMOTION
    return _Interventions(here, multiplier, propensity, promotion)


def _item_major(array: np.ndarray) -> np.ndarray:
    """(periods, markets, products, segments) -> rows sorted by item, then period."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)).reshape(-1)
