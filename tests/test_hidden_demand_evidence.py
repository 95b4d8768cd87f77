"""The hidden-demand model that the network reads: it sees through followed demand, and is safe at the edges."""

from dataclasses import replace

import numpy as np
import pytest

from pricing_fm.models.hidden_demand_evidence import (
    NUM_HIDDEN_DEMAND_EVIDENCE,
    SalesRecord,
    hidden_demand_evidence,
)

ITEMS, PERIODS = 300, 104
LADDER = np.log([0.8, 0.85, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2])


def simulate(confounding: float, stock: float = np.inf) -> tuple[np.ndarray, SalesRecord]:
    """Elasticities, and the record of items whose price rungs are drawn by a copula with hidden demand that lasts."""
    random = np.random.default_rng(3)
    elasticity = random.uniform(0.5, 4.5, ITEMS)
    shock = np.zeros((ITEMS, PERIODS))
    shock[:, 0] = random.standard_normal(ITEMS)
    for period in range(1, PERIODS):
        shock[:, period] = 0.7 * shock[:, period - 1] + np.sqrt(1 - 0.49) * random.standard_normal(ITEMS)
    wish = confounding * shock + np.sqrt(1 - confounding**2) * random.standard_normal(shock.shape)
    ranks = wish.argsort(1).argsort(1)
    log_prices = LADDER[ranks * len(LADDER) // PERIODS]
    demand = random.poisson(30 * np.exp(0.35 * shock - elasticity[:, None] * log_prices)).astype(float)
    nothing = np.zeros(shock.shape, dtype=bool)
    units = np.minimum(demand, np.ceil(stock))
    return elasticity, SalesRecord(
        units, log_prices, np.zeros_like(demand), ~nothing, units >= np.ceil(stock), nothing.copy()
    )


def read(record: SalesRecord) -> np.ndarray:
    found = hidden_demand_evidence(record)
    assert found.shape == (len(record.units), NUM_HIDDEN_DEMAND_EVIDENCE)
    return found


@pytest.mark.parametrize("confounding", [-0.8, 0.8])
def test_prices_that_follow_demand_are_seen_through(confounding: float) -> None:
    elasticity, record = simulate(confounding)
    found = read(record)
    full, naive = (np.abs(-3 * found[:, column] - elasticity).mean() for column in (0, 5))
    assert full < 0.75 * naive
    assert np.sign(found[:, 2].mean()) == np.sign(confounding)
    assert np.abs(found[:, 2]).mean() > 0.4
    falling, rising = found[:, 9].mean(), found[:, 10].mean()
    assert (falling > rising) == (confounding < 0)


def test_where_prices_follow_nothing_both_models_agree() -> None:
    elasticity, record = simulate(0.0)
    found = read(record)
    assert abs(found[:, 2].mean()) < 0.1
    assert np.abs(-3 * found[:, 0] - elasticity).mean() < 0.5
    assert np.abs(found[:, 0] - found[:, 5]).mean() < 0.1


def test_prices_drawn_at_random_are_taken_for_it() -> None:
    """Marked as random, the same log says nothing of a confounding."""
    _, record = simulate(0.8)
    marked = read(replace(record, randomized=np.ones_like(record.randomized)))
    assert np.abs(marked[:, 2]).max() < 1e-3
    np.testing.assert_allclose(marked[:, 9:], 0.0, atol=1e-3)


def test_sold_out_periods_count_as_that_much_or_more() -> None:
    elasticity, record = simulate(0.0, stock=35.0)
    assert 0.3 < record.sold_out.mean() < 0.7
    censored = np.abs(-3 * read(record)[:, 0] - elasticity).mean()
    as_sales = np.abs(-3 * read(replace(record, sold_out=np.zeros_like(record.sold_out)))[:, 0] - elasticity).mean()
    assert censored < 0.8 * as_sales


def test_units_of_any_size_and_unseen_periods_are_safe() -> None:
    _, record = simulate(0.4)
    found = read(record)
    for factor in (1e-3, 1e6):
        assert np.isfinite(read(replace(record, units=record.units * factor))).all()
    unseen = record.seen.copy()
    unseen[0], unseen[1, :50] = False, False
    blank = np.where(unseen, record.units, np.nan)
    partly = read(replace(record, seen=unseen, units=blank, log_prices=np.where(unseen, record.log_prices, np.nan)))
    assert np.isnan(partly[0]).all()
    assert np.isfinite(partly[1:]).all()
    np.testing.assert_allclose(partly[2:], found[2:], atol=1e-4)


def test_an_item_says_the_same_alone_and_among_others() -> None:
    _, record = simulate(0.4)
    few = SalesRecord(*(getattr(record, name)[:3] for name in vars(record)))
    np.testing.assert_allclose(read(few), read(record)[:3], atol=1e-4)


def test_without_price_moves_the_slope_is_unknown_and_no_confounding_is_claimed() -> None:
    _, record = simulate(0.0)
    found = read(replace(record, log_prices=np.zeros_like(record.log_prices)))
    assert np.abs(found[:, 2]).max() < 1e-3
    assert found[:, 0].std() < 1e-3
