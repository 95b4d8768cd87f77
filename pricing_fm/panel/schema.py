"""How a source table maps onto the panel: column names, roles, and what an absent row means."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.frequency import Frequency

PROMOTION = "promotion"
ITEM_ID_SEPARATOR = "|"

REQUIRED_COLUMNS = (names.ITEM_ID, names.TIMESTAMP, names.UNITS, names.PRICE)
STRING_COLUMNS = (
    names.CATEGORY,
    names.PRODUCT_ID,
    names.LOCATION_ID,
    names.SEGMENT,
    names.SUBSTITUTE_GROUP,
    names.PRICE_ZONE,
)
NUMBER_COLUMNS = (
    names.UNITS,
    names.PRICE,
    names.LIST_PRICE,
    names.COMPETITOR_PRICE,
    names.COST,
    names.INVENTORY,
    names.TRAFFIC,
)
FLAG_COLUMNS = (names.PRICE_IMPUTED, names.PRICE_IS_INTERVENTION)
PANEL_COLUMNS = (names.ITEM_ID, names.TIMESTAMP, *NUMBER_COLUMNS, *STRING_COLUMNS, PROMOTION, *FLAG_COLUMNS)

# Role lists of a schema and the number of places the arrays have for each.
ROLE_SLOTS = {
    "promotions": names.MAX_PROMOTIONS,
    "known_covariates": names.MAX_KNOWN_COVARIATES,
    "past_covariates": names.MAX_PAST_COVARIATES,
    "static_categories": names.MAX_STATIC_CATEGORIES,
    "static_reals": names.MAX_STATIC_REALS,
}
OPTION_KEYS = ("absent_rows", "frequency", "start")
SCHEMA_KEYS = (*PANEL_COLUMNS, *(role for role in ROLE_SLOTS if role != "promotions"), *OPTION_KEYS)


@dataclass(frozen=True)
class PanelSchema:
    """Column mapping and roles of one panel.

    Args:
        columns (`dict[str, tuple[str, ...]]`): Panel name to source columns; several only for `item_id`, which joins
            them with a vertical bar.
        promotions (`tuple[str, ...]`): Panel columns of the promotion channels, 0..1, known in advance. A single one is
            called `promotion`; several keep the names of the source.
        known_covariates (`tuple[str, ...]`): Panel columns known in advance.
        past_covariates (`tuple[str, ...]`): Panel columns known only afterwards.
        static_categories (`tuple[str, ...]`): Further text columns, constant in an item.
        static_reals (`tuple[str, ...]`): Further number columns, constant in an item.
        absent_rows (`str`): What a period without a row means inside an item's life: `missing` or `zero` sales.
        frequency (`str`, *optional*): Frequency name; inferred when None.
        start (`str`, *optional*): ISO date on which integer period 0 starts.

    Raises:
        PanelError: If a role holds more columns than there are slots, a name has two roles, or an option is unknown.
    """

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    promotions: tuple[str, ...] = ()
    known_covariates: tuple[str, ...] = ()
    past_covariates: tuple[str, ...] = ()
    static_categories: tuple[str, ...] = ()
    static_reals: tuple[str, ...] = ()
    absent_rows: Literal["missing", "zero"] = "missing"
    frequency: str | None = None
    start: str | None = None

    def __post_init__(self) -> None:
        if self.absent_rows not in ("missing", "zero"):
            raise PanelError(f"schema key absent_rows is {self.absent_rows!r}; use 'missing' or 'zero'")
        if self.frequency is not None:
            Frequency.parse(self.frequency)
        seen: dict[str, str] = {}
        for role, allowed in ROLE_SLOTS.items():
            found = getattr(self, role)
            if len(found) > allowed:
                raise PanelError(
                    f"schema declares {len(found)} {role} ({', '.join(found)}); at most {allowed} are allowed. "
                    f"Drop the least useful ones or combine them"
                )
            for column in found:
                if column in PANEL_COLUMNS and not (role == "promotions" and column == PROMOTION):
                    raise PanelError(
                        f"schema lists column {column!r} under {role}, but that is a panel name with a meaning of its "
                        f"own. Map it as `{column}: <source column>` or rename the source column"
                    )
                if column in seen:
                    raise PanelError(f"schema lists column {column!r} twice: under {seen[column]} and {role}. Keep one")
                seen[column] = role

    @property
    def number_columns(self) -> tuple[str, ...]:
        """Panel columns that hold numbers in this panel, in canonical order."""
        named = tuple(column for column in NUMBER_COLUMNS if column in self.columns)
        return named + self.promotions + self.known_covariates + self.past_covariates + self.static_reals

    @property
    def string_columns(self) -> tuple[str, ...]:
        """Panel columns that hold text in this panel, without `item_id`, in canonical order."""
        return tuple(column for column in STRING_COLUMNS if column in self.columns) + self.static_categories

    @property
    def constant_columns(self) -> tuple[str, ...]:
        """Panel columns that must not change within an item."""
        fixed = (names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID, names.SEGMENT)
        return tuple(column for column in fixed if column in self.columns) + self.static_categories + self.static_reals

    @property
    def source_columns(self) -> tuple[str, ...]:
        """Every source column that the mapping reads, each once."""
        return tuple(dict.fromkeys(source for sources in self.columns.values() for source in sources))

    def resolve(self, available: Iterable[str]) -> "PanelSchema":
        """Adds unmapped columns that bear a panel name; checks that every mapped column exists.

        Args:
            available (`Iterable[str]`): Columns of the source table.

        Returns:
            `PanelSchema`: Mapping that names every column that is read.

        Raises:
            PanelError: If a mapped or required column is missing.
        """
        found = [str(column) for column in available]
        taken = {source for name, sources in self.columns.items() if name != names.ITEM_ID for source in sources}
        columns, promotions = dict(self.columns), self.promotions
        for column in PANEL_COLUMNS:
            usable = column in found and column not in columns and column not in taken
            if column == PROMOTION and promotions:
                continue
            if usable:
                columns[column] = (column,)
                promotions = (PROMOTION,) if column == PROMOTION else promotions
        for column, sources in columns.items():
            for source in sources:
                if source not in found:
                    raise PanelError(
                        f"column {source!r} (for {column}) is missing; the table has {_listing(found)}. "
                        f"Correct the schema or add the column"
                    )
        for column in REQUIRED_COLUMNS:
            if column not in columns:
                raise PanelError(
                    f"column {column!r} is missing; the table has {_listing(found)}. "
                    f"Map it in the schema: `{column}: <source column>`"
                )
        return replace(self, columns=columns, promotions=promotions)

    def rename(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Gives a table of this source the panel's column names.

        Works for the panel's own table and for tables passed along with it (`future`, `limits`): columns that are not
        in the table are left out, columns that the schema does not know are kept, a table that already uses panel names
        is left as it is.

        Args:
            frame (`pd.DataFrame`): Table in the source's column names.

        Returns:
            `pd.DataFrame`: New table, same rows and index; `item_id` holds strings (None = missing).

        Raises:
            PanelError: If two different items get the same joined id.
        """
        renamed: dict[str, Any] = {}
        for column, sources in self.columns.items():
            if all(source in frame for source in sources):
                parts = [frame[source] for source in sources]
                renamed[column] = join_strings(parts) if column == names.ITEM_ID else parts[0]
            elif column in frame and column not in self.source_columns:
                renamed[column] = join_strings([frame[column]]) if column == names.ITEM_ID else frame[column]
        for column in frame.columns:
            if column not in self.source_columns and column not in renamed:
                renamed[column] = frame[column]
        return pd.DataFrame(renamed, index=frame.index)


