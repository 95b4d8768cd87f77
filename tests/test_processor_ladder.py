"""The price ladder and the recursion before a decision: exact to the cent, and the same forwards and in closed form."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pricing_fm.models import PricingFMConfig, PricingFMProcessor
from pricing_fm.models.channels import INDEX
from pricing_fm.models.recursion import REFERENCE_MEMORY, states_before
from pricing_fm.panel import RawWindows

PROCESSOR = PricingFMProcessor()
NUM_RUNGS = PROCESSOR.num_rungs
REFERENCE_RUNG = PricingFMConfig().reference_rung
cents = st.integers(1, 10**7)


# -- ladder -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=200)
@given(reference_cents=cents)
def test_the_reference_rung_is_the_reference_price_to_the_cent(reference_cents: int) -> None:
    reference = np.array([reference_cents / 100])
    prices = PROCESSOR.rung_prices(reference)
    assert prices[0, REFERENCE_RUNG] == reference_cents / 100
    assert (np.diff(prices) >= 0).all()
    assert (np.round(prices * 100) / 100 == prices).all()
    assert prices.min() >= 0.01


@settings(deadline=None, derandomize=True, max_examples=200)
@given(reference_cents=cents)
def test_a_ladder_price_goes_to_its_rung_and_back_to_the_same_cent(reference_cents: int) -> None:
    reference = np.array([reference_cents / 100])
    prices = PROCESSOR.rung_prices(reference)
    rungs = PROCESSOR.rungs(prices, reference)
    np.testing.assert_array_equal(np.take_along_axis(prices, rungs, axis=1), prices)
    if reference_cents >= 400:  # from four units on no two rungs share a cent
        np.testing.assert_array_equal(rungs[0], np.arange(NUM_RUNGS))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(reference_cents=cents, ratio=st.floats(0.5, 1.41))
def test_any_price_on_the_ladders_range_is_within_half_a_rung(reference_cents: int, ratio: float) -> None:
    assume(reference_cents >= 100)
    reference = np.array([reference_cents / 100])
    rung = PROCESSOR.rungs(reference * ratio, reference)
    assert (
        abs(PROCESSOR.ladder_start + rung[0] * PROCESSOR.ladder_step - np.log(ratio))
        <= PROCESSOR.ladder_step / 2 + 1e-9
    )


def test_prices_beyond_the_ladder_go_to_its_ends() -> None:
    rungs = PROCESSOR.rungs(np.array([[0.01, 10.0, 1e6]]), np.array([10.0]))
    assert rungs.tolist() == [[0, REFERENCE_RUNG, NUM_RUNGS - 1]]


def test_other_currencies_have_other_smallest_units() -> None:
    yen = PROCESSOR.rung_prices(np.array([480.0]), decimals=0)
    assert (yen == np.round(yen)).all()
    assert yen[0, REFERENCE_RUNG] == 480
    fuel = PROCESSOR.rung_prices(np.array([1.459]), decimals=3)
    assert fuel[0, REFERENCE_RUNG] == 1.459


# -- recursion --------------------------------------------------------------------------------------------------------

maybe_price = st.one_of(st.none(), st.floats(-0.7, 0.35))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(past=st.lists(maybe_price, min_size=1, max_size=40), future=st.lists(maybe_price, min_size=1, max_size=6))
def test_the_state_before_each_step_is_what_a_plain_loop_finds(past: list[Any], future: list[Any]) -> None:
    promoted = [index % 3 == 0 for index in range(len(past) + len(future))]
    arrays = [np.array([values], dtype=np.float64) for values in (past, future)]
    flags = np.array([promoted])
    state = states_before(*arrays, flags[:, : len(past)], flags[:, len(past) :])
    last, memory, depth, last_promoted, started = 0.0, 0.0, 0.0, False, False
    for step, price in enumerate([*past, *future]):
        if step >= len(past):
            place = (0, step - len(past))
            assert state.last[place] == pytest.approx(last)
            assert state.memory[place] == pytest.approx(memory, abs=1e-12)
            assert state.depth[place] == pytest.approx(depth, abs=1e-12)
            assert (state.last_promoted[place], state.started[place]) == (last_promoted, started)
        if price is not None:
            memory = REFERENCE_MEMORY * memory + (1 - REFERENCE_MEMORY) * price if started else price
            depth = REFERENCE_MEMORY * depth + (1 - REFERENCE_MEMORY) * min(price, 0.0)
            last, last_promoted, started = price, promoted[step], True


def test_the_logged_action_is_rung_and_promotion_and_the_current_one_is_that_of_the_week_before(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    batch = tiny_processor(tiny_windows)
    prices = np.concatenate([tiny_windows.past, tiny_windows.future], axis=1)[:, -5:, INDEX["price"]].astype(float)
    flags = np.concatenate([tiny_windows.past, tiny_windows.future], axis=1)[:, -5:, INDEX["promotion_1"]]
    rungs = tiny_processor.rungs(prices, batch["reference_price"].numpy().astype(float))
    actions = rungs + tiny_processor.num_rungs * (flags > 0)
    np.testing.assert_array_equal(batch["logged_actions"].numpy(), actions[:, 1:])
    np.testing.assert_array_equal(batch["current_actions"].numpy(), actions[:, :-1])
    assert batch["logged_action_mask"].all()
    assert len(np.unique(actions)) > 3


def test_a_price_that_was_carried_along_is_no_decision(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    future = tiny_windows.future.copy()
    future[:, 1, INDEX["price_imputed"]] = 1.0
    batch = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "future": future}))
    assert batch["logged_action_mask"].tolist() == [[True, False, True, True]] * 12
    np.testing.assert_array_equal(batch["current_actions"][:, 2], batch["current_actions"][:, 1])


def test_an_item_that_had_no_price_before_has_none_in_its_state_until_it_gets_one(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    past, future = tiny_windows.past.copy(), tiny_windows.future.copy()
    past[..., INDEX["price"]] = np.nan
    future[:, 0, INDEX["price"]] = np.nan
    batch = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "past": past, "future": future}))
    assert np.isfinite(past[..., INDEX["list_price"]]).any(1).all()
    started_slot = 3
    assert batch["decision_features"][..., started_slot].tolist() == [[0, 0, 1, 1]] * 12


def test_costs_are_carried_forward_and_never_backward(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    past, future = tiny_windows.past.copy(), tiny_windows.future.copy()
    past[..., INDEX["cost"]], future[..., INDEX["cost"]] = np.nan, np.nan
    past[:6, -3, INDEX["cost"]], future[:, 2, INDEX["cost"]] = 2.0, 5.0
    batch = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "past": past, "future": future}))
    np.testing.assert_array_equal(batch["unit_costs"][0], [2.0, 2.0, 5.0, 5.0])
    np.testing.assert_array_equal(batch["unit_costs"][11], [np.nan, np.nan, 5.0, 5.0])
