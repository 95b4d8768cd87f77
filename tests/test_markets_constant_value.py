"""What the best prices that never change are worth: every item's own, exactly or on the same luck as the oracle."""

from dataclasses import replace

import numpy as np
import pytest

import pricing_fm.markets as markets
from pricing_fm.markets.constant_prices import build_constant_ladder, find_constant_prices
from pricing_fm.markets.context import Calendar, HiddenShock, Regimes
from pricing_fm.markets.core import Market, start
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.fluid import compute_fluid_bound
from pricing_fm.markets.one_period import compute_expected_reward, compute_joint_optimum, search_line
from pricing_fm.markets.simulation import simulate_items, simulate_policy
from pricing_fm.markets.solutions import DYNAMIC_PROGRAM, FLUID, ONE_PERIOD, RELAXED, MarketSolution, solve_market
from pricing_fm.markets.streams import build_streams

ROLLOUTS = 150


def sample(domain: str, family: str, seed: int = 0, **settings: object) -> Market:
    described = DOMAINS[domain]
    return described.sample(described.settings(**settings), family, np.array([seed]), 0)


def expect(market: Market, prices: np.ndarray) -> float:
    """Expected reward of an episode at constant prices, period by period and regime by regime, nothing limiting sales.

    Without the shock, whose mean is one, and with regimes by powers of their matrix.
    """
    still = replace(market, shock=None)
    first = start(still, build_streams(0, np.zeros(1, dtype=int)))
    total = 0.0
    for period in range(market.num_periods):
        chances = np.ones(1)
        if market.regimes is not None:
            chances = np.linalg.matrix_power(market.regimes.transition[0, 0, 0], period)[int(first.regime[0])]
        for regime, chance in enumerate(chances):
            here = first._replace(period=np.array([period]))
            if market.regimes is not None:
                here = here._replace(regime=np.array([regime]))
            total += chance * float(compute_expected_reward(still, here, prices[None]).sum())
    return total


def charge(market: Market, prices: np.ndarray, rollouts: int, seed: int = 0) -> float:
    """Simulated reward of an episode at constant prices."""
    return simulate_policy(
        market, lambda state: np.broadcast_to(prices, (len(state.period), *prices.shape)), rollouts, seed
    ).mean


SOLVED: dict[tuple[str, str, int], MarketSolution] = {}


def solve(domain: str, family: str, seed: int = 0) -> MarketSolution:
    key = (domain, family, seed)
    if key not in SOLVED:
        settings = {"num_products": 3} if domain == "retail" else {}
        SOLVED[key] = solve_market(sample(domain, family, seed, **settings), num_rollouts=ROLLOUTS)
    return SOLVED[key]


EXACT = (("retail", "lifecycle"), ("loans", "lender"), ("loans", "funding_regimes"), ("energy", "supplier"))
SIMULATED = (("retail", "shop"), ("retail", "logit_stock"))


@pytest.mark.parametrize("domain, family", EXACT)
def test_a_price_of_its_own_for_every_item_beats_any_common_multiple_of_the_list_prices(
    domain: str, family: str
) -> None:
    gains = []
    for seed in range(3):
        solution = solve(domain, family, seed)
        common = max(expect(solution.market, prices) for prices in build_constant_ladder(solution.market, 31))
        assert solution.constant_value == pytest.approx(expect(solution.market, solution.constant_prices), rel=1e-9)
        assert solution.constant_value >= common
        gains.append(solution.constant_value / common - 1.0)
    assert max(gains) > 0.01


@pytest.mark.parametrize("domain, family", SIMULATED)
def test_simulated_constant_prices_beat_any_common_multiple_on_the_same_luck(domain: str, family: str) -> None:
    gains = []
    for seed in range(2):
        solution = solve(domain, family, seed)
        common = max(charge(solution.market, one, ROLLOUTS) for one in build_constant_ladder(solution.market, 16))
        assert solution.constant_value == pytest.approx(charge(solution.market, solution.constant_prices, ROLLOUTS))
        assert solution.constant_value >= common * (1 - 1e-12)
        assert solution.constant_standard_error > 0.0
        gains.append(solution.constant_value / common - 1.0)
    assert max(gains) > 0.005


@pytest.mark.parametrize("domain, family", [*EXACT, *SIMULATED, ("energy", "time_of_use"), ("energy", "peak_capacity")])
def test_constant_prices_earn_at_most_the_oracle_and_that_at_most_the_bound(domain: str, family: str) -> None:
    for seed in range(2):
        solution = solve(domain, family, seed)
        assert solution.constant_value <= solution.value * (1 + 1e-12)
        assert solution.myopic_value <= solution.value * (1 + 1e-12)
        assert solution.value <= solution.upper_bound + 4.0 * solution.standard_error


