"""The rhythm of an item's price changes, learned from its own past: how long prices last, and which cycle they keep."""

from __future__ import annotations

import numpy as np

_LONGEST = 16  # periods of the longest spell and the longest cycle that are told apart
_BORROWED = 0.5  # decisions' worth of the item's overall rate in the rate of a cell
_START_RATE, _START_WEIGHT = 0.2, 1.0  # rate of change before anything is known, and what it is worth in decisions


class ChangeRhythm:
    """Chance that each item changes its price now, as a mixture of simple forecasters that learn period by period.

    A forecaster counts how often the item changed in situations like this one: any situation; at this age of the
    price; in this phase of a cycle of 2, 3, ... 16 periods. Each does so once over all prices and once apart for the
    regular price and the others. Forecasters are weighted by how well they have foretold the item so far (a Bayesian
    mixture), so that an item with a calendar is foretold by its calendar, and one without by its rate.

    Arrays have one row per item.

    References:
        Dawid 1984, "Present position and potential developments: the prequential approach".
    """

    def __init__(self, items: int) -> None:
        self._forecasters = 2 * (_LONGEST + 1)
        cells = 2 * _LONGEST
        self._tried = np.zeros((items, self._forecasters, cells))
        self._changed = np.zeros_like(self._tried)
        self._scores = np.zeros((items, self._forecasters))
        self._rates = np.tile([_START_RATE * _START_WEIGHT, _START_WEIGHT], (items, 1))  # changes, decisions

    def forecast(self, period: int, age: np.ndarray, is_regular: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Chance of a change, by the mixture and by the age of the price alone.

        Args:
            period: Number of the period.
            age: Periods since the last change, int, 1 or more, `(items,)`.
            is_regular: True = the price stands at the regular rung, bool, `(items,)`.

        Returns:
            Two arrays in (0, 1), `(items,)`.
        """
        chances = self._forecast_all(self._find_cells(period, age, is_regular))
        weights = np.exp(self._scores - self._scores.max(axis=1, keepdims=True))
        mixture = (weights * chances).sum(axis=1) / weights.sum(axis=1)
        return mixture, chances[:, 3]

    def learn(
        self, period: int, age: np.ndarray, is_regular: np.ndarray, changed: np.ndarray, decided: np.ndarray
    ) -> None:
        """Take in what was decided.

        Args:
            period: Number of the period.
            age: Periods since the last change, before the decision, int, `(items,)`.
            is_regular: True = the price stood at the regular rung, bool, `(items,)`.
            changed: True = the rung changed, bool, `(items,)`.
            decided: True = there was a decision, bool, `(items,)`.
        """
        cells = self._find_cells(period, age, is_regular)
        chances = self._forecast_all(cells)
        here, outcome = np.flatnonzero(decided), changed[decided, None]
        self._scores[here] += np.log(np.where(outcome, chances[here], 1.0 - chances[here]))
        places = (here[:, None], np.arange(self._forecasters), cells[here])
        self._tried[places] += 1.0
        self._changed[places] += outcome
        self._rates[here] += np.column_stack([changed[here], np.ones(len(here))])

    def _forecast_all(self, cells: np.ndarray) -> np.ndarray:
        """Chance of a change by every forecaster, `(items, forecasters)`."""
        tried, changed = (
            np.take_along_axis(table, cells[..., None], 2)[..., 0] for table in (self._tried, self._changed)
        )
        rate = (self._rates[:, 0] / self._rates[:, 1])[:, None]
        return np.asarray((changed + _BORROWED * rate) / (tried + _BORROWED))

    def _find_cells(self, period: int, age: np.ndarray, is_regular: np.ndarray) -> np.ndarray:
        """Cell of today's situation, `(items, forecasters)`: even ones pooled, odd ones apart for the regular price.

        Forecasters 0 and 1 know nothing more, 2 and 3 the age, the others the phase of a cycle.
        """
        phases = [np.zeros_like(age), np.minimum(age, _LONGEST) - 1]
        phases += [np.full_like(age, period % cycle) for cycle in range(2, _LONGEST + 1)]
        apart = _LONGEST * is_regular.astype(int)
        return np.stack([phase + shift for phase in phases for shift in (0, apart)], axis=1)
