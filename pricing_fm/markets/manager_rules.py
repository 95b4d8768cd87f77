"""How each manager picks a rung of the ladder, with the probability of every rung given all that he knows.

A rule takes markets that share a manager and returns the rungs, int, `(markets, products, segments)`, and the
probabilities of all rungs, `(rungs, markets, products, segments)`.
"""

from __future__ import annotations

import numpy as np

from pricing_fm.markets import core, manager_habits
from pricing_fm.markets.core import Market, MarketState
from pricing_fm.markets.hidden_demand import standardize_hidden_demand
from pricing_fm.markets.manager_habits import Habits
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.streams import BLOCK, DECISION, Streams

Choice = tuple[np.ndarray, np.ndarray]

_LOGISTIC_UNIT = np.sqrt(3.0) / np.pi  # scale of a logistic variable of variance one
_MOST_STEPS = 64  # steps of one markdown ladder, at most
_LOWEST_MARKUP = 1.05  # a rival-driven manager follows no rival below this multiple of unit cost
_STOCK_RATIOS = (0.05, 20.0)  # stock over plan is taken as if inside these


def choose_rungs(code: int, habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """Rungs and the probabilities of all rungs, for markets that share one manager.

    Args:
        code: Index into `MANAGERS`.
        habits: How the managers work.
        market: Truth of the markets.
        state: State before the period.
        random: Streams of the markets.

    Returns:
        Rungs, int, `(markets, products, segments)`; probabilities, `(rungs, markets, products, segments)`.
    """
    match code:
        case manager_habits.COST_PLUS:
            return _cost_plus(habits, market, state)
        case manager_habits.HI_LO:
            return _hi_lo(habits, state, random)
        case manager_habits.EPSILON_LADDER:
            return _epsilon_ladder(habits, state, random)
        case manager_habits.DEMAND_FOLLOWER:
            return _demand_follower(habits, market, state, random)
        case manager_habits.RANDOMIZED:
            return _randomized(habits, state, random)
        case manager_habits.MARKDOWN_LADDER:
            return _markdown_ladder(habits, market, state, random)
        case manager_habits.MATCHER:
            return _matcher(habits, market, state, random)
        case manager_habits.NOISY_EXPERT:
            return _noisy_expert(habits, market, state, random)
        case manager_habits.PROMOTION_TIMER:
            return _promotion_timer(habits, state)
        case manager_habits.STOCK_DRIVEN:
            return _stock_driven(habits, market, state, random)
        case manager_habits.RIVAL_DRIVEN:
            return _rival_driven(habits, market, state, random)
    raise ValueError(f"code is {code}; it must be an index into {manager_habits.MANAGERS}")


def _cost_plus(habits: Habits, market: Market, state: MarketState) -> Choice:
    """The rung nearest to the first period's markup on today's cost: certain, and moved by cost alone."""
    first = np.broadcast_to(market.costs.unit_cost, state.cost.shape)
    # Where a unit costs nothing there is nothing to mark up: the everyday price.
    cost = np.where(first > 0, core.get_unit_cost(market, state), 1.0)
    markup = habits.price_ladder[habits.regular_rung] * market.list_price / np.where(first > 0, first, 1.0)
    list_price = np.where(first > 0, state.list_price, market.list_price)
    rungs = np.searchsorted(_middles(habits.price_ladder), cost * markup / list_price)
    return rungs, _certain(habits, rungs)


def _hi_lo(habits: Habits, state: MarketState, random: Streams) -> Choice:
    """Everyday price, and in some blocks a cut whose depth is drawn when the block begins."""
    periods = state.period.reshape(-1, 1, 1) + habits.offset
    block, age = periods // habits.cycle, periods % habits.cycle
    draw = _uniform_by_block(random, block, 2)
    depths = habits.regular_rung
    cut = (age < habits.duration) & (draw[..., 0] < habits.cut_share) & (depths > 0)
    rungs = np.where(cut, (draw[..., 1] * depths).astype(int), habits.regular_rung)
    first = state.period.reshape(-1, 1, 1) == 0
    begins = ((age == 0) | (first & (age < habits.duration))) & (depths > 0)
    number = _numbers(habits)
    chances = np.where(number < depths, habits.cut_share / np.maximum(depths, 1), 0.0)
    chances = np.where(number == habits.regular_rung, 1.0 - habits.cut_share, chances)
    return rungs, np.where(begins, chances, number == rungs)


def _epsilon_ladder(habits: Habits, state: MarketState, random: Streams) -> Choice:
    """The everyday price, or with a small chance any rung."""
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    count = len(habits.price_ladder)
    explore = 1.0 - habits.keep_share
    rungs = np.where(uniform < explore, (uniform / explore * count).astype(int), habits.regular_rung)
    chances = explore / count + np.where(_numbers(habits) == habits.regular_rung, habits.keep_share, 0.0)
    return np.minimum(rungs, count - 1), chances


def _demand_follower(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """Prices follow hidden demand: a wish = c x peak + sqrt(1 - c**2) x noise, cut into rungs by thresholds."""
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    count = len(habits.price_ladder)
    # Logistic noise of the same variance as a normal: its distribution function has a closed form.
    spread = np.maximum(np.sqrt(1.0 - habits.confounding**2) * _LOGISTIC_UNIT, 1e-6)
    center = habits.confounding * standardize_hidden_demand(market, state)
    cuts, raises = habits.regular_rung, count - 1 - habits.regular_rung
    leave = 1.0 - habits.keep_share
    below = leave * np.where(raises > 0, np.where(cuts > 0, 0.7, 0.0), 1.0)
    steps = np.arange(1, count).reshape(-1, 1, 1, 1)  # threshold between rung k - 1 and rung k
    share = np.where(
        steps <= cuts,
        below * steps / np.maximum(cuts, 1),
        1.0 - (leave - below) * (count - steps) / np.maximum(raises, 1),
    )
    # Logistic approximation of the normal quantile; exact quantiles would only rename the habit.
    quantile = np.log(share / (1.0 - share)) * _LOGISTIC_UNIT
    return _draw_below(_logistic((quantile - center) / spread), uniform)


def _randomized(habits: Habits, state: MarketState, random: Streams) -> Choice:
    """Any rung with the same chance, drawn anew when a block begins: an experiment."""
    periods = state.period.reshape(-1, 1, 1) + habits.offset
    block, age = periods // habits.duration, periods % habits.duration
    count = len(habits.price_ladder)
    rungs = (_uniform_by_block(random, block, 1)[..., 0] * count).astype(int)
    first = state.period.reshape(-1, 1, 1) == 0
    return rungs, np.where((age == 0) | first, 1.0 / count, _numbers(habits) == rungs)


def _markdown_ladder(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """Down in steps, from the everyday price to the lowest rung by the end of the season.

    After a share of the season at full price the rest is cut into one stretch per step, of two periods or more; the
    period of each step is drawn from its stretch. In a market without an end, collections of a fixed length follow
    each other.
    """
    period = state.period.reshape(-1, 1, 1)
    length = np.full(habits.collection.shape, market.num_periods) if market.ends else habits.collection
    age = np.broadcast_to(period, length.shape) if market.ends else period + habits.offset
    collection, age = age // length, age % length
    full = (habits.full_price_share * length).astype(int)
    steps = np.clip((length - full) // 2, 1, np.maximum(habits.regular_rung, 1))
    stretch = np.maximum((length - full) // steps, 1)
    since = age - full
    step = np.clip(since // stretch, 0, steps)
    within = since - step * stretch
    moving = (since >= 0) & (step < steps)
    due = (_uniform_by_block(random, collection * _MOST_STEPS + step, 1)[..., 0] * stretch).astype(int)
    high = habits.regular_rung - habits.regular_rung * step // steps
    low = habits.regular_rung - habits.regular_rung * np.minimum(step + 1, steps) // steps
    rungs = np.where(moving & (within >= due), low, high)
    # Who has not stepped yet steps with the chance 1 / periods left; a log that starts inside a stretch has no past.
    hazard = np.where(period == 0, within + 1.0, 1.0) / np.where(period == 0, stretch, np.maximum(stretch - within, 1))
    is_open = moving & ((due >= within) | (period == 0))
    number = _numbers(habits)
    return rungs, np.where(is_open, (number == high) * (1.0 - hazard) + (number == low) * hazard, number == rungs)


def _matcher(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """The rung nearest to the reported rival price in most periods, else (or without a report) the everyday price."""
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    report = _get_reported_price(market, state, random)
    nearest = np.searchsorted(_middles(habits.price_ladder), report / state.list_price)
    matched = np.where(np.isnan(report), habits.regular_rung, nearest)
    rungs = np.where(uniform < habits.keep_share, matched, habits.regular_rung)
    number = _numbers(habits)
    chances = habits.keep_share * (number == matched) + (1.0 - habits.keep_share) * (number == habits.regular_rung)
    return rungs, chances


def _noisy_expert(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """Softmax of this period's expected profit as a share of the best rung's, with demand's response misjudged.

    Where products take customers from each other, each is judged with the others at their list prices. Stock limits
    are ignored: the expert is myopic.
    """
    profits = _judge_profits(habits, market, state)
    size = np.abs(profits).max(axis=0)
    scaled = (profits - profits.max(axis=0)) / (np.where(size > 0, size, 1.0) * habits.temperature)
    weights = np.exp(np.maximum(scaled, -700.0))
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    return _draw_below(np.cumsum(weights / weights.sum(axis=0), axis=0)[:-1], uniform)


def _judge_profits(habits: Habits, market: Market, state: MarketState) -> np.ndarray:
    """Expected profit of the period at every rung as the expert sees it, `(rungs, markets, products, segments)`."""
    cost = core.get_unit_cost(market, state)
    regular = core.compute_mean_demand(market, state, state.list_price)
    seen = np.where(regular > 0, regular, 1.0)
    profits = []
    for multiplier in habits.price_ladder:
        prices = round_to_tick(state.list_price * multiplier, market.price_tick)
        if market.demand.is_separable:
            mean = core.compute_mean_demand(market, state, prices)
        else:
            mean = np.empty_like(regular)
            for product in range(market.shape[1]):
                alone = state.list_price.copy()
                alone[:, product] = prices[:, product]
                mean[:, product] = core.compute_mean_demand(market, state, alone)[:, product]
        believed = seen * (mean / seen) ** habits.expert_error
        profits.append(market.payoff.compute_reward(believed, prices, cost, believed))
    return np.stack(profits)


def _promotion_timer(habits: Habits, state: MarketState) -> Choice:
    """A cut of all products in events of a fixed calendar: certain."""
    age = (state.period.reshape(-1, 1, 1) + habits.event_offset) % habits.event_cycle
    event = np.maximum(habits.regular_rung - habits.event_depth, 0)
    rungs = np.where(age < habits.event_length, event, habits.regular_rung)
    return rungs, _certain(habits, rungs)


def _stock_driven(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """Cheaper the more stock is left over plan, dearer the less; the plan sells evenly, or keeps the first stock."""
    assert market.supply is not None  # checked when habits were drawn
    shape = state.cost.shape
    stock = market.supply.get_available(state.supply, shape)
    plan = market.supply.get_available(market.supply.start(shape, market.volume), shape)
    if market.ends:
        plan = plan * np.maximum(1.0 - state.period.reshape(-1, 1, 1) / market.num_periods, 1.0 / market.num_periods)
    limited = np.isfinite(stock) & np.isfinite(plan)
    ratio = np.where(limited, stock, 1.0) / np.where(limited, np.maximum(plan, 1.0), 1.0)
    wish = np.log(habits.price_ladder[habits.regular_rung])
    return _scatter_around(habits, wish - habits.stock_gain * np.log(np.clip(ratio, *_STOCK_RATIOS)), state, random)


def _rival_driven(habits: Habits, market: Market, state: MarketState, random: Streams) -> Choice:
    """A margin below the reported rival price, with scatter, not below cost; without a report the everyday price."""
    report = _get_reported_price(market, state, random)
    known = np.isfinite(report)
    floor = _LOWEST_MARKUP * core.get_unit_cost(market, state)
    below = np.maximum(np.where(known, report, 1.0) * (1.0 - habits.undercut), floor)
    wish = np.where(known, np.log(below / state.list_price), np.log(habits.price_ladder[habits.regular_rung]))
    return _scatter_around(habits, wish, state, random)


def _get_reported_price(market: Market, state: MarketState, random: Streams) -> np.ndarray:
    """What this period's log will show as the rival's price: the draw belongs to the period alone."""
    assert market.rivals is not None  # checked when habits were drawn
    return market.rivals.report(state.rivals, state.period, random)


def _scatter_around(habits: Habits, wish: np.ndarray, state: MarketState, random: Streams) -> Choice:
    """The rung nearest to a wished log multiple of the list price plus logistic noise."""
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    thresholds = _middles(np.log(habits.price_ladder)).reshape(-1, 1, 1, 1)
    return _draw_below(_logistic((thresholds - wish) / (habits.spread * _LOGISTIC_UNIT)), uniform)


def _draw_below(cumulative: np.ndarray, uniform: np.ndarray) -> Choice:
    """Rungs drawn by inversion from the probabilities of rungs up to k, `(rungs - 1, ...)`."""
    rungs = (uniform > cumulative).sum(axis=0)
    ends = np.zeros((1, *uniform.shape)), np.ones((1, *uniform.shape))
    return rungs, np.diff(np.concatenate([ends[0], cumulative, ends[1]]), axis=0)


def _certain(habits: Habits, rungs: np.ndarray) -> np.ndarray:
    return (_numbers(habits) == rungs).astype(np.float64)


def _numbers(habits: Habits) -> np.ndarray:
    """Numbers of the rungs, to be compared with rungs of items."""
    return np.arange(len(habits.price_ladder)).reshape(-1, 1, 1, 1)


def _middles(ladder: np.ndarray) -> np.ndarray:
    return 0.5 * (ladder[1:] + ladder[:-1])


def _logistic(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -700.0, 700.0)))


def _uniform_by_block(random: Streams, block: np.ndarray, count: int) -> np.ndarray:
    """Draws that stay the same for all periods of an item's block, `(*block.shape, count)`."""
    markets = block.shape[0]
    items = int(np.prod(block.shape[1:]))
    # Every item counts its blocks by itself, so each (market, item) pair gets a stream of its own.
    elements = np.tile(np.arange(items), markets)
    keys = Streams(np.repeat(random.keys, items) + np.uint64(1))
    counters = keys.uniform(block.ravel() * items + elements, BLOCK, (count,))
    return counters.reshape(*block.shape, count)
