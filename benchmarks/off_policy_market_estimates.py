"""Estimates for benchmarks/off_policy_markets.py: every estimator, and wrong ways to read a log, from one log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from off_policy_market_shops import COST_SHARE, HISTORY, LADDER, LEAN, BoundRule, MarketLog, Rule, get_season

from pricing_fm.evaluation.off_policy import (
    BehaviorSettings,
    Contributions,
    DecisionFeatures,
    DecisionWeights,
    DemandDesign,
    FittedDemand,
    ImportanceRatios,
    LeastSquares,
    LoggedTrajectories,
    ModelValues,
    PolicyValue,
    StructuredSettings,
    bootstrap_value,
    compute_decision_weights,
    compute_importance_ratios,
    cross_fit_q,
    estimate_direct,
    estimate_doubly_robust,
    estimate_fitted_q,
    estimate_marginalized,
    estimate_marginalized_doubly_robust,
    estimate_per_decision_importance,
    estimate_structured,
    estimate_t_interval,
    estimate_trajectory_importance,
    fit_behavior,
    fit_demand,
    fit_state_model,
    subtract_contributions,
)

FLOOR = 0.01  # of propensities
# Some thousand decisions: a prior of ten keeps forty coefficients from following chance.
BEHAVIOR = BehaviorSettings(folds=3, calibration_folds=0, penalty=10.0)
# Precision of the prior of a unit's effect on log demand: it speaks where all of a unit's weeks sold out.
EFFECT_PENALTY = 1.0
REPLICATES, LEVEL = 400, 0.9

STRUCTURED = "structured"
NAIVE = ("model_alone", "sales_as_demand", "drop_sold_out", "no_memory")
TRAJECTORY = (
    *("fitted_q", "direct", "marginalized", "marginalized_dr", "doubly_robust_sn", "doubly_robust"),
    *("per_decision_sn", "per_decision", "trajectory_sn", "trajectory"),
)
ESTIMATORS = (STRUCTURED, *NAIVE, *TRAJECTORY)
FIELDS = (
    *("value", "lower", "upper", "gain", "gain_lower", "gain_upper"),
    *("two_way_lower", "two_way_upper", "two_way_gain_lower", "two_way_gain_upper"),
    *("student_lower", "student_upper", "sample_size"),
)


@dataclass(frozen=True)
class Nuisances:
    """What is learned from a log before any policy is valued.

    Attributes:
        propensities: Of the logged rungs under the manager, `(units, weeks)`.
        demand: Demand models by the name of the estimator that uses them.
    """

    propensities: np.ndarray
    demand: dict[str, FittedDemand]


def estimate_propensities(market: MarketLog) -> np.ndarray:
    """Of the logged rungs, by the behaviour model, cross-fitted by product, `(units, weeks)`."""
    return fit_behavior(market.decisions, BEHAVIOR).logged_propensities[:, HISTORY:]


def describe_calendar(market: MarketLog) -> np.ndarray:
    """What no policy moves: a constant, the season and the signal, `(units, weeks, 4)`."""
    season, shape = get_season(market.rungs.shape[1])[HISTORY:], market.rungs.shape
    calendar = np.stack([np.ones_like(season), np.sin(season), np.cos(season)], axis=-1)
    return np.concatenate([np.broadcast_to(calendar, (*shape, 3)), market.signals[..., None]], axis=-1)


def fit_market_demand(market: MarketLog, has_memory: bool = True, **changed: np.ndarray) -> FittedDemand:
    """Demand with an effect of each unit, season, signal, price and price state, from a log with changed columns."""
    log, covariates = replace(market.demand, **changed), describe_calendar(market)
    design = DemandDesign(covariates, has_reference_price=has_memory, has_recent_discount=has_memory)
    return fit_demand(log, design, groups=np.arange(len(log.units)), group_penalty=EFFECT_PENALTY)


def fit_nuisances(market: MarketLog, has_naive: bool) -> Nuisances:
    """Behaviour and demand by the package's own generalised linear models."""
    log = market.demand
    demand = {"structured": fit_market_demand(market)}
    if has_naive:
        sold_out = (log.stock > 0) & (log.units >= log.stock)
        demand["sales_as_demand"] = fit_market_demand(market, stock=np.full(log.units.shape, np.inf))
        demand["drop_sold_out"] = fit_market_demand(market, units=np.where(sold_out, np.nan, log.units))
        demand["no_memory"] = fit_market_demand(market, has_memory=False)
    return Nuisances(estimate_propensities(market), demand)


def get_logged_chances(market: MarketLog, rule: Rule) -> np.ndarray:
    """Probability of the logged rungs under a rule, `(units, weeks)`."""
    target = rule.compute_probabilities(market.last, market.signals)
    return np.asarray(np.take_along_axis(target, market.rungs[..., None], axis=2)[..., 0])


def weigh_decisions(
    market: MarketLog, rule: Rule, propensities: np.ndarray, informative: np.ndarray
) -> DecisionWeights:
    """Ratios of single decisions, for the correction of demand."""
    return compute_decision_weights(get_logged_chances(market, rule), propensities, informative, FLOOR)


