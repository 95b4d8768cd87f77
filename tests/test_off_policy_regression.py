"""Demand behind sold-out weeks is found by the censored likelihood, and by nothing simpler."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from pricing_fm.evaluation.off_policy.censored_counts import CensoredCounts, compute_count_terms, read_sales
from pricing_fm.evaluation.off_policy.censored_regression import (
    CountRows,
    FitError,
    compute_parameter_influences,
    fit_count_regression,
)

KNOWN_ANSWERS = json.loads((Path(__file__).parent / "oracles_known_answers.json").read_text())


def constant(counts: CensoredCounts) -> CountRows:
    rows = len(counts.units)
    return CountRows(counts, np.ones((rows, 1)), np.zeros(rows))


def draw_rows(
    seed: int, groups: int = 30, weeks: int = 25, overdispersion: float = 0.3, cover: float = 1.3
) -> CountRows:
    """Items with effects of their own, one price, a stock that sells out in about a third of the weeks."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), weeks)
    design = rng.normal(size=(len(codes), 2)) * [0.3, 1.0]
    mean = np.exp(design @ [-2.0, 0.2] + (2.0 + 0.5 * rng.normal(size=groups))[codes])
    demand = rng.poisson(mean * rng.gamma(1 / overdispersion, overdispersion, len(codes)) if overdispersion else mean)
    stock = np.full(len(codes), 9.0)
    return CountRows(read_sales(np.minimum(demand, stock), stock), design, np.zeros(len(codes)), codes)


def test_known_answers_of_a_rate_behind_stock() -> None:
    cases = [case for case in KNOWN_ANSWERS if case["problem"] == "censored_poisson_rate"]
    assert cases
    for case in cases:
        counts = read_sales(*(np.array(case["given"][name], float) for name in ("sales", "stock")))
        found = fit_count_regression(constant(counts), overdispersion=0.0)
        assert np.exp(found.coefficients[0]) == pytest.approx(case["expect"]["rate"], abs=case["tolerance"])


def test_sales_taken_for_demand_and_sold_out_weeks_dropped_are_both_wrong() -> None:
    """Negative binomial demand of mean 10, stock that sells out in about 39 % of the weeks; ours within 1 %."""
    rng = np.random.default_rng(0)
    demand = rng.poisson(10.0 * rng.gamma(1 / 0.25, 0.25, 200_000)).astype(float)
    stock = rng.integers(6, 19, 200_000).astype(float)
    stock[::50] = 0.0
    counts = read_sales(np.minimum(demand, stock), stock)
    assert counts.censored.sum() / counts.informative.sum() == pytest.approx(0.39, abs=0.03)
    ours = fit_count_regression(constant(counts))
    assert np.exp(ours.coefficients[0]) == pytest.approx(10.0, rel=0.01)
    assert ours.overdispersion == pytest.approx(0.25, rel=0.03)
    as_demand = counts.units[counts.informative].mean()
    dropped = counts.units[counts.informative & ~counts.censored].mean()
    assert as_demand < 9.2
    assert dropped < 7.7
    as_poisson = np.exp(fit_count_regression(constant(counts), overdispersion=0.0).coefficients[0])
    assert as_poisson < 9.6  # the Poisson tail is too thin for overdispersed demand


def test_the_fit_is_the_maximum_of_the_likelihood() -> None:
    rows = replace(draw_rows(1, groups=3, weeks=60), group_penalty=0.0)
    found = fit_count_regression(rows)

    def loss(parameters: np.ndarray) -> float:
        log_mean = rows.compute_log_mean(parameters[:2], parameters[2:5])
        return -float(compute_count_terms(rows.counts, log_mean, float(np.exp(parameters[5]))).log_likelihood.sum())

    best = minimize(loss, np.array([-1.0, 0.0, 2.0, 2.0, 2.0, -1.0]), method="BFGS", options={"gtol": 1e-6})
    np.testing.assert_allclose(found.coefficients, best.x[:2], atol=1e-4)
    np.testing.assert_allclose(found.effects, best.x[2:5], atol=1e-4)
    assert found.overdispersion == pytest.approx(np.exp(best.x[5]), rel=1e-3)
    assert found.log_likelihood == pytest.approx(-best.fun, rel=1e-9)


def test_counts_that_vary_no_more_than_poisson_are_poisson() -> None:
    rows = draw_rows(2, overdispersion=0.0)
    steady = replace(rows, counts=read_sales(np.full(750, 5.0), np.full(750, np.inf)))
    found = fit_count_regression(steady)
    assert found.overdispersion == 0.0
    assert not found.is_dispersion_fitted
    assert fit_count_regression(rows).overdispersion < 0.02