def test_methods_and_errors_of_simulated_and_exact_values() -> None:
    assert solve("loans", "lender").method == solve("energy", "supplier").method == ONE_PERIOD
    assert solve("loans", "lender").standard_error == solve("loans", "lender").constant_standard_error == 0.0
    assert solve("retail", "shop").method == RELAXED
    assert solve("retail", "logit_stock").method == FLUID
    assert solve("retail", "shop").constant_standard_error > 0.0


@pytest.mark.parametrize("domain, family", [("loans", "lender"), ("energy", "supplier")])
def test_values_with_regimes_season_and_shocks_are_what_simulation_finds(domain: str, family: str) -> None:
    solution = solve(domain, family)
    assert solution.market.shock is not None
    assert solution.market.regimes is not None
    run = simulate_policy(solution.market, solution.choose, 600, seed=3)
    assert abs(run.score(solution.value)) < 4.0
    assert run.standard_error < 0.03 * solution.value
    prices = solution.constant_prices
    steady = simulate_policy(solution.market, lambda state: np.broadcast_to(prices, (600, *prices.shape)), 600, seed=3)
    assert abs(steady.score(solution.constant_value)) < 4.0


def test_a_small_market_with_regimes_and_a_season_agrees_with_brute_force() -> None:
    market = replace(sample("energy", "supplier", 1, num_products=1, num_segments=1), num_periods=5)
    solution = solve_market(market)
    ladder = np.geomspace(0.5, 2.0, 801)[:, None, None] * market.list_price[0]
    earned = [expect(market, prices) for prices in ladder]
    best = int(np.argmax(earned))
    assert earned[best] <= solution.constant_value <= earned[best] * (1 + 1e-5)
    np.testing.assert_allclose(solution.constant_prices, ladder[best], rtol=2e-3)
    # The oracle takes the best price of every regime, whichever the period, for a season changes no single price.
    regimes = market.regimes
    assert regimes is not None
    by_regime = 0.0
    for regime in range(regimes.count):
        by_period = np.zeros(len(ladder))
        for period in range(5):
            chance = np.linalg.matrix_power(regimes.transition[0, 0, 0], period)[_first_regime(market), regime]
            state = start(market, build_streams(0, np.zeros(1, dtype=int)))
            state = state._replace(period=np.array([period]), regime=np.array([regime]))
            quiet = replace(market, shock=None)
            by_period += [chance * float(compute_expected_reward(quiet, state, one[None]).sum()) for one in ladder]
        by_regime += by_period.max()
    assert solution.value == pytest.approx(by_regime, rel=1e-5)


def _first_regime(market: Market) -> int:
    return int(start(market, build_streams(0, np.zeros(1, dtype=int))).regime[0])


def two_products_with_seasons_of_their_own() -> Market:
    market = replace(sample("retail", "substitution", 2, num_products=2), num_periods=6)
    zeros = np.zeros((1, 2, 1))
    profile = np.array([[[0.0, 1.5, 0.0, -1.0, 0.5, 0.0]], [[1.0, -1.5, 0.5, 0.0, 0.0, 2.0]]])[None]
    return replace(market, calendar=Calendar(zeros, zeros, zeros, 6.0, profile))


def test_two_coupled_items_with_seasons_of_their_own_agree_with_brute_force() -> None:
    market = two_products_with_seasons_of_their_own()
    solution = solve_market(market)
    each = np.geomspace(0.5, 2.0, 41)
    grid = np.array([(one, other) for one in each for other in each])[:, :, None] * market.list_price[0]
    best = max(expect(market, prices) for prices in grid)
    assert best <= solution.constant_value <= best * 1.005
    assert solution.constant_value == pytest.approx(expect(market, solution.constant_prices), rel=1e-9)
    # Seasons of their own make the best prices of a period differ from those of the next.
    assert solution.constant_value < solution.value * 0.999
    assert isinstance(solution.plan, np.ndarray)
    for row in solution.plan[:, 0]:
        assert expect(market, row) <= solution.constant_value


def test_coupled_items_with_regimes_have_prices_for_every_regime() -> None:
    market = sample("retail", "substitution", 0, num_products=2)
    ones = np.ones((1, 1, 1))
    transition = np.array([[0.9, 0.1], [0.3, 0.7]])[None, None, None]
    factors = (np.stack([ones, 1.5 * ones], axis=-1), np.stack([ones, 1.4 * ones], axis=-1))
    solution = solve_market(replace(market, regimes=Regimes(transition, *factors)))
    assert solution.method == ONE_PERIOD
    assert isinstance(solution.plan, np.ndarray)
    assert solution.plan.shape == (market.num_periods, 2, 2, 1)
    run = simulate_policy(solution.market, solution.choose, 400, seed=7)
    assert abs(run.score(solution.value)) < 4.0
    assert solution.constant_value < solution.value == pytest.approx(solution.upper_bound, rel=1e-6)


