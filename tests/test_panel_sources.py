"""Where a panel can come from, and that nothing but the mapped columns comes along."""

import decimal
import sqlite3
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel

SCHEMA = {"item_id": ["store", "sku"], "timestamp": "week", "units": "sold", "price": "paid", "category": "kind"}


def source_table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "store": ["7", "7", "7", "8", "8", "8"],
            "sku": ["007", "007", "007", "007", "007", "007"],
            "week": pd.to_datetime(["2024-01-03", "2024-01-10", "2024-01-17"] * 2),
            "sold": [3.0, 4.0, 5.0, 1.0, 0.0, 2.0],
            "paid": [2.5, 2.5, 2.0, 2.5, 2.6, 2.0],
            "kind": "tea",
            "email": "someone@example.org",
        }
    )


def assert_same_panel(panel: Panel) -> None:
    expected = load_panel(source_table(), SCHEMA)
    pd.testing.assert_frame_equal(panel.to_pandas(), expected.to_pandas(), check_dtype=False)
    assert panel.fingerprint() == expected.fingerprint()


def test_a_data_frame_is_renamed_sorted_and_typed() -> None:
    frame = load_panel(source_table().iloc[::-1], SCHEMA).to_pandas()
    assert list(frame.columns) == ["item_id", "timestamp", "units", "price", "category", "price_imputed"]
    assert frame["item_id"].tolist() == ["7|007"] * 3 + ["8|007"] * 3
    assert frame["units"].tolist() == [3.0, 4.0, 5.0, 1.0, 0.0, 2.0]
    assert frame["timestamp"].dtype == "datetime64[ns]"
    assert frame["units"].dtype == frame["price"].dtype == np.float64


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet", "pq"])
def test_files_give_the_same_panel_as_the_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"sales.{ending}"
    if ending.startswith("csv"):
        source_table().to_csv(path, index=False)
    else:
        source_table().to_parquet(path)
    panel = load_panel(str(path), SCHEMA)
    assert_same_panel(panel)
    assert panel.name == "sales"
    assert_same_panel(load_panel(path, SCHEMA))


def test_a_file_called_panel_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "teas").mkdir()
    source_table().to_parquet(tmp_path / "teas" / "panel.parquet")
    assert load_panel(tmp_path / "teas" / "panel.parquet", SCHEMA).name == "teas"


def test_a_schema_file_and_a_dict_give_the_same_panel(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(
        "item_id: [store, sku]\ntimestamp: week\nunits: sold\nprice: paid\ncategory: kind\n"
    )
    assert_same_panel(load_panel(source_table(), tmp_path / "schema.yaml"))


def test_a_dataset_and_a_dataset_dict_give_the_same_panel() -> None:
    dataset = datasets.Dataset.from_pandas(source_table())
    assert_same_panel(load_panel(dataset, SCHEMA))
    assert_same_panel(load_panel(datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}), SCHEMA))
    assert_same_panel(load_panel(datasets.DatasetDict({"everything": dataset}), SCHEMA))


def test_a_dataset_dict_without_a_training_split_must_be_chosen_from() -> None:
    dataset = datasets.Dataset.from_pandas(source_table())
    with pytest.raises(PanelError, match=r"splits 2023, 2024; pass one of them"):
        load_panel(datasets.DatasetDict({"2023": dataset, "2024": dataset}), SCHEMA)


def test_a_hub_dataset_id_is_loaded_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_dataset(dataset_id: str) -> datasets.DatasetDict:
        asked.append(dataset_id)
        return datasets.DatasetDict({"train": datasets.Dataset.from_pandas(source_table())})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    panel = load_panel("acme/tea-sales", SCHEMA)
    assert_same_panel(panel)
    assert asked == ["acme/tea-sales"]
    assert panel.name == "tea-sales"


@pytest.mark.parametrize(
    "path",
    ["sales.parquet", "data/sales.parquet", "folder/sales.csv", "./sales", "/no/such/file", "a/b/c", "sales", "~/x"],
)
def test_a_missing_file_is_reported_and_no_hub_is_asked(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(PanelError, match="does not exist"):
        load_panel(path, SCHEMA)


def test_an_unknown_or_unreachable_hub_dataset_is_reported() -> None:
    with pytest.raises(PanelError, match=r"'acme/nothing-here' is no file here, and the Hub"):
        load_panel("acme/nothing-here", SCHEMA)


def test_folders_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PanelError, match="is a folder"):
        load_panel(tmp_path, SCHEMA)
    (tmp_path / "sales.txt").write_text("x")
    with pytest.raises(PanelError, match="neither CSV nor Parquet"):
        load_panel(tmp_path / "sales.txt", SCHEMA)
    (tmp_path / "sales.parquet").write_text("x")
    with pytest.raises(PanelError, match="cannot be read as Parquet"):
        load_panel(tmp_path / "sales.parquet", SCHEMA)
    (tmp_path / "sales.csv").write_text("")
    with pytest.raises(PanelError, match="is empty"):
        load_panel(tmp_path / "sales.csv", SCHEMA)
    with pytest.raises(PanelError, match="cannot read a panel from list"):
        load_panel([1, 2])  # type: ignore[arg-type]


