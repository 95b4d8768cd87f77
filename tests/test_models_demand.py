"""Demand along price paths: monotone, non-negative, non-crossing, and blind to what it must not see."""

from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pricing_fm.models import PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.models.channels import INDEX, PRICE_SLOT, SLOPE_COLUMNS, SLOPE_SCALE
from pricing_fm.models.demand_head import (
    INTERVENTION_START,
    MAX_CARRY_OVER,
    NUM_STARTS,
    PriceResponse,
    spread_over_levels,
    starting_points,
)
from pricing_fm.models.hidden_demand_evidence import hidden_demand_evidence, read_sales_record
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.models.recent_level import NORMAL_SCORES
from pricing_fm.models.window_statistics import read_statistics
from pricing_fm.panel import RawWindows

Batch = dict[str, torch.Tensor]
Build = Callable[..., PricingFMForPreTraining]
QUICK = settings(deadline=None, derandomize=True, max_examples=25)


def demand(model: PricingFMForPreTraining, batch: Batch) -> DemandOutput:
    with torch.no_grad():
        return model.demand(model.encode(batch), batch)


def along(batch: Batch, log_prices: torch.Tensor) -> Batch:
    """The batch with constant price paths at `log_prices` `(P,)` for every item."""
    items, steps = batch["future_values"].shape
    return {**batch, "candidate_prices": log_prices[None, :, None].expand(items, -1, steps).contiguous()}


LADDER = torch.linspace(-0.7, 0.35, 43)


# -- price response ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.1, 0.5, 3.0])
def test_demand_never_rises_along_a_constant_path_whatever_the_weights(
    build_tiny_model: Build, tiny_batch: Batch, seed: int, spread: float
) -> None:
    model = build_tiny_model(seed=seed, spread=spread, slow_mover_scale=15.0)
    assert (tiny_batch["scale"] < 15).any()
    assert (tiny_batch["scale"] > 15).any()
    output = demand(model, along(tiny_batch, torch.linspace(-1.2, 0.8, 15)))
    for values in (output.mean, output.quantile_values):
        assert torch.isfinite(values).all()
        rises = values.diff(dim=1) / (1e-6 + values[:, :-1].abs())
        assert rises.max() <= 1e-5
    assert (output.elasticity <= 1e-6).all()
    assert output.mean[:, 0].mean() > 1.1 * output.mean[:, -1].mean()


