"""One regression over a category's items finds the elasticity that they share, in sold-out and in common weeks, too."""

import numpy as np
import pytest

from pricing_fm.adapters import regress_category
from pricing_fm.models.channels import IMPUTED, INVENTORY, PRICE, PROMOTIONS, RAW_CHANNELS, UNITS

ITEMS, WEEKS, ELASTICITY = 10, 40, 2.5


def draw_category(
    random: np.random.Generator, cover: float = np.inf, common: float = 0.0, items: int = ITEMS, weeks: int = WEEKS
) -> np.ndarray:
    """Random prices; a stock of so many weeks' mean demand; demand peaks that all items share, followed by prices."""
    past = np.full((items, weeks, len(RAW_CHANNELS)), np.nan)
    peaks = common * random.standard_normal(weeks)
    level = np.exp(random.normal(3.0, 0.8, (items, 1)))
    price = np.exp(random.choice([-0.3, -0.15, 0.0, 0.1], (items, weeks)) - 0.3 * peaks)
    mean = level * np.exp(peaks - ELASTICITY * np.log(price))
    demand = random.negative_binomial(8.0, 8.0 / (8.0 + mean))
    stock = np.ceil(cover * level) if np.isfinite(cover) else np.inf
    past[..., UNITS] = np.minimum(demand, stock)
    past[..., INVENTORY] = np.where(np.isfinite(stock), stock, np.nan)
    past[..., PRICE] = 4.0 * random.uniform(0.5, 2.0, (items, 1)) * price
    past[..., IMPUTED] = 0.0
    past[..., PROMOTIONS] = 0.0
    return past


def test_the_shared_elasticity_is_found_and_its_error_is_right() -> None:
    found = [regress_category(draw_category(np.random.default_rng(seed))) for seed in range(60)]
    values, errors = np.array([one.elasticity for one in found]), np.array([one.error for one in found])
    assert values.mean() == pytest.approx(ELASTICITY, abs=0.06)
    assert values.std() == pytest.approx(errors.mean(), rel=0.3)


def test_weeks_that_sold_out_count_as_demand_of_at_least_the_stock() -> None:
    pasts = [draw_category(np.random.default_rng(seed), cover=1.3) for seed in range(30)]
    sold_out = np.mean([(past[..., UNITS] >= past[..., INVENTORY]).mean() for past in pasts])
    assert sold_out > 0.25
    right = np.mean([regress_category(past).elasticity for past in pasts])
    for past in pasts:  # without a stock, sales pass for demand
        past[..., INVENTORY] = np.nan
    wrong = np.mean([regress_category(past).elasticity for past in pasts])
    assert abs(right - ELASTICITY) < 0.25
    assert wrong < ELASTICITY - 0.7


def test_peaks_that_all_items_share_do_not_pass_for_an_answer_to_the_price() -> None:
    many = [regress_category(draw_category(np.random.default_rng(seed), common=0.4)) for seed in range(20)]
    alone = [regress_category(draw_category(np.random.default_rng(seed), common=0.4, items=1)) for seed in range(20)]
    bias, naive = (np.mean([one.elasticity for one in ones]) - ELASTICITY for ones in (many, alone))
    # One item alone cannot tell the peak from the cut; ten are drawn a little towards weeks without an effect.
    assert naive > 0.6
    assert abs(bias) < 0.4 * naive


def test_scaling_units_of_money_changes_nothing_and_hidden_weeks_are_not_read() -> None:
    past = draw_category(np.random.default_rng(0))
    first = regress_category(past)
    dearer = past.copy()
    dearer[..., PRICE] *= 100.0
    assert regress_category(dearer).elasticity == pytest.approx(first.elasticity, abs=1e-9)
    hidden = np.concatenate([np.full((ITEMS, 7, past.shape[-1]), np.nan), past], axis=1)
    assert regress_category(hidden) == pytest.approx(first, abs=1e-6)


def test_a_price_that_never_moved_says_nothing_and_no_week_says_none() -> None:
    past = draw_category(np.random.default_rng(0))
    past[..., PRICE] = 5.0
    assert regress_category(past).error > 20.0
    assert regress_category(np.full_like(past, np.nan)) is None
    everything_gone = draw_category(np.random.default_rng(1), cover=0.05)
    assert np.isfinite(regress_category(everything_gone)).all()
