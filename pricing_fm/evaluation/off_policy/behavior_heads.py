"""The three logistic regressions of the behaviour model and the curves that calibrate them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.evaluation.off_policy.choice_regression import (
    BinaryRegression,
    ChoiceRegression,
    compute_log_shares,
    fit_binary_regression,
    fit_choice_regression,
)
from pricing_fm.evaluation.off_policy.decision_history import SCORES, trace_history
from pricing_fm.evaluation.off_policy.decision_log import DecisionLog

# Scalars that lean a manager to higher or lower rungs.
_LEANINGS = (
    *("distance_to_regular", "recent_discount", "recent_sales", "stock", "cost_gap", "cost_change"),
    *("year_sine", "year_cosine"),
)
_PROMOTION = SCORES.index("promotion")
_UNSURE_SCORES = tuple(SCORES.index(name) for name in ("log_share", "log_arrivals", "log_departures"))
_CURVE_PENALTY = 0.1  # precision of a prior that hardly speaks: a few numbers, thousands of decisions
# Where a calibration curve may bend: log odds of a yes, log probabilities of a rung.
_BENDS, _RUNG_BENDS = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0), (-5.0, -3.0, -2.0, -1.0)


@dataclass(frozen=True)
class CalibrationCurves:
    """What the heads' log odds are turned into: temperatures that may differ between low and high odds.

    Attributes:
        change, promotion: Regression of the outcome on bent log odds; None = the log has no promotions.
        rung: Regression of the rung on bent log probabilities.
    """

    change: BinaryRegression
    rung: ChoiceRegression
    promotion: BinaryRegression | None


@dataclass(frozen=True)
class BehaviorHeads:
    """A fitted behaviour model.

    Attributes:
        change: Does the rung change?
        rung: Which rung, given that it changes?
        promotion: Is it promoted, given the rung? None = the log has no promotions.
        curves: Calibration; None = probabilities as the regressions give them.
    """

    change: BinaryRegression
    rung: ChoiceRegression
    promotion: BinaryRegression | None
    curves: CalibrationCurves | None = None


@dataclass(frozen=True)
class BehaviorProbabilities:
    """Of some decisions.

    Attributes:
        change: Of another rung than the last, `(rows,)`.
        rung: Of every rung, `(rows, rungs)`.
        promotion: Of a promotion at every rung, `(rows, rungs)`.
    """

    change: np.ndarray
    rung: np.ndarray
    promotion: np.ndarray


class DecisionRows:
    """The decisions of a log as rows of the three regressions.

    Attributes:
        log: The decisions.
        history: What was known before each.
        rungs, promoted: What was done, int, `(rows,)`.
        changed: True = the rung is another than the last, bool, `(rows,)`.
        products: Product of each row, codes, `(rows,)`.
        available: True = a change may lead to the rung, bool, `(rows, rungs)`: all but the last one.
    """

    def __init__(self, log: DecisionLog) -> None:
        self.log, self.history = log, trace_history(log)
        place = self.history.items, self.history.periods
        self.rungs, self.promoted = log.rungs[place], log.promoted[place]
        self.changed = self.rungs != self.history.last
        self.products = np.unique(np.asarray(log.products).astype(str), return_inverse=True)[1][self.history.items]
        self.available = np.arange(log.num_rungs) != self.history.last[:, None]
        self._log_ladder = np.log(log.price_ladder)
        self._signals = np.zeros((len(self.rungs), 0)) if log.signals is None else log.signals[place]

    def describe_change(self, rows: np.ndarray) -> np.ndarray:
        """Regressors of the first head, `(rows, columns)`: all scalars, apart for the regular rung and the others."""
        scalars = self.history.scalars[rows]
        regular, inexperience = self._take("is_regular", rows), self._take("inexperience", rows)
        odds = np.concatenate([self._take(name, rows) for name in ("turnover", "rate", "rhythm")], axis=1)
        sides = [scalars, regular * scalars[:, 1:]]  # the first scalar is is_regular itself
        if self._signals.shape[1]:
            # Who follows a signal moves where the last rung is not the one that it asks for.
            last = self._log_ladder[self.history.last[rows], None]
            sides += [last, self._signals[rows], last * self._signals[rows], self._signals[rows] ** 2]
        return np.concatenate([*sides, inexperience * odds, inexperience * regular * odds], axis=1)

    def describe_rungs(self, rows: np.ndarray) -> np.ndarray:
        """Regressors of the second head, `(rows, rungs, columns)`."""
        scores, count = self.history.scores[rows], self.log.num_rungs
        unsure = scores[..., _UNSURE_SCORES] * self._take("inexperience", rows)[..., None]
        leanings = np.concatenate([*(self._take(name, rows) for name in _LEANINGS), self._signals[rows]], axis=1)
        leanings = leanings[:, None, :] * self._log_ladder[:, None]
        rungs = np.broadcast_to(np.eye(count), (len(rows), count, count))
        return np.concatenate([scores, unsure, leanings, rungs], axis=2)

    def describe_promotion(self, rows: np.ndarray, rungs: np.ndarray) -> np.ndarray:
        """Regressors of the third head at some rungs `(rows, k)`, `(rows, k, columns)`."""
        names = ("inexperience", "last_promotion", "recent_discount", "year_sine", "year_cosine", "stock")
        doubt, before, *others = (self._take(name, rows) for name in (*names, "recent_sales"))
        near = np.take_along_axis(self.history.scores[rows, :, _PROMOTION], rungs, 1)
        is_cut = rungs < self.history.regular[rows, None]
        side = np.where(is_cut, self._take("promotion_if_cut", rows), self._take("promotion_if_not", rows))
        stays = (rungs == self.history.last[rows, None]).astype(np.float64)
        cut, depth = is_cut.astype(np.float64), np.minimum(self._log_ladder[rungs], 0.0)
        below = (depth < -1e-9).astype(np.float64)
        columns = [near, doubt * near, below, below * near, below * side]
        columns += [cut, depth, side, cut * side, doubt * side, cut * doubt]
        signals = [self._signals[rows, column, None] for column in range(self._signals.shape[1])]
        columns += [stays, before, stays * before, cut * before, cut * stays, *others, *signals]
        return np.stack(np.broadcast_arrays(*columns), axis=2)

    def _take(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A scalar of some rows, `(rows, 1)`."""
        return self.history.scalar(name)[rows, None]