@QUICK
@given(seed=st.integers(0, 10**6), spread=st.floats(0.05, 3.0))
def test_the_response_to_one_weeks_price_falls_along_the_ladder_and_is_zero_at_the_reference(
    seed: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    response = random_response(spread, generator)
    hidden = random_states(3, 4, generator)
    past, path = torch.randn(3, 4, generator=generator) * 0.2, torch.randn(3, 4, generator=generator) * 0.2
    rungs = LADDER.expand(3, 4, -1)
    with torch.no_grad():
        on_ladder = response.on_ladder(hidden, rungs, path, past)
        nothing_before = response.on_ladder(hidden, rungs, torch.zeros(3, 4), torch.zeros(3, 4))
    assert on_ladder.shape == (3, 43, 3, 4)
    assert on_ladder.diff(dim=1).max() <= 1e-6
    assert nothing_before[:, 28].abs().max() <= 2e-4  # the rung is the reference up to 1e-8


def random_states(items: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """States and starting points, every other step marked as an intervention."""
    states = torch.randn(items, steps, 32 + NUM_STARTS, generator=generator)
    states[..., INTERVENTION_START] = torch.arange(steps).remainder(2).float()
    return states


def random_response(spread: float, generator: torch.Generator) -> PriceResponse:
    from_tiny = {"hidden_size": 32, "num_attention_heads": 2, "num_response_members": 3}
    response = PriceResponse(PricingFMForPreTraining.config_class(**from_tiny))
    with torch.no_grad():
        for parameter in response.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return response


def test_discounts_of_earlier_weeks_take_demand_away_and_never_more_than_half_of_the_response() -> None:
    generator = torch.Generator().manual_seed(0)
    response, hidden = random_response(2.0, generator), random_states(2, 6, generator)
    regular, discounted = torch.zeros(2, 4), torch.full((2, 4), -0.3)
    path = torch.zeros(2, 1, 6)
    with torch.no_grad():
        before, after = response(hidden, path, regular)[0], response(hidden, path, discounted)[0]
        week_on_deal = response(hidden, path - 0.3, discounted)[0]
        _, shares = response.weights(hidden)
    assert (after[..., 0] < before[..., 0]).all()
    assert torch.equal(after[..., 4:], before[..., 4:])  # four weeks later it is forgotten
    assert (shares.sum(-1) <= MAX_CARRY_OVER + 1e-6).all()
    assert (week_on_deal >= 0).all()


def test_one_step_on_the_ladder_agrees_with_the_whole_path() -> None:
    generator = torch.Generator().manual_seed(0)
    response, hidden = random_response(0.5, generator), random_states(2, 4, generator)
    past, path = torch.randn(2, 4, generator=generator) * 0.2, torch.randn(2, 4, generator=generator) * 0.2
    rungs = LADDER[:5].expand(2, 4, 5)
    with torch.no_grad():
        on_ladder = response.on_ladder(hidden, rungs, path, past)
        for rung in range(5):
            for step in range(4):
                moved = path.clone()
                moved[:, step] = LADDER[rung]
                whole = response(hidden, moved[:, None], past)[0][:, 0]
                torch.testing.assert_close(on_ladder[:, rung, :, step], whole[..., step], rtol=1e-5, atol=1e-6)


def test_heads_that_believe_an_items_own_estimates_answer_with_them(build_tiny_model: Build) -> None:
    model = build_tiny_model(spread=0.0)
    head = model.demand_head
    forecast, slopes = torch.tensor([[0.5, 2.0], [1.0, 3.0]]), torch.tensor([[-1.2, -3.0], [-0.4, -2.0]])
    known = torch.ones(2, 2, dtype=torch.bool)
    ratios = torch.tensor([0.0, 0.1, 0.4, 1.0, 1.5, 2.0, 2.2]).expand(2, 2, 7)
    starts = starting_points(torch.asinh(forecast), torch.asinh(ratios), slopes, known, known, torch.zeros(2, 2))
    states = torch.cat([torch.zeros(2, 2, model.config.hidden_size), starts], dim=-1)
    with torch.no_grad():
        for layer in (head.level_head, head.response.slope_head):
            layer.weight.zero_()
        head.level_head.bias.copy_(torch.tensor([30.0, -30.0]))
        level = head.base_quantiles(states) / head.base_quantiles(torch.zeros_like(states))
        head.level_head.bias.copy_(torch.tensor([30.0, 30.0]))
        spread = head.base_quantiles(states) / forecast[..., None]
        log_mean = head.count_parameters(states)[0] - head.count_parameters(torch.zeros_like(states))[0]
        torch.testing.assert_close(level, forecast[..., None].expand_as(level), rtol=1e-5, atol=1e-6)
        wanted = spread_over_levels(ratios, head.quantile_levels)
        torch.testing.assert_close(spread, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_mean.exp(), forecast, rtol=1e-5, atol=1e-6)
        head.response.response_head.weight.zero_()
        for place in (0, 1):
            head.response.slope_head.bias.copy_(30.0 * torch.nn.functional.one_hot(torch.tensor(place + 1), 3))
            weights, _ = head.response.weights(states)
            wanted = -slopes[:, place, None, None].expand(weights.shape[:-1])
            torch.testing.assert_close(weights[..., 0], wanted, rtol=1e-5, atol=1e-6)


def test_without_estimates_heads_start_from_the_items_mean_and_a_plain_elasticity() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    starts = starting_points(
        torch.zeros(2, 2), torch.ones(2, 2, 7), torch.zeros(2, 2), nothing, nothing, torch.zeros(2, 2)
    )
    assert starts.shape == (2, 2, NUM_STARTS)
    assert torch.equal(starts, torch.zeros_like(starts))


def test_residual_quantiles_are_read_linearly_in_the_normal_score_and_never_cross() -> None:
    values = torch.tensor([1.0 + 0.5 * score for score in NORMAL_SCORES])
    levels = (0.01, 0.05, 0.3, 0.5, 0.95, 0.99)
    wanted = torch.tensor([1.0 + 0.5 * NormalDist().inv_cdf(level) for level in levels])
    torch.testing.assert_close(spread_over_levels(values, levels), wanted.clamp(min=0.0), rtol=1e-4, atol=1e-4)
    wild = spread_over_levels(torch.rand(100, 7).cumsum(-1), levels)
    assert (wild.diff(dim=-1) >= 0).all()
    assert (wild >= 0).all()


def test_the_slopes_that_heads_start_from_are_those_of_the_regression_and_the_hidden_demand_model(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    batch = tiny_processor(tiny_windows)
    statistics = read_statistics(tiny_windows.past, tiny_windows.future, tiny_processor.default_scale)
    record = read_sales_record(tiny_windows.past, statistics.observed, statistics.reference)
    hidden = torch.from_numpy(hidden_demand_evidence(record)[:, 0]).float()
    found = batch["static_real_features"][:, SLOPE_COLUMNS]
    torch.testing.assert_close(found[:, 1] * SLOPE_SCALE, hidden * 3.0, rtol=1e-5, atol=1e-6)
    for place, left_out in enumerate(("local_forecast", "hidden_demand")):
        blind = PricingFMProcessor(**{**tiny_processor.to_dict(), "left_out_evidence": [left_out]})(tiny_windows)
        mask = blind["static_real_mask"][:, SLOPE_COLUMNS]
        assert not mask[:, place].any()
        assert mask[:, 1 - place].all()


def test_the_closed_form_elasticity_is_the_slope_of_the_curve(build_tiny_model: Build, tiny_batch: Batch) -> None:
    model, step = build_tiny_model(spread=0.5), 5e-3
    batch = {**tiny_batch, "candidate_prices": 0.2 * torch.randn(12, 5, 4)}
    with torch.no_grad():
        states = model.demand_states(model.encode(batch), batch)
        response, slope = model.respond(states, batch)
        moved = [
            model.respond(states, {**batch, "candidate_prices": batch["candidate_prices"] + shift})[0]
            for shift in (step, -step)
        ]
    assert response.shape == slope.shape == (12, 5, 3, 4)
    torch.testing.assert_close((moved[0] - moved[1]) / (2 * step), slope, rtol=5e-3, atol=5e-3)
    assert slope.std() > 0.1


def test_elasticity_comes_with_the_members_spread_and_without_one_for_a_single_member(
    build_tiny_model: Build, tiny_batch: Batch
) -> None:
    several = demand(build_tiny_model(), tiny_batch)
    alone = demand(build_tiny_model(num_response_members=1), tiny_batch)
    assert (several.elasticity_std > 0).all()
    assert torch.equal(alone.elasticity_std, torch.zeros_like(alone.elasticity_std))


# -- quantiles and mean -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("response", ["monotone", "free"])
@pytest.mark.parametrize(("seed", "spread"), [(0, 0.05), (1, 0.5), (2, 2.0), (3, 5.0)])
def test_quantiles_are_never_negative_never_cross_and_the_mean_is_positive(
    build_tiny_model: Build, tiny_batch: Batch, seed: int, spread: float, response: str
) -> None:
    output = demand(build_tiny_model(seed=seed, spread=spread, price_response=response), along(tiny_batch, LADDER[::9]))
    assert output.quantile_values.shape == (12, 5, 4, 21)
    assert (output.quantile_values >= 0).all()
    assert (output.quantile_values.diff(dim=-1) >= 0).all()
    assert (output.mean > 0).all()
    assert torch.isfinite(output.quantile_values).all()
    assert torch.isfinite(output.mean).all()


def test_slow_movers_of_whole_units_get_whole_quantiles_and_others_do_not(
    build_tiny_model: Build, tiny_batch: Batch
) -> None:
    model = build_tiny_model()
    scale = torch.full((12,), 2.0)
    scale[6:] = 20.0
    whole = torch.tensor([True, False] * 6)
    values = demand(model, {**tiny_batch, "scale": scale, "units_are_whole": whole}).quantile_values
    is_whole = (values == values.round()).flatten(1).all(1)
    assert is_whole.tolist() == [True, False] * 3 + [False] * 6


def test_an_items_forecast_does_not_depend_on_a_wild_neighbour(build_tiny_model: Build, tiny_batch: Batch) -> None:
    model = build_tiny_model()
    scale = torch.full((12,), 1.5)
    quiet = demand(model, {**tiny_batch, "scale": scale})
    # A neighbour at a hundredth of its price sells without bound: the table of counts must not grow with it.
    prices = tiny_batch["candidate_prices"].clone()
    prices[3] = -8.0
    loud = demand(model, {**tiny_batch, "scale": scale, "candidate_prices": prices})
    others = torch.arange(12) != 3
    assert loud.mean[3].min() > 1e4
    assert torch.equal(quiet.quantile_values[others], loud.quantile_values[others])


@pytest.mark.parametrize("response", ["monotone", "free"])
def test_the_first_steps_do_not_depend_on_how_many_later_steps_are_asked_for_or_what_they_cost(
    build_tiny_model: Build, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows, response: str
) -> None:
    model = build_tiny_model(price_response=response)
    whole = tiny_processor(tiny_windows)
    short = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), **first_steps(tiny_windows, 2)}))
    future = tiny_windows.future.copy()
    future[:, 2:, INDEX["price"]] *= 0.6
    future[:, 2:, INDEX["promotion_1"]] = 1.0
    dearer = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "future": future}))
    reference = demand(model, whole)
    for batch in (short, dearer):
        output = demand(model, batch)
        torch.testing.assert_close(output.mean[..., :2], reference.mean[..., :2], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            output.quantile_values[..., :2, :], reference.quantile_values[..., :2, :], rtol=1e-5, atol=1e-6
        )
    assert not torch.allclose(demand(model, dearer).mean[..., 2:], reference.mean[..., 2:], rtol=1e-3)


