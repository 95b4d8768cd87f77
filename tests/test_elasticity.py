"""The elasticity test bed: fixed by seed, estimators fail where they should, the ceiling is a posterior."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import nbinom

from pricing_fm import names
from pricing_fm.evaluation.elasticity_bed import RIVALS, Effort, build_priors, estimate_ceilings
from pricing_fm.evaluation.elasticity_cells import (
    HIGHEST_ELASTICITY,
    Cell,
    CellData,
    TestBedArguments,
    build_cells,
    simulate_cell,
)
from pricing_fm.evaluation.elasticity_learners import estimate_double_machine_learning
from pricing_fm.evaluation.elasticity_likelihood import Draws, ShopModel, ShopPrior, Shops, compute_log_tail
from pricing_fm.evaluation.elasticity_posterior import SamplerSettings, read_shop_logs, sample_posterior
from pricing_fm.evaluation.elasticity_regressions import (
    estimate_first_differences,
    estimate_hierarchical,
    estimate_log_log,
    estimate_two_stage_least_squares,
    estimate_with_lags,
    read_item_log,
)
from pricing_fm.evaluation.elasticity_scores import score_cell, tabulate_cell
from pricing_fm.results import read_results
from recipes import elasticity as recipe

SMALL = TestBedArguments(num_items=60)
PINNED_UNITS = [5646.0, 4878.0]
PINNED_PRICES = [1444.78, 1636.81]
PINNED_TRUTHS = [[3.886048, 0.813254, 2.855132, 4.036383], [3.474047, 0.595128, 1.211552, 1.602635]]


def cell_of(name: str, bed: TestBedArguments = SMALL) -> Cell:
    return next(cell for cell in build_cells(bed) if cell.name == name)


def busy(cell: Cell) -> Cell:
    """The same cell with so many customers that the noise of counts does not matter."""
    return replace(cell, market=replace(cell.market, median_volume=400.0, volume_bounds=(100.0, 2000.0)))


@pytest.fixture(scope="module")
def mixed() -> CellData:
    return simulate_cell(cell_of("mixed"))


@pytest.fixture(scope="module")
def sold_out() -> CellData:
    return simulate_cell(cell_of("mixed_sold_out"))


# -- the test bed ----------------------------------------------------------------------------------------------------


def test_the_test_bed_is_the_same_every_time() -> None:
    """The numbers are those of the test bed that results were published for; another simulator is another test bed."""
    data = [simulate_cell(cell_of(name, TestBedArguments(num_items=4))) for name in ("shop_c-0.9", "mixed_sold_out")]
    units = [one.panel.frame[names.UNITS].sum() for one in data]
    prices = [round(float(one.panel.frame[names.PRICE].sum()), 2) for one in data]
    truths = [one.truth.round(6).tolist() for one in data]
    assert (units, prices, truths) == (PINNED_UNITS, PINNED_PRICES, PINNED_TRUTHS)


def test_an_item_does_not_depend_on_how_many_there_are() -> None:
    few, many = (simulate_cell(cell_of("shop_c+0.5", TestBedArguments(num_items=n))) for n in (5, 12))
    assert np.array_equal(few.truth, many.truth[:5])
    assert few.panel.frame[names.UNITS].tolist() == many.panel.frame[names.UNITS].tolist()[: 5 * 52]


def test_cells_share_shops_and_differ_in_confounding_and_stock() -> None:
    data = {name: simulate_cell(cell_of(name)) for name in ("shop_c-0.9", "shop_c+0.9", "shop_c+0.9_sold_out")}
    slopes = [one.log.parameters.demand.elasticity for one in data.values()]
    assert np.array_equal(slopes[0], slopes[1])
    assert np.array_equal(slopes[1], slopes[2])
    for one in data.values():
        arrays = one.log.arrays
        cuts = (arrays.price / arrays.list_price).reshape(52, -1)
        shocks = arrays.hidden_shock.reshape(52, -1)
        together = np.mean([np.corrcoef(cuts[:, item], shocks[:, item])[0, 1] for item in range(SMALL.num_items)])
        assert together < -0.4 if "-0.9" in one.cell.name else together > 0.4
    assert data["shop_c+0.9"].sold_out_share == 0.0
    assert 0.35 < data["shop_c+0.9_sold_out"].sold_out_share < 0.45


def test_the_panel_holds_nothing_that_only_the_simulator_knows(mixed: CellData) -> None:
    hidden = {"mean_demand", "elasticity", "optimal_price", "hidden_shock", "propensity", "confounding", "manager"}
    assert not hidden & set(mixed.panel.frame.columns)
    assert names.COST in mixed.panel.frame


def test_truth_is_the_elasticity_at_the_price_that_a_demand_curve_starts_from(mixed: CellData) -> None:
    last = mixed.panel.frame.groupby(names.ITEM_ID)[names.PRICE].last().to_numpy()
    exact = mixed.log.parameters.demand.compute_elasticity(last.reshape(-1, 1, 1)).ravel()
    assert np.allclose(mixed.truth, np.clip(exact, 0, HIGHEST_ELASTICITY))


def test_training_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="belong to training"):
        TestBedArguments(test_seed=899_999)


# -- estimators ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimate", [estimate_log_log, estimate_first_differences, estimate_with_lags, estimate_hierarchical]
)
def test_regressions_find_the_truth_without_confounding_and_miss_it_as_theory_says(estimate) -> None:
    bias = {}
    for name in ("shop_c-0.9", "shop_c+0.0", "shop_c+0.9"):
        data = simulate_cell(busy(cell_of(name)))
        found = estimate(read_item_log(data.panel))["elasticity"].to_numpy()
        bias[name] = np.nanmean(np.clip(found, 0, HIGHEST_ELASTICITY) - data.truth)
    # Prices cut into demand peaks: customers look more sensitive than they are; raised into peaks: less.
    assert abs(bias["shop_c+0.0"]) < 0.25
    assert bias["shop_c-0.9"] > 0.8
    assert bias["shop_c+0.9"] < -0.6


def test_instruments_correct_what_confounding_spoils() -> None:
    data = simulate_cell(busy(cell_of("cost_moves", TestBedArguments(num_items=150))))
    log = read_item_log(data.panel)
    plain, instrumented = estimate_log_log(log), estimate_two_stage_least_squares(log)
    strong = instrumented["elasticity"].notna().to_numpy()
    assert strong.mean() > 0.3
    bias = [(one["elasticity"].to_numpy() - data.truth)[strong].mean() for one in (plain, instrumented)]
    assert bias[0] > 0.4
    assert abs(bias[1]) < 0.5 * bias[0]


def test_double_machine_learning_finds_the_truth_without_hidden_confounding_only() -> None:
    pytest.importorskip("lightgbm")
    bias = {}
    for name in ("shop_c+0.0", "shop_c-0.9"):
        data = simulate_cell(busy(cell_of(name)))
        found = estimate_double_machine_learning(read_item_log(data.panel))["elasticity"].to_numpy()
        bias[name] = (found - data.truth).mean()
    assert abs(bias["shop_c+0.0"]) < 0.35
    assert bias["shop_c-0.9"] > 0.6


def test_sold_out_weeks_are_no_evidence_for_a_regression(sold_out: CellData) -> None:
    log = read_item_log(sold_out.panel)
    assert 1.0 - log.usable.mean() == pytest.approx(sold_out.sold_out_share, abs=1e-9)


# -- the likelihood --------------------------------------------------------------------------------------------------


def true_shops(data: CellData, item: int) -> tuple[Draws, Shops]:
    """The truth of one item in the likelihood's own words."""
    truth, habits = data.log.parameters, data.log.habits

    def one(values: np.ndarray) -> torch.Tensor:
        return torch.tensor([float(np.broadcast_to(values, truth.shape)[item, 0, 0])])

    calendar, demand, shock = truth.calendar, truth.demand, truth.shock
    phase = 2.0 * np.pi * calendar.phase
    dispersion = np.full(truth.shape, np.inf) if truth.noise.dispersion is None else truth.noise.dispersion
    shops = Shops(
        elasticity=one(demand.elasticity),
        log_reference=one(np.log(demand.reference_price / truth.list_price)),
        log_volume=one(np.log(truth.volume)),
        season_x=one(calendar.amplitude * np.cos(phase)),
        season_y=one(calendar.amplitude * np.sin(phase)),
        trend=one(calendar.trend),
        log_uplift=one(np.log(truth.promotion_uplift)),
        shock_scale=one(shock.scale),
        persistence=one(shock.persistence),
        dispersion=one(np.minimum(dispersion, 1e5)),
        purchase_share=one(demand.purchase_share),
        keep_share=one(habits.keep_share),
        confounding=one(habits.confounding),
    )
    return Draws(torch.zeros(1, 13), one(demand.family).long(), torch.tensor([True])), shops


