"""Arguments of batches, streams and environments, checked at the door: what was found, and what is expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# An object, because numpy takes longer to find the type of a name than to convert a few numbers.
_FLOAT = np.dtype(np.float64)
_LARGEST_NAME = np.iinfo(np.int64).max


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Floats are refused even where they are whole (a seed above 2**53 would have lost digits on its way), and so is bool.

    Args:
        name: Argument name for the message.
        value: What was given.
        least: Smallest number that is allowed.

    Returns:
        The number as a Python int.

    Raises:
        ValueError: If it is no integer or too small.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number (an int), {least} or more")
    return int(value)


def check_whole_numbers(name: str, values: Any) -> np.ndarray:
    """Return whole numbers of 0 or more as an int64 array of their own shape.

    Args:
        name: Argument name for the message.
        values: What was given; nothing at all is allowed.

    Returns:
        int64.

    Raises:
        ValueError: If they are ragged, of another type than integer, negative or beyond int64.
    """
    array = _to_array(name, values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {_describe(array)}; it must hold whole numbers, 0 or more")
    lowest, highest = int(array.min()), int(array.max())
    if lowest < 0:
        raise ValueError(f"{name} is {lowest} somewhere; it must be 0 or more")
    if highest > _LARGEST_NAME:
        raise ValueError(f"{name} is {highest} somewhere; it must be below 2**63")
    return array.astype(np.int64)


def check_market_ids(values: Any) -> np.ndarray:
    """Return names of markets as an int64 array.

    Equal names are allowed: they are the same market with the same luck, once per name, each priced by itself.

    Args:
        values: Names, whole numbers of 0 or more, `(markets,)`.

    Returns:
        int64, `(markets,)`.

    Raises:
        ValueError: If they do not form a list, are empty, or hold something other than whole numbers of 0 or more.
    """
    ids = check_whole_numbers("market_ids", values)
    if ids.ndim != 1 or len(ids) == 0:
        raise ValueError(f"market_ids has shape {ids.shape}; it must be (markets,), with one market or more")
    return ids


def check_reals(name: str, values: Any, flags: bool = False) -> np.ndarray:
    """Return real numbers as a float64 array of its own: neither complex numbers nor text turn into prices.

    Args:
        name: Argument name for the message.
        values: What was given.
        flags: True = bool is allowed too.

    Returns:
        float64, a copy of what was given.

    Raises:
        ValueError: If they are ragged or of another type.
    """
    array = values if type(values) is np.ndarray else _to_array(name, values)
    kind = array.dtype.kind
    if kind != "f" and kind not in ("iub" if flags else "iu"):
        raise ValueError(f"{name} holds {_describe(array)}; it must hold real numbers")
    return array.astype(_FLOAT)


def check_options(options: Any) -> None:
    """Refuse options of a reset, of which markets have none.

    Args:
        options: What was given to `reset`; None and an empty mapping are fine.

    Raises:
        ValueError: If there are any.
    """
    if options is None or (isinstance(options, Mapping) and not options):
        return
    found = f"holds {', '.join(map(repr, options))}" if isinstance(options, Mapping) else f"is {options!r}"
    raise ValueError(
        f"options {found}; it must be None or empty: what a market is like is said when the environment is made"
    )


def _to_array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} is no array; it must hold as many numbers in every row ({error})") from error


def _describe(array: np.ndarray) -> str:
    """What kind of values an array holds, in words."""
    words = {"b": "bool", "c": "complex numbers", "f": "floats", "U": "text", "S": "text", "O": "Python objects"}
    return words.get(array.dtype.kind, f"{array.dtype} values")
