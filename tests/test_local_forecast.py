"""Forecasts from an item's own past, as the network reads them: right on a known law, blind to the planned price."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.models import PricingFMProcessor
from pricing_fm.models.calendar_features import calendar_features
from pricing_fm.models.channels import INDEX, LOCAL_SLOTS
from pricing_fm.models.local_forecast import (
    NUM_LOCAL_CHANNELS,
    NUM_LOCAL_EVIDENCE,
    LocalSeries,
    local_forecast,
    season_lengths,
)
from pricing_fm.panel import RawWindows

ITEMS, PAST, FUTURE = 60, 104, 8
PERIODS = PAST + FUTURE


def simulate(season: float = 0.0, level: float = 0.0, seed: int = 0) -> tuple[LocalSeries, np.ndarray, np.ndarray]:
    """Series of a known law, the mean of coming demand at the reference price over the item's mean, and slopes.

    Two promotions, the second one rare; `level` is how far the last ten periods are off; the season is a bump that no
    sine of the year fits.
    """
    random = np.random.default_rng(seed)
    slope = random.uniform(-4.0, -1.0, (ITEMS, 1))
    uplift = np.array([0.7, 0.3])
    promotions = (random.random((ITEMS, PERIODS, 2)) < [0.3, 0.1]).astype(float)
    prices = 0.15 * random.standard_normal((ITEMS, PERIODS))
    log_mean = promotions @ uplift + 0.0
    log_mean[:, np.arange(PERIODS) % 52 < 4] += season
    log_mean[:, PAST - 10 :] += level
    units = random.poisson(60 * np.exp(log_mean + slope * prices))[:, :PAST].astype(float)
    mean = units.mean(1, keepdims=True)
    weeks = np.datetime64("2020-01-06") + 7 * np.arange(PERIODS).astype("timedelta64[D]")
    series = LocalSeries(
        units=units / mean,
        usable=np.ones((ITEMS, PAST), dtype=bool),
        log_prices=prices[:, :PAST],
        promotions=promotions,
        covariates=np.full((ITEMS, PERIODS, 4), np.nan),
        calendar=np.tile(calendar_features(weeks, "W"), (ITEMS, 1, 1)),
        season=np.full(ITEMS, 52),
    )
    return series, (60 * np.exp(log_mean) / mean)[:, PAST:], slope[:, 0]


def relative_error(forecast: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(forecast / truth - 1).mean())


def test_the_regression_finds_slope_uplifts_and_level() -> None:
    series, truth, slope = simulate()
    channels, evidence = local_forecast(series)
    assert channels.shape == (ITEMS, FUTURE, NUM_LOCAL_CHANNELS)
    assert evidence.shape == (ITEMS, NUM_LOCAL_EVIDENCE)
    assert relative_error(np.sinh(channels[..., 0]), truth) < 0.06
    assert relative_error(np.ones_like(truth), truth) > 0.25
    assert np.abs(3 * evidence[:, 0] - slope).mean() < 0.25
    covered = np.abs(3 * evidence[:, 0] - slope) < 2 * (np.exp(evidence[:, 1]) - 0.05)
    assert covered.mean() > 0.8
    # Similar periods know no price response of their own: theirs is the regression's.
    assert relative_error(np.sinh(channels[..., 3]), truth) < 0.12


def test_a_recent_change_of_level_moves_one_of_the_forecasts() -> None:
    series, truth, _ = simulate(level=0.5)
    channels, evidence = local_forecast(series)
    assert relative_error(np.sinh(channels[..., 1]), truth) < 0.6 * relative_error(np.sinh(channels[..., 0]), truth)
    assert 0.2 < evidence[:, 3].mean() < 0.5


def test_what_was_missing_a_season_ago_is_told() -> None:
    # The first four of the coming weeks (104 = 2 x 52) belong to the bump.
    channels, _ = local_forecast(simulate(season=0.8)[0])
    assert channels[:, :3, 2].mean() > 0.25
    # The sine of the year spreads the bump, and is taken back beside it.
    assert -0.2 < channels[:, 6:, 2].mean() < 0
    longer, _, _ = simulate(season=0.8)
    shown = {name: values[:, 60:] for name, values in vars(longer).items() if name != "season"}
    assert np.isnan(local_forecast(LocalSeries(**shown, season=longer.season))[0][:, :7, 2]).all()


def test_what_is_unknown_of_the_plan_is_as_it_was_on_average() -> None:
    series, _, _ = simulate()
    hidden = series.promotions.copy()
    hidden[:, PAST:] = np.nan
    forecast = np.sinh(local_forecast(replace(series, promotions=hidden))[0][..., 0])
    # All promotions half on, so to speak; the mean of their products is a little more.
    assert 0.8 < forecast.mean() < 1.0
    assert forecast.std(1).max() < 0.05


def test_a_future_beyond_a_season_looks_back_two() -> None:
    series, _, _ = simulate()
    steps = local_forecast(replace(series, season=np.full(ITEMS, 4)))[0][..., 2]
    # Steps 4 to 7 look at the four periods before those of steps 0 to 3, which end the past.
    earlier = replace(series, season=np.full(ITEMS, 8))
    np.testing.assert_array_equal(steps[:, 4:7], local_forecast(earlier)[0][:, 4:7, 2])
    assert np.isfinite(steps).all()


def test_seasons_follow_the_cadence() -> None:
    found = season_lengths(np.array(["W-WED", "MS", "D", "h", "15min", "4W", None], dtype=object))
    assert found.tolist() == [52, 12, 7, 24, 96, 13, 52]


def test_nothing_seen_gives_nothing() -> None:
    series, _, _ = simulate()
    nothing = np.zeros_like(series.usable)
    channels, evidence = local_forecast(replace(series, usable=nothing, units=np.full_like(series.units, np.nan)))
    assert np.isnan(channels).all()
    assert np.isnan(evidence).all()


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_extreme_sales_stay_finite(size: float) -> None:
    series, _, _ = simulate()
    spike = series.units.copy()
    spike[:, 50] *= size
    channels, evidence = local_forecast(replace(series, units=spike))
    assert np.isfinite(channels[..., [0, 1, 3, 4]]).all()
    assert np.isfinite(evidence).all()


def test_the_processor_shows_them_whatever_price_is_planned(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    batch = tiny_processor(tiny_windows)
    local, mask = (batch[name][..., LOCAL_SLOTS] for name in ("future_known_values", "future_known_mask"))
    assert mask[..., 0].any()
    dearer = tiny_windows.future.copy()
    dearer[..., INDEX["price"]] *= 1.7
    np.testing.assert_array_equal(
        tiny_processor(replace(tiny_windows, future=dearer))["future_known_values"][..., LOCAL_SLOTS], local
    )


def test_evidence_that_is_left_out_is_masked(tiny_processor: PricingFMProcessor, tiny_windows: RawWindows) -> None:
    settings = {name: value for name, value in tiny_processor.to_dict().items() if name != "feature_extractor_type"}
    blind = PricingFMProcessor(**settings | {"left_out_evidence": ["local_forecast", "hidden_demand"]})
    shown, hidden = tiny_processor(tiny_windows), blind(tiny_windows)
    assert not hidden["future_known_mask"][..., LOCAL_SLOTS].any()
    fewer = shown["static_real_mask"].sum(1) - hidden["static_real_mask"].sum(1)
    assert fewer.max() == 17
    with pytest.raises(ValueError, match="left_out_evidence holds"):
        PricingFMProcessor(left_out_evidence=["nothing"])
