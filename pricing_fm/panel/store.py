"""A panel as flat arrays that windows are cut from, in memory or memory-mapped from a folder."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.panel import Panel

FORMAT_VERSION = 1
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
ARRAY_FILES = ("values.npy", "timestamps.npy", "offsets.npy", "static_reals.npy")
ELASTICITY_FILE = "elasticity.npy"  # only where a simulator wrote the store


@dataclass(frozen=True, eq=False)
class SeriesStore:
    """All series of a panel, one after another.

    Args:
        values (`np.ndarray`, shape `(rows, len(CHANNELS))`): Raw units, NaN = missing, columns as in `names.CHANNELS`.
        timestamps (`np.ndarray`, datetime64[s], shape `(rows,)`): Start of each period.
        offsets (`np.ndarray`, int64, shape `(items + 1,)`): Rows of item i are `offsets[i]:offsets[i + 1]`.
        item_ids (`tuple[str, ...]`): Items in sorted order.
        static_categories (`np.ndarray`, object, shape `(items, len(STATIC_CATEGORIES))`): str or None.
        static_reals (`np.ndarray`, shape `(items, MAX_STATIC_REALS)`): NaN = missing.
        frequency (`Frequency`): Step between two periods.
        name (`str`): Name in result rows.
        fingerprint (`str`): Fingerprint of the panel.
        elasticity (`np.ndarray`, float32, shape `(rows,)`, *optional*): True own-price elasticity of each period at its
            price, which only a simulator knows; NaN = unknown.
    """

    values: np.ndarray
    timestamps: np.ndarray
    offsets: np.ndarray
    item_ids: tuple[str, ...]
    static_categories: np.ndarray
    static_reals: np.ndarray
    frequency: Frequency
    name: str
    fingerprint: str
    elasticity: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Periods of each item's life, int64, shape `(items,)`."""
        return np.diff(self.offsets)


def build_store(panel: Panel) -> SeriesStore:
    """Lays a panel out as arrays.

    Args:
        panel (`Panel`): Checked panel.

    Returns:
        `SeriesStore`: Same items in the same order; columns the panel lacks are NaN throughout.

    Raises:
        PanelError: If the panel has no rows.
    """
    frame = panel.frame
    if frame.empty:
        raise PanelError(f"panel {panel.name!r} has no rows; there is nothing to store")
    ids = frame[names.ITEM_ID].to_numpy(dtype=object)
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    values = np.full((len(frame), len(names.CHANNELS)), np.nan, dtype=np.float32)
    for channel, column in _channel_columns(panel).items():
        values[:, names.CHANNEL_INDEX[channel]] = frame[column].to_numpy(dtype=np.float32)
    categories = np.full((len(starts), len(names.STATIC_CATEGORIES)), None, dtype=object)
    categories[:, 0] = panel.frequency.name
    named = names.STATIC_CATEGORIES[1 : -names.MAX_STATIC_CATEGORIES]
    slots = names.STATIC_CATEGORIES[-names.MAX_STATIC_CATEGORIES :]
    columns = {column: column for column in named if column in frame}
    columns |= dict(zip(slots, panel.schema.static_categories, strict=False))
    for slot, column in columns.items():
        texts = frame[column].to_numpy(dtype=object)[starts]
        categories[:, names.STATIC_CATEGORIES.index(slot)] = [text if isinstance(text, str) else None for text in texts]
    reals = np.full((len(starts), names.MAX_STATIC_REALS), np.nan, dtype=np.float32)
    for place, column in enumerate(panel.schema.static_reals):
        reals[:, place] = frame[column].to_numpy(dtype=np.float32)[starts]
    return SeriesStore(
        values=values,
        timestamps=frame[names.TIMESTAMP].to_numpy().astype("datetime64[s]"),
        offsets=np.r_[starts, len(frame)].astype(np.int64),
        item_ids=tuple(ids[starts]),
        static_categories=categories,
        static_reals=reals,
        frequency=panel.frequency,
        name=panel.name,
        fingerprint=panel.fingerprint(),
    )