def test_group_effects_are_what_a_column_per_group_would_be() -> None:
    rows = draw_rows(3, groups=6)
    columns = np.hstack([rows.design, np.eye(6)[rows.groups]])
    wide = CountRows(rows.counts, columns, rows.offset)
    grouped, plain = fit_count_regression(rows), fit_count_regression(wide)
    np.testing.assert_allclose(np.concatenate([grouped.coefficients, grouped.effects]), plain.coefficients, atol=1e-7)
    assert grouped.overdispersion == pytest.approx(plain.overdispersion, rel=1e-6)
    ours, theirs = compute_parameter_influences(rows, grouped), compute_parameter_influences(wide, plain)
    np.testing.assert_allclose(ours.coefficients, theirs.coefficients[:, :2], atol=1e-8)
    np.testing.assert_allclose(ours.log_overdispersion, theirs.log_overdispersion, atol=1e-8)
    moves = np.column_stack([ours.coefficients, ours.log_overdispersion])
    effects = moves @ ours.effect_slopes.T
    effects[np.arange(len(effects)), rows.groups] += ours.own_effect
    np.testing.assert_allclose(effects, theirs.coefficients[:, 2:], atol=1e-7)


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_influences_are_the_derivatives_by_the_weight_of_a_row(penalty: float) -> None:
    rows = replace(draw_rows(4, groups=8), group_penalty=penalty)
    if penalty:
        rows = replace(rows, design=np.hstack([rows.design, np.ones((200, 1))]))
    fit = fit_count_regression(rows)
    influences = compute_parameter_influences(rows, fit)
    np.testing.assert_allclose(influences.coefficients.sum(axis=0), 0.0, atol=1e-6)
    for row in (3, 111):
        weights = np.ones(200)
        weights[row] += 0.01
        moved = fit_count_regression(replace(rows, weights=weights))
        own = influences.own_effect[row] * (np.arange(8) == rows.groups[row])
        change = np.append(influences.coefficients[row], influences.log_overdispersion[row])
        if not penalty:  # a prior pulls a group once, not once per row: its rows share the pull only on average
            expected = influences.effect_slopes @ change + own
            np.testing.assert_allclose((moved.effects - fit.effects) / 0.01, expected, rtol=0.05, atol=2e-4)
            found = (moved.coefficients - fit.coefficients) / 0.01
            np.testing.assert_allclose(found, influences.coefficients[row], rtol=0.05, atol=2e-5)
            dispersion = np.log(moved.overdispersion / fit.overdispersion) / 0.01
            assert dispersion == pytest.approx(influences.log_overdispersion[row], rel=0.05, abs=2e-4)


def test_a_row_of_weight_two_is_two_rows_and_an_uninformative_row_is_none() -> None:
    rows = draw_rows(5, groups=4)
    doubled = np.where(np.arange(100) % 3 == 0, 2, 1)
    index = np.repeat(np.arange(100), doubled)
    seen = rows.counts
    counts = CensoredCounts(seen.units[index], seen.censored[index], seen.informative[index])
    repeated = CountRows(counts, rows.design[index], rows.offset[index], rows.groups[index])
    first, second = fit_count_regression(replace(rows, weights=doubled.astype(float))), fit_count_regression(repeated)
    np.testing.assert_allclose(first.coefficients, second.coefficients, atol=1e-8)
    assert first.overdispersion == pytest.approx(second.overdispersion, rel=1e-7)
    hidden = replace(rows.counts, informative=np.arange(100) % 3 != 0)
    without = fit_count_regression(replace(rows, counts=hidden))
    weighted = fit_count_regression(replace(rows, weights=(np.arange(100) % 3 != 0).astype(float)))
    np.testing.assert_allclose(without.coefficients, weighted.coefficients, atol=1e-9)


def test_what_has_no_maximum_is_refused_with_the_remedy() -> None:
    rows = draw_rows(6, groups=4)
    twice = np.hstack([rows.design, rows.design[:, :1] * 3.0])
    with pytest.raises(FitError, match="'price', 'again' are collinear"):
        fit_count_regression(replace(rows, design=twice, names=("price", "season", "again")))
    with pytest.raises(FitError, match="groups"):
        fit_count_regression(replace(rows, design=np.hstack([rows.design, np.ones((100, 1))])))
    all_sold = read_sales(np.full(100, 4.0), np.full(100, 4.0))
    with pytest.raises(FitError, match="every informative week sold out"):
        fit_count_regression(replace(rows, counts=all_sold))
    units = np.where(rows.groups == 2, 0.0, rows.counts.units)
    never = replace(rows, counts=read_sales(units, np.full(100, np.inf)))
    with pytest.raises(FitError, match="group 2 runs away"):
        fit_count_regression(never)
    held = fit_count_regression(replace(never, group_penalty=0.5))
    assert held.effects[2] == held.effects.min() > -20.0
    with pytest.raises(FitError, match="no week says anything"):
        CountRows(read_sales(np.zeros(2), np.zeros(2)), np.ones((2, 1)), np.zeros(2))
