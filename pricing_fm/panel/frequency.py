"""The step between two periods of a panel: its name, its arithmetic, how it is read off a table."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pandas as pd

from pricing_fm.errors import PanelError

DAY = 86_400  # seconds

# Names that pandas 2.3 and pandas 3 both understand.
SECONDS = {"min": 60, "h": 3_600, "D": DAY, "W": 7 * DAY}
MONTHS = {"MS": 1, "QS": 3, "YS": 12}
SEASONS = {"min": 1_440, "h": 24, "D": 7, "W": 52, "MS": 12, "QS": 4, "YS": 1}


@dataclass(frozen=True)
class Frequency:
    """One step of time, fixed in seconds or in calendar months.

    The panel's own anchor is kept: adding a week to a Wednesday gives a Wednesday. Months, quarters and years keep the
    day of the month, which must be 28 or lower.

    Args:
        unit (`str`): One of `min`, `h`, `D`, `W`, `MS`, `QS`, `YS`.
        multiple (`int`): Units per step, at least 1.

    Raises:
        PanelError: If the unit is unknown or the multiple is below 1.
    """

    unit: str
    multiple: int = 1

    def __post_init__(self) -> None:
        if self.unit not in SEASONS or self.multiple < 1:
            raise PanelError(
                f"frequency {self.name!r} is not known; use one of {', '.join(SEASONS)}, "
                f"with a whole number in front if a step is several of them (2W, 15min)"
            )

    @classmethod
    def parse(cls, name: str) -> "Frequency":
        """Reads a frequency name such as `W` or `15min`.

        Args:
            name (`str`): Unit with an optional whole number in front.

        Returns:
            `Frequency`: Equal steps have equal names (`3MS` is `QS`, `7D` is `W`).

        Raises:
            PanelError: If the name is unknown.
        """
        match = re.fullmatch(r"(\d*)([A-Za-z]+)", str(name))
        if match is None:
            raise PanelError(f"frequency {name!r} is not known; use one of {', '.join(SEASONS)}, or for example 2W")
        found = cls(match.group(2), int(match.group(1) or 1))
        return cls.of_months(found.months) if found.months else cls.of_seconds(found.seconds)

    @classmethod
    def of_seconds(cls, seconds: int) -> "Frequency":
        """The frequency with a fixed step, in the largest unit that divides it.

        Args:
            seconds (`int`): Length of the step in seconds, a whole number of minutes.

        Returns:
            `Frequency`: For example `W` for 604,800 seconds.

        Raises:
            PanelError: If the step is not a whole number of minutes.
        """
        for unit in ("W", "D", "h", "min"):
            if seconds > 0 and seconds % SECONDS[unit] == 0:
                return cls(unit, seconds // SECONDS[unit])
        raise PanelError(f"the most common step is {seconds} seconds; steps must be whole minutes or longer")

    @classmethod
    def of_months(cls, months: int) -> "Frequency":
        """The frequency with a step of calendar months, in the largest unit that divides it.

        Args:
            months (`int`): Calendar months per step, at least 1.

        Returns:
            `Frequency`: For example `QS` for 3.
        """
        unit = "YS" if months % 12 == 0 else "QS" if months % 3 == 0 else "MS"
        return cls(unit, months // MONTHS[unit])

    @property
    def name(self) -> str:
        """Name that pandas 2.3 and 3 understand, for example `W` or `2W`."""
        return self.unit if self.multiple == 1 else f"{self.multiple}{self.unit}"

    @property
    def seconds(self) -> int:
        """Seconds per step; 0 for calendar frequencies."""
        return SECONDS.get(self.unit, 0) * self.multiple

    @property
    def months(self) -> int:
        """Calendar months per step; 0 for fixed frequencies."""
        return MONTHS.get(self.unit, 0) * self.multiple

    @property
    def season_length(self) -> int:
        """Steps per season: a day for hours, a week for days, a year for weeks and longer; at least 1."""
        return max(1, SEASONS[self.unit] // self.multiple)

    @overload
    def step(self, timestamps: pd.Timestamp, n: int) -> pd.Timestamp: ...
    @overload
    def step(self, timestamps: np.ndarray, n: Any) -> np.ndarray: ...
    def step(self, timestamps: pd.Timestamp | np.ndarray, n: Any) -> pd.Timestamp | np.ndarray:
        """Moves timestamps by whole periods.

        Args:
            timestamps (`pd.Timestamp` or `np.ndarray`, datetime64): Starts of periods.
            n (`int` or `np.ndarray`, int64): Periods to move by, negative for the past; broadcast against `timestamps`.

        Returns:
            `pd.Timestamp` for a timestamp, else `np.ndarray`, datetime64[s], broadcast shape.
        """
        if isinstance(timestamps, pd.Timestamp):
            return pd.Timestamp(self.step(np.array([timestamps.to_datetime64()]), n)[0]).as_unit("ns")
        stamps = np.asarray(timestamps).astype("datetime64[s]")
        steps = np.asarray(n, dtype=np.int64)
        if self.seconds:
            return stamps + (steps * self.seconds).astype("timedelta64[s]")
        months = stamps.astype("datetime64[M]")
        within = stamps - months.astype("datetime64[s]")
        return (months + (steps * self.months).astype("timedelta64[M]")).astype("datetime64[s]") + within

    def locate(self, timestamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Splits timestamps into a period number and a phase; on one grid all phases are equal.

        Args:
            timestamps (`np.ndarray`, datetime64): Starts of periods.

        Returns:
            `tuple[np.ndarray, np.ndarray]`, int64 each: Number of the period since 1970, and seconds (for calendar
            frequencies: an equally unique number) by which its start is off that count.
        """
        stamps = np.asarray(timestamps).astype("datetime64[s]")
        if self.seconds:
            number, phase = np.divmod(stamps.astype(np.int64), self.seconds)
            return number, phase
        months = stamps.astype("datetime64[M]")
        number, month_phase = np.divmod(months.astype(np.int64), self.months)
        within = (stamps - months.astype("datetime64[s]")).astype(np.int64)
        return number, month_phase * 32 * DAY + within


