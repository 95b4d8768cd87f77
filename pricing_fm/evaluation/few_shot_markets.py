"""Simulated categories for few-shot tasks: logs to meta-train on, and logs with a decision to make and its truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from pricing_fm import names
from pricing_fm.evaluation.few_shot_domains import (
    SEEN_COLUMNS,
    SHAPES,
    FewShotDomain,
    find_planning_costs,
    plan_after,
    read_books,
)
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.markets import (
    LogSettings,
    ManagerSettings,
    SimulatedLog,
    compute_manager_outcome,
    compute_oracle,
    compute_outcome,
    simulate_log,
)
from pricing_fm.markets.corpus import FIRST_SEED_OF_EVALUATION, label_elasticities
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.metrics.value import compute_gap_closed
from pricing_fm.models.channels import CLIP
from pricing_fm.panel import Panel, SeriesStore, build_store, load_panel
from pricing_fm.training.few_shot_tasks import Category, find_categories

Batch = dict[str, torch.Tensor]

# Place of the cost share among a decision's features; the next one says that it is known.
COST_SHARE = 6
# Prices tried by whoever plans: from the lowest to the highest admissible multiple of the list price in 2 % steps. The
# nearest of them earns within 0.03 % of the best price where the elasticity is 3.
HELD_MOVE = 0.05  # of the log price, both ways, in which an elasticity is measured
PRICE_GRID = tuple(np.round(np.linspace(*PRICE_BOUNDS, 31), 2))
LISTED = PRICE_GRID.index(1.0)
SEARCH_PASSES = 3  # over items that share a capacity; a fourth moved no price of 72 clinics' items


@dataclass(frozen=True)
class FewShotMarketArguments:
    """The markets that categories come from.

    Args:
        train_categories, test_categories (`int`): To learn from, and held out.
        logged_weeks (`int`): Periods of a log before its origin (weeks in shops); in markets that end, as many more as
            leave the decision alone.
        decision_weeks (`int`): Periods that a price is held.
        stocked_share (`float`): Share of shops whose stock limits sales.
        reference_share (`float`): Share of shops in which demand compares the price with a remembered one.
        confounding (`tuple[float, float]`): Range of the demand followers' correlation with hidden demand.
        train_seed, test_seed (`int`): Of the markets; beyond every seed of a training corpus.
        domain (`str`), family (`str`): What the categories are examples of.
        managers (`tuple[str, ...]`): Who set prices; the categories of each size take turns. None = the standard ones.
    """

    train_categories: int = field(default=96, metadata={"help": "simulated categories to meta-train on"})
    test_categories: int = field(default=24, metadata={"help": "simulated categories that are held out"})
    logged_weeks: int = field(default=60, metadata={"help": "weeks of a log before its origin"})
    decision_weeks: int = field(default=8, metadata={"help": "weeks that a decided price is held"})
    stocked_share: float = field(default=0.7, metadata={"help": "share of categories whose stock limits sales"})
    reference_share: float = field(default=0.25, metadata={"help": "share of categories that remember prices"})
    confounding: tuple[float, ...] = field(
        default=(-0.9, 0.9), metadata={"help": "lowest and highest correlation of followers with hidden demand"}
    )
    train_seed: int = field(default=910_000, metadata={"help": "seed of the training categories"})
    test_seed: int = field(default=930_000, metadata={"help": "seed of the held-out categories"})
    domain: str = field(default="retail", metadata={"help": f"domain of the categories: {', '.join(SHAPES)}"})
    family: str = field(default="shop", metadata={"help": "family of the domain"})
    managers: tuple[str, ...] = field(
        default=(), metadata={"help": "managers, in turns within every size; default: the standard ones"}
    )

    def __post_init__(self) -> None:
        sizes = len(SHAPES[self.kind.name])
        if min(self.train_categories, self.test_categories) < sizes:
            raise ValueError(f"--train_categories and --test_categories must be {sizes} or more: one of each size")
        if min(self.logged_weeks, self.decision_weeks) < 1:
            raise ValueError("--logged_weeks and --decision_weeks must be at least 1")
        if min(self.train_seed, self.test_seed) < FIRST_SEED_OF_EVALUATION:
            raise ValueError(
                f"--train_seed and --test_seed must be {FIRST_SEED_OF_EVALUATION} or more: corpora hold less"
            )
        if abs(self.train_seed - self.test_seed) < 100:
            raise ValueError("--train_seed and --test_seed must lie 100 apart: every size has a seed of its own")
        if len(self.confounding) != 2:
            raise ValueError(f"--confounding takes two numbers, found {list(self.confounding)}")

    @property
    def kind(self) -> FewShotDomain:
        """Domain and family."""
        return FewShotDomain(self.domain, self.family)


def simulate_categories(
    arguments: FewShotMarketArguments, count: int, seed: int, weeks: int, random_weeks: int
) -> list[SimulatedLog]:
    """Logs of categories of 8 to 12 items, as many categories as asked for.

    Args:
        arguments (`FewShotMarketArguments`): What the markets are like.
        count (`int`): Categories.
        seed (`int`): Of the first log; sizes take seeds of their own.
        weeks (`int`): Periods under the managers; in markets that end, the next number that leaves the decision alone.
        random_weeks (`int`): Periods with random prices after them; 0 = none.

    Returns:
        `list[SimulatedLog]`: One per size.
    """
    kind = arguments.kind
    shapes = SHAPES[kind.name]
    shares = np.full(len(shapes), count // len(shapes)) + (np.arange(len(shapes)) < count % len(shapes))
    low, high = arguments.confounding
    logs = []
    for (products, segments), share in zip(shapes, shares, strict=True):
        settings = kind.build_settings((products, segments), arguments.stocked_share, arguments.reference_share)
        own = seed + products + 20 * (segments - 1)
        log = LogSettings(
            num_markets=int(share),
            num_periods=kind.count_periods(settings, weeks, arguments.decision_weeks) + random_weeks,
            randomized_periods=(random_weeks, random_weeks) if random_weeks else None,
            seed=own,
            name=f"m{own}",
            domain=kind.name,
            family=kind.family,
            frequency=kind.frequency.name,
        )
        if share:
            logs.append(
                simulate_log(settings, ManagerSettings(arguments.managers or None, confounding=(low, high)), log)
            )
    return logs


def build_training_store(logs: Sequence[SimulatedLog], name: str) -> SeriesStore:
    """Logs as one store that knows the true elasticity of every week."""
    panel = _load([read_books(log) for log in logs], logs[0], name)
    truth = pd.concat(
        pd.DataFrame(
            {
                names.ITEM_ID: np.repeat(log.items[names.ITEM_ID].to_numpy(), log.settings.num_periods),
                "elasticity": label_elasticities(log).reshape(-1),
            }
        )
        for log in logs
    )
    # A stable sort: the weeks of an item stay in order, as in the store.
    elasticity = truth.sort_values(names.ITEM_ID, kind="stable")["elasticity"].to_numpy()
    return replace(build_store(panel), elasticity=elasticity)


def grid_prices(truth: "DecisionTruth") -> np.ndarray:
    """Prices that planners may choose, `(items, P)`, whole coins."""
    return round_to_tick(truth.list_prices[:, None] * np.asarray(PRICE_GRID), truth.ticks[:, None])


def held_elasticities(logs: Sequence[SimulatedLog], decision_weeks: int) -> np.ndarray:
    """True elasticity of every item's demand over the weeks of a decision when the held price moves around list price.

    What customers remember of prices is in it: a price that is held longer is remembered more.

    Args:
        logs (`Sequence[SimulatedLog]`): From `simulate_categories`.
        decision_weeks (`int`): Weeks that a price is held.

    Returns:
        `(items,)`: Positive numbers, items in the order of their sorted ids.
    """
    ids = tuple(pd.concat([log.items for log in logs])[names.ITEM_ID].sort_values())

    def measure(log: SimulatedLog, _: np.ndarray) -> np.ndarray:
        listed = np.ravel(log.state.list_price)
        low, high = (
            compute_outcome(log, listed * np.exp(move), decision_weeks, num_rollouts=1).demand.sum(axis=1)
            for move in (-HELD_MOVE, HELD_MOVE)
        )
        return np.asarray(np.log(low / high) / (2 * HELD_MOVE))

    return per_item(logs, ids, measure)


@dataclass(frozen=True)
class DecisionTruth:
    """What a decision at the end of logs is worth; items in the order of `item_ids`, categories in that of `names`.

    Args:
        logs (`tuple[SimulatedLog, ...]`): The markets, ready to be continued.
        item_ids (`tuple[str, ...]`): Items, sorted.
        categories (`np.ndarray`, shape `(items,)`, int64): Category of each item.
        names (`tuple[str, ...]`): Categories, sorted.
        groups (`np.ndarray`, shape `(items,)`, int64): Items of the same number share a capacity; else each its own.
        turns (`np.ndarray`, shape `(items,)`, int64): Items of a group in the order in which a search moves them.
        list_prices, costs, ticks (`np.ndarray`, shape `(items,)`): At the decision, currency; costs as prices are
            planned with; the smallest coin.
        manager, oracle (`np.ndarray`, shape `(categories,)`): Expected profit, currency.
        decision_weeks (`int`): Weeks that a price is held.
    """

    logs: tuple[SimulatedLog, ...]
    item_ids: tuple[str, ...]
    categories: np.ndarray
    names: tuple[str, ...]
    groups: np.ndarray
    turns: np.ndarray
    list_prices: np.ndarray
    costs: np.ndarray
    ticks: np.ndarray
    manager: np.ndarray
    oracle: np.ndarray
    decision_weeks: int

    def values(self, prices: np.ndarray) -> np.ndarray:
        """Expected profit of constant prices `(items,)`, currency, cut to the bounds that the oracle keeps, too."""
        low, high = PRICE_BOUNDS
        kept = np.clip(prices, low * self.list_prices, high * self.list_prices)
        return per_item(
            self.logs, self.item_ids, lambda log, own: compute_outcome(log, own, self.decision_weeks).value, kept
        )

    def search(self, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Constant prices of the grid that are worth most `(items,)`.

        Items that share a capacity are moved one after another, from the list price, for some passes.

        Args:
            value (`Callable`): What constant prices `(items,)` are worth, `(items,)`.
        """
        return search_prices(value, grid_prices(self), self.groups, self.turns)

    def gap_closed(self, prices: np.ndarray) -> np.ndarray:
        """Share of the gap between manager and oracle that constant prices close, per category.

        Args:
            prices (`np.ndarray`, shape `(items,)`): Currency.

        Returns:
            `(categories,)`: NaN where the manager has almost all of the oracle's value already.
        """
        return self.shares(self.values(prices))

    def shares(self, values: np.ndarray) -> np.ndarray:
        """The same for expected profits `(items,)` that came about in another way."""
        totals = np.bincount(self.categories, values)
        return compute_gap_closed(totals, self.manager, self.oracle).shares


