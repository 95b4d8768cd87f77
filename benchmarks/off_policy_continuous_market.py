"""Shops with continuous prices for benchmarks/off_policy_continuous.py: the shops of the ladder, priced off it.

The manager keeps his last price now and then, else he draws one about a location that follows the signal, with skewed
residuals; each policy to be valued keeps prices as often and else names one. In `peaks` customers mind prices less when
the signal is high, which the demand model does not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from off_policy_market_estimates import (
    FLOOR,
    describe_calendar,
    estimate_propensities,
    fit_market_demand,
    weigh_decisions,
)
from off_policy_market_shops import KEEP, LADDER, BoundRule, MarketLog, draw_rule_log, find_rungs, simulate_values

from pricing_fm.evaluation.off_policy import (
    DecisionWeights,
    FittedDemand,
    PathPolicy,
    PriceDensity,
    StructuredSettings,
    StructuredValue,
    bootstrap_value,
    compute_decision_weights,
    compute_kernel_densities,
    compute_kernel_propensities,
    estimate_structured,
    fit_price_density,
    measure_rank_calibration,
    subtract_contributions,
)

UNITS, WEEKS, DRAWS = 60, 13, 6
BANDWIDTHS = (0.05, 0.1, 0.2)
USUAL = 0.1
LEVEL, REPLICATES = 0.9, 200
_SPREAD = np.pi / np.sqrt(6.0)  # of Gumbel's law
_EULER = 0.5772156649015329


@dataclass(frozen=True)
class ContinuousRule:
    """Keeps the last price with a chance of `KEEP`, else draws one; a `PriceRule`.

    Attributes:
        location: Log of the usual ratio to the list price.
        tilt: By how much it rises with the signal.
        spread: Deviation of what is drawn about it; 0 = the price is named.
        is_snapped: True = prices go to the nearest rung of the ladder.
    """

    location: float
    tilt: float
    spread: float = 0.0
    is_snapped: bool = False

    def name_log_ratios(self, signals: np.ndarray) -> np.ndarray:
        """Location of the log ratio, same shape."""
        return self.location + self.tilt * signals

    def draw(
        self, last: np.ndarray, signals: np.ndarray, uniforms: np.ndarray, hidden: np.ndarray | None = None
    ) -> np.ndarray:
        """See `PriceRule`; nothing is hidden from the log."""
        fresh = np.clip((uniforms - KEEP) / (1.0 - KEEP), 1e-12, 1.0 - 1e-12)
        residuals = (-np.log(-np.log(fresh)) - _EULER) / _SPREAD
        ratios = np.exp(self.name_log_ratios(signals) + self.spread * residuals)
        if self.is_snapped:
            ratios = LADDER[find_rungs(ratios)]
        return np.where(uniforms < KEEP, last, ratios)

    def compute_probabilities(self, last: np.ndarray, signals: np.ndarray) -> np.ndarray:
        """Of the rungs of a rule that names prices, `(..., rungs)`."""
        rungs = np.arange(len(LADDER))
        named = find_rungs(np.exp(self.name_log_ratios(signals)))
        return (1.0 - KEEP) * (rungs == named[..., None]) + KEEP * (rungs == last[..., None])

    def compute_density(self, log_ratios: np.ndarray, signals: np.ndarray) -> np.ndarray:
        """True density of log ratios that are not kept, same shape."""
        raw = (log_ratios - self.name_log_ratios(signals)) / self.spread * _SPREAD + _EULER
        return (1.0 - KEEP) * np.exp(-raw - np.exp(-raw)) * _SPREAD / self.spread


MANAGER = ContinuousRule(-0.05, 0.05, 0.09)  # correlation of log price and signal: 0.49
RULES = {
    "manager": MANAGER,
    "cut": ContinuousRule(-0.15, 0.02),
    "peak_prices": ContinuousRule(-0.05, 0.1),
}
POLICIES = tuple(name for name in RULES if name != "manager")
FAILURES = {"plain": "none", "peaks": "peak_elasticity"}


def compute_market_truths(cell: str, units: int) -> dict[str, float]:
    """Mean margin of a unit over the horizon by rule, currency."""
    found = simulate_values(1_000_003, units, WEEKS, RULES, FAILURES[cell])
    return dict(zip(RULES, found.values.tolist(), strict=True))


def estimate_market(cell: str, seed: list[int]) -> list[dict[str, object]]:
    """Every policy by every estimator from one log."""
    market = draw_rule_log(seed, UNITS, WEEKS, MANAGER, FAILURES[cell])
    demand = fit_market_demand(market)
    on_rungs = fit_market_demand(market, prices=market.demand.list_prices * LADDER[market.rungs])
    density, by_rung = fit_density(market), estimate_propensities(market)
    calibration = measure_rank_calibration(density.ranks, describe_prices(market)[~density.kept])
    informative = demand.rows.counts.informative.reshape(market.rungs.shape)
    laws = {**dict.fromkeys(("corrected", "model_alone"), demand), "all_on_rungs": on_rungs}
    logged = {name: value_log(market, law, name != "model_alone", law is on_rungs) for name, law in laws.items()}
    rows: list[dict[str, object]] = []
    for policy in POLICIES:
        rule = RULES[policy]
        weights = {
            f"estimated_{width:g}": weigh_by_density(market, density, rule, width, informative) for width in BANDWIDTHS
        }
        weights |= {"known": weigh_by_truth(market, rule, informative)}
        weights |= {"rungs": weigh_decisions(market, rule, by_rung, informative)}
        found = {f"structured_{name}": value_rule(market, demand, rule, one) for name, one in weights.items()}
        found["all_on_rungs"] = value_rule(market, on_rungs, replace(rule, is_snapped=True), weights["rungs"])
        found["model_alone"] = value_rule(market, demand, rule, None)
        for name, value in found.items():
            manager = logged.get(name, logged["corrected"])
            rows.append({"policy": policy, "estimator": name} | describe_value(value, manager))
    misplaced = {"misplaced": calibration.error, "noise": calibration.noise, "size": int((~density.kept).sum())}
    return [row | misplaced for row in rows]


def describe_value(value: StructuredValue, manager: StructuredValue) -> dict[str, object]:
    """Value and gain over the logged prices with their intervals."""
    gain = subtract_contributions(value.contributions, manager.contributions)
    row: dict[str, object] = {"ess": value.effective_sample_size, "trimmed": value.trimmed_mass}
    for name, one in (("", value.contributions), ("gain_", gain)):
        ends = bootstrap_value(one, resample_weeks=False, replicates=REPLICATES).interval(LEVEL)
        row |= {f"{name}value": ends.value, f"{name}lower": ends.lower, f"{name}upper": ends.upper}
    return row


def value_log(market: MarketLog, demand: FittedDemand, is_corrected: bool, is_snapped: bool) -> StructuredValue:
    """What the logged prices are worth by the same demand: their own weights are 1."""
    settings = StructuredSettings(draws=DRAWS, is_corrected=is_corrected)
    informative = demand.rows.counts.informative.reshape(market.rungs.shape)
    prices = market.demand.list_prices * LADDER[market.rungs] if is_snapped else market.demand.prices
    weights = DecisionWeights(informative.astype(np.float64), 0.0)
    return estimate_structured(demand, market.shop, PathPolicy(prices), weights, settings)


def describe_prices(market: MarketLog) -> np.ndarray:
    """Season and signal, without the constant, `(units x weeks, 3)`."""
    return describe_calendar(market)[..., 1:].reshape(market.ratios.size, -1)


def fit_density(market: MarketLog) -> PriceDensity:
    """Of the logged log ratios given season and signal, keeping apart."""
    clusters = np.repeat(market.demand.clusters, market.ratios.shape[1])
    kept = market.ratios == market.last_ratios
    return fit_price_density(np.log(market.ratios).ravel(), describe_prices(market), clusters, kept.ravel())


def weigh_by_density(
    market: MarketLog, density: PriceDensity, rule: ContinuousRule, bandwidth: float, informative: np.ndarray
) -> DecisionWeights:
    """Ratios of the policy seen through a kernel to the estimated density."""
    shape = market.ratios.shape
    named = rule.name_log_ratios(market.signals).ravel()
    wanted = compute_kernel_propensities(density, named, bandwidth, KEEP).reshape(shape)
    floors = density.choose_floors().reshape(shape)
    return compute_decision_weights(wanted, density.propensities.reshape(shape), informative, floors)


def weigh_by_truth(market: MarketLog, rule: ContinuousRule, informative: np.ndarray) -> DecisionWeights:
    """The same with the manager's true density."""
    logs, kept = np.log(market.ratios), market.ratios == market.last_ratios
    named = compute_kernel_densities(logs, rule.name_log_ratios(market.signals), USUAL)
    wanted = np.where(kept, KEEP, (1.0 - KEEP) * named)
    return compute_decision_weights(
        wanted, np.where(kept, KEEP, MANAGER.compute_density(logs, market.signals)), informative, FLOOR
    )


def value_rule(
    market: MarketLog, demand: FittedDemand, rule: ContinuousRule, weights: DecisionWeights | None
) -> StructuredValue:
    """The structured estimator; without weights the demand model alone."""
    settings = StructuredSettings(draws=DRAWS, is_corrected=weights is not None)
    used = weights or DecisionWeights(np.ones(market.ratios.shape), 0.0)
    return estimate_structured(demand, market.shop, BoundRule(rule, market.signals), used, settings)
