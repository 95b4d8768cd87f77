"""Many ways to learn a policy from the same logged weeks: the trunk reads a category once, heads learn from it again.

The trunk stands still while decision heads learn, so what it says of a window is the same for every algorithm and every
setting of the heads. Demand is the base's own: what differs between trials is what was learned of decisions.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from pricing_fm.adapters import AdapterWeights, LoraArguments, add_adapter, read_weights
from pricing_fm.evaluation.market import hold_adapter
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import LoadedAdapter, PricingPolicy
from pricing_fm.policy.engine import share_weights
from pricing_fm.policy.situation import read_situation, with_siblings
from pricing_fm.training.adapt import DECISION_HEAD, AdaptOptimArguments, decision_source, shortened
from pricing_fm.training.arguments import LoopArguments, OutputArguments
from pricing_fm.training.continuous_actor import ContinuousArguments, ContinuousLearner, PriceActor
from pricing_fm.training.loop import train
from pricing_fm.training.policy_learning import PolicyArguments, PolicyLearner, read_decisions

Batch = dict[str, torch.Tensor]

ADAPTER = "trial"


@dataclass(frozen=True)
class Trial:
    """One way to learn a policy.

    Args:
        policy (`PolicyArguments`): Algorithm and its numbers.
        lora (`LoraArguments`): Size of the adapter.
        optim (`AdaptOptimArguments`): How its weights move.
        steps (`int`): Optimizer steps (of each stage).
        linears (`tuple[str, ...]`): Linears of the decision heads that learn: `head_in`, `head_out` or both.
        values_first (`bool`): An adapter for values, then one for the policy on values that stand still; else both
            heads learn together in one.
        in_currency (`bool`): Rewards in currency, relative to the mean item of a batch, and not in each item's own
            reference revenue.
    """

    policy: PolicyArguments = field(default_factory=PolicyArguments)
    lora: LoraArguments = field(default_factory=LoraArguments)
    optim: AdaptOptimArguments = field(default_factory=AdaptOptimArguments)
    steps: int = 40
    linears: tuple[str, ...] = ("head_in", "head_out")
    values_first: bool = False
    in_currency: bool = False


class KeptReadings:
    """A batch source that goes round a few readings; see `BatchSource`.

    Args:
        readings (`Sequence[dict]`): From `read_category`.
    """

    def __init__(self, readings: Sequence[Batch]) -> None:
        self.readings = readings

    def batch(
        self, step: int, micro_step: int = 0, rank: int = 0, world_size: int = 1, num_micro_steps: int = 1
    ) -> Batch:
        """The reading of a step; whole, so for one process and one micro-step.

        Raises:
            ValueError: If a slice is asked for.
        """
        if world_size * num_micro_steps != 1:
            raise ValueError("kept readings are not cut; use one process and no gradient accumulation")
        return self.readings[step % len(self.readings)]


def read_category(
    base: PricingPolicy, visible: Panel, horizon: int, rewards: RewardWeights, count: int, batch_size: int, seed: int
) -> list[Batch]:
    """What the base's trunk says of a category's logged decisions.

    Args:
        base (`PricingPolicy`): Without adapters.
        visible (`Panel`): One category's visible weeks.
        horizon (`int`): Decision periods of a window.
        rewards (`RewardWeights`): Of the reward.
        count (`int`): Batches.
        batch_size (`int`): Windows of each.
        seed (`int`): Of the windows.

    Returns:
        `list[dict]`: From `read_decisions`, with `reference_revenue` `(B,)`, currency per period.
    """
    periods = int(visible.frame["timestamp"].nunique())
    processor = shortened(base.processor, base.model, periods)
    source = decision_source(visible, processor, horizon, batch_size, seed)
    readings = []
    for step in range(count):
        batch = source.batch(step)
        revenue = batch["reference_price"] * batch["scale"]
        readings.append(read_decisions(base.model, processor, batch, rewards) | {"reference_revenue": revenue})
    return readings


def learn_heads(
    base: PricingPolicy, readings: Sequence[Batch], trial: Trial, rewards: RewardWeights, seed: int
) -> tuple[AdapterWeights, float]:
    """Trains an adapter of the decision heads on kept readings.

    Args:
        base (`PricingPolicy`): Its weights are shared and stay as they are.
        readings (`Sequence[dict]`): From `read_category`, with the trial's horizon.
        trial (`Trial`): How.
        rewards (`RewardWeights`): Of the reward.
        seed (`int`): Of the adapter's first values.

    Returns:
        The adapter, and the seconds it took.
    """
    network = share_weights(base.model)
    wrapped = add_adapter(network, ADAPTER, trial.lora, seed=seed)
    stages = (("value_head", "behavior_head"), ("policy_head",)) if trial.values_first else ((DECISION_HEAD,),)
    source = KeptReadings([_in_currency(reading) for reading in readings] if trial.in_currency else readings)
    loop = LoopArguments(max_steps=trial.steps, evaluate_every=0, prefetch_batches=0, seed=seed)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        output = OutputArguments(output_dir=folder, checkpoint_every=0, tracker="none", log_every=10_000)
        for heads in stages:
            for name, parameter in wrapped.named_parameters():
                learns = "lora_" in name and DECISION_HEAD in name and any(head in name for head in heads)
                parameter.requires_grad_(learns and any(linear in name for linear in trial.linears))
            # The loop goes through all modules it is given at every step, so it is given those alone that learn.
            learner = PolicyLearner(network.decision_head, network, base.processor, trial.policy, rewards)
            seconds += train(learner, source, trial.optim, loop, output).seconds
    return read_weights(wrapped, ADAPTER), seconds


def learn_policy(
    base: PricingPolicy,
    visible: Mapping[str, Panel],
    readings: Mapping[str, Sequence[Batch]],
    trial: Trial,
    rewards: RewardWeights,
    seed: int,
) -> PricingPolicy:
    """The base with one adapter per category, all learned in the same way.

    Args:
        base (`PricingPolicy`): Without adapters.
        visible (`Mapping[str, Panel]`): By category, its visible weeks.
        readings (`Mapping[str, Sequence[dict]]`): By category, from `read_category`.
        trial (`Trial`): How.
        rewards (`RewardWeights`): Of the reward.
        seed (`int`): Of all adapters.

    Returns:
        `PricingPolicy`: Shares the base's weights.
    """
    adapters: dict[str | None, LoadedAdapter] = {}
    for category, panel in visible.items():
        weights, _ = learn_heads(base, readings[category], trial, rewards, seed)
        adapters[category] = hold_adapter(base, panel, category, weights, True, trial.policy, rewards)
    return PricingPolicy(base.model, base.processor, adapters, base.base_folder)


def _in_currency(reading: Batch) -> Batch:
    revenue = reading["reference_revenue"]
    unit = revenue / revenue.mean()
    scaled = {
        "rung_rewards": reading["rung_rewards"] * unit[:, None, None],
        "logged_rewards": reading["logged_rewards"] * unit[:, None],
    }
    return {**reading, **scaled}


@dataclass(frozen=True)
class ContinuousTrial:
    """A continuous actor, and how it learns.

    Args:
        arguments (`ContinuousArguments`): Penalties and discount.
        optim (`AdaptOptimArguments`): How its weights move.
        steps (`int`): Optimizer steps.
    """

    arguments: ContinuousArguments = field(default_factory=ContinuousArguments)
    optim: AdaptOptimArguments = field(default_factory=AdaptOptimArguments)
    steps: int = 40


def learn_actor_prices(
    base: PricingPolicy, visible: Panel, readings: Sequence[Batch], trial: ContinuousTrial, seed: int
) -> np.ndarray:
    """Prices that a category's own actor names for the period after its visible weeks.

    Args:
        base (`PricingPolicy`): Its trunk reads; nothing of it learns.
        visible (`Panel`): One category's visible weeks.
        readings (`Sequence[dict]`): From `read_category`.
        trial (`ContinuousTrial`): How.
        seed (`int`): Of the actor's first values.

    Returns:
        `np.ndarray`, shape `(items,)`: Currency, items sorted.
    """
    config = base.model.config
    actor = PriceActor(config.hidden_size, config.num_decision_features, seed=seed)
    loop = LoopArguments(max_steps=trial.steps, evaluate_every=0, prefetch_batches=0, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        output = OutputArguments(output_dir=folder, checkpoint_every=0, tracker="none", log_every=10_000)
        train(ContinuousLearner(actor, trial.arguments), KeptReadings(readings), trial.optim, loop, output)
    situation = read_situation(visible, base.processor.context_length, 1)
    situation = with_siblings(situation, base.processor)
    batch = base.processor(situation.windows, situation.siblings)
    with torch.no_grad():
        states = base.model.decision_states(base.model.encode(batch), batch)[:, 0]
        log_prices = actor.log_prices(states, batch["decision_features"][:, 0])
    return np.asarray(batch["reference_price"].double().numpy() * log_prices.double().exp().numpy())
