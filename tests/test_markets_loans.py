"""Loans: every family's truth, its known optimum, and what its dynamic program promises and keeps."""

from dataclasses import fields, replace

import numpy as np
import pytest

from pricing_fm.markets import core
from pricing_fm.markets.customer_base import CustomerBase
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.domains.loans import LOANS, LOANS_FAMILIES, LoansSettings, sample_loans
from pricing_fm.markets.dynamic_program import DynamicProgram, build_price_ladder, solve_dynamic_program
from pricing_fm.markets.loan_parts import LoanPayoff, ReferenceOdds
from pricing_fm.markets.noise import NOISES
from pricing_fm.markets.oracles import loan_rate
from pricing_fm.markets.parts import Part
from pricing_fm.markets.streams import build_streams

DYNAMIC = ("lending_budget", "rival_rates", "loyalty", "rate_memory", "funding_regimes")
FORESIGHT_PAYS = ("lending_budget", "rival_rates", "loyalty")


def sample(family: str, count: int = 6, seed: int = 5, **changes: object) -> core.Market:
    return sample_loans(replace(LoansSettings(), **changes), family, np.arange(count), seed)


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


def solve(family: str, where: tuple[int, int, int] = (0, 0, 0), rungs: int = 31) -> DynamicProgram:
    market = take_item(sample(family), where)
    return solve_dynamic_program(market, build_price_ladder(market, rungs), 121)


def compute_expected(market: core.Market, rates: np.ndarray) -> np.ndarray:
    """Expected reward of the first period at each of many rates, one-item market."""
    rows = np.zeros(len(rates), dtype=int)
    copies = market.select(rows)
    state = core.start(market, build_streams(0, np.zeros(1, dtype=int))).select(rows)
    prices = rates[:, None, None]
    mean = core.compute_mean_demand(copies, state, prices)
    return copies.payoff.compute_reward(mean, prices, core.get_unit_cost(copies, state), mean)[:, 0, 0]


def ask_oracle(market: core.Market, where: tuple[int, ...], funds: float) -> dict[str, float]:
    demand, payoff = market.demand, market.payoff
    return loan_rate(
        utility=float(demand.utility[where]),
        rate_sensitivity=float(demand.sensitivity[where]),
        default_probability=float(payoff.default_probability[where]),
        default_rate_slope=float(payoff.default_slope[where]),
        loss_given_default=float(payoff.loss_given_default[where]),
        cost_of_funds=funds,
    )


def test_loans_are_a_domain_with_every_family_described() -> None:
    assert DOMAINS["loans"] is LOANS
    assert len(LOANS.families) >= 6
    for word in ("State", "Action", "Reward", "Dynamics", "Constraints", "Standard baselines", *LOANS.families):
        assert word in LOANS.description


@pytest.mark.parametrize("family", LOANS_FAMILIES)
def test_a_lender_is_the_same_in_any_company(family: str) -> None:
    together = sample(family, 5)
    alone = sample_loans(LoansSettings(), family, np.array([3]), 5)
    other = sample_loans(LoansSettings(), family, np.array([3]), 6)
    pairs = list(zip(list_arrays(together.select(np.array([3]))), list_arrays(alone), strict=True))
    assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)
    assert any(not np.array_equal(mine, theirs) for mine, theirs in zip(*map(list_arrays, (alone, other)), strict=True))
    assert not np.array_equal(together.list_price[0], together.list_price[1])


@pytest.mark.parametrize("family", LOANS_FAMILIES)
def test_rates_risks_and_take_up_are_plausible(family: str) -> None:
    market = sample(family, 200)
    payoff = market.payoff
    assert isinstance(payoff, LoanPayoff)
    assert market.shape == (200, 2, 3)
    assert np.all((market.list_price > 0.02) & (market.list_price < 0.6))
    np.testing.assert_allclose(market.list_price / 0.0001, np.round(market.list_price / 0.0001), atol=1e-6)
    default = payoff.compute_default_probability(market.list_price)
    assert np.all((default > 0.002) & (default < 0.3))
    assert np.all(np.diff(default.mean(axis=(0, 1))) > 0), "later tiers must be riskier"
    margin = (1 - default) * market.list_price - default * payoff.loss_given_default - market.costs.unit_cost
    assert np.all(margin > 0)
    state = core.start(market, build_streams(0, np.arange(200)))
    mean = core.compute_mean_demand(market, state, state.list_price)
    assert np.all((mean > 0.1) & (mean < 1_000))


