"""Managers by name, what each of them needs to see, and how their habits are drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from pricing_fm.markets.core import Market
from pricing_fm.markets.hidden_demand import has_hidden_demand
from pricing_fm.markets.streams import build_streams

# The managers of the training corpora: they need nothing that a plain shop lacks.
STANDARD_MANAGERS = ("cost_plus", "hi_lo", "epsilon_ladder", "demand_follower", "randomized")
MANAGERS = (
    *STANDARD_MANAGERS,
    "markdown_ladder",
    "matcher",
    "noisy_expert",
    "promotion_timer",
    "stock_driven",
    "rival_driven",
)
COST_PLUS, HI_LO, EPSILON_LADDER, DEMAND_FOLLOWER, RANDOMIZED = range(5)
MARKDOWN_LADDER, MATCHER, NOISY_EXPERT, PROMOTION_TIMER, STOCK_DRIVEN, RIVAL_DRIVEN = range(5, 11)

_HABIT_SALT = 11
_EXPERT_ERROR = 0.3  # standard deviation of the log factor by which an expert misjudges the response to price


@dataclass(frozen=True)
class ManagerSettings:
    """Ranges from which the habits of managers are drawn.

    Attributes:
        names: Managers, from `MANAGERS`; categories take turns. None = those of `STANDARD_MANAGERS` that the market has
            all it takes for.
        price_ladder: Multiples of the list price that may be charged, increasing, with 1.0 among them. Rungs outside a
            market's price bounds are left out.
        confounding: Correlation of the demand follower's wish with hidden demand, drawn uniformly between the two
            numbers in [-1, 1]: negative cuts prices in demand peaks, positive raises them.
        keep_share: Share of periods at the regular price (demand follower and epsilon on the ladder), or in which the
            rival is followed (matcher), low and high.

    Raises:
        ValueError: If a name is unknown, the ladder is not increasing or lacks 1.0, or a range is out of bounds.
    """

    names: tuple[str, ...] | None = None
    price_ladder: tuple[float, ...] = (0.70, 0.75, 0.80, 0.85, 0.90, 0.95, 1.00, 1.05, 1.10)
    confounding: tuple[float, float] = (-0.9, 0.9)
    keep_share: tuple[float, float] = (0.55, 0.9)

    def __post_init__(self) -> None:
        if self.names is not None and (not self.names or set(self.names) - set(MANAGERS)):
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
        confounding: Correlation with hidden demand, used by the demand follower, `(markets, 1, 1)`.
        regular_rung: Rung of the everyday price, int.
        keep_share: Share of periods at the regular price, or in which the rival is followed.
        promotion_if_cut, promotion_if_not: Chance of a promotion in periods below and not below the regular price.
        cycle, duration, offset: Periods between the starts of two blocks, of a cut, first period of a block, int.
        cut_share: Share of blocks with a cut.
        collection: Periods between two collections of a markdown ladder in a market that goes on, int.
        full_price_share: Share of a season before a markdown ladder's first step.
        event_cycle, event_length, event_offset: Calendar of a promotion timer, periods, int, `(markets, 1, 1)`.
        event_depth: Rungs below the regular one in an event, int.
        undercut: Share that a rival-driven manager takes off the rival's price.
        spread: Scatter of log prices around a rival- or stock-driven manager's wish.
        stock_gain: Fall of the wished log price per unit of log stock over plan.
        expert_error: Factor by which a noisy expert takes log demand's response to price for too strong or too weak.
        temperature: Loss of profit, as a share of the best rung's, that makes a rung e times rarer with a noisy expert.
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
    collection: np.ndarray
    full_price_share: np.ndarray
    event_cycle: np.ndarray
    event_length: np.ndarray
    event_offset: np.ndarray
    event_depth: np.ndarray
    undercut: np.ndarray
    spread: np.ndarray
    stock_gain: np.ndarray
    expert_error: np.ndarray
    temperature: np.ndarray
    price_ladder: np.ndarray

    def select(self, markets: np.ndarray) -> Habits:
        """Habits of some markets (positions, with repetition allowed, or a mask)."""
        kept = {f.name: getattr(self, f.name)[markets] for f in fields(self) if f.name != "price_ladder"}
        return replace(self, **kept)


def describe_missing(manager: str, market: Market) -> str | None:
    """What the manager needs and the market lacks; None = nothing.

    Args:
        manager: One of `MANAGERS`.
        market: Truth of the markets.
    """
    if manager == "demand_follower" and not has_hidden_demand(market):
        return "hidden demand (a shock or regimes)"
    if manager in ("matcher", "rival_driven") and market.rivals is None:
        return "a rival"
    if manager == "stock_driven" and market.supply is None:
        return "a stock or capacity"
    return None


def choose_managers(settings: ManagerSettings, market: Market) -> tuple[str, ...]:
    """Names of the managers that take turns in a market.

    Raises:
        ValueError: If a manager is asked for who needs what the market lacks.
    """
    if settings.names is None:
        return tuple(name for name in STANDARD_MANAGERS if describe_missing(name, market) is None)
    for name in settings.names:
        missing = describe_missing(name, market)
        if missing is not None:
            fitting = [other for other in MANAGERS if describe_missing(other, market) is None]
            raise ValueError(
                f"manager {name!r} needs {missing}, which {market.domain}/{market.family} does not have;"
                f" managers for it: {', '.join(fitting)}"
            )
    return settings.names


def keep_inside_bounds(multiples: tuple[float, ...], market: Market) -> np.ndarray:
    """The multiples of the list price that the market admits, `(rungs,)`.

    Raises:
        ValueError: If fewer than two are left.
    """
    values = np.array(multiples)
    low, high = market.price_bounds
    inside = values[(values >= low - 1e-9) & (values <= high + 1e-9)]
    if len(inside) < 2:
        raise ValueError(
            f"{market.domain}/{market.family} admits {low} to {high} times the list price; of {multiples} fewer than"
            " two are inside"
        )
    return inside


def sample_habits(
    settings: ManagerSettings, market: Market, market_ids: np.ndarray, num_stores: int, seed: int
) -> Habits:
    """Draw the habits of the markets' managers; the stores of a category share its manager.

    Args:
        settings: Ranges.
        market: Truth of the markets (for their shape, their bounds and what managers can see in them).
        market_ids: Integer names of the markets, shape `(markets,)`.
        num_stores: Stores per category, as in `RetailSettings`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        Habits of the markets, in the order of `market_ids`.

    Raises:
        ValueError: If a manager is asked for who needs what the market lacks, or the ladder has no two rungs inside the
            market's bounds.
    """
    _, products, segments = market.shape
    category = np.asarray(market_ids, dtype=np.int64) // num_stores
    streams = build_streams(seed, category, _HABIT_SALT)
    codes = np.array([MANAGERS.index(name) for name in choose_managers(settings, market)])
    manager = codes[category % len(codes)]
    shared = streams.uniform(0, 0, (6, 1, 1))
    own = streams.uniform(1, 0, (5, products, segments))
    late_shared, late_own = streams.uniform(2, 0, (3, 1, 1)), streams.uniform(3, 0, (7, products, segments))
    low, high = settings.confounding
    ladder = keep_inside_bounds(settings.price_ladder, market)
    regular = int(np.argmin(np.abs(ladder - 1.0)))
    # Three items in ten have an everyday price one or two rungs below the list price.
    regular_rung = np.maximum(regular - (own[:, 0] > 0.7).astype(int) - (own[:, 0] > 0.9), 0)
    cycle = 3 + (own[:, 2] * 8).astype(int)
    event_cycle = 4 + (late_shared[:, 0] * 10).astype(int)
    timed = (manager == PROMOTION_TIMER).reshape(-1, 1, 1)
    return Habits(
        manager=manager,
        confounding=low + (high - low) * shared[:, 0],
        regular_rung=regular_rung,
        keep_share=settings.keep_share[0] + (settings.keep_share[1] - settings.keep_share[0]) * own[:, 1],
        # A timer's promotions are his events, and nothing else.
        promotion_if_cut=np.where(timed, 1.0, 0.1 + 0.8 * shared[:, 1]),
        promotion_if_not=np.where(timed, 0.0, 0.08 * shared[:, 2]),
        cycle=cycle,
        duration=1 + (own[:, 3] * np.minimum(cycle - 1, 3)).astype(int),
        offset=(own[:, 4] * cycle).astype(int),
        cut_share=0.4 + 0.6 * shared[:, 3],
        collection=12 + (late_own[:, 0] * 19).astype(int),
        full_price_share=0.2 + 0.3 * late_own[:, 1],
        event_cycle=event_cycle,
        event_length=1 + (late_shared[:, 1] * 2).astype(int),
        event_offset=(late_shared[:, 2] * event_cycle).astype(int),
        event_depth=1 + (late_own[:, 2] * 4).astype(int),
        undercut=0.01 + 0.05 * late_own[:, 3],
        spread=0.015 + 0.025 * late_own[:, 4],
        stock_gain=0.1 + 0.3 * late_own[:, 5],
        expert_error=np.exp(_EXPERT_ERROR * streams.normal(4, 0, (products, segments))),
        temperature=0.01 + 0.05 * late_own[:, 6],
        price_ladder=ladder,
    )
