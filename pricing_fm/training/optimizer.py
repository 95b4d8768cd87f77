"""How the weights move: AdamW with its groups and schedule, and the moving average of the weights."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pricing_fm.models import PricingFMModel
from pricing_fm.training.arguments import OptimArguments

_MATRIX_LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d)


def build_optimizer(model: nn.Module, optim: OptimArguments) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient now; build it after freezing and after adapters exist.

    Only the weights of linear and convolution layers decay. Norms, biases, embeddings and free parameters (tokens,
    temperatures) do not: pulling those to zero changes what the network can express instead of regularising it.

    Args:
        model (`nn.Module`): Frozen parameters have `requires_grad=False`.
        optim (`OptimArguments`): Rates and decays.

    Returns:
        `torch.optim.AdamW`: Two groups, decaying first; a group is left out when it is empty.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    decaying: dict[int, nn.Parameter] = {}
    free: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_matrix = isinstance(module, _MATRIX_LAYERS) and parameter.ndim >= 2
            (decaying if is_matrix else free)[id(parameter)] = parameter
    # A matrix that is also an embedding (tied weights) is met in both roles: it does not decay.
    decaying = {key: parameter for key, parameter in decaying.items() if key not in free}
    groups = [
        {"params": list(decaying.values()), "weight_decay": optim.weight_decay},
        {"params": list(free.values()), "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("no parameter of the model requires a gradient; unfreeze what is to be trained")
    betas = (optim.adam_beta1, optim.adam_beta2)
    # One kernel for all parameters.
    return torch.optim.AdamW(groups, lr=optim.learning_rate, betas=betas, eps=optim.adam_epsilon, fused=True)


def checkpoint_activations(model: nn.Module, is_wanted: bool) -> None:
    """Has every network inside a model compute its activations anew on the way back, or keep them.

    Args:
        model (`nn.Module`): A network, or what wraps one.
        is_wanted (`bool`): True = compute them anew.

    Raises:
        ValueError: If that is wanted and nothing in the model can do it.
    """
    networks = [module for module in model.modules() if isinstance(module, PricingFMModel)]
    if is_wanted and not networks:
        raise ValueError(f"{type(model).__name__} has no network that supports activation checkpointing")
    for network in networks:
        network.gradient_checkpointing = is_wanted


def learning_rate_at(step: int, optim: OptimArguments, max_steps: int) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine. A pure function, so there is nothing to restore.

    Args:
        step (`int`): Zero-based.
        optim (`OptimArguments`): Peak, warm-up and final share.
        max_steps (`int`): Steps of the whole run.

    Returns:
        `float`: The rate; the peak is reached in step `warmup_steps`, the minimum in step `max_steps - 1`.

    References:
        Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine annealing, without restarts).
    """
    if step < optim.warmup_steps:
        return optim.learning_rate * (step + 1) / (optim.warmup_steps + 1)
    decay_steps = max(max_steps - 1 - optim.warmup_steps, 1)
    progress = min((step - optim.warmup_steps) / decay_steps, 1.0)
    minimum = optim.minimum_learning_rate_ratio
    return optim.learning_rate * (minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * progress)))


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a sharded tensor that this process holds; any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class AveragedWeights:
    """Exponential moving average of the trained parameters: less noisy than any single step.

    The decay ramps up as `(1 + updates) / (10 + updates)`, so that a short run is not an average of its random start.

    Args:
        model (`nn.Module`): After it was wrapped; parameters with a gradient are averaged, others are constant.
        decay (`float`): In [0, 1); 0 means that the average is the current weights.

    References:
        Polyak and Juditsky 1992; the ramp is that of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.tensors = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Move towards the current weights.

        Args:
            updates (`int`): Optimizer steps applied so far, this one included.
        """
        decay = min(self._decay, (1 + updates) / (10 + updates))
        averaged = [local_part(tensor) for tensor in self.tensors.values()]
        current = [local_part(parameter) for parameter in self._parameters.values()]
        get_ema_multi_avg_fn(decay)(averaged, current, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model hold the averaged weights inside the `with` block, and its own again afterwards, bit-equal."""
        kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self.write(self.tensors)
        try:
            yield
        finally:
            self.write(kept)

    @torch.no_grad()
    def write(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors into the model's trained parameters.

        Args:
            tensors (`Mapping[str, torch.Tensor]`): One for every averaged parameter, cut alike.
        """
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[name])