def model_of(data: CellData, follows: bool = True) -> ShopModel:
    return ShopModel(ShopPrior(data.cell.market, (-0.95, 0.95), data.cell.managers.keep_share, follows))


def test_the_likelihood_has_the_simulators_mean_demand(mixed: CellData) -> None:
    model, logs = model_of(mixed), read_shop_logs(mixed.log, mixed.cell.market)
    arrays = mixed.log.arrays
    for item in range(12):
        draws, shops = true_shops(mixed, item)
        log_mean = model.compute_log_mean(draws, shops, logs[item])[0].numpy()
        shock = arrays.hidden_shock[:, item, 0, 0] + 0.5 * float(shops.shock_scale) ** 2
        assert np.allclose(log_mean + shock, np.log(arrays.mean_demand[:, item, 0, 0]), atol=1e-4)


def test_the_likelihood_has_the_managers_propensities(mixed: CellData) -> None:
    model, logs = model_of(mixed), read_shop_logs(mixed.log, mixed.cell.market)
    arrays, grid = mixed.log.arrays, model.grid.numpy()
    for item in range(12):
        _, shops = true_shops(mixed, item)
        scale = float(shops.shock_scale)
        peak = (arrays.hidden_shock[:, item, 0, 0] + 0.5 * scale**2) / scale
        chances = model.weigh_prices(shops, logs[item])[0].numpy()
        expected = arrays.propensity[:, item, 0, 0]
        inside = np.abs(peak) < grid[-1]
        found = np.array([np.interp(peak[week], grid, chances[week]) for week in range(52)])
        # Interpolation between grid points of a steep response is all that may differ.
        assert np.abs(found - expected)[inside].mean() < 0.02


