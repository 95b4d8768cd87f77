"""One forward pass for items of many categories: every row of a batch goes through an adapter of its own.

Nothing is switched, on or off: a network is put together for the rows of one batch from the base's own tensors and the
rows' factors. So threads do not meet, and whoever holds a network keeps its answers while adapters are replaced.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.weights import AdapterLayout, AdapterWeights, Factors, adapted_linears

Network = TypeVar("Network", bound=PreTrainedModel)


def stack_adapters(model: Network, rows: Sequence[AdapterWeights | None]) -> Network:
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


def merge_weights(model: Network, weights: AdapterWeights) -> Network:
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


def low_rank_update(outputs: torch.Tensor, inputs: torch.Tensor, factors: Factors) -> torch.Tensor:
    """Adds to each row of a linear's outputs what the row's own adapter changes.

    Args:
        outputs (`torch.Tensor`, shape `(rows, ..., outputs)`): Of the base's linear.
        inputs (`torch.Tensor`, shape `(rows, ..., inputs)`): Of the same.
        factors (`Factors`): `(rows, rank, inputs)` and `(rows, outputs, rank)`.

    Returns:
        `torch.Tensor`, shape `(rows, ..., outputs)`: In the type of `outputs`.
    """
    rows = len(outputs)
    narrow = torch.bmm(inputs.reshape(rows, -1, inputs.shape[-1]).to(factors.down.dtype), factors.down.mT)
    wide = outputs.reshape(rows, -1, outputs.shape[-1]).to(factors.up.dtype)
    return torch.baddbmm(wide, narrow, factors.up.mT).to(outputs.dtype).view(outputs.shape)


class StackedLinear(nn.Module):
    """A linear of the base, and the rows' updates.

    Args:
        linear (`nn.Linear`): The base's.
        factors (`Factors`): `(rows, rank, inputs)` and `(rows, outputs, rank)`.
    """

    def __init__(self, linear: nn.Linear, factors: Factors) -> None:
        super().__init__()
        self.linear, self.factors = linear, factors

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(rows, ..., inputs)` -> `(rows, ..., outputs)`."""
        return low_rank_update(self.linear(inputs), inputs, self.factors)


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
        shell._modules[child] = _rebuilt(module._modules[child], inside)
    return shell
