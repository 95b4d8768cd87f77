"""Random streams: exact distributions, and draws that depend on their market alone."""

import numpy as np
import pytest
from scipy import stats

from pricing_fm.markets.streams import (
    ARRIVAL,
    BLOCK,
    COST_JUMP,
    COST_MOVE,
    DECISION,
    DEFAULT,
    DEMAND,
    INTERVENTION,
    LIST_PRICE,
    PROMOTION,
    REGIME,
    RELEASE,
    REPORT,
    RIVAL,
    SHOCK,
    SHOW,
    START,
    TAKE,
    ZERO,
    Streams,
    build_streams,
)

# Both sides of every border between ways to draw, grid points, means that are nothing and means that are huge.
BELOW = [np.nextafter(border, 0.0) for border in (8.0, 256.0, 2_048.0)]
MEANS = [0.0, 1e-300, 1e-12, 0.01, 1 / 32, 0.4, 3.0, 8.0, 8.3, 31.99, 100.7, 256.0, 777.7]
BORDER_MEANS = np.array([*MEANS, *BELOW, 2_048.0, 1e6, 1e15])


def test_a_markets_draws_do_not_depend_on_the_markets_beside_it():
    alone = build_streams(3, np.array([7]))
    among = build_streams(3, np.array([1, 5, 7, 9]))
    shape = (70, 2)  # too many elements for the way of a market alone
    np.testing.assert_array_equal(alone.uniform(4, SHOCK, shape)[0], among.uniform(4, SHOCK, shape)[2])
    np.testing.assert_array_equal(alone.normal(4, SHOCK, shape)[0], among.normal(4, SHOCK, shape)[2])
    mean, dispersion = np.geomspace(0.01, 9_000.0, 140), np.where(np.arange(140) % 2, 3.0, np.inf)
    one = alone.counts(4, DEMAND, mean[None], dispersion[None])[0]
    many = among.counts(4, DEMAND, np.tile(mean, (4, 1)), np.tile(dispersion, (4, 1)))
    np.testing.assert_array_equal(one, many[2])
    assert not np.array_equal(many[2], many[3])
    reversed_order = among.select(np.arange(4)[::-1])
    permuted = reversed_order.counts(4, DEMAND, np.tile(mean, (4, 1)), np.tile(dispersion, (4, 1)))
    np.testing.assert_array_equal(many[::-1], permuted)


def test_a_draw_does_not_depend_on_the_means_of_the_other_elements():
    streams = build_streams(5, np.arange(300))
    means = np.tile(BORDER_MEANS, (300, 1))
    together = streams.counts(2, DEMAND, means)
    for element in range(len(BORDER_MEANS)):
        for other in (0.0, 5.0, 90.0, 5_000.0):
            apart = np.full_like(means, other)
            apart[:, element] = BORDER_MEANS[element]
            np.testing.assert_array_equal(streams.counts(2, DEMAND, apart)[:, element], together[:, element])


@pytest.mark.parametrize("dispersion", [None, np.inf, 0.3, 4.0])
def test_a_market_alone_gets_the_counts_of_the_batch_to_the_bit(dispersion):
    random = np.random.default_rng(0)
    batch, alone = build_streams(1, np.arange(3)), build_streams(1, np.array([1]))
    for period in [*range(150), 7, 1_000_000, 3]:
        means = np.exp(random.uniform(-6.0, 6.0, (3, 10, 2)))
        means[:, :, 1] = random.choice(BORDER_MEANS[:-2], (3, 10))
        scatter = None if dispersion is None else np.full(means.shape, dispersion)
        expected = batch.counts(period, DEMAND, means, scatter)[1:2]
        got = alone.counts(np.array([period]), DEMAND, means[1:2], None if scatter is None else scatter[1:2])
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == np.float64
        assert got.shape == (1, 10, 2)


def test_a_market_alone_gets_the_uniforms_normals_and_binomials_of_the_batch_to_the_bit():
    random = np.random.default_rng(0)
    batch, alone = build_streams(1, np.arange(3)), build_streams(1, np.array([1]))
    for period in [*range(150), 7, 1_000_000, 3]:
        assert np.array_equal(alone.uniform(period, SHOCK, (4, 2)), batch.uniform(period, SHOCK, (4, 2))[1:2])
        assert np.array_equal(alone.normal(period, SHOCK, (4, 2)), batch.normal(period, SHOCK, (4, 2))[1:2])
        trials = random.integers(0, 40 if period % 2 else 4_000, (3, 12)).astype(float)
        chance = np.clip(random.uniform(-0.2, 1.2, (3, 12)), 0.0, 1.0)
        if period % 2:
            chance = np.clip(np.round(chance) + random.uniform(-0.2, 0.2, (3, 12)), 0.0, 1.0)
        expected = batch.binomial(period, TAKE, trials, chance)[1:2]
        np.testing.assert_array_equal(alone.binomial(period, TAKE, trials[1:2], chance[1:2]), expected)


