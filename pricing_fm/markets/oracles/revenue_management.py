"""Seats: protection levels, fare class and choice dynamic programs, network bid prices, overbooking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import special
from scipy.optimize import linprog

from pricing_fm.markets.oracles.checks import (
    LARGEST_WHOLE,
    answers_in_floating_point,
    check_integer,
    check_matrix,
    check_number,
    check_numbers,
    check_steps,
    show,
)
from pricing_fm.markets.oracles.distributions import (
    LARGEST_COUNT,
    check_season_demand,
    compute_mean_rank,
    compute_normal_quantile,
    compute_poisson_quantile,
    count_terms,
)

_MOST_SPREAD = 1e9  # of fares or capacities in a linear program, whose solver is exact to 1e-10 of the largest


@answers_in_floating_point()
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
    kind, mean, std = check_season_demand(demand)
    if kind == "poisson":
        return {"protection_level": float(compute_poisson_quantile(high - low, low, mean))}
    return {"protection_level": _protect(low, high - low, mean, std)}


@answers_in_floating_point()
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
    if not isinstance(variant, str) or variant not in ("a", "b"):
        raise ValueError(f"variant is {show(variant)}; it must be 'a' or 'b'")
    levels = []
    for j in range(1, len(f)):
        if variant == "a":
            levels.append(sum(_protect(f[j], f[i] - f[j], mu[i], sigma[i]) for i in range(j)))
            continue
        total = float(mu[:j].sum())
        weights = mu[:j] / total if total > 0 else np.full(j, 1.0 / j)
        levels.append(_protect(f[j], float(((f[:j] - f[j]) * weights).sum()), total, math.hypot(*sigma[:j])))
    return {"protection_levels": [float(level) for level in levels]}


@answers_in_floating_point("bid_price")
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
    return _value_units(f, p, periods, seats)


@answers_in_floating_point("bid_price")
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
    # Efficient sets, by rising chance of a sale: each step to the next is a fare class of its own (Fiig et al. 2010,
    # Journal of Revenue and Pricing Management 9(1-2)).
    points = sorted(zip(sets.sum(axis=1).tolist(), (sets @ r).tolist()))
    steps, chance, revenue = [], 0.0, 0.0
    while gains := [((v - revenue) / (q - chance), q, v) for q, v in points if q > chance and v > revenue]:
        fare, chance_then, revenue = max(gains)
        steps.append((fare, chance_then - chance))
        chance = chance_then
    fares, chances = np.array(steps).reshape(-1, 2).T
    return _value_units(fares, chances, periods, units)


@answers_in_floating_point()
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
    for name, values in (("fares", f), ("capacities", capacity), ("incidence", uses)):
        if (values > 0).any() and values.max() > _MOST_SPREAD * values[values > 0].min():
            raise ValueError(
                f"{name} holds {values[values > 0].min():g} beside {values.max():g}; positive entries may differ by a"
                f" factor of at most {_MOST_SPREAD:g}"
            )
    sales, duals = _solve_network(f, d, uses, capacity)
    value = float(f @ sales)
    # Bid prices prove that nothing earns more; what they leave of a fare beyond its rounding counts.
    reduced = f - uses @ duals
    bound = float(capacity @ duals + d @ np.where(reduced > 1e-9 * f, reduced, 0.0))
    if bound > value + 1e-6 * bound:
        raise ValueError(
            f"fares, demands, incidence and capacities are too far apart for the solver: its plan earns {value:g}, and"
            f" its bid prices allow {bound:g}"
        )
    return {"value": value, "bid_prices": duals.tolist(), "sales": sales.tolist()}


@answers_in_floating_point()
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
    slots = check_integer("capacity", capacity, most=LARGEST_COUNT)
    chance = check_number("show_probability", show_probability, above=0, most=1)
    fee = check_number("fee", fee, above=0)
    overtime = check_number("overtime_cost", overtime_cost, above=fee)

    def pays(others: int) -> bool:
        """Whether one booking beside `others` adds value."""
        return fee > overtime * _binomial_at_least(slots, others, chance) * (1 + 1e-14)

    low, high = -1, max(slots, 1)  # one more booking pays after `low`, not after `high`
    while pays(high):
        low, high = high, 2 * high
        if high > LARGEST_WHOLE:
            raise ValueError(f"show_probability is {chance:g}; so small that more than {LARGEST_WHOLE} bookings pay")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pays(middle) else (low, middle)
    return {"bookings": float(high), "value": fee * high * chance - overtime * _binomial_excess(slots, high, chance)}


def _protect(low_fare: float, gain: float, mean: float, std: float) -> float:
    """Littlewood's level for normal demand and a gain over the low fare; nobody is protected where there is none."""
    if gain <= 0.0:
        return 0.0
    return max(mean + std * compute_normal_quantile(gain, low_fare), 0.0)


