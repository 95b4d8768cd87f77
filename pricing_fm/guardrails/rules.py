"""The rules themselves: read from YAML, JSON or a dict, checked at the door, overridden per item by limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pricing_fm.errors import GuardrailError

PRICE_FLOOR = "price_floor"
PRICE_CEILING = "price_ceiling"
MINIMUM_MARGIN = "minimum_margin"
MAXIMUM_STEP = "maximum_step"
PRICE_ENDINGS = "price_endings"
RULES = (PRICE_FLOOR, PRICE_CEILING, MINIMUM_MARGIN, MAXIMUM_STEP, PRICE_ENDINGS)

RuleValue = float | tuple[float, ...]


@dataclass(frozen=True)
class Guardrails:
    """Rules in order of application.

    Args:
        rules (`tuple[tuple[str, float or tuple[float, ...]], ...]`): Pairs of key and value:
            `price_floor`, `price_ceiling` (currency), `minimum_margin` (share of the price in [0, 1)),
            `maximum_step` (share of the current price, 0 locks it), `price_endings` (fractions of one currency unit).
            Endings are chosen inside the interval that all other rules leave, wherever their key stands.

    Raises:
        GuardrailError: If a key is unknown or given twice, or a value is not of its kind.
    """

    rules: tuple[tuple[str, RuleValue], ...] = ()

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.rules]
        if len(set(keys)) < len(keys):
            raise GuardrailError(f"a rule is given twice: {keys}. Keep one of them")
        for key, value in self.rules:
            if check_value(key, value) is None:
                raise GuardrailError(f"guardrail {key} has no value; give one or leave the key out")

    def as_dict(self) -> dict[str, float | list[float]]:
        """The rules as they are written to `guardrails.json`, in order of application.

        Returns:
            `dict`: Key to value; endings as a list.
        """
        return {key: list(value) if isinstance(value, tuple) else value for key, value in self.rules}


def load_guardrails(source: str | Path | Mapping[str, Any] | Guardrails | None) -> Guardrails:
    """Reads rules in the order in which they are written.

    Args:
        source (`str`, `Path`, `Mapping`, `Guardrails`, *optional*): A `.yaml`, `.yml` or `.json` file, a dict, rules
            that are returned as they are, or None for no rules.

    Returns:
        `Guardrails`: The checked rules.

    Raises:
        GuardrailError: If the file cannot be read, a key is unknown, or a value is not of its kind.
    """
    if source is None:
        return Guardrails()
    if isinstance(source, Guardrails):
        return source
    content = source if isinstance(source, Mapping) else _read(Path(source))
    rules = []
    for key, value in content.items():
        checked = check_value(key, value)
        if checked is None:
            raise GuardrailError(f"guardrail {key} has no value; give one or leave the key out")
        rules.append((key, checked))
    return Guardrails(tuple(rules))


def check_value(key: str, value: Any) -> RuleValue | None:
    """Checks one value of one rule.

    Args:
        key (`str`): Name of the rule.
        value: A number, for `price_endings` a number or a sequence of them; None or NaN where the rule does not apply.

    Returns:
        `float`, `tuple[float, ...]` or None: The value in the form in which rules keep it.

    Raises:
        GuardrailError: If the key is unknown or the value is not of its kind.
    """
    if key not in RULES:
        raise GuardrailError(f"unknown guardrail {key!r}; known are {', '.join(RULES)}")
    if value is None or (isinstance(value, float | np.floating) and np.isnan(value)):
        return None
    if key == PRICE_ENDINGS:
        return _check_endings(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        raise GuardrailError(f"guardrail {key} is {value!r}; expected a number")
    number = float(value)
    allowed = {
        PRICE_FLOOR: (0 <= number < np.inf, "a price of 0 or more, currency per unit"),
        PRICE_CEILING: (0 < number < np.inf, "a price above 0, currency per unit"),
        MINIMUM_MARGIN: (0 <= number < 1, "a share of the price from 0 to below 1"),
        MAXIMUM_STEP: (0 <= number < np.inf, "a share of the current price, 0 or more"),
    }
    fits, expected = allowed[key]
    if not fits:
        raise GuardrailError(f"guardrail {key} is {value!r}; expected {expected}")
    return number


def _check_endings(value: Any) -> tuple[float, ...]:
    single = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    entries = [value] if single else value
    if not isinstance(entries, Sequence | np.ndarray) or isinstance(entries, str) or len(entries) == 0:
        raise GuardrailError(f"guardrail {PRICE_ENDINGS} is {value!r}; expected a list such as [0.99, 0.49]")
    for entry in entries:
        number = isinstance(entry, int | float | np.integer | np.floating) and not isinstance(entry, bool)
        if not number or not 0 <= entry < 1:
            raise GuardrailError(
                f"guardrail {PRICE_ENDINGS} holds {entry!r}; expected fractions of one currency unit, from 0 to below 1"
            )
    return tuple(sorted({float(entry) for entry in entries}))


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise GuardrailError(f"guardrails {path}: expected a .yaml, .yml or .json file, a dict or None")
    if not path.is_file():
        raise GuardrailError(f"guardrails {path}: there is no such file")
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise GuardrailError(f"guardrails {path}: not readable ({error})") from error
    if not isinstance(content, Mapping):
        raise GuardrailError(f"guardrails {path}: expected keys and values, found {type(content).__name__}")
    return content
