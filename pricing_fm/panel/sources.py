"""Reads a table from wherever it lies: CSV, Parquet, DataFrame, `datasets.Dataset`, Hub dataset id or an SQL query."""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.parquet as pq

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.schema import PanelSchema

CSV_SUFFIXES = (".csv", ".csv.gz", ".csv.zst", ".csv.bz2", ".csv.xz", ".csv.zip", ".tsv")
PARQUET_SUFFIXES = (".parquet", ".pq")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# Only these cells of a CSV mean "missing" in a text column: a product may well be called "NA".
CSV_MISSING_TEXT = [""]
CSV_MISSING_NUMBER = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A"]


@dataclass(frozen=True)
class SourceTable:
    """A table as read, before any conversion.

    Args:
        frame (`pd.DataFrame`): Source columns that the schema reads, no others; index = 0-based row of the source.
        schema (`PanelSchema`): Schema resolved against the table's columns.
        name (`str`): Name of the panel in reports.
    """

    frame: pd.DataFrame
    schema: PanelSchema
    name: str


def read_source(source: Any, schema: PanelSchema) -> SourceTable:
    """Reads the columns that a schema names; the others are dropped at once, and not even read where that is possible.

    Args:
        source (`str`, `Path`, `pd.DataFrame`, `datasets.Dataset` or `tuple[str, str]`): Path of a CSV or Parquet file,
            Hub dataset id (`org/name`), table, or `(query, connection_url)`.
        schema (`PanelSchema`): Unresolved schema.

    Returns:
        `SourceTable`: Raw values.

    Raises:
        PanelError: If the source does not exist, is of an unknown kind, or lacks a column.
    """
    if isinstance(source, pd.DataFrame):
        return _project(source, schema, "panel")
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return _read_dataset(source, schema, "panel")
    if isinstance(source, tuple):
        return _read_query(source, schema)
    if isinstance(source, Path):
        return _read_file(source.expanduser(), schema)
    if isinstance(source, str):
        path = Path(source).expanduser()
        if path.exists() or looks_like_a_path(source):
            return _read_file(path, schema)
        return _read_hub(source, schema)
    raise PanelError(
        f"cannot read a panel from {type(source).__name__}; pass a CSV or Parquet path, a pandas DataFrame, a "
        f"datasets.Dataset, a Hub dataset id (org/name) or (query, connection_url)"
    )


def looks_like_a_path(source: str) -> bool:
    """True when a text that names no existing file was still meant as a file, so that no Hub is asked for it.

    Args:
        source (`str`): What the caller passed.

    Returns:
        `bool`: False only for `org/name` without a file suffix.
    """
    known_suffix = source.lower().endswith((*CSV_SUFFIXES, *PARQUET_SUFFIXES, ".json", ".xlsx", ".txt", ".feather"))
    return known_suffix or HUB_ID.fullmatch(source) is None


def _read_file(path: Path, schema: PanelSchema) -> SourceTable:
    if path.is_dir():
        raise PanelError(
            f"{str(path)!r} is a folder; pass the table inside it, for example {str(path / 'panel.parquet')!r}"
        )
    if not path.is_file():
        raise PanelError(f"file {str(path)!r} does not exist; check the path (a Hub dataset id has the form org/name)")
    # `data/frat/panel.parquet` is the panel "frat": the folder names it when the file name says nothing.
    name = path.name.split(".")[0]
    name = path.resolve().parent.name if name == "panel" else name
    if path.name.lower().endswith(PARQUET_SUFFIXES):
        return _read_parquet(path, schema, name)
    if path.name.lower().endswith(CSV_SUFFIXES):
        return _read_csv(path, schema, name)
    raise PanelError(
        f"file {str(path)!r} is neither CSV nor Parquet; known endings: .csv, .csv.gz, .tsv, .parquet, .pq"
    )


def _read_parquet(path: Path, schema: PanelSchema, name: str) -> SourceTable:
    try:
        available = pq.read_schema(path).names
    except (OSError, ValueError) as error:
        raise PanelError(f"file {str(path)!r} cannot be read as Parquet: {error}") from error
    # Index columns that pandas writes along are no columns of the table.
    resolved = schema.resolve(available)
    frame = pq.read_table(path, columns=list(resolved.source_columns)).to_pandas(ignore_metadata=True)
    return SourceTable(frame, resolved, name)