def search_prices(
    value: Callable[[np.ndarray], np.ndarray], candidates: np.ndarray, groups: np.ndarray, turns: np.ndarray
) -> np.ndarray:
    """Coordinate ascent over candidates `(items, P)`; exact where every item is a group of its own."""
    chosen, rows = candidates[:, LISTED], np.arange(len(candidates))
    for _ in range(SEARCH_PASSES if turns.any() else 1):
        for turn in range(int(turns.max()) + 1):
            here = turns == turn
            totals = [np.bincount(groups, value(np.where(here, column, chosen))) for column in candidates.T]
            best = np.stack(totals, axis=1).argmax(axis=1)[groups]
            chosen = np.where(here, candidates[rows, best], chosen)
    return chosen


def find_truth(logs: Sequence[SimulatedLog], decision_weeks: int) -> DecisionTruth:
    """Manager's and oracle's values after logs; the oracle takes most of the time, a second or two per ten items.

    Items that share a capacity have no oracle of their own: the best constant prices of the grid that a search finds
    stand in for it.
    """
    items = pd.concat([log.items for log in logs]).sort_values(names.ITEM_ID)
    ids = tuple(items[names.ITEM_ID])
    codes, labels = pd.factorize(items[names.CATEGORY], sort=True)
    alone = all(log.parameters.is_separable for log in logs)
    truth = DecisionTruth(
        logs=tuple(logs),
        item_ids=ids,
        categories=codes.astype(np.int64),
        names=tuple(labels),
        groups=np.arange(len(ids)) if alone else _places(logs, ids, _number_groups),
        turns=np.zeros(len(ids), dtype=np.int64) if alone else _places(logs, ids, _number_turns),
        list_prices=per_item(logs, ids, lambda log, _: np.ravel(log.state.list_price)),
        costs=per_item(logs, ids, lambda log, _: np.ravel(find_planning_costs(log))),
        ticks=per_item(
            logs, ids, lambda log, _: np.ravel(np.broadcast_to(log.parameters.price_tick, log.parameters.shape))
        ),
        manager=np.bincount(
            codes, per_item(logs, ids, lambda log, _: compute_manager_outcome(log, decision_weeks).value)
        ),
        oracle=np.zeros(len(labels)),
        decision_weeks=decision_weeks,
    )
    if alone:
        best = per_item(logs, ids, lambda log, _: compute_oracle(log, decision_weeks, PRICE_BOUNDS).value)
    else:
        best = truth.values(truth.search(truth.values))
    return replace(truth, oracle=np.bincount(codes, best))


