"""Logged data sets: a panel that loads, a truth that belongs to it, and prices that were really randomised."""

import numpy as np
import pandas as pd
import pytest

from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, simulate_log
from pricing_fm.panel.load import load_panel


def _log(market=None, managers=None, **settings):
    return simulate_log(market, managers, LogSettings(**{"num_markets": 10, "num_periods": 60, **settings}))


def test_the_panel_loads_as_a_panel():
    log = _log(RetailSettings(num_stores=2), randomized_periods=(8, 20))
    panel = load_panel(log.panel)
    assert len(panel.frame) == log.num_items * 60
    assert panel.frame["category"].nunique() == 5
    assert panel.frame["product_id"].nunique() == 50
    assert panel.frame["location_id"].nunique() == 2
    assert panel.schema.promotions == ("promotion",)


def test_panel_and_truth_agree_row_for_row():
    log = _log()
    panel, truth = log.panel, log.truth
    pd.testing.assert_frame_equal(panel[["item_id", "timestamp"]], truth[["item_id", "timestamp"]])
    stocked = panel["inventory"].notna()
    assert 0.2 < stocked.mean() < 1.0
    assert (panel.loc[stocked, "units"] <= panel.loc[stocked, "inventory"]).all()
    # Where nothing sold out, sales scatter around the mean demand.
    free = ~stocked
    assert panel.loc[free, "units"].sum() == pytest.approx(truth.loc[free, "mean_demand"].sum(), rel=0.05)
    assert panel["cost"].lt(panel["list_price"]).all()


def test_the_optimal_price_of_the_truth_is_the_lerner_price_where_elasticity_is_constant():
    market = RetailSettings(families=("constant_elasticity",), elasticity_range=(2.5, 4.5), reference_share=0.0)
    log = _log(market)
    merged = log.panel.assign(truth=log.truth["optimal_price"], elasticity=log.truth["elasticity"])
    closed = merged["cost"] * merged["elasticity"] / (merged["elasticity"] - 1)
    inside = closed.between(0.5 * merged["list_price"], 2.0 * merged["list_price"])
    assert inside.mean() > 0.8
    np.testing.assert_allclose(merged.loc[inside, "truth"], closed[inside], rtol=1e-6)


def test_the_randomised_stretch_ends_the_log_and_lasts_as_told():
    log = _log(randomized_periods=(8, 26), randomized_share=0.5, num_markets=40)
    flags = log.arrays.price_is_intervention.reshape(60, -1)
    lengths = flags.sum(axis=0)
    assert set(np.unique(lengths)) <= {0, *range(8, 27)}
    assert 0.4 < (lengths > 0).mean() < 0.6
    assert lengths.max() == 26
    assert lengths[lengths > 0].min() == 8
    assert np.all(np.diff(flags.astype(int), axis=0) >= 0)


def test_randomised_prices_ignore_shock_and_manager_and_cover_the_ladder():
    managers = ManagerSettings(names=("demand_follower",), confounding=(-0.9, -0.9))
    log = _log(None, managers, randomized_periods=(20, 20), num_markets=60)
    drawn = log.arrays.price_is_intervention
    ratio = (log.arrays.price / log.arrays.list_price)[drawn]
    shock = (log.arrays.hidden_shock / log.parameters.shock.scale)[drawn]
    assert abs(np.corrcoef(ratio, shock)[0, 1]) < 0.04
    assert ratio.min() < 0.67
    assert ratio.max() > 1.27
    assert ratio.mean() == pytest.approx(np.mean(log.settings.intervention_ladder), abs=0.02)
    # Half of the items keep one price over the whole stretch, the others change it.
    steps = np.abs(np.diff((log.arrays.price / log.arrays.list_price)[-20:], axis=0)) > 0.02
    still = ~steps.any(axis=0)
    assert 0.35 < still.mean() < 0.65
    assert set(np.round(log.arrays.propensity[-20][drawn[-20]], 6)) == {round(1 / 14, 6)}


def test_randomising_the_end_leaves_the_log_before_it_as_it_was():
    plain, randomized = _log(), _log(randomized_periods=(20, 20))
    for name in ("units", "price", "promotion", "mean_demand"):
        a, b = getattr(plain.arrays, name), getattr(randomized.arrays, name)
        np.testing.assert_array_equal(a[:40], b[:40])
    assert not np.array_equal(plain.arrays.price[40:], randomized.arrays.price[40:])


def test_only_the_leading_categories_are_randomised_when_so_told():
    log = _log(randomized_periods=(10, 10), randomized_categories=3)
    by_market = log.arrays.price_is_intervention.any(axis=(0, 2, 3))
    np.testing.assert_array_equal(by_market, np.arange(10) < 3)


def test_a_log_is_the_same_whatever_runs_beside_it_and_differs_by_seed():
    whole, tail = _log(num_markets=8), _log(num_markets=3, first_market=5)
    rows = whole.panel[whole.panel["category"].isin(tail.panel["category"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, tail.panel)
    assert not np.array_equal(_log(seed=1).arrays.units, _log(seed=0).arrays.units)


def test_segments_are_items_of_their_own():
    log = _log(RetailSettings(num_products=3, num_segments=2))
    assert log.num_items == 60
    assert set(log.panel["segment"]) == {"group-0", "group-1"}
    assert len(load_panel(log.panel).frame) == 60 * 60


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_markets": 0}, "num_markets is 0"),
        ({"randomized_periods": (0, 4)}, "randomized_periods"),
        ({"randomized_periods": (10, 500)}, "randomized_periods"),
        ({"randomized_share": -0.1}, "randomized_share"),
        ({"intervention_ladder": ()}, "intervention_ladder"),
    ],
)
def test_impossible_logs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LogSettings(**settings)
