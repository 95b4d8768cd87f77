"""Runs the network over many items in chunks of one fixed size, so that an item's answer does not depend on its company."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import ladder_values
from pricing_fm.policy.situation import Situation

# Every forward pass sees exactly this many items (the last chunk is padded): kernels round differently for different
# batch sizes, and a price must not flip because another item came along.
CHUNK = 32
FINITE_DIFFERENCE = 0.01  # log price; for the elasticity of a free response, which has no closed form


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


@dataclass(frozen=True)
class LadderScores:
    """What the decision heads say at the origin; K rungs, M members; for the planned promotion only.

    Args:
        behavior, policy (`(N, K)`): Log probabilities given the promotion.
        advantages (`(N, K, M)`): Value over keeping the price, reference revenues per period.
    """

    behavior: np.ndarray
    policy: np.ndarray
    advantages: np.ndarray


class Engine:
    """One network (with or without an adapter inside) and its processor.

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

    def _batches(self, situation: Situation):
        for start in range(0, len(situation), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(situation)))
            padded = np.concatenate([rows, np.full(CHUNK - len(rows), rows[-1])])
            batch = self.processor(situation.select(padded).windows)
            yield rows, padded, {name: value.to(self.model.device) for name, value in batch.items()}

    def reference_prices(self, situation: Situation) -> np.ndarray:
        """Reference price of each item, `(N,)`, currency."""
        windows = situation.windows
        return self.processor.reference_prices(windows.past, windows.future)

    @torch.inference_mode()
    def demand(self, situation: Situation, prices: np.ndarray) -> PathDemand:
        """Demand along price paths.

        Args:
            situation (`Situation`): N items with H planned periods.
            prices (`np.ndarray`, shape `(N, P, H)`): Candidate prices, currency.

        Returns:
            `PathDemand`.
        """
        parts: list[tuple[np.ndarray, ...]] = []
        for rows, padded, batch in self._batches(situation):
            reference = batch["reference_price"][:, None, None].double()
            paths = torch.from_numpy(prices[padded]).to(reference.device)
            batch["candidate_prices"] = (paths / reference).log().float()
            parts.append(tuple(part[: len(rows)] for part in self._demand_of_batch(batch)))
        return PathDemand(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _demand_of_batch(self, batch: dict[str, torch.Tensor]) -> tuple[np.ndarray, ...]:
        encoded = self.model.encode(batch)
        output = self.model.demand(encoded, batch)
        if output.member_response is None:
            moved = []
            for shift in (FINITE_DIFFERENCE, -FINITE_DIFFERENCE):
                shifted = {**batch, "candidate_prices": batch["candidate_prices"] + shift}
                moved.append(self.model.demand(encoded, shifted).mean.clamp(min=1e-9).log())
            elasticity = (moved[0] - moved[1]) / (2 * FINITE_DIFFERENCE)
            spread = torch.full_like(elasticity, torch.nan)
            factor = torch.ones_like(output.mean)[:, :, None]
        else:
            elasticity, spread = output.elasticity, output.elasticity_std
            factor = (output.member_response - output.member_response.mean(2, keepdim=True)).exp()
        tensors = (output.quantile_values, output.mean, elasticity, spread, factor)
        return tuple(tensor.double().cpu().numpy() for tensor in tensors)

    @torch.inference_mode()
    def ladder(self, situation: Situation, rewards: RewardWeights, discount: float, costs: np.ndarray) -> LadderScores:
        """Scores of every rung at the origin, for the planned promotion.

        Args:
            situation (`Situation`): N items with at least two planned periods (the second is the next state).
            rewards (`RewardWeights`): Of the reward.
            discount (`float`): Per period.
            costs (`np.ndarray`, shape `(N,)`): Unit costs, currency; finite where margin counts.

        Returns:
            `LadderScores`.
        """
        parts = []
        for rows, padded, batch in self._batches(situation):
            batch["unit_costs"] = (
                torch.from_numpy(costs[padded]).to(batch["unit_costs"])[:, None].expand_as(batch["unit_costs"])
            )
            encoded = self.model.encode(batch)
            states = self.model.decision_states(encoded, batch)
            decided = self.model.decide(encoded, batch)
            rungs = self.processor.rung_prices(batch["reference_price"].double().cpu().numpy())
            values = ladder_values(
                self.model, encoded, states, batch, torch.from_numpy(rungs).to(states), rewards, discount
            ).values[:, 0]
            kept = batch["current_actions"][:, 0] % self.processor.num_rungs
            kept_values = values.gather(1, kept[:, None, None].expand(-1, 1, values.shape[-1]))
            promoted = torch.from_numpy((situation.planned_promotion[padded, 0] > 0).astype(np.int64)).to(kept)
            scores = [
                self._given_promotion(log_probs[:, 0], promoted)
                for log_probs in (decided.behavior_log_probs, decided.policy_log_probs)
            ]
            tensors = (*scores, values - kept_values)
            parts.append(tuple(tensor[: len(rows)].double().cpu().numpy() for tensor in tensors))
        return LadderScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _given_promotion(self, log_probs: torch.Tensor, promoted: torch.Tensor) -> torch.Tensor:
        table = log_probs.unflatten(-1, (-1, self.processor.num_rungs))
        chosen = table[torch.arange(len(table), device=table.device), promoted]
        return chosen.log_softmax(-1)


def share_weights(model: PricingFMForPolicy) -> PricingFMForPolicy:
    """A second network on the same parameter tensors: an adapter put into it leaves the first as it is.

    Returns:
        `PricingFMForPolicy`: New modules, shared storage; memory grows by the adapter only.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    shared |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo=shared)
