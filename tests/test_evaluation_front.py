"""Fronts beside the truth of a market: who knows demand is not off the front, and who does not is told by how much."""

from pathlib import Path

import numpy as np
import pytest

from pricing_fm.evaluation.front import FrontComparison, compare_fronts, true_terms
from pricing_fm.evaluation.front_figure import plot_fronts
from pricing_fm.evaluation.market import MarketArguments, simulate_evaluation_market
from pricing_fm.markets import SimulatedLog, compute_outcome
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.options import OWN, PriceOptions
from pricing_fm.policy.planning import PlannedValue
from pricing_fm.policy.trade_off import PlanTerms, plan_front
from recipes import front
from tests.policy_artifacts import write_base

MARKET = MarketArguments(num_markets=3, num_periods=40, market_seed=7777)
SWEEPS = {"units": (0.0, 0.1, 0.5, 1.0), "price_change": (0.0, 0.1, 1.0)}
ROLLOUTS = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("truth") / "base")


@pytest.fixture(scope="module")
def market(base: Path) -> tuple[SimulatedLog, PriceOptions]:
    log, panel = simulate_evaluation_market(MARKET)
    return log, PricingPolicy.from_pretrained(base).price_options(panel, prediction_length=3)


@pytest.fixture(scope="module")
def truth(market: tuple[SimulatedLog, PriceOptions]) -> PlanTerms:
    return true_terms(*market, num_rollouts=ROLLOUTS)


@pytest.fixture(scope="module")
def found(market: tuple[SimulatedLog, PriceOptions], truth: PlanTerms) -> FrontComparison:
    return compare_fronts(market[1], RewardWeights(), SWEEPS, 0.5, truth)


def test_the_truth_of_a_price_is_what_the_market_says(market, truth: PlanTerms) -> None:
    log, options = market
    ids = list(log.items["item_id"])
    place = [ids.index(item) for item in options.situation.item_ids]
    prices = np.ravel(log.state.list_price).astype(float)
    for column in (0, 20, options.prices.shape[1] + OWN):
        prices[place] = options.prices[:, column]
        outcome = compute_outcome(log, prices, 3, num_rollouts=ROLLOUTS)
        np.testing.assert_allclose(truth.mean["margin"][:, column], outcome.value[place], rtol=1e-9)
        np.testing.assert_allclose(truth.units[:, column], outcome.sales.sum(1)[place], rtol=1e-9)


def test_who_plans_on_the_truth_is_on_the_front(market, truth: PlanTerms) -> None:
    _, options = market
    known = compare_of(options, truth, truth)
    assert np.abs(known["regret"]).max() < 1e-12
    planned = known[known["kind"] == "planned"]
    assert np.abs(planned["margin_lost"]).max() < 1e-9


def compare_of(options: PriceOptions, believed: PlanTerms, truth: PlanTerms):
    """The truth of plans made on some beliefs."""
    plan = plan_front(options, believed, RewardWeights(), SWEEPS, 0.0)
    best = plan_front(options, truth, RewardWeights(), SWEEPS, 0.0)
    rows = np.arange(len(options))
    values = [truth.value(weights).mean for weights in plan.weights]
    regret = [
        value[rows, good].sum() - value[rows, chosen].sum()
        for value, good, chosen in zip(values, best.columns, plan.columns, strict=True)
    ]
    return plan.table.assign(regret=regret, margin_lost=best.table["margin"] - plan.table["margin"])


def test_an_untrained_network_is_off_the_front_by_what_its_prices_lose(found: FrontComparison, market, truth) -> None:
    planned = found.achieved[found.achieved["kind"] == "planned"]
    assert (planned["regret"] > -1e-4).all()
    assert planned["regret"].max() > 0.01
    lost = planned["margin_lost"].dropna()
    assert len(lost) >= 4
    assert lost.max() > 0.005
    assert lost.min() > -0.005  # a chord of the front may lie a little below the best prices between two points
    # The first point of every sweep weighs margin alone: its regret is the margin that is lost.
    first = planned[planned["weight"] == 0.0]
    best = truth.mean["margin"]
    rows, options = np.arange(len(best)), market[1]
    column = options.choose(PlannedValue(best, best[..., None]), 0.0)
    gain = best[rows, column].sum() / abs(best[:, OWN].sum()) - 1
    assert (first["regret"] + first["margin_change"]).to_numpy() == pytest.approx(gain, abs=1e-9)


def test_views_hold_the_same_points_and_current_prices_are_where_they_are(found: FrontComparison) -> None:
    keys = ["sweep", "kind", "weight"]
    assert found.achieved[keys].equals(found.believed[keys])
    for sweep, points in found.believed.groupby("sweep"):
        weights = set(found.possible.loc[found.possible["sweep"] == sweep, "weight"])
        assert set(points["weight"].dropna()) < weights
    for table in (found.achieved, found.possible):
        current = table[table["kind"] == "current"]
        assert current[["margin_change", "units_change", "changed"]].abs().to_numpy().max() < 1e-12


def test_a_figure_has_a_pane_per_sweep_with_all_its_points(found: FrontComparison) -> None:
    panes = plot_fronts(found, "a market").axes
    assert [axes.get_xlabel() for axes in panes] == [
        "units against current prices",
        "share of revenue whose prices stay",
    ]
    for axes, sweep in zip(panes, SWEEPS, strict=True):
        drawn = sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o")
        assert drawn == 2 * len(SWEEPS[sweep])
    assert not plot_fronts(FrontComparison(found.believed), "a log").axes[0].get_title()


def test_the_legend_explains_hollow_points_where_there_are_any(found: FrontComparison) -> None:
    for beaten in (False, True):
        table = found.believed.assign(dominated=beaten)
        (legend,) = plot_fronts(FrontComparison(table), "a log").legends
        labels = [text.get_text() for text in legend.get_texts()]
        assert any(label.startswith("hollow: another point") for label in labels) == beaten


def test_a_later_start_and_foreign_items_are_refused(market, base: Path) -> None:
    log, options = market
    _, panel = simulate_evaluation_market(MARKET)
    late = PricingPolicy.from_pretrained(base).price_options(panel, prediction_length=3, decision_lead=1)
    with pytest.raises(ValueError, match="starts 1 period"):
        true_terms(log, late)
    other, _ = simulate_evaluation_market(MarketArguments(num_markets=1, num_periods=30, market_seed=7778))
    with pytest.raises(ValueError, match="not in the market's log"):
        true_terms(other, options)


def test_the_recipe_writes_what_it_found(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = f"--base {base} --output_dir {tmp_path / 'out'} --market retail --num_markets 2 --num_periods 30"
    found = front.main([*words.split(), "--decision_periods", "2", "--units_weights", "0", "0.5"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "front.csv", "front.json", "front.png", "recipe.yaml", "results.json",
    }  # fmt: skip
    assert (found.believed["sweep"] == "units").sum() == 4
    assert "off the" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, message",
    [
        (["--panel", "a", "--market", "retail"], "not both"),
        (["--market", "retail", "--units_weights", "-1"], "at least 0"),
        (["--market", "retail", "--stock_target", "1"], "without stock"),
        (["--market", "retail", "--caution", "-1"], "--caution"),
    ],
)
def test_the_recipe_says_what_is_wrong(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        front.main(["--base", "nowhere", "--output_dir", "out", *words])
    assert message in capsys.readouterr().err + str(stopped.value)
