"""Offline policy learning on the decision heads: in-sample values on the price ladder, then an advantage-weighted policy."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.losses import mean_over_observed
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.objectives.implicit_q import (
    advantage_weights,
    bootstrapped_targets,
    effective_sample_size,
    expectile_loss,
)
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import ladder_values


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
        default=200.0,
        metadata={"help": "at inference: log-odds of an advantage of one reference revenue per period (0: policy alone)"},
    )
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "unit cost / reference price where the log has no cost"}
    )

    def __post_init__(self):
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


def with_assumed_cost(batch: dict[str, torch.Tensor], share: float | None) -> dict[str, torch.Tensor]:
    """The batch with missing unit costs replaced by a stated share of the reference price; unchanged without a share."""
    if share is None:
        return batch
    costs = batch["unit_costs"]
    return {**batch, "unit_costs": torch.where(torch.isfinite(costs), costs, share * batch["reference_price"][:, None])}


class PolicyLearner(nn.Module):
    """Adds the policy losses to a network; only what has `requires_grad` learns, the trunk's states are detached.

    Windows must hold `horizon + 1` future periods: the last one is the next state of the last decision. A window's end
    is a truncation: it bootstraps from the value of that state.

    Args:
        network (`nn.Module`): The network, plain or with an adapter in place (what the optimizer sees).
        model (`PricingFMForPolicy`): The same network without any wrapper (what is called).
        processor (`PricingFMProcessor`): For the ladder.
        arguments (`PolicyArguments`): Algorithm and horizon.
        rewards (`RewardWeights`): Of the reward.
    """

    def __init__(
        self,
        network: nn.Module,
        model: PricingFMForPolicy,
        processor: PricingFMProcessor,
        arguments: PolicyArguments,
        rewards: RewardWeights,
    ):
        super().__init__()
        self.network = network
        self._model = (model,)  # in a tuple: the same parameters must not be registered twice
        self.processor, self.arguments, self.rewards = processor, arguments, rewards

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Mean over the batch of per-sample losses: behaviour, value and policy."""
        model = self._model[0]
        batch = with_assumed_cost(batch, self.arguments.assumed_cost_share)
        with torch.no_grad():
            encoded = model.encode(batch)
            states = model.decision_states(encoded, batch)
        head, features, current = model.decision_head, batch["decision_features"], batch["current_actions"]
        logged, mask = batch["logged_actions"], batch["logged_action_mask"].clone()
        mask[:, -1] = False  # the last period is a next state, not a decision
        behavior = -_chosen(head.behavior_log_probs(states, features, current), logged)
        policy = -_chosen(head.policy_log_probs(states, features, current), logged)
        terms = {"behavior": mean_over_observed(behavior, mask)}
        if self.arguments.algorithm == "cloning":
            terms["policy"] = mean_over_observed(policy, mask)
        else:
            values = head.values(states, features)
            # Detached: the target of a value must not move with it (semi-gradient temporal difference).
            targets = self._targets(model, encoded, states, batch, logged)
            residuals = targets - values
            weights = advantage_weights(residuals.detach(), mask, self.arguments.inverse_temperature)
            terms["value"] = mean_over_observed(expectile_loss(residuals, self.arguments.expectile), mask)
            terms["policy"] = mean_over_observed(weights * policy, mask)
        loss = torch.stack(list(terms.values())).sum(0)
        report = {name: term.mean().detach() for name, term in terms.items()}
        if self.arguments.algorithm != "cloning" and bool(mask.any()):
            report["weight_ess_share"] = effective_sample_size(weights[mask]) / mask.sum()
        return DemandOutput(loss=loss.mean(), loss_terms=report)

    @torch.no_grad()
    def _targets(self, model, encoded, states, batch, logged) -> torch.Tensor:
        """One-step targets of the logged actions, `(B, H)`; the last step has none and is masked by the caller."""
        if self.arguments.algorithm == "raw":
            return self._raw_targets(model, states, batch)
        rungs = torch.from_numpy(self.processor.rung_prices(batch["reference_price"].cpu().numpy().astype("float64")))
        ladder = ladder_values(
            model,
            encoded,
            states,
            batch,
            rungs.to(states),
            self.rewards,
            self.arguments.discount,
        )
        values = ladder.values.mean(-1)
        return _chosen(values, logged % self.processor.num_rungs)

    def _raw_targets(self, model, states, batch) -> torch.Tensor:
        price = batch["reference_price"][:, None] * batch["candidate_prices"][:, 0].exp()
        cost = torch.nan_to_num(batch["unit_costs"]) if self.rewards.margin > 0 else torch.zeros_like(price)
        weight = self.rewards.margin if self.rewards.margin > 0 else self.rewards.revenue
        rewards = weight * (price - cost) * batch["future_values"]
        rewards = rewards / (batch["reference_price"] * batch["scale"])[:, None]
        values = model.decision_head.values(states, batch["decision_features"])
        following = functional.pad(values[:, 1:], (0, 1))
        ended = torch.zeros_like(following, dtype=torch.bool)
        return bootstrapped_targets(rewards, following, ended, self.arguments.discount)


def _chosen(scores: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    return scores.gather(-1, actions[..., None]).squeeze(-1)
