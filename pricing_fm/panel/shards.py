"""Turns Parquet tables of any size into a folder of stores, as `load_panel` would have read them, in bounded memory."""

import datetime as dt
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.panel.gaps import MAX_FILLED_ROWS, MAX_FILLED_SHARE, WholePanel, complete_lives
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.schema import PanelSchema, read_schema
from pricing_fm.panel.staging import (
    ITEM,
    ROW,
    Progress,
    SortedTable,
    find_parquet_files,
    resolve_schema,
    sort_source,
)
from pricing_fm.panel.store import (
    MANIFEST_FILE,
    SeriesStore,
    build_store,
    hash_file,
    load_store,
    save_store,
    write_last,
)
from pricing_fm.panel.survey import Survey, survey_table
from pricing_fm.panel.validate import check_constants, describe_price_jumps, describe_traffic, warn

FORMAT_VERSION = 1
DRAFT_FOLDER = ".draft"
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class ShardSettings:
    """How a panel is prepared on disk.

    Args:
        shard_rows (`int`): Most rows of a shard, filled periods included; an item is never cut.
        memory_limit_gb (`float`): What the sort may hold in memory; the rest of the work needs about 500 bytes a row of
            a shard beside it.
        threads (`int`, *optional*): Of the sort; one per core by default.
        today (`datetime.date`, *optional*): Date after which units cannot have been sold; the clock's by default.

    Raises:
        PanelError: If a limit is too small.
    """

    shard_rows: int = 2_000_000
    memory_limit_gb: float = 4.0
    threads: int | None = None
    today: dt.date | None = None

    def __post_init__(self) -> None:
        if self.shard_rows < 1 or self.memory_limit_gb < 0.25 or (self.threads is not None and self.threads < 1):
            raise PanelError(
                f"shard_rows is {self.shard_rows}, memory_limit_gb {self.memory_limit_gb}, threads {self.threads}; "
                f"they must be at least 1, 0.25 and 1"
            )


