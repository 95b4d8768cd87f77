"""Price and order together: the exact program against closed forms, and the one-cycle rule against the program."""

import numpy as np
import pytest
from scipy import stats

from pricing_fm.evaluation.price_and_order import follow_cycle_rule
from pricing_fm.markets import oracles
from pricing_fm.markets.joint_program import JointProgram

PRICES = np.round(np.arange(5.0, 11.0, 0.5), 2)
COST = 4.0


def poisson_law(mean: np.ndarray, most: int) -> np.ndarray:
    law = stats.poisson.pmf(np.arange(most), np.asarray(mean)[:, None])
    law[:, -1] += 1 - law.sum(1)
    return law


def program(elasticity: float = 2.0, volume: float = 8.0, **changes) -> JointProgram:
    mean = volume * (PRICES / 7.0) ** -elasticity
    given = {"cost": COST, "holding": 0.2, "lost_sale": 0.0, "salvage": 0.0, "lead_time": 0, "most": 40, "periods": 1}
    return JointProgram(PRICES, poisson_law(mean, 60), **(given | changes))


def test_one_period_is_the_newsvendor_at_every_price() -> None:
    one = program(holding=0.0, salvage=1.0)
    values = one.look_ahead(one._end())[0]
    for rung, price in enumerate(PRICES):
        mean = 8.0 * (price / 7.0) ** -2.0
        answer = oracles.newsvendor(float(price), COST, 1.0, {"kind": "poisson", "mean": float(mean)})
        assert values[rung].argmax() == answer["quantity"]
        assert values[rung].max() == pytest.approx(answer["profit"], abs=1e-9)


@pytest.mark.parametrize("stock", [0, 5, 20])
def test_the_cycle_rule_is_the_program_of_one_period(stock: int) -> None:
    one = program(salvage=1.0)
    _, choices = one.solve()
    np.testing.assert_array_equal(choices[0, stock], follow_cycle_rule(one, 1.0 - one.holding)[stock])


def test_without_lead_time_the_cycle_rule_is_best_in_every_period_of_a_long_season() -> None:
    """What is left saves a purchase: it is worth its cost less the holding, and one period is like any other.

    Federgruen and Heching 1999, Operations Research 47(3): a base stock and a list price, until stock is above it.
    """
    one = program(salvage=COST, periods=12)
    value, choices = one.solve()
    rule = follow_cycle_rule(one, COST - one.holding)
    rung, level = rule[0]
    assert (choices[:, 0] == (rung, level)).all()
    for stock in range(level + 1):
        assert (choices[:, stock] == (rung, level - stock)).all()
    above = choices[0, level + 1 :]
    assert (above[:, 1] == 0).all()
    assert (np.diff(PRICES[above[:, 0]]) <= 0).all()
    assert PRICES[above[-1, 0]] < PRICES[rung]
    assert one.evaluate(rule)[0] == pytest.approx(value[0], rel=1e-12)


@pytest.mark.parametrize("elasticity", [1.6, 3.0])
def test_with_a_lead_time_the_cycle_rule_loses_little_and_price_before_order_more(elasticity: float) -> None:
    one = program(elasticity, volume=5.0, lead_time=1, salvage=COST, periods=12, most=24, holding=0.4)
    value, _ = one.solve()
    leftover = COST - one.holding
    riskless = int(((PRICES - COST) * 5.0 * (PRICES / 7.0) ** -elasticity).argmax())
    joint_value = one.evaluate(follow_cycle_rule(one, leftover))
    separate_value = one.evaluate(follow_cycle_rule(one, leftover, rungs=np.array([riskless])))
    own = value - COST * np.arange(one.most + 1)  # what stock is worth anyway
    assert (joint_value <= value + 1e-9).all()
    lost = ((value - joint_value) / own)[:16]
    assert lost.max() < 0.025
    assert lost.mean() < 0.01
    assert joint_value[:16].mean() > separate_value[:16].mean()


def test_choices_are_evaluated_as_they_are_solved() -> None:
    for lead_time in (0, 1):
        one = program(lead_time=lead_time, periods=4, lost_sale=1.0, discount=0.9)
        value, choices = one.solve()
        np.testing.assert_allclose(one.evaluate(choices), value, rtol=1e-12)
        worse = np.zeros((one.most + 1, 2), dtype=int)
        assert (one.evaluate(worse) < value).all()


@pytest.mark.parametrize("given", [{"lead_time": 2}, {"most": 5000}])
def test_programs_that_cannot_be_solved_are_refused(given: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        program(**given)
