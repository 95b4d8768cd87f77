"""Windows hold the raw data around an origin, and the sampler is a function of (seed, step)."""

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.sampler import WindowSampler, find_origin_rows, find_switch_rows
from pricing_fm.panel.store import SeriesStore, load_store, save_store
from pricing_fm.panel.windows import RawWindows, concatenate_windows, hash_item_id, origins_at, read_windows

UNITS = names.CHANNEL_INDEX[names.UNITS]
INTERVENTION = names.CHANNEL_INDEX[names.PRICE_IS_INTERVENTION]


def build_series(lengths: tuple[int, ...] = (30, 12, 3, 60), name: str = "toy", frequency: str = "W") -> SeriesStore:
    """Items of the given lengths; every value says which row and channel it is."""
    rows, channels = sum(lengths), len(names.CHANNELS)
    values = np.arange(rows * channels, dtype=np.float32).reshape(rows, channels)
    values[:, INTERVENTION] = np.nan
    step = Frequency.parse(frequency)
    starts = [np.datetime64("2024-01-03", "s") + np.timedelta64(7 * item, "D") for item in range(len(lengths))]
    starts = [np.datetime64("2024-01-05", "s") for _ in lengths] if frequency == "MS" else starts
    stamps = [step.step(np.array(start), np.arange(length)) for start, length in zip(starts, lengths, strict=True)]
    count = len(lengths)
    return SeriesStore(
        values=values,
        timestamps=np.concatenate(stamps),
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        item_ids=tuple(f"{name}-{item}" for item in range(count)),
        static_categories=np.array([[f"{name}-{item}", *[None] * 8] for item in range(count)], dtype=object),
        static_reals=np.arange(4 * count, dtype=np.float32).reshape(count, 4),
        frequency=step,
        name=name,
        fingerprint=f"sha256:{name}",
    )


def assert_equal_windows(one: RawWindows, other: RawWindows) -> None:
    for field in fields(RawWindows):
        left, right = getattr(one, field.name), getattr(other, field.name)
        if isinstance(left, tuple):
            assert left == right
        elif left.dtype == object:
            assert left.tolist() == right.tolist()
        else:
            np.testing.assert_array_equal(left, right)


@settings(max_examples=60, deadline=None)
@given(
    item=st.integers(0, 3),
    origin=st.integers(0, 70),
    context=st.integers(1, 40),
    horizon=st.integers(1, 10),
    history=st.integers(1, 50),
    frequency=st.sampled_from(["W", "MS"]),
)
def test_a_window_agrees_with_reading_row_by_row(item, origin, context, horizon, history, frequency) -> None:
    store = build_series(frequency=frequency)
    windows = read_windows(store, np.array([item]), np.array([origin]), context, horizon, np.array([history]))
    series = store.values[store.offsets[item] : store.offsets[item + 1]]
    first = store.timestamps[store.offsets[item]]
    stamps = np.concatenate([windows.past_timestamps[0], windows.future_timestamps[0]])
    values = np.concatenate([windows.past[0], windows.future[0]])
    for place, row in enumerate(range(origin - context, origin + horizon)):
        visible = 0 <= row < len(series) and row >= origin - history
        expected = series[row] if visible else np.full(series.shape[1], np.nan)
        np.testing.assert_array_equal(values[place], expected)
        assert stamps[place] == store.frequency.step(np.array(first), row)


def test_windows_carry_the_attributes_of_their_item() -> None:
    store = build_series()
    windows = read_windows(store, np.array([3, 0, 3]), np.array([20, 5, 40]), 10, 4)
    assert len(windows) == 3
    assert windows.past.shape == (3, 10, len(names.CHANNELS))
    assert windows.future.shape == (3, 4, len(names.CHANNELS))
    assert windows.past.dtype == windows.future.dtype == np.float32
    assert windows.past_timestamps.dtype == windows.future_timestamps.dtype == "datetime64[s]"
    assert windows.item_ids == ("toy-3", "toy-0", "toy-3")
    assert windows.static_categories[:, 0].tolist() == ["toy-3", "toy-0", "toy-3"]
    np.testing.assert_array_equal(windows.static_reals[1], [0, 1, 2, 3])
    assert windows.item_keys.dtype == np.uint64
    assert windows.item_keys[0] == windows.item_keys[2] != windows.item_keys[1]


