"""Offline policy learning on the decision heads: what the trunk says of logged decisions, and what heads make of it."""

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import INTERVENTION_SLOT
from pricing_fm.models.losses import mean_over_observed
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.models.processing_pricing_fm import COVARIATE_CHOICES
from pricing_fm.objectives.decision_losses import (
    DecisionLosses,
    Decisions,
    chosen,
    cloning_losses,
    exact_advantage_losses,
    fitted_losses,
    in_sample_losses,
)
from pricing_fm.objectives.implicit_q import bootstrapped_targets
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import (
    bootstrap_ladder,
    features_after,
    ladder_demand,
    ladder_log_prices,
    next_values,
    relative_rewards,
)

Batch = dict[str, torch.Tensor]

# Where the parameters of the decision heads stand in the network.
DECISION_HEAD = "decision_head."

Algorithm = Literal["structured", "awac", "raw", "fitted", "conservative", "cloning"]
# Values come from the demand curve, so that they can be asked about prices that were not logged in that state.
FROM_THE_CURVE = ("structured", "awac")
# Values come from logged rewards, and so from what the manager had in mind.
FROM_THE_LOG = ("raw", "fitted", "conservative")


@dataclass(frozen=True)
class PolicyArguments:
    """How a policy is learned from logged prices.

    Args:
        algorithm (`str`): `structured` (in-sample values) and `awac` (exact expectation over the ladder) build Q on the
            response head. `raw` (in-sample), `fitted` (fitted Q) and `conservative` (fitted Q with a discrete CQL term)
            regress on logged rewards: the ablations that follow the manager's confounding. `cloning` imitates him.
        discount (`float`): Per period.
        horizon (`int`): Decision periods of a training window.
        expectile (`float`): 0.5 evaluates the manager, above it the better of his outcomes.
        inverse_temperature (`float`): Of the advantage weights; 0 is behaviour cloning.
        conservatism (`float`): Weight of the conservative term.
        aggressiveness (`float`): Weight of the value at inference; needs no retraining.
        caution (`float`): Standard deviations over response members that an advantage is discounted by at inference.
        assumed_cost_share (`float`, *optional*): Unit cost as a share of the reference price where the log has none.
    """

    algorithm: Algorithm = field(
        default="structured",
        metadata={
            "help": "structured, awac (Q on the response head); raw, fitted, conservative (logged rewards); cloning"
        },
    )
    discount: float = field(default=0.98, metadata={"help": "discount per period"})
    horizon: int = field(default=13, metadata={"help": "decision periods of a training window"})
    expectile: float = field(default=0.7, metadata={"help": "expectile of the value regression, in (0, 1)"})
    inverse_temperature: float = field(default=2.0, metadata={"help": "sharpness of the advantage weights"})
    conservatism: float = field(default=0.05, metadata={"help": "weight of the conservative (discrete CQL) term"})
    aggressiveness: float = field(
        default=3000.0,
        metadata={
            "help": "at inference: log-odds of an advantage of one reference revenue per period (0: policy alone)"
        },
    )
    caution: float = field(
        default=0.5, metadata={"help": "at inference: standard deviations over members that an advantage is lowered by"}
    )
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "unit cost / reference price where the log has no cost"}
    )

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            raise ValueError(f"algorithm must be one of {', '.join(get_args(Algorithm))}, found {self.algorithm!r}")
        if min(self.conservatism, self.aggressiveness, self.caution) < 0:
            raise ValueError(
                f"conservatism, aggressiveness and caution must be 0 or more, found {self.conservatism}, "
                f"{self.aggressiveness} and {self.caution}"
            )
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must be in [0, 1], found {self.discount}")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile must be in (0, 1), found {self.expectile}")
        if self.horizon < 1:
            raise ValueError(f"horizon must be at least one period, found {self.horizon}")
        if self.assumed_cost_share is not None and not 0 <= self.assumed_cost_share < 1:
            raise ValueError(f"assumed_cost_share must be in [0, 1), found {self.assumed_cost_share}")

    @property
    def dial(self) -> float:
        """Aggressiveness of an adapter that was trained so; 0 without values that can be asked about any price."""
        return self.aggressiveness if self.algorithm in FROM_THE_CURVE else 0.0


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
    return _marked(batch, 1.0)


def as_logged(batch: Batch) -> Batch:
    """The batch with its future prices taken for the manager's own: the naive reading, which mixes in his reasons."""
    return _marked(batch, 0.0)


def _marked(batch: Batch, mark: float) -> Batch:
    values = batch["future_known_values"].clone()
    values[..., INTERVENTION_SLOT] = mark
    return {**batch, "future_known_values": values}