def first_steps(windows: RawWindows, steps: int) -> dict[str, object]:
    return {"future": windows.future[:, :steps], "future_timestamps": windows.future_timestamps[:, :steps]}


def test_the_monotone_decoder_never_sees_the_candidate_and_the_free_one_does(
    build_tiny_model: Build, tiny_batch: Batch
) -> None:
    dear = {**tiny_batch, "candidate_prices": tiny_batch["candidate_prices"] + 0.3}
    for response, is_equal in (("monotone", True), ("free", False)):
        model = build_tiny_model(price_response=response)
        with torch.no_grad():
            encoded = model.encode(tiny_batch)
            states = [model.demand_states(encoded, batch) for batch in (tiny_batch, dear)]
        assert torch.equal(*states) == is_equal


def test_free_mode_forecasts_and_learns(build_tiny_model: Build, tiny_batch: Batch) -> None:
    model = build_tiny_model(price_response="free")
    output = demand(model, along(tiny_batch, LADDER[::9]))
    assert output.mean.shape == (12, 5, 4)
    assert output.elasticity is None
    assert not torch.allclose(output.mean[:, 0], output.mean[:, 4])
    model(**tiny_batch).loss.backward()
    assert model.demand_head.quantile_head.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="free"):
        model.respond(model.demand_states(model.encode(tiny_batch), tiny_batch), tiny_batch)


