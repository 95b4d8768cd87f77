"""A run scores every forecaster on the same steps, keeps what it may keep, and claims only what the intervals allow."""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from pricing_fm import names
from pricing_fm.evaluation.baseline_cache import BaselineCache
from pricing_fm.evaluation.baselines import LastValue, RecentQuantiles, SeasonalNaive
from pricing_fm.evaluation.forecaster import Forecast, ForecastWindow
from pricing_fm.evaluation.forecasting import ForecastEvaluation, evaluate_forecasters
from pricing_fm.evaluation.scores import build_ratio_rows, compare_forecasts, is_price_cut, print_forecast_table
from pricing_fm.evaluation.tasks import ForecastTask
from pricing_fm.metrics import compute_mase, compute_wql
from pricing_fm.panel.panel import Panel
from tests.test_evaluation_tasks import weekly_panel


@dataclass
class Oracle:
    """Knows the truth up to a factor; counts how often it is fitted and asked."""

    panel: Panel
    factor: float = 1.0
    name: str = "oracle"
    seed: int | None = 3
    calls: list[str] = field(default_factory=list)

    def fit(self, panel: Panel) -> None:
        self.calls.append(f"fit {panel.frame[names.TIMESTAMP].max().date()}")

    def predict(self, window: ForecastWindow) -> Forecast:
        self.calls.append("predict")
        rows = self.panel.frame.merge(window.future[[names.ITEM_ID, names.TIMESTAMP]])
        units = rows[names.UNITS].fillna(1.0).to_numpy().reshape(len(window.item_ids), -1)
        return Forecast.of(np.repeat(self.factor * units[..., None], len(window.quantile_levels), axis=-1), units)

    def settings(self) -> dict[str, object]:
        return {"factor": self.factor}


def run(task: ForecastTask, **changes: object) -> ForecastEvaluation:
    baselines = [SeasonalNaive(), RecentQuantiles()]
    return evaluate_forecasters(task, [], baselines, show_progress=False, **changes)


def small_task(weeks: int = 80) -> ForecastTask:
    return ForecastTask("weekly_1W", weekly_panel(weeks=weeks), 4, (4, 8))


def test_every_forecaster_is_fitted_once_before_the_first_origin_and_asked_at_each() -> None:
    task = small_task()
    oracle = Oracle(task.panel)
    found = evaluate_forecasters(task, [oracle], show_progress=False)
    day_before = task.origin_timestamp(1) - pd.Timedelta(weeks=1)
    assert oracle.calls == [f"fit {day_before.date()}", "predict", "predict"]
    wql = {row.window: row for row in found.rows if row.name == "wql"}
    assert [wql[0].value, wql[1].value, wql[0].seed] == [0.0, 0.0, 3]


def test_rows_are_the_metrics_of_the_steps() -> None:
    task = small_task()
    found = run(task)
    levels = [str(level) for level in task.quantile_levels]
    for row in found.rows:
        table = found.steps[(found.steps["model"] == row.model) & (found.steps["window"] == row.window)]
        if row.name == "wql":
            expected = compute_wql(table["units"].to_numpy(), table[levels].to_numpy(), task.quantile_levels)
            assert row.value == pytest.approx(expected)
            assert row.lower < row.value < row.upper
            assert row.n == len(table) == 8 * 4
        if row.name == "mase":
            shape = (8, 4)
            expected = compute_mase(
                table["units"].to_numpy().reshape(shape),
                table["0.5"].to_numpy().reshape(shape),
                table["seasonal_scale"].to_numpy().reshape(shape)[:, 0],
            ).value
            assert row.value == pytest.approx(expected)
    names_of_rows = {row.name for row in found.rows}
    assert names_of_rows == {"wql", "sql", "mase", "coverage_80", "wape", "wql_cut", "wql_regular"}
    assert all(row.train_s is not None and row.inference_s is not None for row in found.rows)


def test_cut_and_regular_periods_split_the_steps() -> None:
    found = run(small_task())
    table = found.steps[(found.steps["model"] == "seasonal_naive") & (found.steps["window"] == 0)]
    counts = {row.name: row.n for row in found.rows if row.model == "seasonal_naive" and row.window == 0}
    assert counts["wql_cut"] + counts["wql_regular"] == counts["wql"]
    assert counts["wql_cut"] == is_price_cut(table).sum() == (table["price"] < table["reference_price"]).sum()


def test_sold_out_steps_are_scored_apart_as_sales() -> None:
    task = small_task()
    frame = task.panel.frame.copy()
    last = frame[names.TIMESTAMP] == frame[names.TIMESTAMP].max()
    frame.loc[last, names.INVENTORY] = frame.loc[last, names.UNITS]
    panel = replace(task.panel, frame=frame)
    task = replace(task, panel=panel)
    # Demand forecasts of twice the sales are perfect sales forecasts where the shelf was empty.
    found = evaluate_forecasters(task, [Oracle(panel, factor=2.0)], show_progress=False)
    values = {row.name: row for row in found.rows if row.window == 0}
    assert values["wql_sold_out"].value == 0.0
    assert values["wql_sold_out"].n == 8
    assert values["wql"].n == 24
    assert values["wql"].value > 0.5
    assert found.windows["sold_out_steps"].tolist() == [8, 0]


def test_category_rows_are_parts_of_the_whole() -> None:
    found = run(small_task(), by_category=True)
    rows = [row for row in found.rows if row.category is not None and row.model == "seasonal_naive" and row.window == 0]
    whole = next(row for row in found.rows if row.category is None and row.name == "wql" and row.window == 0)
    assert {row.category for row in rows} == {"snacks", "cereal"}
    assert sum(row.n for row in rows) == whole.n
    assert min(row.value for row in rows) < whole.value < max(row.value for row in rows)


