"""Every refusal and warning of the panel contract names the 0-based row, the item, what was found and what to do."""

import datetime as dt
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.errors import PanelError, PanelWarning
from pricing_fm.panel.load import load_panel

TODAY = dt.date(2024, 6, 1)


def table(**changes: Any) -> pd.DataFrame:
    """Two weekly items of four periods each; rows are not sorted by item, so that row numbers mean source rows."""
    weeks = pd.to_datetime(["2024-01-03", "2024-01-10", "2024-01-17", "2024-01-24"])
    frame = pd.DataFrame(
        {
            "item_id": ["milk", "bread"] * 4,
            "timestamp": weeks.repeat(2),
            "units": [5.0, 7.0, 6.0, 8.0, 5.0, 9.0, 4.0, 7.0],
            "price": [1.2, 2.5, 1.2, 2.5, 1.1, 2.5, 1.2, 2.4],
        }
    )
    return frame.assign(**changes)


def put(column: str, row: int, value: object) -> pd.DataFrame:
    """The table with one cell changed, whatever its type."""
    frame = table()
    cells = frame[column].astype(object) if not isinstance(value, float) else frame[column].copy()
    cells.iloc[row] = value
    return frame.assign(**{column: cells})


def refusal(frame: pd.DataFrame, schema: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(PanelError) as caught:
        load_panel(frame, schema, today=TODAY)
    return str(caught.value)


def test_the_unchanged_table_is_accepted_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_panel(table(), today=TODAY).item_ids == ("bread", "milk")


def test_a_missing_column_is_refused() -> None:
    message = refusal(table().drop(columns="price"))
    assert "column 'price' is missing" in message
    assert "'item_id', 'timestamp', 'units'" in message
    assert "`price: <source column>`" in message
    mapped = refusal(table(), {"price": "paid"})
    assert "column 'paid' (for price) is missing" in mapped


def test_an_empty_table_is_refused() -> None:
    assert "empty" in refusal(table().iloc[:0])


def test_a_duplicate_is_refused_with_both_rows() -> None:
    frame = pd.concat([table(), table().iloc[[2]]], ignore_index=True)
    message = refusal(frame)
    assert message.startswith("row 8 (item_id 'milk'): timestamp is 2024-01-10 a second time (first in row 2)")
    assert "Sum the units or drop one row" in message


@pytest.mark.parametrize(("cell", "shown"), [("soon", "'soon'"), ("2024-13-01", "'2024-13-01'"), (None, "missing")])
def test_an_unparseable_date_is_refused(cell: object, shown: str) -> None:
    frame = table()
    stamps = frame["timestamp"].dt.strftime("%Y-%m-%d").astype(object)
    stamps.iloc[3] = cell
    message = refusal(frame.assign(timestamp=stamps))
    assert message.startswith(f"row 3 (item_id 'bread'): timestamp is {shown}; a date is needed")
    assert "YYYY-MM-DD" in message


def test_a_date_in_a_local_notation_is_refused_rather_than_guessed() -> None:
    frame = table()
    assert "YYYY-MM-DD" in refusal(frame.assign(timestamp=frame["timestamp"].dt.strftime("%d/%m/%Y")))


@pytest.mark.parametrize("as_text", [True, False])
def test_naive_mixed_with_aware_dates_is_refused(as_text: bool) -> None:
    frame = table()
    cells: list[object] = [stamp.to_pydatetime() for stamp in frame["timestamp"]]
    cells[5] = frame["timestamp"].iloc[5].to_pydatetime().replace(tzinfo=dt.UTC)
    if as_text:
        cells = [str(cell).replace(" ", "T") for cell in cells]
    message = refusal(frame.assign(timestamp=pd.Series(cells, dtype=object)))
    assert message.startswith("row 5 (item_id 'bread'): timestamp is ")
    assert "Give all datetimes an offset or none" in message


@pytest.mark.parametrize("as_text", [True, False])
def test_differing_offsets_are_refused(as_text: bool) -> None:
    frame = table()
    cells: list[object] = [
        stamp.to_pydatetime().replace(tzinfo=dt.timezone(dt.timedelta(hours=2 if row == 4 else 1)))
        for row, stamp in enumerate(frame["timestamp"])
    ]
    if as_text:
        cells = [str(cell) for cell in cells]
    message = refusal(frame.assign(timestamp=pd.Series(cells, dtype=object)))
    assert message.startswith("row 4 (item_id 'milk'): timestamp has the UTC offset +2 h, row 0 has +1 h")
    assert "Convert all to UTC" in message


def test_a_time_zone_with_summer_time_has_differing_offsets() -> None:
    weeks = pd.date_range("2024-03-06", periods=8, freq="7D", tz="Europe/Berlin")
    frame = pd.DataFrame({"item_id": "milk", "timestamp": weeks, "units": 1.0, "price": 1.0})
    assert refusal(frame).startswith("row 4 (item_id 'milk'): timestamp has the UTC offset +2 h, row 0 has +1 h")


@pytest.mark.parametrize("notation", ["dtype", "text", "object"])
def test_datetimes_with_one_offset_become_naive_utc(notation: str) -> None:
    frame = table()
    aware = frame["timestamp"].dt.tz_localize("Etc/GMT-2")  # two hours ahead of UTC
    cells = {"dtype": aware, "text": aware.astype(str), "object": aware.astype(object)}[notation]
    stamps = load_panel(frame.assign(timestamp=cells), today=TODAY).to_pandas()["timestamp"]
    assert stamps.min() == pd.Timestamp("2024-01-02T22:00:00")
    assert stamps.dt.tz is None


def test_two_items_with_different_steps_are_refused() -> None:
    days = pd.DataFrame(
        {"item_id": "a", "timestamp": pd.date_range("2024-01-01", periods=12), "units": 1.0, "price": 1.0}
    )
    weeks = days.assign(item_id="b", timestamp=pd.date_range("2024-01-01", periods=12, freq="7D"))
    message = refusal(pd.concat([days, weeks], ignore_index=True))
    assert message.startswith("row 13 (item_id 'b'): timestamp is 2024-01-08; ")
    assert "most common step is 'D'" in message
    assert "declare `frequency: D`" in message
    message = refusal(pd.concat([days.iloc[:6], weeks], ignore_index=True))
    assert "off the panel's grid: the most common step is 'W'" in message


@pytest.mark.parametrize("fine_first", [True, False])
def test_two_stretches_with_different_steps_are_refused(fine_first: bool) -> None:
    fine = pd.date_range("2024-01-01", periods=8)
    coarse = pd.date_range("2024-01-15" if fine_first else "2023-11-06", periods=6, freq="7D")
    stamps = fine.append(coarse) if fine_first else coarse.append(fine)
    frame = pd.DataFrame({"item_id": "a", "timestamp": stamps, "units": 1.0, "price": 1.0})
    assert "one panel has one frequency" in refusal(frame)
    assert load_panel(frame, {"frequency": "D"}, today=TODAY).frequency.name == "D"


def test_gaps_of_whole_multiples_are_fine() -> None:
    panel = load_panel(table().drop(index=[2, 3, 5]), today=TODAY)
    assert panel.frequency.name == "W"
    assert len(panel.frame) == 8


def test_items_whose_periods_start_on_different_days_are_refused() -> None:
    frame = table()
    frame.loc[frame["item_id"] == "bread", "timestamp"] += pd.Timedelta(days=2)
    assert "one start of the period" in refusal(frame)


@pytest.mark.parametrize(("price", "shown"), [(0.0, "0"), (-1.2, "-1.2"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_a_non_positive_or_infinite_price_is_refused(price: float, shown: str) -> None:
    message = refusal(put("price", 6, price))
    assert message.startswith(f"row 6 (item_id 'milk'): price is {shown}; prices must be ")
    assert message.endswith(".")


def test_the_first_bad_row_of_the_source_is_named_and_the_others_counted() -> None:
    frame = table(price=[1.0, -2.0, 1.0, -3.0, 1.0, 1.0, -4.0, 1.0])
    message = refusal(frame)
    assert message.startswith("row 1 (item_id 'bread'): price is -2;")
    assert "2 more such rows" in message


def test_the_row_is_that_of_the_source_whatever_its_index() -> None:
    frame = put("price", 6, -1.0)
    frame.index = pd.Index(range(100, 108))
    assert refusal(frame).startswith("row 6 ")


def test_the_message_names_the_column_of_the_source() -> None:
    message = refusal(put("price", 6, -1.0).rename(columns={"price": "shelf"}), {"price": "shelf"})
    assert message.startswith("row 6 (item_id 'milk'): price (column 'shelf') is -1;")


def test_negative_units_are_refused() -> None:
    message = refusal(put("units", 2, -3.0))
    assert message.startswith("row 2 (item_id 'milk'): units is -3; units must not be negative")
    assert "Net the returns" in message


def test_infinite_units_are_refused() -> None:
    assert refusal(put("units", 2, np.inf)).startswith("row 2 (item_id 'milk'): units is inf; units must be finite")


@pytest.mark.parametrize(("column", "cell"), [("units", "12 pcs"), ("price", "1,20"), ("price", ""), ("units", "nan")])
def test_text_in_a_number_is_refused(column: str, cell: str) -> None:
    assert refusal(put(column, 3, cell)).startswith(
        f"row 3 (item_id 'bread'): {column} is {cell!r}; a number is needed"
    )


def test_dates_in_a_number_are_refused() -> None:
    assert "a number is needed" in refusal(table(cost=table()["timestamp"]))


@pytest.mark.parametrize("cell", [None, "", np.nan])
def test_a_missing_item_id_is_refused(cell: object) -> None:
    message = refusal(put("item_id", 4, cell))
    assert message.startswith("row 4: item_id is ")
    assert "every row needs an item id" in message


def test_a_missing_part_of_a_joined_item_id_is_refused() -> None:
    frame = table(store=["1", "1", "1", None, "1", "1", "1", "1"]).rename(columns={"item_id": "sku"})
    message = refusal(frame, {"item_id": ["store", "sku"]})
    assert message.startswith("row 3: item_id (column 'store' | 'sku') is missing")


def test_an_item_in_two_categories_is_refused() -> None:
    frame = table(category=["dairy", "bakery", "dairy", "bakery", "cheese", "bakery", "dairy", "bakery"])
    message = refusal(frame)
    assert message.startswith("row 4 (item_id 'milk'): category is 'cheese'; the item has 'dairy' in another row")


@pytest.mark.parametrize("column", ["segment", "product_id", "location_id"])
def test_other_attributes_of_an_item_must_not_change_either(column: str) -> None:
    assert refusal(table(**{column: list("abababax")})).startswith(f"row 7 (item_id 'bread'): {column} is 'x'")


def test_a_static_real_must_not_change() -> None:
    frame = table(size=[1.0, 2.0, 1.0, 2.0, 1.5, 2.0, 1.0, 2.0])
    assert refusal(frame, {"static_reals": ["size"]}).startswith("row 4 (item_id 'milk'): size is 1.5")


def test_units_dated_after_today_are_refused() -> None:
    with pytest.raises(
        PanelError, match=r"row 6 \(item_id 'milk'\): timestamp is 2024-01-24; units cannot be sold after"
    ):
        load_panel(table(), today=dt.date(2024, 1, 23))
    assert load_panel(table(), today=dt.date(2024, 1, 24)).last_observed == pd.Timestamp("2024-01-24")


def test_the_clock_says_what_today_is() -> None:
    today = pd.Timestamp(dt.date.today())
    stamps = [today - pd.Timedelta(days=1), today, today + pd.Timedelta(days=1)]
    frame = pd.DataFrame({"item_id": "a", "timestamp": stamps, "units": [1.0, 2.0, np.nan], "price": 1.0})
    assert load_panel(frame).last_observed == today
    with pytest.raises(PanelError, match="row 2"):
        load_panel(frame.assign(units=1.0))


def test_a_plan_dated_after_today_is_fine() -> None:
    frame = table(units=[5.0, 7.0, 6.0, 8.0, 5.0, 9.0, np.nan, np.nan])
    assert len(load_panel(frame, today=dt.date(2024, 1, 20)).frame) == 8


def test_a_panel_in_which_no_item_has_two_observed_periods_is_refused() -> None:
    assert "no item has two observed periods" in refusal(table(units=[5.0, 7.0] + [np.nan] * 6))


def test_a_price_may_be_missing_only_where_units_are() -> None:
    assert refusal(put("price", 4, np.nan)).startswith(
        "row 4 (item_id 'milk'): price is missing; a price may be missing"
    )
    frame = put("price", 4, np.nan)
    frame.loc[4, "units"] = np.nan
    assert len(load_panel(frame, today=TODAY).frame) == 8


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("list_price", 0.0),
        ("list_price", np.inf),
        ("competitor_price", -1.0),
        ("cost", -0.1),
        ("inventory", -1.0),
        ("inventory", np.inf),
        ("traffic", -1.0),
        ("promotion", 1.5),
        ("promotion", -0.1),
        ("price_is_intervention", 0.5),
    ],
)
def test_optional_columns_outside_their_range_are_refused(column: str, value: float) -> None:
    values = np.full(8, np.nan)
    values[5] = value
    assert refusal(table(**{column: values})).startswith(f"row 5 (item_id 'bread'): {column} is {value:g}; ")


@pytest.mark.parametrize("role", ["known_covariates", "past_covariates", "static_reals"])
def test_infinite_covariates_are_refused(role: str) -> None:
    assert "row 0 (item_id 'milk'): heat is inf" in refusal(table(heat=np.inf), {role: ["heat"]})


def test_an_off_grid_row_is_refused_when_the_frequency_is_declared() -> None:
    frame = table()
    frame.loc[6, "timestamp"] = pd.Timestamp("2024-01-25")
    message = refusal(frame, {"frequency": "W"})
    assert message.startswith("row 6 (item_id 'milk'): timestamp is 2024-01-25")
    assert "declared step is 'W'" in message


def warning_of(frame: pd.DataFrame) -> str:
    with pytest.warns(PanelWarning) as caught:
        load_panel(frame, today=TODAY)
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller
    return str(caught[0].message)


@pytest.mark.parametrize("factor", [50.0, 100.0, 0.02])
def test_price_jumps_of_fifty_times_draw_a_warning(factor: float) -> None:
    message = warning_of(put("price", 6, 1.1 * factor))
    assert message.startswith(f"row 6 (item_id 'milk'): price jumps from 1.1 to {1.1 * factor:g}")
    assert "cents" in message


def test_a_jump_of_forty_nine_times_draws_none() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_panel(put("price", 6, 1.1 * 49), today=TODAY)


def test_items_with_fewer_than_two_observed_periods_are_kept_with_a_warning() -> None:
    frame = pd.concat([table(), table().iloc[[0]].assign(item_id="new")], ignore_index=True)
    assert "1 of 3 items have fewer than two observed periods (for example 'new')" in warning_of(frame)
    with pytest.warns(PanelWarning):
        assert load_panel(frame, today=TODAY).item_ids == ("bread", "milk", "new")


def test_traffic_that_tracks_units_draws_a_warning() -> None:
    frame = table()
    assert "tracks units (log correlation" in warning_of(frame.assign(traffic=3 * frame["units"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_panel(frame.assign(traffic=[90.0, 50.0, 70.0, 80.0, 95.0, 60.0, 55.0, 85.0]), today=TODAY)


CELLS = {
    "item_id": st.sampled_from(["a", "b", "a|b", 1, 2.0, "", None]),
    "timestamp": st.sampled_from(
        [
            "2024-01-01",
            "2024-01-08",
            "2024-01-15T00:00Z",
            "soon",
            dt.date(2024, 1, 22),
            pd.Timestamp("2024-01-29"),
            None,
            3,
        ]
    ),
    "units": st.sampled_from([0, 1, 2.5, -1, np.inf, np.nan, None, "x", True]),
    "price": st.sampled_from([1, 2.5, 0, -1, np.inf, np.nan, None, "x", "2.5", True]),
    "category": st.sampled_from(["tea", "coffee", None, 3]),
    "promotion": st.sampled_from([0, 1, True, False, None, 2]),
}


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(CELLS), max_size=8), absent_rows=st.sampled_from(["missing", "zero"]))
def test_any_table_becomes_a_panel_or_is_refused(rows: list[dict[str, object]], absent_rows: str) -> None:
    frame = pd.DataFrame(rows, columns=list(CELLS), dtype=object)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            panel = load_panel(frame, {"absent_rows": absent_rows}, today=TODAY)
    except PanelError:
        return
    assert not panel.frame.duplicated(["item_id", "timestamp"]).any()
    assert panel.frame["units"].dropna().between(0, 1e9).all()
    assert (panel.frame["price"].dropna() > 0).all()
