"""What an item's own past says of its coming periods at the reference price: inputs of the network, not its answer.

A regression on price, promotions, covariates and calendar carries over to mixes of promotions that an item never had,
and the mean of similar periods to what no regression knows. Given both, and how far sales were from them lately and a
season ago, the network learns whom to believe, and spends no layer on adding up weeks.
"""

from dataclasses import dataclass

import numpy as np

from .channels import CLIP, KNOWN, PROMOTIONS, UNITS, own_prices, scale_covariate, sold_out
from .recent_level import RESIDUAL_PROBABILITIES, recent_level
from .window_statistics import WindowStatistics

# Per future step: the regression, the same on the recent level, what was missing a season ago, similar periods, how
# many of those there are, and quantiles of the residuals. Per item: slope over 3, log standard error, log residual
# deviation, and recent levels: of the next period, and with a short and a long memory.
NUM_LOCAL_CHANNELS, NUM_LOCAL_EVIDENCE = 5 + len(RESIDUAL_PROBABILITIES), 6
NEWTON_STEPS = 5
HALF_LIFE = 52  # periods until a period counts half in the regression
SIMILAR_HALF_LIFE = 26
FLAG_PENALTY = 2.5  # a period under another promotion counts exp(-2.5)
LARGEST_LOG = 3.0
# Of coefficients: where they start, and how many periods at mean sales that is worth.
PRICE_PRIOR, PRICE_PENALTY = -2.0, 0.1
PROMOTION_PRIOR, PROMOTION_PENALTY = 0.3, 1.0
COVARIATE_PENALTY, YEAR_PENALTY, WEEK_PENALTY, LEVEL_PENALTY = 0.5, 20.0, 0.5, 0.02
# Columns of the calendar: sine and cosine of the year; all of week and day.
YEAR_COLUMNS, WEEK_COLUMNS = slice(0, 2), slice(8, 16)
PERIODS_OF_SEASON = {"W": 52, "MS": 12, "D": 7, "h": 24}
MINUTES_OF_DAY = 1440


@dataclass(frozen=True)
class LocalSeries:
    """B items, T past and H future periods.

    Args:
        units (`(B, T)`): Units over their mean, finite where usable.
        usable (`(B, T)`, bool): Periods whose units are demand.
        log_prices (`(B, T)`): Log ratio to the reference price, NaN where unknown.
        promotions (`(B, T + H, P)`): Flags, NaN where unknown.
        covariates (`(B, T + H, K)`): Known covariates, scaled, NaN where unknown.
        calendar (`(B, T + H, 18)`): From `calendar_features`.
        season (`(B,)`, int): Periods of a season.
    """

    units: np.ndarray
    usable: np.ndarray
    log_prices: np.ndarray
    promotions: np.ndarray
    covariates: np.ndarray
    calendar: np.ndarray
    season: np.ndarray


def read_local_series(
    past: np.ndarray, future: np.ndarray, statistics: WindowStatistics, calendar: np.ndarray, season: np.ndarray
) -> LocalSeries:
    """The series of raw windows.

    Args:
        past (`(B, T, channels)`): Raw channels.
        future (`(B, H, channels)`): Raw channels; prices and units are not read.
        statistics (`WindowStatistics`): Of the past.
        calendar (`(B, T + H, 18)`): From `calendar_features`.
        season (`(B,)`, int): From `season_lengths`.

    Returns:
        `LocalSeries`.
    """
    usable = statistics.observed & ~sold_out(past)
    both = np.concatenate([past, future], axis=1)
    return LocalSeries(
        units=past[..., UNITS].astype(np.float64) / statistics.scale[:, None],
        usable=np.where(usable.any(1, keepdims=True), usable, statistics.observed),
        log_prices=np.log(own_prices(past) / statistics.reference[:, None]),
        promotions=np.clip(both[..., PROMOTIONS], 0.0, 1.0),
        covariates=np.clip(scale_covariate(both[..., KNOWN], past[..., KNOWN]), -CLIP, CLIP),
        calendar=calendar,
        season=season,
    )


def season_lengths(frequency: np.ndarray) -> np.ndarray:
    """Periods of the season of each cadence: a year of weeks or months, a week of days, a day of hours or minutes.

    Args:
        frequency (`(B,)`, object): `W`, `D`, `15min`, possibly with an anchor; None = weeks.

    Returns:
        `(B,)`, int64.
    """
    return np.array([_season_length(name or "W") for name in frequency], dtype=np.int64)


