"""A market fitted to a log finds the numbers that made it, says what it cannot know, and repeats itself."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import nbinom

from pricing_fm.errors import PanelError
from pricing_fm.markets.fitting import Estimates, FitSettings, FittedMarket, estimate_market
from pricing_fm.markets.fitting.category_fit import CategoryFit, ShockFit
from pricing_fm.markets.fitting.design import Calendar
from pricing_fm.markets.fitting.likelihood import CountData, compute_working_terms, impute_censored
from pricing_fm.markets.fitting.price_process import PriceProcess, PromotionProcess
from pricing_fm.markets.fitting.side_processes import CostProcess, StockProcess
from pricing_fm.panel import Panel, load_panel

PERIODS = 110
COLUMNS = ["name", "category", "shock_scale", "level", "elasticity", "promotion_promotion"]

PRICES = PriceProcess(
    cut_share_mean=0.25,
    cut_share_deviation=0.05,
    stop_probability=0.5,
    participation_cut=(0.9,) * 20,
    participation_calm=(0.05,) * 20,
    participation_persistence=0.5,
    rank_persistence=0.5,
    depth_quantiles=tuple(np.linspace(0.08, 0.4, 20).tolist()),
    depth_persistence=0.5,
    noise_share=0.0,
    noise_deviation=0.0,
    noise_persistence=0.0,
    regular_change_probability=0.03,
    regular_deviation=0.06,
    promotions=PromotionProcess(((0,), (1,)), ((0.97, 0.03), (0.5, 0.5), (0.4, 0.6)), 0.2, 0.9),
)
JUICE = CategoryFit(
    name="juice",
    means=(2.7, 2.0, 0.4),
    mean_errors=(0.0, 0.0, 0.0),
    item_deviations=(0.3, 0.15, 0.05),
    product_deviations=(0.5, 0.4, 0.05),
    store_deviations=(0.2, 0.1, 0.02),
    season=(0.05, 0.2, -0.1, 0.0, 0.05, 0.0, 0.0),
    market_shock=ShockFit(0.08, 0.0, 0.4, 0.0),
    product_shock=ShockFit(0.12, 0.0, 0.5, 0.0),
    store_shock=ShockFit(0.05, 0.0, 0.5, 0.0),
    own_shock=ShockFit(0.15, 0.0, 0.7, 0.0),
    dispersion=0.05,
    dispersion_deviation=0.2,
    reference_price=4.0,
    product_price_deviation=0.3,
    item_price_deviation=0.05,
    count_sizes=(1.0,),
    num_products=10,
    num_stores=8,
    carried_share=0.9,
    prices=PRICES,
    cost=CostProcess(0.6, 0.05, 0.0, 0.03, 0.8),
    stock=None,
)


def build_market(fit: CategoryFit = JUICE, zeros_unlisted: bool = False) -> FittedMarket:
    """A market whose numbers are given instead of fitted."""
    groups = pd.DataFrame(columns=COLUMNS)
    calendar = Calendar(pd.Timestamp("2020-01-06"), PERIODS / 52.18 / 2.0, 3, False)
    return FittedMarket(
        "made", "sha256:none", "W", calendar, ("promotion",), zeros_unlisted, (fit,), pd.DataFrame(), groups, groups
    )


def build_panel(market: FittedMarket, seed: int = 0, periods: int = PERIODS) -> tuple[Panel, pd.DataFrame]:
    panel, truth = market.simulate(periods, seed)
    absent = "missing" if market.zeros_unlisted else "zero"
    schema = {"promotion": "promotion", "absent_rows": absent, "frequency": "W"}
    return load_panel(panel, schema=schema), truth


@pytest.fixture(scope="module")
def log() -> tuple[Panel, pd.DataFrame]:
    return build_panel(build_market())


@pytest.fixture(scope="module")
def fit(log: tuple[Panel, pd.DataFrame]) -> Estimates:
    return estimate_market(log[0])


@pytest.fixture(scope="module")
def market(log: tuple[Panel, pd.DataFrame], fit: Estimates) -> FittedMarket:
    return FittedMarket.from_estimates(fit, log[0])


def true_elasticities(truth: pd.DataFrame) -> np.ndarray:
    return truth.groupby("item_id")["elasticity"].first().to_numpy()


def plain_slopes(panel: Panel) -> np.ndarray:
    """Least squares of log units on log price and flyer, item by item."""
    slopes = []
    for _, rows in panel.frame.dropna(subset=["units"]).groupby("item_id"):
        regressors = np.c_[np.ones(len(rows)), -np.log(rows["price"]), rows["promotion"]]
        slopes.append(np.linalg.lstsq(regressors, np.log(rows["units"] + 0.5), rcond=None)[0][1])
    return np.array(slopes)


# -- what is found ---------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_numbers_that_made_the_log(log, fit, market):
    truth = true_elasticities(log[1])
    found = fit.effects.coefficients[:, 1]
    assert found.mean() == pytest.approx(truth.mean(), abs=0.12)
    assert np.corrcoef(found, truth)[0, 1] > 0.7
    (category,) = market.categories
    assert category.means[2] == pytest.approx(0.4, abs=0.1)
    assert category.season[1] == pytest.approx(0.2, abs=0.06)
    # The log of this draw, not the law it was drawn from: ten products are few.
    assert category.product_deviations[1] == pytest.approx(0.4, abs=0.2)
    settings = market.to_settings_dict()["juice"]
    assert settings["shock_scale"] == pytest.approx(np.sqrt(0.08**2 + 0.12**2 + 0.05**2 + 0.15**2), rel=0.2)
    assert settings["shock_persistence"] == pytest.approx(0.6, abs=0.2)
    assert settings["dispersion"] == pytest.approx(20.0, rel=0.35)
    assert settings["cost_share"] == pytest.approx(0.6, abs=0.05)
    assert fit.last_change < 1e-3


def test_standard_errors_cover_the_truth_about_as_often_as_they_say(log, fit):
    error = fit.effects.item_errors(fit.design)[:, 1]
    inside = np.abs(fit.effects.coefficients[:, 1] - true_elasticities(log[1])) < 1.645 * error
    assert 0.7 < inside.mean() < 0.99


def test_shrinkage_beats_the_regression_of_each_item_by_itself(log, fit):
    truth = true_elasticities(log[1])
    ours = np.mean((fit.effects.coefficients[:, 1] - truth) ** 2)
    alone = np.mean((plain_slopes(log[0]) - truth) ** 2)
    assert ours < 0.6 * alone


def test_an_item_without_price_variation_takes_the_elasticity_of_its_product(log):
    panel, _ = log
    frame = panel.to_pandas()
    mute = panel.item_ids[3]
    product = frame.loc[frame["item_id"] == mute, "product_id"].iloc[0]
    frame.loc[frame["item_id"] == mute, ["price", "list_price"]] = 4.0
    found = estimate_market(replace(panel, frame=frame))
    of_product = frame.groupby("item_id")["product_id"].first().to_numpy() == product
    elasticities = found.effects.coefficients[:, 1]
    others = np.delete(elasticities[of_product], np.flatnonzero(np.flatnonzero(of_product) == 3))
    assert elasticities[3] == pytest.approx(others.mean(), abs=0.25)
    error = np.sqrt(found.effects.covariances[:, 1, 1])
    assert error[3] == error.max()


def test_the_price_process_is_read_off_its_own_paths(market):
    found = market.categories[0].prices
    assert found.cut_share_mean == pytest.approx(0.25, abs=0.06)
    assert found.stop_probability == pytest.approx(0.5, abs=0.12)
    assert np.median(found.participation_cut) == pytest.approx(0.9, abs=0.06)
    assert np.median(found.depth_quantiles) == pytest.approx(0.24, abs=0.05)
    assert found.promotions.agreement == pytest.approx(0.9, abs=0.12)


# -- stock, unlisted zeros, units -------------------------------------------------------------------------------------


def test_sold_out_weeks_are_bounds_and_taking_them_for_demand_is_biased():
    stocked = replace(JUICE, stock=StockProcess(1.3, 0.3), num_stores=4)
    panel, truth = build_panel(build_market(stocked), seed=2)
    sold_out = (panel.frame["units"] >= panel.frame["inventory"]).mean()
    assert sold_out > 0.3
    demand = truth["demand"].mean()
    errors = {}
    for use_censoring in (True, False):
        found = estimate_market(panel, FitSettings(use_censoring=use_censoring))
        mean = np.exp(found.effects.predictor(found.design))[found.design.alive]
        errors[use_censoring] = mean.mean() / demand - 1.0
    assert errors[False] < -0.15
    assert abs(errors[True]) < 0.05


def test_weeks_without_stock_say_nothing(log):
    panel, _ = log
    frame = panel.to_pandas()
    empty = np.random.default_rng(0).random(len(frame)) < 0.3
    stock = np.where(empty, 0.0, frame["units"] + 1_000.0)
    schema = {"promotion": "promotion", "absent_rows": "missing", "frequency": "W"}
    with_stock = load_panel(frame.assign(units=frame["units"].mask(empty, 0.0), inventory=stock), schema=schema)
    without_rows = load_panel(frame.assign(units=frame["units"].mask(empty)), schema=schema)
    first, second = estimate_market(with_stock), estimate_market(without_rows)
    np.testing.assert_allclose(first.effects.coefficients, second.effects.coefficients, rtol=1e-9)


def test_a_log_of_sales_alone_does_not_raise_the_demand_of_slow_sellers():
    slow = replace(JUICE, means=(0.3, 2.0, 0.4))
    hidden = build_market(slow, zeros_unlisted=True)
    panel, truth = build_panel(hidden, seed=1)
    absent = panel.frame["units"].isna().mean()
    assert absent > 0.15
    found = estimate_market(panel)
    assert found.design.data.zeros_unlisted
    mean = np.exp(found.effects.predictor(found.design))[found.design.alive].mean()
    demand = truth["demand"].mean()
    assert panel.frame["units"].mean() > 1.15 * demand
    assert mean == pytest.approx(demand, rel=0.06)


def test_prices_in_cents_give_the_same_elasticities(log, fit):
    panel, _ = log
    frame = panel.to_pandas()
    prices = ["price", "list_price", "cost"]
    cents = estimate_market(replace(panel, frame=frame.assign(**{name: 100.0 * frame[name] for name in prices})))
    np.testing.assert_allclose(cents.effects.coefficients, fit.effects.coefficients, rtol=1e-7)
    np.testing.assert_allclose(cents.design.reference_prices, 100.0 * fit.design.reference_prices)


def test_packs_are_recognised_in_units(log, fit):
    panel, _ = log
    frame = panel.to_pandas()
    ounces = estimate_market(replace(panel, frame=frame.assign(units=64.0 * frame["units"])))
    assert set(ounces.design.count_size) == {64.0}
    np.testing.assert_allclose(ounces.effects.coefficients, fit.effects.coefficients, rtol=1e-9)


@pytest.mark.parametrize("kind", ["plain", "truncated", "censored"])
def test_the_score_is_the_slope_of_the_likelihood(kind):
    counts, eta, dispersion = np.array([[1.0, 4.0, 9.0]]), np.array([[0.4, 1.2, 1.8]]), np.array([[0.3]])

    def log_likelihood(predictor: np.ndarray) -> np.ndarray:
        mean = np.exp(predictor)
        law = nbinom(1.0 / dispersion, 1.0 / (1.0 + dispersion * mean))
        if kind == "censored":
            return np.log(law.sf(counts - 1))
        return law.logpmf(counts) - (np.log(law.sf(0)) if kind == "truncated" else 0.0)

    everywhere = np.ones_like(counts, dtype=bool)
    data = CountData(counts, everywhere, everywhere & (kind == "censored"), kind == "truncated")
    terms = compute_working_terms(data, eta, dispersion)
    slope = (log_likelihood(eta + 1e-5) - log_likelihood(eta - 1e-5)) / 2e-5
    np.testing.assert_allclose(terms.score, slope, rtol=1e-6)
    if kind == "censored":
        bend = (log_likelihood(eta + 1e-3) - 2 * log_likelihood(eta) + log_likelihood(eta - 1e-3)) / 1e-6
        np.testing.assert_allclose(terms.weight, -bend, rtol=1e-4)


def test_imputed_demand_has_the_law_of_demand_that_reached_the_stock():
    number = 20_000
    counts, everywhere = np.full((1, number), 12.0), np.ones((1, number), dtype=bool)
    data = CountData(counts, everywhere, everywhere, False)
    uniforms = np.random.default_rng(0).random((1, number))
    drawn = impute_censored(data, np.full((1, number), np.log(9.0)), np.array([[0.2]]), uniforms)
    law = nbinom(5.0, 5.0 / 14.0)
    values = np.arange(12, 400)
    expected = (values * law.pmf(values)).sum() / law.sf(11)
    assert drawn.min() == 12.0
    assert drawn.mean() == pytest.approx(expected, rel=0.01)


# -- simulation -------------------------------------------------------------------------------------------------------


def test_replicates_are_repeated_by_their_seed_and_differ_between_seeds(market, log):
    first, again, other = (market.simulate(60, seed)[0] for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert not first["units"].equals(other["units"])
    replays = [market.simulate(None, 3, prices=log[0], replicate=number)[0]["units"] for number in (0, 0, 1)]
    assert replays[0].equals(replays[1])
    assert not replays[0].equals(replays[2])


def test_an_item_draws_the_same_path_in_any_company_and_for_any_length(market, log):
    panel, _ = log
    one = panel.item_ids[5]
    alone, _ = market.simulate(None, 0, prices=panel.select_items([one]))
    together, _ = market.simulate(None, 0, prices=panel)
    np.testing.assert_array_equal(alone["units"], together.loc[together["item_id"] == one, "units"])
    short, _ = market.simulate(30, 0)
    long, _ = market.simulate(60, 0)
    first = long[long["timestamp"] <= short["timestamp"].max()].reset_index(drop=True)
    pd.testing.assert_frame_equal(short, first)


def test_a_replay_keeps_the_prices_and_a_new_market_has_its_own(market, log):
    panel, _ = log
    replayed, truth = market.simulate(None, 0, prices=panel)
    np.testing.assert_array_equal(replayed["price"], panel.frame["price"])
    assert len(truth) == len(replayed)
    assert replayed["units"].mean() == pytest.approx(panel.frame["units"].mean(), rel=0.12)
    new, _ = market.simulate(52, 0)
    load_panel(new, schema={"promotion": "promotion", "frequency": "W"})
    assert set(new["price"]).isdisjoint(panel.frame["price"])


def test_a_market_comes_back_from_disk_as_it_was(market, log, tmp_path):
    market.save(tmp_path)
    loaded = FittedMarket.load(tmp_path)
    assert loaded.categories == market.categories
    assert loaded.calendar == market.calendar
    assert loaded.to_settings_dict() == market.to_settings_dict()
    for prices in (None, log[0]):
        for ours, theirs in zip(market.simulate(40, 1, prices=prices), loaded.simulate(40, 1, prices=prices)):
            pd.testing.assert_frame_equal(ours, theirs)


def test_a_kept_market_holds_no_row_of_the_log(market, log):
    panel, _ = log
    assert len(market.items) == len(panel.item_ids)
    kept = set(market.items.select_dtypes("number").to_numpy().ravel())
    assert len(kept & set(panel.frame["price"])) <= len(panel.item_ids)  # reference prices


# -- bad input --------------------------------------------------------------------------------------------------------


def test_a_panel_without_price_variation_is_refused(log):
    panel, _ = log
    with pytest.raises(PanelError, match="no price variation"):
        estimate_market(replace(panel, frame=panel.to_pandas().assign(price=3.0, list_price=3.0)))


def test_fractional_units_need_a_count_size(log):
    panel, _ = log
    frame = panel.to_pandas()
    kilos = replace(panel, frame=frame.assign(units=frame["units"] * 0.25))
    with pytest.raises(PanelError, match="count_size"):
        estimate_market(kilos)
    assert estimate_market(kilos, FitSettings(num_iterations=3, count_size=0.25)).design.data.counts.max() > 1.0
    with pytest.raises(ValueError, match="count_size"):
        estimate_market(kilos, FitSettings(count_size=-1.0))


def test_other_impossible_wishes_are_refused(market, log):
    panel, _ = log
    with pytest.raises(ValueError, match="num_iterations"):
        FitSettings(num_iterations=1)
    with pytest.raises(ValueError, match="num_periods"):
        market.simulate(None, 0)
    with pytest.raises(ValueError, match="num_periods"):
        market.simulate(PERIODS + 1, 0, prices=panel)
    stranger = panel.to_pandas().assign(item_id=lambda frame: "x" + frame["item_id"])
    with pytest.raises(PanelError, match="was not fitted"):
        market.simulate(None, 0, prices=replace(panel, frame=stranger))
    frame = pd.DataFrame(
        {"item_id": "a", "timestamp": pd.date_range("2024-01-01", periods=48, freq="h"), "units": 1.0, "price": 2.0}
    )
    with pytest.raises(PanelError, match="days or longer"):
        estimate_market(load_panel(frame, schema={"frequency": "h"}))
