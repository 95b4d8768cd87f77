"""Loads an adapter onto a base, after everything that PEFT would let pass in silence has been checked."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.folder import ADAPTER_CONFIG, AdapterReference, read_adapter
from pricing_fm.adapters.lora import MAXIMUM_RANK, activate_adapter, adapter_parameters, build_config, wrap
from pricing_fm.adapters.names import check_adapter_name
from pricing_fm.adapters.weights import AdapterWeights, adapted_linears, pack_tensors
from pricing_fm.artifact import ADAPTER_WEIGHTS, verify_artifact
from pricing_fm.errors import ArtifactError

# A trained update is a fraction of the weight it changes; ten times as much is no fine-tuning but another network.
MAXIMUM_RELATIVE_UPDATE = 10.0
_NUMBER_TYPES = {"F64", "F32", "F16", "BF16"}

# Fields in which the configuration of one adapter may differ from that of another.
_FREE_FIELDS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_alpha",
    "peft_version",
    "r",
    "revision",
}


def load_adapter(
    model: PreTrainedModel | PeftModel, name: str, folder: str | Path, base_fingerprint: str, sealed: bool = True
) -> PeftModel:
    """Admits one adapter and puts it into the network. Nothing of the model changes unless all checks pass.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The base, or a base that carries adapters already.
        name (`str`): Name under which to load it.
        folder (`str` or `Path`): The adapter folder.
        base_fingerprint (`str`): Fingerprint of `model`'s base, from its manifest.
        sealed (`bool`): Whether the folder has a manifest; a checkpoint in the middle of a run has none.

    Returns:
        `PeftModel`: The model with the adapter active and frozen; the same object if it was one already.

    Raises:
        ArtifactError: If the name is not admitted or taken, the folder was changed, the adapter belongs to another base
            or is not a plain LoRA, or a key is missing, unexpected, of another shape or rank, not finite or too large.
    """
    check_adapter_name(name)
    admitted = _admit(Path(folder), model, base_fingerprint, sealed)
    wrapped = wrap(model, name, build_config(model, admitted.reference.rank, admitted.reference.alpha))
    for key, parameter in adapter_parameters(wrapped, name).items():
        parameter.data.copy_(admitted.tensors[key])
        parameter.requires_grad_(False)
    activate_adapter(wrapped, name)
    return wrapped


def load_weights(model: PreTrainedModel | PeftModel, folder: str | Path, base_fingerprint: str) -> AdapterWeights:
    """Admits one adapter and returns its numbers; the network stays as it is.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The base.
        folder (`str` or `Path`): The sealed adapter folder.
        base_fingerprint (`str`): Fingerprint of the base, from its manifest.

    Returns:
        `AdapterWeights`: On the base's device.

    Raises:
        ArtifactError: As `load_adapter`.
    """
    admitted = _admit(Path(folder), model, base_fingerprint, sealed=True)
    weights = pack_tensors(admitted.tensors, admitted.reference.rank, admitted.reference.alpha)
    return AdapterWeights(weights.layout, weights.values.to(model.device))


@dataclass(frozen=True)
class _Admitted:
    """Where an adapter belongs, and its tensors under PEFT's keys, in the order of the base's linears."""

    reference: AdapterReference
    tensors: dict[str, torch.Tensor]


def _admit(folder: Path, model: PreTrainedModel | PeftModel, base_fingerprint: str, sealed: bool) -> _Admitted:
    if sealed:
        verify_artifact(folder, kind="adapter")
    reference = read_adapter(folder)
    if reference.base_fingerprint != base_fingerprint:
        raise ArtifactError(
            f"{folder}: this adapter belongs to the base {reference.base_fingerprint} ({reference.base}), yet the base "
            f"here is {base_fingerprint}. Load its own base, or adapt again on this one"
        )
    if reference.rank > MAXIMUM_RANK:
        raise ArtifactError(
            f"{folder / ADAPTER_CONFIG}: the rank is {reference.rank}; expected at most {MAXIMUM_RANK}. Reduce it "
            "(reduce_rank), or adapt again with a smaller --lora_rank"
        )
    _check_config(folder, model, reference)
    linears = adapted_linears(model)
    tensors = _read_tensors(folder / ADAPTER_WEIGHTS, linears, reference.rank)
    for path, linear in linears.items():
        _check_size(folder / ADAPTER_WEIGHTS, path, tensors, linear, reference)
    return _Admitted(reference, tensors)


def _check_config(folder: Path, model: PreTrainedModel | PeftModel, reference: AdapterReference) -> None:
    """Refuses every kind of adapter that `add_adapter` does not make."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # how PEFT reports keys that it drops
        try:
            found = LoraConfig.from_pretrained(str(folder)).to_dict()
        except (TypeError, ValueError, UserWarning) as error:
            raise ArtifactError(
                f"{folder / ADAPTER_CONFIG}: not a LoRA configuration that is known here ({error})"
            ) from error
    expected = build_config(model, reference.rank, reference.alpha).to_dict()
    for key in sorted(set(expected) - _FREE_FIELDS):
        if found[key] != expected[key]:
            shown = [sorted(value) if isinstance(value, set) else value for value in (found[key], expected[key])]
            raise ArtifactError(
                f"{folder / ADAPTER_CONFIG}: {key} is {shown[0]!r}; expected {shown[1]!r} for this base"
            )


