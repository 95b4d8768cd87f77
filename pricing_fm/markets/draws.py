"""Draws of a law that are a pure function of a 64-bit counter each: whoever holds the counter can draw again.

No draw looks at its neighbours, so a batch, a part of it and one element alone give the same numbers to the bit.
One uniform drives most of each draw and moves it upwards, so nearby means meet nearly the same luck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, xlogy

GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64 increment

# Constants are arrays without axes, because numpy takes longer to convert a number than to compute with a few.
_SHIFTS = [np.array(shift, dtype=np.uint64) for shift in (30, 27, 31)]
_FACTORS = [np.array(factor, dtype=np.uint64) for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)]
_LOWER_BITS, _HALF, _RESOLUTION = np.array(12, dtype=np.uint64), np.array(0.5), np.array(2.0**-52)

_PIECE = 1 << 14
_SEARCH_LIMIT = 10.0  # transformed rejection needs a mean of at least 10
_GAMMA_WORDS = 1 << 16  # the words before it belong to the count that the gamma draw mixes


def mix(words: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser (Steele, Lea and Flood 2014): a bijection of 64-bit words that passes BigCrush."""
    mixed = words >> _SHIFTS[0]
    mixed ^= words
    mixed *= _FACTORS[0]
    mixed ^= mixed >> _SHIFTS[1]
    mixed *= _FACTORS[1]
    mixed ^= mixed >> _SHIFTS[2]
    return mixed


def draw_word(counters: np.ndarray, index: int) -> np.ndarray:
    """Word `index` >= 0 of every counter, uint64; elements of one market count in the lower 32 bits, words above."""
    if index == 0:
        return mix(counters)
    return mix(counters + np.uint64((index << 32) * GOLDEN % 2**64))


def draw_uniform(counters: np.ndarray, index: int = 0) -> np.ndarray:
    """Uniform draws in the open interval (0, 1), float64, from the 52 upper bits of a word (53 would round to 1)."""
    # The signed view converts without a branch on the highest bit.
    uniform = (draw_word(counters, index) >> _LOWER_BITS).view(np.int64).astype(np.float64)
    uniform += _HALF
    uniform *= _RESOLUTION
    return uniform


def draw_normal(counters: np.ndarray, index: int = 0) -> np.ndarray:
    """Standard normal draws by inversion, float64: one word each, and monotone in it."""
    return ndtri(draw_uniform(counters, index))


