"""Values of price paths on the valued weeks: one estimate per category, all of them together weighted by items."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy import (
    SENSITIVITIES,
    BehaviorEstimate,
    Contributions,
    DecisionWeights,
    LoggedTrajectories,
    PathPolicy,
    PolicyValue,
    Shop,
    StructuredSettings,
    ValueBounds,
    WeightBounds,
    bound_structured,
    compute_decision_weights,
    compute_effective_sample_size,
    compute_importance_ratios,
    compute_weight_bounds,
    estimate_per_decision_importance,
    estimate_structured,
)
from pricing_fm.evaluation.off_policy.contributions import Rows, build_contributions
from pricing_fm.evaluation.off_policy.decision_log import place_on_ladder
from pricing_fm.evaluation.off_policy.level_sensitivity import ActionTable, bound_structured_by_level
from pricing_fm.evaluation.panel_value.arguments import ValueArguments
from pricing_fm.evaluation.panel_value.demand import CategoryDemand, build_shop
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks

MANAGER = "manager"
STRUCTURED, MODEL_ALONE, WEIGHTED_LOG, LOG_MEAN = "structured", "demand model alone", "weighted log", "mean of the log"


@dataclass(frozen=True)
class Bench:
    """What every policy is judged with.

    Attributes:
        weeks: The valued weeks.
        demands: Demand of every category.
        behavior: The manager's habits.
        arguments: Settings.
        seed: Of all luck.
    """

    weeks: ValuedWeeks
    demands: tuple[CategoryDemand, ...]
    behavior: BehaviorEstimate
    arguments: ValueArguments
    seed: int

    @property
    def informative(self) -> np.ndarray:
        """Periods that say something about demand, bool, `(N, W)`."""
        found = np.zeros(self.weeks.units.shape, dtype=bool)
        for part in self.demands:
            found[part.items] = part.demand.rows.counts.informative.reshape(len(part.items), -1)
        return found

    def shop(self, part: CategoryDemand, unit_costs: np.ndarray) -> Shop:
        """The items of one category at these unit costs `(N, W)`."""
        return build_shop(self.weeks, part.items, unit_costs, self.arguments)


@dataclass(frozen=True)
class Matches:
    """How a price path relates to what the manager did.

    Attributes:
        rungs: Rung of every price on the ladder, `(N, W)`; -1 = no reference price, or off the ladder.
        asked: True = the manager decided there, and a rung is known, bool.
        propensities: Of the logged rung given the logged promotion, `(N, W)`; 1 where nothing was decided.
        targets: 1 where the policy charges the logged rung, else 0.
        shares: Probability of every rung given the logged promotion, `(N, W, rungs)`, NaN where nothing was decided.
        chances: Probability that the manager would have charged the policy's rung under the logged promotion; NaN
            where nothing was decided.
    """

    rungs: np.ndarray
    asked: np.ndarray
    propensities: np.ndarray
    targets: np.ndarray
    shares: np.ndarray
    chances: np.ndarray


@dataclass(frozen=True)
class PathValue:
    """What one path earns; currency per item over all valued periods.

    Attributes:
        value: All categories together.
        by_category: Each category on its own.
        ratios: Importance ratios of the logged decisions, `(N, W)`.
        returns: Simulated histories, `(N, draws)`.
        units: Expected units over all periods, `(N,)`.
        item_values: Expected value of each item, `(N,)`.
    """

    value: PolicyValue
    by_category: dict[str, PolicyValue]
    ratios: np.ndarray
    returns: np.ndarray
    units: np.ndarray
    item_values: np.ndarray


def match_decisions(bench: Bench, prices: np.ndarray) -> Matches:
    """Compare a price path with the log's decisions; promotions are the manager's, so that they are given.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.

    Returns:
        Rungs and probabilities.
    """
    weeks, log = bench.weeks, bench.behavior.log
    valued = slice(weeks.first, None)
    rungs, gaps = place_on_ladder(prices / log.reference_prices[:, valued], log.price_ladder)
    # Further than half a step beyond the last rung there is no price that could be matched.
    rungs = np.where(gaps <= 0.5 * bench.arguments.price_ladder_step + 1e-9, rungs, -1)
    decided = log.decided[:, valued]
    promoted = log.promoted[:, valued, None]
    given = bench.behavior.promotion_probabilities[:, valued]
    joint = bench.behavior.rung_probabilities[:, valued] * np.where(promoted > 0, given, 1.0 - given)
    if log.promotions is None:
        joint = bench.behavior.rung_probabilities[:, valued]
    shares = joint / joint.sum(axis=2, keepdims=True)

    def take(places: np.ndarray) -> np.ndarray:
        return np.take_along_axis(shares, np.maximum(places, 0)[..., None], 2)[..., 0]

    logged = log.rungs[:, valued]
    asked = decided & np.isfinite(log.reference_prices[:, valued])
    return Matches(
        rungs=rungs,
        asked=asked,
        propensities=np.where(asked, take(logged), 1.0),
        targets=np.where(asked & (rungs == logged) & (rungs >= 0), 1.0, 0.0),
        shares=shares,
        chances=np.where(asked, np.where(rungs >= 0, take(rungs), 0.0), np.nan),
    )


def weigh_decisions(bench: Bench, matches: Matches) -> DecisionWeights:
    """Importance ratios of a path, propensities raised to the floor.

    Args:
        bench: What policies are judged with.
        matches: From `match_decisions`.

    Returns:
        Ratios, and the share of the weight that the floor cut.

    Raises:
        ValueError: If the path charges none of the logged prices.
    """
    used = bench.informative & matches.asked
    return compute_decision_weights(
        np.where(used, matches.targets, 0.0), matches.propensities, used, bench.arguments.propensity_floor
    )


def find_unmatched(bench: Bench, matches: Matches) -> tuple[str, ...]:
    """Categories in which a path charges none of the prices that the log knows.

    Args:
        bench: What policies are judged with.
        matches: From `match_decisions`.

    Returns:
        Their labels.
    """
    hits = bench.informative & (matches.targets > 0)
    return tuple(part.category for part in bench.demands if not hits[part.items].any())


def value_path(
    bench: Bench,
    prices: np.ndarray,
    unit_costs: np.ndarray,
    weights: DecisionWeights,
    is_corrected: bool = True,
    members: np.ndarray | None = None,
) -> PathValue:
    """Value of a price path under the log's promotions.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.
        unit_costs: Currency, `(N, W)`.
        weights: Ratios of the logged decisions; all 1 = the manager himself.
        is_corrected: False = the demand model alone.
        members: Items whose mean value is asked, bool, `(N,)`; None = all.

    Returns:
        Value per item over all periods.
    """
    shape, draws = bench.weeks.units.shape, bench.arguments.value_draws
    chosen = np.ones(shape[0], dtype=bool) if members is None else members
    settings = StructuredSettings(draws=draws, seed=bench.seed, is_corrected=is_corrected)
    returns, units, item_values = np.zeros((shape[0], draws)), np.zeros(shape[0]), np.zeros(shape[0])
    by_category: dict[str, PolicyValue] = {}
    for part in bench.demands:
        if not chosen[part.items].any():
            continue
        own = DecisionWeights(weights.ratios[part.items], weights.trimmed_mass)
        path = PathPolicy(prices[part.items])
        shop = bench.shop(part, unit_costs)
        found = estimate_structured(part.demand, shop, path, own, settings, chosen[part.items])
        assert found.outcome is not None
        by_category[part.category] = found
        returns[part.items] = found.outcome.returns
        units[part.items] = found.outcome.demand.mean(axis=1)
        item_values[part.items] = found.outcome.values.mean(axis=1)
    parts = [part for part in bench.demands if part.category in by_category]
    value = PolicyValue(
        STRUCTURED if is_corrected else MODEL_ALONE,
        _join(bench, [(part, by_category[part.category].contributions) for part in parts]),
        compute_effective_sample_size(weights.ratios),
        weights.trimmed_mass,
    )
    return PathValue(value, by_category, weights.ratios, returns, units, item_values)


def value_log(weeks: ValuedWeeks, unit_costs: np.ndarray, ratios: np.ndarray | None = None) -> PolicyValue:
    """Mean margin of the recorded item-periods, plain or weighted by importance ratios: no demand model.

    Args:
        weeks: The valued weeks.
        unit_costs: Currency, `(N, W)`.
        ratios: Of a policy, `(N, W)`; None = the manager himself.

    Returns:
        Currency per item and period.
    """
    rewards = (weeks.recorded_prices - unit_costs) * weeks.units
    seen = np.isfinite(rewards)
    items, periods = np.nonzero(seen)
    target = np.ones(len(items)) if ratios is None else ratios[seen]
    log = LoggedTrajectories(
        rewards=rewards[seen][:, None],
        propensities=np.ones((len(items), 1)),
        target_propensities=target[:, None],
        clusters=weeks.clusters[items],
        weeks=periods[:, None],
    )
    found = estimate_per_decision_importance(log, compute_importance_ratios(log), self_normalized=True)
    name = LOG_MEAN if ratios is None else WEIGHTED_LOG
    return PolicyValue(name, found.contributions, found.effective_sample_size)


def bound_path(bench: Bench, prices: np.ndarray, unit_costs: np.ndarray, matches: Matches) -> dict[float, ValueBounds]:
    """Range of a path's value for every sensitivity, currency per item over all periods.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.
        unit_costs: Currency, `(N, W)`.
        matches: From `match_decisions`.

    Returns:
        Range by sensitivity; the categories' worst cases are added up.
    """
    floor = bench.arguments.propensity_floor
    targets = np.where(bench.informative, matches.targets, 0.0)
    found = {}
    for sensitivity in SENSITIVITIES:
        bounds = compute_weight_bounds(targets, np.maximum(matches.propensities, floor), sensitivity)
        ends = np.zeros(2)
        for part in bench.demands:
            own = WeightBounds(*(column[part.items] for column in bounds))
            draws = bench.arguments.value_draws if bench.weeks.has_stock else 1
            shop, path = bench.shop(part, unit_costs), PathPolicy(prices[part.items])
            values = bound_structured(part.demand, shop, path, own, draws, bench.seed).values
            ends += len(part.items) / len(prices) * np.array(values)
        found[sensitivity] = ValueBounds(float(ends[0]), float(ends[1]))
    return found


def bound_path_by_level(
    bench: Bench, prices: np.ndarray, unit_costs: np.ndarray, weights: DecisionWeights, matches: Matches
) -> dict[float, ValueBounds]:
    """The same if what the manager may have known is how strong demand will be, at all prices alike.

    Args:
        bench: What policies are judged with.
        prices: Currency, `(N, W)`.
        unit_costs: Currency, `(N, W)`.
        weights: From `weigh_decisions`.
        matches: From `match_decisions`.

    Returns:
        Range by sensitivity; the categories' worst cases are added up.
    """
    draws = bench.arguments.value_draws if bench.weeks.has_stock else 1
    found = {sensitivity: np.zeros(2) for sensitivity in SENSITIVITIES}
    for part in bench.demands:
        actions = _tabulate_actions(bench, part, matches)
        shop, path = bench.shop(part, unit_costs), PathPolicy(prices[part.items])
        own = DecisionWeights(weights.ratios[part.items], weights.trimmed_mass)
        for sensitivity, ends in found.items():
            bounds = bound_structured_by_level(part.demand, shop, path, own, actions, sensitivity, draws, bench.seed)
            ends += len(part.items) / len(prices) * np.array(bounds.values)
    return {sensitivity: ValueBounds(float(low), float(high)) for sensitivity, (low, high) in found.items()}


def _tabulate_actions(bench: Bench, part: CategoryDemand, matches: Matches) -> ActionTable:
    """What could have been charged in the informative decisions of a category, promotions given."""
    log, first = bench.behavior.log, bench.weeks.first
    used = np.zeros(matches.asked.shape, dtype=bool)
    used[part.items] = True
    used &= bench.informative & matches.asked & (matches.rungs >= 0)
    rows = np.flatnonzero(used.ravel())
    shares = np.maximum(matches.shares.reshape(-1, log.num_rungs)[rows], bench.arguments.propensity_floor)
    target = np.eye(log.num_rungs)[matches.rungs.ravel()[rows]]
    log_mean = np.zeros(used.shape)
    log_mean[part.items] = part.demand.compute_logged_log_mean()
    logged = log.rungs[:, first:].ravel()[rows]
    # In the week itself the remembered price stays where it was.
    slope, steps = part.elasticity - (part.memory or 0.0), np.log(log.price_ladder)
    mean = np.exp(log_mean.ravel()[rows, None] + slope * (steps - steps[logged][:, None]))
    return ActionTable(target, shares / shares.sum(axis=1, keepdims=True), mean)


def _join(bench: Bench, parts: Sequence[tuple[CategoryDemand, Contributions]]) -> Contributions:
    """Categories as one mean over all of their items: numerators and denominators simply add up."""
    rows = []
    for part, own in parts:
        labels = np.unique(part.demand.log.clusters)
        rows.append(Rows(own.numerators, own.denominators, labels[own.clusters], own.weeks))
    num_clusters = int(bench.weeks.clusters.max()) + 1
    return build_contributions([rows], num_clusters, bench.weeks.units.shape[1])
