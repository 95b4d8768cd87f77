"""Draws demand of a fitted market: shocks of every layer, then negative binomial counts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import DRIFT, Chains
from pricing_fm.markets.fitting.likelihood import compute_mean
from pricing_fm.markets.streams import DEMAND, SHOCK, Streams, build_streams


@dataclass(frozen=True)
class ShockLayer:
    """Shocks of the groups of one layer.

    Attributes:
        streams: One per group.
        of_item: Group of each item, shape `(items,)`.
        chains: Their law, one per group.
        drift_scale: Standard deviation of their slow part, shape `(groups,)`.
    """

    streams: Streams
    of_item: np.ndarray
    chains: Chains
    drift_scale: np.ndarray

    def draw(self, num_periods: int) -> np.ndarray:
        """Log shocks of the items; half their variance comes off, so that they leave mean demand where it is."""
        slow = Chains(self.drift_scale, np.full(len(self.drift_scale), DRIFT))
        paths = self.chains.draw(self.streams.normal(0, SHOCK, (num_periods,)))
        paths = paths + slow.draw(self.streams.normal(1, SHOCK, (num_periods,)))
        paths = paths - 0.5 * (self.chains.scale**2 + self.drift_scale**2)[:, None]
        return paths[self.of_item]


@dataclass(frozen=True)
class DemandPaths:
    """One draw of a market, each of shape `(items, periods)`.

    Attributes:
        shock: Sum of all log-demand shocks, of mean one in demand (not zero in logs).
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
    """Adds shocks around the log mean and draws counts.

    Args:
        predictor: Log mean count over all shocks, shape `(items, periods)`.
        layers: Shocks to be added, the items' own among them.
        dispersion: Variance is mean + dispersion x mean**2, shape `(items,)`, > 0.
        items: Streams of the items.

    Returns:
        Shocks, means, demand.
    """
    shock = np.zeros_like(predictor)
    for layer in layers:
        shock += layer.draw(predictor.shape[1])
    mean = compute_mean(predictor + shock)
    return DemandPaths(shock, mean, items.counts(0, DEMAND, mean, (1.0 / dispersion)[:, None]))
