"""Policies valued on a panel's own weeks: the truth is known because the shop is simulated."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.off_policy import Verdict
from pricing_fm.evaluation.panel_value import (
    Costs,
    LogLogProposer,
    PanelValueEvaluation,
    PanelValueTask,
    ValueArguments,
    ValuedWeeks,
    build_rows,
    build_tables,
    evaluate_on_panel,
    read_valued_weeks,
    write_value_report,
)
from pricing_fm.evaluation.panel_value.diagnostics import bound_by_monotone_demand
from pricing_fm.evaluation.panel_value.proposals import add_plan, find_origins
from pricing_fm.evaluation.panel_value.valuation import Bench, match_decisions
from pricing_fm.panel import Panel, load_panel

PRODUCTS, STORES, WEEKS, VALUED = 12, 4, 48, 12
ELASTICITY, COST_SHARE = -3.0, 0.6
LADDER = np.array([0.7, 0.9, 1.15])
QUICK = ValueArguments(off_policy=True, value_replicates=200, value_draws=4, history_periods=36)


def simulate_shop(seed: int = 0, moves: bool = True, **columns: object) -> Panel:
    """Prices on a ladder, drawn anew half of the weeks for all stores; demand falls with the price and nothing else."""
    rng = np.random.default_rng(seed)
    stamps = pd.date_range("2023-01-02", periods=WEEKS, freq="7D")
    tables = []
    for product in range(PRODUCTS):
        regular, level = rng.uniform(2.0, 6.0), rng.uniform(15.0, 40.0)
        rung = rng.integers(len(LADDER), size=WEEKS)
        keeps = rng.random(WEEKS) < 0.5
        for week in range(1, WEEKS):
            rung[week] = rung[week - 1] if keeps[week] else rung[week]
        ratio = LADDER[rung] if moves else np.ones(WEEKS)
        for store in range(STORES):
            mean = level * (1.0 + 0.2 * store) * ratio**ELASTICITY
            tables.append(
                pd.DataFrame(
                    {
                        "item_id": f"p{product:02d}|s{store}",
                        "timestamp": stamps,
                        "units": rng.poisson(mean).astype(float),
                        "price": regular * ratio,
                        "list_price": regular,
                        "product_id": f"p{product:02d}",
                        "segment": ("town", "village")[store % 2],
                        "category": ("snacks", "drinks")[product % 2],
                    }
                )
            )
    return load_panel(pd.concat(tables, ignore_index=True).assign(**columns))


@dataclass(frozen=True)
class Holder:
    """Holds a multiple of the list price."""

    name: str
    multiple: float

    @property
    def identity(self) -> str:
        return f"{self.multiple}"

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        return self.multiple * history.frame.groupby("item_id")["list_price"].last()


def build_holders(*multiples: float) -> Callable[[ValuedWeeks, Costs], list[Holder]]:
    return lambda weeks, costs: [Holder(f"hold_{multiple:g}", multiple) for multiple in multiples]


def ask(panel: Panel, **changes: object) -> PanelValueTask:
    settings = {"panel": panel, "origins": (4, 8, 12), "prediction_length": 4, "assumed_cost_share": COST_SHARE}
    return PanelValueTask(**(settings | {"arguments": QUICK} | changes))


def true_gain(panel: Panel, multiple: float) -> float:
    """Relative gain over the logged prices; demand has no memory and margins scale with the regular price."""
    frame = panel.frame[panel.frame["timestamp"] >= panel.frequency.step(panel.last_observed, 1 - VALUED)]
    ratio = (frame["price"] / frame["list_price"]).to_numpy()
    level = frame.groupby("item_id")["units"].transform("mean").to_numpy() * frame["list_price"].to_numpy()
    today = float((level * (ratio - COST_SHARE) * ratio**ELASTICITY).sum())
    usual = frame["item_id"].map(
        pd.Series(ratio**ELASTICITY).groupby(frame["item_id"].to_numpy()).mean()
    ).to_numpy()  # fmt: skip
    level, today = level / usual, float((level / usual * (ratio - COST_SHARE) * ratio**ELASTICITY).sum())
    return float((level * (multiple - COST_SHARE) * multiple**ELASTICITY).sum()) / today - 1.0


@pytest.fixture(scope="module")
def panel() -> Panel:
    return simulate_shop()


@pytest.fixture(scope="module")
def found(panel: Panel, tmp_path_factory: pytest.TempPathFactory) -> PanelValueEvaluation:
    folder = tmp_path_factory.mktemp("steps")
    return evaluate_on_panel(ask(panel), build_holders(0.7, 0.9, 1.15), folder)


def test_the_value_of_every_policy_is_near_the_truth_and_inside_its_interval(
    panel: Panel, found: PanelValueEvaluation
) -> None:
    assert found.manager is not None
    today = found.manager.value.value
    assert today == pytest.approx(found.log_mean.value, rel=0.02)
    for policy in found.policies:
        truth = true_gain(panel, float(policy.name.removeprefix("hold_")))
        assert policy.gain is not None
        assert policy.gain.value / today == pytest.approx(truth, abs=0.04)
        assert policy.gain.lower <= truth * today <= policy.gain.upper


def test_a_better_policy_is_valued_higher_and_selected(found: PanelValueEvaluation) -> None:
    gains = {policy.name: policy.gain.value for policy in found.policies if policy.gain is not None}
    assert gains["hold_0.9"] > max(gains["hold_0.7"], gains["hold_1.15"])
    verdicts = {verdict.name: verdict.verdict for verdict in found.decision.candidates}
    assert verdicts["hold_0.7"] is Verdict.DO_NOT_LAUNCH
    assert (found.decision.selected, found.decision.verdict) == ("hold_0.9", Verdict.LAUNCH)
    assert found.decision.experiment is None


def test_categories_and_segments_add_up_to_the_whole(found: PanelValueEvaluation) -> None:
    weeks = found.weeks
    for policy in found.policies:
        assert policy.gain is not None
        for parts, labels in ((policy.gain_by_category, weeks.categories), (policy.gain_by_segment, weeks.segments)):
            assert parts is not None
            shares = {label: float((labels == label).mean()) for label in parts}
            total = sum(shares[label] * gain.value for label, gain in parts.items())
            assert total == pytest.approx(policy.gain.value, rel=1e-6, abs=1e-9)


def test_the_sensitivity_range_is_a_point_at_one_and_grows(found: PanelValueEvaluation) -> None:
    for policy in found.policies:
        assert policy.sensitivity is not None
        assert policy.gain is not None
        widths = [ends.upper - ends.lower for ends in policy.sensitivity.values()]
        assert widths[0] == pytest.approx(0.0, abs=1e-9)
        assert widths[0] < widths[1] < widths[2]
        assert policy.sensitivity[1.0].lower == pytest.approx(policy.gain.value, rel=1e-6, abs=1e-9)
        assert policy.sensitivity_to_level is not None
        for size, ends in policy.sensitivity_to_level.items():
            assert policy.sensitivity[size].lower <= ends.lower <= policy.gain.value + 1e-9
            assert policy.gain.value - 1e-9 <= ends.upper <= policy.sensitivity[size].upper


def test_monotone_demand_gives_the_manager_what_he_earned(found: PanelValueEvaluation) -> None:
    assert found.behavior is not None
    bench = Bench(found.weeks, found.demands, found.behavior, QUICK, 0)
    own = bound_by_monotone_demand(bench, found.weeks.prices, found.costs.unit_costs)
    assert own.untried == 0.0
    assert own.lower == pytest.approx(own.upper)
    assert own.lower == pytest.approx(found.log_mean.value, rel=0.03)
    beyond = bound_by_monotone_demand(bench, 1.3 * found.weeks.prices, found.costs.unit_costs)
    assert beyond.untried > 0.0
    assert beyond.lower < beyond.upper


def test_a_decision_about_margin_does_not_speak_of_unknown_costs(found: PanelValueEvaluation) -> None:
    assert found.describe() == found.decision.describe()


def test_costs_ten_points_off_move_the_gain_the_way_they_must(found: PanelValueEvaluation) -> None:
    """Dearer units make volume worth less: holding a low price looks worse."""
    cheap = next(policy for policy in found.policies if policy.name == "hold_0.7")
    assert cheap.gain_at_costs is not None
    assert cheap.gain is not None
    assert cheap.gain_at_costs[0.5].value > cheap.gain.value > cheap.gain_at_costs[0.7].value


def test_who_pays_what_is_told_by_group(found: PanelValueEvaluation) -> None:
    cheap = next(policy for policy in found.policies if policy.name == "hold_0.7")
    assert cheap.changes is not None
    groups = cheap.changes.set_index(["kind", "group"])
    assert set(groups.index) == {("all", "all"), ("category", "snacks"), ("category", "drinks"),
                                 ("segment", "town"), ("segment", "village")}  # fmt: skip
    assert groups.loc[("all", "all"), "dearer"] == 0.0
    assert groups.loc[("all", "all"), "basket_change"] < -0.03
    assert groups.loc[("all", "all"), "units_change"] > 0.1


def test_decision_units_are_products_where_no_zones_are_declared(found: PanelValueEvaluation, panel: Panel) -> None:
    assert len(np.unique(found.weeks.clusters)) == PRODUCTS
    assert found.weeks.chain_wide == pytest.approx(1.0)
    zoned = load_panel(
        panel.to_pandas().drop(columns="price_imputed").assign(price_zone=lambda table: table["segment"])
    )
    weeks = read_valued_weeks(zoned, find_origins(zoned, (4, 8, 12), 4)[0], QUICK)
    assert len(np.unique(weeks.clusters)) == 2 * PRODUCTS


def test_a_log_that_never_tried_other_prices_ends_in_an_experiment(tmp_path: Path) -> None:
    found = evaluate_on_panel(ask(simulate_shop(moves=False)), build_holders(0.9), tmp_path)
    assert found.decision.verdict is Verdict.EXPERIMENT_NEEDED
    assert found.decision.experiment is not None
    assert found.policies[0].value is None
    assert any("prices did not move" in reason or "0 times" in reason for reason in found.decision.reasons)
    assert not [row for row in build_rows(found, "shop_W") if row.name in ("gain", "value")]
    page = write_value_report(tmp_path / "page", found).read_text()
    assert "experiment needed" in page
    assert "An experiment that would show a gain above zero, which is less than a launch asks for" in page
    assert "experiment that would decide" not in page


def test_an_experiment_for_a_launch_is_one_that_shows_a_gain_above_the_margin(panel: Panel, tmp_path: Path) -> None:
    wide = evaluate_on_panel(ask(panel, arguments=replace(QUICK, launch_margin=0.14)), build_holders(0.9), tmp_path)
    decision, gain = wide.decision, wide.decision.candidates[0].gain
    assert decision.verdict is Verdict.EXPERIMENT_NEEDED
    assert decision.experiment_at_estimate is not None
    assert gain is not None
    assert decision.experiment_at_estimate.effect == pytest.approx((gain.value - decision.margin) / VALUED)
    page = write_value_report(tmp_path / "page", wide).read_text()
    assert "The experiment that would decide, if the gain is what the log estimates" in page
    assert "show a gain above what a launch asks for" in page


def test_prices_far_beyond_the_log_are_not_identified(panel: Panel, tmp_path: Path) -> None:
    found = evaluate_on_panel(ask(panel), build_holders(0.61), tmp_path)
    policy = found.policies[0]
    assert policy.support is not None
    assert policy.support.usual == 0.0
    assert policy.support.tried_by_item == 0.0
    assert policy.value is None
    assert found.decision.verdict is Verdict.EXPERIMENT_NEEDED
    assert policy.monotone is not None
    assert policy.monotone.untried == 1.0
    assert policy.monotone.upper >= policy.monotone.lower


@dataclass(frozen=True)
class PartlyUsual(Holder):
    """Holds a price of the ladder for one product of each category, and a price never charged for all others."""

    def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
        prices = super().propose(history, planned, periods)
        return prices.where(prices.index.str.startswith(("p00", "p01")), 0.61 / self.multiple * prices)


def test_few_decision_units_have_values_without_intervals(panel: Panel, tmp_path: Path) -> None:
    table = panel.to_pandas().drop(columns="price_imputed")
    rare = load_panel(table.assign(segment=np.where(table["product_id"] == "p03", "rare", "usual")))
    found = evaluate_on_panel(ask(rare), lambda weeks, costs: [PartlyUsual("partly", 0.9)], tmp_path)
    policy = found.policies[0]
    assert policy.weighted_log is not None
    assert np.isfinite(policy.weighted_log.value)
    assert np.isnan([policy.weighted_log.lower, policy.weighted_log.upper]).all()
    assert policy.gain_by_segment is not None
    assert np.isnan(policy.gain_by_segment["rare"].lower)
    assert policy.gain_by_segment["usual"].lower < policy.gain_by_segment["usual"].upper
    page = write_value_report(tmp_path / "page", found).read_text()
    assert "nan" not in re.sub(r"<[^>]+>|base64,[A-Za-z0-9+/=]+", "", page).lower().split()
    assert build_rows(found, "shop_W")


def test_without_any_cost_values_are_revenue_and_the_page_says_so(panel: Panel, tmp_path: Path) -> None:
    found = evaluate_on_panel(ask(panel, assumed_cost_share=None), build_holders(0.7), tmp_path)
    assert found.costs.objective == "revenue"
    assert "values are revenue" in found.costs.note
    assert found.describe().splitlines()[-1].startswith("- no cost is known: prices maximise revenue")
    assert found.policies[0].gain is not None
    assert found.policies[0].gain.value > 0.0


def test_a_second_start_takes_what_is_on_disk(panel: Panel, found: PanelValueEvaluation, tmp_path: Path) -> None:
    class Refuses(Holder):
        def propose(self, history: Panel, planned: Panel, periods: int) -> pd.Series:
            raise AssertionError("asked again")

    first = evaluate_on_panel(ask(panel), build_holders(0.9), tmp_path)
    again = evaluate_on_panel(ask(panel), lambda weeks, costs: [Refuses("hold_0.9", 0.9)], tmp_path)
    assert again.policies[0].gain == first.policies[0].gain
    with pytest.raises(AssertionError, match="asked again"):
        evaluate_on_panel(ask(panel), lambda weeks, costs: [Refuses("hold_0.9", 0.95)], tmp_path)


def test_decisions_know_the_log_before_them_and_planned_promotions_alone(panel: Panel) -> None:
    origin = find_origins(panel, (4, 8, 12), 4)[1]
    planned = add_plan(panel, panel.before(origin), origin, 4)
    ahead = planned.frame[planned.frame["timestamp"] >= origin]
    assert len(ahead) == 4 * len(panel.item_ids)
    assert ahead[["units", "price", "list_price"]].isna().all().all()
    assert planned.last_observed < origin


def test_probabilities_of_the_logged_rung_are_those_of_the_habits(found: PanelValueEvaluation) -> None:
    assert found.behavior is not None
    bench = Bench(found.weeks, found.demands, found.behavior, QUICK, 0)
    matches = match_decisions(bench, found.weeks.prices)
    assert np.all(matches.targets[matches.asked] == 1.0)
    assert matches.propensities[matches.asked] == pytest.approx(matches.chances[matches.asked])


SECTIONS = (
    "May a policy be launched?",
    "What would the policies have earned?",
    "Where would the gain come from?",
    "What would change for whom?",
    "How much does the log say about these prices?",
    "What if the manager knew more than the log?",
    "What if costs are not as assumed?",
    "Do other ways of reading the log agree?",
    "What to keep in mind",
    "What the words mean",
)


def test_the_page_holds_every_part_and_its_figures(found: PanelValueEvaluation, tmp_path: Path) -> None:
    page = write_value_report(tmp_path, found).read_text()
    assert tuple(re.findall(r"<h2>(.*?)</h2>", page)) == SECTIONS
    assert page.count("data:image/png") == 5
    assert "filled in by the model of demand" not in page
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "values", "gain_by_group", "habits", "sensitivity", "estimators",
    }  # fmt: skip
    assert found.decision.reasons[0].split("(")[0].strip()[1:20] in page
    assert "nan" not in re.sub(r"<[^>]+>|base64,[A-Za-z0-9+/=]+", "", page).lower().split()


def test_rows_and_tables_say_the_same(found: PanelValueEvaluation) -> None:
    rows, tables = build_rows(found, "shop_W"), build_tables(found)
    known = {(row.name, row.model, row.category): row for row in rows}
    for policy in found.policies:
        assert policy.gain is not None
        row = known["gain", policy.name, None]
        assert (row.value, row.lower, row.upper) == (policy.gain.value, policy.gain.lower, policy.gain.upper)
        line = tables["policies"].set_index("policy").loc[policy.name]
        assert line["gain"] == row.value
        assert line["ess"] == known["ess", policy.name, None].value
    assert {"value", "gain", "ess", "support_mass", "trimmed_mass", "gain_sensitivity_1.5", "gain_cost_share_0.5",
            "behavior_ece", "price_episodes", "regret", "log_mean"} <= {row.name for row in rows}  # fmt: skip
    assert len(tables["prices"]) == 3 * PRODUCTS * STORES * VALUED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origins": (4, 12)}, "held from one decision to the next"),
        ({"origins": (1, 2), "prediction_length": 1}, "cannot size an experiment"),
        ({"arguments": ValueArguments(value_segment="colour")}, "'colour', which panel"),
    ],
)
def test_what_cannot_be_valued_is_refused_at_the_door(
    panel: Panel, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(PanelError, match=message):
        evaluate_on_panel(ask(panel, **changes), build_holders(0.9), tmp_path)


def test_one_decision_unit_is_refused_with_the_remedy(panel: Panel, tmp_path: Path) -> None:
    one = panel.to_pandas().drop(columns="price_imputed")
    one = load_panel(one[one["product_id"] == "p00"])
    with pytest.raises(PanelError, match="one decision unit.*declare price zones"):
        evaluate_on_panel(ask(one), build_holders(0.9), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"propensity_floor": 0.0},
        {"history_periods": 1},
        {"price_persistence": 1.0},
        {"launch_margin": 0.0},
        {"cost_points": -0.1},
    ],
)
def test_settings_are_checked_at_birth(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        ValueArguments(**changes)


def test_items_are_held_by_log_log_inside_their_own_prices(panel: Panel) -> None:
    weeks = read_valued_weeks(panel, find_origins(panel, (4, 8, 12), 4)[0], QUICK)
    proposer = LogLogProposer(list(weeks.item_ids), "margin", COST_SHARE)
    history = panel.before(weeks.timestamps[0])
    prices = proposer.propose(history, history, 4)
    logged = history.frame.groupby("item_id")["price"]
    assert (prices >= logged.min() - 1e-9).all()
    assert (prices <= logged.max() + 1e-9).all()
    assert (prices < 0.99 * logged.max()).any()
