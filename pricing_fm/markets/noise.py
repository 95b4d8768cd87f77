"""How counts scatter around mean demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import nbinom, poisson

from pricing_fm.markets.parts import Part
from pricing_fm.markets.streams import DEMAND, ZERO, Streams

NOISES = ("none", "poisson", "negative_binomial", "zero_inflated")
_TAIL = 1e-10  # probability that a table of counts may leave out


@dataclass(frozen=True)
class Noise(Part):
    """Poisson, negative binomial or zero-inflated counts, or no noise at all.

    Attributes:
        silent: True where demand equals its mean, bool.
        dispersion: Variance is mean + mean**2 / dispersion given that the item is not inflated to zero; infinite is
            Poisson. None = Poisson everywhere.
        zero_share: Chance of a period without any demand beyond what the counts say; the mean stays. None = 0.
    """

    silent: np.ndarray
    dispersion: np.ndarray | None = None
    zero_share: np.ndarray | None = None

    @cached_property
    def _loud(self) -> np.ndarray | None:
        """Markets with noise; None = all."""
        silent = self.silent.all(axis=(1, 2)) if self.silent.any() else None
        return None if silent is None else np.flatnonzero(~silent)

    def silence(self) -> Noise:
        """The same markets without noise."""
        return Noise(np.ones_like(self.silent))

    def draw(self, random: Streams, period: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Units customers want, shape of `mean`."""
        loud = self._loud
        if loud is None:
            return self._draw(random, period, mean)
        demand = mean.copy()
        if len(loud):
            demand[loud] = self.select(loud)._draw(random.select(loud), period[loud], mean[loud])
        return demand

    def _draw(self, random: Streams, period: np.ndarray, mean: np.ndarray) -> np.ndarray:
        if self.zero_share is None:
            return random.counts(period, DEMAND, mean, self.dispersion)
        alive = random.uniform(period, ZERO, mean.shape[1:]) >= self.zero_share
        return random.counts(period, DEMAND, np.where(alive, mean / (1.0 - self.zero_share), 0.0), self.dispersion)

    def tabulate(self, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All demands that can happen to one-item markets, with their probabilities.

        Args:
            mean: Mean demand, `(markets, 1, 1)`.

        Returns:
            Demands and probabilities, `(markets, atoms)` each. The last atom gathers the tail so that probabilities sum
            to one and, without a stock limit, the mean is kept up to 1e-8.
        """
        rate = mean[:, 0, 0]
        if self.silent.all():
            return rate[:, None], np.ones((len(rate), 1))
        if self.silent.any():
            raise ValueError("markets with and without noise cannot be tabulated together")
        zero = np.zeros_like(rate) if self.zero_share is None else np.broadcast_to(self.zero_share, mean.shape)[:, 0, 0]
        rate = rate / (1.0 - zero)
        top = rate.max(initial=0.0)
        if self.dispersion is None or np.isinf(self.dispersion).all():
            counts = np.arange(int(poisson.isf(_TAIL, top)) + 2)
            pmf = poisson.pmf(counts, rate[:, None])
        else:
            shape = np.broadcast_to(self.dispersion, mean.shape)[:, 0, 0]
            if np.isinf(shape).any():
                raise ValueError("Poisson and negative binomial markets cannot be tabulated together")
            success = shape / (shape + rate)
            counts = np.arange(int(nbinom.isf(_TAIL, shape, success).max(initial=0.0)) + 2)
            pmf = nbinom.pmf(counts, shape[:, None], success[:, None])
        pmf = (1.0 - zero[:, None]) * pmf
        pmf[:, 0] += zero
        pmf[:, -1] += 1.0 - pmf.sum(axis=1)
        return np.broadcast_to(counts.astype(float), pmf.shape), pmf


def build_noise(
    name: str, shape: tuple[int, ...], dispersion: np.ndarray | None = None, zero_share: np.ndarray | None = None
) -> Noise:
    """Noise of one kind for all markets.

    Args:
        name: One of `NOISES`.
        shape: Leading shape `(markets, 1, 1)` or `(markets, products, segments)`.
        dispersion: Needed by negative_binomial.
        zero_share: Needed by zero_inflated.

    Returns:
        The noise.

    Raises:
        ValueError: If the name is unknown or its numbers are missing.
    """
    if name not in NOISES:
        raise ValueError(f"name is {name!r}; known noises: {NOISES}")
    if name == "negative_binomial" and dispersion is None:
        raise ValueError("negative_binomial noise needs dispersion")
    if name == "zero_inflated" and zero_share is None:
        raise ValueError("zero_inflated noise needs zero_share")
    return Noise(np.full(shape, name == "none"), dispersion, zero_share)
