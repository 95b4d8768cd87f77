"""Expectations over the ladder are what draws from a log estimate, and an advantage term sees what weights do not."""

import pytest
import torch

from pricing_fm.objectives.expected_losses import (
    ADVANTAGE_LIMIT,
    ADVANTAGE_UNIT,
    advantage_regression,
    expected_expectile,
)
from pricing_fm.objectives.implicit_q import advantage_weights, expectile_loss


def test_the_expected_expectile_is_the_mean_over_many_logged_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    values, probabilities = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([0.5, 0.2, 0.3])
    state_value = torch.tensor(0.05)
    exact = expected_expectile(values, state_value, probabilities.log(), 0.7)
    logged = torch.multinomial(probabilities, 200_000, replacement=True, generator=generator)
    assert exact.item() == pytest.approx(expectile_loss(values[logged] - state_value, 0.7).mean().item(), rel=0.01)


def test_at_one_half_the_best_value_is_the_policys_own_and_above_it_more() -> None:
    values, log_probs = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.5, 0.2, 0.3]).log()
    grid = torch.linspace(-1, 1, 401)
    best = [
        grid[expected_expectile(values.expand(401, 3), grid, log_probs.expand(401, 3), level).argmin()].item()
        for level in (0.5, 0.7)
    ]
    assert best[0] == pytest.approx(0.2, abs=0.005)
    assert best[1] > 0.3


def test_targets_get_no_gradient() -> None:
    values = torch.tensor([1.0, 0.0], requires_grad=True)
    state, predictions = torch.tensor(0.2, requires_grad=True), torch.zeros(2, requires_grad=True)
    (expected_expectile(values, state, torch.tensor([0.5, 0.5]).log(), 0.5)).backward()
    advantage_regression(predictions, values, torch.tensor([True, True])).backward()
    assert values.grad is None
    assert state.grad != 0
    assert predictions.grad is not None


def test_advantages_of_rungs_that_do_not_count_change_nothing_and_impossible_ones_are_bounded() -> None:
    predictions = torch.zeros(3)
    advantages, counts = torch.tensor([0.1, -50.0, 7.0]), torch.tensor([True, True, False])
    loss = advantage_regression(predictions, advantages, counts)
    assert loss.item() == pytest.approx((1.0 + ADVANTAGE_LIMIT**2) / 2)
    assert advantage_regression(predictions, advantages + torch.tensor([0, 0, 9.0]), counts) == loss
    assert advantage_regression(predictions, advantages, torch.zeros(3, dtype=torch.bool)) == 0
    perfect = torch.tensor([1.0, -ADVANTAGE_LIMIT, 0.0])
    assert advantage_regression(perfect, advantages, counts) == 0
    assert ADVANTAGE_UNIT == 0.1


def test_weights_cannot_tell_tasks_apart_that_the_advantage_term_can() -> None:
    """What motivates the term: the same decisions, worth three times as much in the second task."""
    advantages, counts = torch.tensor([0.02, -0.01, 0.04]), torch.ones(3, dtype=torch.bool)
    weights = [advantage_weights(scale * advantages, counts, 2.0) for scale in (1.0, 3.0)]
    torch.testing.assert_close(*weights)
    slopes = []
    for scale in (1.0, 3.0):
        predictions = torch.zeros(3, requires_grad=True)
        advantage_regression(predictions, scale * advantages, counts).backward()
        slopes.append(predictions.grad)
    torch.testing.assert_close(slopes[1], 3 * slopes[0])
