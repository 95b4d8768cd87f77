"""Queue and estimation oracles against brute force: stationary distributions, simulation and likelihoods."""

from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from pricing_fm.markets import oracles

SEEDS = range(10)


def _stationary(arrivals, departures):
    """Stationary law of a birth-death chain, `arrivals[n]` from n to n + 1 and `departures[n]` from n + 1 to n."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(arrivals) - np.log(departures))])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


@pytest.mark.parametrize(
    "servers, scale, top, rate",
    [(5, 10, 10, 1), (1, 3, 2, 0.5), (8, 2, 7, 1), (20, 100, 3, 2), (60, 5, 1, 1), (60, 400, 9, 1)],
)
def test_loss_system_prices_are_optimal(servers, scale, top, rate):
    answer = oracles.loss_system_prices(servers, scale, top, rate)
    departures = rate * np.arange(1, servers + 1)

    def revenue(prices):
        arrivals = scale * (1 - prices / top)
        law = _stationary(arrivals, departures)
        return float((law[:-1] * arrivals * prices).sum())

    dynamic = np.array(answer["dynamic_prices"])
    assert revenue(dynamic) == pytest.approx(answer["dynamic_revenue"], rel=1e-9)
    grid = np.linspace(0.001 * top, 0.999 * top, 4_001)
    static = [revenue(np.full(servers, price)) for price in grid]
    assert answer["static_revenue"] == pytest.approx(max(static), rel=1e-6)
    assert answer["static_revenue"] == pytest.approx(revenue(np.full(servers, answer["static_price"])), rel=1e-9)
    half = _stationary(np.full(servers, scale / 2), departures)
    assert answer["blocking"] == pytest.approx(half[-1], rel=1e-9, abs=1e-300)
    random = np.random.default_rng(0)
    for _ in range(200):
        moved = np.clip(dynamic + random.normal(0, 0.03 * top, servers), 0.001 * top, 0.999 * top)
        assert revenue(moved) <= answer["dynamic_revenue"] * (1 + 1e-12)
    assert answer["dynamic_revenue"] >= answer["static_revenue"] * (1 - 1e-12)
    assert np.all(np.diff(dynamic) >= -1e-9)


def test_dynamic_loss_prices_satisfy_bellmans_equation():
    """Relative value iteration on a fine price grid, uniformised."""
    servers, scale, top, rate = 4, 6.0, 10.0, 1.0
    answer = oracles.loss_system_prices(servers, scale, top, rate)
    grid = np.linspace(0, top, 2_001)
    arrivals = scale * (1 - grid / top)
    clock = scale + servers * rate
    values = np.zeros(servers + 1)
    for _ in range(2_000):
        new = np.empty_like(values)
        for n in range(servers + 1):
            leave = n * rate * (values[max(n - 1, 0)] - values[n])
            join = (arrivals * (grid + values[n + 1] - values[n])).max() if n < servers else 0.0
            new[n] = values[n] + (join + leave) / clock
        gain = (new - values) * clock
        values = new - new[0]
    assert answer["dynamic_revenue"] == pytest.approx(gain.mean(), rel=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_queue_thresholds_match_the_enumeration_of_all_thresholds(seed):
    random = np.random.default_rng(seed)
    arrival, service = random.uniform(0.1, 3), random.uniform(0.5, 2)
    if seed == 0:
        arrival = service
    reward, waiting = random.uniform(0.5, 30), random.uniform(0.1, 2)
    answer = oracles.queue_tolls(arrival, service, reward, waiting)
    join_alone = int(np.floor(reward * service / waiting))
    assert answer["individual_threshold"] == join_alone
    welfare, revenue = [0.0], [0.0]
    for n in range(1, join_alone + 6):
        law = _stationary(np.full(n, arrival), np.full(n, service))
        served = arrival * (1 - law[-1])
        welfare.append(reward * served - waiting * (law * np.arange(n + 1)).sum())
        revenue.append(served * (reward - waiting * n / service))
    # Where the queue is almost never that long, several thresholds are equal to the last digits.
    assert welfare[answer["social_threshold"]] >= max(welfare) * (1 - 1e-12)
    assert answer["social_welfare"] == pytest.approx(max(welfare), rel=1e-9, abs=1e-12)
    assert revenue[answer["monopoly_threshold"]] >= max(revenue) * (1 - 1e-12)
    assert answer["monopoly_revenue"] == pytest.approx(max(revenue), rel=1e-9, abs=1e-12)
    assert answer["monopoly_threshold"] <= answer["social_threshold"] <= answer["individual_threshold"]
    n = answer["monopoly_threshold"]
    assert answer["monopoly_toll"] == pytest.approx(reward - waiting * n / service)


def test_queues_that_nobody_joins_and_customers_who_do_not_mind():
    nobody = oracles.queue_tolls(0.5, 1.0, 0.4, 1.0)
    assert nobody["individual_threshold"] == nobody["social_threshold"] == nobody["monopoly_threshold"] == 0
    assert nobody["social_welfare"] == nobody["monopoly_revenue"] == 0
    # 0.3 x 10 / 0.1 is 30 customers in exact arithmetic, 29.999... in floating point.
    assert oracles.queue_tolls(0.5, 10.0, 0.3, 0.1)["individual_threshold"] == 30
    # Naor's condition in fractions: the sum over j up to n of (1 - r**j) / (1 - r) is at most reward x mu / cost.
    rare = oracles.queue_tolls(0.01, 1.0, 50.0, 1.0)
    load, total, threshold = Fraction(1, 100), Fraction(0), 0
    while total + (1 - load ** (threshold + 1)) / (1 - load) <= 50:
        threshold += 1
        total += (1 - load**threshold) / (1 - load)
    assert rare["social_threshold"] == threshold
    patient = oracles.queue_tolls(3.0, 1.0, 1e4, 1.0)
    assert patient["individual_threshold"] == 10_000
    assert patient["social_threshold"] < 200


@pytest.mark.parametrize("seed", SEEDS)
def test_priorities_keep_the_conservation_law_and_beat_every_other_order(seed):
    random = np.random.default_rng(seed)
    n = int(random.integers(1, 5))
    service = random.uniform(0.5, 3)
    rates = random.dirichlet(np.ones(n)) * service * random.uniform(0.1, 0.97)
    costs = random.uniform(0, 5, n)
    answer = oracles.priority_waits(rates, service, costs)
    waits, load = np.array(answer["waits"]), rates.sum() / service
    # Work is conserved: the load-weighted mean wait is that of first come, first served.
    assert (rates * waits).sum() / rates.sum() == pytest.approx(load / service / (1 - load))
    assert answer["cost"] == pytest.approx((costs * rates * waits).sum())
    assert answer["first_come_cost"] == pytest.approx((costs * rates).sum() * load / service / (1 - load))
    assert answer["cost"] <= answer["first_come_cost"] * (1 + 1e-12)
    for _ in range(20):
        other = np.array(
            oracles.priority_waits(rates, service, random.permutation(np.arange(1, n + 1)).tolist())["waits"]
        )
        assert answer["cost"] <= (costs * rates * other).sum() * (1 + 1e-12)


def test_priority_waits_match_a_simulated_queue():
    rates, service, costs = [0.25, 0.4], 1.0, [1.0, 4.0]
    random = np.random.default_rng(0)
    jobs = 200_000
    times = np.cumsum(random.exponential(1 / sum(rates), jobs))
    kinds = (random.random(jobs) < rates[1] / sum(rates)).astype(int)
    services = random.exponential(1 / service, jobs)
    waiting: list[list[int]] = [[], []]
    heads, waits, clock, nxt = [0, 0], np.zeros(jobs), 0.0, 0
    for _ in range(jobs):
        if all(heads[k] == len(waiting[k]) for k in (0, 1)):
            clock = max(clock, times[nxt])
        while nxt < jobs and times[nxt] <= clock:
            waiting[kinds[nxt]].append(nxt)
            nxt += 1
        kind = 1 if heads[1] < len(waiting[1]) else 0
        job = waiting[kind][heads[kind]]
        heads[kind] += 1
        waits[job] = clock - times[job]
        clock += services[job]
    answer = oracles.priority_waits(rates, service, costs)["waits"]
    # Batch means of a queue at load 0.65 have a standard error of about 2 %.
    assert [waits[kinds == k].mean() for k in (0, 1)] == pytest.approx(answer, rel=0.08)


@pytest.mark.parametrize("rate, stock", [(10, 8), (0.3, 5), (50, 0), (0, 3), (200, 210)])
def test_censored_sales_match_the_sum_over_demands(rate, stock):
    demand = np.arange(1_000)
    chance = stats.poisson(rate).pmf(demand)
    answer = oracles.censored_poisson_sales(rate, stock)
    assert answer["expected_sales"] == pytest.approx((chance * np.minimum(demand, stock)).sum(), rel=1e-9)
    assert answer["stockout_probability"] == pytest.approx(chance[demand > stock].sum(), abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_censored_rates_maximise_the_likelihood(seed):
    random = np.random.default_rng(seed)
    truth = random.uniform(0.3, 40)
    stock = random.poisson(truth * random.uniform(0.7, 1.3), 40)
    stock[0], stock[1] = 0, 10_000
    sales = np.minimum(random.poisson(truth, 40), stock)
    answer = oracles.censored_poisson_rate(sales.tolist(), stock.tolist())["rate"]
    seen, cut = sales[(sales < stock)], stock[(sales == stock) & (stock > 0)]

    def loss(rate):
        return -(stats.poisson(rate).logpmf(seen).sum() + stats.poisson(rate).logsf(cut - 1).sum())

    best = minimize_scalar(loss, bounds=(1e-3, 200), method="bounded", options={"xatol": 1e-10})
    assert loss(answer) <= best.fun + 1e-9
    assert answer == pytest.approx(best.x, rel=1e-4)


def test_censored_rates_at_the_edges():
    assert oracles.censored_poisson_rate([0, 0], [4, 9])["rate"] == 0
    assert oracles.censored_poisson_rate([3, 5, 4], [9, 9, 9])["rate"] == pytest.approx(4)
    # One period that sold nothing and one that sold out a single unit: 1 = exp(-r) / (1 - exp(-r)).
    assert oracles.censored_poisson_rate([0, 1], [5, 1])["rate"] == pytest.approx(np.log(2))
    heavy = oracles.censored_poisson_rate([500] * 20 + [1], [500] * 20 + [1_000])["rate"]
    assert np.isfinite(heavy)


@pytest.mark.parametrize("seed", SEEDS)
def test_bandit_values_of_the_logging_policy_are_the_sample_mean(seed):
    random = np.random.default_rng(seed)
    rewards, chances = random.normal(size=50), random.uniform(0.1, 1, 50)
    answer = oracles.bandit_value([0] * 50, rewards, chances, chances)
    assert answer["inverse_propensity"] == pytest.approx(rewards.mean())
    assert answer["self_normalized"] == pytest.approx(rewards.mean())
    assert answer["effective_sample_size"] == pytest.approx(50)
    shifted = oracles.bandit_value([0] * 50, rewards + 7, chances, chances[::-1])
    base = oracles.bandit_value([0] * 50, rewards, chances, chances[::-1])
    assert shifted["self_normalized"] == pytest.approx(base["self_normalized"] + 7)