def local_forecast(series: LocalSeries) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts at the reference price from each item's own past, and how well they fitted it.

    Poisson pseudo-likelihood with ridge penalties; old periods count less. What is unknown of the plan is taken to be
    as it was on average. Scaling units or prices changes nothing.

    Args:
        series (`LocalSeries`): Past and plan.

    Returns:
        Channels `(B, H, 12)`: asinh of the regression's mean; the same times the recent level; log ratio of sales to
        the regression a season ago (NaN outside the past); asinh of the mean of similar periods, their prices accounted
        for; log of one plus the number of those; asinh of seven quantiles of sales over such forecasts. Evidence
        `(B, 6)`: slope over 3, log standard error, log deviation of relative residuals, log recent level of the next
        period, with a short and with a long memory. NaN where no period is usable.

    References:
        Gourieroux, Monfort and Trognon 1984 (pseudo-likelihood); Nadaraya 1964 (similar periods).
    """
    length = series.units.shape[1]
    usable = series.usable
    age = np.arange(length)[::-1]
    weight = usable * 0.5 ** (age / HALF_LIFE)
    sales, prices = np.where(usable, series.units, 0.0), np.nan_to_num(series.log_prices)
    promotions, covariates = (_fill_in(values, weight) for values in (series.promotions, series.covariates))
    drivers = _drivers(promotions, covariates, series.calendar)
    design = np.concatenate([prices[..., None], drivers[:, :length]], axis=-1)
    start, penalty = _priors(series)
    coefficients, mean, error = _fit(sales, design, weight, start, penalty)
    planned = np.clip((drivers[:, length:] @ coefficients[:, 1:, None])[..., 0], -LARGEST_LOG, LARGEST_LOG)
    recent = recent_level(sales, mean, usable, weight, planned.shape[1])
    on_level = np.clip(planned + recent.level, -LARGEST_LOG, LARGEST_LOG)
    at_reference = sales * np.exp(-np.clip(coefficients[:, :1] * prices, -LARGEST_LOG, LARGEST_LOG))
    similar, count = _similar_periods(at_reference, usable * 0.5 ** (age / SIMILAR_HALF_LIFE), promotions)
    channels = np.stack(
        [
            np.arcsinh(np.exp(planned)),
            np.arcsinh(np.exp(on_level)),
            _season_ago(sales, mean, usable, series.season, planned.shape[1]),
            np.arcsinh(similar),
            np.log1p(count),
        ],
        axis=-1,
    )
    channels = np.concatenate([channels, np.arcsinh(recent.residual_quantiles)], axis=-1)
    residual = np.clip((sales - mean) / np.maximum(mean, 1e-2), -4.0, 4.0) * usable
    deviation = np.sqrt((residual**2).sum(1) / np.maximum(usable.sum(1), 1))
    levels = (recent.level[:, 0], recent.fast, recent.slow)
    evidence = np.stack(
        [coefficients[:, 0] / 3, np.log(error + 0.05), np.log(deviation + 0.05), *levels],
        axis=1,
    )
    channels[~usable.any(1)] = np.nan
    evidence[~usable.any(1)] = np.nan
    return channels, evidence


def _season_length(frequency: str) -> int:
    unit = frequency.split("-")[0]
    if unit.endswith("min"):
        return MINUTES_OF_DAY // int(unit[:-3] or 1)
    count = unit.rstrip("WMSDh")
    return max(PERIODS_OF_SEASON.get(unit[len(count) :], 52) // int(count or 1), 1)


def _fill_in(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What is not known of `(B, T + H, columns)` is as it was on average in the past; 0 where it never was known."""
    past = values[:, : weight.shape[1]]
    known = np.isfinite(past) * weight[..., None]
    usual = (np.nan_to_num(past) * known).sum(1) / np.maximum(known.sum(1), 1e-9)
    return np.where(np.isfinite(values), values, usual[:, None])


