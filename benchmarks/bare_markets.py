"""The yardstick of `benchmarks/markets.py`: markets as a good engineer would loop over them in plain numpy.

One `numpy.random.Generator` for everything, no validation, no observation, no truth: prices in, rewards out. The common
parts are written out here by hand; a part of one family alone lends its own array arithmetic, with draws from the
plain generator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pricing_fm.markets.context import Calendar, Costs, HiddenShock
from pricing_fm.markets.core import Market
from pricing_fm.markets.demand import LogitDemand, OwnPriceDemand, PurchaseProbability
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.noise import Noise
from pricing_fm.markets.payoffs import Margin
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.responses import CONSTANT_ELASTICITY, EXPONENTIAL, LOGIT
from pricing_fm.markets.supply import PerishableStock

Respond = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
Change = Callable[[np.ndarray], np.ndarray]


class PlainDraws:
    """The draws of `Streams` from one plain generator; periods and purposes do not matter.

    Args:
        random: The generator.
        markets: Rows of every draw.
    """

    def __init__(self, random: np.random.Generator, markets: int) -> None:
        self.random, self.markets = random, markets

    def uniform(self, period: object, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform draws, `(markets, *shape)`."""
        return self.random.random((self.markets, *shape))

    def normal(self, period: object, purpose: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal draws, `(markets, *shape)`."""
        return self.random.standard_normal((self.markets, *shape))

    def counts(
        self, period: object, purpose: int, mean: np.ndarray, dispersion: np.ndarray | None = None
    ) -> np.ndarray:
        """Poisson or negative binomial counts, shape of `mean`."""
        return build_draw(Noise(np.zeros((1, 1, 1), dtype=bool), dispersion), self.random)(mean)

    def binomial(self, period: object, purpose: int, trials: np.ndarray, probability: np.ndarray | float) -> np.ndarray:
        """Binomial counts, broadcast shape."""
        return self.random.binomial(np.asarray(trials).astype(np.int64), probability).astype(np.float64)


class BareMarket:
    """One step of a batch of markets, as bare as it gets.

    Args:
        market: Truth of the markets.
        seed: Of the generator.
    """

    def __init__(self, market: Market, seed: int = 0) -> None:
        self.market, self.random = market, np.random.default_rng(seed)
        self.plain: Any = PlainDraws(self.random, market.shape[0])
        self.respond, self.draw = build_respond(market), build_draw(market.noise, self.random)
        shape = market.shape
        self.cost = np.array(np.broadcast_to(market.costs.unit_cost, shape))
        self.list_price = np.array(np.broadcast_to(market.list_price, shape))
        self.period = np.zeros(shape[0], dtype=np.int64)
        self.shock = np.zeros(shape)
        self.regime: Any = None if market.regimes is None else market.regimes.start(self.plain, self.period)
        self.memory: Any = None if market.memory is None else market.memory.start(self.list_price)
        self.stock: Any = None if market.supply is None else market.supply.start(shape, market.volume)
        self.rivals: Any = None if market.rivals is None else market.rivals.start(self.list_price)
        if type(market.supply) is PerishableStock:
            self.stock = self.stock[..., 0]
        if type(market.memory) is ReferencePrice:
            self.memory = np.log(self.memory[..., 0])

    def step(self, prices: np.ndarray) -> np.ndarray:
        """Rewards of one period, currency, `(markets,)`."""
        market, period = self.market, self.period
        traffic = self._traffic()
        rival_prices = None if market.rivals is None else market.rivals.get_prices(self.rivals)
        mean = traffic * self.respond(prices, rival_prices)
        if market.memory is not None:
            mean = self._remember(mean, traffic, prices)
        units = demand = self.draw(mean)
        charges = None
        if type(market.supply) is PerishableStock:
            units = np.minimum(demand, self.stock)
            self.stock = self.stock - units
        elif market.supply is not None:
            units, self.stock, charges = market.supply.sell(self.stock, demand, period)
        cost = self.cost if market.regimes is None else self.cost * market.regimes.get_cost_factor(self.regime)
        if type(market.payoff) is Margin:
            rewards = (prices - cost) * units
        else:
            expected = market.payoff.compute_reward(units, prices, cost, mean)
            rewards = market.payoff.realize(expected, units, prices, self.plain, period)
        if charges is not None:
            rewards = rewards - charges
        if market.rivals is not None:
            self.rivals = market.rivals.advance(self.rivals, prices, period)
        self._drift()
        return rewards.sum(axis=(1, 2))

    def _traffic(self) -> np.ndarray:
        market, period = self.market, self.period
        log_factor = None
        if market.calendar is not None:
            log_factor = _compute_season(market.calendar, period)
        if market.shock is not None:
            shock = self.shock - 0.5 * market.shock.scale**2
            log_factor = shock if log_factor is None else log_factor + shock
        traffic = market.volume if log_factor is None else market.volume * np.exp(log_factor)
        return traffic if market.regimes is None else traffic * market.regimes.get_volume_factor(self.regime)

    def _remember(self, mean: np.ndarray, traffic: np.ndarray, prices: np.ndarray) -> np.ndarray:
        memory = self.market.memory
        assert memory is not None
        if type(memory) is ReferencePrice:
            log_price = np.log(prices)
            fall = self.memory - log_price
            mean = mean * np.exp(np.where(fall > 0, memory.gain, memory.loss) * fall)
            self.memory = log_price + memory.persistence * fall
            return mean
        mean = memory.adjust(mean, traffic, self.memory, prices, self.period)
        self.memory = memory.advance(self.memory, mean, traffic, prices, self.period)
        return mean

    def _drift(self) -> None:
        market = self.market
        self.period = self.period + 1
        if market.shock is not None:
            self.shock = _draw_shock(market.shock, self.shock, self.random)
        if market.regimes is not None:
            self.regime = market.regimes.advance(self.regime, self.plain, self.period)
        if market.costs.is_moving:
            self.cost, self.list_price = _move_costs(market.costs, self.cost, self.list_price, self.random)
        if market.supply is not None and market.supply.is_random:
            self.stock = market.supply.drift(self.stock, self.plain, self.period)


def build_respond(market: Market) -> Respond:
    """Demand over volume, written out for logits and for own-price demand with its families sorted beforehand."""
    demand = market.demand
    if type(demand) is LogitDemand and demand.rival_utility is None:
        utility, sensitivity = demand.utility, demand.sensitivity

        def respond_logit(prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
            attraction = np.exp(utility - sensitivity * prices)
            return attraction / (1.0 + attraction.sum(axis=1, keepdims=True))

        return respond_logit
    if type(demand) is PurchaseProbability and demand.rival_weight is None:
        utility, sensitivity = demand.utility, demand.sensitivity
        return lambda prices, rival_prices: 1.0 / (1.0 + np.exp(sensitivity * prices - utility))
    if type(demand) is OwnPriceDemand and demand.family.shape[1:] == (1, 1):
        return _build_own_respond(demand)
    return demand.respond


def _build_own_respond(demand: OwnPriceDemand) -> Respond:
    codes = demand.family[:, 0, 0]
    groups = [(code, np.flatnonzero(codes == code)) for code in np.unique(codes)]
    elasticity, share = demand.elasticity, np.broadcast_to(demand.purchase_share, demand.elasticity.shape)

    def respond_family(code: int, x: np.ndarray, e: np.ndarray, s: np.ndarray) -> np.ndarray:
        if code == CONSTANT_ELASTICITY:
            return x**-e
        if code == EXPONENTIAL:
            return np.exp(e * (1.0 - x))
        if code == LOGIT:
            odds = np.exp(e / (1.0 - s) * (1.0 - x))
            return odds / (1.0 - s + s * odds)
        return np.maximum(1.0 - e * (x - 1.0), 0.0)

    def respond(prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        ratio = prices / demand.reference_price
        if len(groups) == 1:
            response = respond_family(int(groups[0][0]), ratio, elasticity, share)
        else:
            response = np.empty_like(ratio)
            for code, rows in groups:
                response[rows] = respond_family(int(code), ratio[rows], elasticity[rows], share[rows])
        if rival_prices is not None and demand.cross_elasticity is not None:
            response = response * (rival_prices / demand.reference_price) ** demand.cross_elasticity
        return response

    return respond


def build_draw(noise: Noise, random: np.random.Generator) -> Change:
    """Counts around a mean from the plain generator."""
    silent = noise.silent if noise.silent.any() else None
    finite = None if noise.dispersion is None else np.isfinite(noise.dispersion)
    shape = None if finite is None else np.where(finite, noise.dispersion, 1.0)

    def draw(mean: np.ndarray) -> np.ndarray:
        rate = mean
        if shape is not None:
            rate = np.where(finite, random.gamma(shape, mean / shape), mean)
        if noise.zero_share is not None:
            alive = random.random(mean.shape) >= noise.zero_share
            rate = np.where(alive, rate / (1.0 - noise.zero_share), 0.0)
        counts = random.poisson(rate)
        return counts if silent is None else np.where(silent, mean, counts)

    return draw


def _compute_season(calendar: Calendar, period: np.ndarray) -> np.ndarray:
    now = int(period[0])
    factor = calendar.amplitude * np.cos(2.0 * np.pi * (now / calendar.season_length - calendar.phase))
    factor = factor + calendar.trend * now
    if calendar.profile is not None:
        factor = factor + calendar.profile[..., min(now, calendar.profile.shape[-1] - 1)]
    return factor


def _draw_shock(shock: HiddenShock, before: np.ndarray, random: np.random.Generator) -> np.ndarray:
    markets, products, segments = before.shape
    common = random.standard_normal((markets, 1, segments))
    own = random.standard_normal((markets, products, segments))
    together = np.sqrt(shock.common) * common + np.sqrt(1.0 - shock.common) * own
    return shock.persistence * before + np.sqrt(1.0 - shock.persistence**2) * shock.scale * together


def _move_costs(
    costs: Costs, cost: np.ndarray, list_price: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    assert costs.change_scale is not None
    assert costs.list_price is not None
    assert costs.price_tick is not None
    moves = random.random(cost.shape) < costs.change_probability
    if moves.any():
        jump = np.exp(costs.change_scale * random.standard_normal(cost.shape) - 0.5 * costs.change_scale**2)
        cost = np.minimum(np.where(moves, cost * jump, cost), 0.9 * list_price)
    revised = random.random(cost.shape) < costs.list_revision_probability
    if revised.any():
        target = cost * costs.list_price / costs.unit_cost
        list_price = np.where(revised, round_to_tick(target, costs.price_tick), list_price)
    return cost, list_price
