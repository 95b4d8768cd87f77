"""Logged data sets: markets run under their managers, written as a panel, with the truth in a table of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.markets import core
from pricing_fm.markets.core import Market, MarketState
from pricing_fm.markets.domains import DOMAINS, Domain, RetailSettings
from pricing_fm.markets.hidden_demand import compute_hidden_factor
from pricing_fm.markets.interventions import Interventions, plan_interventions
from pricing_fm.markets.log_truth import compute_elasticities, compute_optimal_prices, needs_states
from pricing_fm.markets.managers import (
    DEMAND_FOLLOWER,
    MANAGERS,
    Habits,
    ManagerSettings,
    decide,
    keep_inside_bounds,
    sample_habits,
    split_by_manager,
)
from pricing_fm.markets.streams import Streams, build_streams
from pricing_fm.panel.frequency import Frequency

# Later seasons of a market draw from repetitions of its stream that no continuation of a log reaches.
_SEASONS = 2**32


@dataclass(frozen=True)
class LogSettings:
    """How markets are logged.

    Attributes:
        num_markets: Markets (store x category) side by side.
        num_periods: Periods logged. Markets that end (a departure, a season) start anew when one is over.
        start: First day of the first period, ISO date; None = 2022-01-03, a Monday, or for domains that count in months
            2000-01-01.
        randomized_periods: Shortest and longest stretch at the end of an item's log in which prices are drawn at random
            whatever the manager did before; None = none.
        randomized_share: Share of the items that have such a stretch.
        randomized_categories: Number of leading categories that may have it; None = all. The others are plain logs.
        intervention_ladder: Multiples of the list price that are drawn, each with the same chance; those outside the
            market's price bounds are left out.
        seed: Seed of everything, >= 0.
        first_market: Name of the first market; batches of one seed with other names continue one data set.
        name: Prefix of the category names; None = the seed.
        domain: Domain of the markets, from `domains.DOMAINS`.
        family: Family of the domain; None = its first. A log holds one family.
        frequency: Length of a period as a pandas frequency; None = the domain's own. It only dates the periods.

    Raises:
        ValueError: If a count or share is out of bounds, or the domain or family is unknown.
    """

    num_markets: int = 12
    num_periods: int = 120
    start: str | None = None
    randomized_periods: tuple[int, int] | None = None
    randomized_share: float = 1.0
    randomized_categories: int | None = None
    intervention_ladder: tuple[float, ...] = tuple(round(0.65 + 0.05 * rung, 2) for rung in range(14))
    seed: int = 0
    first_market: int = 0
    name: str | None = None
    domain: str = "retail"
    family: str | None = None
    frequency: str | None = None

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
        if self.domain not in DOMAINS:
            raise ValueError(f"domain is {self.domain!r}; known domains: {', '.join(DOMAINS)}")
        if self.family is not None and self.family not in DOMAINS[self.domain].families:
            raise ValueError(
                f"family is {self.family!r}; known families of {self.domain}: "
                + ", ".join(DOMAINS[self.domain].families)
            )

    @property
    def cadence(self) -> str:
        """Length of a period as a pandas frequency."""
        return self.frequency or DOMAINS[self.domain].frequency

    @property
    def first_day(self) -> pd.Timestamp:
        """Start of the first period."""
        default = "2000-01-01" if Frequency.parse(self.cadence).months else "2022-01-03"
        return pd.Timestamp(self.start if self.start is not None else default)


@dataclass(frozen=True)
class LoggedArrays:
    """The log as arrays of shape `(periods, markets, products, segments)`; see `core.Observation` and `core.Truth`.

    `price_is_intervention` is True where the price was drawn at random, whatever the manager did before; `hidden_shock`
    is the log factor of all that is hidden on demand, regimes included; `competitor_price` is None without rivals.
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
    competitor_price: np.ndarray | None = None