def _value_units(fares: np.ndarray, chances: np.ndarray, periods: int, units: int) -> dict[str, float]:
    """Value of units sold to at most one request a period, and of the last of them, which adds up without differences.

    With D_x the worth of the x-th unit a period adds the sum over fares of chance x [min(f, D_{x-1}) - min(f, D_x)].
    """
    if units == 0:
        return {"value": 0.0, "bid_price": math.inf}
    # Units beyond one a period are worth nothing.
    held = min(units, periods)
    check_steps(periods, held * len(fares), "capacity")
    worth, idle = np.zeros(held), max(1.0 - float(chances.sum()), 0.0)
    for _ in range(periods):
        before = np.append(np.inf, worth[:-1])
        kept = idle * worth
        for fare, chance in zip(fares, chances):
            kept += chance * (np.maximum(worth - fare, 0.0) + np.minimum(before, fare))
        worth = kept
    return {"value": float(worth.sum()), "bid_price": float(worth[-1]) if units == held else 0.0}


def _solve_network(
    fares: np.ndarray, demands: np.ndarray, uses: np.ndarray, capacities: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sales and bid prices of the linear program, solved in units of the largest fare and the largest possible sale."""
    # What a product could sell if it had every resource to itself; two times that is no limit.
    with np.errstate(divide="ignore", invalid="ignore"):
        alone = np.minimum(demands, np.where(uses > 0, capacities / uses, np.inf).min(axis=1))
    bound_products = (uses > 0).any(axis=1) & (demands > 0)
    unit = float(alone[bound_products & (fares > 0)].max(initial=0.0)) or 1.0
    fare_unit = float(fares.max()) or 1.0
    row_unit = np.where((uses > 0).any(axis=0), uses.max(axis=0), 1.0)
    rows = (uses / row_unit).T
    room = np.minimum(capacities / row_unit / unit, 2.0 * len(fares))
    most = np.where(bound_products, np.minimum(demands / unit, 2.0), 0.0)
    solution = linprog(
        -fares / fare_unit,
        rows,
        room,
        bounds=np.column_stack([np.zeros(len(fares)), most]),
        method="highs",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if solution.status != 0:
        raise ValueError(f"fares, demands, incidence and capacities were not solved: {solution.message}")
    sales = np.where(bound_products, solution.x * unit, demands)
    # Adding zero turns the solver's -0.0 into 0.0.
    return sales, -solution.ineqlin.marginals * fare_unit / row_unit + 0.0


def _binomial_at_least(count: int, trials: int, probability: float) -> float:
    """P(Binomial >= count)."""
    if count <= 0:
        return 1.0
    return float(special.betainc(count, trials - count + 1.0, probability)) if count <= trials else 0.0


def _binomial_excess(count: int, trials: int, probability: float) -> float:
    """E[max(Binomial - count, 0)], counted from the tail that does not hold the mean, without cancellation."""
    mean = trials * probability
    if probability == 1.0 or count == 0:
        return max(mean - count, 0.0)
    odds = probability / (1.0 - probability)
    k = np.arange(1.0, count_terms(max(mean, count)))
    if count >= mean:
        up = np.maximum(trials - count - k, 0.0) / (count + 1.0 + k) * odds
        return _binomial_at_least(count + 1, trials, probability) * compute_mean_rank(up)
    down = np.maximum(count - k, 0.0) / (trials - count + 1.0 + k) / odds
    return mean - count + (1.0 - _binomial_at_least(count, trials, probability)) * compute_mean_rank(down)


def _check_total(name: str, probabilities: np.ndarray) -> None:
    if probabilities.sum() > 1.0 + 1e-9:
        raise ValueError(f"{name} sums to {probabilities.sum():g}; probabilities may sum to at most 1")
