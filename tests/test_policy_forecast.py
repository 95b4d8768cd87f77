"""Forecasts and demand curves: exact columns, exact periods, plans that fit, curves that fall."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError, PanelWarning
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy
from tests.policy_artifacts import SCHEMA, panel_of, plan_of, sales_log, write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("forecast") / "base")


@pytest.fixture(scope="module")
def policy(base: Path) -> PricingPolicy:
    return PricingPolicy.from_pretrained(base)


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


def test_a_forecast_has_one_row_per_item_and_step_in_order(policy: PricingPolicy, panel: Panel) -> None:
    found = policy.forecast(panel, prediction_length=5, quantile_levels=[0.1, 0.5, 0.9])
    assert list(found.columns) == ["item_id", "timestamp", "mean", "0.1", "0.5", "0.9"]
    assert len(found) == len(panel.item_ids) * 5
    pd.testing.assert_frame_equal(found, found.sort_values(["item_id", "timestamp"], ignore_index=True))
    steps = panel.last_observed + pd.Timedelta(weeks=1) * np.arange(1, 6)
    assert [list(rows["timestamp"]) for _, rows in found.groupby("item_id")] == [list(steps)] * len(panel.item_ids)
    values = found[["mean", "0.1", "0.5", "0.9"]].to_numpy()
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert (np.diff(found[["0.1", "0.5", "0.9"]].to_numpy()) >= 0).all()
    assert found["timestamp"].dtype == "datetime64[ns]"


def test_quantile_columns_are_named_by_their_level_and_lie_between_their_neighbours(
    policy: PricingPolicy, panel: Panel
) -> None:
    found = policy.forecast(panel, 2, quantile_levels=[0.25, 0.3, 0.75, 0.2])
    assert list(found.columns[3:]) == ["0.25", "0.3", "0.75", "0.2"]
    assert (found["0.2"] <= found["0.25"]).all()
    assert (found["0.25"] <= found["0.3"]).all()
    for levels in ([0.5, 0.999], [0.0], []):
        with pytest.raises(PanelError, match="quantile_levels must lie in"):
            policy.forecast(panel, 2, quantile_levels=levels)


def test_a_level_of_the_network_is_handed_out_as_it_is(policy: PricingPolicy, panel: Panel) -> None:
    alone = policy.forecast(panel, 2, quantile_levels=[0.1])["0.1"]
    pd.testing.assert_series_equal(alone, policy.forecast(panel, 2, quantile_levels=[0.05, 0.1, 0.15])["0.1"])


def test_without_a_plan_the_last_price_goes_on_without_promotion(policy: PricingPolicy, panel: Panel) -> None:
    last = panel.frame.groupby("item_id")["price"].last()
    regular = panel.frame.groupby("item_id")["list_price"].last()
    plan = plan_of(panel, 3).assign(
        price=lambda rows: rows["item_id"].map(last), list_price=lambda rows: rows["item_id"].map(regular)
    )
    given = policy.forecast(panel, 3, future=plan)
    pd.testing.assert_frame_equal(given, policy.forecast(panel, 3))
    promoted = policy.forecast(panel, 3, future=plan.assign(promotion=1.0))
    assert not np.allclose(promoted["mean"], given["mean"], rtol=1e-3)
    dearer = policy.forecast(panel, 3, future=plan.assign(price=plan["price"] * 1.2))
    assert (dearer["mean"] < given["mean"]).all()


def test_known_future_rows_of_the_panel_are_the_plan(policy: PricingPolicy, panel: Panel) -> None:
    plan = plan_of(panel, 3, promotion=1.0, category=None)
    plan["category"] = plan["item_id"].map(panel.frame.groupby("item_id")["category"].last())
    inside = load_panel(pd.concat([panel.to_pandas().drop(columns="price_imputed"), plan]), schema=SCHEMA)
    assert inside.last_observed == panel.last_observed
    pd.testing.assert_frame_equal(
        policy.forecast(inside, 3), policy.forecast(panel, 3, future=plan.drop(columns="category"))
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda plan: plan.iloc[1:], "lacks item 'i00' at 2024-06-10"),
        (lambda plan: plan[plan["item_id"] != "i03"], "lacks item 'i03'"),
        (lambda plan: pd.concat([plan, plan.tail(1)]), "item 'i07' twice at 2024-06-24"),
        (lambda plan: plan.assign(timestamp=plan["timestamp"] + pd.Timedelta(days=1)), "lacks item 'i00'"),
        (
            lambda plan: plan.assign(timestamp=plan["timestamp"] - pd.Timedelta(weeks=1)),
            "lacks item 'i00' at 2024-06-24",
        ),
        (lambda plan: pd.concat([plan, plan.tail(1).assign(item_id="new")]), "also holds item 'new'"),
        (lambda plan: plan.drop(columns="price"), "lacks the column.*price"),
        (lambda plan: plan.drop(columns="promotion"), "lacks the column.*promotion"),
        (lambda plan: plan.drop(columns="timestamp"), "lacks the column.*timestamp"),
        (lambda plan: plan.drop(columns="item_id"), "no item_id"),
        (lambda plan: plan.assign(price=[None, *plan["price"][1:]]), "no price for item 'i00' at 2024-06-10"),
        (lambda plan: plan.assign(price=-1.0), "price"),
        (lambda plan: plan.assign(promotion=7.0), "promotion"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_name(policy: PricingPolicy, panel: Panel, change, said: str) -> None:
    with pytest.raises(PanelError, match=said):
        policy.forecast(panel, 3, future=change(plan_of(panel, 3)))


def test_a_plan_may_use_the_columns_of_the_source(policy: PricingPolicy, panel: Panel) -> None:
    table = sales_log().rename(columns={"units": "qty", "price": "net", "timestamp": "week", "promotion": "flyer"})
    table["store"], table["sku"] = "s1", table.pop("item_id")
    schema = {"item_id": ["store", "sku"], "timestamp": "week", "units": "qty", "price": "net", "promotion": "flyer"}
    renamed = load_panel(table, schema=schema)
    plan = plan_of(panel, 2)
    source = plan.assign(store="s1").rename(
        columns={"item_id": "sku", "timestamp": "week", "price": "net", "promotion": "flyer"}
    )
    found = policy.forecast(renamed, 2, future=source)
    named = policy.forecast(renamed, 2, future=plan.assign(item_id="s1|" + plan["item_id"]))
    pd.testing.assert_frame_equal(found, named)
    np.testing.assert_allclose(found["mean"], policy.forecast(panel, 2, future=plan)["mean"], rtol=1e-5)


def test_prices_of_a_plan_are_the_managers_own_unless_it_says_otherwise(policy: PricingPolicy, panel: Panel) -> None:
    plan = plan_of(panel, 2)
    logged, set_by_us = (policy.forecast(panel, 2, future=plan.assign(price_is_intervention=mark)) for mark in (0, 1))
    pd.testing.assert_frame_equal(logged, policy.forecast(panel, 2, future=plan))
    assert not np.allclose(logged["mean"], set_by_us["mean"], rtol=1e-3)


def test_sales_are_cut_at_the_planned_stock(policy: PricingPolicy) -> None:
    panel = panel_of(sales_log().assign(inventory=200.0))
    found = policy.forecast(panel, 2, future=plan_of(panel, 2, inventory=1.0))
    assert list(found.columns)[6:] == ["sales_mean", "sales_0.1", "sales_0.5", "sales_0.9"]
    assert (found["mean"] > 1.0).all()
    assert (found[["sales_mean", "sales_0.9"]].to_numpy() <= 1.0 + 1e-6).all()
    assert policy.forecast(panel, 2)["sales_mean"].isna().all()


def test_what_is_only_known_afterwards_is_not_read_from_the_future(policy: PricingPolicy) -> None:
    table = sales_log().assign(competitor_price=4.0, traffic=900.0)
    ahead = table.groupby("item_id").tail(2).assign(units=np.nan)
    ahead["timestamp"] += pd.Timedelta(weeks=2)
    plain, told = (
        panel_of(pd.concat([table, ahead.assign(competitor_price=rival, traffic=visits)]))
        for rival, visits in ((np.nan, np.nan), (1.0, 5.0))
    )
    pd.testing.assert_frame_equal(policy.forecast(plain, 2), policy.forecast(told, 2))


def test_an_item_without_any_history_is_forecast_too(policy: PricingPolicy, panel: Panel) -> None:
    start = panel.last_observed + pd.Timedelta(weeks=1)
    rows = [("new-now", start, 3.0), ("new-later", start + pd.Timedelta(weeks=2), 4.0)]
    ahead = pd.DataFrame(rows, columns=["item_id", "timestamp", "price"]).assign(category="snacks")
    with pytest.warns(PanelWarning, match="fewer than two"):
        grown = panel_of(pd.concat([sales_log(), ahead]))
    found = policy.forecast(grown, 4)
    assert len(found) == (8 + 2) * 4
    assert np.isfinite(found[["mean", "0.1", "0.9"]].to_numpy()).all()
    assert set(found["timestamp"]) == {start + pd.Timedelta(weeks=week) for week in range(4)}
    old = found[~found["item_id"].str.startswith("new")].reset_index(drop=True)
    pd.testing.assert_frame_equal(old, policy.forecast(panel, 4))
    planned = policy.forecast(grown, 4, future=plan_of(grown, 4))
    assert len(planned) == len(found)


def test_a_later_start_of_a_new_item_keeps_its_plan_in_its_period(policy: PricingPolicy, panel: Panel) -> None:
    start = panel.last_observed + pd.Timedelta(weeks=2)
    ahead = pd.DataFrame({"item_id": "new", "timestamp": [start, start + pd.Timedelta(weeks=1)], "price": [4.0, 8.0]})
    with pytest.warns(PanelWarning):
        grown = panel_of(pd.concat([sales_log(), ahead.assign(promotion=[1.0, 0.0])]))
    plan = plan_of(grown, 3).set_index(["item_id", "timestamp"])
    last = sales_log().groupby("item_id")["price"].last()
    plan["price"] = [last.get(item, 4.0) for item, _ in plan.index]
    plan.loc[("new", start), ["price", "promotion"]] = [4.0, 1.0]
    plan.loc[("new", start + pd.Timedelta(weeks=1)), "price"] = 8.0
    inside, given = (policy.forecast(grown, 3, future=future) for future in (None, plan.reset_index()))
    new = inside["item_id"] == "new"
    np.testing.assert_allclose(inside.loc[new, "mean"], given.loc[new, "mean"], rtol=1e-6)


# -- demand curve -----------------------------------------------------------------------------------------------------

MULTIPLIERS = [0.7, 0.8, 0.9, 0.999, 1.0, 1.001, 1.1, 1.2]


@pytest.fixture(scope="module")
def curve(policy: PricingPolicy, panel: Panel) -> pd.DataFrame:
    return policy.demand_curve(panel, price_multipliers=MULTIPLIERS, prediction_length=3)


def test_a_curve_has_one_row_per_item_step_and_multiplier(curve: pd.DataFrame, panel: Panel) -> None:
    assert list(curve.columns) == [
        *("item_id", "timestamp", "price_multiplier", "price", "mean", "0.1", "0.5", "0.9"),
        *("elasticity", "elasticity_lower", "elasticity_upper", "supported"),
    ]
    assert len(curve) == len(panel.item_ids) * 3 * len(MULTIPLIERS)
    keys = ["item_id", "timestamp", "price_multiplier"]
    pd.testing.assert_frame_equal(curve, curve.sort_values(keys, ignore_index=True))
    last = panel.frame.groupby("item_id")["price"].last()
    np.testing.assert_array_equal(curve["price"], curve["item_id"].map(last) * curve["price_multiplier"])


def test_a_curve_tells_what_happens_if_we_set_the_price(
    policy: PricingPolicy, panel: Panel, curve: pd.DataFrame
) -> None:
    last, regular = (panel.frame.groupby("item_id")[name].last() for name in ("price", "list_price"))
    plan = plan_of(panel, 3, price_is_intervention=1.0)
    plan["price"], plan["list_price"] = plan["item_id"].map(last), plan["item_id"].map(regular)
    kept = curve[curve["price_multiplier"] == 1.0]
    np.testing.assert_allclose(kept["mean"], policy.forecast(panel, 3, future=plan)["mean"], rtol=1e-5)


def test_demand_never_rises_with_price_along_constant_paths(curve: pd.DataFrame) -> None:
    for _, rows in curve.groupby(["item_id", "timestamp"]):
        assert (np.diff(rows[["mean", "0.1", "0.5", "0.9"]].to_numpy(), axis=0) <= 0).all()
    assert (curve["elasticity"] < 0).all()
    assert (curve["elasticity_lower"] <= curve["elasticity"]).all()
    assert (curve["elasticity"] <= curve["elasticity_upper"]).all()


def test_the_elasticity_is_the_slope_of_the_curve(curve: pd.DataFrame) -> None:
    table = curve.set_index(["item_id", "timestamp", "price_multiplier"])
    low, high = (np.log(table.xs(multiplier, level=2)["mean"]) for multiplier in (0.999, 1.001))
    slope = (high - low) / np.log(1.001 / 0.999)
    np.testing.assert_allclose(slope, table.xs(1.0, level=2)["elasticity"], rtol=2e-3)


def test_the_elasticity_of_a_free_response_is_its_slope_too(tmp_path: Path, panel: Panel) -> None:
    free = PricingPolicy.from_pretrained(write_base(tmp_path / "free", price_response="free"))
    table = free.demand_curve(panel, MULTIPLIERS, 2).set_index(["item_id", "timestamp", "price_multiplier"])
    low, high = (np.log(table.xs(multiplier, level=2)["mean"]) for multiplier in (0.9, 1.1))
    np.testing.assert_allclose(
        (high - low) / np.log(1.1 / 0.9), table.xs(1.0, level=2)["elasticity"], atol=0.05, rtol=0.2
    )
    assert table["elasticity_lower"].isna().all()
    assert len(free.recommend(panel)) == len(panel.item_ids)


def test_supported_prices_are_those_the_item_was_sold_at(policy: PricingPolicy) -> None:
    table = sales_log(items=2).assign(price=5.0, promotion=0.0)
    table.loc[table["timestamp"] == table["timestamp"].max() - pd.Timedelta(weeks=3), "price"] = 4.0
    promoted = table["timestamp"] == table["timestamp"].max() - pd.Timedelta(weeks=5)
    table.loc[promoted, ["price", "promotion"]] = [3.0, 1.0]
    panel = panel_of(table)
    found = policy.demand_curve(panel, [0.6, 0.7, 0.8, 0.9, 1.0, 1.1], 2)
    assert found.groupby("price_multiplier")["supported"].unique().map(list).to_dict() == {
        0.6: [False], 0.7: [False], 0.8: [True], 0.9: [True], 1.0: [True], 1.1: [False],
    }  # fmt: skip
    # A promotion planned in one period says nothing about the other.
    plan = plan_of(panel, 2)
    plan["promotion"] = np.tile([0.0, 1.0], 2)
    flagged = policy.demand_curve(panel, [0.6, 0.9], 2, future=plan)
    assert flagged["supported"].tolist() == [False, True, True, False] * 2


@pytest.mark.parametrize("multipliers", [[], [0.0, 1.0], [-1.0], [np.nan], [np.inf]])
def test_multipliers_are_positive_numbers(policy: PricingPolicy, panel: Panel, multipliers: list[float]) -> None:
    with pytest.raises(PanelError, match="price_multipliers must be positive"):
        policy.demand_curve(panel, multipliers)


def test_at_least_one_period_is_asked_for(policy: PricingPolicy, panel: Panel) -> None:
    for question in (policy.forecast, policy.demand_curve, policy.recommend):
        with pytest.raises(PanelError, match="prediction_length"):
            question(panel, prediction_length=0)
