"""Creates LoRA adapters on a base and says which parameters are theirs."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from pricing_fm.adapters.names import check_adapter_name
from pricing_fm.errors import ArtifactError

# Adapters of one batch are brought to the largest rank among them: one of them may not make all others slow.
MAXIMUM_RANK = 256


@dataclass(frozen=True)
class LoraArguments:
    """Size of an adapter.

    Raises:
        ValueError: If a value is outside its range.

    References:
        Hu et al. 2021, arXiv:2106.09685.
    """

    lora_rank: int = field(default=8, metadata={"help": "Rank of every low-rank update."})
    lora_alpha: float = field(default=16.0, metadata={"help": "The update is scaled by alpha / rank."})
    lora_start: float = field(
        default=0.0,
        metadata={
            "help": "Standard deviation of B at the start. 0 starts at the base, and A has no gradient at first."
        },
    )

    def __post_init__(self) -> None:
        if not 1 <= self.lora_rank <= MAXIMUM_RANK:
            raise ValueError(f"--lora_rank is {self.lora_rank}; expected 1 to {MAXIMUM_RANK}")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"--lora_alpha is {self.lora_alpha}; expected a finite number above 0")
        if not 0 <= self.lora_start < math.inf:
            raise ValueError(f"--lora_start is {self.lora_start}; expected 0 or a finite number above it")


def add_adapter(model: PreTrainedModel | PeftModel, name: str, arguments: LoraArguments, seed: int = 0) -> PeftModel:
    """Puts a new adapter on the linears that the model's class names, and makes it the active and only trainable one.

    The base's values do not change, only its modules are wrapped in place. Neither the base nor another adapter has an
    influence on how this one starts.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The base, or a base that carries adapters already. Its class has
            `lora_target_modules`, the names of the linears that adapters may change.
        name (`str`): Name of the adapter.
        arguments (`LoraArguments`): Its size.
        seed (`int`): Seed of its first values; the global generator is not touched.

    Returns:
        `PeftModel`: The model with its adapters; the same object if it was one already.

    Raises:
        ArtifactError: If the name is taken or not admitted.
    """
    config = build_config(model, arguments.lora_rank, arguments.lora_alpha)
    wrapped = wrap(model, name, config)
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in adapter_parameters(wrapped, name).items():
        if key.endswith(".lora_A.weight"):
            # Kaiming's uniform bound with a = sqrt(5), as in the reference implementation: 1 / sqrt(inputs).
            bound = parameter.shape[1] ** -0.5
            start = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
        else:
            start = torch.randn(parameter.shape, generator=generator) * arguments.lora_start
        parameter.data.copy_(start)
    activate_adapter(wrapped, name)
    train_only(wrapped, [name])
    return wrapped


def adapter_parameters(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter, under the keys of its weight file.

    Args:
        model (`PeftModel`): The model.
        name (`str`): Name of the adapter.

    Returns:
        `dict[str, nn.Parameter]`: Key without the adapter's name to parameter, in the model's order.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    if name not in model.peft_config:
        raise ArtifactError(f"there is no adapter {name!r}; loaded are {sorted(model.peft_config)}")
    own = re.compile(rf"(.+\.lora_[AB])\.{re.escape(name)}(\.weight)")
    matches = ((own.fullmatch(key), parameter) for key, parameter in model.named_parameters())
    return {"".join(match.groups()): parameter for match, parameter in matches if match}


def adapter_scaling(model: PeftModel, name: str) -> float:
    """Factor of an adapter's low-rank updates: alpha / rank.

    Args:
        model (`PeftModel`): The model.
        name (`str`): Name of the adapter.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    if name not in model.peft_config:
        raise ArtifactError(f"there is no adapter {name!r}; loaded are {sorted(model.peft_config)}")
    config = model.peft_config[name]
    return float(config.lora_alpha / config.r)


def activate_adapter(model: PeftModel, name: str | None) -> None:
    """Chooses which adapter answers, without changing which parameters are trained.

    Not safe while another thread uses the model, and not between a forward and its backward pass: the gradient would be
    dropped silently.

    Args:
        model (`PeftModel`): The model.
        name (`str` or None): Name of the adapter; None = the base alone.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    if name is not None and name not in model.peft_config:
        raise ArtifactError(f"there is no adapter {name!r}; loaded are {sorted(model.peft_config)}")
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    if name is None:
        model.base_model.disable_adapter_layers()
    else:
        model.base_model.enable_adapter_layers()
        model.set_adapter(name)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in trained)


def train_only(model: PeftModel, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """Makes the parameters of these adapters trainable and all others, the base included, not.

    Args:
        model (`PeftModel`): The model.
        names (`Iterable[str]`): Names of adapters.

    Returns:
        `dict[str, nn.Parameter]`: The trainable parameters by their full name, for the optimizer.

    Raises:
        ArtifactError: If there is no such adapter.
    """
    chosen = {id(parameter) for name in names for parameter in adapter_parameters(model, name).values()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}


def base_tensors(model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """The tensors of the base under their own names, whatever adapters it carries.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.

    Returns:
        `dict[str, torch.Tensor]`: As the base's own `state_dict()` gave it before any adapter.
    """
    if not isinstance(model, PeftModel):
        return dict(model.state_dict())
    return {
        key.replace(".base_layer.", "."): tensor
        for key, tensor in model.get_base_model().state_dict().items()
        if ".lora_" not in key
    }


def build_config(model: PreTrainedModel | PeftModel, rank: int, alpha: float) -> LoraConfig:
    """PEFT's configuration of an adapter of this house: named linears, no bias, no dropout, nothing else.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.
        rank (`int`): Rank.
        alpha (`float`): Numerator of the scaling.

    Returns:
        `LoraConfig`: The configuration, without a base written in.
    """
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(base_of(model).lora_target_modules), bias="none")


def base_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The base inside.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.

    Returns:
        `PreTrainedModel`: The base; its linears may be wrapped.
    """
    return model.get_base_model() if isinstance(model, PeftModel) else model


def wrap(model: PreTrainedModel | PeftModel, name: str, config: LoraConfig) -> PeftModel:
    """Adds the modules of an adapter; its values are whatever PEFT starts with.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model.
        name (`str`): Name of the adapter.
        config (`LoraConfig`): Its configuration.

    Returns:
        `PeftModel`: The model with the adapter, not yet active if there were others.

    Raises:
        ArtifactError: If the name is taken or not admitted.
    """
    check_adapter_name(name)
    if isinstance(model, PeftModel) and name in model.peft_config:
        raise ArtifactError(f"adapter {name!r} is loaded already; choose another name or delete it first")
    # PEFT draws its start from the global generator, which belongs to the caller.
    with torch.random.fork_rng(devices=[]):
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
            return model
        return get_peft_model(model, config, adapter_name=name)
