"""A panel as flat arrays that windows are cut from, in memory or memory-mapped from a folder."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.panel.frequency import Frequency
from pricing_fm.panel.panel import Panel

FORMAT_VERSION = 3
INDEX_FILE = "index.json"
MANIFEST_FILE = "manifest.json"
ROW_FILES = ("values.npy", "timestamps.npy", "marks.npy")  # as long as the panel: they stay on disk
ITEM_FILES = ("offsets.npy", "static_reals.npy", "static_codes.npy", "item_keys.npy", "groups.npy")
ARRAY_FILES = (*ROW_FILES, *ITEM_FILES)
ELASTICITY_FILE = "elasticity.npy"  # only where a simulator wrote the store

# What the sampler has to know of each row, in one byte, so that it need not read the values to open a store.
UNITS_ARE_OBSERVED, ORIGIN_IS_KNOWN, IS_INTERVENTION = 1, 2, 4


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
        groups (`np.ndarray`, int64, shape `(items,)`, *optional*): Items with equal numbers are siblings; None = those
            of one category are.
        visible_lengths (`np.ndarray`, int64, shape `(items,)`, *optional*): Periods of each item that may be read, from
            its first one; None = all. Set by `before` and `without_categories`.
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
    groups: np.ndarray | None = None
    visible_lengths: np.ndarray | None = None
    # Read from a file by `load_store`; a store with other values (`dataclasses.replace`) starts without.
    _saved_marks: np.ndarray | None = field(default=None, init=False, repr=False)

    @property
    def lengths(self) -> np.ndarray:
        """Periods of each item's life that may be read, int64, shape `(items,)`."""
        return np.diff(self.offsets) if self.visible_lengths is None else self.visible_lengths

    @property
    def last_observed(self) -> pd.Timestamp:
        """Last visible period in which any item has units.

        Raises:
            PanelError: If no units are observed.
        """
        observed = np.flatnonzero(np.asarray(self.marks) & UNITS_ARE_OBSERVED)
        items = np.searchsorted(self.offsets, observed, side="right") - 1
        observed = observed[observed < self.offsets[items] + self.lengths[items]]
        if not observed.size:
            raise PanelError(f"panel {self.name!r} has no observed units; there is no last observed period")
        return pd.Timestamp(np.asarray(self.timestamps)[observed].max())

    def before(self, timestamp: pd.Timestamp | str) -> "SeriesStore":
        """The same arrays, of which nothing is read from a moment on: training periods without a copy.

        Args:
            timestamp (`pd.Timestamp` or `str`): Naive UTC moment.

        Returns:
            `SeriesStore`: Items that start later have no periods left.
        """
        first = np.asarray(self.timestamps[self.offsets[:-1]])
        number, phase = self.frequency.locate(np.array(pd.Timestamp(timestamp).to_datetime64()))
        numbers, phases = self.frequency.locate(first)
        return self._show(np.clip(number - numbers + (phase > phases), 0, self.lengths))

    def without_categories(self, categories: Iterable[str]) -> "SeriesStore":
        """The same arrays, of which items of some categories are not read.

        Args:
            categories (`Iterable[str]`): Exact values of the column `category`.

        Returns:
            `SeriesStore`: These items have no periods left.
        """
        given = self.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
        return self._show(np.where(np.isin(given.astype(str), list(categories)), 0, self.lengths))

    def _show(self, visible_lengths: np.ndarray) -> "SeriesStore":
        cut = replace(self, visible_lengths=visible_lengths)
        object.__setattr__(cut, "_saved_marks", self._saved_marks)
        vars(cut)["item_keys"] = self.item_keys
        return cut

    @property
    def marks(self) -> np.ndarray:
        """What the sampler asks of each row, uint8, shape `(rows,)`.

        A sum of `UNITS_ARE_OBSERVED`, `ORIGIN_IS_KNOWN` (somebody said whether the price is an intervention) and
        `IS_INTERVENTION`.
        """
        return _mark_rows(self.values) if self._saved_marks is None else self._saved_marks

    @cached_property
    def sibling_groups(self) -> np.ndarray:
        """Number of each item's group of siblings, int64, shape `(items,)`; -1 = an item without any."""
        if self.groups is not None:
            return self.groups
        category = self.static_categories[:, names.STATIC_CATEGORIES.index(names.CATEGORY)]
        return pd.factorize(category)[0].astype(np.int64)

    @cached_property
    def sibling_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items sorted by group, where each group begins in that order (one more than groups), each item's place in it.

        All int64; items without a group come last, and their place means nothing.
        """
        groups = self.sibling_groups
        keys = np.where(groups < 0, np.iinfo(np.int64).max, groups)
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(groups.max(initial=-1) + 2))
        position = np.empty(len(groups), dtype=np.int64)
        position[order] = np.arange(len(groups)) - starts[np.maximum(groups[order], 0)]
        return order, starts, position

    @cached_property
    def item_keys(self) -> np.ndarray:
        """Stable hash of each item id, uint64, shape `(items,)`."""
        return np.array([hash_item_id(item_id) for item_id in self.item_ids], dtype=np.uint64)


def build_store(panel: Panel, fingerprint: str | None = None) -> SeriesStore:
    """Lays a panel out as arrays.

    Args:
        panel (`Panel`): Checked panel.
        fingerprint (`str`, *optional*): By which the store is known; the panel's own by default.

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
        fingerprint=panel.fingerprint() if fingerprint is None else fingerprint,
    )


