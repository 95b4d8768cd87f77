"""The seal of an artifact folder: `manifest.json` lists what belongs to it, and a folder that differs is refused.

A published model can lose a byte, gain a file, or be paired with another base, and the libraries below load it without
a word. The manifest makes each of these an `ArtifactError` before anything is read into a network.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from pricing_fm.errors import ArtifactError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
CARD = "README.md"
BASE_WEIGHTS = "model.safetensors"
BASE_INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

ArtifactKind = Literal["base", "adapter"]

# What a loader may read: safetensors, JSON, YAML, and the network's source for `trust_remote_code`.
_LOADABLE = {".safetensors", ".json", ".yaml", ".yml", ".py"}
# What only people read; a page added on the Hub's own website does not break an artifact.
_READABLE = {".md", ".txt", ".csv", ".jsonl", ".html", ".png", ".svg"}
_READABLE_NAMES = {"LICENSE", "NOTICE"}


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says.

    Args:
        format_version (`int`): Version of the folder's layout; a newer one than `FORMAT_VERSION` is refused.
        kind (`str`): `"base"` or `"adapter"`.
        base_fingerprint (`str`): `tensor_fingerprint` of the base: the folder's own, or the adapter's base.
        files (`dict[str, str]`): `"sha256:..."` of each file by its path inside the folder, with forward slashes.
    """

    format_version: int
    kind: ArtifactKind
    base_fingerprint: str
    files: dict[str, str]


