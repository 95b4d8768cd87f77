"""Few-shot tasks: what is visible of a category, what is not, and that queries lie after everything learned from."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.panel import SeriesStore
from pricing_fm.panel.frequency import Frequency
from pricing_fm.training.few_shot_tasks import (
    Category,
    FewShotTask,
    TaskArguments,
    build_task,
    find_categories,
    select_categories,
)

ARGUMENTS = TaskArguments(weeks=(0, 4, 13), query_weeks=4)
PATCH = 8
UNITS, PRICE, LIST = (CHANNEL_INDEX[name] for name in ("units", "price", "list_price"))
Build = Callable[..., FewShotTask]


@pytest.fixture
def categories(tiny_store: SeriesStore) -> list[Category]:
    return find_categories(tiny_store, 13, 4, seed=0)


@pytest.fixture
def build(tiny_store: SeriesStore, categories: list[Category], tiny_processor: PricingFMProcessor) -> Build:
    def call(weeks: int, store: SeriesStore = tiny_store, **changes: object) -> FewShotTask:
        return build_task(store, categories, tiny_processor, weeks, ARGUMENTS, PATCH, **changes)

    return call


def changed(store: SeriesStore, categories: list[Category], first: int, last: int) -> SeriesStore:
    """Every number of the weeks `first` up to and not including `last`, relative to each origin, is another one."""
    values = store.values.copy()
    starts = store.frequency.locate(np.asarray(store.timestamps[store.offsets[:-1]]))[0]
    for category in categories:
        for item in category.items:
            begin = store.offsets[item] + category.origin - starts[item]
            rows = slice(max(begin + first, store.offsets[item]), min(begin + last, store.offsets[item + 1]))
            values[rows, :4] = values[rows, :4] * 1.7 + 3
    return replace(store, values=values)


def differing(one: FewShotTask, other: FewShotTask) -> set[str]:
    parts = vars(one)
    return {
        part
        for part in parts
        if any(not torch.equal(one_of, vars(other)[part][name]) for name, one_of in _finite(parts[part]).items())
    }


def _finite(part: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in part.items() if not tensor.is_floating_point() or tensor.isfinite().all()}


def test_the_origin_is_where_prices_begin_to_be_drawn(tiny_store: SeriesStore, categories: list[Category]) -> None:
    assert [len(category.items) for category in categories] == [4, 4, 4]
    drawn = tiny_store.values[:, CHANNEL_INDEX["price_is_intervention"]] > 0
    for category in categories:
        weeks = [
            tiny_store.frequency.locate(np.asarray(tiny_store.timestamps[row]))[0]
            for item in category.items
            for row in range(tiny_store.offsets[item], tiny_store.offsets[item + 1])
            if drawn[row]
        ]
        assert category.origin == min(weeks)


@pytest.mark.parametrize("weeks", [4, 13])
def test_weeks_before_the_visible_ones_change_nothing_at_all(tiny_store, categories, build: Build, weeks: int) -> None:
    task, earlier = build(weeks), changed(tiny_store, categories, -60, -weeks)
    assert differing(task, build(weeks, earlier)) == set()
    first_visible = changed(tiny_store, categories, -weeks, 1 - weeks)
    assert differing(task, build(weeks, first_visible)) == {"learned", "held", "support", "query"}


def test_without_visible_weeks_no_past_week_changes_anything(tiny_store, categories, build: Build) -> None:
    task = build(0)
    assert differing(task, build(0, changed(tiny_store, categories, -60, 0))) == set()
    assert task.support["scale"].shape[1] == task.held["scale"].shape[1] == 0
    assert not task.query["past_observed_mask"].any()


@pytest.mark.parametrize("weeks", [4, 13])
def test_what_is_learned_from_knows_nothing_of_the_weeks_that_judge(tiny_store, categories, build, weeks: int) -> None:
    task, held = build(weeks), ARGUMENTS.held_weeks(weeks)
    assert differing(task, build(weeks, changed(tiny_store, categories, 0, 4))) == {"query"}
    after = differing(task, build(weeks, changed(tiny_store, categories, -held, 0)))
    assert "learned" not in after
    assert {"held", "support", "query"} <= after


def test_categories_of_other_sizes_are_filled_up_with_rows_that_do_not_count(build: Build) -> None:
    task = build(4, rows=6)
    weights = task.query["loss_weights"]
    assert weights.shape == (3, 6)
    assert (weights[:, 4:] == 0).all()
    torch.testing.assert_close(weights.sum(1), torch.full((3,), 6.0))
    assert torch.equal(task.query["scale"][:, :4], build(4).query["scale"])
    with pytest.raises(ValueError, match="expected 1 to 3"):
        build(4, rows=3)


def test_a_task_is_made_of_its_categories(build: Build) -> None:
    chosen = select_categories(build(4), torch.tensor([2, 0]))
    assert torch.equal(chosen.support["scale"], build(4).support["scale"][[2, 0]])


def test_futures_inside_the_support_end_with_it(build: Build) -> None:
    for weeks in (4, 13):
        task, held = build(weeks), ARGUMENTS.held_weeks(weeks)
        rows = task.support["future_observed_mask"].shape[1] // 4
        first = task.support["future_observed_mask"][:, 4 * (rows - 1) :]
        assert first.any()
        assert not first[..., min(weeks, 4) :].any()
        assert not task.held["future_observed_mask"][..., held:].any()


def test_days_are_refused_and_so_are_categories_that_are_too_short(tiny_store: SeriesStore) -> None:
    with pytest.raises(PanelError, match="none with 60 weeks"):
        find_categories(tiny_store, 60, 4, seed=0)
    with pytest.raises(PanelError, match="count periods of .W."):
        find_categories(replace(tiny_store, frequency=Frequency.parse("D")), 4, 4, seed=0)


def test_settings_that_leave_nothing_to_learn_from_are_refused() -> None:
    for weeks in ((2,), (-1,), (13, 4), ()):
        with pytest.raises(ValueError, match="weeks"):
            TaskArguments(weeks=weeks)
    assert [TaskArguments().held_weeks(k) for k in (3, 4, 13, 26)] == [1, 1, 3, 6]