def test_what_a_market_prepared_cannot_be_spoiled_by_its_callers():
    streams = build_streams(0, np.array([4]))
    kept = streams.uniform(3, SHOCK, (5,)).copy()
    streams.uniform(3, SHOCK, (5,))[:] = -1.0
    np.testing.assert_array_equal(streams.uniform(3, SHOCK, (5,)), kept)


def test_every_market_can_be_in_a_period_of_its_own():
    streams, periods, mean = build_streams(0, np.arange(6)), np.array([0, 5, 5, 9, 64, 2]), np.full((6, 30), 9.5)
    together = streams.counts(periods, DEMAND, mean)
    for market, period in enumerate(periods):
        alone = streams.select(np.array([market])).counts(int(period), DEMAND, mean[:1])
        np.testing.assert_array_equal(alone[0], together[market])


def test_seeds_periods_purposes_and_rollouts_give_different_draws():
    markets = np.arange(2)
    base = build_streams(0, markets).uniform(1, SHOCK, (100,))
    others = [
        build_streams(1, markets).uniform(1, SHOCK, (100,)),
        build_streams(0, markets).uniform(2, SHOCK, (100,)),
        build_streams(0, markets).uniform(1, DEMAND, (100,)),
        build_streams(0, markets, rollout=1).uniform(1, SHOCK, (100,)),
        base[::-1],
    ]
    for other in others:
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.3
        assert not np.any(base == other)


