"""Prices of service systems: blocked calls, observable queues, priorities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
from scipy.optimize import brentq

from pricing_fm.markets.oracles.checks import answers_in_floating_point, check_integer, check_number, check_numbers

_POLICY_ROUNDS = 200  # policy iteration converges in about ten
_MOST_SERVERS = 1_000  # every round solves a dense system of this size
_MOST_LOAD = 1e12  # arrivals in a service time; above, busy servers leave no digits of what a free one is worth
_MOST_CUSTOMERS = 1_000_000  # in a queue: its law is written out


@answers_in_floating_point()
def loss_system_prices(servers: int, arrival_scale: float, max_price: float, service_rate: float) -> dict[str, Any]:
    """Prices of a service without waiting room: customers who find all servers busy are lost.

    Arrivals are Poisson with rate arrival_scale x (1 - p / max_price), service is exponential.

    Args:
        servers: Whole, >= 1.
        arrival_scale: Arrival rate at price zero, > 0.
        max_price: Price at which nobody comes, > 0.
        service_rate: Of one server, > 0.

    Returns:
        blocking (Erlang's B at half the arrival scale, that is at half the maximal price), static_price and
        static_revenue (best single price, revenue per time), dynamic_prices (optimal by servers busy, 0..servers - 1)
        and dynamic_revenue (their long-run average).

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Paschalidis and Tsitsiklis 2000, IEEE/ACM Transactions on Networking 8(2).
    """
    c = check_integer("servers", servers, least=1, most=_MOST_SERVERS)
    scale = check_number("arrival_scale", arrival_scale, above=0)
    top = check_number("max_price", max_price, above=0)
    mu = check_number("service_rate", service_rate, above=0)

    load = scale / mu
    if load > _MOST_LOAD:
        raise ValueError(f"arrival_scale is {scale:g}; it must be at most {_MOST_LOAD:g} x service_rate, {mu:g}")

    def slope(log_share: float) -> float:
        """Elasticity of revenue to the share of the arrival scale that comes in; falls in the share."""
        share = math.exp(log_share)
        return (1.0 - 2.0 * share) / (1.0 - share) - _erlang_b(c, share * load)[2]

    # Light traffic is never blocked, so the slope is positive at the lower end; without blocking half comes in.
    half, least = math.log(0.5), math.log(1e-6 / (1.0 + load))
    share = math.exp(brentq(slope, least, half, xtol=1e-15, rtol=1e-15)) if slope(half) < 0.0 else 0.5
    # In units of the highest price and of a service time.
    revenue, worth = _solve_loss_system(c, load)
    return {
        "blocking": _erlang_b(c, load / 2.0)[0],
        "static_price": top * (1.0 - share),
        "static_revenue": top * (1.0 - share) * share * scale * _erlang_b(c, share * load)[1],
        "dynamic_prices": (top * (1.0 + worth) / 2.0).tolist(),
        "dynamic_revenue": revenue * top * mu,
    }


@answers_in_floating_point()
def queue_tolls(arrival_rate: float, service_rate: float, reward: float, waiting_cost: float) -> dict[str, float]:
    """Naor's observable queue: who joins by himself, who should, and whom a monopolist lets in.

    With threshold n at most n customers are in the system. Joining as the n-th costs waiting_cost x n / service_rate.

    Args:
        arrival_rate: >= 0; it may exceed the service rate.
        service_rate: > 0.
        reward: Value of the service to a customer, >= 0.
        waiting_cost: Per customer and time in the system, > 0.

    Returns:
        individual_threshold, social_threshold, social_welfare (per time), social_toll (the highest that makes customers
        keep to the social threshold), monopoly_threshold, monopoly_toll, monopoly_revenue. Of equally good thresholds
        the largest; with threshold 0 the toll is the whole reward.

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Naor 1969, Econometrica 37(1).
    """
    arrivals = check_number("arrival_rate", arrival_rate, least=0)
    mu = check_number("service_rate", service_rate, above=0)
    reward = check_number("reward", reward, least=0)
    waiting = check_number("waiting_cost", waiting_cost, above=0)
    # The relative 1e-12 lets customers who are indifferent in exact arithmetic join.
    most = reward * mu / waiting * (1.0 + 1e-12)
    if most >= _MOST_CUSTOMERS + 1:
        raise ValueError(
            f"reward is {reward:g}; it must be at most {_MOST_CUSTOMERS:g} x waiting_cost / service_rate,"
            f" {_MOST_CUSTOMERS * waiting / mu:g}"
        )
    individual = math.floor(most)
    social, monopoly = _naor_thresholds(arrivals / mu, individual, most)
    busy, length = _finite_queue(arrivals / mu, individual)
    welfare = reward * mu * busy - waiting * length
    tolls = np.maximum(reward - waiting * np.arange(individual + 1) / mu, 0.0)
    revenue = mu * busy * tolls
    return {
        "individual_threshold": individual,
        "social_threshold": social,
        "social_welfare": float(welfare[social]),
        "social_toll": float(tolls[social]),
        "monopoly_threshold": monopoly,
        "monopoly_toll": float(tolls[monopoly]),
        "monopoly_revenue": float(revenue[monopoly]),
    }


@answers_in_floating_point()
def priority_waits(
    arrival_rates: Sequence[float], service_rate: float, waiting_costs: Sequence[float]
) -> dict[str, Any]:
    """Waits in a single-server queue with non-preemptive priorities, dearest waiting cost first.

    All classes are served at one exponential rate, so the c-mu order is the order of waiting costs; equal costs keep
    the order given.

    Args:
        arrival_rates: One per class, >= 0, together below the service rate.
        service_rate: > 0.
        waiting_costs: Per customer and time in the queue, one per class, >= 0.

    Returns:
        waits (mean time in the queue per class, in the order given), cost (per time), first_come_cost.

    Raises:
        ValueError: If lengths differ, a number is out of bounds or the queue is unstable.

    References:
        Cobham 1954, Operations Research 2(1).
    """
    rates = check_numbers("arrival_rates", arrival_rates, least=0)
    mu = check_number("service_rate", service_rate, above=0)
    costs = check_numbers("waiting_costs", waiting_costs, least=0, length=len(rates))
    order = np.argsort(-costs, kind="stable")
    # Capacity that is left before every class and after the last, without rounding.
    free = np.array([float(left) for left in accumulate(map(Fraction, [mu, *(-rates[order])]))])
    if free[-1] <= 0.0:
        raise ValueError(
            f"arrival_rates sum to {rates.sum():g}; the queue is unstable unless they stay below service_rate {mu:g}"
        )
    total = float(rates.sum())
    waits = np.empty(len(rates))
    waits[order] = total / free[:-1] / free[1:]
    first_come = total / mu / free[-1]
    return {
        "waits": waits.tolist(),
        "cost": float((costs * rates * waits).sum()),
        "first_come_cost": float((costs * rates * first_come).sum()),
    }


def _erlang_b(servers: int, load: float) -> tuple[float, float, float]:
    """Erlang's loss formula B, 1 - B, and the elasticity of 1 - B to the load with its sign turned.

    The recursion on 1 / B and on its growth from server to server only adds positive numbers.
    """
    before, inverse, growth = 1.0, 1.0, 0.0
    for k in range(1, servers + 1):
        growth = (inverse + (k - 1) * growth) / load
        before, inverse = inverse, 1.0 + inverse * k / load
        if inverse > 1e200:
            return (0.0 if k < servers else 1.0 / inverse), 1.0, 0.0
    carried = before * servers / load / inverse
    return 1.0 / inverse, carried, load * growth / inverse / before


def _solve_loss_system(servers: int, load: float) -> tuple[float, np.ndarray]:
    """Policy iteration for the average reward; returns the revenue per time and what a free server is worth by state.

    Units of money and time are the highest price and a mean service. With worth D of a free server the price is
    (1 + D) / 2, so the arrival rate is load (1 - D) / 2.
    """
    states = np.arange(servers + 1)
    worth = np.zeros(servers)
    revenue = -math.inf
    for _ in range(_POLICY_ROUNDS):
        arrivals = np.append(load * (1.0 - worth) / 2.0, 0.0)
        prices = np.append((1.0 + worth) / 2.0, 1.0)
        # Unknowns: revenue per time, then the relative values of states 1..servers (state 0 has value 0).
        system = np.zeros((servers + 1, servers + 1))
        system[:, 0] = 1.0
        for n in states:
            if n > 0:
                system[n, n] += arrivals[n] + n
            if n > 1:
                system[n, n - 1] -= n
            if n < servers:
                system[n, n + 1] -= arrivals[n]
        solution = np.linalg.solve(system, arrivals * prices)
        if solution[0] <= revenue * (1.0 + 1e-15):
            break
        revenue = float(solution[0])
        values = np.concatenate([[0.0], solution[1:]])
        worth = np.clip(values[:-1] - values[1:], 0.0, 1.0)
    return revenue, worth


def _finite_queue(load: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Chance that the server is busy, and mean number in the system, for every threshold 0..most."""
    n = np.arange(most + 1)
    if load <= 1.0:
        weights = load ** n.astype(float)
        total = np.cumsum(weights)
        return load * (1.0 - weights / total), np.cumsum(n * weights) / total
    # Counting free places instead of customers keeps the powers below one.
    weights = (1.0 / load) ** n.astype(float)
    total = np.cumsum(weights)
    return 1.0 - weights / total, n - np.cumsum(n * weights) / total


def _naor_thresholds(load: float, most: int, reward_in_services: float) -> tuple[int, int]:
    """Social and monopoly threshold: the largest n, up to `most`, whose marginal condition still holds.

    Naor's left-hand sides, written as sums of powers: they grow with n and are free of cancellation at any load, where
    a search for the largest welfare would drown in rounding once the queue is almost never full.
    """
    n = np.arange(1, most + 1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        powers = np.power(load, np.arange(most + 1, dtype=np.float64))
        geometric = np.cumsum(powers)  # geometric[k] = 1 + load + ... + load**k
        social = np.cumsum(geometric[:-1])
        inverse = np.concatenate([[0.0], np.cumsum(1.0 / powers[1:-1])]) if most > 0 else np.empty(0)
        monopoly = n + np.where(inverse > 0, inverse * geometric[1:], 0.0)
    return int((social <= reward_in_services).sum()), int((monopoly <= reward_in_services).sum())