def save_store(store: SeriesStore, folder: str | Path) -> None:
    """Writes a store as `.npy` arrays, a JSON index and, last, a manifest with the SHA-256 of each file.

    Args:
        store (`SeriesStore`): Store to write.
        folder (`str` or `Path`): Folder, created if needed; files of an earlier store are replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)  # a half-written store has no manifest and is refused
    (folder / ELASTICITY_FILE).unlink(missing_ok=True)
    arrays = dict(zip(ARRAY_FILES, (store.values, store.timestamps, store.offsets, store.static_reals), strict=True))
    if store.elasticity is not None:
        arrays[ELASTICITY_FILE] = store.elasticity
    for file, array in arrays.items():
        np.save(folder / file, array, allow_pickle=False)
    index = {
        "name": store.name,
        "fingerprint": store.fingerprint,
        "frequency": store.frequency.name,
        "channels": list(names.CHANNELS),
        "static_category_names": list(names.STATIC_CATEGORIES),
        "item_ids": list(store.item_ids),
        "static_categories": store.static_categories.tolist(),
    }
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    hashes = {file: _hash_file(folder / file) for file in (*arrays, INDEX_FILE)}
    draft = folder / f"{MANIFEST_FILE}.draft"
    draft.write_text(json.dumps({"format_version": FORMAT_VERSION, "sha256": hashes}, indent=2), encoding="utf-8")
    os.replace(draft, folder / MANIFEST_FILE)


def load_store(folder: str | Path) -> SeriesStore:
    """Opens a store written by `save_store`; rows stay on disk and are read when windows need them.

    Args:
        folder (`str` or `Path`): Folder of the store.

    Returns:
        `SeriesStore`: `values` and `timestamps` are read-only memory maps.

    Raises:
        ArtifactError: If a file is missing or changed, or the channels differ from this version's.
    """
    folder = Path(folder)
    index = _read_index(folder)
    categories = np.full((len(index["item_ids"]), len(names.STATIC_CATEGORIES)), None, dtype=object)
    categories[:] = index["static_categories"]
    elasticity = folder / ELASTICITY_FILE
    return SeriesStore(
        values=np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False),
        timestamps=np.load(folder / "timestamps.npy", mmap_mode="r", allow_pickle=False),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        item_ids=tuple(index["item_ids"]),
        static_categories=categories,
        static_reals=np.load(folder / "static_reals.npy", allow_pickle=False),
        frequency=Frequency.parse(index["frequency"]),
        name=index["name"],
        fingerprint=index["fingerprint"],
        elasticity=np.load(elasticity, mmap_mode="r", allow_pickle=False) if elasticity.is_file() else None,
    )


def _read_index(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST_FILE).is_file():
        raise ArtifactError(f"{str(folder)!r} holds no complete store: {MANIFEST_FILE} is missing; use save_store")
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    if manifest["format_version"] != FORMAT_VERSION:
        raise ArtifactError(
            f"the store in {str(folder)!r} has format {manifest['format_version']}; this version reads "
            f"{FORMAT_VERSION}. Write it again from its panel"
        )
    # An elasticity file that the manifest does not know is refused as well.
    listed = {*ARRAY_FILES, INDEX_FILE, *manifest["sha256"]} | {path.name for path in folder.glob(ELASTICITY_FILE)}
    for file in sorted(listed):
        if not (folder / file).is_file() or _hash_file(folder / file) != manifest["sha256"].get(file):
            raise ArtifactError(f"file {file} of the store in {str(folder)!r} is missing or changed; write it again")
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    found = (tuple(index["channels"]), tuple(index["static_category_names"]))
    if found != (names.CHANNELS, names.STATIC_CATEGORIES):
        raise ArtifactError(
            f"the store in {str(folder)!r} was written with other channels; write it again from its panel"
        )
    return index


def _channel_columns(panel: Panel) -> dict[str, str]:
    slots = (
        (names.PROMOTION_SLOTS, panel.schema.promotions),
        (names.KNOWN_SLOTS, panel.schema.known_covariates),
        (names.PAST_SLOTS, panel.schema.past_covariates),
    )
    columns = {channel: channel for channel in names.CHANNELS}
    for channels, sources in slots:
        columns |= dict(zip(channels, sources, strict=False))
    return {channel: column for channel, column in columns.items() if column in panel.frame}


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
