"""Poisson counts by tables: one look-up per grid point that makes up a mean, rejection for large means."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TypeVar

import numpy as np

from pricing_fm.markets.draws import draw_large_poisson, draw_uniform, draw_word

_Number = TypeVar("_Number", float, np.ndarray)

# The grid of means: steps of 1/32 below 8, sixteen steps per octave from 8 to 256, multiples of 256 below 2,048. A mean
# is a grid point plus a remainder, which is a lower grid point plus a remainder, and so on until it is below 1/32.
# Everything is counted in steps of 1/32, which changes no digit of a float64.
_STEPS = 32.0
_OCTAVES, _BLOCKS, _END = 8.0 * _STEPS, 256.0 * _STEPS, 2048.0 * _STEPS
_OCTAVE_ROW, _BLOCK_ROW, _ROWS = 256, 256 + 5 * 16, 256 + 5 * 16 + 7
_ROW_STEPS = 16  # grid means of 8 and more are multiples of it, in steps
_OCTAVE_SHIFT = 48  # leaves the sign, the exponent and four leading digits of a float64
_FIRST_OCTAVE = int(np.float64(_OCTAVES).view(np.int64)) >> _OCTAVE_SHIFT
_FEW_RESTS = 16  # up to here floats one by one take less time than array calls
_REST_WORD = 3  # after one word for each of at most three grid points
# A key is 9 bits of grid row and 55 bits of uniform; its upper bits are a cell: the row and one of 256 slices.
_KEY_BITS, _CELL_SHIFT = 55, 47
_CROWDED = -(2**14)
# Arrays without axes, because numpy takes longer to convert a number than to compute with a few.
_UNIFORM_SHIFT, _TO_CELL = np.array(64 - _KEY_BITS, dtype=np.uint64), np.array(_CELL_SHIFT, dtype=np.uint64)
_REST_BITS, _NONE = np.array(_STEPS - 1.0, dtype=np.uint64), np.array(0, dtype=np.uint64)


def draw_poisson(counters: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Poisson counts.

    Args:
        counters: uint64, shape `(draws,)`.
        mean: Expected counts, finite and 0 or more, shape `(draws,)`.

    Returns:
        Counts as float64, shape `(draws,)`.

    Raises:
        ValueError: If a mean is negative, infinite or missing.
    """
    if not len(mean):
        return np.zeros(0)
    lowest, highest = mean.min(), mean.max()
    _check_mean(lowest, highest)
    end = _END / _STEPS
    if highest < end:
        return _draw_tabled(counters, mean, highest)
    if lowest >= end:
        return draw_large_poisson(counters, mean)
    high = np.flatnonzero(mean >= end)
    tabled = mean.copy()
    tabled[high] = 0.0
    draws = _draw_tabled(counters, tabled, tabled.max())
    draws[high] = draw_large_poisson(counters[high], mean[high])
    return draws


