"""The interval of prices that the rules leave to each item, in whole minor units (cents)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pricing_fm.errors import GuardrailError
from pricing_fm.guardrails.rules import (
    MAXIMUM_STEP,
    MINIMUM_MARGIN,
    PRICE_CEILING,
    PRICE_ENDINGS,
    PRICE_FLOOR,
    RULES,
    Guardrails,
    RuleValue,
    check_value,
)

UNBOUNDED = 2**53  # minor units; the last whole number that a float holds exactly
POSITIVE = "a positive price"  # not a rule: prices start at one minor unit


@dataclass(frozen=True)
class Interval:
    """What the rules up to here leave, in minor units.

    Args:
        rule (`str`): Rule that was applied last.
        lower (`np.ndarray`, shape `(items,)`, int64): Lowest admissible price.
        upper (`np.ndarray`, shape `(items,)`, int64): Highest admissible price; `UNBOUNDED` where none is set.
        lower_rule (`np.ndarray`, shape `(items,)`, object): Which rule set the lower end.
        upper_rule (`np.ndarray`, shape `(items,)`, object): Which rule set the upper end; empty where none did.
    """

    rule: str
    lower: np.ndarray
    upper: np.ndarray
    lower_rule: np.ndarray
    upper_rule: np.ndarray


@dataclass(frozen=True)
class ItemInputs:
    """One question to the guardrails: items with their prices and costs.

    Args:
        current_price (`np.ndarray`, shape `(items,)`): Currency per unit; NaN = unknown.
        cost (`np.ndarray`, shape `(items,)`): Currency per unit; NaN = unknown.
        rules (`dict[str, tuple[float or tuple or None, ...]]`): Rule to its value for each item, in order of
            application, endings last; None = the rule does not apply to that item.
        names (`Sequence[str]`): How messages call the items; empty when there is only one.
        unit (`int`): Minor units in one currency unit.
    """

    current_price: np.ndarray
    cost: np.ndarray
    rules: dict[str, tuple[RuleValue | None, ...]]
    names: Sequence[str]
    unit: int


def build_inputs(
    current_price: Any,
    cost: Any,
    rules: Guardrails,
    limits: Mapping[str, Sequence[Any]] | None,
    count: int,
    names: Sequence[str],
    decimals: int,
) -> ItemInputs:
    """Brings prices, costs, rules and per-item limits to one length and checks them.

    Args:
        current_price: A number or `count` numbers, currency per unit; None or NaN = unknown.
        cost: A number or `count` numbers, currency per unit; None or NaN = unknown.
        rules (`Guardrails`): Rules for all items.
        limits (`Mapping[str, Sequence]`, *optional*): Rule to `count` values that replace the general one where they
            are not NaN or None.
        count (`int`): Number of items.
        names (`Sequence[str]`): How messages call the items; may be empty.
        decimals (`int`): Decimal places of the currency.

    Returns:
        `ItemInputs`: Checked and of equal length.

    Raises:
        GuardrailError: If a limit is unknown, of the wrong length or not of its kind, or a price or cost is negative.
    """
    limits = limits or {}
    for key, values in limits.items():
        if key not in RULES:
            raise GuardrailError(f"unknown limit {key!r}; known are {', '.join(RULES)}")
        if len(values) != count:
            raise GuardrailError(f"limit {key} has {len(values)} values for {count} items; give one per item")
    general = dict(rules.rules)
    # Order of application: as the rules are written, then what only the limits bring; endings act inside what is left.
    ordered = [*general, *(key for key in RULES if key in limits and key not in general)]
    ordered.sort(key=lambda key: key == PRICE_ENDINGS)
    merged: dict[str, tuple[RuleValue | None, ...]] = {}
    for key in ordered:
        default = general.get(key)
        own = limits.get(key)
        if own is None:
            merged[key] = (default,) * count
        else:
            checked = (check_value(key, value) for value in own)
            merged[key] = tuple(default if value is None else value for value in checked)
    return ItemInputs(
        current_price=_column("current price", current_price, count),
        cost=_column("cost", cost, count),
        rules=merged,
        names=names,
        unit=10**decimals,
    )


def build_intervals(inputs: ItemInputs) -> list[Interval]:
    """Narrows the interval rule by rule.

    Args:
        inputs (`ItemInputs`): The items.

    Returns:
        `list[Interval]`: The interval after each rule but the endings; the first entry is that before any rule.

    Raises:
        GuardrailError: If two rules contradict each other, a minimum margin lacks a cost, or a maximum step a current
            price.
    """
    count = len(inputs.current_price)
    lower, upper = np.ones(count, dtype=np.int64), np.full(count, UNBOUNDED, dtype=np.int64)
    lower_rule, upper_rule = np.full(count, POSITIVE, dtype=object), np.full(count, "", dtype=object)
    intervals = [Interval("", lower, upper, lower_rule, upper_rule)]
    for rule, values in inputs.rules.items():
        if rule == PRICE_ENDINGS:
            continue
        low, high = _bounds_of_rule(rule, np.array(values, dtype=float), inputs)
        raised, lowered = low > lower, high < upper
        lower, upper = np.where(raised, low, lower), np.where(lowered, high, upper)
        lower_rule, upper_rule = np.where(raised, rule, lower_rule), np.where(lowered, rule, upper_rule)
        interval = Interval(rule, lower, upper, lower_rule, upper_rule)
        if (lower > upper).any():
            _raise_contradiction(interval, inputs)
        intervals.append(interval)
    return intervals


def to_minor_units(price: np.ndarray, unit: int) -> np.ndarray:
    """Prices in minor units, with the rounding noise of 32-bit floats removed.

    A price of 12.99 that passed through float32 is 12.98999977: without this its ceiling would lose a cent. The
    tolerance is that of a float32 (1e-7 relative) and at most a hundredth of a minor unit.

    Args:
        price (`np.ndarray`): Currency per unit.
        unit (`int`): Minor units in one currency unit.

    Returns:
        `np.ndarray`: Minor units, float64; whole where `price` is a whole number of them but for noise.
    """
    return _snap(np.asarray(price, dtype=float) * unit)


def describe_item(index: int, names: Sequence[str]) -> str:
    """Start of a message about one item.

    Args:
        index (`int`): Position of the item.
        names (`Sequence[str]`): Names of the items; empty when there is only one.

    Returns:
        `str`: For example `"item 'milk-3': "`, or an empty text.
    """
    return f"item {names[index]!r}: " if len(names) else ""


def describe_limit(rule: str, index: int, inputs: ItemInputs) -> str:
    """A rule with its value for one item, for messages.

    Args:
        rule (`str`): Key of the rule, or `POSITIVE`.
        index (`int`): Position of the item.
        inputs (`ItemInputs`): The items.

    Returns:
        `str`: For example `"price_floor (12.4)"`.
    """
    if rule not in inputs.rules:
        return rule
    value = inputs.rules[rule][index]
    return f"{rule} ({list(value) if isinstance(value, tuple) else value})"


def _bounds_of_rule(rule: str, values: np.ndarray, inputs: ItemInputs) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest price that one rule admits, whole minor units rounded inwards; NaN values admit everything."""
    applies = ~np.isnan(values)
    low, high = np.full(len(values), -np.inf), np.full(len(values), np.inf)
    if rule == PRICE_FLOOR:
        low = to_minor_units(values, inputs.unit)
    elif rule == PRICE_CEILING:
        high = to_minor_units(values, inputs.unit)
    elif rule == MINIMUM_MARGIN:
        _require(inputs, applies & np.isnan(inputs.cost), f"{rule} needs the cost; give it, or leave the rule out")
        low = _snap(to_minor_units(inputs.cost, inputs.unit) / (1 - values))
    elif rule == MAXIMUM_STEP:
        missing = applies & np.isnan(inputs.current_price)
        _require(inputs, missing, f"{rule} needs the current price; give it, or leave the rule out")
        current = to_minor_units(inputs.current_price, inputs.unit)
        low, high = _snap(current * (1 - values)), _snap(current * (1 + values))
    low, high = np.where(applies, low, -np.inf), np.where(applies, high, np.inf)
    return (
        np.ceil(np.clip(low, 0, UNBOUNDED)).astype(np.int64),
        np.floor(np.clip(high, 0, UNBOUNDED)).astype(np.int64),
    )


