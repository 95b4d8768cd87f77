"""The checks of a fitted market: they pass what is right, flag what is wrong, and reach the disk."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm.errors import PanelWarning
from pricing_fm.markets.fitting import FittedMarket, check_market, estimate_market
from pricing_fm.panel import load_panel
from recipes import fit_market
from tests.test_markets_fitting import JUICE, build_market, build_panel

SMALL = replace(JUICE, num_products=6, num_stores=5)


@pytest.fixture(scope="module")
def fitted():
    panel, _ = build_panel(build_market(SMALL), seed=5)
    estimates = estimate_market(panel)
    return FittedMarket.from_estimates(estimates, panel), estimates


def verdict_of(checks, name: str) -> str:
    return checks.table.set_index("check").loc[name, "verdict"]


def test_a_log_of_the_model_itself_passes_nearly_all_checks(fitted):
    checks = check_market(*fitted, num_replicates=20)
    shares = checks.table["verdict"].value_counts(normalize=True)
    assert len(checks.table) > 30
    assert shares["fits"] > 0.6
    assert shares.get("misfit", 0.0) < 0.2
    table = checks.table
    assert ((table["p_value"] > 0) & (table["p_value"] <= 1)).all()
    assert (table["lower"] <= table["upper"]).all()
    inside = (table["lower"] <= table["real"]) & (table["real"] <= table["upper"])
    assert (inside == (table["verdict"] == "fits")).all()


@pytest.mark.parametrize(
    "column, change, check",
    [
        ("elasticity", 1.5, "price: median slope of log units on log price"),
        ("level", 0.5, "units: mean"),
        ("promotion_promotion", 0.8, "promotion: log lift under promotion, all causes"),
    ],
)
def test_a_spoiled_market_is_found_out(fitted, column, change, check):
    market, estimates = fitted
    assert verdict_of(check_market(market, estimates, 10), check) != "misfit"
    spoiled = replace(market, items=market.items.assign(**{column: market.items[column] + change}))
    assert verdict_of(check_market(spoiled, estimates, 10), check) == "misfit"


def test_noise_that_is_too_calm_is_found_out(fitted):
    market, estimates = fitted
    (category,) = market.categories
    calm = replace(category, own_shock=replace(category.own_shock, scale=0.0, drift_scale=0.0))
    products = market.products.assign(shock_scale=0.0)
    checks = check_market(replace(market, categories=(calm,), products=products), estimates, 10)
    assert verdict_of(checks, "memory: autocorrelation, lag 1") == "misfit"
    assert verdict_of(checks, "common: residual correlation within a product") == "misfit"


def test_checks_need_two_replicates(fitted):
    with pytest.raises(ValueError, match="num_replicates"):
        check_market(*fitted, num_replicates=1)


def test_the_recipe_writes_market_checks_page_panel_and_card(tmp_path):
    panel, _ = build_market(SMALL).simulate(90, 7)
    panel.to_parquet(tmp_path / "panel.parquet")
    (tmp_path / "schema.yaml").write_text("promotion: promotion\nabsent_rows: zero\nfrequency: W\n")
    words = ["--panel", str(tmp_path / "panel.parquet"), "--schema", str(tmp_path / "schema.yaml"), "--seed", "3"]
    words += ["--num_replicates", "4", "--num_iterations", "6", "--num_periods", "30", "--study_only"]
    output = tmp_path / "out"
    checks = fit_market.main([*words, "--unit_value_prices", "--output_dir", str(output)])
    simulated = load_panel(output / "panel.parquet", schema=output / "schema.yaml")
    truth = pd.read_parquet(output / "truth.parquet")
    assert len(simulated.frame) == len(truth)
    assert simulated.frame["timestamp"].nunique() == 30
    pd.testing.assert_frame_equal(pd.read_csv(output / "checks.csv")[["check"]], checks.table[["check"]])
    assert (output / "checks.png").read_bytes()[:4] == b"\x89PNG"
    card = (output / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["license"] == "other"
    assert "Study only" in card
    assert "biased" in card
    assert f"{(checks.table['verdict'] == 'misfit').sum()} do not fit" in card
    again = FittedMarket.load(output).simulate(30, 3)[0]
    np.testing.assert_array_equal(again["units"], pd.read_parquet(output / "panel.parquet")["units"])


@pytest.mark.real_data
@pytest.mark.filterwarnings(f"ignore::{PanelWarning.__module__}.{PanelWarning.__name__}")
def test_cereals_of_a_real_log_are_fitted_with_positive_elasticities(real_data: Path):
    root = Path(__file__).resolve().parents[1]
    build_table = runpy.run_path(str(root / "data/frat/prepare.py"))["build_table"]
    table, _ = build_table(real_data / "dunnhumby_breakfast_at_the_frat")
    cereal = table[table["category"] == "COLD CEREAL"]
    stores, products = (sorted(cereal[name].unique()) for name in ("store_id", "upc_id"))
    some = cereal[cereal["store_id"].isin(stores[:10]) & cereal["upc_id"].isin(products[:8])]
    panel = load_panel(some, schema=root / "data/frat/schema.yaml")
    estimates = estimate_market(panel)
    market = FittedMarket.from_estimates(estimates, panel)
    settings = market.to_settings_dict()["COLD CEREAL"]
    assert market.zeros_unlisted
    assert 0.8 < settings["elasticity_mean"] < 4.0
    assert settings["promotion_uplift_display"] > 1.1
    replayed, _ = market.simulate(None, 0, prices=panel)
    assert replayed["units"].mean() == pytest.approx(panel.frame["units"].mean(), rel=0.15)