def test_item_keys_are_the_same_in_every_process_and_version() -> None:
    assert hash_item_id("milk-3") == 14103803519883333171


def test_windows_are_copies() -> None:
    store = build_series()
    before = store.values.copy()
    windows = read_windows(store, np.array([0]), np.array([10]), 5, 2)
    windows.past[:] = -1
    windows.future[:] = -1
    np.testing.assert_array_equal(store.values, before)


def test_items_outside_the_store_are_refused() -> None:
    store = build_series()
    for item, origin in ((4, 1), (-1, 1), (0, -1)):
        with pytest.raises(PanelError, match="item outside 0..3"):
            read_windows(store, np.array([item]), np.array([origin]), 5, 2)


def test_windows_can_be_concatenated_and_selected() -> None:
    store, other = build_series(), build_series(name="other")
    one = read_windows(store, np.array([0, 3]), np.array([5, 9]), 8, 2)
    two = read_windows(other, np.array([3]), np.array([9]), 8, 2)
    both = concatenate_windows([one, two])
    assert both.item_ids == ("toy-0", "toy-3", "other-3")
    assert_equal_windows(both.select(np.array([0, 1])), one)
    assert_equal_windows(both.select(np.array([2])), two)
    assert_equal_windows(concatenate_windows([one]), one)


def test_what_only_a_simulator_knows_lies_beside_the_future() -> None:
    plain = build_series()
    known = replace(plain, elasticity=np.arange(len(plain.values), dtype=np.float32))
    items, origins = np.array([0, 2, 1]), np.array([28, 7, 4])
    windows = read_windows(known, items, origins, 8, 4)
    nan = np.nan
    expected = np.array([[28, 29, nan, nan], [nan] * 4, [34, 35, 36, 37]], dtype=np.float32)
    np.testing.assert_array_equal(windows.future_elasticity, expected)  # beyond the item's end: its neighbour's is not
    both = concatenate_windows([windows, read_windows(plain, items, origins, 8, 4)])
    np.testing.assert_array_equal(both.select(np.array([2, 3])).future_elasticity, [expected[2], [nan] * 4])


def test_origins_at_a_moment_start_their_future_then() -> None:
    store = build_series()
    moment = pd.Timestamp("2024-05-01")
    items, origins = origins_at(store, moment)
    assert items.tolist() == [0, 1, 2, 3]
    windows = read_windows(store, items, origins, 6, 3)
    assert (windows.future_timestamps[:, 0] == np.datetime64("2024-05-01")).all()
    assert origins[2] > store.lengths[2]  # ended earlier: nothing of its future is known
    assert np.isnan(windows.future[2]).all()
    assert origins_at(store, "2024-01-17")[0].tolist() == [0, 1]  # the others have no past yet
    with pytest.raises(PanelError, match="is not the start of a period of 'toy'"):
        origins_at(store, "2024-05-02")


@pytest.mark.parametrize("frequency", ["W", "MS", "h"])
@pytest.mark.parametrize("moment", ["2024-02-05", "2024-03-02T12:30", "1990-01-01", "2090-01-01"])
def test_a_store_cut_by_time_shows_what_lies_before(frequency: str, moment: str, tmp_path) -> None:
    store = build_series(frequency=frequency)
    save_store(store, tmp_path)
    cut = load_store(tmp_path).before(moment)
    owner = np.repeat(np.arange(4), store.lengths)
    is_before = store.timestamps < np.datetime64(moment)
    assert cut.lengths.tolist() == np.bincount(owner[is_before], minlength=4).tolist()
    hidden = replace(store, values=np.where(is_before[:, None], store.values, np.nan))
    items, origins = np.array([0, 1, 3, 3]), np.array([6, 4, 3, 60])
    assert_equal_windows(read_windows(cut, items, origins, 9, 5), read_windows(hidden, items, origins, 9, 5))
    np.testing.assert_array_equal(find_origin_rows(cut, 4, 2), find_origin_rows(hidden, 4, 2))
    if is_before.any():
        assert cut.last_observed == store.timestamps[is_before].max()
        assert (cut.before("2024-01-20").lengths <= cut.lengths).all()
    else:
        with pytest.raises(PanelError, match="no observed units"):
            _ = cut.last_observed
    with pytest.raises(PanelError, match="is cut; save the whole store"):
        save_store(cut, tmp_path)


