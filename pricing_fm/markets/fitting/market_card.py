"""The card of a fitted market: what it is, what fits, what does not; every number counted from the fit."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import yaml

from pricing_fm.markets.fitting.category_fit import CategoryFit
from pricing_fm.markets.fitting.estimate import Estimates
from pricing_fm.markets.fitting.fitted_market import FittedMarket
from pricing_fm.markets.fitting.predictive_checks import FITS, MISFIT, NEAR, PredictiveChecks

_EXPLANATIONS = {
    "units: periods without a sale": "absent rows are more than weeks of chance without a sale, if the log lacks them"
    " for other reasons as well (no stock, not listed); the fit treats them as unknown",
    "price: residual on log price of other products": "sales fall when other products of the store get cheaper:"
    " substitution, which a market of independent items does not have",
    "memory:": "sales remember longer, or more, than one short and one slow shock per layer",
    "residual: 0.5 % quantile": "the log has more near-empty weeks than the model: stock-outs, arrivals and delistings"
    " that it does not show",
    "price: residual in cuts": "the response to a cut is no constant elasticity",
    "price: residual in the period after a cut": "demand after a cut differs: stockpiling or its opposite, which the"
    " model does not have",
    "category: week-to-week": "totals of a category move by another amount than independent items would make them",
    "category: periods whose sales": "whole weeks are off by more than the shocks allow: holidays and events"
    " on dates that three yearly waves cannot hit",
    "manager:": "the price process has two states and no calendar; where no list price is logged the regular price is"
    " read off the prices, in the log and in the replicates, which is not the same process",
}


@dataclass(frozen=True)
class CardFacts:
    """What only a person knows about the source.

    Attributes:
        title: Headline.
        terms: Publisher and terms of the source.
        license: Licence identifier of the Hugging Face Hub for what is derived from it.
        study_only: True if neither the parameters nor logs simulated from them may be published.
        unit_value_prices: True if the price is spend over units, an average paid price.
        command: Command line that makes the same files again.
    """

    title: str
    terms: str
    license: str
    study_only: bool
    unit_value_prices: bool
    command: str


def render_market_card(
    market: FittedMarket, estimates: Estimates, checks: PredictiveChecks, facts: CardFacts, simulated: pd.DataFrame
) -> str:
    """Renders the card.

    Args:
        market: The fitted market.
        estimates: The fit that it came from.
        checks: Its checks.
        facts: What the numbers cannot say.
        simulated: The simulated panel beside the card.

    Returns:
        Markdown with Hub front matter.
    """
    front = {
        "license": facts.license,
        "pretty_name": facts.title,
        "task_categories": ["time-series-forecasting", "tabular-regression"],
        "tags": ["pricing", "demand", "simulated", "fitted-market"],
    }
    counted = "; ".join(f"{name}: {number:,}" for name, number in estimates.design.counted.items())
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {facts.title}",
        "",
        f"A market fitted to the panel `{market.name}` (`{market.fingerprint}`), checked against it, then"
        " simulated. Made by (`recipe.yaml` lies beside this card)",
        "",
        f"    {facts.command}",
        "",
        f"Source and terms: {facts.terms}.",
        "",
        *_render_terms(facts),
        f"{len(market.items):,} items fitted; {counted}. The last round moved no category's elasticity by more than"
        f" {estimates.last_change:.1e}.",
        "",
        *_render_files(simulated),
        "![checks](checks.png)",
        "",
        "## What was fitted",
        "",
        *_render_categories(market),
        "",
        "Elasticities are positive; deviations are between items (products, stores and items together). They describe"
        " the log: shocks are assumed not to move with prices, and no instrument says so.",
        "",
        "## What fits and what does not",
        "",
        *_render_checks(checks),
        "",
        "## Limits",
        "",
        *_render_limits(market, facts),
        "",
    ]
    return "\n".join(lines)


def _render_files(simulated: pd.DataFrame) -> list[str]:
    return [
        "| file | what it holds |",
        "|---|---|",
        "| `market.json` | categories: means, deviations, season, shocks, price process; settings for simulators |",
        "| `items.parquet`, `products.parquet`, `stores.parquet` | effects of the fitted items and groups |",
        f"| `panel.parquet`, `truth.parquet` | a market of new items: {len(simulated):,} rows; truth row for row |",
        "| `schema.yaml` | schema of the drawn panel |",
        "| `checks.csv`, `checks.png` | posterior-predictive checks |",
        "",
    ]


def _render_terms(facts: CardFacts) -> list[str]:
    if not facts.study_only:
        return []
    return [
        "**Study only.** The source's terms grant no redistribution: these parameters, and panels simulated from them,"
        " are for evaluation beside the data and are not for publication.",
        "",
    ]


def _render_categories(market: FittedMarket) -> list[str]:
    lifts = "".join(f" | {name}" for name in market.promotions)
    lines = [
        f"| category | items | elasticity | between items | median units | season, ±{lifts} | shock | memory"
        " | dispersion | cost share |",
        "|---" * (9 + len(market.promotions) + 1) + "|",
    ]
    settings = market.to_settings_dict()
    for number, fit in enumerate(market.categories):
        values = settings[fit.name]
        lift = "".join(f" | × {values[f'promotion_uplift_{name}']:.2f}" for name in market.promotions)
        cost = f"{values['cost_share']:.2f}" if "cost_share" in values else "-"
        lines.append(
            f"| {fit.name} | {int((market.items['category'] == number).sum()):,}"
            f" | {values['elasticity_mean']:.2f} ± {fit.mean_errors[1]:.2f} | {values['elasticity_deviation']:.2f}"
            f" | {values['volume_median']:.1f} | {100 * values['season_amplitude']:.0f} %{lift}"
            f" | {values['shock_scale']:.2f} | {values['shock_persistence']:.2f} | {values['dispersion']:.0f}"
            f" | {cost} |"
        )
    return lines


def _render_checks(checks: PredictiveChecks) -> list[str]:
    table = checks.table
    counts = table["verdict"].value_counts()
    lines = [
        f"{len(table)} checks on {len(checks.replicates)} replicates: {counts.get(FITS, 0)} inside the 90 % interval of"
        f" the replicates, {counts.get(NEAR, 0)} outside it by less than their tolerance,"
        f" {counts.get(MISFIT, 0)} do not fit."
        " All of them, with posterior-predictive p-values, are in `checks.csv`. Those that do not fit:",
        "",
        "| category | check | log | simulated, 5 to 95 % | p |",
        "|---|---|---|---|---|",
    ]
    wrong = table[table["verdict"] == MISFIT]
    for row in wrong.itertuples():
        lines.append(
            f"| {row.category} | {row.check} | {row.real:.3g} | {row.lower:.3g} to {row.upper:.3g}"
            f" | {row.p_value:.2g} |"
        )
    reasons = [
        f"* `{start}`: {text}." for start, text in _EXPLANATIONS.items() if wrong["check"].str.startswith(start).any()
    ]
    return [*lines, "", "What may stand behind it (not tested here):", "", *reasons] if reasons else lines


def _render_limits(market: FittedMarket, facts: CardFacts) -> list[str]:
    limits = [
        "* Items take no sales from each other, customers do not stock up or wait, rivals are absent.",
        "* Prices of new items come from a fitted process with two states, regular and cut. It keeps no row of the"
        " source and gives up timing: cuts fall on any week alike.",
        "* Deviations of level, elasticity and promotions are drawn independently of each other.",
        "* Replicates draw items from their posterior and shocks anew; category means and variances are held at their"
        " estimates, so bands are a little too narrow for few products.",
    ]
    if facts.unit_value_prices:
        limits.insert(
            0,
            "* **The price is spend over units, an average paid price, hence partly an outcome: elasticities fitted to"
            " it are biased** and describe the log alone.",
        )
    if all(fit.cost is None for fit in market.categories):
        limits.append("* No cost is logged: margins need an assumption.")
    elif any(_moves_with_price(fit) for fit in market.categories):
        worst = max(fit.cost.pass_through for fit in market.categories if fit.cost)
        limits.append(f"* The logged cost moves with the price (elasticity {worst:.2f}): no clean instrument.")
    if all(fit.stock is None for fit in market.categories):
        limits.append("* No stock is logged: sold-out periods cannot be seen, and sales are taken for demand.")
    else:
        limits.append("* Stock of new items is drawn afresh each period; what is left over is not carried on.")
    return limits


def _moves_with_price(fit: CategoryFit) -> bool:
    return fit.cost is not None and fit.cost.pass_through > 0.1
