"""The oracles of whole markets: known answers, simulated values, order and shape of what they say."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.markets import oracles
from pricing_fm.markets.constant_prices import build_constant_ladder
from pricing_fm.markets.context import Calendar, Costs
from pricing_fm.markets.core import Market, start
from pricing_fm.markets.demand import LogitDemand, OwnPriceDemand
from pricing_fm.markets.domains import RetailSettings, sample_retail
from pricing_fm.markets.domains.retail import RETAIL_FAMILIES
from pricing_fm.markets.dynamic_program import build_price_ladder, solve_dynamic_program
from pricing_fm.markets.fluid import compute_fluid_bound
from pricing_fm.markets.memory import LinearReferencePrice
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.one_period import compute_joint_optimum, compute_one_period_prices
from pricing_fm.markets.responses import FAMILIES, LINEAR
from pricing_fm.markets.simulation import simulate_policy
from pricing_fm.markets.solutions import (
    DYNAMIC_PROGRAM,
    FLUID,
    ONE_PERIOD,
    MarketSolution,
    solve_market,
)
from pricing_fm.markets.streams import build_streams
from pricing_fm.markets.supply import PerishableStock

ONE = (np.array([0]),) * 3


def one_market(family: str, products: int = 1, seed: int = 0) -> Market:
    return sample_retail(RetailSettings(num_products=products), family, np.array([seed]), 0)


def first_state(market: Market):
    return start(market, build_streams(0, np.zeros(market.shape[0], dtype=int)))


def linear_market(intercept: float, slope: float, cost: float, list_price: float, periods: int) -> Market:
    """d = intercept - slope x price, written as the linear response around the list price."""
    volume = intercept - slope * list_price
    shape = (1, 1, 1)
    return Market(
        domain="test",
        family="linear",
        volume=np.full(shape, volume),
        demand=OwnPriceDemand(
            np.full(shape, LINEAR),
            np.full(shape, slope * list_price / volume),
            np.full(shape, list_price),
            np.full(shape, 0.5),
        ),
        noise=build_noise("none", shape),
        list_price=np.full(shape, list_price),
        price_bounds=(0.2, 2.0),
        price_tick=np.full(shape, 0.001),
        num_periods=periods,
        costs=Costs(np.full(shape, cost)),
    )


def test_one_period_prices_are_the_monopoly_prices() -> None:
    market = sample_retail(RetailSettings(num_products=6, families=FAMILIES), "reference_price", np.arange(8), 3)
    market = replace(market, memory=None)
    state = first_state(market)
    prices = compute_one_period_prices(market, state)
    demand = market.demand
    assert isinstance(demand, OwnPriceDemand)
    for place in np.ndindex(*market.shape):
        code = np.broadcast_to(demand.family, market.shape)[place]
        e, s, ref, cost = (
            float(np.broadcast_to(values, market.shape)[place])
            for values in (demand.elasticity, demand.purchase_share, demand.reference_price, market.costs.unit_cost)
        )
        known = {
            "constant_elasticity": {"kind": "constant_elasticity", "scale": 1.0, "elasticity": e},
            "exponential": {"kind": "exponential", "scale": 1.0, "rate": e / ref},
            "logit": {
                "kind": "logit",
                "market_size": 1.0,
                "utility": np.log(s / (1 - s)) + e / (1 - s),
                "price_sensitivity": e / (1 - s) / ref,
            },
            "linear": {"kind": "linear", "intercept": 1.0 + e, "slope": e / ref},
        }[FAMILIES[code]]
        regular = float(np.broadcast_to(market.list_price, market.shape)[place])
        bounds = [0.5 * regular, 2.0 * regular]
        assert prices[place] == pytest.approx(oracles.monopoly_price(known, cost, bounds)["price"], rel=1e-6), FAMILIES[
            code
        ]


def test_the_line_search_agrees_with_the_first_order_condition() -> None:
    market = sample_retail(RetailSettings(num_products=5), "reference_price", np.arange(6), 1)
    market = replace(market, memory=replace(market.memory, loss=market.memory.gain))
    state = first_state(market)
    closed = compute_one_period_prices(market, state)
    uneven = replace(market, memory=replace(market.memory, loss=market.memory.gain * (1.0 + 1e-12)))
    np.testing.assert_allclose(compute_one_period_prices(uneven, state), closed, rtol=1e-5)


@pytest.mark.parametrize("family", ["substitution", "nested", "halo"])
def test_joint_prices_reach_the_bound_of_the_closed_form(family: str) -> None:
    for seed in range(4):
        market = replace(one_market(family, 4, seed), price_bounds=(0.05, 20.0))
        best = compute_joint_optimum(market, first_state(market))
        assert best.reward == pytest.approx(best.bound, rel=1e-6)


def test_joint_prices_of_hidden_classes_lie_below_their_bound_and_above_any_other_prices() -> None:
    market = one_market("latent_classes", 2)
    state = first_state(market)
    best = compute_joint_optimum(market, state)
    random = np.random.default_rng(0).uniform(0.5, 2.0, (3_000, 2, 1)) * market.list_price[0]
    rows = np.zeros(len(random), dtype=int)
    copies = market.select(rows)
    share = copies.volume * copies.demand.respond(random, None)
    rewards = ((random - copies.costs.unit_cost) * share).sum(axis=(1, 2))
    assert rewards.max() <= best.reward * (1 + 1e-9) < best.bound


def test_the_dynamic_program_finds_the_linear_quadratic_optimum_of_a_remembered_price() -> None:
    given = {"intercept": 100.0, "slope": 2.0, "reference_effect": 1.5, "memory": 0.6, "discount": 0.9, "cost": 5.0}
    known = oracles.reference_price_policy(**given, initial_reference=24.0)
    market = linear_market(100.0, 2.0, 5.0, 24.0, 160)
    volume = float(market.volume.item())
    effect = np.full((1, 1, 1), given["reference_effect"] / volume)
    memory = LinearReferencePrice(effect, effect, np.full((1, 1, 1), given["memory"]))
    market = replace(market, memory=memory)
    ladder = np.linspace(15.0, 40.0, 401)[:, None, None]
    program = solve_dynamic_program(market, ladder, 241, discount=given["discount"])
    assert program.value == pytest.approx(known["value"], rel=2e-3)
    # Near its peak the value is flat, so a price one or two steps of the ladder away is still a match.
    policy = known["policy_intercept"] + known["policy_slope"] * 24.0
    assert program.choose(first_state(market)).item() == pytest.approx(policy, abs=0.2)


SOLVED: dict[tuple[str, int], MarketSolution] = {}


def solve(family: str, products: int = 1, seed: int = 0) -> MarketSolution:
    key = (family, seed)
    if key not in SOLVED:
        SOLVED[key] = solve_market(one_market(family, products, seed), rungs=31, grid_points=61, num_rollouts=400)
    return SOLVED[key]


PRODUCTS = {"substitution": 3, "nested": 3, "latent_classes": 2, "halo": 3, "logit_stock": 3}


@pytest.mark.parametrize("family", RETAIL_FAMILIES)
def test_the_policy_of_the_oracle_earns_the_value_of_the_oracle(family: str) -> None:
    solution = solve(family, PRODUCTS.get(family, 1))
    run = simulate_policy(solution.market, solution.choose, 600, seed=5)
    gap = abs(run.mean - solution.value)
    error = np.hypot(run.standard_error, solution.standard_error)
    # Interpolated states and ladders are worth a thousandth.
    assert gap <= 3.0 * error + 1e-3 * abs(solution.value)


@pytest.mark.parametrize("family", RETAIL_FAMILIES)
def test_constant_and_myopic_prices_earn_at_most_the_optimum_and_that_at_most_the_bound(family: str) -> None:
    solution = solve(family, PRODUCTS.get(family, 1))
    slack = 1e-9 * abs(solution.value) + 3.0 * solution.standard_error
    assert solution.constant_value <= solution.value + slack
    assert solution.myopic_value <= solution.value + slack
    assert solution.value <= solution.upper_bound + slack


def test_methods_fit_the_families() -> None:
    assert solve("substitution", 3).method == ONE_PERIOD
    assert solve("logit_stock", 3).method == FLUID
    assert solve("stockpiling").method == DYNAMIC_PROGRAM


def test_looking_ahead_is_worth_nothing_in_a_static_market_and_much_with_perishable_stock() -> None:
    assert solve("halo", 3).headroom == 0.0
    assert max(solve("perishable", seed=seed).headroom for seed in range(3)) > 0.2
    assert max(solve("stockpiling", seed=seed).headroom for seed in range(3)) > 0.03
    assert max(solve("reference_price", seed=seed).headroom for seed in range(3)) > 0.03


def test_value_rises_ever_more_slowly_with_stock_and_with_time() -> None:
    market = one_market("perishable")
    program = solve_dynamic_program(market, build_price_ladder(market, 31))
    by_stock, by_time = program.values[0], program.values[::-1, -1]
    for values in (by_stock, by_time):
        steps = np.diff(values)
        assert np.all(steps >= -1e-9)
        assert np.all(np.diff(steps) <= 1e-6 * by_stock[-1])


def test_the_fluid_bound_lies_above_the_optimum_and_close_for_large_stocks() -> None:
    market = one_market("perishable")
    ladder = build_price_ladder(market, 61)
    gaps = []
    for scale in (1.0, 8.0):
        stock = np.round(market.supply.units * scale)
        scaled = replace(market, volume=market.volume * scale, supply=PerishableStock(stock, market.supply.salvage))
        optimum = solve_dynamic_program(scaled, ladder).value
        bound = compute_fluid_bound(scaled).value
        assert bound >= optimum * (1 - 1e-9)
        gaps.append(bound / optimum - 1.0)
    assert gaps[1] < 0.6 * gaps[0]


@pytest.mark.parametrize("family", ["perishable", "stockpiling", "rival", "waiting"])
def test_a_currency_of_smaller_coins_changes_no_decision(family: str) -> None:
    market = one_market(family)
    scaled = rescale(market, 100.0)
    ladder = build_price_ladder(market, 21)
    plain = solve_dynamic_program(market, ladder, 21)
    large = solve_dynamic_program(scaled, ladder * 100.0, 21)
    assert large.value == pytest.approx(100.0 * plain.value, rel=1e-9)
    np.testing.assert_array_equal(large.choices[0], plain.choices[0])


def rescale(market: Market, factor: float) -> Market:
    demand = market.demand
    if isinstance(demand, OwnPriceDemand):
        demand = replace(demand, reference_price=demand.reference_price * factor)
    else:
        demand = replace(demand, sensitivity=demand.sensitivity / factor)
    changes: dict = {
        "demand": demand,
        "list_price": market.list_price * factor,
        "price_tick": market.price_tick * factor,
    }
    changes["costs"] = Costs(market.costs.unit_cost * factor)
    if market.supply is not None:
        changes["supply"] = replace(market.supply, salvage=market.supply.salvage * factor)
    if market.rivals is not None:
        rivals = market.rivals
        changes["rivals"] = replace(rivals, list_price=rivals.list_price * factor, floor=rivals.floor * factor)
    if hasattr(market.memory, "list_price"):
        changes["memory"] = replace(market.memory, list_price=market.memory.list_price * factor)
    return replace(market, **changes)


def test_the_order_of_the_products_does_not_matter() -> None:
    market = one_market("substitution", 4)
    order = np.array([2, 0, 3, 1])
    demand = market.demand
    assert isinstance(demand, LogitDemand)
    turned = replace(
        market,
        volume=market.volume[:, order],
        list_price=market.list_price[:, order],
        costs=Costs(market.costs.unit_cost[:, order]),
        demand=LogitDemand(demand.utility[:, order], demand.sensitivity[:, order]),
    )
    best = compute_joint_optimum(market, first_state(market))
    other = compute_joint_optimum(turned, first_state(turned))
    assert other.reward == pytest.approx(best.reward, rel=1e-8)
    np.testing.assert_allclose(other.prices, best.prices[order], rtol=1e-3)


def test_a_season_changes_what_a_dynamic_program_says() -> None:
    market = one_market("stockpiling")
    ladder = build_price_ladder(market, 15)
    shape = (1, 1, 1)
    season = Calendar(np.full(shape, 0.5), np.full(shape, 0.0), np.zeros(shape), 26.0)
    still, moving = (solve_dynamic_program(replace(market, calendar=one), ladder, 21) for one in (None, season))
    assert still.value != pytest.approx(moving.value, rel=1e-3)


def test_what_cannot_be_solved_is_refused() -> None:
    shop = sample_retail(RetailSettings(num_products=1, reference_share=1.0), "shop", np.array([0]), 0)
    with pytest.raises(ValueError, match="too large"):
        solve_market(shop)
    two = sample_retail(RetailSettings(num_products=1), "perishable", np.arange(2), 0)
    with pytest.raises(ValueError, match="one by one"):
        solve_market(two)
    market = one_market("perishable")
    with pytest.raises(ValueError, match="ladder has shape"):
        solve_dynamic_program(market, np.ones((3, 2, 1)))
    with pytest.raises(ValueError, match="fluid bound"):
        compute_fluid_bound(one_market("substitution", 2))


def test_the_common_ladder_spans_the_bounds() -> None:
    market = one_market("substitution", 2)
    ladder = build_constant_ladder(market)
    np.testing.assert_allclose(ladder[0], 0.5 * market.list_price[0])
    np.testing.assert_allclose(ladder[-1], 2.0 * market.list_price[0])
