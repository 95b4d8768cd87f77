"""Reads Parquet tables of any size part by part, checks and types their cells, sorts them on disk by item and time."""

import datetime as dt
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.cells import read_cells, read_timestamps
from pricing_fm.panel.schema import FLAG_COLUMNS, ITEM_ID_SEPARATOR, PanelSchema, join_strings
from pricing_fm.panel.sources import PARQUET_SUFFIXES
from pricing_fm.panel.validate import check_values

ROW = "__row__"  # 0-based row of the source, over all files
ITEM = "__item__"  # place of the item among the sorted item ids
STAGED_FILE, SORTED_FILE, TEXTS_FILE = "staged.parquet", "sorted.parquet", "texts.json"
READ_ROWS = 500_000  # source rows typed at once

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SortedTable:
    """A checked source table on disk: numbers and codes, sorted by item, time and source row.

    Args:
        path (`Path`): Parquet file with `ITEM`, `timestamp` (seconds since 1970), `ROW`, number columns as float64 and
            text columns as places in `texts`, -1 = missing.
        schema (`PanelSchema`): Resolved schema.
        item_ids (`list[str]`): Sorted.
        texts (`dict[str, list[str]]`): Distinct texts of each text column, in the order of their appearance.
        rows (`int`): Source rows.
    """

    path: Path
    schema: PanelSchema
    item_ids: list[str]
    texts: dict[str, list[str]]
    rows: int

    @cached_property
    def text_arrays(self) -> dict[str, np.ndarray]:
        """`texts` as object arrays with None in the last place, which is what -1 points to."""
        return {name: np.array([*texts, None], dtype=object) for name, texts in self.texts.items()}

    def parts(self, columns: Sequence[str] | None, sizes: Iterator[int]) -> Iterator[dict[str, np.ndarray]]:
        """Consecutive rows, cut into parts of given sizes.

        Args:
            columns (`Sequence[str]`, *optional*): Columns to read; None = all.
            sizes (`Iterator[int]`): Rows of each part; together all rows.

        Yields:
            `dict[str, np.ndarray]`: Columns of the next part.
        """
        waiting: list[pa.RecordBatch] = []
        batches = pq.ParquetFile(self.path).iter_batches(batch_size=READ_ROWS, columns=columns)
        have = 0
        for size in sizes:
            while have < size:
                waiting.append(next(batches))
                have += len(waiting[-1])
            table = pa.Table.from_batches(waiting)
            part, rest = table.slice(0, size), table.slice(size)
            waiting, have = rest.to_batches(), len(rest)
            yield {name: part.column(name).to_numpy() for name in part.column_names}

    def frame(self, part: dict[str, np.ndarray]) -> pd.DataFrame:
        """A part as the table that the checks of the panel contract read: texts, dates, numbers; index = source rows.

        Args:
            part (`dict[str, np.ndarray]`): Columns as `parts` yields them; `ITEM` and `ROW` at least.

        Returns:
            `pd.DataFrame`: The same rows in panel names.
        """
        columns: dict[str, pd.Series] = {}
        ids = np.array(self.item_ids[part[ITEM][0] : part[ITEM][-1] + 1], dtype=object)
        columns[names.ITEM_ID] = pd.Series(ids[part[ITEM] - part[ITEM][0]], dtype=object)
        for name, values in part.items():
            if name == names.TIMESTAMP:
                columns[name] = pd.Series(values.astype("datetime64[s]").astype("datetime64[ns]"))
            elif name in self.texts:
                columns[name] = pd.Series(self.text_arrays[name][values], dtype=object)
            elif name not in (ITEM, ROW):
                columns[name] = pd.Series(values)
        frame = pd.DataFrame(columns)
        frame.index = pd.Index(part[ROW])
        return frame


def find_parquet_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """Parquet files of a source, in the order in which their rows are counted.

    Args:
        source (`str`, `Path` or a sequence of them): Files, folders (every Parquet file inside, at any depth), or
            patterns with `*`.

    Returns:
        `list[Path]`: Sorted within each entry.

    Raises:
        PanelError: If an entry names no Parquet file.
    """
    entries = [source] if isinstance(source, str | Path) else list(source)
    found: list[Path] = []
    for entry in entries:
        path = Path(entry).expanduser()
        if path.is_file():
            here = [path]
        elif path.is_dir():
            here = sorted(inside for inside in path.rglob("*") if inside.name.lower().endswith(PARQUET_SUFFIXES))
        else:
            anchor = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(anchor)) if path.is_absolute() else str(path)
            here = sorted(anchor.glob(pattern)) if "*" in pattern else []
        if not here or not all(file.name.lower().endswith(PARQUET_SUFFIXES) for file in here):
            raise PanelError(
                f"{str(entry)!r} names no Parquet file; pass a file, a folder of Parquet files, or a pattern with *"
            )
        found += here
    return found