def estimate_by_structure(market: MarketLog, rule: Rule, nuisances: Nuisances, name: str, draws: int) -> PolicyValue:
    """The structured estimator, or what it would be were the log read otherwise."""
    demand = nuisances.demand.get(name, nuisances.demand["structured"])
    informative = demand.rows.counts.informative.reshape(market.rungs.shape)
    weights = weigh_decisions(market, rule, nuisances.propensities, informative)
    settings = StructuredSettings(draws=draws, is_corrected=name != "model_alone")
    return estimate_structured(demand, market.shop, BoundRule(rule, market.signals), weights, settings)


@dataclass(frozen=True)
class Trajectories:
    """A log as the estimators of trajectories want it, for one policy."""

    log: LoggedTrajectories
    ratios: ImportanceRatios
    decisions: DecisionFeatures
    values: ModelValues


def build_trajectories(market: MarketLog, rule: Rule, propensities: np.ndarray) -> Trajectories:
    """Rewards, ratios, states and cross-fitted values; discrete states are the last rung and a shelf half full."""
    level = _get_level(market)
    log = LoggedTrajectories(
        market.rewards,
        propensities,
        get_logged_chances(market, rule),
        market.demand.clusters,
        market.demand.weeks,
        states=2 * market.last + (market.demand.stock >= 0.5 * level),
    )
    decisions = describe_decisions(market, rule)
    values = cross_fit_q(log, decisions, [LeastSquares(1e-3)])
    return Trajectories(log, compute_importance_ratios(log, FLOOR), decisions, values)


def describe_decisions(market: MarketLog, rule: Rule) -> DecisionFeatures:
    """State and rung for the critics, all in proportion to what a unit can earn in a week."""
    level, states, list_prices = _get_level(market), market.states, market.demand.list_prices
    known = [
        np.ones(market.rungs.shape),
        market.signals,
        market.demand.stock / level,
        states.log_memory - np.log(list_prices),
        states.depth,
    ]
    state, shape = np.stack(known, axis=-1)[:, :, None, :], (*market.rungs.shape, len(LADDER))
    rung = np.broadcast_to(np.eye(len(LADDER))[:, 1:], (*shape, len(LADDER) - 1))
    crossed = state[..., 1:3] * LEAN[:, None]
    features = np.concatenate([np.broadcast_to(state, (*shape, len(known))), rung, crossed], axis=-1)
    size = level * list_prices * (1.0 - COST_SHARE)
    return DecisionFeatures(
        features * size[:, :, None, None], rule.compute_probabilities(market.last, market.signals), market.rungs
    )


def estimate_by_trajectories(name: str, given: Trajectories) -> PolicyValue:
    """One of the estimators of trajectories."""
    log, ratios, values = given.log, given.ratios, given.values
    calls: dict[str, Callable[[], PolicyValue]] = {
        "fitted_q": lambda: estimate_fitted_q(log, given.decisions),
        "direct": lambda: estimate_direct(log, values),
        "marginalized": lambda: estimate_marginalized(log, ratios),
        "marginalized_dr": lambda: estimate_marginalized_doubly_robust(
            log, ratios, fit_state_model(log, ratios).ratios, values
        ),
        "doubly_robust": lambda: estimate_doubly_robust(log, ratios, values),
        "doubly_robust_sn": lambda: estimate_doubly_robust(log, ratios, values, self_normalized=True),
        "per_decision": lambda: estimate_per_decision_importance(log, ratios),
        "per_decision_sn": lambda: estimate_per_decision_importance(log, ratios, self_normalized=True),
        "trajectory": lambda: estimate_trajectory_importance(log, ratios),
        "trajectory_sn": lambda: estimate_trajectory_importance(log, ratios, self_normalized=True),
    }
    return calls[name]()


def describe_value(value: PolicyValue, manager: PolicyValue, has_checks: bool) -> list[float]:
    """The numbers of `FIELDS`; the gain is that over the manager's rule by the same estimator.

    Args:
        value: Of a policy.
        manager: Of the manager's rule.
        has_checks: Whether intervals two-way with weeks, and Student's, are asked for.

    Returns:
        Numbers, NaN for what is not asked for.

    Raises:
        RefusalError: If too few units carry weight for an interval.
    """
    own = value.contributions
    gain = None if value is manager else subtract_contributions(own, manager.contributions)
    found = [value.value, *_bootstrap(own, False)]
    found += [np.nan] * 3 if gain is None else [gain.value, *_bootstrap(gain, False)]
    if has_checks:
        student = estimate_t_interval(own, LEVEL, two_way=False)
        found += [*_bootstrap(own, True), *([np.nan] * 2 if gain is None else _bootstrap(gain, True))]
        found += [student.lower, student.upper]
    else:
        found += [np.nan] * 6
    return [*found, value.effective_sample_size]


def _bootstrap(contributions: Contributions, resample_weeks: bool) -> tuple[float, float]:
    drawn = bootstrap_value(contributions, resample_weeks, REPLICATES).interval(LEVEL)
    return drawn.lower, drawn.upper


def _get_level(market: MarketLog) -> np.ndarray:
    """Usual units on hand and on order, `(units, 1)`."""
    level: np.ndarray = market.shop.stock.level
    return level.reshape(len(level), -1)[:, :1]
