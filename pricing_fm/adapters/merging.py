"""Adds an adapter into the weights of its base, for speed or for good, and takes it out again to the last bit."""

from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from pricing_fm.adapters.lora import adapter_parameters, base_tensors
from pricing_fm.errors import ArtifactError


@dataclass(frozen=True)
class MergedAdapter:
    """A merge that can be undone.

    Args:
        model (`PeftModel`): The model whose base carries the adapter in its weights.
        name (`str`): Name of the adapter.
        kept (`dict[str, torch.Tensor]`): Copies of the changed base tensors from before.
    """

    model: PeftModel
    name: str
    kept: dict[str, torch.Tensor]


def merge_adapter(model: PeftModel, name: str) -> MergedAdapter:
    """Adds one adapter into the base's weights; forward passes then cost what the base costs.

    Args:
        model (`PeftModel`): The model; nothing else is merged into it.
        name (`str`): Name of the adapter.

    Returns:
        `MergedAdapter`: Hand it to `unmerge_adapter`.

    Raises:
        ArtifactError: If there is no such adapter, or another one is merged already.
    """
    _require_unmerged(model)
    changed = {
        key.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        for key in adapter_parameters(model, name)
        if key.endswith(".lora_A.weight")
    }
    kept = {key: tensor.detach().clone() for key, tensor in base_tensors(model).items() if key in changed}
    model.base_model.merge_adapter(adapter_names=[name])
    return MergedAdapter(model, name, kept)


def unmerge_adapter(merged: MergedAdapter) -> None:
    """Puts the kept copies back: subtracting the update again would leave rounding behind.

    Args:
        merged (`MergedAdapter`): From `merge_adapter`.
    """
    merged.model.base_model.unmerge_adapter()
    tensors = base_tensors(merged.model)
    for key, tensor in merged.kept.items():
        tensors[key].copy_(tensor)


def fold_adapter(model: PeftModel, name: str) -> PreTrainedModel:
    """Makes one adapter a part of the base for good; what comes back carries no adapters and is an ordinary model.

    Args:
        model (`PeftModel`): The model; it is used up.
        name (`str`): Name of the adapter.

    Returns:
        `PreTrainedModel`: The base with changed weights, all of them trainable.

    Raises:
        ArtifactError: If there is no such adapter, or one is merged already.
    """
    _require_unmerged(model)
    adapter_parameters(model, name)
    folded = model.merge_and_unload(adapter_names=[name])
    for parameter in folded.parameters():
        parameter.requires_grad_(True)
    return folded


def _require_unmerged(model: PeftModel) -> None:
    merged = {entry for module in model.modules() for entry in getattr(module, "merged_adapters", [])}
    if merged:
        raise ArtifactError(f"adapters {sorted(merged)} are merged into the base already; unmerge them first")
