"""LoRA adapters on one base: create, save, admit, stack, mix, merge. Nothing else in the package touches PEFT."""

from pricing_fm.adapters.admission import load_adapter, load_weights
from pricing_fm.adapters.category_regression import CategoryRegression, regress_category
from pricing_fm.adapters.folder import (
    AdapterReference,
    point_adapter_to_base,
    read_adapter,
    save_adapter,
    save_weights,
)
from pricing_fm.adapters.library import AdapterLibrary, LibraryEntry
from pricing_fm.adapters.lora import (
    MAXIMUM_RANK,
    LoraArguments,
    activate_adapter,
    adapter_parameters,
    adapter_scaling,
    add_adapter,
    base_tensors,
    train_only,
)
from pricing_fm.adapters.merging import MergedAdapter, fold_adapter, merge_adapter, unmerge_adapter
from pricing_fm.adapters.mixing import ReducedAdapter, mix_adapters, reduce_rank
from pricing_fm.adapters.names import adapter_name, category_slug, category_slugs, check_adapter_name
from pricing_fm.adapters.pooling import (
    CategoryPooling,
    KnownCategories,
    PoolingRule,
    fit_pooling,
    read_pooling,
    save_pooling,
    write_pooling,
)
from pricing_fm.adapters.retrieval import (
    CategoryProfile,
    Neighbor,
    nearest_profiles,
    read_profile,
    write_profile,
)
from pricing_fm.adapters.stack import merge_weights, stack_adapters
from pricing_fm.adapters.weights import AdapterWeights, read_weights

__all__ = [
    "MAXIMUM_RANK",
    "AdapterLibrary",
    "AdapterReference",
    "AdapterWeights",
    "CategoryPooling",
    "CategoryProfile",
    "CategoryRegression",
    "KnownCategories",
    "LibraryEntry",
    "LoraArguments",
    "MergedAdapter",
    "Neighbor",
    "PoolingRule",
    "ReducedAdapter",
    "activate_adapter",
    "adapter_name",
    "adapter_parameters",
    "adapter_scaling",
    "add_adapter",
    "base_tensors",
    "category_slug",
    "category_slugs",
    "check_adapter_name",
    "fit_pooling",
    "fold_adapter",
    "load_adapter",
    "load_weights",
    "merge_adapter",
    "merge_weights",
    "mix_adapters",
    "nearest_profiles",
    "point_adapter_to_base",
    "read_adapter",
    "read_pooling",
    "read_profile",
    "read_weights",
    "reduce_rank",
    "regress_category",
    "save_adapter",
    "save_pooling",
    "save_weights",
    "stack_adapters",
    "train_only",
    "unmerge_adapter",
    "write_pooling",
    "write_profile",
]
