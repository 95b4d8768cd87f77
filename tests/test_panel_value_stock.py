"""Panels with stock valued on their own weeks: what sold out, what was never recorded, and what is no count."""

from pathlib import Path

import numpy as np
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.panel_value import (
    evaluate_on_panel,
    read_valued_weeks,
    write_value_report,
)
from pricing_fm.evaluation.panel_value.demand import CategoryDemand, build_shop, fit_category_demand
from pricing_fm.evaluation.panel_value.diagnostics import bound_by_monotone_demand
from pricing_fm.evaluation.panel_value.findings import examine_spill_over, examine_stock
from pricing_fm.evaluation.panel_value.proposals import find_origins
from pricing_fm.evaluation.panel_value.valuation import Bench
from pricing_fm.panel import Panel, load_panel
from tests.test_panel_value import PRODUCTS, QUICK, STORES, VALUED, WEEKS, ask, build_holders, simulate_shop


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate_shop()


def test_monotone_demand_puts_back_what_stock_cut_off(panel: Panel) -> None:
    units = sold_units(panel)
    wanted = fit_bench(panel)
    stock = np.full(units.shape, np.ceil(units.mean(axis=1, keepdims=True)))
    stock[:, WEEKS - 5] = 0.0
    bench = fit_bench(stock_shop(panel, stock, np.minimum(units, stock)))
    assert (bench.weeks.units == bench.weeks.stock).mean() > 0.25
    prices, free = bench.weeks.prices, np.zeros(bench.weeks.prices.shape)
    truth, found = (bound_by_monotone_demand(one, prices, free) for one in (wanted, bench))
    sold = float((np.minimum(units, stock)[:, WEEKS - VALUED :] * prices).mean())
    assert sold < 0.8 * truth.lower
    assert found.lower == pytest.approx(truth.lower, rel=0.05)
    assert found.upper == pytest.approx(truth.upper, rel=0.05)


def test_stock_is_replayed_and_costs_of_the_log_are_used(tmp_path: Path) -> None:
    panel = simulate_shop(inventory=lambda table: np.ceil(1.3 * table.groupby("item_id")["units"].transform("max")),
                          cost=lambda table: 0.6 * table["list_price"])  # fmt: skip
    found = evaluate_on_panel(ask(panel, assumed_cost_share=None), build_holders(0.9), tmp_path)
    assert found.costs.objective == "margin"
    assert found.costs.assumed_share is None
    assert found.weeks.has_stock
    assert found.policies[0].gain is not None
    assert any("Stock is replayed" in note for note in found.weeks.notes)


def stock_shop(panel: Panel, inventory: np.ndarray, units: np.ndarray | None = None) -> Panel:
    """The shop with a stock record, `(items, weeks)` as the panel's rows are ordered."""
    table = panel.to_pandas().drop(columns="price_imputed").sort_values(["item_id", "timestamp"])
    sold = table["units"].to_numpy() if units is None else units.ravel()
    stores = table["item_id"].str.split("|").str[1]
    return load_panel(table.assign(inventory=inventory.ravel(), units=sold, location_id=stores))


def sold_units(panel: Panel) -> np.ndarray:
    """`(items, weeks)`."""
    table = panel.to_pandas().sort_values(["item_id", "timestamp"])
    return table["units"].to_numpy().reshape(-1, WEEKS)


def fit_bench(panel: Panel) -> Bench:
    """Demand of every category on the valued weeks; nobody asks for habits here."""
    weeks = read_valued_weeks(panel, find_origins(panel, (4, 8, 12), 4)[0], QUICK)
    answers = [fit_category_demand(weeks, label, QUICK.price_persistence) for label in np.unique(weeks.categories)]
    demands = tuple(answer for answer in answers if isinstance(answer, CategoryDemand))
    assert len(demands) == len(answers)
    return Bench(weeks, demands, None, QUICK, 0)  # type: ignore[arg-type]


def test_weeks_without_stock_do_not_keep_the_stock_test_from_an_item_s_other_weeks(panel: Panel) -> None:
    units = sold_units(panel)
    stock = units + np.random.default_rng(0).integers(1, 60, size=units.shape)
    empty = np.arange(WEEKS) == WEEKS - 3
    bench = fit_bench(stock_shop(panel, np.where(empty, 0.0, stock), np.where(empty, 0.0, units)))
    found = examine_stock(bench)
    assert found is not None
    assert found.num_clusters == PRODUCTS // 2
    plenty = fit_bench(stock_shop(panel, np.full(units.shape, 1000.0)))
    assert examine_stock(plenty) is None
    assert examine_spill_over(plenty) is None


def test_neighbours_are_the_items_of_a_category_in_the_same_place(panel: Panel) -> None:
    units = sold_units(panel)
    stock = np.maximum(units, 1.0) + np.random.default_rng(0).integers(0, 9, size=units.shape)
    bench = fit_bench(stock_shop(panel, stock))
    assert len(set(bench.weeks.locations)) == STORES
    found = examine_spill_over(bench)
    assert found is not None
    assert found.num_clusters == STORES


