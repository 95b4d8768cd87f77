"""Which way to learn a policy from logged prices is worth what: one held price, judged by the market's truth.

Every trial trains an adapter of the decision heads per category, on what the base's trunk says of 26 visible weeks;
demand stays the base's own. Beside them in the same run: the base's plan on its own curve, a dynamic program over the
stock on it, the base's own heads, the manager (0), the oracle (1) and the best held price of one who knows the market.
Every price in 0.7 to 1.3 of the list price is open to all; `supported` closes those the item was never sold at.

Results are kept in OUTPUT_DIR/categories.csv as they come; a second start goes on from there.

    python benchmarks/policy_ablation.py --base model_cards/pricing-fm-nano --output_dir outputs/policies
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from policy_ablation_report import print_tables, render_figure, summary_rows
from policy_ablation_trials import CONTINUOUS, UNDER_CONFOUNDING, build_trials
from rich.progress import Progress

from pricing_fm.evaluation.few_shot_markets import (
    DecisionTruth,
    FewShotMarketArguments,
    find_truth,
    load_visible,
    simulate_categories,
)
from pricing_fm.evaluation.policy_choices import (
    LadderChoice,
    draw_chances,
    keep_supported,
    planner_scores,
    policy_scores,
    read_choices,
)
from pricing_fm.evaluation.policy_trials import ContinuousTrial, Trial, learn_actor_prices, learn_policy, read_category
from pricing_fm.evaluation.stock_plan import stock_scores
from pricing_fm.markets.core import get_inventory
from pricing_fm.metrics.value import compute_gap_closed
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.results import DataSource, build_results, write_results
from pricing_fm.training.policy_learning import FROM_THE_CURVE, PolicyArguments

MIXED, FOLLOWER = "mixed", "demand_follower"
# As many as there are categories of each size by default, so that all of them are met.
MIXED_MANAGERS = (FOLLOWER, "hi_lo", "epsilon_ladder")
LOGGED_WEEKS, DECISION_WEEKS = 60, 8
DIALS, CAUTIONS, DIAL, CAUTION = (0.0, 300.0, 3000.0, np.inf), (0.0, 1.0), 3000.0, 0.5
REWARDS = RewardWeights()


@dataclass(frozen=True)
class Arena:
    """Categories with a decision to make, and what every candidate price is worth in them.

    Attributes:
        name: Correlation of managers with hidden demand, or `mixed`.
        truth: What decisions are worth.
        panel: The visible weeks of all categories.
        visible: The same by category.
        values: Expected profit of every item at every candidate price, currency, `(items, candidates)`.
    """

    name: str
    truth: DecisionTruth
    panel: Panel
    visible: dict[str, Panel]
    values: np.ndarray

    @property
    def stock(self) -> np.ndarray:
        """Units at the decision, `(items,)`, infinite = unlimited."""
        logs = self.truth.logs
        found = {
            item: units
            for log in logs
            for item, units in zip(
                log.items["item_id"],
                np.broadcast_to(get_inventory(log.parameters, log.state), log.parameters.shape).ravel(),
                strict=True,
            )
        }
        return np.array([found[item] for item in self.truth.item_ids])

    def gap_closed(self, chances: np.ndarray) -> np.ndarray:
        """Share of the gap per category if candidates are charged with these chances, `(categories,)`."""
        totals = np.bincount(self.truth.categories, (chances * self.values).sum(axis=1))
        return compute_gap_closed(totals, self.truth.manager, self.truth.oracle).shares


def main() -> None:
    arguments = read_arguments()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    model, processor, fingerprint = load_base(arguments.base)
    model.requires_grad_(False)
    check_same_run(folder / "run.json", arguments, fingerprint, ("markets", "only", "seeds", "seed"))
    base = PricingPolicy(model, processor, base_folder=Path(arguments.base))
    trials = build_trials(arguments.steps, arguments.learning_rate)
    gc.freeze()  # what was loaded stays; a collection after every adapter would go through it again
    table, arenas = Table(folder / "categories.csv"), {}
    with Progress() as progress:
        bar = progress.add_task("markets", total=len(arguments.markets))
        for name in arguments.markets:
            arenas[name] = build_arena(base, name, arguments)
            measure_planners(base, arenas[name], table)
            progress.advance(bar)
        for seed in range(arguments.seeds):
            for name, arena in arenas.items():
                wanted = trials if name == MIXED else {one: trials[one] for one in UNDER_CONFOUNDING}
                wanted = {one: trial for one, trial in wanted.items() if not arguments.only or one in arguments.only}
                bar = progress.add_task(f"markets {name}, seed {seed}", total=len(wanted))
                for _ in measure_trials(base, arena, wanted, seed, table, arguments.batches, arguments.only):
                    progress.advance(bar)
    sources = [DataSource(f"shops-{name}", arena.panel.fingerprint()) for name, arena in arenas.items()]
    rows = summary_rows(table.frame, arguments.seed)
    write_results(folder, build_results("policy_ablation", sources, rows))
    print_tables(rows)
    render_figure(table.frame).savefig(folder / "policies.png", dpi=130)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of the base")
    parser.add_argument("--output_dir", required=True, help="categories.csv, results.json, policies.png")
    parser.add_argument("--categories", type=int, default=15, help="held-out categories of each kind of market")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of windows and first values")
    parser.add_argument(
        "--markets", nargs="+", default=[MIXED, "-0.9", "0.0", "0.5", "0.9"],
        help="correlations of all managers' prices with hidden demand; mixed = three kinds of managers",
    )  # fmt: skip
    parser.add_argument("--only", nargs="*", default=[], help="only these trials")
    parser.add_argument("--weeks", type=int, default=26, help="visible weeks")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of an adapter")
    parser.add_argument("--learning_rate", type=float, default=1e-2, help="peak learning rate")
    parser.add_argument("--batches", type=int, default=6, help="batches of 32 windows that a category is read in")
    parser.add_argument("--reference_share", type=float, default=0.25, help="share of categories that remember prices")
    parser.add_argument("--stocked_share", type=float, default=0.7, help="share of categories with a stock")
    parser.add_argument("--test_seed", type=int, default=950_000, help="seed of the markets")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    return parser.parse_args()


def check_same_run(file: Path, arguments: argparse.Namespace, fingerprint: str, more: Sequence[str]) -> None:
    """Scores of other settings must not stand beside new ones; of the arguments `more`, values may be added."""
    free = ("base", "output_dir", *more)
    run = {"base": fingerprint, **{name: value for name, value in vars(arguments).items() if name not in free}}
    if file.is_file() and json.loads(file.read_text()) != run:
        raise SystemExit(f"{file.parent} holds scores of another base or other settings; choose another --output_dir")
    file.write_text(json.dumps(run, indent=1) + "\n")


class Table:
    """Scores on disk, one row per market, trial, way to choose, seed and category."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.frame = pd.read_csv(file, dtype={"market": str}) if file.is_file() else pd.DataFrame()

    def holds(self, market: str, trial: str, seed: int) -> bool:
        """Whether a trial was measured already."""
        if self.frame.empty:
            return False
        found = self.frame
        return bool(((found["market"] == market) & (found["trial"] == trial) & (found["seed"] == seed)).any())

    def add(self, rows: Sequence[pd.DataFrame]) -> None:
        """Keeps the rows of one trial, all at once."""
        parts = [*rows] if self.frame.empty else [self.frame, *rows]
        self.frame = pd.concat(parts, ignore_index=True)
        self.frame.to_csv(self.file, index=False, float_format="%.6g")


