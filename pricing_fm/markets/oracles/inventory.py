"""Price and stock: newsvendor, base stock, perishable stock sold over a season, markdown plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from pricing_fm.markets.oracles.checks import (
    check_demand,
    check_integer,
    check_matrix,
    check_number,
    check_numbers,
)
from pricing_fm.markets.oracles.distributions import (
    DEMAND_FIELDS,
    compute_normal_density,
    compute_poisson_limited_mean,
    compute_poisson_quantile,
)


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
    kind = check_demand(demand, DEMAND_FIELDS)
    mean = check_number("demand['mean']", demand["mean"], least=0)
    fractile = (price - cost) / (price - salvage)
    if kind == "poisson":
        quantity = float(compute_poisson_quantile(fractile, mean))
        sold = float(compute_poisson_limited_mean(mean, int(quantity)))
    else:
        std = check_number("demand['std']", demand["std"], least=0)
        quantity = max(mean + std * float(special.ndtri(fractile)), 0.0)
        z = (quantity - mean) / std if std > 0 else 0.0
        # E[min(D, q)] of a normal demand.
        left = std * (z * float(special.ndtr(z)) + compute_normal_density(z)) if std > 0 else 0.0
        sold = quantity - left
    profit = (price - salvage) * sold - (cost - salvage) * quantity
    return {"quantity": quantity, "profit": profit, "critical_fractile": fractile}


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
    level = compute_poisson_quantile(backorder / (backorder + holding), mean)
    filled = float(compute_poisson_limited_mean(mean, level))
    return {"level": float(level), "cost": holding * (level - filled) + backorder * (mean - filled)}


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
    counts = np.arange(stock + 1)
    terms = counts * math.log(free_sales) - special.gammaln(counts + 1.0)
    log_sum = float(special.logsumexp(terms))
    # Value with one unit less differs by the last term alone.
    marginal = -math.log1p(-math.exp(terms[-1] - log_sum)) / rate
    fixed_price = (1.0 + max(math.log(free_sales / stock), 0.0)) / rate
    return {
        "value": log_sum / rate,
        "price": marginal + 1.0 / rate,
        "fluid_bound": min(free_sales, stock) * fixed_price,
        "fixed_price": fixed_price,
        "fixed_price_value": fixed_price
        * float(compute_poisson_limited_mean(scale * horizon * math.exp(-rate * fixed_price), stock)),
    }


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
    values = np.zeros(stock + 1)
    prices = np.zeros(stock)
    for _ in range(periods):
        worth = np.diff(values)
        prices = (1.0 + worth) / 2.0
        values[1:] += arrival * ((1.0 - worth) / 2.0) ** 2
    return {"values": values[1:].tolist(), "first_prices": prices.tolist()}


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
    periods, rungs = units.shape
    one_per_period = np.kron(np.eye(periods), np.ones(rungs))
    relaxed = linprog(
        -revenue.ravel(), units.reshape(1, -1), [max(stock, least)], one_per_period, np.ones(periods), method="highs"
    )
    plan = _plan_ladder(revenue, units, stock, -float(relaxed.fun))
    value = float(revenue[np.arange(periods), plan].sum())
    return {"relaxed_value": -float(relaxed.fun), "ladder_value": value, "ladder_prices": ladder[plan].tolist()}


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
        cost: Unit cost, >= 0.
        initial_reference: Remembered price at the start, >= 0.

    Returns:
        steady_price, policy_intercept, policy_slope (price = intercept + slope x remembered price), value (the first
        period undiscounted).

    Raises:
        ValueError: If an argument is out of bounds.

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
    h, n = b + g, 1.0 - m
    # V(r) = A r**2 + B r + C with 4 beta n**2 A**2 - 4 k A + g**2 = 0.
    k = (1.0 - beta * m**2) * h - g * beta * m * n
    quadratic = g**2 / (2.0 * (k + math.sqrt(max(k**2 - beta * n**2 * g**2, 0.0))))
    curvature = h - beta * quadratic * n**2
    s = g + 2.0 * beta * quadratic * m * n
    # B = q s / (2 curvature) - c g + beta m B with q = a + c h + beta n B.
    policy_slope = s / (2.0 * curvature)
    linear = (policy_slope * (a + c * h) - c * g) / (1.0 - beta * m - beta * n * policy_slope)
    q = a + c * h + beta * n * linear
    constant = (q**2 / (4.0 * curvature) - c * a) / (1.0 - beta)
    policy_intercept = q / (2.0 * curvature)
    return {
        "steady_price": policy_intercept / (1.0 - policy_slope),
        "policy_intercept": policy_intercept,
        "policy_slope": policy_slope,
        "value": quadratic * r**2 + linear * r + constant,
    }


def _plan_ladder(revenue: np.ndarray, units: np.ndarray, stock: float, relaxed_value: float) -> np.ndarray:
    """Rung of every period in the best pure plan, by branch and bound (HiGHS) without a gap."""
    periods, rungs = units.shape
    # A rung that sells no less than another for no more revenue is never needed.
    no_less, no_more = units[:, :, None] >= units[:, None], revenue[:, :, None] <= revenue[:, None]
    first = np.arange(rungs)[:, None] > np.arange(rungs)
    same = (units[:, :, None] == units[:, None]) & (revenue[:, :, None] == revenue[:, None])
    dominated = (no_less & no_more & (~same | first)).any(axis=2)
    # Stock and value are brought to 10,000, so that the solver's absolute tolerance of 1e-6 is 1e-10 of them.
    weight = units.ravel() * (1e4 / stock if stock > 0 else 1.0)
    one_per_period = LinearConstraint(np.kron(np.eye(periods), np.ones(rungs)), 1.0, 1.0)
    limit = 1e4 if stock > 0 else 0.0
    gain = revenue.ravel() * (1e4 / relaxed_value if relaxed_value > 0 else 1.0)
    while True:
        solution = milp(
            -gain,
            constraints=[one_per_period, LinearConstraint(weight[None], -np.inf, limit)],
            integrality=np.ones(units.size),
            bounds=Bounds(0.0, np.where(dominated.ravel(), 0.0, 1.0)),
            options={"mip_rel_gap": 0.0},
        )
        plan = solution.x.reshape(units.shape).argmax(axis=1)
        excess = float(units[np.arange(periods), plan].sum()) - stock
        if excess <= 1e-12 * stock:
            return plan
        # Inside the solver's tolerance, yet above the stock: ask again for a little less.
        limit -= 2.0 * excess * 1e4 / stock
