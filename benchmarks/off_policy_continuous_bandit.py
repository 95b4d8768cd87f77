"""One-step logs for benchmarks/off_policy_continuous.py: a manager's continuous prices, confounded, and every estimate.

`smooth`: location and scale of log prices follow what everybody sees, their law is skewed; profit is exponential in
price and customer, which the linear outcome model is not. So the density can be learned and the outcome cannot.
`two_prices`: a regular and a promoted price take turns by who the customer is, which no location and scale can say; the
outcome is linear, as the model has it. Customers decide twice and share a shock; they are the clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from pricing_fm.evaluation.off_policy import (
    LeastSquares,
    LoggedTrajectories,
    ModelValues,
    OneStepLog,
    OneStepOutcome,
    OneStepValue,
    PolicyValue,
    RandomisedDecisions,
    RefusalError,
    compute_group_policy,
    compute_importance_ratios,
    compute_kernel_densities,
    estimate_behavior_value,
    estimate_direct,
    estimate_doubly_robust,
    estimate_from_log,
    estimate_t_interval,
    estimate_trajectory_importance,
    fit_nuisances,
    fit_price_density,
    measure_rank_calibration,
)
from pricing_fm.evaluation.off_policy.one_step_models import assign_cluster_folds
from pricing_fm.metrics import Interval

CUSTOMERS, DECISIONS = 500, 2
FOLDS, RIDGE, RUNGS = 5, 1e-4, 9
BANDWIDTHS = (0.05, 0.1, 0.2, 0.3)
FLOOR_SHARE = 0.05  # of the median density, below which a price's is raised
COST, SHOCK = 0.6, 0.3
LEVEL = 0.9
_EULER = 0.5772156649015329
POLICIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one_price": lambda x: np.full(len(x), -0.05),
    "cut": lambda x: -0.15 + 0.03 * x[:, 0],
    "by_customer": lambda x: -0.05 + 0.08 * x[:, 0],
}


@dataclass(frozen=True)
class World:
    """Who writes the log, and what comes of a price.

    Attributes:
        draw_prices: Log prices and their true density, from the customers and chance.
        expect: Mean reward of log prices, currency.
        draw_rewards: Rewards of log prices, given each row's shock, currency.
    """

    draw_prices: Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
    expect: Callable[[np.ndarray, np.ndarray], np.ndarray]
    draw_rewards: Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def _draw_skewed(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Gumbel residuals, standardised, about a curved location."""
    location = 0.06 * x[:, 0] + 0.03 * (x[:, 0] ** 2 - 1.0)
    scale = 0.12 * np.exp(0.3 * x[:, 1]) * np.sqrt(6.0) / np.pi
    raw = rng.gumbel(size=len(x))
    return location + scale * (raw - _EULER), np.exp(-raw - np.exp(-raw)) / scale


