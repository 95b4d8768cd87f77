"""The known recursion is the simulator's own, and luck is shared."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy.demand_model import DemandDesign, fit_demand
from pricing_fm.evaluation.off_policy.shop import (
    Decision,
    LadderPolicy,
    PathPolicy,
    PriceState,
    Situation,
    advance_prices,
    run_shop,
)
from pricing_fm.evaluation.off_policy.stocks import (
    BaseStock,
    Deliveries,
    FollowingDeliveries,
    MarketStock,
    UnlimitedStock,
)
from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.supply import FreshStock, LeadTimeStock, OrderUpToStock, Supply
from tests.off_policy_shop import TARGET, ladder_policy, simulate_case

UNITS, DRAWS, PERIODS = 3, 4, 8
COLUMN = (UNITS, 1, 1)


def demands(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(6.0, (PERIODS, UNITS, DRAWS)).astype(float)


def test_a_base_stock_with_a_lead_time_is_that_of_the_markets() -> None:
    level = np.array([8.0, 12.0, 20.0])
    charges = np.zeros(COLUMN)
    supply = LeadTimeStock(level.reshape(COLUMN), charges, charges)
    market = MarketStock(supply, supply.start((UNITS, 1, 1), np.ones(COLUMN)))
    ours = BaseStock(level, level, np.zeros((UNITS, 1)))
    first, second = ours.start(DRAWS), market.start(DRAWS)
    available = []
    for period, demand in enumerate(demands()):
        np.testing.assert_array_equal(first, second)
        available.append(ours.get_available(first, period))
        np.testing.assert_array_equal(available[-1], market.get_available(second, period))
        first, second = ours.advance(first, demand, period), market.advance(second, demand, period)
    assert np.ptp(np.stack(available)) > 3


@pytest.mark.parametrize(
    "supply", [OrderUpToStock(np.full(COLUMN, 1.5)), FreshStock(np.full(COLUMN, 5.0), np.ones(COLUMN))]
)
def test_draws_run_through_the_simulators_stock_as_markets_of_their_own(supply: Supply) -> None:
    start = supply.start((UNITS, 1, 1), np.full(COLUMN, 6.0))
    stock = MarketStock(supply, start, first_period=3)
    state, alone = stock.start(DRAWS), [start] * DRAWS
    for period, demand in enumerate(demands(1)):
        available = stock.get_available(state, period)
        for draw in range(DRAWS):
            np.testing.assert_array_equal(available[:, draw], supply.get_available(alone[draw], COLUMN)[:, 0, 0])
            wanted = demand[:, draw].reshape(COLUMN)
            alone[draw] = supply.sell(alone[draw], wanted, np.full(UNITS, 3 + period))[1]
        state = stock.advance(state, demand, period)
    assert np.ptp(state) > 0


def test_nothing_is_lost_between_deliveries_orders_and_sales() -> None:
    for lead_time in (0, 1, 3):
        level = np.array([10.0, 15.0])
        stock = BaseStock(level, level, np.zeros((2, lead_time)))
        state = stock.start(1)
        arrivals = []
        for period in range(12):
            demand = np.array([[4.0], [7.0]]) if period == 0 else np.zeros((2, 1))
            state = stock.advance(state, demand, period)
            np.testing.assert_allclose(state.sum(axis=-1)[:, 0], level)  # on hand and on order fill the level
            arrivals.append(stock.get_available(state, period + 1)[:, 0])
        # What was sold in period 0 is back on hand for the first time in period 1 + lead_time.
        assert [bool(np.all(hand == level)) for hand in arrivals].index(True) == lead_time
    with pytest.raises(ValueError, match="0 or more"):
        BaseStock(np.array([-1.0]), np.array([1.0]), np.zeros((1, 0)))


def test_deliveries_come_whatever_is_sold() -> None:
    fixed = Deliveries(np.array([5.0]), np.full((1, 4), 2.0))
    state, seen = fixed.start(1), []
    for period in range(4):
        seen.append(float(fixed.get_available(state, period)[0, 0]))
        state = fixed.advance(state, np.array([[3.0]]), period)
    assert seen == [5.0, 4.0, 3.0, 2.0]


@pytest.mark.parametrize("lead_time", [0, 1, 3])
def test_deliveries_that_follow_sales_are_those_of_a_buyer_who_fills_up_to_a_level(lead_time: int) -> None:
    """His level is not told: a log under other demand, and what was sold in it, say all that his orders depend on."""
    rng = np.random.default_rng(lead_time)
    level, periods = np.array([25.0, 40.0, 60.0]), 14
    buyer = BaseStock(level, level - 5.0 * lead_time, np.full((3, lead_time), 5.0))
    logged, other = rng.poisson(9.0, (2, 3, periods, 1)).astype(float)
    other *= 2.0
    held, sold, state = np.zeros((3, periods)), np.zeros((3, periods)), buyer.start(1)
    for period in range(periods):
        held[:, period] = buyer.get_available(state, period)[:, 0]
        sold[:, period] = np.minimum(held[:, period], logged[:, period, 0])
        state = buyer.advance(state, logged[:, period], period)
    last = buyer.get_available(state, periods)
    arrivals = np.column_stack([held[:, 1:], last]) - (held - sold)
    following = FollowingDeliveries(Deliveries(held[:, 0], arrivals), sold, lead_time)
    for demand in (logged, other, 0.0 * other):
        wanted, found = buyer.start(1), following.start(1)
        for period in range(periods):
            np.testing.assert_allclose(
                following.get_available(found, period), buyer.get_available(wanted, period), atol=1e-9
            )
            wanted, found = (
                stock.advance(state, demand[:, period], period)
                for stock, state in ((buyer, wanted), (following, found))
            )


def test_orders_beyond_the_log_need_records_and_wait_for_deliveries_to_be_taken_off() -> None:
    sold = np.array([[3.0, np.nan, 3.0, 3.0]])
    stock = FollowingDeliveries(Deliveries(np.array([9.0]), np.full((1, 4), 2.0)), sold, 0)
    state, seen = stock.start(1), []
    for period, demand in enumerate([0.0, 4.0, 0.0, 0.0]):
        seen.append(float(stock.get_available(state, period)[0, 0]))
        state = stock.advance(state, np.array([[demand]]), period)
    # 3 not sold: none of the 2 arrives and one more is taken off the next 2; the unrecorded week orders as logged.
    assert seen == [9.0, 9.0, 6.0, 6.0]
    with pytest.raises(ValueError, match="0 or more"):
        FollowingDeliveries(stock.logged, sold, -1)
    with pytest.raises(ValueError, match="fit together"):
        FollowingDeliveries(stock.logged, sold[:, :3], 0)


def test_the_remembered_price_is_that_of_the_markets() -> None:
    rng = np.random.default_rng(0)
    part = ReferencePrice(np.ones(COLUMN), np.ones(COLUMN), np.full(COLUMN, 0.7))
    remembered = part.start(np.full(COLUMN, 4.0))
    start = np.full((UNITS, 1), np.log(4.0))
    state = PriceState(start, start, np.zeros((UNITS, 1)))
    for _ in range(6):
        prices = rng.uniform(2.0, 5.0, (UNITS, 1))
        ones = np.ones(COLUMN)
        remembered = part.advance(remembered, ones, ones, prices.reshape(COLUMN), np.zeros(UNITS))
        state = advance_prices(state, prices, np.full((UNITS, 1), 4.0), 0.7)
        np.testing.assert_allclose(np.exp(state.log_memory)[:, 0], remembered[:, 0, 0, 0])
        assert np.all(state.depth <= 0.0)
    unpriced = advance_prices(state, np.full((UNITS, 1), np.nan), np.full((UNITS, 1), 4.0), 0.7)
    for before, after in zip(state, unpriced):
        np.testing.assert_array_equal(before, after)


def test_sampled_and_expected_earnings_agree_and_charges_are_paid() -> None:
    case = simulate_case(0, units=30)
    policy = ladder_policy(TARGET, *case.log.units.shape)
    found = run_shop(case.shop, policy, case.law, 400, 1)
    error = found.returns.std() / np.sqrt(found.returns.size)
    assert abs(found.returns.mean() - found.values.mean()) < 4 * error
    assert found.values.std() < found.returns.std()
    lost = replace(case.shop, lost_sale_cost=2.0)
    charged = run_shop(lost, policy, case.law, 400, 1)
    unmet = (found.demand - found.sales).mean()
    assert unmet > 1.0
    assert found.values.mean() - charged.values.mean() == pytest.approx(2.0 * unmet)
    held = run_shop(replace(case.shop, holding_cost=0.1), policy, case.law, 400, 1)
    assert held.values.mean() < found.values.mean()
    assert np.all(found.sales <= found.demand)


def test_a_stochastic_policy_draws_its_own_shares_and_bad_prices_are_refused() -> None:
    case = simulate_case(1, units=50)
    situation = Situation(
        0, case.log.list_prices[:, :1], case.shop.unit_costs[:, :1],
        PriceState(*(np.zeros((50, 1)),) * 3), np.full((50, 1), np.inf),
    )  # fmt: skip
    policy = ladder_policy(TARGET, 50, 13)
    uniforms = np.tile((np.arange(1000) + 0.5) / 1000, (50, 1))
    chosen = policy.decide(situation, uniforms).prices / situation.list_price
    for rung, share in zip(policy.multipliers, TARGET, strict=True):
        assert np.isclose(chosen, rung).mean() == pytest.approx(share)
    sure = LadderPolicy(np.array([0.9]), np.ones((50, 13, 1)))
    np.testing.assert_allclose(
        sure.decide(situation, uniforms).prices, np.broadcast_to(0.9 * situation.list_price, (50, 1000))
    )
    with pytest.raises(ValueError, match="price of -1"):
        run_shop(case.shop, PathPolicy(np.full((50, 13), -1.0)), case.law, 2, 0)


def test_promotions_and_loss_aversion_have_columns_of_their_own() -> None:
    case = simulate_case(2, units=20)
    promoted = (np.random.default_rng(0).random(case.log.units.shape) < 0.3).astype(float)
    log = replace(case.log, promotions=promoted)
    design = DemandDesign(case.design.covariates, has_promotion=True, is_loss_averse=True)
    assert design.names == ("covariate_0", "log_price", "promotion", "fall_below_memory", "rise_above_memory")
    demand = fit_demand(log, design, groups=np.arange(20))
    assert demand.fit.coefficients.shape == (5,)
    # The law at the logged prices and states is the one that was fitted.
    states, periods = log.trace_price_states(), log.units.shape[1]
    for period in range(periods):
        here = slice(period, period + 1)
        state = PriceState(*(column[:, here] for column in states))
        situation = Situation(
            period, log.list_prices[:, here], case.shop.unit_costs[:, here], state, log.stock[:, here]
        )
        decision = Decision(log.prices[:, here], promoted[:, here])
        log_mean = demand.compute_log_mean(situation, decision)
        np.testing.assert_allclose(log_mean, demand.compute_logged_log_mean()[:, here])


def test_without_a_stock_nothing_limits_sales() -> None:
    case = simulate_case(3, units=10)
    free = run_shop(replace(case.shop, stock=UnlimitedStock(10)), PathPolicy(case.log.prices), case.law, 8, 0)
    np.testing.assert_array_equal(free.sales, free.demand)
    limited = run_shop(case.shop, PathPolicy(case.log.prices), case.law, 8, 0)
    np.testing.assert_array_equal(limited.demand, free.demand)  # the same luck, and no memory of what was sold out
    assert limited.sales.sum() < free.sales.sum()


class Sticky:
    """Charges what was charged last."""

    def decide(self, situation: Situation, uniforms: np.ndarray) -> Decision:
        return Decision(np.broadcast_to(np.exp(situation.prices.log_last), uniforms.shape), np.zeros(uniforms.shape))


def test_a_policy_that_keeps_prices_starts_from_the_last_one_not_from_the_remembered_one() -> None:
    case = simulate_case(4, units=10)
    last = np.log(1.3 * case.log.list_prices[:, 0])
    kept = run_shop(replace(case.shop, log_last=last), Sticky(), case.law, 8, 0)
    fixed = run_shop(case.shop, PathPolicy(1.3 * case.log.list_prices), case.law, 8, 0)
    np.testing.assert_allclose(kept.values, fixed.values)
    assert run_shop(case.shop, Sticky(), case.law, 8, 0).sales.sum() > 1.2 * kept.sales.sum()
    with pytest.raises(ValueError, match="log_last"):
        replace(case.shop, log_last=last[:3])