def test_uniform_and_normal_draws_have_their_distributions():
    streams = build_streams(0, np.arange(200))
    uniform = np.concatenate([streams.uniform(period, SHOCK, (20,)).ravel() for period in range(10)])
    normal = np.concatenate([streams.normal(period, SHOCK, (20,)).ravel() for period in range(10)])
    assert stats.kstest(uniform, "uniform").pvalue > 0.01
    assert stats.kstest(normal, "norm").pvalue > 0.01
    # Neighbouring periods, markets and elements are uncorrelated (two standard errors of 40,000 pairs are 0.01).
    grid = np.stack([streams.normal(period, SHOCK, (20,)) for period in range(10)])
    for a, b in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid[:, :, :-1], grid[:, :, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize(
    "mean", [0.02, 0.3, 1.0, 3.03, 7.99, 8.0, 8.49, 40.7, 120.0, 255.9, 256.0, 1_000.3, 2_047.0, 2_500.0, 1e6]
)
def test_poisson_counts_follow_the_poisson_law(mean):
    counts = build_streams(1, np.arange(400)).counts(0, DEMAND, np.full((400, 500), mean)).ravel()
    _assert_follows(counts, stats.poisson(mean))


def test_poisson_counts_of_a_market_alone_follow_the_poisson_law():
    streams, mean = build_streams(1, np.array([0])), np.full((1, 50), 9.27)
    counts = np.concatenate([streams.counts(period, DEMAND, mean).ravel() for period in range(2_000)])
    _assert_follows(counts, stats.poisson(9.27))


def test_poisson_counts_have_the_mean_and_variance_of_their_means_when_these_are_mixed():
    mean = np.exp(np.random.default_rng(0).uniform(-3.0, 8.5, (1_000, 300)))
    counts = build_streams(4, np.arange(1_000)).counts(0, DEMAND, mean)
    z = ((counts - mean) / np.sqrt(mean)).ravel()
    order = np.argsort(mean.ravel())
    for part in np.array_split(order, 20):
        assert abs(z[part].mean()) < 4.0 / np.sqrt(len(part))
        kurtosis = 3.0 + np.mean(1.0 / mean.ravel()[part])
        assert abs(np.mean(z[part] ** 2) - 1.0) < 4.0 * np.sqrt((kurtosis - 1.0) / len(part))


def test_counts_of_tiny_and_huge_means_are_what_they_must_be():
    streams, shape = build_streams(0, np.arange(100)), (100, 100)
    assert not streams.counts(0, DEMAND, np.zeros(shape)).any()
    assert not streams.counts(0, DEMAND, np.full(shape, 1e-300)).any()
    rare = np.mean([streams.counts(period, DEMAND, np.full(shape, 2e-4)).mean() for period in range(100)])
    assert abs(rare - 2e-4) < 4.0 * np.sqrt(2e-4 / 1e6)
    for mean in (1e9, 1e14):
        z = (streams.counts(0, DEMAND, np.full(shape, mean)) - mean) / np.sqrt(mean)
        assert stats.kstest(z.ravel(), "norm").pvalue > 0.01


def test_nearly_equal_means_meet_nearly_the_same_luck():
    streams, shape = build_streams(0, np.arange(2_000)), (2_000, 10)
    for low, high in ((3.0, 3.1), (7.9, 8.1), (60.0, 62.0), (250.0, 260.0)):
        first, second = (streams.counts(0, DEMAND, np.full(shape, mean)).ravel() for mean in (low, high))
        assert np.corrcoef(first, second)[0, 1] > 0.9


@pytest.mark.parametrize("mean, dispersion", [(0.5, 0.4), (8.0, 2.0), (120.0, 5.0), (30.0, 200.0)])
def test_overdispersed_counts_follow_the_negative_binomial_law(mean, dispersion):
    shape = (400, 300)
    counts = build_streams(2, np.arange(400)).counts(0, DEMAND, np.full(shape, mean), np.full(shape, dispersion))
    _assert_follows(counts.ravel(), stats.nbinom(dispersion, dispersion / (dispersion + mean)))


SMALL_TRIALS = [(1, 0.3), (12, 0.5), (20, 0.97), (19, 0.5), (22, 0.5), (60, 0.3), (60, 0.7)]


@pytest.mark.parametrize("trials, probability", [*SMALL_TRIALS, (1e5, 3e-5), (1e5, 0.02), (1e5, 0.9), (1e9, 0.4)])
def test_binomial_counts_follow_the_binomial_law(trials, probability):
    counts = build_streams(6, np.arange(400)).binomial(0, TAKE, np.full((400, 300), trials), probability).ravel()
    _assert_follows(counts, stats.binom(int(trials), probability))


def test_binomial_counts_of_certain_outcomes_are_certain():
    streams, trials = build_streams(0, np.arange(50)), np.tile([0.0, 1.0, 30.0, 1e5], (50, 1))
    assert not streams.binomial(0, TAKE, trials, 0.0).any()
    np.testing.assert_array_equal(streams.binomial(0, TAKE, trials, 1.0), trials)
    alone = streams.select(np.array([3]))
    np.testing.assert_array_equal(alone.binomial(0, TAKE, trials[3:4], 1.0), trials[3:4])


def test_numbers_that_are_no_means_trials_or_probabilities_are_refused():
    for streams in (build_streams(0, np.arange(2)), build_streams(0, np.array([0]))):
        ones = np.ones((len(streams.keys), 3))
        for bad in (-1.0, np.nan, np.inf):
            with pytest.raises(ValueError, match="mean spans"):
                streams.counts(0, DEMAND, ones * [1.0, bad, 2.0])
            with pytest.raises(ValueError, match="trials span"):
                streams.binomial(0, TAKE, ones * [1.0, bad, 2.0], 0.5)
        for bad in (-1.0, np.nan, 0.0):
            with pytest.raises(ValueError, match="dispersion is"):
                streams.counts(0, DEMAND, ones, ones * [1.0, bad, 2.0])
        for bad in (-0.1, np.nan, 1.1):
            with pytest.raises(ValueError, match="probability spans"):
                streams.binomial(0, TAKE, ones, ones * [0.0, bad, 1.0])
        with pytest.raises(ValueError, match="trials span"):
            streams.binomial(0, TAKE, ones * 1.5, 0.5)
        with pytest.raises(ValueError, match="first axis"):
            streams.counts(0, DEMAND, np.ones((4, 3)))
        with pytest.raises(ValueError, match="first axis"):
            streams.binomial(0, TAKE, np.ones((4, 3)), 0.5)


def test_a_batch_without_elements_draws_nothing():
    for markets in (1, 3):
        streams = build_streams(0, np.arange(markets))
        assert streams.counts(0, DEMAND, np.ones((markets, 0, 2))).shape == (markets, 0, 2)
        assert streams.binomial(0, TAKE, np.ones((markets, 0)), 0.5).shape == (markets, 0)
    assert Streams(np.zeros(0, dtype=np.uint64)).counts(0, ZERO, np.ones((0, 3))).shape == (0, 3)


def test_purposes_are_all_different_and_fit_their_place_in_the_counter():
    purposes = [*(DEMAND, SHOCK, COST_MOVE, COST_JUMP, LIST_PRICE, DECISION, PROMOTION, BLOCK, INTERVENTION, START)]
    purposes += [RIVAL, REGIME, RELEASE, ARRIVAL, ZERO, TAKE, DEFAULT, SHOW, REPORT]
    assert len(set(purposes)) == 19
    assert set(purposes) <= set(range(256))


def test_negative_names_are_refused():
    with pytest.raises(ValueError, match="market_ids is -1"):
        build_streams(0, np.array([0, -1]))
    with pytest.raises(ValueError, match="seed is -3"):
        build_streams(-3, np.array([0]))


def _assert_follows(counts, law):
    """Chi-squared test on cells of about equal probability."""
    edges = np.unique(law.ppf(np.linspace(0.0, 1.0, 30)[1:-1]))
    cells = np.concatenate([[law.cdf(edges[0])], np.diff(law.cdf(edges)), [law.sf(edges[-1])]])
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(cells))
    possible = cells > 0
    assert observed[~possible].sum() == 0
    assert stats.chisquare(observed[possible], cells[possible] * len(counts)).pvalue > 1e-3