def tensor_fingerprint(tensors: Mapping[str, torch.Tensor]) -> str:
    """Names the weights themselves, whatever file, number type or device they are kept in.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): A state dict.

    Returns:
        `str`: `"sha256:"` and the SHA-256 of the tensors' fp32 little-endian bytes, one after the other in key order.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(_fp32_bytes(tensors[key]))
    return f"sha256:{digest.hexdigest()}"


def base_fingerprint(folder: str | Path) -> str:
    """Fingerprint of the weights in a base folder, read tensor by tensor.

    Args:
        folder (`str` or `Path`): Folder with `model.safetensors`, or with an index and its shards.

    Returns:
        `str`: `tensor_fingerprint` of all weights.

    Raises:
        ArtifactError: If weights are missing or unreadable, or the index leads out of the folder.
    """
    where: dict[str, Path] = {}
    digest = hashlib.sha256()
    try:
        for path in _weight_files(Path(folder)):
            with safe_open(path, framework="pt") as file:
                where |= dict.fromkeys(file.keys(), path)
        for key in sorted(where):
            with safe_open(where[key], framework="pt") as file:
                digest.update(_fp32_bytes(file.get_tensor(key)))
    except SafetensorError as error:
        raise ArtifactError(f"{folder}: weights are not readable ({error}). Download or export them again") from error
    return f"sha256:{digest.hexdigest()}"


def write_manifest(folder: str | Path, kind: ArtifactKind, base_fingerprint_of_adapter: str | None = None) -> Manifest:
    """Seals a finished folder. Call it last: a file that changes afterwards breaks the seal.

    The card and files or folders whose name starts with a dot (checkpoints, logs) stay outside. A subfolder with a
    manifest of its own (`adapter/`) is another artifact and is not listed either.

    Args:
        folder (`str` or `Path`): The artifact folder.
        kind (`str`): `"base"` or `"adapter"`.
        base_fingerprint_of_adapter (`str`, *optional*): For an adapter, the fingerprint of the base it was trained on.
            A base computes its own.

    Returns:
        `Manifest`: What was written.

    Raises:
        ArtifactError: If a file is of a kind that an artifact does not hold, or weights are missing.
    """
    folder = Path(folder)
    files = _artifact_files(folder)
    if kind == "base":
        fingerprint = base_fingerprint(folder)
    elif base_fingerprint_of_adapter is None:
        raise ArtifactError(f"{folder}: an adapter needs the fingerprint of the base it was trained on; pass it")
    elif ADAPTER_WEIGHTS not in files:
        raise ArtifactError(f"{folder}: {ADAPTER_WEIGHTS} is missing; save the adapter before its manifest")
    else:
        fingerprint = base_fingerprint_of_adapter
    manifest = Manifest(FORMAT_VERSION, kind, fingerprint, {name: _file_digest(path) for name, path in files.items()})
    text = json.dumps(vars(manifest), indent=2, sort_keys=True)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


def read_manifest(folder: str | Path) -> Manifest:
    """Reads `manifest.json` without looking at the files it lists.

    Args:
        folder (`str` or `Path`): The artifact folder.

    Returns:
        `Manifest`: What the folder says of itself.

    Raises:
        ArtifactError: If the manifest is missing, malformed or of a newer format than this version reads.
    """
    path = Path(folder) / MANIFEST
    content = read_json(path)
    version = content.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ArtifactError(f"{path}: format_version is {version!r}; expected 1 or more. Export it again")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{path}: format_version is {version}; this pricing_fm reads up to {FORMAT_VERSION}. Upgrade pricing_fm"
        )
    kind, fingerprint, files = (content.get(key) for key in ("kind", "base_fingerprint", "files"))
    well_formed = isinstance(files, dict) and all(isinstance(value, str) for value in files.values())
    if kind not in ("base", "adapter") or not isinstance(fingerprint, str) or not well_formed or not files:
        raise ArtifactError(
            f"{path}: expected kind, base_fingerprint and files; found {sorted(content)}. Export it again"
        )
    for name in files:
        _refuse_way_out(path, name)
    return Manifest(version, kind, fingerprint, files)


def verify_artifact(folder: str | Path, kind: ArtifactKind | None = None) -> Manifest:
    """Refuses a folder that is not exactly what was sealed. Call it before anything of the folder is loaded.

    Files that only people read (`.md`, `.txt`, `.png`, ...) may be added; files a loader could read may not.

    Args:
        folder (`str` or `Path`): The artifact folder.
        kind (`str`, *optional*): What it has to be.

    Returns:
        `Manifest`: The verified manifest.

    Raises:
        ArtifactError: If a byte changed, a file is missing, unlisted or of a kind that could run code when loaded, if a
            link or the weight index leads out of the folder, or if the folder is of another kind.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; expected an artifact folder with {MANIFEST}")
    manifest = read_manifest(folder)
    if kind is not None and manifest.kind != kind:
        raise ArtifactError(f"{folder} holds {_named(manifest.kind)}; expected {_named(kind)}. Pass the other folder")
    present = _artifact_files(folder)
    for name, expected in sorted(manifest.files.items()):
        if name not in present:
            raise ArtifactError(f"{folder}: {name} is missing; {MANIFEST} lists it. Download the artifact again")
        found = _file_digest(present[name])
        if found != expected:
            raise ArtifactError(
                f"{folder}: {name} was changed: its digest is {found}, {MANIFEST} says {expected}. "
                "Download or export the artifact again"
            )
    for name in sorted(set(present) - set(manifest.files)):
        if PurePosixPath(name).suffix in _LOADABLE:
            raise ArtifactError(
                f"{folder}: {name} is not listed in {MANIFEST}. Remove it, or export the artifact again with it"
            )
    _require_weights(folder, manifest)
    return manifest


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object of an artifact.

    Args:
        path (`Path`): The file.

    Returns:
        `dict`: Its content.

    Raises:
        ArtifactError: If the file is missing, is not JSON, or holds something else than an object.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: {path.name} is missing; every artifact has it. Export it again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of thousands of digits, endless nesting
        raise ArtifactError(f"{path}: not readable as JSON ({error}). Export the artifact again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: expected a JSON object, found {type(content).__name__}. Export it again")
    return content