class StepCounts:
    """How often which step occurs between consecutive rows of an item, gathered part by part of a table."""

    def __init__(self) -> None:
        self._seconds: Counter[int] = Counter()
        self._months: Counter[int] = Counter()
        self._within_month: Counter[int] = Counter()

    def add(self, items: np.ndarray, timestamps: np.ndarray) -> None:
        """Counts the rows of some items; an item's rows all lie in one part.

        Args:
            items (`np.ndarray`, int64, shape `(rows,)`): Item numbers, sorted.
            timestamps (`np.ndarray`, datetime64, shape `(rows,)`): Starts of periods, sorted within an item, no
                duplicates.
        """
        stamps = timestamps.astype("datetime64[s]")
        same_item = items[1:] == items[:-1]
        _count(self._seconds, np.diff(stamps).astype(np.int64)[same_item])
        months = stamps.astype("datetime64[M]")
        _count(self._months, np.diff(months.astype(np.int64))[same_item])
        _count(self._within_month, (stamps - months.astype("datetime64[s]")).astype(np.int64))

    def infer(self) -> Frequency:
        """The most common step over the whole table.

        Returns:
            `Frequency`: Ties go to the shorter step.

        Raises:
            PanelError: If no item has two rows, or the step fits no frequency.
        """
        if not self._seconds:
            raise PanelError("no item has two periods, so there is no step to read; add history or declare `frequency`")
        step = _most_common(self._seconds)
        days = step // DAY
        if days < 28:
            return Frequency.of_seconds(step)
        common_day = _most_common(self._within_month)
        share_of_common_day = self._within_month[common_day] / self._within_month.total()
        if share_of_common_day > 0.5 and common_day < 28 * DAY:
            return Frequency.of_months(_most_common(self._months))
        if days in (29, 30, 31, 89, 90, 91, 92, 365, 366):
            raise PanelError(
                f"the most common step is {days} days, and the timestamps share no day of the month: monthly, "
                f"quarterly and yearly periods are named by their start (the same day, 28 or lower). Use the first "
                f"day, or declare `frequency: {days}D` if the step really is fixed"
            )
        return Frequency.of_seconds(step)


