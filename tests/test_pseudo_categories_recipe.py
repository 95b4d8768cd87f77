"""recipes/pseudo_categories.py: a panel cut into categories, each measured with the weeks that it is visible for."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm.panel import Panel, load_panel
from recipes import pseudo_categories
from recipes.pseudo_categories import PseudoArguments, VisibleProposer, cut_panel, summarize
from tests.policy_artifacts import write_base

WEEKS = pd.date_range("2024-01-01", periods=40, freq="7D")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pseudo")
    random = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {
                "store": store, "upc": f"{maker}-{product}", "week": WEEKS, "maker": maker, "zone": f"z{store % 2}",
                "kind": "tea", "price": np.where(random.random(40) < 0.4, 1.6, 2.0), "units": random.poisson(9, 40),
            }
        )
        for maker, products in (("big", 3), ("small", 2), ("one", 1))
        for product in range(products)
        for store in range(4)
    ]  # fmt: skip
    gone = frames[0].assign(store=9).iloc[:30]  # no longer sold
    pd.concat([*frames, gone]).to_parquet(folder / "sales.parquet", index=False)
    schema = {
        "item_id": ["store", "upc"], "timestamp": "week", "units": "units", "price": "price", "category": "kind",
        "product_id": "upc", "location_id": "store", "static_categories": ["zone"], "frequency": "W",
    }  # fmt: skip
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    write_base(folder / "base")
    (folder / "adapt.yaml").write_text("objective: forecast\ndemand_steps: 1\nbatch_size: 4\ntracker: none\n")
    return folder


def arguments(place: Path, **changes: object) -> PseudoArguments:
    given = {
        "base": str(place / "base"), "panel": str(place / "sales.parquet"), "schema": str(place / "schema.yaml"),
        "output_dir": str(place / "out"), "by": ("kind", "maker"), "price_zone": "zone", "categories": 2, "items": 6,
        "weeks": (4, 13), "seed": 0,
    }  # fmt: skip
    return PseudoArguments(**{**given, **changes})


def test_the_largest_groups_become_panels_of_drawn_items_that_are_still_sold(place: Path) -> None:
    found = cut_panel(arguments(place), place / "panels")
    assert list(found) == ["tea-big", "tea-small"]
    panels = [load_panel(path, schema=place / "panels" / "schema.yaml") for path in found.values()]
    assert [list(panel.categories) for panel in panels] == [["tea big"], ["tea small"]]
    assert [len(panel.item_ids) for panel in panels] == [6, 6]
    assert all("9" not in str(panel.frame["location_id"].unique()) for panel in panels)
    assert set(panels[0].frame["price_zone"]) == {"z0", "z1"}
    other = cut_panel(arguments(place, seed=1), place / "others")
    items = [
        set(load_panel(one["tea-big"], schema=place / "panels" / "schema.yaml").item_ids) for one in (found, other)
    ]
    assert items[0] != items[1]


def test_smaller_pieces_are_worth_less_each_and_are_counted(place: Path) -> None:
    path = cut_panel(arguments(place, unit_scale=10.0, items=12), place / "pieces")["tea-big"]
    whole = cut_panel(arguments(place, items=12), place / "panels")["tea-big"]
    pieces, units = (pd.read_parquet(one).sort_values(["store", "upc", "week"]) for one in (path, whole))
    np.testing.assert_array_equal(pieces["units"], 10 * units["units"])
    np.testing.assert_allclose(pieces["units"] * pieces["price"], units["units"] * units["price"])


def test_prices_are_proposed_from_the_last_weeks_alone(place: Path) -> None:
    path = cut_panel(arguments(place), place / "panels")["tea-big"]
    panel = load_panel(path, schema=place / "panels" / "schema.yaml")

    @dataclass
    class Spy:
        name: str = "spy"
        identity: str = "spy"
        seen: Panel | None = None

        def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
            self.seen = planned
            return pd.Series(dtype=float)

    spy = Spy()
    proposer = VisibleProposer(spy, 4)  # type: ignore[arg-type]
    proposer.propose(panel.before(str(WEEKS[32])[:10]), panel, 8)
    assert spy.seen is not None
    assert list(spy.seen.frame["timestamp"].drop_duplicates()) == list(WEEKS[28:])
    assert proposer.name == "spy_4"


def test_every_k_has_its_loss_and_its_value_and_a_second_start_measures_nothing_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--base", str(place / "base"), "--panel", str(place / "sales.parquet"), "--schema",
             str(place / "schema.yaml"), "--by", "kind", "maker", "--categories", "2", "--items", "6", "--weeks", "4",
             "13", "--output_dir", str(place / "out"), "--adapt_config", str(place / "adapt.yaml")]  # fmt: skip
    monkeypatch.setattr(pseudo_categories, "KEPT", (*pseudo_categories.KEPT, "ess"))
    found = pseudo_categories.main(words)
    losses = found[(found["metric"] == "wql") & found["model"].isin(["pooling", "zero_shot"])]
    assert set(losses["k"]) == {4, 13}
    assert (losses["categories"] == 2).all()
    assert {"pooling", "zero_shot", "log_log_elasticity"} <= set(found.loc[found["metric"] == "support_mass", "model"])
    assert (place / "out" / "tea-big.csv").is_file()
    assert "experiment_needed" in (place / "out" / "tea-big" / "decision.txt").read_text()
    monkeypatch.setattr(pseudo_categories, "measure", lambda *_: pytest.fail("measured again"))
    again = pseudo_categories.main(words)
    pd.testing.assert_frame_equal(found, again)


def test_gains_are_shares_of_the_managers_value_and_losses_are_paired(place: Path) -> None:
    rows = [
        {"name": "value", "value": 50.0, "model": "manager", "task": "a"},
        {"name": "gain", "value": 5.0, "lower": 1.0, "upper": 9.0, "model": "pooling", "task": "a", "k": 4},
        {"name": "wql", "value": 0.2, "model": "pooling", "task": "a", "k": 4},
        {"name": "wql", "value": 0.25, "model": "zero_shot", "task": "a", "k": 4},
    ]
    found = summarize(pd.DataFrame(rows), arguments(place)).set_index("metric")
    assert found.loc["gain", "mean"] == pytest.approx(0.1)
    assert found.loc["gain", "share_surely_above_0"] == 1.0
    assert found.loc["wql_ratio", "mean"] == pytest.approx(0.8)


def test_weeks_that_cannot_be_adapted_to_are_refused(place: Path) -> None:
    for wrong in ({"weeks": (2, 4)}, {"weeks": (13, 4)}, {"items": 1}, {"unit_scale": 0.0}):
        with pytest.raises(ValueError, match="--"):
            arguments(place, **wrong)
