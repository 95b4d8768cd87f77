"""Loads an adapter onto a base, after everything that PEFT would let pass in silence has been checked."""

import math
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.folder import ADAPTER_CONFIG, AdapterReference, read_adapter
from pricing_fm.adapters.lora import activate_adapter, adapter_parameters, base_of, build_config, wrap
from pricing_fm.adapters.names import check_adapter_name
from pricing_fm.artifact import ADAPTER_WEIGHTS, verify_artifact
from pricing_fm.errors import ArtifactError

# A trained update is a fraction of the weight it changes; ten times as much is no fine-tuning but another network.
MAXIMUM_RELATIVE_UPDATE = 10.0

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
    """Admits one adapter. Nothing of the model changes unless all checks pass.

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
    folder = Path(folder)
    check_adapter_name(name)
    if sealed:
        verify_artifact(folder, kind="adapter")
    reference = read_adapter(folder)
    if reference.base_fingerprint != base_fingerprint:
        raise ArtifactError(
            f"{folder}: this adapter belongs to the base {reference.base_fingerprint} ({reference.base}), yet the base "
            f"here is {base_fingerprint}. Load its own base, or adapt again on this one"
        )
    _check_config(folder, model, reference)
    tensors = _read_tensors(folder)
    _check_tensors(folder, tensors, _linears(model), reference)
    wrapped = wrap(model, name, build_config(model, reference.rank, reference.alpha))
    for key, parameter in adapter_parameters(wrapped, name).items():
        parameter.data.copy_(tensors[key])
        parameter.requires_grad_(False)
    activate_adapter(wrapped, name)
    return wrapped


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


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise ArtifactError(f"{folder}: {ADAPTER_WEIGHTS} is missing; export the adapter again")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not readable as safetensors ({error}); export the adapter again") from error


def _linears(model: PreTrainedModel | PeftModel) -> dict[str, nn.Linear]:
    """The linears that adapters may change, by their path in the base."""
    base = base_of(model)
    targets = set(base.lora_target_modules)
    found = ((path, module) for path, module in base.named_modules() if path.split(".")[-1] in targets)
    return {path: getattr(module, "base_layer", module) for path, module in found}


def _check_tensors(
    folder: Path, tensors: dict[str, torch.Tensor], linears: dict[str, nn.Linear], reference: AdapterReference
) -> None:
    shapes: dict[str, tuple[int, int]] = {}
    for path, linear in linears.items():
        shapes[f"base_model.model.{path}.lora_A.weight"] = (reference.rank, linear.in_features)
        shapes[f"base_model.model.{path}.lora_B.weight"] = (linear.out_features, reference.rank)
    where = folder / ADAPTER_WEIGHTS
    if missing := sorted(set(shapes) - set(tensors)):
        raise ArtifactError(
            f"{where}: {len(missing)} of {len(shapes)} keys are missing, first {missing[0]}; export it again"
        )
    if unexpected := sorted(set(tensors) - set(shapes)):
        raise ArtifactError(
            f"{where}: {len(unexpected)} unexpected keys, first {unexpected[0]}; export the adapter again"
        )
    for key, shape in shapes.items():
        tensor = tensors[key]
        if tuple(tensor.shape) != shape:
            raise ArtifactError(
                f"{where}: {key} has shape {tuple(tensor.shape)}; expected {shape} at rank {reference.rank}"
            )
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise ArtifactError(f"{where}: {key} holds values that are not finite numbers; train the adapter again")
    for path, linear in linears.items():
        _check_size(where, path, tensors, linear, reference)


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
    if update > MAXIMUM_RELATIVE_UPDATE * weight:
        raise ArtifactError(
            f"{where}: the update of {path} has norm {update:.3g}, the weight {weight:.3g}; expected at most "
            f"{MAXIMUM_RELATIVE_UPDATE:g} times as much. Train the adapter again with a smaller learning rate"
        )