@torch.no_grad()
def read_decisions(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    batch: Batch,
    rewards: RewardWeights,
    from_curve: bool = True,
    from_log: bool = True,
) -> Batch:
    """What the trunk says of logged decisions. The trunk stands still, so heads may learn from one reading many times.

    Args:
        model (`PricingFMForPolicy`): The network.
        processor (`PricingFMProcessor`): For the ladder.
        batch (`dict`): From the processor, two future periods or more.
        rewards (`RewardWeights`): Of the reward.
        from_curve (`bool`): Whether rewards of all rungs are read from the demand curve.
        from_log (`bool`): Whether logged rewards are read.

    Returns:
        `dict`: `decision_states` `(B, H, size)`, `decision_features` `(B, H, F)`, `current_actions`, `logged_actions`,
        `decision_mask` (True = a logged decision with a next state) and `sales_mask` `(B, H)`; `log_rungs` `(B, K)`;
        `rung_rewards` `(B, H, K)` and `logged_rewards` `(B, H)` if asked for, reference revenues per period.

    Raises:
        ValueError: If a window has no next state, a cost is missing that the reward counts, or rungs are asked of a
            free price response.
    """
    mask = batch["logged_action_mask"].clone()
    if mask.shape[1] < 2:
        raise ValueError("windows hold one future period; a decision needs the period after it as its next state")
    mask[:, -1] = False  # the last period is a next state, not a decision
    encoded = model.encode(batch)
    rungs = processor.rung_prices(batch["reference_price"].double().cpu().numpy())
    prices = torch.from_numpy(rungs).to(batch["scale"])
    reading = {name: batch[name] for name in ("decision_features", "current_actions", "logged_actions")}
    reading |= {
        "decision_states": model.decision_states(encoded, batch),
        "decision_mask": mask,
        "sales_mask": batch["future_observed_mask"],
        "log_rungs": ladder_log_prices(batch, prices),
    }
    if from_curve:
        asked = as_interventions(batch) if processor.trained_on_interventions else batch
        demand, sales = ladder_demand(model, encoded, asked, reading["log_rungs"])
        reading["rung_rewards"] = relative_rewards(asked, prices, demand, sales, rewards).mean(-1)
    if from_log:
        reading["logged_rewards"] = _logged_rewards(batch, rewards)
    return reading


def _logged_rewards(batch: Batch, rewards: RewardWeights) -> torch.Tensor:
    price = batch["reference_price"][:, None] * batch["candidate_prices"][:, 0].exp()
    unit_reward = rewards.revenue * price
    if rewards.margin > 0:
        if not bool(torch.isfinite(batch["unit_costs"]).all()):
            raise ValueError("the reward counts margin, but some items have no cost: give `cost` or assume a share")
        unit_reward = unit_reward + rewards.margin * (price - batch["unit_costs"])
    return unit_reward * batch["future_values"] / (batch["reference_price"] * batch["scale"])[:, None]


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
            batch (`dict`): From the processor, two future periods or more; or what `read_decisions` made of it.

        Returns:
            `DemandOutput`: With `loss` and `loss_terms`.

        Raises:
            ValueError: As `read_decisions`.
        """
        reading = batch if "decision_states" in batch else self.read(batch)
        head, actions = self._model[0].decision_head, reading["logged_actions"]
        states, features, current = (
            reading[name] for name in ("decision_states", "decision_features", "current_actions")
        )
        mask = reading["decision_mask"]
        if self.arguments.algorithm in FROM_THE_LOG:
            mask = mask & reading["sales_mask"]  # no reward without sales
        behavior = head.behavior_log_probs(states, features, current)
        decisions = Decisions(
            policy_log_probs=head.policy_log_probs(states, features, current),
            behavior_log_probs=behavior.detach(),
            values=head.values(states, features),
            actions=actions,
            mask=mask,
            num_rungs=self.processor.num_rungs,
        )
        losses = self._losses(decisions, reading)
        terms = {
            "behavior": mean_over_observed(-chosen(behavior, actions), mask),
            "policy": losses.policy,
            "value": losses.value,
        }
        report = {name: term.mean().detach() for name, term in terms.items()}
        if losses.effective_share is not None:
            report["weight_ess_share"] = losses.effective_share
        return DemandOutput(loss=torch.stack(list(terms.values())).sum(0).mean(), loss_terms=report)

    def read(self, batch: Batch) -> Batch:
        """What this learner's algorithm needs of a processor's batch; see `read_decisions`."""
        algorithm = self.arguments.algorithm
        return read_decisions(
            self._model[0],
            self.processor,
            with_assumed_cost(batch, self.arguments.assumed_cost_share),
            self.rewards,
            from_curve=algorithm in FROM_THE_CURVE,
            from_log=algorithm in FROM_THE_LOG,
        )

    def _losses(self, decisions: Decisions, reading: Batch) -> DecisionLosses:
        how = self.arguments
        if how.algorithm == "cloning":
            return cloning_losses(decisions)
        if how.algorithm == "awac":
            return exact_advantage_losses(decisions, self._rung_values(reading), how.inverse_temperature)
        if how.algorithm in ("fitted", "conservative"):
            conservatism = how.conservatism if how.algorithm == "conservative" else 0.0
            return fitted_losses(decisions, reading["logged_rewards"], how.discount, conservatism)
        if how.algorithm == "raw":
            following = functional.pad(decisions.values.detach()[:, 1:], (0, 1))
            ended = torch.zeros_like(decisions.mask)
            targets = bootstrapped_targets(reading["logged_rewards"], following, ended, how.discount)
        else:
            targets = self._logged_values(reading, decisions.rungs)
        return in_sample_losses(decisions, targets, how.expectile, how.inverse_temperature)

    @torch.no_grad()
    def _logged_values(self, reading: Batch, rungs: torch.Tensor) -> torch.Tensor:
        """Structured value of the logged rungs alone, `(B, H)`: a K-th of the states that all rungs lead to."""
        features, head = reading["decision_features"], self._model[0].decision_head
        after = features_after(features[:, :-1], features[:, 1:], reading["log_rungs"])
        index = rungs[:, :-1, None, None].expand(-1, -1, 1, after.shape[-1])
        following = head.values(reading["decision_states"][:, 1:], after.gather(2, index).squeeze(2))
        return bootstrap_ladder(chosen(reading["rung_rewards"], rungs), following, self.arguments.discount)

    @torch.no_grad()
    def _rung_values(self, reading: Batch) -> torch.Tensor:
        """Structured value of every rung, `(B, H, K)`; the last step has no next state and is masked by the caller."""
        following = next_values(
            self._model[0], reading["decision_states"], reading["decision_features"], reading["log_rungs"]
        )
        return bootstrap_ladder(reading["rung_rewards"], following, self.arguments.discount)
