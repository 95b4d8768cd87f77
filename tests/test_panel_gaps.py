"""Periods without a row: units unknown or zero as the schema says, the price carried and flagged."""

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm.panel.load import load_panel

TODAY = dt.date(2024, 6, 1)


def days(*numbers: int) -> list[pd.Timestamp]:
    return [pd.Timestamp("2024-01-01") + pd.Timedelta(days=number) for number in numbers]


def item(item_id: str, numbers: tuple[int, ...], prices: list[float], **columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"item_id": item_id, "timestamp": days(*numbers), "units": 1.0, "price": prices})
    return frame.assign(**columns)


def load(*frames: pd.DataFrame, **schema: Any) -> pd.DataFrame:
    panel = load_panel(pd.concat(frames, ignore_index=True), {"frequency": "D", **schema}, today=TODAY)
    return panel.to_pandas().set_index(["item_id", "timestamp"])


def test_absent_periods_are_missing_by_default_and_carry_the_last_price() -> None:
    filled = load(item("a", (0, 1, 4), [5.0, 6.0, 7.0], cost=2.0))
    assert filled["units"].tolist()[:2] == [1.0, 1.0]
    assert filled["units"].isna().tolist() == [False, False, True, True, False]
    assert filled["price"].tolist() == [5.0, 6.0, 6.0, 6.0, 7.0]
    assert filled["price_imputed"].tolist() == [False, False, True, True, False]
    assert filled["cost"].isna().tolist() == [False, False, True, True, False]


def test_absent_periods_are_zero_when_the_schema_says_so() -> None:
    filled = load(item("a", (0, 1, 4), [5.0, 6.0, 7.0]), absent_rows="zero")
    assert filled["units"].tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert filled["price_imputed"].tolist() == [False, False, True, True, False]


def test_units_that_the_source_leaves_open_stay_missing_even_then() -> None:
    filled = load(item("a", (0, 1, 3), [5.0, 6.0, 7.0], units=[1.0, np.nan, 2.0]), absent_rows="zero")
    assert filled["units"].isna().tolist() == [False, True, False, False]


def test_nothing_is_filled_before_the_first_or_after_the_last_row() -> None:
    filled = load(item("a", (0, 1, 2, 3, 4), [5.0] * 5), item("b", (2, 3), [5.0] * 2), absent_rows="zero")
    assert filled.loc["b"].index.tolist() == days(2, 3)


def test_the_price_comes_from_the_modal_price_of_the_product_elsewhere() -> None:
    shops = [
        item(f"shop-{shop}", (0, 1, 2), [5.0, price, 5.0], product_id="tea")
        for shop, price in enumerate([4.0, 4.5, 4.5])
    ]
    absent = item("shop-9", (0, 2), [5.0, 5.0], product_id="tea")
    other = item("coffee", (0, 1, 2), [9.0, 9.0, 9.0], product_id="coffee")
    filled = load(*shops, absent, other)
    assert filled.loc[("shop-9", days(1)[0]), "price"] == 4.5
    assert bool(filled.loc[("shop-9", days(1)[0]), "price_imputed"])
    assert not filled.drop(index=("shop-9", days(1)[0]))["price_imputed"].any()


def test_ties_between_prices_elsewhere_go_to_the_lower_one() -> None:
    shops = [item(f"shop-{shop}", (0, 1), [5.0, price], product_id="tea") for shop, price in enumerate([4.5, 4.0])]
    filled = load(*shops, item("shop-9", (0, 2), [5.0, 5.0], product_id="tea"))
    assert filled.loc[("shop-9", days(1)[0]), "price"] == 4.0


def test_carried_prices_are_no_donors_and_come_from_the_past_only() -> None:
    # Nobody observed the price on day 1: both fall back on their own last price, whatever they charge later.
    filled = load(
        item("a", (0, 2), [5.0, 1.0], product_id="tea"), item("b", (0, 2), [6.0, 1.0], product_id="tea"),
    )  # fmt: skip
    assert filled.loc[("a", days(1)[0]), "price"] == 5.0
    assert filled.loc[("b", days(1)[0]), "price"] == 6.0