def build_arena(base: PricingPolicy, name: str, arguments: argparse.Namespace) -> Arena:
    """Markets, their truth, and what every candidate price is worth; half a minute for fifteen categories."""
    market = FewShotMarketArguments(
        test_categories=arguments.categories,
        logged_weeks=LOGGED_WEEKS,
        decision_weeks=DECISION_WEEKS,
        stocked_share=arguments.stocked_share,
        reference_share=arguments.reference_share,
        confounding=(-0.9, 0.9) if name == MIXED else (float(name), float(name)),
        test_seed=arguments.test_seed,
        managers=MIXED_MANAGERS if name == MIXED else (FOLLOWER,),
    )
    logs = simulate_categories(market, market.test_categories, market.test_seed, LOGGED_WEEKS, 0)
    truth = find_truth(logs, DECISION_WEEKS)
    panel = load_visible(logs, f"shops-{name}").last_periods(arguments.weeks)
    candidates = read_choices(base, panel, truth.list_prices, DECISION_WEEKS).prices
    values = np.stack([truth.values(column) for column in candidates.T], axis=1)
    visible = {category: panel.select_category(category) for category in panel.categories}
    return Arena(name, truth, panel, visible, values)


def score(arena: Arena, trial: str, how: str, chances: np.ndarray, seed: int = 0, seconds: float = 0.0) -> pd.DataFrame:
    """Rows of one way to choose."""
    return pd.DataFrame(
        {
            "market": arena.name, "trial": trial, "choice": how, "seed": seed, "category": arena.truth.names,
            "gap_closed": arena.gap_closed(chances), "seconds": seconds / len(arena.truth.names),
        }
    )  # fmt: skip


