"""Energy: every family's truth, its known optimum, and what its dynamic program promises and keeps."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pricing_fm.markets import core
from pricing_fm.markets.context import Costs
from pricing_fm.markets.demand import LinearSystemDemand
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.domains.energy import ENERGY, ENERGY_FAMILIES, EnergySettings, sample_energy
from pricing_fm.markets.dynamic_program import DynamicProgram, build_price_ladder, solve_dynamic_program
from pricing_fm.markets.energy_parts import DailySupply, DemandCharge, MeritOrderMargin, Rebound, Reservoir
from pricing_fm.markets.noise import NOISES
from pricing_fm.markets.oracles import linear_system_prices, market_clearing_price, monopoly_price, peak_load_prices
from pricing_fm.markets.parts import Part
from pricing_fm.markets.responses import FAMILIES as RESPONSES
from pricing_fm.markets.streams import build_streams

DYNAMIC = ("storage", "demand_charge", "habit", "rebound", "rival_tariff", "wholesale_regimes", "solar")
FORESIGHT_PAYS = ("storage", "habit", "rebound", "rival_tariff")
# Small stocks and meters and short ladders: the same programs, a fraction of the time.
SMALL = {"small_volume_range": (4.0, 6.0)}


def sample(family: str, count: int = 6, seed: int = 5, **changes: object) -> core.Market:
    return sample_energy(replace(EnergySettings(), **changes), family, np.arange(count), seed)


def take_item(market: core.Market, where: tuple[int, int, int] = (0, 0, 0)) -> core.Market:
    return market.select_items(tuple(np.array([index]) for index in where))


def list_arrays(part: object) -> list[np.ndarray]:
    found = []
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, np.ndarray):
            found.append(value)
        elif isinstance(value, Part):
            found += list_arrays(value)
    return found


def simulate(market: core.Market, prices: object, rollouts: int, seed: int = 1) -> np.ndarray:
    """Total reward of every rollout; `prices` maps a state to prices."""
    copies = market.select(np.zeros(rollouts, dtype=int))
    random = build_streams(seed, np.zeros(rollouts, dtype=int), np.arange(rollouts))
    state, total = core.start(copies, random), np.zeros(rollouts)
    for _ in range(market.num_periods):
        state, _, reward, _ = core.step(copies, state, prices(state), random)
        total += reward.sum(axis=(1, 2))
    return total + core.compute_final_value(copies, state).sum(axis=(1, 2))


def solve(family: str, where: tuple[int, int, int] = (0, 0, 0), rungs: int = 13, **changes: object) -> DynamicProgram:
    market = take_item(sample(family, **SMALL | changes), where)
    return solve_dynamic_program(market, build_price_ladder(market, rungs), 121)


def compute_expected(market: core.Market, prices: np.ndarray) -> np.ndarray:
    """Expected reward of the first period at many price vectors `(prices, products, segments)`, nothing limiting it."""
    rows = np.zeros(len(prices), dtype=int)
    copies = market.select(rows)
    state = core.start(market, build_streams(0, np.zeros(1, dtype=int))).select(rows)
    mean = core.compute_mean_demand(copies, state, prices)
    _, _, reward = core.settle(copies, state, prices, mean, mean)
    return reward.sum(axis=(1, 2))


def test_energy_is_a_domain_with_every_family_described() -> None:
    assert DOMAINS["energy"] is ENERGY
    assert len(ENERGY.families) >= 6
    for word in ("State", "Action", "Reward", "Dynamics", "Constraints", "Standard baselines", *ENERGY.families):
        assert word in ENERGY.description


@pytest.mark.parametrize("family", ENERGY_FAMILIES)
def test_a_supplier_is_the_same_in_any_company(family: str) -> None:
    together = sample(family, 5)
    alone = sample_energy(EnergySettings(), family, np.array([3]), 5)
    other = sample_energy(EnergySettings(), family, np.array([3]), 6)
    pairs = list(zip(list_arrays(together.select(np.array([3]))), list_arrays(alone), strict=True))
    assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)
    assert any(not np.array_equal(mine, theirs) for mine, theirs in zip(*map(list_arrays, (alone, other)), strict=True))
    assert not np.array_equal(together.list_price[0], together.list_price[1])


@pytest.mark.parametrize("family", ENERGY_FAMILIES)
def test_tariffs_costs_and_loads_are_plausible(family: str) -> None:
    market = sample(family, 200)
    assert market.shape == (200, 3, 2)
    assert np.all((market.list_price > 50) & (market.list_price < 450))
    assert np.all(np.diff(market.list_price.mean(axis=(0, 2))) < 0), "the evening peak is the dearest block"
    assert np.all(market.costs.unit_cost < 0.81 * market.list_price)
    random = build_streams(0, np.arange(200))
    state = core.start(market, random)
    mean = core.compute_mean_demand(market, state, state.list_price)
    assert np.all((mean > 1.0) & (mean < 1_000))
    _, observation, reward, truth = core.step(market, state, state.list_price, random)
    assert np.all(observation.units <= truth.demand)
    assert np.all(observation.units <= observation.inventory)
    assert np.all(np.isfinite(reward))


@pytest.mark.parametrize("family", ENERGY_FAMILIES)
def test_without_noise_demand_is_its_mean(family: str) -> None:
    market = sample(family, 20, noise="none")
    random = build_streams(2, np.arange(20))
    state = core.start(market, random)
    for factor in (1.05, 0.95, 1.2):
        state, _, _, truth = core.step(market, state, factor * state.list_price, random)
        np.testing.assert_array_equal(truth.demand, truth.mean_demand)
        assert np.all(truth.mean_demand > 0)


@pytest.mark.parametrize("noise", [name for name in NOISES if name != "none"])
def test_every_noise_keeps_mean_demand(noise: str) -> None:
    copies = take_item(sample("supplier", noise=noise), (1, 0, 1)).select(np.zeros(20_000, dtype=int))
    random = build_streams(4, np.zeros(20_000, dtype=int), np.arange(20_000))
    state = core.start(copies, random)._replace(shock=np.zeros(copies.shape))
    _, _, _, truth = core.step(copies, state, state.list_price, random)
    error = truth.demand.std() / np.sqrt(truth.demand.size)
    assert error > 0
    assert abs(truth.demand.mean() - truth.mean_demand.mean()) < 3.5 * error


@pytest.mark.parametrize("family", ENERGY_FAMILIES)
def test_another_currency_changes_the_scale_of_rewards_alone(family: str) -> None:
    rewards = []
    for scale in (1.0, 100.0):
        market = sample(family, price_range=(120.0 * scale, 280.0 * scale), price_tick=0.1 * scale)
        random = build_streams(3, np.arange(6))
        state = core.start(market, random)
        for _ in range(4):
            state, observation, reward, _ = core.step(market, state, 1.05 * state.list_price, random)
        rewards.append((reward, observation.units))
    np.testing.assert_allclose(rewards[1][0], 100.0 * rewards[0][0], rtol=1e-9)
    np.testing.assert_array_equal(rewards[1][1], rewards[0][1])
    assert np.any(rewards[0][0] != 0)


def test_time_of_use_optimum_is_the_closed_form() -> None:
    market = sample("time_of_use", num_products=2, num_segments=1)
    for number in range(3):
        one = market.select(np.array([number]))
        slope, intercept = one.demand.slope[0, :, 0], one.demand.intercept[0, :, 0]
        assert np.all(slope[~np.eye(2, dtype=bool)] < 0), "a dear block sends load to the others"
        known = linear_system_prices(intercept.tolist(), slope.tolist(), one.costs.unit_cost[0, :, 0].tolist())
        best = np.array(known["joint_prices"])
        # A grid that has the closed form between its points, over all admissible prices.
        axes = [np.linspace(*one.price_bounds, 300) * price for price in one.list_price[0, :, 0]]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2, 1)
        rewards = compute_expected(one, grid)
        at_best = compute_expected(one, best.reshape(1, 2, 1)).item()
        assert at_best == pytest.approx(known["joint_profit"] * one.volume[0, 0, 0], rel=1e-9)
        assert at_best * (1 - 1e-4) < rewards.max() <= at_best
        np.testing.assert_allclose(grid[rewards.argmax(), :, 0], best, rtol=0.005)
        # Pricing every block as if the others stood alone gives money away.
        own = np.diag(slope)
        alone = (intercept - slope @ one.list_price[0, :, 0] + own * one.list_price[0, :, 0]) / own
        alone = 0.5 * (alone + one.costs.unit_cost[0, :, 0])
        assert compute_expected(one, alone.reshape(1, 2, 1)).item() < 0.999 * at_best


@pytest.mark.parametrize("family", ["time_of_use", "peak_capacity"])
def test_use_at_list_prices_is_that_of_the_blocks_alone(family: str) -> None:
    market = sample(family, 50)
    state = core.start(market, build_streams(0, np.arange(50)))
    mean = core.compute_mean_demand(market, state, state.list_price)
    np.testing.assert_allclose(mean.sum(axis=1), market.volume[:, 0], rtol=1e-9)
    dearer = state.list_price * np.array([1.1, 1.0, 1.0])[:, None]
    moved = core.compute_mean_demand(market, state, dearer) - mean
    assert np.all(moved[:, 0] < 0)
    assert np.all(moved[:, 1:] > 0)
    assert np.all(moved.sum(axis=1) < 0), "shifting does not create load"


def test_plants_in_merit_order_have_the_closed_form_of_one_block() -> None:
    market = sample("peak_capacity", num_products=1, num_segments=1)
    for number in range(3):
        one = market.select(np.array([number]))
        slope, cost = (one.demand.slope * one.volume[..., None]).item(), one.costs.unit_cost.item()
        top = one.demand.intercept.item() * one.volume.item() / slope
        threshold, charge = one.payoff.threshold.item(), one.payoff.charge.item()
        # Profit (top - q / slope - cost) q - charge (q - threshold)**2 / (2 threshold) is concave in load q.
        load = (top - cost + charge) / (2.0 / slope + charge / threshold)
        assert load > threshold
        prices = np.linspace(*one.price_bounds, 20_001) * one.list_price.item()
        rewards = compute_expected(one, prices[:, None, None])
        assert prices[rewards.argmax()] == pytest.approx(top - load / slope, rel=2e-4)
        assert prices[rewards.argmax()] > 1.001 * 0.5 * (top + cost), "without the plants it would be cheaper"


def test_all_customer_groups_of_a_block_load_the_same_plants() -> None:
    market = sample("peak_capacity")
    payoff, prices, mean = market.payoff, market.list_price, np.full(market.shape, 3.0)
    margin = (prices - market.costs.unit_cost) * mean
    rewards = payoff.compute_reward(mean, prices, market.costs.unit_cost, mean)
    one = replace(payoff, threshold=np.full((6, 1, 1), 4.0), charge=np.full((6, 1, 1), 8.0))
    charged = margin - one.compute_reward(mean, prices, market.costs.unit_cost, mean)
    # Two groups of 3 make 6: 2 above the threshold, 8 x 2**2 / (2 x 4) = 4 a block.
    np.testing.assert_allclose(charged.sum(axis=2), 4.0)
    np.testing.assert_allclose(rewards, margin, err_msg="below the threshold nothing is charged")


@pytest.mark.parametrize("intercepts", [(10.0, 4.0), (10.0, 9.0)], ids=["firm peak", "shifting peak"])
def test_steep_plants_price_the_peak_as_peak_load_pricing_does(intercepts: tuple[float, float]) -> None:
    variable, capacity_cost = 1.0, 2.0
    known = peak_load_prices(*intercepts, variable, capacity_cost)
    # A monopolist sells half the load of the welfare optimum (marginal revenue falls twice as fast as the price).
    loads = 0.5 * np.array(known["loads"])
    market = sample("peak_capacity", 1, num_products=2, num_segments=1)
    one = np.ones((1, 1, 1))
    unit = replace(
        market,
        volume=np.ones((1, 2, 1)),
        demand=LinearSystemDemand(np.array(intercepts).reshape(1, 2, 1), np.eye(2).reshape(1, 2, 1, 2)),
        list_price=np.full((1, 2, 1), 5.0),
        costs=Costs(np.full((1, 2, 1), variable)),
        payoff=MeritOrderMargin(loads.max() * one, 1e5 * one),
    )
    axis = np.linspace(1.0, 9.5, 851)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    best = grid[compute_expected(unit, grid).argmax(), :, 0]
    np.testing.assert_allclose(np.array(intercepts) - best, loads, atol=0.011)


def test_without_noise_the_sun_is_sold_at_the_clearing_or_the_monopoly_price() -> None:
    market = sample("solar", noise="none", responses=("linear",))
    bound = 0
    for where in np.ndindex(*market.shape):
        one = take_item(market, where)
        elasticity, price, volume = one.demand.elasticity.item(), one.list_price.item(), one.volume.item()
        top = price * (1.0 + 1.0 / elasticity)
        arrivals, supply = (
            volume * (1.0 + elasticity),
            core.start(one, build_streams(0, np.zeros(1, int))).supply.item(),
        )
        clearing = market_clearing_price(arrivals, top, supply)["price"]
        free = monopoly_price(
            {"kind": "linear", "intercept": arrivals, "slope": arrivals / top}, one.costs.unit_cost.item()
        )["price"]
        bound += clearing > free
        low, high = one.price_bounds
        prices = np.linspace(low, high, 8_001) * price
        best = prices[compute_expected(one, prices[:, None, None]).argmax()]
        assert best == pytest.approx(np.clip(max(clearing, free), low * price, high * price), rel=5e-4)
    assert 0 < bound < 36


def test_each_wholesale_regime_has_the_monopoly_price_of_its_cost() -> None:
    program = solve("wholesale_regimes", rungs=301, responses=("linear",))
    one = program.market
    elasticity, price = one.demand.elasticity.item(), one.list_price.item()
    demand = {"kind": "linear", "intercept": 1.0 + elasticity, "slope": elasticity / price}
    chosen = []
    for regime, factor in enumerate(one.regimes.cost_factor[0, 0, 0]):
        bounds = (one.price_bounds[0] * price, one.price_bounds[1] * price)
        known = monopoly_price(demand, one.costs.unit_cost.item() * factor, bounds)["price"]
        chosen.append(program.ladder[program.choices[0, regime], 0, 0])
        assert chosen[-1] == pytest.approx(known, rel=0.006)
    assert chosen[0] < chosen[1] < chosen[2]
    np.testing.assert_allclose(one.regimes.transition.sum(axis=-1), 1.0)


@pytest.mark.parametrize("family", DYNAMIC)
def test_simulated_value_of_the_dynamic_programs_policy_is_its_value(family: str) -> None:
    program = solve(family, (1, 1, 1))
    total = simulate(program.market, program.choose, 300)
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert abs(total.mean() - program.value) < 3 * error
    assert error < 0.02 * program.value
    assert program.constant_value <= program.value * (1 + 1e-9)
    assert program.myopic_value <= program.value * (1 + 1e-9)


@pytest.mark.parametrize("family", FORESIGHT_PAYS)
def test_foresight_pays_where_something_is_left_for_tomorrow(family: str) -> None:
    gains = []
    for market in range(3):
        program = solve(family, (market, 0, 0))
        gains.append(1 - program.myopic_value / program.value)
    assert max(gains) > 0.03
    assert min(gains) >= 0


def test_foresight_pays_nothing_where_every_day_stands_alone() -> None:
    for family in ("solar", "wholesale_regimes"):
        program = solve(family)
        assert program.myopic_value == pytest.approx(program.value, rel=1e-12)


def test_stored_energy_is_worth_more_and_ever_less_more() -> None:
    program = solve("storage")
    steps = np.diff(program.values[0])
    assert np.all(steps > 0)
    # A ladder of prices and whole units leave small bumps.
    assert np.all(np.diff(steps) < 0.02 * steps.max())


@pytest.mark.parametrize("family", ["storage", "solar"])
def test_inflow_follows_the_kernel_that_the_program_uses(family: str) -> None:
    one = take_item(sample(family, **SMALL))
    supply = one.supply
    assert isinstance(supply, Reservoir | DailySupply)
    grid = supply.build_grid()[0]
    kernel = supply.build_kernel(0, grid)
    np.testing.assert_allclose(kernel.sum(axis=1), 1.0)
    copies = one.select(np.zeros(20_000, dtype=int)).supply
    random = build_streams(4, np.zeros(20_000, dtype=int), np.arange(20_000))
    for row in (0, len(grid) - 1):
        before = np.full((20_000, 1, 1, 1), grid[row])
        after = copies.drift(before, random, np.zeros(20_000, dtype=np.int64)).ravel()
        assert set(np.unique(after)) <= set(grid)
        share = (after[:, None] == grid).mean(axis=0)
        np.testing.assert_allclose(share, kernel[row], atol=0.015)


def test_the_month_pays_for_its_highest_load_once() -> None:
    market = sample("demand_charge", 30, **SMALL)
    assert isinstance(market.supply, DemandCharge)
    random = build_streams(6, np.arange(30))
    state = core.start(market, random)
    loads, charges = [], np.zeros(market.shape)
    for _ in range(market.num_periods):
        prices = state.list_price
        state, observation, reward, truth = core.step(market, state, prices, random)
        np.testing.assert_array_equal(observation.units, truth.demand)
        charges += (prices - observation.cost) * observation.units - reward
        loads.append(observation.units)
    peak = np.clip(np.max(loads, axis=0), market.supply.contracted, market.supply.most)
    np.testing.assert_allclose(charges, market.supply.charge * (peak - market.supply.contracted), rtol=1e-9)
    assert np.all(charges >= -1e-9)
    assert np.any(charges > 0)


def test_in_the_long_run_habits_make_use_more_elastic() -> None:
    market = sample("habit", responses=("constant_elasticity",), noise="none")
    random = build_streams(0, np.arange(6))
    state = core.start(market, random)
    prices = 1.1 * state.list_price
    first = core.compute_mean_demand(market, state, prices)
    np.testing.assert_allclose(np.log(first / market.volume), -market.demand.elasticity * np.log(1.1))
    for _ in range(800):
        state, _, _, truth = core.step(market, state, prices, random)
    long_run = -market.demand.elasticity / (1.0 - market.memory.strength)
    np.testing.assert_allclose(np.log(truth.mean_demand / market.volume), long_run * np.log(1.1), rtol=1e-4)


def test_shed_load_comes_back_and_saved_load_does_not() -> None:
    market = sample("rebound", noise="none")
    assert isinstance(market.memory, Rebound)
    random = build_streams(0, np.arange(6))
    state = core.start(market, random)
    normal = core.compute_mean_demand(market, state, state.list_price)
    shed_state, _, _, truth = core.step(market, state, 1.2 * state.list_price, random)
    back = core.compute_mean_demand(market, shed_state, state.list_price) - normal
    np.testing.assert_allclose(back, market.memory.recall * (normal - truth.mean_demand))
    assert np.all(back > 0)
    cheap_state, _, _, _ = core.step(market, state, 0.8 * state.list_price, random)
    np.testing.assert_allclose(core.compute_mean_demand(market, cheap_state, state.list_price), normal)


def test_customers_follow_the_cheaper_tariff_slowly() -> None:
    market = sample("rival_tariff", noise="none")
    random = build_streams(0, np.arange(6))
    for factor, sign in ((0.8, 1.0), (1.25, -1.0)):
        state = core.start(market, random)
        first = state.memory
        state, _, _, _ = core.step(market, state, factor * state.list_price, random)
        change = (state.memory - first) / first
        assert np.all(sign * change > 0)
        assert np.all(np.abs(change) < 0.08)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_segments": 0}, "num_segments"),
        ({"noise": "gaussian"}, "noise"),
        ({"responses": ("quadratic",)}, "responses"),
        ({"responses": ()}, "responses"),
        ({"cost_share_range": (0.5, 1.0)}, "cost_share_range"),
        ({"volume_range": (30.0, 20.0)}, "volume_range"),
        ({"elasticity_range": (0.0, 2.0)}, "elasticity_range"),
        ({"block_spread": 0.5}, "block_spread"),
    ],
)
def test_settings_that_make_no_supplier_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(EnergySettings(), **changes)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="nuclear"):
        sample("nuclear")


def test_every_response_can_be_drawn() -> None:
    market = sample("supplier", 60, responses=RESPONSES)
    assert set(np.unique(market.demand.family)) == set(range(len(RESPONSES)))
