"""The value of holding a price: nothing for the current one, and elsewhere what a plain loop over periods gives."""

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.channels import PRICE_SCALE, own_prices
from pricing_fm.models.recursion import states_before
from pricing_fm.objectives.holding import holding_advantages
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import load_base
from pricing_fm.policy.situation import Situation, read_situation
from tests.policy_artifacts import panel_of, plan_of, sales_log, write_base

ALL_TERMS = RewardWeights(
    margin=1.0, revenue=0.3, units=0.2, lost_sales=0.5, stock_target=0.05, stock_cover=0.5, price_change=0.02
)
DISCOUNT = 0.9


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[PricingFMForPolicy, PricingFMProcessor]:
    model, processor, _ = load_base(write_base(tmp_path_factory.mktemp("holding") / "base"))
    with torch.no_grad():  # a value head that says something of every feature
        model.decision_head.value_head.head_out.weight.mul_(3.0)
    return model, processor


@pytest.fixture(scope="module")
def situation() -> Situation:
    """Fast movers (so that no count distribution takes over), three of six with a stock too small for their demand."""
    table = sales_log(items=6)
    table["units"] *= 10
    panel = panel_of(table)
    plan = plan_of(panel, 5)
    plan["inventory"] = np.where(plan["item_id"] < "i03", 60.0, np.nan)
    return read_situation(panel, 16, 5, plan)


def prices_around(situation: Situation) -> torch.Tensor:
    """Candidates `(B, 6)` in no order; the third and the last are the current price."""
    current = torch.from_numpy(situation.current_price)
    return current[:, None] * torch.tensor([1.2, 0.7, 1.0, 0.95, 1.05, 1.0], dtype=torch.float64)


def advantages(
    network: tuple[PricingFMForPolicy, PricingFMProcessor],
    situation: Situation,
    prices: torch.Tensor,
    weights: RewardWeights = ALL_TERMS,
    lead: int = 0,
) -> torch.Tensor:
    model, processor = network
    batch = processor(situation.windows)
    current = torch.from_numpy(situation.current_price).float()
    with torch.no_grad():
        return holding_advantages(
            model, model.encode(batch), batch, prices.float(), current, weights, DISCOUNT, lead
        ).double()


def by_loop(
    network: tuple[PricingFMForPolicy, PricingFMProcessor],
    situation: Situation,
    prices: torch.Tensor,
    weights: RewardWeights,
    lead: int,
) -> torch.Tensor:
    """The same, period by period and price by price, from the network's public answers."""
    model, processor = network
    batch = processor(situation.windows)
    encoded = model.encode(batch)
    steps, members = batch["candidate_prices"].shape[-1], model.config.num_response_members
    reference, current = batch["reference_price"].double(), torch.from_numpy(situation.current_price)
    values = torch.zeros(*prices.shape, members, dtype=torch.float64)
    for column in range(prices.shape[1]):
        path = torch.stack([current if step < lead else prices[:, column] for step in range(steps)], dim=1)
        found = model.demand(encoded, {**batch, "candidate_prices": (path / reference[:, None]).log().float()[:, None]})
        log_response = found.member_response[:, 0].double()
        demand = found.mean.double() * (log_response - log_response.mean(1, keepdim=True)).exp()  # (B, M, H)
        for ahead in range(lead, steps):
            stock = batch["future_inventory"][:, ahead].double().nan_to_num(nan=np.inf)[:, None]
            quantiles = found.quantile_values[:, 0, ahead].double()
            share = quantiles.minimum(stock).sum(1) / quantiles.sum(1)
            wanted, price = demand[:, :, ahead], path[:, ahead, None]
            sold = wanted * share[:, None]
            cost = batch["unit_costs"][:, ahead, None].double()
            reward = weights.margin * (price - cost) * sold + weights.revenue * price * sold
            reward = reward - weights.lost_sales * price * (wanted - sold)
            reward = reward + weights.units * reference[:, None] * sold
            off_target = ((stock - sold).clamp(min=0) - weights.stock_cover * batch["scale"][:, None]).abs()
            off_target = torch.where(stock.isfinite(), off_target, 0.0)
            reward = reward - weights.stock_target * reference[:, None] * off_target
            unit = (reference * batch["scale"])[:, None]
            values[:, column] += DISCOUNT ** (ahead - lead) * reward / unit
        moved = ((prices[:, column] - current).abs() > 1e-9).double()
        values[:, column] -= weights.price_change * moved[:, None]
        values[:, column] += DISCOUNT ** (steps - lead) * value_after(network, situation, batch, path)[:, None]
    kept = int((prices[0] - current[0]).abs().argmin())
    return values - values[:, [kept]]


def value_after(network, situation: Situation, batch: dict[str, torch.Tensor], path: torch.Tensor) -> torch.Tensor:
    """Value of the state after the whole path, its recursion run through past and path."""
    model, _ = network
    reference = batch["reference_price"].double().numpy()[:, None]
    past = np.log(own_prices(situation.windows.past) / reference)
    future = np.log(np.concatenate([path.numpy(), path.numpy()[:, -1:]], axis=1) / reference)
    nothing = np.zeros_like(past, dtype=bool), np.zeros_like(future, dtype=bool)
    state = states_before(past, future, *nothing)
    features = torch.zeros(len(past), 8)
    for place, values in enumerate((state.last, state.memory, state.depth)):
        features[:, place] = torch.from_numpy(values[:, -1] / PRICE_SCALE).clamp(-8, 8)
    features[:, 3] = 1.0
    features[:, 6:] = batch["decision_features"][:, -1, 6:]
    states = model.decision_states(model.encode(batch), batch)[:, -1]
    return model.decision_head.values(states, features).double()


