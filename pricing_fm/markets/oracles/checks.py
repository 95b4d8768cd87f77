"""Arguments of pricing problems, checked at the door, and answers, checked on the way out."""

from __future__ import annotations

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np

# Numbers of any meaning lie far inside; products of three of them still have a floating-point number.
SMALLEST, LARGEST = 1e-100, 1e100
LARGEST_WHOLE = 2**53  # beyond it floating point skips whole numbers
_MOST_STEPS = 200_000_000  # of a dynamic program: a few seconds
_STEPS_OF_A_PERIOD = 1_000  # what a period costs by itself, in steps of one state

P = ParamSpec("P")
Answer = TypeVar("Answer", bound=Mapping[str, Any])


def answers_in_floating_point(
    *may_be_infinite: str,
) -> Callable[[Callable[P, Answer]], Callable[P, Answer]]:
    """Refuse what an oracle cannot answer in floating point, by name: overflow, division by zero, no convergence.

    Args:
        *may_be_infinite: Keys of the answer for which infinity has a meaning, such as the price without stock.

    Returns:
        Decorator of an oracle, whose answer is then finite or a `ValueError` that names every argument.
    """

    def decorate(oracle: Callable[P, Answer]) -> Callable[P, Answer]:
        signature = inspect.signature(oracle)

        @functools.wraps(oracle)
        def checked(*args: P.args, **kwargs: P.kwargs) -> Answer:
            cause: Exception | None = None
            try:
                with np.errstate(over="raise", divide="raise", invalid="raise"):
                    answer = oracle(*args, **kwargs)
                if all(key in may_be_infinite or np.isfinite(value).all() for key, value in answer.items()):
                    return answer
            except (ArithmeticError, RuntimeError, np.linalg.LinAlgError) as error:
                cause = error
            given = ", ".join(f"{k} is {show(v)}" for k, v in signature.bind(*args, **kwargs).arguments.items())
            raise ValueError(
                f"{given}: together these lead out of the range of floating point; they must be less extreme"
            ) from cause

        return checked

    return decorate


def show(value: Any) -> str:
    """Return a short representation for a message, of whole numbers of any length too."""
    if isinstance(value, int) and value.bit_length() > 1_000:
        return f"a whole number of {value.bit_length()} bits"
    return reprlib.repr(value) if isinstance(value, str | bytes | np.ndarray | Mapping | Sequence) else repr(value)


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
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not real:
        raise ValueError(f"{name} is {show(value)}; it must be {allowed}")
    # Python's whole numbers have no limit, floating point has.
    number = math.inf if isinstance(value, int) and value.bit_length() > 1_000 else float(value)
    inside = (
        math.isfinite(number)
        and (above is None or number > above)
        and (least is None or number >= least)
        and (below is None or number < below)
        and (most is None or number <= most)
    )
    if not inside:
        raise ValueError(f"{name} is {show(value)}; it must be {allowed}")
    if number != 0.0 and not SMALLEST <= abs(number) <= LARGEST:
        raise ValueError(
            f"{name} is {value!r}; its size must be between {SMALLEST:g} and {LARGEST:g}"
            f"{'' if above == 0.0 else ', or 0'}"
        )
    return number


def check_integer(name: str, value: Any, least: int = 0, most: int = LARGEST_WHOLE) -> int:
    """Return a whole number from `least` to `most`; 3.0 counts as whole.

    Raises:
        ValueError: If it is not whole or out of bounds.
    """
    number = check_number(name, value, least=least)
    if number != round(number):
        raise ValueError(f"{name} is {show(value)}; it must be a whole number of at least {least}")
    if number > most:
        raise ValueError(f"{name} is {show(value)}; it must be a whole number of at least {least} and at most {most}")
    return round(number)


def check_steps(periods: int, states: int, of_states: str) -> None:
    """Refuse a dynamic program that would run for minutes or fill the memory.

    Args:
        periods: Periods of the program.
        states: Numbers worked out in a period.
        of_states: Argument behind the number of states, for the message.

    Raises:
        ValueError: If periods x states are too many.
    """
    if periods * (states + _STEPS_OF_A_PERIOD) > _MOST_STEPS or states > _MOST_STEPS // 100:
        raise ValueError(
            f"periods is {periods} and {of_states} asks for {states} numbers in each; at most"
            f" {_MOST_STEPS // 100} numbers, and {_MOST_STEPS:g} over all periods, are worked out"
        )


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
    if not _is_list(values):
        raise ValueError(f"{name} is {show(values)}; it must be a list of numbers")
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
    if not _is_list(rows) or len(rows) == 0:
        raise ValueError(f"{name} is {show(rows)}; it must be a list of at least one row of numbers")
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
        raise ValueError(f"demand is {show(demand)}; it must be a mapping with 'kind', one of {sorted(kinds)}")
    kind = demand.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"demand['kind'] is {show(kind)}; it must be one of {sorted(kinds)}")
    missing = [field for field in kinds[kind] if field not in demand]
    unknown = [field for field in demand if field not in ("kind", *kinds[kind], *optional)]
    if missing or unknown:
        raise ValueError(
            f"demand of kind {kind!r} lacks {missing} and has unknown {show(unknown)}; it must have {list(kinds[kind])}"
        )
    return kind


def _is_list(values: Any) -> bool:
    """Whether it is a sequence or an array with at least one axis; text and bytes are none."""
    if isinstance(values, np.ndarray):
        return values.ndim > 0
    return isinstance(values, Sequence) and not isinstance(values, str | bytes | bytearray | memoryview)


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
