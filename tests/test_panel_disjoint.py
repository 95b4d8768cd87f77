"""What is held out of one panel is in no other source, whatever it is called; different panels are not refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.panel import CategorySplit, Panel, build_store, load_panel, split_by_category
from pricing_fm.panel.disjoint import check_items_apart, check_stores_apart

REPOSITORY = Path(__file__).resolve().parents[1]
CODES = ("0001111009477", "0001600027527")


def shop(seed: int, product: tuple[str, str], categories: tuple[str, str] = ("pretzels", "cereal")) -> pd.DataFrame:
    random, weeks = np.random.default_rng(seed), pd.date_range("2024-01-01", periods=12, freq="W-MON")
    rows = []
    for code, category in zip(product, categories, strict=True):
        for store in ("1", "2"):
            units, price = random.poisson(20, len(weeks)), random.uniform(2, 3, len(weeks)).round(2)
            rows.append(pd.DataFrame({"week": weeks, "store": store, "upc": code, "category": category}))
            rows[-1] = rows[-1].assign(units=units, price=price)
    return pd.concat(rows, ignore_index=True)


def read(frame: pd.DataFrame, name: str, **schema: object) -> Panel:
    columns = {"item_id": ["store", "upc"], "timestamp": "week", "location_id": "store", **schema}
    panel = load_panel(frame, columns)
    return Panel(panel.frame, panel.schema, panel.frequency, name)


@pytest.fixture(scope="module")
def held_out() -> CategorySplit:
    return split_by_category(read(shop(0, CODES), "grocer", product_id="upc"), "pretzels")


def test_a_product_that_another_panel_writes_differently_is_refused(held_out: CategorySplit) -> None:
    other = shop(1, ("11110-09477", "77777777"), ("crackers", "soap"))
    message = r"'0001111009477' of panel 'grocer' is held out, yet '11110-09477' of 'chain' is trained on.*\(1 such\)"
    with pytest.raises(PanelError, match=message):
        check_items_apart([read(other, "chain", product_id="upc")], [held_out])
    # Without a product column, the part of the id that is no place is the product.
    with pytest.raises(PanelError, match=message):
        check_items_apart([read(other, "chain")], [held_out])
    with pytest.raises(PanelError, match="yet '11110-09477' of 'chain'"):
        check_stores_apart([build_store(read(other, "chain", product_id="upc"))], [held_out])


def test_a_name_or_code_that_is_an_attribute_elsewhere_is_refused(held_out: CategorySplit) -> None:
    other = shop(1, ("a", "b"), ("crackers", "soap"))
    other["ean_code"] = other["upc"].map({"a": "1111009477", "b": "9"})
    with pytest.raises(PanelError, match="yet '1111009477' of 'chain'"):
        check_items_apart([read(other, "chain", static_categories=["ean_code"])], [held_out])
    named = shop(2, ("Salted Pretzels, 400 g", "Oat Rings"))
    named_out = split_by_category(read(named, "grocer", product_id="upc"), "pretzels")
    other["product_name"] = other["upc"].map({"a": "SALTED PRETZELS 400G", "b": "Soap"})
    with pytest.raises(PanelError, match="'Salted Pretzels, 400 g' of panel 'grocer'"):
        check_items_apart([read(other, "chain", static_categories=["product_name"])], [named_out])


def test_a_log_that_comes_back_with_all_names_changed_is_known_by_its_numbers(held_out: CategorySplit) -> None:
    copy = shop(0, ("x", "y"), ("crackers", "muesli")).assign(store=lambda rows: "s" + rows["store"])
    with pytest.raises(
        PanelError, match=r"'s1\|x' of 'copy' is trained on: their periods, sales and prices.*\(2 such\)"
    ):
        check_items_apart([read(copy, "copy", product_id="upc")], [held_out])


def test_a_held_out_category_in_a_prepared_store_is_refused(held_out: CategorySplit) -> None:
    store = build_store(read(shop(1, ("a", "b"), ("PRETZELS", "soap")), "chain", product_id="upc"))
    with pytest.raises(PanelError, match="two spellings of one category"):
        check_stores_apart([store], [held_out])


def test_ordinary_panels_that_share_short_codes_places_and_makers_are_not_refused(held_out: CategorySplit) -> None:
    def with_names(seed: int) -> pd.DataFrame:
        table = shop(seed, ("1", "2"))
        return table.assign(maker_name="General Mills Inc", store_name="Main Street " + table["store"])

    attributes = {"static_categories": ["maker_name", "store_name"]}
    grocer, rival = (read(with_names(seed), name, **attributes) for seed, name in ((0, "grocer"), (1, "rival")))
    out = split_by_category(grocer, "pretzels")
    cereal = split_by_category(rival, "pretzels").train
    check_items_apart([cereal, out.train], [out])
    check_items_apart([read(shop(3, ("1600027528", "77777777"), ("crackers", "soap")), "chain")], [held_out])
    check_stores_apart([build_store(read(shop(4, ("1", "2"), ("tea", "soap")), "chain"))], [held_out])


def test_real_panels_of_different_shops_are_not_refused() -> None:
    folders = [REPOSITORY / "data" / name for name in ("avocado", "orange_juice", "fresh_produce", "hotel_bookings")]
    there = [folder for folder in folders if (folder / "panel.parquet").is_file()]
    if len(there) < 2:
        pytest.skip("fewer than two panels are prepared here")
    panels = [load_panel(folder / "panel.parquet", schema=folder / "schema.yaml") for folder in there]
    for place, panel in enumerate(panels):
        others = [other for number, other in enumerate(panels) if number != place]
        check_items_apart(others, [CategorySplit(panel, panel)])
