"""Nothing learned from is scored: splits by time, then by category, leave nothing in common."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.errors import PanelError
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.splits import split_by_category, split_by_time
from pricing_fm.panel.store import build_store

WEEKS = pd.date_range("2024-01-03", periods=20, freq="7D")


def sales(seed: int = 0) -> pd.DataFrame:
    """Six items of three categories in two shops, twenty weeks; the last item starts late."""
    generator = np.random.default_rng(seed)
    frames = []
    for item in range(6):
        weeks = WEEKS[12:] if item == 5 else WEEKS
        frames.append(
            pd.DataFrame(
                {
                    "item_id": f"item-{item}",
                    "product_id": f"product-{item // 2}",
                    "location_id": f"shop-{item % 2}",
                    "category": ["tea", "coffee", "Cocoa"][item // 2],
                    "timestamp": weeks,
                    "units": generator.poisson(8, len(weeks)).astype(float),
                    "price": generator.choice([1.99, 2.49], len(weeks)),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def panel() -> Panel:
    return load_panel(sales())


def test_training_ends_before_validation_and_validation_before_the_test(panel: Panel) -> None:
    split = split_by_time(panel, WEEKS[10], WEEKS[15])
    assert split.train.frame["timestamp"].max() == WEEKS[9]
    assert split.validation.evaluate_from == WEEKS[10]
    assert split.validation.frame["timestamp"].max() == WEEKS[14]
    assert split.test.evaluate_from == WEEKS[15]
    assert split.test.frame["timestamp"].max() == WEEKS[19]
    assert split.train.evaluate_from is None


@settings(max_examples=25, deadline=None)
@given(first=st.integers(1, 18), second=st.integers(1, 18))
def test_no_scored_row_is_in_an_earlier_part(first: int, second: int) -> None:
    panel = load_panel(sales())
    if first >= second:
        with pytest.raises(PanelError, match="it must start earlier"):
            split_by_time(panel, WEEKS[first], WEEKS[second])
        return
    split = split_by_time(panel, WEEKS[first], WEEKS[second])
    rows = [
        set(zip(part.frame["item_id"], part.frame["timestamp"], strict=True))
        for part in (split.train, split.validation)
    ]
    validation = split.validation.frame
    scored = validation[validation["timestamp"] >= split.validation.evaluate_from]
    tested = split.test.frame[split.test.frame["timestamp"] >= split.test.evaluate_from]
    assert split.train.frame["timestamp"].max() < scored["timestamp"].min()
    assert scored["timestamp"].max() < tested["timestamp"].min()
    assert not rows[0] & set(zip(scored["item_id"], scored["timestamp"], strict=True))
    assert not rows[1] & set(zip(tested["item_id"], tested["timestamp"], strict=True))


def test_validation_and_test_keep_the_past_as_context(panel: Panel) -> None:
    split = split_by_time(panel, WEEKS[10], WEEKS[15])
    context = split.validation.before(split.validation.evaluate_from)
    pd.testing.assert_frame_equal(context.frame, split.train.frame)
    pd.testing.assert_frame_equal(split.test.frame, panel.frame)


def test_held_out_weeks_change_nothing_that_training_sees() -> None:
    before = split_by_time(load_panel(sales()), WEEKS[10], WEEKS[15]).train
    changed = sales()
    later = changed["timestamp"] >= WEEKS[10]
    changed.loc[later, ["units", "price"]] *= 10
    after = split_by_time(load_panel(changed), WEEKS[10], WEEKS[15]).train
    assert after.fingerprint() == before.fingerprint()
    np.testing.assert_array_equal(build_store(after).values, build_store(before).values)


def test_a_part_without_observed_units_is_refused(panel: Panel) -> None:
    with pytest.raises(PanelError, match="the test part of panel 'panel' has no observed units"):
        split_by_time(panel, WEEKS[10], WEEKS[19] + pd.Timedelta(days=1))
    with pytest.raises(PanelError, match="the train part"):
        split_by_time(panel, WEEKS[0], WEEKS[5])


def test_held_out_categories_share_nothing_with_training(panel: Panel) -> None:
    split = split_by_category(panel, ["coffee", "Cocoa"])
    assert split.train.categories == ("tea",)
    assert split.held_out.categories == ("Cocoa", "coffee")
    for column in ("item_id", "product_id", "category"):
        assert not set(split.train.frame[column]) & set(split.held_out.frame[column])
    assert len(split.train.frame) + len(split.held_out.frame) == len(panel.frame)


def test_held_out_categories_change_nothing_that_training_sees() -> None:
    changed = sales()
    changed.loc[changed["category"] == "Cocoa", ["units", "price"]] *= 10
    before = split_by_category(load_panel(sales()), "Cocoa").train
    after = split_by_category(load_panel(changed), "Cocoa").train
    assert after.fingerprint() == before.fingerprint()
    np.testing.assert_array_equal(build_store(after).values, build_store(before).values)


def test_time_comes_first_then_category(panel: Panel) -> None:
    time = split_by_time(panel, WEEKS[10], WEEKS[15])
    held_out = split_by_category(time.test, "Cocoa").held_out
    assert held_out.evaluate_from == WEEKS[15]
    train = split_by_category(time.train, "Cocoa").train
    assert train.frame["timestamp"].max() < held_out.evaluate_from
    assert not set(train.item_ids) & set(held_out.item_ids)


@pytest.mark.parametrize("synonym", ["cocoa", " COCOA", "Co-coa"])
def test_a_category_that_comes_back_under_another_spelling_is_refused(synonym: str) -> None:
    frame = sales()
    frame.loc[frame["item_id"] == "item-4", "category"] = synonym
    frame.loc[frame["item_id"] == "item-4", "product_id"] = "product-9"
    with pytest.raises(PanelError, match="two spellings of one category"):
        split_by_category(load_panel(frame), "Cocoa")


def test_a_product_on_both_sides_is_refused() -> None:
    frame = sales()
    frame.loc[frame["item_id"] == "item-4", "product_id"] = "product-0"
    with pytest.raises(PanelError, match="product_id 'product-0' is in a training and in a held-out category"):
        split_by_category(load_panel(frame), "Cocoa")


@pytest.mark.parametrize("held_out", ["Tea", [], ["tea", "milk"]])
def test_unknown_categories_are_refused_with_the_known_ones(panel: Panel, held_out: object) -> None:
    with pytest.raises(PanelError, match="'Cocoa', 'coffee', 'tea'"):
        split_by_category(panel, held_out)  # type: ignore[arg-type]


def test_holding_everything_out_is_refused(panel: Panel) -> None:
    with pytest.raises(PanelError, match="leaves nothing to train on"):
        split_by_category(panel, ["tea", "coffee", "Cocoa"])


def test_items_without_a_category_cannot_be_split() -> None:
    frame = sales()
    frame.loc[frame["item_id"] == "item-3", "category"] = None
    with pytest.raises(PanelError, match="item 'item-3' has no category"):
        split_by_category(load_panel(frame), "Cocoa")
    with pytest.raises(PanelError, match="no categories"):
        split_by_category(load_panel(sales().drop(columns="category")), "Cocoa")


def test_selections_are_panels(panel: Panel) -> None:
    assert panel.select_items(["item-3", "item-1"]).item_ids == ("item-1", "item-3")
    assert panel.select_category("tea").item_ids == ("item-0", "item-1")
    assert panel.before(WEEKS[12]).item_ids == ("item-0", "item-1", "item-2", "item-3", "item-4")
    assert panel.last_observed == WEEKS[19]
    with pytest.raises(PanelError, match="no item 'item-9'"):
        panel.select_items(["item-1", "item-9"])
    with pytest.raises(PanelError, match="no category 'Tea'; it has 'Cocoa', 'coffee', 'tea'"):
        panel.select_category("Tea")


def test_the_last_periods_end_before_a_moment(panel: Panel) -> None:
    assert sorted(panel.last_periods(2).frame["timestamp"].unique()) == list(WEEKS[-2:])
    assert sorted(panel.last_periods(4, WEEKS[10]).frame["timestamp"].unique()) == list(WEEKS[6:10])
    assert panel.last_periods(0).frame.empty
    with pytest.raises(PanelError, match="0 or more"):
        panel.last_periods(-1)


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(len(sales()))), columns=st.permutations(list(sales().columns)))
def test_the_order_of_rows_and_columns_changes_neither_fingerprint_nor_store(
    order: list[int], columns: list[str]
) -> None:
    panel, shuffled = load_panel(sales()), load_panel(sales().iloc[order][columns])
    assert shuffled.fingerprint() == panel.fingerprint()
    one, other = build_store(panel), build_store(shuffled)
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.timestamps, other.timestamps)
    assert one.item_ids == other.item_ids


@pytest.mark.parametrize("column", ["units", "price", "timestamp", "item_id", "category"])
def test_any_change_of_content_changes_the_fingerprint(column: str) -> None:
    frame = sales()
    last = frame["item_id"] == "item-5"
    if column in ("units", "price"):
        frame.loc[frame.index[-1], column] += 0.01
    elif column == "timestamp":
        frame.loc[last, column] += pd.Timedelta(days=7)
    else:
        frame.loc[last, column] = "other"
    assert load_panel(frame).fingerprint() != load_panel(sales()).fingerprint()
    assert load_panel(sales()).fingerprint().startswith("sha256:")


def test_roles_are_part_of_the_fingerprint() -> None:
    frame = sales().assign(heat=1.0)
    known = load_panel(frame, {"known_covariates": ["heat"]}).fingerprint()
    assert known != load_panel(frame, {"past_covariates": ["heat"]}).fingerprint()


def test_the_table_handed_out_is_a_copy(panel: Panel) -> None:
    table = panel.to_pandas()
    table["units"] = 0.0
    assert panel.frame["units"].sum() > 0
