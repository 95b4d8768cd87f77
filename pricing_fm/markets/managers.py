"""Who set the prices in a log: named managers with habits, and the probability of every price they charged.

A manager puts a probability on each rung of a ladder of multiples of the list price; one rung is drawn. That
probability, given all the manager knew (the hidden demand shock included), is the propensity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from pricing_fm.markets.parameters import RetailParameters, round_to_tick
from pricing_fm.markets.retail import RetailState
from pricing_fm.markets.streams import BLOCK, DECISION, PROMOTION, Streams, build_streams

MANAGERS = ("cost_plus", "hi_lo", "epsilon_ladder", "demand_follower", "randomized")
COST_PLUS, HI_LO, EPSILON_LADDER, DEMAND_FOLLOWER, RANDOMIZED = range(len(MANAGERS))

_HABIT_SALT = 11


@dataclass(frozen=True)
class ManagerSettings:
    """Ranges from which the habits of managers are drawn.

    Attributes:
        names: Managers, from `MANAGERS`; categories take turns.
        price_ladder: Multiples of the list price that may be charged, increasing, with 1.0 among them.
        confounding: Correlation of the demand follower's wish with the hidden shock, drawn uniformly between the two
            numbers in [-1, 1]: negative cuts prices in demand peaks, positive raises them.
        keep_share: Share of weeks at the regular price (demand follower and epsilon on the ladder), low and high.

    Raises:
        ValueError: If a name is unknown, the ladder is not increasing or lacks 1.0, or a range is out of bounds.
    """

    names: tuple[str, ...] = MANAGERS
    price_ladder: tuple[float, ...] = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1.00, 1.05, 1.10)
    confounding: tuple[float, float] = (-0.9, 0.9)
    keep_share: tuple[float, float] = (0.55, 0.9)

    def __post_init__(self) -> None:
        unknown = set(self.names) - set(MANAGERS)
        if unknown or not self.names:
            raise ValueError(f"names is {self.names}; it needs one or more of {MANAGERS}")
        ladder = np.asarray(self.price_ladder, dtype=np.float64)
        if len(ladder) < 2 or np.any(np.diff(ladder) <= 0) or ladder[0] <= 0 or 1.0 not in self.price_ladder:
            raise ValueError(f"price_ladder is {self.price_ladder}; it must be positive, increasing and hold 1.0")
        if not -1.0 <= self.confounding[0] <= self.confounding[1] <= 1.0:
            raise ValueError(f"confounding is {self.confounding}; it must be an increasing pair in [-1, 1]")
        if not 0.0 < self.keep_share[0] <= self.keep_share[1] < 1.0:
            raise ValueError(f"keep_share is {self.keep_share}; it must be an increasing pair in (0, 1)")


@dataclass(frozen=True)
class Habits:
    """How each market's manager works. Arrays broadcast to `(markets, products, segments)`.

    Attributes:
        manager: Index into `MANAGERS`, int, `(markets,)`.
        confounding: Correlation with the hidden shock, used by the demand follower, `(markets, 1, 1)`.
        regular_rung: Rung of the everyday price, int.
        keep_share: Share of weeks at the regular price.
        promotion_if_cut, promotion_if_not: Chance of a promotion in weeks below and not below the regular price.
        cycle, duration, offset: Weeks between the starts of two blocks, weeks of a cut, first week of a block, int.
        cut_share: Share of blocks with a cut.
        price_ladder: Multiples of the list price, `(rungs,)`; the same for all markets.
    """

    manager: np.ndarray
    confounding: np.ndarray
    regular_rung: np.ndarray
    keep_share: np.ndarray
    promotion_if_cut: np.ndarray
    promotion_if_not: np.ndarray
    cycle: np.ndarray
    duration: np.ndarray
    offset: np.ndarray
    cut_share: np.ndarray
    price_ladder: np.ndarray

    def select(self, markets: np.ndarray) -> Habits:
        """Habits of some markets (positions, with repetition allowed, or a mask)."""
        kept = {f.name: getattr(self, f.name)[markets] for f in fields(self) if f.name != "price_ladder"}
        return replace(self, **kept)


@dataclass(frozen=True)
class Decision:
    """What the managers decided for one week. Arrays `(markets, products, segments)`.

    Attributes:
        prices: Currency per unit, whole multiples of the smallest coin.
        promotions: 1.0 in promoted weeks, else 0.0.
        propensities: Probability of the price, given all that the manager knew; the promotion is drawn apart.
        rungs: Rung of the price on the ladder, int.
    """

    prices: np.ndarray
    promotions: np.ndarray
    propensities: np.ndarray
    rungs: np.ndarray


def sample_habits(
    settings: ManagerSettings, parameters: RetailParameters, market_ids: np.ndarray, num_stores: int, seed: int
) -> Habits:
    """Draw the habits of the markets' managers; the stores of a category share its manager.

    Args:
        settings: Ranges.
        parameters: Truth of the markets (for their shape).
        market_ids: Integer names of the markets, shape `(markets,)`.
        num_stores: Stores per category, as in `RetailSettings`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        Habits of the markets, in the order of `market_ids`.
    """
    _, products, segments = parameters.shape
    category = np.asarray(market_ids, dtype=np.int64) // num_stores
    streams = build_streams(seed, category, _HABIT_SALT)
    codes = np.array([MANAGERS.index(name) for name in settings.names])
    shared = streams.uniform(0, 0, (6, 1, 1))
    own = streams.uniform(1, 0, (5, products, segments))
    low, high = settings.confounding
    ladder = np.array(settings.price_ladder)
    regular = int(np.flatnonzero(ladder == 1.0)[0])
    # Three items in ten have an everyday price one or two rungs below the list price.
    regular_rung = np.maximum(regular - (own[:, 0] > 0.7).astype(int) - (own[:, 0] > 0.9), 0)
    cycle = 3 + (own[:, 2] * 8).astype(int)
    return Habits(
        manager=codes[category % len(codes)],
        confounding=low + (high - low) * shared[:, 0],
        regular_rung=regular_rung,
        keep_share=settings.keep_share[0] + (settings.keep_share[1] - settings.keep_share[0]) * own[:, 1],
        promotion_if_cut=0.1 + 0.8 * shared[:, 1],
        promotion_if_not=0.08 * shared[:, 2],
        cycle=cycle,
        duration=1 + (own[:, 3] * np.minimum(cycle - 1, 3)).astype(int),
        offset=(own[:, 4] * cycle).astype(int),
        cut_share=0.4 + 0.6 * shared[:, 3],
        price_ladder=ladder,
    )


def decide(habits: Habits, parameters: RetailParameters, state: RetailState, random: Streams) -> Decision:
    """Let every market's manager set this week's prices and promotions.

    Args:
        habits: How the managers work.
        parameters: Truth of the markets; managers use the price tick and, for the confounded one, the shock's scale.
        state: State before the week.
        random: Streams of the markets; decisions depend on market and week alone, given the state.

    Returns:
        Prices on the ladder, promotions and propensities.
    """
    shape = state.cost.shape
    rungs = np.empty(shape, dtype=np.int64)
    propensities = np.empty(shape)
    for code in np.unique(habits.manager):
        here = np.flatnonzero(habits.manager == code)
        chosen = (habits.select(here), parameters.select(here), state.select(here), random.select(here))
        rungs[here], propensities[here] = _choose(int(code), *chosen)
    prices = round_to_ladder(state.list_price, habits.price_ladder[rungs], parameters.price_tick)
    cut = rungs < habits.regular_rung
    chance = np.where(cut, habits.promotion_if_cut, habits.promotion_if_not)
    promotions = (random.uniform(state.period, PROMOTION, shape[1:]) < chance).astype(np.float64)
    return Decision(prices, promotions, propensities, rungs)


def round_to_ladder(list_price: np.ndarray, multiplier: np.ndarray, price_tick: np.ndarray) -> np.ndarray:
    """Price of a rung: list price times multiplier, rounded to the smallest coin, at least one coin."""
    return round_to_tick(list_price * multiplier, price_tick)


def _choose(
    code: int, habits: Habits, parameters: RetailParameters, state: RetailState, random: Streams
) -> tuple[np.ndarray, np.ndarray]:
    """Rungs and their probabilities for markets that share one manager."""
    if code == COST_PLUS:
        return _cost_plus(habits, parameters, state)
    if code == HI_LO:
        return _hi_lo(habits, state, random)
    uniform = random.uniform(state.period, DECISION, state.cost.shape[1:])
    if code == EPSILON_LADDER:
        return _epsilon_ladder(habits, uniform)
    if code == DEMAND_FOLLOWER:
        return _demand_follower(habits, parameters, state, uniform)
    return _randomized(habits, state, random)


def _cost_plus(habits: Habits, parameters: RetailParameters, state: RetailState) -> tuple[np.ndarray, np.ndarray]:
    """The rung nearest to the first week's markup on today's cost: certain, and moved by cost alone."""
    markup = habits.price_ladder[habits.regular_rung] * parameters.initial_list_price / parameters.initial_cost
    wanted = state.cost * markup / state.list_price
    middles = 0.5 * (habits.price_ladder[1:] + habits.price_ladder[:-1])
    return np.searchsorted(middles, wanted), np.ones_like(wanted)


def _hi_lo(habits: Habits, state: RetailState, random: Streams) -> tuple[np.ndarray, np.ndarray]:
    """Everyday price, and in some blocks a cut whose depth is drawn when the block begins."""
    weeks = state.period.reshape(-1, 1, 1) + habits.offset
    block, week = weeks // habits.cycle, weeks % habits.cycle
    draw = _uniform_by_block(random, block, 2)
    depths = habits.regular_rung
    cut = (week < habits.duration) & (draw[..., 0] < habits.cut_share) & (depths > 0)
    rung = np.where(cut, (draw[..., 1] * depths).astype(int), habits.regular_rung)
    first = state.period.reshape(-1, 1, 1) == 0
    begins = ((week == 0) | (first & (week < habits.duration))) & (depths > 0)
    chance = np.where(cut, habits.cut_share / np.maximum(depths, 1), 1.0 - habits.cut_share)
    return rung, np.where(begins, chance, 1.0)


def _epsilon_ladder(habits: Habits, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The everyday price, or with a small chance any rung."""
    rungs = len(habits.price_ladder)
    explore = 1.0 - habits.keep_share
    rung = np.where(uniform < explore, (uniform / explore * rungs).astype(int), habits.regular_rung)
    rung = np.minimum(rung, rungs - 1)
    return rung, explore / rungs + np.where(rung == habits.regular_rung, habits.keep_share, 0.0)