def test_a_row_without_units_and_price_gets_the_carried_price_but_not_before_the_first_one() -> None:
    nothing = [np.nan, 1.0, np.nan, 1.0, np.nan]
    filled = load(item("a", (0, 1, 2, 3, 4), [np.nan, 5.0, np.nan, 6.0, np.nan], units=nothing))
    assert filled["price"].tolist()[1:4] == [5.0, 5.0, 6.0]
    # Before the first price there is nothing to carry, and an open end is no plan at the old price.
    assert filled["price"].isna().tolist() == [True, False, False, False, True]
    assert filled["price_imputed"].tolist() == [False, False, True, False, False]


def test_rows_with_a_price_after_the_last_observed_period_are_known_future() -> None:
    units = [1.0, 2.0, np.nan, np.nan]
    frame = item("a", (0, 1, 2, 3), [5.0, 5.0, 4.0, 4.0], units=units, promotion=[0.0, 0.0, 1.0, 1.0])
    panel = load_panel(frame, {"absent_rows": "zero"}, today=TODAY)
    assert panel.last_observed == days(1)[0]
    assert panel.frame["units"].isna().tolist() == [False, False, True, True]
    assert panel.frame["price"].tolist() == [5.0, 5.0, 4.0, 4.0]
    assert panel.frame["promotion"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert not panel.frame["price_imputed"].any()


def test_a_gap_in_the_known_future_is_not_filled_with_zero_sales() -> None:
    frame = item("a", (0, 1, 3), [5.0, 5.0, 4.0], units=[1.0, 2.0, np.nan])
    filled = load(frame, absent_rows="zero")
    assert filled["units"].isna().tolist() == [False, False, True, True]


def test_promotions_of_filled_periods_are_missing_and_attributes_are_kept() -> None:
    frame = item("a", (0, 2), [5.0, 5.0], promotion=True, category="tea", price_zone=["north", "south"], size=3.0)
    filled = load(frame, static_reals=["size"])
    assert filled["promotion"].tolist()[::2] == [1.0, 1.0]
    assert np.isnan(filled["promotion"].iloc[1])
    assert filled["category"].tolist() == ["tea"] * 3
    assert filled["price_zone"].tolist() == ["north", "north", "south"]
    assert filled["size"].tolist() == [3.0] * 3


def test_an_attribute_given_once_holds_for_the_whole_item() -> None:
    filled = load(item("a", (0, 1, 2), [5.0] * 3, category=[None, "tea", None]), item("b", (0, 1), [5.0] * 2))
    assert filled.loc["a", "category"].tolist() == ["tea"] * 3
    assert filled.loc["b", "category"].isna().all()


def test_an_interventional_price_is_not_claimed_for_a_filled_period() -> None:
    filled = load(item("a", (0, 1, 3), [5.0] * 3, price_is_intervention=[False, True, True]))
    assert filled["price_is_intervention"].tolist()[:2] == [0.0, 1.0]
    assert np.isnan(filled["price_is_intervention"].iloc[2])


def test_months_are_filled_by_the_calendar() -> None:
    frame = pd.DataFrame(
        {
            "item_id": "a",
            "timestamp": pd.to_datetime(["2023-12-01", "2024-01-01", "2024-02-01", "2024-05-01"]),
            "units": 1.0,
            "price": [1.0, 2.0, 3.0, 4.0],
        }
    )
    panel = load_panel(frame, today=TODAY)
    assert panel.frequency.name == "MS"
    assert panel.frame["timestamp"].dt.strftime("%m-%d").tolist() == [
        "12-01",
        "01-01",
        "02-01",
        "03-01",
        "04-01",
        "05-01",
    ]
    assert panel.frame["price"].tolist() == [1.0, 2.0, 3.0, 3.0, 3.0, 4.0]