def test_the_page_says_where_no_stock_test_could_be_run(panel: Panel, tmp_path: Path) -> None:
    units = sold_units(panel)
    moves = (np.arange(len(units)) // STORES % 2 == 0)[:, None]  # snacks
    stock = np.where(moves, units + np.random.default_rng(0).integers(1, 60, size=units.shape), 1000.0)
    found = evaluate_on_panel(ask(stock_shop(panel, stock)), build_holders(0.9), tmp_path)
    assert found.manager is not None
    assert found.manager.stock_test is not None
    assert found.manager.stock_untested == ("drinks",)
    page = write_value_report(tmp_path / "page", found).read_text()
    assert "No stock test could be run in drinks" in page
    assert "buy its neighbour could not be tested in drinks" in page
    assert found.manager.spill_untested == ("drinks",)


def test_unknown_stock_stays_unknown_and_the_replay_knows_nothing_of_the_future(panel: Panel) -> None:
    units = sold_units(panel)
    stock = units + 50.0
    first = WEEKS - VALUED
    stock[0] = np.nan  # never recorded
    stock[1, : first + 3] = np.nan  # not before the fourth valued week
    stock[2, first + 5] = np.nan
    stock[2, first + 4] = units[2, first + 4]  # sold out, and less than what is sold in the week after
    units[2, first + 5] = stock[2, first + 4] + 9.0
    bench = fit_bench(stock_shop(panel, stock, units))
    weeks = bench.weeks
    assert np.array_equal(np.isnan(weeks.stock), np.isnan(stock[:, first:]))
    part = next(part for part in bench.demands if 2 in part.items)
    place = part.items.tolist().index(2)
    counts = part.demand.rows.counts
    censored, informative = (column.reshape(len(part.items), -1) for column in (counts.censored, counts.informative))
    assert informative.all()
    assert censored[place].tolist() == [week == 4 for week in range(VALUED)]
    assert np.isinf(weeks.replayed_stock[0]).all()
    assert np.isinf(weeks.replayed_stock[1, :3]).all()
    assert weeks.replayed_stock[2, 5] == units[2, first + 5]
    assert any(
        f"not recorded in {VALUED + 4} of {units[:, first:].size:,} item-periods" in note for note in weeks.notes
    )
    assert any(f"no limit in {VALUED + 3}" in note for note in weeks.notes)
    replay = build_shop(weeks, np.arange(len(units)), np.zeros(weeks.units.shape), 0.7).stock
    state = replay.start(1)
    for week in range(VALUED):
        known = np.isfinite(weeks.stock[:, week])
        assert np.array_equal(replay.get_available(state, week)[known, 0], weeks.stock[known, week])
        assert np.isinf(replay.get_available(state, week)[0, 0])
        state = replay.advance(state, weeks.units[:, week, None], week)


def test_gaps_in_the_stock_record_do_not_keep_a_policy_from_being_valued(panel: Panel, tmp_path: Path) -> None:
    units = sold_units(panel)
    stock = np.where(np.random.default_rng(0).random(units.shape) < 0.2, np.nan, units + 30.0)
    stock[0] = np.nan
    found = evaluate_on_panel(ask(stock_shop(panel, stock)), build_holders(0.9), tmp_path)
    assert found.manager is not None
    assert found.manager.value.value == pytest.approx(found.log_mean.value, rel=0.02)
    page = write_value_report(tmp_path / "page", found).read_text()
    assert "Stock is not recorded in" in page
    assert "filled in by the model of demand" in page


@pytest.mark.parametrize(
    ("sold", "held", "message"),
    [
        (3.6, 40.0, "'p00|s2' at 2023-11-06: units 3.6 is no whole number.*grams instead of kilograms"),
        (3.6, 3.6, "units 3.6 is no whole number"),
        (3.0, 3.6, "inventory 3.6 is no whole number.*rounded down to what could be sold"),
        (9.0, 4.0, "units 9 is more than the inventory.*leave it empty where it is not known"),
    ],
)
def test_what_is_no_count_is_refused_with_item_value_and_remedy(
    panel: Panel, sold: float, held: float, message: str
) -> None:
    units = sold_units(panel)
    stock = units + 50.0
    units[2, WEEKS - 4], stock[2, WEEKS - 4] = sold, held
    with pytest.raises(PanelError, match=message):
        fit_bench(stock_shop(panel, stock, units))


def test_whole_numbers_are_told_from_fractions_despite_rounding_errors_and_history_may_hold_fractions(
    panel: Panel,
) -> None:
    units = sold_units(panel)
    expected = fit_bench(stock_shop(panel, units + 50.0, units)).demands
    noisy = units + 1e-12 * np.random.default_rng(0).random(units.shape)
    noisy[:, 0] += 0.5
    stock = units + 50.0 - 1e-12
    for part, same in zip(fit_bench(stock_shop(panel, stock, noisy)).demands, expected, strict=True):
        assert part.elasticity == same.elasticity
