"""An item's answer is its category's: among hundreds of others, in any order, thread, process and hash seed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.policy import PricingPolicy
from tests.policy_artifacts import panel_of, sales_log, write_adapter, write_base

REPOSITORY = Path(__file__).resolve().parents[1]
ITEMS = 150
PICKED = ["i00", "i01", "i31", "i32", "i77", "i149"]
NUMBERS = ["expected_units", "expected_margin", "expected_margin_lower", "propensity"]

ANSWER = """
import sys
import pandas as pd
from pricing_fm import PricingPolicy, load_panel

folder, log, out = sys.argv[1:]
policy = PricingPolicy.from_pretrained(folder)
panel = load_panel(log, schema={"promotion": "promotion"})
policy.forecast(panel, 3).to_parquet(out + "/forecast.parquet")
policy.recommend(panel).to_parquet(out + "/prices.parquet")
policy.recommend(panel, explore=True).to_parquet(out + "/explored.parquet")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("company")


@pytest.fixture(scope="module")
def policy(folder: Path) -> PricingPolicy:
    base = write_base(folder / "base")
    return PricingPolicy.from_pretrained(base, adapter=write_adapter(folder / "adapter", base, category=None))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Every item is a category of its own: it has no siblings that its answer could depend on."""
    log = sales_log(items=ITEMS)
    return log.assign(category="category of " + log["item_id"])


@pytest.fixture(scope="module")
def crowd(policy: PricingPolicy, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return answers(policy, table)


def answers(policy: PricingPolicy, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    panel = panel_of(table)
    return {
        "forecast": policy.forecast(panel, 3),
        "prices": policy.recommend(panel),
        "explored": policy.recommend(panel, explore=True),
    }


def assert_same(found: dict[str, pd.DataFrame], crowd: dict[str, pd.DataFrame]) -> None:
    """Forecasts to 1e-5 relative, prices identical, for the items that `found` holds."""
    for name, answer in found.items():
        expected = crowd[name][crowd[name]["item_id"].isin(set(answer["item_id"]))].reset_index(drop=True)
        assert len(answer) == len(expected) > 0
        numbers = NUMBERS if name != "forecast" else ["mean", "0.1", "0.5", "0.9"]
        np.testing.assert_allclose(answer[numbers].to_numpy(), expected[numbers].to_numpy(), rtol=1e-5)
        if name != "forecast":
            same = ["item_id", "timestamp", "price", "current_price", "supported", "fallback", "binding_rule"]
            pd.testing.assert_frame_equal(answer[same], expected[same])


def test_items_differ_so_that_equal_answers_mean_something(crowd: dict[str, pd.DataFrame]) -> None:
    assert crowd["prices"]["price"].nunique() > ITEMS / 2
    assert crowd["prices"]["expected_units"].nunique() == ITEMS
    assert (crowd["explored"]["price"] != crowd["prices"]["price"]).any()


@pytest.mark.parametrize("item", PICKED)
def test_an_item_alone_gets_the_answer_it_gets_among_many(policy, table, crowd, item: str) -> None:
    assert_same(answers(policy, table[table["item_id"] == item]), crowd)


def test_an_item_gets_its_answer_in_any_place_of_any_batch(policy, table, crowd) -> None:
    """Another selection puts every item into another place of another chunk."""
    for kept in (slice(5, None, 3), slice(0, 33), slice(100, None)):
        names = table["item_id"].unique()[kept]
        assert_same(answers(policy, table[table["item_id"].isin(names)]), crowd)


def test_a_category_gets_its_answer_whatever_others_are_asked_beside_it(policy) -> None:
    log = sales_log(items=80)  # forty snacks, forty drinks: several chunks
    together = answers(policy, log)
    assert_same(answers(policy, log[log["category"] == "snacks"]), together)


def test_siblings_change_an_item_that_knows_little(policy) -> None:
    log = sales_log(items=8)
    alone = policy.forecast(panel_of(log[log["item_id"] == "i00"]), 3)["mean"]
    among = policy.forecast(panel_of(log), 3).query("item_id == 'i00'")["mean"]
    assert np.abs(alone.to_numpy() / among.to_numpy() - 1).max() > 1e-3


def test_the_row_order_of_the_source_does_not_matter(policy, table, crowd) -> None:
    shuffled = table.sample(frac=1.0, random_state=1)[list(reversed(table.columns))]
    for name, answer in answers(policy, shuffled).items():
        pd.testing.assert_frame_equal(answer, crowd[name])


def test_threads_that_ask_at_the_same_time_do_not_disturb_each_other(policy, table, crowd) -> None:
    names = np.array_split(table["item_id"].unique(), 4)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda part: answers(policy, table[table["item_id"].isin(part)]), [*names, *names]))
    for part in parts:
        assert_same(part, crowd)


def test_a_cloud_of_new_items_and_a_zone_nearby_change_nothing(policy, table, crowd) -> None:
    few = table[table["item_id"].isin(PICKED)]
    stranger = sales_log(items=40, seed=9, weeks=12)
    stranger = stranger.assign(item_id="z" + stranger["item_id"], price=stranger["price"] * 1000, category=None)
    stranger = stranger.assign(product_id="z", price_zone="z", cost=np.nan)
    grown = panel_of(pd.concat([few, stranger]))
    found = {"forecast": policy.forecast(grown, 3), "prices": policy.recommend(grown)}
    assert_same(
        {name: rows[rows["item_id"].isin(PICKED)].reset_index(drop=True) for name, rows in found.items()}, crowd
    )


def test_another_process_with_another_hash_seed_gives_the_same_answers(folder, policy, table, crowd) -> None:
    """Offline, from a saved policy that was moved since."""
    policy.save_pretrained(folder / "saved")
    moved = (folder / "saved").rename(folder / "moved")
    out = folder / "out"
    out.mkdir()
    table[table["item_id"].isin(PICKED)].to_parquet(folder / "log.parquet")
    environment = os.environ | {"PYTHONHASHSEED": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    words = [str(moved), str(folder / "log.parquet"), str(out)]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *words], env=environment, cwd=out, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_same({name: pd.read_parquet(out / f"{name}.parquet") for name in crowd}, crowd)
