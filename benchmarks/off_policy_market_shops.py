"""Shops for benchmarks/off_policy_markets.py: their demand, their manager, the policies to be valued, and true values.

Log demand depends on price, on the price that customers remember, on recent discounts, season and a signal that
everybody sees (a forecast of traffic, say). Stock is limited, ordered with a lead time, and sells out. The manager's
prices are sticky; where he is confounded, he raises them when the signal is high. Every log holds shops drawn anew from
one population, whose mean value is the truth.

In some markets an assumption of the structured estimator fails: `spill_over`, half of those who find one item sold out
want its neighbour; `private_stock`, orders follow demand that the log does not show; `hidden_prices`, so do prices. In
`week_shocks` all of a week's demand moves at once, which widens the error without biasing the estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pricing_fm.evaluation.off_policy import (
    BaseStock,
    Decision,
    DecisionLog,
    DemandLog,
    PriceState,
    Shop,
    Situation,
    advance_prices,
    draw_counts,
)

LADDER = np.array([0.8, 0.9, 1.0, 1.1])
LEAN = np.array([-1.5, -0.5, 0.5, 1.5])  # of each rung towards high prices
KEEP = 0.4  # chance that a price is not looked at
PARTS = 8  # of the simulation of true values
HISTORY = 5  # weeks of the manager's prices before the horizon
ELASTICITY, GAP, DEPTH, SIGNAL, SEASON = 2.0, 0.8, 0.8, 0.3, 0.2  # responses of log demand
PERSISTENCE, OVERDISPERSION, COST_SHARE = 0.7, 0.25, 0.6
# Units on hand and on order per unit of a usual week's demand, by weeks of the horizon: 40 % of the weeks sell out. The
# first 13 weeks are the high season.
COVERS = {13: 2.3, 26: 2.0}
SIGNAL_PERSISTENCE = 0.7
LEVEL, LEVEL_REACH, LIST_PRICE = 2.0, 0.6, 4.0  # log demand at list price, evenly spread by this; list price +- 1
_MEAN_SIZE = LIST_PRICE * np.exp(LEVEL) * np.sinh(LEVEL_REACH) / LEVEL_REACH
SPILL, PRIVATE, HIDDEN, HIDDEN_ODDS, WEEK_SHOCK = 0.5, 0.3, 0.25, 1.5, 0.1
FAILURES = ("none", "spill_over", "private_stock", "hidden_prices", "week_shocks")


@dataclass(frozen=True)
class Rule:
    """A rule of prices: the last one is kept, or a rung is drawn whose odds follow the signal.

    Attributes:
        shares: Of the rungs where the signal is 0, `(rungs,)`.
        tilt: By how much the log odds of higher rungs rise with the signal.
    """

    shares: tuple[float, ...]
    tilt: float = 0.0

    def compute_probabilities(self, last: np.ndarray, signals: np.ndarray) -> np.ndarray:
        """Of every rung given the last one and the signal, `(..., rungs)`."""
        utilities = np.log(self.shares) + self.tilt * signals[..., None] * LEAN
        drawn = np.exp(utilities - utilities.max(axis=-1, keepdims=True))
        drawn = (1.0 - KEEP) * drawn / drawn.sum(axis=-1, keepdims=True)
        return drawn + KEEP * (np.arange(len(LADDER)) == last[..., None])


MANAGER_SHARES = (0.2, 0.25, 0.3, 0.25)
TILTS = {0.0: 0.0, 0.5: 0.9}  # of the manager, by the correlation of log price and signal that it makes
POLICIES = ("manager", "cuts", "raises", "peak_prices", "peak_cuts")


def build_rules(confounding: float) -> dict[str, Rule]:
    """The policies by name; the first is the manager."""
    return {
        "manager": Rule(MANAGER_SHARES, TILTS[confounding]),
        "cuts": Rule((0.4, 0.3, 0.2, 0.1), TILTS[confounding]),
        "raises": Rule((0.08, 0.17, 0.3, 0.45), TILTS[confounding]),
        "peak_prices": Rule((0.15, 0.25, 0.3, 0.3), TILTS[confounding] + 0.4),  # what a planner would learn
        "peak_cuts": Rule(MANAGER_SHARES, TILTS[confounding] - 0.4),
    }


@dataclass(frozen=True)
class BoundRule:
    """A rule in shops whose signals are known; see `PricePolicy`.

    Attributes:
        rule: The rule.
        signals: `(units, periods)`.
    """

    rule: Rule
    signals: np.ndarray

    def decide(self, situation: Situation, uniforms: np.ndarray) -> Decision:
        """See `PricePolicy`."""
        ratios = np.exp(situation.prices.log_last) / situation.list_price
        last = np.abs(ratios[..., None] - LADDER).argmin(axis=-1)
        signals = np.broadcast_to(self.signals[:, situation.period, None], last.shape)
        rungs = draw_rungs(self.rule.compute_probabilities(last, signals), uniforms)
        return Decision(situation.list_price * LADDER[rungs], np.zeros(uniforms.shape))


def draw_rungs(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Rungs by inversion, int."""
    return np.asarray((uniforms[..., None] >= np.cumsum(probabilities, axis=-1)[..., :-1]).sum(axis=-1))


