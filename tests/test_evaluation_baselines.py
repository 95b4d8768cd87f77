"""Baselines: right on series whose answer is known, honest about what they see, and as strong as they should be."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.frat.prepare import build_table
from pricing_fm import names
from pricing_fm.errors import PanelWarning
from pricing_fm.evaluation import baselines
from pricing_fm.evaluation.baselines import AutoETS, LastValue, RecentQuantiles, SeasonalNaive, build_simple_baselines
from pricing_fm.evaluation.boosted_features import FeatureBuilder, encode_items, read_vocabulary
from pricing_fm.evaluation.boosted_trees import BoostedTrees, TreeSettings
from pricing_fm.evaluation.forecaster import Forecast, ForecastWindow
from pricing_fm.evaluation.grid import build_grid
from pricing_fm.evaluation.tasks import QUANTILE_LEVELS, ForecastTask, ForecastTruth
from pricing_fm.metrics import compute_coverage, compute_wql
from pricing_fm.panel.load import load_panel
from tests.test_evaluation_tasks import SCHEMA, weekly_panel, weekly_table, with_other_outcomes

SMALL_TREES = TreeSettings(rounds=60, leaves=15, rows=8_000)


def only_window(task: ForecastTask) -> tuple[ForecastWindow, ForecastTruth]:
    return next(iter(task.windows()))


def score(forecast: Forecast, truth: ForecastTruth) -> float:
    return compute_wql(truth.targets, forecast.quantiles, QUANTILE_LEVELS, truth.scored)


def trees(**changes: object) -> BoostedTrees:
    return replace(BoostedTrees(4, QUANTILE_LEVELS, trees=SMALL_TREES), **changes)


def test_the_seasonal_naive_repeats_last_year_and_falls_back_on_the_last_value() -> None:
    table = weekly_table(stores=1, products=1, weeks=60)
    table[names.UNITS] = np.arange(60.0)
    table.loc[5, names.UNITS] = np.nan
    window, _ = only_window(ForecastTask("weekly", load_panel(table, SCHEMA), 4, (4,)))
    forecast = SeasonalNaive().predict(window)
    # Forecast weeks are 56..59; a year before them lie 4, 5 (unknown), 6, 7; the last observed value is 55.
    np.testing.assert_array_equal(forecast.quantiles[0], np.repeat([[4.0], [55.0], [6.0], [7.0]], 9, axis=1))


def test_a_season_shorter_than_the_horizon_is_repeated() -> None:
    table = weekly_table(stores=1, products=1, weeks=20)
    table[names.TIMESTAMP] = pd.date_range("2021-01-01", periods=20)
    table[names.UNITS] = np.arange(20.0)
    window, _ = only_window(ForecastTask("daily", load_panel(table, SCHEMA), 10, (10,)))
    expected = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 3.0, 4.0, 5.0]
    np.testing.assert_array_equal(SeasonalNaive().predict(window).mean[0], expected)


def test_recent_quantiles_are_those_of_the_last_periods_that_are_known() -> None:
    table = weekly_table(stores=1, products=2, weeks=60)
    table[names.UNITS] = np.tile(np.arange(60.0), 2)
    quiet = (table[names.ITEM_ID] == "s0|p1") & (table[names.TIMESTAMP] >= "2021-03-01")
    table.loc[quiet, names.UNITS] = np.nan
    window, _ = only_window(ForecastTask("weekly", load_panel(table, SCHEMA), 4, (4,)))
    forecast = RecentQuantiles().predict(window)
    np.testing.assert_allclose(forecast.quantiles[0, 2], np.quantile(np.arange(30.0, 56.0), QUANTILE_LEVELS))
    assert forecast.mean[0, 0] == pytest.approx(np.arange(30.0, 56.0).mean())
    assert forecast.quantiles[1, 0, 4] == pytest.approx(3.5)  # silent for half a year: its whole history counts
    assert LastValue().predict(window).mean[:, 0].tolist() == [55.0, 7.0]


@pytest.mark.parametrize("before", [20.0, 60.0])
def test_exponential_smoothing_follows_a_level_shift_and_covers_noise(before: float) -> None:
    table = weekly_table(stores=4, products=4, weeks=80)
    level = np.where(np.arange(80) < 40, before, 60.0)
    table[names.UNITS] = np.maximum(np.random.default_rng(0).normal(level, 5.0, (16, 80)).ravel(), 0.0)
    task = ForecastTask("weekly", load_panel(table, SCHEMA), 8, (8,))
    window, truth = only_window(task)
    ets = AutoETS()
    ets.fit(task.training_panel())
    forecast = ets.predict(window)
    assert np.abs(forecast.mean - 60.0).max() < 12.0
    assert score(forecast, truth) < score(LastValue().predict(window), truth)
    coverage = compute_coverage(truth.targets, forecast.quantiles[..., 0], forecast.quantiles[..., 8])
    # The shift is noise to the model, so its intervals are too wide after one.
    assert 0.7 < coverage < (0.9 if before == 60.0 else 1.0)


def test_exponential_smoothing_rolls_forward_without_a_new_fit() -> None:
    task = ForecastTask("weekly", weekly_panel(weeks=60), 4, (4, 12))
    ets = AutoETS()
    ets.fit(task.training_panel())
    models = dict(ets._models)
    late, early = [ets.predict(window) for window, _ in task.windows()]
    assert ets._models == models
    assert not np.allclose(late.mean, early.mean)  # newer weeks moved the states


def test_processes_do_not_change_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool is one of threads here: starting real processes takes longer than all other tests of this file."""
    monkeypatch.setattr(baselines, "SERIES_PER_PROCESS", 4)
    pools = []

    def build_pool(workers: int, mp_context: object) -> ThreadPoolExecutor:
        pools.append(workers)
        return ThreadPoolExecutor(workers)

    monkeypatch.setattr(baselines, "ProcessPoolExecutor", build_pool)
    task = ForecastTask("weekly", weekly_panel(weeks=40), 4, (4,))
    window, _ = only_window(task)
    answers = []
    for jobs in (1, 2):
        ets = AutoETS(jobs=jobs)
        ets.fit(task.training_panel())
        ets._models = pickle.loads(pickle.dumps(ets._models))  # what a process hands back
        answers.append(ets.predict(window).quantiles)
    np.testing.assert_array_equal(*answers)
    assert pools == [2]


