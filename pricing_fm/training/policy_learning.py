"""Offline policy learning on the decision heads: in-sample values on the price ladder, advantage-weighted policy."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import INTERVENTION_SLOT
from pricing_fm.models.losses import mean_over_observed
from pricing_fm.models.outputs import DemandOutput, PricingFMModelOutput
from pricing_fm.models.processing_pricing_fm import COVARIATE_CHOICES
from pricing_fm.objectives.implicit_q import (
    advantage_weights,
    bootstrapped_targets,
    effective_sample_size,
    expectile_loss,
)
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import ladder_values

Batch = dict[str, torch.Tensor]

# Where the parameters of the decision heads stand in the network.
DECISION_HEAD = "decision_head."


@dataclass(frozen=True)
class PolicyArguments:
    """How a policy is learned from logged prices.

    Args:
        algorithm (`str`): `structured` builds Q on the response head; `raw` regresses on logged rewards (the ablation
            that follows the manager's confounding); `cloning` imitates the manager.
        discount (`float`): Per period.
        horizon (`int`): Decision periods of a training window.
        expectile (`float`): 0.5 evaluates the manager, above it the better of his outcomes.
        inverse_temperature (`float`): Of the advantage weights; 0 is behaviour cloning.
        aggressiveness (`float`): Weight of the value at inference; needs no retraining. Ignored by the ablations, which
            have no trustworthy value of actions that were not logged.
        assumed_cost_share (`float`, *optional*): Unit cost as a share of the reference price where the log has none.
    """

    algorithm: Literal["structured", "raw", "cloning"] = field(
        default="structured", metadata={"help": "structured (Q on the response head), raw (logged rewards), cloning"}
    )
    discount: float = field(default=0.98, metadata={"help": "discount per period"})
    horizon: int = field(default=13, metadata={"help": "decision periods of a training window"})
    expectile: float = field(default=0.7, metadata={"help": "expectile of the value regression, in (0, 1)"})
    inverse_temperature: float = field(default=2.0, metadata={"help": "sharpness of the advantage weights"})
    aggressiveness: float = field(
        default=3000.0,
        metadata={
            "help": "at inference: log-odds of an advantage of one reference revenue per period (0: policy alone)"
        },
    )
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "unit cost / reference price where the log has no cost"}
    )

    def __post_init__(self) -> None:
        if self.algorithm not in ("structured", "raw", "cloning"):
            raise ValueError(f"algorithm must be structured, raw or cloning, found {self.algorithm!r}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must be in [0, 1], found {self.discount}")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be in (0, 1), found {self.expectile}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least one period, found {self.horizon}")
        if self.assumed_cost_share is not None and not 0 <= self.assumed_cost_share < 1:
            raise ValueError(f"assumed_cost_share must be in [0, 1), found {self.assumed_cost_share}")


def with_assumed_cost(batch: Batch, share: float | None) -> Batch:
    """The batch with missing unit costs replaced by a stated share of the reference price.

    Args:
        batch (`dict`): From the processor; not changed.
        share (`float`, *optional*): Unit cost / reference price; None = the batch as it is.

    Returns:
        `dict`: With `unit_costs` `(B, H)`, currency.
    """
    if share is None:
        return batch
    costs = batch["unit_costs"]
    return {**batch, "unit_costs": torch.where(torch.isfinite(costs), costs, share * batch["reference_price"][:, None])}


def as_interventions(batch: Batch) -> Batch:
    """The batch with its future prices marked as set by us: what sales they bring, not what a log shows beside them.

    A log's own prices come with the manager's reasons for them; a policy's do not.
    """
    values = batch["future_known_values"].clone()
    values[..., INTERVENTION_SLOT] = 1.0
    return {**batch, "future_known_values": values}


class PolicyLearner(nn.Module):
    """Adds the policy losses to a network. Only the decision heads learn: the trunk's states are detached.

    Windows must hold `horizon + 1` future periods: the last one is the next state of the last decision. A window's end
    is a truncation: it bootstraps from the value of that state.

    Args:
        network (`nn.Module`): The network, plain or with an adapter in place (what the optimizer sees).
        model (`PricingFMForPolicy`): The same network without any wrapper (what is called).
        processor (`PricingFMProcessor`): For the ladder.
        arguments (`PolicyArguments`): Algorithm and horizon.
        rewards (`RewardWeights`): Of the reward.

    Raises:
        ValueError: If something else than decision heads requires a gradient, or nothing does: it would get none, and
            silence would look like learning. Also if the processor hides prices: there are no decisions then.
    """

    def __init__(
        self,
        network: nn.Module,
        model: PricingFMForPolicy,
        processor: PricingFMProcessor,
        arguments: PolicyArguments,
        rewards: RewardWeights,
    ) -> None:
        super().__init__()
        if "price" in COVARIATE_CHOICES[processor.covariates]:
            raise ValueError(
                f"a processor with covariates={processor.covariates!r} hides prices; use 'both' or 'price'"
            )
        learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        foreign = [name for name in learned if not name.startswith(DECISION_HEAD)]
        if foreign or not learned:
            raise ValueError(
                f"the policy losses reach the parameters under {DECISION_HEAD!r} alone: "
                f"{len(learned) - len(foreign)} of them and {len(foreign)} others ({foreign[:2]}) require a gradient. "
                "Set requires_grad before building the learner"
            )
        self.network = network
        self._model = (model,)  # in a tuple: the same parameters must not be registered twice
        self.processor, self.arguments, self.rewards = processor, arguments, rewards

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Mean over the batch of per-sample losses: behaviour, value and policy.

        Args:
            batch (`dict`): From the processor, two future periods or more.

        Returns:
            `DemandOutput`: With `loss` and `loss_terms`.

        Raises:
            ValueError: If a window has no next state, or a cost is missing that the reward counts.
        """
        model = self._model[0]
        batch = with_assumed_cost(batch, self.arguments.assumed_cost_share)
        mask = self._decisions(batch)
        with torch.no_grad():
            encoded = model.encode(batch)
            states = model.decision_states(encoded, batch)
        head, features, current = model.decision_head, batch["decision_features"], batch["current_actions"]
        behavior = -_chosen(head.behavior_log_probs(states, features, current), batch["logged_actions"])
        policy = -_chosen(head.policy_log_probs(states, features, current), batch["logged_actions"])
        values = head.values(states, features)
        terms = {"behavior": mean_over_observed(behavior, mask)}
        report = {}
        if self.arguments.algorithm == "cloning":
            terms["policy"] = mean_over_observed(policy, mask)
            # Times zero: data-parallel training waits for a gradient of every parameter that is to be trained.
            terms["value"] = 0.0 * values.sum(-1)
        else:
            # Detached: the target of a value must not move with it (semi-gradient temporal difference).
            residuals = self._targets(model, encoded, states, batch) - values
            weights = advantage_weights(residuals.detach(), mask, self.arguments.inverse_temperature)
            terms["value"] = mean_over_observed(expectile_loss(residuals, self.arguments.expectile), mask)
            terms["policy"] = mean_over_observed(weights * policy, mask)
            report["weight_ess_share"] = effective_sample_size(weights[mask]) / mask.sum()
        report |= {name: term.mean().detach() for name, term in terms.items()}
        return DemandOutput(loss=torch.stack(list(terms.values())).sum(0).mean(), loss_terms=report)

    def _decisions(self, batch: Batch) -> torch.Tensor:
        """True where a logged decision is learned from, `(B, H)`."""
        mask = batch["logged_action_mask"].clone()
        if mask.shape[1] < 2:
            raise ValueError("windows hold one future period; a decision needs the period after it as its next state")
        mask[:, -1] = False  # the last period is a next state, not a decision
        if self.arguments.algorithm == "raw":
            mask &= batch["future_observed_mask"]  # no reward without sales
        return mask

    @torch.no_grad()
    def _targets(
        self, model: PricingFMForPolicy, encoded: PricingFMModelOutput, states: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """One-step targets of the logged actions, `(B, H)`; the last step has none and is masked by the caller."""
        if self.arguments.algorithm == "raw":
            return self._raw_targets(model, states, batch)
        rungs = self.processor.rung_prices(batch["reference_price"].double().cpu().numpy())
        prices = torch.from_numpy(rungs).to(batch["scale"])
        asked = as_interventions(batch) if self.processor.trained_on_interventions else batch
        ladder = ladder_values(model, encoded, states, asked, prices, self.rewards, self.arguments.discount)
        return _chosen(ladder.values.mean(-1), batch["logged_actions"] % self.processor.num_rungs)

    def _raw_targets(self, model: PricingFMForPolicy, states: torch.Tensor, batch: Batch) -> torch.Tensor:
        price = batch["reference_price"][:, None] * batch["candidate_prices"][:, 0].exp()
        unit_reward = self.rewards.revenue * price
        if self.rewards.margin > 0:
            if not bool(torch.isfinite(batch["unit_costs"]).all()):
                raise ValueError("the reward counts margin, but some items have no cost: give `cost` or assume a share")
            unit_reward = unit_reward + self.rewards.margin * (price - batch["unit_costs"])
        rewards = unit_reward * batch["future_values"] / (batch["reference_price"] * batch["scale"])[:, None]
        values = model.decision_head.values(states, batch["decision_features"])
        following = functional.pad(values[:, 1:], (0, 1))
        ended = torch.zeros_like(following, dtype=torch.bool)
        return bootstrapped_targets(rewards, following, ended, self.arguments.discount)


def _chosen(scores: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    return scores.gather(-1, actions[..., None]).squeeze(-1)
