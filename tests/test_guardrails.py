"""No price leaves the rules, to the cent, and the trail says which rule moved it."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.errors import GuardrailError
from pricing_fm.guardrails import (
    RULES,
    GuardrailResult,
    admissible_ladder,
    apply_guardrails,
    apply_guardrails_to_table,
    feasible_prices,
    load_guardrails,
)

cents = st.integers(1, 2_000).map(lambda amount: amount / 100)
rule_values = {
    "price_floor": cents,
    "price_ceiling": cents,
    "minimum_margin": st.integers(0, 90).map(lambda share: share / 100),
    "maximum_step": st.integers(0, 50).map(lambda share: share / 100),
    "price_endings": st.lists(st.integers(0, 99).map(lambda ending: ending / 100), min_size=1, max_size=3),
}


@st.composite
def rule_sets(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(st.lists(st.sampled_from(RULES), unique=True))
    return {key: draw(rule_values[key]) for key in keys}


def fulfils(price: float, current: float, cost: float, rules: dict[str, Any]) -> bool:
    """The rules in exact decimals, written down a second time."""
    exact, now, paid = (Decimal(str(amount)) for amount in (price, current, cost))
    value = {key: Decimal(str(entry)) for key, entry in rules.items() if key != "price_endings"}
    return (
        exact == round(exact, 2)
        and exact > 0
        and exact >= value.get("price_floor", 0)
        and exact <= value.get("price_ceiling", exact)
        and ("minimum_margin" not in rules or exact - paid >= value["minimum_margin"] * exact)
        and ("maximum_step" not in rules or abs(exact - now) <= value["maximum_step"] * now)
        and ("price_endings" not in rules or exact % 1 in {Decimal(str(ending)) for ending in rules["price_endings"]})
    )


def result_or_none(proposed: float, current: float, cost: float, rules: dict[str, Any]) -> GuardrailResult | None:
    try:
        return apply_guardrails(proposed, current, cost, rules)
    except GuardrailError:
        return None


@settings(max_examples=200, deadline=None)
@given(proposed=cents, current=cents, cost=cents, rules=rule_sets())
def test_the_price_fulfils_every_rule_or_no_price_does(
    proposed: float, current: float, cost: float, rules: dict[str, Any]
) -> None:
    result = result_or_none(proposed, current, cost, rules)
    if result is None:  # an upper limit is at most 1.5 x 20.00
        assert not any(fulfils(amount / 100, current, cost, rules) for amount in range(1, 3_001))
        return
    assert fulfils(result.price, current, cost, rules)
    assert result.interval[0] <= result.price <= result.interval[1]
    again = apply_guardrails(result.price, current, cost, rules)
    assert (again.price, again.binding_rule) == (result.price, "")


@settings(max_examples=200, deadline=None)
@given(proposed=cents, current=cents, cost=cents, rules=rule_sets())
def test_the_trail_leads_from_the_proposal_to_the_price_and_names_the_last_rule_that_moved_it(
    proposed: float, current: float, cost: float, rules: dict[str, Any]
) -> None:
    result = result_or_none(proposed, current, cost, rules)
    if result is None:
        return
    assert sorted(step.rule for step in result.trail) == sorted(rules)
    prices = [proposed, *(step.price_after for step in result.trail)]
    assert [step.price_before for step in result.trail] == prices[:-1]
    assert prices[-1] == result.price
    moved = [step.rule for step in result.trail if step.price_before != step.price_after]
    assert result.binding_rule == (moved[-1] if moved else "")


@settings(max_examples=100, deadline=None)
@given(proposed=st.floats(0.004, 1e6), floor=st.floats(0.01, 1e5))
def test_rounding_stays_inside_whatever_the_numbers(proposed: float, floor: float) -> None:
    result = apply_guardrails(proposed, None, None, {"price_floor": floor})
    assert result.price >= floor * (1 - 2e-7)
    assert abs(result.price - max(proposed, floor)) <= 0.01
    assert result.price == round(result.price, 2)


def test_the_ending_is_chosen_inside_the_interval() -> None:
    """Rounding first and clamping after would give 11.99, below the floor."""
    result = apply_guardrails(12.45, None, None, {"price_floor": 12.40, "price_endings": [0.99]})
    assert result.price == 12.99
    assert result.binding_rule == "price_endings"


@pytest.mark.parametrize(
    "proposed, rules, price, binding",
    [
        (12.45, {}, 12.45, ""),
        (12.454, {}, 12.45, ""),
        (12.455, {}, 12.46, ""),
        (10.00, {"price_floor": 12.40}, 12.40, "price_floor"),
        (14.00, {"price_ceiling": 12.40}, 12.40, "price_ceiling"),
        (7.00, {"minimum_margin": 0.4}, 10.00, "minimum_margin"),  # cost 6.00: 6 / 0.6 is exactly 10
        (7.00, {"minimum_margin": 0.3}, 8.58, "minimum_margin"),  # 6 / 0.7 = 8.571...: up, or the margin is missed
        (20.00, {"maximum_step": 0.1}, 14.28, "maximum_step"),  # current 12.99: 14.289 down
        (9.00, {"maximum_step": 0.1}, 11.70, "maximum_step"),  # 11.691 up
        (9.00, {"maximum_step": 0.0}, 12.99, "maximum_step"),
        (12.10, {"price_endings": [0.99, 0.49]}, 11.99, "price_endings"),
        (12.24, {"price_endings": [0.99, 0.49]}, 12.49, "price_endings"),  # equally near: the higher
        (12.49, {"price_endings": [0.99, 0.49]}, 12.49, ""),
        (14.80, {"price_endings": [0.99], "price_ceiling": 14.90}, 13.99, "price_endings"),
        (5.00, {"price_floor": 8.00, "minimum_margin": 0.4}, 10.00, "minimum_margin"),
        (5.00, {"minimum_margin": 0.4, "price_floor": 8.00}, 10.00, "minimum_margin"),
        (0.004, {}, 0.01, ""),
    ],
)
def test_prices_are_exact_to_the_cent(proposed: float, rules: dict[str, Any], price: float, binding: str) -> None:
    result = apply_guardrails(proposed, 12.99, 6.00, rules)
    assert (result.price, result.binding_rule) == (price, binding)


def test_a_price_that_passed_through_float32_loses_no_cent() -> None:
    noisy = float(np.float32(12.70))
    assert noisy != 12.70
    assert apply_guardrails(20.0, noisy, None, {"maximum_step": 0.1}).price == 13.97
    assert apply_guardrails(20.0, None, None, {"price_ceiling": float(np.float32(12.99))}).price == 12.99


@pytest.mark.parametrize(
    "rules, first, second",
    [
        ({"price_floor": 14.0, "price_ceiling": 12.0}, "price_floor", "price_ceiling"),
        ({"price_ceiling": 9.0, "minimum_margin": 0.4}, "price_ceiling", "minimum_margin"),
        ({"price_floor": 20.0, "maximum_step": 0.1}, "price_floor", "maximum_step"),
        ({"price_floor": 12.40, "price_ceiling": 12.60, "price_endings": [0.99]}, "price_endings", "price_ceiling"),
        ({"price_floor": 12.401, "price_ceiling": 12.409}, "price_floor", "price_ceiling"),
    ],
)
def test_rules_that_contradict_each_other_are_both_named(rules: dict[str, Any], first: str, second: str) -> None:
    with pytest.raises(GuardrailError, match="contradict each other") as caught:
        apply_guardrails(12.45, 12.99, 6.00, rules)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_lock_on_a_price_between_two_cents_says_so() -> None:
    with pytest.raises(GuardrailError, match="maximum_step .* alone leaves no price"):
        apply_guardrails(12.45, 10.005, None, {"maximum_step": 0.0})


@pytest.mark.parametrize("rule, needs", [("minimum_margin", "the cost"), ("maximum_step", "the current price")])
def test_a_rule_without_what_it_needs_raises(rule: str, needs: str) -> None:
    with pytest.raises(GuardrailError, match=f"{rule} needs {needs}"):
        apply_guardrails(12.45, None, float("nan"), {rule: 0.1})


@pytest.mark.parametrize("proposed", [float("nan"), float("inf"), 0.0, -1.0, 1e30])
def test_a_proposal_that_is_no_price_raises(proposed: float) -> None:
    with pytest.raises(GuardrailError, match="proposed price"):
        apply_guardrails(proposed, None, None, None)


@pytest.mark.parametrize(
    "rules",
    [
        {"floor": 1.0},
        {"price_floor": -1.0},
        {"price_floor": "1.0"},
        {"price_floor": None},
        {"price_floor": True},
        {"price_ceiling": 0.0},
        {"price_ceiling": float("inf")},
        {"minimum_margin": 1.0},
        {"minimum_margin": 30},
        {"maximum_step": -0.1},
        {"price_endings": []},
        {"price_endings": "0.99"},
        {"price_endings": [99]},
        {"price_endings": [0.995]},
        {"price_endings": [None]},
    ],
)
def test_malformed_rules_are_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(GuardrailError):
        apply_guardrails(12.45, 12.99, 6.00, rules)


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_rules_are_read_from_files_in_the_order_in_which_they_stand(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"guardrails{suffix}"
    path.write_text('{"price_ceiling": 9.5, "price_endings": [0.99, 0.49], "price_floor": 1}')
    rules = load_guardrails(path)
    assert [key for key, _ in rules.rules] == ["price_ceiling", "price_endings", "price_floor"]
    assert rules.as_dict() == {"price_ceiling": 9.5, "price_endings": [0.49, 0.99], "price_floor": 1.0}
    assert load_guardrails(json.loads(json.dumps(rules.as_dict()))) == rules
    assert load_guardrails(rules) is rules


@pytest.mark.parametrize("name, text", [("a.yaml", "- 1"), ("a.json", "{"), ("a.txt", "{}"), ("missing.yaml", None)])
def test_files_that_hold_no_rules_are_refused(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(GuardrailError, match=name):
        load_guardrails(tmp_path / name)


def test_a_table_gives_each_item_what_it_gets_alone() -> None:
    rng = np.random.default_rng(0)
    proposed, current, cost = rng.uniform(1, 30, 300), rng.uniform(8, 12, 300), rng.uniform(1, 5, 300)
    rules = {"maximum_step": 0.3, "minimum_margin": 0.2, "price_endings": [0.99, 0.49]}
    table = apply_guardrails_to_table(proposed, current, cost, rules)
    alone = [apply_guardrails(*row, rules) for row in zip(proposed, current, cost, strict=True)]
    assert [table.row(index) for index in range(300)] == alone
    assert len(set(table.binding_rule)) == 2


def test_limits_replace_the_general_rule_item_by_item() -> None:
    limits = {
        "price_ceiling": [np.nan, 8.0, None],
        "price_endings": [[0.95], None, np.nan],
        "minimum_margin": [np.nan, np.nan, 0.5],
    }
    table = apply_guardrails_to_table(
        np.array([20.0, 20.0, 20.0]), None, np.array([np.nan, np.nan, 4.0]), {"price_ceiling": 10.0}, limits
    )
    assert table.price.tolist() == [9.95, 8.0, 10.0]
    assert table.binding_rule.tolist() == ["price_endings", "price_ceiling", "price_ceiling"]
    assert table.upper.tolist() == [10.0, 8.0, 10.0]
    assert table.row(1).trail[1].limit is None


def test_messages_name_the_item() -> None:
    limits = {"price_floor": [1.0, 15.0]}
    with pytest.raises(GuardrailError, match="item 'milk-3': .*price_floor .15.0. and price_ceiling .10.0."):
        apply_guardrails_to_table(
            np.array([5.0, 5.0]), None, None, {"price_ceiling": 10.0}, limits, item_ids=["milk-2", "milk-3"]
        )


@pytest.mark.parametrize("limits", [{"floor": [1.0, 1.0]}, {"price_floor": [1.0]}, {"price_floor": [1.0, -2.0]}])
def test_malformed_limits_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(GuardrailError):
        apply_guardrails_to_table(np.array([5.0, 5.0]), None, None, None, limits)


def test_feasible_rungs_are_those_that_the_rules_leave_alone() -> None:
    rules = {"price_floor": 9.0, "price_ceiling": 12.0, "price_endings": [0.99, 0.49]}
    ladder = np.array([8.99, 9.49, 9.495, 9.50, 11.99, 12.49, np.nan])
    assert feasible_prices(ladder, None, None, rules).tolist() == [False, True, False, False, True, False, False]
    for price, feasible in zip(ladder[:-1], feasible_prices(ladder, None, None, rules), strict=False):
        assert (apply_guardrails(price, None, None, rules).price == price) == feasible


def test_every_rung_of_an_admissible_ladder_is_feasible() -> None:
    rng = np.random.default_rng(1)
    current = rng.uniform(5, 30, 20)
    ladder = current[:, None] * np.linspace(0.7, 1.3, 13)
    rules = {"maximum_step": 0.2, "price_endings": [0.99, 0.49]}
    rungs = admissible_ladder(ladder, current, None, rules)
    assert rungs.shape == ladder.shape
    assert feasible_prices(rungs, current, None, rules).all()
    assert not feasible_prices(ladder, current, None, rules).any()
    assert (np.diff(rungs, axis=1) >= 0).all()
    assert all(len(set(row)) > 3 for row in rungs)


def test_currencies_without_cents_are_rounded_to_whole_units() -> None:
    assert apply_guardrails(129.4, None, None, {"price_floor": 129.5}, decimals=0).price == 130.0


def test_a_ladder_for_one_item_takes_its_limits() -> None:
    rungs = admissible_ladder(np.array([8.0, 10.0, 12.0]), 10.0, None, None, limits={"price_ceiling": [11.0]})
    assert rungs.tolist() == [8.0, 10.0, 11.0]
