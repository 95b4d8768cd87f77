"""Seats: protection levels, fare class and choice dynamic programs, network bid prices, overbooking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import special
from scipy.optimize import linprog

from pricing_fm.markets.oracles.checks import (
    check_demand,
    check_integer,
    check_matrix,
    check_number,
    check_numbers,
)
from pricing_fm.markets.oracles.distributions import DEMAND_FIELDS, compute_poisson_quantile


def littlewood(high_fare: float, low_fare: float, demand: Mapping[str, Any]) -> dict[str, float]:
    """Seats to protect for the high fare: P(high-fare demand > seats) falls to low_fare / high_fare.

    Args:
        high_fare: At least the low fare.
        low_fare: Above 0.
        demand: High-fare demand, {"kind": "normal", "mean", "std"} or {"kind": "poisson", "mean"}.

    Returns:
        protection_level (whole for Poisson, never negative).

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Littlewood 1972, AGIFORS Symposium Proceedings 12.
    """
    low = check_number("low_fare", low_fare, above=0)
    high = check_number("high_fare", high_fare, least=low)
    kind = check_demand(demand, DEMAND_FIELDS)
    mean = check_number("demand['mean']", demand["mean"], least=0)
    if kind == "poisson":
        return {"protection_level": float(compute_poisson_quantile(1.0 - low / high, mean))}
    std = check_number("demand['std']", demand["std"], least=0)
    return {"protection_level": _protect(low, high, mean, std)}


def emsr(
    fares: Sequence[float], means: Sequence[float], stds: Sequence[float], variant: Literal["a", "b"]
) -> dict[str, Any]:
    """Protection levels by expected marginal seat revenue, normal demand, independent classes.

    Variant "a" adds up Littlewood's levels of every higher class against the next lower one; "b" puts the higher
    classes together at their demand-weighted mean fare.

    Args:
        fares: Falling or equal, > 0.
        means: Mean demand per class, >= 0.
        stds: Standard deviation per class, >= 0.
        variant: "a" or "b".

    Returns:
        protection_levels for classes 1, 1-2, ..., all but the lowest (an empty list for one class).

    Raises:
        ValueError: If lengths differ, a number is out of bounds, the fares rise or the variant is unknown.

    References:
        Belobaba 1989, Operations Research 37(2).
    """
    f = check_numbers("fares", fares, above=0)
    mu = check_numbers("means", means, least=0, length=len(f))
    sigma = check_numbers("stds", stds, least=0, length=len(f))
    if np.any(np.diff(f) > 0):
        raise ValueError(f"fares is {f.tolist()}; it must not rise from one class to the next")
    if variant not in ("a", "b"):
        raise ValueError(f"variant is {variant!r}; it must be 'a' or 'b'")
    levels = []
    for j in range(1, len(f)):
        if variant == "a":
            levels.append(sum(_protect(f[j], f[i], mu[i], sigma[i]) for i in range(j)))
            continue
        total = float(mu[:j].sum())
        mean_fare = float((f[:j] * mu[:j]).sum()) / total if total > 0 else float(f[:j].mean())
        levels.append(_protect(f[j], mean_fare, total, math.sqrt(float((sigma[:j] ** 2).sum()))))
    return {"protection_levels": [float(level) for level in levels]}


def fare_class_dynamic_program(
    fares: Sequence[float], arrival_probabilities: Sequence[float], periods: int, capacity: int
) -> dict[str, float]:
    """Accept or reject requests, at most one a period: exact dynamic program.

    Args:
        fares: One per class, >= 0, in any order.
        arrival_probabilities: Chance of a request of each class in a period, in [0, 1], together at most 1.
        periods: Periods left, whole, >= 0.
        capacity: Seats, whole, >= 0.

    Returns:
        value (expected revenue), bid_price (value of the last seat; infinite where there is none).

    Raises:
        ValueError: If lengths differ or a number is out of bounds.

    References:
        Lee and Hersh 1993, Transportation Science 27(3).
    """
    f = check_numbers("fares", fares, least=0)
    p = check_numbers("arrival_probabilities", arrival_probabilities, least=0, most=1, length=len(f))
    _check_total("arrival_probabilities", p)
    periods = check_integer("periods", periods)
    seats = check_integer("capacity", capacity)
    values = np.zeros(seats + 1)
    for _ in range(periods):
        worth = np.diff(values)
        values[1:] += (p[:, None] * np.maximum(f[:, None] - worth, 0.0)).sum(axis=0)
    bid_price = float(values[-1] - values[-2]) if seats > 0 else math.inf
    return {"value": float(values[-1]), "bid_price": bid_price}


def choice_dynamic_program(
    prices: Sequence[float], offer_sets: Sequence[Sequence[float]], periods: int, capacity: int
) -> dict[str, float]:
    """Which products to offer when the choice depends on what is offered; one arrival a period: exact dynamic program.

    Offering nothing is always allowed.

    Args:
        prices: Revenue of each product, >= 0.
        offer_sets: Purchase probabilities per product, one row per set that may be offered, each row summing to at most
            1.
        periods: Periods left, whole, >= 0.
        capacity: Units, whole, >= 0.

    Returns:
        value (expected revenue), bid_price (value of the last unit; infinite where there is none).

    Raises:
        ValueError: If sizes differ or a number is out of bounds.

    References:
        Talluri and van Ryzin 2004, Management Science 50(1).
    """
    r = check_numbers("prices", prices, least=0)
    sets = check_matrix("offer_sets", offer_sets, None, len(r), least=0)
    for i, row in enumerate(sets):
        _check_total(f"offer_sets[{i}]", row)
    periods = check_integer("periods", periods)
    units = check_integer("capacity", capacity)
    values = np.zeros(units + 1)
    revenue, chance = sets @ r, sets.sum(axis=1)
    for _ in range(periods):
        worth = np.diff(values)
        gain = revenue[:, None] - chance[:, None] * worth
        values[1:] += np.maximum(gain.max(axis=0), 0.0)
    bid_price = float(values[-1] - values[-2]) if units > 0 else math.inf
    return {"value": float(values[-1]), "bid_price": bid_price}


def network_bid_prices(
    fares: Sequence[float],
    demands: Sequence[float],
    incidence: Sequence[Sequence[float]],
    capacities: Sequence[float],
) -> dict[str, Any]:
    """Deterministic linear program of a network; bid prices are the dual values of the capacities.

    Args:
        fares: One per product, >= 0.
        demands: Expected demand per product, >= 0.
        incidence: Units of each resource (columns) that a product (rows) uses, >= 0.
        capacities: One per resource, >= 0.

    Returns:
        value, bid_prices (one per resource; where several are dual optimal, one of them), sales (one per product).

    Raises:
        ValueError: If sizes differ or a number is negative.
    """
    f = check_numbers("fares", fares, least=0)
    d = check_numbers("demands", demands, least=0, length=len(f))
    capacity = check_numbers("capacities", capacities, least=0)
    uses = check_matrix("incidence", incidence, len(f), len(capacity), least=0)
    solution = linprog(-f, uses.T, capacity, bounds=np.column_stack([np.zeros(len(f)), d]), method="highs")
    return {
        "value": -float(solution.fun),
        # Adding zero turns the solver's -0.0 into 0.0.
        "bid_prices": (-solution.ineqlin.marginals + 0.0).tolist(),
        "sales": solution.x.tolist(),
    }


def overbooking_limit(capacity: int, show_probability: float, fee: float, overtime_cost: float) -> dict[str, float]:
    """Bookings to accept when each shows up with a given chance: fee per show, overtime cost per show above capacity.

    One booking more adds show_probability x (fee - overtime_cost x P(capacity is reached by the others)), which falls
    with every booking; where it is zero the smaller number is taken.

    Args:
        capacity: Slots, whole, >= 0.
        show_probability: In (0, 1].
        fee: Earned per show, > 0.
        overtime_cost: Cost per show above capacity, above the fee (otherwise every booking pays).

    Returns:
        bookings, value (expected).

    Raises:
        ValueError: If an argument is out of bounds.
    """
    slots = check_integer("capacity", capacity)
    show = check_number("show_probability", show_probability, above=0, most=1)
    fee = check_number("fee", fee, above=0)
    overtime = check_number("overtime_cost", overtime_cost, above=fee)

    def pays(others: int) -> bool:
        """Whether one booking beside `others` adds value."""
        reached = 1.0 if slots == 0 else _binomial_at_least(slots, others, show)
        return fee > overtime * reached * (1 + 1e-14)

    low, high = -1, max(slots, 1)  # one more booking pays after `low`, not after `high`
    while pays(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pays(middle) else (low, middle)
    bookings = high
    shows = np.arange(slots + 1, bookings + 1)
    # E[(shows - capacity)+] is the sum of P(shows >= s) over s above the capacity.
    above = sum(_binomial_at_least(int(s), bookings, show) for s in shows)
    return {"bookings": float(bookings), "value": fee * bookings * show - overtime * above}


def _protect(low_fare: float, high_fare: float, mean: float, std: float) -> float:
    """Littlewood's level for normal demand; nobody is protected where the fares are equal."""
    if low_fare >= high_fare:
        return 0.0
    return max(mean + std * float(special.ndtri(1.0 - low_fare / high_fare)), 0.0)


def _binomial_at_least(count: int, trials: int, probability: float) -> float:
    """P(Binomial >= count)."""
    if count <= 0:
        return 1.0
    return float(special.bdtrc(count - 1, trials, probability)) if count <= trials else 0.0


def _check_total(name: str, probabilities: np.ndarray) -> None:
    if probabilities.sum() > 1.0 + 1e-9:
        raise ValueError(f"{name} sums to {probabilities.sum():g}; probabilities may sum to at most 1")
