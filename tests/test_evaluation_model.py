"""The model as a forecaster: what the window shows, in the window's periods, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm.evaluation.forecasting import evaluate_forecasters
from pricing_fm.evaluation.model import PolicyForecaster
from pricing_fm.evaluation.tasks import ForecastTask
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy
from tests.policy_artifacts import panel_of, sales_log, write_base

LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> PricingPolicy:
    return PricingPolicy.from_pretrained(write_base(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture(scope="module")
def forecaster(policy: PricingPolicy) -> PolicyForecaster:
    return PolicyForecaster(policy, "pricing_fm", 4)


def task_of(panel: Panel, length: int = 3, origins: tuple[int, ...] = (3, 6)) -> ForecastTask:
    return ForecastTask("toy", panel, length, origins, LEVELS)


def windows_of(panel: Panel, length: int = 3, origins: tuple[int, ...] = (3, 6)):
    return [window for window, _ in task_of(panel, length, origins).windows()]


def test_a_window_is_answered_like_the_policy_answers_its_history_and_plan(policy, forecaster) -> None:
    panel = panel_of(sales_log())
    for window in windows_of(panel):
        found = forecaster.predict(window)
        table = policy.forecast(window.history, 3, window.future, list(LEVELS))
        assert found.quantiles.shape == (8, 3, 3)
        np.testing.assert_allclose(found.mean.ravel(), table["mean"], rtol=1e-6)
        np.testing.assert_allclose(found.quantiles.reshape(-1, 3), table[["0.1", "0.5", "0.9"]], rtol=1e-6)
        assert (table["timestamp"].unique() == window.future["timestamp"].unique()).all()


def test_nothing_after_the_origin_is_seen_but_the_plan(forecaster) -> None:
    table = sales_log().assign(traffic=100.0, competitor_price=3.0, inventory=500.0)
    origin = table["timestamp"].max() - pd.Timedelta(weeks=2)
    after = table["timestamp"] >= origin
    secret = table.copy()
    secret.loc[after, ["units", "traffic", "competitor_price", "inventory", "cost"]] = [999.0, 7.0, 8.0, 1000.0, 0.01]
    (plain,), (told,) = (windows_of(panel_of(log), origins=(3,)) for log in (table, secret))
    np.testing.assert_array_equal(forecaster.predict(plain).quantiles, forecaster.predict(told).quantiles)
    planned = table.copy()
    planned.loc[after, "price"] *= 1.3
    (dear,) = windows_of(panel_of(planned), origins=(3,))
    assert (forecaster.predict(dear).mean < forecaster.predict(plain).mean).all()


def test_columns_of_the_source_that_bear_another_panel_name_do_not_confuse_the_plan(forecaster) -> None:
    table = sales_log()
    renamed = table.rename(columns={"price": "net", "list_price": "price"})
    panel = load_panel(renamed, schema={"price": "net", "list_price": "price", "promotion": "promotion"})
    for odd, plain in zip(windows_of(panel), windows_of(panel_of(table)), strict=True):
        np.testing.assert_array_equal(forecaster.predict(odd).mean, forecaster.predict(plain).mean)


def test_the_window_counts_even_when_nothing_was_sold_right_before_it(forecaster) -> None:
    table = sales_log()
    origin = table["timestamp"].max() - pd.Timedelta(weeks=2)
    silent = (table["timestamp"] >= origin - pd.Timedelta(weeks=2)) & (table["timestamp"] < origin)
    table.loc[silent, "units"] = np.nan
    (window,) = windows_of(panel_of(table), origins=(3,))
    assert window.origin == origin
    found = forecaster.predict(window)
    # The same question two periods earlier and two periods longer.
    history = window.history.before(origin - pd.Timedelta(weeks=2))
    between = window.history.frame[window.history.frame["timestamp"] >= origin - pd.Timedelta(weeks=2)]
    plan = pd.concat([between[["item_id", "timestamp", "price", "list_price", "promotion"]], window.future])
    longer = replace(window, history=history, future=plan.sort_values(["item_id", "timestamp"]), prediction_length=5)
    longer = replace(longer, origin=origin - pd.Timedelta(weeks=2))
    np.testing.assert_allclose(found.mean, forecaster.predict(longer).mean[:, 2:], rtol=1e-5)


def test_the_mark_of_an_intervention_is_part_of_the_plan(forecaster) -> None:
    table = sales_log().assign(price_is_intervention=0.0)
    marked = table.copy()
    marked.loc[marked["timestamp"] > marked["timestamp"].max() - pd.Timedelta(weeks=3), "price_is_intervention"] = 1.0
    plain, set_by_us = (windows_of(panel_of(log), origins=(3,))[0] for log in (table, marked))
    assert not np.allclose(forecaster.predict(plain).mean, forecaster.predict(set_by_us).mean, rtol=1e-3)


def test_it_runs_among_the_other_forecasters(forecaster) -> None:
    found = evaluate_forecasters(task_of(panel_of(sales_log())), [forecaster], show_progress=False)
    rows = {(row.name, row.window): row for row in found.rows}
    assert {("wql", 0), ("wql", 1), ("coverage_80", 0)} <= rows.keys()
    assert {(row.model, row.seed) for row in found.rows} == {("pricing_fm", 4)}
    assert all(np.isfinite(row.value) for row in found.rows)
