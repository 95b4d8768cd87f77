"""One forward pass for many categories: every row, or block of rows, of a batch goes through updates of its own.

Nothing is switched, on or off: a network is put together for one batch from the base's own tensors and the rows'
factors. So threads do not meet, whoever holds a network keeps its answers while adapters are replaced, and gradients of
any order reach the factors, each those of its own rows.
Shapes: C blocks of equally many rows (categories in training, single rows in serving), r rank.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.weights import AdapterLayout, AdapterWeights, Factors, adapted_linears

Network = TypeVar("Network", bound=nn.Module)
BaseNetwork = TypeVar("BaseNetwork", bound=PreTrainedModel)

Stack = dict[str, torch.Tensor]
"""Linear's name and part to one tensor per category: `<name>.lora_A` `(C, r, in)` with `<name>.lora_B` `(C, out, r)`,
or `<name>.full` `(C, out, in)`."""


def updated(model: Network, stack: Mapping[str, torch.Tensor], scaling: float) -> Network:
    """A network in which block c of every batch's rows passes through the update of category c.

    Args:
        model (`nn.Module`): The base; unchanged, and its tensors are shared. Where PEFT has put an adapter around a
            linear that the stack updates, the linear inside answers.
        stack (`Mapping[str, torch.Tensor]`): Updates, see `Stack`; linears without one answer as they are.
        scaling (`float`): Factor of low-rank updates (alpha / rank); full ones count as they are.

    Returns:
        The model itself if there is nothing to update, else modules around the same tensors.

    Raises:
        ValueError: If a name is no linear of the model, or half of a low-rank update is missing.
    """
    if not stack:
        return model
    modules = {name: getattr(module, "base_layer", module) for name, module in model.named_modules()}
    targets = sorted({key.rpartition(".")[0] for key in stack})
    if unknown := [name for name in targets if not isinstance(modules.get(name), nn.Linear)]:
        raise ValueError(
            f"the model has no linear {unknown[0]!r} ({len(unknown)} unknown); stack another model's names"
        )
    replaced = {name: StackedLinear(modules[name], _update_of(name, stack, scaling)) for name in targets}
    return _rebuilt(model, replaced)


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


def stack_adapters(model: BaseNetwork, rows: Sequence[AdapterWeights | None]) -> BaseNetwork:
    """A network in which row b of every batch passes through the adapter `rows[b]`.

    The gradient of a row reaches the numbers of its own adapter, if these ask for one.

    Args:
        model (`PreTrainedModel`): The base, without adapters; unchanged, and its tensors are shared.
        rows (`Sequence[AdapterWeights or None]`): Adapters of the batch's rows, all of one rank; None = the base alone.
            Every tensor that the network's adapted linears see has these rows as its first dimension.

    Returns:
        The base itself if no row has an adapter, else modules around the same tensors; a row without an adapter gets
        the base's answer to the last bit. Costs a copy of each row's adapter, none if all rows have the same one.

    Raises:
        ValueError: If the adapters are of different layouts; see `AdapterWeights.at_rank`.
    """
    layouts = {row.layout for row in rows if row is not None}
    if not layouts:
        return model
    if len(layouts) > 1:
        raise ValueError(f"adapters of one batch have one layout, found ranks {sorted(own.rank for own in layouts)}")
    layout = layouts.pop()
    factors = layout.factors(_gather(rows, layout))
    linears = adapted_linears(model)
    return _rebuilt(model, {path: StackedLinear(linears[path], own) for path, own in factors.items()})


def merge_weights(model: BaseNetwork, weights: AdapterWeights) -> BaseNetwork:
    """A network with one adapter added into its weights: it costs what the base costs, and the base stays as it is.

    Its answers differ from the stacked ones in the last digits.

    Args:
        model (`PreTrainedModel`): The base, without adapters; its other tensors are shared.
        weights (`AdapterWeights`): The adapter.

    Returns:
        Modules around the base's tensors, with new ones for the adapted linears. The base itself is its undoing.
    """
    linears = adapted_linears(model)
    return _rebuilt(model, {path: _merged(linears[path], own) for path, own in weights.factors.items()})


class StackedLinear(nn.Module):
    """A linear of the base, and the updates of its blocks of rows.

    Args:
        linear (`nn.Linear`): The base's.
        update (`Factors` or `torch.Tensor`): `(C, rank, inputs)` and `(C, outputs, rank)`; or in full, `(C, outputs,
            inputs)`.
    """

    def __init__(self, linear: nn.Linear, update: Factors | torch.Tensor) -> None:
        super().__init__()
        self.linear, self.update = linear, update

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(rows, ..., inputs)` -> `(rows, ..., outputs)` in the base's type; rows are a multiple of C."""
        outputs = self.linear(inputs)
        last = self.update.up if isinstance(self.update, Factors) else self.update
        blocks = inputs.reshape(len(last), -1, inputs.shape[-1]).to(last.dtype)
        if isinstance(self.update, Factors):
            blocks = torch.bmm(blocks, self.update.down.mT)
        wide = outputs.reshape(len(last), -1, outputs.shape[-1]).to(last.dtype)
        return torch.baddbmm(wide, blocks, last.mT).to(outputs.dtype).view(outputs.shape)


def _update_of(name: str, stack: Mapping[str, torch.Tensor], scaling: float) -> Factors | torch.Tensor:
    full, first, second = (stack.get(f"{name}.{part}") for part in ("full", "lora_A", "lora_B"))
    if full is not None:
        return full
    if first is None or second is None:
        raise ValueError(f"{name!r} has one half of a low-rank update; it needs lora_A and lora_B, or full")
    return Factors(first, scaling * second)


def _gather(rows: Sequence[AdapterWeights | None], layout: AdapterLayout) -> torch.Tensor:
    """The rows' numbers, `(rows, size)`."""
    present = {id(row): row for row in rows}
    first = next(row for row in rows if row is not None)
    if len(present) == 1:
        return first.values.expand(len(rows), -1)
    nothing = first.values.new_zeros(layout.size)
    return torch.stack([nothing if row is None else row.values for row in rows])


@torch.no_grad()
def _merged(linear: nn.Linear, factors: Factors) -> nn.Linear:
    merged = copy.copy(linear)
    change = torch.mm(factors.up, factors.down)
    weight = nn.Parameter((linear.weight.to(change.dtype) + change).to(linear.weight.dtype), requires_grad=False)
    merged._parameters = {**linear._parameters, "weight": weight}
    return merged


def _rebuilt(module: Network, replaced: Mapping[str, nn.Module]) -> Network:
    """The module with other children; itself and those above a replaced one are copied, with their tensors shared."""
    shell = copy.copy(module)
    shell._modules = dict(module._modules)
    below: dict[str, dict[str, nn.Module]] = {}
    for path, new in replaced.items():
        child, _, rest = path.partition(".")
        if rest:
            below.setdefault(child, {})[rest] = new
        else:
            shell._modules[child] = new
    for child, inside in below.items():
        shell._modules[child] = _rebuilt(module.get_submodule(child), inside)
    return shell