def test_the_hidden_shock_is_summed_out_exactly(sold_out: CellData) -> None:
    """Against Monte Carlo over shock paths, on three weeks of which one is sold out."""
    item, market = next(
        (number, shop)
        for number, shop in enumerate(read_shop_logs(sold_out.log, sold_out.cell.market))
        if (shop.units[:3] >= shop.inventory[:3]).sum() == 1
    )
    short = replace(
        market,
        **{name: getattr(market, name)[:3] for name in ("units", "inventory", "log_price", "promotion", "rungs")},
    )
    model = model_of(sold_out)
    draws = Draws(0.3 * torch.ones(1, 13), torch.tensor([0]), torch.tensor([False]))
    found = float(model.compute_log_likelihood(draws, short))
    shops = model.read(draws, short)
    log_mean = model.compute_log_mean(draws, shops, short)[0].numpy()
    random, paths = np.random.default_rng(0), 200_000
    shock, persistence = random.standard_normal(paths), float(shops.persistence)
    likelihood, size = np.ones(paths), float(shops.dispersion)
    chances = model.weigh_prices(shops, short)[0].numpy()
    for week in range(3):
        if week:
            shock = persistence * shock + np.sqrt(1 - persistence**2) * random.standard_normal(paths)
        mean = np.exp(log_mean[week] + float(shops.shock_scale) * shock)
        law = nbinom(size, size / (size + mean))
        is_sold_out = short.units[week] >= short.inventory[week]
        likelihood *= law.sf(short.units[week] - 1) if is_sold_out else law.pmf(short.units[week])
        likelihood *= np.interp(shock, model.grid.numpy(), chances[week])
    assert item >= 0
    assert found == pytest.approx(np.log(likelihood.mean()), abs=0.02)


@pytest.mark.parametrize("size", [2.0, 20.0, 1e5])
@pytest.mark.parametrize("units", [2, 7, 60])
def test_the_chance_of_selling_out_is_right(size: float, units: int) -> None:
    mean = np.geomspace(0.1 * units, 4.0 * units, 50).astype(np.float32)
    found = compute_log_tail(torch.tensor(float(units)), torch.tensor(size), torch.from_numpy(mean)).exp().numpy()
    assert np.abs(found - nbinom.sf(units - 1, size, size / (size + mean.astype(float)))).max() < 0.002


def test_stocks_tell_the_volume(sold_out: CellData) -> None:
    truth = np.log(sold_out.log.parameters.volume[:, 0, 0])
    bounds = np.array([shop.log_volume for shop in read_shop_logs(sold_out.log, sold_out.cell.market)])
    assert ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).all()
    assert np.median(bounds[:, 1] - bounds[:, 0]) < 0.1


# -- the ceiling -----------------------------------------------------------------------------------------------------


def sample(data: CellData, count: int, follows: bool = True) -> pd.DataFrame:
    model, sampler = model_of(data, follows), SamplerSettings(particles=80, final_sweeps=5)
    shops = read_shop_logs(data.log, data.cell.market)
    found = [sample_posterior(model, shops[item], sampler, item, data.truth[item]) for item in range(count)]
    return pd.DataFrame(found).assign(truth=data.truth[:count])