@pytest.mark.parametrize("lead", [0, 2, 4])
@torch.no_grad()
def test_advantages_are_those_of_a_plain_loop(network, situation, lead: int) -> None:
    prices = prices_around(situation)
    found, expected = (
        advantages(network, situation, prices, lead=lead),
        by_loop(network, situation, prices, ALL_TERMS, lead),
    )
    assert (found.abs() > 0.02).any(dim=0).any(dim=1).sum() >= 4
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-5)


@torch.no_grad()
def test_one_period_ahead_is_enough(network, situation) -> None:
    panel = panel_of(sales_log(items=4).assign(units=lambda rows: rows["units"] * 10))
    near = read_situation(panel, 16, 1, plan_of(panel, 1, inventory=500.0))
    prices = prices_around(near)
    expected = by_loop(network, near, prices, ALL_TERMS, 0)
    torch.testing.assert_close(advantages(network, near, prices), expected, rtol=2e-4, atol=2e-5)


@torch.no_grad()
def test_the_first_price_of_all_becomes_the_memory(network) -> None:
    """Items that were observed without any price, at a known list price."""
    table = sales_log(items=3).assign(units=lambda rows: rows["units"] * 10)
    first = read_situation(panel_of(table), 16, 3)
    first.windows.past[..., 1] = np.nan
    prices = prices_around(first)
    for lead in (0, 1):
        expected = by_loop(network, first, prices, ALL_TERMS, lead)
        torch.testing.assert_close(advantages(network, first, prices, lead=lead), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("lead", [0, 2])
@pytest.mark.parametrize("weights", [ALL_TERMS, RewardWeights(satisfaction=0.5, price_change=0.1)])
def test_the_current_price_is_worth_nothing_more_wherever_it_stands(network, situation, weights, lead: int) -> None:
    found = advantages(network, situation, prices_around(situation), weights, lead)
    assert (found[:, [2, 5]] == 0).all()
    assert (found[:, [0, 1, 3, 4]] != 0).all()


def test_the_order_of_the_prices_does_not_matter(network, situation) -> None:
    prices = prices_around(situation)
    weights = RewardWeights(satisfaction=0.5, price_change=0.1)
    found = advantages(network, situation, prices, weights)
    for seed in range(3):
        order = torch.randperm(prices.shape[1], generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(advantages(network, situation, prices[:, order], weights), found[:, order])


def test_a_change_costs_once_however_long_the_price_is_held(network, situation) -> None:
    prices = prices_around(situation)
    free, paid = (advantages(network, situation, prices, RewardWeights(price_change=cost)) for cost in (0.0, 0.25))
    expected = torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(free - paid, expected[None, :, None].expand_as(free), rtol=0, atol=1e-5)


def test_a_stock_above_its_target_asks_for_lower_prices_and_one_below_for_higher_ones(network) -> None:
    """Three items start every period with 3,000 units, more than any price sells; the others' stock is not known."""
    panel = panel_of(sales_log(items=6).assign(units=lambda rows: rows["units"] * 10))
    plan = plan_of(panel, 5)
    full = read_situation(panel, 16, 5, plan.assign(inventory=np.where(plan["item_id"] < "i03", 3e3, np.nan)))
    prices = prices_around(full)
    for cover, better, worse in ((0.0, 1, 0), (500.0, 0, 1)):
        weights = RewardWeights(stock_target=0.3, stock_cover=cover)
        moved = advantages(network, full, prices, weights) - advantages(network, full, prices, RewardWeights())
        assert (moved[:3, better] > 1e-3).all()
        assert (moved[:3, worse] < -1e-3).all()
        assert (moved[3:] == 0).all()


def test_customers_gain_from_a_cut(network, situation) -> None:
    plain, kind = (
        advantages(network, situation, prices_around(situation), RewardWeights(satisfaction=weight))
        for weight in (0.0, 1.0)
    )
    gained = kind - plain
    assert (gained[:, [1, 3]] > 0).all()
    assert (gained[:, [0, 4]] < 0).all()
    assert (gained[:, 1] > gained[:, 3]).all()


def test_a_missing_cost_is_not_a_cost_of_zero(network) -> None:
    table = sales_log(items=2)
    table.loc[table["item_id"] == "i01", "cost"] = np.nan
    situation = read_situation(panel_of(table), 16, 3)
    with pytest.raises(ValueError, match="some items have no cost"):
        advantages(network, situation, prices_around(situation), RewardWeights())
    found = advantages(network, situation, prices_around(situation), RewardWeights(margin=0.0, revenue=1.0))
    assert torch.isfinite(found).all()


def test_the_scale_of_the_currency_does_not_matter(network) -> None:
    table = sales_log(items=3).assign(units=lambda rows: rows["units"] * 10)
    dear = table.assign(**{name: table[name] * 100 for name in ("price", "list_price", "cost")})
    found = []
    for log in (table, dear):
        situation = read_situation(panel_of(pd.DataFrame(log)), 16, 3)
        found.append(advantages(network, situation, prices_around(situation)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
