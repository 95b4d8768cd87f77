"""Runs the network over many items in chunks of one fixed size: an answer does not depend on its company."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from pricing_fm.adapters import AdapterWeights, stack_adapters
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.holding import holding_advantages
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy.situation import Situation

# Every forward pass sees exactly this many items (the last chunk is padded): kernels round differently for different
# batch sizes, and a price must not flip because another item came along.
CHUNK = 32
FINITE_DIFFERENCE = 0.01  # log price; for the elasticity of a free response, which has no closed form

# Adapter of each item, all of one rank; None = the base answers.
Adapters = Sequence[AdapterWeights | None]


@dataclass(frozen=True)
class PathDemand:
    """Demand of N items along P price paths of H steps; float64.

    Args:
        quantile_values (`(N, P, H, Q)`), mean (`(N, P, H)`): Units per period.
        elasticity, elasticity_std (`(N, P, H)`): Of the path; the deviation is NaN for a free response.
        member_factor (`(N, P, M, H)`): Each response member's demand relative to the mean of all.
    """

    quantile_values: np.ndarray
    mean: np.ndarray
    elasticity: np.ndarray
    elasticity_std: np.ndarray
    member_factor: np.ndarray

    def select(self, rows: np.ndarray) -> "PathDemand":
        """Some of the items, in the given order."""
        return PathDemand(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class PolicyScores:
    """What the decision heads say of P candidate prices at the origin; M members; given the planned promotion.

    Args:
        behavior, policy (`(N, P)`): Log probability of the candidate's rung.
        advantages (`(N, P, M)`): Value of holding it over keeping the price, reference revenues per period.
    """

    behavior: np.ndarray
    policy: np.ndarray
    advantages: np.ndarray

    def select(self, rows: np.ndarray) -> "PolicyScores":
        """Some of the items, in the given order."""
        return PolicyScores(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class _Chunk:
    """Items that share a forward pass.

    Args:
        rows (`np.ndarray`, shape `(items,)`, int64): Which items.
        padded (`np.ndarray`, shape `(CHUNK,)`, int64): The same, and the last one again up to the chunk's size.
        batch (`dict[str, torch.Tensor]`): Of the padded items.
        model (`PricingFMForPolicy`): The base with each padded item's own adapter.
    """

    rows: np.ndarray
    padded: np.ndarray
    batch: dict[str, torch.Tensor]
    model: PricingFMForPolicy


class Engine:
    """One network and its processor; every item may bring an adapter of its own.

    Args:
        model (`PricingFMForPolicy`): In evaluation mode.
        processor (`PricingFMProcessor`): Belongs to it.
    """

    def __init__(self, model: PricingFMForPolicy, processor: PricingFMProcessor):
        self.model, self.processor = model, processor

    @property
    def levels(self) -> np.ndarray:
        """Quantile levels of the network, `(Q,)`."""
        return np.asarray(self.model.config.quantile_levels)

    def _chunks(self, situation: Situation, adapters: Adapters) -> Iterator[_Chunk]:
        for start in range(0, len(situation), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(situation)))
            padded = np.concatenate([rows, np.full(CHUNK - len(rows), rows[-1])])
            chunk = situation.select(padded)
            batch = self.processor(chunk.windows, chunk.siblings)
            on_device = {name: value.to(self.model.device) for name, value in batch.items()}
            yield _Chunk(rows, padded, on_device, stack_adapters(self.model, [adapters[row] for row in padded]))

    def reference_prices(self, situation: Situation) -> np.ndarray:
        """Reference price of each item, `(N,)`, currency."""
        windows = situation.windows
        return self.processor.reference_prices(windows.past, windows.future)

    @torch.inference_mode()
    def states(self, situation: Situation) -> np.ndarray:
        """What the base makes of each item: mean states of its context, of its demand steps and of its decision steps.

        Args:
            situation (`Situation`): N items with planned periods, in the monotone mode.

        Returns:
            `np.ndarray`, shape `(N, 3 * hidden_size)`, float64.
        """
        size, parts = self.model.config.hidden_size, []
        for chunk in self._chunks(situation, [None] * len(situation)):
            encoded = chunk.model.encode(chunk.batch)
            held = encoded.context_mask[..., None]
            context = (encoded.context_states * held).sum(1) / held.sum(1)
            demand = chunk.model.demand_states(encoded, chunk.batch)[..., :size].mean(1)
            decision = chunk.model.decision_states(encoded, chunk.batch).mean(1)
            states = torch.cat([context, demand, decision], dim=-1)
            parts.append(states[: len(chunk.rows)].double().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def log_elasticities(self, situation: Situation) -> np.ndarray:
        """Log of each item's elasticity at its reference price, mean over the planned periods.

        Args:
            situation (`Situation`): N items with planned periods, in the monotone mode.

        Returns:
            `np.ndarray`, shape `(N,)`, float64.
        """
        parts = []
        for chunk in self._chunks(situation, [None] * len(situation)):
            response = chunk.model.demand_head.response
            assert response is not None
            states = chunk.model.demand_states(chunk.model.encode(chunk.batch), chunk.batch)
            found = response.log_elasticities(states).mean(-1)
            parts.append(found[: len(chunk.rows)].double().cpu().numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def demand(self, situation: Situation, prices: np.ndarray, adapters: Adapters | None = None) -> PathDemand:
        """Demand along price paths.

        Args:
            situation (`Situation`): N items with H planned periods.
            prices (`np.ndarray`, shape `(N, P, H)`): Candidate prices, currency.
            adapters (`Sequence[AdapterWeights or None]`, *optional*): Of the N items; by default the base answers.

        Returns:
            `PathDemand`.
        """
        parts: list[tuple[np.ndarray, ...]] = []
        for chunk in self._chunks(situation, adapters or [None] * len(situation)):
            batch = chunk.batch
            reference = batch["reference_price"][:, None, None].double()
            paths = torch.from_numpy(prices[chunk.padded]).to(reference.device)
            # An item without any price has none to respond to; the mask says so, a NaN would spread.
            batch["candidate_prices"] = (paths / reference).log().nan_to_num(nan=0.0).float()
            parts.append(tuple(part[: len(chunk.rows)] for part in _demand_of_batch(chunk.model, batch)))
        return PathDemand(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @torch.inference_mode()
    def scores(
        self,
        situation: Situation,
        prices: np.ndarray,
        rewards: RewardWeights,
        discount: float,
        costs: np.ndarray,
        lead: int,
        adapters: Adapters | None = None,
    ) -> PolicyScores:
        """What the decision heads say of candidate prices at the origin, under the planned promotion.

        Args:
            situation (`Situation`): N items; the price is held over all planned periods but the first `lead`.
            prices (`np.ndarray`, shape `(N, P)`): Candidates, currency; one column holds the current price.
            rewards (`RewardWeights`): Of the reward.
            discount (`float`): Per period.
            costs (`np.ndarray`, shape `(N,)`): Unit costs, currency; finite where margin counts.
            lead (`int`): Periods before the price is in force.
            adapters (`Sequence[AdapterWeights or None]`, *optional*): Of the N items; by default the base answers.

        Returns:
            `PolicyScores`.
        """
        parts = []
        for chunk in self._chunks(situation, adapters or [None] * len(situation)):
            batch, padded, model = chunk.batch, chunk.padded, chunk.model
            batch["unit_costs"] = (
                torch.from_numpy(costs[padded]).to(batch["unit_costs"])[:, None].expand_as(batch["unit_costs"])
            )
            encoded = model.encode(batch)
            decided = model.decide(encoded, batch)
            advantages = holding_advantages(
                model,
                encoded,
                batch,
                torch.from_numpy(prices[padded]).to(batch["scale"]),
                torch.from_numpy(situation.current_price[padded]).to(batch["scale"]),
                rewards,
                discount,
                lead,
            )
            promoted = torch.from_numpy((situation.planned_promotion[padded, lead] > 0).astype(np.int64))
            rungs = self.processor.rungs(prices[padded], batch["reference_price"].double().cpu().numpy())
            chosen = [
                self._given_promotion(log_probs[:, 0], promoted).gather(
                    1, torch.from_numpy(rungs).to(advantages.device)
                )
                for log_probs in (decided.behavior_log_probs, decided.policy_log_probs)
            ]
            parts.append(tuple(tensor[: len(chunk.rows)].double().cpu().numpy() for tensor in (*chosen, advantages)))
        return PolicyScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _given_promotion(self, log_probs: torch.Tensor, promoted: torch.Tensor) -> torch.Tensor:
        table = log_probs.unflatten(-1, (-1, self.processor.num_rungs))
        chosen = table[torch.arange(len(table), device=table.device), promoted]
        return chosen.log_softmax(-1)


def _demand_of_batch(model: PricingFMForPolicy, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
    encoded = model.encode(batch)
    output = model.demand(encoded, batch)
    if output.member_response is None or output.elasticity is None or output.elasticity_std is None:
        moved = []
        for shift in (FINITE_DIFFERENCE, -FINITE_DIFFERENCE):
            shifted = {**batch, "candidate_prices": batch["candidate_prices"] + shift}
            moved.append(model.demand(encoded, shifted).mean.clamp(min=1e-9).log())
        elasticity = (moved[0] - moved[1]) / (2 * FINITE_DIFFERENCE)
        spread = torch.full_like(elasticity, torch.nan)
        response = (elasticity, spread, torch.ones_like(output.mean)[:, :, None])
    else:
        centred = output.member_response - output.member_response.mean(2, keepdim=True)
        response = (output.elasticity, output.elasticity_std, centred.exp())
    tensors = (output.quantile_values, output.mean, *response)
    return tuple(tensor.double().cpu().numpy() for tensor in tensors)


def share_weights(model: PricingFMForPolicy) -> PricingFMForPolicy:
    """A second network on the same parameter tensors: an adapter put into it leaves the first as it is.

    Returns:
        `PricingFMForPolicy`: New modules, shared storage; memory grows by the adapter only.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo=shared)