def test_constant_prices_of_two_coupled_items_on_one_stock_agree_with_brute_force() -> None:
    market = replace(sample("retail", "logit_stock", 0, num_products=2), num_periods=8)
    solution = solve_market(market, num_rollouts=60)
    assert solution.method == FLUID
    each = np.geomspace(0.5, 4.0, 19)
    grid = np.array([(one, other) for one in each for other in each])[:, :, None] * market.list_price[0]
    best = max(charge(market, prices, 60) for prices in grid)
    assert best * (1 - 1e-12) <= solution.constant_value
    assert solution.constant_value >= charge(market, compute_fluid_bound(market).prices[0], 60)
    assert solution.value >= solution.constant_value


def test_shop_prices_that_never_change_agree_with_brute_force_item_by_item() -> None:
    market = replace(sample("retail", "shop", 3, num_products=2, reference_share=0.0), num_periods=10)
    solution = solve_market(market, num_rollouts=80)
    ladder = build_constant_ladder(market, 201)

    def earn(prices: np.ndarray) -> np.ndarray:
        return simulate_items(market, lambda state: np.broadcast_to(prices, (80, *prices.shape)), 80).mean(axis=0)

    best = np.max([earn(prices) for prices in ladder], axis=0).sum()
    assert solution.constant_value == pytest.approx(best, rel=2e-3)


def test_constant_prices_of_a_dynamic_program_are_the_rungs_of_every_item() -> None:
    solution = solve_market(sample("retail", "perishable", 0, num_products=2), rungs=15, grid_points=21)
    assert solution.method == DYNAMIC_PROGRAM
    assert solution.constant_prices.shape == (2, 1)
    assert solution.constant_prices[0, 0] != solution.constant_prices[1, 0]
    run = charge(solution.market, solution.constant_prices, 1_500)
    assert run == pytest.approx(solution.constant_value, rel=0.02)


def test_the_charge_on_peak_loads_is_bounded_by_its_tangent() -> None:
    random = np.random.default_rng(0)
    for seed in range(4):
        market = sample("energy", "peak_capacity", seed)
        state = start(market, build_streams(0, np.zeros(1, dtype=int)))
        best = compute_joint_optimum(market, state)
        assert best.reward <= best.bound < 1.05 * best.reward
        prices = random.uniform(0.5, 1.8, (2_000, *market.shape[1:])) * market.list_price[0]
        rows = np.zeros(len(prices), dtype=int)
        rewards = compute_expected_reward(market.select(rows), state.select(rows), prices).sum(axis=(1, 2))
        assert rewards.max() <= best.reward * (1 + 1e-9)


def test_the_line_search_finds_the_highest_of_several_peaks_of_every_item() -> None:
    peaks = np.array([2.0, 5.0, 9.0])

    def earn(prices: np.ndarray) -> np.ndarray:
        return np.exp(-20.0 * (np.log(prices / peaks)) ** 2) + 0.5 * np.exp(-20.0 * np.log(prices / 4.0) ** 2)

    low, high = np.full(3, 1.0), np.full(3, 10.0)
    prices, rewards = search_line(earn, (low, high), 40, 1e-8)
    dense = np.geomspace(low, high, 200_001)
    values = earn(dense)
    np.testing.assert_allclose(prices, np.take_along_axis(dense, values.argmax(axis=0)[None], 0)[0], rtol=1e-4)
    assert np.all(rewards >= values.max(axis=0) * (1 - 1e-12))


def test_candidates_are_never_left_out_and_stay_inside_the_bounds() -> None:
    market = sample("retail", "lifecycle", 0, num_products=2)
    spike = 1.7321 * market.list_price[0]

    def earn(prices: np.ndarray) -> np.ndarray:
        return np.isclose(prices, spike, rtol=1e-9).astype(float) - np.abs(np.log(prices / market.list_price[0]))

    np.testing.assert_allclose(find_constant_prices(market, earn, [spike]), spike)
    np.testing.assert_allclose(
        find_constant_prices(market, lambda prices: prices, [100.0 * spike]), 2.0 * market.list_price[0]
    )
    with pytest.raises(ValueError, match="one by one"):
        find_constant_prices(market.select(np.zeros(2, dtype=int)), earn, [])


def test_coupled_items_with_hidden_shocks_are_refused() -> None:
    market = sample("retail", "substitution", 0, num_products=2)
    shock = HiddenShock(np.full((1, 1, 1), 0.2), np.full((1, 1, 1), 0.5), np.zeros((1, 1, 1)))
    with pytest.raises(ValueError, match="no bound is known"):
        solve_market(replace(market, shock=shock))


def test_the_oracle_of_a_market_is_exported() -> None:
    assert markets.solve_market is solve_market
    assert markets.MarketSolution is MarketSolution
