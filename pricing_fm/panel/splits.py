"""Splits a panel by time first, then by category, so that nothing learned from is scored."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.panel import Panel, describe_categories


@dataclass(frozen=True)
class TimeSplit:
    """Three views of one panel; each sees everything before its end, and is scored from `evaluate_from` on.

    Args:
        train (`Panel`): Periods before `validation.evaluate_from`.
        validation (`Panel`): Periods before `test.evaluate_from`; scored from its own `evaluate_from`.
        test (`Panel`): All periods; scored from its own `evaluate_from`.
    """

    train: Panel
    validation: Panel
    test: Panel


@dataclass(frozen=True)
class CategorySplit:
    """Two panels without a common category, product or item.

    Args:
        train (`Panel`): Categories to learn from.
        held_out (`Panel`): Categories that stay unseen.
    """

    train: Panel
    held_out: Panel


def split_by_time(panel: Panel, validation_start: pd.Timestamp | str, test_start: pd.Timestamp | str) -> TimeSplit:
    """Cuts a panel at two moments; random splits would let later weeks explain earlier ones.

    Args:
        panel (`Panel`): Panel to split.
        validation_start (`pd.Timestamp` or `str`): First period scored for validation.
        test_start (`pd.Timestamp` or `str`): First period scored for the test.

    Returns:
        `TimeSplit`: `max(train timestamp) < validation_start <= validation rows < test_start`; validation and test keep
        earlier rows as context.

    Raises:
        PanelError: If the moments are out of order or a part has no observed units.
    """
    validation_start, test_start = pd.Timestamp(validation_start), pd.Timestamp(test_start)
    if not validation_start < test_start:
        raise PanelError(f"validation starts on {validation_start} and the test on {test_start}; it must start earlier")
    stamps = panel.frame.loc[panel.frame[names.UNITS].notna(), names.TIMESTAMP]
    parts = {
        "train": stamps < validation_start,
        "validation": (stamps >= validation_start) & (stamps < test_start),
        "test": stamps >= test_start,
    }
    for part, inside in parts.items():
        if not inside.any():
            raise PanelError(
                f"the {part} part of panel {panel.name!r} has no observed units: validation starts on "
                f"{validation_start}, the test on {test_start}, units run from {stamps.min()} to {stamps.max()}"
            )
    return TimeSplit(
        train=panel.before(validation_start),
        validation=replace(panel.before(test_start), evaluate_from=validation_start),
        test=replace(panel, evaluate_from=test_start),
    )


def split_by_category(panel: Panel, held_out: str | Iterable[str]) -> CategorySplit:
    """Takes whole categories out of a panel.

    A category must not come back under another spelling, and no product may sit on both sides: otherwise "unseen" would
    not be true.

    Args:
        panel (`Panel`): Panel with the column `category`.
        held_out (`str` or `Iterable[str]`): Exact category values to hold out.

    Returns:
        `CategorySplit`: Training panel and held-out panel.

    Raises:
        PanelError: If a category is unknown, nothing remains, an item has no category, or the sides share a product or
            two spellings of one category.
    """
    wanted = {held_out} if isinstance(held_out, str) else set(held_out)
    unknown = sorted(wanted.difference(panel.categories))
    if unknown or not wanted:
        there = describe_categories(panel.categories, unknown)
        raise PanelError(f"panel {panel.name!r} has no category {unknown or wanted}; {there}")
    nameless = panel.frame[names.CATEGORY].isna()
    if nameless.any():
        item = panel.frame.loc[nameless, names.ITEM_ID].iloc[0]
        raise PanelError(
            f"item {item!r} has no category, so it could be on either side; fill the category in or drop it"
        )
    outside = panel.frame[names.CATEGORY].isin(wanted).to_numpy()
    if outside.all():
        raise PanelError(f"holding out {sorted(wanted)} leaves nothing to train on")
    _check_sides_are_disjoint(panel.frame[~outside], panel.frame[outside])
    return CategorySplit(
        train=replace(panel, frame=panel.frame[~outside].reset_index(drop=True)),
        held_out=replace(panel, frame=panel.frame[outside].reset_index(drop=True)),
    )


def check_spellings(trained_on: Iterable[str], held_out: Iterable[str]) -> None:
    """Refuses a held-out category that is trained on under another spelling, for example in another panel.

    Args:
        trained_on (`Iterable[str]`): Categories.
        held_out (`Iterable[str]`): Categories.

    Raises:
        PanelError: If two of them differ in case, blanks or punctuation alone, or not at all.
    """
    spelled = {_plain(category): category for category in trained_on}
    for category in held_out:
        if _plain(category) in spelled:
            raise PanelError(
                f"category {category!r} is held out but {spelled[_plain(category)]!r} is not; they look like two "
                f"spellings of one category. Hold out both or rename one"
            )


def _check_sides_are_disjoint(train: pd.DataFrame, held_out: pd.DataFrame) -> None:
    check_spellings(train[names.CATEGORY].unique(), held_out[names.CATEGORY].unique())
    for column in (names.ITEM_ID, names.PRODUCT_ID, names.SUBSTITUTE_GROUP):
        if column in train:
            shared = set(train[column].dropna().unique()) & set(held_out[column].dropna().unique())
            if shared:
                raise PanelError(
                    f"{column} {min(shared)!r} is in a training and in a held-out category ({len(shared)} shared); "
                    f"give it one category or hold out both categories"
                )


def _plain(category: str) -> str:
    return "".join(character for character in category.casefold() if character.isalnum())