def resolve_schema(files: Sequence[Path], schema: PanelSchema) -> PanelSchema:
    """Resolves a schema against the columns that all files share.

    Args:
        files (`Sequence[Path]`): Parquet files.
        schema (`PanelSchema`): Unresolved schema.

    Returns:
        `PanelSchema`: Names every column that is read.

    Raises:
        PanelError: If a file cannot be read, lacks a column, or has a panel column that the first one lacks.
    """
    resolved = None
    for file in files:
        try:
            available = pq.read_schema(file).names
        except (OSError, ValueError) as error:
            raise PanelError(f"file {str(file)!r} cannot be read as Parquet: {error}") from error
        try:
            here = schema.resolve(available)
        except PanelError as error:
            raise PanelError(f"file {str(file)!r}: {error}") from error
        if resolved is not None and here != resolved:
            raise PanelError(
                f"file {str(file)!r} has other panel columns than {str(files[0])!r}: "
                f"{sorted(set(here.columns) ^ set(resolved.columns))}; one panel has one set of columns"
            )
        resolved = here
    if resolved is None:
        raise PanelError("there is no Parquet file to read")
    return resolved


def sort_source(
    files: Sequence[Path],
    schema: PanelSchema,
    draft: Path,
    today: dt.date,
    memory_limit_gb: float,
    threads: int | None,
    on_progress: Progress,
) -> SortedTable:
    """Types, checks and sorts a source in a folder of drafts; steps that an earlier run finished are not repeated.

    Args:
        files (`Sequence[Path]`): Parquet files.
        schema (`PanelSchema`): Resolved schema.
        draft (`Path`): Existing folder with room for about twice the source as plain numbers.
        today (`datetime.date`): Date after which units cannot have been sold.
        memory_limit_gb (`float`): What the sort may hold in memory; the rest goes to disk.
        threads (`int`, *optional*): Of the sort; one per core by default.
        on_progress (`Callable`): Called with (step, done, total).

    Returns:
        `SortedTable`: The sorted table.

    Raises:
        PanelError: If a cell breaks the panel contract, the table is empty, or DuckDB is not installed.
    """
    if find_spec("duckdb") is None:
        raise PanelError("preparing a panel on disk needs DuckDB; install it with `pip install 'pricing-fm[sql]'`")
    sorted_path, texts_path = draft / SORTED_FILE, draft / TEXTS_FILE
    if not sorted_path.is_file():
        if not texts_path.is_file():
            stage = _Stage(schema, today)
            stage.write(files, draft / STAGED_FILE, on_progress)
            _replace(texts_path, lambda path: path.write_text(json.dumps(stage.content()), encoding="utf-8"))
        content = json.loads(texts_path.read_text(encoding="utf-8"))
        on_progress("sort", 0, 1)
        _replace(sorted_path, lambda path: _sort(draft, path, content, memory_limit_gb, threads))
        on_progress("sort", 1, 1)
    (draft / STAGED_FILE).unlink(missing_ok=True)
    content = json.loads(texts_path.read_text(encoding="utf-8"))
    return SortedTable(sorted_path, schema, sorted(content["item_ids"]), content["texts"], content["rows"])


