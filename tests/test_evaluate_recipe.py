"""`recipes/evaluate.py` end to end: forecasts beside baselines on a panel, policies beside rules in a market."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.evaluation.seen_periods import find_seen_periods
from pricing_fm.panel import load_panel
from pricing_fm.results import DataSource, ResultRow, build_results, read_results, write_results
from recipes.evaluate import main
from tests.policy_artifacts import quick_collections, reseal, sales_log, write_adapter, write_base

FORECAST = ["--prediction_length", "3", "--origins", "3", "6", "--cache", "none"]
MARKET = [
    *("--market", "retail", "--num_markets", "2", "--num_periods", "40", "--visible_weeks", "12"),
    *("--decision_periods", "2", "--demand_steps", "2", "--policy_steps", "2", "--batch_size", "8", "--horizon", "4"),
    *("--lora_rank", "2", "--warmup_steps", "0"),
]


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate")
    for seed in (0, 1):
        write_base(folder / f"base{seed}", seed=seed)
    write_adapter(folder / "snacks", folder / "base0", "snacks", has_policy=False)
    sales_log(weeks=40).rename(columns={"units": "qty"}).to_parquet(folder / "shop.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump({"units": "qty", "promotion": "promotion"}))
    return folder


@pytest.fixture(scope="module")
def evaluate(place: Path) -> Callable[..., list[ResultRow]]:
    def call(name: str, *words: str, base: tuple[str, ...] = ("base0",)) -> list[ResultRow]:
        bases = [str(place / folder) for folder in base]
        return main(["--base", *bases, "--output_dir", str(place / name), *words])

    return call


@pytest.fixture(scope="module")
def panel_words(place: Path) -> list[str]:
    return ["--panel", str(place / "shop.parquet"), "--schema", str(place / "schema.yaml"), *FORECAST]


def values_of(rows: list[ResultRow], name: str) -> dict[tuple[str, int | None, int | None, str | None], float]:
    return {(row.model, row.seed, row.window, row.category): row.value for row in rows if row.name == name}


@pytest.fixture(scope="module")
def forecasts(evaluate, panel_words: list[str]) -> list[ResultRow]:
    baselines = ("--baselines", "seasonal_naive", "last_value", "recent_quantiles")
    return evaluate("forecasts", *panel_words, *baselines, base=("base0", "base1"))


def test_model_and_baselines_are_measured_at_every_origin(forecasts: list[ResultRow]) -> None:
    pooled = {key for key in values_of(forecasts, "wql") if key[3] is None}
    expected = {("pricing_fm", seed, window, None) for seed in (0, 1) for window in (0, 1)}
    expected |= {
        (name, None, window, None) for name in ("seasonal_naive", "last_value", "recent_quantiles") for window in (0, 1)
    }
    assert pooled == expected
    assert {key[3] for key in values_of(forecasts, "wql")} == {None, "snacks", "drinks"}
    assert {row.task for row in forecasts} == {"shop_W"}
    assert {"wql", "mase", "sql", "coverage_80", "wape"} <= {row.name for row in forecasts}
    wql = values_of(forecasts, "wql")
    assert wql["pricing_fm", 0, 0, None] != wql["pricing_fm", 1, 0, None]
    assert {row.name for row in forecasts if row.name.startswith("wql_ratio_to_")} == {
        f"wql_ratio_to_{name}" for name in ("seasonal_naive", "last_value", "recent_quantiles")
    }


def test_the_folder_holds_results_recipe_steps_and_report(forecasts: list[ResultRow], place: Path) -> None:
    folder = place / "forecasts"
    results = read_results(folder)
    assert results.recipe == "evaluate"
    assert list(results.metrics) == forecasts
    assert [source.name for source in results.data] == ["shop"]
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert (recipe["origins"], recipe["prediction_length"]) == ([3, 6], 3)
    steps = pd.read_parquet(folder / "steps.parquet")
    assert len(steps) == 8 * 3 * 2 * (2 + 3)
    report = (folder / "report.html").read_text()
    assert "seasonal naive" in report
    assert "<svg" in report or "data:image/png" in report


def test_a_saved_recipe_repeats_the_run(forecasts: list[ResultRow], place: Path) -> None:
    again = main(["--config", str(place / "forecasts" / "recipe.yaml"), "--output_dir", str(place / "again")])
    assert values_of(again, "wql") == values_of(forecasts, "wql")


def test_without_baselines_and_with_an_adapter_for_one_category(evaluate, panel_words, forecasts, place: Path) -> None:
    adapted = evaluate("adapted", *panel_words, "--baselines", "none", "--adapter", str(place / "snacks"))
    wql, plain = values_of(adapted, "wql"), values_of(forecasts, "wql")
    assert {key[0] for key in wql} == {"pricing_fm"}
    for window in (0, 1):
        assert wql["pricing_fm", 0, window, "drinks"] == pytest.approx(
            plain["pricing_fm", 0, window, "drinks"], rel=1e-6
        )
        assert wql["pricing_fm", 0, window, "snacks"] != plain["pricing_fm", 0, window, "snacks"]
    only = evaluate("only", *panel_words, "--baselines", "none", "--category", "snacks")
    found = values_of(only, "wql")
    assert found["pricing_fm", 0, 0, None] == pytest.approx(plain["pricing_fm", 0, 0, "snacks"])


def test_adapters_stand_beside_their_base_and_networks_of_the_panel_alone(
    evaluate, panel_words, forecasts, place: Path
) -> None:
    words = ["--baselines", "none", "--zero_shot", "true", "--from_scratch", str(place / "base1")]
    wql = values_of(evaluate("side", *panel_words, *words, "--adapter", *[str(place / "snacks")] * 2), "wql")
    plain = values_of(forecasts, "wql")
    pooled = {key[:2] for key in wql if key[3] is None}
    assert pooled == {("pricing_fm", 0), ("pricing_fm", 1), ("zero_shot", 0), ("from_scratch", 0)}
    for window in (0, 1):
        assert wql["zero_shot", 0, window, "snacks"] == plain["pricing_fm", 0, window, "snacks"]
        assert wql["from_scratch", 0, window, None] == plain["pricing_fm", 1, window, None]
        assert wql["pricing_fm", 0, window, "snacks"] != wql["zero_shot", 0, window, "snacks"]
    with pytest.raises(SystemExit):
        evaluate("mixed", *panel_words, "--adapter", "one", "two", base=("base0", "base1"))


@pytest.fixture
def learned(place: Path) -> Callable[..., str]:
    """An adapter of snacks whose folder says what it has read."""

    def call(name: str, support_end: str | None, weeks: int | None = 12, fingerprint: str | None = None) -> str:
        folder = write_adapter(place / name, place / "base0", "snacks", has_policy=False)
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"weeks": weeks, "support_end": support_end}))
        panel = load_panel(place / "shop.parquet", schema=place / "schema.yaml")
        source = DataSource("shop", fingerprint or panel.fingerprint())
        write_results(folder, build_results("adapt", [source], []))
        reseal(folder)
        return str(folder)

    return call


def test_an_adapter_that_has_read_the_weeks_it_is_judged_on_is_told_of(
    evaluate, panel_words, learned, place: Path, capsys
) -> None:
    panel = load_panel(place / "shop.parquet", schema=place / "schema.yaml")
    start, later = (panel.frequency.step(panel.last_observed, 1 - origin) for origin in (6, 3))
    adapters = {"clean": f"{start:%Y-%m-%d}", "late": f"{later:%Y-%m-%d}", "today": None}
    folders = [learned(name, end) for name, end in adapters.items()]
    words = ["--baselines", "none", "--category", "snacks"]
    rows = evaluate("seen", *panel_words, *words, "--adapter", *folders)
    shares = values_of(rows, "share_of_judged_periods_seen")
    assert [shares["pricing_fm", seed, None, None] for seed in range(3)] == [0.0, 0.5, 1.0]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING")]
    assert len(lines) == 2
    first = later - pd.Timedelta(weeks=12)
    last = later - pd.Timedelta(weeks=1)
    assert f"late has read {first:%Y-%m-%d} to {last:%Y-%m-%d}, 3 of the 6 periods" in lines[0]
    assert "(origins 6)" in lines[0]
    assert f"--support_end {start:%Y-%m-%d} or earlier" in lines[0]
    assert "6 of the 6 periods" in lines[1]
    assert "has read" in (place / "seen" / "report.html").read_text()


def test_what_an_adapter_has_read_of_a_log_that_has_grown_is_not_recorded(place: Path, learned) -> None:
    panel = load_panel(place / "shop.parquet", schema=place / "schema.yaml")
    how = panel, "snacks", 3, (3, 6)
    grown = find_seen_periods(learned("grown", None, fingerprint="sha256:other"), *how)
    assert grown is not None
    assert not grown.is_recorded
    assert "not recorded" in grown.describe()
    assert find_seen_periods(learned("none", None, weeks=0), *how) is None
    assert find_seen_periods(learned("other", None), panel, "drinks", 3, (3, 6)) is None
    assert find_seen_periods(str(place / "snacks"), *how) is None


@pytest.mark.parametrize("covariates", ["none", "flags", "price"])
def test_a_base_that_sees_less_is_measured_like_any_other(evaluate, panel_words, place: Path, covariates: str) -> None:
    write_base(place / covariates, covariates=covariates)
    rows = evaluate(f"sees-{covariates}", *panel_words, "--baselines", "none", base=(covariates,))
    assert ("pricing_fm", 0, 0, None) in values_of(rows, "wql")
    assert (place / f"sees-{covariates}" / "report.html").is_file()


def test_prices_are_valued_on_the_panels_own_weeks(evaluate, panel_words, place: Path, capsys) -> None:
    words = ["--off_policy", "true", "--value_replicates", "100", "--value_draws", "2", "--history_periods", "30"]
    rows = evaluate("values", *panel_words, *words, "--zero_shot", "true", "--adapter", str(place / "snacks"))
    folder = place / "values"
    assert list(read_results(folder).metrics) == rows
    assert {row.model for row in rows} >= {"manager"}
    assert {"log_mean", "price_episodes"} <= {row.name for row in rows}
    prices = pd.read_csv(folder / "prices.csv")
    assert set(prices["policy"]) == {"pricing_fm", "base_plan", "log_log_elasticity"}
    assert len(prices) == 3 * 8 * 6
    page = (folder / "report.html").read_text()
    assert "May a policy be launched?" in page
    assert (folder / "decision.txt").read_text().strip() in capsys.readouterr().out
    policies = pd.read_csv(folder / "policies.csv")
    assert set(policies["verdict"]) <= {"launch", "do_not_launch", "experiment_needed"}


@pytest.mark.parametrize("words", [["--market", "retail"], ["--from_scratch", "base1"]])
def test_values_need_a_panel_and_one_policy(evaluate, panel_words, words: list[str]) -> None:
    given = [] if "--market" in words else panel_words
    with pytest.raises(SystemExit, match="--off_policy takes a --panel"):
        evaluate("refused", *given, *words, "--off_policy", "true")


def test_policies_are_measured_in_a_market(evaluate, place: Path, capsys) -> None:
    rows = evaluate("market", *MARKET, "--algorithms", "forecast", "structured")
    gaps = {row.model: row for row in rows if row.name == "gap_closed" and row.category is None}
    assert {
        "manager",
        "oracle",
        "last_price",
        "cost_plus",
        "base_plan",
        "adapter_forecast",
        "adapter_structured",
    } <= set(gaps)
    assert gaps["oracle"].value == pytest.approx(1.0)
    assert gaps["manager"].value == 0.0
    assert gaps["adapter_structured"].k == 12
    shown = capsys.readouterr().out
    assert shown.index("oracle") < shown.index("manager")
    folder = place / "market"
    assert read_results(folder).recipe == "evaluate"
    prices = pd.read_csv(folder / "prices.csv")
    assert set(prices["policy"]) >= set(gaps)
    assert "of the gap between the manager" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "either --panel"),
        (["--panel", "x.parquet", "--market", "retail"], "either --panel"),
        (["--market", "bazaar"], "bazaar"),
        (["--market", "retail", "--algorithms", "magic"], "magic"),
        (["--panel", "x.parquet", "--baselines", "oracle"], "oracle"),
        (["--panel", "x.parquet", "--horizons", "3"], "unknown key --horizons"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(evaluate, capsys, words: list[str], said: str) -> None:
    with pytest.raises(SystemExit):
        evaluate("nothing", *words)
    assert said in capsys.readouterr().err


def test_a_market_takes_one_base(evaluate, capsys) -> None:
    with pytest.raises(SystemExit):
        evaluate("two", *MARKET, base=("base0", "base1"))
    assert "one --base" in capsys.readouterr().err


def test_wrong_folders_and_categories_are_named_and_leave_no_folder_behind(
    evaluate, panel_words: list[str], place: Path
) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        evaluate("wrong", *panel_words, base=("nowhere",))
    for words in ([], ["--off_policy", "true"]):
        with pytest.raises(PanelError, match="no category 'snack'; it has 'drinks', 'snacks'. Did you mean 'snacks'?"):
            evaluate("wrong", *panel_words, *words, "--category", "snack")
    with pytest.raises(ArtifactError, match="no such folder"):
        evaluate("wrong", *MARKET, base=("nowhere",))
    assert not (place / "wrong").exists()