def test_the_posterior_is_calibrated_and_better_than_its_prior(mixed: CellData) -> None:
    found = sample(mixed, 40)
    inside = (found["lower"] <= found["truth"]) & (found["truth"] <= found["upper"])
    assert 0.65 <= inside.mean() <= 0.95
    assert 0.38 <= found["rank"].mean() <= 0.62
    assert 0.2 <= found["rank"].std() <= 0.38
    error = (found["elasticity"] - found["truth"]).abs().mean()
    assert error < 0.8 * np.abs(mixed.truth[:40] - mixed.truth.mean()).mean()


def test_prices_that_follow_demand_are_evidence_of_demand() -> None:
    data = simulate_cell(cell_of("shop_c-0.9"))
    reads, ignores = (sample(data, 25, follows) for follows in (True, False))
    bias = [(one["elasticity"] - one["truth"]).mean() for one in (reads, ignores)]
    assert bias[1] > 0.5
    assert abs(bias[0]) < 0.7 * bias[1]


def test_a_posterior_needs_a_structure_that_it_knows() -> None:
    market = cell_of("mixed").market
    with pytest.raises(ValueError, match="one product"):
        ShopPrior(replace(market, num_products=3), (-0.9, 0.9), (0.55, 0.9))
    with pytest.raises(ValueError, match="noises"):
        ShopPrior(replace(market, noises=("zero_inflated",)), (-0.9, 0.9), (0.55, 0.9))
    assert build_priors(cell_of("lifecycle"), SMALL, told=True) == {}
    assert build_priors(cell_of("shop_c-0.9"), SMALL, told=True)["posterior_told"].confounding == (-0.9, -0.9)


def test_posteriors_come_back_from_the_cache(tmp_path: Path, mixed: CellData) -> None:
    effort = Effort(3, False, SamplerSettings(particles=50, final_sweeps=2), 1, 0, tmp_path)
    first, again = (estimate_ceilings(mixed, SMALL, effort) for _ in range(2))
    assert not first["cached"].any()
    assert again["cached"].all()
    pd.testing.assert_frame_equal(first.drop(columns="cached"), again.drop(columns="cached"))
    other = estimate_ceilings(mixed, SMALL, replace(effort, sampler=replace(effort.sampler, seed=1)))
    assert not other["cached"].any()


# -- scores ----------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_a_hand_calculation() -> None:
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    shifts = {"prior_mean": 1.0, "log_log": 0.8, "lags": 0.5, "posterior": 0.2}
    parts = [
        pd.DataFrame(
            {
                "estimator": name, "item_id": list("abcd"), "category": list("wxyz"), "truth": truth,
                "elasticity": truth + shift, "lower": truth + shift - 0.6, "upper": truth + shift + 0.6,
                "cell": "one",
            }
        )
        for name, shift in shifts.items()
    ]  # fmt: skip
    parts[-1] = parts[-1].iloc[:2]  # the ceiling of some items only
    table = tabulate_cell(score_cell(pd.concat(parts, ignore_index=True)))
    assert table.loc["log_log", "mae"] == pytest.approx(0.8)
    assert table.loc["log_log", "bias"] == pytest.approx(0.8)
    assert table.loc["log_log", "coverage_80"] == 0.0
    assert table.loc["lags", "coverage_80"] == 1.0
    assert table.loc["lags", "width_80"] == pytest.approx(1.2)
    assert table.loc["lags", "to_prior_mean"] == pytest.approx(0.5)
    assert table.loc["lags", "to_posterior"] == pytest.approx(2.5)
    assert table.loc["log_log", "to_best_rival"] == pytest.approx(1.6)
    assert table.loc["posterior", "n"] == 2


def test_the_recipe_writes_what_it_promises(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    words = ["--output_dir", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--num_items", "12"]
    words += ["--cells", "shop_c-0.9", "--posterior_items", "2", "--particles", "50", "--no_told"]
    rows = recipe.main(words)
    written = read_results(tmp_path / "out")
    assert written.metrics == tuple(rows)
    assert {row.model for row in rows if row.name == "elasticity_mae"} >= {*RIVALS[:3], "prior_mean", "posterior"}
    items = pd.read_csv(tmp_path / "out" / "items.csv")
    assert items["elasticity"].between(0.0, HIGHEST_ELASTICITY).all()
    assert {"cells.csv", "scores.csv", "errors.png", "recipe.yaml"} <= {p.name for p in (tmp_path / "out").iterdir()}
