"""A shop whose demand is known: stock with a lead time, a remembered price, recent discounts; and its log."""

from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.demand_model import DemandDesign, DemandLog
from pricing_fm.evaluation.off_policy.shop import (
    Decision,
    LadderPolicy,
    PriceState,
    Shop,
    Situation,
    advance_prices,
)
from pricing_fm.evaluation.off_policy.stocks import BaseStock

LADDER = np.array([0.8, 0.9, 1.0, 1.1])
BEHAVIOR = np.array([0.25, 0.2, 0.35, 0.2])
TARGET = np.array([0.1, 0.5, 0.3, 0.1])
PERSISTENCE = 0.7


@dataclass(frozen=True)
class TrueLaw:
    """Log demand: unit level + season - 2 log(price / list) + gap to the remembered price + depth of discounts."""

    levels: np.ndarray
    season: np.ndarray
    overdispersion: float = 0.25
    gap: float = 1.0
    depth: float = 1.5

    def compute_log_mean(self, situation: Situation, decision: Decision) -> np.ndarray:
        log_price = np.log(decision.prices)
        state = situation.prices
        return np.asarray(
            self.levels[:, None]
            + self.season[situation.period]
            - 2.0 * (log_price - np.log(situation.list_price))
            + self.gap * (state.log_memory - log_price)
            + self.depth * state.depth
        )


@dataclass(frozen=True)
class Case:
    """A log, the shop that continues it under other policies, and what only the simulator knows."""

    log: DemandLog
    shop: Shop
    law: TrueLaw
    design: DemandDesign
    propensities: np.ndarray
    target_propensities: np.ndarray


def ladder_policy(probabilities: np.ndarray, units: int, periods: int) -> LadderPolicy:
    return LadderPolicy(LADDER, np.broadcast_to(probabilities, (units, periods, len(LADDER))))


def simulate_case(seed: int, units: int = 60, periods: int = 13, cover: float = 2.2, limited: bool = True) -> Case:
    """A log under `BEHAVIOR`; about 40 % of the weeks sell out at the default cover."""
    rng = np.random.default_rng(seed)
    list_prices = np.repeat(rng.uniform(2.0, 6.0, units)[:, None], periods, axis=1)
    law = TrueLaw(2.0 + 0.5 * rng.normal(size=units), 0.3 * np.sin(np.arange(periods) / 4.0))
    level = np.ceil(cover * np.exp(law.levels)) if limited else np.full(units, 1e9)
    stock = BaseStock(level, np.ceil(0.8 * level), np.ceil(0.2 * level)[:, None])
    log_memory = np.log(list_prices[:, 0])
    shop = Shop(list_prices, 0.6 * list_prices, stock, log_memory, np.zeros(units), PERSISTENCE)
    rungs = rng.choice(len(LADDER), size=(units, periods), p=BEHAVIOR)
    prices = list_prices * LADDER[rungs]
    sold, held = np.zeros((units, periods)), np.zeros((units, periods))
    layers = stock.start(1)
    start = log_memory[:, None]
    state = PriceState(start, start, np.zeros((units, 1)))
    for period in range(periods):
        here = slice(period, period + 1)
        decision = Decision(prices[:, here], np.zeros((units, 1)))
        situation = Situation(period, list_prices[:, here], shop.unit_costs[:, here], state, layers[..., 0])
        mean = np.exp(law.compute_log_mean(situation, decision))
        size = 1.0 / law.overdispersion
        demand = rng.negative_binomial(size, size / (size + mean)).astype(float)
        held[:, here] = layers[..., 0]
        sold[:, here] = np.minimum(demand, layers[..., 0])
        layers = stock.advance(layers, demand, period)
        state = advance_prices(state, decision.prices, list_prices[:, here], PERSISTENCE)
    log = DemandLog(
        sold, held, prices, list_prices, np.zeros((units, periods)), np.arange(units), np.arange(periods),
        log_memory, np.zeros(units), PERSISTENCE,
    )  # fmt: skip
    season = np.broadcast_to(law.season[None, :, None], (units, periods, 1))
    return Case(log, shop, law, DemandDesign(season, has_recent_discount=True), BEHAVIOR[rungs], TARGET[rungs])
