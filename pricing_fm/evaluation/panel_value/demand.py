"""Demand and the manager's habits, fitted to the valued weeks: what every policy is judged with."""

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy import (
    BehaviorEstimate,
    BehaviorSettings,
    Deliveries,
    DemandDesign,
    DemandLog,
    FittedDemand,
    FollowingDeliveries,
    NotIdentified,
    Shop,
    UnlimitedStock,
    fit_behavior,
    fit_demand,
)
from pricing_fm.evaluation.off_policy.behavior_model import assign_folds
from pricing_fm.evaluation.off_policy.stocks import Stock
from pricing_fm.evaluation.panel_value.arguments import ValueArguments
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks

ESTIMATOR = "structured"
FOLDS, CALIBRATION_FOLDS = 5, 3
_LEAST_SHARE = 1e-3  # of a column's variation that others must leave unexplained for it to be a column of its own


@dataclass(frozen=True)
class CategoryDemand:
    """Demand of one category; the price means the same for all of its items, their levels are their own.

    Attributes:
        category: Label.
        items: Positions in the valued items, int.
        demand: The fit.
        elasticity: Coefficient of the log price in weeks that follow the same remembered price.
        memory: Coefficient of the log of the remembered price over the price; None = the log cannot tell it apart.
    """

    category: str
    items: np.ndarray
    demand: FittedDemand
    elasticity: float
    memory: float | None


def find_missing_habits(weeks: ValuedWeeks, seed: int) -> NotIdentified | None:
    """Why the log shows no habits of changing prices.

    Args:
        weeks: The valued weeks with the history before them.
        seed: Of the folds.

    Returns:
        The reason; None = it shows some.
    """
    log = weeks.decisions
    folds = _count_folds(weeks)
    if folds < 2:
        reason = "the log holds one product only: habits are learned from other products than the one they are asked of"
        return NotIdentified(ESTIMATOR, (reason,))
    changes, parts = _count_changes(weeks), assign_folds(log.products, folds, seed)
    if all(changes[parts != part].any() for part in range(folds)):
        return None
    rung = log.price_ladder[-1] / log.price_ladder[-2] - 1.0
    reason = (
        f"prices moved to another step of {rung:.0%} {int(changes.sum())} times in all: the log does not show what"
        " other prices do"
    )
    return NotIdentified(ESTIMATOR, (reason,))


def fit_manager(weeks: ValuedWeeks, seed: int) -> BehaviorEstimate:
    """The behaviour model, cross-fitted by product.

    Args:
        weeks: The valued weeks with the history before them, in which `find_missing_habits` misses nothing.
        seed: Of the folds.

    Returns:
        Probabilities of every price in every decision.
    """
    products = np.asarray(weeks.decisions.products).astype(str)
    # A part of the training products must still hold changes when another part of them is left out.
    spread = len(np.unique(products[_count_changes(weeks) > 0]))
    calibration = CALIBRATION_FOLDS if spread >= 2 * CALIBRATION_FOLDS and len(np.unique(products)) > FOLDS else 0
    settings = BehaviorSettings(folds=_count_folds(weeks), calibration_folds=calibration, seed=seed)
    return fit_behavior(weeks.decisions, settings)


def fit_category_demand(weeks: ValuedWeeks, category: str, persistence: float) -> CategoryDemand | NotIdentified:
    """Demand of a category by the censored likelihood: item levels, calendar, promotions, price, remembered price.

    Args:
        weeks: The valued weeks.
        category: Label.
        persistence: Of the remembered price.

    Returns:
        The fit, or why prices say nothing.
    """
    items = np.flatnonzero(weeks.categories == category)
    log = build_demand_log(weeks, items, persistence)
    informative = (
        np.isfinite(log.units) & np.isfinite(log.prices) & ~(log.stock <= 0)
    )  # unknown stock is no empty shelf
    calendar = np.repeat(np.eye(log.units.shape[1])[None], len(items), axis=0)
    others = np.concatenate([calendar, weeks.flags[items]], axis=2)
    log_price = np.log(np.where(informative, log.prices, 1.0) / log.list_prices)
    gap = log.trace_price_states().log_memory - np.log(np.where(informative, log.prices, 1.0))
    candidates = np.concatenate([others, log_price[..., None], gap[..., None]], axis=2)
    kept = _find_own_columns(candidates, informative)
    has_price, has_memory = kept[-2], kept[-1]
    if not has_price:
        reason = (
            f"in {category} prices did not move apart from promotions and the calendar: their effect cannot be told"
            " from that of the promotion or the week"
        )
        return NotIdentified(ESTIMATOR, (reason,))
    design = DemandDesign(others[..., kept[:-2]], has_reference_price=bool(has_memory))
    demand = fit_demand(log, design, groups=np.arange(len(items)))
    coefficients = dict(zip(design.names, demand.fit.coefficients.tolist(), strict=True))
    return CategoryDemand(category, items, demand, coefficients["log_price"], coefficients.get("gap_to_memory"))