@pytest.mark.parametrize("family", LOANS_FAMILIES)
def test_without_noise_demand_is_its_mean_and_reward_its_expectation(family: str) -> None:
    market = sample(family, 20, noise="none")
    random = build_streams(2, np.arange(20))
    state = core.start(market, random)
    rates = state.list_price * 0.97
    _, observation, reward, truth = core.step(market, state, rates, random)
    np.testing.assert_array_equal(truth.demand, truth.mean_demand)
    expected = market.payoff.compute_reward(observation.units, rates, observation.cost, truth.mean_demand)
    np.testing.assert_array_equal(reward, expected)
    assert np.all(truth.mean_demand > 0)


@pytest.mark.parametrize("noise", [name for name in NOISES if name != "none"])
def test_every_noise_keeps_mean_demand_and_mean_profit(noise: str) -> None:
    one = take_item(sample("adverse_selection", noise=noise), (1, 0, 2))
    copies = one.select(np.zeros(20_000, dtype=int))
    random = build_streams(4, np.zeros(20_000, dtype=int), np.arange(20_000))
    state = core.start(copies, random)
    rates = state.list_price
    _, _, reward, truth = core.step(copies, state, rates, random)
    mean = truth.mean_demand
    expected = copies.payoff.compute_reward(mean, rates, state.cost, mean)
    for seen, known in ((truth.demand, mean), (reward, expected)):
        error = seen.std(ddof=1) / np.sqrt(seen.size)
        assert error > 0
        assert abs(seen.mean() - known.mean()) < 3.5 * error


def test_defaults_scatter_profit_as_the_binomial_says() -> None:
    market = take_item(sample("adverse_selection"), (2, 1, 2)).select(np.zeros(20_000, dtype=int))
    payoff, rate = market.payoff, market.list_price
    units = np.full(market.shape, 40.0)
    expected = payoff.compute_reward(units, rate, market.costs.unit_cost, units)
    random = build_streams(9, np.zeros(20_000, dtype=int), np.arange(20_000))
    profit = payoff.realize(expected, units, rate, random, np.zeros(20_000, dtype=np.int64))
    default = payoff.compute_default_probability(rate)[0, 0, 0]
    lost = (payoff.loan_size * (rate + payoff.loss_given_default))[0, 0, 0]
    error = profit.std() / np.sqrt(profit.size)
    assert abs(profit.mean() - expected.mean()) < 3.5 * error
    assert profit.std() == pytest.approx(lost * np.sqrt(40 * default * (1 - default)), rel=0.03)


def test_default_probability_stays_between_zero_and_one() -> None:
    one = np.ones((1, 1, 1))
    payoff = LoanPayoff(1000 * one, 0.1 * one, 2.0 * one, 0.5 * one, one.astype(bool))
    rates = np.array([0.1, 0.4, 0.9]).reshape(3, 1, 1)
    np.testing.assert_allclose(payoff.compute_default_probability(rates).ravel(), [0.3, 0.9, 1.0])
    # Half the loans default at 0.2: 1000 x (0.5 x 0.2 - 0.5 x 0.5 - 0.03) each.
    reward = payoff.compute_reward(2 * one, 0.2 * one, 0.03 * one, 2 * one)
    assert reward.item() == pytest.approx(-360.0)


@pytest.mark.parametrize("family", ["take_up", "adverse_selection"])
def test_static_optimum_is_the_closed_form(family: str) -> None:
    market = sample(family, 3)
    for where in np.ndindex(*market.shape):
        one = take_item(market, where)
        rates = np.linspace(0.5, 2.0, 6_001) * one.list_price.item()
        rewards = compute_expected(one, rates)
        funds = one.costs.unit_cost.item()
        known = ask_oracle(market, where, funds)
        assert rates[0] < known["rate"] < rates[-1]
        assert rates[rewards.argmax()] == pytest.approx(known["rate"], rel=1e-3)
        scale = one.volume.item() * one.payoff.loan_size.item()
        assert rewards.max() == pytest.approx(known["profit"] * scale, rel=1e-6)
        assert known["break_even_rate"] < one.list_price.item()


