"""What stands beside a value: how much of a policy the log covers, what it says without a model, who would pay what."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from pricing_fm.evaluation.off_policy import (
    BehaviorEstimate,
    MonotoneBounds,
    SupportRules,
    bound_monotone_demand,
    bound_monotone_margin,
    build_support_map,
)
from pricing_fm.evaluation.off_policy.censored_counts import compute_demand_residuals
from pricing_fm.evaluation.panel_value.valuation import Bench, Matches
from pricing_fm.metrics import SegmentParity, compute_price_parity

NOTICEABLE = 0.005  # of a price: smaller moves count as keeping it
_BINS = 15


@dataclass(frozen=True)
class Support:
    """Share of a policy's item-periods whose price and promotion the log covers, in [0, 1].

    Attributes:
        tried_by_item: The item itself was sold so at some time.
        tried_by_category: Some item of its category was, relative to its own reference price.
        usual: The manager would do it in such a week at least as often as the propensity floor.
        same_price: The manager did it in that very week.
    """

    tried_by_item: float
    tried_by_category: float
    usual: float
    same_price: float


def measure_support(bench: Bench, matches: Matches) -> Support:
    """How much of a policy rests on prices that were tried.

    Args:
        bench: What policies are judged with.
        matches: From `match_decisions`.

    Returns:
        Shares of the item-periods in which the manager decided.
    """
    weeks, log = bench.weeks, bench.behavior.log
    tried, asked = build_support_map(log), matches.asked
    items, on_ladder = np.arange(len(asked))[:, None], matches.rungs >= 0

    def share(level: SupportRules) -> float:
        pairs = tried.find_supported(level)[items, np.maximum(matches.rungs, 0), weeks.promoted]
        return float((pairs & on_ladder)[asked].mean())

    return Support(
        share(SupportRules("item")),
        # One odd week of one item says little of its whole category.
        share(SupportRules("category", least_periods=2, least_episodes=2)),
        float((matches.chances[asked] >= bench.arguments.propensity_floor).mean()),
        float(matches.targets[asked].mean()),
    )


@dataclass(frozen=True)
class MonotoneValue:
    """What the log says of a policy if demand does not rise with the price, nor above the most that was ever seen.

    Attributes:
        lower, upper: Margin per item and period were stock never short, currency.
        untried: Share of the item-periods at a price that no item of the product was sold at.
    """

    lower: float
    upper: float
    untried: float


def bound_by_monotone_demand(bench: Bench, prices: np.ndarray, unit_costs: np.ndarray) -> MonotoneValue:
    """Range of a path's margin from mean demand at the rungs tried, product by product, promoted or not.

    No price is taken to sell more than the product's best one did. Demand is measured by the item's own mean;
    differences of the weeks in which prices were tried are not removed, so that this is a view of the log and no causal
    bound where prices follow demand. Periods without stock say nothing and are left out; what stock cut off in sold-out
    ones is put back as the demand model expects it.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.
        unit_costs: Currency, `(N, W)`.

    Returns:
        The range.
    """
    weeks = bench.weeks
    demand = _restore_demand(bench)
    level = np.nanmean(demand, axis=1, keepdims=True)
    relative, step = demand / level, bench.arguments.price_ladder_step
    logged, asked = (np.round(np.log(path / weeks.regular_prices[:, None]) / step) for path in (weeks.prices, prices))
    lower, upper, tried = np.zeros(prices.shape), np.zeros(prices.shape), np.zeros(prices.shape, dtype=bool)
    recorded = np.isfinite(relative)
    for cluster in np.unique(weeks.clusters):
        unit = (weeks.clusters == cluster)[:, None]
        means = [_average_by_rung(relative, logged, recorded & unit & (weeks.promoted == flag)) for flag in (0, 1)]
        most = max(float(found.means.max()) for found in means if len(found.means))
        for flag, found in enumerate(means):
            own = unit & (weeks.promoted == flag)
            upper[own] = most
            if len(found.means):
                bounds = bound_monotone_demand(
                    np.exp(step * found.rungs), found.means, found.counts, np.exp(step * asked[own]), most
                )
                lower[own], upper[own], tried[own] = bounds.lower, bounds.upper, bounds.was_tried
    margin = bound_monotone_margin(MonotoneBounds(lower * level, upper * level, tried), prices, unit_costs)
    return MonotoneValue(float(margin.lower.mean()), float(margin.upper.mean()), float(1.0 - tried.mean()))


def _restore_demand(bench: Bench) -> np.ndarray:
    """Units sold, in sold-out periods the demand expected given that, NaN where nothing is known, `(N, W)`."""
    found = np.full(bench.weeks.units.shape, np.nan)
    for part in bench.demands:
        counts, log_mean = part.demand.rows.counts, part.demand.compute_logged_log_mean().ravel()
        residuals = compute_demand_residuals(counts, log_mean, part.demand.overdispersion)
        expected = np.where(counts.censored, np.exp(log_mean) + residuals, counts.units)
        found[part.items] = np.where(counts.informative, expected, np.nan).reshape(len(part.items), -1)
    return found


class _RungMeans(NamedTuple):
    """Mean relative demand at the rungs tried, in rising order, and how many item-periods they come from."""

    rungs: np.ndarray
    means: np.ndarray
    counts: np.ndarray


def _average_by_rung(relative: np.ndarray, logged: np.ndarray, seen: np.ndarray) -> _RungMeans:
    rungs, places, counts = np.unique(logged[seen], return_inverse=True, return_counts=True)
    return _RungMeans(rungs, np.bincount(places, relative[seen], len(rungs)) / np.maximum(counts, 1), counts)


def describe_changes(bench: Bench, prices: np.ndarray, units: np.ndarray, manager_units: np.ndarray) -> pd.DataFrame:
    """Who would pay what: price moves of a policy by category and by segment.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.
        units: Expected over all periods under the policy, `(N,)`.
        manager_units: The same under the manager, `(N,)`.

    Returns:
        One row per group: `kind` (all, category, segment), `group, items, basket_change` (cost of what was bought in
        the log at the new prices, relative), `dearer, cheaper` (shares of item-periods), `units_change`.
    """
    weeks = bench.weeks
    bought = np.where(np.isfinite(weeks.recorded_prices), np.nan_to_num(weeks.units), 0.0)
    move = prices / weeks.prices - 1.0
    groups = [("all", "all", np.ones(len(prices), dtype=bool))]
    groups += [("category", label, weeks.categories == label) for label in np.unique(weeks.categories)]
    if weeks.segment_name:
        groups += [("segment", str(label), weeks.segments == label) for label in np.unique(weeks.segments)]
    rows = []
    for kind, label, own in groups:
        before = float((bought * weeks.prices)[own].sum())
        rows.append(
            {
                "kind": kind,
                "group": label,
                "items": int(own.sum()),
                "basket_change": float((bought * prices)[own].sum()) / before - 1.0 if before > 0.0 else np.nan,
                "dearer": float((move[own] > NOTICEABLE).mean()),
                "cheaper": float((move[own] < -NOTICEABLE).mean()),
                "units_change": float(units[own].sum() / manager_units[own].sum() - 1.0),
            }
        )
    return pd.DataFrame(rows)


def measure_price_parity(bench: Bench, prices: np.ndarray) -> SegmentParity | None:
    """Price level of each segment relative to regular prices, basket of the log.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.

    Returns:
        Levels and their gap; None without segments.
    """
    weeks = bench.weeks
    if len(np.unique(weeks.segments)) < 2:
        return None
    bought = np.isfinite(weeks.recorded_prices) & np.isfinite(weeks.units)
    regular = np.broadcast_to(weeks.regular_prices[:, None], prices.shape)
    segments = np.broadcast_to(np.asarray(weeks.segments, dtype=str)[:, None], prices.shape)
    return compute_price_parity(prices[bought], regular[bought], segments[bought], weeks.units[bought])


def tabulate_calibration(behavior: BehaviorEstimate) -> pd.DataFrame:
    """Predicted against observed frequency of a price change, in bins of equally many decisions.

    Args:
        behavior: The manager's habits.

    Returns:
        `predicted, observed, decisions`, one row per bin.
    """
    log = behavior.log
    decided = log.decided
    carried = pd.DataFrame(np.where(log.rungs >= 0, log.rungs, np.nan)).ffill(axis=1).shift(1, axis=1)
    predicted = behavior.change_probabilities[decided]
    observed = (log.rungs != carried.to_numpy())[decided]
    places = np.minimum((pd.Series(predicted).rank(method="first", pct=True).to_numpy() * _BINS).astype(int), _BINS - 1)
    table = pd.DataFrame({"bin": places, "predicted": predicted, "observed": observed.astype(float)})
    grouped = table.groupby("bin")
    return grouped[["predicted", "observed"]].mean().assign(decisions=grouped.size()).reset_index(drop=True)
