"""Schemas: mapping, roles, and the refusal of everything that is not understood."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.schema import join_strings, read_schema


def sales(**columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "item_id": "a",
            "timestamp": pd.date_range("2024-01-01", periods=4),
            "units": 1.0,
            "price": [1.0, 1.0, 2.0, 1.0],
        }
    )
    return frame.assign(**columns)


def test_unknown_keys_are_refused_with_the_known_ones() -> None:
    with pytest.raises(PanelError, match=r"unknown schema keys: colour, prices; known keys are item_id, timestamp"):
        read_schema({"price": "p", "colour": "c", "prices": "p"})


def test_a_missing_schema_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PanelError, match="does not exist"):
        read_schema(tmp_path / "schema.yaml")


@pytest.mark.parametrize("content", ["- item_id", "item_id"])
def test_a_schema_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "schema.yaml").write_text(content)
    with pytest.raises(PanelError, match="mapping of panel names"):
        read_schema(tmp_path / "schema.yaml")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"absent_rows": "empty"}, "use 'missing' or 'zero'"),
        ({"frequency": "weekly"}, "frequency 'weekly' is not known"),
        ({"price": ["a", "b"]}, "only item_id and promotion may name several"),
        ({"price": 3}, "expected a column name"),
        ({"item_id": []}, "empty list"),
        ({"item_id": ["a", "a"]}, "names a column twice"),
        ({"known_covariates": ["units"]}, "panel name with a meaning of its own"),
        (
            {"known_covariates": ["heat"], "past_covariates": ["heat"]},
            "twice: under known_covariates and past_covariates",
        ),
    ],
)
def test_malformed_schemas_are_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(PanelError, match=message):
        read_schema(schema)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("promotion", names.MAX_PROMOTIONS),
        ("known_covariates", names.MAX_KNOWN_COVARIATES),
        ("past_covariates", names.MAX_PAST_COVARIATES),
        ("static_categories", names.MAX_STATIC_CATEGORIES),
        ("static_reals", names.MAX_STATIC_REALS),
    ],
)
def test_more_columns_than_slots_are_refused_with_both_numbers(key: str, allowed: int) -> None:
    columns = [f"column_{number}" for number in range(allowed + 1)]
    assert read_schema({key: columns[:-1]})
    with pytest.raises(PanelError, match=rf"declares {allowed + 1} .* at most {allowed} are allowed"):
        read_schema({key: columns})


def test_one_promotion_is_called_promotion_and_several_keep_their_names() -> None:
    single = load_panel(sales(feature=[0, 1, 0, 0]), {"promotion": "feature"})
    assert single.schema.promotions == ("promotion",)
    assert single.frame["promotion"].tolist() == [0.0, 1.0, 0.0, 0.0]
    several = load_panel(
        sales(feature=[0, 1, 0, 0], display=[True, False, False, True]), {"promotion": ["feature", "display"]}
    )
    assert several.schema.promotions == ("feature", "display")
    assert several.frame["display"].tolist() == [1.0, 0.0, 0.0, 1.0]


def test_a_missing_boolean_promotion_stays_missing() -> None:
    values = (
        load_panel(sales(promotion=pd.Series([True, None, False, True], dtype=object))).frame["promotion"].to_numpy()
    )
    np.testing.assert_array_equal(values, [1.0, np.nan, 0.0, 1.0])


def test_roles_become_columns_of_the_panel() -> None:
    frame = sales(heat=[1, 2, 3, 4], views=[9, 9, 9, 9], brand="x", size=2, note="private")
    schema = {
        "known_covariates": ["heat"],
        "past_covariates": ["views"],
        "static_categories": "brand",
        "static_reals": "size",
    }
    panel = load_panel(frame, schema)
    assert list(panel.frame.columns)[4:] == ["heat", "views", "size", "brand", "price_imputed"]
    assert panel.schema.known_covariates == ("heat",)
    assert panel.frame["heat"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_one_source_column_may_serve_two_panel_names() -> None:
    frame = sales(sku="7", store="1").drop(columns="item_id")
    panel = load_panel(frame, {"item_id": ["store", "sku"], "product_id": "sku", "location_id": "store"})
    assert panel.frame[["item_id", "product_id", "location_id"]].iloc[0].tolist() == ["1|7", "7", "1"]


def test_a_mapped_column_is_not_used_a_second_time_under_its_own_name() -> None:
    frame = sales().rename(columns={"price": "paid"}).assign(price=9.0)
    panel = load_panel(frame, {"price": "paid", "list_price": "price"})
    assert panel.frame["price"].tolist() == [1.0, 1.0, 2.0, 1.0]
    assert panel.frame["list_price"].tolist() == [9.0] * 4


def test_integer_periods_count_from_the_start_of_period_zero() -> None:
    frame = sales(timestamp=[40, 41, 42, 44])
    panel = load_panel(frame, {"frequency": "W", "start": "1989-09-07"})
    assert panel.frame["timestamp"].iloc[0] == pd.Timestamp("1990-06-14")
    assert panel.frame["timestamp"].iloc[-1] == pd.Timestamp("1990-07-12")
    assert len(panel.frame) == 5
    with pytest.raises(
        PanelError, match=r"row 0 \(item_id 'a'\): timestamp is the whole number 40; integer periods need"
    ):
        load_panel(frame, {"frequency": "W"})
    with pytest.raises(PanelError, match=r"row 2 .*a date or a whole number is needed"):
        load_panel(sales(timestamp=[40, 41, 42.5, 44]), {"frequency": "W", "start": "1989-09-07"})
    with pytest.raises(PanelError, match="write the start of period 0 as YYYY-MM-DD"):
        load_panel(frame, {"frequency": "W", "start": "soon"})


def test_joined_ids_that_would_clash_are_refused() -> None:
    parts = [pd.Series(["a|b", "a"]), pd.Series(["c", "b|c"])]
    with pytest.raises(PanelError, match=r"joined item_id 'a\|b\|c' stands for two different items"):
        join_strings(parts)


def test_joining_agrees_with_plain_joining() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 5, 200), generator.choice(["x", "y", "zz"], 200)
    joined = join_strings([pd.Series(first), pd.Series(second)])
    assert joined.tolist() == [f"{left}|{right}" for left, right in zip(first, second, strict=True)]
