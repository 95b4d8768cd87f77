"""Price rules find the right price where the log lets them, and stay inside what was ever charged."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.evaluation.elasticity_estimates import estimate_elasticities
from pricing_fm.evaluation.pricing_baselines import (
    CompetitorMatch,
    CostPlus,
    LastPrice,
    LogLogElasticity,
    build_price_rules,
    read_price_history,
)
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel

ELASTICITIES = {"flat": -1.5, "steep": -3.0}


def shop(weeks: int = 80, items: int = 6, noise: float = 0.05, seed: int = 0, volume: float = 200.0) -> pd.DataFrame:
    """Two categories of constant elasticity; prices move at random, promotions lift by 80 % and come with a cut."""
    rng = np.random.default_rng(seed)
    tables = []
    for category, elasticity in ELASTICITIES.items():
        for item in range(items):
            base = 4.0 + item
            promoted = rng.random(weeks) < 0.2
            ratio = np.exp(rng.uniform(-0.35, 0.35, weeks)) * np.where(promoted, 0.9, 1.0)
            season = 0.3 * np.sin(2 * np.pi * np.arange(weeks) / 52.18)
            log_mean = np.log(volume) + elasticity * np.log(ratio) + np.log(1.8) * promoted + season
            tables.append(
                pd.DataFrame(
                    {
                        names.ITEM_ID: f"{category}-{item}",
                        names.TIMESTAMP: pd.date_range("2022-01-03", periods=weeks, freq="7D"),
                        names.UNITS: np.round(np.exp(log_mean + noise * rng.normal(size=weeks))),
                        names.PRICE: np.round(base * ratio, 2),
                        names.COST: base / 2,
                        names.CATEGORY: category,
                        "promotion": promoted.astype(float),
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def panel_of(table: pd.DataFrame) -> Panel:
    return load_panel(table, {"promotion": "promotion"})


def truth_of(estimates: pd.DataFrame) -> np.ndarray:
    return estimates[names.CATEGORY].map(ELASTICITIES).to_numpy()


@pytest.mark.parametrize("week_effects", [False, True])
def test_elasticities_are_recovered_where_prices_are_random(week_effects: bool) -> None:
    found = estimate_elasticities(panel_of(shop()), week_effects)
    np.testing.assert_allclose(found["elasticity"], truth_of(found), atol=0.1)
    assert (np.abs(found["elasticity"] - truth_of(found)) < 4 * found["standard_error"] + 0.02).all()


def test_a_promotion_is_not_credited_to_the_price() -> None:
    table = shop()
    without = estimate_elasticities(load_panel(table.drop(columns="promotion")))
    error_without = np.abs(without["elasticity"] - truth_of(without)).mean()
    with_flags = estimate_elasticities(panel_of(table))
    assert np.abs(with_flags["elasticity"] - truth_of(with_flags)).mean() < 0.25 * error_without


def test_items_of_few_weeks_lean_on_their_category() -> None:
    table = shop(noise=0.4)
    short = (table[names.ITEM_ID] == "steep-0") & (
        table[names.TIMESTAMP] < table[names.TIMESTAMP].max() - pd.Timedelta(weeks=5)
    )
    noisy = table[~short].copy()
    found = estimate_elasticities(panel_of(noisy)).set_index(names.ITEM_ID)
    assert found.loc["steep-0", "observations"] == 6
    assert abs(found.loc["steep-0", "elasticity"] + 3.0) < 0.5


def test_a_price_that_never_moved_takes_its_category_and_none_without_any_move() -> None:
    table = shop()
    table.loc[table[names.ITEM_ID] == "steep-1", names.PRICE] = 5.0
    table.loc[table[names.CATEGORY] == "flat", names.PRICE] = 5.0
    panel = panel_of(table)
    found = estimate_elasticities(panel).set_index(names.ITEM_ID)
    assert found.loc["steep-1", "elasticity"] == pytest.approx(-3.0, abs=0.15)
    assert found.loc[found[names.CATEGORY] == "flat", "elasticity"].isna().all()
    prices = LogLogElasticity().propose(panel).set_index(names.ITEM_ID)[names.PRICE]
    assert (prices[prices.index.str.startswith("flat")] == 5.0).all()


def test_sold_out_weeks_do_not_flatten_the_curve() -> None:
    table = shop()
    demand = table[names.UNITS].copy()
    table[names.INVENTORY] = 260.0
    table[names.UNITS] = np.minimum(demand, 260.0)
    censored = estimate_elasticities(panel_of(table))
    naive = estimate_elasticities(panel_of(table.drop(columns=names.INVENTORY)))
    error, naive_error = (np.abs(found["elasticity"] - truth_of(found)).mean() for found in (censored, naive))
    assert error < 0.6 * naive_error
    table.loc[demand > 260.0, names.UNITS] = 1.0  # whatever a censored week says, it is not read
    table.loc[demand > 260.0, names.INVENTORY] = 1.0
    np.testing.assert_allclose(estimate_elasticities(panel_of(table))["elasticity"], censored["elasticity"])


def test_the_log_log_price_is_the_known_optimum_inside_the_logged_range() -> None:
    panel = panel_of(shop())
    history = read_price_history(panel).set_index(names.ITEM_ID)
    prices = LogLogElasticity().propose(panel).set_index(names.ITEM_ID)[names.PRICE]
    for item, price in prices.items():
        elasticity = ELASTICITIES[str(item).split("-")[0]]
        cost = (4.0 + int(str(item).split("-")[1])) / 2
        optimum = cost * elasticity / (elasticity + 1.0)  # 1.5 x cost when steep; 3 x cost when flat: above the range
        expected = np.clip(optimum, history.loc[item, "lowest_price"], history.loc[item, "highest_price"])
        assert price == pytest.approx(expected, rel=0.05)
    # Revenue falls with price when demand is elastic: the lowest logged price is best.
    revenue = LogLogElasticity("revenue").propose(panel).set_index(names.ITEM_ID)[names.PRICE]
    np.testing.assert_allclose(revenue, history["lowest_price"])


def test_the_best_markup_earns_more_than_the_usual_one() -> None:
    panel = panel_of(shop())
    history = read_price_history(panel).set_index(names.ITEM_ID)

    def profit(prices: pd.DataFrame) -> float:
        total = 0.0
        for item, price in prices.set_index(names.ITEM_ID)[names.PRICE].items():
            base = 4.0 + int(str(item).split("-")[1])
            assert history.loc[item, "lowest_price"] <= price <= history.loc[item, "highest_price"]
            total += (price - base / 2) * (price / base) ** ELASTICITIES[str(item).split("-")[0]]
        return total

    best, usual, last = (profit(rule.propose(panel)) for rule in (CostPlus(), CostPlus("usual"), LastPrice()))
    assert best > usual
    assert profit(LogLogElasticity().propose(panel)) > 0.98 * best
    assert best > last
    steep = CostPlus().propose(panel)
    markups = steep[steep[names.ITEM_ID].str.startswith("steep")][names.PRICE] / (np.arange(4.0, 10.0) / 2)
    np.testing.assert_allclose(markups, 1.5, rtol=0.1)


def test_the_last_price_ignores_plans_and_carried_prices() -> None:
    table = shop(weeks=30)
    item = table[names.ITEM_ID] == "flat-0"
    stamps = sorted(table[names.TIMESTAMP].unique())
    last = float(table[item & (table[names.TIMESTAMP] == stamps[-3])][names.PRICE].iloc[0])
    table = table[~(item & table[names.TIMESTAMP].isin(stamps[-2:]))]  # the item left two weeks before the end
    plan = pd.DataFrame({names.ITEM_ID: ["flat-0"], names.TIMESTAMP: [stamps[-1]], names.PRICE: [99.0]})
    panel = panel_of(pd.concat([table, plan.assign(category="flat")], ignore_index=True))
    prices = LastPrice().propose(panel).set_index(names.ITEM_ID)[names.PRICE]
    assert prices["flat-0"] == last


def test_competitor_match_follows_the_rival_inside_the_logged_range() -> None:
    table = shop(weeks=30)
    table[names.COMPETITOR_PRICE] = 5.0
    table.loc[table[names.ITEM_ID] == "flat-1", names.COMPETITOR_PRICE] = np.nan
    table.loc[table[names.ITEM_ID] == "flat-5", names.COMPETITOR_PRICE] = 0.01
    panel = panel_of(table)
    prices = CompetitorMatch().propose(panel).set_index(names.ITEM_ID)[names.PRICE]
    history = read_price_history(panel).set_index(names.ITEM_ID)
    assert prices["flat-0"] == pytest.approx(5.0)
    assert prices["flat-1"] == history.loc["flat-1", "last_price"]
    assert prices["flat-5"] == history.loc["flat-5", "lowest_price"]
    with pytest.raises(ValueError, match="no competitor_price"):
        CompetitorMatch().propose(panel_of(shop(weeks=30)))


def test_a_missing_cost_is_never_zero() -> None:
    panel = panel_of(shop(weeks=30).drop(columns=names.COST))
    for rule in (LogLogElasticity(), CostPlus()):
        with pytest.raises(ValueError, match="assumed_cost_share"):
            rule.propose(panel)
    assumed = LogLogElasticity(assumed_cost_share=0.5).propose(panel)
    cheap = LogLogElasticity(assumed_cost_share=0.1).propose(panel)
    assert (assumed[names.PRICE] >= cheap[names.PRICE]).all()
    assert assumed[names.PRICE].sum() > cheap[names.PRICE].sum()
    LogLogElasticity("revenue").propose(panel)


def test_the_rules_of_a_panel_are_those_it_has_columns_for() -> None:
    panel = panel_of(shop(weeks=30))
    assert [rule.name for rule in build_price_rules(panel)] == ["last_price", "log_log_elasticity", "cost_plus"]
    rivals = replace(panel, frame=panel.frame.assign(competitor_price=5.0))
    assert [rule.name for rule in build_price_rules(rivals, "revenue")] == [
        "last_price",
        "log_log_elasticity",
        "competitor_match",
    ]
