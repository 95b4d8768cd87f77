"""Policies let loose on one-product markets, many independent runs side by side."""

from __future__ import annotations

import numpy as np

from pricing_fm.markets.oracles.checks import check_integer
from pricing_fm.markets.policies.analytic_markets import CurveMarket, LadderMarket, SeasonMarket
from pricing_fm.markets.policies.online import OnlinePolicy, build_situation, check_prices
from pricing_fm.markets.policies.scores import PricingRuns

POINTS = 60  # of a regret curve, evenly spaced in the log of time


def simulate_pricing(
    market: CurveMarket | LadderMarket,
    policy: OnlinePolicy,
    periods: int,
    runs: int,
    random: np.random.Generator,
    unit_costs: np.ndarray | None = None,
    rival_prices: np.ndarray | None = None,
) -> PricingRuns:
    """Profit and regret of a policy on a market without a stock limit.

    Regret compares expected profits at the chosen and at the best price, so noise of demand does not enter it directly.

    Args:
        market: Demand and its noise.
        policy: A fresh policy for `runs` runs.
        periods: Length of every run, >= 2.
        runs: Independent runs, >= 1.
        random: Draws demand and what the policy draws.
        unit_costs: Cost of a unit, shape `(periods, runs)`, currency; None = the market's.
        rival_prices: What the rival charges, shape `(periods, runs)`, currency; NaN = not seen, None = never.

    Returns:
        Profit, regret curve and where the prices ended.

    Raises:
        ValueError: If a number or shape is wrong or the policy sets a price that is none.
    """
    periods, runs = check_integer("periods", periods, least=2), check_integer("runs", runs, least=1)
    costs = _check_paths("unit_costs", unit_costs, periods, runs, market.cost)
    rivals = _check_paths("rival_prices", rival_prices, periods, runs, np.nan)
    best = market.optimal_profit(costs) if unit_costs is not None else None
    common_best = market.optimal_profit(np.full(runs, market.cost))
    points = np.unique(np.geomspace(1, periods, POINTS).round().astype(int))
    profit, regret, loss = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    lowest, highest = np.full(runs, np.inf), np.full(runs, -np.inf)
    curve: list[np.ndarray] = []
    for t in range(periods):
        situation = build_situation(runs, periods - t, unit_costs=costs[t], rival_prices=rivals[t])
        prices = check_prices(policy.choose(situation, random), runs)
        sales = market.draw_demand(prices, random)
        policy.update(prices, sales)
        optimum = common_best if best is None else best[t]
        loss = optimum - market.expected_profit(prices, costs[t])
        regret = regret + loss
        offered = np.isfinite(prices)
        profit += np.where(offered, prices - costs[t], 0.0) * np.where(offered, sales, 0.0)
        if t >= periods // 2:
            lowest, highest = np.minimum(lowest, prices), np.maximum(highest, prices)
        if t + 1 == points[len(curve)]:
            curve.append(regret)
    # Two infinite prices are the same: not offered.
    movement = np.subtract(highest, lowest, out=np.zeros(runs), where=highest != lowest)
    # Where nothing can be earned there is no share to lose, unless selling costs money.
    last_loss = np.divide(loss, optimum, out=np.where(loss > 0, np.inf, 0.0), where=optimum > 0)
    return PricingRuns(profit, points, np.stack(curve, axis=1), last_loss, movement)


def simulate_stock(
    market: LadderMarket, policy: OnlinePolicy, inventory: int, periods: int, runs: int, random: np.random.Generator
) -> np.ndarray:
    """Profit of a policy that sells a stock over a number of periods; demand above the stock is lost.

    Args:
        market: The ladder and its demand.
        policy: A fresh policy for `runs` runs.
        inventory: Units, whole, >= 0.
        periods: Length of every run, >= 1.
        runs: Independent runs, >= 1.
        random: Draws demand and what the policy draws.

    Returns:
        Profit of every run, float64, shape `(runs,)`, currency.

    Raises:
        ValueError: If a number is out of bounds or the policy sets a price that is no rung.
    """
    stock = np.full(check_integer("runs", runs, least=1), float(check_integer("inventory", inventory)))
    profit = np.zeros(len(stock))
    for t in range(check_integer("periods", periods, least=1)):
        situation = build_situation(len(stock), periods - t, stock, market.cost)
        prices = check_prices(policy.choose(situation, random), len(stock))
        sales = np.minimum(market.draw_demand(prices, random), stock)
        policy.update(prices, sales)
        stock = stock - sales
        profit += np.where(np.isfinite(prices), prices - market.cost, 0.0) * sales
    return profit


def simulate_season(
    market: SeasonMarket,
    policy: OnlinePolicy,
    runs: int,
    random: np.random.Generator,
    lowest_price: float | None = None,
) -> np.ndarray:
    """Revenue of a policy over a season in continuous time, exact: prices move with every instant, not with a grid.

    Customers who would pay the lowest price come by a Poisson process; each of them buys at the price of the moment
    with the ratio of the two sales rates (thinning).

    Args:
        market: The season.
        policy: A policy that looks at stock and time left.
        runs: Independent runs, >= 1.
        random: Draws customers and their choices; memory and time grow with the customers at the lowest price.
        lowest_price: No price of the policy lies below it, currency; None = 1 / rate, below which none is ever best.

    Returns:
        Revenue of every run, float64, shape `(runs,)`, currency.

    Raises:
        ValueError: If the policy sets a price below the lowest, NaN or none per run.
    """
    runs = check_integer("runs", runs, least=1)
    floor = 1.0 / market.rate if lowest_price is None else lowest_price
    most = float(market.sales_rate(np.array(floor)))
    customers = random.poisson(most * market.horizon, runs)
    # Given their number, the times of a Poisson process are sorted uniform draws; missing ones lie behind the end.
    times = random.uniform(0.0, market.horizon, (runs, max(int(customers.max()), 1)))
    times = np.sort(np.where(np.arange(times.shape[1]) < customers[:, None], times, np.inf), axis=1)
    stock, revenue = np.full(runs, float(market.inventory)), np.zeros(runs)
    for column in range(times.shape[1]):
        if not stock.any():
            break
        here = np.isfinite(times[:, column])
        left = np.where(here, market.horizon - times[:, column], 0.0)
        prices = check_prices(policy.choose(build_situation(runs, left, stock), random), runs)
        if prices.min() < floor * (1.0 - 1e-9):
            raise ValueError(f"prices fall to {prices.min()}; give a lowest_price no higher, it is {floor}")
        chance = np.where(here & (stock > 0), market.sales_rate(prices) / most, 0.0)
        sales = (random.random(runs) < chance).astype(np.float64)
        policy.update(prices, sales)
        stock = stock - sales
        revenue += np.where(sales > 0, prices, 0.0)
    return revenue


def _check_paths(name: str, values: np.ndarray | None, periods: int, runs: int, common: float) -> np.ndarray:
    """Numbers of every period and run; a common one where none are given."""
    if values is None:
        return np.broadcast_to(np.float64(common), (periods, runs))
    if np.shape(values) != (periods, runs):
        raise ValueError(f"{name} has shape {np.shape(values)}; it must be ({periods}, {runs}), periods by runs")
    # A common number that is NaN means that numbers may be missing.
    known = np.asarray(values, dtype=np.float64)[~np.isnan(values)] if np.isnan(common) else np.asarray(values)
    if not (np.isfinite(known) & (known >= 0)).all():
        raise ValueError(f"{name} holds a number that is negative or not finite; all must be 0 or more")
    return np.asarray(values, dtype=np.float64)
