"""The reward's terms, each against currency worked out by hand."""

import math

import pytest
import torch

from pricing_fm.objectives.reward import RewardWeights, consumer_surplus_gain, ladder_rewards

PRICES = torch.tensor([1.0, 2.0, 3.0, 4.0])
DEMAND = 100 - 20 * PRICES  # 80, 60, 40, 20
CURRENT = torch.tensor(1)


REFERENCE_PRICE, REFERENCE_UNITS = torch.tensor(2.4), torch.tensor(50.0)


def rewards(
    weights: RewardWeights, sales: torch.Tensor = DEMAND, stock: float = math.nan
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    known = torch.tensor(stock)
    return ladder_rewards(
        weights, PRICES, torch.tensor(1.5), DEMAND, sales, CURRENT, REFERENCE_PRICE, REFERENCE_UNITS, known
    )


def test_each_term_is_in_currency_and_the_sum_is_their_sum() -> None:
    weights = RewardWeights(margin=1.0, revenue=0.5, lost_sales=0.1, price_change=0.01, satisfaction=0.2)
    sales = DEMAND.clamp(max=50)
    total, terms = rewards(weights, sales)
    torch.testing.assert_close(terms["margin"], (PRICES - 1.5) * sales)
    torch.testing.assert_close(terms["revenue"], 0.5 * PRICES * sales)
    torch.testing.assert_close(terms["lost_sales"], -0.1 * torch.tensor([30.0, 10.0, 0.0, 0.0]) * PRICES)
    torch.testing.assert_close(terms["price_change"], torch.tensor([-1.2, 0.0, -1.2, -1.2]))
    torch.testing.assert_close(terms["satisfaction"], 0.2 * torch.tensor([70.0, 0.0, -50.0, -80.0]))
    torch.testing.assert_close(total, sum(terms.values()))


def test_a_unit_is_worth_a_share_of_the_reference_price_whatever_it_is_sold_for() -> None:
    _, terms = rewards(RewardWeights(units=0.5), DEMAND.clamp(max=50))
    torch.testing.assert_close(terms["units"], torch.tensor([60.0, 60.0, 48.0, 24.0]))  # 0.5 x 2.4 x 50, 50, 40, 20


def test_end_stock_costs_by_its_distance_from_the_target() -> None:
    """100 units in stock, half a period of 50 units wanted at the end: 25; left are 20, 40, 60, 80."""
    _, terms = rewards(RewardWeights(stock_target=0.1, stock_cover=0.5), stock=100.0)
    torch.testing.assert_close(terms["stock_target"], torch.tensor([-1.2, -3.6, -8.4, -13.2]))
    _, scarce = rewards(RewardWeights(stock_target=0.1, stock_cover=0.5), DEMAND.clamp(max=30), stock=30.0)
    torch.testing.assert_close(scarce["stock_target"], torch.tensor([-6.0, -6.0, -6.0, -3.6]))  # left 0, 0, 0, 10


def test_without_cover_the_stock_target_is_a_holding_cost() -> None:
    _, terms = rewards(RewardWeights(stock_target=0.1), stock=100.0)
    torch.testing.assert_close(terms["stock_target"], -0.24 * (100 - DEMAND))


@pytest.mark.parametrize("unlimited", [math.nan, math.inf])
def test_a_stock_that_nobody_knows_has_no_target(unlimited: float) -> None:
    total, terms = rewards(RewardWeights(stock_target=5.0, stock_cover=2.0), stock=unlimited)
    torch.testing.assert_close(terms["stock_target"], torch.zeros(4))
    torch.testing.assert_close(total, rewards(RewardWeights())[0])


def test_gradients_do_not_break_where_no_stock_is_known() -> None:
    sales = DEMAND.clone().requires_grad_()
    total, _ = rewards(RewardWeights(stock_target=1.0, stock_cover=1.0), sales)
    total.sum().backward()
    torch.testing.assert_close(sales.grad, PRICES - 1.5)


def test_margin_alone_is_the_default() -> None:
    total, _ = rewards(RewardWeights())
    torch.testing.assert_close(total, (PRICES - 1.5) * DEMAND)


def test_consumer_surplus_is_the_area_under_a_linear_demand_curve() -> None:
    gain = consumer_surplus_gain(DEMAND, PRICES, CURRENT)
    triangle = DEMAND**2 / 40  # area above the price: half of demand times the distance to the choke price
    torch.testing.assert_close(gain, triangle - triangle[1])


def test_equal_neighbours_on_a_cheap_ladder_do_no_harm() -> None:
    prices = torch.tensor([0.01, 0.01, 0.02])
    gain = consumer_surplus_gain(torch.tensor([5.0, 5.0, 3.0]), prices, torch.tensor(0))
    torch.testing.assert_close(gain, torch.tensor([0.0, 0.0, -0.04]))


def test_another_rung_of_the_same_price_is_no_change() -> None:
    prices, units = torch.tensor([0.01, 0.01, 0.02]), torch.tensor([5.0, 5.0, 3.0])
    one = torch.tensor(1.0)
    _, terms = ladder_rewards(
        RewardWeights(price_change=0.5), prices, one, units, units, torch.tensor(0), one, one, torch.tensor(math.nan)
    )
    torch.testing.assert_close(terms["price_change"], torch.tensor([0.0, 0.0, -0.5]))


def test_batches_and_members_broadcast() -> None:
    shape = (2, 3, 5)
    total, terms = ladder_rewards(
        RewardWeights(satisfaction=1.0),
        PRICES.expand(*shape, 4),
        torch.full(shape, 1.5),
        DEMAND.expand(*shape, 4),
        DEMAND.expand(*shape, 4),
        CURRENT.expand(shape),
        REFERENCE_PRICE.expand(shape),
        REFERENCE_UNITS.expand(shape),
        torch.full(shape, math.nan),
    )
    assert total.shape == (*shape, 4)
    torch.testing.assert_close(total[1, 2, 4], rewards(RewardWeights(satisfaction=1.0))[0])
    assert {term.shape for term in terms.values()} == {total.shape}


@pytest.mark.parametrize("name", ["satisfaction", "units", "stock_target", "stock_cover"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_sense_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        RewardWeights(**{name: value})
