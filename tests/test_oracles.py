"""Pricing problems with known answers: the published cases, and what is refused and how."""

import json
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.markets import oracles

CASES = json.loads((Path(__file__).parent / "oracles_known_answers.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_the_known_answer_is_found(case):
    answer = getattr(oracles, case["problem"])(**case["given"])
    for key, expected in case["expect"].items():
        found, wanted = np.atleast_1d(answer[key]).astype(float), np.atleast_1d(expected).astype(float)
        assert found.shape == wanted.shape
        # The tolerance is relative above 1 and absolute below.
        assert np.all(np.abs(found - wanted) <= case["tolerance"] * np.maximum(1.0, np.abs(wanted)))


def test_every_published_problem_has_a_case_and_every_oracle_is_one_of_them():
    assert {case["problem"] for case in CASES} == set(oracles.__all__)
    assert len(CASES) == 49


LINEAR = {"kind": "linear", "intercept": 100, "slope": 2}
NORMAL = {"kind": "normal", "mean": 80, "std": 35}
POISSON = {"kind": "poisson", "mean": 20}

# (problem, arguments, what the message must say)
REFUSED = [
    ("monopoly_price", {"demand": LINEAR, "cost": -1}, "cost is -1; it must be a finite number at least 0"),
    ("monopoly_price", {"demand": LINEAR, "cost": float("nan")}, "cost is nan"),
    ("monopoly_price", {"demand": LINEAR, "cost": "10"}, "cost is '10'"),
    ("monopoly_price", {"demand": LINEAR, "cost": True}, "cost is True"),
    ("monopoly_price", {"demand": {"kind": "cubic"}, "cost": 1}, r"demand\['kind'\] is 'cubic'; it must be one of"),
    ("monopoly_price", {"demand": {"kind": "linear", "intercept": 1}, "cost": 1}, "lacks .'slope'."),
    ("monopoly_price", {"demand": {**LINEAR, "size": 1}, "cost": 1}, "unknown .'size'."),
    ("monopoly_price", {"demand": {**LINEAR, "slope": 0}, "cost": 1}, r"demand\['slope'\] is 0"),
    ("monopoly_price", {"demand": [1, 2], "cost": 1}, "must be a mapping"),
    ("monopoly_price", {"demand": LINEAR, "cost": 1, "price_bounds": [5, 2]}, "price_bounds"),
    ("monopoly_price", {"demand": LINEAR, "cost": 1, "price_bounds": [5]}, "price_bounds has 1 entries"),
    (
        "monopoly_price",
        {"demand": {"kind": "constant_elasticity", "scale": 1, "elasticity": 0.8}, "cost": 1},
        "elasticity.*Give price_bounds",
    ),
    (
        "monopoly_price",
        {"demand": {"kind": "constant_elasticity", "scale": 1, "elasticity": 2}, "cost": 0},
        "cost is 0",
    ),
    ("assortment_prices", {"utilities": [], "price_sensitivities": [], "costs": []}, "utilities is empty"),
    (
        "assortment_prices",
        {"utilities": [1, 2], "price_sensitivities": [1], "costs": [0, 0]},
        "price_sensitivities has",
    ),
    (
        "assortment_prices",
        {"utilities": [1], "price_sensitivities": [0], "costs": [0]},
        r"price_sensitivities\[0\] is 0",
    ),
    ("assortment_prices", {"utilities": [1], "price_sensitivities": [1], "costs": [-2]}, r"costs\[0\] is -2"),
    (
        "assortment_prices",
        {
            "utilities": [1, 2],
            "price_sensitivities": [1, 1],
            "costs": [0, 0],
            "nests": [{"products": [0], "dissimilarity": 0.5}],
        },
        "nests hold the products",
    ),
    (
        "assortment_prices",
        {
            "utilities": [1],
            "price_sensitivities": [1],
            "costs": [0],
            "nests": [{"products": [0], "dissimilarity": 1.5}],
        },
        "dissimilarity.* is 1.5",
    ),
    ("linear_system_prices", {"intercepts": [1, 1], "slopes": [[1, -2], [-2, 1]], "costs": [0, 0]}, "slopes is"),
    ("linear_system_prices", {"intercepts": [1, 1], "slopes": [[1, 0]], "costs": [0, 0]}, "slopes has 1 rows"),
    ("linear_system_prices", {"intercepts": [1], "slopes": [[1]], "costs": [5]}, r"costs\[0\] is 5"),
    ("logit_duopoly_prices", {"qualities": [1], "costs": [1], "differentiation": 1}, "qualities has 1"),
    ("logit_duopoly_prices", {"qualities": [1, 1], "costs": [1, 1], "differentiation": 0}, "differentiation is 0"),
    ("parity_constrained_prices", {"max_valuations": [1, 2], "parity": 1.2}, "parity is 1.2"),
    ("parity_constrained_prices", {"max_valuations": [1, 2, 3], "parity": 0.2}, "max_valuations has 3"),
    ("parity_constrained_prices", {"max_valuations": [1, 0], "parity": 0.2}, r"max_valuations\[1\] is 0"),
    ("newsvendor", {"price": 4, "cost": 4, "salvage": 1, "demand": NORMAL}, "price is 4"),
    ("newsvendor", {"price": 9, "cost": 4, "salvage": 4, "demand": NORMAL}, "salvage is 4"),
    ("newsvendor", {"price": 9, "cost": -4, "salvage": -5, "demand": NORMAL}, "cost is -4"),
    ("newsvendor", {"price": 9, "cost": 4, "salvage": 1, "demand": {**NORMAL, "std": -1}}, r"demand\['std'\] is -1"),
    ("base_stock", {"mean_demand": 1, "lead_time": -1, "backorder_cost": 1, "holding_cost": 1}, "lead_time is -1"),
    ("base_stock", {"mean_demand": 1, "lead_time": 1, "backorder_cost": 1, "holding_cost": 0}, "holding_cost is 0"),
    ("gallego_van_ryzin", {"scale": 1, "rate": 0, "inventory": 1, "horizon": 1}, "rate is 0"),
    ("gallego_van_ryzin", {"scale": 1, "rate": 1, "inventory": 1.5, "horizon": 1}, "inventory is 1.5; .* whole"),
    ("gallego_van_ryzin", {"scale": 1, "rate": 1, "inventory": -1, "horizon": 1}, "inventory is -1"),
    (
        "uniform_valuation_dynamic_program",
        {"arrival_probability": 1.01, "inventory": 1, "periods": 1},
        "arrival_probability is 1.01; .* at most 1",
    ),
    ("uniform_valuation_dynamic_program", {"arrival_probability": 1, "inventory": 1, "periods": 0}, "periods is 0"),
    ("littlewood", {"high_fare": 1, "low_fare": 2, "demand": NORMAL}, "high_fare is 1"),
    ("littlewood", {"high_fare": 1, "low_fare": 0, "demand": NORMAL}, "low_fare is 0"),
    ("littlewood", {"high_fare": 2, "low_fare": 1, "demand": {"kind": "gamma"}}, "gamma"),
    ("emsr", {"fares": [1, 2], "means": [1, 1], "stds": [1, 1], "variant": "b"}, "fares is"),
    ("emsr", {"fares": [2, 1], "means": [1, 1], "stds": [1, 1], "variant": "c"}, "variant is 'c'"),
    ("emsr", {"fares": [2, 1], "means": [1], "stds": [1, 1], "variant": "a"}, "means has 1"),
    ("emsr", {"fares": [], "means": [], "stds": [], "variant": "a"}, "fares is empty"),
    (
        "fare_class_dynamic_program",
        {"fares": [1, 2], "arrival_probabilities": [0.7, 0.6], "periods": 1, "capacity": 1},
        "arrival_probabilities sums to 1.3",
    ),
    (
        "fare_class_dynamic_program",
        {"fares": [1], "arrival_probabilities": [-0.1], "periods": 1, "capacity": 1},
        r"arrival_probabilities\[0\] is -0.1",
    ),
    (
        "choice_dynamic_program",
        {"prices": [1, 2], "offer_sets": [[0.5, 0.6]], "periods": 1, "capacity": 1},
        r"offer_sets\[0\] sums to 1.1",
    ),
    ("choice_dynamic_program", {"prices": [1], "offer_sets": [], "periods": 1, "capacity": 1}, "offer_sets"),
    ("choice_dynamic_program", {"prices": [1], "offer_sets": [[0.5]], "periods": 1, "capacity": -1}, "capacity is -1"),
    ("network_bid_prices", {"fares": [1], "demands": [1], "incidence": [[1, 1]], "capacities": [1]}, "incidence"),
    (
        "network_bid_prices",
        {"fares": [1], "demands": [-1], "incidence": [[1]], "capacities": [1]},
        r"demands\[0\] is -1",
    ),
    ("markdown_plan", {"price_ladder": [2, 1], "demand": [[5, 6]], "inventory": 4}, "inventory is 4"),
    ("markdown_plan", {"price_ladder": [2, 1], "demand": [[5]], "inventory": 4}, r"demand\[0\] has 1"),
    ("markdown_plan", {"price_ladder": [], "demand": [[5]], "inventory": 4}, "price_ladder is empty"),
    (
        "reference_price_policy",
        {
            "intercept": 1,
            "slope": 1,
            "reference_effect": 1,
            "memory": 0.5,
            "discount": 1,
            "cost": 0,
            "initial_reference": 1,
        },
        "discount is 1",
    ),
    ("durable_goods_prices", {"discount": -0.1}, "discount is -0.1"),
    ("seasonal_clearance", {"scale": 1, "decay": -1, "rate": 1, "horizon": 1, "inventory": 1}, "decay is -1"),
    ("market_clearing_price", {"arrivals": 1, "max_valuation": 0, "supply": 1}, "max_valuation is 0"),
    (
        "loss_system_prices",
        {"servers": 0, "arrival_scale": 1, "max_price": 1, "service_rate": 1},
        "servers is 0; .* at least 1",
    ),
    ("queue_tolls", {"arrival_rate": 1, "service_rate": 1, "reward": 1, "waiting_cost": 0}, "waiting_cost is 0"),
    (
        "ramsey_prices",
        {"elasticities": [2], "scales": [1], "costs": [1], "required_surplus": 9},
        "required_surplus is 9",
    ),
    ("ramsey_prices", {"elasticities": [2], "scales": [1], "costs": [0], "required_surplus": 0}, r"costs\[0\] is 0"),
    (
        "peak_load_prices",
        {"peak_intercept": 5, "off_peak_intercept": 6, "variable_cost": 1, "capacity_cost": 1},
        "off_peak_intercept is 6",
    ),
    (
        "loan_rate",
        {
            "utility": 3,
            "rate_sensitivity": 40,
            "default_probability": 1.5,
            "default_rate_slope": 0,
            "loss_given_default": 0.5,
            "cost_of_funds": 0.03,
        },
        "default_probability is 1.5",
    ),
    (
        "loan_rate",
        {
            "utility": 3,
            "rate_sensitivity": 40,
            "default_probability": 0.9,
            "default_rate_slope": 1,
            "loss_given_default": 0.5,
            "cost_of_funds": 0.03,
        },
        "no rate makes a profit",
    ),
    (
        "overbooking_limit",
        {"capacity": 2, "show_probability": 0, "fee": 1, "overtime_cost": 2},
        "show_probability is 0",
    ),
    ("overbooking_limit", {"capacity": 2, "show_probability": 0.5, "fee": 3, "overtime_cost": 2}, "overtime_cost is 2"),
    ("priority_waits", {"arrival_rates": [0.5, 0.5], "service_rate": 1, "waiting_costs": [1, 1]}, "unstable"),
    ("priority_waits", {"arrival_rates": [], "service_rate": 1, "waiting_costs": []}, "arrival_rates is empty"),
    ("censored_poisson_sales", {"rate": -1, "stock": 8}, "rate is -1"),
    ("censored_poisson_sales", {"rate": 1, "stock": 2.5}, "stock is 2.5"),
    ("censored_poisson_rate", {"sales": [3], "stock": [2]}, r"sales\[0\] is 3"),
    ("censored_poisson_rate", {"sales": [2], "stock": [2]}, "sold out"),
    ("censored_poisson_rate", {"sales": [0], "stock": [0]}, "stock is 0 in every period"),
    ("censored_poisson_rate", {"sales": [1.5], "stock": [2]}, r"sales\[0\] is 1.5"),
    (
        "bandit_value",
        {"actions": [0], "rewards": [1], "logging_probabilities": [0], "target_probabilities": [1]},
        r"logging_probabilities\[0\] is 0",
    ),
    (
        "bandit_value",
        {"actions": [0], "rewards": [1], "logging_probabilities": [0.5], "target_probabilities": [1.5]},
        r"target_probabilities\[0\] is 1.5",
    ),
    (
        "bandit_value",
        {"actions": [0, 1], "rewards": [1], "logging_probabilities": [0.5, 1], "target_probabilities": [1, 1]},
        "rewards has 1 entries; it must have 2",
    ),
]


@pytest.mark.parametrize("problem, arguments, message", REFUSED)
def test_invalid_arguments_are_refused_by_name(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(oracles, problem)(**arguments)


def test_every_oracle_refuses_something():
    assert {problem for problem, *_ in REFUSED} == set(oracles.__all__)