def prepare_shards(
    source: str | Path | Sequence[str | Path],
    folder: str | Path,
    schema: PanelSchema | Mapping[str, Any] | str | Path | None = None,
    name: str | None = None,
    settings: ShardSettings | None = None,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a panel as shards; together they hold what `build_store(load_panel(...))` holds, to the last bit.

    The manifest comes last: a folder without it is no panel. A run that was cut off is taken up where it stood when it
    is started again with the same source and settings, and started anew otherwise.

    Args:
        source (`str`, `Path` or a sequence of them): Parquet files, folders or patterns.
        folder (`str` or `Path`): Folder of the shards; it also holds the drafts, about three times the source.
        schema (`PanelSchema`, `Mapping`, `str`, `Path`, *optional*): Column mapping, or path of its YAML file.
        name (`str`, *optional*): Of the panel in reports; the first source's by default.
        settings (`ShardSettings`, *optional*): Sizes and limits.
        on_progress (`Callable`, *optional*): Called with (step, done, total) of the steps `read`, `sort`, `check`,
            `write`.

    Returns:
        `dict[str, Any]`: The manifest: rows, items, fingerprint, shards with the SHA-256 of their own manifests.

    Raises:
        PanelError: As `load_panel`; the row named is the first one in the part of the table that was being read.
        ArtifactError: If the folder already holds a finished panel.
    """
    settings = ShardSettings() if settings is None else settings
    report: Progress = (lambda step, done, total: None) if on_progress is None else on_progress
    folder = Path(folder)
    if (folder / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{str(folder)!r} already holds a prepared panel; choose another folder or delete it")
    files = find_parquet_files(source)
    resolved = resolve_schema(files, read_schema(schema))
    name = _name_of(files[0]) if name is None else name
    draft = _open_draft(folder, files, resolved, settings)
    today = settings.today or dt.date.today()
    table = sort_source(files, resolved, draft, today, settings.memory_limit_gb, settings.threads, report)
    survey = survey_table(table, draft, settings.memory_limit_gb, report)
    _check_filled_share(survey, table.rows)
    if message := survey.short_items:
        warn(message)
    shards = _write_shards(_Preparation(table, survey, folder, name, settings), report)
    manifest = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "fingerprint": survey.fingerprint,
        "frequency": survey.frequency.name,
        "items": len(table.item_ids),
        "source_rows": table.rows,
        "rows": int(survey.lengths.sum()),
        "sources": [{"file": file.name, "bytes": file.stat().st_size} for file in files],
        "shards": shards,
    }
    write_last(folder / MANIFEST_FILE, json.dumps(manifest, indent=2))
    shutil.rmtree(draft)
    return manifest


def load_shards(folder: str | Path, check_rows: bool = True) -> tuple[SeriesStore, ...]:
    """Opens a panel written by `prepare_shards`, or one store written by `save_store`.

    Args:
        folder (`str` or `Path`): Folder.
        check_rows (`bool`): As in `load_store`; one process of several is enough.

    Returns:
        `tuple[SeriesStore, ...]`: Shards in the order of their items; one entry of `WindowSampler`'s stores.

    Raises:
        ArtifactError: If the panel is unfinished or a file is missing or changed.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{str(folder)!r} holds no finished panel: {MANIFEST_FILE} is missing; prepare it again")
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    if "shards" not in manifest:
        return (load_store(folder, check_rows),)
    if manifest["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"the shards in {str(folder)!r} have format {manifest['format_version']}; this version reads "
            f"{FORMAT_VERSION}. Prepare them again"
        )
    stores = []
    for shard in manifest["shards"]:
        if Path(shard["folder"]).name != shard["folder"]:
            raise ArtifactError(f"the manifest in {str(folder)!r} names {shard['folder']!r}, which is no plain name")
        inside = folder / shard["folder"] / MANIFEST_FILE
        if not inside.is_file() or hash_file(inside) != shard["sha256"]:
            raise ArtifactError(f"shard {shard['folder']} in {str(folder)!r} is missing or changed; prepare it again")
        stores.append(load_store(inside.parent, check_rows))
    return tuple(stores)


@dataclass(frozen=True)
class _Preparation:
    table: SortedTable
    survey: Survey
    folder: Path
    name: str
    settings: ShardSettings


def _name_of(file: Path) -> str:
    # As for one file: the folder names the panel when the file name says nothing.
    stem = file.name.split(".")[0]
    return file.resolve().parent.name if stem in ("panel", "data") or stem.startswith("part") else stem


def _open_draft(folder: Path, files: Sequence[Path], schema: PanelSchema, settings: ShardSettings) -> Path:
    """The folder of drafts; anything that another source or other settings left behind is removed."""
    draft = folder / DRAFT_FOLDER
    found = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    text = json.dumps([FORMAT_VERSION, found, repr(schema), settings.shard_rows, str(settings.today)])
    if not (draft / SETTINGS_FILE).is_file() or (draft / SETTINGS_FILE).read_text(encoding="utf-8") != text:
        shutil.rmtree(draft, ignore_errors=True)
        for shard in folder.glob("shard-*"):
            shutil.rmtree(shard)
        draft.mkdir(parents=True)
        write_last(draft / SETTINGS_FILE, text)
    return draft


def _check_filled_share(survey: Survey, rows: int) -> None:
    total = int(survey.lengths.sum())
    if total > MAX_FILLED_ROWS and total > MAX_FILLED_SHARE * rows:
        raise PanelError(
            f"the items' lives span {total} periods but only {rows} have rows; look for a mistyped date, "
            f"or choose a longer frequency"
        )


def _write_shards(work: _Preparation, report: Progress) -> list[dict[str, Any]]:
    cuts = _cut_items(work.survey.lengths, work.settings.shard_rows)
    offsets = np.r_[0, np.cumsum(work.survey.rows)]
    parts = work.table.parts(None, iter(np.diff(offsets[cuts]).tolist()))
    warnings: dict[Any, str | None] = {describe_price_jumps: None, describe_traffic: None}
    shards: list[dict[str, Any]] = []
    done = 0
    report("write", 0, work.table.rows)
    for number, (first, last) in enumerate(itertools.pairwise(cuts.tolist())):
        part, place = next(parts), work.folder / f"shard-{number:05d}"
        # A finished shard of a run that was cut off; the draft's settings say that it is of this panel.
        if not (place / MANIFEST_FILE).is_file():
            frame, items = work.table.frame(part), part[ITEM] - first
            frame = check_constants(frame, items, work.table.schema)
            for describe, message in warnings.items():
                warnings[describe] = message or describe(frame, items, work.table.schema)
            save_store(_build_shard(work, frame, items), place)
        done += len(part[ROW])
        shards.append(
            {
                "folder": place.name,
                "items": last - first,
                "rows": int(work.survey.lengths[first:last].sum()),
                "sha256": hash_file(place / MANIFEST_FILE),
            }
        )
        report("write", done, work.table.rows)
    for message in warnings.values():
        if message:
            warn(message)
    return shards


def _build_shard(work: _Preparation, frame: pd.DataFrame, items: np.ndarray) -> SeriesStore:
    schema, survey = work.table.schema, work.survey
    products = frame[names.PRODUCT_ID].unique() if names.PRODUCT_ID in frame else np.empty(0, dtype=object)
    whole = WholePanel(survey.last_observed, survey.modal_prices(products))
    completed = complete_lives(frame, items, survey.frequency, schema, whole)
    return build_store(Panel(completed, schema, survey.frequency, work.name), survey.fingerprint)


def _cut_items(lengths: np.ndarray, shard_rows: int) -> np.ndarray:
    """Items at which shards begin, and the number of items: each shard as many items as fit."""
    ends = np.cumsum(lengths)
    cuts = [0]
    while cuts[-1] < len(lengths):
        before = ends[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(int(np.searchsorted(ends, before + shard_rows, side="right")), cuts[-1] + 1))
    return np.array(cuts, dtype=np.int64)
