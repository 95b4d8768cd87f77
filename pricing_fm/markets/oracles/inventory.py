"""Price and stock: newsvendor, base stock, perishable stock sold over a season, markdown plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import Bounds, LinearConstraint, milp

from pricing_fm.markets.oracles.checks import (
    answers_in_floating_point,
    check_integer,
    check_matrix,
    check_number,
    check_numbers,
    check_steps,
)
from pricing_fm.markets.oracles.distributions import (
    LARGEST_COUNT,
    check_season_demand,
    compute_normal_density,
    compute_normal_quantile,
    compute_poisson_limited_mean,
    compute_poisson_log_point,
    compute_poisson_loss,
    compute_poisson_quantile,
    count_terms,
)

_LARGEST_SCARCE_STOCK = 10**12  # below what could be sold; its value is a sum over the square root


@answers_in_floating_point()
def newsvendor(price: float, cost: float, salvage: float, demand: Mapping[str, Any]) -> dict[str, float]:
    """Order quantity for one season: demand stays below it with probability (price - cost) / (price - salvage).

    Args:
        price: Selling price per unit, above the cost.
        cost: Purchase cost per unit, >= 0.
        salvage: What a left-over unit brings, below the cost; negative = disposal cost.
        demand: {"kind": "normal", "mean", "std"} (not truncated at zero) or {"kind": "poisson", "mean"}.

    Returns:
        quantity (whole for Poisson, never negative), profit (expected), critical_fractile.

    Raises:
        ValueError: If an argument is invalid or not salvage < cost < price.
    """
    cost = check_number("cost", cost, least=0)
    price = check_number("price", price, above=cost)
    salvage = check_number("salvage", salvage, below=cost)
    kind, mean, std = check_season_demand(demand)
    under, over = price - cost, cost - salvage
    if kind == "poisson":
        stock = compute_poisson_quantile(under, over, mean)
        short, left = compute_poisson_loss(mean, stock)
        sold = stock - left if stock < mean else mean - short
        profit = under * sold - over * left
        return {"quantity": float(stock), "profit": profit, "critical_fractile": under / (price - salvage)}
    z = compute_normal_quantile(under, over)
    quantity = mean + std * z
    # At the quantile E[min(D, q)] and E[max(q - D, 0)] put together leave the density alone.
    profit = under * mean - (price - salvage) * std * compute_normal_density(z)
    if quantity < 0.0:
        quantity, z = 0.0, -mean / std
        profit = -(price - salvage) * std * (z * float(special.ndtr(z)) + compute_normal_density(z))
    return {"quantity": quantity, "profit": profit, "critical_fractile": under / (price - salvage)}


@answers_in_floating_point()
def base_stock(mean_demand: float, lead_time: float, backorder_cost: float, holding_cost: float) -> dict[str, float]:
    """Order-up-to level under periodic review with Poisson demand and full backlogging.

    The level covers the demand of the lead time and the review period with probability backorder / (backorder +
    holding).

    Args:
        mean_demand: Mean demand of a period, >= 0.
        lead_time: Periods between order and delivery, >= 0.
        backorder_cost: Per unit short at the end of a period, >= 0.
        holding_cost: Per unit left at the end of a period, > 0.

    Returns:
        level, cost (expected per period).

    Raises:
        ValueError: If an argument is out of bounds.
    """
    mean = check_number("mean_demand", mean_demand, least=0) * (check_number("lead_time", lead_time, least=0) + 1.0)
    backorder = check_number("backorder_cost", backorder_cost, least=0)
    holding = check_number("holding_cost", holding_cost, above=0)
    if mean > LARGEST_COUNT:
        raise ValueError(f"mean_demand x (lead_time + 1) is {mean:g}; it must be at most {LARGEST_COUNT:g}")
    level = compute_poisson_quantile(backorder, holding, mean)
    short, left = compute_poisson_loss(mean, level)
    return {"level": float(level), "cost": holding * left + backorder * short}


@answers_in_floating_point("price", "fixed_price")
def gallego_van_ryzin(scale: float, rate: float, inventory: int, horizon: float) -> dict[str, float]:
    """Perishable stock sold by Poisson demand of intensity scale x exp(-rate p): the exact continuous-time policy.

    Value = log(sum over i up to the stock of (scale x horizon / e) ** i / i!) / rate.

    Args:
        scale: Intensity at price zero, > 0.
        rate: Price sensitivity, > 0.
        inventory: Units to sell, whole, >= 0.
        horizon: Time left, >= 0.

    Returns:
        value, price (optimal now), fluid_bound, fixed_price (of the fluid problem), fixed_price_value (its exact
        expected revenue). Without stock both prices are infinite.

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Gallego and van Ryzin 1994, Management Science 40(8).
    """
    scale = check_number("scale", scale, above=0)
    rate = check_number("rate", rate, above=0)
    stock = check_integer("inventory", inventory)
    horizon = check_number("horizon", horizon, least=0)
    if stock == 0:
        nothing = {"value": 0.0, "fluid_bound": 0.0, "fixed_price_value": 0.0}
        return {**nothing, "price": math.inf, "fixed_price": math.inf}
    # Sales at the revenue-maximal price 1 / rate, and what the stock allows.
    free_sales = scale * horizon / math.e
    if free_sales == 0.0:
        nothing = {"value": 0.0, "fluid_bound": 0.0, "fixed_price_value": 0.0}
        return {**nothing, "price": 1.0 / rate, "fixed_price": 1.0 / rate}
    log_sum, marginal = _sum_poisson_terms(free_sales, stock)
    fixed_price = (1.0 + max(math.log(free_sales / stock), 0.0)) / rate
    sales = min(free_sales, stock)
    return {
        "value": log_sum / rate,
        "price": (marginal + 1.0) / rate,
        "fluid_bound": sales * fixed_price,
        "fixed_price": fixed_price,
        "fixed_price_value": fixed_price * float(compute_poisson_limited_mean(sales, stock)),
    }


@answers_in_floating_point()
def uniform_valuation_dynamic_program(arrival_probability: float, inventory: int, periods: int) -> dict[str, Any]:
    """At most one arrival a period, valuation uniform on [0, 1]: exact dynamic program.

    With one more unit worth D next period the price is (1 + D) / 2.

    Args:
        arrival_probability: Chance of an arrival in a period, in [0, 1].
        inventory: Units to sell, whole, >= 0.
        periods: Periods left, whole, >= 1.

    Returns:
        values and first_prices for every stock 1..inventory.

    Raises:
        ValueError: If an argument is out of bounds.
    """
    arrival = check_number("arrival_probability", arrival_probability, least=0, most=1)
    stock = check_integer("inventory", inventory)
    periods = check_integer("periods", periods, least=1)
    check_steps(periods, stock, "inventory")
    values = np.zeros(stock + 1)
    prices = np.zeros(stock)
    for _ in range(periods):
        worth = np.diff(values)
        prices = (1.0 + worth) / 2.0
        values[1:] += arrival * ((1.0 - worth) / 2.0) ** 2
    return {"values": values[1:].tolist(), "first_prices": prices.tolist()}


@answers_in_floating_point()
def markdown_plan(price_ladder: Sequence[float], demand: Sequence[Sequence[float]], inventory: float) -> dict[str, Any]:
    """One rung of a price ladder per period, total demand within the inventory.

    The relaxed plan may mix rungs within a period (a linear program); the pure plan is an exact integer program.

    Args:
        price_ladder: Prices of the rungs, >= 0.
        demand: Units sold, `demand[period][rung]`, >= 0.
        inventory: Units to sell, >= 0.

    Returns:
        relaxed_value, ladder_value, ladder_prices (one per period).

    Raises:
        ValueError: If sizes differ, a number is negative or even the rungs of least demand exceed the inventory.
    """
    ladder = check_numbers("price_ladder", price_ladder, least=0)
    units = check_matrix("demand", demand, None, len(ladder), least=0)
    stock = check_number("inventory", inventory, least=0)
    least = float(units.min(axis=1).sum())
    if least > stock * (1 + 1e-12):
        raise ValueError(f"inventory is {stock:g}; the rungs of least demand already sell {least:g}, so no plan fits")
    revenue = ladder * units
    value = _relax_ladder(revenue, units, max(stock, least))
    plan = _plan_ladder(revenue, units, max(stock, least), value)
    pure = float(revenue[np.arange(len(plan)), plan].sum())
    return {"relaxed_value": value, "ladder_value": pure, "ladder_prices": ladder[plan].tolist()}


@answers_in_floating_point()
def reference_price_policy(
    intercept: float,
    slope: float,
    reference_effect: float,
    memory: float,
    discount: float,
    cost: float,
    initial_reference: float,
) -> dict[str, float]:
    """Optimal prices when demand compares the price with a remembered one, over an infinite horizon.

    Demand a - b p + g (r - p), memory r' = m r + (1 - m) p. The value is quadratic in r, so the policy is linear; the
    quadratic coefficient is the stabilising root of a scalar Riccati equation.

    Args:
        intercept: a, > 0.
        slope: b, > 0.
        reference_effect: g, >= 0.
        memory: m, weight of the old memory, in [0, 1].
        discount: Per period, in [0, 1).
        cost: Unit cost, >= 0, at most intercept / slope.
        initial_reference: Remembered price at the start, >= 0, not so low that the first demand would be negative.

    Returns:
        steady_price, policy_intercept, policy_slope (price = intercept + slope x remembered price), value (the first
        period undiscounted).

    Raises:
        ValueError: If an argument is out of bounds, or demand would be negative, where linear demand says nothing.

    References:
        Fibich, Gavious and Lowengart 2003, Operations Research 51(5); Popescu and Wu 2007, Operations Research 55(3).
    """
    a = check_number("intercept", intercept, above=0)
    b = check_number("slope", slope, above=0)
    g = check_number("reference_effect", reference_effect, least=0)
    m = check_number("memory", memory, least=0, most=1)
    beta = check_number("discount", discount, least=0, below=1)
    c = check_number("cost", cost, least=0)
    r = check_number("initial_reference", initial_reference, least=0)
    if b * c > a * (1.0 + 1e-12):
        raise ValueError(f"cost is {c:g}; it must be at most intercept / slope, {a / b:g}, where the last demand goes")
    # At rest the marginal revenue over all later periods is the marginal cost.
    memory_slope = b + g * (1.0 - beta) / (1.0 - beta * m)
    margin = max(a - b * c, 0.0) / (b + memory_slope)
    steady, sales = (a + memory_slope * c) / (b + memory_slope), memory_slope * margin
    quadratic, policy_slope, rest = _solve_reference_riccati(b, g, m, beta)
    away = r - steady
    first_sales = sales + (g - (b + g) * policy_slope) * away
    if first_sales < -1e-9 * (a + (b + g) * policy_slope * abs(away)):
        raise ValueError(
            f"initial_reference is {r:g}; the first period's demand would be {first_sales:.6g}, but must be at least 0"
        )
    return {
        "steady_price": steady,
        "policy_intercept": steady * rest,
        "policy_slope": policy_slope,
        # Around the price at rest, where the value is known and its slope is g x margin for every period remembered.
        "value": margin * sales / (1.0 - beta) + away * (g * margin / (1.0 - beta * m) + quadratic * away),
    }


def _solve_reference_riccati(b: float, g: float, m: float, beta: float) -> tuple[float, float, float]:
    """Quadratic coefficient of the value in the remembered price, slope of the policy, and 1 - slope.

    V(r) = A r**2 + B r + C with 4 beta n**2 A**2 - 4 k A + g**2 = 0; the root of k**2 - beta n**2 g**2 in factors.
    """
    h, n, root = b + g, 1.0 - m, math.sqrt(beta)
    shrink = (1.0 - beta) / (1.0 + root)
    low = (1.0 - beta * m**2) * b + g * shrink * (1.0 + root * m)
    high = (1.0 - beta * m**2) * b + g * (1.0 + root) * (1.0 - root * m)
    k, middle = (low + high) / 2.0, math.sqrt(low) * math.sqrt(high)
    quadratic = g**2 / (2.0 * (k + middle))
    curvature = h - beta * quadratic * n**2
    policy_slope = (g + 2.0 * beta * quadratic * m * n) / (2.0 * curvature)
    # 1 - policy_slope without cancellation.
    rest = (2.0 * b + g * (low + n * g * root * shrink + middle) / (k + middle)) / (2.0 * curvature)
    return quadratic, policy_slope, rest


def _sum_poisson_terms(mean: float, stock: int) -> tuple[float, float]:
    """Log of the sum over i up to the stock of mean ** i / i!, and what it gains by the last term."""
    if stock >= mean:
        # exp(mean) x P(D <= stock)
        tail = float(special.pdtrc(stock, mean))
        last = math.exp(float(compute_poisson_log_point(stock, mean))) / (1.0 - tail)
        return mean + math.log1p(-tail), -math.log1p(-last)
    if stock > _LARGEST_SCARCE_STOCK:
        raise ValueError(
            f"inventory is {stock}; it must be at most {_LARGEST_SCARCE_STOCK:g}, or at least scale x horizon / e,"
            f" {mean:g}"
        )
    # The last term is the largest: the others are counted down from it.
    others = float(np.cumprod((stock - np.arange(min(count_terms(stock), stock))) / mean).sum())
    last_term = stock * math.log(mean / stock) + (stock * math.log(stock) - float(special.gammaln(stock + 1.0)))
    return last_term + math.log1p(others), math.log1p(others) - math.log(others)


def _relax_ladder(revenue: np.ndarray, units: np.ndarray, stock: float) -> float:
    """Value of the best plan that may mix rungs within a period: steps of the upper hulls, best gain per unit first."""
    value, left, steps = 0.0, stock, []
    for earned, sold in zip(revenue.tolist(), units.tolist()):
        at, have = min(zip(sold, (-e for e in earned)))
        value, left, have = value - have, left - at, -have
        while True:
            gains = [((e - have) / (s - at), s, e) for e, s in zip(earned, sold) if s > at and e > have]
            if not gains:
                break
            per_unit, sold_then, earned_then = max(gains)
            steps.append((per_unit, sold_then - at))
            at, have = sold_then, earned_then
    for per_unit, amount in sorted(steps, reverse=True):
        taken = min(amount, max(left, 0.0))
        value, left = value + per_unit * taken, left - taken
    return value


def _plan_ladder(revenue: np.ndarray, units: np.ndarray, stock: float, relaxed_value: float) -> np.ndarray:
    """Rung of every period in the best pure plan, by branch and bound (HiGHS) without a gap."""
    periods, rungs = units.shape
    # A rung that sells no less than another for no more revenue is never needed.
    no_less, no_more = units[:, :, None] >= units[:, None], revenue[:, :, None] <= revenue[:, None]
    first = np.arange(rungs)[:, None] > np.arange(rungs)
    same = (units[:, :, None] == units[:, None]) & (revenue[:, :, None] == revenue[:, None])
    dominated = (no_less & no_more & (~same | first)).any(axis=2)
    # A rung that does not fit beside the least of all other periods is never taken.
    lowest = units.min(axis=1, keepdims=True)
    banned = (dominated | (units - lowest > stock * (1.0 + 1e-12) - lowest.sum())).ravel()
    # Stock and value are brought to 10,000, so that the solver's absolute tolerance of 1e-6 is 1e-10 of them.
    stock = min(stock, float(units.max(axis=1).sum()))
    weight = np.where(banned, 0.0, units.ravel()) * (1e4 / stock if stock > 0 else 1.0)
    one_per_period = LinearConstraint(np.kron(np.eye(periods), np.ones(rungs)), 1.0, 1.0)
    limit = 1e4 if stock > 0 else 0.0
    gain = np.where(banned, 0.0, revenue.ravel()) * (1e4 / relaxed_value if relaxed_value > 0 else 1.0)
    while True:
        solution = milp(
            -gain,
            constraints=[one_per_period, LinearConstraint(weight[None], -np.inf, limit)],
            integrality=np.ones(units.size),
            bounds=Bounds(0.0, np.where(banned, 0.0, 1.0)),
            options={"mip_rel_gap": 0.0},
        )
        if solution.status != 0:
            raise ValueError(f"demand and inventory have no plan that the solver finds: {solution.message}")
        plan = solution.x.reshape(units.shape).argmax(axis=1)
        excess = float(units[np.arange(periods), plan].sum()) - stock
        if excess <= 1e-12 * stock:
            return plan
        # Inside the solver's tolerance, yet above the stock: ask again for a little less.
        limit -= 2.0 * excess * 1e4 / stock
