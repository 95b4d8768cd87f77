"""Managers in any domain: what each reacts to, the exact chance of what he does, and refusals where he is blind."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import LogSettings, ManagerSettings, core, simulate_log
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.interventions import plan_interventions
from pricing_fm.markets.managers import MANAGERS, STANDARD_MANAGERS, decide, describe_missing, sample_habits
from pricing_fm.markets.streams import build_streams

ROLLOUTS = 3_000


def _log(manager, domain="retail", family=None, confounding=0.0, num_markets=24, num_periods=52):
    settings = LogSettings(num_markets=num_markets, num_periods=num_periods, domain=domain, family=family)
    managers = ManagerSettings(names=(manager,), confounding=(confounding, confounding))
    return simulate_log(None, managers, settings)


def _open(manager, domain, family, tick=None):
    """Three markets with their managers' habits, each repeated under `ROLLOUTS` kinds of luck."""
    ids = np.arange(3)
    market = DOMAINS[domain].sample(DOMAINS[domain].settings(), family, ids, 0)
    if tick is not None:
        market = replace(market, price_tick=np.full((3, 1, 1), tick))
    habits = sample_habits(ManagerSettings(names=(manager,), confounding=(0.5, 0.5)), market, ids, 1, 0)
    state = core.start(market, build_streams(0, ids))
    rows = np.repeat(ids, ROLLOUTS)
    luck = build_streams(0, rows, np.tile(np.arange(ROLLOUTS), 3))
    return habits.select(rows), market.select(rows), state.select(rows), luck


def _assert_chances(values, stated, least=1):
    """The share of every value among draws is its stated chance; `least` draws are needed to say so."""
    draws = len(values)
    if draws < least:
        return
    _, where, counts = np.unique(values, return_index=True, return_counts=True)
    chance = stated[where]
    error = np.abs(counts / draws - chance)
    # Five draws more than expected of what hardly ever happens are luck.
    assert np.all(error <= 4.5 * np.sqrt(chance * (1 - chance) / draws) + 5 * (chance < 1) / draws)
    # What was never drawn has next to no chance.
    assert chance.sum() == pytest.approx(1.0, abs=40 / draws)


@pytest.mark.parametrize(
    "manager, domain, family",
    [
        ("cost_plus", "energy", "wholesale_regimes"),
        ("demand_follower", "loans", "funding_regimes"),
        ("matcher", "loans", "rival_rates"),
        ("rival_driven", "retail", "rival"),
        ("noisy_expert", "retail", "substitution"),
        ("noisy_expert", "retail", "shop"),
        ("stock_driven", "retail", "logit_stock"),
        ("stock_driven", "energy", "storage"),
        ("promotion_timer", "retail", "halo"),
    ],
)
def test_prices_come_as_often_as_their_propensity_says(manager, domain, family):
    habits, market, state, luck = _open(manager, domain, family)
    if market.rivals is not None:
        # What the rival's price was reported to be is known to the manager: the same report for all.
        sharp = replace(market.rivals, late_share=np.zeros_like(market.rivals.late_share))
        market = replace(market, rivals=replace(sharp, missing_share=np.zeros_like(sharp.missing_share)))
    decision = decide(habits, market, state, luck)
    prices = decision.prices.reshape(3, ROLLOUTS, -1)
    stated = decision.propensities.reshape(3, ROLLOUTS, -1)
    for place in np.ndindex(3, prices.shape[2]):
        _assert_chances(prices[place[0], :, place[1]], stated[place[0], :, place[1]])


@pytest.mark.parametrize("manager", ["epsilon_ladder", "randomized", "hi_lo", "noisy_expert", "demand_follower"])
def test_where_a_coarse_coin_makes_one_price_of_two_rungs_their_chances_add_up(manager):
    habits, market, state, luck = _open(manager, "retail", "shop", tick=0.5)
    decision = decide(habits, market, state, luck)
    prices, rungs = decision.prices.reshape(3, ROLLOUTS, -1), decision.rungs.reshape(3, ROLLOUTS, -1)
    stated = decision.propensities.reshape(3, ROLLOUTS, -1)
    merged = 0
    for place in np.ndindex(3, prices.shape[2]):
        price, rung = prices[place[0], :, place[1]], rungs[place[0], :, place[1]]
        merged += len(np.unique(rung)) > len(np.unique(price))
        _assert_chances(price, stated[place[0], :, place[1]])
    assert merged > 3


