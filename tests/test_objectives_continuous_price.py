"""A continuous price: the actor finds the known optimum, the penalties say how far it leaves the log."""

import pytest
import torch

from pricing_fm.objectives.continuous_price import actor_loss, behavior_penalty, penalised_targets, value_at_price

RUNGS = torch.linspace(-0.5, 0.5, 41)[None].expand(3, -1)
ELASTICITY, COST = 2.5, 0.5
# Profit per unit of reference demand; the best log price is log(cost e / (e - 1)).
BEST = float(torch.tensor(COST * ELASTICITY / (ELASTICITY - 1)).log())
PROFIT = ((RUNGS.exp() - COST) * (-ELASTICITY * RUNGS).exp())[:, None].expand(-1, 2, -1)
MASK = torch.ones(3, 2, dtype=torch.bool)


def learn(penalty: float, logged: float, values: torch.Tensor = PROFIT) -> torch.Tensor:
    price = torch.zeros(3, 2, requires_grad=True)
    optimizer = torch.optim.Adam([price], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        actor_loss(price, values, RUNGS, torch.full((3, 2), logged), MASK, penalty).mean().backward()
        optimizer.step()
    return price.detach()


def test_without_a_penalty_the_actor_charges_the_textbook_price() -> None:
    torch.testing.assert_close(learn(0.0, logged=0.3), torch.full((3, 2), BEST), atol=0.015, rtol=0)


def test_a_strong_penalty_is_cloning_and_a_weak_one_lies_between() -> None:
    cloned, between = learn(100.0, logged=0.2), learn(0.02, logged=0.2)
    torch.testing.assert_close(cloned, torch.full((3, 2), 0.2), atol=5e-3, rtol=0)
    assert BEST < float(between.mean()) < 0.19


def test_one_penalty_serves_every_currency() -> None:
    torch.testing.assert_close(learn(0.02, 0.2), learn(0.02, 0.2, values=1000 * PROFIT))


def test_the_ladder_is_interpolated_and_goes_on_beyond_its_ends() -> None:
    line = (2.0 * RUNGS + 1.0)[:, None].expand(-1, 2, -1)
    asked = torch.tensor([[-0.9, 0.013], [0.2, 0.5], [0.0, 0.7]])
    torch.testing.assert_close(value_at_price(line, RUNGS, asked), 2.0 * asked + 1.0)
    on_rungs = value_at_price(PROFIT, RUNGS, RUNGS[:, [3, 30]])
    torch.testing.assert_close(on_rungs, PROFIT[:, 0, [3, 30]], atol=1e-5, rtol=1e-4)


def test_what_is_masked_teaches_nothing() -> None:
    price = torch.zeros(3, 2, requires_grad=True)
    mask = MASK.clone()
    mask[:, 1] = False
    actor_loss(price, PROFIT, RUNGS, torch.full((3, 2), 0.2), mask, 0.1).sum().backward()
    assert price.grad is not None
    assert (price.grad[:, 0] != 0).all()
    assert (price.grad[:, 1] == 0).all()
    assert float(actor_loss(price, PROFIT, RUNGS, price, ~MASK, 0.1).sum()) == 0.0


def test_the_critic_pays_for_next_prices_far_from_the_log_and_a_termination_for_none() -> None:
    rewards, following = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    distance = behavior_penalty(torch.tensor([0.1, 0.1]), torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(distance, torch.tensor([4.0, 0.0]))
    ended = torch.tensor([False, False])
    found = penalised_targets(rewards, following, distance, ended, 0.5, 0.1)
    torch.testing.assert_close(found, torch.tensor([1 + 0.5 * (2 - 0.4), 2.0]))
    over = penalised_targets(rewards, following, distance, ~ended, 0.5, 0.1)
    torch.testing.assert_close(over, rewards)
    for call in (
        lambda: penalised_targets(rewards, following, distance, ended, 0.5, -0.1),
        lambda: actor_loss(torch.zeros(3, 2), PROFIT, RUNGS, torch.zeros(3, 2), MASK, -1.0),
    ):
        with pytest.raises(ValueError, match="penalty"):
            call()