class PoissonRun:
    """Poisson counts of one market's few elements, period by period, without the overhead of array calls.

    Equal to `draw_poisson` to the bit. The first words of a run of periods are prepared at once; further words of the
    run, which small means hardly ever need, when one is asked for.

    Args:
        counters: Counters of the run, uint64, shape `(periods, ...)`.
    """

    def __init__(self, counters: np.ndarray) -> None:
        self._counters = counters.reshape(len(counters), -1)
        words = draw_word(self._counters, 0)
        self._first = (words >> _UNIFORM_SHIFT).tolist()
        self._later: dict[int, np.ndarray] = {}
        # Where the count of what remains of a mean is not ruled out: elements of a period and their uniforms.
        self._possible: dict[int, list[tuple[int, float]]] = {}
        places = np.flatnonzero((words & _REST_BITS) == _NONE)
        uniforms = draw_uniform(self._counters.ravel().take(places), _REST_WORD)
        for place, uniform in zip(places.tolist(), uniforms.tolist(), strict=True):
            period, element = divmod(place, words.shape[1])
            self._possible.setdefault(period, []).append((element, uniform))

    def draw(self, period: int, means: list[float]) -> list[float] | None:
        """Counts of one period.

        Args:
            period: Position in the run.
            means: Expected counts, finite and 0 or more, one per element.

        Returns:
            Counts, or None where a mean is beyond the tables and needs `draw_poisson`.

        Raises:
            ValueError: If a mean is negative, infinite or missing.
        """
        laws, grid, rows = _poisson_laws()
        draws: list[float] = []
        above = []
        for mean, uniform in zip(means, self._first[period], strict=True):
            steps = mean * _STEPS
            if 0.0 <= steps < _OCTAVES:
                draws.append(bisect_right(laws[int(steps)], uniform))
            elif _OCTAVES <= steps < _END:
                row = rows[int(steps) // _ROW_STEPS]
                above.append((len(draws), steps - grid[row]))
                draws.append(bisect_right(laws[row], uniform))
            else:
                _check_mean(mean, mean)
                return None
        for element, rest in above:
            index = 1
            while rest >= 1.0:
                row = int(rest) if rest < _OCTAVES else rows[int(rest) // _ROW_STEPS]
                draws[element] += bisect_right(laws[row], self._get_uniform(index, period, element))
                rest -= grid[row]
                index += 1
        for element, rest_uniform in self._possible.get(period, ()):
            rest = means[element] * _STEPS
            while rest >= 1.0:
                rest -= grid[int(rest) if rest < _OCTAVES else rows[int(rest) // _ROW_STEPS]]
            draws[element] += _count_rest(rest_uniform, rest / _STEPS)
        return draws

    def _get_uniform(self, index: int, period: int, element: int) -> int:
        if index not in self._later:
            self._later[index] = draw_word(self._counters, index) >> _UNIFORM_SHIFT
        return self._later[index].item(period, element)


def _check_mean(lowest: float, highest: float) -> None:
    if not (lowest >= 0.0 and highest < np.inf):
        raise ValueError(f"mean spans {lowest} to {highest}; expected counts must be finite and 0 or more")


@dataclass(frozen=True)
class _PoissonTable:
    """Distribution functions of the grid means, with an index into them (Chen and Asau 1974, guide tables).

    Attributes:
        grid: Grid means in steps of 1/32, shape `(rows,)`.
        keys: Every value of every distribution function as a key, ascending, uint64.
        starts: Position in `keys` of the first value of a row, and their end, shape `(rows + 1,)`.
        counts: Count at the lower end of a cell, or far below zero where two or more values crowd a cell; int16.
        boundaries: Key in the cell from which on the count is one higher, or the first key after the cell.
    """

    grid: np.ndarray
    keys: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    boundaries: np.ndarray


@cache
def _poisson_table() -> _PoissonTable:
    octaves = (np.arange(_FIRST_OCTAVE, _FIRST_OCTAVE + _BLOCK_ROW - _OCTAVE_ROW) << _OCTAVE_SHIFT).view(np.float64)
    blocks = np.arange(1, 1 + _ROWS - _BLOCK_ROW) * _BLOCKS
    grid = np.concatenate([np.arange(_OCTAVE_ROW), octaves, blocks])
    keys, starts = [], [0]
    for row, mean in enumerate(grid / _STEPS):
        mode = np.floor(mean)
        rising = np.cumprod(np.arange(mode, 0.0, -1.0) / mean)[::-1]
        falling = np.cumprod(mean / np.arange(mode + 1.0, mean + 13.0 * np.sqrt(mean) + 30.0))
        law = np.concatenate([rising, [1.0], falling])
        law /= law.sum()
        # Each half is summed from its own end, where the terms are small.
        below, above = np.cumsum(law), np.append(np.cumsum(law[:0:-1])[::-1], 0.0)
        scaled = np.rint(2.0**_KEY_BITS * np.where(below < 0.5, below, 1.0 - above))
        values = scaled[scaled < 2.0**_KEY_BITS].astype(np.uint64)
        keys.append(values | np.uint64(row << _KEY_BITS))
        starts.append(starts[-1] + len(values))
    flat = np.concatenate(keys)
    cells = np.arange(_ROWS << (_KEY_BITS - _CELL_SHIFT), dtype=np.uint64)
    first, last = cells << np.uint64(_CELL_SHIFT), (cells + np.uint64(1)) << np.uint64(_CELL_SHIFT)
    at_first = np.searchsorted(flat, first, side="right")
    inside = np.searchsorted(flat, last - np.uint64(1), side="right") - at_first
    row_of_cell = (cells >> np.uint64(_KEY_BITS - _CELL_SHIFT)).astype(np.int64)
    counts = np.where(inside > 1, _CROWDED, at_first - np.array(starts)[row_of_cell]).astype(np.int16)
    boundaries = np.where(inside == 1, np.append(flat, np.uint64(0))[at_first], last)
    return _PoissonTable(grid, flat, np.array(starts), counts, boundaries)


@cache
def _poisson_laws() -> tuple[list[list[int]], list[float], list[int]]:
    """Values of every row's distribution function, grid means, and the row of every `_ROW_STEPS` steps of mean."""
    table = _poisson_table()
    values = (table.keys & np.uint64(2**_KEY_BITS - 1)).tolist()
    laws = [values[first:end] for first, end in pairwise(table.starts.tolist())]
    rows = np.searchsorted(table.grid, np.arange(0.0, _END, _ROW_STEPS), side="right") - 1
    return laws, table.grid.tolist(), rows.tolist()


def _draw_tabled(counters: np.ndarray, mean: np.ndarray, highest: float) -> np.ndarray:
    """Inversion at the grid points that make up a mean, plus rarely some more: Poisson laws add up.

    The first word of a counter draws the largest of its grid points. Where the others of a batch need more grid points,
    a mean adds counts of mean zero, so it takes no notice of them.
    """
    table = _poisson_table()
    rest = mean * _STEPS
    words = draw_word(counters, 0)
    # Nearly always the count of what remains is zero: five bits of the first word, unused elsewhere, rule it out.
    possible = np.flatnonzero((words & _REST_BITS) == _NONE)
    levels = [level for level in (_BLOCKS, _OCTAVES) if highest * _STEPS >= level] + [0.0]
    row = _locate(rest, levels[0])
    counts = _invert(table, row, words)
    rest -= table.grid.take(row)
    for index, level in enumerate(levels[1:], start=1):
        row = _locate(rest, level)
        counts += _invert(table, row, draw_word(counters, index))
        rest -= table.grid.take(row)
    draws = counts.astype(np.float64)
    uniform, rest = draw_uniform(counters[possible], _REST_WORD), rest[possible] / _STEPS
    if len(possible) <= _FEW_RESTS:
        pairs = zip(uniform.tolist(), rest.tolist(), strict=True)
        draws[possible] += np.array([_count_rest(*pair) for pair in pairs], dtype=np.float64)
    else:
        draws[possible] += _count_rest(uniform, rest)
    return draws


def _locate(steps: np.ndarray, level: float) -> np.ndarray:
    """Row of the largest grid point up to a mean, both in steps; means beyond the grid above `level` do not occur."""
    row = steps.astype(np.int64)
    if level >= _OCTAVES:
        octave = steps.view(np.int64) >> _OCTAVE_SHIFT
        octave += _OCTAVE_ROW - _FIRST_OCTAVE
        row = np.where(row < _OCTAVE_ROW, row, octave)
    if level >= _BLOCKS:
        block = (steps * (1.0 / _BLOCKS)).astype(np.int64)
        row = np.where(block < 1, row, block + (_BLOCK_ROW - 1))
    return row


def _invert(table: _PoissonTable, row: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Counts of the grid means `row` at the uniforms in the upper 55 bits of `words`, int16."""
    keys = words >> _UNIFORM_SHIFT
    keys |= (row << _KEY_BITS).view(np.uint64)
    cells = (keys >> _TO_CELL).view(np.int64)
    counts = table.counts.take(cells)
    counts += keys >= table.boundaries.take(cells)
    crowded = np.flatnonzero(counts < 0)
    counts[crowded] = np.searchsorted(table.keys, keys[crowded], side="right") - table.starts[row[crowded]]
    return counts


def _count_rest(uniform: _Number, mean: _Number) -> _Number:
    """Count of a Poisson law of mean at most 1/32 by inversion, given that the uniform is in the upper 1/32.

    Sums and products alone, in the same order for floats and arrays, so that both give the same bits.
    """
    decay = 1.0 - mean / 8.0
    for power in range(7, 0, -1):
        decay = 1.0 - mean / power * decay
    law = [_STEPS * mean * decay]
    for count in range(2, 9):
        law.append(law[-1] * (mean / count))
    # From the smallest term on, so that tiny means keep their digits.
    left = 1.0 - uniform
    tail = law[-1]
    draw = (tail > left) + 0.0
    for probability in law[-2::-1]:
        tail = tail + probability
        draw = draw + (tail > left)
    return draw