def score_actor(
    base: PricingPolicy, arena: Arena, name: str, trial: ContinuousTrial, seed: int, batches: int
) -> pd.DataFrame:
    """Rows of a continuous actor: its prices lie between candidates, so their worth is asked for anew."""
    prices, started = [], time.perf_counter()
    for visible in arena.visible.values():
        readings = read_category(base, visible, PolicyArguments().horizon, REWARDS, batches, 32, seed)
        prices.append(learn_actor_prices(base, visible, readings, trial, seed))
    seconds = (time.perf_counter() - started) / len(arena.visible)
    shares = arena.truth.gap_closed(np.concatenate(prices))
    return pd.DataFrame(
        {
            "market": arena.name, "trial": name, "choice": "dial 0", "seed": seed, "category": arena.truth.names,
            "gap_closed": shares, "seconds": seconds,
        }
    )  # fmt: skip


def take_best(scores: np.ndarray) -> np.ndarray:
    """Chances of whoever charges the highest score."""
    return np.eye(scores.shape[1])[scores.argmax(axis=1)]


def measure_planners(base: PricingPolicy, arena: Arena, table: Table) -> None:
    """What is there without learning."""
    if table.holds(arena.name, "held oracle", 0):
        return
    choice = read_choices(base, arena.panel, arena.truth.list_prices, DECISION_WEEKS)
    levels = np.asarray(base.model.config.quantile_levels)
    planned = planner_scores(choice, CAUTION)
    stocked = stock_scores(choice, arena.panel, levels, arena.stock, is_held=True)
    best = np.where(choice.is_open, arena.values, -np.inf)
    rows = [
        score(arena, "plan on the curve", f"caution {CAUTION}", take_best(planned)),
        *(
            score(arena, "plan on the curve", f"caution {one}", take_best(planner_scores(choice, one)))
            for one in CAUTIONS
        ),
        score(arena, "plan on the curve", "supported", take_best(keep_supported(choice, planned))),
        score(arena, "stock program on the curve", "caution 0.0", take_best(stocked)),
        *score_policy(arena, "heads of the base", choice, True, 0, 0.0),
        score(arena, "held oracle", "best", take_best(best)),
    ]
    table.add(rows)


def score_policy(
    arena: Arena, trial: str, choice: LadderChoice, from_curve: bool, seed: int, seconds: float
) -> list[pd.DataFrame]:
    """All ways to choose with what was learned; the dial is for values that can be asked about any price."""
    alone = policy_scores(choice, 0.0, CAUTION)
    found = {"drawn": draw_chances(choice, alone)}
    found |= {
        f"dial {dial:g}": take_best(policy_scores(choice, dial, CAUTION))
        for dial in (DIALS if from_curve else DIALS[:1])
    }
    if from_curve:
        found |= {f"caution {one}": take_best(policy_scores(choice, DIAL, one)) for one in CAUTIONS}
        found["supported"] = take_best(keep_supported(choice, policy_scores(choice, DIAL, CAUTION)))
    else:
        found["supported"] = take_best(keep_supported(choice, alone))
    return [score(arena, trial, how, chances, seed, seconds) for how, chances in found.items()]


def measure_trials(
    base: PricingPolicy,
    arena: Arena,
    trials: dict[str, Trial],
    seed: int,
    table: Table,
    batches: int,
    only: Sequence[str],
) -> Iterator[str]:
    """Trains and judges every trial of one seed, and says which is done; the trunk reads once per horizon."""
    readings: dict[int, dict[str, list[dict[str, torch.Tensor]]]] = {}
    for name, trial in trials.items():
        if not table.holds(arena.name, name, seed):
            horizon = trial.policy.horizon
            if horizon not in readings:
                readings[horizon] = {
                    category: read_category(base, visible, horizon, REWARDS, batches, 32, seed)
                    for category, visible in arena.visible.items()
                }
            started = time.perf_counter()
            policy = learn_policy(base, arena.visible, readings[horizon], trial, REWARDS, seed)
            seconds = time.perf_counter() - started
            choice = read_choices(policy, arena.panel, arena.truth.list_prices, DECISION_WEEKS)
            from_curve = trial.policy.algorithm in FROM_THE_CURVE
            table.add(score_policy(arena, name, choice, from_curve, seed, seconds))
        yield name
    for name, trial in CONTINUOUS.items():
        if arena.name == MIXED and (not only or name in only) and not table.holds(arena.name, name, seed):
            table.add([score_actor(base, arena, name, trial, seed, batches)])


if __name__ == "__main__":
    main()
