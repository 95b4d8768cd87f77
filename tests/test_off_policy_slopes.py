"""A run's own slopes are those of a longer way: runs with everything moved a little."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.demand_model import FittedDemand, fit_demand
from pricing_fm.evaluation.off_policy.shop import Decision, Shop, Situation, run_shop
from pricing_fm.evaluation.off_policy.stocks import UnlimitedStock
from pricing_fm.evaluation.off_policy.value_slopes import SlopeRecorder, UnitSlopes
from tests.off_policy_shop import TARGET, Case, ladder_policy, simulate_case


def fitted_case() -> tuple[Case, FittedDemand, Shop]:
    """Forty units; what is left over and what is asked for in vain cost money, later money counts less."""
    case = simulate_case(0, units=40)
    demand = fit_demand(case.log, case.design, groups=np.arange(40))
    return case, demand, replace(case.shop, holding_cost=0.05, lost_sale_cost=0.4, discount=0.97)


def record(case: Case, demand: FittedDemand, shop: Shop, draws: int) -> UnitSlopes:
    def build(situation: Situation, decision: Decision) -> np.ndarray:
        return demand.design.build(situation.period, situation.list_price, situation.prices, decision)

    recorder = SlopeRecorder(demand.overdispersion, build)
    run_shop(shop, ladder_policy(TARGET, *case.log.units.shape), demand, draws, 0, watch=recorder.watch)
    return recorder.compute_slopes()


def test_slopes_are_differences_of_runs() -> None:
    case, demand, shop = fitted_case()
    slopes = record(case, demand, shop, 400)

    def value(moved: FittedDemand, shift: float = 0.0) -> float:
        policy = ladder_policy(TARGET, *case.log.units.shape)
        return float(run_shop(shop, policy, moved, 200, 1, shift).values.mean())

    shifted = (value(demand, 0.05) - value(demand, -0.05)) / 0.1
    assert slopes.log_mean.mean() == pytest.approx(shifted, rel=0.03)
    for column in range(demand.rows.design.shape[1]):
        step = 0.05 * np.eye(demand.rows.design.shape[1])[column]
        moved = (value(demand.move(step)) - value(demand.move(-step))) / 0.1
        assert slopes.coefficients[:, column].mean() == pytest.approx(moved, rel=0.05, abs=0.01 * abs(shifted))
    by_dispersion = (value(demand.move(log_overdispersion=0.2)) - value(demand.move(log_overdispersion=-0.2))) / 0.4
    assert slopes.log_overdispersion.mean() == pytest.approx(by_dispersion, rel=0.1, abs=0.005 * abs(shifted))
    assert by_dispersion < -0.01 * abs(shifted)  # there is something to find


def test_where_nothing_limits_sales_two_draws_give_the_exact_slope() -> None:
    case, demand, shop = fitted_case()
    shop = replace(shop, stock=UnlimitedStock(40), discount=1.0)
    policy = ladder_policy(TARGET, *case.log.units.shape)
    slopes = record(case, demand, shop, 2)
    # Margins are proportional to mean demand.
    np.testing.assert_allclose(slopes.log_mean, run_shop(shop, policy, demand, 2, 0).values.mean(axis=1))
    np.testing.assert_array_equal(slopes.log_overdispersion, 0.0)


def test_one_draw_has_nothing_to_be_measured_against() -> None:
    case, demand, shop = fitted_case()
    with pytest.raises(ValueError, match="two draws"):
        record(case, demand, shop, 1)
    with pytest.raises(ValueError, match="no period was watched"):
        SlopeRecorder(0.3).compute_slopes()