def _snap(amount: np.ndarray) -> np.ndarray:
    nearest = np.rint(amount)
    tolerance = np.minimum(1e-7 * np.abs(amount), 0.01)
    return np.where(np.abs(amount - nearest) <= tolerance, nearest, amount)


def _raise_contradiction(interval: Interval, inputs: ItemInputs) -> None:
    """Names the two rules whose bounds cross."""
    index = int(np.argmax(interval.lower > interval.upper))
    lower_rule, upper_rule = str(interval.lower_rule[index]), str(interval.upper_rule[index])
    low, high = interval.lower[index] / inputs.unit, interval.upper[index] / inputs.unit
    first, second = (describe_limit(rule, index, inputs) for rule in (lower_rule, upper_rule))
    if first == second:
        reason = f"{first} alone leaves no price of whole minor units"
    else:
        reason = f"{first} and {second} contradict each other: the price would be at least {low:g} and at most {high:g}"
    raise GuardrailError(f"{describe_item(index, inputs.names)}{reason}. Relax one of them")


def _require(inputs: ItemInputs, missing: np.ndarray, message: str) -> None:
    if missing.any():
        raise GuardrailError(f"{describe_item(int(np.argmax(missing)), inputs.names)}{message}")


def _column(label: str, values: Any, count: int) -> np.ndarray:
    """One float per item; None is NaN."""
    column = np.full(count, np.nan) if values is None else np.asarray(values, dtype=float)
    if column.shape not in ((), (count,)):
        raise GuardrailError(f"{label} has shape {column.shape} for {count} items; give one number, or one per item")
    column = np.broadcast_to(column, (count,))
    if np.isinf(column).any() or (column < 0).any():
        raise GuardrailError(f"{label} is {column[np.isinf(column) | (column < 0)][0]}; expected 0 or more, or NaN")
    return column