def _drivers(promotions: np.ndarray, covariates: np.ndarray, calendar: np.ndarray) -> np.ndarray:
    """Level, promotions, covariates and calendar of past and future periods, `(B, T + H, columns)`; not the price."""
    ones = np.ones((*promotions.shape[:2], 1))
    columns = [ones, promotions, covariates, calendar[..., YEAR_COLUMNS], calendar[..., WEEK_COLUMNS]]
    return np.concatenate(columns, axis=-1, dtype=np.float64)


def _priors(series: LocalSeries) -> tuple[np.ndarray, np.ndarray]:
    """Where the coefficients of price, level, promotions, covariates, year and week start, and their penalties."""
    groups = [
        (1, PRICE_PRIOR, PRICE_PENALTY),
        (1, 0.0, LEVEL_PENALTY),
        (series.promotions.shape[-1], PROMOTION_PRIOR, PROMOTION_PENALTY),
        (series.covariates.shape[-1], 0.0, COVARIATE_PENALTY),
        (2, 0.0, YEAR_PENALTY),
        (WEEK_COLUMNS.stop - WEEK_COLUMNS.start, 0.0, WEEK_PENALTY),
    ]
    start, penalty = (np.concatenate([np.full(row[0], row[place]) for row in groups]) for place in (1, 2))
    return start, penalty


def _fit(
    sales: np.ndarray, design: np.ndarray, weight: np.ndarray, start: np.ndarray, penalty: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients `(B, columns)`, fitted means `(B, T)`, and the standard error of the first coefficient `(B,)`."""
    across = np.ascontiguousarray(np.swapaxes(design, 1, 2))
    found = np.tile(start, (len(sales), 1))
    # Sales are over their mean: the level that goes with the starting coefficients.
    expected = np.exp(np.clip(design @ start, -LARGEST_LOG, LARGEST_LOG)) * weight
    found[:, 1] = np.log(((sales * weight).sum(1) + 0.1) / (expected.sum(1) + 0.1))
    for _ in range(NEWTON_STEPS):
        mean = _mean(design, found) * weight
        gradient = (across @ (sales * weight - mean)[..., None])[..., 0] - penalty * (found - start)
        information = (across * mean[:, None]) @ design + np.diag(penalty)
        step = np.linalg.solve(information, gradient[..., None])[..., 0]
        # From a flat start, Newton's method overshoots where sales peak at promotions.
        found = found + np.clip(step, -1.5, 1.5)
    mean = _mean(design, found)
    inverse = np.linalg.inv((across * (mean * weight)[:, None]) @ design + np.diag(penalty))
    scores = (design @ inverse[:, 0, :, None])[..., 0] * (sales - mean) * weight
    return found, mean, np.sqrt((scores**2).sum(1) + penalty[0] * inverse[:, 0, 0] ** 2)


def _mean(design: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    return np.exp(np.clip((design @ coefficients[..., None])[..., 0], -LARGEST_LOG, LARGEST_LOG))


def _season_ago(sales: np.ndarray, mean: np.ndarray, usable: np.ndarray, season: np.ndarray, steps: int) -> np.ndarray:
    """Log ratio of sales to the fit around the same place of the season before, `(B, H)`; NaN outside the past."""
    length = sales.shape[1]
    # Steps beyond one season look back two.
    back = season[:, None] * (1 + np.arange(steps) // season[:, None])
    places = length + np.arange(steps) - back
    totals = [np.zeros(places.shape) for _ in range(3)]
    for shift in (-1, 0, 1):
        column = places + shift
        inside = (column >= 0) & (column < length)
        for total, values in zip(totals, (sales * usable, mean * usable, usable)):
            total += np.where(inside, np.take_along_axis(values, np.clip(column, 0, length - 1), axis=1), 0.0)
    found = np.log((totals[0] + 1.0) / (totals[1] + 1.0))
    return np.where(totals[2] > 0, found, np.nan)


def _similar_periods(sales: np.ndarray, weight: np.ndarray, promotions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean of past sales under promotions like the planned ones, and the sum of weights: `(B, H)` each."""
    length = sales.shape[1]
    apart = np.abs(promotions[:, length:, None] - promotions[:, None, :length]).sum(-1)
    weights = weight[:, None] * np.exp(-FLAG_PENALTY * apart)
    count = weights.sum(-1)
    return (weights @ sales[..., None])[..., 0] / np.maximum(count, 1e-9), count
