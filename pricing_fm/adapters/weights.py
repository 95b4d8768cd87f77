"""An adapter as numbers: one vector, and where in it the factors of each linear lie."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.lora import adapter_parameters, base_of
from pricing_fm.errors import ArtifactError


@dataclass(frozen=True)
class Factors:
    """What is added to the weight of one linear: `up @ down`. Leading dimensions are those of the vector they lie in.

    Args:
        down (`torch.Tensor`, shape `(..., rank, inputs)`): First factor; PEFT's A.
        up (`torch.Tensor`, shape `(..., outputs, rank)`): Second factor, scaling included; PEFT's B times alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True)
class AdapterLayout:
    """Order and sizes of the factors in an adapter's vector: linear by linear, `down` before `up`, row by row.

    Args:
        linears (`tuple[tuple[str, int, int], ...]`): Path in the base, inputs and outputs of each adapted linear.
        rank (`int`): Rank of every update.
    """

    linears: tuple[tuple[str, int, int], ...]
    rank: int

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return sum(self.rank * (inputs + outputs) for _, inputs, outputs in self.linears)

    def factors(self, values: torch.Tensor) -> dict[str, Factors]:
        """Views into a vector, or into several at once.

        Args:
            values (`torch.Tensor`, shape `(..., size)`): Adapters of this layout.

        Returns:
            `dict[str, Factors]`: By the linear's path.
        """
        found, place = {}, 0
        for path, inputs, outputs in self.linears:
            middle = place + self.rank * inputs
            end = middle + self.rank * outputs
            found[path] = Factors(
                values[..., place:middle].unflatten(-1, (self.rank, inputs)),
                values[..., middle:end].unflatten(-1, (outputs, self.rank)),
            )
            place = end
        return found


@dataclass(frozen=True)
class AdapterWeights:
    """One adapter without a network around it; never changed, so that any number of threads may read it.

    Args:
        layout (`AdapterLayout`): Where its factors lie.
        values (`torch.Tensor`, shape `(layout.size,)`): Its numbers.
    """

    layout: AdapterLayout
    values: torch.Tensor

    @property
    def factors(self) -> dict[str, Factors]:
        """Both factors of each linear, as views."""
        return self.layout.factors(self.values)

    def at_rank(self, rank: int) -> "AdapterWeights":
        """The same updates at a higher rank: the factors are filled up with zeros.

        Args:
            rank (`int`): At least the own one.

        Returns:
            `AdapterWeights`: The same object if the rank is its own.

        Raises:
            ValueError: If the rank is lower; `reduce_rank` does that, with an error.
        """
        if rank == self.layout.rank:
            return self
        if rank < self.layout.rank:
            raise ValueError(f"an adapter of rank {self.layout.rank} has no exact form of rank {rank}; use reduce_rank")
        layout = AdapterLayout(self.layout.linears, rank)
        values = self.values.new_zeros(layout.size)
        wide = layout.factors(values)
        for path, own in self.factors.items():
            wide[path].down[: self.layout.rank] = own.down
            wide[path].up[:, : self.layout.rank] = own.up
        return AdapterWeights(layout, values)


def pack_factors(factors: Mapping[str, Factors]) -> AdapterWeights:
    """Puts factors into one vector.

    Args:
        factors (`Mapping[str, Factors]`): By the linear's path; all of one rank, at least one.

    Returns:
        `AdapterWeights`: A copy.

    Raises:
        ValueError: If the ranks differ.
    """
    ranks = {rank for own in factors.values() for rank in (own.down.shape[0], own.up.shape[1])}
    if len(ranks) != 1:
        raise ValueError(f"the factors of one adapter have one rank, found {sorted(ranks)}")
    linears = tuple((path, own.down.shape[1], own.up.shape[0]) for path, own in factors.items())
    values = torch.cat([part.reshape(-1) for own in factors.values() for part in (own.down, own.up)])
    return AdapterWeights(AdapterLayout(linears, ranks.pop()), values)


def pack_tensors(tensors: Mapping[str, torch.Tensor], rank: int, alpha: float) -> AdapterWeights:
    """Puts the tensors of a PEFT weight file into one vector.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Under PEFT's keys.
        rank (`int`): Of the adapter.
        alpha (`float`): Of the adapter; the scaling alpha / rank goes into the second factors.

    Returns:
        `AdapterWeights`: A float32 copy.
    """
    start, end = "base_model.model.", ".lora_A.weight"
    paths = [key.removeprefix(start).removesuffix(end) for key in tensors if key.endswith(end)]
    scaling = alpha / rank
    return pack_factors(
        {
            path: Factors(
                tensors[f"{start}{path}.lora_A.weight"].float(),
                tensors[f"{start}{path}.lora_B.weight"].float() * scaling,
            )
            for path in paths
        }
    )


def read_weights(model: PeftModel, name: str) -> AdapterWeights:
    """Copies one adapter out of a network.

    Args:
        model (`PeftModel`): The network.
        name (`str`): Name of the adapter.

    Returns:
        `AdapterWeights`: Float32, on the network's device, without a gradient.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    tensors = {key: parameter.detach() for key, parameter in adapter_parameters(model, name).items()}
    config = model.peft_config[name]
    return pack_tensors(tensors, config.r, config.lora_alpha)


def adapted_linears(model: PreTrainedModel | PeftModel) -> dict[str, nn.Linear]:
    """The linears that adapters may change.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The base, with or without adapters.

    Returns:
        `dict[str, nn.Linear]`: By their path in the base, in its order; without whatever PEFT has put around them.
    """
    base = base_of(model)
    targets = set(base.lora_target_modules)
    found = ((path, module) for path, module in base.named_modules() if path.split(".")[-1] in targets)
    return {path: getattr(module, "base_layer", module) for path, module in found}


def check_layout(layout: AdapterLayout, model: PreTrainedModel | PeftModel) -> None:
    """Refuses an adapter that was made for linears of other names or sizes.

    Args:
        layout (`AdapterLayout`): Of the adapter.
        model (`PreTrainedModel` or `PeftModel`): The base.

    Raises:
        ArtifactError: If they do not fit.
    """
    expected = {(path, own.in_features, own.out_features) for path, own in adapted_linears(model).items()}
    if different := sorted(expected ^ set(layout.linears)):
        raise ArtifactError(
            f"this adapter does not fit the base: {len(different)} linears differ, first {different[0]}; load it with "
            "its own base, or adapt again on this one"
        )