def read_schema(source: "PanelSchema | Mapping[str, Any] | str | Path | None") -> PanelSchema:
    """Reads a schema from a YAML file or a mapping.

    Args:
        source (`PanelSchema`, `Mapping`, `str`, `Path` or None): Schema, mapping of its keys, or path of a YAML file.
            None means that the table uses panel names.

    Returns:
        `PanelSchema`: Checked schema, not yet resolved against a table.

    Raises:
        PanelError: If the file is missing, a key is unknown, or a value has the wrong form.
    """
    if source is None:
        return PanelSchema()
    if isinstance(source, PanelSchema):
        return source
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if not path.is_file():
            raise PanelError(f"schema file {str(path)!r} does not exist; pass the path of a YAML file or a dict")
        source = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(source, Mapping):
        raise PanelError(f"a schema is a mapping of panel names to source columns; found {type(source).__name__}")
    unknown = [str(key) for key in source if key not in SCHEMA_KEYS]
    if unknown:
        raise PanelError(f"unknown schema keys: {', '.join(unknown)}; known keys are {', '.join(SCHEMA_KEYS)}")
    return _build_schema({key: value for key, value in source.items() if value is not None})


def join_strings(parts: list[pd.Series]) -> np.ndarray:
    """Joins columns into one text column with a vertical bar; fast, since only distinct values are turned into text.

    Whole numbers read as numbers lose their decimals (`12.0` becomes `12`), so that ids are the same from CSV and
    Parquet.

    Args:
        parts (`list[pd.Series]`): One or more columns of equal length.

    Returns:
        `np.ndarray`, object, shape `(rows,)`: Text; None where any part is missing or empty.

    Raises:
        PanelError: If two different combinations give the same text.
    """
    coded = [_encode_strings(part) for part in parts]
    if len(coded) == 1:
        codes, texts = coded[0]
        return texts[codes]
    joint = np.zeros(len(parts[0]), dtype=np.int64)
    missing = np.zeros(len(parts[0]), dtype=bool)
    for codes, texts in coded:
        joint = joint * len(texts) + codes
        missing |= pd.isna(texts)[codes]
    keys, inverse = np.unique(joint, return_inverse=True)
    columns, rest = [], keys
    for _, texts in reversed(coded):
        rest, code = np.divmod(rest, len(texts))
        columns.append(texts[code])
    joined = [ITEM_ID_SEPARATOR.join(map(str, combination)) for combination in zip(*reversed(columns), strict=True)]
    if len(set(joined)) < len(joined):
        clash = next(text for text in joined if joined.count(text) > 1)
        raise PanelError(f"joined item_id {clash!r} stands for two different items; remove '|' from the joined columns")
    result = np.array(joined, dtype=object)[inverse]
    result[missing] = None
    return result


