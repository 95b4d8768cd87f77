"""The reward's terms, each against currency worked out by hand."""

import math

import pytest
import torch

from pricing_fm.objectives.reward import RewardWeights, consumer_surplus_gain, ladder_rewards

PRICES = torch.tensor([1.0, 2.0, 3.0, 4.0])
DEMAND = 100 - 20 * PRICES  # 80, 60, 40, 20
CURRENT = torch.tensor(1)


def rewards(weights: RewardWeights, sales: torch.Tensor = DEMAND) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return ladder_rewards(weights, PRICES, torch.tensor(1.5), DEMAND, sales, CURRENT, torch.tensor(120.0))


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


def test_batches_and_members_broadcast() -> None:
    shape = (2, 3, 5)
    total, terms = ladder_rewards(
        RewardWeights(satisfaction=1.0),
        PRICES.expand(*shape, 4),
        torch.full(shape, 1.5),
        DEMAND.expand(*shape, 4),
        DEMAND.expand(*shape, 4),
        CURRENT.expand(shape),
        torch.full(shape, 120.0),
    )
    assert total.shape == (*shape, 4)
    torch.testing.assert_close(total[1, 2, 4], rewards(RewardWeights(satisfaction=1.0))[0])
    assert {term.shape for term in terms.values()} == {total.shape}


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_sense_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="satisfaction"):
        RewardWeights(satisfaction=value)