def test_items_of_categories_that_are_held_out_are_not_drawn() -> None:
    store = build_series((30, 20, 40))
    store.static_categories[:, 1] = ["tea", None, "coffee"]
    draw = sampler(store.without_categories(["coffee", "cocoa"]).before("2024-07-20"))
    assert set(draw.windows(0).item_ids) == {"toy-0", "toy-1"}
    assert draw.windows_per_store == ((29 - 8) + (20 - 8),)
    assert set(sampler(store).windows(0).item_ids) == {"toy-0", "toy-1", "toy-2"}


def sampler(*stores: SeriesStore, **changes) -> WindowSampler:
    weights = changes.pop("weights", [1.0] * len(stores))
    settings = {
        "batch_size": 64,
        "context_length": 20,
        "prediction_length": 4,
        "seed": 3,
        "minimum_history": 8,
    } | changes
    return WindowSampler(stores, weights, **settings)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    stores = build_series(), build_series(name="other")
    one, again = sampler(*stores), sampler(*stores)
    again.windows(0)  # having drawn other steps before changes nothing
    assert_equal_windows(one.windows(7), again.windows(7))
    assert one.windows(7).item_ids != one.windows(8).item_ids
    assert one.windows(7).item_ids != sampler(*stores, seed=4).windows(7).item_ids


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_the_batch_of_one_process(world_size: int) -> None:
    draw = sampler(build_series(), build_series(name="other"), batch_size=13)
    whole = draw.windows(5)
    for rank in range(world_size):
        assert_equal_windows(draw.windows(5, rank, world_size), whole.select(np.arange(13)[rank::world_size]))


def test_a_memory_mapped_store_gives_the_same_batches(tmp_path) -> None:
    store = build_series()
    save_store(store, tmp_path)
    assert_equal_windows(sampler(store).windows(1), sampler(load_store(tmp_path)).windows(1))


def test_every_window_has_history_and_something_to_predict() -> None:
    store = build_series()
    units = store.values[:, UNITS]
    units[np.random.default_rng(0).random(len(units)) < 0.6] = np.nan
    draw = sampler(store, short_history_probability=0.5)
    assert draw.windows_per_store == (len(find_origin_rows(store, 4, 8)),)
    for step in range(20):
        windows = draw.windows(step)
        assert (~np.isnan(windows.future[:, :, UNITS])).any(axis=1).all()
        in_life = ~np.isnan(windows.past[:, :, names.CHANNEL_INDEX[names.PRICE]])
        assert (in_life.sum(axis=1) >= 8).all()
        assert in_life[:, -8:].all()
        assert set(windows.item_ids) <= {"toy-0", "toy-1", "toy-3"}  # toy-2 has three periods


@pytest.mark.parametrize("ahead", [1, 4, 11])
def test_origins_are_those_that_counting_finds(ahead: int) -> None:
    lengths = (30, 9, 3, 60, 8)
    store = build_series(lengths)
    units = store.values[:, UNITS]
    units[np.random.default_rng(1).random(len(units)) < 0.85] = np.nan
    expected = [
        row
        for first, end in zip(store.offsets[:-1], store.offsets[1:])
        for row in range(first + 8, end)
        if not np.isnan(units[row : min(row + ahead, end)]).all()
    ]
    assert find_origin_rows(store, ahead, 8).tolist() == expected
    assert sampler(store, prediction_length=ahead).windows_per_store == (len(expected),)


