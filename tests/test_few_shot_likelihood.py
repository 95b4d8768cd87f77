"""What no log tells is summed out of the ceiling's likelihood exactly, and what followers' prices say of it is in."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nbinom, norm

from pricing_fm.evaluation import few_shot_likelihood
from pricing_fm.evaluation.few_shot_likelihood import SHOCKS, HiddenLaw, sum_out_hidden
from pricing_fm.evaluation.few_shot_markets import FewShotMarketArguments, find_truth, simulate_categories
from pricing_fm.evaluation.few_shot_posterior import informed_prices
from pricing_fm.markets import RetailSettings, SimulatedLog
from pricing_fm.markets.manager_habits import DEMAND_FOLLOWER

ARGUMENTS = FewShotMarketArguments(test_categories=5, test_seed=970_000)


@pytest.fixture(scope="module")
def logs() -> list[SimulatedLog]:
    return simulate_categories(replace(ARGUMENTS, stocked_share=0.0), 40, 970_000, 30, 0)


def test_items_own_shocks_are_what_the_shared_one_leaves(logs: list[SimulatedLog]) -> None:
    log = logs[-1]
    path = few_shot_likelihood._own_shock_path(log, 30)
    scale, persistence = few_shot_likelihood._own_shocks(log)
    innovations = (path[1:] - persistence * path[:-1]) / (scale * np.sqrt(1 - persistence**2))
    assert innovations.std() == pytest.approx(1.0, abs=0.03)
    by_market = innovations.reshape(29, *log.parameters.shape[:2])
    crossed = [np.corrcoef(by_market[:, market].T) for market in range(by_market.shape[1])]
    assert abs(np.mean([one[np.triu_indices(len(one), 1)].mean() for one in crossed])) < 0.03
    whole = log.arrays.hidden_shock.reshape(30, *log.parameters.shape[:2])
    crossed = [np.corrcoef(whole[:, market].T) for market in range(whole.shape[1])]
    assert np.mean([one[np.triu_indices(len(one), 1)].mean() for one in crossed]) > 0.15


def test_followers_prices_are_as_likely_as_the_log_says(logs: list[SimulatedLog]) -> None:
    for log in logs:
        follows = np.repeat(log.habits.manager == DEMAND_FOLLOWER, log.parameters.shape[1])
        chances = few_shot_likelihood._weigh_prices(log, 10)
        assert (chances[..., ~follows] == 1.0).all()
        scale, _ = few_shot_likelihood._own_shocks(log)
        here = few_shot_likelihood._own_shock_path(log, 10) / scale
        logged = log.arrays.propensity[-10:].reshape(10, -1)
        for item in np.flatnonzero(follows):
            found = [np.interp(here[week, item], SHOCKS, chances[week, :, item]) for week in range(10)]
            assert np.abs(np.array(found) - logged[:, item]).max() < 0.03


@pytest.mark.parametrize("stock", [np.inf, 9.0])
def test_the_sum_is_that_of_a_dense_integral(stock: float) -> None:
    units, scale, persistence, dispersion = np.array([7.0, 3.0, min(stock, 12.0)]), 0.4, 0.6, 5.0
    inventory = np.full(3, stock)
    log_means = np.log([[6.0, 4.0, 9.0], [9.0, 3.0, 6.0]])
    found = few_shot_likelihood._sum_out_item(
        units, inventory, log_means, HiddenLaw(scale, persistence, dispersion), np.ones((3, len(SHOCKS)))
    )
    # Three weeks of shocks and the level, by brute force.
    grid = np.linspace(-5, 5, 61)
    first, second, third = np.meshgrid(grid, grid, grid, indexing="ij")
    spread = np.sqrt(1 - persistence**2)
    weight = norm.pdf(first) * norm.pdf(second, persistence * first, spread) * norm.pdf(
        third, persistence * second, spread
    )  # fmt: skip
    levels = np.linspace(-3, 3, 121)
    expected = []
    for means in np.exp(log_means):
        total = 0.0
        for level in levels:
            chance = weight.copy()
            for count, mean, shock in zip(units, means, (first, second, third), strict=True):
                rate = mean * np.exp(level + scale * grid)
                law = nbinom(dispersion, dispersion / (dispersion + rate))
                seen = law.sf(count - 1) if count >= stock else law.pmf(count)
                chance *= np.interp(shock, grid, seen)
            total += chance.sum()
        expected.append(np.log(total))
    assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], abs=0.02)


def test_who_is_not_told_the_level_learns_less_but_learns() -> None:
    known = find_truth(simulate_categories(replace(ARGUMENTS, stocked_share=0.0), 30, 970_000, 26, 0), 3)
    planned = informed_prices(known, (0, 26), RetailSettings(stocked_share=0.0), told=(True, False))
    shares = {key: np.nanmean(known.gap_closed(prices)) for key, prices in planned.items()}
    assert shares[False, 0] == shares[True, 0]
    assert shares[False, 0] + 0.05 < shares[False, 26] < shares[True, 26]


def test_markets_without_hidden_shocks_have_nothing_to_sum_out() -> None:
    quiet = simulate_categories(replace(ARGUMENTS, family="lifecycle"), 5, 970_000, 26, 0)
    with pytest.raises(ValueError, match="has no hidden shock to infer"):
        informed_prices(find_truth(quiet, 3), (4,), RetailSettings(), told=(False,))


def test_an_answer_that_explains_the_prices_is_likelier(logs: list[SimulatedLog]) -> None:
    log = logs[0]
    price = np.log(log.arrays.price[-26:] / log.state.list_price).reshape(26, -1)
    answers = np.stack([0.0 * price, -2.5 * price, 2.5 * price])
    found = sum_out_hidden(log, 26, answers)
    total = found.sum(axis=0)
    assert total[0] > max(total[1:]) + 10.0