def save_store(store: SeriesStore, folder: str | Path) -> None:
    """Writes a store as `.npy` arrays, a JSON index and, last, a manifest with the SHA-256 of each file.

    Args:
        store (`SeriesStore`): Store to write.
        folder (`str` or `Path`): Folder, created if needed; files of an earlier store are replaced.

    Raises:
        PanelError: If a part of the store is not to be read: the files would hold it all the same.
    """
    if store.visible_lengths is not None:
        raise PanelError(f"store {store.name!r} is cut; save the whole store, and cut it where it is opened")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)  # a half-written store has no manifest and is refused
    (folder / ELASTICITY_FILE).unlink(missing_ok=True)
    codes, vocabularies = _encode_categories(store.static_categories)
    arrays = {
        "values.npy": store.values,
        "timestamps.npy": store.timestamps,
        "marks.npy": store.marks,
        "offsets.npy": store.offsets,
        "static_reals.npy": store.static_reals,
        "static_codes.npy": codes,
        "item_keys.npy": store.item_keys,
        "groups.npy": store.sibling_groups,
    }
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
        "static_vocabularies": vocabularies,
    }
    (folder / INDEX_FILE).write_text(json.dumps(index), encoding="utf-8")
    files = (*arrays, INDEX_FILE)
    manifest = {
        "format_version": FORMAT_VERSION,
        "sha256": {file: hash_file(folder / file) for file in files},
        "bytes": {file: (folder / file).stat().st_size for file in files},
    }
    write_last(folder / MANIFEST_FILE, json.dumps(manifest, indent=2))


def load_store(folder: str | Path, check_rows: bool = True) -> SeriesStore:
    """Opens a store written by `save_store`; rows stay on disk and are read when windows need them.

    Args:
        folder (`str` or `Path`): Folder of the store.
        check_rows (`bool`): Compare the hashes of the arrays that are as long as the panel, too, which reads them from
            end to end. Their sizes, and everything about every other file, are always compared.

    Returns:
        `SeriesStore`: `values` and `timestamps` are read-only memory maps.

    Raises:
        ArtifactError: If a file is missing or changed, or the channels differ from this version's.
    """
    folder = Path(folder)
    index = _read_index(folder, check_rows)
    elasticity = folder / ELASTICITY_FILE
    store = SeriesStore(
        values=np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False),
        timestamps=np.load(folder / "timestamps.npy", mmap_mode="r", allow_pickle=False),
        offsets=np.load(folder / "offsets.npy", allow_pickle=False),
        item_ids=tuple(index["item_ids"]),
        static_categories=_decode_categories(
            np.load(folder / "static_codes.npy", allow_pickle=False), index["static_vocabularies"]
        ),
        static_reals=np.load(folder / "static_reals.npy", allow_pickle=False),
        frequency=Frequency.parse(index["frequency"]),
        name=index["name"],
        fingerprint=index["fingerprint"],
        groups=np.load(folder / "groups.npy", allow_pickle=False),
        elasticity=np.load(elasticity, mmap_mode="r", allow_pickle=False) if elasticity.is_file() else None,
    )
    object.__setattr__(store, "_saved_marks", np.load(folder / "marks.npy", mmap_mode="r", allow_pickle=False))
    vars(store)["item_keys"] = np.load(folder / "item_keys.npy", allow_pickle=False)
    return store


