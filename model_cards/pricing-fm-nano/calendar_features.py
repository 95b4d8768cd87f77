"""The calendar as numbers: sines and cosines of the year, the week, the day and the month."""

import numpy as np

NUM_TIME_FEATURES = 18
YEAR_HARMONICS, WEEK_HARMONICS, DAY_HARMONICS = 4, 2, 2

# What each cadence can see of the calendar beside the year: hours, weekdays, days of the month.
CALENDAR = {"min": (1, 1, 0), "h": (1, 1, 0), "D": (0, 1, 1)}


def calendar_features(timestamps: np.ndarray, frequency: str) -> np.ndarray:
    """Sines and cosines of the calendar; those a cadence cannot see are zero.

    Args:
        timestamps (`np.ndarray`, datetime64, shape `(...)`): Starts of periods.
        frequency (`str`): `h`, `D`, `W`, `MS`, possibly with a multiple or an anchor (`W-WED`).

    Returns:
        `(..., 18)`: Year (4 harmonics), week (2), day (2), month (1), each as sine and cosine.
    """
    # A batch holds each moment many times.
    moments, place = np.unique(timestamps.astype("datetime64[s]"), return_inverse=True)
    return _features(moments, frequency)[place.reshape(timestamps.shape)]


def _features(moments: np.ndarray, frequency: str) -> np.ndarray:
    has_hours, has_weekdays, has_month_days = CALENDAR.get(frequency.lstrip("0123456789").split("-")[0], (0, 0, 0))
    day = moments.astype("datetime64[D]")
    day_of_year = (day - day.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)
    seconds = (moments - day.astype("datetime64[s]")).astype(np.float64)
    weekday = (day.astype(np.int64) + 3) % 7 + seconds / 86400
    month_day = (day - day.astype("datetime64[M]").astype("datetime64[D]")).astype(np.float64)
    phases = [(1, harmonic * day_of_year / 365.25) for harmonic in range(1, YEAR_HARMONICS + 1)]
    phases += [(has_weekdays, harmonic * weekday / 7) for harmonic in range(1, WEEK_HARMONICS + 1)]
    phases += [(has_hours, harmonic * seconds / 86400) for harmonic in range(1, DAY_HARMONICS + 1)]
    phases += [(has_month_days, month_day / 31)]
    features = np.zeros((len(moments), NUM_TIME_FEATURES))
    for place, (is_shown, phase) in enumerate(phases):
        if is_shown:
            features[:, 2 * place] = np.sin(2 * np.pi * phase)
            features[:, 2 * place + 1] = np.cos(2 * np.pi * phase)
    return features.astype(np.float32)