def test_lenders_who_ignore_adverse_selection_ask_too_much() -> None:
    market = sample("adverse_selection")
    naive = replace(
        market,
        payoff=replace(
            market.payoff,
            default_probability=market.payoff.compute_default_probability(market.list_price),
            default_slope=np.zeros(market.shape),
        ),
    )
    for where in np.ndindex(2, 2, 3):
        funds = float(market.costs.unit_cost[where])
        assert ask_oracle(market, where, funds)["rate"] < ask_oracle(naive, where, funds)["rate"]


def test_profit_is_proportional_to_the_amount_lent() -> None:
    for family in LOANS_FAMILIES:
        market = sample(family)
        large = replace(market, payoff=replace(market.payoff, loan_size=100.0 * market.payoff.loan_size))
        rewards = []
        for one in (market, large):
            random = build_streams(3, np.arange(6))
            state = core.start(one, random)
            for _ in range(3):
                state, _, reward, _ = core.step(one, state, 1.03 * state.list_price, random)
            rewards.append(reward)
        np.testing.assert_allclose(rewards[1], 100.0 * rewards[0], rtol=1e-10)
        assert np.any(rewards[0] != 0)


def test_each_funding_regime_has_the_closed_form_of_its_cost() -> None:
    market = sample("funding_regimes")
    program = solve("funding_regimes", rungs=201)
    factors = market.regimes.cost_factor[0, 0, 0]
    funds = float(market.costs.unit_cost[0, 0, 0])
    for regime, factor in enumerate(factors):
        known = ask_oracle(market, (0, 0, 0), funds * factor)["rate"]
        chosen = program.ladder[program.choices[0, regime], 0, 0]
        assert chosen == pytest.approx(known, rel=0.01)
    assert factors[0] < 1 < factors[2]
    assert program.constant_value < program.value
    assert program.myopic_value == pytest.approx(program.value, rel=1e-12)


def test_regime_probabilities_sum_to_one_and_the_first_regime_is_the_normal_one() -> None:
    market = sample("funding_regimes", 50)
    np.testing.assert_allclose(market.regimes.transition.sum(axis=-1), 1.0)
    assert np.all(market.regimes.transition >= 0)
    assert np.all(core.start(market, build_streams(0, np.arange(50))).regime == 1)


def test_hidden_shocks_and_seasons_move_the_lenders_demand_but_not_the_best_rate() -> None:
    market = sample("lender", 40)
    random = build_streams(8, np.arange(40))
    state = core.start(market, random)
    quiet = state._replace(shock=np.zeros_like(state.shock))
    rate = 1.1 * state.list_price
    ratio = core.compute_mean_demand(market, state, rate) / core.compute_mean_demand(market, quiet, rate)
    again = core.compute_mean_demand(market, state, 0.9 * rate) / core.compute_mean_demand(market, quiet, 0.9 * rate)
    assert ratio.std() > 0.03
    np.testing.assert_allclose(ratio, again)


def test_the_lenders_value_is_that_of_each_regimes_closed_form_weighted_by_its_chance() -> None:
    market = take_item(sample("lender"))
    factors = market.regimes.cost_factor[0, 0, 0]
    known = [ask_oracle(market, (0, 0, 0), market.costs.unit_cost.item() * factor) for factor in factors]
    profit = np.array([one["profit"] for one in known]) * market.volume.item() * market.payoff.loan_size.item()
    chance, value = np.array([0.0, 1.0, 0.0]), 0.0
    for period in range(market.num_periods):
        season = np.exp(market.calendar.compute_log_factor(np.array([period]))).item()
        value += season * float(chance @ (profit * market.regimes.volume_factor[0, 0, 0]))
        chance = chance @ market.regimes.transition[0, 0, 0]
    rates = np.array([one["rate"] for one in known]).reshape(3, 1, 1)
    total = simulate(market, lambda state: rates[state.regime], 600)
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert abs(total.mean() - value) < 3 * error
    assert error < 0.03 * value