def hash_item_id(item_id: str) -> int:
    """64-bit hash of an item id that is the same in every process.

    Args:
        item_id (`str`): Item.

    Returns:
        `int`: 0 .. 2**64 - 1.
    """
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest(), "little")


def hash_file(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path (`Path`): File.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_last(path: Path, text: str) -> None:
    """Writes the file that declares a folder complete: it is there as a whole or not at all.

    Args:
        path (`Path`): File.
        text (`str`): Content.
    """
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _read_index(folder: Path, check_rows: bool) -> dict[str, Any]:
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
        if not _is_unchanged(folder / file, manifest, check_rows or file not in (*ROW_FILES, ELASTICITY_FILE)):
            raise ArtifactError(f"file {file} of the store in {str(folder)!r} is missing or changed; write it again")
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    found = (tuple(index["channels"]), tuple(index["static_category_names"]))
    if found != (names.CHANNELS, names.STATIC_CATEGORIES):
        raise ArtifactError(
            f"the store in {str(folder)!r} was written with other channels; write it again from its panel"
        )
    return index


def _is_unchanged(path: Path, manifest: dict[str, Any], check_hash: bool) -> bool:
    if not path.is_file() or path.stat().st_size != manifest["bytes"].get(path.name):
        return False
    return not check_hash or hash_file(path) == manifest["sha256"].get(path.name)


def _mark_rows(values: np.ndarray) -> np.ndarray:
    flag = np.asarray(values[:, names.CHANNEL_INDEX[names.PRICE_IS_INTERVENTION]])
    marks = np.where(np.isnan(values[:, names.CHANNEL_INDEX[names.UNITS]]), 0, UNITS_ARE_OBSERVED).astype(np.uint8)
    marks[~np.isnan(flag)] |= ORIGIN_IS_KNOWN
    marks[flag == 1] |= IS_INTERVENTION
    return marks


def _encode_categories(categories: np.ndarray) -> tuple[np.ndarray, list[list[str]]]:
    """Places in the sorted distinct values of each slot, int32, -1 = missing: `(items, slots)`, and those values."""
    codes = np.full(categories.shape, -1, dtype=np.int32)
    vocabularies = []
    for slot, texts in enumerate(categories.T):
        places, distinct = pd.factorize(texts)
        order = np.argsort(distinct) if len(distinct) else np.empty(0, dtype=np.int64)
        rank = np.empty(len(distinct) + 1, dtype=np.int32)
        rank[order], rank[-1] = np.arange(len(distinct)), -1  # the last place is what -1 points to
        codes[:, slot] = rank[places]
        vocabularies.append([str(text) for text in distinct[order]])
    return codes, vocabularies


def _decode_categories(codes: np.ndarray, vocabularies: list[list[str]]) -> np.ndarray:
    categories = np.empty(codes.shape, dtype=object)
    for slot, texts in enumerate(vocabularies):
        categories[:, slot] = np.array([*texts, None], dtype=object)[codes[:, slot]]
    return categories


def _channel_columns(panel: Panel) -> dict[str, str]:
    slots = (
        (names.PROMOTION_SLOTS, panel.schema.promotions),
        (names.COVARIATE_SLOTS, panel.schema.known_covariates),
        (names.PAST_SLOTS, panel.schema.past_covariates),
    )
    columns = {channel: channel for channel in names.CHANNELS}
    for channels, sources in slots:
        columns |= dict(zip(channels, sources, strict=False))
    return {channel: column for channel, column in columns.items() if column in panel.frame}
