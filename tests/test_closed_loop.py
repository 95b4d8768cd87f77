"""A price every week: what sellers see, what counts, and that looking ahead beats looking at the week alone."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.evaluation.closed_loop import Week, logged_manager, oracle_seller, sell_for_weeks, solve_markets
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, compute_outcome, simulate_log
from pricing_fm.results import ResultRow

WEEKS = 4


def simulate(family: str) -> SimulatedLog:
    return simulate_log(
        RetailSettings(num_products=2), ManagerSettings(), LogSettings(2, 30, seed=11, family=family, name="m")
    )


def at_list_price(week: Week) -> np.ndarray:
    return week.list_prices


def test_a_constant_price_earns_what_the_market_says_it_does() -> None:
    log = simulate("reference_price")
    listed = np.ravel(log.state.list_price)
    found = sell_for_weeks(log, at_list_price, WEEKS, 12, rollout=1)
    np.testing.assert_allclose(found, compute_outcome(log, listed, WEEKS).profit)
    np.testing.assert_array_equal(found, sell_for_weeks(log, at_list_price, WEEKS, 12, rollout=2))


@pytest.mark.parametrize("family", ["reference_price", "fresh"])
def test_a_seller_sees_what_the_own_prices_did_and_no_more_weeks_than_told(family: str) -> None:
    log = simulate(family)
    seen: list[Week] = []

    def dearer_every_week(week: Week) -> np.ndarray:
        seen.append(week)
        return week.list_prices * (1.0 + 0.05 * week.number)

    sell_for_weeks(log, dearer_every_week, WEEKS, 12, rollout=1)
    for week in seen:
        assert week.panel.frame.groupby("item_id").size().eq(12).all()
        assert not {"mean_demand", "propensity"} & set(week.panel.frame)
        plan = week.plan(3)
        assert plan["timestamp"].min() > week.panel.last_observed
        assert len(plan) == 3 * log.num_items
        if np.isfinite(week.stock).all():
            assert plan["inventory"].notna().sum() == log.num_items
    last = seen[-1].panel.frame.groupby("item_id")["price"].last().to_numpy()
    np.testing.assert_allclose(last, seen[-2].list_prices * (1.0 + 0.05 * (WEEKS - 2)), atol=0.006)
    logged = log.panel.groupby("item_id")["price"].last().to_numpy()
    np.testing.assert_allclose(seen[0].panel.frame.groupby("item_id")["price"].last().to_numpy(), logged)


@pytest.mark.parametrize("family", ["stockpiling", "fresh"])
def test_looking_ahead_beats_the_week_alone_and_both_beat_the_manager(family: str) -> None:
    log = simulate(family)
    solutions = solve_markets(log, 8)
    values = [
        np.mean([sell_for_weeks(log, seller, 8, 12, rollout).sum() for rollout in (1, 2, 3)])
        for seller in (oracle_seller(solutions), oracle_seller(solutions, is_myopic=True), logged_manager(log))
    ]
    assert values[0] > values[1]
    assert values[0] > values[2]


def test_only_dynamic_programs_know_the_myopic_sellers_prices() -> None:
    log = simulate("nested")
    (first, *_) = solve_markets(log, 3)
    state = log.state.select(np.array([0]))._replace(period=np.array([0]))
    with pytest.raises(ValueError, match="dynamic programs"):
        first.choose(state, myopic=True)
    assert first.choose(state).shape == (1, 2, 1)


def test_the_figure_says_what_its_colours_and_lines_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    benchmark = importlib.import_module("policy_closed_loop")
    sellers = ("myopic oracle", "stock program", "plan, one week", "awac, one week")
    rows = [ResultRow("gap_closed", 0.5, seller, "fresh", lower=0.4, upper=0.6) for seller in sellers]
    figure = benchmark.render_figure(rows)
    (legend,) = figure.legends
    shown = {text.get_text(): mark.get_color() for text, mark in zip(legend.get_texts(), legend.get_lines())}
    assert shown == benchmark.SIDES
    assert "0 = the manager, 1 = the optimum" in legend.get_title().get_text()
    drawn = [container.lines[0].get_color() for container in figure.axes[0].containers]
    assert drawn == [shown[benchmark.side_of(seller)] for seller in sellers]
    assert len(set(drawn)) == 3