def build_demand_log(weeks: ValuedWeeks, items: np.ndarray, persistence: float) -> DemandLog:
    """The log of some items, prices measured by their regular price at the start.

    Args:
        weeks: The valued weeks.
        items: Positions.
        persistence: Of the remembered price.

    Returns:
        The log.
    """
    return DemandLog(
        units=weeks.units[items],
        stock=weeks.stock[items],
        prices=weeks.recorded_prices[items],
        list_prices=np.repeat(weeks.regular_prices[items, None], weeks.units.shape[1], axis=1),
        promotions=weeks.promoted[items].astype(np.float64),
        clusters=weeks.clusters[items],
        weeks=np.arange(weeks.units.shape[1]),
        log_memory=weeks.log_memory[items],
        depth=np.zeros(len(items)),
        persistence=persistence,
    )


def build_shop(weeks: ValuedWeeks, items: np.ndarray, unit_costs: np.ndarray, arguments: ValueArguments) -> Shop:
    """Everything known of some items but demand and policy.

    Args:
        weeks: The valued weeks.
        items: Positions.
        unit_costs: Of all valued items, `(N, W)`.
        arguments: What orders follow, and how customers remember prices.

    Returns:
        The shop; stock is replayed with the log's deliveries, moved by what sells more or less than in the log.
    """
    stock: Stock = UnlimitedStock(len(items))
    if weeks.has_stock:
        held, sold = weeks.replayed_stock[items], np.nan_to_num(weeks.units[items])
        arrivals = np.zeros_like(held)
        # What came in between is what stands there next beyond what was left; a shrinkage counts as nothing. Before its
        # first record an item sells without end, of which nothing is left.
        left = np.where(np.isinf(held), 0.0, np.maximum(held - sold, 0.0))
        arrivals[:, :-1] = np.maximum(held[:, 1:] - left[:, :-1], 0.0)
        stock = logged = Deliveries(held[:, 0], arrivals)
        if arguments.value_supply == "follows_sales":
            stock = FollowingDeliveries(logged, weeks.units[items], arguments.value_lead_time)
    return Shop(
        list_prices=np.repeat(weeks.regular_prices[items, None], weeks.units.shape[1], axis=1),
        unit_costs=unit_costs[items],
        stock=stock,
        log_memory=weeks.log_memory[items],
        depth=np.zeros(len(items)),
        persistence=arguments.price_persistence,
    )


def _count_folds(weeks: ValuedWeeks) -> int:
    return min(FOLDS, len(np.unique(np.asarray(weeks.decisions.products).astype(str))))


def _count_changes(weeks: ValuedWeeks) -> np.ndarray:
    """Decisions of each item that moved its rung, `(N,)`."""
    log = weeks.decisions
    before = np.concatenate([np.full((len(log.rungs), 1), -1), _carry_rungs(log.rungs)[:, :-1]], axis=1)
    return np.asarray((log.decided & (log.rungs != before)).sum(axis=1))


def _carry_rungs(rungs: np.ndarray) -> np.ndarray:
    """Last known rung up to each period, -1 where none."""
    carried = rungs.copy()
    for period in range(1, rungs.shape[1]):
        carried[:, period] = np.where(rungs[:, period] >= 0, rungs[:, period], carried[:, period - 1])
    return carried


def _find_own_columns(columns: np.ndarray, informative: np.ndarray) -> np.ndarray:
    """Columns that items' levels and the columns before them do not explain, bool `(columns,)`.

    The price stands behind calendar and promotions: what moves with them alone is not credited to it.
    """
    counts = np.maximum(informative.sum(axis=1, keepdims=True), 1)[..., None]
    masked = np.where(informative[..., None], columns, 0.0)
    centred = np.where(informative[..., None], masked - masked.sum(axis=1, keepdims=True) / counts, 0.0)
    table = centred.reshape(-1, columns.shape[-1])
    basis, kept = np.zeros((len(table), 0)), np.zeros(table.shape[1], dtype=bool)
    for place, column in enumerate(table.T):
        size = np.linalg.norm(column)
        if size <= 1e-9:
            continue
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)  # once more, against rounding
        if np.linalg.norm(rest) > np.sqrt(_LEAST_SHARE) * size:
            kept[place] = True
            basis = np.column_stack([basis, rest / np.linalg.norm(rest)])
    return kept
