"""The price index of the rest of the assortment: other items, same category and place, same period."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.panel import Panel, add_assortment, add_assortment_to_windows, build_store, load_panel, read_windows
from pricing_fm.panel.assortment import ASSORTMENT_SLOT, assortment_index, number_shelves
from pricing_fm.policy.situation import read_situation

SLOT = names.CHANNEL_INDEX[ASSORTMENT_SLOT]
WEEKS = 20


def make_panel(known: tuple[str, ...] = (), with_list: bool = True) -> Panel:
    random = np.random.default_rng(0)
    rows = []
    for category, location, product in [("a", "x", 0), ("a", "x", 1), ("a", "x", 2), ("a", "y", 0), ("b", "x", 3)]:
        price = np.round(4.0 * np.exp(0.1 * random.standard_normal(WEEKS)), 2)
        frame = pd.DataFrame(
            {
                "item_id": f"{category}{location}{product}",
                "timestamp": pd.date_range("2024-01-01", periods=WEEKS, freq="7D"),
                "units": random.poisson(9.0, WEEKS).astype(float),
                "price": price,
                "list_price": 4.0,
                "category": category,
                "location_id": location,
            }
        )
        rows.append(frame.assign(**dict.fromkeys(known, 0.5)))
    table = pd.concat(rows, ignore_index=True)
    schema = {"known_covariates": list(known)} if known else None
    return load_panel(table if with_list else table.drop(columns="list_price"), schema=schema)


def test_the_index_is_the_mean_of_the_others_of_the_shelf_in_the_period() -> None:
    store = add_assortment(build_store(make_panel()))
    prices = store.values[:, names.CHANNEL_INDEX["price"]].reshape(-1, WEEKS)
    index = store.values[:, SLOT].reshape(-1, WEEKS)
    assert store.item_ids[:3] == ("ax0", "ax1", "ax2")
    assert index[0] == pytest.approx(np.log(prices[1:3] / 4.0).mean(0), abs=1e-6)
    assert np.isnan(index[3:]).all()  # alone in its place, alone in its category


def test_without_list_prices_the_median_is_the_regular_price() -> None:
    store = add_assortment(build_store(make_panel(with_list=False)))
    prices = store.values[:, names.CHANNEL_INDEX["price"]].reshape(-1, WEEKS).astype(float)
    ratio = np.log(prices / np.median(prices, axis=1, keepdims=True))
    assert store.values[:, SLOT].reshape(-1, WEEKS)[2] == pytest.approx(ratio[:2].mean(0), abs=1e-6)


def test_windows_of_all_items_say_what_the_store_says_and_the_plan_follows_its_own_prices() -> None:
    panel = make_panel()
    store = build_store(panel)
    items = np.arange(len(store.item_ids))
    plain = read_windows(store, items, np.full(len(items), WEEKS - 4), 16, 4)
    found = add_assortment_to_windows(plain)
    told = read_windows(add_assortment(store), items, np.full(len(items), WEEKS - 4), 16, 4)
    assert np.allclose(found.past[..., SLOT], told.past[..., SLOT], equal_nan=True, atol=1e-6)
    assert np.allclose(found.future[..., SLOT], told.future[..., SLOT], equal_nan=True, atol=1e-6)
    future = plain.future.copy()
    future[1, :, names.CHANNEL_INDEX["price"]] *= 1.2
    moved = add_assortment_to_windows(replace(plain, future=future))
    assert moved.future[0, :, SLOT] == pytest.approx(found.future[0, :, SLOT] + np.log(1.2) / 2, abs=1e-5)
    assert np.array_equal(moved.future[1, :, SLOT], found.future[1, :, SLOT])
    assert np.array_equal(moved.past[..., SLOT], found.past[..., SLOT], equal_nan=True)


def test_a_carried_price_has_no_say() -> None:
    store = build_store(make_panel())
    values = store.values.copy()
    values[WEEKS : WEEKS + 3, names.CHANNEL_INDEX["price_imputed"]] = 1.0
    found, whole = (add_assortment(replace(store, values=array)) for array in (values, store.values))
    others = np.log(store.values[2 * WEEKS : 2 * WEEKS + 3, names.CHANNEL_INDEX["price"]] / 4.0)
    assert found.values[:3, SLOT] == pytest.approx(others, abs=1e-6)
    assert np.array_equal(found.values[3:WEEKS, SLOT], whole.values[3:WEEKS, SLOT])


def test_declared_covariates_come_first_and_a_fourth_takes_the_place_of_the_index() -> None:
    three = add_assortment(build_store(make_panel(("one", "two", "three"))))
    assert not (three.values[:, SLOT] == 0.5).any()
    assert np.isfinite(three.values[:, SLOT]).any()
    four = add_assortment(build_store(make_panel(("one", "two", "three", "four"))))
    assert (four.values[:, SLOT] == 0.5).all()


def test_a_situation_knows_the_index_of_its_plan() -> None:
    windows = read_situation(make_panel(), 16, 3).windows
    last = np.log(windows.past[1:3, -1, names.CHANNEL_INDEX["price"]] / 4.0).mean()
    assert windows.future[0, :, SLOT] == pytest.approx(np.full(3, last), abs=1e-5)


def test_items_without_a_category_have_no_assortment() -> None:
    categories = np.full((2, len(names.STATIC_CATEGORIES)), None, dtype=object)
    assert (number_shelves(categories) == -1).all()
    assert np.isnan(assortment_index(np.zeros(2), np.zeros(2), np.array([-1, -1]))).all()
