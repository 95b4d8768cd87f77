"""Training batches: tasks are drawn per sample, hide what they say, and do not depend on who asks."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from pricing_fm.models import PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.models.channels import INDEX, PRICE_SLOT
from pricing_fm.models.price_evidence import NUM_EVIDENCE, NUM_SIBLING_EVIDENCE
from pricing_fm.panel import SeriesStore, WindowSampler
from pricing_fm.training.collate import NOTHING_HIDDEN, OPTIONAL_CHANNELS, PretrainBatchSource, TaskMix

Batch = dict[str, torch.Tensor]
MAY_BE_NAN = ("unit_costs", "future_inventory")


@pytest.fixture
def build_source(tiny_store: SeriesStore, tiny_processor: PricingFMProcessor) -> Callable[..., PretrainBatchSource]:
    """Factory `(tasks, store, batch_size, seed)`."""

    def build(
        tasks: TaskMix | None = None, store: SeriesStore = tiny_store, batch_size: int = 24, seed: int = 0
    ) -> PretrainBatchSource:
        return PretrainBatchSource([store], [1.0], tiny_processor, batch_size, 4, seed, tasks=tasks)

    return build


def assert_equal(first: Batch, second: Batch, tolerance: float = 0.0) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(values.numpy(), second[name].numpy(), rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("world_size", "num_micro_steps"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_slices_are_together_the_whole_batch_row_by_row(
    build_source: Callable[..., PretrainBatchSource], world_size: int, num_micro_steps: int
) -> None:
    source = build_source()
    whole = source.batch(3)
    for micro_step in range(num_micro_steps):
        for rank in range(world_size):
            part = micro_step * world_size + rank
            rows = slice(part, None, world_size * num_micro_steps)
            expected = {name: values[rows] for name, values in whole.items()}
            # Sums over a batch of another size may round otherwise.
            assert_equal(source.batch(3, micro_step, rank, world_size, num_micro_steps), expected, tolerance=1e-5)


def test_a_batch_depends_on_step_and_seed_alone(build_source: Callable[..., PretrainBatchSource]) -> None:
    source = build_source()
    first = source.batch(5)
    np.random.seed(1)  # noqa: NPY002 - a global generator must not matter
    torch.manual_seed(1)
    for step in (0, 9):
        source.batch(step)
    assert_equal(source.batch(5), first)
    assert_equal(build_source().batch(5), first)
    assert not torch.equal(source.batch(6)["past_values"], first["past_values"])
    assert not torch.equal(build_source(seed=1).batch(5)["past_values"], first["past_values"])


def test_a_batch_that_cannot_be_cut_evenly_is_refused(build_source: Callable[..., PretrainBatchSource]) -> None:
    with pytest.raises(ValueError, match="multiple"):
        build_source(batch_size=10).batch(0, 0, 0, 4, 1)


def perturbed_future(store: SeriesStore, source: PretrainBatchSource, columns: list[str]) -> PretrainBatchSource:
    """The same source, whose sampler changes the given future channels of every window after the draw."""

    class Perturbing:
        def windows(self, step: int, rank: int, world_size: int) -> object:
            windows = store_sampler.windows(step, rank, world_size)
            future = windows.future.copy()
            block = future[..., [INDEX[name] for name in columns]]
            future[..., [INDEX[name] for name in columns]] = np.where(np.isfinite(block), 1.3 * block + 0.7, 0.4)
            return replace(windows, future=future)

        def siblings(self, step: int, rank: int, world_size: int) -> object:
            return store_sampler.siblings(step, rank, world_size)

    store_sampler, source.sampler = source.sampler, Perturbing()
    return source


PRICES = ["price", "list_price"]
FLAGS = ["promotion_1", "promotion_2", "known_1"]


@pytest.mark.parametrize(
    ("task", "hidden"),
    [("hide_future", PRICES + FLAGS), ("hide_price", PRICES), ("hide_promotions", FLAGS)],
)
def test_what_a_task_hides_of_the_future_is_nowhere_in_the_batch(
    build_source: Callable[..., PretrainBatchSource], tiny_store: SeriesStore, task: str, hidden: list[str]
) -> None:
    always = replace(NOTHING_HIDDEN, **{task: 1.0})
    plain = build_source(always).batch(0)
    changed = perturbed_future(tiny_store, build_source(always), hidden).batch(0)
    if task == "hide_price":  # promotions stay, and the action is the pair: only its mask says that there is no price
        assert not plain["logged_action_mask"].any()
    assert_equal(plain, changed)
    seen = perturbed_future(tiny_store, build_source(NOTHING_HIDDEN), hidden).batch(0)
    assert any(not torch.equal(values, seen[name]) for name, values in build_source(NOTHING_HIDDEN).batch(0).items())


def test_tasks_are_drawn_as_often_as_the_mix_says(build_source: Callable[..., PretrainBatchSource]) -> None:
    tasks = TaskMix(
        hide_future=0.2, hide_promotions=0.0, hide_price=0.3, hide_patches=0.5, drop_channel=0.0, drop_category=0.0
    )
    source = build_source(tasks, batch_size=400)
    batch = source.batch(0)
    price_hidden = ~batch["future_known_mask"][..., PRICE_SLOT].any(1)
    promotion_hidden = ~batch["future_known_mask"][..., 1].any(1)
    assert price_hidden.float().mean() == pytest.approx(0.5, abs=0.08)
    assert promotion_hidden.float().mean() == pytest.approx(0.2, abs=0.07)
    assert 0.3 < batch["hidden_mask"].any(1).float().mean() < 0.55


def test_dropped_channels_are_gone_and_targets_are_not(
    build_source: Callable[..., PretrainBatchSource], tiny_store: SeriesStore
) -> None:
    whole, dropped = (
        build_source(NOTHING_HIDDEN).batch(0),
        build_source(replace(NOTHING_HIDDEN, drop_channel=1.0)).batch(0),
    )
    slots = {"list_price": 2, "competitor_price": 3, "cost": 4, "inventory": 5, "traffic": 6}
    assert set(slots) == set(OPTIONAL_CHANNELS)
    assert whole["past_observed_mask"][..., [2, 4, 5]].any()
    assert not dropped["past_observed_mask"][..., list(slots.values())].any()
    assert torch.isnan(dropped["unit_costs"]).all()
    for name in ("future_values", "future_observed_mask", "future_censored_mask"):
        assert torch.equal(whole[name], dropped[name])
    assert whole["future_censored_mask"].any()  # stock still tells which targets are bounds


def test_categories_are_dropped_and_the_cadence_is_not(build_source: Callable[..., PretrainBatchSource]) -> None:
    whole, dropped = (
        build_source(NOTHING_HIDDEN).batch(0),
        build_source(replace(NOTHING_HIDDEN, drop_category=1.0)).batch(0),
    )
    assert (whole["static_categorical_features"][:, 1:4] > 0).all()
    assert (dropped["static_categorical_features"][:, 1:] == 0).all()
    assert torch.equal(whole["static_categorical_features"][:, 0], dropped["static_categorical_features"][:, 0])
    assert torch.equal(whole["past_time_features"], dropped["past_time_features"])


def test_a_shifted_window_stands_at_another_time_of_the_year_and_is_the_same_else(
    build_source: Callable[..., PretrainBatchSource],
) -> None:
    plain = build_source(tasks=NOTHING_HIDDEN).batch(0)
    moved = build_source(tasks=replace(NOTHING_HIDDEN, shift_calendar=1.0)).batch(0)
    calendar = ["past_time_features", "future_time_features"]
    apart = [(plain[name] != moved[name]).any(-1).any(-1) for name in calendar]
    assert torch.equal(apart[0], apart[1])
    assert apart[0].double().mean() > 0.9  # one shift in 52 is none
    for name in ("past_values", "future_values", "candidate_prices", "scale", "logged_actions"):
        assert torch.equal(plain[name], moved[name]), name
    # As far from each other as before: the whole window moved.
    angles = [torch.atan2(batch[name][..., 0], batch[name][..., 1]) for batch in (plain, moved) for name in calendar]
    before, after = ((future[:, :1] - past[:, -1:]) for past, future in (angles[:2], angles[2:]))
    torch.testing.assert_close(torch.cos(before), torch.cos(after), rtol=0, atol=0.02)


def test_a_hidden_stretch_is_a_target_and_no_input(build_source: Callable[..., PretrainBatchSource]) -> None:
    source = build_source(replace(NOTHING_HIDDEN, hide_patches=1.0), batch_size=200)
    batch, plain = source.batch(0), build_source(NOTHING_HIDDEN, batch_size=200).batch(0)
    hidden = batch["hidden_mask"]
    assert hidden.any(1).float().mean() > 0.7
    assert not (batch["past_observed_mask"][..., 0] & hidden).any()
    units = torch.sinh(batch["hidden_values"]) * batch["scale"][:, None]
    original = torch.sinh(plain["past_values"][..., 0]) * plain["scale"][:, None]
    torch.testing.assert_close(units[hidden], original[hidden], rtol=1e-3, atol=1e-3)
    assert (batch["hidden_values"][~hidden] == 0).all()
    contiguous = hidden.int().diff(dim=1).clamp(min=0).sum(1) + hidden[:, 0].int()
    gaps = (~plain["past_observed_mask"][..., 0]).any(1)
    assert (contiguous[~gaps] <= 1).all()
    assert hidden.sum(1).max() <= 6  # a third of sixteen periods


def test_something_of_the_history_always_stays_to_set_the_scale(
    build_source: Callable[..., PretrainBatchSource], tiny_store: SeriesStore
) -> None:
    """Every item sold in two periods of three at most: a stretch could cover all of them."""
    values = tiny_store.values.copy()
    values[np.arange(len(values)) % 9 > 1, INDEX["units"]] = np.nan
    source = build_source(replace(NOTHING_HIDDEN, hide_patches=1.0), replace(tiny_store, values=values), batch_size=200)
    batch = source.batch(0)
    plain = build_source(NOTHING_HIDDEN, replace(tiny_store, values=values), batch_size=200).batch(0)
    assert (plain["past_observed_mask"][..., 0].sum(1) <= 2).any()
    had_some, has_some = (part["past_observed_mask"][..., 0].any(1) for part in (plain, batch))
    assert torch.equal(had_some, has_some)
    assert batch["hidden_mask"].any()


def test_periods_without_stock_are_no_targets_of_reconstruction(
    build_source: Callable[..., PretrainBatchSource], tiny_store: SeriesStore
) -> None:
    values = tiny_store.values.copy()
    values[::3, INDEX["inventory"]], values[::3, INDEX["units"]] = 0.0, 0.0
    source = build_source(replace(NOTHING_HIDDEN, hide_patches=1.0), replace(tiny_store, values=values), batch_size=100)
    batch = source.batch(0)
    assert batch["hidden_mask"].any()
    assert (batch["hidden_values"][batch["hidden_mask"]] > 0).float().mean() > 0.9


def test_mixes_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="drop_channel"):
        TaskMix(drop_channel=1.5)
    with pytest.raises(ValueError, match="exclude"):
        TaskMix(hide_future=0.5, hide_promotions=0.4, hide_price=0.2)


def test_the_network_learns_from_these_batches(
    build_source: Callable[..., PretrainBatchSource],
    build_tiny_model: Callable[..., PricingFMForPreTraining],
) -> None:
    model, source = build_tiny_model(spread=0.0).train(), build_source(batch_size=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    # Tasks and windows differ from batch to batch, so the same batches are compared.
    def average_loss() -> float:
        with torch.no_grad():
            return float(np.mean([model(**source.batch(step)).loss.item() for step in range(10)]))

    before = average_loss()
    for step in range(30):
        loss = model(**source.batch(step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert average_loss() < 0.95 * before


def test_siblings_are_other_items_of_the_group_at_the_same_origin(tiny_store: SeriesStore) -> None:
    groups = np.arange(len(tiny_store.item_ids)) // 3 - 1  # the first three have no siblings
    store = replace(tiny_store, groups=groups)
    sampler = WindowSampler([store], [1.0], 32, 16, 4, seed=0)
    windows, (siblings, owners) = sampler.windows(4), sampler.siblings(4, per_window=5)
    number = {item: place for place, item in enumerate(store.item_ids)}
    pairs = [(number[windows.item_ids[owner]], number[item]) for owner, item in zip(owners, siblings.item_ids)]
    assert pairs
    assert all(groups[own] == groups[other] >= 0 and own != other for own, other in pairs)
    assert np.array_equal(windows.past_timestamps[owners], siblings.past_timestamps)
    assert np.isnan(siblings.future[..., INDEX["units"]]).all() or siblings.future.shape[1] == 1
    has_group = np.array([groups[number[item]] >= 0 for item in windows.item_ids])
    counts = np.bincount(owners, minlength=32)
    assert (counts[~has_group] == 0).all()
    assert counts.max() == 2
    # Slices of the batch draw the siblings that the whole batch draws.
    parts = [sampler.siblings(4, rank, 2) for rank in range(2)]
    together = {
        (2 * owner + rank, item) for rank, (part, own) in enumerate(parts) for owner, item in zip(own, part.item_ids)
    }
    assert together == set(zip(owners.tolist(), siblings.item_ids))


def test_what_siblings_say_enters_the_batch_and_can_be_hidden(
    tiny_store: SeriesStore, build_source: Callable[..., PretrainBatchSource]
) -> None:
    shown = build_source(NOTHING_HIDDEN).batch(0)
    hidden = build_source(replace(NOTHING_HIDDEN, hide_siblings=1.0)).batch(0)
    first = 8 + NUM_EVIDENCE  # after levels and habits, and what regressions of the item itself say
    place = slice(first, first + NUM_SIBLING_EVIDENCE)
    assert shown["static_real_mask"][:, place].any()
    assert not hidden["static_real_mask"][:, place].any()
    assert torch.equal(shown["static_real_mask"][:, : place.start], hidden["static_real_mask"][:, : place.start])


def test_a_plain_simulated_future_becomes_a_question_for_its_elasticity(
    tiny_store: SeriesStore, tiny_processor: PricingFMProcessor
) -> None:
    truth = np.linspace(0.5, 4.0, len(tiny_store.values)).astype(np.float32)
    store = replace(tiny_store, elasticity=truth)
    asked = PretrainBatchSource([store], [1.0], tiny_processor, 16, 4, 0, replace(NOTHING_HIDDEN, ask_elasticity=1.0))
    plain = PretrainBatchSource([store], [1.0], tiny_processor, 16, 4, 0, NOTHING_HIDDEN)
    question, log = asked.batch(0), plain.batch(0)
    flagged = question["future_elasticity_mask"].any(1)
    assert flagged.any()
    # Futures that were drawn at random anyway keep their sales.
    assert torch.equal(question["future_observed_mask"][~flagged], log["future_observed_mask"][~flagged])
    turned = flagged & ~log["future_elasticity_mask"].any(1)
    assert turned.any()
    assert not question["future_observed_mask"][turned].any()
    assert log["future_observed_mask"][turned].any(1).all()
    assert set(question["future_elasticity"][question["future_elasticity_mask"]].tolist()) <= set(truth.tolist())
