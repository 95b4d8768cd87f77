"""Writes a policy as artifact folders: the base, and its adapters below it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pricing_fm.adapters import adapter_name, point_adapter_to_base, read_adapter
from pricing_fm.artifact import CARD, MANIFEST, read_manifest, verify_artifact, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.policy.artifacts import ADAPTER_FOLDER, ADAPTERS_FOLDER, LoadedAdapter


def save_policy(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    adapters: Mapping[str | None, LoadedAdapter],
    base_folder: Path | None,
    folder: Path,
) -> None:
    """Writes a base and its adapters as complete artifacts.

    What was loaded from a folder is copied from there, so that it stays the same to the last bit, with everything that
    only people read; the adapters then name the copy as their base.

    Args:
        model (`PricingFMForPolicy`): The base; written only if it never stood in a folder.
        processor (`PricingFMProcessor`): Belongs to it.
        adapters (`dict[str | None, LoadedAdapter]`): By category.
        base_folder (`Path`, *optional*): Where the base was loaded from.
        folder (`Path`): Absent, empty, or an artifact, which is replaced.

    Raises:
        ArtifactError: If `folder` holds something else, a source changed since it was loaded, or an adapter was never
            saved or belongs to another base.
    """
    _refuse_other_content(folder)
    sources = {_place_of(entry, folder, len(adapters)): _folder_of(entry) for entry in adapters.values()}
    stale = [place for place in _adapters_in(folder) if place not in sources]
    if base_folder is None:
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_manifest(folder, "base")
        write_card(folder, CardText(title=folder.name))
    elif base_folder.resolve() != folder.resolve():
        _copy_artifact(base_folder, folder)
    fingerprint = read_manifest(folder).base_fingerprint
    for place, source in sources.items():
        if read_manifest(source).base_fingerprint != fingerprint:
            raise ArtifactError(f"{source}: this adapter belongs to another base than the one in {folder}")
        if place.resolve() != source.resolve():
            _copy_artifact(source, place)
        if Path(read_adapter(place).base) != folder.resolve():
            point_adapter_to_base(place, folder, None)
    for place in stale:
        shutil.rmtree(place)


def _place_of(entry: LoadedAdapter, folder: Path, count: int) -> Path:
    return folder / ADAPTER_FOLDER if count == 1 else folder / ADAPTERS_FOLDER / adapter_name(entry.category)


def _folder_of(entry: LoadedAdapter) -> Path:
    if entry.folder is None:
        raise ArtifactError(f"the adapter for {entry.category!r} was trained here and never saved; save it first")
    return entry.folder


def _adapters_in(folder: Path) -> list[Path]:
    """Adapters that an earlier policy left in the folder."""
    many = folder / ADAPTERS_FOLDER
    places = [folder / ADAPTER_FOLDER, *(sorted(many.iterdir()) if many.is_dir() else [])]
    return [place for place in places if (place / MANIFEST).is_file()]


def _refuse_other_content(folder: Path) -> None:
    """A folder of something else is not written into: files of two owners would end up under one seal."""
    if not folder.is_dir() or not any(not path.name.startswith(".") for path in folder.iterdir()):
        return
    if not (folder / MANIFEST).is_file() or read_manifest(folder).kind != "base":
        raise ArtifactError(f"{folder} holds something else than a saved policy; choose another folder, or empty it")


def _copy_artifact(source: Path, target: Path) -> None:
    """Copies what the seal of `source` lists, the seal and the card; files of an earlier artifact are removed."""
    files = [*verify_artifact(source).files, MANIFEST]
    if (target / MANIFEST).is_file():
        for name in read_manifest(target).files:
            (target / name).unlink(missing_ok=True)
    for name in [*files, CARD] if (source / CARD).is_file() else files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        # Follows the links of the Hub's cache.
        shutil.copyfile(source / name, target / name)