def _read_csv(path: Path, schema: PanelSchema, name: str) -> SourceTable:
    separator = "\t" if path.name.lower().endswith(".tsv") else ","
    try:
        available = pd.read_csv(path, sep=separator, nrows=0).columns
        resolved = schema.resolve(available)
        # Text columns are read as text: product '00042' keeps its zeros.
        texts = [source for column in (names.ITEM_ID, *resolved.string_columns) for source in resolved.columns[column]]
        others = [source for source in resolved.source_columns if source not in texts]
        frame = pd.read_csv(
            path,
            sep=separator,
            dtype=dict.fromkeys(texts, str),
            keep_default_na=False,
            na_values=dict.fromkeys(texts, CSV_MISSING_TEXT) | dict.fromkeys(others, CSV_MISSING_NUMBER),
            low_memory=False,
        )
    except pd.errors.EmptyDataError as error:
        raise PanelError(f"file {str(path)!r} is empty; a panel needs a header and at least one row") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise PanelError(f"file {str(path)!r} cannot be read as CSV: {error}. Save it as UTF-8 with commas") from error
    # With `usecols` pandas would drop surplus cells in silence, and `1,200` would become 1: so all columns are read.
    if not isinstance(frame.index, pd.RangeIndex):
        raise PanelError(f"file {str(path)!r} has rows with more cells than the header; quote cells that hold a comma")
    return SourceTable(frame[list(resolved.source_columns)], resolved, name)


def _read_dataset(source: datasets.Dataset | datasets.DatasetDict, schema: PanelSchema, name: str) -> SourceTable:
    if isinstance(source, datasets.DatasetDict):
        if "train" not in source and len(source) != 1:
            raise PanelError(
                f"the dataset has the splits {', '.join(source)}; pass one of them, dataset['{next(iter(source))}']"
            )
        source = source["train"] if "train" in source else next(iter(source.values()))
    resolved = schema.resolve(source.column_names)
    return SourceTable(source.select_columns(list(resolved.source_columns)).to_pandas(), resolved, name)


def _read_hub(dataset_id: str, schema: PanelSchema) -> SourceTable:
    try:
        loaded = datasets.load_dataset(dataset_id)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise PanelError(
            f"{dataset_id!r} is no file here, and the Hub has no dataset of that name that can be read: {error}. "
            f"Check the spelling, the network and your access rights"
        ) from error
    return _read_dataset(loaded, schema, dataset_id.split("/")[-1])


def _read_query(source: tuple[Any, ...], schema: PanelSchema) -> SourceTable:
    if len(source) != 2 or not all(isinstance(part, str) for part in source):
        raise PanelError("an SQL source is a pair of texts: (query, connection_url)")
    if find_spec("sqlalchemy") is None:
        raise PanelError("reading from SQL needs SQLAlchemy; install it with `pip install 'pricing-fm[sql]'`")
    from sqlalchemy import create_engine, text  # part of the extra 'sql', absent in a plain installation
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    query, url = source
    try:
        engine = create_engine(url)
        with engine.connect() as connection:
            result = connection.execute(text(query))
            frame = pd.DataFrame(result.fetchall(), columns=list(result.keys()))
        engine.dispose()
    except DBAPIError as error:
        raise PanelError(f"the query failed: {error.orig}. Check the query and the connection URL") from error
    except ImportError as error:
        raise PanelError(f"the driver of the database is not installed: {error}") from error
    except SQLAlchemyError as error:
        # The message may quote the connection URL, and with it a password.
        raise PanelError(f"the connection URL is not understood ({type(error).__name__}); check its form") from None
    return _project(frame, schema, "query")


def _project(frame: pd.DataFrame, schema: PanelSchema, name: str) -> SourceTable:
    duplicated = frame.columns[frame.columns.duplicated()]
    if len(duplicated):
        raise PanelError(f"the table has two columns called {duplicated[0]!r}; rename or drop one")
    resolved = schema.resolve(frame.columns)
    return SourceTable(frame[list(resolved.source_columns)].reset_index(drop=True), resolved, name)
