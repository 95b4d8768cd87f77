"""Steps of time: names, arithmetic, inference."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency, find_foreign_steps, infer_frequency

NAMES = ("min", "15min", "h", "6h", "D", "3D", "W", "2W", "MS", "2MS", "QS", "YS")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_parsing_and_pandas_understands_it(name: str) -> None:
    assert Frequency.parse(name).name == name
    assert len(pd.date_range("2024-01-01", periods=3, freq=name)) == 3


@pytest.mark.parametrize(
    ("written", "name"), [("7D", "W"), ("24h", "D"), ("60min", "h"), ("3MS", "QS"), ("12MS", "YS")]
)
def test_equal_steps_have_one_name(written: str, name: str) -> None:
    assert Frequency.parse(written) == Frequency.parse(name)


@pytest.mark.parametrize("name", ["M", "H", "W-MON", "weekly", "", "0D", "-1D", "1.5h"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(PanelError, match="min, h, D, W, MS, QS, YS"):
        Frequency.parse(name)


def test_seasons_are_a_day_a_week_a_year() -> None:
    lengths = {name: Frequency.parse(name).season_length for name in ("15min", "h", "D", "W", "2W", "MS", "QS", "YS")}
    assert lengths == {"15min": 96, "h": 24, "D": 7, "W": 52, "2W": 26, "MS": 12, "QS": 4, "YS": 1}


@given(
    name=st.sampled_from(NAMES),
    start=st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2030-01-01")),
    steps=st.integers(-200, 200),
)
def test_stepping_there_and_back_is_the_identity_and_numbers_count_steps(name: str, start, steps: int) -> None:
    frequency = Frequency.parse(name)
    origin = pd.Timestamp(start).floor("s").replace(day=min(start.day, 28))
    moved = frequency.step(origin, steps)
    assert frequency.step(moved, -steps) == origin
    numbers, phases = frequency.locate(np.array([origin.to_datetime64(), moved.to_datetime64()]))
    assert numbers[1] - numbers[0] == steps
    assert phases[0] == phases[1]


def test_the_anchor_is_kept() -> None:
    assert Frequency.parse("W").step(pd.Timestamp("2024-01-03"), 3) == pd.Timestamp("2024-01-24")  # Wednesdays
    assert Frequency.parse("MS").step(pd.Timestamp("2023-11-15T06:00"), 3) == pd.Timestamp("2024-02-15T06:00")
    stamps = np.array(["2024-01-31", "2024-02-29"], dtype="datetime64[s]")
    assert Frequency.parse("D").step(stamps, np.array([1, 1])).astype("datetime64[D]").astype(str).tolist() == [
        "2024-02-01",
        "2024-03-01",
    ]


def infer(*stamps: pd.DatetimeIndex) -> str:
    items = np.repeat(np.arange(len(stamps)), [len(index) for index in stamps])
    return infer_frequency(items, np.concatenate([index.to_numpy() for index in stamps])).name


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_read_off_regular_timestamps(name: str) -> None:
    # At two-month and two-week steps a shorter name must not win.
    assert infer(pd.date_range("2024-01-01", periods=10, freq=name if name != "W" else "7D")) == name


def test_the_most_common_step_wins_over_gaps() -> None:
    weeks = pd.date_range("2024-01-03", periods=12, freq="7D")
    assert infer(weeks.delete([2, 3, 7]), weeks[:2]) == "W"


def test_four_weeks_are_no_month() -> None:
    assert infer(pd.date_range("2024-01-01", periods=10, freq="28D")) == "4W"


def test_months_named_by_their_last_day_are_refused() -> None:
    with pytest.raises(PanelError, match="Use the first day"):
        infer(pd.date_range("2024-01-01", periods=10, freq="MS") - pd.Timedelta(days=1))


def test_steps_of_seconds_are_refused() -> None:
    with pytest.raises(PanelError, match="whole minutes"):
        infer(pd.date_range("2024-01-01", periods=10, freq="10s"))


def test_no_gap_at_all_asks_for_a_frequency() -> None:
    with pytest.raises(PanelError, match="declare `frequency`"):
        infer(pd.DatetimeIndex(["2024-01-01"]), pd.DatetimeIndex(["2024-01-01"]))


def test_a_sparse_log_is_not_taken_for_several_frequencies() -> None:
    # Every item sells in a period with its own probability, so equal longer gaps in a row do happen.
    generator = np.random.default_rng(0)
    items, numbers = [], []
    for item, rate in enumerate(generator.uniform(0.3, 0.9, size=2_000)):
        sold = np.flatnonzero(generator.random(60) < rate)
        items.append(np.full(len(sold), item))
        numbers.append(sold)
    assert not find_foreign_steps(np.concatenate(items), np.concatenate(numbers)).any()


def test_one_coarser_item_among_many_is_found() -> None:
    items = np.repeat(np.arange(50), 20)
    numbers = np.tile(np.arange(20), 50)
    numbers[items == 7] *= 7
    assert np.flatnonzero(find_foreign_steps(items, numbers)).tolist() == [7 * 20 + 1]
