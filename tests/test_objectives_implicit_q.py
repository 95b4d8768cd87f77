"""Expectiles, bootstrapping and advantage weights against answers worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.objectives.implicit_q import (
    advantage_weights,
    bootstrapped_targets,
    conservative_penalty,
    effective_sample_size,
    expectile_loss,
)

EVERYTHING = torch.ones(1, dtype=torch.bool)


def minimiser(sample: torch.Tensor, expectile: float) -> float:
    grid = torch.linspace(sample.min(), sample.max(), 4001)
    return grid[expectile_loss(sample - grid[:, None], expectile).mean(1).argmin()].item()


def test_half_is_half_the_squared_error_and_values_are_then_plain_means() -> None:
    residuals = torch.tensor([-2.0, 0.0, 3.0])
    assert expectile_loss(residuals, 0.5).tolist() == [2.0, 0.0, 4.5]
    noise = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    assert minimiser(noise, 0.5) == pytest.approx(noise.mean().item(), abs=2e-3)


def test_a_higher_expectile_lies_where_the_pulls_balance() -> None:
    sample = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    value = minimiser(sample, 0.8)
    up, down = (sample - value).clamp(min=0).mean().item(), (value - sample).clamp(min=0).mean().item()
    assert value > sample.mean()
    assert 0.8 * up == pytest.approx(0.2 * down, rel=0.01)


@pytest.mark.parametrize("expectile", [0.0, 1.0, 1.3])
def test_expectiles_outside_the_unit_interval_are_refused(expectile: float) -> None:
    with pytest.raises(ValueError, match="expectile"):
        expectile_loss(torch.zeros(1), expectile)


@pytest.mark.parametrize(("is_terminal", "expected"), [(True, [1 + 0.9 * 2, 2.0]), (False, [1 + 0.9 * 20, 20.0])])
def test_a_terminal_week_ends_the_value_and_a_truncated_one_does_not(is_terminal: bool, expected: list[float]) -> None:
    """Two weeks that earn 1 and 2. Either the shop closes, or the log ends and the second week repeats for ever."""
    rewards, values = torch.tensor([1.0, 2.0]), torch.zeros(2)
    ended = torch.tensor([False, is_terminal])
    for _ in range(300):
        values = bootstrapped_targets(rewards, values[[1, 1]], ended, discount=0.9)
    torch.testing.assert_close(values, torch.tensor(expected))


def test_a_discount_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="discount"):
        bootstrapped_targets(torch.zeros(1), torch.zeros(1), EVERYTHING, 1.01)


def test_equal_advantages_and_zero_temperature_are_behaviour_cloning() -> None:
    mask = torch.tensor([[True, True, False], [True, False, True]])
    expected = mask.float()
    for advantages in (torch.full((2, 3), 0.1) + 1e-9 * torch.rand(2, 3), torch.zeros(2, 3)):
        assert torch.equal(advantage_weights(advantages, mask, inverse_temperature=3.0), expected)
    assert torch.equal(advantage_weights(torch.randn(2, 3), mask, inverse_temperature=0.0), expected)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 10**6), temperature=st.floats(1.0, 3.0), degrees=st.sampled_from([1.5, 3.0, 30.0]))
def test_weights_have_mean_one_and_neither_explode_nor_collapse(seed: int, temperature: float, degrees: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    heavy = torch.randn(512, generator=generator)
    heavy = heavy / torch.rand(512, generator=generator).clamp(min=1e-3) ** (1 / degrees)
    mask = torch.rand(512, generator=generator) < 0.8
    weights = advantage_weights(heavy, mask, temperature)
    assert weights[mask].mean() == pytest.approx(1, rel=1e-4)
    assert (weights[~mask] == 0).all()
    assert (weights >= 0).all()
    assert effective_sample_size(weights[mask]) >= 0.1 * mask.sum()
    rescaled = advantage_weights(1000 * heavy + 7, mask, temperature)
    torch.testing.assert_close(rescaled, weights, rtol=1e-2, atol=1e-3)


def test_better_actions_weigh_more() -> None:
    weights = advantage_weights(torch.tensor([-1.0, 0.0, 1.0]), torch.ones(3, dtype=torch.bool), 1.0)
    assert weights[0] < weights[1] < weights[2]


def test_a_batch_without_decisions_has_no_weight() -> None:
    assert torch.equal(advantage_weights(torch.randn(4), torch.zeros(4, dtype=torch.bool), 2.0), torch.zeros(4))


def test_the_effective_sample_size_counts_equal_weights() -> None:
    assert effective_sample_size(torch.full((7,), 0.3)).item() == pytest.approx(7)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])).item() == pytest.approx(1)


def test_the_conservative_penalty_is_small_only_where_the_logged_action_stands_out() -> None:
    values = torch.tensor([[10.0, 0.0, 0.0], [0.0, 10.0, 0.0]])
    penalty = conservative_penalty(values, torch.tensor([0, 0]))
    assert penalty[0] == pytest.approx(0, abs=1e-3)
    assert penalty[1] == pytest.approx(10, abs=1e-3)
