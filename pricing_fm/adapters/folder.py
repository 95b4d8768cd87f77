"""The two PEFT files of an adapter folder, with the base they belong to written in."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import PreTrainedModel

from pricing_fm.adapters.lora import MAXIMUM_RANK, adapter_parameters, base_of, build_config
from pricing_fm.adapters.weights import AdapterWeights, check_layout
from pricing_fm.artifact import ADAPTER_WEIGHTS, MANIFEST, read_json, read_manifest, write_manifest
from pricing_fm.errors import ArtifactError

ADAPTER_CONFIG = "adapter_config.json"

# What an adapter of this house has to say; every other field of PEFT stands at its default. A file with fields that
# another version of PEFT does not know would draw a warning there.
_WRITTEN_FIELDS = ("bias", "init_lora_weights", "lora_alpha", "lora_dropout", "peft_type", "peft_version", "r")


_LARGEST_NUMBER = 1e9


@dataclass(frozen=True)
class AdapterReference:
    """What `adapter_config.json` says of where an adapter belongs.

    Args:
        base (`str`): Folder of the base if it exists on this machine, else its repository id.
        revision (`str`, *optional*): Commit of the base's repository.
        base_fingerprint (`str`): Fingerprint of the base it was trained on.
        category (`str`, *optional*): The exact category in the data; None for an adapter for a whole panel.
        rank (`int`): Rank of the updates.
        alpha (`float`): Numerator of their scaling.
    """

    base: str
    revision: str | None
    base_fingerprint: str
    category: str | None
    rank: int
    alpha: float


def save_adapter(
    model: PeftModel,
    name: str,
    folder: str | Path,
    base: str | Path,
    base_fingerprint: str,
    revision: str | None = None,
    category: str | None = None,
) -> Path:
    """Writes `adapter_model.safetensors` and `adapter_config.json`, which `PeftModel.from_pretrained` reads.

    A base folder is written as a path relative to the adapter folder, so that both can be moved together. The manifest
    is written by the caller when the folder is complete.

    Args:
        model (`PeftModel`): The model.
        name (`str`): Name of the adapter to save.
        folder (`str` or `Path`): Where to; made if absent.
        base (`str` or `Path`): Folder of the base, or its repository id.
        base_fingerprint (`str`): From the manifest of the base.
        revision (`str`, *optional*): Commit of the base's repository; None for a folder.
        category (`str`, *optional*): The exact category in the data.

    Returns:
        `Path`: The folder.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    tensors = {key: parameter.detach().cpu().contiguous() for key, parameter in adapter_parameters(model, name).items()}
    where = AdapterReference(str(base), revision, base_fingerprint, category, 0, 0.0)
    return _write(Path(folder), tensors, model.peft_config[name], base_of(model), where)


def save_weights(
    weights: AdapterWeights,
    model: PreTrainedModel,
    folder: str | Path,
    base: str | Path,
    base_fingerprint: str,
    revision: str | None = None,
    category: str | None = None,
) -> Path:
    """Writes an adapter that no network carries, as `save_adapter` does.

    Args:
        weights (`AdapterWeights`): The adapter; its scaling stays in its second factors, so that the file's is 1.
        model (`PreTrainedModel`): Its base.
        folder (`str` or `Path`): Where to; made if absent.
        base (`str` or `Path`): Folder of the base, or its repository id.
        base_fingerprint (`str`): From the manifest of the base.
        revision (`str`, *optional*): Commit of the base's repository; None for a folder.
        category (`str`, *optional*): The exact category in the data.

    Returns:
        `Path`: The folder.

    Raises:
        ArtifactError: If the adapter does not fit the base, or its rank is above `MAXIMUM_RANK`.
    """
    check_layout(weights.layout, model)
    rank = weights.layout.rank
    if rank > MAXIMUM_RANK:
        raise ArtifactError(f"this adapter has rank {rank}; expected at most {MAXIMUM_RANK}. Reduce it first")
    tensors = {}
    for path, own in weights.factors.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = own.down.detach().cpu().contiguous()
        tensors[f"base_model.model.{path}.lora_B.weight"] = own.up.detach().cpu().contiguous()
    where = AdapterReference(str(base), revision, base_fingerprint, category, rank, float(rank))
    return _write(Path(folder), tensors, build_config(model, rank, rank), model, where)


def read_adapter(folder: str | Path) -> AdapterReference:
    """Reads where an adapter belongs, without loading it.

    Args:
        folder (`str` or `Path`): The adapter folder.

    Returns:
        `AdapterReference`: Base, revision, fingerprint, category and size.

    Raises:
        ArtifactError: If the configuration is missing, malformed or names no base.
    """
    folder = Path(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    base, extra = config.get("base_model_name_or_path"), config.get("auto_mapping")
    if not isinstance(base, str) or not base:
        raise ArtifactError(
            f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is {base!r}; name the base, or pass it"
        )
    if not isinstance(extra, dict) or not isinstance(extra.get("base_fingerprint"), str):
        raise ArtifactError(
            f"{folder / ADAPTER_CONFIG}: the fingerprint of the base is missing; save the adapter again"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not _is_number(rank) or not isinstance(rank, int) or not _is_number(alpha):
        raise ArtifactError(
            f"{folder / ADAPTER_CONFIG}: r is {rank!r} and lora_alpha {alpha!r}; expected a whole and a finite number "
            "above 0. Export the adapter again"
        )
    beside = folder / base
    return AdapterReference(
        base=str(beside.resolve()) if beside.is_dir() else base,
        revision=config.get("revision"),
        base_fingerprint=extra["base_fingerprint"],
        category=extra.get("category"),
        rank=rank,
        alpha=float(alpha),
    )


def point_adapter_to_base(folder: str | Path, base: str | Path, revision: str | None) -> None:
    """Writes another place of the same base into an adapter folder, and seals it again. For publishing.

    Args:
        folder (`str` or `Path`): A sealed adapter folder.
        base (`str` or `Path`): Repository id or folder of the base.
        revision (`str`, *optional*): Commit of the repository.

    Raises:
        ArtifactError: If the folder is not a sealed adapter.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.kind != "adapter":
        raise ArtifactError(f"{folder / MANIFEST}: this is a base model; expected an adapter")
    config = read_json(folder / ADAPTER_CONFIG)
    _write_config(folder, config | {"base_model_name_or_path": _as_written(base, folder), "revision": revision})
    write_manifest(folder, "adapter", manifest.base_fingerprint)


def _write(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    lora: LoraConfig,
    network: PreTrainedModel,
    where: AdapterReference,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings = lora.to_dict()
    config = {key: settings[key] for key in _WRITTEN_FIELDS} | {
        "base_model_name_or_path": _as_written(where.base, folder),
        "revision": where.revision,
        "inference_mode": True,
        # A set in PEFT, whose order changes with the hash seed.
        "target_modules": sorted(settings["target_modules"]),
        # The one field of PEFT's configuration that takes free entries: any other key draws a warning on loading.
        "auto_mapping": {
            "base_model_class": type(network).__name__,
            "parent_library": type(network).__module__,
            "base_fingerprint": where.base_fingerprint,
            "category": where.category,
        },
    }
    _write_config(folder, config)
    return folder


def _as_written(base: str | Path, folder: Path) -> str:
    """A folder relative to the adapter's; a repository id as it is."""
    if Path(base).is_dir():
        return Path(os.path.relpath(Path(base).resolve(), folder.resolve())).as_posix()
    return str(base)


def _is_number(value: Any) -> TypeGuard[float]:
    """JSON knows true, NaN, Infinity and whole numbers of any length, too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST_NUMBER


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")
