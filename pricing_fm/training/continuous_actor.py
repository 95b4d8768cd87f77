"""A policy that names any price: a small actor and critic beside the network, on what its trunk says of decisions.

No part of an artifact: the ladder is what is published and served. It shows what prices between the rungs are worth.
"""

from dataclasses import dataclass, field

import torch
from torch import nn

from pricing_fm.models.channels import PRICE_SCALE
from pricing_fm.models.losses import mean_over_observed
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.objectives.continuous_price import actor_loss, behavior_penalty, penalised_targets, value_at_price
from pricing_fm.objectives.implicit_q import expectile_loss
from pricing_fm.objectives.structured_q import bootstrap_ladder, features_after

Batch = dict[str, torch.Tensor]

FURTHEST = 0.7  # log price that the actor may go from the last one, both ways


@dataclass(frozen=True)
class ContinuousArguments:
    """How an actor is learned.

    Args:
        discount (`float`): Per period.
        actor_penalty (`float`): Of a squared 10 % move away from the logged price, in mean sizes of a value.
        critic_penalty (`float`): The same in the critic's target, reference revenues per period.
    """

    discount: float = field(default=0.98, metadata={"help": "discount per period"})
    actor_penalty: float = field(default=0.05, metadata={"help": "the actor's penalty of a squared 10 % move"})
    critic_penalty: float = field(default=0.002, metadata={"help": "the critic's penalty of a squared 10 % move"})


class PriceActor(nn.Module):
    """Log price (ratio to the reference price) and state value from the trunk's state and the decision features.

    Starts by keeping the last price, and with values of zero.

    Args:
        state_size, num_features (`int`): Widths of both inputs.
        hidden_size (`int`): Width between.
        seed (`int`): Of the first values; the global generator is not touched.
    """

    def __init__(self, state_size: int, num_features: int, hidden_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor, self.critic = (_silent_head(state_size + num_features, hidden_size) for _ in range(2))

    def log_prices(self, states: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """`(..., size)` and `(..., F)` -> `(...)`: the last log price and a bounded move."""
        moved = self.actor(torch.cat([states, features], dim=-1)).squeeze(-1)
        return features[..., 0] * PRICE_SCALE + FURTHEST * torch.tanh(moved)

    def values(self, states: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Value of the state under the actor, `(...)`, reference revenues per period."""
        return self.critic(torch.cat([states, features], dim=-1)).squeeze(-1)


def _silent_head(input_size: int, hidden_size: int) -> nn.Sequential:
    """A small MLP that says zero before it has learned."""
    last = nn.Linear(hidden_size, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(input_size, hidden_size), nn.SiLU(), last)


class ContinuousLearner(nn.Module):
    """The actor's and the critic's losses on what `read_decisions` made of logged windows.

    Args:
        actor (`PriceActor`): Learned.
        arguments (`ContinuousArguments`): How.
    """

    def __init__(self, actor: PriceActor, arguments: ContinuousArguments) -> None:
        super().__init__()
        self.actor, self.arguments = actor, arguments

    def forward(self, **reading: torch.Tensor) -> DemandOutput:
        """Mean over the windows of both losses.

        Args:
            reading (`dict`): With `rung_rewards`.

        Returns:
            `DemandOutput`: With `loss` and `loss_terms`.
        """
        states, features, rungs = (reading[name] for name in ("decision_states", "decision_features", "log_rungs"))
        mask, how = reading["decision_mask"], self.arguments
        logged = rungs.gather(1, reading["logged_actions"] % rungs.shape[1])
        prices = self.actor.log_prices(states, features)
        distance = behavior_penalty(prices, logged)
        with torch.no_grad():
            after = features_after(features[:, :-1], features[:, 1:], rungs)
            following = self.actor.values(states[:, 1:, None].expand(-1, -1, rungs.shape[1], -1), after)
            ladder = bootstrap_ladder(reading["rung_rewards"], following, how.discount)
            # The state's value is that of the actor's own price, less what leaving the log costs.
            own, never = value_at_price(ladder, rungs, prices), torch.zeros_like(mask)
            targets = penalised_targets(torch.zeros_like(own), own, distance, never, 1.0, how.critic_penalty)
        values = self.actor.values(states, features)
        terms = {
            "policy": mean_over_observed(actor_loss(prices, ladder, rungs, logged, mask, how.actor_penalty), mask),
            "value": mean_over_observed(expectile_loss(targets - values, 0.5), mask),
        }
        report = {name: term.mean().detach() for name, term in terms.items()}
        return DemandOutput(loss=torch.stack(list(terms.values())).sum(0).mean(), loss_terms=report)