@pytest.mark.parametrize(
    "manager, family", [("markdown_ladder", "perishable"), ("markdown_ladder", "halo"), ("hi_lo", "perishable")]
)
def test_propensities_hold_given_the_prices_of_the_periods_before(manager, family):
    habits, market, state, luck = _open(manager, "retail", family)
    history = np.zeros((3 * ROLLOUTS, market.shape[1]), dtype=np.int64)
    uncertain = 0
    for period in range(13):
        decision = decide(habits, market, state._replace(period=np.full(3 * ROLLOUTS, period)), luck)
        rungs, stated = decision.rungs[..., 0], decision.propensities[..., 0]
        for place in range(3):
            rows = slice(place * ROLLOUTS, (place + 1) * ROLLOUTS)
            # Every past is a number of its own; pasts that 300 runs share are looked at.
            for product in range(3):
                past, now, chance = history[rows, product], rungs[rows, product], stated[rows, product]
                for value in np.unique(past):
                    _assert_chances(now[past == value], chance[past == value], least=300)
                uncertain += (chance < 1).any()
        history = history * 9 + rungs
    assert uncertain > 5


def test_randomised_stretches_state_their_chances_whatever_the_coin():
    shape, ladder = (ROLLOUTS, 2, 1), np.array([0.7, 0.8, 0.9, 1.0, 1.1])
    random = build_streams(3, np.zeros(ROLLOUTS, dtype=int), np.arange(ROLLOUTS))
    list_price = np.broadcast_to(np.array([[[3.99], [2.49]]]), shape)
    for coin in (0.01, 0.5):
        drawn = plan_interventions(6, (4, 4), 1.0, np.full(ROLLOUTS, True), ladder, shape, random)
        tick = np.full((ROLLOUTS, 1, 1), coin)
        first = drawn.get_prices(2, list_price, tick)
        for item in range(2):
            _assert_chances(first.prices[:, item, 0], first.propensities[:, item, 0])
        later = drawn.get_prices(3, list_price, tick)
        # Runs differ in their chance of a new draw: compare expected with found frequencies of the price before.
        same = later.prices == first.prices
        expected = np.where(same, later.propensities, 1.0 - later.propensities)
        alike = (np.round(list_price * ladder.reshape(-1, 1, 1, 1) / tick) == np.round(first.prices / tick)).mean(
            axis=0
        )
        stay = 1.0 - drawn.redraw * (1.0 - alike)
        np.testing.assert_allclose(expected[same], stay[same])
        assert same.mean() == pytest.approx(stay.mean(), abs=4 / np.sqrt(2 * ROLLOUTS))


def test_a_markdown_ladder_only_steps_down_and_ends_at_the_bottom():
    log = _log("markdown_ladder", family="perishable", num_periods=39)
    multiple = (log.arrays.price / log.arrays.list_price).reshape(3, 13, -1)
    steps = np.diff(multiple, axis=1)
    assert steps.max() < 0.02
    assert -0.2 < steps.min() < -0.04
    assert np.all(multiple[:, 0] > 0.88)
    assert np.all(multiple[:, -1] < 0.80)
    # Each season steps on days of its own.
    assert not np.array_equal(multiple[0], multiple[1])


def test_a_matcher_charges_the_rung_nearest_to_the_reported_price():
    log = _log("matcher", family="rival")
    report = log.arrays.competitor_price
    distance = np.abs(log.arrays.list_price[..., None] * log.habits.price_ladder - report[..., None])
    nearest = log.habits.price_ladder[np.where(np.isnan(report)[..., None], np.inf, distance).argmin(axis=-1)]
    follows = np.abs(log.arrays.price / log.arrays.list_price - nearest) < 0.02
    regular = np.abs(log.arrays.price / log.arrays.list_price - log.habits.price_ladder[log.habits.regular_rung]) < 0.02
    seen = np.isfinite(report)
    assert 0.0 < (~seen).mean() < 0.25
    assert np.all(regular[~seen])
    assert np.all(follows[seen] | regular[seen])
    assert follows[seen].mean() > 0.6


def test_a_rival_driven_manager_undercuts_what_was_reported():
    log = _log("rival_driven", family="rival")
    ladder, list_price = log.habits.price_ladder, log.arrays.list_price
    report = log.arrays.competitor_price
    reachable = np.isfinite(report) & (report > list_price * ladder[1]) & (report < list_price * ladder[-2])
    reachable &= report > 1.2 * log.arrays.cost
    below = (log.arrays.price / report)[reachable]
    assert (below < 1.0).mean() > 0.7
    assert 0.93 < np.exp(np.log(below).mean()) < 0.99
    assert below.std() > 0.01