@pytest.mark.parametrize("position", range(5))
def test_no_baseline_reads_what_is_not_known_at_the_origin(position: int) -> None:
    panel = weekly_panel(weeks=80)
    task = ForecastTask("weekly", panel, 4, (4,))
    baseline = [*build_simple_baselines(), trees(trees=TreeSettings(rounds=5, rows=2_000))][position]
    other = replace(task, panel=with_other_outcomes(panel, task.origin_timestamp(0)))
    forecasts = []
    for view in (task, other):
        baseline.fit(view.training_panel())
        forecasts.append(baseline.predict(only_window(view)[0]))
    np.testing.assert_array_equal(forecasts[0].quantiles, forecasts[1].quantiles)
    np.testing.assert_array_equal(forecasts[0].mean, forecasts[1].mean)
    assert (np.diff(forecasts[0].quantiles, axis=-1) >= 0).all()
    assert (forecasts[0].quantiles >= 0).all()


def test_training_features_are_the_features_that_a_forecast_at_that_origin_sees() -> None:
    """A training row may not know more than the same row at forecast time."""
    panel = weekly_panel(weeks=80)
    (window, _), *_ = ForecastTask("weekly", panel, 4, (8,)).windows()
    vocabulary = read_vocabulary(panel)
    known, whole = build_grid(window.history, window.future), build_grid(panel)
    items, steps = (index.ravel() for index in np.indices((8, 4)))
    asked = FeatureBuilder(known, encode_items(window.history, vocabulary), "W", True, True)
    trained = FeatureBuilder(whole, encode_items(panel, vocabulary), "W", True, True)
    pd.testing.assert_frame_equal(asked.rows(72, items, steps), trained.rows(72, items, steps))


@pytest.mark.parametrize("unit", ["h", "D", "W", "MS", "QS"])
def test_features_exist_for_every_frequency_and_short_histories(unit: str) -> None:
    panel = weekly_panel(weeks=30)
    builder = FeatureBuilder(build_grid(panel), encode_items(panel, read_vocabulary(panel)), unit, True, True)
    rows = builder.rows(5, np.arange(8), np.zeros(8, dtype=int))
    assert list(rows) == list(builder.rows(29, np.arange(8), np.zeros(8, dtype=int)))
    assert np.isfinite(rows["lag_1"]).all()
    assert not np.isinf(rows.to_numpy()).any()


