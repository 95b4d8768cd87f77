"""Random numbers that a market owns: every draw is a pure function of (seed, market, period, purpose, element).

A market's path therefore does not depend on how many markets run beside it, and two price plans can be compared on
the same luck. Draws are vectorised over markets, because one `numpy.random.Generator` per market costs tenfold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# What a draw is for. Two purposes never share a number.
DEMAND, SHOCK, COST_MOVE, COST_JUMP, LIST_PRICE, DECISION, PROMOTION, BLOCK, INTERVENTION, START = range(10)
RIVAL, REGIME, RELEASE, ARRIVAL, ZERO, TAKE, DEFAULT, SHOW, REPORT = range(10, 19)
RIVAL, REGIME, RELEASE, ARRIVAL, ZERO, TAKE, DEFAULT, SHOW, REPORT = range(10, 19)

_GOLDEN_INTEGER = 0x9E3779B97F4A7C15  # SplitMix64 increment
_GOLDEN = np.uint64(_GOLDEN_INTEGER)
_POISSON_SEARCH_LIMIT = 10.0  # the transformed rejection method needs a mean of at least 10
_GAMMA_SHIFT = 8


def _mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that passes BigCrush."""
    words = words ^ (words >> np.uint64(30))
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def _to_uniform(words: np.ndarray) -> np.ndarray:
    """53 upper bits to the open interval (0, 1)."""
    return ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


