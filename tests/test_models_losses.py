"""Demand losses against SciPy and against answers worked out by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from pricing_fm.models import PricingFMForPreTraining
from pricing_fm.models.counts import (
    MAX_EXACT_COUNT,
    MAX_EXACT_STOCK,
    count_quantiles,
    negative_binomial_log_prob,
    negative_binomial_log_survival,
)
from pricing_fm.models.losses import bend, count_loss, mean_over_observed, pinball

Batch = dict[str, torch.Tensor]
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
positive = st.floats(0.02, 60)
dispersions = st.floats(0.05, 900)


def scipy_distribution(mean: float, dispersion: float) -> stats.rv_discrete:
    return stats.nbinom(dispersion, dispersion / (dispersion + mean))


def wide(*values: float) -> list[torch.Tensor]:
    return [torch.tensor([value], dtype=torch.float64) for value in values]


# -- counts -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=80)
@given(count=st.integers(0, 400), mean=positive, dispersion=dispersions)
def test_count_probabilities_agree_with_scipy(count: int, mean: float, dispersion: float) -> None:
    found = negative_binomial_log_prob(*wide(count, mean, dispersion)).item()
    assert found == pytest.approx(scipy_distribution(mean, dispersion).logpmf(count), rel=1e-8, abs=1e-8)


@settings(deadline=None, derandomize=True, max_examples=80)
@given(stock=st.integers(1, 300), mean=positive, dispersion=dispersions)
def test_the_probability_of_selling_out_agrees_with_scipy(stock: int, mean: float, dispersion: float) -> None:
    expected = max(scipy_distribution(mean, dispersion).logsf(stock - 1), math.log(1e-12))
    found = negative_binomial_log_survival(*wide(stock, mean, dispersion)).item()
    assert found == pytest.approx(expected, rel=1e-3, abs=0.3 if expected < -22 else 1e-6)


def test_large_stocks_use_an_approximation_that_continues_the_exact_sum() -> None:
    for stock in (MAX_EXACT_STOCK + 1, 5000):
        for share in (0.9, 1.0, 1.1):
            found = negative_binomial_log_survival(*wide(stock, share * stock, 300.0)).item()
            exact = scipy_distribution(share * stock, 300.0).logsf(stock - 1)
            assert found == pytest.approx(exact, abs=0.15)
    together = negative_binomial_log_survival(
        torch.tensor([5.0, 5000.0]).double(), torch.tensor([4.0, 5000.0]).double(), torch.tensor([3.0, 300.0]).double()
    )
    assert together[0] == negative_binomial_log_survival(*wide(5.0, 4.0, 3.0))[0]
    assert together[1] == negative_binomial_log_survival(*wide(5000.0, 5000.0, 300.0))[0]


def test_a_sell_out_that_nobody_expected_still_pulls_demand_up() -> None:
    mean = torch.tensor([[1.0]], requires_grad=True)
    sold, dispersion = torch.tensor([[12.0]]), torch.tensor([[20.0]])
    count_loss(sold, mean, dispersion, torch.tensor([[-12.0]]), torch.tensor([[True]])).sum().backward()
    assert mean.grad.item() < -1  # in float32 the survival probability rounds to zero and its gradient with it


@settings(deadline=None, derandomize=True, max_examples=60)
@given(mean=positive, dispersion=dispersions, zero=st.floats(-8, 3))
def test_count_quantiles_agree_with_scipy(mean: float, dispersion: float, zero: float) -> None:
    found = count_quantiles(
        *(torch.tensor([[value]]).double() for value in (mean, dispersion, zero)), torch.tensor(LEVELS)
    )
    structural = 1 / (1 + math.exp(-zero))
    distribution = scipy_distribution(mean, dispersion)
    for level, quantile in zip(torch.tensor(LEVELS).double().tolist(), found[0, 0].tolist(), strict=True):
        cumulative = structural + (1 - structural) * distribution.cdf([quantile - 1, quantile])
        # Beyond a thousand units counts come in cells of half a percent.
        slack = 1e-9 if quantile < MAX_EXACT_COUNT - 1 else 1e-3
        assert cumulative[1] >= level - slack
        assert quantile == 0 or cumulative[0] < level + slack


def test_count_quantiles_stay_finite_and_small_in_memory_for_wild_means() -> None:
    mean, dispersion = torch.tensor([[3e5], [1e30], [2.0]]).double(), torch.tensor([[10.0], [0.05], [2.0]]).double()
    found = count_quantiles(mean, dispersion, torch.full((3, 1), -12.0), torch.tensor(LEVELS))
    expected = scipy_distribution(3e5, 10.0).ppf(LEVELS)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=0.006)
    assert torch.isfinite(found).all()
    alone = count_quantiles(mean[2:], dispersion[2:], torch.full((1, 1), -12.0), torch.tensor(LEVELS))
    assert torch.equal(found[2:], alone)


def test_the_count_loss_keeps_its_digits_for_a_million_units_a_week() -> None:
    counts = torch.tensor([[1e6, 1.2e6]])
    mean = torch.tensor([[1.1e6, 1.1e6]], requires_grad=True)
    dispersion = torch.tensor([[10.0, 10.0]])
    loss = count_loss(counts, mean, dispersion, torch.full((1, 2), -12.0), torch.zeros(1, 2, dtype=torch.bool))
    expected = -scipy_distribution(1.1e6, 10.0).logpmf(counts[0].numpy())
    np.testing.assert_allclose(loss.detach().numpy()[0], expected, rtol=1e-5)
    loss.sum().backward()
    slope = -(counts - mean.detach()) * 10.0 / (mean.detach() * (10.0 + mean.detach()))
    torch.testing.assert_close(mean.grad, slope, rtol=1e-4, atol=0)


def test_the_count_loss_knows_structural_zeros() -> None:
    counts, mean = torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0, 3.0]])
    zero = torch.tensor([[0.4, 0.4]])
    loss = count_loss(counts, mean, torch.full((1, 2), 5.0), zero, torch.zeros(1, 2, dtype=torch.bool))
    structural, pmf = 1 / (1 + math.exp(-0.4)), scipy_distribution(3.0, 5.0).pmf([0, 2])
    expected = [-math.log(structural + (1 - structural) * pmf[0]), -math.log((1 - structural) * pmf[1])]
    np.testing.assert_allclose(loss[0].numpy(), expected, rtol=1e-6)


def test_sales_taken_for_demand_and_sold_out_weeks_dropped_are_both_wrong_and_the_censored_count_is_right() -> None:
    """Poisson-like demand of mean 20, a stock of 20 or 22 refilled every week: two in five weeks sell out."""
    random = np.random.default_rng(0)
    demand = random.negative_binomial(200.0, 200.0 / 220.0, size=6000).astype(float)
    stock = random.choice([18.0, 21.0, 24.0], size=6000)
    sales, is_sold_out = np.minimum(demand, stock), demand >= stock
    assert 0.3 < is_sold_out.mean() < 0.5

    def estimate(units: np.ndarray, censored: np.ndarray) -> float:
        counts = torch.from_numpy(units)[None]

        def loss(log_mean: np.ndarray) -> float:
            mean = torch.full_like(counts, math.exp(log_mean[0]))
            zero = torch.full_like(counts, -30.0)
            return (
                count_loss(counts, mean, torch.full_like(counts, 200.0), zero, torch.from_numpy(censored)[None])
                .mean()
                .item()
            )

        return math.exp(minimize(loss, [math.log(15.0)], method="Nelder-Mead", tol=1e-6).x[0])

    nothing = np.zeros(6000, dtype=bool)
    assert estimate(sales, nothing) < 0.95 * demand.mean()
    assert estimate(sales[~is_sold_out], nothing[~is_sold_out]) < 0.9 * demand.mean()
    assert estimate(sales, is_sold_out) == pytest.approx(demand.mean(), rel=0.01)


# -- quantiles --------------------------------------------------------------------------------------------------------


def test_the_pinball_loss_is_smallest_at_the_quantiles() -> None:
    sample = torch.distributions.Gamma(2.0, 0.1).sample((4000,)).double()
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    quantiles = torch.quantile(sample, levels)
    nothing = torch.zeros(4000, dtype=torch.bool)
    best = pinball(sample, quantiles.expand(4000, 3), levels, nothing).mean()
    for factor in (0.9, 1.1):
        assert pinball(sample, (factor * quantiles).expand(4000, 3), levels, nothing).mean() > best


def test_a_sold_out_period_only_pulls_quantiles_up() -> None:
    levels = torch.tensor([0.1, 0.9])
    quantiles = torch.tensor([[5.0, 8.0], [12.0, 15.0]], requires_grad=True)
    sold, censored = torch.tensor([10.0, 10.0]), torch.tensor([True, True])
    loss = pinball(sold, quantiles, levels, censored)
    np.testing.assert_allclose(loss.detach().numpy(), [2 * (0.1 * 5 + 0.9 * 2) / 2, 0.0], rtol=1e-6)
    loss.sum().backward()
    assert torch.equal(quantiles.grad[1], torch.zeros(2))
    assert (quantiles.grad[0] < 0).all()
    assert pinball(sold, quantiles, levels, ~censored)[1] > 0


def test_the_mean_over_observed_steps_ignores_the_others() -> None:
    values = torch.tensor([[1.0, 3.0, 1e9], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_over_observed(values, mask).tolist() == [2.0, 0.0]


# -- the loss of a batch ----------------------------------------------------------------------------------------------


def gradients(model: PricingFMForPreTraining, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(first: tuple, second: tuple) -> None:
    torch.testing.assert_close(first[0], second[0], rtol=1e-5, atol=1e-6)
    assert first[1].keys() == second[1].keys()
    for name, gradient in first[1].items():
        torch.testing.assert_close(gradient, second[1][name], rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("response", ["monotone", "free"])
def test_padded_future_steps_change_neither_loss_nor_gradient(
    build_tiny_model: Callable[..., PricingFMForPreTraining],
    tiny_processor: Callable[..., Batch],
    tiny_windows: object,
    response: str,
) -> None:
    model = build_tiny_model(price_response=response)
    losses = []
    for padding in (4, 8):
        future = np.pad(tiny_windows.future, ((0, 0), (0, padding), (0, 0)), constant_values=np.nan)
        stamps = np.concatenate(
            [tiny_windows.future_timestamps, tiny_windows.future_timestamps[:, :1].repeat(padding, 1)], 1
        )
        batch = tiny_processor(
            type(tiny_windows)(**{**vars(tiny_windows), "future": future, "future_timestamps": stamps})
        )
        assert (~batch["future_observed_mask"]).sum() == 12 * padding
        losses.append(gradients(model, batch))
    losses.append(gradients(model, tiny_processor(tiny_windows)))
    assert_same(losses[0], losses[2])
    assert_same(losses[1], losses[2])


def test_masked_targets_change_neither_loss_nor_gradient(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    mask = tiny_batch["future_observed_mask"].clone()
    mask[::2, 1:] = False
    masked = {
        **tiny_batch,
        "future_observed_mask": mask,
        "future_censored_mask": tiny_batch["future_censored_mask"] & mask,
    }
    noisy = {**masked, "future_values": torch.where(mask, tiny_batch["future_values"], 1e6)}
    assert_same(gradients(tiny_model, masked), gradients(tiny_model, noisy))
    assert gradients(tiny_model, tiny_batch)[0] != gradients(tiny_model, masked)[0]


def test_the_loss_of_a_batch_is_the_mean_over_its_items_however_it_is_cut(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    whole = gradients(tiny_model, tiny_batch)
    parts = [gradients(tiny_model, {name: value[i::4] for name, value in tiny_batch.items()}) for i in range(4)]
    mean = {name: torch.stack([part[1][name] for part in parts]).mean(0) for name in whole[1]}
    assert_same(whole, (torch.stack([part[0] for part in parts]).mean(), mean))
    twice = {name: torch.cat([value, value]) for name, value in tiny_batch.items()}
    assert_same(whole, gradients(tiny_model, twice))


def test_items_without_any_observed_target_weigh_nothing_and_break_nothing(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    nothing = torch.zeros_like(tiny_batch["future_observed_mask"])
    empty = {"future_observed_mask": nothing, "future_censored_mask": nothing, "logged_action_mask": nothing}
    loss, gradient = gradients(tiny_model, {**tiny_batch, **empty})
    assert loss == 0
    assert all(torch.equal(value, torch.zeros_like(value)) for value in gradient.values())


def test_each_response_member_learns_from_its_own_draw_of_the_items(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    weights = torch.zeros_like(tiny_batch["member_weights"])
    weights[:, 1] = 1.0
    _, gradient = gradients(tiny_model, {**tiny_batch, "member_weights": weights})
    per_member = gradient["demand_head.response.response_head.weight"].unflatten(0, (3, -1)).abs().sum((1, 2))
    reference = gradients(tiny_model, {**tiny_batch, "member_weights": torch.zeros_like(weights)})[1]
    # Through the count likelihood, which has one mean, all members still learn alike.
    shared = reference["demand_head.response.response_head.weight"].unflatten(0, (3, -1)).abs().sum((1, 2))
    assert abs(per_member[1] - shared[1]) > 1e-4
    torch.testing.assert_close(per_member[[0, 2]], shared[[0, 2]])


def test_bent_values_have_bent_quantiles_and_one_wild_week_does_not_drown_the_others() -> None:
    values = torch.tensor([0.0, 1.0, 4.0, 1000.0])
    bent = bend(values, 4.0)
    assert torch.equal(bend(values, 0.0), values)
    assert torch.all(bent.diff() > 0)
    torch.testing.assert_close(bent[:2], values[:2], rtol=0.02, atol=0)
    assert bent[3] < 30
    random = np.random.default_rng(0)
    sample = torch.from_numpy(random.lognormal(1.0, 1.5, 4001))
    candidates = torch.linspace(0.5, 20.0, 2000, dtype=torch.float64)
    levels, never = torch.tensor([0.8], dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
    found = [
        candidates[pinball(f(sample)[:, None], f(candidates)[None, :, None], levels, never).mean(0).argmin()]
        for f in (lambda x: x, lambda x: bend(x, 4.0))
    ]
    assert abs(found[0] - found[1]) < 0.05
    assert abs(found[0] - sample.quantile(0.8)) < 0.05


def test_the_network_takes_a_sold_out_week_for_a_bound(
    build_tiny_model: Callable[..., PricingFMForPreTraining], tiny_batch: Batch
) -> None:
    """From the processor's mark to the loss: a bound is met by every demand above it."""
    model, steps = build_tiny_model(), tiny_batch["future_observed_mask"].any(0)
    assert steps.any()
    marked = {**tiny_batch, "future_censored_mask": tiny_batch["future_observed_mask"].clone()}
    plain = {**tiny_batch, "future_censored_mask": torch.zeros_like(tiny_batch["future_observed_mask"])}
    sold_nothing = torch.zeros_like(tiny_batch["future_values"])
    with torch.no_grad():
        encoded = model.encode(tiny_batch)
        bound, exact = (model.demand_loss(encoded, batch)[0] for batch in (marked, plain))
        trivial = model.demand_loss(encoded, {**marked, "future_values": sold_nothing})[0]
    assert not torch.allclose(bound, exact)
    assert (trivial.abs() < 0.02 * exact.abs()).all()  # at least nothing was wanted: no demand contradicts that
