"""The prepare scripts of the two randomised experiments, on the real files."""

import contextlib
import io
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

from pricing_fm.evaluation.randomised_panels import read_decisions
from pricing_fm.panel import load_panel

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCES = {"loan_offers": "loan_offers_karlan_zinman_2008", "rand_hie": "health_rand_hie"}


def prepare_module(name: str) -> ModuleType:
    spec = spec_from_file_location(f"prepare_{name}", REPOSITORY / "data" / name / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_folder_of_data_has_a_card_with_front_matter_and_a_line_on_the_first_page() -> None:
    first_page = (REPOSITORY / "data" / "README.md").read_text()
    folders = [path.parent for path in sorted((REPOSITORY / "data").glob("*/prepare.py"))]
    assert {folder.name for folder in folders} > set(SOURCES)
    for folder in folders:
        front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
        assert {"license", "pretty_name", "tags", "task_categories", "size_categories"} <= set(front)
        assert f"[`{folder.name}`]({folder.name}/README.md)" in first_page


@pytest.mark.parametrize(("name", "folder"), SOURCES.items())
def test_the_cards_of_experiments_say_how_to_prepare_them_and_that_they_are_for_study(name: str, folder: str) -> None:
    text = (REPOSITORY / "data" / name / "README.md").read_text()
    assert f"python data/{name}/prepare.py --source ../shared/data/{folder}" in text
    assert "tudy only**" in text
    assert "may be published" not in text


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "rows", "total"), [("loan_offers", 34_211, 2_479), ("rand_hie", 16_015, 47_651)])
def test_decisions_and_panel_say_the_same(
    name: str, rows: int, total: int, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"data/{name}/prepare.py", "--source", str(real_data / SOURCES[name]), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    with contextlib.redirect_stdout(io.StringIO()):
        prepare_module(name).main()
    decisions = read_decisions(tmp_path / "decisions.parquet")
    assert len(decisions) == rows
    assert decisions["outcome"].sum() == total
    panel = load_panel(tmp_path / "panel.parquet", schema=REPOSITORY / "data" / name / "schema.yaml")
    assert len(panel.item_ids) == 6
    observed = panel.frame.dropna(subset="units")
    assert observed["price_is_intervention"].all()
    assert observed["units"].sum() == pytest.approx(total, rel=0.02)


@pytest.mark.real_data
def test_the_rate_was_drawn_within_wave_and_tier(real_data: Path) -> None:
    table = prepare_module("loan_offers").build_decisions(real_data / SOURCES["loan_offers"])[0]
    source = pd.read_parquet(real_data / SOURCES["loan_offers"] / "kz_demandelasts_aer08.parquet")
    item = table["item"]
    within = table["price"] - table["price"].groupby(item).transform("mean")
    for covariate in ("appscore", "lastamount", "age", "dormancy"):
        values = source[covariate].astype(float)
        centred = values - values.groupby(item).transform("mean")
        known = centred.notna()
        assert abs(np.corrcoef(within[known], centred[known])[0, 1]) < 3 / known.sum() ** 0.5


@pytest.mark.real_data
def test_a_plan_has_the_price_that_its_members_expect_to_pay(real_data: Path) -> None:
    decisions, _, plans = prepare_module("rand_hie").build_decisions(real_data / SOURCES["rand_hie"])
    price = plans["price"]
    assert price[11] == 0.05  # free care, at the floor
    assert price[[1, 13]].isna().all()  # an individual deductible: apart
    assert not decisions["arm"].isin(["plan 1", "plan 13"]).any()
    for plans_of_a_kind, coinsurance in (([5, 6, 7, 17, 18, 19], 0.25), ([8, 9, 10], 0.5), ([14, 15, 16], 0.95)):
        shares = price[plans_of_a_kind]
        assert (shares < coinsurance).all()  # the ceiling takes part of the bill
        assert (shares > 0.75 * coinsurance).all()
    assert (decisions.groupby("arm")["price"].nunique() == 1).all()


@pytest.mark.real_data
def test_a_family_is_found_and_has_one_plan(real_data: Path) -> None:
    module = prepare_module("rand_hie")
    source = pd.read_parquet(real_data / SOURCES["rand_hie"] / "RandHIE.parquet")
    family = module.find_families(source)
    table = source.assign(family=family)
    assert (table.groupby("family")[["plan", "site"]].nunique() == 1).all().all()
    assert (table.groupby("zper")["family"].nunique() == 1).all()
    persons = table.groupby("family")["zper"].nunique()
    assert 2 < persons.mean() < 3.5
    assert persons.max() < 16
    by_person, by_family = (
        module.build_decisions(real_data / SOURCES["rand_hie"], cluster)[0]["cluster"].nunique()
        for cluster in ("person", "family")
    )
    assert by_family < by_person / 2


def test_families_are_runs_of_numbers_with_one_income() -> None:
    table = pd.DataFrame(
        {
            "zper": [12, 11, 11, 13, 20, 15],
            "year": [1, 1, 2, 1, 1, 1],
            "site": 1,
            "plan": [5, 5, 5, 5, 5, 5],
            "income": [9.0, 9.0, 8.0, 7.0, 7.0, 7.0],
        }
    )
    family = prepare_module("rand_hie").find_families(table)
    assert family[0] == family[1] == family[2]
    assert len(set(family[[0, 3, 4, 5]])) == 4


@pytest.mark.real_data
def test_offers_hold_the_known_figures_and_no_gap(real_data: Path) -> None:
    prepare = prepare_module("loan_offers")
    offers = prepare.build_offers(real_data / SOURCES["loan_offers"])
    assert len(offers) == 34_211
    assert offers["take_up"].sum() == 2_479
    assert offers["unscored"].mean() == pytest.approx(0.0864, abs=1e-4)
    assert offers["unknown"].sum() == 256
    assert not offers.isna().any().any()
    outcomes = ["loan_size", *prepare.PROFITS]
    assert (offers.loc[offers["take_up"] == 0, outcomes] == 0).all().all()
    taken = offers[offers["take_up"] == 1]
    # Losing all arrears instead of half, and paying for funds, can only cost.
    assert (taken["profit_lgd1_funds0"] <= taken["profit_lgd0.5_funds0"]).all()
    assert (taken["profit_lgd1_funds1"] < taken["profit_lgd1_funds0"]).all()
    source = pd.read_parquet(real_data / SOURCES["loan_offers"] / prepare.FILE)
    row = int(taken.index[0])
    size, months = float(source["loansize"][row]), float(source["term"][row])
    interest, arrears = size * months * float(source["final4"][row]) / 100, float(source["pstdue_average"][row])
    assert offers["profit_lgd0.5_funds1"][row] == pytest.approx(interest - 0.5 * arrears - 0.01 * size * months)


@pytest.mark.real_data
def test_persons_belong_to_one_family_with_one_plan_and_count_their_years(real_data: Path) -> None:
    prepare = prepare_module("rand_hie")
    persons = prepare.build_persons(real_data / SOURCES["rand_hie"])
    assert (len(persons), persons["family"].nunique()) == (5_912, 2_523)
    assert not persons.isna().any().any()
    assert (persons.groupby("family")[["plan", "site"]].nunique() == 1).all().all()
    assert list(persons["group"].cat.categories) == ["free", "25 %", "50 %", "deductible", "95 %"]
    assert (persons["visits"] * persons["years"]).sum() == pytest.approx(57_752, rel=1e-6)
    by_plan = persons.groupby("group", observed=True)["visits"].mean()
    assert by_plan["free"] == by_plan.max()
    assert by_plan["95 %"] == by_plan.min()
