"""Evaluate a base (and an adapter) against baselines: forecasts or prices on a real panel, or prices in a market.

Examples:
    python recipes/evaluate.py --base outputs/base --panel data/frat/panel.parquet --schema data/frat/schema.yaml \
        --prediction_length 8 --origins 8 16 24 --output_dir outputs/frat-evaluation
    python recipes/evaluate.py --base outputs/base --market retail --visible_weeks 26 --output_dir outputs/market
    python recipes/evaluate.py --config recipes/frat/evaluate_values.yaml
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pricing_fm.adapters import LoraArguments
from pricing_fm.evaluation.baseline_cache import BaselineCache
from pricing_fm.evaluation.baselines import AutoETS, LastValue, RecentQuantiles, SeasonalNaive
from pricing_fm.evaluation.boosted_trees import BoostedTrees
from pricing_fm.evaluation.forecaster import Baseline
from pricing_fm.evaluation.forecasting import ForecastEvaluation, evaluate_forecasters
from pricing_fm.evaluation.market import (
    ADAPTER_KINDS,
    AdaptationRecipe,
    MarketArguments,
    evaluate_market,
    simulate_evaluation_market,
)
from pricing_fm.evaluation.model import PolicyForecaster
from pricing_fm.evaluation.panel_value import (
    Costs,
    LogLogProposer,
    NetworkProposer,
    PanelValueTask,
    Proposer,
    ValueArguments,
    ValuedWeeks,
    build_rows,
    build_tables,
    evaluate_on_panel,
    write_value_report,
)
from pricing_fm.evaluation.pricing import PricingEvaluation
from pricing_fm.evaluation.pricing_baselines import build_price_rules
from pricing_fm.evaluation.report import write_forecast_report, write_pricing_report
from pricing_fm.evaluation.scores import build_ratio_rows, print_forecast_table
from pricing_fm.evaluation.seen_periods import SeenPeriods, find_seen_periods
from pricing_fm.evaluation.tasks import ForecastTask
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from pricing_fm.training.adapt import AdaptArguments, AdaptOptimArguments
from pricing_fm.training.policy_learning import PolicyArguments


@dataclass(frozen=True)
class EvaluateArguments:
    """What is evaluated on what."""

    base: tuple[str, ...] = field(metadata={"help": "Base folder or repository; several = seeds of the same model."})
    output_dir: str = field(metadata={"help": "Folder of results.json, plots and report.html."})
    adapter: tuple[str, ...] = field(
        default=(), metadata={"help": "Adapter folder or repository: one for all bases, or seeds of it on one base."}
    )
    zero_shot: bool = field(
        default=False, metadata={"help": "With adapters: also the bases without them, as model zero_shot."}
    )
    from_scratch: tuple[str, ...] = field(
        default=(), metadata={"help": "Bases trained on this panel alone, as model from_scratch."}
    )
    panel: str | None = field(default=None, metadata={"help": "Sales log to forecast: path or Hub dataset id."})
    schema: str | None = field(default=None, metadata={"help": "Schema of the panel."})
    category: str = field(default="all", metadata={"help": "Only forecast this category (exact value), or all."})
    market: Literal["retail"] | None = field(default=None, metadata={"help": "Simulated market to price in."})
    prediction_length: int = field(default=8, metadata={"help": "Periods to forecast at each origin."})
    origins: tuple[int, ...] = field(
        default=(8, 16, 24), metadata={"help": "Origins in periods before the panel's end."}
    )
    baselines: tuple[str, ...] = field(
        default=("seasonal_naive", "last_value", "recent_quantiles", "auto_ets", "lightgbm"),
        metadata={"help": "Baselines of a forecast; none = no baseline."},
    )
    covariates: Literal["both", "price", "flags", "none"] = field(
        default="both",
        metadata={"help": "What LightGBM and the networks may see of prices and promotions; theirs are masked."},
    )
    algorithms: tuple[str, ...] = field(
        default=("forecast", "structured", "cloning"),
        metadata={"help": f"Adapters trained in a market: {', '.join(ADAPTER_KINDS)}."},
    )
    cache: str = field(default=".cache/baselines", metadata={"help": "Folder of cached baselines; none = no cache."})
    threads: int = field(default=2, metadata={"help": "Threads of LightGBM and AutoETS."})
    seed: int = field(default=0, metadata={"help": "Seed of everything random."})

    def __post_init__(self) -> None:
        if (self.panel is None) == (self.market is None):
            raise ValueError("pass either --panel (forecasts) or --market (prices), and not both")
        if self.market is not None and max(len(self.base), len(self.adapter)) > 1:
            raise ValueError("--market takes one --base and at most one --adapter; run it once per base")
        if min(len(self.base), len(self.adapter)) > 1:
            raise ValueError("several adapters go with one --base, several bases with one --adapter")
        if self.zero_shot and not self.adapter:
            raise ValueError("--zero_shot compares bases with their adapters; pass --adapter, too")
        known = {"seasonal_naive", "last_value", "recent_quantiles", "auto_ets", "lightgbm", "none"}
        if unknown := sorted(set(self.baselines) - known):
            raise ValueError(f"unknown baselines {unknown}; choose from {sorted(known)}")
        if unknown := sorted(set(self.algorithms) - set(ADAPTER_KINDS)):
            raise ValueError(f"unknown algorithms {unknown}; choose from {', '.join(ADAPTER_KINDS)}")


def main(argv: Sequence[str] | None = None) -> list[ResultRow]:
    kinds = (
        EvaluateArguments,
        MarketArguments,
        AdaptArguments,
        PolicyArguments,
        RewardWeights,
        LoraArguments,
        AdaptOptimArguments,
        ValueArguments,
    )
    arguments = read_recipe(kinds, argv, description=__doc__)
    evaluate: EvaluateArguments = arguments[0]
    folder = Path(evaluate.output_dir)  # made when there is something to keep
    if arguments[-1].off_policy:
        rows, sources = evaluate_values(arguments, folder)
    elif evaluate.panel is not None:
        rows, sources = evaluate_forecasts(evaluate, folder)
    else:
        rows, sources = evaluate_policies(arguments, folder)
    save_recipe(folder, arguments)
    write_results(folder, build_results("evaluate", sources, rows))
    print(f"{folder / 'results.json'}, {folder / 'report.html'}")
    return rows


def evaluate_forecasts(evaluate: EvaluateArguments, folder: Path) -> tuple[list[ResultRow], list[DataSource]]:
    """Model and baselines at every origin of a real panel."""
    panel, seen = read_panel(evaluate)
    task = ForecastTask(task_name(panel), panel, evaluate.prediction_length, evaluate.origins)
    models = load_models(evaluate)
    cache = None if evaluate.cache == "none" else BaselineCache(Path(evaluate.cache))
    found = evaluate_forecasters(task, models, build_baselines(evaluate, task), cache, by_category=True)
    references = [name for name in found.steps["model"].unique() if name != "pricing_fm"]
    rows = [
        *found.rows,
        *build_ratio_rows(found.steps, "pricing_fm", references),
        *seen_rows(evaluate, seen, task.name),
    ]
    print_forecast_table(found.rows)
    for row in rows:
        if row.name.startswith("wql_ratio_to_"):
            print(f"{row.name}: {row.value:.3f} ({row.lower:.3f} to {row.upper:.3f})")
    folder.mkdir(parents=True, exist_ok=True)
    found.steps.to_parquet(folder / "steps.parquet")
    write_report(folder, found, rows, models[0].policy, panel, tuple(seen.values()))
    return rows, [DataSource(panel.name, panel.fingerprint())]


def read_panel(evaluate: EvaluateArguments) -> tuple[Panel, dict[str, SeenPeriods]]:
    """What is evaluated on, and which adapters have read it before; that is said at once."""
    whole = load_panel(str(evaluate.panel), schema=evaluate.schema)
    panel = whole if evaluate.category == "all" else whole.select_category(evaluate.category)
    how = evaluate.category, evaluate.prediction_length, evaluate.origins
    found = {adapter: find_seen_periods(adapter, whole, *how) for adapter in evaluate.adapter}
    seen = {adapter: one for adapter, one in found.items() if one is not None}
    for one in seen.values():
        print(one.describe())
    return panel, seen


def seen_rows(evaluate: EvaluateArguments, seen: dict[str, SeenPeriods], task: str) -> list[ResultRow]:
    """Of every adapter, the share of the judged periods that it has read; 0 = none that is known of."""
    shares = [seen[one].seen / seen[one].judged if one in seen else 0.0 for one in evaluate.adapter]
    return [
        ResultRow("share_of_judged_periods_seen", share, "pricing_fm", task, seed=seed)
        for seed, share in enumerate(shares)
    ]


def load_models(evaluate: EvaluateArguments) -> list[PolicyForecaster]:
    """The networks that were asked for, those that the report is about first."""
    adapters: Sequence[str | None] = evaluate.adapter or [None]
    pairs = [(base, adapter) for base in evaluate.base for adapter in adapters]
    named = [("pricing_fm", seed, *pair) for seed, pair in enumerate(pairs)]
    if evaluate.zero_shot:
        named += [("zero_shot", seed, base, None) for seed, base in enumerate(evaluate.base)]
    named += [("from_scratch", seed, base, None) for seed, base in enumerate(evaluate.from_scratch)]
    models = []
    for name, seed, base, adapter in named:
        policy = PricingPolicy.from_pretrained(base, adapter=adapter)
        if evaluate.covariates != "both":
            policy.processor.covariates = evaluate.covariates
        models.append(PolicyForecaster(policy, name, seed))
    return models


def task_name(panel: Panel) -> str:
    """Name of a task in result rows: the panel's folder or file, and its frequency."""
    return f"{panel.name}_{panel.frequency.name}"