@pytest.mark.parametrize("family", DYNAMIC)
def test_simulated_value_of_the_dynamic_programs_policy_is_its_value(family: str) -> None:
    program = solve(family, (1, 1, 1))
    total = simulate(program.market, program.choose, 600)
    error = total.std(ddof=1) / np.sqrt(len(total))
    assert abs(total.mean() - program.value) < 3 * error
    assert error < 0.05 * program.value
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


def test_a_lending_allowance_is_worth_more_and_ever_less_more() -> None:
    program = solve("lending_budget")
    value = program.values[0]
    steps = np.diff(value)
    assert np.all(steps > 0)
    assert np.all(np.diff(steps) < 1e-6 * value.max())
    # The fluid bound: the best margin at the rate that sells the allowance evenly, or at the unconstrained optimum.
    one = program.market
    rates = np.linspace(0.5, 2.0, 4_001) * one.list_price.item()
    profit = compute_expected(one, rates) * one.num_periods
    sold = one.volume.item() * one.demand.respond(rates[:, None, None], None)[:, 0, 0] * one.num_periods
    feasible = sold <= one.supply.units.item()
    bound = profit[feasible].max()
    assert 0.8 * bound < program.value <= bound * (1 + 1e-6)


def test_high_rates_shrink_the_customer_base_and_low_rates_win_it_back() -> None:
    market = take_item(sample("loyalty"))
    base = market.memory
    assert isinstance(base, CustomerBase)
    level, period = base.start(market.list_price), np.zeros(1, dtype=np.int64)
    steady = base.advance(level, level[..., 0], level[..., 0], market.list_price, period)
    np.testing.assert_allclose(steady, level)
    grid = base.build_grid(market.list_price, market.price_bounds, 11)[0]
    for factor, limit in ((2.0, grid[0]), (0.5, grid[-1])):
        state = level
        for _ in range(2_000):
            state = base.advance(state, level[..., 0], level[..., 0], factor * market.list_price, period)
            assert grid[0] - 1e-12 <= state.item() <= grid[-1] + 1e-12
        assert state.item() == pytest.approx(limit)
    assert grid[0] < level.item() < grid[-1]


def test_no_more_loans_are_taken_than_applied_for() -> None:
    market = sample("rate_memory", 100)
    assert isinstance(market.memory, ReferenceOdds)
    state = core.start(market, build_streams(0, np.arange(100)))
    plain = core.compute_mean_demand(replace(market, memory=None), state, 0.5 * state.list_price)
    mean = core.compute_mean_demand(market, state, 0.5 * state.list_price)
    assert np.all((mean > plain) & (mean < market.volume))
    dear = 1.5 * state.list_price
    assert np.all(
        core.compute_mean_demand(market, state, dear)
        < core.compute_mean_demand(replace(market, memory=None), state, dear)
    )


@pytest.mark.parametrize("family", ["rival_rates", "loyalty", "rate_memory", "adverse_selection"])
def test_at_list_rates_every_lender_makes_as_many_loans_as_the_plain_one(family: str) -> None:
    loans = []
    for name in ("take_up", family):
        market = sample(name)
        state = core.start(market, build_streams(0, np.arange(6)))
        loans.append(core.compute_mean_demand(market, state, state.list_price))
    np.testing.assert_allclose(loans[1], loans[0], rtol=1e-9)


def test_a_dearer_rival_brings_applicants() -> None:
    market = sample("rival_rates")
    state = core.start(market, build_streams(0, np.arange(6)))
    dearer = state._replace(rivals=1.2 * state.rivals)
    rate = state.list_price
    assert np.all(core.compute_mean_demand(market, dearer, rate) > core.compute_mean_demand(market, state, rate))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_products": 0}, "num_products"),
        ({"noise": "gaussian"}, "noise"),
        ({"take_up_range": (0.2, 1.0)}, "take_up_range"),
        ({"default_range": (0.02, 0.01)}, "default_range"),
        ({"loss_range": (-0.1, 0.5)}, "loss_range"),
        ({"funds_range": (-0.01, 0.05)}, "funds_range"),
        ({"price_tick": 0.0}, "price_tick"),
    ],
)
def test_settings_that_make_no_lender_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(LoansSettings(), **changes)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="mortgage"):
        sample("mortgage")