def fit_heads(
    rows: DecisionRows, inside: np.ndarray, penalty: float, calibration_folds: int, seed: int
) -> BehaviorHeads:
    """Fit the heads to some rows, and their calibration to what models of a part of these say of the rest.

    Args:
        rows: All decisions.
        inside: Positions of the rows to fit to, int.
        penalty: Precision of the prior of standardised coefficients.
        calibration_folds: Parts of the products in `inside`; 0 = no calibration.
        seed: Of the parts.

    Returns:
        The model.

    Raises:
        ValueError: If there is no price change among the rows, or there are fewer products than parts.
    """
    heads = _fit_raw(rows, inside, penalty)
    if calibration_folds == 0:
        return heads
    codes = np.unique(rows.products[inside], return_inverse=True)[1]
    if codes.max() + 1 < calibration_folds:
        raise ValueError(
            f"there are {codes.max() + 1} training products and calibration_folds is {calibration_folds}; ask for fewer"
            " parts, or for 0 to keep uncalibrated probabilities"
        )
    parts = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] % calibration_folds
    blocks = []
    for part in range(calibration_folds):
        judged = inside[parts == part]
        blocks.append((judged, *_score(_fit_raw(rows, inside[parts != part], penalty), rows, judged)))
    judged, change, rung, promotion = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return replace(heads, curves=_fit_curves(rows, judged, change, rung, promotion))


