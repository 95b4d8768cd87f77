"""LoRA adapters on one base: create, save, admit, merge. Nothing else in the package touches PEFT."""

from pricing_fm.adapters.admission import load_adapter
from pricing_fm.adapters.folder import AdapterReference, point_adapter_to_base, read_adapter, save_adapter
from pricing_fm.adapters.lora import (
    LoraArguments,
    activate_adapter,
    adapter_parameters,
    add_adapter,
    base_tensors,
    train_only,
)
from pricing_fm.adapters.merging import MergedAdapter, fold_adapter, merge_adapter, unmerge_adapter
from pricing_fm.adapters.names import category_slug, category_slugs, check_adapter_name

__all__ = [
    "AdapterReference",
    "LoraArguments",
    "MergedAdapter",
    "activate_adapter",
    "adapter_parameters",
    "add_adapter",
    "base_tensors",
    "category_slug",
    "category_slugs",
    "check_adapter_name",
    "fold_adapter",
    "load_adapter",
    "merge_adapter",
    "point_adapter_to_base",
    "read_adapter",
    "save_adapter",
    "train_only",
    "unmerge_adapter",
]
