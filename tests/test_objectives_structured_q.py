"""Action values built on the demand model: known optimum, exact recursion, nothing of the manager's habit."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import INDEX
from pricing_fm.objectives.holding import holding_advantages
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.objectives.structured_q import (
    LadderValues,
    features_after,
    ladder_demand,
    ladder_log_prices,
    ladder_values,
    served_share,
)
from pricing_fm.panel import RawWindows

Batch = dict[str, torch.Tensor]
REVENUE = RewardWeights(margin=0.0, revenue=1.0)


def constant_elasticity_(model: PricingFMForPolicy, elasticity: float) -> PricingFMForPolicy:
    """Sets the response to `-elasticity * log price` for every item, step and member, in place."""
    response = model.demand_head.response
    with torch.no_grad():
        for head in (response.response_head, response.carry_head):
            head.weight.zero_()
            head.bias.fill_(-30.0)
        # Nothing of the item's own estimates.
        response.slope_head.weight.zero_()
        response.slope_head.bias.copy_(torch.tensor([30.0, -30.0, -30.0]))
        response.response_head.bias.unflatten(0, (response.members, -1))[:, 0] = math.log(math.expm1(elasticity))
    return model


def silent_value_(model: PricingFMForPolicy) -> PricingFMForPolicy:
    """Sets the value of every state to zero, in place."""
    with torch.no_grad():
        model.decision_head.value_head.head_out.weight.zero_()
        model.decision_head.value_head.head_out.bias.zero_()
    return model


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy)


def rungs_of(processor: PricingFMProcessor, batch: Batch) -> torch.Tensor:
    return torch.from_numpy(processor.rung_prices(batch["reference_price"].double().numpy())).float()


def values_of(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    batch: Batch,
    weights: RewardWeights,
    discount: float = 0.98,
) -> LadderValues:
    with torch.no_grad():
        encoded = model.encode(batch)
        states = model.decision_states(encoded, batch)
        return ladder_values(model, encoded, states, batch, rungs_of(processor, batch), weights, discount)


def unlimited(batch: Batch) -> Batch:
    return {**batch, "future_inventory": torch.full_like(batch["future_inventory"], torch.nan)}


# -- rewards ----------------------------------------------------------------------------------------------------------


def test_the_best_rung_of_a_constant_elasticity_is_the_textbook_markup(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    constant_elasticity_(model, 2.5)
    costs = 0.55 * tiny_batch["reference_price"][:, None].expand(-1, 4)
    batch = {**unlimited(tiny_batch), "unit_costs": costs}
    rewards = values_of(model, tiny_processor, batch, RewardWeights()).rewards
    assert rewards.shape == (12, 4, 43, 3)
    best = rewards.argmax(2)
    optimum = math.log(0.55 * 2.5 / 1.5)
    expected = round((optimum - tiny_processor.ladder_start) / tiny_processor.ladder_step)
    assert ((best - expected).abs() <= 1).all()
    # In units of reference revenue the answer of items of any price and size is one number.
    peak = rewards.amax(2) / (demand_at_reference(model, batch) / batch["scale"][:, None])[..., None]
    exact = (math.exp(optimum) - 0.55) * math.exp(-2.5 * optimum) - 0.45
    torch.testing.assert_close(peak, torch.full_like(peak, exact), rtol=0.05, atol=2e-3)


def demand_at_reference(model: PricingFMForPolicy, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        flat = {**batch, "candidate_prices": torch.zeros_like(batch["candidate_prices"])}
        return model.demand(model.encode(flat), flat).mean[:, 0]


def test_what_is_compared_with_is_the_reference_price(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    rewards = values_of(model, tiny_processor, tiny_batch, RewardWeights(satisfaction=0.3)).rewards
    assert rewards[:, :, 28].abs().max() < 1e-6
    assert rewards[:, :, 20].abs().min() > 1e-6


def test_a_state_is_worth_the_same_in_every_window_that_it_appears_in(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    """The price before a window is no part of its later states, so it may not move their rewards."""
    weights = RewardWeights(satisfaction=0.3)
    here = values_of(model, tiny_processor, tiny_batch, weights).rewards
    elsewhere = tiny_batch["current_actions"].clone()
    elsewhere[:, 0] = 5
    there = values_of(model, tiny_processor, {**tiny_batch, "current_actions": elsewhere}, weights).rewards
    assert torch.equal(here[:, 1:], there[:, 1:])


def test_a_price_change_is_paid_when_it_is_made_and_not_while_it_is_held(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    before = torch.tensor([28, 20, 20, 20]).expand(12, 4)  # cut in the first week, held since
    batch = {**tiny_batch, "current_actions": before}
    costly = values_of(model, tiny_processor, batch, replace(REVENUE, price_change=0.01)).rewards
    free = values_of(model, tiny_processor, batch, REVENUE).rewards
    paid = (free - costly).mean((0, 3))
    expected = torch.full((4, 43), 0.01)
    expected[torch.arange(4), before[0]] = 0.0
    torch.testing.assert_close(paid, expected, rtol=1e-3, atol=1e-5)


def test_volume_and_stock_targets_move_the_rewards_by_what_they_cost(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    """In reference revenues: a unit by its worth, a unit left over by its distance from a target that is far above."""
    stock = torch.full((12, 4), 1e3)
    batch = {**tiny_batch, "future_inventory": stock}
    with torch.no_grad():
        rungs = ladder_log_prices(batch, rungs_of(tiny_processor, batch))
        _, sales = ladder_demand(model, model.encode(batch), batch, rungs)
    sold = (sales - sales[:, :, 28:29]) / batch["scale"][:, None, None, None]  # against charging the reference price
    plain = values_of(model, tiny_processor, batch, REVENUE).rewards
    volume = values_of(model, tiny_processor, batch, replace(REVENUE, units=0.3)).rewards
    torch.testing.assert_close(volume - plain, 0.3 * sold, rtol=1e-3, atol=1e-4)
    cover = float(2e3 / batch["scale"].min())
    short = values_of(model, tiny_processor, batch, replace(REVENUE, stock_target=0.2, stock_cover=cover)).rewards
    torch.testing.assert_close(short - plain, -0.2 * sold, rtol=1e-3, atol=1e-3)
    assert sold.abs().max() > 0.05
    free = values_of(model, tiny_processor, unlimited(batch), replace(REVENUE, stock_target=0.2)).rewards
    torch.testing.assert_close(free, values_of(model, tiny_processor, unlimited(batch), REVENUE).rewards)


def test_a_stock_limits_sales_and_the_lack_of_one_does_not() -> None:
    quantiles = torch.tensor([2.0, 4.0, 6.0])
    assert served_share(quantiles, torch.tensor(4.0)).item() == pytest.approx(10 / 12)
    assert served_share(quantiles, torch.tensor(torch.nan)).item() == 1.0
    assert served_share(quantiles, torch.tensor(0.0)).item() == 0.0


def test_sales_never_exceed_demand_nor_by_much_the_stock(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    scarce = {**tiny_batch, "future_inventory": torch.full((12, 4), 2.0)}
    with torch.no_grad():
        rungs = ladder_log_prices(scarce, rungs_of(tiny_processor, scarce))
        demand, sales = ladder_demand(model, model.encode(scarce), scarce, rungs)
    assert (sales <= demand).all()
    assert (demand.diff(dim=2) <= 1e-4 * demand[:, :, :-1]).all()
    assert sales.mean() < 0.2 * demand.mean()


def test_prices_drawn_at_random_count_as_charged_when_later_weeks_remember_them(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    future = tiny_windows.future.copy()
    future[:, 0, INDEX["price"]] *= 0.6
    logged = tiny_processor(replace(tiny_windows, future=future))
    marked_future = future.copy()
    marked_future[..., INDEX["price_is_intervention"]] = 1.0
    drawn = tiny_processor(replace(tiny_windows, future=marked_future))
    assert not drawn["logged_action_mask"].any()
    drawn["future_known_values"], drawn["future_known_mask"] = (
        logged["future_known_values"],
        logged["future_known_mask"],
    )
    rungs = ladder_log_prices(logged, rungs_of(tiny_processor, logged))
    with torch.no_grad():
        demands = [ladder_demand(model, model.encode(batch), batch, rungs)[0] for batch in (logged, drawn)]
    assert torch.equal(*demands)


def test_margin_without_cost_and_a_free_response_are_refused(
    model: PricingFMForPolicy,
    build_tiny_model: Callable[..., PricingFMForPolicy],
    tiny_processor: PricingFMProcessor,
    tiny_batch: Batch,
) -> None:
    costs = tiny_batch["unit_costs"].clone()
    costs[3, 1] = torch.nan
    with pytest.raises(ValueError, match="cost"):
        values_of(model, tiny_processor, {**tiny_batch, "unit_costs": costs}, RewardWeights())
    assert torch.isfinite(values_of(model, tiny_processor, {**tiny_batch, "unit_costs": costs}, REVENUE).values).all()
    with pytest.raises(ValueError, match="monotone"):
        values_of(build_tiny_model(PricingFMForPolicy, price_response="free"), tiny_processor, tiny_batch, REVENUE)


# -- next states ------------------------------------------------------------------------------------------------------


def test_the_state_after_the_logged_price_is_the_logged_state(
    tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    past, future = tiny_windows.past.copy(), tiny_windows.future.copy()
    past[:4, :, INDEX["price"]] = torch.nan  # four items whose first price of all comes after the origin
    windows = replace(tiny_windows, past=past, future=future)
    reference = tiny_processor(windows)["reference_price"].double().numpy()
    rungs = tiny_processor.rungs(future[..., INDEX["price"]].astype(float), reference)
    ladder = tiny_processor.rung_prices(reference)
    future[..., INDEX["price"]] = ladder[torch.arange(12)[:, None].numpy(), rungs]
    batch = tiny_processor(replace(windows, future=future))
    assert len(set(rungs.ravel().tolist())) > 4
    after = features_after(
        batch["decision_features"][:, :-1],
        batch["decision_features"][:, 1:],
        ladder_log_prices(batch, torch.from_numpy(ladder).float()),
    )
    assert after.shape == (12, 3, 43, 8)
    chosen = after[torch.arange(12)[:, None], torch.arange(3), torch.from_numpy(rungs[:, :-1])]
    torch.testing.assert_close(chosen, batch["decision_features"][:, 1:], rtol=1e-4, atol=1e-4)


def test_an_actions_value_is_its_reward_and_the_discounted_value_of_what_it_leads_to(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    found = values_of(model, tiny_processor, tiny_batch, REVENUE, discount=0.9)
    without_future = values_of(model, tiny_processor, tiny_batch, REVENUE, discount=0.0)
    assert torch.equal(without_future.values, found.rewards)
    assert torch.equal(found.values[:, -1], found.rewards[:, -1])
    with torch.no_grad():
        states = model.decision_states(model.encode(tiny_batch), tiny_batch)
        log_rungs = ladder_log_prices(tiny_batch, rungs_of(tiny_processor, tiny_batch))
        features = tiny_batch["decision_features"]
        after = features_after(features[:, :1], features[:, 1:2], log_rungs)[:, 0, 17]
        following = model.decision_head.values(states[:, 1], after)
    torch.testing.assert_close(
        found.values[:, 0, 17], found.rewards[:, 0, 17] + 0.9 * following[:, None], rtol=1e-5, atol=1e-5
    )


# -- holding a price --------------------------------------------------------------------------------------------------


def hold(
    model: PricingFMForPolicy,
    batch: Batch,
    ratios: list[float],
    weights: RewardWeights,
    lead: int = 0,
    **changes: float,
) -> torch.Tensor:
    current = batch["reference_price"]
    prices = current[:, None] * torch.tensor(ratios)
    with torch.no_grad():
        return holding_advantages(
            model, model.encode(batch), batch, prices, current, weights, changes.get("discount", 1.0), lead
        )


def test_holding_the_current_price_gains_nothing_and_the_order_of_candidates_does_not_matter(
    model: PricingFMForPolicy, tiny_batch: Batch
) -> None:
    found = hold(model, tiny_batch, [0.9, 1.0, 1.1], REVENUE)
    assert found.shape == (12, 3, 3)
    assert torch.equal(found[:, 1], torch.zeros(12, 3))
    shuffled = hold(model, tiny_batch, [1.1, 0.9, 1.0], REVENUE)
    torch.testing.assert_close(shuffled, found[:, [2, 0, 1]])


def test_a_held_price_earns_the_textbook_revenue_in_every_paid_period(
    model: PricingFMForPolicy, tiny_batch: Batch
) -> None:
    constant_elasticity_(silent_value_(model), 2.0)
    batch = unlimited(tiny_batch)
    gain = 0.9 * 0.9**-2.0 - 1
    share = demand_at_reference(model, batch) / batch["scale"][:, None]
    for lead in (0, 2):
        found = hold(model, batch, [0.9, 1.0], REVENUE, lead=lead)[:, 0]
        expected = (gain * share[:, lead:].sum(1))[:, None].expand(-1, 3)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_held_price_pays_for_one_change_only(model: PricingFMForPolicy, tiny_batch: Batch) -> None:
    free = hold(model, tiny_batch, [0.9, 1.0], REVENUE)
    costly = hold(model, tiny_batch, [0.9, 1.0], replace(REVENUE, price_change=0.01))
    torch.testing.assert_close((free - costly)[:, 0], torch.full((12, 3), 0.01), rtol=1e-3, atol=1e-5)


def test_what_comes_after_the_plan_is_the_value_of_the_state_that_holding_leads_to(
    model: PricingFMForPolicy, tiny_processor: PricingFMProcessor, tiny_batch: Batch
) -> None:
    price, steps = 0.9, 4
    nothing = RewardWeights(margin=0.0)
    with torch.no_grad():
        states = model.decision_states(model.encode(tiny_batch), tiny_batch)[:, -1]
        worth = []
        for ratio in (price, 1.0):
            features = tiny_batch["decision_features"][:, :1]
            for _ in range(steps):
                upcoming = tiny_batch["decision_features"][:, -1:]
                features = features_after(features, upcoming, torch.full((12, 1), math.log(ratio)))[:, :, 0]
            worth.append(model.decision_head.values(states, features[:, 0]))
    found = hold(model, tiny_batch, [price, 1.0], nothing, discount=0.9)[:, 0]
    expected = (0.9**steps * (worth[0] - worth[1]))[:, None].expand(-1, 3)
    assert expected.abs().mean() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_holding_refuses_margin_without_cost(model: PricingFMForPolicy, tiny_batch: Batch) -> None:
    costs = torch.full_like(tiny_batch["unit_costs"], torch.nan)
    with pytest.raises(ValueError, match="cost"):
        hold(model, {**tiny_batch, "unit_costs": costs}, [0.9, 1.0], RewardWeights())
