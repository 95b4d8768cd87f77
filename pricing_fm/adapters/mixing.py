"""Several adapters as one: exact at the sum of their ranks, or at a smaller rank with a known error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pricing_fm.adapters.weights import AdapterLayout, AdapterWeights, Factors, pack_factors


@dataclass(frozen=True)
class ReducedAdapter:
    """An adapter of smaller rank, and what that costs.

    Args:
        weights (`AdapterWeights`): The best one of its rank, linear by linear.
        relative_error (`float`): Norm of all updates' differences over the norm of all updates; 0 = nothing was lost.
        largest_error (`float`): The same of the linear that lost most.
        largest_path (`str`): That linear.

    References:
        Eckart and Young 1936, doi:10.1007/BF02288367.
    """

    weights: AdapterWeights
    relative_error: float
    largest_error: float
    largest_path: str


def mix_adapters(adapters: Sequence[AdapterWeights], shares: Sequence[float]) -> AdapterWeights:
    """The weighted sum of the updates, exactly: factors are put side by side, so ranks add up.

    Factors themselves are not averaged: the product of two averages is no average of products.

    Args:
        adapters (`Sequence[AdapterWeights]`): Of one base; ranks may differ.
        shares (`Sequence[float]`): Their weights, finite; they need not add up to one. The share 0 leaves one out.

    Returns:
        `AdapterWeights`: Of rank sum.

    Raises:
        ValueError: If there is nothing to mix, a share is missing or not finite, or the bases differ.
    """
    if len(adapters) != len(shares) or not all(math.isfinite(share) for share in shares):
        raise ValueError(f"{len(adapters)} adapters and the shares {list(shares)}: give each one a finite share")
    members = [(own, share) for own, share in zip(adapters, shares, strict=True) if share != 0]
    if not members:
        raise ValueError("no adapter with a share other than 0; there is nothing to mix")
    if len({own.layout.linears for own, _ in members}) > 1:
        raise ValueError("adapters of different bases do not mix: their linears differ")
    parts = [(own.factors, share) for own, share in members]
    return pack_factors(
        {
            path: Factors(
                torch.cat([factors[path].down for factors, _ in parts]),
                torch.cat([share * factors[path].up for factors, share in parts], dim=1),
            )
            for path in parts[0][0]
        }
    )


def reduce_rank(adapter: AdapterWeights, rank: int) -> ReducedAdapter:
    """The closest adapter of a rank, by singular value decomposition of each update.

    Args:
        adapter (`AdapterWeights`): Of any rank.
        rank (`int`): At least 1.

    Returns:
        `ReducedAdapter`: With its error; of exactly that rank, filled up with zeros where an update has less.

    Raises:
        ValueError: If the rank is below 1.
    """
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected 1 or more")
    values = adapter.values.new_zeros(AdapterLayout(adapter.layout.linears, rank).size)
    reduced = AdapterWeights(AdapterLayout(adapter.layout.linears, rank), values)
    lost, whole = {}, {}
    for path, own in reduced.factors.items():
        left, singular, right = _decompose(adapter.factors[path])
        kept = min(rank, len(singular))
        root = singular[:kept].sqrt()
        own.down[:kept] = (root[:, None] * right[:kept]).to(own.down.dtype)
        own.up[:, :kept] = (left[:, :kept] * root).to(own.up.dtype)
        lost[path], whole[path] = float(singular[kept:].square().sum()), float(singular.square().sum())
    errors = {path: math.sqrt(lost[path] / whole[path]) if whole[path] else 0.0 for path in lost}
    total = sum(whole.values())
    worst = max(errors, key=errors.__getitem__)
    return ReducedAdapter(
        weights=reduced,
        relative_error=math.sqrt(sum(lost.values()) / total) if total else 0.0,
        largest_error=errors[worst],
        largest_path=worst,
    )


def _decompose(factors: Factors) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Singular value decomposition of `up @ down` in float64, by way of its factors: the product is never formed."""
    left, left_core = torch.linalg.qr(factors.up.detach().double())
    right, right_core = torch.linalg.qr(factors.down.detach().double().mT)
    inner_left, singular, inner_right = torch.linalg.svd(left_core @ right_core.mT, full_matrices=False)
    return left @ inner_left, singular, inner_right @ right.mT
