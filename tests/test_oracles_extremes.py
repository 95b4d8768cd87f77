"""Pricing problems at the edge of floating point: an exact answer or a refusal by name, and never anything else."""

import copy
import inspect
import json
import math
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.markets import oracles

_ALL = json.loads((Path(__file__).parent / "oracles_known_answers.json").read_text(encoding="utf-8"))
# Of every problem the case with the longest arguments, which gives the optional ones too.
CASES = {case["problem"]: case["given"] for case in sorted(_ALL, key=lambda case: len(json.dumps(case["given"])))}
MAY_BE_INFINITE = {"price", "fixed_price", "bid_price"}  # without stock
HUGE = 10**400
NO_NUMBERS = [
    *(
        "1",
        "",
        b"1",
        None,
        1j,
        {},
        [],
        [1],
        [[1]],
        object(),
        True,
        np.bool_(True),
        np.datetime64("2020"),
        Fraction(1, 2),
    ),
    *(math.nan, math.inf, -math.inf, HUGE, -HUGE, 10**5_000, 1e300, 1e-320, -1e-320, np.longdouble(10) ** 400),
    *(np.array(1.0), np.array([1.0]), np.array([]), np.ones((2, 2))),
]
NO_LISTS = [
    *("ab", b"ab", bytearray(b"ab"), {1, 2}, {"a": 1}, iter([1.0]), [None], ["a"], [1j], [True], [[]], [[1, 2], [3]]),
    *(np.array(["a"]), np.array([None]), np.zeros((0, 3)), np.ones(2) * 1j, [np.array(1.0)], [HUGE], [1e-320]),
]
EXTREME = [0, 1, 7, 10**3, 10**6, 10**9, 10**12, 10**17, -3, 0.1, 1e-6, 1e-12, 1e-50, 1e-100, 1e20, 1e50, 1e100, -1e100]
EXTREME += [1 - 1e-16, 1 + 2.3e-16]