def _number_groups(log: SimulatedLog) -> np.ndarray:
    """Products of a market share nothing, their segments a capacity: the number of the product, per item."""
    markets, products, segments = log.parameters.shape
    return np.repeat(np.arange(markets * products), segments)


def _number_turns(log: SimulatedLog) -> np.ndarray:
    """The number of the segment, per item."""
    return np.tile(np.arange(log.parameters.shape[2]), log.num_items // log.parameters.shape[2])


def _places(
    logs: Sequence[SimulatedLog], ids: Sequence[str], number: Callable[[SimulatedLog], np.ndarray]
) -> np.ndarray:
    """Whole numbers of every log's items; those of different logs differ if they are groups."""
    first, numbers = 0, dict[str, int]()
    for log in logs:
        own = number(log)
        numbers |= dict(zip(log.items[names.ITEM_ID], own + first, strict=True))
        first += int(own.max()) + 1 if number is _number_groups else 0
    return np.array([numbers[item] for item in ids])


def grid_regret(truth: DecisionTruth) -> np.ndarray:
    """What every price of the grid loses against the best of them, `(items, P)`.

    In shares of the category's gap between manager and oracle; 0 in categories without one. Items that share a capacity
    are moved one at a time, the others stay at their list prices.
    """
    values = np.stack([_own_values(truth, column) for column in grid_prices(truth).T], axis=1)
    shares = compute_gap_closed(truth.manager, truth.manager, truth.oracle).shares
    gap = np.where(np.isfinite(shares), truth.oracle - truth.manager, np.inf)
    return (values.max(axis=1, keepdims=True) - values) / gap[truth.categories][:, None]


def _own_values(truth: DecisionTruth, prices: np.ndarray) -> np.ndarray:
    """What each item's group earns if the item alone leaves its list price, `(items,)`."""
    if not truth.turns.any():
        return truth.values(prices)
    found = np.empty(len(prices))
    for turn in range(int(truth.turns.max()) + 1):
        here = truth.turns == turn
        totals = np.bincount(truth.groups, truth.values(np.where(here, prices, truth.list_prices)))
        found[here] = totals[truth.groups][here]
    return found


def add_grid(query: Batch, truth: DecisionTruth, regret: np.ndarray) -> Batch:
    """Adds what every price of the grid would have earned: the query of tasks that learn to choose.

    Args:
        query (`dict`): Of a task on `build_decision_store`, `(C, R, ...)`.
        truth (`DecisionTruth`): Of the same categories.
        regret (`np.ndarray`, shape `(items, P)`): From `grid_regret`.

    Returns:
        `dict`: Also `grid_log_prices`, `grid_margins` and `grid_regret`, `(C, R, P)`; the regret of rows that only fill
        up is 0.
    """
    prices = grid_prices(truth)
    rows = query["scale"].shape[1]
    counts, place = np.bincount(truth.categories), np.arange(rows)
    taken = _rows_of(truth, rows)
    reference = query["reference_price"].double().numpy()[..., None]
    tables = {
        "grid_log_prices": np.log(prices[taken] / reference),
        "grid_margins": ((prices - truth.costs[:, None]) / truth.list_prices[:, None])[taken],
        "grid_regret": np.where((place < counts[:, None])[..., None], regret[taken], 0.0),
    }
    return query | {name: torch.from_numpy(table.astype(np.float32)) for name, table in tables.items()}


def add_costs(query: Batch, truth: DecisionTruth) -> Batch:
    """Tells a decision its unit costs, as planners are told them, where no visible week does (k = 0).

    Args:
        query (`dict`): Of a task on `build_decision_store`, `(C, R, ...)`.
        truth (`DecisionTruth`): Of the same categories.

    Returns:
        `dict`: With `unit_costs` `(C, R, H)` and the cost share among `decision_features`.
    """
    costs = torch.from_numpy(truth.costs[_rows_of(truth, query["scale"].shape[1])].astype(np.float32))[..., None]
    features, share = query["decision_features"].clone(), costs / query["reference_price"][..., None]
    features[..., COST_SHARE], features[..., COST_SHARE + 1] = share.clamp(-CLIP, CLIP), 1.0
    return query | {"unit_costs": costs.expand_as(query["unit_costs"]).clone(), "decision_features": features}


def load_visible(logs: Sequence[SimulatedLog], name: str) -> Panel:
    """All weeks of logs as a panel of what policies may see."""
    frames = [log.panel[[column for column in VISIBLE_COLUMNS if column in log.panel]] for log in logs]
    return _load(frames, logs[0], name)


def build_decision_store(logs: Sequence[SimulatedLog], decision_weeks: int, name: str) -> SeriesStore:
    """Logs with a plan after them: list price, no promotion, the stock at the origin, marked as an intervention."""
    frames = [frame for log in logs for frame in (read_books(log), plan_after(log, decision_weeks))]
    return build_store(_load(frames, logs[0], name))


def store_name(arguments: FewShotMarketArguments, seed: int) -> str:
    """Name of a store of categories in result rows."""
    return f"shops-{seed}" if arguments.kind == FewShotDomain("retail", "shop") else f"{arguments.family}-{seed}"


def _rows_of(truth: DecisionTruth, rows: int) -> np.ndarray:
    """Item in every row of the categories, `(C, rows)`; the last one again where there are no more."""
    counts = np.bincount(truth.categories)
    first = np.cumsum(counts) - counts
    return np.asarray(first[:, None] + np.minimum(np.arange(rows), counts[:, None] - 1))


def decision_categories(store: SeriesStore, periods: int, decision_weeks: int) -> list[Category]:
    """The store's categories with the decision as their origin, and at least so many periods before it."""
    return find_categories(store, periods, decision_weeks, seed=0, cadence=store.frequency.name)


def _load(frames: Sequence[pd.DataFrame], like: SimulatedLog, name: str) -> Panel:
    columns = (*SEEN_COLUMNS, names.PRICE_IS_INTERVENTION)
    table = pd.concat([frame[[one for one in columns if one in frame]] for frame in frames], ignore_index=True)
    schema = {"promotion": "promotion", "frequency": like.settings.cadence}
    return replace(load_panel(table, schema=schema), name=name)


def per_item(
    logs: Sequence[SimulatedLog],
    item_ids: Sequence[str],
    function: Callable[[SimulatedLog, np.ndarray], np.ndarray],
    given: np.ndarray | None = None,
) -> np.ndarray:
    """One number per item from each log, in the order of `item_ids`; `given` is handed over in the log's order."""
    place = {item: number for number, item in enumerate(item_ids)}
    found = np.empty(len(item_ids))
    for log in logs:
        rows = np.array([place[item] for item in log.items[names.ITEM_ID]])
        found[rows] = function(log, np.empty(0) if given is None else given[rows])
    return found