class Population(NamedTuple):
    """Shops as drawn. Arrays `(units,)` or, with the weeks of history, `(units, HISTORY + weeks)`.

    Attributes:
        levels: Log mean demand at the list price.
        list_prices: Currency.
        stock_levels: Units on hand and on order after every order.
        signals: What everybody sees.
        hidden: What moves log demand unseen.
        week_shocks: The same for all units, `(HISTORY + weeks,)` or one set per unit.
    """

    levels: np.ndarray
    list_prices: np.ndarray
    stock_levels: np.ndarray
    signals: np.ndarray
    hidden: np.ndarray
    week_shocks: np.ndarray


class History(NamedTuple):
    """What happened. Arrays `(units, HISTORY + weeks)`.

    Attributes:
        population: The shops.
        rungs: Of the prices.
        sold, held: Units sold, and available before.
        on_order: Units that arrive after the week.
        states: Price states before each week, `(units, weeks)` each.
    """

    population: Population
    rungs: np.ndarray
    sold: np.ndarray
    held: np.ndarray
    on_order: np.ndarray
    states: PriceState


def draw_population(rng: np.random.Generator, units: int, weeks: int, failure: str, is_stratified: bool) -> Population:
    """Shops at random.

    Args:
        rng: Of all luck.
        units: How many.
        weeks: Of the horizon.
        failure: Which assumption fails; one of `FAILURES`.
        is_stratified: True = levels and list prices evenly over their laws and week shocks per unit: for true values.

    Returns:
        The shops.
    """
    length = HISTORY + weeks
    uniforms = rng.random((2, units))
    if is_stratified:
        uniforms = (np.stack([rng.permutation(units) for _ in range(2)]) + uniforms) / units
    levels = LEVEL + LEVEL_REACH * (2.0 * uniforms[0] - 1.0)
    signals = np.empty((units, length))
    signals[:, 0] = rng.normal(size=units)
    for week in range(1, length):
        fresh = np.sqrt(1.0 - SIGNAL_PERSISTENCE**2) * rng.normal(size=units)
        signals[:, week] = SIGNAL_PERSISTENCE * signals[:, week - 1] + fresh
    hidden = np.zeros((units, length + 2))
    if failure == "private_stock":
        hidden = PRIVATE * rng.normal(size=hidden.shape)
    if failure == "hidden_prices":
        hidden = HIDDEN * rng.choice([-1.0, 1.0], size=hidden.shape)
    shape = (units if is_stratified else 1, length)
    shocks = WEEK_SHOCK * rng.normal(size=shape) if failure == "week_shocks" else np.zeros(shape)
    stock = np.ceil(COVERS[weeks] * np.exp(levels))
    return Population(levels, LIST_PRICE + 2.0 * uniforms[1] - 1.0, stock, signals, hidden, shocks)


def get_season(weeks: int) -> np.ndarray:
    """Phase of the season in every week of the horizon and before, `(HISTORY + weeks,)`."""
    return 2.0 * np.pi * (np.arange(HISTORY + weeks) - HISTORY) / 26.0


