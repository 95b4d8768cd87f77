"""Moves a proposed price into what the rules admit, step by step, and keeps the trail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pricing_fm.errors import GuardrailError
from pricing_fm.guardrails.intervals import (
    UNBOUNDED,
    Interval,
    ItemInputs,
    build_inputs,
    build_intervals,
    describe_item,
    describe_limit,
    to_minor_units,
)
from pricing_fm.guardrails.rules import PRICE_ENDINGS, Guardrails, RuleValue, load_guardrails


@dataclass(frozen=True)
class TrailStep:
    """What one rule did to one price.

    Args:
        rule (`str`): Key of the rule.
        limit (`float`, `tuple[float, ...]` or None): Its value for this item; None = it does not apply.
        price_before (`float`): Currency per unit.
        price_after (`float`): Currency per unit; differs from `price_before` where the rule moved the price.
    """

    rule: str
    limit: RuleValue | None
    price_before: float
    price_after: float


@dataclass(frozen=True)
class GuardrailResult:
    """One price after the rules.

    Args:
        price (`float`): Currency per unit, a whole number of minor units inside `interval`.
        binding_rule (`str`): The rule that moved the price last; empty when none did.
        trail (`tuple[TrailStep, ...]`): Every rule in order of application.
        interval (`tuple[float, float]`): Lowest and highest admissible price; the upper end may be infinite.
    """

    price: float
    binding_rule: str
    trail: tuple[TrailStep, ...]
    interval: tuple[float, float]


@dataclass(frozen=True)
class GuardrailTable:
    """Many prices after the rules.

    Args:
        price (`np.ndarray`, shape `(items,)`, float64): Currency per unit.
        binding_rule (`np.ndarray`, shape `(items,)`, object): The rule that moved the price last; empty when none did.
        lower (`np.ndarray`, shape `(items,)`, float64): Lowest admissible price, currency per unit.
        upper (`np.ndarray`, shape `(items,)`, float64): Highest admissible price; may be infinite.
        steps (`dict[str, tuple[np.ndarray, np.ndarray]]`): Rule to the prices before and after it, in order.
        limits (`dict[str, tuple]`): Rule to its value for each item; None = it does not apply.
    """

    price: np.ndarray
    binding_rule: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    steps: dict[str, tuple[np.ndarray, np.ndarray]]
    limits: dict[str, tuple[RuleValue | None, ...]]

    def row(self, index: int) -> GuardrailResult:
        """The result of one item, with its trail.

        Args:
            index (`int`): Position of the item.

        Returns:
            `GuardrailResult`: As `apply_guardrails` would give it.
        """
        trail = tuple(
            TrailStep(rule, self.limits[rule][index], float(before[index]), float(after[index]))
            for rule, (before, after) in self.steps.items()
        )
        interval = (float(self.lower[index]), float(self.upper[index]))
        return GuardrailResult(float(self.price[index]), str(self.binding_rule[index]), trail, interval)


def apply_guardrails(
    proposed_price: float,
    current_price: float | None,
    cost: float | None,
    rules: Guardrails | Mapping[str, Any] | str | Path | None,
    decimals: int = 2,
) -> GuardrailResult:
    """Moves one proposed price into what the rules admit.

    Args:
        proposed_price (`float`): Currency per unit.
        current_price (`float`, *optional*): Currency per unit; needed by `maximum_step`.
        cost (`float`, *optional*): Currency per unit; needed by `minimum_margin`.
        rules (`Guardrails`, `Mapping`, `str`, `Path`, *optional*): The rules, or where they stand.
        decimals (`int`): Decimal places of the currency: 2 for cents, 0 for yen.

    Returns:
        `GuardrailResult`: Price, binding rule, trail and the interval left.

    Raises:
        GuardrailError: If the rules are malformed or two contradict each other (both are named), or what they need is
            missing.
    """
    table = apply_guardrails_to_table(
        np.array([proposed_price], dtype=float), current_price, cost, rules, decimals=decimals
    )
    return table.row(0)


def apply_guardrails_to_table(
    proposed_price: np.ndarray,
    current_price: np.ndarray | float | None,
    cost: np.ndarray | float | None,
    rules: Guardrails | Mapping[str, Any] | str | Path | None,
    limits: Mapping[str, Sequence[Any]] | None = None,
    item_ids: Sequence[str] = (),
    decimals: int = 2,
) -> GuardrailTable:
    """Moves many proposed prices at once; each gets what it would get alone.

    Args:
        proposed_price (`np.ndarray`, shape `(items,)`): Currency per unit.
        current_price (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit; NaN = unknown.
        cost (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit; NaN = unknown.
        rules (`Guardrails`, `Mapping`, `str`, `Path`, *optional*): The rules, or where they stand.
        limits (`Mapping[str, Sequence]`, *optional*): Rule to one value per item, which replaces the general one where
            it is not NaN or None.
        item_ids (`Sequence[str]`): How messages call the items; their positions by default.
        decimals (`int`): Decimal places of the currency.

    Returns:
        `GuardrailTable`: Prices, binding rules and intervals.

    Raises:
        GuardrailError: If the rules are malformed, two contradict each other for an item (all three are named), or what
            they need is missing.
    """
    proposed = np.asarray(proposed_price, dtype=float)
    count = len(proposed)
    names = item_ids if len(item_ids) or count == 1 else [str(index) for index in range(count)]
    inputs = build_inputs(current_price, cost, load_guardrails(rules), limits, count, names, decimals)
    price = _round_proposals(proposed, inputs)
    binding = np.full(count, "", dtype=object)
    steps: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    first, *intervals = build_intervals(inputs)
    for interval in intervals:
        moved = np.clip(price, interval.lower, interval.upper)
        binding = np.where(moved != price, interval.rule, binding)
        steps[interval.rule] = (price / inputs.unit, moved / inputs.unit)
        price = moved
    last = intervals[-1] if intervals else first
    if PRICE_ENDINGS in inputs.rules:
        moved = _choose_endings(price, last, inputs)
        binding = np.where(moved != price, PRICE_ENDINGS, binding)
        steps[PRICE_ENDINGS] = (price / inputs.unit, moved / inputs.unit)
        price = moved
    upper = np.where(last.upper == UNBOUNDED, np.inf, last.upper / inputs.unit)
    return GuardrailTable(price / inputs.unit, binding, last.lower / inputs.unit, upper, steps, inputs.rules)


def _round_proposals(proposed: np.ndarray, inputs: ItemInputs) -> np.ndarray:
    """Nearest minor unit, half up, at least one; the clamp that follows keeps the rounding inside the interval."""
    wrong = ~np.isfinite(proposed) | (proposed <= 0) | (proposed > UNBOUNDED / inputs.unit)
    if wrong.any():
        index = int(np.argmax(wrong))
        raise GuardrailError(
            f"{describe_item(index, inputs.names)}the proposed price is {proposed[index]}; expected a positive number"
        )
    return np.maximum(np.floor(to_minor_units(proposed, inputs.unit) + 0.5), 1).astype(np.int64)


def _choose_endings(price: np.ndarray, interval: Interval, inputs: ItemInputs) -> np.ndarray:
    """Nearest price with an admissible ending inside the interval; of two equally near the higher."""
    chosen = price.copy()
    values = inputs.rules[PRICE_ENDINGS]
    for endings in set(values) - {None}:
        rows = np.array([value == endings for value in values])
        chosen[rows] = _nearest_with_ending(
            price[rows], interval.lower[rows], interval.upper[rows], endings, inputs.unit
        )
        if (chosen[rows] < 0).any():
            _raise_no_ending(int(np.flatnonzero(rows & (chosen < 0))[0]), interval, inputs)
    return chosen


def _nearest_with_ending(
    price: np.ndarray, lower: np.ndarray, upper: np.ndarray, endings: RuleValue | None, unit: int
) -> np.ndarray:
    """Shapes `(rows,)`, minor units; -1 where the interval holds no such price."""
    fractions = ending_units(endings, unit)
    # The price lies inside the interval, so only the nearest below and above it can be it: (rows, 2 x endings).
    below = (price[:, None] - fractions) // unit * unit + fractions
    candidates = np.concatenate([below, below + unit], axis=1)
    inside = (candidates >= lower[:, None]) & (candidates <= upper[:, None])
    # Twice the distance, one less for the higher of two: ties go up, so that rounding does not give margin away.
    distance = 2 * np.abs(candidates - price[:, None]) - (candidates > price[:, None])
    best = np.argmin(np.where(inside, distance, UNBOUNDED), axis=1)
    rows = np.arange(len(price))
    return np.where(inside[rows, best], candidates[rows, best], -1)


def ending_units(endings: RuleValue | None, unit: int) -> np.ndarray:
    """Endings in minor units.

    Args:
        endings (`tuple[float, ...]`): Fractions of one currency unit.
        unit (`int`): Minor units in one currency unit.

    Returns:
        `np.ndarray`, shape `(endings,)`, int64: Minor units in [0, unit).

    Raises:
        GuardrailError: If an ending is not a whole number of minor units.
    """
    amounts = to_minor_units(np.atleast_1d(np.array(endings, dtype=float)), unit)
    if (amounts != np.rint(amounts)).any():
        raise GuardrailError(f"{PRICE_ENDINGS} {endings} are not whole minor units (1/{unit}). Round them")
    return amounts.astype(np.int64)


def _raise_no_ending(index: int, interval: Interval, inputs: ItemInputs) -> None:
    rules = dict.fromkeys((PRICE_ENDINGS, str(interval.lower_rule[index]), str(interval.upper_rule[index])))
    named = " and ".join(describe_limit(rule, index, inputs) for rule in rules if rule in inputs.rules)
    low, high = interval.lower[index] / inputs.unit, interval.upper[index] / inputs.unit
    raise GuardrailError(
        f"{describe_item(index, inputs.names)}{named} contradict each other: no such ending from {low:g} to {high:g}. "
        "Relax one of them"
    )
