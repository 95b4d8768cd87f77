"""Which rungs of a price ladder the rules admit, so that a planner chooses among prices that can be charged."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pricing_fm.errors import GuardrailError
from pricing_fm.guardrails.clamp import apply_guardrails_to_table, ending_units
from pricing_fm.guardrails.intervals import build_inputs, build_intervals, to_minor_units
from pricing_fm.guardrails.rules import PRICE_ENDINGS, Guardrails, load_guardrails


def feasible_prices(
    candidates: np.ndarray,
    current_price: np.ndarray | float | None,
    cost: np.ndarray | float | None,
    rules: Guardrails | Mapping[str, Any] | str | Path | None,
    limits: Mapping[str, Sequence[Any]] | None = None,
    item_ids: Sequence[str] = (),
    decimals: int = 2,
) -> np.ndarray:
    """Marks the rungs that `apply_guardrails` would leave as they are.

    Args:
        candidates (`np.ndarray`, shape `(rungs,)` or `(items, rungs)`): Prices, currency per unit; NaN is not feasible.
        current_price (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit.
        cost (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit.
        rules (`Guardrails`, `Mapping`, `str`, `Path`, *optional*): The rules, or where they stand.
        limits (`Mapping[str, Sequence]`, *optional*): Rule to one value per item.
        item_ids (`Sequence[str]`): How messages call the items.
        decimals (`int`): Decimal places of the currency.

    Returns:
        `np.ndarray`, shape of `candidates`, bool: True = inside the interval, in whole minor units, allowed ending.

    Raises:
        GuardrailError: If the rules are malformed or contradict each other, or what they need is missing.
    """
    prices = np.asarray(candidates, dtype=float)
    rungs = _as_rows(prices)
    names = item_ids if len(item_ids) or len(rungs) == 1 else [str(index) for index in range(len(rungs))]
    inputs = build_inputs(current_price, cost, load_guardrails(rules), limits, len(rungs), names, decimals)
    interval = build_intervals(inputs)[-1]
    amounts = to_minor_units(rungs, inputs.unit)
    feasible = (
        (amounts == np.rint(amounts)) & (amounts >= interval.lower[:, None]) & (amounts <= interval.upper[:, None])
    )
    for row, endings in enumerate(inputs.rules.get(PRICE_ENDINGS, ())):
        if endings is not None:
            feasible[row] &= np.isin(amounts[row] % inputs.unit, ending_units(endings, inputs.unit))
    return feasible.reshape(prices.shape)


def admissible_ladder(
    candidates: np.ndarray,
    current_price: np.ndarray | float | None,
    cost: np.ndarray | float | None,
    rules: Guardrails | Mapping[str, Any] | str | Path | None,
    limits: Mapping[str, Sequence[Any]] | None = None,
    item_ids: Sequence[str] = (),
    decimals: int = 2,
) -> np.ndarray:
    """Moves every rung to the nearest price that can be charged. Rungs beyond a limit meet at the limit.

    Args:
        candidates (`np.ndarray`, shape `(rungs,)` or `(items, rungs)`): Prices, currency per unit.
        current_price (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit.
        cost (`np.ndarray`, shape `(items,)`, or `float`, *optional*): Currency per unit.
        rules (`Guardrails`, `Mapping`, `str`, `Path`, *optional*): The rules, or where they stand.
        limits (`Mapping[str, Sequence]`, *optional*): Rule to one value per item.
        item_ids (`Sequence[str]`): How messages call the items.
        decimals (`int`): Decimal places of the currency.

    Returns:
        `np.ndarray`, shape of `candidates`, float64: Prices that all pass `feasible_prices`, in the order of the rungs.

    Raises:
        GuardrailError: If the rules are malformed or contradict each other, or what they need is missing.
    """
    prices = np.asarray(candidates, dtype=float)
    rungs = _as_rows(prices)
    items, width = rungs.shape
    names = list(item_ids) if len(item_ids) else [str(index) for index in range(items)]
    table = apply_guardrails_to_table(
        rungs.ravel(),
        _repeat(current_price, width),
        _repeat(cost, width),
        rules,
        limits={key: [value for value in values for _ in range(width)] for key, values in (limits or {}).items()},
        item_ids=[name for name in names for _ in range(width)],
        decimals=decimals,
    )
    return table.price.reshape(prices.shape)


def _as_rows(prices: np.ndarray) -> np.ndarray:
    if prices.ndim not in (1, 2):
        raise GuardrailError(f"candidates have shape {prices.shape}; expected (rungs,) or (items, rungs)")
    return np.atleast_2d(prices)


def _repeat(values: np.ndarray | float | None, times: int) -> np.ndarray | None:
    if values is None:
        return None
    column = np.asarray(values, dtype=float)
    return np.repeat(column, times) if column.ndim else column
