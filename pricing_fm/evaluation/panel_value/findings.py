"""All that is found out about one policy: value, gain over the manager, and every reason to doubt them."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from pricing_fm.evaluation.off_policy import (
    Candidate,
    DecisionWeights,
    NotIdentified,
    PolicyValue,
    RefusalError,
    SpillOverTest,
    StockTest,
    ValueBounds,
    bootstrap_cvar_difference,
    bootstrap_value,
    compute_downside_probability,
    estimate_spill_over,
    estimate_stock_relation,
    estimate_t_interval,
    has_telling_neighbors,
    has_telling_stock,
    subtract_contributions,
)
from pricing_fm.evaluation.off_policy.contributions import Contributions
from pricing_fm.evaluation.panel_value.demand import ESTIMATOR
from pricing_fm.evaluation.panel_value.diagnostics import (
    MonotoneValue,
    Support,
    bound_by_monotone_demand,
    describe_changes,
    measure_price_parity,
    measure_support,
)
from pricing_fm.evaluation.panel_value.valuation import (
    Bench,
    Matches,
    PathValue,
    bound_path,
    bound_path_by_level,
    find_unmatched,
    match_decisions,
    value_log,
    value_path,
    weigh_decisions,
)
from pricing_fm.metrics import Interval, SegmentParity

Test = TypeVar("Test", StockTest, SpillOverTest)

LEVEL = 0.9
RULE_SENSITIVITY = 1.5
TAIL_LEVEL = 0.1
_LEAST_USUAL = 0.05  # of the mean value of items: what hardly earns anything has no worst relative to it


@dataclass(frozen=True)
class ManagerFindings:
    """The manager's own prices; currency per item and period in intervals.

    Attributes:
        path: By the structured estimator, over all periods.
        value: The same with its interval.
        by_category, by_segment: Values with intervals.
        at_costs: Value at other cost shares.
        parity: Price level of each segment; None = no segments.
        stock_test: Of the category in which stock and unexplained demand move together most; None = none was run.
        stock_untested: Categories in which stock does not move, so that no test could be run.
        spill_test: Of the category in which neighbours' shortages lift demand most surely; None = none was run.
        spill_untested: Categories in which shortages do not change in two places or more.
    """

    path: PathValue
    value: Interval
    by_category: dict[str, Interval]
    by_segment: dict[str, PathValue]
    at_costs: dict[float, PathValue]
    parity: SegmentParity | None
    stock_test: StockTest | None
    stock_untested: tuple[str, ...]
    spill_test: SpillOverTest | None
    spill_untested: tuple[str, ...]


@dataclass(frozen=True)
class PolicyFindings:
    """One policy; currency per item and period in intervals and ranges.

    Attributes:
        name: Of the policy.
        prices: Its path, `(N, W)`.
        candidate: What the launch rule is told.
        support: How much the log covers.
        monotone: What the log says without a demand model; None, like all that follows, where nothing is identified.
        changes: Who would pay what.
        parity: Price level of each segment; None = no segments.
        model_alone: Gain by the demand model without the weights.
        value, gain: By the structured estimator; None = the policy charges none of the logged prices.
        gain_by_student: The same gain with Student's interval, which resamples nothing; None likewise.
        least_sample: Category for which the log is worth least, and what it is worth there; None likewise.
        weighted_log: Value by the weighted log alone; None likewise, both ends not a number = the weight rests on too
            few decision units or weeks for an interval.
        gain_by_category, gain_by_segment, gain_at_costs: Gains with intervals.
        sensitivity: Range of the gain by what hidden knowledge may do.
        sensitivity_to_level: The same if it is knowledge of the level of demand, at all prices alike.
        tail: Difference of the worst tenth of outcomes, relative to what an item usually earns.
        downside: Share of item outcomes below what the manager would have earned with the same luck.
    """

    name: str
    prices: np.ndarray
    candidate: Candidate
    support: Support | None = None
    monotone: MonotoneValue | None = None
    changes: pd.DataFrame | None = None
    parity: SegmentParity | None = None
    model_alone: Interval | None = None
    value: Interval | None = None
    gain: Interval | None = None
    gain_by_student: Interval | None = None
    least_sample: tuple[str, float] | None = None
    weighted_log: Interval | None = None
    gain_by_category: dict[str, Interval] | None = None
    gain_by_segment: dict[str, Interval] | None = None
    gain_at_costs: dict[float, Interval] | None = None
    sensitivity: dict[float, ValueBounds] | None = None
    sensitivity_to_level: dict[float, ValueBounds] | None = None
    tail: Interval | None = None
    downside: float | None = None


def value_manager(bench: Bench, unit_costs: np.ndarray, other_costs: dict[float, np.ndarray]) -> ManagerFindings:
    """Everything about the log itself.

    Args:
        bench: What policies are judged with.
        unit_costs: Currency, `(N, W)`.
        other_costs: The same at other cost shares.

    Returns:
        The findings.
    """
    weeks = bench.weeks
    same = DecisionWeights(np.where(bench.informative, 1.0, 0.0), 0.0)
    path = value_path(bench, weeks.prices, unit_costs, same)
    return ManagerFindings(
        path=path,
        value=_interval(bench, path.value.contributions),
        by_category={label: _interval(bench, own.contributions) for label, own in path.by_category.items()},
        by_segment={
            label: value_path(bench, weeks.prices, unit_costs, same, members=weeks.segments == label)
            for label in _segments(bench)
        },
        at_costs={share: value_path(bench, weeks.prices, costs, same) for share, costs in other_costs.items()},
        parity=measure_price_parity(bench, weeks.prices),
        stock_test=examine_stock(bench),
        stock_untested=tuple(part.category for part in bench.demands if not has_telling_stock(part.demand)),
        spill_test=examine_spill_over(bench),
        spill_untested=tuple(
            part.category
            for part in bench.demands
            if not has_telling_neighbors(part.demand, weeks.locations[part.items])
        ),
    )


def judge_path(
    bench: Bench,
    name: str,
    prices: np.ndarray,
    unit_costs: np.ndarray,
    other_costs: dict[float, np.ndarray],
    manager: ManagerFindings,
    episodes: int,
) -> PolicyFindings:
    """Everything about one policy.

    Args:
        bench: What policies are judged with.
        name: Of the policy.
        prices: Its path, currency, `(N, W)`.
        unit_costs: Currency, `(N, W)`.
        other_costs: The same at other cost shares.
        manager: Findings about the log.
        episodes: Distinct price episodes of the log.

    Returns:
        The findings; without a value where the policy charges none of a category's logged prices.
    """
    matches = match_decisions(bench, prices)
    support, unmatched = measure_support(bench, matches), find_unmatched(bench, matches)
    same = DecisionWeights(manager.path.ratios, 0.0)
    alone = value_path(bench, prices, unit_costs, same, is_corrected=False)
    # The manager's correction is one of luck in the level; without weights both sides go without.
    base = value_path(bench, bench.weeks.prices, unit_costs, same, is_corrected=False)
    reason = f"in {', '.join(unmatched)} the policy charges none of the prices that were charged in the same weeks"
    known = PolicyFindings(
        name=name,
        prices=prices,
        candidate=Candidate(name, NotIdentified(ESTIMATOR, (reason,)), support.usual, episodes),
        support=support,
        monotone=bound_by_monotone_demand(bench, prices, unit_costs),
        changes=describe_changes(bench, prices, alone.units, base.units),
        parity=measure_price_parity(bench, prices),
        model_alone=_gain(bench, alone.value, base.value),
    )
    return known if unmatched else _judge_identified(bench, known, matches, unit_costs, other_costs, manager)


def _judge_identified(
    bench: Bench,
    known: PolicyFindings,
    matches: Matches,
    unit_costs: np.ndarray,
    other_costs: dict[float, np.ndarray],
    manager: ManagerFindings,
) -> PolicyFindings:
    """Everything that needs the weights of the logged decisions."""
    prices, weights = known.prices, weigh_decisions(bench, matches)
    path = value_path(bench, prices, unit_costs, weights)
    own, periods = manager.path.value.value, bench.weeks.units.shape[1]
    gains = _shift(bound_path(bench, prices, unit_costs, matches), -own)
    by_level = _shift(bound_path_by_level(bench, prices, unit_costs, weights, matches), -own)
    usual = np.maximum(manager.path.item_values, _LEAST_USUAL * manager.path.item_values.mean())[:, None]
    tail = bootstrap_cvar_difference(
        path.returns / usual, manager.path.returns / usual, bench.weeks.clusters, level=TAIL_LEVEL, seed=bench.seed
    )
    return replace(
        known,
        candidate=replace(
            known.candidate,
            value=path.value,
            sensitivity_range=gains[RULE_SENSITIVITY],
            sensitivity=RULE_SENSITIVITY,
            tail=tail,
            stock_test=manager.stock_test,
            spill_test=manager.spill_test,
        ),
        changes=describe_changes(bench, prices, path.units, manager.path.units),
        value=_interval(bench, path.value.contributions),
        gain=_gain(bench, path.value, manager.path.value),
        gain_by_student=_student_interval(
            subtract_contributions(path.value.contributions, manager.path.value.contributions), periods
        ),
        least_sample=_find_least_sample(path),
        weighted_log=_student_interval(value_log(bench.weeks, unit_costs, path.ratios).contributions),
        gain_by_category={
            label: _gain(bench, found, manager.path.by_category[label]) for label, found in path.by_category.items()
        },
        gain_by_segment={
            label: _gain(
                bench,
                value_path(bench, prices, unit_costs, weights, members=bench.weeks.segments == label).value,
                manager.by_segment[label].value,
            )
            for label in _segments(bench)
        },
        gain_at_costs={
            share: _gain(bench, value_path(bench, prices, costs, weights).value, manager.at_costs[share].value)
            for share, costs in other_costs.items()
        },
        sensitivity=_scale(gains, 1.0 / periods),
        sensitivity_to_level=_scale(_intersect(by_level, gains), 1.0 / periods),
        tail=tail,
        downside=compute_downside_probability(path.returns - manager.path.returns, 0.0),
    )


def _find_least_sample(path: PathValue) -> tuple[str, float]:
    """Demand is corrected category by category, so that each needs weight of its own."""
    sizes = {label: found.effective_sample_size for label, found in path.by_category.items()}
    label = min(sizes, key=lambda one: sizes[one])
    return label, sizes[label]


def _shift(ranges: dict[float, ValueBounds], amount: float) -> dict[float, ValueBounds]:
    return {key: ValueBounds(found.lower + amount, found.upper + amount) for key, found in ranges.items()}


def _scale(ranges: dict[float, ValueBounds], factor: float) -> dict[float, ValueBounds]:
    return {key: ValueBounds(found.lower * factor, found.upper * factor) for key, found in ranges.items()}


def _intersect(by_level: dict[float, ValueBounds], general: dict[float, ValueBounds]) -> dict[float, ValueBounds]:
    """Knowledge of the level is knowledge: the general range holds as well."""
    return {
        key: ValueBounds(max(found.lower, general[key].lower), min(found.upper, general[key].upper))
        for key, found in by_level.items()
    }


def examine_stock(bench: Bench) -> StockTest | None:
    """Whether stock knows more of demand than the model, in the category where it looks most like it.

    Args:
        bench: What policies are judged with.

    Returns:
        The test with the smallest p-value, times the number of categories tested; None without stock that moves.
    """
    # Periods without stock take no part in the test; they are no reason to leave out the item's others.
    return _find_surest(
        [estimate_stock_relation(part.demand) for part in bench.demands if has_telling_stock(part.demand)]
    )


def examine_spill_over(bench: Bench) -> SpillOverTest | None:
    """Whether items of a category sell more where others of the same place run short.

    Args:
        bench: What policies are judged with.

    Returns:
        The test with the smallest p-value, times the number of categories tested; None where no shortages change.
    """
    places = [(part.demand, bench.weeks.locations[part.items]) for part in bench.demands]
    return _find_surest([estimate_spill_over(*pair) for pair in places if has_telling_neighbors(*pair)])


def _find_surest(tests: list[Test]) -> Test | None:
    """The test that rejects most surely, corrected for their number (Bonferroni)."""
    if not tests:
        return None
    surest = min(tests, key=lambda test: test.p_value)
    return replace(surest, p_value=min(1.0, surest.p_value * len(tests)))


def _segments(bench: Bench) -> list[str]:
    return [str(label) for label in np.unique(bench.weeks.segments)] if bench.weeks.segment_name else []


def _gain(bench: Bench, value: PolicyValue, manager: PolicyValue) -> Interval:
    return _interval(bench, subtract_contributions(value.contributions, manager.contributions))


def _interval(bench: Bench, contributions: Contributions) -> Interval:
    """Two-way bootstrap, per item and period; one or few decision units have none: both ends are not a number."""
    length = bench.weeks.units.shape[1]
    if contributions.num_clusters < 2:
        return _without_ends(contributions.value / length)
    try:
        drawn = bootstrap_value(contributions, True, bench.arguments.value_replicates, bench.seed).interval(LEVEL)
    except RefusalError:  # of a small segment: whether it has an interval is part of what is found
        return _without_ends(contributions.value / length)
    return Interval(drawn.value / length, drawn.lower / length, drawn.upper / length)


def _student_interval(contributions: Contributions, periods: int = 1) -> Interval:
    """The check that does not resample, over periods; ends are not a number where it refuses or has one unit only."""
    if contributions.num_clusters < 2:
        return _without_ends(contributions.value / periods)
    try:
        found = estimate_t_interval(contributions, LEVEL)
    except RefusalError:  # few of the policy's prices were charged: part of what is found
        return _without_ends(contributions.value / periods)
    return Interval(*(end / periods for end in (found.value, found.lower, found.upper)))


def _without_ends(value: float) -> Interval:
    return Interval(value, float("nan"), float("nan"))
