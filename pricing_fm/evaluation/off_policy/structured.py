"""The structured estimator: demand is learned from the log, everything after demand is known and need not be learned.

Demand given price, calendar and price state is fitted by the censored likelihood, corrected once by the propensities
(doubly robust for mean demand), and pushed through the known recursion of stock, remembered price and recent discount.
The effective sample size does not shrink with the horizon, as it does when whole trajectories are weighted.

It assumes that demand given price path, calendar and observed state does not depend on the own stock: no spill-over
between items, no customers who wait, no stock ordered on private signals of demand. `stock_test` looks for the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from pricing_fm.evaluation.off_policy.censored_counts import compute_count_terms, compute_demand_residuals
from pricing_fm.evaluation.off_policy.censored_regression import compute_parameter_influences
from pricing_fm.evaluation.off_policy.contributions import NO_WEEK, PolicyValue, Rows, build_contributions
from pricing_fm.evaluation.off_policy.demand_model import FittedDemand
from pricing_fm.evaluation.off_policy.shop import Decision, Outcome, PricePolicy, Shop, Situation, run_shop
from pricing_fm.evaluation.off_policy.value_slopes import SlopeRecorder
from pricing_fm.evaluation.off_policy.weights import compute_effective_sample_size

_LARGEST_CORRECTION = 5.0  # of log demand: a model that is off by a factor of 150 is no model


@dataclass(frozen=True)
class DecisionWeights:
    """How the policy to be valued relates to the logged decisions.

    Attributes:
        ratios: Target over logging probability (density) of each logged decision in its logged state, `(units,
            periods)`; 0 where the policy would not have done it, and where nothing is known.
        trimmed_mass: Share of the target policy's weight that rested on decisions below the floor.
    """

    ratios: np.ndarray
    trimmed_mass: float


def compute_decision_weights(
    target_propensities: np.ndarray, propensities: np.ndarray, informative: np.ndarray, floor: np.ndarray | float = 0.0
) -> DecisionWeights:
    """Ratios of single decisions.

    Args:
        target_propensities: Of the logged decision under the policy to be valued, in the logged state, `(units,
            periods)`; for one continuous price per state see `price_density.compute_kernel_propensities`.
        propensities: Of the same decision under the logging policy, > 0 where informative.
        informative: True = the period says something about demand, bool.
        floor: Least propensity that is divided by, a number or, where probabilities stand beside densities, `(units,
            periods)`.

    Returns:
        Ratios and trimmed mass.

    Raises:
        ValueError: If a propensity is not positive, or the policy takes none of the logged decisions.
    """
    if np.any(informative & ~((propensities > 0) & (target_propensities >= 0))):
        raise ValueError("propensities must be positive, and target propensities 0 or more, in informative periods")
    safe = np.where(informative, propensities, 1.0)
    raw = np.where(informative, target_propensities / safe, 0.0)
    if not raw.sum() > 0.0:
        raise ValueError("the policy takes none of the logged decisions; the log says nothing of its demand")
    ratios = np.where(informative, target_propensities / np.maximum(safe, floor), 0.0)
    return DecisionWeights(ratios, float(raw[informative & (safe < floor)].sum() / raw.sum()))


@dataclass(frozen=True)
class StructuredSettings:
    """How the estimator runs.

    Attributes:
        draws: Histories per unit, 2 or more.
        seed: Seed of the luck that all policies share.
        is_corrected: False = the outcome model alone, without the propensities.
    """

    draws: int = 64
    seed: int = 0
    is_corrected: bool = True


@dataclass(frozen=True)
class StructuredValue(PolicyValue):
    """A policy's value by the structured estimator.

    Attributes:
        log_correction: Log of the factor by which the propensities correct mean demand; 0 = the model was right.
        outcome: What each unit earned in each draw.
    """

    log_correction: float = 0.0
    outcome: Outcome | None = None


def estimate_log_correction(demand: FittedDemand, ratios: np.ndarray) -> float:
    """Log factor on mean demand at which importance-weighted residuals of demand sum to zero.

    With right propensities mean demand under the policy is then right in the logged states whatever the model; with a
    right model the factor is 1 whatever the propensities. A factor keeps demand positive and can be carried to states
    that were never logged, which an additive correction cannot. Residuals of sold-out periods are expectations given
    that the stock was reached; how far demand went beyond it is the model's word alone.

    Args:
        demand: The outcome model.
        ratios: Of the logged decisions, `(units, periods)`.

    Returns:
        Log of the factor.

    Raises:
        ValueError: If no factor within exp(+-5) balances the residuals.

    References:
        Robins, Rotnitzky and Zhao 1994; Bang and Robins 2005; as a fluctuation of the outcome model: van der Laan and
        Rubin 2006, "Targeted maximum likelihood learning".
    """
    log_mean, counts = demand.compute_logged_log_mean().ravel(), demand.rows.counts
    weights = ratios.ravel()

    def imbalance(shift: float) -> float:
        return float(weights @ compute_demand_residuals(counts, log_mean + shift, demand.overdispersion))

    low, high = imbalance(-_LARGEST_CORRECTION), imbalance(_LARGEST_CORRECTION)
    if not low > 0.0 > high:
        raise ValueError(
            "no correction of the demand model balances its residuals: the policy's weeks sold nothing, or all"
        )
    return float(brentq(imbalance, -_LARGEST_CORRECTION, _LARGEST_CORRECTION, xtol=1e-12))


def estimate_structured(
    demand: FittedDemand,
    shop: Shop,
    policy: PricePolicy,
    weights: DecisionWeights,
    settings: StructuredSettings | None = None,
    members: np.ndarray | None = None,
) -> StructuredValue:
    """Value of a policy by corrected demand and known recursion.

    Contributions are each unit's own value plus the influence of each logged week on it through the fitted parameters
    and the correction, by the chain rule (derivatives of the value: `value_slopes`). Propensities are taken as given.

    Args:
        demand: Demand fitted to the log.
        shop: What is known of the same units over the same periods.
        policy: The policy.
        weights: Ratios of the logged decisions.
        settings: How to run; None = the defaults.
        members: True = the units whose mean value is asked, bool, `(units,)`; None = all. All units teach demand.

    Returns:
        The value per unit over the horizon, with contributions and outcomes.

    Raises:
        ValueError: If shapes differ, nobody is a member, or no correction balances the residuals.
    """
    settings = settings or StructuredSettings()
    chosen = np.ones(len(demand.log.units), bool) if members is None else np.asarray(members, bool)
    shape = demand.log.units.shape
    if shop.list_prices.shape != shape or chosen.shape != shape[:1] or not chosen.any():
        raise ValueError("shop, log and members must speak of the same units and periods, with a member at least")
    correction = estimate_log_correction(demand, weights.ratios) if settings.is_corrected else 0.0
    corrected = replace(demand, added_effects=demand.added_effects + correction)
    outcome, slopes = _run_with_slopes(corrected, shop, policy, settings, chosen)
    moves = _compute_week_influences(demand, weights.ratios, correction, slopes, settings.is_corrected)
    labels, clusters = np.unique(demand.log.clusters, return_inverse=True)
    week_labels, weeks = np.unique(demand.log.weeks, return_inverse=True)
    own = Rows(outcome.values.mean(axis=1) * chosen, chosen.astype(float), clusters, np.full(len(clusters), NO_WEEK))
    learned = Rows(
        chosen.sum() * moves.reshape(shape),
        np.zeros(shape),
        np.broadcast_to(clusters[:, None], shape),
        weeks.reshape(shape),
    )
    contributions = build_contributions([[own, learned]], len(labels), len(week_labels))
    size = compute_effective_sample_size(weights.ratios)
    return StructuredValue("structured", contributions, size, weights.trimmed_mass, correction, outcome)


@dataclass(frozen=True)
class _Slopes:
    """Derivatives of the mean value.

    Attributes:
        coefficients: `(columns,)`; of the regression's coefficients.
        log_overdispersion: Of the log of the overdispersion.
        units: Of each unit's log mean demand, `(units,)`: they sum to the derivative by the correction.
    """

    coefficients: np.ndarray
    log_overdispersion: float
    units: np.ndarray


def _run_with_slopes(
    demand: FittedDemand, shop: Shop, policy: PricePolicy, settings: StructuredSettings, members: np.ndarray
) -> tuple[Outcome, _Slopes]:
    """Run the shop and differentiate its mean value over members."""

    def build(situation: Situation, decision: Decision) -> np.ndarray:
        return demand.design.build(situation.period, situation.list_price, situation.prices, decision)

    recorder = SlopeRecorder(demand.overdispersion, build)
    outcome = run_shop(shop, policy, demand, settings.draws, settings.seed, watch=recorder.watch)
    found, share = recorder.compute_slopes(), members / members.sum()
    dispersion = float(share @ found.log_overdispersion) if demand.fit.is_dispersion_fitted else 0.0
    return outcome, _Slopes(share @ found.coefficients, dispersion, share * found.log_mean)


def _compute_week_influences(
    demand: FittedDemand, ratios: np.ndarray, correction: float, slopes: _Slopes, is_corrected: bool
) -> np.ndarray:
    """Move of the mean value when a row of the log counts twice, through parameters and correction, `(rows,)`."""
    influences = compute_parameter_influences(demand.rows, demand.fit)
    parameters = np.column_stack([influences.coefficients, influences.log_overdispersion])
    groups, periods = demand.rows.groups, demand.log.units.shape[1]

    def follow(by_parameter: np.ndarray, by_unit: np.ndarray) -> np.ndarray:
        """Move of a quantity with these derivatives when each row counts twice."""
        if groups is None:
            return parameters @ by_parameter
        by_group = np.bincount(groups[::periods], by_unit, minlength=demand.rows.num_groups)
        return (
            parameters @ (by_parameter + by_group @ influences.effect_slopes) + by_group[groups] * influences.own_effect
        )

    moved = follow(np.append(slopes.coefficients, slopes.log_overdispersion), slopes.units)
    if not is_corrected:
        return moved
    log_mean = demand.compute_logged_log_mean().ravel() + correction
    counts, weights, a = demand.rows.counts, ratios.ravel(), demand.overdispersion
    terms, mean = compute_count_terms(counts, log_mean, a), np.exp(log_mean)
    residuals = (1.0 + a * mean) * terms.score
    by_log_mean = weights * (a * mean * terms.score - (1.0 + a * mean) * terms.curvature)
    by_dispersion = 0.0
    if demand.fit.is_dispersion_fitted:
        up, down = (compute_demand_residuals(counts, log_mean, a * np.exp(sign * 1e-3)) for sign in (1.0, -1.0))
        by_dispersion = float(weights @ (up - down) / 2e-3)
    by_parameter = np.append(demand.rows.design.T @ by_log_mean, by_dispersion)
    imbalance = weights * residuals + follow(by_parameter, by_log_mean.reshape(-1, periods).sum(axis=1))
    return moved - slopes.units.sum() * imbalance / by_log_mean.sum()