def _encode_strings(column: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    codes, uniques = pd.factorize(column)
    texts = np.empty(len(uniques) + 1, dtype=object)  # the last place is what code -1 (missing) points to
    for code, value in enumerate(list(uniques)):
        whole = isinstance(value, (float, np.floating)) and float(value).is_integer()
        texts[code] = (str(int(value)) if whole else str(value)) or None
    return np.where(codes < 0, len(uniques), codes), texts


def _build_schema(keys: dict[str, Any]) -> PanelSchema:
    columns: dict[str, tuple[str, ...]] = {}
    roles: dict[str, tuple[str, ...]] = {}
    for key, value in keys.items():
        if key in OPTION_KEYS:
            continue
        found = _column_names(key, value)
        if key in ROLE_SLOTS or (key == PROMOTION and len(found) > 1):
            roles["promotions" if key == PROMOTION else key] = found
            columns.update({column: (column,) for column in found})
        elif key != names.ITEM_ID and len(found) > 1:
            raise PanelError(
                f"schema key {key} names {len(found)} columns; only item_id and promotion may name several"
            )
        else:
            columns[key] = found
            if key == PROMOTION:
                roles["promotions"] = (PROMOTION,)
    return PanelSchema(
        columns=columns,
        promotions=roles.get("promotions", ()),
        known_covariates=roles.get("known_covariates", ()),
        past_covariates=roles.get("past_covariates", ()),
        static_categories=roles.get("static_categories", ()),
        static_reals=roles.get("static_reals", ()),
        absent_rows=keys.get("absent_rows", "missing"),
        frequency=str(keys["frequency"]) if "frequency" in keys else None,
        start=str(keys["start"]) if "start" in keys else None,
    )


def _column_names(key: str, value: Any) -> tuple[str, ...]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, (list, tuple)) or not all(isinstance(column, str) for column in found):
        raise PanelError(f"schema key {key} is {value!r}; expected a column name or a list of column names")
    if not found and key not in ROLE_SLOTS:
        raise PanelError(f"schema key {key} is an empty list; name a column or leave the key out")
    if len(set(found)) < len(found):
        raise PanelError(f"schema key {key} names a column twice: {', '.join(found)}")
    return tuple(found)


def _listing(columns: list[str]) -> str:
    shown = ", ".join(map(repr, columns[:20]))
    return f"{shown} and {len(columns) - 20} more" if len(columns) > 20 else shown or "no columns"
