"""Tables passed along with a panel use the source's own column names and meet the same refusals."""

import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.panel.companion import read_companion
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel

SCHEMA = {
    "item_id": ["store", "sku"],
    "timestamp": "week",
    "units": "sold",
    "price": "paid",
    "promotion": ["flyer", "shelf"],
    "frequency": "W",
    "start": "2024-01-03",
}


@pytest.fixture
def panel() -> Panel:
    frame = pd.DataFrame(
        {
            "store": [1, 1, 1],
            "sku": ["x", "x", "x"],
            "week": [0, 1, 2],
            "sold": [3.0, 4.0, 5.0],
            "paid": [2.0, 2.0, 1.5],
        }
    )
    return load_panel(frame.assign(flyer=[0, 0, 1], shelf=False), SCHEMA)


def test_a_future_in_source_names_becomes_panel_names(panel: Panel) -> None:
    future = pd.DataFrame(
        {"sku": "x", "store": 1, "week": [3, 4], "paid": [1.9, 2.1], "flyer": [True, False], "shelf": [0, 1]}
    )
    read = read_companion(panel, future)
    assert read["item_id"].tolist() == ["1|x", "1|x"]
    assert read["timestamp"].tolist() == [pd.Timestamp("2024-01-24"), pd.Timestamp("2024-01-31")]
    assert read["price"].tolist() == [1.9, 2.1]
    assert read["flyer"].tolist() == [1.0, 0.0]
    assert "units" not in read


def test_a_future_in_panel_names_is_read_as_it_is(panel: Panel) -> None:
    future = pd.DataFrame(
        {"item_id": "1|x", "timestamp": ["2024-01-24"], "price": 1.9, "flyer": 0.0, "shelf": 1.0}, index=[5]
    )
    read = read_companion(panel, future)
    assert read["timestamp"].tolist() == [pd.Timestamp("2024-01-24")]
    assert read["price"].tolist() == [1.9]
    assert read.index.tolist() == [0]


def test_limits_keep_their_own_columns(panel: Panel) -> None:
    limits = pd.DataFrame({"store": [1], "sku": ["x"], "price_floor": [1.5], "maximum_step": [0.2]})
    read = read_companion(panel, limits)
    assert read.to_dict("records") == [{"item_id": "1|x", "price_floor": 1.5, "maximum_step": 0.2}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paid": -1.0}, r"row 0 \(item_id '1\|x'\): price \(column 'paid'\) is -1; prices must be positive"),
        ({"paid": "cheap"}, "is 'cheap'; a number is needed"),
        ({"flyer": 2.0}, "flyer is 2; promotions lie in 0..1"),
        ({"week": "soon"}, r"timestamp \(column 'week'\) is 'soon'; a date is needed"),
        ({"store": None}, "every row needs an item id"),
    ],
)
def test_the_panels_refusals_hold_here_too(panel: Panel, changes: dict, message: str) -> None:
    row = {"store": 1, "sku": "x", "week": 3, "paid": 2.0, "flyer": 0.0, "shelf": 0.0} | changes
    with pytest.raises(PanelError, match=message):
        read_companion(panel, pd.DataFrame([row]))


def test_a_table_without_items_is_refused(panel: Panel) -> None:
    with pytest.raises(PanelError, match="it needs the column 'store' and 'sku'"):
        read_companion(panel, pd.DataFrame({"sku": ["x"], "price_floor": [1.0]}))
