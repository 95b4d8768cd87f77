"""Random numbers that a market owns: every draw is a pure function of (seed, market, period, purpose, element).

A market's path therefore does not depend on how many markets run beside it, and two price plans can be compared on
the same luck. Draws are vectorised over markets, because one `numpy.random.Generator` per market costs tenfold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from pricing_fm.markets.arguments import check_count, check_whole_numbers
from pricing_fm.markets.draws import (
    GOLDEN,
    GammaProposals,
    draw_binomial,
    draw_few_binomial,
    draw_gamma,
    draw_in_pieces,
    draw_normal,
    draw_uniform,
    draw_word,
    mix,
    propose_gamma,
)
from pricing_fm.markets.poisson import PoissonRun, draw_poisson

# What a draw is for, said here alone. Two purposes never share a number; a new number would change a purpose's draws.
DEMAND, SHOCK, COST_MOVE, COST_JUMP, LIST_PRICE, DECISION, PROMOTION, BLOCK, INTERVENTION, START = range(10)
RIVAL, REGIME, RELEASE, ARRIVAL, ZERO, TAKE, DEFAULT, SHOW, REPORT = range(10, 19)

# Constants are arrays without axes, because numpy takes longer to convert a number than to compute with a few.
_GOLDEN = np.array(GOLDEN, dtype=np.uint64)
_PURPOSES = np.array(256, dtype=np.uint64)
_PURPOSE_OFFSETS = [np.array(purpose + 1, dtype=np.uint64) for purpose in range(256)]
_FEW = 64  # draws of one market up to which array calls cost more than the numbers
# Periods that one market with few draws prepares at once: half a year of weeks, and twice as many each time it goes on.
_SHORTEST_RUN, _LONGEST_RUN = 32, 256


@lru_cache(maxsize=256)
def _element_offsets(shape: tuple[int, ...]) -> np.ndarray:
    offsets = (np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * _GOLDEN).reshape(shape)
    offsets.setflags(write=False)
    return offsets


def _list_first_words(counters: np.ndarray) -> list[list[int]]:
    """The word of `draw_few_binomial` for every period of a run."""
    return draw_word(counters, 0).reshape(len(counters), -1).tolist()


def _list_gamma_proposals(counters: np.ndarray) -> list[GammaProposals]:
    return [propose_gamma(row) for row in counters.reshape(len(counters), -1)]


@dataclass(frozen=True)
class Streams:
    """One random stream per market.

    Attributes:
        keys: Stream keys, uint64, shape `(markets,)`.
    """

    keys: np.ndarray
    # What one market with few draws has prepared: (law, purpose, shape) -> (first period, end, draws of the run).
    _runs: dict[tuple[Any, int, tuple[int, ...]], tuple[int, int, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def counters(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Counters whose mixed words are the draws of one purpose in one period.

        Args:
            period: Period of every market, integers, shape `(markets,)` or a scalar.
            purpose: One of the purposes of this module.
            shape: Shape of the draws of one market.

        Returns:
            uint64, shape `(markets, *shape)`; one market can be asked for many periods, which are the rows then.
        """
        row = np.asarray(period, dtype=np.int64).reshape(-1).view(np.uint64) * _PURPOSES
        row += _PURPOSE_OFFSETS[purpose]
        row *= _GOLDEN
        rows = mix(self.keys + row)
        return rows.reshape(-1, *(1 for _ in shape)) + _element_offsets(shape)

    def uniform(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform draws in (0, 1), shape `(markets, *shape)`."""
        if self._draws_few(math.prod(shape)):
            run, position = self._recall(draw_uniform, period, purpose, shape)
            return run[position : position + 1].copy()
        return draw_uniform(self.counters(period, purpose, shape))

    def normal(self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal draws, shape `(markets, *shape)`."""
        if self._draws_few(math.prod(shape)):
            run, position = self._recall(draw_normal, period, purpose, shape)
            return run[position : position + 1].copy()
        return draw_normal(self.counters(period, purpose, shape))

    def counts(
        self, period: np.ndarray | int, purpose: int, mean: np.ndarray, dispersion: np.ndarray | None = None
    ) -> np.ndarray:
        """Poisson or negative binomial counts with the given mean, exact in distribution.

        Args:
            period: Period of every market, integers, shape `(markets,)` or a scalar.
            purpose: One of the purposes of this module.
            mean: Expected counts, finite and 0 or more, shape `(markets, ...)`.
            dispersion: Variance is `mean + mean**2 / dispersion`; infinite or None is Poisson. Broadcast to `mean`.

        Returns:
            Counts as float64, shape of `mean`.

        Raises:
            ValueError: If `mean` is not one row per market or holds a number that is no mean, or a dispersion is not
                above 0.
        """
        rate = np.asarray(mean, dtype=np.float64)
        shape = rate.shape
        if not shape or shape[0] != len(self.keys):
            raise ValueError(f"mean has shape {shape}; its first axis must hold the {len(self.keys)} markets")
        rate = rate.ravel()
        if dispersion is not None:
            rate = self._scatter(period, purpose, shape, rate, dispersion)
        if self._draws_few(len(rate)):
            run, position = self._recall(PoissonRun, period, purpose, shape[1:])
            draws = run.draw(position, rate.tolist())
            if draws is not None:
                return np.array(draws, dtype=np.float64).reshape(shape)
        counters = self.counters(period, purpose, shape[1:]).ravel()
        return draw_in_pieces(draw_poisson, counters, rate).reshape(shape)

    def binomial(
        self, period: np.ndarray | int, purpose: int, trials: np.ndarray, probability: np.ndarray | float
    ) -> np.ndarray:
        """Binomial counts, exact in distribution.

        Args:
            period: Period of every market, integers, shape `(markets,)` or a scalar.
            purpose: One of the purposes of this module.
            trials: Whole numbers, 0 or more, shape `(markets, ...)`.
            probability: Chance of each trial, in [0, 1]; trials and probability are broadcast together.

        Returns:
            Counts as float64, shape `(markets, ...)`.

        Raises:
            ValueError: If the first axis does not hold the markets, or trials or a probability are out of range.
        """
        total, chance = np.broadcast_arrays(np.asarray(trials, dtype=np.float64), np.asarray(probability, np.float64))
        if total.ndim == 0 or len(total) != len(self.keys):
            raise ValueError(f"trials have shape {total.shape}; the first axis must hold the {len(self.keys)} markets")
        shape, total, chance = total.shape, total.ravel(), chance.ravel()
        if len(total) > 0 and self._draws_few(len(total)):
            run, position = self._recall(_list_first_words, period, purpose, shape[1:])
            draws = draw_few_binomial(run[position], total, chance)
            if draws is not None:
                return np.array(draws).reshape(shape)
        counters = self.counters(period, purpose, shape[1:]).ravel()
        return draw_in_pieces(draw_binomial, counters, total, chance).reshape(shape)

    def select(self, markets: np.ndarray) -> Streams:
        """Streams of some markets (positions or a mask)."""
        return Streams(self.keys[markets])

    def _scatter(
        self, period: np.ndarray | int, purpose: int, shape: tuple[int, ...], rate: np.ndarray, dispersion: np.ndarray
    ) -> np.ndarray:
        """Means times gamma draws of mean one, where the dispersion is finite."""
        gamma_shape = np.asarray(dispersion, dtype=np.float64)
        if gamma_shape.shape != shape:
            gamma_shape = np.broadcast_to(gamma_shape, shape)
        gamma_shape = gamma_shape.ravel()
        # Written so that NaN is refused.
        if not gamma_shape.min(initial=np.inf) > 0.0:
            raise ValueError(f"dispersion is {np.min(dispersion)} somewhere; it must be above 0 (infinite is Poisson)")
        finite = None
        if not gamma_shape.max(initial=0.0) < np.inf:
            finite = np.isfinite(gamma_shape)
            if not finite.any():
                return rate
            # Poisson counts take the gamma draw of any shape and then leave it.
            gamma_shape = np.where(finite, gamma_shape, 1.0)
        if self._draws_few(len(rate)):
            run, position = self._recall(_list_gamma_proposals, period, purpose, shape[1:])
            gamma = draw_gamma(run[position], gamma_shape)
        else:
            counters = self.counters(period, purpose, shape[1:]).ravel()
            gamma = draw_in_pieces(lambda some, of: draw_gamma(propose_gamma(some), of), counters, gamma_shape)
        factor = gamma / gamma_shape
        return rate * (factor if finite is None else np.where(finite, factor, 1.0))

    def _draws_few(self, elements: int) -> bool:
        return len(self.keys) == 1 and elements <= _FEW

    def _recall(
        self, law: Callable[[np.ndarray], Any], period: np.ndarray | int, purpose: int, shape: tuple[int, ...]
    ) -> tuple[Any, int]:
        """Draws that the only market made at once for a run of periods, and the position of one period in the run."""
        now = period if isinstance(period, int) else period.item()
        run = self._runs.get((law, purpose, shape))
        if run is None or not run[0] <= now < run[1]:
            length = _SHORTEST_RUN
            if run is not None and now == run[1]:
                length = min(2 * (now - run[0]), _LONGEST_RUN)
            run = now, now + length, law(self.counters(np.arange(now, now + length), purpose, shape))
            self._runs[law, purpose, shape] = run
        return run[2], now - run[0]


def build_streams(seed: int, market_ids: np.ndarray, rollout: int | np.ndarray = 0) -> Streams:
    """Open the streams of some markets.

    Args:
        seed: Seed of the whole simulation, a whole number >= 0.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`; the same name gives the same stream.
        rollout: Which repetition of the future, an integer >= 0 (scalar or one per market); 0 is the logged one.

    Returns:
        Streams, one per market.

    Raises:
        ValueError: If the seed, a market id or a rollout is negative or no integer, or a shape is wrong.
    """
    root = np.array(np.random.SeedSequence(check_count("seed", seed, 0)).generate_state(1, np.uint64))
    ids, rollouts = check_whole_numbers("market_ids", market_ids), check_whole_numbers("rollout", rollout)
    if ids.ndim != 1:
        raise ValueError(f"market_ids has shape {ids.shape}; it must be (markets,)")
    if rollouts.shape not in ((), (1,), ids.shape):
        raise ValueError(f"rollout has shape {rollouts.shape}; it must be one number or {ids.shape}, one per market")
    keys = mix(root + (ids.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return Streams(mix(keys ^ mix(rollouts.astype(np.uint64) * _GOLDEN + np.uint64(1))))