def predict_heads(
    heads: BehaviorHeads, rows: DecisionRows, judged: np.ndarray, least_probability: float
) -> BehaviorProbabilities:
    """What a model says of some rows.

    Args:
        heads: The model.
        rows: All decisions.
        judged: Positions of the rows, int.
        least_probability: Weight of an even distribution that is mixed into each head.

    Returns:
        Probabilities.
    """
    change, rung, promotion = _score(heads, rows, judged)
    if heads.curves is not None:
        curves = heads.curves
        change = curves.change.compute_logits(_bend(change, _BENDS))
        rung = _bend(rung, _RUNG_BENDS) @ (curves.rung.coefficients / curves.rung.scales)
        if curves.promotion is not None:
            promotion = curves.promotion.compute_logits(_bend(promotion, _BENDS))
    available = rows.available[judged]
    chance = _blend(_logistic(change), 0.5, least_probability)
    if_changed = np.exp(compute_log_shares(rung, available))
    even = available / available.sum(axis=1, keepdims=True)
    of_rung = chance[:, None] * _blend(if_changed, even, least_probability)
    of_rung[np.arange(len(judged)), rows.history.last[judged]] = 1.0 - chance
    of_promotion = np.zeros_like(of_rung)
    if heads.promotion is not None:
        of_promotion = _blend(_logistic(promotion), 0.5, least_probability)
    return BehaviorProbabilities(chance, of_rung, of_promotion)


def _fit_raw(rows: DecisionRows, inside: np.ndarray, penalty: float) -> BehaviorHeads:
    moved = inside[rows.changed[inside]]
    if not len(moved):
        raise ValueError(
            "the rung never changes in the training products; a log of one price per item says nothing about other"
            " prices. Check that the ladder is finer than the price changes"
        )
    change = fit_binary_regression(rows.describe_change(inside), rows.changed[inside].astype(float), penalty)
    rung = fit_choice_regression(rows.describe_rungs, moved, rows.rungs[moved], rows.available[moved], penalty)
    if rows.log.promotions is None:
        return BehaviorHeads(change, rung, None)
    regressors = rows.describe_promotion(inside, rows.rungs[inside, None])[:, 0]
    return BehaviorHeads(change, rung, fit_binary_regression(regressors, rows.promoted[inside].astype(float), penalty))


def _score(heads: BehaviorHeads, rows: DecisionRows, judged: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Uncalibrated: log odds of a change, log probabilities of rungs given one, log odds of a promotion per rung."""
    change = heads.change.compute_logits(rows.describe_change(judged))
    available = rows.available[judged]
    rung = compute_log_shares(heads.rung.compute_utilities(rows.describe_rungs, judged), available)
    rung = np.where(available, rung, 0.0)
    if heads.promotion is None:
        return change, rung, np.zeros_like(rung)
    every = np.broadcast_to(np.arange(rows.log.num_rungs), rung.shape)
    return change, rung, heads.promotion.compute_logits(rows.describe_promotion(judged, every))


def _fit_curves(
    rows: DecisionRows, judged: np.ndarray, change: np.ndarray, rung: np.ndarray, promotion: np.ndarray
) -> CalibrationCurves:
    """Curves from the left-out scores of some rows."""
    moved = np.flatnonzero(rows.changed[judged])
    bent = _bend(rung, _RUNG_BENDS)
    logged = _bend(promotion[np.arange(len(judged)), rows.rungs[judged]], _BENDS)
    return CalibrationCurves(
        change=fit_binary_regression(_bend(change, _BENDS), rows.changed[judged].astype(float), _CURVE_PENALTY),
        rung=fit_choice_regression(
            lambda positions: bent[positions],
            moved,
            rows.rungs[judged[moved]],
            rows.available[judged[moved]],
            _CURVE_PENALTY,
        ),
        promotion=None
        if rows.log.promotions is None
        else fit_binary_regression(logged, rows.promoted[judged].astype(float), _CURVE_PENALTY),
    )


def _bend(values: np.ndarray, places: tuple[float, ...]) -> np.ndarray:
    """Values, and what exceeds each place, in a last axis: their sums are curves with bends at the places."""
    return np.stack([values, *(np.maximum(values - place, 0.0) for place in places)], axis=-1)


def _blend(probabilities: np.ndarray, even: np.ndarray | float, weight: float) -> np.ndarray:
    return np.asarray((1.0 - weight) * probabilities + weight * even)


def _logistic(log_odds: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)))
