"""Simulated categories for few-shot tasks: logs to meta-train on, and logs with a decision to make and its truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from pricing_fm import names
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.pricing import PRICE_BOUNDS
from pricing_fm.markets import (
    LogSettings,
    ManagerSettings,
    RetailSettings,
    SimulatedLog,
    compute_manager_outcome,
    compute_oracle,
    compute_outcome,
    simulate_log,
)
from pricing_fm.markets.core import get_inventory, get_unit_cost
from pricing_fm.markets.corpus import FIRST_SEED_OF_EVALUATION, label_elasticities
from pricing_fm.metrics.value import compute_gap_closed
from pricing_fm.panel import Panel, SeriesStore, build_store, load_panel
from pricing_fm.training.few_shot_tasks import Category, find_categories

Batch = dict[str, torch.Tensor]

# Products of the categories, one log for each number.
SIZES = (8, 9, 10, 11, 12)
# Prices tried by whoever plans: from the lowest to the highest admissible multiple of the list price in 2 % steps. The
# nearest of them earns within 0.03 % of the best price where the elasticity is 3.
HELD_MOVE = 0.05  # of the log price, both ways, in which an elasticity is measured
PRICE_GRID = tuple(np.round(np.linspace(*PRICE_BOUNDS, 31), 2))


@dataclass(frozen=True)
class FewShotMarketArguments:
    """The markets that categories come from.

    Args:
        train_categories, test_categories (`int`): To learn from, and held out.
        logged_weeks (`int`): Weeks of a log before its origin.
        decision_weeks (`int`): Weeks that a price is held.
        stocked_share (`float`): Share of categories whose stock limits sales.
        reference_share (`float`): Share of categories in which demand compares the price with a remembered one.
        confounding (`tuple[float, float]`): Range of the demand followers' correlation with hidden demand.
        train_seed, test_seed (`int`): Of the markets; beyond every seed of a training corpus.
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
    managers: tuple[str, ...] = field(
        default=(), metadata={"help": "managers, in turns within every size; default: the standard ones"}
    )

    def __post_init__(self) -> None:
        if min(self.train_categories, self.test_categories) < len(SIZES):
            raise ValueError(f"--train_categories and --test_categories must be {len(SIZES)} or more: one of each size")
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