class _Stage:
    """Source rows in source order as numbers and codes; codes count distinct texts in the order of their appearance."""

    def __init__(self, schema: PanelSchema, today: dt.date) -> None:
        self._schema = schema
        self._flags = tuple(column for column in FLAG_COLUMNS if column in schema.columns)
        self._numbers = (*schema.number_columns, *self._flags)
        self._end_of_today = pd.Timestamp(today).normalize() + pd.Timedelta(days=1, seconds=-1)
        self._codes: dict[str, dict[str, int]] = {name: {} for name in (names.ITEM_ID, *schema.string_columns)}
        self._ambiguous: dict[str, tuple[str, ...]] = {}
        self._first: pd.DataFrame | None = None
        self._rows = 0

    def write(self, files: Sequence[Path], path: Path, on_progress: Progress) -> None:
        sources = [pq.ParquetFile(file) for file in files]
        total = sum(source.metadata.num_rows for source in sources)
        if total == 0:
            raise PanelError("the table is empty; a panel needs at least two periods of one item")
        writer: pq.ParquetWriter | None = None
        on_progress("read", 0, total)
        for source in sources:
            for batch in source.iter_batches(batch_size=READ_ROWS, columns=list(self._schema.source_columns)):
                if not len(batch):
                    continue
                table = self._encode(_to_pandas(batch))
                writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
                writer.write_table(table)
                on_progress("read", self._rows, total)
        if writer is not None:
            writer.close()

    def content(self) -> dict[str, Any]:
        """What has to be known to read the codes, as JSON."""
        texts = {name: list(codes) for name, codes in self._codes.items()}
        return {"rows": self._rows, "item_ids": texts.pop(names.ITEM_ID), "texts": texts}

    def _encode(self, source: pd.DataFrame) -> pa.Table:
        source.index = pd.RangeIndex(self._rows, self._rows + len(source))
        self._rows += len(source)
        self._refuse_equal_joins(source)
        renamed = self._schema.rename(source)
        self._check_offset(renamed)
        typed = read_cells(renamed, self._schema, self._numbers)
        check_values(typed, self._schema, self._end_of_today)
        columns: dict[str, np.ndarray] = {ITEM: self._encode_texts(names.ITEM_ID, typed[names.ITEM_ID])}
        columns[names.TIMESTAMP] = typed[names.TIMESTAMP].to_numpy().astype("datetime64[s]").astype(np.int64)
        columns[ROW] = typed.index.to_numpy(dtype=np.int64)
        columns |= {name: typed[name].to_numpy(dtype=np.float64) for name in self._numbers}
        columns |= {name: self._encode_texts(name, typed[name]) for name in self._schema.string_columns}
        return pa.table(columns)

    def _check_offset(self, renamed: pd.DataFrame) -> None:
        """UTC offsets are compared within a part when it is read; here with the first row of the table."""
        stamps = renamed[[names.ITEM_ID, names.TIMESTAMP]]
        if self._first is None:
            self._first = stamps.iloc[:1]
        elif not pd.api.types.is_datetime64_dtype(stamps.dtypes[names.TIMESTAMP]):
            read_timestamps(pd.concat([self._first, stamps]), self._schema)

    def _encode_texts(self, name: str, column: pd.Series) -> np.ndarray:
        known = self._codes[name]
        places, distinct = pd.factorize(column)
        codes = [known.setdefault(str(text), len(known)) for text in distinct]
        return np.array([*codes, -1], dtype=np.int32)[places]  # the last place is what -1 points to

    def _refuse_equal_joins(self, source: pd.DataFrame) -> None:
        """`a|b` + `c` and `a` + `b|c` give one text: within a part the join refuses it, here between parts."""
        parts = [join_strings([source[column]]) for column in self._schema.columns[names.ITEM_ID]]
        if len(parts) == 1:
            return
        distinct = [pd.unique(part) for part in parts]
        if not any(isinstance(text, str) and ITEM_ID_SEPARATOR in text for texts in distinct for text in texts):
            return
        for combination in set(zip(*parts, strict=True)):
            if None in combination or not any(ITEM_ID_SEPARATOR in text for text in combination):
                continue
            joined = ITEM_ID_SEPARATOR.join(combination)
            if self._ambiguous.setdefault(joined, combination) != combination:
                raise PanelError(
                    f"joined item_id {joined!r} stands for two different items; remove '|' from the joined columns"
                )


def _to_pandas(batch: pa.RecordBatch) -> pd.DataFrame:
    """A batch as a table; texts as categories, so that each distinct one is converted once, and dates as midnights."""
    table = pa.Table.from_batches([batch])
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            table = table.set_column(place, field.name, table.column(place).dictionary_encode())
        elif pa.types.is_date(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(pa.timestamp("s")))
    return table.to_pandas(ignore_metadata=True)


def _sort(draft: Path, path: Path, content: dict[str, Any], memory_limit_gb: float, threads: int | None) -> None:
    import duckdb  # part of the extra 'sql', absent in a plain installation

    (draft / "spill").mkdir(exist_ok=True)
    config: dict[str, Any] = {
        "memory_limit": f"{int(memory_limit_gb * 1024)}MiB",
        "temp_directory": str(draft / "spill"),
        "preserve_insertion_order": "true",
    }
    if threads is not None:
        config["threads"] = threads
    connection = duckdb.connect(":memory:", config=config)
    try:
        connection.register("ranks", _ranks(content["item_ids"]))
        connection.execute(
            f"COPY (SELECT ranks.rank AS {ITEM}, staged.* EXCLUDE ({ITEM}) "
            f"FROM read_parquet({_literal(draft / STAGED_FILE)}) AS staged JOIN ranks ON ranks.code = staged.{ITEM} "
            f"ORDER BY ranks.rank, staged.{names.TIMESTAMP}, staged.{ROW}) "
            f"TO {_literal(path)} (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )
    except duckdb.Error as error:
        raise PanelError(f"sorting on disk failed: {error}. Free disk space or raise the memory limit") from error
    finally:
        connection.close()


def _ranks(texts: list[str]) -> pa.Table:
    """Code of appearance to place in sorted order."""
    rank = {text: place for place, text in enumerate(sorted(texts))}
    places = pa.array([rank[text] for text in texts], pa.int32())
    return pa.table({"code": pa.array(range(len(texts)), pa.int32()), "rank": places})


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    write(part)
    os.replace(part, path)


def _literal(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