def run_history(rng: np.random.Generator, population: Population, manager: Rule, rule: Rule, failure: str) -> History:
    """The manager's prices first, then the rule's; one draw of each shop."""
    units, length = population.signals.shape
    list_prices, season = population.list_prices, get_season(length - HISTORY)
    on_hand, on_order = np.ceil(0.6 * population.stock_levels), np.ceil(0.4 * population.stock_levels)
    start = np.log(list_prices)
    state, last = PriceState(start, start, np.zeros(units)), np.full(units, 2)
    columns: list[list[np.ndarray]] = [[] for _ in range(7)]
    for week in range(length):
        chances = (manager if week < HISTORY else rule).compute_probabilities(last, population.signals[:, week])
        if failure == "hidden_prices" and (week < HISTORY or rule is manager):
            chances = _tilt_by_hidden(chances, population.hidden[:, week])
        rungs = draw_rungs(chances, rng.random(units))
        prices = list_prices * LADDER[rungs]
        log_mean = (
            population.levels
            + SEASON * np.sin(season[week])
            + SIGNAL * population.signals[:, week]
            - ELASTICITY * np.log(LADDER[rungs])
            + GAP * (state.log_memory - np.log(prices))
            + DEPTH * state.depth
            + population.hidden[:, week]
            + population.week_shocks[:, week]
        )
        customers = draw_counts(rng.random(units), np.exp(log_mean), OVERDISPERSION)
        if failure == "spill_over":
            unmet = np.maximum(customers - on_hand, 0.0).astype(int)
            customers += rng.binomial(unmet, SPILL)[np.arange(units) ^ 1]  # the other of both neighbours
        sold = np.minimum(customers, on_hand)
        for column, found in zip(columns, (rungs, sold, on_hand, on_order, *state), strict=True):
            column.append(found)
        level = population.stock_levels
        if failure == "private_stock":
            level = np.ceil(level * np.exp(population.hidden[:, week + 2]))
        ordered = np.maximum(level - (on_hand - sold) - on_order, 0.0)
        on_hand, on_order = on_hand - sold + on_order, ordered
        state, last = advance_prices(state, prices, list_prices, PERSISTENCE), rungs
    rungs, sold, held, ordered, *states = (np.stack(column, axis=1) for column in columns)
    return History(population, rungs, sold, held, ordered, PriceState(*states))


def find_neighbors(units: int) -> np.ndarray:
    """Label of the two units that may be bought in place of each other, `(units,)`; nobody does but in `spill_over`."""
    return np.arange(units) // 2


