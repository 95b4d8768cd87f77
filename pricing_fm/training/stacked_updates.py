"""Updates of many categories in one forward pass: block c of a batch's rows goes through category c's own weights.

One batched product per linear instead of one pass per category. The numbers are those of PEFT's adapter, category by
category, and every gradient is a category's own: no row meets another category's weights.
Shapes: C categories, R rows of each, r rank.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Stack = dict[str, torch.Tensor]
"""Linear's name and part to one tensor per category: `<name>.lora_A` `(C, r, in)` with `<name>.lora_B` `(C, out, r)`,
or `<name>.full` `(C, out, in)`."""

Hook = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor]


@contextmanager
def updated(model: nn.Module, stack: Mapping[str, torch.Tensor], scaling: float) -> Iterator[None]:
    """Has the model's linears answer with each category's update while the context lasts.

    Args:
        model (`nn.Module`): Without any adapter inside; its own weights stay as they are.
        stack (`Mapping[str, torch.Tensor]`): Updates, see `Stack`; linears without one answer as they are.
        scaling (`float`): Factor of low-rank updates (alpha / rank); full ones count as they are.

    Raises:
        ValueError: If a name is no linear of the model, or half of a low-rank update is missing.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    targets = {key.rpartition(".")[0] for key in stack}
    if unknown := sorted(targets - set(linears)):
        raise ValueError(
            f"the model has no linear {unknown[0]!r} ({len(unknown)} unknown); stack another model's names"
        )
    handles = []
    try:
        for name in sorted(targets):
            handles.append(linears[name].register_forward_hook(_hook_of(name, stack, scaling)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def repeat(start: Mapping[str, torch.Tensor], categories: int) -> Stack:
    """The same update for every category: `(...)` -> `(C, ...)`, each with memory of its own."""
    return {name: tensor.detach()[None].repeat(categories, *(1,) * tensor.dim()) for name, tensor in start.items()}


def from_adapter(parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter's parameters under the base's own names: `<linear>.lora_A`, `<linear>.lora_B`.

    Args:
        parameters (`Mapping[str, torch.Tensor]`): From `pricing_fm.adapters.adapter_parameters`.

    Returns:
        `dict[str, torch.Tensor]`: Detached, in the given order.
    """
    return {base_name(key): tensor.detach() for key, tensor in parameters.items()}


def base_name(key: str) -> str:
    """`base_model.model.<linear>.lora_A.weight` -> `<linear>.lora_A`."""
    return key.removeprefix("base_model.model.").removesuffix(".weight")


def _hook_of(name: str, stack: Mapping[str, torch.Tensor], scaling: float) -> Hook:
    full, first, second = (stack.get(f"{name}.{part}") for part in ("full", "lora_A", "lora_B"))
    if full is None and (first is None or second is None):
        raise ValueError(f"{name!r} has one half of a low-rank update; it needs lora_A and lora_B, or full")

    def add_update(module: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        weight = full if full is not None else first
        assert weight is not None
        rows = inputs[0].reshape(len(weight), -1, inputs[0].shape[-1])
        if full is not None:
            update = rows @ full.transpose(1, 2)
        else:
            assert first is not None
            assert second is not None
            update = scaling * ((rows @ first.transpose(1, 2)) @ second.transpose(1, 2))
        return output + update.reshape(output.shape)

    return add_update
