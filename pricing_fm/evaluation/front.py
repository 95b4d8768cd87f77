"""Fronts of planned prices beside the truth of a simulated market: what plans believe, and what they bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.markets import SimulatedLog, compute_outcome
from pricing_fm.markets.core import get_unit_cost
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy.options import OWN, PriceOptions
from pricing_fm.policy.trade_off import (
    FrontPlan,
    PlanTerms,
    build_terms,
    find_dominated,
    measure_points,
    measure_shortfall,
    plan_front,
    planned_terms,
)

BETWEEN = 4  # points of the true front from one weight to the next


@dataclass(frozen=True)
class FrontComparison:
    """A front as it is believed and, in a simulated market, as it is.

    Args:
        believed (`pd.DataFrame`): Points as the model sees them; see `measure_points`.
        achieved (`pd.DataFrame`, *optional*): The same points by the market's truth; also, as shares of the margin at
            current prices, `regret` (weighted reward that the best prices for the same weights bring more) and
            `margin_lost` (margin that the true front has more with at least as much of the other objective; NaN where
            it does not reach as much).
        possible (`pd.DataFrame`, *optional*): The true front, planned by one who knows demand, at more weights.
    """

    believed: pd.DataFrame
    achieved: pd.DataFrame | None = None
    possible: pd.DataFrame | None = None


def compare_fronts(
    options: PriceOptions,
    base: RewardWeights,
    sweeps: Mapping[str, Sequence[float]],
    caution: float,
    truth: PlanTerms | None = None,
) -> FrontComparison:
    """Plans a front on the model's demand curves and, where the truth is known, the true one on the same candidates.

    Args:
        options (`PriceOptions`): What may be chosen.
        base (`RewardWeights`): Weights that hold at every point.
        sweeps (`Mapping[str, Sequence[float]]`): Swept term to its weights.
        caution (`float`): Of the plans; the true front needs none.
        truth (`PlanTerms`, *optional*): From `true_terms`.

    Returns:
        `FrontComparison`.
    """
    plan = plan_front(options, planned_terms(options), base, sweeps, caution)
    if truth is None:
        return FrontComparison(plan.table)
    best = plan_front(options, truth, base, sweeps, caution=0.0)
    possible = plan_front(options, truth, base, {name: _refine(values) for name, values in sweeps.items()}, 0.0).table
    achieved = plan.table[["sweep", "kind", "weight"]].join(measure_points(options, truth, plan.columns))
    margin_now = abs(float(truth.mean["margin"][:, OWN].sum()))
    achieved["regret"] = _measure_regret(options, truth, plan, best) / margin_now
    achieved["margin_lost"] = np.nan
    achieved["dominated"] = find_dominated(achieved)
    for sweep in sweeps:
        here = (achieved["sweep"] == sweep).to_numpy()
        lost = measure_shortfall(possible[possible["sweep"] == sweep], achieved[here])
        achieved.loc[here, "margin_lost"] = lost / margin_now
    return FrontComparison(plan.table, achieved, possible)


def _refine(weights: Sequence[float]) -> list[float]:
    """Weights between and beyond: a front is drawn through its points, and should not miss its own bends."""
    known = np.unique(np.asarray(weights, dtype=np.float64))
    between = known[:-1, None] + np.diff(known)[:, None] * np.arange(BETWEEN) / BETWEEN
    return [*between.ravel().tolist(), *(known[-1] * factor for factor in (1.0, 2.0, 4.0, 8.0))]


def _measure_regret(options: PriceOptions, truth: PlanTerms, plan: FrontPlan, best: FrontPlan) -> np.ndarray:
    """Weighted reward that the best choice brings more than the planned one, by the truth, currency: `(points,)`."""
    rows, found = np.arange(len(options)), []
    for weights, chosen, possible in zip(plan.weights, plan.columns, best.columns, strict=True):
        value = truth.value(weights).mean
        found.append(value[rows, possible].sum() - value[rows, chosen].sum())
    return np.array(found)


def true_terms(
    log: SimulatedLog, options: PriceOptions, num_rollouts: int = 64, on_price: Callable[[], None] | None = None
) -> PlanTerms:
    """The reward's terms by the market's truth, stock limits and costs that have moved since included.

    Args:
        log (`SimulatedLog`): Ends where the options begin, and holds their items.
        options (`PriceOptions`): Prices, from the first period after the log on.
        num_rollouts (`int`): Repetitions where stock is limited; the same draws for every price.
        on_price (`Callable`, *optional*): Called after each of the P candidates, for progress.

    Returns:
        `PlanTerms`: With one response member, the truth: nothing is left open.

    Raises:
        ValueError: If the plan starts later, or an item is not the log's.
    """
    if options.lead > 0:
        raise ValueError(f"the plan starts {options.lead} period(s) after the log; the truth is that of the next one")
    place = pd.Index(log.items[names.ITEM_ID]).get_indexer(list(options.situation.item_ids))
    if (place < 0).any():
        raise ValueError(f"item {options.situation.item_ids[int((place < 0).argmax())]!r} is not in the market's log")
    periods = options.demand.mean.shape[-1]
    demand, sales = (np.empty((*options.prices.shape, 2)) for _ in range(2))
    prices = np.ravel(log.state.list_price).astype(np.float64)
    for column in range(options.prices.shape[1]):
        prices[place] = options.prices[:, column]
        outcome = compute_outcome(log, prices, periods, num_rollouts=num_rollouts)
        demand[:, column] = outcome.demand.sum(1)[place, None]
        sales[:, column] = outcome.sales.sum(1)[place, None]
        if on_price is not None:
            on_price()
    costs = np.ravel(get_unit_cost(log.parameters, log.state))[place]
    return build_terms(replace(options, costs=costs), demand, sales)