def _tilt_by_hidden(chances: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """High rungs likelier where hidden demand is high; odds of a rung move by a factor of `HIDDEN_ODDS` at most."""
    factor = np.where((LEAN > 0.0) == (hidden > 0.0)[:, None], np.sqrt(HIDDEN_ODDS), 1.0 / np.sqrt(HIDDEN_ODDS))
    tilted = chances * factor
    return np.asarray(tilted / tilted.sum(axis=1, keepdims=True))


class MarketLog(NamedTuple):
    """A log and all that an evaluator knows. Arrays `(units, weeks)` of the horizon.

    Attributes:
        demand: For the demand model.
        decisions: For the behaviour model, with the weeks of history.
        shop: What is known of the units.
        rungs, last: Logged rung, and the one before.
        signals: What everybody sees.
        rewards: Margin of each week, currency.
        states: Price states before each week.
        past_sales: Mean weekly sales before the horizon, `(units,)`.
        relative_size: What the units of this log sell at list price, over what those of the population do, less 1: no
            evaluator knows it, but it tells luck of the draw from bias.
    """

    demand: DemandLog
    decisions: DecisionLog
    shop: Shop
    rungs: np.ndarray
    last: np.ndarray
    signals: np.ndarray
    rewards: np.ndarray
    states: PriceState
    past_sales: np.ndarray
    relative_size: float


def draw_log(seed: Any, units: int, weeks: int, confounding: float, failure: str) -> MarketLog:
    """A log of the manager's prices and all that may be known beside it."""
    rng = np.random.default_rng(seed)
    population = draw_population(rng, units, weeks, failure, is_stratified=False)
    manager = build_rules(confounding)["manager"]
    history = run_history(rng, population, manager, manager, failure)
    horizon = slice(HISTORY, None)
    list_prices = np.repeat(population.list_prices[:, None], weeks, axis=1)
    costs = COST_SHARE * list_prices
    level = population.stock_levels
    if failure == "private_stock":  # orders are in the log, the reason for them is not
        level = np.ceil(level[:, None] * np.exp(population.hidden[:, HISTORY + 2 :]))
    states = PriceState(*(state[:, horizon] for state in history.states))
    shop = Shop(
        list_prices,
        costs,
        BaseStock(level, history.held[:, HISTORY], history.on_order[:, HISTORY, None]),
        states.log_memory[:, 0],
        states.depth[:, 0],
        PERSISTENCE,
        log_last=states.log_last[:, 0],
    )
    prices = list_prices * LADDER[history.rungs[:, horizon]]
    demand = DemandLog(
        history.sold[:, horizon],
        history.held[:, horizon],
        prices,
        list_prices,
        np.zeros(prices.shape),
        np.arange(units),
        np.arange(weeks),
        shop.log_memory,
        shop.depth,
        PERSISTENCE,
    )
    return MarketLog(
        demand,
        _build_decisions(history),
        shop,
        history.rungs[:, horizon],
        history.rungs[:, HISTORY - 1 : -1],
        population.signals[:, horizon],
        (prices - costs) * demand.units,
        states,
        history.sold[:, :HISTORY].mean(axis=1),
        float((np.exp(population.levels) * population.list_prices).mean() / _MEAN_SIZE - 1.0),
    )


def _build_decisions(history: History) -> DecisionLog:
    units, length = history.rungs.shape
    list_prices = np.repeat(history.population.list_prices[:, None], length, axis=1)
    labels = np.array([f"product-{number}" for number in range(units)])
    return DecisionLog(
        price_ladder=LADDER,
        rungs=history.rungs,
        promotions=None,
        observed=np.ones(history.rungs.shape, dtype=bool),
        item_ids=labels,
        products=labels,
        zones=labels,
        categories=np.repeat("all", units),
        timestamps=np.datetime64("2024-01-01") + 7 * np.arange(length),
        reference_prices=list_prices,
        units=history.sold,
        inventory=history.held,
        costs=COST_SHARE * list_prices,
        signals=history.population.signals[..., None],
    )


class TrueValues(NamedTuple):
    """Mean margin of a unit over the horizon, currency, arrays `(policies,)`.

    Attributes:
        values: Of every policy.
        errors: Monte Carlo error of each.
        gain_errors: Of each one's difference to the manager; policies share their luck.
    """

    values: np.ndarray
    errors: np.ndarray
    gain_errors: np.ndarray


def compute_true_values(seed: int, units: int, weeks: int, confounding: float, failure: str) -> TrueValues:
    """Values of all policies in the population, by simulation in parts that bound memory and show the error.

    Args:
        seed: Of all luck.
        units: Shops to simulate; `PARTS` or more.
        weeks: Of the horizon.
        confounding: Correlation of the manager's log price and the signal; a key of `TILTS`.
        failure: Which assumption fails; one of `FAILURES`.

    Returns:
        Values and errors.
    """
    rules, parts = build_rules(confounding), np.empty((PARTS, len(POLICIES)))
    for part in range(PARTS):
        population = draw_population(np.random.default_rng([seed, part]), units // PARTS, weeks, failure, True)
        for place, rule in enumerate(rules.values()):
            rng = np.random.default_rng([seed, part, 1])
            history = run_history(rng, population, rules["manager"], rule, failure)
            margins = (LADDER[history.rungs] - COST_SHARE) * population.list_prices[:, None] * history.sold
            parts[part, place] = margins[:, HISTORY:].sum(axis=1).mean()
    root = np.sqrt(PARTS)
    gains = parts - parts[:, :1]
    return TrueValues(parts.mean(axis=0), parts.std(axis=0, ddof=1) / root, gains.std(axis=0, ddof=1) / root)
