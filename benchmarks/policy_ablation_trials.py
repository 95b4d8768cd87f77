"""The ways to learn a policy that benchmarks/policy_ablation.py compares: one change each from the default."""

from __future__ import annotations

from dataclasses import replace

from pricing_fm.adapters import LoraArguments
from pricing_fm.evaluation.policy_trials import ContinuousTrial, Trial
from pricing_fm.training.adapt import AdaptOptimArguments
from pricing_fm.training.continuous_actor import ContinuousArguments
from pricing_fm.training.policy_learning import PolicyArguments

DEFAULT = "structured"
# Compared at every confounding; the rest in mixed markets alone.
UNDER_CONFOUNDING = (DEFAULT, "awac", "raw", "fitted", "conservative", "cloning")
# What the default is called in each group.
DEFAULT_IS = {
    "algorithm": "structured", "expectile": "expectile 0.7", "discount": "discount 0.98", "horizon": "horizon 13",
    "inverse temperature": "inverse temperature 2", "rank": "rank 8", "layers": "both linears of a head",
    "adapters": "values and policy in one", "rewards": "rewards in reference revenues", "steps": "the rate",
}  # fmt: skip
GROUPS = {
    "algorithm": (DEFAULT, "awac", "raw", "fitted", "conservative", "cloning"),
    "expectile": ("expectile 0.5", DEFAULT, "expectile 0.9"),
    "discount": ("discount 0.9", DEFAULT),
    "horizon": ("horizon 4", DEFAULT),
    "inverse temperature": ("inverse temperature 0", DEFAULT, "inverse temperature 8"),
    "rank": ("rank 2", "rank 4", DEFAULT, "rank 16"),
    "layers": ("head_in alone", "head_out alone", DEFAULT),
    "adapters": ("values first, policy apart", DEFAULT),
    "rewards": ("rewards in currency", DEFAULT),
    "steps": ("a tenth of the rate", DEFAULT),
    "any price": ("continuous, penalty 0", "continuous, penalty 0.05", "continuous, penalty 0.5"),
}

# Any price instead of a rung; an actor starts from nothing, so it has a larger rate and more steps.
CONTINUOUS = {
    f"continuous, penalty {penalty:g}": ContinuousTrial(
        ContinuousArguments(actor_penalty=penalty), AdaptOptimArguments(learning_rate=1e-2), steps=100
    )
    for penalty in (0.0, 0.05, 0.5)
}


def build_trials(steps: int, learning_rate: float) -> dict[str, Trial]:
    """All trials by name.

    Args:
        steps: Optimizer steps.
        learning_rate: Peak rate.
    """
    default = Trial(optim=AdaptOptimArguments(learning_rate=learning_rate), steps=steps)

    def learn(**changes: object) -> Trial:
        return replace(default, policy=replace(PolicyArguments(), **changes))

    def rank(size: int) -> Trial:
        # The update's scale stays: alpha / rank is 2 as in the default.
        return replace(default, lora=LoraArguments(lora_rank=size, lora_alpha=2.0 * size))

    return {
        DEFAULT: default,
        **{name: learn(algorithm=name) for name in ("awac", "raw", "fitted", "conservative", "cloning")},
        "expectile 0.5": learn(expectile=0.5),
        "expectile 0.9": learn(expectile=0.9),
        "discount 0.9": learn(discount=0.9),
        "horizon 4": learn(horizon=4),
        "inverse temperature 0": learn(inverse_temperature=0.0),
        "inverse temperature 8": learn(inverse_temperature=8.0),
        "rank 2": rank(2),
        "rank 4": rank(4),
        "rank 16": rank(16),
        "head_in alone": replace(default, linears=("head_in",)),
        "head_out alone": replace(default, linears=("head_out",)),
        "values first, policy apart": replace(default, values_first=True),
        "rewards in currency": replace(default, in_currency=True),
        "a tenth of the rate": replace(default, optim=AdaptOptimArguments(learning_rate=learning_rate / 10)),
    }
