"""One seller, one price: monopoly, credit, scarce supply, clearance and strategic buyers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import brentq

from pricing_fm.markets.oracles.checks import (
    answers_in_floating_point,
    check_demand,
    check_number,
    check_numbers,
    show,
)

_DEMAND_FIELDS = {
    "linear": ("intercept", "slope"),
    "constant_elasticity": ("scale", "elasticity"),
    "exponential": ("scale", "rate"),
    "logit": ("utility", "price_sensitivity"),
}


@answers_in_floating_point()
def monopoly_price(
    demand: Mapping[str, Any], cost: float, price_bounds: Sequence[float] | None = None
) -> dict[str, float]:
    """Price that maximises (price - cost) x demand.

    All four families have a profit with one peak in price, so that bounds simply cut it off.

    Args:
        demand: "kind" and its numbers: `linear` {intercept, slope}: intercept - slope p, never below zero;
            `constant_elasticity` {scale, elasticity}: scale x p ** -elasticity; `exponential` {scale, rate}:
            scale x exp(-rate p); `logit` {utility, price_sensitivity, market_size (default 1)}.
        cost: Unit cost, >= 0.
        price_bounds: Lowest and highest admissible price; None = any price.

    Returns:
        price, quantity, profit.

    Raises:
        ValueError: If an argument is invalid, or no finite positive price is optimal (elasticity at most one, or no
            cost under constant elasticity) and the bounds do not help.
    """
    kind = check_demand(demand, _DEMAND_FIELDS, ("market_size",) if _is_logit(demand) else ())
    cost = check_number("cost", cost, least=0)
    low, high = _check_bounds(price_bounds)
    numbers = {
        field: check_number(f"demand[{field!r}]", demand[field], **({} if field == "utility" else {"above": 0.0}))
        for field in _DEMAND_FIELDS[kind]
    }
    free, markup, sold = _free_price(kind, numbers, cost, high)
    price = _clip(free, low, high)
    if kind == "constant_elasticity" and price == 0.0:
        if high == 0.0:
            raise ValueError("price_bounds is [0, 0]; demand of constant elasticity has no limit at price 0")
        raise ValueError(
            f"cost is {cost}; without a cost, profit rises as the price falls to zero. Give a positive cost or a"
            " positive lowest price in price_bounds"
        )
    if price != free:
        markup, sold = price - cost, _quantity(kind, numbers, price)
    quantity = sold
    if kind == "logit":
        quantity *= check_number("demand['market_size']", demand.get("market_size", 1.0), above=0)
    return {"price": price, "quantity": quantity, "profit": markup * quantity}


@answers_in_floating_point()
def loan_rate(
    utility: float,
    rate_sensitivity: float,
    default_probability: float,
    default_rate_slope: float,
    loss_given_default: float,
    cost_of_funds: float,
) -> dict[str, float]:
    """Loan rate that maximises profit per applicant and unit lent.

    Profit = acceptance x [(1 - d) r - d x loss - funds], acceptance = logistic(utility - sensitivity x r) and
    d = default_probability + default_rate_slope x r. Log profit is concave between the break-even rates.

    Args:
        utility: Log odds of acceptance at rate zero.
        rate_sensitivity: Fall of the log odds per unit of rate (0.01 is one percentage point), > 0.
        default_probability: Chance of default at rate zero, in [0, 1].
        default_rate_slope: Rise of that chance per unit of rate, >= 0.
        loss_given_default: Share of the loan lost in a default, in [0, 1].
        cost_of_funds: Rate that the lender pays, >= 0.

    Returns:
        rate, acceptance, profit, break_even_rate (the lowest rate without a loss).

    Raises:
        ValueError: If an argument is invalid or no rate makes a profit.
    """
    u = check_number("utility", utility)
    s = check_number("rate_sensitivity", rate_sensitivity, above=0)
    d0 = check_number("default_probability", default_probability, least=0, most=1)
    d1 = check_number("default_rate_slope", default_rate_slope, least=0)
    loss = check_number("loss_given_default", loss_given_default, least=0, most=1)
    funds = check_number("cost_of_funds", cost_of_funds, least=0)

    # Margin per accepted loan: -d1 r**2 + linear r - fixed, or (root - d1 x) x at the distance x from break-even.
    break_even, root = _find_break_even(1.0 - d0 - d1 * loss, d1, d0 * loss + funds)
    # Without a slope the best x has a closed form; a slope lowers it, and the margin peaks at root / (2 d1).
    top = (1.0 + float(special.wrightomega(u - s * break_even - 1.0))) / s
    if d1 > 0.0:
        top = min(top, root / (2.0 * d1))

    def slope(part: float) -> float:
        """Sign of minus the derivative of log profit, by the part of `top`."""
        x = part * top
        return s * float(special.expit(s * (break_even + x) - u)) * (root - d1 * x) * x - (root - 2.0 * d1 * x)

    part = 1.0
    if d1 > 0.0 and slope(1.0) > 0.0:
        part = float(brentq(slope, 0.5, 1.0, xtol=1e-16, rtol=1e-15)) if slope(0.5) < 0.0 else 0.5
    x = part * top
    margin = (root - d1 * x) * x
    # The first-order condition gives the refusals, which the logistic function loses where the utility is huge.
    refused = (root - 2.0 * d1 * x) / (s * margin)
    acceptance = 1.0 - refused if refused < 0.5 else float(special.expit(u - s * (break_even + x)))
    return {
        "rate": break_even + x,
        "acceptance": acceptance,
        "profit": acceptance * margin,
        "break_even_rate": break_even,
    }


@answers_in_floating_point()
def market_clearing_price(arrivals: float, max_valuation: float, supply: float) -> dict[str, float]:
    """Revenue-maximal price for riders with valuations uniform on [0, max_valuation] that the supply can serve.

    Args:
        arrivals: Riders, >= 0.
        max_valuation: Highest valuation, currency, > 0.
        supply: Rides that can be served, >= 0.

    Returns:
        price, quantity, revenue.

    Raises:
        ValueError: If an argument is invalid.
    """
    arrivals = check_number("arrivals", arrivals, least=0)
    top = check_number("max_valuation", max_valuation, above=0)
    supply = check_number("supply", supply, least=0)
    # Half the highest valuation maximises revenue; scarce supply is rationed by a higher price.
    quantity = min(arrivals / 2.0, supply)
    price = top * (1.0 - quantity / arrivals) if arrivals > 0 else top / 2.0
    return {"price": price, "quantity": quantity, "revenue": price * quantity}


@answers_in_floating_point("price")
def seasonal_clearance(scale: float, decay: float, rate: float, horizon: float, inventory: float) -> dict[str, float]:
    """One price for a season whose fluid demand fades as scale x exp(-decay t) x exp(-rate p).

    Args:
        scale: Demand rate at the start and at price zero, >= 0.
        decay: Rate at which demand fades, >= 0.
        rate: Price sensitivity, > 0.
        horizon: Length of the season, >= 0.
        inventory: Units to sell, >= 0.

    Returns:
        price (infinite without stock), sales, revenue.

    Raises:
        ValueError: If an argument is invalid.
    """
    scale = check_number("scale", scale, least=0)
    decay = check_number("decay", decay, least=0)
    rate = check_number("rate", rate, above=0)
    horizon = check_number("horizon", horizon, least=0)
    inventory = check_number("inventory", inventory, least=0)
    if inventory == 0:
        return {"price": math.inf, "sales": 0.0, "revenue": 0.0}
    potential = scale * (-math.expm1(-decay * horizon) / decay if decay > 0 else horizon)
    # Without a stock limit the price is 1 / rate; a higher one sells exactly the stock.
    price = max(1.0, math.log(potential / inventory) if potential > 0 else 1.0) / rate
    sales = min(potential / math.e, inventory)
    return {"price": price, "sales": sales, "revenue": price * sales}


@answers_in_floating_point()
def durable_goods_prices(discount: float) -> dict[str, Any]:
    """Two prices of a durable good when buyers with valuations uniform on [0, 1] foresee the second one.

    Buyers above the marginal valuation v buy at once: v - p1 = discount (v - p2) with p2 = v / 2, so p1 = v (1 -
    discount / 2); the seller cannot commit and picks v.

    Args:
        discount: Common discount of seller and buyers, in [0, 1].

    Returns:
        prices (two), profit (the second period discounted).

    Raises:
        ValueError: If the discount is outside [0, 1].

    References:
        Bulow 1982, Journal of Political Economy 90(2).
    """
    delta = check_number("discount", discount, least=0, most=1)
    marginal = (2.0 - delta) / (4.0 - 3.0 * delta)
    first, second = marginal * (1.0 - delta / 2.0), marginal / 2.0
    profit = first * (1.0 - marginal) + delta * second * (marginal - second)
    return {"prices": [first, second], "profit": profit}


@answers_in_floating_point()
def parity_constrained_prices(max_valuations: Sequence[float], parity: float) -> dict[str, Any]:
    """Prices of two groups when their gap may be at most (1 - parity) of the gap without a rule.

    Valuations of group i are uniform on [0, max_valuations[i]], there is no cost, and the groups are of equal size.
    The profit has two local optima where the valuations differ more than threefold: serving both groups, and
    giving up the poorer one; both are compared.

    Args:
        max_valuations: Highest valuations of the two groups, > 0.
        parity: 0 = no rule, 1 = one price, in [0, 1].

    Returns:
        prices, profit, consumer_surplus, welfare (profit plus consumer surplus).

    Raises:
        ValueError: If there are not two valuations or an argument is out of bounds.
    """
    tops = check_numbers("max_valuations", max_valuations, above=0, length=2)
    parity = check_number("parity", parity, least=0, most=1)
    poor, rich = sorted(tops.tolist())
    gap = (1.0 - parity) * (rich - poor) / 2.0

    def profit(low: float, high: float) -> float:
        return low * max(1.0 - low / poor, 0.0) + high * max(1.0 - high / rich, 0.0)

    # The rule binds whenever parity > 0. Serving both: best low price with high = low + gap.
    both = (1.0 - gap / rich) / (1.0 / poor + 1.0 / rich)
    plans = [(min(both, poor), min(both, poor) + gap)]
    if rich / 2.0 - gap >= poor:
        plans.append((rich / 2.0 - gap, rich / 2.0))
    low, high = max(plans, key=lambda plan: profit(*plan))
    prices = np.array([low, high] if tops[0] <= tops[1] else [high, low])
    surplus = float((np.maximum(tops - prices, 0.0) ** 2 / (2.0 * tops)).sum())
    earned = profit(low, high)
    return {
        "prices": prices.tolist(),
        "profit": earned,
        "consumer_surplus": surplus,
        "welfare": earned + surplus,
    }


def _is_logit(demand: Any) -> bool:
    kind = demand.get("kind") if isinstance(demand, Mapping) else None
    return isinstance(kind, str) and kind == "logit"


def _check_bounds(price_bounds: Sequence[float] | None) -> tuple[float, float]:
    if price_bounds is None:
        return 0.0, math.inf
    low, high = check_numbers("price_bounds", price_bounds, least=0, length=2)
    if low > high:
        raise ValueError(f"price_bounds is {show(price_bounds)}; the lowest price must not exceed the highest")
    return float(low), float(high)


def _clip(price: float, low: float, high: float) -> float:
    return min(max(price, low), high)


def _free_price(kind: str, numbers: Mapping[str, float], cost: float, high: float) -> tuple[float, float, float]:
    """Best price without bounds, its markup and the quantity there (of logit: the share), free of cancellation."""
    if kind == "linear":
        a, b = numbers["intercept"], numbers["slope"]
        return (a / b + cost) / 2.0, (a / b - cost) / 2.0, max(a - b * cost, 0.0) / 2.0
    if kind == "exponential":
        rate = numbers["rate"]
        return cost + 1.0 / rate, 1.0 / rate, numbers["scale"] * math.exp(-rate * cost - 1.0)
    if kind == "logit":
        u, b = numbers["utility"], numbers["price_sensitivity"]
        # wrightomega(z) is Lambert's W of exp(z), without the overflow; the odds of buying are W.
        odds = float(special.wrightomega(u - b * cost - 1.0))
        return cost + (1.0 + odds) / b, (1.0 + odds) / b, odds / (1.0 + odds)
    elasticity = numbers["elasticity"]
    if elasticity > 1.0:
        price = cost * elasticity / (elasticity - 1.0)
        return price, cost / (elasticity - 1.0), _quantity(kind, numbers, price) if price > 0.0 else math.inf
    if math.isinf(high):
        raise ValueError(
            f"demand['elasticity'] is {elasticity}; at most 1 means that profit rises with price for ever."
            " Give price_bounds or an elasticity above 1"
        )
    return math.inf, math.inf, 0.0


def _quantity(kind: str, numbers: Mapping[str, float], price: float) -> float:
    """Demand at a price (of logit: the share)."""
    if kind == "linear":
        return max(numbers["intercept"] - numbers["slope"] * price, 0.0)
    if kind == "exponential":
        return numbers["scale"] * math.exp(-numbers["rate"] * price)
    if kind == "logit":
        return float(special.expit(numbers["utility"] - numbers["price_sensitivity"] * price))
    return numbers["scale"] * price ** -numbers["elasticity"] if price > 0.0 else math.inf


def _find_break_even(linear: float, quadratic: float, fixed: float) -> tuple[float, float]:
    """Lowest rate at which linear r - quadratic r**2 - fixed is zero, and the slope there."""
    discriminant = linear**2 - 4.0 * quadratic * fixed
    if linear <= 0 or discriminant <= 0:
        raise ValueError(
            f"default_probability, default_rate_slope ({quadratic:g}), loss_given_default and cost_of_funds are such"
            f" that no rate makes a profit: a loan loses {fixed:.6g} at rate 0 and gains {linear:.6g} per unit of rate"
        )
    root = math.sqrt(discriminant)
    return 2.0 * fixed / (linear + root), root
