"""From raw units to network inputs: scales, masks, references, calendar, statics, targets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pricing_fm import names
from pricing_fm.models import PricingFMProcessor
from pricing_fm.models.calendar_features import calendar_features
from pricing_fm.models.channels import INDEX, INVENTORY_SLOT, PAST_PRICE_CHANNEL, PRICE_SLOT, RAW_CHANNELS
from pricing_fm.models.hashing import bootstrap_weights, stable_bucket
from pricing_fm.panel import RawWindows
from pricing_fm.panel.windows import hash_item_id

Batch = dict[str, torch.Tensor]
LIST_SLOT, INTERVENTION_SLOT = 0, 9


def window(
    past: dict[str, Any] | None = None, future: dict[str, Any] | None = None, steps: int = 8, ahead: int = 3
) -> RawWindows:
    """One weekly window with the given channels; whatever is not given is missing."""
    arrays = []
    for length, channels in ((steps, past or {}), (ahead, future or {})):
        array = np.full((1, length, len(RAW_CHANNELS)), np.nan, dtype=np.float32)
        for name, values in channels.items():
            array[0, :, INDEX[name]] = values
        arrays.append(array)
    weeks = np.datetime64("2024-01-01", "s") + np.arange(steps + ahead) * np.timedelta64(7 * 86400, "s")
    categories = np.full((1, len(names.STATIC_CATEGORIES)), None, dtype=object)
    categories[0, 0] = "W"
    return RawWindows(
        past=arrays[0],
        past_timestamps=weeks[None, :steps],
        future=arrays[1],
        future_timestamps=weeks[None, steps:],
        static_categories=categories,
        static_reals=np.full((1, 4), np.nan, dtype=np.float32),
        item_ids=("a",),
        item_keys=np.array([hash_item_id("a")], dtype=np.uint64),
    )


def encode(past: dict[str, Any], future: dict[str, Any] | None = None, **settings: Any) -> Batch:
    return PricingFMProcessor(context_length=8, **settings)(window(past, future))


# -- contract ---------------------------------------------------------------------------------------------------------


def test_the_folder_that_stands_alone_orders_channels_as_the_rest_of_the_package() -> None:
    assert RAW_CHANNELS == names.CHANNELS


def test_the_batch_has_the_shapes_and_types_that_the_network_reads(tiny_batch: Batch, tiny_config: Any) -> None:
    assert {len(value) for value in tiny_batch.values()} == {12}
    assert tiny_batch["past_values"].shape == (12, 16, tiny_config.num_past_channels)
    assert tiny_batch["future_known_values"].shape == (12, 4, tiny_config.num_known_channels)
    assert tiny_batch["past_time_features"].shape == (12, 16, tiny_config.num_time_features)
    assert tiny_batch["static_real_features"].shape == (12, tiny_config.num_static_reals)
    assert tiny_batch["static_categorical_features"].shape == (12, tiny_config.num_static_categories)
    assert tiny_batch["decision_features"].shape == (12, 4, tiny_config.num_decision_features)
    assert {value.dtype for value in tiny_batch.values()} == {torch.float32, torch.int64, torch.bool}
    may_be_missing = {"unit_costs", "future_inventory"}
    assert all(torch.isfinite(value).all() for name, value in tiny_batch.items() if name not in may_be_missing)


def test_a_saved_processor_is_the_same_processor(tiny_windows: RawWindows, tmp_path: Path) -> None:
    processor = PricingFMProcessor(
        context_length=16, covariates="price", default_scale=3.0, step_correlation=0.4, trained_on_interventions=True
    )
    processor.save_pretrained(tmp_path)
    loaded = PricingFMProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    first, second = processor(tiny_windows), loaded(tiny_windows)
    assert all(torch.equal(first[name], second[name]) or name in ("unit_costs", "future_inventory") for name in first)
    with pytest.raises(ValueError, match="covariates"):
        PricingFMProcessor(covariates="all")


def test_a_batch_is_made_of_its_windows_alone(tiny_processor: PricingFMProcessor, tiny_windows: RawWindows) -> None:
    order = np.array([7, 2, 11])
    whole, part = tiny_processor(tiny_windows), tiny_processor(tiny_windows.select(order))
    for name, values in part.items():
        # Sums over a batch of another size may round otherwise.
        np.testing.assert_allclose(values.numpy(), whole[name][order].numpy(), rtol=0, atol=1e-5, err_msg=name)


# -- scale ------------------------------------------------------------------------------------------------------------


def test_the_scale_is_the_mean_of_what_sold_freely() -> None:
    units = [4.0, 6.0, 0.0, 10.0, np.nan, 20.0, 30.0, np.nan]
    stock = [9.0, 9.0, 0.0, 50.0, 50.0, 20.0, 99.0, 9.0]  # the third week had none, the sixth sold out
    batch = encode({"units": units, "inventory": stock})
    assert batch["scale"].item() == pytest.approx((4 + 6 + 10 + 30) / 4)
    observed = batch["past_observed_mask"][0, :, 0].tolist()
    assert observed == [True, True, False, True, False, True, True, False]
    np.testing.assert_allclose(batch["past_values"][0, 0, 0], np.arcsinh(4 / 12.5), rtol=1e-6)
    sold_out_channel = 19
    assert batch["past_values"][0, :, sold_out_channel].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


def test_an_item_that_always_sold_out_is_scaled_by_what_it_sold() -> None:
    assert encode({"units": 5.0, "inventory": 5.0})["scale"].item() == 5.0


def test_an_item_that_never_sold_and_one_that_was_never_seen() -> None:
    assert encode({"units": 0.0})["scale"].item() == pytest.approx(0.05)
    unseen = encode({}, default_scale=7.0)
    assert unseen["scale"].item() == 7.0
    assert not unseen["past_observed_mask"].any()
    assert not unseen["static_real_mask"][0, :1].any()


def test_units_in_thousandths_keep_their_shape() -> None:
    kilos = np.array([2.0, 0.0, 3.0, 0.0, 0.0, 1.0, 4.0, 0.0])
    whole, tonnes = encode({"units": kilos}), encode({"units": kilos / 1000})
    torch.testing.assert_close(tonnes["past_values"], whole["past_values"], rtol=1e-5, atol=1e-6)
    assert tonnes["scale"].item() == pytest.approx(whole["scale"].item() / 1000)
    assert whole["units_are_whole"].item()
    assert not tonnes["units_are_whole"].item()


def test_one_period_of_history_is_enough_for_finite_inputs() -> None:
    units = [np.nan] * 7 + [3.0]
    batch = encode({"units": units, "price": [np.nan] * 7 + [2.0]}, {"price": 2.0, "units": 1.0})
    assert all(
        torch.isfinite(value).all() for name, value in batch.items() if name not in ("unit_costs", "future_inventory")
    )
    assert batch["scale"].item() == 3.0


def test_held_out_items_and_weeks_do_not_move_what_training_windows_look_like(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    """Held-out sales and prices times ten: the inputs of training windows are identical."""
    held_out = np.arange(12) >= 8
    past, future = tiny_windows.past.copy(), tiny_windows.future.copy()
    past[held_out], future[held_out] = past[held_out] * 10, future[held_out] * 10
    inputs = tiny_processor(tiny_windows)
    changed_items = tiny_processor(replace(tiny_windows, past=past, future=future))
    later = tiny_windows.future.copy()
    later[..., INDEX["units"]] *= 10
    changed_weeks = tiny_processor(replace(tiny_windows, future=later))
    for name, values in inputs.items():
        np.testing.assert_array_equal(values[~held_out].numpy(), changed_items[name][~held_out].numpy(), err_msg=name)
        if name not in ("future_values", "future_censored_mask"):  # the targets themselves
            np.testing.assert_array_equal(values.numpy(), changed_weeks[name].numpy(), err_msg=name)


# -- prices -----------------------------------------------------------------------------------------------------------


def test_the_reference_is_a_price_that_was_charged_lately() -> None:
    prices = [9.0, 2.49, 2.49, 1.99, 1.99, 2.79, 2.49, 1.99]
    batch = encode({"units": 1.0, "price": prices})
    assert batch["reference_price"].item() == pytest.approx(2.49)
    recent = PricingFMProcessor(context_length=60)
    long = np.r_[np.full(30, 50.0), np.full(30, 4.0)]
    assert recent(window({"price": long}, steps=60))["reference_price"].item() == 4.0


def test_a_price_that_was_only_carried_along_is_no_evidence() -> None:
    imputed = [0, 0, 0, 0, 1, 1, 1, 1]
    batch = encode({"units": 1.0, "price": [3.0] * 4 + [5.0] * 4, "price_imputed": imputed})
    assert batch["reference_price"].item() == 3.0
    changes_slot = 2
    assert batch["static_real_features"][0, changes_slot] == 0


def test_the_same_percentage_is_the_same_number_for_every_item() -> None:
    batch = encode({"units": 1.0, "price": [10.0] * 7 + [9.0]}, {"price": 9.0, "list_price": 11.0})
    assert batch["past_values"][0, -1, PAST_PRICE_CHANNEL].item() == pytest.approx(np.log(0.9) / 0.25, rel=1e-5)
    assert batch["candidate_prices"][0, 0, 0].item() == pytest.approx(np.log(0.9), rel=1e-5)
    assert batch["future_known_values"][0, 0, LIST_SLOT].item() == pytest.approx(np.log(1.1) / 0.25, rel=1e-5)


def test_candidate_prices_enter_no_statistic() -> None:
    past = {"units": [5.0, 7.0] * 4, "price": [10.0, 9.0] * 4}
    plain, dear = (encode(past, {"price": price}) for price in (10.0, 17.0))
    differing = {name for name in plain if not torch.equal(plain[name].nan_to_num(), dear[name].nan_to_num())}
    assert differing == {"candidate_prices", "logged_actions", "current_actions", "decision_features"}
    assert torch.equal(plain["decision_features"][:, 0], dear["decision_features"][:, 0])


def test_without_any_price_the_first_planned_list_price_is_the_reference_however_long_the_plan() -> None:
    for ahead in (1, 3):
        plan = {"list_price": [8.0, 9.0, 12.0][:ahead]}
        batch = PricingFMProcessor(context_length=8)(window({"units": 3.0}, plan, ahead=ahead))
        assert batch["reference_price"].item() == 8.0
    both = PricingFMProcessor(context_length=8)(window({"units": 3.0, "list_price": 7.0}, {"list_price": 12.0}))
    assert both["reference_price"].item() == 7.0


def test_an_item_whose_price_was_never_seen_has_no_price_rather_than_a_currency() -> None:
    for price in (3.0, 300.0):
        plan = {"price": price, "competitor_price": price, "cost": price / 2, "units": 4.0}
        batch = encode({"units": 3.0, "cost": price / 2}, plan)
        assert not batch["future_known_mask"][0, :, PRICE_SLOT].any()
        assert not batch["past_observed_mask"][0, :, 1:5].any()
        assert not batch["logged_action_mask"].any()
        assert (batch["candidate_prices"] == 0).all()
        assert (batch["decision_features"][..., :4] == 0).all()
        assert (batch["decision_features"][..., 6:] == 0).all()
        assert not batch["static_real_mask"][0, [3, 7]].any()


@pytest.mark.parametrize("scale", [1e-3, 1e6])
def test_tiny_and_huge_prices_and_quantities_stay_finite(scale: float) -> None:
    past = {"units": np.arange(8) * scale, "price": scale * np.array([1.0, 90.0] * 4), "cost": 0.0, "traffic": 1e9}
    batch = encode(past | {"inventory": 1e8}, {"price": 50 * scale, "units": 1e7, "inventory": 1e8, "cost": scale})
    assert all(torch.isfinite(value.double()).all() for value in batch.values())
    assert all(value.abs().max() < 1e3 for name, value in batch.items() if name.endswith(("features", "known_values")))


# -- masks and targets ------------------------------------------------------------------------------------------------


def test_missing_channels_are_masked_and_never_filled_with_zero() -> None:
    batch = encode({"units": 2.0, "price": [1.0] * 4 + [np.nan] * 4, "promotion_1": [0, 1] * 4})
    mask = batch["past_observed_mask"][0]
    assert mask[:, 0].all()
    assert mask[:, PAST_PRICE_CHANNEL].tolist() == [True] * 4 + [False] * 4
    assert mask[:, 7].all()
    assert not mask[:, [2, 3, 4, 5, 6, 8, 15, 19]].any()


def test_a_period_before_the_items_start_is_no_period_at_all() -> None:
    batch = encode({"units": [np.nan] * 3 + [1.0] * 5})
    assert batch["past_observed_mask"][0].any(-1).tolist() == [False] * 3 + [True] * 5


def test_zero_stock_says_nothing_and_a_sold_out_period_is_a_bound() -> None:
    batch = encode({"units": 2.0}, {"units": [0.0, 4.0, np.nan], "inventory": [0.0, 4.0, 9.0]})
    assert batch["future_observed_mask"][0].tolist() == [False, True, False]
    assert batch["future_censored_mask"][0].tolist() == [False, True, False]
    assert batch["future_values"][0].tolist() == [0.0, 4.0, 0.0]


def test_only_the_stock_at_the_origin_is_known() -> None:
    batch = encode({"units": 2.0}, {"inventory": 5.0})
    assert batch["future_known_mask"][0, :, INVENTORY_SLOT].tolist() == [True, False, False]


def test_a_log_without_the_mark_is_a_log() -> None:
    assert encode({"units": 2.0})["future_known_mask"][0, :, INTERVENTION_SLOT].all()
    marked = encode({"units": 2.0}, {"price_is_intervention": 1.0})
    assert (marked["future_known_values"][0, :, INTERVENTION_SLOT] == 1).all()


def test_flags_stay_flags_and_numbers_become_relative_to_their_own_past() -> None:
    past = {"units": 1.0, "known_1": [0, 1, 0, 0, 1, 0, 0, 0], "known_2": 20.0, "known_3": [0, 2] * 4}
    batch = encode(past, {"known_1": 1.0, "known_2": 40.0, "known_3": 3.0})
    known = batch["future_known_values"][0, 0, 5:8]
    np.testing.assert_allclose(known, [1.0, np.arcsinh(2.0), np.arcsinh(3.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("covariates", "sees_price", "sees_promotion"),
    [("both", True, True), ("price", True, False), ("flags", False, True), ("none", False, False)],
)
def test_an_ablation_hides_what_it_says(
    covariates: str, sees_price: bool, sees_promotion: bool, tiny_windows: RawWindows
) -> None:
    batch = PricingFMProcessor(context_length=16, covariates=covariates)(tiny_windows)
    assert batch["past_observed_mask"][..., 1:3].any().item() == sees_price
    assert batch["future_known_mask"][..., PRICE_SLOT].any().item() == sees_price
    assert (batch["candidate_prices"] != 0).any().item() == sees_price
    assert batch["past_observed_mask"][..., 7].any().item() == sees_promotion
    assert batch["future_known_mask"][..., 1].any().item() == sees_promotion
    assert batch["static_real_mask"][:, 3].any().item() == sees_price


# -- calendar, hashes -------------------------------------------------------------------------------------------------


def test_the_calendar_shows_what_a_cadence_can_see() -> None:
    stamps = np.array(["2024-02-29T18:00", "2023-12-31T00:00"], dtype="datetime64[s]")
    shown = {name: (calendar_features(stamps, name) != 0).any(0) for name in ("h", "D", "W", "MS", "2W", "W-WED")}
    week, day, month = slice(8, 12), slice(12, 16), slice(16, 18)
    assert shown["h"][week].all()
    assert shown["h"][day].any()
    assert not shown["h"][month].any()
    assert shown["D"][week].all()
    assert not shown["D"][day].any()
    assert shown["D"][month].all()
    for name in ("W", "MS", "2W", "W-WED"):
        assert shown[name][:8].all()
        assert not shown[name][8:].any()


def test_the_calendar_repeats_itself_where_it_should() -> None:
    year, monday = np.array(["2023-05-01", "2025-05-01"], dtype="datetime64[s]"), np.datetime64("2024-01-01", "s")
    features = calendar_features(year, "W")
    np.testing.assert_array_equal(features[0], features[1])
    days = calendar_features(monday + np.arange(14) * np.timedelta64(86400, "s"), "D")
    np.testing.assert_allclose(days[:7, 8:12], days[7:, 8:12], atol=1e-6)
    np.testing.assert_allclose(days[0, 8:12], [0, 1, 0, 1], atol=1e-6)  # the week starts on Monday
    shape = calendar_features(np.broadcast_to(year[:, None], (2, 3)), "W").shape
    assert shape == (2, 3, 18)


def test_windows_of_different_cadences_may_share_a_batch(tiny_windows: RawWindows) -> None:
    mixed = tiny_windows.static_categories.copy()
    mixed[::2, 0] = "D"
    processor = PricingFMProcessor(context_length=16)
    batch, weekly = processor(replace(tiny_windows, static_categories=mixed)), processor(tiny_windows)
    assert torch.equal(batch["past_time_features"][1::2], weekly["past_time_features"][1::2])
    assert (batch["past_time_features"][::2, :, 8:12] != 0).any()


def test_hashes_are_the_same_on_every_machine() -> None:
    """Computed once; a change would scramble the embeddings of every published model."""
    assert [stable_bucket(1, value, 2048) for value in ("CRACKERS", "Ölsardinen", None, float("nan"))] == [
        1218,
        404,
        0,
        0,
    ]
    np.testing.assert_allclose(
        bootstrap_weights(np.array([hash_item_id("store-1|upc-2")], np.uint64), 3),
        [[2.0565515, 0.8751125, 0.2214058]],
        rtol=1e-6,
    )


def test_hashes_tell_slots_apart_and_fill_the_table() -> None:
    values = [f"value-{i}" for i in range(4000)]
    buckets = np.array([stable_bucket(1, value, 512) for value in values])
    assert buckets.min() == 1
    assert buckets.max() == 511
    assert np.bincount(buckets).max() < 30
    assert sum(stable_bucket(2, value, 512) == bucket for value, bucket in zip(values, buckets, strict=True)) < 40


def test_bootstrap_weights_depend_on_the_item_alone_and_are_exponential() -> None:
    keys = np.array([hash_item_id(f"item-{i}") for i in range(4000)], dtype=np.uint64)
    weights = bootstrap_weights(keys, 8)
    np.testing.assert_array_equal(bootstrap_weights(keys[[5, 3]], 8), weights[[5, 3]])
    np.testing.assert_array_equal(bootstrap_weights(keys, 3), weights[:, :3])
    assert weights.mean() == pytest.approx(1, abs=0.02)
    assert weights.std() == pytest.approx(1, abs=0.03)
    assert weights.min() >= 0
    correlation = np.corrcoef(weights.T)
    assert np.abs(correlation - np.eye(8)).max() < 0.06
