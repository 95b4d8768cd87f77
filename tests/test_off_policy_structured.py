"""Demand is corrected once and pushed through what is known; the result is right, and knows how sure it is."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from pricing_fm.evaluation.off_policy.contributions import subtract_contributions
from pricing_fm.evaluation.off_policy.demand_model import DemandDesign, DemandLog, FittedDemand, fit_demand
from pricing_fm.evaluation.off_policy.shop import Decision, PathPolicy, PriceState, run_shop
from pricing_fm.evaluation.off_policy.structured import (
    DecisionWeights,
    StructuredSettings,
    compute_decision_weights,
    estimate_log_correction,
    estimate_structured,
)
from tests.off_policy_shop import LADDER, TARGET, Case, ladder_policy, simulate_case

FEW_DRAWS = StructuredSettings(draws=24)


def fit(case: Case, **design: bool) -> FittedDemand:
    return fit_demand(case.log, replace(case.design, **design), groups=np.arange(len(case.log.units)))  # type: ignore[arg-type]


def weigh(case: Case, demand: FittedDemand) -> DecisionWeights:
    informative = demand.rows.counts.informative.reshape(case.log.units.shape)
    return compute_decision_weights(case.target_propensities, case.propensities, informative)


def target_of(case: Case):  # type: ignore[no-untyped-def]
    return ladder_policy(TARGET, *case.log.units.shape)


def test_the_estimate_is_the_truth_within_its_error_where_ignoring_stock_or_memory_is_not() -> None:
    case = simulate_case(0, units=300, periods=13)
    sold_out = case.log.units[case.log.stock > 0] >= case.log.stock[case.log.stock > 0]
    assert 0.3 < sold_out.mean() < 0.5
    truth = run_shop(case.shop, target_of(case), case.law, 64, 99).values.mean()
    demand = fit(case)
    found = estimate_structured(demand, case.shop, target_of(case), weigh(case, demand), FEW_DRAWS)
    assert found.value == pytest.approx(truth, rel=0.02)
    as_demand = replace(case, log=replace(case.log, stock=np.full(case.log.units.shape, np.inf)))
    naive = estimate_structured(fit(as_demand), case.shop, target_of(case), weigh(case, fit(as_demand)), FEW_DRAWS)
    assert naive.value < 0.93 * truth
    kept = replace(case.log, units=np.where(case.log.units >= case.log.stock, np.nan, case.log.units))
    dropped = fit(replace(case, log=kept))
    found_dropped = estimate_structured(dropped, case.shop, target_of(case), weigh(case, dropped), FEW_DRAWS)
    assert found_dropped.value < 0.85 * truth


def exact_population(elasticity: float) -> tuple[DemandLog, np.ndarray, np.ndarray, np.ndarray]:
    """Two kinds of shops, two prices, every demand that can happen, with its probability, and the propensities.

    Shops of kind 1 sell more, react more to the price and are priced low more often: a model that cannot see is wrong.
    """
    counts = np.arange(80)
    kind, price, demand = (axis.ravel() for axis in np.meshgrid([0, 1], [1.0, 1.5], counts, indexing="ij"))
    mean = np.exp(1.5 + kind - (elasticity + kind) * np.log(price))
    low = np.where(kind == 1, 0.8, 0.3)
    propensities = np.where(price == 1.0, low, 1.0 - low)
    chances = 0.5 * propensities * stats.poisson.pmf(demand, mean)
    rows = len(demand)
    column = np.ones((rows, 1))
    log = DemandLog(
        demand[:, None].astype(float), np.inf * column, price[:, None], column, 0 * column, np.arange(rows),
        np.zeros(1), np.zeros(rows), np.zeros(rows), 0.0,
    )  # fmt: skip
    return log, chances[:, None], propensities[:, None], kind


def plain_design(covariates: np.ndarray) -> DemandDesign:
    return DemandDesign(covariates[:, None], has_reference_price=False, has_recent_discount=False)


def test_right_propensities_make_mean_demand_right_whatever_the_model() -> None:
    log, chances, propensities, kind = exact_population(1.0)
    prices, rows = log.prices[:, 0], len(kind)
    target = np.where(prices == 1.0, 0.1, 0.9)[:, None]
    truth = sum(
        0.5 * share * np.exp(1.5 + k - (1.0 + k) * np.log(p)) for k in (0, 1) for p, share in ((1.0, 0.1), (1.5, 0.9))
    )
    blind = fit_demand(log, plain_design(np.ones((rows, 1))), overdispersion=0.0, weights=chances)
    mean = np.exp(blind.compute_logged_log_mean())
    modelled = float((chances * target / propensities * mean).sum())
    assert abs(modelled / truth - 1.0) > 0.08
    correction = estimate_log_correction(blind, chances * target / propensities)
    assert modelled * np.exp(correction) == pytest.approx(truth, rel=1e-9)


def test_a_right_model_needs_no_correction_whatever_the_propensities() -> None:
    log, chances, _, kind = exact_population(1.0)
    prices = log.prices[:, 0]
    knowing = np.column_stack([np.ones(len(kind)), kind, kind * np.log(prices)])
    right = fit_demand(log, plain_design(knowing), overdispersion=0.0, weights=chances)
    wrong_ratios = np.where(prices == 1.0, 0.3, 4.0)[:, None] * np.where(kind == 1, 2.0, 0.7)[:, None]
    assert estimate_log_correction(right, chances * wrong_ratios) == pytest.approx(0.0, abs=1e-9)


def test_without_stock_and_memory_the_value_has_a_closed_form() -> None:
    case = simulate_case(1, units=40, limited=False)
    demand = fit(case, has_reference_price=False, has_recent_discount=False)
    shop = replace(case.shop, discount=0.95)
    settings = replace(FEW_DRAWS, is_corrected=False)
    prices = np.broadcast_to(0.9 * case.log.list_prices, case.log.units.shape)
    found = estimate_structured(demand, shop, PathPolicy(prices), weigh(case, demand), settings)
    log_mean = demand.unit_effects[:, None] + case.law.season * demand.fit.coefficients[0]
    log_mean = log_mean + demand.fit.coefficients[1] * np.log(0.9)
    expected = ((prices - shop.unit_costs) * np.exp(log_mean) * 0.95 ** np.arange(13)).sum(axis=1)
    np.testing.assert_allclose(found.outcome.values.mean(axis=1), expected, rtol=1e-9)  # type: ignore[union-attr]
    assert found.log_correction == 0.0


@pytest.mark.parametrize("is_corrected", [True, False])
def test_influences_are_the_derivatives_by_the_weight_of_a_unit(is_corrected: bool) -> None:
    """Refitted, corrected anew and run again with one unit counting a little more."""
    case = simulate_case(2, units=25)
    settings = StructuredSettings(draws=150, is_corrected=is_corrected)
    demand = fit(case)
    weights = weigh(case, demand)
    parts = estimate_structured(demand, case.shop, target_of(case), weights, settings).contributions

    def again(counted: np.ndarray) -> float:
        rows = np.repeat(counted[:, None], 13, axis=1)
        refitted = fit_demand(case.log, case.design, groups=np.arange(25), weights=rows)
        shift = estimate_log_correction(refitted, weights.ratios * rows) if is_corrected else 0.0
        values = run_shop(case.shop, target_of(case), refitted, 150, settings.seed, shift).values.mean(axis=1)
        return float(values @ counted / counted.sum())

    for unit in (4, 19):
        step = 0.3 * (np.arange(25) == unit)
        slope = (again(1.0 + step) - again(1.0 - step)) / 0.6
        expected = (parts.cluster_influences[unit] - parts.value) / 25
        assert slope == pytest.approx(expected, rel=0.05, abs=0.01)


def test_policies_share_their_luck_so_that_their_difference_is_sharp() -> None:
    case = simulate_case(3, units=50)
    demand = fit(case)
    logged = PathPolicy(case.log.prices)
    same = DecisionWeights(weigh(case, demand).ratios * 0 + demand.rows.counts.informative.reshape(50, 13), 0.0)
    first, second = (estimate_structured(demand, case.shop, logged, same, FEW_DRAWS) for _ in range(2))
    assert subtract_contributions(first.contributions, second.contributions).value == 0.0
    nearby = PathPolicy(1.01 * case.log.prices)
    moved = run_shop(case.shop, nearby, demand, 24, 0).returns - run_shop(case.shop, logged, demand, 24, 0).returns
    apart = run_shop(case.shop, nearby, demand, 24, 1).returns - run_shop(case.shop, logged, demand, 24, 0).returns
    assert moved.std() < 0.3 * apart.std()


def test_weeks_without_stock_teach_nothing_and_the_order_of_units_does_not_matter() -> None:
    case = simulate_case(4, units=30)
    changed = np.where(case.log.stock == 0, 123.0, case.log.units)
    with pytest.raises(ValueError, match="at most the stock"):
        fit(replace(case, log=replace(case.log, units=changed)))
    empty = np.zeros(case.log.units.shape, bool)
    empty[::3, 5] = True
    emptied = replace(case.log, stock=np.where(empty, 0.0, case.log.stock), units=np.where(empty, 0.0, case.log.units))
    hidden = replace(case.log, units=np.where(empty, np.nan, case.log.units))
    first, second = (fit(replace(case, log=log)).fit for log in (emptied, hidden))
    np.testing.assert_allclose(first.coefficients, second.coefficients, atol=1e-10)
    order = np.random.default_rng(0).permutation(30)
    names = ("units", "stock", "prices", "list_prices", "promotions", "clusters", "weeks", "log_memory", "depth")
    shuffled = replace(case.log, **{name: getattr(case.log, name)[order] for name in names})
    again = fit(replace(case, log=shuffled, design=replace(case.design, covariates=case.design.covariates[order])))
    np.testing.assert_allclose(again.fit.coefficients, fit(case).fit.coefficients, atol=1e-8)


def test_the_value_of_a_segment_is_that_of_its_units_under_demand_learned_from_all() -> None:
    case = simulate_case(5, units=40)
    demand = fit(case)
    weights, half = weigh(case, demand), np.arange(40) < 10
    whole, first, rest = (
        estimate_structured(demand, case.shop, target_of(case), weights, FEW_DRAWS, members)
        for members in (None, half, ~half)
    )
    assert 0.25 * first.value + 0.75 * rest.value == pytest.approx(whole.value, rel=1e-12)
    joined = 0.25 * first.contributions.row_influences + 0.75 * rest.contributions.row_influences
    learned = len(whole.contributions.weeks) - 40
    np.testing.assert_allclose(joined[-learned:], whole.contributions.row_influences[-learned:], atol=1e-9)


def test_a_policy_that_does_none_of_what_was_logged_is_refused() -> None:
    case = simulate_case(6, units=10)
    with pytest.raises(ValueError, match="none of the logged decisions"):
        compute_decision_weights(0 * case.propensities, case.propensities, np.ones((10, 13), bool))
    floored = compute_decision_weights(case.target_propensities, case.propensities, np.ones((10, 13), bool), floor=0.3)
    below = case.propensities < 0.3
    raw = case.target_propensities / case.propensities
    assert floored.trimmed_mass == pytest.approx(raw[below].sum() / raw.sum())
    np.testing.assert_allclose(floored.ratios[below], case.target_propensities[below] / 0.3)
    assert set(np.round(case.log.prices / case.log.list_prices, 6).ravel()) == set(LADDER)


def test_a_learned_response_moves_with_the_policy_and_leaves_levels_and_overdispersion_to_the_fit() -> None:
    """The true response to price, as another model might have learned it; what is fitted is all the rest."""
    case = simulate_case(7, units=150)

    def learned(period: object, list_price: np.ndarray, state: PriceState, decision: Decision) -> np.ndarray:
        log_price = np.log(decision.prices)
        response = -2.0 * (log_price - np.log(list_price)) + case.law.gap * (state.log_memory - log_price)
        return np.asarray(response + case.law.depth * state.depth)

    design = DemandDesign(case.design.covariates, has_reference_price=False, has_price=False, learned=learned)
    demand = fit_demand(case.log, design, groups=np.arange(150))
    assert design.names == ("covariate_0",)
    assert demand.fit.coefficients == pytest.approx([1.0], abs=0.15)
    assert demand.overdispersion == pytest.approx(case.law.overdispersion, abs=0.06)
    found = estimate_structured(demand, case.shop, target_of(case), weigh(case, demand), FEW_DRAWS)
    truth = run_shop(case.shop, target_of(case), case.law, 64, 99).values.mean()
    assert found.value == pytest.approx(truth, rel=0.02)
    # Fixed at the logged prices, the same numbers would be no response at all.
    logged = learned(
        0, case.log.list_prices, case.log.trace_price_states(), Decision(case.log.prices, 0 * case.log.prices)
    )
    frozen = fit_demand(case.log, replace(design, learned=None, offset=logged), groups=np.arange(150))
    np.testing.assert_allclose(frozen.fit.coefficients, demand.fit.coefficients)
    cheap = PathPolicy(0.8 * case.log.list_prices)
    asked = [run_shop(case.shop, cheap, model, 24, 0).demand.mean() for model in (demand, frozen)]
    assert asked[0] > 1.1 * asked[1]
