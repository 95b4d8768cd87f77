"""Random streams: exact distributions, and draws that depend on their market alone."""

import numpy as np
import pytest
from scipy import stats

from pricing_fm.markets.streams import DEMAND, SHOCK, build_streams


def test_a_markets_draws_do_not_depend_on_the_markets_beside_it():
    alone = build_streams(3, np.array([7]))
    among = build_streams(3, np.array([1, 5, 7, 9]))
    np.testing.assert_array_equal(alone.uniform(4, SHOCK, (3, 2))[0], among.uniform(4, SHOCK, (3, 2))[2])
    np.testing.assert_array_equal(alone.normal(4, SHOCK, (5,))[0], among.normal(4, SHOCK, (5,))[2])
    mean, dispersion = np.linspace(0.1, 90.0, 40), np.where(np.arange(40) % 2, 3.0, np.inf)
    one = alone.counts(4, DEMAND, mean[None], dispersion[None])[0]
    many = among.counts(4, DEMAND, np.tile(mean, (4, 1)), np.tile(dispersion, (4, 1)))
    np.testing.assert_array_equal(one, many[2])
    assert not np.array_equal(many[2], many[3])


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


@pytest.mark.parametrize("mean", [0.05, 3.0, 9.99, 10.0, 40.0, 2_000.0])
def test_poisson_counts_follow_the_poisson_law(mean):
    counts = build_streams(1, np.arange(400)).counts(0, DEMAND, np.full((400, 100), mean)).ravel()
    _assert_follows(counts, stats.poisson(mean))


@pytest.mark.parametrize("mean, dispersion", [(0.5, 0.4), (8.0, 2.0), (120.0, 5.0)])
def test_overdispersed_counts_follow_the_negative_binomial_law(mean, dispersion):
    shape = (400, 100)
    counts = build_streams(2, np.arange(400)).counts(0, DEMAND, np.full(shape, mean), np.full(shape, dispersion))
    _assert_follows(counts.ravel(), stats.nbinom(dispersion, dispersion / (dispersion + mean)))


def test_negative_names_are_refused():
    with pytest.raises(ValueError, match="market_ids is -1"):
        build_streams(0, np.array([0, -1]))
    with pytest.raises(ValueError, match="seed is -3"):
        build_streams(-3, np.array([0]))


def _assert_follows(counts, law):
    """Chi-squared test on cells that hold at least 20 expected counts each."""
    edges = np.unique(law.ppf(np.linspace(0.0, 1.0, 30)[1:-1]))
    cells = np.concatenate([[law.cdf(edges[0])], np.diff(law.cdf(edges)), [law.sf(edges[-1])]])
    observed = np.bincount(np.searchsorted(edges, counts), minlength=len(cells))
    assert stats.chisquare(observed, cells * len(counts)).pvalue > 1e-3