def build_baselines(evaluate: EvaluateArguments, task: ForecastTask) -> list[Baseline]:
    """The baselines that were asked for."""
    offered: dict[str, Baseline] = {
        "seasonal_naive": SeasonalNaive(),
        "last_value": LastValue(),
        "recent_quantiles": RecentQuantiles(),
        "auto_ets": AutoETS(jobs=evaluate.threads),
        "lightgbm": BoostedTrees(
            task.prediction_length,
            task.quantile_levels,
            covariates=evaluate.covariates,
            threads=evaluate.threads,
            seed=evaluate.seed,
        ),
    }
    return [baseline for name, baseline in offered.items() if name in evaluate.baselines]


def write_report(
    folder: Path,
    found: ForecastEvaluation,
    rows: list[ResultRow],
    policy: PricingPolicy,
    panel: Panel,
    seen: Sequence[SeenPeriods],
) -> None:
    """report.html with forecasts, calibration and the demand curves of a few items, if the base sees prices at all."""
    curves = None
    if policy.processor.covariates in ("both", "price"):
        shown = panel.select_items(panel.item_ids[:: max(len(panel.item_ids) // 6, 1)][:6])
        curves = policy.demand_curve(shown, price_multipliers=[0.7, 0.8, 0.9, 1.0, 1.1, 1.2])
    write_forecast_report(folder, rows, found, panel, curves, [one.describe() for one in seen])


def evaluate_policies(arguments: Sequence[Any], folder: Path) -> tuple[list[ResultRow], list[DataSource]]:
    """Base, adapters and price rules in a market whose demand is known."""
    evaluate, market, how, policy, rewards, lora, optim, _ = arguments
    base = PricingPolicy.from_pretrained(evaluate.base[0], adapter=evaluate.adapter[0] if evaluate.adapter else None)
    recipe = AdaptationRecipe(replace(how, weeks=market.visible_weeks), policy, rewards, lora, optim)
    log, panel = simulate_evaluation_market(market)
    found = evaluate_market(
        base, log, panel, market, recipe, build_price_rules(panel), evaluate.algorithms, evaluate.seed
    )
    print_gaps(found)
    folder.mkdir(parents=True, exist_ok=True)
    found.items.to_csv(folder / "prices.csv", index=False)
    write_pricing_report(folder, found)
    return found.rows, [DataSource(panel.name, panel.fingerprint())]


def evaluate_values(arguments: Sequence[Any], folder: Path) -> tuple[list[ResultRow], list[DataSource]]:
    """What the policy, the base and log-log elasticity would have earned on the panel's own last weeks."""
    evaluate, cost_share, values = arguments[0], arguments[3].assumed_cost_share, arguments[-1]
    if evaluate.panel is None or max(len(evaluate.base), len(evaluate.adapter)) > 1 or evaluate.from_scratch:
        raise SystemExit("--off_policy takes a --panel, one --base, at most one --adapter and no --from_scratch")
    panel, seen = read_panel(evaluate)
    warnings = [one.describe() for one in seen.values()]

    def build_proposers(weeks: ValuedWeeks, costs: Costs) -> list[Proposer]:
        policy = PricingPolicy.from_pretrained(
            evaluate.base[0], adapter=evaluate.adapter[0] if evaluate.adapter else None
        )
        found: list[Proposer] = [NetworkProposer(policy, "pricing_fm", cost_share)]
        if evaluate.zero_shot:
            found.append(NetworkProposer(PricingPolicy.from_pretrained(evaluate.base[0]), "base_plan", cost_share))
        return [*found, LogLogProposer(list(weeks.item_ids), costs.objective, cost_share)]

    task = PanelValueTask(panel, evaluate.origins, evaluate.prediction_length, cost_share, values, evaluate.seed)
    found = evaluate_on_panel(task, build_proposers, folder / "steps")
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in build_tables(found).items():
        table.to_csv(folder / f"{name}.csv", index=False)
    decision = "\n".join([*warnings, found.describe()])
    (folder / "decision.txt").write_text(decision + "\n", encoding="utf-8")
    print(decision)
    write_value_report(folder, found, warnings)
    rows = [*build_rows(found, task_name(panel)), *seen_rows(evaluate, seen, task_name(panel))]
    return rows, [DataSource(panel.name, panel.fingerprint())]


def print_gaps(found: PricingEvaluation) -> None:
    """One line per policy, best first."""
    gaps = [row for row in found.rows if row.name == "gap_closed" and row.category is None]
    table = pd.DataFrame(
        [(row.model, row.value, row.lower, row.upper, row.n) for row in sorted(gaps, key=lambda row: -row.value)],
        columns=["policy", "gap_closed", "lower_90", "upper_90", "categories"],
    )
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    run_recipe(main)