def _draw_in_turn(x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Promoted prices for some customers more often than for others."""
    chance, middle, spread = 1.0 / (1.0 + np.exp(x[:, 0])), 0.03 * x[:, 1], 0.08
    high, low = middle + 0.05, middle - 0.25
    log_prices = np.where(rng.random(len(x)) < chance, low, high) + spread * rng.normal(size=len(x))
    density = chance * norm.pdf(log_prices, low, spread) + (1.0 - chance) * norm.pdf(log_prices, high, spread)
    return log_prices, density


def _compute_log_units(x: np.ndarray, log_prices: np.ndarray) -> np.ndarray:
    return 1.0 + 0.5 * x[:, 0] + 0.3 * x[:, 1] - (2.0 + 0.3 * x[:, 2]) * log_prices


def _sell(x: np.ndarray, log_prices: np.ndarray, shocks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Counts whose mean is `_compute_log_units`, times the margin."""
    mean = np.exp(_compute_log_units(x, log_prices) + SHOCK * shocks - 0.5 * SHOCK**2)
    return (np.exp(log_prices) - COST) * rng.poisson(mean)


def _expect_linear(x: np.ndarray, log_prices: np.ndarray) -> np.ndarray:
    return 4.0 + x[:, 0] + 0.5 * x[:, 1] - 3.0 * log_prices - x[:, 2] * log_prices


WORLDS = {
    "smooth": World(
        _draw_skewed, lambda x, p: (np.exp(p) - COST) * np.exp(_compute_log_units(x, p)), _sell
    ),
    "two_prices": World(
        _draw_in_turn, _expect_linear, lambda x, p, shocks, rng: _expect_linear(x, p) + shocks + rng.normal(size=len(x))
    ),
}  # fmt: skip


class BanditLog(NamedTuple):
    """What was logged, `(rows,)` each, covariates `(rows, 3)`."""

    x: np.ndarray
    log_prices: np.ndarray
    density: np.ndarray
    rewards: np.ndarray
    clusters: np.ndarray


def draw_log(world: World, seed: list[int]) -> BanditLog:
    """Customers, prices and rewards at random."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(CUSTOMERS * DECISIONS, 3))
    log_prices, density = world.draw_prices(x, rng)
    shocks = np.repeat(rng.normal(size=CUSTOMERS), DECISIONS)
    rewards = world.draw_rewards(x, log_prices, shocks, rng)
    return BanditLog(x, log_prices, density, rewards, np.repeat(np.arange(CUSTOMERS), DECISIONS))


def compute_bandit_truths(world: World, rows: int = 2_000_000) -> dict[str, float]:
    """Mean reward of every policy, and of the manager, over customers; Monte Carlo error about 0.1 %."""
    rng = np.random.default_rng(1_000_003)
    x = rng.normal(size=(rows, 3))
    truths = {name: float(world.expect(x, policy(x)).mean()) for name, policy in POLICIES.items()}
    return truths | {"manager": float(world.expect(x, world.draw_prices(x, rng)[0]).mean())}


def estimate_bandit(world: World, seed: list[int]) -> list[dict[str, object]]:
    """Every policy by every estimator from one log: value, interval, effective sample size and trimmed mass."""
    log = draw_log(world, seed)
    x, size = log.x, len(log.x)
    seen = np.column_stack([x, x[:, :2] ** 2])
    density = fit_price_density(log.log_prices, seen, log.clusters)
    known = np.maximum(log.density, FLOOR_SHARE * float(np.median(log.density)))  # its own tails are thin as well
    predict = _cross_fit_outcome(log)
    calibration = measure_rank_calibration(density.ranks, seen)
    rows: list[dict[str, object]] = []
    for policy, name_prices in POLICIES.items():
        named = name_prices(x)
        values = ModelValues(predict(log.log_prices)[:, None], predict(named)[:, None])
        found: dict[str, PolicyValue] = {}
        for kind, propensities in (("known", known), ("estimated", density.propensities)):
            floor = float(density.choose_floors(FLOOR_SHARE)[0]) if kind == "estimated" else 0.0
            for bandwidth in BANDWIDTHS:
                wanted = compute_kernel_densities(log.log_prices, named, bandwidth)
                trajectories = LoggedTrajectories(
                    log.rewards[:, None], propensities[:, None], wanted[:, None], log.clusters
                )
                ratios = compute_importance_ratios(trajectories, floor)
                found[f"importance_{kind}_{bandwidth:g}"] = estimate_trajectory_importance(trajectories, ratios, True)
                robust = estimate_doubly_robust(trajectories, ratios, values, True)
                found[f"doubly_robust_{kind}_{bandwidth:g}"] = robust
        found["direct"], found["log_mean"] = (
            estimate_direct(trajectories, values),
            estimate_behavior_value(trajectories),
        )
        for name, value in found.items():
            try:
                ends = estimate_t_interval(value.contributions, LEVEL, two_way=False)
            except RefusalError:
                continue  # too few customers carry the weight: counted
            rows.append(_describe(policy, name, ends, value.effective_sample_size, value.trimmed_mass))
        for name, one in _estimate_on_rungs(log, named).items():
            reach = norm.ppf(0.5 + 0.5 * LEVEL) * one.error
            ends = Interval(one.value, one.value - reach, one.value + reach)
            rows.append(_describe(policy, f"{name}_rungs", ends, one.effective_sample_size, 0.0))
    return [row | {"misplaced": calibration.error, "noise": calibration.noise, "size": size} for row in rows]


def _describe(policy: str, estimator: str, ends: Interval, size: float, trimmed: float) -> dict[str, object]:
    return {
        "policy": policy,
        "estimator": estimator,
        "value": ends.value,
        "lower": ends.lower,
        "upper": ends.upper,
        "ess": size,
        "trimmed": trimmed,
    }


def _cross_fit_outcome(log: BanditLog) -> Callable[[np.ndarray], np.ndarray]:
    """Mean reward at any log price by a regression on the other customers, linear but for the square of the price."""
    folds = assign_cluster_folds(log.clusters, 0, FOLDS)

    def build(log_prices: np.ndarray) -> np.ndarray:
        p = log_prices[:, None]
        return np.column_stack([np.ones(len(log.x)), log.x, p, p**2, log.x * p])

    taken = build(log.log_prices)
    fits = [LeastSquares(RIDGE).fit(taken[folds != fold], log.rewards[folds != fold]) for fold in range(FOLDS)]

    def predict(log_prices: np.ndarray) -> np.ndarray:
        features, found = build(log_prices), np.empty(len(log.x))
        for fold, fit in enumerate(fits):
            found[folds == fold] = fit(features[folds == fold])
        return found

    return predict


def _estimate_on_rungs(log: BanditLog, named: np.ndarray) -> dict[str, OneStepValue]:
    """The estimators of price ladders, prices and policy snapped to rungs that the log takes about equally often."""
    edges = np.quantile(log.log_prices, np.arange(1, RUNGS) / RUNGS)
    actions, wanted = (np.searchsorted(edges, prices) for prices in (log.log_prices, named))
    middles = np.array([np.median(log.log_prices[actions == rung]) for rung in range(RUNGS)])
    size = len(log.x)
    names = ("x0", "x1", "x2")
    decisions = RandomisedDecisions(
        actions=actions,
        cells=np.zeros(size, dtype=np.int64),
        design=np.bincount(actions, minlength=RUNGS)[None, :] / size,
        prices=np.exp(middles),
        covariates=log.x,
        covariate_names=names,
        clusters=log.clusters,
        outcomes=(OneStepOutcome("reward", log.rewards),),
    )
    # Propensities are estimated; those that the log would hold are not read but for whether a rung is ever taken.
    logged = OneStepLog(decisions, decisions.row_design)
    nuisances = fit_nuisances(logged, np.column_stack([middles, middles**2]), names, (), 0)
    found = estimate_from_log(logged, nuisances, compute_group_policy(decisions, wanted))["reward"]
    chosen = {"importance": "importance_self_normalized_estimated", "direct": "direct"}
    chosen |= {"doubly_robust": "doubly_robust_self_normalized_estimated"}
    values = {name: found[key] for name, key in chosen.items()}
    return {name: value for name, value in values.items() if isinstance(value, OneStepValue)}
