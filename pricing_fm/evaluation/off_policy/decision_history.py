"""What the log says about each decision before it is taken: the item's own past, stock, cost and calendar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm.evaluation.off_policy.change_rhythm import ChangeRhythm
from pricing_fm.evaluation.off_policy.decision_log import DecisionLog

SCALARS = (
    "is_regular",  # 1 = the last rung is the one most used so far
    "distance_to_regular",  # log of last over regular multiplier
    "log_age",  # of the price, periods
    "turnover",  # log odds that a rung drawn like the past ones is another than the last
    "rate",  # log odds of a change at this age of the price, from the item's own spells
    "rhythm",  # log odds of a change by the item's own rhythm
    "inexperience",  # 1 / sqrt(1 + decisions so far)
    "recent_discount",  # decayed mean of min(log multiplier, 0)
    "recent_sales",  # decayed mean of log sales minus their level so far
    "stock",  # log stock before the period minus its level so far
    "cost_gap",  # log of the multiplier that keeps the usual markup over today's cost, minus the last one
    "cost_gap_size",
    "cost_change",  # log of today's over the last cost
    "year_sine",
    "year_cosine",
    "promotion_if_cut",  # log odds of a promotion in past periods below the regular rung
    "promotion_if_not",
    "last_promotion",
)
SCORES = (
    "log_share",  # of the item's past periods at the rung
    "log_arrivals",  # of its past changes that led to the rung
    "log_departures",  # of its past changes from the last rung that led to it
    "is_regular",
    "is_previous",  # the rung before the last change
    "distance",  # size of the log step
    "is_next_below",
    "is_next_above",
    "is_below",
    "regular_distance",  # size of the log step from the regular rung
    "cost_distance",  # distance from the multiplier that keeps the usual markup
    "promotion",  # log odds of a promotion in past periods at this and neighbouring rungs
)

_PERSISTENCE = 0.7  # of decayed means, per period
_BORROWED = 0.5  # decisions' worth of an even distribution in shares of rungs
_PROMOTION_RATES, _PROMOTION_WEIGHT = (0.5, 0.05), 2.0  # if cut, if not; what they are worth in decisions
_NEIGHBOUR = 0.4  # what a promotion one rung away counts
_LARGEST_LOGIT = 6.0
_LARGEST_MOVE = 3.0  # of logs of stock, sales and cost: beyond, a record is likelier to be wrong than told apart


@dataclass(frozen=True)
class DecisionHistory:
    """What was known before every decision, a row per decision.

    Nothing of a row depends on what was decided, sold or charged in its own period or later; stock, cost, reference
    price and calendar of the period itself are known when the price is set. A row depends on its own item alone.

    Attributes:
        items, periods: Place of the decision in the log, int, `(rows,)`.
        last: Last rung, int, `(rows,)`.
        regular: Rung most used so far, int, `(rows,)`.
        scalars: As `SCALARS`, `(rows, len(SCALARS))`.
        scores: Of every rung, as `SCORES`, `(rows, rungs, len(SCORES))`.
    """

    items: np.ndarray
    periods: np.ndarray
    last: np.ndarray
    regular: np.ndarray
    scalars: np.ndarray
    scores: np.ndarray

    def scalar(self, name: str) -> np.ndarray:
        """One column of `scalars`, `(rows,)`."""
        return self.scalars[:, SCALARS.index(name)]


def trace_history(log: DecisionLog) -> DecisionHistory:
    """Walk through the log once and note what was known before each decision.

    Args:
        log: The decisions.

    Returns:
        A row per decision of the manager, period by period.

    Raises:
        ValueError: If the log holds no decision.
    """
    decided = log.decided
    if not decided.any():
        raise ValueError(
            "the log holds no decision: every item needs two observed prices, the first only says where from"
        )
    items, periods = log.shape
    prices, levels, rhythm = _PriceMemory(log), _LevelMemory(log), ChangeRhythm(items)
    angles = 2.0 * np.pi * pd.DatetimeIndex(log.timestamps).dayofyear.to_numpy() / 365.25
    rows = []
    for period in range(periods):
        regular, known = prices.regular, log.observed[:, period]
        is_regular = prices.last == regular
        mixture, by_age = rhythm.forecast(period, prices.age, is_regular)
        here = np.flatnonzero(decided[:, period])
        if len(here):
            scalars = prices.describe() | levels.describe(period, prices.log_last)
            scalars |= {"rate": _log_odds(by_age), "rhythm": _log_odds(mixture)}
            scalars |= {"year_sine": np.full(items, np.sin(angles[period]))}
            scalars |= {"year_cosine": np.full(items, np.cos(angles[period]))}
            scores = prices.describe_rungs(levels.find_cost_wish(period, prices.log_last))
            rows.append(
                (
                    here,
                    np.full(len(here), period),
                    prices.last[here],
                    regular[here],
                    np.stack([scalars[name][here] for name in SCALARS], axis=1),
                    np.stack([scores[name][here] for name in SCORES], axis=2),
                )
            )
        rungs = np.where(known, log.rungs[:, period], 0)
        chosen = decided[:, period]
        rhythm.learn(period, prices.age, is_regular, rungs != prices.last, chosen)
        levels.learn(period, np.log(log.price_ladder[rungs]), known)
        prices.learn(rungs, log.promoted[:, period], known, chosen)
    return DecisionHistory(*(np.concatenate(column) for column in zip(*rows, strict=True)))


class _PriceMemory:
    """What past rungs and promotions of each item leave behind."""

    def __init__(self, log: DecisionLog) -> None:
        items, self._rungs = log.shape[0], log.num_rungs
        self._log_ladder = np.log(log.price_ladder)
        self.last = np.full(items, -1)
        self._previous = np.full(items, -1)
        self.age = np.ones(items, dtype=int)
        self._decisions = np.zeros(items)
        self._periods = np.zeros((items, self._rungs))
        self._arrivals = np.zeros((items, self._rungs))
        self._departures = np.zeros((items, self._rungs, self._rungs))
        self._discount = np.zeros(items)
        self._promoted = np.tile(np.array(_PROMOTION_RATES) * _PROMOTION_WEIGHT, (items, 1))
        self._offered = np.full((items, 2), _PROMOTION_WEIGHT)
        self._last_promotion = np.zeros(items)
        self._promoted_at, self._offered_at = np.zeros((2, items, self._rungs))
        number = np.arange(self._rungs)
        self._nearness = _NEIGHBOUR ** np.abs(number[:, None] - number)

    @property
    def regular(self) -> np.ndarray:
        """Rung most used so far, the higher one of two, `(items,)`."""
        return np.asarray(self._rungs - 1 - self._periods[:, ::-1].argmax(axis=1))

    @property
    def log_last(self) -> np.ndarray:
        """Log of the last multiplier, `(items,)`."""
        return self._log_ladder[self.last]

    def describe(self) -> dict[str, np.ndarray]:
        """Scalars by name, `(items,)`."""
        here, odds = np.arange(len(self.last)), self._promoted / self._offered
        shares = np.exp(_log_shares(self._periods))
        return {
            "is_regular": (self.last == self.regular).astype(np.float64),
            "distance_to_regular": self.log_last - self._log_ladder[self.regular],
            "log_age": np.log(self.age),
            "turnover": _log_odds(1.0 - shares[here, self.last]),
            "inexperience": 1.0 / np.sqrt(1.0 + self._decisions),
            "recent_discount": self._discount,
            "promotion_if_cut": _log_odds(odds[:, 0]),
            "promotion_if_not": _log_odds(odds[:, 1]),
            "last_promotion": self._last_promotion,
        }

    def describe_rungs(self, wish: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of all rungs by name, `(items, rungs)`; `wish` is the log multiplier that keeps the usual markup."""
        here, number = np.arange(len(self.last)), np.arange(self._rungs)
        steps, last = self._log_ladder - self.log_last[:, None], self.last[:, None]
        return {
            "log_share": _log_shares(self._periods),
            "log_arrivals": _log_shares(self._arrivals),
            "log_departures": _log_shares(self._departures[here, self.last]),
            "is_regular": (number == self.regular[:, None]).astype(np.float64),
            "is_previous": (number == self._previous[:, None]).astype(np.float64),
            "distance": np.abs(steps),
            "is_next_below": (number == last - 1).astype(np.float64),
            "is_next_above": (number == last + 1).astype(np.float64),
            "is_below": (number < last).astype(np.float64),
            "regular_distance": np.abs(self._log_ladder - self._log_ladder[self.regular][:, None]),
            "cost_distance": np.abs(self._log_ladder - wish[:, None]),
            "promotion": self._describe_promotions(),
        }

    def _describe_promotions(self) -> np.ndarray:
        """Log odds of a promotion at every rung, neighbours lending theirs and the rate of its side the rest."""
        rates = self._promoted / self._offered
        is_cut = np.arange(self._rungs) < self.regular[:, None]
        borrowed = np.where(is_cut, rates[:, :1], rates[:, 1:])
        promoted, offered = self._promoted_at @ self._nearness, self._offered_at @ self._nearness
        return _log_odds((promoted + borrowed) / (offered + 1.0))

    def learn(self, rungs: np.ndarray, promoted: np.ndarray, known: np.ndarray, decided: np.ndarray) -> None:
        """Take in one period; only what is known counts, and the item's own habits only from decisions."""
        is_cut = (rungs < self.regular).astype(int)
        column = 1 - is_cut
        moved = known & (self.last >= 0) & (rungs != self.last)
        own = np.flatnonzero(moved & decided)
        self._arrivals[own, rungs[own]] += 1.0
        self._departures[own, self.last[own], rungs[own]] += 1.0
        chosen = np.flatnonzero(decided)
        self._promoted[chosen, column[chosen]] += promoted[chosen]
        self._offered[chosen, column[chosen]] += 1.0
        self._promoted_at[chosen, rungs[chosen]] += promoted[chosen]
        self._offered_at[chosen, rungs[chosen]] += 1.0
        self._decisions[chosen] += 1.0
        counted = np.flatnonzero(decided | (known & (self.last < 0)))
        self._periods[counted, rungs[counted]] += 1.0
        discount = np.minimum(self._log_ladder[rungs], 0.0)
        decayed = _PERSISTENCE * self._discount + (1.0 - _PERSISTENCE) * discount
        self._discount = np.where(known, decayed, self._discount)
        self._last_promotion = np.where(known, promoted, self._last_promotion)
        self._previous = np.where(moved, self.last, self._previous)
        # Unrecorded periods age the price as well.
        self.age = np.where(moved | (self.last < 0), 1, self.age + 1)
        self.last = np.where(known, rungs, self.last)


