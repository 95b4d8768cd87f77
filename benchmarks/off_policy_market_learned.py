"""Nuisances of benchmarks/off_policy_markets.py that are not the package's own: boosted trees for behaviour and demand.

Both are cross-fitted: every unit is judged by trees that were grown on the other half of the units. The trees of demand
climb the censored likelihood; a regression then adds each unit's own level and the overdispersion.
"""

from __future__ import annotations

from dataclasses import dataclass

import lightgbm
import numpy as np
from off_policy_market_estimates import EFFECT_PENALTY, Nuisances
from off_policy_market_shops import LADDER, MarketLog

from pricing_fm.evaluation.off_policy import (
    Decision,
    DemandDesign,
    FittedDemand,
    PriceState,
    compute_count_terms,
    fit_demand,
    read_sales,
)

ROUNDS = 60
TREES = {
    "num_leaves": 8,
    "learning_rate": 0.1,
    "min_data_in_leaf": 20,
    "lambda_l2": 1.0,
    "num_threads": 1,
    "verbosity": -1,
    "deterministic": True,
    "seed": 0,
}
OVERDISPERSION = 0.3  # in the trees' likelihood; the regression after them estimates its own
LEAST_CHANCE = 0.02  # weight of an even distribution that is mixed into the probabilities of rungs


def fit_boosted_nuisances(market: MarketLog) -> Nuisances:
    """Behaviour and demand by boosted trees."""
    half = np.random.default_rng(0).permutation(len(market.rungs)) % 2
    return Nuisances(_fit_behavior(market, half), {"structured": _fit_demand(market, half)})


def _describe(market: MarketLog, half: np.ndarray) -> np.ndarray:
    """What does not depend on the price: signal, week, and how much the unit sold before, `(units, weeks, 3)`."""
    weeks = np.broadcast_to(np.arange(market.rungs.shape[1]), market.rungs.shape)
    past = np.broadcast_to(np.log(market.past_sales + 0.5)[:, None], market.rungs.shape)
    return np.stack([market.signals, weeks, past], axis=-1)


def _fit_behavior(market: MarketLog, half: np.ndarray) -> np.ndarray:
    """Propensities of the logged rungs, `(units, weeks)`."""
    level = market.shop.stock.level
    stock = market.demand.stock / level.reshape(len(level), -1)[:, :1]
    state = market.states
    columns = [market.last, market.signals, state.log_memory - np.log(market.demand.list_prices), state.depth, stock]
    features = np.stack(columns, axis=-1)
    chances = np.empty((*market.rungs.shape, len(LADDER)))
    settings = TREES | {"objective": "multiclass", "num_class": len(LADDER)}
    for part in (0, 1):
        taught = half != part
        rows = lightgbm.Dataset(features[taught].reshape(-1, len(columns)), market.rungs[taught].ravel())
        trees = lightgbm.train(settings, rows, num_boost_round=ROUNDS // 2)
        judged = trees.predict(features[~taught].reshape(-1, len(columns)))
        chances[~taught] = np.asarray(judged).reshape(-1, market.rungs.shape[1], len(LADDER))
    logged = np.take_along_axis(chances, market.rungs[..., None], axis=2)[..., 0]
    return np.asarray((1.0 - LEAST_CHANCE) * logged + LEAST_CHANCE / len(LADDER))


@dataclass(frozen=True)
class BoostedResponse:
    """Log demand by trees; see `LearnedResponse`.

    Attributes:
        market: The log.
        half: Of each unit.
        trees: By the half that they judge.
    """

    market: MarketLog
    half: np.ndarray
    trees: tuple[lightgbm.Booster, lightgbm.Booster]

    def __call__(
        self, period: int | slice, list_price: np.ndarray, state: PriceState, decision: Decision
    ) -> np.ndarray:
        """See `LearnedResponse`."""
        log_price = np.log(decision.prices)
        price = [log_price - np.log(list_price), state.log_memory - log_price, state.depth]
        given = _describe(self.market, self.half)[:, period if isinstance(period, slice) else slice(period, period + 1)]
        shape = (*log_price.shape, given.shape[-1] + len(price))
        features = np.empty(shape)
        features[..., : given.shape[-1]] = given
        for place, column in enumerate(price):
            features[..., given.shape[-1] + place] = column
        found = np.empty(log_price.shape)
        for part, trees in enumerate(self.trees):
            judged = self.half == part
            predicted = trees.predict(features[judged].reshape(-1, shape[-1]), raw_score=True)
            found[judged] = np.asarray(predicted).reshape(-1, shape[1])
        return found


def _fit_demand(market: MarketLog, half: np.ndarray) -> FittedDemand:
    log = market.demand
    state = market.states
    log_price = np.log(log.prices)
    price = [log_price - np.log(log.list_prices), state.log_memory - log_price, state.depth]
    features = np.concatenate([_describe(market, half), np.stack(price, axis=-1)], axis=-1)
    trees = tuple(_grow(features[half != part], log.units[half != part], log.stock[half != part]) for part in (0, 1))
    response = BoostedResponse(market, half, trees)
    design = DemandDesign(np.ones((*log.units.shape, 1)), has_reference_price=False, has_price=False, learned=response)
    return fit_demand(log, design, groups=np.arange(len(log.units)), group_penalty=EFFECT_PENALTY)


def _grow(features: np.ndarray, units: np.ndarray, stock: np.ndarray) -> lightgbm.Booster:
    """Trees that climb the negative binomial likelihood with sold-out weeks as tails."""
    counts = read_sales(units.ravel(), stock.ravel())
    start = np.full(units.size, np.log(units.mean() + 0.1))

    def climb(scores: np.ndarray, _: lightgbm.Dataset) -> tuple[np.ndarray, np.ndarray]:
        terms = compute_count_terms(counts, scores, OVERDISPERSION)
        return -terms.score, np.maximum(terms.curvature, 1e-6)

    rows = lightgbm.Dataset(features.reshape(-1, features.shape[-1]), counts.units, init_score=start)
    # Demand falls with the price and rises with the gap to the remembered one; trees are told.
    settings = TREES | {"objective": climb, "monotone_constraints": [0, 0, 0, -1, 1, 0]}
    return lightgbm.train(settings, rows, num_boost_round=ROUNDS)
