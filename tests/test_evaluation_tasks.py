"""A task shows a forecaster the past and the plan, and nothing else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pricing_fm import names
from pricing_fm.evaluation.grid import build_grid
from pricing_fm.evaluation.tasks import ForecastTask
from pricing_fm.panel.load import load_panel
from pricing_fm.panel.panel import Panel

SCHEMA = {"promotion": ["feature", "display"], "known_covariates": ["holiday"], "past_covariates": ["weather"]}
OUTCOMES = (names.UNITS, names.TRAFFIC, names.COMPETITOR_PRICE, names.INVENTORY, names.COST, "weather")


def weekly_table(stores: int = 2, products: int = 4, weeks: int = 120, seed: int = 0) -> pd.DataFrame:
    """A shop with a known elasticity of -2, cut and featured weeks, a year's season, and every optional column."""
    rng = np.random.default_rng(seed)
    rows = []
    for store in range(stores):
        for product in range(products):
            cut = rng.random(weeks) < 0.25
            feature = cut & (rng.random(weeks) < 0.5)
            price = np.round((2.0 + product) * np.where(cut, 0.75, 1.0), 2)
            season = 0.2 * np.sin(2 * np.pi * np.arange(weeks) / 52)
            level = np.exp(3.0 + 0.3 * store + season + 0.6 * feature - 2.0 * np.log(price / (2.0 + product)))
            rows.append(
                pd.DataFrame(
                    {
                        names.ITEM_ID: f"s{store}|p{product}",
                        names.TIMESTAMP: pd.date_range("2021-01-06", periods=weeks, freq="7D"),
                        names.UNITS: rng.poisson(level).astype(float),
                        names.PRICE: price,
                        names.LIST_PRICE: 2.0 + product,
                        names.COMPETITOR_PRICE: price * rng.uniform(0.9, 1.1, weeks),
                        names.COST: 0.6 * (2.0 + product),
                        names.INVENTORY: 1000.0,
                        names.TRAFFIC: rng.uniform(50.0, 500.0, weeks),
                        names.CATEGORY: "snacks" if product < products / 2 else "cereal",
                        names.PRODUCT_ID: f"p{product}",
                        names.LOCATION_ID: f"s{store}",
                        "feature": feature.astype(float),
                        "display": (rng.random(weeks) < 0.1).astype(float),
                        "holiday": (np.arange(weeks) % 13 == 0).astype(float),
                        "weather": rng.normal(size=weeks),
                    }
                )
            )
    return pd.concat(rows, ignore_index=True)


def weekly_panel(stores: int = 2, products: int = 4, weeks: int = 120, seed: int = 0) -> Panel:
    return load_panel(weekly_table(stores, products, weeks, seed), SCHEMA)


def with_other_outcomes(panel: Panel, origin: pd.Timestamp) -> Panel:
    """The same past and the same plan; everything that is only known afterwards is different."""
    frame = panel.frame.copy()
    after = frame[names.TIMESTAMP] >= origin
    for column in OUTCOMES:
        frame.loc[after, column] = 3.0 * frame.loc[after, column] + 7.0
    return replace(panel, frame=frame)


def test_nothing_after_the_origin_is_visible_except_the_plan() -> None:
    panel = weekly_panel()
    task = ForecastTask("weekly", panel, 4, (4, 8))
    for window in range(2):
        other = replace(task, panel=with_other_outcomes(panel, task.origin_timestamp(window)))
        (seen, truth), (seen_too, other_truth) = list(task.windows())[window], list(other.windows())[window]
        pd.testing.assert_frame_equal(seen.history.frame, seen_too.history.frame)
        pd.testing.assert_frame_equal(seen.future, seen_too.future)
        assert (truth.targets != other_truth.targets).all()
        assert not set(seen.future) & set(OUTCOMES)
        assert (seen.history.frame[names.TIMESTAMP] < seen.origin).all()


def test_the_training_part_ends_before_the_earliest_origin() -> None:
    task = ForecastTask("weekly", weekly_panel(), 4, (4, 12, 8))
    last = task.training_panel().frame[names.TIMESTAMP].max()
    assert last == min(window.origin for window, _ in task.windows()) - pd.Timedelta(weeks=1)


def test_an_origin_of_eight_forecasts_the_last_eight_weeks() -> None:
    panel = weekly_panel()
    (window, truth), *_ = ForecastTask("weekly", panel, 8, (8,)).windows()
    assert truth.timestamps[-1] == np.datetime64(panel.last_observed)
    assert len(truth.timestamps) == 8
    rows = panel.frame[panel.frame[names.TIMESTAMP] >= window.origin]
    np.testing.assert_array_equal(truth.targets.ravel(), rows[names.UNITS])
    np.testing.assert_array_equal(window.future[names.PRICE], rows[names.PRICE])
    np.testing.assert_array_equal(window.future["feature"], rows["feature"])
    np.testing.assert_array_equal(window.future["holiday"], rows["holiday"])


def test_the_known_future_is_exactly_the_next_periods_of_every_item() -> None:
    task = ForecastTask("weekly", weekly_panel(), 5, (10,))
    (window, _), *_ = task.windows()
    counts = window.future.groupby(names.ITEM_ID)[names.TIMESTAMP].agg(["size", "min", "max"])
    assert tuple(counts.index) == window.item_ids
    assert (counts["size"] == 5).all()
    assert (counts["min"] == window.origin).all()
    assert (counts["max"] == window.origin + pd.Timedelta(weeks=4)).all()