@dataclass(frozen=True)
class SimulatedLog:
    """A logged data set and the market that it came from, ready to be continued.

    Attributes:
        settings: How it was logged.
        parameters: Truth of the markets.
        habits: How the managers work.
        state: State after the last logged period.
        market_ids: Names of the markets, int64, `(markets,)`.
        num_stores: Stores per category.
        arrays: The log, period first.
        states: State before every period, where the truth's elasticity has no closed form; else empty.
    """

    settings: LogSettings
    parameters: Market
    habits: Habits
    state: MarketState
    market_ids: np.ndarray
    num_stores: int
    arrays: LoggedArrays
    states: tuple[MarketState, ...] = ()

    @property
    def domain(self) -> Domain:
        """What the markets are examples of."""
        return DOMAINS[self.settings.domain]

    @property
    def num_items(self) -> int:
        """Number of items: markets x products x segments."""
        return int(np.prod(self.parameters.shape))

    @cached_property
    def items(self) -> pd.DataFrame:
        """One row per item in the order of per-item arrays: item_id, category, product_id, location_id, segment.

        Where products of a market take customers from each other (or bring them), `substitute_group` names them.
        """
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
        if not self.parameters.demand.is_separable and products > 1:
            frame[names.SUBSTITUTE_GROUP] = frame[names.CATEGORY] + "|" + frame[names.LOCATION_ID]
            if segments > 1:
                frame[names.SUBSTITUTE_GROUP] += "|" + frame[names.SEGMENT]
        if segments > 1:
            item_id = item_id + "|" + frame[names.SEGMENT]
        else:
            frame = frame.drop(columns=names.SEGMENT)
        frame.insert(0, names.ITEM_ID, item_id)
        return frame

    @cached_property
    def panel(self) -> pd.DataFrame:
        """The log under panel column names, sorted by item and period.

        `inventory` is NaN where nothing limits sales (absent where nothing limits any item), `competitor_price` is the
        rival's price as reported: late now and then, NaN where it is missing (absent without rivals). `propensity` is
        the probability of the price given all that the manager knew.
        """
        frame = self._index()
        for column in (names.UNITS, names.PRICE, names.LIST_PRICE, names.COST):
            frame[column] = self._column(column)
        if self.parameters.supply is not None:
            inventory = self._column(names.INVENTORY)
            frame[names.INVENTORY] = np.where(np.isinf(inventory), np.nan, inventory)
        if self.arrays.competitor_price is not None:
            frame[names.COMPETITOR_PRICE] = _item_major(self.arrays.competitor_price)
        for column in ("promotion", names.PRICE_IS_INTERVENTION, "propensity"):
            frame[column] = self._column(column)
        for column in self.items.columns[1:]:
            frame[column] = np.repeat(self.items[column].to_numpy(), self.settings.num_periods)
        return frame

    @cached_property
    def truth(self) -> pd.DataFrame:
        """What only the simulator knows, row for row with `panel`.

        Columns: item_id; timestamp; mean_demand (units, given price, promotion and all that is hidden); elasticity
        (minus d log demand / d log own price at the logged price, within the period); optimal_price (myopic optimum of
        the expected margin within the market's price bounds, stock limits aside, currency, not rounded; NaN where it
        has no closed form: coupled items, memories that treat rises and falls differently, payoffs other than the
        margin); hidden_shock (log factor of shock and regime on demand, whose exponential has mean 1); manager;
        confounding (of a demand follower, else 0).
        """
        frame = self._index()
        frame["mean_demand"] = self._column("mean_demand")
        arrays = self.arrays
        frame["elasticity"] = _item_major(
            compute_elasticities(self.parameters, self.states, arrays.price, arrays.promotion)
        )
        frame["optimal_price"] = _item_major(compute_optimal_prices(self.parameters, arrays.cost, arrays.list_price))
        frame["hidden_shock"] = self._column("hidden_shock")
        rows_per_market = self.num_items // len(self.market_ids) * self.settings.num_periods
        confounding = np.where(self.habits.manager == DEMAND_FOLLOWER, self.habits.confounding[:, 0, 0], 0.0)
        frame["manager"] = np.repeat(np.array(MANAGERS, dtype=object)[self.habits.manager], rows_per_market)
        frame["confounding"] = np.repeat(confounding, rows_per_market)
        return frame

    @property
    def timestamps(self) -> np.ndarray:
        """Start of every period, datetime64[s], `(periods,)`."""
        frequency = Frequency.parse(self.settings.cadence)
        days = [frequency.step(self.settings.first_day, ahead) for ahead in range(self.settings.num_periods)]
        return pd.DatetimeIndex(days).to_numpy().astype("datetime64[s]")

    def _index(self) -> pd.DataFrame:
        return pd.DataFrame(
            {
                names.ITEM_ID: np.repeat(self.items[names.ITEM_ID].to_numpy(), self.settings.num_periods),
                names.TIMESTAMP: np.tile(self.timestamps, self.num_items),
            }
        )

    def _column(self, name: str) -> np.ndarray:
        return _item_major(getattr(self.arrays, name))