def _require_weights(folder: Path, manifest: Manifest) -> None:
    """A manifest that lists no weights would let a loader draw random ones."""
    if manifest.kind == "adapter":
        if ADAPTER_WEIGHTS not in manifest.files:
            raise ArtifactError(f"{folder}: {MANIFEST} lists no {ADAPTER_WEIGHTS}. Export the adapter again")
        return
    for path in _weight_files(folder):
        name = path.relative_to(folder).as_posix()
        if name not in manifest.files:
            raise ArtifactError(f"{folder}: {MANIFEST} does not list {name}. Export the base again")


def _artifact_files(folder: Path) -> dict[str, Path]:
    """Path inside the folder -> file, of all that the seal covers; refuses kinds that an artifact does not hold."""
    found: dict[str, Path] = {}
    for root, directories, names in os.walk(folder):
        here = Path(root)
        for name in directories:
            if (here / name).is_symlink():
                raise ArtifactError(f"{folder}: {name} is a link to a folder. Copy the files in")
        directories[:] = [name for name in directories if _is_part(here / name)]
        for name in names:
            path = here / name
            inside = path.relative_to(folder).as_posix()
            if name.startswith(".") or inside in (MANIFEST, CARD):
                continue
            if path.suffix not in _LOADABLE | _READABLE and name not in _READABLE_NAMES:
                raise ArtifactError(
                    f"{folder}: {inside} does not belong into an artifact: safetensors, JSON and YAML only, nothing "
                    "that is unpickled. Remove it, or keep checkpoints and logs in a folder named with a leading dot"
                )
            _refuse_link_out(folder, path)
            found[inside] = path
    return found


def _is_part(directory: Path) -> bool:
    """Whether a subfolder belongs to this artifact: not hidden, not Python's cache, not an artifact of its own."""
    hidden = directory.name.startswith(".") or directory.name == "__pycache__"
    return not hidden and not (directory / MANIFEST).exists()


def _refuse_link_out(folder: Path, path: Path) -> None:
    """The Hub's cache links `snapshots/<commit>/file` to `blobs/`; any other link out of the folder is refused."""
    if not path.is_symlink():
        return
    target, home = path.resolve(), folder.resolve()
    # An artifact may lie below a snapshot: the adapter of a policy does.
    caches = [snapshot.parent.parent for snapshot in (home, *home.parents) if snapshot.parent.name == "snapshots"]
    if not any(target.is_relative_to(place) for place in (home, *(cache / "blobs" for cache in caches[:1]))):
        raise ArtifactError(f"{folder}: {path.name} is a link out of the folder. Replace it by the file")


def _refuse_way_out(path: Path, name: str) -> None:
    """Refuses absolute names and names with `..`, of any system's spelling."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in name or ".." in parts or "" in parts:
        raise ArtifactError(f"{path}: {name!r} leads out of the folder. Do not load this artifact")


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of a base folder; members of an index are plain names of files that exist."""
    index = folder / BASE_INDEX
    if not index.exists():
        single = folder / BASE_WEIGHTS
        if not single.is_file():
            raise ArtifactError(f"{folder}: {BASE_WEIGHTS} is missing; save the model with save_pretrained first")
        return [single]
    if (folder / BASE_WEIGHTS).exists():
        raise ArtifactError(f"{folder}: holds {BASE_WEIGHTS} and {BASE_INDEX}; expected one of them. Remove the older")
    members = read_json(index).get("weight_map")
    if not isinstance(members, dict) or not members:
        raise ArtifactError(f"{index}: expected a weight_map of tensor names to file names. Export the base again")
    for name in members.values():
        # transformers follows whatever stands here, also `../other/model.safetensors` (checked by running it).
        if not isinstance(name, str) or "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise ArtifactError(f"{index}: {name!r} is no plain name of a safetensors file. Do not load this artifact")
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder}: {name} is missing; {BASE_INDEX} lists it. Download the artifact again")
    return [folder / name for name in sorted(set(members.values()))]


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _fp32_bytes(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().to(device="cpu", dtype=torch.float32).contiguous().reshape(-1)
    return flat.numpy().astype("<f4", copy=False).tobytes()


def _named(kind: ArtifactKind) -> str:
    return {"base": "a base model", "adapter": "an adapter"}[kind]
