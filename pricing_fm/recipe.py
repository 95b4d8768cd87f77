"""Reads what a recipe is told (YAML gives defaults, the command line wins, unknown keys are refused) and runs it."""

import dataclasses
import difflib
import functools
import operator
import os
import re
import sys
import types
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from transformers import HfArgumentParser

from pricing_fm.errors import UserError

RECIPE = "recipe.yaml"
TRACEBACK = "PRICING_FM_TRACEBACK"

# argparse takes -1e-05 for a key; -0.00001 is a number to it.
_NEGATIVE_WITH_EXPONENT = re.compile(r"-\d*\.?\d*[eE][+-]?\d+")

_Arguments = TypeVar("_Arguments")


def read_recipe(
    argument_types: Sequence[type], argv: Sequence[str] | None = None, description: str | None = None
) -> tuple[Any, ...]:
    """Turns `--config FILE.yaml` and `--key value` into dataclasses.

    The YAML is turned into command-line words first, so that both are cast by the same rules: `1e-4` is a number
    although YAML reads it as text. A key without a value (`null`) is left to its default. `--key=value`, `--key value`,
    `--list a b` and, for switches that are on by default, `--no_key` are understood.

    Args:
        argument_types (`Sequence[type]`): Dataclasses; their field names are the keys. Fields may be `str`, `int`,
            `float`, `bool`, `Path`, `Literal`, `list[X]`, `tuple[X, ...]`, each of them `| None`.
        argv (`Sequence[str]`, *optional*): Words of the command line; those of the process by default.
        description (`str`, *optional*): Its first paragraph heads `--help`; the docstring of the recipe will do.

    Returns:
        `tuple`: One instance per dataclass, in the given order.

    Raises:
        SystemExit: If a key is unknown, a value cannot be cast or is refused by its dataclass, or a required key is
            missing; the reason goes to standard error. Also after `--help`.
        TypeError: If two dataclasses share a field name.
    """
    classes = tuple(argument_types)
    _refuse_shared_names(classes)
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _build_parser(classes, description)
    config, words = _split_config(words)
    if config is not None:
        words = [*_words_of_yaml(Path(config), classes, parser), *words]
    words = [_plain_decimal(word) if _NEGATIVE_WITH_EXPONENT.fullmatch(word) else word for word in words]
    *parsed, unknown = parser.parse_args_into_dataclasses(
        words, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        _refuse_unknown(unknown[0].split("=")[0], "", classes, parser)
    try:
        return tuple(_build(kind, values) for kind, values in zip(classes, parsed, strict=False))
    except ValueError as error:
        _refuse(parser, str(error))


def run_recipe(main: Callable[[], object]) -> None:
    """Runs a recipe's `main` from the command line.

    Args:
        main (`Callable`): Reads the words of the process.

    Raises:
        SystemExit: With the message of an error that its user can mend, to standard error, and exit status 1; with
            `PRICING_FM_TRACEBACK=1` in the environment the error itself comes through, as every other one does.
    """
    try:
        main()
    except UserError as error:
        if os.environ.get(TRACEBACK):
            raise
        raise SystemExit(f"error: {error}\n({TRACEBACK}=1 shows where)") from error


def resolved_recipe(arguments: Sequence[Any]) -> dict[str, Any]:
    """Every key with the value it had, as plain YAML types.

    Args:
        arguments (`Sequence`): Dataclass instances, as `read_recipe` returns them.

    Returns:
        `dict`: Key to value, in order of declaration; tuples become lists and paths text.

    Raises:
        TypeError: If two dataclasses share a field name.
    """
    _refuse_shared_names([type(entry) for entry in arguments])
    return {
        field.name: _plain(getattr(entry, field.name)) for entry in arguments for field in dataclasses.fields(entry)
    }


def save_recipe(path: str | Path, arguments: Sequence[Any]) -> Path:
    """Writes the resolved recipe, which `--config` reads back to equal dataclasses.

    Args:
        path (`str` or `Path`): The file, or an existing folder in which `recipe.yaml` is written.
        arguments (`Sequence`): Dataclass instances, as `read_recipe` returns them.

    Returns:
        `Path`: The file.
    """
    file = Path(path) / RECIPE if Path(path).is_dir() else Path(path)
    file.write_text(yaml.safe_dump(resolved_recipe(arguments), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file


def _build_parser(classes: Sequence[type], description: str | None) -> HfArgumentParser:
    parser = HfArgumentParser(
        [_as_argparse_knows_it(kind) for kind in classes],
        description=description and description.strip().split("\n\n")[0],
        usage="%(prog)s [--config FILE.yaml] [--key value ...]",
        allow_abbrev=False,  # `--max 5` must not quietly mean --max_steps
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="YAML file with values for any of the keys below")
    return parser


def _as_argparse_knows_it(kind: type) -> type:
    """The same fields for `HfArgumentParser`, which knows no tuples and reads `%` in a help text as a format."""
    entries = []
    for field, hint in _fields_of(kind):
        # Without any help text argparse would not print the default either.
        text = field.metadata.get("help", field.name.replace("_", " "))
        metadata = {**field.metadata, "help": text.replace("%", "%%")}
        default, factory = field.default, field.default_factory
        if isinstance(default, tuple):
            default, factory = dataclasses.MISSING, lambda values=default: list(values)
        settings: dict[str, Any] = {"default": default, "default_factory": factory, "metadata": metadata}
        shadow = dataclasses.field(**settings, kw_only=True)
        entries.append((field.name, _list_instead_of_tuple(hint), shadow))
    title = f"{kind.__name__}: {(kind.__doc__ or '').strip().splitlines()[0].rstrip('.')}"
    return dataclasses.make_dataclass(kind.__name__, entries, namespace={"_argument_group_name": title})


def _build(kind: type[_Arguments], values: Any) -> _Arguments:
    """The real dataclass from the parsed one; its own checks run here."""
    given = {field.name: getattr(values, field.name) for field, _ in _fields_of(kind)}
    for field, hint in _fields_of(kind):
        if _is_tuple(hint) and given[field.name] is not None:
            given[field.name] = tuple(given[field.name])
    return kind(**given)


def _split_config(words: list[str]) -> tuple[str | None, list[str]]:
    reader = ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    known, rest = reader.parse_known_args(words)
    return known.config, rest


def _words_of_yaml(path: Path, classes: Sequence[type], parser: ArgumentParser) -> list[str]:
    """Command-line words that say what the YAML file says."""
    if not path.is_file():
        parser.error(f"--config {path}: there is no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"--config {path}: not readable as YAML ({error})")
    if content is None:
        return []
    if not isinstance(content, dict):
        parser.error(f"--config {path}: expected keys and values, found {type(content).__name__}")
    known = {field.name: (field, hint) for kind in classes for field, hint in _fields_of(kind)}
    words: list[str] = []
    for key, value in content.items():
        if key not in known:
            _refuse_unknown(f"--{key}", f" in {path}", classes, parser)
        words += _words_of_entry(path, value, *known[key], parser)
    return words


def _words_of_entry(
    path: Path, value: Any, field: "dataclasses.Field[Any]", hint: Any, parser: ArgumentParser
) -> list[str]:
    where = f"{path}: {field.name}"
    if value is None:
        return []
    if isinstance(value, dict):
        parser.error(f"{where} holds keys of its own; write one flat list of keys")
    if isinstance(value, bool) and bool not in (hint, *get_args(hint)):
        parser.error(f"{where} is {value!r}, yet it is not a switch; write the word in quotes (YAML reads no as false)")
    if not isinstance(value, list):
        return [f"--{field.name}={_word(value)}"]
    if value:
        return [f"--{field.name}", *(_word(entry) for entry in value)]
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    if default is dataclasses.MISSING or default is None or len(default) > 0:
        parser.error(f"{where} is an empty list; give at least one value, or leave the key out")
    return []


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain_decimal(word: str) -> str:
    return format(Decimal(word), "f")


def _refuse(parser: ArgumentParser, message: str) -> NoReturn:
    parser.error(message)


def _refuse_unknown(option: str, where: str, classes: Sequence[type], parser: ArgumentParser) -> NoReturn:
    names = [field.name for kind in classes for field, _ in _fields_of(kind)]
    close = difflib.get_close_matches(option.lstrip("-").replace("-", "_"), names, n=3)
    meant = f" Did you mean {' or '.join(f'--{name}' for name in close)}?" if close else " See --help for all keys."
    parser.error(f"unknown key {option}{where}.{meant}")


def _refuse_shared_names(classes: Sequence[type]) -> None:
    owner: dict[str, str] = {"config": "read_recipe"}
    for kind in classes:
        for field, _ in _fields_of(kind):
            if field.name in owner:
                raise TypeError(f"{kind.__name__} and {owner[field.name]} both have a key {field.name!r}; rename one")
            owner[field.name] = kind.__name__


def _fields_of(kind: type) -> Iterator[tuple["dataclasses.Field[Any]", Any]]:
    """Fields that are set from outside, with their types."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.init:
            yield field, hints[field.name]


def _is_tuple(hint: Any) -> bool:
    return any(get_origin(part) is tuple for part in (hint, *get_args(hint)))


def _list_instead_of_tuple(hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return types.GenericAlias(list, get_args(hint)[:1])
    if get_origin(hint) in (Union, types.UnionType):
        return functools.reduce(operator.or_, (_list_instead_of_tuple(part) for part in get_args(hint)))
    return hint


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
