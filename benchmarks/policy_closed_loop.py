"""A price every week for a quarter, where looking ahead is worth something: learned policies beside planners.

Families of retail markets whose optimum is a dynamic program: customers who remember prices, pantries, fresh goods.
Sellers see the last 26 weeks, what their own prices did included, and decide anew every week. In the same run: plans
on the base's own curve (for the coming week, and for eight weeks held), a dynamic program over the stock on that curve,
the logged manager (0), the optimum (1), and who knows the market and looks at each week alone.

Results are kept in OUTPUT_DIR/categories.csv as they come; a second start goes on from there.

    python benchmarks/policy_closed_loop.py --base model_cards/pricing-fm-nano --output_dir outputs/closed_loop
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from policy_ablation import CAUTION, DIAL, REWARDS, check_same_run
from policy_ablation_trials import build_trials
from rich.console import Console
from rich.progress import Progress

from pricing_fm.evaluation.closed_loop import (
    Seller,
    Week,
    logged_manager,
    oracle_seller,
    sell_for_weeks,
    solve_markets,
)
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.evaluation.policy_choices import (
    LadderChoice,
    best_prices,
    planner_scores,
    policy_scores,
    read_choices,
)
from pricing_fm.evaluation.policy_trials import learn_policy, read_category
from pricing_fm.evaluation.stock_plan import stock_scores
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.metrics.bootstrap import stratified_bootstrap
from pricing_fm.metrics.value import compute_gap_closed
from pricing_fm.panel import load_panel
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.results import DataSource, ResultRow, build_results, write_results

FAMILIES = ("stockpiling", "fresh", "reference_price")
LOGGED_WEEKS, VISIBLE_WEEKS, PRODUCTS = 60, 26, 6
LEVEL = 0.9
SIDES = {"knows the market": "black", "plans on the demand curve": "C1", "learned values and policies": "C0"}
Score = Callable[[LadderChoice, Week], np.ndarray]


def main() -> None:
    arguments = read_arguments()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model, processor, fingerprint = load_base(arguments.base)
    model.requires_grad_(False)
    check_same_run(folder / "run.json", arguments, fingerprint, ("families", "rollouts"))
    base = PricingPolicy(model, processor, base_folder=Path(arguments.base))
    gc.freeze()  # what was loaded stays; a collection after every adapter would go through it again
    file = folder / "categories.csv"
    table, sources = pd.read_csv(file) if file.is_file() else pd.DataFrame(), []
    with Progress() as progress:
        for family in arguments.families:
            log = simulate(family, arguments)
            sources.append(DataSource(f"{family}-{arguments.test_seed}", load_panel(visible(log)).fingerprint()))
            sellers = build_sellers(base, log, arguments)
            bar = progress.add_task(family, total=len(sellers) * arguments.rollouts)
            for name, build in sellers.items():
                for rollout in range(1, arguments.rollouts + 1):
                    if not is_done(table, family, name, rollout):
                        part = sell(log, build(), family, name, arguments.weeks, rollout)
                        table = part if table.empty else pd.concat([table, part], ignore_index=True)
                        table.to_csv(file, index=False, float_format="%.7g")
                    progress.advance(bar)
    shares = close_gaps(table)
    rows = summary_rows(shares, arguments.seed)
    write_results(folder, build_results("policy_closed_loop", sources, rows))
    render_figure(rows).savefig(folder / "closed_loop.png", dpi=130)
    show = pd.DataFrame([(row.task, row.model, row.name, row.value, row.lower, row.upper, row.n) for row in rows])
    Console(width=150).print(show.round(3).to_string(index=False, header=False))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of the base")
    parser.add_argument("--output_dir", required=True, help="categories.csv, results.json, closed_loop.png")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), help="families of retail markets")
    parser.add_argument("--categories", type=int, default=6, help="categories of each family, six products each")
    parser.add_argument("--weeks", type=int, default=13, help="weeks in which prices are set")
    parser.add_argument("--rollouts", type=int, default=1, help="repetitions on other luck")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of an adapter")
    parser.add_argument("--learning_rate", type=float, default=1e-2, help="peak learning rate")
    parser.add_argument("--confounding", nargs=2, type=float, default=[-0.9, 0.9], help="range of the followers' own")
    parser.add_argument("--test_seed", type=int, default=960_000, help="seed of the markets")
    parser.add_argument("--seed", type=int, default=0, help="seed of adapters and bootstrap")
    return parser.parse_args()


def simulate(family: str, arguments: argparse.Namespace) -> SimulatedLog:
    """Logged markets of a family."""
    seed = arguments.test_seed + FAMILIES.index(family) if family in FAMILIES else arguments.test_seed + 50
    low, high = arguments.confounding
    return simulate_log(
        RetailSettings(num_products=PRODUCTS),
        ManagerSettings(confounding=(low, high)),
        LogSettings(
            num_markets=arguments.categories, num_periods=LOGGED_WEEKS, seed=seed, family=family, name=f"m{seed}"
        ),
    )


def visible(log: SimulatedLog) -> pd.DataFrame:
    """The columns that sellers see."""
    return log.panel[[column for column in VISIBLE_COLUMNS if column in log.panel]]


def build_sellers(
    base: PricingPolicy, log: SimulatedLog, arguments: argparse.Namespace
) -> dict[str, Callable[[], Seller]]:
    """Sellers by name, each made ready when it is its turn."""
    levels = np.asarray(base.model.config.quantile_levels)
    trials = build_trials(arguments.steps, arguments.learning_rate)
    panel = load_panel(visible(log)).last_periods(VISIBLE_WEEKS)
    categories = {category: panel.select_category(category) for category in panel.categories}

    @cache
    def learn(name: str) -> PricingPolicy:
        trial = trials[name]
        readings = {
            category: read_category(base, shown, trial.policy.horizon, REWARDS, 6, 32, arguments.seed)
            for category, shown in categories.items()
        }
        return learn_policy(base, categories, readings, trial, REWARDS, arguments.seed)

    def learned(name: str, periods: int, dial: float) -> Callable[[], Seller]:
        def build() -> Seller:
            policy = learn(name)
            return decide_weekly(policy, periods, lambda choice, _: policy_scores(choice, dial, CAUTION))

        return build

    def planned(periods: int, scores: Score) -> Callable[[], Seller]:
        return lambda: decide_weekly(base, periods, scores)

    def stocked(choice: LadderChoice, week: Week) -> np.ndarray:
        return stock_scores(choice, week.panel, levels, week.stock, is_held=False)

    sellers: dict[str, Callable[[], Seller]] = {
        "manager": lambda: logged_manager(log),
        "optimum": lambda: oracle_seller(solve_markets(log, arguments.weeks)),
        "myopic oracle": lambda: oracle_seller(solve_markets(log, arguments.weeks), is_myopic=True),
        "plan, one week": planned(1, lambda choice, _: planner_scores(choice, CAUTION)),
        "plan, held eight weeks": planned(8, lambda choice, _: planner_scores(choice, CAUTION)),
        "stock program": planned(8, stocked),
        "stock program, one week": planned(1, stocked),
        "base's heads, one week": planned(1, lambda choice, _: policy_scores(choice, DIAL, CAUTION)),
    }
    for name, periods, dial in (
        ("structured", 1, DIAL), ("structured", 8, DIAL), ("structured", 8, 0.0), ("discount 0.9", 1, DIAL),
        ("awac", 1, DIAL), ("raw", 8, 0.0), ("conservative", 8, 0.0), ("cloning", 8, 0.0),
    ):  # fmt: skip
        label = f"{name}, policy alone" if dial == 0.0 else f"{name}, {'one week' if periods == 1 else 'held'}"
        sellers[label] = learned(name, periods, dial)
    return sellers


def decide_weekly(policy: PricingPolicy, periods: int, scores: Score) -> Seller:
    """Reads the log anew every week and charges the price of the highest score."""

    def choose(week: Week) -> np.ndarray:
        choice = read_choices(policy, week.panel, week.list_prices, periods, week.plan(periods))
        return best_prices(choice, scores(choice, week))

    return choose


def is_done(table: pd.DataFrame, family: str, seller: str, rollout: int) -> bool:
    """Whether a run stands in the table."""
    if table.empty:
        return False
    return bool(((table["family"] == family) & (table["seller"] == seller) & (table["rollout"] == rollout)).any())


def sell(log: SimulatedLog, seller: Seller, family: str, name: str, weeks: int, rollout: int) -> pd.DataFrame:
    """Reward of every category under one seller."""
    rewards = sell_for_weeks(log, seller, weeks, VISIBLE_WEEKS, rollout).sum(axis=1)
    totals = log.items.assign(reward=rewards).groupby("category")["reward"].sum().reset_index()
    return totals.assign(family=family, seller=name, rollout=rollout)


def close_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the gap between manager and optimum, one row per family and category, one column per seller."""
    means = table.groupby(["family", "category", "seller"])["reward"].mean().unstack()
    shares = {
        seller: compute_gap_closed(means[seller], means["manager"], means["optimum"]).shares
        for seller in dict.fromkeys(table["seller"])
        if {"manager", "optimum"} <= set(means)
    }
    return pd.DataFrame(shares, index=means.index)