def draw_in_pieces(law: Callable[..., np.ndarray], counters: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
    """A law over many counters, some at a time, so that the arrays in between stay in the cache.

    Args:
        law: Draws of `(counters, *parameters)`.
        counters: uint64, shape `(draws,)`.
        parameters: float64, shape `(draws,)` each.

    Returns:
        Draws as float64, shape `(draws,)`.
    """
    if len(counters) <= _PIECE:
        return law(counters, *parameters)
    draws = np.empty(len(counters))
    for start in range(0, len(counters), _PIECE):
        piece = slice(start, start + _PIECE)
        draws[piece] = law(counters[piece], *(values[piece] for values in parameters))
    return draws


def draw_large_poisson(counters: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Poisson counts of means of ten and more by transformed rejection.

    Args:
        counters: uint64, shape `(draws,)`.
        mean: Expected counts, 10 or more and finite, shape `(draws,)`.

    Returns:
        Counts as float64, shape `(draws,)`.

    References:
        Hoermann 1993, The transformed rejection method for generating Poisson random variables (PTRS).
    """
    spread = 0.931 + 2.53 * np.sqrt(mean)
    squeeze = 0.9277 - 3.6224 / (spread - 2.0)
    height = 1.1239 + 1.1328 / (spread - 3.4)
    hat = _Hat(spread, 0.02483 * spread - 0.059, mean + 0.43, squeeze, height, np.ones_like(mean))

    def log_law(count: np.ndarray, positions: np.ndarray) -> np.ndarray:
        valid = np.maximum(count, 0.0)
        log_probability = -_deviance(valid, mean[positions]) - _log_factorial_excess(valid)
        return np.where(count < 0.0, -np.inf, log_probability)

    return _reject(counters, hat, log_law)


@dataclass(frozen=True)
class GammaProposals:
    """What a gamma draw needs whatever its shape, so that it can be prepared.

    Attributes:
        counters: uint64, shape `(draws,)`.
        normal: First normal proposal of every counter, shape `(draws,)`.
        uniform: Uniform that decides about it, shape `(draws,)`.
    """

    counters: np.ndarray
    normal: np.ndarray
    uniform: np.ndarray


def propose_gamma(counters: np.ndarray, attempt: int = 0) -> GammaProposals:
    """Proposals for one attempt, >= 0, at the gamma draws of some counters (uint64)."""
    first = _GAMMA_WORDS + 1 + 2 * attempt
    return GammaProposals(counters, draw_normal(counters, first), draw_uniform(counters, first + 1))


def draw_gamma(proposals: GammaProposals, shape: np.ndarray) -> np.ndarray:
    """Gamma draws of unit scale; shapes below one are boosted by a power of a uniform.

    Args:
        proposals: The first attempt, from `propose_gamma`.
        shape: Shape of the law, > 0 and finite, shape `(draws,)`.

    Returns:
        Draws, float64, shape `(draws,)`.

    References:
        Marsaglia and Tsang 2000, A simple method for generating gamma variables.
    """
    if shape.min(initial=1.0) >= 1.0:
        return _gamma_above_one(proposals, shape)
    small = np.flatnonzero(shape < 1.0)
    boosted = shape.copy()
    boosted[small] += 1.0
    draws = _gamma_above_one(proposals, boosted)
    # Not a power: numpy's gives other last digits to short arrays than to long ones.
    draws[small] *= np.exp(np.log(draw_uniform(proposals.counters[small], _GAMMA_WORDS)) / shape[small])
    return draws


def draw_binomial(counters: np.ndarray, trials: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Binomial counts: inversion where fewer than ten successes (or failures) are expected, else rejection.

    Args:
        counters: uint64, shape `(draws,)`.
        trials: Whole numbers, 0 or more, float64, shape `(draws,)`.
        probability: Chance of a success, in [0, 1], float64, shape `(draws,)`.

    Returns:
        Counts as float64, shape `(draws,)`.

    Raises:
        ValueError: If trials are negative, fractional or infinite, or a probability is outside [0, 1].
    """
    if not trials.size:
        return np.zeros(0)
    _check_trials(trials, probability)
    # The rarer outcome is counted; both ways a higher word means more successes.
    flipped = probability > 0.5
    chance = np.where(flipped, 1.0 - probability, probability)
    draws = np.empty_like(trials)
    search = trials * chance < _SEARCH_LIMIT
    low, high = np.flatnonzero(search), np.flatnonzero(~search)
    if len(low):
        uniform = draw_uniform(counters[low])
        uniform = np.where(flipped[low], 1.0 - uniform, uniform)
        draws[low] = _binomial_by_search(uniform, trials[low], chance[low])
    if len(high):
        sign = np.where(flipped[high], -1.0, 1.0)
        draws[high] = _binomial_by_rejection(counters[high], trials[high], chance[high], sign)
    return np.where(flipped, trials - draws, draws)


def draw_few_binomial(words: list[int], trials: np.ndarray, probability: np.ndarray) -> list[float] | None:
    """Binomial counts of a handful of elements with few array calls; equal to `draw_binomial`.

    Args:
        words: Word 0 of every counter.
        trials: Whole numbers, 0 or more, float64, shape `(draws,)`.
        probability: Chance of a success, in [0, 1], float64, shape `(draws,)`.

    Returns:
        Counts, or None where ten or more of the rarer outcome are expected somewhere, which needs `draw_binomial`.

    Raises:
        ValueError: If trials are negative, fractional or infinite, or a probability is outside [0, 1].
    """
    _check_trials(trials, probability)
    flipped = probability > 0.5
    chance = np.where(flipped, 1.0 - probability, probability)
    if not (trials * chance < _SEARCH_LIMIT).all():
        return None
    odds, law = _start_search(trials, chance)
    draws = []
    for word, flip, total, odd, term in zip(
        words, flipped.tolist(), trials.tolist(), odds.tolist(), law.tolist(), strict=True
    ):
        uniform = ((word >> 12) + 0.5) * 2.0**-52
        left = (1.0 - uniform if flip else uniform) - term
        count = 0.0
        while left > 0.0 and count < total and (term > 1e-18 or count < _SEARCH_LIMIT):
            count += 1.0
            term *= (total - (count - 1.0)) * odd / count
            left -= term
        draws.append(total - count if flip else count)
    return draws


def _check_trials(trials: np.ndarray, probability: np.ndarray) -> None:
    if not (trials.min() >= 0.0 and trials.max() < np.inf and (trials == np.floor(trials)).all()):
        raise ValueError(f"trials span {trials.min()} to {trials.max()}; they must be whole numbers, 0 or more")
    if not (probability.min() >= 0.0 and probability.max() <= 1.0):
        raise ValueError(f"probability spans {probability.min()} to {probability.max()}; it must be in [0, 1]")


def _start_search(trials: np.ndarray, chance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Odds of a success and probability of none at all."""
    return chance / (1.0 - chance), np.exp(trials * np.log1p(-chance))


def _stirling(count: np.ndarray) -> np.ndarray:
    inverse = 1.0 / (count * count)
    series = (1.0 / 12.0 - (1.0 / 360.0 - (1.0 / 1260.0 - inverse / 1680.0) * inverse) * inverse) / count
    return series + 0.5 * np.log(2.0 * np.pi * count)


def _tabulate_excess() -> np.ndarray:
    few = np.arange(16.0)
    exact = np.log(np.cumprod(np.maximum(few, 1.0))) - xlogy(few, few) + few
    return np.concatenate([exact, _stirling(np.arange(16.0, 4096.0))])


_EXCESS = _tabulate_excess()


def _log_factorial_excess(count: np.ndarray) -> np.ndarray:
    """Logarithm of count! less count * log(count) - count: a table, and Stirling's series beyond; error 1e-14."""
    excess = _EXCESS.take(np.minimum(count, len(_EXCESS) - 1.0).astype(np.int64))
    beyond = np.flatnonzero(count >= len(_EXCESS))
    if len(beyond):
        excess[beyond] = _stirling(count[beyond])
    return excess


def _deviance(count: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Deviance count * log(count / mean) + mean - count without loss of digits (Loader 2000)."""
    gap = count - mean
    ratio = gap / (count + mean)
    square = ratio * ratio
    series = np.full_like(square, 1.0 / 17.0)
    for odd in range(15, 1, -2):
        series *= square
        series += 1.0 / odd
    deviance = gap * ratio + 2.0 * count * ratio * square * series
    far = np.flatnonzero(square > 0.01)
    deviance[far] = xlogy(count[far], count[far] / mean[far]) - gap[far]
    return deviance


@dataclass(frozen=True)
class _Hat:
    """Transformed rejection with squeeze (Hoermann 1993): the proposal, and when it is taken without a look at the law.

    Attributes:
        spread: Width of the bulk of the proposal, `b` of the paper; all are float64 of shape `(draws,)`.
        tail: Weight of its tails, `a`.
        centre: Where a uniform of one half lands, `c`.
        squeeze: Second uniforms up to here are taken in the bulk, `v_r`.
        height: Second uniforms are scaled by it before they are compared with the law, `alpha` or its inverse.
        sign: -1 where a higher word is to give a lower count, else 1.
    """

    spread: np.ndarray
    tail: np.ndarray
    centre: np.ndarray
    squeeze: np.ndarray
    height: np.ndarray
    sign: np.ndarray

    def select(self, draws: np.ndarray) -> _Hat:
        fields = (self.spread, self.tail, self.centre, self.squeeze, self.height, self.sign)
        return _Hat(*(values[draws] for values in fields))


def _reject(counters: np.ndarray, hat: _Hat, log_law: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """Proposals until one is taken; `log_law(counts, positions)` is the logarithm of the law at valid counts."""
    draws = np.empty(len(counters))
    positions = np.arange(len(counters))
    attempt = 0
    while True:
        u = draw_uniform(counters, 2 * attempt)
        u -= 0.5
        v = draw_uniform(counters, 2 * attempt + 1)
        room = 0.5 - np.abs(u)
        u *= hat.sign
        count = np.floor((2.0 * hat.tail / room + hat.spread) * u + hat.centre)
        taken = (v <= hat.squeeze) & (room >= 0.07)
        check = np.flatnonzero(~taken)
        room = room[check]
        bound = v[check] * hat.height[check] / (hat.tail[check] / (room * room) + hat.spread[check])
        taken[check] = np.log(bound) <= log_law(count[check], positions[check])
        draws[positions] = count
        left = np.flatnonzero(~taken)
        if not len(left):
            return draws
        counters, positions, hat = counters[left], positions[left], hat.select(left)
        attempt += 1


def _binomial_by_rejection(
    counters: np.ndarray, trials: np.ndarray, chance: np.ndarray, sign: np.ndarray
) -> np.ndarray:
    """BTRS of Hoermann 1993, The generation of binomial random variates; `chance` is at most one half."""
    mean = trials * chance
    others = trials - mean
    deviation = np.sqrt(mean * (1.0 - chance))
    spread = 1.15 + 2.53 * deviation
    height = (2.83 + 5.1 / spread) * deviation
    tail = -0.0873 + 0.0248 * spread + 0.01 * chance
    hat = _Hat(spread, tail, mean + 0.5, 0.92 - 4.2 / spread, height, sign)
    mode = np.floor((trials + 1.0) * chance)

    def log_law(count: np.ndarray, positions: np.ndarray) -> np.ndarray:
        total, top = trials[positions], mode[positions]
        valid = np.clip(count, 0.0, total)
        log_probability = np.zeros_like(valid)
        for x, weight in ((top, 1.0), (valid, -1.0)):
            log_probability += weight * (_deviance(x, mean[positions]) + _deviance(total - x, others[positions]))
            log_probability += weight * (_log_factorial_excess(x) + _log_factorial_excess(total - x))
        return np.where(valid == count, log_probability, -np.inf)

    return _reject(counters, hat, log_law)


def _binomial_by_search(uniform: np.ndarray, trials: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Inversion: the smallest count whose distribution function reaches the uniform."""
    draws = np.zeros_like(trials)
    odds, law = _start_search(trials, chance)
    left = uniform - law
    active = np.flatnonzero((left > 0.0) & (trials > 0.0))
    trials, odds, law, left = trials[active], odds[active], law[active], left[active]
    count = 0.0
    while len(active):
        count += 1.0
        law *= (trials - (count - 1.0)) * odds / count
        left -= law
        draws[active] = count
        # Below 1e-18, and falling, the remaining tail is smaller than the resolution of the uniform.
        going = np.flatnonzero((left > 0.0) & (count < trials) & ((law > 1e-18) | (count < _SEARCH_LIMIT)))
        active, trials, odds, law, left = active[going], trials[going], odds[going], law[going], left[going]
    return draws


def _gamma_above_one(proposals: GammaProposals, shape: np.ndarray, attempt: int = 0) -> np.ndarray:
    centre = shape - 1.0 / 3.0
    root = 1.0 + proposals.normal / (3.0 * np.sqrt(centre))
    cube = root * root * root
    square = proposals.normal * proposals.normal
    # Where the cube is negative it is not taken, though the squeeze of the paper might hold.
    taken = (root > 0.0) & (proposals.uniform < 1.0 - 0.0331 * square * square)
    check = np.flatnonzero(~taken)
    draws = centre * cube
    if not len(check):
        return draws
    check = check[root[check] > 0.0]
    c = cube[check]
    bound = 0.5 * square[check] + centre[check] * (1.0 - c + np.log(c))
    taken[check] = np.log(proposals.uniform[check]) < bound
    left = np.flatnonzero(~taken)
    if len(left):
        again = propose_gamma(proposals.counters[left], attempt + 1)
        draws[left] = _gamma_above_one(again, shape[left], attempt + 1)
    return draws
