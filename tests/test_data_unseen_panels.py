"""The prepare scripts of avocados, M5 by month, fresh produce and hotel bookings: small copies and the real files."""

import contextlib
import io
import sys
import warnings
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm import names
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = {
    "avocado": "avocado_hab",
    "m5": "m5_walmart",
    "fresh_produce": "fresh_produce_cumcm2023c",
    "hotel_bookings": "hotel_booking_demand",
}


def prepare_module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"prepare_{name}", REPOSITORY / "data" / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(source: pd.DataFrame | Path, schema: Path) -> Panel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_panel(source, schema)


def run(name: str, *arguments: str) -> str:
    """What the script prints."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", [f"data/{name}/prepare.py", *arguments])
        with contextlib.suppress(SystemExit):  # of --help
            prepare_module(name).main()
    return printed.getvalue()


def prepared(name: str, real_data: Path, output: Path) -> tuple[Panel, str]:
    printed = run(name, "--source", str(real_data / SOURCES[name]), "--output", str(output))
    return load(output / "panel.parquet", output / "schema.yaml"), printed


@pytest.mark.parametrize(("name", "folder"), SOURCES.items())
def test_every_source_says_how_to_run_it_and_has_a_card(name: str, folder: str) -> None:
    command = f"python data/{name}/prepare.py --source ../shared/data/{folder}"
    assert command in run(name, "--help")
    text = (REPOSITORY / "data" / name / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert {"license", "pretty_name", "tags", "task_categories", "size_categories"} <= set(front)
    assert command in text
    assert ("may be published" in text) == (name == "hotel_bookings")
    assert ("**study only**" in text) == (name != "hotel_bookings")


def test_avocados_keep_single_markets_and_name_weeks_by_their_start(tmp_path: Path) -> None:
    regions = ["TotalUS", "West", "Boise", "Boise", "SouthCarolina"]
    sales = pd.DataFrame({"region": regions, "type": ["organic"] * 5, "AveragePrice": [1.0, 1.1, 1.2, 1.3, 1.4]})
    sales["Date"] = pd.to_datetime(["2015-01-04", "2015-01-04", "2015-01-11", "2015-01-04", "2015-01-04"])
    sales["Total Volume"] = [900.0, 300.0, 12.5, 10.0, 20.0]
    sales.assign(extra=1).to_parquet(tmp_path / "avocado.parquet")
    table, counts = prepare_module("avocado").build_table(tmp_path)
    assert counts["rows of the nation and its eight regions dropped"] == 2
    assert table["market"].tolist() == ["Boise", "Boise", "SouthCarolina"]
    assert table["units"].tolist() == [10.0, 12.5, 20.0]
    assert table["price"].tolist() == [1.3, 1.2, 1.4]
    assert table["week_start"].iloc[0] == pd.Timestamp("2014-12-29")  # a Monday; the week ends on Sunday 4 January
    panel = load(table, REPOSITORY / "data" / "avocado" / "schema.yaml")
    assert panel.item_ids == ("Boise|organic", "SouthCarolina|organic")


def m5_source(folder: Path) -> Path:
    months = pd.date_range("2011-01-01", "2016-04-01", freq="MS")
    rows = [
        pd.DataFrame({"item_id": f"FOODS_1_{product:03d}", "store_id": store, "date": months, "sales": range(64)})
        for product in range(5)
        for store in ("CA_1", "TX_1")
    ]
    sales = pd.concat(rows, ignore_index=True)
    sales["avg_price"] = np.float32(2.0)
    late = (sales["store_id"] == "TX_1") & (sales["date"] < "2012-03-01")
    sales.loc[late, ["avg_price", "sales"]] = [np.nan, 0]
    sales = sales.assign(cat_id="FOODS", dept_id="FOODS_1", state_id=sales["store_id"].str[:2])
    sales.astype(dict.fromkeys(["item_id", "store_id"], "category")).to_parquet(
        folder / "monthly_sales_avg_price.parquet"
    )
    return folder


def test_m5_keeps_complete_months_from_the_one_after_the_launch_on(tmp_path: Path) -> None:
    table, counts = prepare_module("m5").build_table(m5_source(tmp_path), 2)
    assert counts["source series"] == 4
    assert counts["rows in the incomplete first and last month dropped"] == 8
    assert counts["rows before the launch dropped"] == 2 * 13
    assert counts["rows in the month of the launch dropped"] == 2
    first = table.groupby("store")["month"].min()
    assert first["CA_1"] == pd.Timestamp("2011-02-01")
    assert first["TX_1"] == pd.Timestamp("2012-04-01")
    assert table["month"].max() == pd.Timestamp("2016-03-01")
    assert table.loc[table["month"] == "2016-03-01", "units"].tolist() == [62.0] * 4
    panel = load(table, REPOSITORY / "data" / "m5" / "schema.yaml")
    assert panel.frequency.name == "MS"
    assert panel.frame["product_id"].nunique() == 2


def test_m5_draws_the_same_products_whatever_the_order_and_a_smaller_draw_lies_in_a_larger(tmp_path: Path) -> None:
    module = prepare_module("m5")
    products = pd.Index([f"FOODS_1_{number:03d}" for number in range(50)])
    drawn = module.draw_products(products, 20)
    assert len(set(drawn)) == 20
    assert module.draw_products(products[::-1], 20) == drawn
    assert module.draw_products(products, 7) == drawn[:7]
    assert drawn != list(products[:20])
    with pytest.raises(ValueError, match="between 1 and 50, found 51"):
        module.draw_products(products, 51)


def fresh_source(folder: Path) -> Path:
    days = pd.to_datetime(["2020-07-01", "2020-07-01", "2020-07-02", "2020-07-02", "2020-07-03"])
    items = [1, 2, 1, 2, 1]
    sold = pd.DataFrame({"销售日期": days, "单品编码": items, "销量(千克)": [3.0, 1.0, 2.0, -0.5, 4.0]})
    sold.to_parquet(folder / "item_day_quantity_kg.parquet")
    wholesale = sold[["销售日期", "单品编码"]].assign(批发价格=[2.0, 6.0, 2.0, 6.0, 3.0])
    wholesale.to_parquet(folder / "item_day_wholesale_price.parquet")
    group = 1011010101
    pd.DataFrame({"单品编码": [1, 2], "分类编码": group}).to_parquet(folder / "items.parquet")
    loss = pd.DataFrame({"小分类编码": [group], "平均损耗率(%)_小分类编码_不同值": [20.0]})
    loss.to_parquet(folder / "category_loss_rate.parquet")
    # The authors left item 2 out on the first day; the third day has no revenue.
    revenue = pd.DataFrame({"日期": days[[0, 2]], "品类编码": group, "总销售额": [15.0, 6.0], "总销售量": [3.0, 1.5]})
    revenue.to_parquet(folder / "category_day_revenue_cost_quantity.parquet")
    return folder


def test_fresh_produce_takes_kilograms_and_cost_of_all_items_and_the_price_of_those_with_revenue(
    tmp_path: Path,
) -> None:
    module = prepare_module("fresh_produce")
    table, counts = module.build_table(fresh_source(tmp_path), spoilage_in_cost=False)
    assert table["group"].unique().tolist() == ["leafy greens"]
    np.testing.assert_allclose(table["units"], [4.0, 1.5])
    np.testing.assert_allclose(table["price"], [5.0, 4.0])
    np.testing.assert_allclose(table["cost"], [(3 * 2 + 1 * 6) / 4, (2 * 2 - 0.5 * 6) / 1.5])
    assert counts["net returns among them"] == 1
    assert counts["group-days without revenue dropped"] == 1
    assert counts["group-days whose price covers less than 95 % of the kilograms"] == 1
    spoiled, _ = module.build_table(tmp_path, spoilage_in_cost=True)
    np.testing.assert_allclose(spoiled["cost"], table["cost"] / 0.8)


def test_hotel_bookings_count_paid_stays_by_week_of_arrival(tmp_path: Path) -> None:
    rows = [
        # day of July 2015, room, weekend nights, week nights, rate, status
        (1, "A", 0, 2, 100.0, "Check-Out"),  # the first week starts on a Wednesday: incomplete
        (6, "A", 0, 2, 100.0, "Check-Out"),
        (12, "A", 2, 4, 60.0, "Check-Out"),
        (8, "A", 0, 3, 90.0, "Canceled"),
        (8, "A", 0, 3, 90.0, "No-Show"),
        (8, "A", 0, 3, 5.0, "Check-Out"),  # staff
        (8, "A", 0, 0, 90.0, "Check-Out"),
        (13, "B", 0, 1, 80.0, "Check-Out"),
        (20, "A", 0, 1, 80.0, "Check-Out"),
        (28, "A", 0, 9, 80.0, "Check-Out"),  # the last week
    ]
    columns = ["arrival_date_day_of_month", "reserved_room_type", "stays_in_weekend_nights", "stays_in_week_nights"]
    bookings = pd.DataFrame(rows, columns=[*columns, "adr", "reservation_status"])
    bookings = bookings.assign(hotel="City Hotel", arrival_date_year=2015, arrival_date_month="July", country="X")
    bookings.to_parquet(tmp_path / "hotel_bookings.parquet")
    table, counts = prepare_module("hotel_bookings").build_table(tmp_path)
    assert counts["bookings cancelled or not shown up dropped"] == 2
    assert counts["stays without a night or below 20 euros a night dropped"] == 2
    assert counts["stays in the incomplete first and last week dropped"] == 2
    assert list(table.columns) == ["hotel", "room_type", "week_start", "units", "price"]  # nothing personal
    panel = load(table, REPOSITORY / "data" / "hotel_bookings" / "schema.yaml")
    first = panel.select_items(["City Hotel|A"]).frame
    assert first["timestamp"].iloc[0] == pd.Timestamp("2015-07-06")  # a Monday
    assert first["units"].tolist() == [8.0, 0.0, 1.0]  # no arrival, no sale
    np.testing.assert_allclose(first["price"].iloc[0], (2 * 100 + 6 * 60) / 8)


@pytest.mark.real_data
def test_the_real_avocado_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("avocado", real_data, tmp_path)
    assert "source rows: 18,249" in printed
    assert "markets: 45" in printed
    assert len(panel.item_ids) == 90
    assert int(panel.frame[names.UNITS].notna().sum()) == 15_207
    assert panel.frame["timestamp"].nunique() == 169
    assert panel.last_observed == pd.Timestamp("2018-03-19")
    assert panel.categories == ("conventional", "organic")
    # The heaviest weeks end on the Sundays of the finals: 2016-02-07, 2017-02-05, 2018-02-04.
    national = panel.frame.groupby("timestamp")["units"].sum().nlargest(3).index
    assert set(national) == set(pd.to_datetime(["2016-02-01", "2017-01-30", "2018-01-29"]))


@pytest.mark.real_data
def test_the_real_m5_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, _ = prepared("m5", real_data, tmp_path)
    assert len(panel.item_ids) == 3_000
    assert panel.frame["product_id"].nunique() == 300
    assert len(panel.frame) == int(panel.frame[names.UNITS].notna().sum()) == 147_708
    assert panel.frequency.name == "MS"
    assert panel.frame["timestamp"].min() == pd.Timestamp("2011-02-01")
    assert panel.last_observed == pd.Timestamp("2016-03-01")
    assert panel.categories == ("FOODS", "HOBBIES", "HOUSEHOLD")


@pytest.mark.real_data
def test_the_real_fresh_produce_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("fresh_produce", real_data, tmp_path)
    assert "net returns among them: 4" in printed
    assert "item-days without a wholesale price: 0" in printed
    assert len(panel.item_ids) == 6
    assert int(panel.frame[names.UNITS].notna().sum()) == 6_473
    assert panel.frequency.name == "D"
    assert panel.last_observed == pd.Timestamp("2023-06-30")
    margin = 1 - panel.frame["cost"] / panel.frame["price"]
    assert 0.35 < margin.mean() < 0.37


@pytest.mark.real_data
def test_the_real_hotel_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("hotel_bookings", real_data, tmp_path)
    assert "room nights: 248,750" in printed
    assert len(panel.item_ids) == 16
    assert panel.frame["timestamp"].nunique() == 112
    assert panel.last_observed == pd.Timestamp("2017-08-21")
    assert panel.frame[names.PRICE].min() > 20