def infer_frequency(items: np.ndarray, timestamps: np.ndarray) -> Frequency:
    """The most common step between consecutive rows of an item, over the whole table.

    Args:
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers, sorted.
        timestamps (`np.ndarray`, datetime64, shape `(rows,)`): Starts of periods, sorted within an item, no duplicates.

    Returns:
        `Frequency`: Ties go to the shorter step.

    Raises:
        PanelError: If no item has two rows, or the step fits no frequency.
    """
    counts = StepCounts()
    counts.add(items, timestamps)
    return counts.infer()


class LongSteps:
    """Stretches with another step than the panel's, gathered part by part of a table.

    Single gaps of whole multiples are absent rows and fine. A run of equal longer gaps is another frequency when it
    fills an item (3 gaps or more), opens or closes it (4 or more) or is long anywhere (8 or more). In a sparse log such
    runs also happen by chance: no run counts of which 0.01 or more are expected, given how often its gap occurs
    elsewhere.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        self._counts = np.zeros(10_001, dtype=np.int64)
        self._num_items = self._num_gaps = self._num_rows = 0

    def add(self, items: np.ndarray, numbers: np.ndarray) -> None:
        """Looks through the rows of some items; an item's rows all lie in one part.

        Args:
            items (`np.ndarray`, int64, shape `(rows,)`): Item numbers, sorted.
            numbers (`np.ndarray`, int64, shape `(rows,)`): Period numbers, increasing within an item.
        """
        first_row, self._num_rows = self._num_rows, self._num_rows + len(items)
        self._num_items += int(np.count_nonzero(np.diff(items))) + 1
        inside = np.flatnonzero(items[1:] == items[:-1])  # gap i lies between rows i and i + 1
        if inside.size == 0:
            return
        self._num_gaps += inside.size
        gaps, owner = np.diff(numbers)[inside], items[inside]
        starts = np.flatnonzero(np.r_[True, (gaps[1:] != gaps[:-1]) | (owner[1:] != owner[:-1])])
        lengths = np.diff(np.r_[starts, len(gaps)])
        opens = np.r_[True, owner[starts[1:]] != owner[starts[1:] - 1]]
        closes = np.r_[opens[1:], True]
        long_enough = (opens & closes & (lengths >= 3)) | ((opens | closes) & (lengths >= 4)) | (lengths >= 8)
        suspect = (gaps[starts] > 1) & long_enough
        elsewhere = gaps[~np.repeat(suspect, lengths)]
        self._counts += np.bincount(np.minimum(elsewhere, 10_000), minlength=10_001)
        run = np.stack([first_row + inside[starts] + 1, gaps[starts], lengths, opens | closes])
        self._runs.append(run[:, suspect])

    def find(self) -> np.ndarray:
        """Rows that open a stretch with another step.

        Returns:
            `np.ndarray`, int64: Places in the order in which rows were added, increasing: the second row of each run.
        """
        if not self._runs:
            return np.empty(0, dtype=np.int64)
        rows, gaps, lengths, at_edge = np.concatenate(self._runs, axis=1)
        share = (self._counts[np.minimum(gaps, 10_000)] + 0.5) / (self._counts.sum() + 1)
        places = np.where(at_edge, 2 * self._num_items, self._num_gaps)
        return rows[places * share**lengths < 0.01]


def find_foreign_steps(items: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Rows that open a stretch with another step, as `LongSteps` defines it.

    Args:
        items (`np.ndarray`, int64, shape `(rows,)`): Item numbers, sorted.
        numbers (`np.ndarray`, int64, shape `(rows,)`): Period numbers, increasing within an item.

    Returns:
        `np.ndarray`, bool, shape `(rows,)`: True on the second row of each such run.
    """
    steps = LongSteps()
    steps.add(items, numbers)
    found = np.zeros(len(items), dtype=bool)
    found[steps.find()] = True
    return found


def _count(counts: Counter[int], values: np.ndarray) -> None:
    unique, times = np.unique(values, return_counts=True)
    counts.update(dict(zip(unique.tolist(), times.tolist())))


def _most_common(counts: Counter[int]) -> int:
    most = max(counts.values())
    return min(value for value, times in counts.items() if times == most)
