"""Logged data sets: a panel that loads, a truth that belongs to it, and prices that were really randomised."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, core, simulate_log
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.log_truth import compute_elasticities, compute_optimal_prices
from pricing_fm.markets.payoffs import MARGIN
from pricing_fm.markets.streams import build_streams
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


@pytest.mark.parametrize("family", DOMAINS["retail"].families)
def test_an_assortment_of_one_product_sells_in_every_family(family):
    log = _log(RetailSettings(num_products=1), ManagerSettings(names=("epsilon_ladder",)), family=family)
    assert np.isfinite(log.panel["units"]).all()
    assert log.panel["units"].sum() > 0
    assert np.isfinite(log.truth["mean_demand"]).all()


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


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_logs_of_every_family_load_as_panels(domain):
    for family in DOMAINS[domain].families:
        log = _log(num_markets=4, num_periods=40, domain=domain, family=family, randomized_periods=(4, 9))
        panel, truth = log.panel, log.truth
        loaded = load_panel(panel)
        assert len(loaded.frame) == log.num_items * 40, family
        assert loaded.frequency.name == DOMAINS[domain].frequency
        pd.testing.assert_frame_equal(panel[["item_id", "timestamp"]], truth[["item_id", "timestamp"]])
        market = log.parameters
        assert ("inventory" in panel) == (market.supply is not None)
        assert ("competitor_price" in panel) == (market.rivals is not None)
        assert ("segment" in panel) == (market.shape[2] > 1)
        assert ("substitute_group" in panel) == (not market.demand.is_separable and market.shape[1] > 1)
        assert panel["price_is_intervention"].any()
        assert truth["mean_demand"].ge(0).all()
        assert truth["elasticity"].notna().all(), family
        # Here and there demand has ended or the price is below every buyer's limit; else a higher price sells less.
        assert (truth["elasticity"] > 0).mean() > 0.97, family
        if market.shock is None and market.regimes is None:
            assert (truth["hidden_shock"] == 0).all()
        else:
            assert np.exp(truth["hidden_shock"]).mean() == pytest.approx(1.0, abs=0.35)


def test_reported_rival_prices_are_mostly_right_sometimes_late_and_sometimes_missing():
    log = _log(num_markets=20, num_periods=60, family="rival")
    now = np.stack([state.rivals[..., 0] for state in _replay(log)])
    before = np.stack([state.rivals[..., 1] for state in _replay(log)])
    report = log.arrays.competitor_price
    assert 0.05 < np.isnan(report).mean() < 0.15
    late = (report == before) & (now != before)
    assert np.all((report == now) | late | np.isnan(report))
    assert 0.01 < late.mean() < 0.15
    np.testing.assert_array_equal(log.panel["competitor_price"].isna().sum(), np.isnan(report).sum())


def _replay(log):
    """States before every period of a log of a market without end."""
    random = build_streams(log.settings.seed, log.market_ids)
    state = core.start(log.parameters, random)
    for price, promotion in zip(log.arrays.price, log.arrays.promotion, strict=True):
        yield state
        state = core.step(log.parameters, state, price, random, promotion)[0]


def test_a_market_that_ends_is_logged_season_after_season_each_with_luck_of_its_own():
    log = _log(num_markets=6, num_periods=39, family="perishable")
    stock = log.arrays.inventory.reshape(3, 13, -1)
    assert np.all(stock[:, 0] == log.parameters.supply.units.reshape(-1))
    assert np.all(np.diff(stock, axis=1) <= 0)
    units = log.arrays.units.reshape(3, 13, -1)
    np.testing.assert_array_equal(stock[:, :-1] - units[:, :-1], stock[:, 1:])
    assert not np.array_equal(units[0], units[1])
    # A log that ends with a season is followed by the next one.
    assert np.all(log.state.period == 0)
    longer = _log(num_markets=6, num_periods=45, family="perishable")
    np.testing.assert_array_equal(longer.arrays.units[:39], log.arrays.units)
    assert np.all(longer.state.period == 6)


def test_numerical_elasticities_are_those_of_the_closed_forms():
    log = _log(num_markets=6, num_periods=20)
    states = tuple(_replay(log))
    arrays, market = log.arrays, log.parameters
    closed = compute_elasticities(market, (), arrays.price, arrays.promotion)

    twin = replace(market, memory=replace(market.memory, loss=market.memory.loss * (1 + 1e-12)))
    assert not np.array_equal(twin.memory.gain, twin.memory.loss)
    numerical = compute_elasticities(twin, states, arrays.price, arrays.promotion)
    np.testing.assert_allclose(numerical, closed, rtol=1e-5)
    # Logit: sensitivity x price x share of those who do not buy.
    loans = _log(domain="loans", family="take_up", num_markets=4, num_periods=10)
    demand, price = loans.parameters.demand, loans.arrays.price
    known = np.stack([demand.sensitivity * p * (1.0 - demand.respond(p, None)) for p in price])
    np.testing.assert_allclose(compute_elasticities(loans.parameters, loans.states, price, 0 * price), known, rtol=1e-5)


def test_elasticities_of_substitutes_move_one_price_at_a_time():
    log = _log(family="substitution", num_markets=4, num_periods=6)
    demand, price = log.parameters.demand, log.arrays.price
    own = np.stack([demand.sensitivity * p * (1.0 - demand.respond(p, None)) for p in price])
    found = compute_elasticities(log.parameters, log.states, price, log.arrays.promotion)
    np.testing.assert_allclose(found, own, rtol=1e-5)
    assert log.truth["optimal_price"].isna().all()


def test_the_optimal_price_of_a_logit_beats_a_fine_grid():
    loans = _log(domain="loans", family="take_up", num_markets=4, num_periods=2)
    market = replace(loans.parameters, payoff=MARGIN)
    assert loans.truth["optimal_price"].isna().all()
    cost, regular = 0.4 * loans.arrays.list_price, loans.arrays.list_price
    best = compute_optimal_prices(market, cost, regular)
    value = (best - cost) * market.demand.respond(best[0], None)
    for multiple in np.linspace(*market.price_bounds, 301):
        price = multiple * regular
        assert np.all((price - cost) * market.demand.respond(price[0], None) <= value * (1 + 1e-9))
    low, high = market.price_bounds
    assert ((best > low * regular) & (best < high * regular)).mean() > 0.5


def test_progress_is_told_after_every_period():
    told = []
    simulate_log(None, None, LogSettings(num_markets=2, num_periods=7), on_period=told.append)
    assert told == list(range(1, 8))


def test_settings_of_another_domain_are_refused():
    with pytest.raises(ValueError, match="market is a RetailSettings.*takes LoansSettings"):
        simulate_log(RetailSettings(), None, LogSettings(domain="loans"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_markets": 0}, "num_markets is 0"),
        ({"randomized_periods": (0, 4)}, "randomized_periods"),
        ({"randomized_periods": (10, 500)}, "randomized_periods"),
        ({"randomized_share": -0.1}, "randomized_share"),
        ({"intervention_ladder": ()}, "intervention_ladder"),
        ({"domain": "bazaar"}, "known domains: retail"),
        ({"domain": "loans", "family": "shop"}, "known families of loans"),
    ],
)
def test_impossible_logs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LogSettings(**settings)