def test_a_cached_baseline_is_not_run_again_and_says_so(tmp_path: Path) -> None:
    task, cache = small_task(), BaselineCache(tmp_path)
    first, second = Oracle(task.panel, factor=1.1), Oracle(task.panel, factor=1.1)
    runs = [evaluate_forecasters(task, [], [b], cache, show_progress=False) for b in (first, second)]
    assert first.calls
    assert not second.calls
    assert [row.cached for row in runs[0].rows] == [False] * len(runs[0].rows)
    assert [row.cached for row in runs[1].rows] == [True] * len(runs[1].rows)
    assert [replace(row, cached=False) for row in runs[1].rows] == list(runs[0].rows)
    pd.testing.assert_frame_equal(runs[0].steps, runs[1].steps, check_dtype=False)


def test_other_data_or_settings_or_origins_are_another_cache_entry(tmp_path: Path) -> None:
    task, cache = small_task(), BaselineCache(tmp_path)
    oracle = Oracle(task.panel)
    frame = task.panel.frame.copy()
    frame.loc[0, names.UNITS] += 1.0
    keys = {
        cache.key(task, oracle),
        cache.key(replace(task, panel=replace(task.panel, frame=frame)), oracle),
        cache.key(replace(task, origins=(4,)), oracle),
        cache.key(replace(task, context_length=20), oracle),
        cache.key(task, replace(oracle, factor=2.0)),
        cache.key(task, replace(oracle, seed=4)),
    }
    assert len(keys) == 6
    assert cache.key(replace(task, name="another name"), replace(oracle, calls=["x"])) in keys


def test_models_are_never_taken_from_the_cache(tmp_path: Path) -> None:
    task, cache = small_task(), BaselineCache(tmp_path)
    model = Oracle(task.panel)
    for _ in range(2):
        evaluate_forecasters(task, [model], [], cache, show_progress=False)
    assert len(model.calls) == 6
    assert not list(tmp_path.iterdir())


def test_a_ratio_is_paired_and_excludes_one_only_for_a_real_difference() -> None:
    task = small_task()
    models = [Oracle(task.panel, 1.1, "close"), Oracle(task.panel, 1.3, "far"), Oracle(task.panel, 0.9, "same")]
    steps = evaluate_forecasters(task, models, show_progress=False).steps
    better = compare_forecasts(steps, "close", "far")
    assert better.value == pytest.approx(1 / 3)
    assert better.upper < 1.0
    # 10 % too high and 10 % too low cost the same when levels are symmetric.
    assert compare_forecasts(steps, "close", "same").value == pytest.approx(1.0)
    row = build_ratio_rows(steps, "close", ["far"])[0]
    assert (row.name, row.model, row.window, row.n) == ("wql_ratio_to_far", "close", None, 64)
    assert compare_forecasts(steps, "close", "far", window=0).value == pytest.approx(1 / 3)


def test_seeds_are_averaged_before_a_comparison() -> None:
    task = small_task()
    models = [Oracle(task.panel, 1.1, "ours", 0), Oracle(task.panel, 1.3, "ours", 1), Oracle(task.panel, 1.2, "theirs")]
    steps = evaluate_forecasters(task, models, show_progress=False).steps
    assert compare_forecasts(steps, "ours", "theirs").value == pytest.approx(1.0)


def test_models_scored_on_different_steps_are_not_compared() -> None:
    task = small_task()
    found = run(task)
    part = found.steps[(found.steps["model"] != "seasonal_naive") | (found.steps["item_id"] != "s0|p0")]
    with pytest.raises(ValueError, match="different steps"):
        compare_forecasts(part, "seasonal_naive", "recent_quantiles")
    with pytest.raises(ValueError, match="no scored step"):
        compare_forecasts(part, "seasonal_naive", "nobody")


@dataclass
class Faulty(Oracle):
    fault: str = "shape"

    def predict(self, window: ForecastWindow) -> Forecast:
        right = super().predict(window)
        if self.fault == "shape":
            return Forecast(right.quantiles[:, :-1], right.mean)
        if self.fault == "nan":
            return Forecast(right.quantiles * np.nan, right.mean)
        return Forecast(right.quantiles * np.linspace(2, 1, right.quantiles.shape[-1]), right.mean)


@pytest.mark.parametrize("fault, message", [("shape", "shape"), ("nan", "not finite"), ("order", "crossing")])
def test_a_faulty_answer_is_refused(fault: str, message: str) -> None:
    task = small_task(weeks=40)
    with pytest.raises(ValueError, match=message):
        evaluate_forecasters(task, [Faulty(task.panel, fault=fault)], show_progress=False)


def test_two_forecasters_of_one_name_are_refused() -> None:
    task = small_task(weeks=40)
    with pytest.raises(ValueError, match="own name or seed"):
        evaluate_forecasters(task, [], [LastValue(), LastValue()], show_progress=False)


def test_the_printed_table_puts_the_best_first_and_in_bold() -> None:
    task = small_task()
    found = evaluate_forecasters(task, [Oracle(task.panel, 1.05)], [SeasonalNaive()], show_progress=False)
    screen = io.StringIO()
    print_forecast_table(found.rows, Console(file=screen, width=80, force_terminal=True, no_color=True))
    assert "…" not in screen.getvalue()
    lines = [line for line in screen.getvalue().splitlines() if "oracle" in line or "seasonal_naive" in line]
    assert "oracle" in lines[0]
    assert "\x1b[1m0.0" in lines[0]
    assert "seasonal_naive" in lines[1]
