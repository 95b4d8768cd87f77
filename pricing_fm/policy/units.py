"""Decision units: items that share one price, and the prices that all their rules leave together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pricing_fm.errors import GuardrailError
from pricing_fm.guardrails import Guardrails, admissible_ladder, apply_guardrails_to_table
from pricing_fm.guardrails.intervals import (
    POSITIVE,
    UNBOUNDED,
    Interval,
    ItemInputs,
    build_inputs,
    build_intervals,
    describe_limit,
)
from pricing_fm.guardrails.rules import PRICE_CEILING, PRICE_ENDINGS, PRICE_FLOOR, RuleValue

DECIMALS = 2  # of the currency's smallest unit
ROUNDING = 0.5 * 10.0**-DECIMALS + 1e-9  # a price that moves by no more than this was only rounded
COARSE = 0.005  # share of a price; rounding that moves it by more is a price change of its own


@dataclass(frozen=True)
class JointRules:
    """What the rules of all members leave to a decision unit, handed to every member: `(N,)` each.

    Args:
        lower, upper (`np.ndarray`): Lowest and highest admissible price, currency; `upper` is infinite without a limit.
        lower_rule, upper_rule (`np.ndarray`, object): Rule that set it.
        endings (`np.ndarray`, object): Admissible endings, a tuple, or None for any.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_rule: np.ndarray
    upper_rule: np.ndarray
    endings: np.ndarray

    def select(self, rows: np.ndarray) -> "JointRules":
        """Some of the items."""
        return JointRules(*(getattr(self, field.name)[rows] for field in fields(self)))

    def admissible(self, proposed: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
        """Nearest price that can be charged, for each proposal `(N, P)`; equal for all members of a unit.

        Raises:
            GuardrailError: If no admissible ending lies between a unit's bounds.
        """
        limits: dict[str, list[Any]] = {PRICE_FLOOR: list(self.lower)}
        if np.isfinite(self.upper).any():
            limits[PRICE_CEILING] = [None if np.isinf(value) else value for value in self.upper]
        if any(value is not None for value in self.endings):
            limits[PRICE_ENDINGS] = list(self.endings)
        return admissible_ladder(proposed, None, None, Guardrails(), limits, item_ids, DECIMALS)

    def kept(self, current: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
        """The current price `(N,)` inside the rules; of cheap goods, where a cent is a price change, not even rounded.

        Raises:
            GuardrailError: If no admissible ending lies between a unit's bounds.
        """
        final = self.admissible(current[:, None], item_ids)[:, 0]
        is_free = (current >= self.lower) | (self.lower_rule == "")
        is_free &= (current <= self.upper) & np.array([value is None for value in self.endings], dtype=bool)
        return np.where(is_free & (np.abs(final - current) > COARSE * current), current, final)

    def binding_rules(self, proposed: np.ndarray, final: np.ndarray) -> np.ndarray:
        """The rule that keeps the proposals which end at one price from being charged as they are.

        Args:
            proposed (`(N, P)`): Proposals that all end at `final`, currency; NaN = not a proposal.
            final (`(N,)`): Admissible price, currency.

        Returns:
            `(N,)`, object: Key of the rule; empty where none moved them.
        """
        moved = proposed - final[:, None]
        is_free = np.nanmin(np.abs(moved), axis=1) <= ROUNDING
        has_endings = np.array([value is not None for value in self.endings], dtype=bool)
        binding = np.where(has_endings & ~is_free, PRICE_ENDINGS, "").astype(object)
        binding = np.where((final == self.upper) & (np.nanmax(moved, axis=1) > ROUNDING), self.upper_rule, binding)
        return np.where((final == self.lower) & (np.nanmin(moved, axis=1) < -ROUNDING), self.lower_rule, binding)


def joint_rules(
    units: np.ndarray,
    current_price: np.ndarray,
    cost: np.ndarray,
    rules: Guardrails,
    limits: Mapping[str, Sequence[Any]],
    item_ids: Sequence[str],
) -> JointRules:
    """Puts the rules of the members of every decision unit together.

    Args:
        units (`(N,)`, int64): Decision unit of each item.
        current_price (`(N,)`): Currency.
        cost (`(N,)`): Currency; NaN = unknown.
        rules (`Guardrails`): General rules.
        limits (`Mapping[str, Sequence]`): Rule to one value per item.
        item_ids (`Sequence[str]`): How messages call the items.

    Returns:
        `JointRules`.

    Raises:
        GuardrailError: If the rules of one item, or of two items that share a price, contradict each other, or what
            they need is missing.
    """
    if not len(units):
        return JointRules(*(np.empty(0, dtype=kind) for kind in (float, float, object, object, object)))
    # Endings are chosen inside the interval: this refuses an item whose own interval holds none.
    apply_guardrails_to_table(current_price, current_price, cost, rules, limits, item_ids, DECIMALS)
    inputs = build_inputs(current_price, cost, rules, limits, len(units), item_ids, DECIMALS)
    interval = build_intervals(inputs)[-1]
    _, numbers = np.unique(units, return_inverse=True)
    highest = _last_of_unit(np.lexsort((interval.lower, numbers)), numbers)
    lowest = _last_of_unit(np.lexsort((-interval.upper, numbers)), numbers)
    crossed = interval.lower[highest] > interval.upper[lowest]
    if crossed.any():
        row = int(crossed.argmax())
        _refuse_pair(int(highest[row]), int(lowest[row]), interval, inputs)
    upper = interval.upper[lowest]
    return JointRules(
        lower=interval.lower[highest] / inputs.unit,
        upper=np.where(upper == UNBOUNDED, np.inf, upper / inputs.unit),
        lower_rule=np.where(interval.lower_rule == POSITIVE, "", interval.lower_rule)[highest].astype(object),
        upper_rule=interval.upper_rule[lowest],
        endings=_shared_endings(inputs.rules.get(PRICE_ENDINGS, (None,) * len(units)), numbers, item_ids),
    )


def _last_of_unit(order: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """For each row, the row that comes last in its unit when rows are put in `order` (which keeps units together)."""
    ends = np.flatnonzero(np.diff(numbers[order], append=-1))
    return order[ends][numbers]


def _refuse_pair(first: int, second: int, interval: Interval, inputs: ItemInputs) -> None:
    lower = describe_limit(str(interval.lower_rule[first]), first, inputs)
    upper = describe_limit(str(interval.upper_rule[second]), second, inputs)
    raise GuardrailError(
        f"items {inputs.names[first]!r} and {inputs.names[second]!r} share one price, yet {lower} of the first and "
        f"{upper} of the second contradict each other: the price would be at least "
        f"{interval.lower[first] / inputs.unit:g} and at most {interval.upper[second] / inputs.unit:g}. "
        "Relax one of them"
    )


def _shared_endings(own: Sequence[RuleValue | None], numbers: np.ndarray, item_ids: Sequence[str]) -> np.ndarray:
    """Endings that every member of a unit admits, `(N,)` object."""
    shared: dict[int, tuple[float, ...] | None] = {}
    for row, (number, value) in enumerate(zip(numbers.tolist(), own, strict=True)):
        before = shared.get(number)
        if not isinstance(value, tuple) or before is None:
            shared[number] = value if isinstance(value, tuple) else before
            continue
        shared[number] = tuple(ending for ending in before if ending in value)
        if not shared[number]:
            raise GuardrailError(
                f"item {item_ids[row]!r} shares one price with items that admit the {PRICE_ENDINGS} {list(before)}, "
                f"none of which is among its own {list(value)}. Relax one of them"
            )
    endings = np.empty(len(numbers), dtype=object)
    for row, number in enumerate(numbers.tolist()):  # numpy would read equally long tuples as a matrix
        endings[row] = shared[number]
    return endings