def test_a_thousands_separator_does_not_shift_the_columns_of_a_csv(tmp_path: Path) -> None:
    header, row = "item_id,timestamp,units,price\n", "a,2024-01-0{},{},2.5\n"
    (tmp_path / "some.csv").write_text(header + row.format(1, "900") + row.format(2, "1,200"))
    with pytest.raises(PanelError, match="cannot be read as CSV.*line 3"):
        load_panel(tmp_path / "some.csv")
    (tmp_path / "all.csv").write_text(header + row.format(1, "1,900") + row.format(2, "1,200"))
    with pytest.raises(PanelError, match="more cells than the header"):
        load_panel(tmp_path / "all.csv")


def test_a_query_gives_the_same_panel_as_the_table(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        source_table().assign(week=source_table()["week"].dt.strftime("%Y-%m-%d")).to_sql("sales", connection)
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    assert_same_panel(load_panel(("select * from sales", url), SCHEMA))
    with pytest.raises(PanelError, match="no such table: nowhere"):
        load_panel(("select * from nowhere", url), SCHEMA)


def test_a_failing_query_does_not_print_the_password() -> None:
    pytest.importorskip("sqlalchemy")
    with pytest.raises(PanelError) as caught:
        load_panel(("select 1", "nosuchdriver://user:hunter2@host/db"), SCHEMA)
    assert "hunter2" not in str(caught.value)


def test_a_query_without_sqlalchemy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(PanelError, match=r"pricing-fm\[sql\]"):
        load_panel(("select * from sales", "sqlite://"), SCHEMA)


def test_columns_that_nobody_mapped_are_not_stored(tmp_path: Path) -> None:
    source_table().to_csv(tmp_path / "sales.csv", index=False)
    for source in (source_table(), tmp_path / "sales.csv", datasets.Dataset.from_pandas(source_table())):
        assert "email" not in load_panel(source, SCHEMA).to_pandas()


def test_unmapped_columns_with_a_panel_name_are_used() -> None:
    table = source_table().assign(cost=1.0, inventory=[9, 8, 7, 6, 5, 4])
    frame = load_panel(table, SCHEMA).to_pandas()
    assert frame["cost"].tolist() == [1.0] * 6
    assert frame["inventory"].tolist() == [9, 8, 7, 6, 5, 4]


def test_a_table_in_panel_names_needs_no_schema_and_survives_a_round_trip() -> None:
    panel = load_panel(source_table(), SCHEMA)
    again = load_panel(panel.to_pandas())
    assert again.fingerprint() == panel.fingerprint()


def test_ids_keep_leading_zeros_in_csv_and_lose_decimals_of_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id,timestamp,units,price\n0042,2024-01-01,1,2\n0042,2024-01-02,1,2\n")
    assert load_panel(tmp_path / "a.csv").item_ids == ("0042",)
    days = pd.to_datetime(["2024-01-01", "2024-01-02"])
    numbers = pd.DataFrame({"item_id": [42.0, 42.0], "timestamp": days, "units": 1, "price": 2})
    assert load_panel(numbers).item_ids == ("42",)


def test_a_product_called_na_in_csv_is_a_product(tmp_path: Path) -> None:
    rows = "NA,2024-01-01,1,2\nNA,2024-01-02,3,2\nNA,2024-01-03,NA,\n"
    (tmp_path / "b.csv").write_text(f"item_id,timestamp,units,price\n{rows}")
    frame = load_panel(tmp_path / "b.csv").to_pandas()
    assert frame["item_id"].tolist() == ["NA"] * 3
    assert np.isnan(frame["units"].iloc[2])


def test_numbers_may_come_as_decimals_nullable_integers_and_categories() -> None:
    table = source_table()
    table["paid"] = [decimal.Decimal(str(price)) for price in table["paid"]]
    table["sold"] = table["sold"].astype("Int32")
    table["kind"] = table["kind"].astype("category")
    table["store"] = table["store"].astype("category")
    assert_same_panel(load_panel(table, SCHEMA))


def test_two_columns_of_one_name_are_refused() -> None:
    table = source_table()
    table.columns = ["store", "sku", "week", "sold", "paid", "kind", "paid"]
    with pytest.raises(PanelError, match="two columns called 'paid'"):
        load_panel(table, SCHEMA)