def _paths(value, path=()):
    """Paths of all parts of nested arguments, the whole apart."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*path, key)
        yield from _paths(part, (*path, key))


def _replaced(arguments, path, value):
    changed = copy.deepcopy(arguments)
    *outer, last = path
    inner = changed
    for key in outer:
        inner = inner[key]
    inner[last] = value
    return changed


def _answers_or_refuses(problem, arguments):
    """Whether it answered; anything but a finite answer or a refusal that names an argument fails."""
    oracle = getattr(oracles, problem)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            answer = oracle(**arguments)
    except ValueError as error:
        message = str(error)
        if not any(name in message for name in inspect.signature(oracle).parameters):
            pytest.fail(f"{arguments} are refused without a name: {message}")
        return False
    for key, value in answer.items():
        numbers = np.asarray(value, dtype=float)
        assert not np.isnan(numbers).any(), (arguments, answer)
        assert key in MAY_BE_INFINITE or np.isfinite(numbers).all(), (arguments, answer)
    return True


@pytest.mark.parametrize("problem", oracles.__all__)
def test_whatever_is_put_for_an_argument_is_answered_or_refused_by_name(problem):
    for path in _paths(CASES[problem]):
        refused = [
            not _answers_or_refuses(problem, _replaced(CASES[problem], path, junk)) for junk in NO_NUMBERS + NO_LISTS
        ]
        assert sum(refused) >= 30, path


@pytest.mark.parametrize("problem", oracles.__all__)
def test_extreme_numbers_together_are_answered_or_refused_by_name(problem):
    random = np.random.default_rng(oracles.__all__.index(problem))
    paths = [
        path
        for path in _paths(CASES[problem])
        if isinstance(_at(CASES[problem], path), int | float) and not isinstance(_at(CASES[problem], path), bool)
    ]
    answered = 0
    for _ in range(40):
        arguments = CASES[problem]
        for k in random.permutation(len(paths))[: random.integers(1, 5)]:
            arguments = _replaced(arguments, paths[k], EXTREME[random.integers(len(EXTREME))])
        answered += _answers_or_refuses(problem, arguments)
    assert answered > 0


def _at(arguments, path):
    for key in path:
        arguments = arguments[key]
    return arguments


# What each number is worth in money and in units sold: an answer must not depend on the units of either.
# (problem, exponents of the arguments, exponents of the answer), (money, units); absent = (0, 0), a pure number.
UNITS = [
    ("assortment_prices", {"price_sensitivities": (-1, 0), "costs": (1, 0)}, {"prices": (1, 0), "profit": (1, 0)}),
    (
        "linear_system_prices",
        {"intercepts": (0, 1), "slopes": (-1, 1), "costs": (1, 0)},
        {"joint_prices": (1, 0), "nash_prices": (1, 0), "joint_profit": (1, 1), "nash_profits": (1, 1)},
    ),
    (
        "logit_duopoly_prices",
        {"qualities": (1, 0), "costs": (1, 0), "differentiation": (1, 0)},
        dict.fromkeys(["nash_prices", "nash_profits", "collusive_prices", "collusive_profits"], (1, 0)),
    ),
    ("peak_load_prices", dict.fromkeys(CASES["peak_load_prices"], (1, 0)), {"prices": (1, 0), "loads": (1, 0)}),
    (
        "parity_constrained_prices",
        {"max_valuations": (1, 0)},
        dict.fromkeys(["prices", "profit", "consumer_surplus", "welfare"], (1, 0)),
    ),
    ("newsvendor", dict.fromkeys(["price", "cost", "salvage"], (1, 0)), {"profit": (1, 0)}),
    ("base_stock", {"backorder_cost": (1, 0), "holding_cost": (1, 0)}, {"cost": (1, 0)}),
    (
        "gallego_van_ryzin",
        {"rate": (-1, 0)},
        dict.fromkeys(["value", "price", "fluid_bound", "fixed_price", "fixed_price_value"], (1, 0)),
    ),
    (
        "markdown_plan",
        {"price_ladder": (1, 0), "demand": (0, 1), "inventory": (0, 1)},
        {"relaxed_value": (1, 1), "ladder_value": (1, 1), "ladder_prices": (1, 0)},
    ),
    (
        "reference_price_policy",
        {
            "intercept": (0, 1),
            "slope": (-1, 1),
            "reference_effect": (-1, 1),
            "cost": (1, 0),
            "initial_reference": (1, 0),
        },
        {"steady_price": (1, 0), "policy_intercept": (1, 0), "value": (1, 1)},
    ),
    ("littlewood", {"high_fare": (1, 0), "low_fare": (1, 0)}, {}),
    ("emsr", {"fares": (1, 0), "means": (0, 1), "stds": (0, 1)}, {"protection_levels": (0, 1)}),
    ("fare_class_dynamic_program", {"fares": (1, 0)}, {"value": (1, 0), "bid_price": (1, 0)}),
    ("choice_dynamic_program", {"prices": (1, 0)}, {"value": (1, 0), "bid_price": (1, 0)}),
    (
        "network_bid_prices",
        {"fares": (1, 0), "demands": (0, 1), "capacities": (0, 1)},
        {"value": (1, 1), "bid_prices": (1, 0), "sales": (0, 1)},
    ),
    ("overbooking_limit", {"fee": (1, 0), "overtime_cost": (1, 0)}, {"value": (1, 0)}),
    (
        "seasonal_clearance",
        {"scale": (0, 1), "rate": (-1, 0), "inventory": (0, 1)},
        {"price": (1, 0), "sales": (0, 1), "revenue": (1, 1)},
    ),
    (
        "market_clearing_price",
        {"arrivals": (0, 1), "max_valuation": (1, 0), "supply": (0, 1)},
        {"price": (1, 0), "quantity": (0, 1), "revenue": (1, 1)},
    ),
    (
        "loss_system_prices",
        {"arrival_scale": (0, 1), "service_rate": (0, 1), "max_price": (1, 0)},
        {
            "static_price": (1, 0),
            "static_revenue": (1, 1),
            "dynamic_prices": (1, 0),
            "dynamic_revenue": (1, 1),
        },
    ),
    (
        "queue_tolls",
        {"arrival_rate": (0, 1), "service_rate": (0, 1), "reward": (1, 0), "waiting_cost": (1, 1)},
        {"social_welfare": (1, 1), "social_toll": (1, 0), "monopoly_toll": (1, 0), "monopoly_revenue": (1, 1)},
    ),
    (
        "priority_waits",
        {"arrival_rates": (0, 1), "service_rate": (0, 1), "waiting_costs": (1, 0)},
        {"waits": (0, -1), "cost": (1, 0), "first_come_cost": (1, 0)},
    ),
    ("bandit_value", {"rewards": (1, 0)}, {"inverse_propensity": (1, 0), "self_normalized": (1, 0)}),
]


def _scaled(value, factor):
    if factor == 1.0:
        return value
    return [_scaled(part, factor) for part in value] if isinstance(value, list) else value * factor


@pytest.mark.parametrize("problem, given, returned", UNITS, ids=[row[0] for row in UNITS])
@pytest.mark.parametrize("money, units", [(1e-30, 1e30), (1e30, 1e-30), (1e30, 1e20)])
def test_no_answer_depends_on_the_units_of_money_and_of_goods(problem, given, returned, money, units):
    arguments = {
        name: _scaled(value, money ** given.get(name, (0, 0))[0] * units ** given.get(name, (0, 0))[1])
        for name, value in CASES[problem].items()
    }
    plain, scaled = getattr(oracles, problem)(**CASES[problem]), getattr(oracles, problem)(**arguments)
    for key, value in plain.items():
        factor = money ** returned.get(key, (0, 0))[0] * units ** returned.get(key, (0, 0))[1]
        np.testing.assert_allclose(np.array(scaled[key]) / factor, value, rtol=1e-9, atol=1e-12, err_msg=key)