def simulate_log(
    market: Any | None = None,
    managers: ManagerSettings | None = None,
    log: LogSettings | None = None,
    on_period: Callable[[int], None] | None = None,
) -> SimulatedLog:
    """Run markets of one family under their managers and keep the log.

    Args:
        market: Ranges of the truth, of the settings type of `log.domain` (`RetailSettings` for retail); None = the
            domain's defaults.
        managers: Ranges of the managers' habits; None = the defaults.
        log: Domain, family, sizes, seed and randomised stretch; None = the defaults.
        on_period: Called with the number of periods done after each, for progress; None = nothing is called.

    Returns:
        The log with its panel, its truth and all that is needed to continue it.

    Raises:
        ValueError: If the settings are of another domain, or a manager needs what the market lacks.
    """
    managers, log = managers or ManagerSettings(), log or LogSettings()
    truth, ids, num_stores = _sample_market(market, log)
    habits = sample_habits(managers, truth, ids, num_stores, log.seed)
    random = build_streams(log.seed, ids)
    state = core.start(truth, random)
    drawn = _plan_random_prices(log, truth, ids // num_stores, random)
    keep_states = needs_states(truth)
    kept = [field.name for field in fields(LoggedArrays) if field.name != "competitor_price" or truth.rivals]
    records = {name: np.empty((log.num_periods, *truth.shape)) for name in kept}
    records["price_is_intervention"] = drawn.here
    desks, states = split_by_manager(habits, truth), []
    for period in range(log.num_periods):
        decision = decide(habits, truth, state, random, desks)
        prices, promotions, propensity = decision.prices, decision.promotions, decision.propensities
        here = drawn.here[period]
        if np.any(here):
            random_prices = drawn.get_prices(period, state.list_price, truth.price_tick)
            prices = np.where(here, random_prices.prices, prices)
            promotions = np.where(here, random_prices.promotions, promotions)
            propensity = np.where(here, random_prices.propensities, propensity)
        if keep_states:
            states.append(state)
        records["hidden_shock"][period] = compute_hidden_factor(truth, state)
        state, observation, _, info = core.step(truth, state, prices, random, promotions)
        for name, value in zip(core.Observation._fields, observation, strict=True):
            if value is not None:
                records[name][period] = value
        records["propensity"][period], records["mean_demand"][period] = propensity, info.mean_demand
        if truth.ends and (period + 1) % truth.num_periods == 0:
            random = build_streams(log.seed, ids, _SEASONS + (period + 1) // truth.num_periods)
            state = core.start(truth, random)
        if on_period is not None:
            on_period(period + 1)
    return SimulatedLog(log, truth, habits, state, ids, num_stores, LoggedArrays(**records), tuple(states))


def _plan_random_prices(log: LogSettings, market: Market, category: np.ndarray, random: Streams) -> Interventions:
    """The randomised stretches of the items of the leading categories."""
    eligible = np.full(len(category), True)
    if log.randomized_categories is not None:
        eligible = category < log.randomized_categories
    ladder = np.array(log.intervention_ladder)
    if log.randomized_periods is not None:
        ladder = keep_inside_bounds(log.intervention_ladder, market)
    stretch, share = log.randomized_periods, log.randomized_share
    return plan_interventions(log.num_periods, stretch, share, eligible, ladder, market.shape, random)


def _sample_market(settings: Any | None, log: LogSettings) -> tuple[Market, np.ndarray, int]:
    """Truth of the markets, their names, and stores per category."""
    domain = DOMAINS[log.domain]
    chosen = domain.settings() if settings is None else settings
    if not isinstance(chosen, domain.settings):
        raise ValueError(
            f"market is a {type(chosen).__name__}, but log.domain is {log.domain!r}, which takes"
            f" {domain.settings.__name__}"
        )
    ids = np.arange(log.first_market, log.first_market + log.num_markets)
    market = domain.sample(chosen, log.family if log.family is not None else domain.families[0], ids, log.seed)
    return market, ids, chosen.num_stores if isinstance(chosen, RetailSettings) else 1


def _item_major(array: np.ndarray) -> np.ndarray:
    """(periods, markets, products, segments) -> rows sorted by item, then period."""
    return np.ascontiguousarray(np.moveaxis(array, 0, -1)).reshape(-1)
