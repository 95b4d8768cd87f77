"""The prepare scripts: what each keeps, drops and counts, on a small copy of its source and on the real one."""

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
from pricing_fm.panel.store import build_store

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = ("frat", "orange_juice", "online_retail")


def prepare_module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"prepare_{name}", REPOSITORY / "data" / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(table: pd.DataFrame, name: str) -> Panel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_panel(table, REPOSITORY / "data" / name / "schema.yaml")


def run(name: str, *arguments: str) -> str:
    """What the script prints; in this process, since starting another costs more than the work itself."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(sys, "argv", [f"data/{name}/prepare.py", *arguments])
        with contextlib.suppress(SystemExit):  # of --help
            prepare_module(name).main()
    return printed.getvalue()


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_says_how_to_run_it(name: str) -> None:
    text = run(name, "--help")
    assert "--source" in text
    assert "--output" in text
    assert f"data/{name}/prepare.py --source ../shared/data/" in text


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_has_a_card_with_front_matter(name: str) -> None:
    text = (REPOSITORY / "data" / name / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert {"license", "pretty_name", "tags", "task_categories", "size_categories"} <= set(front)
    assert f"python data/{name}/prepare.py --source" in text


def frat_source(folder: Path) -> Path:
    weeks = pd.to_datetime(["2009-01-14", "2009-01-21", "2009-01-28", "2009-02-11"])
    sales = pd.DataFrame(
        {
            "week_end_date": [*weeks, *weeks[:3]],
            "store_id": ["1"] * 4 + ["2"] * 3,
            "upc_id": "0011",
            "units": pd.array([3, 4, 5, 6, 1, 0, 2], dtype="Int32"),
            "visits": pd.array([3] * 7, dtype="Int32"),
            "hhs": pd.array([3] * 7, dtype="Int32"),
            "spend": 1.0,
            "price": [1.0, 1.1, 0.9, 1.0, np.nan, 1.2, 0.0],
            "base_price": [1.2, 1.2, np.nan, 1.2, 1.2, 1.2, 1.2],
            "feature": pd.array([0, 1, 1, 0, 0, 0, 0], dtype="Int32"),
            "display": pd.array([0, 0, 1, 0, 0, 0, 0], dtype="Int32"),
            "tpr_only": pd.array([1] * 7, dtype="Int32"),
        }
    )
    sales.to_parquet(folder / "transaction.parquet")
    product = {"upc_id": ["0011"], "manufacturer": ["M"], "category": ["SNACKS"], "sub_category": ["SALTY"]}
    pd.DataFrame(product | {"product_size": ["15 OZ"], "mass_oz": [15.0]}).to_parquet(folder / "product.parquet")
    store = {"store_id": ["1", "2"], "seg_value_name": ["VALUE", "UPSCALE"], "avg_weekly_baskets": [20.0, 30.0]}
    pd.DataFrame(store | {"sales_area_size_num": [4.0, 5.0]}).to_parquet(folder / "store.parquet")
    return folder


def test_frat_names_weeks_by_their_start_and_drops_rows_without_a_price(tmp_path: Path) -> None:
    table, counts = prepare_module("frat").build_table(frat_source(tmp_path))
    assert counts["rows without a price"] == 1
    assert counts["rows with price 0"] == 1
    assert counts["rows with zero units and a price"] == 1
    assert counts["rows without a base price"] == 1
    assert len(table) == 5
    assert table["week_start"].iloc[0] == pd.Timestamp("2009-01-08")  # a Thursday
    panel = load(table, "frat")
    assert panel.item_ids == ("1|0011", "2|0011")
    assert panel.schema.promotions == ("feature", "display")
    assert not {"tpr_only", "visits", "hhs"} & set(panel.frame.columns)
    first = panel.select_items(["1|0011"]).frame
    assert first["units"].isna().tolist() == [False, False, False, True, False]  # an absent week is unknown
    assert first["product_id"].unique().tolist() == ["0011"]
    assert build_store(panel).static_reals[:, 0].tolist() == [20.0, 30.0]


def test_orange_juice_turns_log_ounces_into_units_and_margin_into_cost(tmp_path: Path) -> None:
    module = prepare_module("orange_juice")
    sales = pd.DataFrame({"store": 2, "brand": [2, 2, 11], "week": [40, 41, 40], "logmove": np.log([960, 480, 1280])})
    sales = sales.assign(deal=[1, 0, 0], feat=[0.0, 0.04, 1.0], profit=[25.0, 20.0, 10.0], constant=1)
    for brand in range(1, 12):
        sales[f"price{brand}"] = 0.01 * brand
    sales.to_parquet(tmp_path / "yx.parquet")
    demography = {"STORE": [2], "INCOME": [10.5], "AGE60": [0.2], "HHLARGE": [0.1], "SSTRDIST": [2.0]}
    pd.DataFrame(demography).to_parquet(tmp_path / "storedemo.parquet")
    table, counts = module.build_table(tmp_path, "ounce")
    assert counts["rows with a feature share between 0 and 1"] == 1
    assert table["units"].tolist() == [960.0, 480.0, 1280.0]
    np.testing.assert_allclose(table["price"], [0.02, 0.02, 0.11])
    np.testing.assert_allclose(table["cost"], [0.015, 0.016, 0.099])
    packs, _ = module.build_table(tmp_path, "pack")
    assert packs["units"].tolist() == [10.0, 5.0, 10.0]
    np.testing.assert_allclose(packs["price"], [1.92, 1.92, 14.08])
    np.testing.assert_allclose(packs["units"] * packs["price"], table["units"] * table["price"])
    panel = load(table, "orange_juice")
    assert panel.item_ids == ("2|Dominicks 128 oz", "2|Tropicana Premium 96 oz")
    assert panel.frame["timestamp"].iloc[0] == pd.Timestamp("1990-06-14")  # week 40
    assert panel.schema.promotions == ("deal", "feature")


def retail_lines() -> pd.DataFrame:
    rows = [
        # invoice, code, quantity, time, price, customer
        ("1", "10001", 5, "2010-12-01", 2.0, 7.0),  # the first week starts on a Wednesday: incomplete
        ("2", "10001", 4, "2010-12-07", 2.0, 7.0),
        ("3", "10001", 6, "2010-12-08", 1.5, 8.0),
        ("4", "10001", 1, "2010-12-09", 2.0, np.nan),
        ("5", "10001", 900, "2010-12-09", 2.0, 9.0),  # ordered and cancelled in one week
        ("C6", "10001", -900, "2010-12-10", 2.0, 9.0),
        ("C7", "10001", -4, "2010-12-14", 2.0, 7.0),  # returned a week later
        ("8", "10001", 3, "2010-12-15", 2.0, 7.0),
        ("8", "20002a", 2, "2010-12-15", 4.0, 7.0),
        ("8", "POST", 1, "2010-12-15", 15.0, 7.0),
        ("9", "gift_0001_20", 1, "2010-12-15", 20.0, 7.0),
        ("10", "10001", -8, "2010-12-15", 0.0, np.nan),  # written off
        ("11", "10001", 8, "2010-12-15", 0.0, np.nan),
        # nothing at all in the week of 2010-12-20: closed
        ("12", "20002A", 1, "2010-12-29", 4.0, 7.0),
        ("13", "10001", 2, "2011-01-05", 2.5, 7.0),
        ("14", "10001", 2, "2011-01-12", 2.5, 7.0),  # the last week
    ]
    columns = ["InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    lines = pd.DataFrame(rows, columns=columns).assign(Country="X", Description="Y")
    return lines.assign(InvoiceDate=pd.to_datetime(lines["InvoiceDate"]) + pd.Timedelta(hours=9))


def test_online_retail_nets_cancellations_drops_services_and_takes_the_modal_price(tmp_path: Path) -> None:
    retail_lines().to_parquet(tmp_path / "online_retail.parquet")
    table, counts = prepare_module("online_retail").build_table(tmp_path)
    assert counts["order lines netted with their cancellation in the same week"] == 1
    assert counts["other return lines dropped"] == 2
    assert counts["lines without a positive price dropped"] == 1
    assert counts["lines of postage, fees, vouchers and corrections dropped"] == 2
    assert counts["lines in the incomplete first and last week dropped"] == 2
    assert counts["product-weeks added as unknown, the shop being closed"] == 2
    assert list(table.columns) == ["stock_code", "week_start", "units", "price"]  # nothing personal
    panel = load(table, "online_retail")
    first = panel.select_items(["10001"]).frame
    assert first["timestamp"].iloc[0] == pd.Timestamp("2010-12-06")
    np.testing.assert_array_equal(first["units"], [11.0, 3.0, np.nan, 0.0, 2.0])
    np.testing.assert_array_equal(first["price"], [2.0, 2.0, 2.0, 2.0, 2.5])
    assert panel.select_items(["20002A"]).frame["units"].tolist()[::2] == [2.0, 1.0]


def prepared(name: str, folder: str, real_data: Path, output: Path) -> tuple[Panel, str]:
    printed = run(name, "--source", str(real_data / folder), "--output", str(output))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_panel(output / "panel.parquet", output / "schema.yaml"), printed


@pytest.mark.real_data
def test_the_real_frat_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("frat", "dunnhumby_breakfast_at_the_frat", real_data, tmp_path)
    assert "source rows: 375,497" in printed
    assert "rows without a price: 10\n" in printed
    assert "rows with price 0: 1\n" in printed
    assert "rows kept: 375,486; items: 2,915" in printed
    assert int(panel.frame[names.UNITS].notna().sum()) == 375_486
    assert panel.frequency.name == "W"
    assert panel.frame["timestamp"].min() == pd.Timestamp("2009-01-08")
    assert panel.last_observed == pd.Timestamp("2011-09-29")
    assert panel.frame["timestamp"].nunique() == 143
    assert panel.categories == ("BAG SNACKS", "COLD CEREAL", "FROZEN PIZZA")


@pytest.mark.real_data
def test_the_real_orange_juice_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("orange_juice", "dominicks_orange_juice_bayesm", real_data, tmp_path)
    assert "rows whose ounces are no whole number of packs: 0" in printed
    assert len(panel.item_ids) == 913
    assert int(panel.frame[names.UNITS].notna().sum()) == 94_842
    assert panel.frame["timestamp"].min() == pd.Timestamp("1990-06-14")  # week 40
    assert panel.last_observed == pd.Timestamp("1992-07-02")  # week 147
    margin = 1 - panel.frame["cost"] / panel.frame["price"]
    assert 0.27 < margin.mean() < 0.28


@pytest.mark.real_data
def test_the_real_online_retail_panel_has_the_stated_size(real_data: Path, tmp_path: Path) -> None:
    panel, printed = prepared("online_retail", "uci_online_retail", real_data, tmp_path)
    assert "source lines: 541,909" in printed
    assert "stock codes in them, as written: 3,922" in printed
    assert "code-weeks in them, as written: 101,579" in printed
    assert "product-weeks: 96,002" in printed
    assert len(panel.item_ids) == 3_781
    sold = (panel.frame[names.UNITS] > 0) & ~panel.frame[names.PRICE_IMPUTED]
    assert int(sold.sum()) == 96_002
    closed = panel.frame["timestamp"] == pd.Timestamp("2010-12-27")
    assert panel.frame.loc[closed, names.UNITS].isna().all()
