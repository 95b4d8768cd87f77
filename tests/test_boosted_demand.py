"""Boosted trees as a price rule: right where prices were drawn at random, inside the log, blind to row order."""

import numpy as np
import pandas as pd
import pytest

from pricing_fm.evaluation.pricing_baselines import BoostedDemand
from pricing_fm.panel import Panel, load_panel

ELASTICITY, COST = 3.0, 6.0  # the best price is 6 x 3 / 2 = 9


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    random, frames = np.random.default_rng(0), []
    for item in range(12):
        ratio = random.choice([0.8, 0.9, 1.0, 1.1, 1.2, 1.3], 104)
        units = random.poisson(random.uniform(20, 60) * ratio**-ELASTICITY).astype(float)
        weeks = pd.date_range("2023-01-02", periods=104, freq="7D")
        frames.append(
            pd.DataFrame(
                {"item_id": f"i{item:02d}", "timestamp": weeks, "price": 10 * ratio, "cost": COST, "units": units}
            )
        )
    return pd.concat(frames, ignore_index=True).assign(category="tea")


def read(table: pd.DataFrame) -> Panel:
    return load_panel(table, schema={"frequency": "W"})


def test_from_random_prices_it_earns_almost_what_is_best(table: pd.DataFrame) -> None:
    prices = BoostedDemand().propose(read(table))["price"].to_numpy()
    earned = (prices - COST) * prices**-ELASTICITY
    assert earned.mean() > 0.95 * (9 - COST) * 9.0**-ELASTICITY
    assert ((prices >= 8.0) & (prices <= 13.0)).all()


def test_an_item_keeps_its_price_whatever_the_order_of_rows(table: pd.DataFrame) -> None:
    dear = table.assign(cost=np.where(table["item_id"] == "i03", 9.0, COST))
    first = BoostedDemand().propose(read(dear))
    again = BoostedDemand().propose(read(dear.sample(frac=1.0, random_state=0)))
    pd.testing.assert_frame_equal(first, again)
    own = first.set_index("item_id")["price"]
    assert own["i03"] > own.drop("i03").max()
