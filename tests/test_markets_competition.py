"""Sellers who learn against each other, and items of one seller that take customers from each other."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets.competition import (
    Duopoly,
    build_two_product_market,
    compute_itemwise_loss,
    compute_profit_gain_index,
)
from pricing_fm.markets.core import start, step
from pricing_fm.markets.demand import LinearSystemDemand, LogitDemand, PurchaseProbability
from pricing_fm.markets.learning_sellers import (
    Bandit,
    BestResponse,
    FixedPrice,
    LeastSquares,
    LeastSquaresSeller,
    QLearning,
    simulate_competition,
)
from pricing_fm.markets.streams import build_streams

UNEVEN = Duopoly((2.0, 2.4), (1.0, 1.3), 0.3)
# Explores a hundred times less long than the literature's learners.
SHORT = QLearning(exploration_decay=5e-4)
LEARNERS = (SHORT, Bandit(), LeastSquares(), BestResponse())


def _market(demand, volume, cost):
    shape = (1, len(cost), 1)
    market = build_two_product_market(0.1)
    return replace(
        market,
        demand=demand,
        volume=np.full(shape, volume),
        costs=replace(market.costs, unit_cost=np.array(cost, dtype=float).reshape(shape)),
        list_price=np.ones(shape),
    )


def _logit(utility, sensitivity):
    return LogitDemand(*(np.array(values, dtype=float).reshape(1, -1, 1) for values in (utility, sensitivity)))


def _linear(intercept, slope):
    size = len(intercept)
    return LinearSystemDemand(np.array(intercept, dtype=float).reshape(1, -1, 1), np.reshape(slope, (1, size, 1, size)))


def test_the_duopoly_of_the_literature_has_its_known_prices():
    duopoly = Duopoly()
    np.testing.assert_allclose(duopoly.nash_prices, 1.47292666, atol=1e-8)
    np.testing.assert_allclose(duopoly.joint_prices, 1.92498092, atol=1e-8)
    np.testing.assert_allclose(duopoly.compute_profits(duopoly.nash_prices), duopoly.nash_profits)
    np.testing.assert_allclose(duopoly.compute_profits(duopoly.joint_prices), duopoly.joint_profits)
    ladder = duopoly.build_price_ladder(0)
    assert len(ladder) == 15
    assert ladder[0] == pytest.approx(1.47292666 - 0.1 * 0.45205426)
    assert ladder[-1] == pytest.approx(1.92498092 + 0.1 * 0.45205426)


def test_the_index_is_nil_in_equilibrium_one_under_joint_prices_and_linear_between():
    for duopoly in (Duopoly(), UNEVEN):
        assert compute_profit_gain_index(duopoly.nash_profits, duopoly) == pytest.approx(0.0, abs=1e-12)
        assert compute_profit_gain_index(duopoly.joint_profits, duopoly) == pytest.approx(1.0)
        middle = 0.5 * (duopoly.nash_profits + duopoly.joint_profits)
        np.testing.assert_allclose(compute_profit_gain_index(np.stack([middle, middle]), duopoly), 0.5)


@pytest.mark.parametrize("seller", [0, 1])
def test_the_best_response_beats_every_other_price(seller):
    grid = np.linspace(UNEVEN.costs[seller], 4.0, 40_001)
    for rival in (1.4, 1.9, 3.0):
        best = UNEVEN.compute_best_response(seller, np.array([rival]))
        prices = np.full((len(grid) + 1, 2), rival)
        prices[:, seller] = np.append(grid, best)
        profits = UNEVEN.compute_profits(prices)[:, seller]
        assert profits[-1] >= profits.max() * (1 - 1e-12)
        assert abs(grid[profits[:-1].argmax()] - best[0]) < 1e-4


@pytest.mark.parametrize("duopoly", [Duopoly(), UNEVEN])
def test_best_responders_end_in_the_equilibrium_and_joint_prices_at_one(duopoly):
    ended = simulate_competition(duopoly, (BestResponse(), BestResponse()), np.arange(20), 100, 10)
    np.testing.assert_allclose(ended.prices, np.tile(duopoly.nash_prices, (20, 1)), atol=1e-9)
    np.testing.assert_allclose(ended.profit_gain, 0.0, atol=1e-9)
    began = simulate_competition(duopoly, (BestResponse(), BestResponse()), np.arange(20), 1, 1)
    assert np.abs(began.profit_gain).max() > 1e-3
    joint = (FixedPrice(float(duopoly.joint_prices[0])), FixedPrice(float(duopoly.joint_prices[1])))
    np.testing.assert_allclose(simulate_competition(duopoly, joint, np.arange(3), 5, 5).profit_gain, 1.0)


def test_patient_q_learners_end_far_above_the_equilibrium_and_impatient_ones_close_to_it():
    # Four rungs: 64 cells, each visited some fifteen times while both explore. With fifteen rungs so few periods leave
    # the first values in place, and the index says nothing about learning.
    patient = QLearning(exploration_decay=5e-4, rungs=4)
    ended, impatient = (
        simulate_competition(Duopoly(), (learner, learner), np.arange(48), 14_000)
        for learner in (patient, replace(patient, discount=0.0))
    )
    assert ended.mean_profit_gain > 0.5
    assert ended.mean_profit_gain > 10.0 * ended.standard_error
    assert ended.mean_profit_gain < 1.0
    assert ended.mean_profit_gain > impatient.mean_profit_gain + 4.0 * (ended.standard_error + impatient.standard_error)
    assert impatient.mean_profit_gain < 0.3


@pytest.mark.parametrize("learner", LEARNERS)
def test_runs_are_reproducible_and_the_same_in_any_company(learner):
    arguments = {"num_periods": 700, "measured_periods": 50}
    many = simulate_competition(UNEVEN, (learner, SHORT), np.array([4, 9, 2]), seed=3, **arguments)
    again = simulate_competition(UNEVEN, (learner, SHORT), np.array([4, 9, 2]), seed=3, **arguments)
    alone = simulate_competition(UNEVEN, (learner, SHORT), np.array([9]), seed=3, **arguments)
    other = simulate_competition(UNEVEN, (learner, SHORT), np.array([9]), seed=4, **arguments)
    np.testing.assert_array_equal(many.profits, again.profits)
    np.testing.assert_array_equal(many.prices[1], alone.prices[0])
    assert not np.array_equal(many.prices[0], many.prices[1])
    assert not np.array_equal(alone.prices, other.prices)


def test_q_learning_is_the_plain_loop_over_one_run():
    settings, duopoly, periods = QLearning(exploration_decay=0.01, rungs=5), UNEVEN, 600
    ladders = [duopoly.build_price_ladder(seller, 5) for seller in (0, 1)]
    sellers = [settings.start(duopoly, seller, build_streams(1, np.array([6]), seller)) for seller in (0, 1)]
    draws = [settings.start(duopoly, seller, build_streams(1, np.array([6]), seller)) for seller in (0, 1)]
    tables, states, rungs = [], [], [0, 0]
    for seller in (0, 1):
        value = np.zeros(5)
        for own in range(5):
            for rival in range(5):
                prices = np.array([ladders[0][own], ladders[1][rival]])
                if seller == 1:
                    prices = np.array([ladders[0][rival], ladders[1][own]])
                value[own] += duopoly.compute_profits(prices)[seller] / 5 / (1 - 0.95)
        tables.append({(a, b): value.copy() for a in range(5) for b in range(5)})
        states.append(tuple(draws[seller].draw_first(ladders[seller])[0]))
    for period in range(periods):
        for seller in (0, 1):
            draws[seller].period = period
            explore, which = (float(x[0]) for x in draws[seller].draw())
            greedy = int(tables[seller][states[seller]].argmax())
            rungs[seller] = int(which * 5) if explore < np.exp(-0.01 * period) else greedy
        prices = np.array([ladders[0][rungs[0]], ladders[1][rungs[1]]])
        profits = duopoly.compute_profits(prices)
        set_now = [float(one.set_prices()[0]) for one in sellers]
        np.testing.assert_array_equal(set_now, prices)
        shares = duopoly.compute_shares(prices)
        for seller in (0, 1):
            following = (rungs[seller], rungs[1 - seller])
            cell = tables[seller][states[seller]]
            target = profits[seller] + 0.95 * tables[seller][following].max()
            cell[rungs[seller]] += 0.15 * (target - cell[rungs[seller]])
            states[seller] = following
            sellers[seller].observe(prices[1 - seller : 2 - seller], shares[seller : seller + 1])
    for seller in (0, 1):
        expected = np.array([tables[seller][a, b] for a in range(5) for b in range(5)])
        np.testing.assert_allclose(sellers[seller].values, expected, rtol=1e-12)
        assert np.ptp(expected[:, 0]) > 0


@pytest.mark.parametrize("learner", [replace(SHORT, discount=0.0), Bandit(step_size=0.0)])
def test_a_learner_finds_the_best_rung_against_a_rival_who_stands_still(learner):
    duopoly = Duopoly()
    ended = simulate_competition(duopoly, (learner, FixedPrice(1.7)), np.arange(20), 14_000, 200)
    ladder = duopoly.build_price_ladder(0)
    prices = np.stack([ladder, np.full(15, 1.7)], axis=1)
    best = duopoly.compute_profits(prices)[:, 0].max()
    assert np.all(ended.profits[:, 0] > 0.995 * best)


def test_least_squares_finds_the_monopoly_price_of_a_line_and_keeps_the_fit():
    seller = LeastSquaresSeller(build_streams(0, np.arange(6)), (1.0, 9.0), 2.0)
    seen = []
    for _ in range(30):
        price = seller.set_prices()
        sales = np.maximum(10.0 - price + np.sin(7.0 * price) * 0.05, 0.0)
        seen.append((price.copy(), sales.copy()))
        seller.observe(np.zeros(6), sales)
    prices, sales = np.moveaxis(np.array(seen), 0, 1)
    for run in range(6):
        slope, intercept = np.polyfit(prices[:, run], sales[:, run], 1)
        assert seller.set_prices()[run] == pytest.approx((2.0 - intercept / slope) / 2.0, rel=1e-6)
    # The line 10 - p with cost 2 has its optimum at 6.
    np.testing.assert_allclose(seller.set_prices(), 6.0, atol=0.2)


def test_learners_who_leave_the_rival_out_end_above_the_equilibrium():
    for learner, periods in ((LeastSquares(), 500), (Bandit(), 4_000)):
        ended = simulate_competition(Duopoly(), (learner, learner), np.arange(64), periods, 100)
        assert ended.mean_profit_gain > 4.0 * ended.standard_error
        assert ended.mean_profit_gain < 1.0


def test_a_learning_rival_answers_any_pricing_policy():
    duopoly = Duopoly()
    rival = replace(SHORT, discount=0.0).start(duopoly, 1, build_streams(0, np.arange(10)))
    low, high = duopoly.build_price_ladder(0)[[1, -2]]
    answers = []
    for period in range(12_000):
        own = np.full(10, low if period % 2 else high)
        price = rival.set_prices()
        rival.observe(own, duopoly.compute_shares(np.stack([own, price], axis=1))[:, 1])
        if period >= 11_000:
            answers.append(price.copy())
    # After a high price a low one follows and the other way round: the rival expects what comes next.
    to_high, to_low = np.mean(answers[::2], axis=0), np.mean(answers[1::2], axis=0)
    assert np.mean(to_high) > np.mean(to_low)


def test_item_by_item_two_linear_substitutes_lose_a_ninth():
    market = _market(_linear([10.0, 10.0], [[2.0, -1.0], [-1.0, 2.0]]), 1.0, [0.0, 0.0])
    loss = compute_itemwise_loss(market)
    np.testing.assert_allclose(loss.joint_prices.ravel(), 5.0)
    np.testing.assert_allclose(loss.itemwise_prices.ravel(), 10.0 / 3.0)
    assert (loss.joint_profit, loss.itemwise_profit) == (pytest.approx(50.0), pytest.approx(400.0 / 9.0))
    assert loss.loss_percent == pytest.approx(100.0 / 9.0)
    apart = compute_itemwise_loss(_market(_linear([10.0, 10.0], np.diag([2.0, 3.0])), 1.0, [1.0, 0.0]))
    assert apart.loss_percent == pytest.approx(0.0, abs=1e-10)


def test_item_by_item_two_logit_products_lose_what_the_duopoly_loses():
    duopoly = Duopoly()
    market = _market(_logit([8.0, 8.0], [4.0, 4.0]), 50.0, [1.0, 1.0])
    loss = compute_itemwise_loss(market)
    np.testing.assert_allclose(loss.itemwise_prices.ravel(), duopoly.nash_prices, rtol=1e-9)
    np.testing.assert_allclose(loss.joint_prices.ravel(), duopoly.joint_prices, rtol=1e-9)
    assert loss.joint_profit == pytest.approx(50.0 * duopoly.joint_profits.sum())
    assert loss.loss_percent == pytest.approx(33.9458, abs=1e-3)


def test_logit_items_of_different_slopes_have_no_better_price_of_their_own():
    utility, steep, cost = np.array([5.0, 6.0, 4.0]), np.array([2.0, 3.5, 1.2]), np.array([1.0, 0.8, 1.5])
    loss = compute_itemwise_loss(_market(_logit(utility, steep), 1.0, cost))

    def profit(prices):
        attraction = np.exp(utility - steep * prices)
        return (prices - cost) * attraction / (1.0 + attraction.sum(axis=-1, keepdims=True))

    alone, joint = loss.itemwise_prices[:, 0], loss.joint_prices[:, 0]
    assert loss.itemwise_profit == pytest.approx(profit(alone).sum())
    assert loss.joint_profit == pytest.approx(profit(joint).sum())
    for item in range(3):
        for price in np.linspace(cost[item], 6.0, 400):
            other = alone.copy()
            other[item] = price
            assert profit(other)[item] <= profit(alone)[item] * (1 + 1e-9)
            assert profit(np.where(np.arange(3) == item, price, joint)).sum() <= loss.joint_profit * (1 + 1e-9)


@pytest.mark.parametrize("stated", [0.0, 0.02, 0.1, 0.25, 0.5])
def test_a_market_can_be_built_in_which_item_by_item_loses_a_stated_share(stated):
    market = build_two_product_market(stated, volume=80.0, choke_price=12.0)
    loss = compute_itemwise_loss(market)
    assert loss.loss_percent == pytest.approx(100.0 * stated, abs=1e-9)
    state, rewards = start(market, build_streams(0, np.array([0]))), []
    for prices in (loss.joint_prices, loss.itemwise_prices):
        ratio = prices / market.list_price[0]
        assert np.all((ratio >= market.price_bounds[0]) & (ratio <= market.price_bounds[1]))
        rewards.append(step(market, state, prices[None], build_streams(0, np.array([0])))[2].sum())
    np.testing.assert_allclose(rewards, [loss.joint_profit, loss.itemwise_profit])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="differentiation"):
        Duopoly(differentiation=0.0)
    with pytest.raises(ValueError, match="two sellers"):
        Duopoly((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="rungs"):
        Duopoly().build_price_ladder(0, 1)
    with pytest.raises(ValueError, match="discount"):
        QLearning(discount=1.0)
    with pytest.raises(ValueError, match="exploration_decay"):
        Bandit(exploration_decay=0.0)
    with pytest.raises(ValueError, match="measured_periods"):
        simulate_competition(Duopoly(), (SHORT, SHORT), np.arange(2), 10, 11)
    with pytest.raises(ValueError, match="loss"):
        build_two_product_market(0.6)
    whole = _market(PurchaseProbability(np.zeros((1, 2, 1)), np.ones((1, 2, 1))), 1.0, [0.0, 0.0])
    with pytest.raises(ValueError, match="PurchaseProbability"):
        compute_itemwise_loss(whole)
    uneven = replace(_market(_logit([1.0, 1.0], [1.0, 1.0]), 1.0, [0.0, 0.0]), volume=np.array([[[1.0], [2.0]]]))
    with pytest.raises(ValueError, match="volume"):
        compute_itemwise_loss(uneven)
    with pytest.raises(ValueError, match="shape"):
        compute_itemwise_loss(build_two_product_market(0.1).select(np.array([0, 0])))