def test_the_trees_learn_that_demand_falls_with_price_and_beat_what_cannot_see_it() -> None:
    task = ForecastTask("weekly", weekly_panel(stores=4, products=6), 4, (4,))
    window, truth = only_window(task)
    both, blind = trees(), trees(covariates="none")
    for model in (both, blind):
        model.fit(task.training_panel())
    forecast = both.predict(window)
    assert score(forecast, truth) < 0.75 * score(blind.predict(window), truth)
    assert score(forecast, truth) < 0.75 * score(RecentQuantiles().predict(window), truth)
    assert 0.65 < compute_coverage(truth.targets, forecast.quantiles[..., 0], forecast.quantiles[..., 8]) < 0.95
    cheaper = window.future.assign(price=0.75 * window.future[names.LIST_PRICE])
    dearer = window.future.assign(price=window.future[names.LIST_PRICE])
    means = [both.predict(replace(window, future=future)).mean.mean() for future in (cheaper, dearer)]
    assert means[0] > 1.3 * means[1]


@pytest.mark.parametrize(
    "covariates, ignored",
    [("flags", [names.PRICE]), ("price", ["feature", "display"]), ("none", [names.PRICE, "feature", "display"])],
)
def test_hidden_covariates_change_nothing(covariates: str, ignored: list[str]) -> None:
    task = ForecastTask("weekly", weekly_panel(weeks=80), 4, (4,))
    window, _ = only_window(task)
    model = trees(covariates=covariates, trees=TreeSettings(rounds=20, rows=2_000))
    model.fit(task.training_panel())
    changed = window.future.copy()
    for column in ignored:
        changed[column] = 0.5 * changed[column] + 0.3
    forecasts = [model.predict(replace(window, future=future)).quantiles for future in (window.future, changed)]
    np.testing.assert_array_equal(*forecasts)
    informed = trees(trees=TreeSettings(rounds=20, rows=2_000))
    informed.fit(task.training_panel())
    forecasts = [informed.predict(replace(window, future=future)).quantiles for future in (window.future, changed)]
    assert not np.array_equal(*forecasts)


def test_the_same_seed_grows_the_same_trees() -> None:
    task = ForecastTask("weekly", weekly_panel(weeks=60), 4, (4,))
    window, _ = only_window(task)
    answers = []
    for seed in (0, 0, 1):
        model = trees(seed=seed, trees=TreeSettings(rounds=10, rows=1_000))
        model.fit(task.training_panel())
        answers.append(model.predict(window).quantiles)
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.array_equal(answers[0], answers[2])


def test_trees_refuse_what_they_were_not_fitted_for() -> None:
    window, _ = only_window(ForecastTask("weekly", weekly_panel(weeks=60), 4, (4,)))
    with pytest.raises(ValueError, match="not fitted"):
        trees().predict(window)
    model = trees(trees=TreeSettings(rounds=2, rows=500))
    model.fit(window.history)
    with pytest.raises(ValueError, match="fitted for 4 steps"):
        model.predict(replace(window, prediction_length=8))


@pytest.mark.real_data
def test_naive_models_reach_the_reference_points_on_frat(real_data: Path) -> None:
    """WQL eight, sixteen and twenty-four weeks before the end, to the third digit."""
    table, _ = build_table(real_data / "dunnhumby_breakfast_at_the_frat")
    schema = Path(__file__).resolve().parents[1] / "data" / "frat" / "schema.yaml"
    with pytest.warns(PanelWarning):
        panel = load_panel(table, schema=schema)
    references = {
        "last_value": (0.460, 0.497, 0.507),
        "seasonal_naive": (0.542, 0.679, 0.559),
        "recent_quantiles": (0.277, 0.385, 0.322),
    }
    task = ForecastTask("frat_1W", panel, 8, (8, 16, 24))
    for place, (window, truth) in enumerate(task.windows()):
        for baseline in (LastValue(), SeasonalNaive(), RecentQuantiles()):
            found = score(baseline.predict(window), truth)
            assert found == pytest.approx(references[baseline.name][place], abs=0.001), (baseline.name, place)