def test_sold_out_and_unstocked_steps_are_left_out_and_counted() -> None:
    panel = weekly_panel()
    frame = panel.frame.copy()
    end = frame[names.TIMESTAMP].max()
    item = frame[names.ITEM_ID] == "s0|p0"
    frame.loc[item & (frame[names.TIMESTAMP] == end), names.INVENTORY] = frame.loc[
        item & (frame[names.TIMESTAMP] == end), names.UNITS
    ]
    empty = item & (frame[names.TIMESTAMP] == end - pd.Timedelta(weeks=1))
    frame.loc[empty, [names.INVENTORY, names.UNITS]] = 0.0
    unknown = item & (frame[names.TIMESTAMP] == end - pd.Timedelta(weeks=2))
    frame.loc[unknown, names.UNITS] = np.nan
    (window, truth), *_ = ForecastTask("weekly", replace(panel, frame=frame), 4, (4,)).windows()
    row = window.item_ids.index("s0|p0")
    assert truth.scored[row].tolist() == [True, False, False, False]
    assert truth.sold_out[row].tolist() == [False, False, True, True]
    assert truth.scored.sum() == truth.scored.size - 3


def test_items_without_history_are_counted_and_those_that_left_are_not_asked_for() -> None:
    table = weekly_table()
    stamps = table[names.TIMESTAMP]
    new = (table[names.ITEM_ID] == "s0|p1") & (stamps < stamps.max() - pd.Timedelta(weeks=2))
    gone = (table[names.ITEM_ID] == "s1|p3") & (stamps > stamps.max() - pd.Timedelta(weeks=20))
    leaving = (table[names.ITEM_ID] == "s1|p2") & (stamps > stamps.max() - pd.Timedelta(weeks=2))
    panel = load_panel(table[~(new | gone | leaving)], SCHEMA)
    (window, truth), *_ = ForecastTask("weekly", panel, 4, (4,)).windows()
    assert len(window.item_ids) == 6
    assert truth.items_without_history == 1
    part = window.future[window.future[names.ITEM_ID] == "s1|p2"]
    assert part[names.PRICE].notna().all()  # the last price is carried where the item has left
    assert truth.scored[window.item_ids.index("s1|p2")].tolist() == [True, True, False, False]


def test_a_context_length_hides_older_history_from_everyone() -> None:
    (window, _), *_ = ForecastTask("weekly", weekly_panel(), 4, (4,), context_length=10).windows()
    assert window.history.frame.groupby(names.ITEM_ID).size().eq(10).all()


def test_the_scale_is_measured_before_the_origin_with_a_lag_that_fits_the_history() -> None:
    panel = weekly_panel(weeks=120)
    (window, truth), (_, early) = ForecastTask("weekly", panel, 4, (4, 24)).windows()
    units = build_grid(window.history).units
    np.testing.assert_allclose(truth.seasonal_scales, np.abs(units[:, 52:] - units[:, :-52]).mean(axis=1))
    short = units[:, :96]
    np.testing.assert_allclose(early.seasonal_scales, np.abs(np.diff(short, axis=1)).mean(axis=1))


def test_daily_and_monthly_panels_follow_the_same_protocol() -> None:
    for step, season in (("D", 7), ("MS", 12)):
        table = weekly_table(weeks=40)
        table[names.TIMESTAMP] = np.tile(pd.date_range("2021-01-01", periods=40, freq=step), 8)
        (window, truth), *_ = ForecastTask("panel", load_panel(table, SCHEMA), 3, (3,)).windows()
        units = build_grid(window.history).units
        np.testing.assert_allclose(truth.seasonal_scales, np.abs(units[:, season:] - units[:, :-season]).mean(axis=1))


@pytest.mark.parametrize(
    "steps, origins, message",
    [(8, (4,), "fewer than 8 periods"), (4, (200,), "before the data"), (0, (4,), "at least one"), (4, (), "at least")],
)
def test_impossible_protocols_are_refused(steps: int, origins: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForecastTask("weekly", weekly_panel(weeks=60), steps, origins)


def test_periods_that_may_not_be_scored_are_not_scored() -> None:
    panel = weekly_panel(weeks=60)
    start = panel.frequency.step(panel.last_observed, -5)
    with pytest.raises(ValueError, match="may be scored"):
        ForecastTask("weekly", replace(panel, evaluate_from=start), 4, (8,))
    ForecastTask("weekly", replace(panel, evaluate_from=start), 4, (6,))


def test_the_grid_holds_the_plan_but_no_outcome_after_the_origin() -> None:
    panel = weekly_panel(weeks=60)
    (window, _), *_ = ForecastTask("weekly", panel, 4, (4,)).windows()
    grid = build_grid(window.history, window.future)
    assert grid.origin == 56
    assert grid.units.shape == (8, 60)
    assert np.isnan(grid.units[:, 56:]).all()
    assert not np.isnan(grid.price).any()
    np.testing.assert_array_equal(grid.price.ravel(), panel.frame[names.PRICE])
    np.testing.assert_array_equal(grid.promotions[..., 0].ravel(), panel.frame["feature"])
