"""Learning which rung of a price ladder is best: upper confidence bounds, and Thompson sampling with a stock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pricing_fm.markets.oracles.checks import check_integer, check_number
from pricing_fm.markets.policies.analytic_markets import LadderProgram, check_ladder, find_rungs
from pricing_fm.markets.policies.online import NOT_OFFERED, Situation, check_feedback, check_runs


@dataclass(frozen=True)
class UpperConfidenceSettings:
    """What upper confidence bounds on a ladder start with.

    Attributes:
        price_ladder: Prices of the rungs, rising, > 0.
        demand_spread: Sub-Gaussian scale of the units sold in a period, > 0; 1/2 for at most one customer a period.
        exploration: Width of the bounds, > 0: demand_spread x sqrt(2 x exploration x log t / n). Above 2 the
            logarithmic bound is proved; 4 with a spread of 1/2 is UCB1.

    Raises:
        ValueError: If the ladder is invalid or a number is not positive.
    """

    price_ladder: tuple[float, ...]
    demand_spread: float = 0.5
    exploration: float = 2.5

    def __post_init__(self) -> None:
        check_ladder(self.price_ladder)
        check_number("demand_spread", self.demand_spread, above=0)
        check_number("exploration", self.exploration, above=0)


class UpperConfidenceLadder:
    """Charges the rung whose profit could be highest: every rung once, then by upper confidence bound.

    Regret grows like the logarithm of time. The bounds scale with the margin of the rung, as profits do. One of the
    rungs is always charged: not selling is no choice here.

    Args:
        settings: Ladder and width of the bounds.
        runs: Independent runs.

    Raises:
        ValueError: If there is no run.

    References:
        Auer, Cesa-Bianchi and Fischer 2002, Machine Learning 47 (UCB1); Bubeck and Cesa-Bianchi 2012, Foundations and
        Trends in Machine Learning 5(1), theorem 2.1 (any exploration above 2).
    """

    def __init__(self, settings: UpperConfidenceSettings, runs: int) -> None:
        self.settings = settings
        self.ladder = check_ladder(settings.price_ladder)
        self.runs = check_integer("runs", runs, least=1)
        self.counts = np.zeros((self.runs, len(self.ladder)))  # periods at every rung
        self.mean_sales = np.zeros((self.runs, len(self.ladder)))

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; the same for the same past (nothing is drawn).

        Raises:
            ValueError: If the situation has another number of runs.
        """
        check_runs(situation, self.runs)
        tried = self.counts > 0
        periods = np.maximum(self.counts.sum(axis=1, keepdims=True), 1.0)
        width = np.sqrt(2.0 * self.settings.exploration * np.log(periods) / np.maximum(self.counts, 1.0))
        margins = self.ladder - situation.unit_costs[:, None]
        bound = margins * self.mean_sales + np.abs(margins) * self.settings.demand_spread * width
        return self.ladder[np.where(tried, bound, np.inf).argmax(axis=1)]

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Add one period to the means.

        Raises:
            ValueError: If a price is no rung, or shapes are wrong or a number is NaN.
        """
        check_feedback(prices, sales, self.runs)
        rungs = find_rungs(self.ladder, prices)
        offered = np.flatnonzero(rungs < len(self.ladder))
        at = (offered, rungs[offered])
        self.counts[at] += 1.0
        self.mean_sales[at] += (sales[offered] - self.mean_sales[at]) / self.counts[at]


@dataclass(frozen=True)
class ThompsonSettings:
    """What Thompson sampling on a ladder starts with.

    Attributes:
        price_ladder: Prices of the rungs, rising, > 0.
        law: "bernoulli": at most one customer a period, beta prior; "poisson": many, gamma prior.
        prior: Two positive numbers per rung, the same for all: successes and failures of the beta, or shape and rate
            (periods) of the gamma.
        units_per_period: Stock that a period may use in the mean; None = stock left over periods left, computed anew in
            every period; a number, initial stock over all periods, keeps the constraint fixed.

    Raises:
        ValueError: If the ladder or the law is invalid or a number is out of bounds.
    """

    price_ladder: tuple[float, ...]
    law: Literal["bernoulli", "poisson"]
    prior: tuple[float, float] = (1.0, 1.0)
    units_per_period: float | None = None

    def __post_init__(self) -> None:
        check_ladder(self.price_ladder)
        if self.law not in ("bernoulli", "poisson"):
            raise ValueError(f"law is {self.law!r}; it must be 'bernoulli' or 'poisson'")
        for i, number in enumerate(self.prior):
            check_number(f"prior[{i}]", number, above=0)
        if self.units_per_period is not None:
            check_number("units_per_period", self.units_per_period, least=0)


class ThompsonLadder:
    """Draws a demand curve from the posterior, mixes rungs by the linear program with the stock, draws one of them.

    Without a stock limit this is plain Thompson sampling on profits.

    Args:
        settings: Ladder, law, prior and the constraint on stock.
        runs: Independent runs.

    Raises:
        ValueError: If there is no run.

    References:
        Ferreira, Simchi-Levi and Wang 2018, Operations Research 66(6) (algorithms TS-fixed and TS-update).
    """

    def __init__(self, settings: ThompsonSettings, runs: int) -> None:
        self.settings = settings
        self.ladder = check_ladder(settings.price_ladder)
        self.runs = check_integer("runs", runs, least=1)
        self.counts = np.zeros((self.runs, len(self.ladder)))  # periods at every rung
        self.units = np.zeros((self.runs, len(self.ladder)))  # sold there

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; infinite where nothing is offered.

        Raises:
            ValueError: If the situation has another number of runs.
        """
        check_runs(situation, self.runs)
        first, second = self.settings.prior
        if self.settings.law == "bernoulli":
            demand = random.beta(first + self.units, second + self.counts - self.units)
        else:
            demand = random.gamma(first + self.units) / (second + self.counts)
        if self.settings.units_per_period is None:
            limit = situation.stock / situation.time_left
        else:
            limit = np.full(self.runs, self.settings.units_per_period)
        low, high, weight = solve_ladder_program(self.ladder - situation.unit_costs[:, None], demand, limit)
        rungs = np.where(random.random(self.runs) < weight, high, low)
        prices = np.append(self.ladder, NOT_OFFERED)[rungs]
        return np.where(situation.stock > 0, prices, NOT_OFFERED)

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Add one period to the posterior.

        Raises:
            ValueError: If a price is no rung, or shapes are wrong, or units are NaN, negative or (Bernoulli) above 1.
        """
        check_feedback(prices, sales, self.runs)
        most = 1.0 if self.settings.law == "bernoulli" else np.inf
        if sales.min() < 0 or sales.max() > most:
            raise ValueError(f"sales lie in [{sales.min()}, {sales.max()}]; {self.settings.law} needs [0, {most}]")
        rungs = find_rungs(self.ladder, prices)
        offered = np.flatnonzero(rungs < len(self.ladder))
        self.counts[offered, rungs[offered]] += 1.0
        self.units[offered, rungs[offered]] += sales[offered]


class BestLadder:
    """Follows the exact dynamic program of a ladder with stock: the optimum of a seller that knows the demand.

    Args:
        program: Best rungs by periods and units left (`compute_ladder_program`).
        price_ladder: The ladder it was computed for.

    Raises:
        ValueError: If the ladder is invalid.
    """

    def __init__(self, program: LadderProgram, price_ladder: Sequence[float]) -> None:
        self.program = program
        self.prices = np.append(check_ladder(price_ladder), NOT_OFFERED)

    def choose(self, situation: Situation, random: np.random.Generator) -> np.ndarray:
        """Prices, shape `(runs,)`, currency; infinite where nothing is offered.

        Raises:
            ValueError: If more periods or units are left than the program was computed for.
        """
        most = np.array(self.program.rungs.shape) - 1
        if situation.time_left.max() > most[0] or situation.stock.max() > most[1]:
            raise ValueError(
                f"time_left up to {situation.time_left.max()} and stock up to {situation.stock.max()}; the program"
                f" covers {most[0]} periods and {most[1]} units"
            )
        return self.prices[self.program.rungs[situation.time_left.astype(int), situation.stock.astype(int)]]

    def update(self, prices: np.ndarray, sales: np.ndarray) -> None:
        """Learns nothing."""


def solve_ladder_program(
    margins: np.ndarray, demand: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixture of rungs of highest mean profit whose mean sales stay within a limit; not selling is a rung too.

    With one constraint on stock and one on the weights, at most two rungs mix; all pairs are compared.

    Args:
        margins: Profit per unit, shape `(runs, rungs)` or `(1, rungs)`, currency.
        demand: Mean units per period, >= 0, shape `(runs, rungs)`.
        limit: Mean units per period that the stock allows, >= 0, shape `(runs,)`; infinite = any.

    Returns:
        Position of the rung of lesser demand, of greater demand, and the weight of the latter, each of shape `(runs,)`;
        position `rungs` stands for not selling.

    Raises:
        ValueError: If a limit is negative or NaN.
    """
    if not (limit >= 0).all():
        raise ValueError(f"limit is as low as {np.min(limit)}; the stock per period must be at least 0")
    none = np.zeros((len(demand), 1))
    units = np.concatenate([demand, none], axis=1)
    profit = np.concatenate([np.broadcast_to(margins, demand.shape) * demand, none], axis=1)
    low, high = units[:, :, None], units[:, None, :]
    cap = limit[:, None, None]
    mixes = (low <= cap) & (high > cap)
    share = np.where(mixes, cap - low, 0.0) / np.where(mixes, high - low, 1.0)
    value = np.where(mixes, profit[:, :, None] * (1.0 - share) + profit[:, None, :] * share, -np.inf)
    alone = np.where(units <= limit[:, None], profit, -np.inf)
    rungs = np.arange(units.shape[1])
    value[:, rungs, rungs] = alone
    best = value.reshape(len(units), -1).argmax(axis=1)
    first, second = np.divmod(best, units.shape[1])
    return first, second, share.reshape(len(units), -1)[np.arange(len(units)), best]