def test_all_usable_windows_are_drawn_about_equally_often() -> None:
    store = build_series((30, 60))
    draw = sampler(store, batch_size=4_000, short_history_probability=0.0)
    windows = draw.windows(0)
    keys = list(zip(windows.item_ids, windows.future_timestamps[:, 0].tolist(), strict=True))
    counts = pd.Series(keys).value_counts()
    assert len(counts) == (30 - 8) + (60 - 8) == draw.windows_per_store[0]
    assert counts.max() < 2.5 * counts.min()


def test_short_histories_are_as_frequent_as_asked_and_log_uniform() -> None:
    store = build_series((200,))
    store = replace(store, values=store.values[:200], offsets=np.array([0, 200]))
    draw = sampler(store, batch_size=4_000, context_length=64, short_history_probability=0.5)
    visible = (~np.isnan(draw.windows(0).past[:, :, UNITS])).sum(axis=1)
    long_enough = visible[visible <= 64]
    short = long_enough[long_enough < 64]
    assert visible.min() == 8
    assert 0.3 < len(short) / len(visible) < 0.75
    # Log-uniform: as many between 8 and 22 as between 23 and 63 (origins near the start add a few).
    assert 0.4 < (short <= 22).mean() < 0.7
    assert (
        sampler(build_series((200,)), context_length=64, short_history_probability=0.0).windows(0).past[:, 0] >= 0
    ).any()


def test_weights_say_how_often_a_store_is_drawn() -> None:
    stores = build_series(), build_series(name="other"), build_series(name="never")
    windows = sampler(*stores, batch_size=4_000, weights=[3.0, 1.0, 0.0]).windows(0)
    share = pd.Series([item_id.split("-")[0] for item_id in windows.item_ids]).value_counts(normalize=True)
    assert set(share.index) == {"toy", "other"}
    assert 0.72 < share["toy"] < 0.78


def test_origins_at_the_switch_to_interventions_are_drawn_more_often() -> None:
    store = build_series((40, 40, 40))
    store.values[:, INTERVENTION] = 0.0
    store.values[25:40, INTERVENTION] = 1.0  # item 0 switches in its period 25
    store.values[24, INTERVENTION] = np.nan  # a filled period does not hide the switch
    store.values[80:120, INTERVENTION] = 1.0  # item 2 is an intervention throughout
    assert find_switch_rows(store).tolist() == [25]
    windows = sampler(store, batch_size=2_000, intervention_probability=0.5).windows(0)
    flag = windows.future[:, 0, INTERVENTION]
    at_switch = (flag == 1) & (np.array(windows.item_ids) == "toy-0") & np.isnan(windows.past[:, -1, INTERVENTION])
    assert 0.46 < at_switch.mean() < 0.56
    never = sampler(store, batch_size=2_000, intervention_probability=0.0).windows(0)
    assert (np.array(never.item_ids) == "toy-0").mean() < 0.4


def test_logs_without_the_flag_have_no_switch() -> None:
    assert find_switch_rows(build_series()).size == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1.0, 1.0]}, "1 stores need as many weights"),
        ({"weights": [0.0]}, "not all 0"),
        ({"weights": [-1.0]}, "0 or more"),
        ({"minimum_history": 21}, r"must lie in 1\.\.20"),
        ({"minimum_history": 0}, r"must lie in 1\.\.20"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"short_history_probability": 1.5}, "short_history_probability is 1.5"),
        ({"intervention_probability": -0.1}, "intervention_probability is -0.1"),
    ],
)
def test_contradicting_arguments_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(PanelError, match=message):
        sampler(build_series(), **changes)


def test_a_store_without_usable_windows_is_refused() -> None:
    with pytest.raises(PanelError, match="panel 'short' has no window with 8 periods of history"):
        sampler(build_series((8, 5), name="short"))
