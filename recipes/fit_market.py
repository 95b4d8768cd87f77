"""Fit a market to a panel, check it by posterior-predictive replicates, and simulate a look-alike.

Example: python recipes/fit_market.py --panel data/frat/panel.parquet --schema data/frat/schema.yaml \
    --output_dir outputs/frat/market
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from pricing_fm import names
from pricing_fm.markets.fitting import FitSettings, FittedMarket, PredictiveChecks, check_market, estimate_market
from pricing_fm.markets.fitting.check_figure import draw_checks
from pricing_fm.markets.fitting.market_card import CardFacts, render_market_card
from pricing_fm.panel import load_panel
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe


@dataclass(frozen=True)
class FitMarketArguments:
    """What is fitted, and where it goes."""

    panel: str = field(metadata={"help": "Sales log: path or Hub dataset id."})
    output_dir: str = field(metadata={"help": "Folder to write into."})
    schema: str | None = field(
        default=None, metadata={"help": "Schema of the panel; none = its columns bear panel names."}
    )
    num_iterations: int = field(default=20, metadata={"help": "Rounds of the fit."})
    count_size: float | None = field(
        default=None, metadata={"help": "Units of one count; none = greatest common divisor of a product's units."}
    )
    num_replicates: int = field(default=50, metadata={"help": "Replicates of the posterior-predictive checks."})
    num_periods: int = field(default=104, metadata={"help": "Periods of the simulated panel."})
    seed: int = field(default=0, metadata={"help": "Seed of everything that is drawn."})


@dataclass(frozen=True)
class SourceTerms:
    """What the card says about the source."""

    title: str = field(default="Fitted market", metadata={"help": "Headline of the card."})
    terms: str = field(default="not stated", metadata={"help": "Publisher and terms of the source."})
    license: str = field(default="other", metadata={"help": "Licence identifier of the Hugging Face Hub."})
    study_only: bool = field(default=False, metadata={"help": "The source's terms do not allow publishing results."})
    unit_value_prices: bool = field(default=False, metadata={"help": "Prices are spend over units."})


def main(argv: Sequence[str] | None = None) -> PredictiveChecks:
    arguments, terms = read_recipe((FitMarketArguments, SourceTerms), argv, description=__doc__)
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    save_recipe(output, (arguments, terms))
    panel = load_panel(arguments.panel, schema=arguments.schema)
    console = Console()
    started = time.perf_counter()
    with Progress(console=console) as progress:
        rounds = progress.add_task("fit", total=arguments.num_iterations)
        settings = FitSettings(num_iterations=arguments.num_iterations, count_size=arguments.count_size)
        estimates = estimate_market(panel, settings, lambda done, _: progress.update(rounds, completed=done))
        fitted = time.perf_counter()
        market = FittedMarket.from_estimates(estimates, panel)
        replays = progress.add_task("check", total=arguments.num_replicates)
        checks = check_market(
            market,
            estimates,
            arguments.num_replicates,
            arguments.seed,
            lambda done, _: progress.update(replays, completed=done),
        )
    checked = time.perf_counter()
    market.save(output)
    checks.table.to_csv(output / "checks.csv", index=False)
    draw_checks(checks, estimates.design, terms.title, output / "checks.png")
    simulated, truth = market.simulate(arguments.num_periods, arguments.seed)
    simulated.to_parquet(output / "panel.parquet", index=False)
    truth.to_parquet(output / "truth.parquet", index=False)
    (output / "schema.yaml").write_text(yaml.safe_dump(_schema_of(market), sort_keys=False), encoding="utf-8")
    facts = CardFacts(
        terms.title,
        terms.terms,
        terms.license,
        terms.study_only,
        terms.unit_value_prices,
        "python recipes/fit_market.py --config recipe.yaml",
    )
    card = render_market_card(market, estimates, checks, facts, simulated)
    (output / "README.md").write_text(card, encoding="utf-8")
    _print_summary(console, market, checks)
    console.print(f"fit {fitted - started:.1f} s, checks {checked - fitted:.1f} s -> {output}")
    return checks


def _schema_of(market: FittedMarket) -> dict[str, object]:
    """Schema of the simulated panel: its columns bear panel names, but for the promotions."""
    promotions = list(market.promotions)
    schema: dict[str, object] = {"promotion": promotions} if promotions else {}
    absent = "missing" if market.zeros_unlisted else "zero"
    return {**schema, names.CATEGORY: names.CATEGORY, "absent_rows": absent, "frequency": market.frequency}


def _print_summary(console: Console, market: FittedMarket, checks: PredictiveChecks) -> None:
    table = Table("category", "elasticity", "between items", "shock", "inside", "near", "misfit")
    settings = market.to_settings_dict()
    for fit in market.categories:
        verdicts = checks.table.loc[checks.table["category"] == fit.name, "verdict"].value_counts()
        values = settings[fit.name]
        table.add_row(
            fit.name,
            f"{values['elasticity_mean']:.2f} ± {fit.mean_errors[1]:.2f}",
            f"{values['elasticity_deviation']:.2f}",
            f"{values['shock_scale']:.2f}",
            *(str(verdicts.get(verdict, 0)) for verdict in ("fits", "near", "misfit")),
        )
    console.print(table)


if __name__ == "__main__":
    run_recipe(main)