@dataclass(frozen=True)
class Streams:
    """One random stream per market.

    Attributes:
        keys: Stream keys, uint64, shape `(markets,)`.
    """

    keys: np.ndarray

    def counters(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Counters whose mixed words are the draws of one purpose in one period.

        Args:
            period: Period of every market, integers, shape `(markets,)` or a scalar.
            purpose: One of the purposes of this module.
            shape: Shape of the draws of one market.

        Returns:
            uint64, shape `(markets, *shape)`.
        """
        row = np.atleast_1d(np.asarray(period, dtype=np.int64)).astype(np.uint64) * np.uint64(256) + np.uint64(purpose)
        rows = _mix(self.keys + (row + np.uint64(1)) * _GOLDEN)
        elements = (np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * _GOLDEN).reshape(shape)
        return rows.reshape(-1, *(1 for _ in shape)) + elements

    def uniform(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform draws in (0, 1), shape `(markets, *shape)`."""
        return _to_uniform(_mix(self.counters(period, purpose, shape)))

    def normal(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal draws, shape `(markets, *shape)`."""
        return _normal(self.counters(period, purpose, shape), 0)

    def counts(
        self, period: np.ndarray | int, purpose: int, mean: np.ndarray, dispersion: np.ndarray | None = None
    ) -> np.ndarray:
        """Poisson or negative binomial counts with the given mean, exact in distribution.

        Args:
            period: Period of every market, integers, shape `(markets,)` or a scalar.
            purpose: One of the purposes of this module.
            mean: Expected counts, shape `(markets, ...)`.
            dispersion: Variance is `mean + mean**2 / dispersion`; infinite or None is Poisson. Broadcast to `mean`.

        Returns:
            Counts as float64, shape of `mean`.
        """
        counters = self.counters(period, purpose, mean.shape[1:]).ravel()
        rate = np.array(mean, dtype=np.float64).ravel()
        if dispersion is not None:
            shape = np.broadcast_to(dispersion, mean.shape).ravel()
            mixed = np.flatnonzero(np.isfinite(shape))
            if len(mixed):
                rate[mixed] *= _gamma(counters[mixed], shape[mixed]) / shape[mixed]
        return _poisson(counters, rate).reshape(mean.shape)

    def select(self, markets: np.ndarray) -> Streams:
        """Streams of some markets (positions or a mask)."""
        return Streams(self.keys[markets])


def build_streams(seed: int, market_ids: np.ndarray, rollout: int | np.ndarray = 0) -> Streams:
    """Open the streams of some markets.

    Args:
        seed: Seed of the whole simulation, >= 0.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`; the same name gives the same stream.
        rollout: Which repetition of the future, >= 0 (scalar or one per market); 0 is the logged one.

    Returns:
        Streams, one per market.

    Raises:
        ValueError: If the seed, a market id or a rollout is negative.
    """
    ids = np.asarray(market_ids, dtype=np.int64)
    rollouts = np.broadcast_to(np.asarray(rollout, dtype=np.int64), ids.shape)
    for name, values in (("seed", np.asarray(seed)), ("market_ids", ids), ("rollout", rollouts)):
        if np.any(values < 0):
            raise ValueError(f"{name} is {values.min()}; it must be 0 or more")
    root = np.array(np.random.SeedSequence(seed).generate_state(1, np.uint64))
    keys = _mix(root + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return Streams(_mix(keys ^ _mix(rollouts.astype(np.uint64) * _GOLDEN + np.uint64(1))))


def _attempt_uniform(counters: np.ndarray, attempt: int) -> np.ndarray:
    # Rejection attempts live in the upper half of the element counter.
    return _to_uniform(_mix(counters + np.uint64((attempt << 32) * _GOLDEN_INTEGER % 2**64)))


def _normal(counters: np.ndarray, attempt: int) -> np.ndarray:
    """Box and Muller 1958; uses two uniforms per draw."""
    radius = np.sqrt(-2.0 * np.log(_attempt_uniform(counters, 2 * attempt)))
    return radius * np.cos(2.0 * np.pi * _attempt_uniform(counters, 2 * attempt + 1))


def _gamma(counters: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Gamma draws of unit scale by Marsaglia and Tsang 2000; shapes below one are boosted."""
    boosted = np.where(shape < 1.0, shape + 1.0, shape)
    d = boosted - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    draws = np.empty_like(d)
    active = np.arange(len(d))
    # Attempts from 1,000 on: the Poisson draw of the same element uses the lower ones.
    attempt = 1_000
    while len(active):
        x = _normal(counters[active], attempt)
        u = _attempt_uniform(counters[active], 2 * attempt + 5_000)
        v = (1.0 + c[active] * x) ** 3
        positive = v > 0
        log_v = np.log(np.where(positive, v, 1.0))
        accepted = positive & (np.log(u) < 0.5 * x**2 + d[active] * (1.0 - v + log_v))
        draws[active[accepted]] = (d[active] * v)[accepted]
        active = active[~accepted]
        attempt += 1
    small = np.flatnonzero(shape < 1.0)
    if len(small):
        draws[small] *= _attempt_uniform(counters[small], 20_000) ** (1.0 / shape[small])
    return draws


def _poisson(counters: np.ndarray, rate: np.ndarray) -> np.ndarray:
    draws = np.zeros_like(rate)
    low = np.flatnonzero(rate < _POISSON_SEARCH_LIMIT)
    high = np.flatnonzero(rate >= _POISSON_SEARCH_LIMIT)
    if len(low):
        draws[low] = _poisson_by_search(_attempt_uniform(counters[low], 0), rate[low])
    if len(high):
        draws[high] = _poisson_by_rejection(counters[high], rate[high])
    return draws


def _poisson_by_search(uniform: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Inversion: the smallest count whose distribution function reaches the uniform."""
    draws = np.zeros_like(rate)
    term = np.exp(-rate)
    left = uniform - term
    active = np.flatnonzero(left > 0)
    count = 0.0
    rate, term, left = rate[active], term[active], left[active]
    while len(active):
        count += 1.0
        term = term * rate / count
        left = left - term
        # Below 1e-18 the remaining tail is smaller than the resolution of the uniform.
        going = (left > 0) & ((term > 1e-18) | (count < rate))
        draws[active[~going]] = count
        active, rate, term, left = active[going], rate[going], term[going], left[going]
    return draws


def _poisson_by_rejection(counters: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Transformed rejection with squeeze (PTRS), Hoermann 1993, exact for means of ten and more."""
    draws = np.empty_like(rate)
    active = np.arange(len(rate))
    b = 0.931 + 2.53 * np.sqrt(rate)
    a = -0.059 + 0.02483 * b
    attempt = 0
    while len(active):
        mean, b_, a_ = rate[active], b[active], a[active]
        u = _attempt_uniform(counters[active], 2 * attempt) - 0.5
        v = _attempt_uniform(counters[active], 2 * attempt + 1)
        us = 0.5 - np.abs(u)
        count = np.floor((2.0 * a_ / us + b_) * u + mean + 0.43)
        accepted = (us >= 0.07) & (v <= 0.9277 - 3.6224 / (b_ - 2.0))
        check = np.flatnonzero(~accepted & (count >= 0) & ((us >= 0.013) | (v <= us)))
        if len(check):
            inverse_alpha = 1.1239 + 1.1328 / (b_[check] - 3.4)
            bound = np.log(v[check] * inverse_alpha / (a_[check] / us[check] ** 2 + b_[check]))
            k = count[check]
            accepted[check] = bound <= k * np.log(mean[check]) - mean[check] - _log_factorial(k)
        draws[active[accepted]] = count[accepted]
        active = active[~accepted]
        attempt += 1
    return draws


def _log_factorial(count: np.ndarray) -> np.ndarray:
    """Logarithm of count! by Stirling's series, shifted by eight so that its error is below 1e-12."""
    x = count + 1.0
    product = x.copy()
    for i in range(1, _GAMMA_SHIFT):
        product *= x + i
    y = x + _GAMMA_SHIFT
    series = (1.0 / 12.0 - (1.0 / 360.0 - 1.0 / (1260.0 * y**2)) / y**2) / y
    return (y - 0.5) * np.log(y) - y + 0.5 * np.log(2.0 * np.pi) + series - np.log(product)