def _demand_follower(
    habits: Habits, parameters: RetailParameters, state: RetailState, uniform: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prices follow the hidden shock: a wish = c x shock + sqrt(1 - c**2) x noise, cut into rungs by thresholds."""
    rungs = len(habits.price_ladder)
    shock = state.log_shock / np.where(parameters.shock_scale > 0, parameters.shock_scale, 1.0)
    # Logistic noise of the same variance as a normal: its distribution function has a closed form.
    spread = np.maximum(np.sqrt(1.0 - habits.confounding**2) * np.sqrt(3.0) / np.pi, 1e-6)
    center = habits.confounding * shock
    cuts, raises = habits.regular_rung, rungs - 1 - habits.regular_rung
    leave = 1.0 - habits.keep_share
    below = leave * np.where(raises > 0, np.where(cuts > 0, 0.7, 0.0), 1.0)
    steps = np.arange(1, rungs).reshape(-1, 1, 1, 1)  # threshold between rung k - 1 and rung k
    share = np.where(
        steps <= cuts,
        below * steps / np.maximum(cuts, 1),
        1.0 - (leave - below) * (rungs - steps) / np.maximum(raises, 1),
    )
    # Logistic approximation of the normal quantile; exact quantiles would only rename the habit.
    quantile = np.log(share / (1.0 - share)) * (np.sqrt(3.0) / np.pi)
    cumulative = 1.0 / (1.0 + np.exp(-np.clip((quantile - center) / spread, -700.0, 700.0)))
    rung = (uniform > cumulative).sum(axis=0)
    padded = np.concatenate([np.zeros((1, *uniform.shape)), cumulative, np.ones((1, *uniform.shape))])
    upper = np.take_along_axis(padded, rung[None] + 1, axis=0)[0]
    return rung, upper - np.take_along_axis(padded, rung[None], axis=0)[0]


def _randomized(habits: Habits, state: RetailState, random: Streams) -> tuple[np.ndarray, np.ndarray]:
    """Any rung with the same chance, drawn anew when a block begins: an experiment."""
    weeks = state.period.reshape(-1, 1, 1) + habits.offset
    length = habits.duration
    block, week = weeks // length, weeks % length
    rungs = len(habits.price_ladder)
    rung = (_uniform_by_block(random, block, 1)[..., 0] * rungs).astype(int)
    first = state.period.reshape(-1, 1, 1) == 0
    return rung, np.where((week == 0) | first, 1.0 / rungs, 1.0)


def _uniform_by_block(random: Streams, block: np.ndarray, count: int) -> np.ndarray:
    """Draws that stay the same for all weeks of an item's block, `(*block.shape, count)`."""
    markets = block.shape[0]
    items = int(np.prod(block.shape[1:]))
    # Every item counts its blocks by itself, so each (market, item) pair gets a stream of its own.
    elements = np.tile(np.arange(items), markets)
    keys = Streams(np.repeat(random.keys, items) + np.uint64(1))
    counters = keys.uniform(block.ravel() * items + elements, BLOCK, (count,))
    return counters.reshape(*block.shape, count)