def _read_tensors(where: Path, linears: dict[str, nn.Linear], rank: int) -> dict[str, torch.Tensor]:
    """Reads the weights, after the file's own table of contents has been found to be what it should be."""
    if not where.is_file():
        raise ArtifactError(f"{where.parent}: {where.name} is missing; export the adapter again")
    shapes: dict[str, tuple[int, int]] = {}
    for path, linear in linears.items():
        shapes[f"base_model.model.{path}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"base_model.model.{path}.lora_B.weight"] = (linear.out_features, rank)
    try:
        with safe_open(where, framework="pt") as file:
            _check_contents(where, file, shapes, rank)
            tensors = {key: file.get_tensor(key) for key in shapes}
    except SafetensorError as error:
        raise ArtifactError(f"{where}: not readable as safetensors ({error}); export the adapter again") from error
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{where}: {key} holds values that are not finite numbers; train the adapter again")
    return tensors


def _check_contents(where: Path, file: safe_open, shapes: dict[str, tuple[int, int]], rank: int) -> None:
    keys = set(file.keys())
    if missing := sorted(set(shapes) - keys):
        raise ArtifactError(
            f"{where}: {len(missing)} of {len(shapes)} keys are missing, first {missing[0]}; export it again"
        )
    if unexpected := sorted(keys - set(shapes)):
        raise ArtifactError(
            f"{where}: {len(unexpected)} unexpected keys, first {unexpected[0]}; export the adapter again"
        )
    for key, shape in shapes.items():
        entry = file.get_slice(key)
        if tuple(entry.get_shape()) != shape:
            raise ArtifactError(f"{where}: {key} has shape {tuple(entry.get_shape())}; expected {shape} at rank {rank}")
        if entry.get_dtype() not in _NUMBER_TYPES:
            raise ArtifactError(
                f"{where}: {key} is of type {entry.get_dtype()}; expected one of {', '.join(sorted(_NUMBER_TYPES))}. "
                "Export the adapter again"
            )


def _check_size(
    where: Path, path: str, tensors: dict[str, torch.Tensor], linear: nn.Linear, reference: AdapterReference
) -> None:
    down = tensors[f"base_model.model.{path}.lora_A.weight"].double()
    up = tensors[f"base_model.model.{path}.lora_B.weight"].double()
    # |BA|^2 = trace(B'B AA'), in rank x rank numbers.
    squared = float(((up.T @ up) * (down @ down.T)).sum())
    update = reference.alpha / reference.rank * math.sqrt(max(squared, 0.0))
    # Heads may start at almost nothing; one is the size of a single unit weight.
    weight = max(float(linear.weight.detach().double().norm()), 1.0)
    # A factor of 1e200 squares to infinity and infinity less infinity is no number: neither is admitted.
    if not update <= MAXIMUM_RELATIVE_UPDATE * weight:
        raise ArtifactError(
            f"{where}: the update of {path} has norm {update:.3g}, the weight {weight:.3g}; expected at most "
            f"{MAXIMUM_RELATIVE_UPDATE:g} times as much. Train the adapter again with a smaller learning rate"
        )