class _LevelMemory:
    """Sales, stock and cost beside their levels so far; where one is not known it says nothing (0)."""

    def __init__(self, log: DecisionLog) -> None:
        items = log.shape[0]
        with np.errstate(divide="ignore"):
            self._sales = np.log1p(log.units)
            self._stock = np.where(np.isfinite(log.inventory), np.log1p(log.inventory), np.nan)
            # A product that costs nothing has no markup to keep.
            self._cost = np.where(log.costs > 0, np.log(log.costs / log.reference_prices), np.nan)
            self._bare_cost = np.where(log.costs > 0, np.log(log.costs), np.nan)
        self._sales_level, self._stock_level, self._markup = _Mean(items), _Mean(items), _Mean(items)
        self._recent_sales = np.zeros(items)
        self._last_cost = np.full(items, np.nan)

    def describe(self, period: int, log_last: np.ndarray) -> dict[str, np.ndarray]:
        """Scalars by name, `(items,)`."""
        gap = self.find_cost_wish(period, log_last) - log_last
        return {
            "recent_sales": self._recent_sales,
            "stock": _tame(self._stock[:, period] - self._stock_level.value),
            "cost_gap": gap,
            "cost_gap_size": np.abs(gap),
            "cost_change": _tame(self._bare_cost[:, period] - self._last_cost),
        }

    def find_cost_wish(self, period: int, log_last: np.ndarray) -> np.ndarray:
        """Log multiplier that keeps the usual markup over today's cost; the last one where no cost is known."""
        return log_last + _tame(self._markup.value + self._cost[:, period] - log_last)

    def learn(self, period: int, log_multiplier: np.ndarray, known: np.ndarray) -> None:
        """Take in one period."""
        move = _tame(self._sales[:, period] - self._sales_level.value)
        self._recent_sales = _PERSISTENCE * self._recent_sales + (1.0 - _PERSISTENCE) * move
        self._sales_level.learn(self._sales[:, period])
        self._stock_level.learn(self._stock[:, period])
        self._markup.learn(np.where(known, log_multiplier - self._cost[:, period], np.nan))
        self._last_cost = np.where(np.isnan(self._bare_cost[:, period]), self._last_cost, self._bare_cost[:, period])


class _Mean:
    """Running means of numbers that may be missing; NaN before the first."""

    def __init__(self, items: int) -> None:
        self._sums, self._counts = np.zeros(items), np.zeros(items)

    @property
    def value(self) -> np.ndarray:
        return np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1.0), np.nan)

    def learn(self, values: np.ndarray) -> None:
        self._sums += np.nan_to_num(values)
        self._counts += ~np.isnan(values)


def _log_shares(counts: np.ndarray) -> np.ndarray:
    """Log shares of rungs, borrowed from an even distribution."""
    borrowed = counts + _BORROWED / counts.shape[1]
    return np.asarray(np.log(borrowed / borrowed.sum(axis=1, keepdims=True)))


def _log_odds(chances: np.ndarray) -> np.ndarray:
    return np.clip(np.log(chances) - np.log1p(-chances), -_LARGEST_LOGIT, _LARGEST_LOGIT)


def _tame(moves: np.ndarray) -> np.ndarray:
    """Moves of logs, 0 where unknown."""
    return np.clip(np.nan_to_num(moves), -_LARGEST_MOVE, _LARGEST_MOVE)
