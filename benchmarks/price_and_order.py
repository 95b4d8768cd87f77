"""What it is worth to decide price and order together: simulated categories, and small markets solved exactly.

Example: python benchmarks/price_and_order.py --base model_cards/pricing-fm-nano --output_dir outputs/price_and_order
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track
from scipy.stats import poisson

from pricing_fm.evaluation.market import MarketArguments
from pricing_fm.evaluation.price_and_order import (
    StockedCategories,
    compare_ways,
    decide_and_earn,
    follow_cycle_rule,
    measure_calibration,
    stock_categories,
)
from pricing_fm.markets.joint_program import JointProgram
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.recommend import CAUTION
from pricing_fm.policy.replenishment import StockArguments
from pricing_fm.recipe import read_recipe, save_recipe
from pricing_fm.results import ResultRow, build_results, write_results

# Times and costs, and weeks of stock on hand, by name.
REGIMES = {
    "keeps": (StockArguments(1, 1, holding_cost=0.01), (0.0, 3.0)),
    "slow and scarce": (StockArguments(2, 2, holding_cost=0.01), (0.0, 1.5)),
    "half its value": (StockArguments(1, 1, salvage_value=0.5), (0.0, 3.0)),
    "perishes": (StockArguments(1, 1, salvage_value=0.0), (0.0, 3.0)),
    "perishes, nothing on hand": (StockArguments(0, 2, salvage_value=0.0), (0.0, 0.0)),
    "season of four weeks": (StockArguments(0, 4, salvage_value=0.3), (0.0, 0.0)),
    "season, stock on hand": (StockArguments(0, 4, salvage_value=0.3), (0.0, 3.0)),
}
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98)
LONGEST = 4
MOST, PERIODS, RUNGS = 24, 12, 11  # of the small markets


@dataclass(frozen=True)
class PriceAndOrderArguments:
    """What is compared."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    output_dir: str = field(metadata={"help": "Folder of gains.csv, programs.csv and results.json."})
    logs: int = field(default=3, metadata={"help": "logs of --num_markets categories; seeds from --market_seed on"})
    rollouts: int = field(default=150, metadata={"help": "draws of true demand"})
    programs: int = field(default=16, metadata={"help": "small markets solved exactly, half of them with a lead time"})
    caution: float = field(default=CAUTION, metadata={"help": "of the price choice, as in recommend"})
    seed: int = field(default=0, metadata={"help": "of stocks, small markets and bootstraps"})


def main(argv: Sequence[str] | None = None) -> list[ResultRow]:
    arguments, market = read_recipe((PriceAndOrderArguments, MarketArguments), argv, description=__doc__)
    console, folder = Console(width=130), Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    policy = PricingPolicy.from_pretrained(arguments.base)
    seeds = range(market.market_seed, market.market_seed + arguments.logs)
    logs = [
        stock_categories(policy, replace(market, market_seed=seed), LONGEST, arguments.rollouts)
        for seed in track(seeds, "simulating", console=console, transient=True)
    ]
    rows = []
    for name, found in compare_regimes(logs, arguments, console).items():
        rows += [
            ResultRow("gain", one.value, pair, name, lower=one.lower, upper=one.upper, seed=arguments.seed)
            for pair, one in found.items()
        ]
    for level, share in calibrate(logs).items():
        rows.append(ResultRow(f"coverage_{level:g}", share, "pricing_fm", "two weeks", seed=arguments.seed))
    table = solve_small_markets(arguments, console)
    table.to_csv(folder / "programs.csv", index=False, float_format="%.5g")
    rows += [
        ResultRow("lost", float(part[way].mean()), way, f"lead time {lead}", n=len(part), seed=arguments.seed)
        for lead, part in table.groupby("lead_time")
        for way in ("joint", "separate", "kept")
    ]
    pd.DataFrame([vars(row) for row in rows]).dropna(axis=1, how="all").to_csv(folder / "gains.csv", index=False)
    save_recipe(folder, (arguments, market))
    write_results(folder, build_results("price_and_order", [], rows))
    console.print(f"{folder / 'gains.csv'}, {folder / 'programs.csv'}", highlight=False)
    return rows


def compare_regimes(logs: list[StockedCategories], arguments: PriceAndOrderArguments, console: Console) -> dict:
    """Paired gains in every regime, over the categories of all logs."""
    answers = {}
    for name, (stock, cover) in track(REGIMES.items(), "deciding", console=console, transient=True):
        tables = [
            decide_and_earn(found, found.stocks(cover, arguments.seed + place), stock, arguments.caution)
            for place, found in enumerate(logs)
        ]
        table = pd.concat(tables, ignore_index=True)
        answers[name] = compare_ways(table, arguments.seed)
        console.print(f"[bold]{name}[/]: {table['category'].nunique()} categories, {len(table)} items", highlight=False)
        for pair, one in answers[name].items():
            console.print(f"  {pair:26s} {one.value:+.1%} ({one.lower:+.1%} to {one.upper:+.1%})", highlight=False)
    return answers


def calibrate(logs: list[StockedCategories]) -> dict[float, float]:
    """Mean over the logs of the calibration of two weeks' demand at current prices."""
    found = [measure_calibration(one, StockArguments(), LEVELS) for one in logs]
    shares = {level: float(np.mean([one[level] for one in found])) for level in LEVELS}
    print("demand at or below the quantile:", ", ".join(f"{level:g}: {share:.3f}" for level, share in shares.items()))
    return shares


def solve_small_markets(arguments: PriceAndOrderArguments, console: Console) -> pd.DataFrame:
    """Share of the exact program's value, what stock costs aside, that known demand and simpler rules lose."""
    rows = []
    for place in track(range(arguments.programs), "solving", console=console, transient=True):
        random = np.random.default_rng([arguments.seed, place])
        elasticity, volume, cost = random.uniform(1.5, 4.0), random.uniform(2.0, 6.0), random.uniform(0.4, 0.75)
        prices = np.round(np.linspace(0.7, 1.5, RUNGS), 2)
        law = poisson.pmf(np.arange(40), volume * prices[:, None] ** -elasticity)
        law[:, -1] += 1 - law.sum(1)
        holding = cost * random.uniform(0.01, 0.3)
        lead = place % 2
        one = JointProgram(prices, law, cost, holding, 0.0, cost, lead, MOST, PERIODS)
        value, _ = one.solve()
        riskless = int(((prices - cost) * prices**-elasticity).argmax())
        ways = {"joint": None, "separate": np.array([riskless]), "kept": np.array([int(np.abs(prices - 1).argmin())])}
        row = {"lead_time": lead, "elasticity": elasticity, "volume": volume, "cost": cost, "holding": holding / cost}
        for way, rungs in ways.items():
            row[way] = (value[0] - one.evaluate(follow_cycle_rule(one, cost - holding, rungs))[0]) / value[0]
        rows.append(row)
    table = pd.DataFrame(rows)
    console.print("lost against the exact program, from an empty shelf:")
    console.print(table.groupby("lead_time")[["joint", "separate", "kept"]].agg(["mean", "max"]).round(4).to_string())
    return table


if __name__ == "__main__":
    main()