def summary_rows(shares: pd.DataFrame, seed: int) -> list[ResultRow]:
    """Interquartile means, and paired gains over the plan that is held for eight weeks."""
    rows = []
    for family, group in shares.groupby(level="family"):
        for seller in shares:
            pairs = [("gap_closed", group[seller])]
            if seller != "plan, held eight weeks" and "plan, held eight weeks" in shares:
                pairs.append(("gain_over_plan", group[seller] - group["plan, held eight weeks"]))
            for metric, values in pairs:
                kept = values.dropna().to_numpy()
                if len(kept):
                    found = stratified_bootstrap(kept, ["category"] * len(kept), level=LEVEL, seed=seed)
                    rows.append(
                        ResultRow(
                            metric, found.value, seller, str(family), lower=found.lower, upper=found.upper,
                            n=len(kept), seed=seed,
                        )
                    )  # fmt: skip
    return rows


def render_figure(rows: list[ResultRow]) -> plt.Figure:
    """One panel per family, sellers from top to bottom."""
    shares = [row for row in rows if row.name == "gap_closed" and row.model not in ("manager", "optimum")]
    families = list(dict.fromkeys(row.task for row in shares))
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.5 * len(families), 4.9), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, family in zip(axes[0], families, strict=True):
        here = [row for row in shares if row.task == family]
        for place, row in enumerate(here):
            color = SIDES[side_of(row.model)]
            error = [[row.value - (row.lower or 0.0)], [(row.upper or 0.0) - row.value]]
            axis.errorbar(row.value, place, xerr=error, marker="o", capsize=2, color=color)
        axis.set_yticks(range(len(here)), [row.model for row in here])
        axis.axvline(0, color="grey", lw=0.8)
        axis.axvline(1, color="grey", lw=0.8)
        axis.set_title(family)
        axis.set_xlabel("share of the gap closed")
    axes[0, 0].invert_yaxis()
    marks = [Line2D([], [], marker="o", color=color, label=side) for side, color in SIDES.items()]
    title = "0 = the manager, 1 = the optimum; interquartile mean with its 90 % interval"
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False, fontsize=9, title=title)
    return figure


def side_of(seller: str) -> str:
    """What a seller decides by; a key of `SIDES`."""
    if "oracle" in seller:
        return "knows the market"
    return "plans on the demand curve" if "plan" in seller or "program" in seller else "learned values and policies"


if __name__ == "__main__":
    main()
