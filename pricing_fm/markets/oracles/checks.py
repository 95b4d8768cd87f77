"""Arguments of pricing problems, checked at the door: what was found, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def check_number(
    name: str,
    value: Any,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """Return a finite number inside bounds.

    Args:
        name: Argument name for the message.
        value: What was given.
        above: Exclusive lower bound.
        least: Inclusive lower bound.
        below: Exclusive upper bound.
        most: Inclusive upper bound.

    Returns:
        The number as a float.

    Raises:
        ValueError: If it is no finite real number or out of bounds.
    """
    allowed = _describe(above, least, below, most)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number) or np.iscomplexobj(value):
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")
    number = float(value)
    inside = (
        math.isfinite(number)
        and (above is None or number > above)
        and (least is None or number >= least)
        and (below is None or number < below)
        and (most is None or number <= most)
    )
    if not inside:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")
    return number


def check_integer(name: str, value: Any, least: int = 0) -> int:
    """Return a whole number of at least `least`; 3.0 counts as whole.

    Raises:
        ValueError: If it is not whole or too small.
    """
    number = check_number(name, value, least=least)
    if number != round(number):
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    return round(number)


def check_numbers(
    name: str,
    values: Any,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    length: int | None = None,
) -> np.ndarray:
    """Return a non-empty list of numbers inside bounds as a float64 array.

    Args:
        name: Argument name for the message.
        values: What was given.
        above: Exclusive lower bound of every entry.
        least: Inclusive lower bound.
        below: Exclusive upper bound.
        most: Inclusive upper bound.
        length: Entries that are needed; None = any positive number.

    Returns:
        float64, shape `(length,)`.

    Raises:
        ValueError: If it is no list, empty, of the wrong length or holds a number out of bounds.
    """
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str | bytes):
        raise ValueError(f"{name} is {values!r}; it must be a list of numbers")
    if len(values) == 0:
        raise ValueError(f"{name} is empty; it must hold at least one number")
    if length is not None and len(values) != length:
        raise ValueError(f"{name} has {len(values)} entries; it must have {length}")
    return np.array([check_number(f"{name}[{i}]", v, above, least, below, most) for i, v in enumerate(values)])


def check_matrix(
    name: str, rows: Any, num_rows: int | None, num_columns: int | None, least: float | None = None
) -> np.ndarray:
    """Return a list of equally long rows of numbers as a float64 array.

    Args:
        name: Argument name for the message.
        rows: What was given.
        num_rows: Rows that are needed; None = any positive number.
        num_columns: Entries of a row that are needed; None = as many as the first row has.
        least: Inclusive lower bound of every entry.

    Returns:
        float64, shape `(num_rows, num_columns)`.

    Raises:
        ValueError: If a size is wrong or an entry out of bounds.
    """
    if not isinstance(rows, Sequence | np.ndarray) or isinstance(rows, str | bytes) or len(rows) == 0:
        raise ValueError(f"{name} is {rows!r}; it must be a list of at least one row of numbers")
    if num_rows is not None and len(rows) != num_rows:
        raise ValueError(f"{name} has {len(rows)} rows; it must have {num_rows}")
    checked: list[np.ndarray] = []
    for i, row in enumerate(rows):
        width = num_columns if num_columns is not None else (len(checked[0]) if checked else None)
        checked.append(check_numbers(f"{name}[{i}]", row, least=least, length=width))
    return np.stack(checked)


def check_demand(demand: Any, kinds: Mapping[str, Sequence[str]], optional: Sequence[str] = ()) -> str:
    """Return the kind of a demand description after checking that its fields are the ones that the kind has.

    Args:
        demand: Mapping with "kind" and the numbers of that kind.
        kinds: Required fields of every kind.
        optional: Further fields allowed.

    Returns:
        The kind.

    Raises:
        ValueError: If it is no mapping, the kind is unknown or a field is missing or unknown.
    """
    if not isinstance(demand, Mapping):
        raise ValueError(f"demand is {demand!r}; it must be a mapping with 'kind', one of {sorted(kinds)}")
    kind = demand.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"demand['kind'] is {kind!r}; it must be one of {sorted(kinds)}")
    missing = [field for field in kinds[kind] if field not in demand]
    unknown = [field for field in demand if field not in ("kind", *kinds[kind], *optional)]
    if missing or unknown:
        raise ValueError(
            f"demand of kind {kind!r} lacks {missing} and has unknown {unknown}; it must have {list(kinds[kind])}"
        )
    return kind


def _describe(above: float | None, least: float | None, below: float | None, most: float | None) -> str:
    bounds = [
        text
        for bound, text in (
            (above, f"above {above:g}" if above is not None else ""),
            (least, f"at least {least:g}" if least is not None else ""),
            (below, f"below {below:g}" if below is not None else ""),
            (most, f"at most {most:g}" if most is not None else ""),
        )
        if bound is not None
    ]
    return "a finite number" + (f" {' and '.join(bounds)}" if bounds else "")