def simulate_categories(
    arguments: FewShotMarketArguments, count: int, seed: int, weeks: int, random_weeks: int
) -> list[SimulatedLog]:
    """Logs of retail shops of 8 to 12 products, as many categories as asked for.

    Args:
        arguments (`FewShotMarketArguments`): What the markets are like.
        count (`int`): Categories.
        seed (`int`): Of the first log; sizes take seeds of their own.
        weeks (`int`): Weeks under the managers.
        random_weeks (`int`): Weeks with random prices after them; 0 = none.

    Returns:
        `list[SimulatedLog]`: One per size.
    """
    shares = np.full(len(SIZES), count // len(SIZES)) + (np.arange(len(SIZES)) < count % len(SIZES))
    low, high = arguments.confounding
    return [
        simulate_log(
            RetailSettings(
                num_products=size,
                stocked_share=arguments.stocked_share,
                reference_share=arguments.reference_share,
            ),
            ManagerSettings(arguments.managers or None, confounding=(low, high)),
            LogSettings(
                num_markets=int(share),
                num_periods=weeks + random_weeks,
                randomized_periods=(random_weeks, random_weeks) if random_weeks else None,
                seed=seed + size,
                name=f"m{seed + size}",
            ),
        )
        for size, share in zip(SIZES, shares, strict=True)
        if share
    ]


def build_training_store(logs: Sequence[SimulatedLog], name: str) -> SeriesStore:
    """Logs as one store that knows the true elasticity of every week."""
    columns = [*VISIBLE_COLUMNS, names.PRICE_IS_INTERVENTION]
    panel = _load([log.panel for log in logs], columns, name)
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
    return np.round(truth.list_prices[:, None] * np.asarray(PRICE_GRID), 2)


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

    return _per_item(logs, ids, measure)


@dataclass(frozen=True)
class DecisionTruth:
    """What a decision at the end of logs is worth; items in the order of `item_ids`, categories in that of `names`.

    Args:
        logs (`tuple[SimulatedLog, ...]`): The markets, ready to be continued.
        item_ids (`tuple[str, ...]`): Items, sorted.
        categories (`np.ndarray`, shape `(items,)`, int64): Category of each item.
        names (`tuple[str, ...]`): Categories, sorted.
        list_prices, costs (`np.ndarray`, shape `(items,)`): At the decision, currency.
        manager, oracle (`np.ndarray`, shape `(categories,)`): Expected profit, currency.
        decision_weeks (`int`): Weeks that a price is held.
    """

    logs: tuple[SimulatedLog, ...]
    item_ids: tuple[str, ...]
    categories: np.ndarray
    names: tuple[str, ...]
    list_prices: np.ndarray
    costs: np.ndarray
    manager: np.ndarray
    oracle: np.ndarray
    decision_weeks: int

    def values(self, prices: np.ndarray) -> np.ndarray:
        """Expected profit of constant prices `(items,)`, currency, cut to the bounds that the oracle keeps, too."""
        low, high = PRICE_BOUNDS
        kept = np.clip(prices, low * self.list_prices, high * self.list_prices)
        return _per_item(
            self.logs, self.item_ids, lambda log, own: compute_outcome(log, own, self.decision_weeks).value, kept
        )

    def gap_closed(self, prices: np.ndarray) -> np.ndarray:
        """Share of the gap between manager and oracle that constant prices close, per category.

        Args:
            prices (`np.ndarray`, shape `(items,)`): Currency.

        Returns:
            `(categories,)`: NaN where the manager has almost all of the oracle's value already.
        """
        totals = np.bincount(self.categories, self.values(prices))
        return compute_gap_closed(totals, self.manager, self.oracle).shares


def find_truth(logs: Sequence[SimulatedLog], decision_weeks: int) -> DecisionTruth:
    """Manager's and oracle's values after logs; the oracle takes most of the time, a second or two per ten items."""
    items = pd.concat([log.items for log in logs]).sort_values(names.ITEM_ID)
    ids = tuple(items[names.ITEM_ID])
    codes, labels = pd.factorize(items[names.CATEGORY], sort=True)
    prices = _per_item(logs, ids, lambda log, _: np.ravel(log.state.list_price))
    costs = _per_item(logs, ids, lambda log, _: np.ravel(get_unit_cost(log.parameters, log.state)))
    manager = _per_item(logs, ids, lambda log, _: compute_manager_outcome(log, decision_weeks).value)
    oracle = _per_item(logs, ids, lambda log, _: compute_oracle(log, decision_weeks, PRICE_BOUNDS).value)
    return DecisionTruth(
        logs=tuple(logs),
        item_ids=ids,
        categories=codes.astype(np.int64),
        names=tuple(labels),
        list_prices=prices,
        costs=costs,
        manager=np.bincount(codes, manager),
        oracle=np.bincount(codes, oracle),
        decision_weeks=decision_weeks,
    )


def grid_regret(truth: DecisionTruth) -> np.ndarray:
    """What every price of the grid loses against the best of them, `(items, P)`.

    In shares of the category's gap between manager and oracle; 0 in categories without one.
    """
    values = np.stack([truth.values(column) for column in grid_prices(truth).T], axis=1)
    shares = compute_gap_closed(truth.manager, truth.manager, truth.oracle).shares
    gap = np.where(np.isfinite(shares), truth.oracle - truth.manager, np.inf)
    return (values.max(axis=1, keepdims=True) - values) / gap[truth.categories][:, None]


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
    counts = np.bincount(truth.categories)
    first = np.cumsum(counts) - counts
    place = np.arange(rows)
    taken = first[:, None] + np.minimum(place, counts[:, None] - 1)
    reference = query["reference_price"].double().numpy()[..., None]
    tables = {
        "grid_log_prices": np.log(prices[taken] / reference),
        "grid_margins": ((prices - truth.costs[:, None]) / truth.list_prices[:, None])[taken],
        "grid_regret": np.where((place < counts[:, None])[..., None], regret[taken], 0.0),
    }
    return query | {name: torch.from_numpy(table.astype(np.float32)) for name, table in tables.items()}


def load_visible(logs: Sequence[SimulatedLog], name: str) -> Panel:
    """All weeks of logs as a panel of what policies may see."""
    return _load([log.panel for log in logs], VISIBLE_COLUMNS, name)


def build_decision_store(logs: Sequence[SimulatedLog], decision_weeks: int, name: str) -> SeriesStore:
    """Logs with a plan after them: list price, no promotion, the stock at the origin, marked as an intervention."""
    columns = [*VISIBLE_COLUMNS, names.PRICE_IS_INTERVENTION]
    frames = []
    for log in logs:
        frames += [log.panel, _plan_after(log, decision_weeks)]
    return build_store(_load(frames, columns, name))


def decision_categories(store: SeriesStore, weeks: int, decision_weeks: int) -> list[Category]:
    """The store's categories with the decision as their origin."""
    return find_categories(store, weeks, decision_weeks, seed=0)


def _plan_after(log: SimulatedLog, weeks: int) -> pd.DataFrame:
    period = np.timedelta64(7, "D")
    last = log.timestamps[-1]
    stock = np.ravel(get_inventory(log.parameters, log.state))
    listed = np.ravel(log.state.list_price)
    frame = log.items.loc[np.repeat(log.items.index, weeks)].reset_index(drop=True)
    first = np.tile(np.arange(weeks) == 0, log.num_items)
    frame[names.TIMESTAMP] = np.tile(last + period * np.arange(1, weeks + 1), log.num_items)
    frame[names.UNITS] = np.nan
    frame[names.PRICE] = frame[names.LIST_PRICE] = np.repeat(listed, weeks)
    stocks = np.repeat(stock, weeks)
    frame[names.INVENTORY] = np.where(first & np.isfinite(stocks), stocks, np.nan)
    frame["promotion"], frame[names.PRICE_IS_INTERVENTION] = 0.0, 1.0
    return frame


def _load(frames: Sequence[pd.DataFrame], columns: Sequence[str], name: str) -> Panel:
    table = pd.concat([frame[[one for one in columns if one in frame]] for frame in frames], ignore_index=True)
    return replace(load_panel(table, schema={"promotion": "promotion", "frequency": "W"}), name=name)


def _per_item(
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
