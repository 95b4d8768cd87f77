"""Variants of a training run, and what was measured of them: kept on disk with the settings it was measured under."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pricing_fm.artifact import read_json
from pricing_fm.errors import ArtifactError
from pricing_fm.panel.store import write_last
from pricing_fm.results import DataSource, ResultRow

REFERENCE = "reference"
SCORES = "scores.json"
# What an ablation sets itself, for all variants alike.
TAKEN = ("config", "output_dir", "seed", "resume")
_VARIANT = re.compile(r"(?P<name>[a-z0-9_]+):(?P<words>.*)", re.DOTALL)


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Args:
        name (`str`): Lower-case letters, digits, underscores: a folder and a row bear it.
        words (`tuple[str, ...]`): Command-line words that make it differ from the reference; none for the reference.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Measurement:
    """What was measured of one variant with one seed.

    Args:
        settings (`dict[str, str]`): Everything that shaped it, key by key.
        commit (`str`, *optional*): Code that measured it.
        data (`tuple[DataSource, ...]`): What was trained and scored on.
        rows (`tuple[ResultRow, ...]`): The numbers.
    """

    settings: dict[str, str]
    commit: str | None
    data: tuple[DataSource, ...]
    rows: tuple[ResultRow, ...]


def read_variants(texts: Sequence[str]) -> tuple[Variant, ...]:
    """Variants from texts such as `"small: --size small"`.

    Args:
        texts (`Sequence[str]`): Name, colon, words. The first is called `reference`: the others are compared with it.

    Returns:
        `tuple[Variant, ...]`: In the given order.

    Raises:
        ValueError: If a text has another form, a name comes twice, the first is not the reference, or words set what
            the ablation sets itself.
    """
    variants = tuple(_read_variant(text) for text in texts)
    names = [variant.name for variant in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"variants holds {', '.join(twice)} more than once; give each its own name")
    if not names or names[0] != REFERENCE:
        raise ValueError(f"the first of variants is {names[:1]}; it must be called {REFERENCE!r}, as in 'reference:'")
    return variants


def read_measurement(folder: Path) -> Measurement | None:
    """What an earlier run measured.

    Args:
        folder (`Path`): Folder of one variant and seed.

    Returns:
        `Measurement` or None: None where nothing has been finished.

    Raises:
        ArtifactError: If the file is not one of this version.
    """
    path = folder / SCORES
    if not path.is_file():
        return None
    content = read_json(path)
    try:
        return Measurement(
            settings=content["settings"],
            commit=content["commit"],
            data=tuple(DataSource(**source) for source in content["data"]),
            rows=tuple(ResultRow(**row) for row in content["rows"]),
        )
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{path} was not written by this version ({error}); delete it to measure again") from error


def write_measurement(folder: Path, measurement: Measurement) -> None:
    """Writes `scores.json` into an existing folder; the run counts as finished from then on."""
    write_last(folder / SCORES, json.dumps(asdict(measurement), indent=1, allow_nan=False) + "\n")


def read_words(words: Sequence[str]) -> dict[str, str]:
    """Command-line words as keys and values; of a key that comes twice the last value holds, as on a command line.

    Args:
        words (`Sequence[str]`): Such as `--max_steps 400 --stores a b`.

    Returns:
        `dict[str, str]`: Key without dashes to its values, joined by blanks; a switch has none.

    Raises:
        ValueError: If the first word is no key.
    """
    found: dict[str, list[str]] = {}
    values: list[str] | None = None
    for word in words:
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            found[key.replace("-", "_")] = values = [value] if value else []
        elif values is None:
            raise ValueError(f"{' '.join(words)!r} begins with {word!r}; expected a key such as --size")
        else:
            values.append(word)
    return {key: " ".join(values) for key, values in found.items()}


def describe_changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between the settings of a finished run and those asked for, one text per key."""
    pairs = {key: (then.get(key, "default"), now.get(key, "default")) for key in [*then, *now]}
    return [f"{key}: {before} then, {after} now" for key, (before, after) in pairs.items() if before != after]


def _read_variant(text: str) -> Variant:
    found = _VARIANT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"variants holds {text!r}; expected a quoted text such as 'small: --size small'")
    words = tuple(shlex.split(found["words"]))
    if taken := sorted(set(read_words(words)) & set(TAKEN)):
        raise ValueError(f"variant {found['name']!r} sets {', '.join(taken)}, which the ablation sets for all alike")
    return Variant(found["name"], words)
