"""Draws demand of a fitted market: shocks of every layer, then negative binomial counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import Chains
from pricing_fm.markets.fitting.likelihood import compute_mean
from pricing_fm.markets.streams import DEMAND, SHOCK, Streams, build_streams


@dataclass(frozen=True)
class ShockLayer:
    """Shocks of the groups of one layer.

    Attributes:
        streams: One per group.
        of_item: Group of each item, shape `(items,)`.
        chains: Their law, one per group.
    """

    streams: Streams
    of_item: np.ndarray
    chains: Chains


@dataclass(frozen=True)
class DemandPaths:
    """One draw of a market, each of shape `(items, periods)`.

    Attributes:
        shock: Sum of all log-demand shocks.
        mean: Mean demand given the shocks, in counts.
        demand: Demand in whole counts, whatever the stock.
    """

    shock: np.ndarray
    mean: np.ndarray
    demand: np.ndarray


def open_streams(seed: int, labels: Sequence[str], replicate: int = 0) -> Streams:
    """Streams that belong to names: an item draws the same numbers in any company and order.

    Args:
        seed: Seed of the simulation, >= 0.
        labels: Names of the series.
        replicate: Which repetition, >= 0.

    Returns:
        One stream per name.
    """
    keys = [int.from_bytes(hashlib.blake2b(label.encode(), digest_size=7).digest(), "big") for label in labels]
    return build_streams(seed, np.array(keys, dtype=np.int64), replicate)


def draw_demand(
    predictor: np.ndarray, layers: Sequence[ShockLayer], dispersion: np.ndarray, items: Streams
) -> DemandPaths:
    """Adds shocks to the log mean and draws counts.

    Args:
        predictor: Log mean count without shocks, shape `(items, periods)`.
        layers: Shocks to be added, the items' own among them.
        dispersion: Variance is mean + dispersion x mean**2, shape `(items,)`, > 0.
        items: Streams of the items.

    Returns:
        Shocks, means, demand.
    """
    shock = np.zeros_like(predictor)
    for layer in layers:
        paths = layer.chains.draw(layer.streams.normal(0, SHOCK, (predictor.shape[1],)))
        shock += paths[layer.of_item]
    mean = compute_mean(predictor + shock)
    return DemandPaths(shock, mean, items.counts(0, DEMAND, mean, (1.0 / dispersion)[:, None]))
