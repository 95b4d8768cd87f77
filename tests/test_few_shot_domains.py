"""Few-shot categories beyond shops: what is drawn, what is planned with, and that every plan is judged by the truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.evaluation.few_shot_domains import (
    SHAPES,
    FewShotDomain,
    find_planning_costs,
    meet_rival,
    plan_after,
    read_books,
)
from pricing_fm.evaluation.few_shot_markets import (
    LISTED,
    PRICE_GRID,
    DecisionTruth,
    FewShotMarketArguments,
    build_decision_store,
    decision_categories,
    find_truth,
    grid_prices,
    grid_regret,
    search_prices,
    simulate_categories,
)
from pricing_fm.evaluation.few_shot_planning import PlannedCurves, plan_prices
from pricing_fm.evaluation.few_shot_posterior import build_prior, informed_prices
from pricing_fm.evaluation.few_shot_rivals import (
    find_known_prices,
    held_prices,
    log_log_with_supply,
    read_last_periods,
    score_rivals,
    tabulate_values,
)
from pricing_fm.evaluation.few_shot_supply import CurveDemand, follow_program, plan_with_supply
from pricing_fm.evaluation.pricing_baselines import LogLogElasticity
from pricing_fm.markets import SimulatedLog, compute_outcome
from pricing_fm.markets.continuation import compute_policy_outcome
from pricing_fm.markets.domains import EnergySettings, FaresSettings, RideHailingSettings
from pricing_fm.markets.drivers import ScheduledDrivers
from pricing_fm.markets.loan_parts import LoanPayoff
from pricing_fm.models import PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.panel.frequency import Frequency
from pricing_fm.training.few_shot_tasks import TaskArguments, build_task
from recipes.meta_train import simulated_tasks

SEED = 950_000
FIRST_FAMILIES = {
    "retail": "shop",
    "loans": "lender",
    "energy": "supplier",
    "fares": "single_leg",
    "clinic": "slots",
    "ride_hailing": "spot",
}


def draw(domain: str, family: str, periods: int = 28) -> list[SimulatedLog]:
    arguments = FewShotMarketArguments(domain=domain, family=family, test_categories=5)
    return simulate_categories(arguments, len(SHAPES[domain]), SEED, periods, 0)


@pytest.fixture(scope="module")
def fares() -> DecisionTruth:
    return find_truth(draw("fares", "single_leg"), 8)


@pytest.fixture(scope="module")
def clinics() -> DecisionTruth:
    return find_truth(draw("clinic", "slots"), 8)


def true_curves(truth: DecisionTruth) -> PlannedCurves:
    """The demand that customers really have at every price of the grid."""
    prices = grid_prices(truth)
    place = {item: row for row, item in enumerate(truth.item_ids)}
    middle = np.empty(prices.shape)
    for log in truth.logs:
        rows = [place[item] for item in log.items[names.ITEM_ID]]
        for number, column in enumerate(prices[rows].T):
            middle[rows, number] = compute_outcome(log, column, truth.decision_weeks, num_rollouts=2).demand.sum(1)
    return PlannedCurves(prices, middle[..., None], middle)


@pytest.mark.parametrize("domain", list(SHAPES))
def test_categories_of_every_domain_have_8_to_12_items_and_leave_the_decision_alone(domain: str) -> None:
    logs = draw(domain, FIRST_FAMILIES[domain])
    for log in logs:
        assert 8 <= log.num_items // len(log.market_ids) <= 12
        if log.parameters.ends:
            assert int(log.state.period[0]) + 8 == log.parameters.num_periods
    store = build_decision_store(logs, 8, "test")
    kind = FewShotDomain(domain, FIRST_FAMILIES[domain])
    categories = decision_categories(store, 4 * kind.periods_per_week, 8)
    assert len(categories) == sum(len(log.market_ids) for log in logs)
    assert store.frequency == kind.frequency


def test_the_plan_goes_on_where_the_log_ends_in_the_domains_own_periods() -> None:
    for domain in ("energy", "loans"):
        (log, *_) = draw(domain, FIRST_FAMILIES[domain])
        frequency = Frequency.parse(log.settings.cadence)
        plan = plan_after(log, 3)
        own = plan[plan[names.ITEM_ID] == plan[names.ITEM_ID][0]]
        expected = [frequency.step(pd.Timestamp(log.timestamps[-1]), ahead) for ahead in (1, 2, 3)]
        assert list(own[names.TIMESTAMP]) == expected
        assert (own[names.PRICE] == own[names.LIST_PRICE]).all()


def test_four_weeks_of_days_are_28_visible_periods(tiny_processor: PricingFMProcessor) -> None:
    store = build_decision_store(draw("energy", "supplier", periods=40), 8, "test")
    categories = decision_categories(store, 28, 8)
    arguments = TaskArguments(weeks=(4,))
    task = build_task(store, categories, tiny_processor, 28, arguments, 8)
    assert int(task.query["past_observed_mask"].flatten(0, 1)[0].any(-1).sum()) == 28
    for first, hidden in ((0, True), (12, False)):  # 40 days are logged, the last 28 are visible
        values = store.values.copy().reshape(len(store.item_ids), 48, -1)
        values[:, first : first + 12, CHANNEL_INDEX["units"]] += 7.0
        other = replace(store, values=values.reshape(store.values.shape))
        found = build_task(other, categories, tiny_processor, 28, arguments, 8)
        assert np.array_equal(task.query["past_values"], found.query["past_values"]) == hidden


def test_meta_training_counts_the_weeks_of_a_daily_domain(tiny_processor: PricingFMProcessor) -> None:
    market = FewShotMarketArguments(domain="energy", family="supplier", train_categories=4, logged_weeks=28)
    sources, tasks = simulated_tasks(TaskArguments(weeks=(4,)), market, tiny_processor, 8, judges=False)
    assert sources[0].name == "supplier-910000"
    assert int(tasks[4].query["past_observed_mask"].flatten(0, 1)[0].any(-1).sum()) == 28
    query = tasks[4].query
    assert "grid_regret" not in query
    true = query["held_elasticity"][query["loss_weights"] > 0].numpy()
    # What customers make of prices that are held: the range that suppliers are drawn from, bent by the responses.
    assert 1.2 < np.median(true) < 3.2


def test_a_rate_at_a_lenders_planning_cost_earns_nothing() -> None:
    for family in ("lender", "take_up"):
        (log, *_) = draw("loans", family)
        payoff, market = log.parameters.payoff, log.parameters
        assert isinstance(payoff, LoanPayoff)
        costs = find_planning_costs(log)
        default = payoff.compute_default_probability(np.broadcast_to(market.list_price, market.shape))
        fixed = replace(payoff, default_probability=default, default_slope=np.zeros_like(default))
        funds = (
            log.state.cost
            if market.regimes is None
            else log.state.cost * market.regimes.get_cost_factor(log.state.regime)
        )
        earned = fixed.compute_reward(np.ones(market.shape), costs, funds, np.ones(market.shape))
        np.testing.assert_allclose(earned, 0.0, atol=1e-9)
        assert (costs > log.state.cost).all() or market.regimes is not None
        books = read_books(log)
        assert (books[names.COST].to_numpy() > log.panel[names.COST].to_numpy()).all()
    shop = draw("retail", "shop")[0]
    np.testing.assert_allclose(read_books(shop)[names.COST], shop.panel[names.COST])


def test_a_clinics_books_say_how_many_slots_the_more_urgent_have_left(clinics: DecisionTruth) -> None:
    log = clinics.logs[0]
    books = read_books(log)
    table = books.pivot_table(
        index=[names.PRODUCT_ID, names.CATEGORY, names.TIMESTAMP],
        columns=names.SEGMENT,
        values=[names.UNITS, names.INVENTORY],
    )
    units, left = table[names.UNITS].to_numpy(), table[names.INVENTORY].to_numpy()
    np.testing.assert_array_equal(left[:, 0] - units[:, 0], left[:, 1])
    np.testing.assert_array_equal(left[:, 1] - units[:, 1], left[:, 2])
    assert (units <= left).all()
    # Routine patients are turned away on days on which nobody took all slots of the service.
    assert ((units[:, 2] == left[:, 2]) & (units[:, 2] < left[:, 0])).mean() > 0.2


def test_what_a_clinics_classes_cost_each_other_is_seen_by_the_search(clinics: DecisionTruth) -> None:
    assert [int(count) for count in np.bincount(clinics.groups)] == [3] * (len(clinics.item_ids) // 3)
    assert set(zip(clinics.groups, clinics.turns, strict=True)) == {
        (group, turn) for group in np.unique(clinics.groups) for turn in range(3)
    }
    best = clinics.values(held_prices(clinics)).sum()
    assert best >= clinics.values(clinics.list_prices).sum()
    # Each price best on its own, the others at list price, is not best for all.
    alone = grid_prices(clinics)[np.arange(len(clinics.item_ids)), grid_regret(clinics).argmin(1)]
    assert best >= clinics.values(alone).sum() - 1e-9
    np.testing.assert_allclose(
        clinics.shares(clinics.values(held_prices(clinics)))[
            np.isfinite(clinics.shares(clinics.values(clinics.list_prices)))
        ],
        1.0,
    )


def test_a_search_over_coupled_items_finds_what_one_pass_over_single_items_misses() -> None:
    candidates = np.tile(np.asarray(PRICE_GRID), (2, 1))
    groups, turns = np.zeros(2, dtype=int), np.arange(2)

    def value(prices: np.ndarray) -> np.ndarray:
        # Both should move together: a ridge along the diagonal, highest at 1.2.
        total = -((prices[0] - prices[1]) ** 2) - 0.5 * (prices.mean() - 1.2) ** 2
        return np.array([total / 2, total / 2])

    found = search_prices(value, candidates, groups, turns)
    start = candidates[:, LISTED]
    assert value(found).sum() > value(start).sum()
    single = search_prices(lambda prices: -((prices - np.array([0.8, 1.1])) ** 2), candidates, turns, np.zeros(2, int))
    np.testing.assert_allclose(single, [0.8, 1.1])


def test_a_table_of_demand_answers_at_and_between_its_prices() -> None:
    grid = np.asarray(PRICE_GRID)
    demand = CurveDemand(5.0 * grid[None, None, None], np.log(grid**-2.0)[None, None, None])
    for price in (3.5, 5.0, 6.1, 6.5):
        share = demand.respond(np.full((1, 1, 1), price), None).item()
        assert share == pytest.approx((price / 5.0) ** -2.0, rel=1e-3)
    assert demand.respond(np.full((1, 1, 1), 9.0), None).item() == pytest.approx(1.3**-2.0)
    coarse = CurveDemand(np.array([1.0, 1.0, 2.0, 2.0]).reshape(1, 1, 1, 4), np.zeros((1, 1, 1, 4)))
    assert coarse.respond(np.full((1, 1, 1), 2.0), None).item() == 1.0


def test_planning_with_the_stock_is_planning_for_the_margin_where_nothing_runs_out_and_dearer_where_it_does(
    fares: DecisionTruth,
) -> None:
    arguments = FewShotMarketArguments(test_categories=5, logged_weeks=20, stocked_share=0.0, reference_share=0.0)
    shops = find_truth(simulate_categories(arguments, 5, SEED, 20, 0), 4)
    curves = true_curves(shops)
    np.testing.assert_allclose(plan_with_supply(shops, curves), plan_prices(curves, shops.costs))
    curves = true_curves(fares)
    blind, aware = plan_prices(curves, fares.costs), plan_with_supply(fares, curves)
    assert (aware >= blind - 1e-9).mean() > 0.9
    assert (aware > blind).any()
    assert np.nanmedian(fares.gap_closed(aware)) > 0.9
    assert np.nanmedian(fares.gap_closed(aware)) > np.nanmedian(fares.gap_closed(blind)) + 0.1


def test_a_program_that_knows_the_demand_beats_every_held_price_and_one_that_believes_a_wrong_curve(
    fares: DecisionTruth,
) -> None:
    best = follow_program(fares).sum()
    assert best > fares.values(held_prices(fares)).sum()
    curves = true_curves(fares)
    assert follow_program(fares, curves).sum() == pytest.approx(best, rel=0.01)
    wrong = replace(curves, middle=curves.middle * np.asarray(PRICE_GRID) ** 2)  # two points too inelastic
    assert follow_program(fares, wrong).sum() < 0.97 * best


def test_a_policy_that_never_changes_its_price_is_worth_what_that_price_is(fares: DecisionTruth) -> None:
    log = fares.logs[0]
    listed = np.broadcast_to(log.state.list_price, log.parameters.shape)
    known = compute_outcome(log, np.ravel(listed), 8, num_rollouts=16)
    found = compute_policy_outcome(log, lambda state: np.array(state.list_price), 8, num_rollouts=16)
    np.testing.assert_allclose(found.profit, known.profit)
    np.testing.assert_allclose(found.sales, known.sales)


def test_a_rival_who_answers_in_another_way_changes_what_follows_and_not_the_log() -> None:
    (log, *_) = draw("retail", "rival")
    prices = 0.8 * np.ravel(log.state.list_price)
    worth = {kind: compute_outcome(meet_rival(log, kind), prices, 4).value for kind in ("fixed", "matcher")}
    assert worth["matcher"].sum() < worth["fixed"].sum()  # who follows the cut takes some of it back
    assert meet_rival(log, "fixed").panel.equals(log.panel)
    with pytest.raises(ValueError, match="expected a family with a rival"):
        meet_rival(draw("retail", "shop")[0], "fixed")


def test_rules_see_the_last_periods_and_headroom_is_what_looking_ahead_is_worth(fares: DecisionTruth) -> None:
    assert read_last_periods(fares, 28).frame[names.TIMESTAMP].nunique() == 28
    found = score_rivals(fares, 4, 28).pivot(index="category", columns="strategy", values="gap_closed")
    assert {"last_price", "log_log_elasticity", "cost_plus", "cloning", "myopic_oracle"} <= set(found)
    # The first manager's prices never moved: without a slope the last price is kept.
    last = pd.concat([log.panel.groupby(names.ITEM_ID)[names.PRICE].last() for log in fares.logs])
    np.testing.assert_array_equal(log_log_with_supply(fares, 28), last[list(fares.item_ids)])
    values = tabulate_values(fares, find_known_prices(fares))
    assert (values["oracle"] / values["myopic_oracle"]).median() > 1.03
    assert (values["held_oracle"] >= values["myopic_oracle"]).all()


def test_there_is_no_markup_on_a_collection_that_is_paid_for() -> None:
    truth = find_truth(draw("retail", "perishable"), 8)
    assert (truth.costs == 0).all()
    found = set(score_rivals(truth, 4)["strategy"])
    assert "cost_plus" not in found
    assert "boosted_demand" in found


def test_log_log_prices_of_a_seller_who_knows_his_stock_stay_inside_what_was_charged() -> None:
    arguments = FewShotMarketArguments(domain="fares", family="single_leg")
    truth = find_truth(simulate_categories(arguments, 10, SEED, 28, 0)[:2], 8)
    panel = read_last_periods(truth, 28)
    charged = panel.frame.groupby(names.ITEM_ID)[names.PRICE].agg(["min", "max"]).reindex(truth.item_ids)
    aware = log_log_with_supply(truth, 28)
    assert ((aware >= charged["min"]) & (aware <= charged["max"])).all()
    blind = LogLogElasticity().propose(panel).set_index(names.ITEM_ID)[names.PRICE].reindex(truth.item_ids)
    sold_out = np.concatenate([np.ravel(log.state.supply) for log in truth.logs]) == 0
    assert sold_out[aware != blind.to_numpy()].all()  # on slopes this flat nothing else is scarce
    assert (aware != blind.to_numpy()).any()


def test_the_ceiling_of_flights_lies_between_the_prior_and_who_knows_the_demand() -> None:
    arguments = FewShotMarketArguments(domain="fares", family="single_leg")
    truth = find_truth(simulate_categories(arguments, 30, 960_000, 150, 0)[:1], 8)
    found = {
        k: truth.gap_closed(prices) for (_, k), prices in informed_prices(truth, (0, 112), FaresSettings()).items()
    }
    best = np.nanmean(truth.gap_closed(held_prices(truth)))
    assert np.nanmean(found[0]) < np.nanmean(found[112]) < best
    families, elasticities, chances = build_prior(EnergySettings(elasticity_range=(1.0, 3.0)))
    assert len(families) == 3
    assert chances.sum() == pytest.approx(1.0)
    assert (chances @ elasticities).item() == pytest.approx(2.0, rel=0.01)
    with pytest.raises(ValueError, match="their own price alone"):
        informed_prices(find_truth(draw("loans", "take_up")[:1], 8), (4,), FaresSettings())


def test_a_fare_table_counts_the_rides_of_an_hour_class_by_day_and_its_fares_are_planned_with_the_drivers() -> None:
    logs = draw("ride_hailing", "spot")
    for log in logs:
        assert (np.diff(log.timestamps) == np.timedelta64(1, "D")).all()
        assert log.panel[names.SEGMENT].nunique() == log.parameters.shape[2]
        low, high = RideHailingSettings.rides_range
        assert (log.parameters.volume >= 8 * low).all()
        assert (log.parameters.volume <= 8 * high).all()
        assert isinstance(log.parameters.supply, ScheduledDrivers)
        assert (
            log.parameters.supply.drivers >= 0.49 * log.parameters.volume
        ).all()  # they are eight times as many, too
    truth = find_truth(logs, 8)
    curves = true_curves(truth)
    plans = (plan_prices(curves, truth.costs), plan_with_supply(truth, curves))
    blind, aware = (np.nanmean(truth.gap_closed(plan)) for plan in plans)
    assert aware > max(blind + 0.05, 0.95)


def test_domains_and_families_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match="--domain is 'hotels'"):
        FewShotMarketArguments(domain="hotels", family="spot")
    for family in ("patient_riders", "driver_flow"):  # whoever asks again or is carried off does it within the hour
        with pytest.raises(ValueError, match="families of ride_hailing are spot, events, driver_entry, rival_app"):
            FewShotMarketArguments(domain="ride_hailing", family=family)
    with pytest.raises(ValueError, match="--family is 'shop'"):
        FewShotMarketArguments(domain="loans")
    with pytest.raises(ValueError, match="ends after 13 periods"):
        simulate_categories(
            FewShotMarketArguments(domain="loans", family="lending_budget", decision_weeks=20), 5, SEED, 20, 0
        )