def test_an_unknown_price_means_the_reference_price(build_tiny_model: Build, tiny_batch: Batch) -> None:
    model = build_tiny_model()
    mask = tiny_batch["future_known_mask"].clone()
    mask[..., PRICE_SLOT] = False
    unknown = {**tiny_batch, "future_known_mask": mask}
    elsewhere = {**unknown, "candidate_prices": tiny_batch["candidate_prices"] - 0.5}
    assert torch.equal(demand(model, unknown).mean, demand(model, elsewhere).mean)


# -- context ----------------------------------------------------------------------------------------------------------


def test_a_shorter_context_says_the_same_as_one_with_nothing_before_it(
    build_tiny_model: Build, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    model = build_tiny_model()
    past = tiny_windows.past.copy()
    past[:, :8] = float("nan")
    hidden = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "past": past}))
    cut = {"past": tiny_windows.past[:, 8:], "past_timestamps": tiny_windows.past_timestamps[:, 8:]}
    short = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), **cut}))
    torch.testing.assert_close(demand(model, short).mean, demand(model, hidden).mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        demand(model, short).quantile_values, demand(model, hidden).quantile_values, rtol=1e-5, atol=1e-6
    )


def test_a_context_that_does_not_fit_is_refused(tiny_model: PricingFMForPreTraining, tiny_batch: Batch) -> None:
    for periods in (14, 20):
        wrong = {
            name: torch.cat([value, value], dim=1)[:, :periods] if name.startswith("past_") else value
            for name, value in tiny_batch.items()
        }
        with pytest.raises(ValueError, match="context_length"):
            tiny_model.encode(wrong)


def test_masked_values_and_masked_tokens_do_not_matter(tiny_model: PricingFMForPreTraining, tiny_batch: Batch) -> None:
    noisy = dict(tiny_batch)
    for values, mask in (
        ("past_values", "past_observed_mask"),
        ("static_real_features", "static_real_mask"),
        ("future_known_values", "future_known_mask"),
    ):
        noise = torch.where(tiny_batch[mask], tiny_batch[values], torch.randn_like(tiny_batch[values]))
        assert not torch.equal(noise, tiny_batch[values])
        noisy[values] = noise
    # Patches of two items lie before their history: their calendar must not matter either.
    alive = tiny_batch["past_observed_mask"].any(-1).unflatten(1, (-1, 4)).any(-1).repeat_interleave(4, dim=1)
    assert (~alive).any()
    calendar = tiny_batch["past_time_features"]
    noisy["past_time_features"] = torch.where(alive[..., None], calendar, torch.randn_like(calendar))
    assert torch.equal(demand(tiny_model, noisy).quantile_values, demand(tiny_model, tiny_batch).quantile_values)


def test_an_item_without_any_history_is_forecast_from_what_is_static(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    nothing = tiny_windows.past.copy()
    nothing[:] = float("nan")
    batch = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "past": nothing}))
    output = demand(tiny_model, batch)
    assert torch.isfinite(output.quantile_values).all()
    assert torch.equal(batch["scale"], torch.full((12,), tiny_processor.default_scale))
    loss = tiny_model(**batch).loss
    assert torch.isfinite(loss)