@pytest.mark.parametrize("domain, family", [("retail", "logit_stock"), ("retail", "fresh"), ("fares", "single_leg")])
def test_a_stock_driven_manager_is_cheap_when_overstocked_and_dear_when_short(domain, family):
    log = _log("stock_driven", domain, family)
    stock, period = log.arrays.inventory, np.arange(52) % log.parameters.num_periods
    start = stock[:1]
    left = 1.0 - period / log.parameters.num_periods if log.parameters.ends else np.ones(52)
    over = np.log(np.clip(stock / np.maximum(start * left.reshape(-1, 1, 1, 1), 1.0), 0.05, 20.0))
    multiple = np.log(log.arrays.price / log.arrays.list_price)
    assert np.corrcoef(over.ravel(), multiple.ravel())[0, 1] < -0.4


def test_a_noisy_expert_prices_around_the_optimum_and_beats_chance():
    log = _log("noisy_expert", family="fresh", num_markets=40)
    optimal = log.truth["optimal_price"].to_numpy() / log.panel["list_price"].to_numpy()
    charged = log.panel["price"].to_numpy() / log.panel["list_price"].to_numpy()
    wanted = np.clip(optimal, 0.7, 1.1)
    assert np.corrcoef(np.log(wanted), np.log(charged))[0, 1] > 0.5
    assert np.abs(np.log(charged / wanted)).mean() < 0.6 * np.abs(np.log(0.9 / wanted)).mean()
    assert np.abs(np.log(charged / wanted)).mean() > 0.01


def test_a_promotion_timer_promotes_all_products_in_the_same_periods_of_a_fixed_calendar():
    log = _log("promotion_timer")
    promoted = log.arrays.promotion[..., 0] == 1
    moves = (log.habits.regular_rung > 0)[..., 0]
    for market in range(24):
        together = promoted[:, market][:, moves[market]]
        assert np.all(together == together[:, :1])
        begins = np.flatnonzero(np.diff(together[:, 0].astype(int)) == 1)
        assert len(begins) > 2
        assert len(np.unique(np.diff(begins))) == 1
    cut = log.arrays.price[..., 0] / log.arrays.list_price[..., 0] < 0.98 * log.habits.price_ladder[-3]
    assert (cut & promoted).sum() / promoted.sum() > 0.5
    assert np.all(log.arrays.propensity == 1.0)


@pytest.mark.parametrize("domain, family", [("loans", "funding_regimes"), ("energy", "supplier"), ("loans", "lender")])
def test_the_demand_follower_follows_hidden_demand_of_any_kind(domain, family):
    for confounding in (-0.8, 0.8):
        log = _log("demand_follower", domain, family, confounding, num_markets=60)
        within = log.arrays.hidden_shock - log.arrays.hidden_shock.mean(axis=0)
        multiple = np.log(log.arrays.price / log.arrays.list_price)
        found = np.corrcoef(within.ravel(), multiple.ravel())[0, 1]
        assert abs(found) > 0.25
        assert np.sign(found) == np.sign(confounding)


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_managers_work_in_every_family_or_say_what_is_missing(domain):
    for family in DOMAINS[domain].families:
        market = DOMAINS[domain].sample(DOMAINS[domain].settings(), family, np.arange(2), 0)
        settings = LogSettings(num_markets=2, num_periods=8, domain=domain, family=family)
        for manager in MANAGERS:
            missing = describe_missing(manager, market)
            if missing is not None:
                with pytest.raises(ValueError, match=f"'{manager}' needs .*{domain}/{family}"):
                    simulate_log(None, ManagerSettings(names=(manager,)), settings)
                continue
            log = simulate_log(None, ManagerSettings(names=(manager,)), settings)
            low, high = market.price_bounds
            multiple = log.arrays.price / log.arrays.list_price
            slack = log.parameters.price_tick / log.arrays.list_price
            assert np.all((multiple >= low - slack) & (multiple <= high + slack)), (manager, family)
            assert np.all((log.arrays.propensity > 0) & (log.arrays.propensity <= 1 + 1e-12)), (manager, family)


def test_a_market_without_hidden_demand_is_logged_by_the_other_standard_managers():
    log = simulate_log(log=LogSettings(num_markets=12, num_periods=5, family="substitution"))
    assert {MANAGERS[code] for code in log.habits.manager} == set(STANDARD_MANAGERS) - {"demand_follower"}
    shop = simulate_log(log=LogSettings(num_markets=10, num_periods=5))
    assert [MANAGERS[code] for code in shop.habits.manager] == list(STANDARD_MANAGERS) * 2
