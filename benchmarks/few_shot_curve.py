"""The k-shot curve: what adapting to k weeks earns in held-out simulated categories, beside rivals and placebos.

Starts are adapters of recipes/meta_train.py, given as `name=folder` or, one per seed, `name=folder,folder`; each is
measured as it is, after gradient steps on the visible weeks, and with its category's elasticities pooled. Beside them:
the base alone (context without gradients), a start at zero with low-rank and with full updates, mean and nearest of the
training categories' adapters, price rules, boosted trees, oracles, the ceiling of what the weeks can teach, and
placebos. Draws of the support are the same categories at later origins. Everything is kept as it is done, and a second
start goes on where the first one ended.

Example: OMP_NUM_THREADS=1 python benchmarks/few_shot_curve.py --base model_cards/pricing-fm-nano \
    --starts pooling=outputs/meta/pooling fomaml=outputs/meta/fomaml --ours pooling_pooled --output_dir outputs/few_shot
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from few_shot_ceilings import KNOWING, TOLD, find_ceilings
from few_shot_curve_figure import PLANNER, plot
from rich.console import Console
from rich.progress import Progress

from pricing_fm.adapters import LoraArguments, adapter_parameters, add_adapter, load_adapter, read_pooling
from pricing_fm.adapters.stack import from_adapter, repeat
from pricing_fm.evaluation.few_shot import (
    FewShotBench,
    Start,
    Strategy,
    another_categorys_weeks,
    compare_strategies,
    few_shot_rows,
    gradient_adaptation,
    mean_of_adapters,
    multiply_out,
    nearest_adapter,
    no_adaptation,
    plan_for_margin,
    pooled,
    pools_another_category,
    score_prices,
    score_strategies,
    score_values,
    shuffled_outcomes,
    spread_over_seeds,
    tabulate,
)
from pricing_fm.evaluation.few_shot_bias import tabulate_biases
from pricing_fm.evaluation.few_shot_domains import SHAPES, meet_rival
from pricing_fm.evaluation.few_shot_markets import (
    DecisionTruth,
    FewShotMarketArguments,
    build_decision_store,
    decision_categories,
    find_truth,
    held_elasticities,
    simulate_categories,
    store_name,
)
from pricing_fm.evaluation.few_shot_planning import read_curves
from pricing_fm.evaluation.few_shot_rivals import (
    find_known_prices,
    log_log_with_supply,
    score_rivals,
    tabulate_values,
)
from pricing_fm.evaluation.few_shot_supply import follow_program, plan_with_supply
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.managers import DEMAND_FOLLOWER, MANAGERS
from pricing_fm.markets.rivals import RIVALS
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.policy import load_base
from pricing_fm.results import DataSource, build_results, write_results
from pricing_fm.training.few_shot_tasks import FewShotTask, TaskArguments, build_task
from pricing_fm.training.inner_loop import adapt_task
from pricing_fm.training.learned_steps import RATES_FILE, read_rates
from pricing_fm.training.meta_run import INNER_OPTIM
from pricing_fm.training.policy_learning import as_logged

DECISION_HEAD = "decision_head"
LORA = LoraArguments()
SCALING = LORA.lora_alpha / LORA.lora_rank
CONFOUNDING_HELP = (
    "range of the demand followers' correlation with hidden demand; categories take turns with managers inside each of "
    "five sizes, so that 5, 10, 15 retail categories meet one, two, three kinds and no demand follower, 25 all five"
)
FIRST_ORIGIN, WEEKS_BETWEEN_DRAWS = 60, 13
NAIVE_READING = "_as_logged"  # prices are taken for the manager's own; pooling has no say there


def main() -> None:
    arguments = read_arguments()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model, processor, fingerprint = load_base(arguments.base)
    model.requires_grad_(False)
    check_same_run(folder / "run.json", arguments, fingerprint)
    table, sources, console = pd.DataFrame(), [], Console(width=140)
    for draw in range(arguments.draws):
        market = read_market(arguments, draw)
        settings = TaskArguments(weeks=tuple(arguments.weeks))
        logs = simulate_categories(market, market.test_categories, market.test_seed, market.logged_weeks, 0)
        console.print(describe_managers(logs), highlight=False)
        tasks, source = build_tasks(logs, market, settings, processor, model.config.patch_length)
        truth = find_what_follows(logs, market, arguments)
        known = find_known_prices(truth)
        tabulate_values(truth, known).to_csv(folder / f"values-{draw}.csv", index=False, float_format="%.6g")
        plan = plan_with_supply if arguments.plans_with_supply else plan_for_margin
        true = held_elasticities(truth.logs, market.decision_weeks)
        bench = FewShotBench(model, tasks, truth, INNER_OPTIM, SCALING, plan, true)
        strategies = build_strategies(bench, arguments, market, settings, processor, fingerprint)
        table = measure(bench, strategies, market, arguments, folder / "categories.csv", draw, known)
        sources.append(source)
    rows = few_shot_rows(table, store_name(market, arguments.test_seed), arguments.seed, PLANNER)
    write_results(folder, build_results("few_shot_curve", sources, rows))
    names = list(table["strategy"].unique())
    starts = [given.partition("=")[0] for given in arguments.starts]
    plot(tabulate(table, names), arguments.ours, starts).savefig(folder / "curve.png", dpi=130)
    console.print(tabulate(table, names).round(3).to_string())
    biases = tabulate_biases(table)
    biases.to_csv(folder / "biases.csv", index=False, float_format="%.4g")
    console.print(biases.round(3).to_string(index=False))
    if arguments.seeds > 1:
        spread = spread_over_seeds(table)
        spread.to_csv(folder / "seeds.csv", index=False, float_format="%.4g")
        console.print(spread.round(3).to_string(index=False))
    if arguments.ours is not None:
        compared = compare_strategies(table, arguments.ours, [name for name in names if name not in KNOWING], 0)
        compared.to_csv(folder / "comparison.csv", index=False, float_format="%.4g")
        console.print(compared.round(3).to_string(index=False))


def read_market(arguments: argparse.Namespace, draw: int) -> FewShotMarketArguments:
    """The markets at one draw's origin."""
    return FewShotMarketArguments(
        train_categories=arguments.train_categories,
        test_categories=arguments.test_categories,
        logged_weeks=FIRST_ORIGIN + WEEKS_BETWEEN_DRAWS * draw,
        stocked_share=arguments.stocked_share,
        reference_share=arguments.reference_share,
        confounding=tuple(arguments.confounding),
        train_seed=arguments.train_seed,
        test_seed=arguments.test_seed,
        domain=arguments.domain,
        family=arguments.family or DOMAINS[arguments.domain].families[0],
        managers=tuple(arguments.managers),
    )


def describe_managers(logs: list[SimulatedLog]) -> str:
    """Who set the prices that are learned from: with few categories the managers' turns never reach some of them."""
    counts = Counter(MANAGERS[code] for log in logs for code in log.habits.manager)
    met = ", ".join(f"{name} {count}" for name, count in counts.items())
    followers = counts[MANAGERS[DEMAND_FOLLOWER]]
    ending = "" if followers else "; --confounding changes nothing: no demand_follower, give more --test_categories"
    return f"managers of the held-out categories: {met}{ending}"


def find_what_follows(
    logs: list[SimulatedLog], market: FewShotMarketArguments, arguments: argparse.Namespace
) -> DecisionTruth:
    """The truth of the decision; where programs are compared, the program that knows the demand is the oracle."""
    if arguments.rival is not None:
        logs = [meet_rival(log, arguments.rival) for log in logs]
    truth = find_truth(logs, market.decision_weeks)
    if not arguments.programs:
        return truth
    return replace(truth, oracle=np.bincount(truth.categories, follow_program(truth)))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of the base")
    parser.add_argument("--output_dir", required=True, help="categories.csv, results.json, curve.png")
    parser.add_argument("--starts", nargs="*", default=[], help="adapters to start from, as name=folder")
    parser.add_argument("--domain", default="retail", choices=list(SHAPES), help="domain of the categories")
    parser.add_argument("--family", help="family of the domain; its first one if none is named")
    parser.add_argument("--plans_with_supply", action="store_true", help="curves are planned on with the stock in mind")
    parser.add_argument("--rival", choices=RIVALS, help="how rivals answer after the log; as in it if none is named")
    parser.add_argument("--programs", action="store_true", help="also dynamic programs over the stock, on each curve")
    parser.add_argument("--weeks", nargs="+", type=int, default=[0, 4, 13, 26], help="numbers of visible weeks")
    parser.add_argument("--only", nargs="*", default=[], help="only these strategies, and the base alone")
    parser.add_argument("--ours", help="the strategy that all others are tested against")
    parser.add_argument("--draws", type=int, default=1, help="origins at which every category is met")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of what starts at zero")
    parser.add_argument("--confounding", nargs=2, type=float, default=[-0.9, 0.9], help=CONFOUNDING_HELP)
    parser.add_argument("--managers", nargs="*", default=[], choices=MANAGERS, help="default: the standard ones")
    parser.add_argument("--as_logged", nargs="*", default=[], help="strategies whose curves are also read naively")
    parser.add_argument("--test_categories", type=int, default=30, help="held-out categories")
    parser.add_argument("--train_categories", type=int, default=40, help="categories whose adapters are averaged")
    parser.add_argument("--stocked_share", type=float, default=0.7, help="share of categories with a stock")
    parser.add_argument("--reference_share", type=float, default=0.25, help="share that remembers prices")
    parser.add_argument("--train_seed", type=int, default=910_000, help="seed of the training categories")
    parser.add_argument("--test_seed", type=int, default=930_000, help="seed of the held-out categories")
    parser.add_argument("--steps", type=int, default=5, help="most gradient steps of an adaptation")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate where none was learned")
    parser.add_argument("--ceiling", action="store_true", help="also what the weeks can teach at most (a while)")
    parser.add_argument("--seed", type=int, default=0, help="seed of first updates, placebos and bootstraps")
    return parser.parse_args()


def check_same_run(file: Path, arguments: argparse.Namespace, fingerprint: str) -> None:
    """Scores of other settings must not stand beside new ones; strategies may be added."""
    free = ("base", "output_dir", "starts", "only", "as_logged", "ours", "ceiling", "draws", "seeds")
    run = {"base": fingerprint, **{name: value for name, value in vars(arguments).items() if name not in free}}
    if file.is_file() and json.loads(file.read_text()) != run:
        raise SystemExit(f"{file.parent} holds scores of another base or other settings; choose another --output_dir")
    file.write_text(json.dumps(run, indent=1) + "\n")


def build_tasks(
    logs: list[SimulatedLog],
    market: FewShotMarketArguments,
    settings: TaskArguments,
    processor: PricingFMProcessor,
    patch: int,
) -> tuple[dict[int, FewShotTask], DataSource]:
    """Tasks of all categories by number of visible weeks, and where they come from."""
    store = build_decision_store(logs, market.decision_weeks, store_name(market, logs[0].settings.seed // 100 * 100))
    periods = {k: k * market.kind.periods_per_week for k in settings.weeks}
    categories = decision_categories(store, max(periods.values()), market.decision_weeks)
    tasks = {k: build_task(store, categories, processor, n, settings, patch) for k, n in periods.items()}
    return tasks, DataSource(store.name, store.fingerprint)


def build_strategies(
    bench: FewShotBench,
    arguments: argparse.Namespace,
    market: FewShotMarketArguments,
    settings: TaskArguments,
    processor: PricingFMProcessor,
    fingerprint: str,
) -> dict[str, Strategy]:
    """By name; those that are not asked for are not made ready either."""
    fresh = fresh_update(bench.model, arguments.seed)
    steps, rate = arguments.steps, arguments.rate

    def start(update: dict[str, torch.Tensor], stops_early: bool = True) -> Strategy:
        rates = {name: torch.tensor(rate) for name in update}
        return gradient_adaptation(bench, Start(update, rates, steps, stops_early))

    zeros = {
        f"{name.rpartition('.')[0]}.full": torch.zeros(fresh[name].shape[0], other.shape[1])
        for name, other in ((one.replace("lora_A", "lora_B"), fresh[one]) for one in fresh if one.endswith("lora_A"))
    }
    strategies: dict[str, Strategy] = {
        PLANNER: no_adaptation(),
        "full_fine_tune": start(zeros),
        "shuffled_outcomes": shuffled_outcomes(start(fresh, stops_early=False), arguments.seed),
        "another_categorys_weeks": another_categorys_weeks(start(fresh, stops_early=False)),
    }
    for seed in range(arguments.seeds):
        own = fresh_update(bench.model, arguments.seed + seed)
        strategies |= {f"zero_init#{seed}": start(own), f"zero_init_all_steps#{seed}": start(own, stops_early=False)}
    for given in arguments.starts:
        name, _, folders = given.partition("=")
        for seed, folder in enumerate(folders.split(",")):
            update, rates = read_start(bench.model, Path(folder), fingerprint)
            rule, still = read_pooling(Path(folder)), no_adaptation(update)
            moved = gradient_adaptation(bench, Start(update, rates, steps, False))
            early = gradient_adaptation(bench, Start(update, rates, steps, True))
            for ending, one in (("", moved), ("_early_stop", early), ("_without_steps", still)):
                strategies[f"{name}{ending}#{seed}"] = one
                if rule is not None:
                    strategies[f"{name}{ending}_pooled#{seed}"] = pooled(bench, one, rule)
            if rule is not None:
                strategies[f"{name}_pools_another_category#{seed}"] = pools_another_category(bench, still, rule)
    needed = {"mean_of_adapters", "nearest_adapter", "random_adapter"}
    if not arguments.only or needed & set(arguments.only):
        strategies |= neighbours(bench, arguments, market, settings, processor, fresh)
    known = {name.partition("#")[0] for name in strategies}
    if wrong := [name for name in arguments.as_logged if "_pool" in name]:
        raise SystemExit(f"--as_logged names {wrong}; pooling answers to prices that are set alone")
    if unknown := sorted({*arguments.only, *arguments.as_logged} - known):
        raise SystemExit(f"unknown strategies {unknown}; known are {', '.join(sorted(known))}")
    wanted = {PLANNER, *arguments.only} if arguments.only else known
    return {name: one for name, one in strategies.items() if name.partition("#")[0] in wanted}


def neighbours(
    bench: FewShotBench,
    arguments: argparse.Namespace,
    market: FewShotMarketArguments,
    settings: TaskArguments,
    processor: PricingFMProcessor,
    fresh: dict[str, torch.Tensor],
) -> dict[str, Strategy]:
    """Adapters of training categories, from their longest visible history: averaged, the nearest, and any."""
    logs = simulate_categories(market, market.train_categories, market.train_seed, market.logged_weeks, 0)
    known, _ = build_tasks(logs, market, settings, processor, bench.model.config.patch_length)
    longest = known[max(settings.weeks)]
    rates = {name: torch.tensor(arguments.rate) for name in fresh}
    begin = repeat(fresh, len(longest.query["loss_weights"]))
    adapted = adapt_task(bench.model, begin, longest, rates, arguments.steps, bench.optim, bench.scaling, False)
    adapters = multiply_out(adapted.stack, bench.scaling)
    generator = torch.Generator().manual_seed(arguments.seed)

    def any_adapter(task: FewShotTask) -> dict[str, torch.Tensor]:
        count = len(task.query["loss_weights"])
        chosen = torch.randint(len(next(iter(adapters.values()))), (count,), generator=generator)
        return {name: tensor[chosen] for name, tensor in adapters.items()}

    return {
        "mean_of_adapters": mean_of_adapters(adapters),
        "nearest_adapter": nearest_adapter(adapters, known, bench),
        "random_adapter": any_adapter,
    }


def once(strategy: Strategy) -> Strategy:
    """The strategy for one task, however its curves are read afterwards: its updates are found once."""
    kept: list[dict[str, torch.Tensor]] = []

    def adapt(task: FewShotTask) -> dict[str, torch.Tensor]:
        if not kept:
            kept.append(strategy(task))
        return kept[0]

    return adapt


def fresh_update(model: PricingFMForPolicy, seed: int) -> dict[str, torch.Tensor]:
    """A low-rank update that changes nothing yet, without the decision heads."""
    network = add_adapter(copy.deepcopy(model), "one", LORA, seed=seed)
    found = from_adapter(adapter_parameters(network, "one"))
    return {name: tensor for name, tensor in found.items() if not name.startswith(DECISION_HEAD)}


def read_start(
    model: PricingFMForPolicy, folder: Path, fingerprint: str
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Update and learning rates of a meta-trained adapter."""
    network = load_adapter(copy.deepcopy(model), "one", folder, fingerprint)
    found = from_adapter(adapter_parameters(network, "one"))
    update = {name: tensor for name, tensor in found.items() if not name.startswith(DECISION_HEAD)}
    saved = read_rates(folder)
    if saved is None:
        raise SystemExit(f"{folder} has no {RATES_FILE}: --starts are adapters of recipes/meta_train.py")
    return update, {name: torch.tensor(saved.rates[name]) for name in update}


def measure(
    bench: FewShotBench,
    strategies: dict[str, Strategy],
    market: FewShotMarketArguments,
    arguments: argparse.Namespace,
    file: Path,
    draw: int,
    known: dict[str, np.ndarray],
) -> pd.DataFrame:
    """All scores of a draw; those that stand in the file already are not computed again."""
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["strategy", "k", "draw", "seed"])
    done = set(table[["strategy", "k", "draw", "seed"]].itertuples(index=False, name=None))

    def keep(part: pd.DataFrame, seed: int = 0) -> None:
        nonlocal table
        part = part.assign(draw=draw, seed=seed)
        table = part if table.empty else pd.concat([table, part], ignore_index=True)
        table.to_csv(file, index=False, float_format="%.6g")

    if arguments.ceiling and not all((TOLD, weeks, draw, 0) in done for weeks in bench.tasks):
        periods = {weeks * market.kind.periods_per_week: weeks for weeks in bench.tasks}
        for (name, number), prices in find_ceilings(bench.truth, market, list(periods)).items():
            keep(score_prices(bench.truth, prices, name, periods[number]))
    with Progress() as progress:
        bar = progress.add_task(f"scores, draw {draw + 1}", total=(len(strategies) + 1) * len(bench.tasks))
        for weeks, task in bench.tasks.items():
            if ("list_price", weeks, draw, 0) not in done:
                periods = weeks * market.kind.periods_per_week
                keep(score_rivals(bench.truth, weeks, periods, known, bench.elasticities))
            if weeks and arguments.plans_with_supply and ("log_log_with_supply", weeks, draw, 0) not in done:
                aware = log_log_with_supply(bench.truth, weeks * market.kind.periods_per_week)
                keep(score_prices(bench.truth, aware, "log_log_with_supply", weeks))
            progress.advance(bar)
            for label, given in strategies.items():
                name, _, seed = label.partition("#")
                strategy = once(given)
                if (name, weeks, draw, int(seed or 0)) not in done:
                    keep(score_strategies(replace(bench, tasks={weeks: task}), {name: strategy}), int(seed or 0))
                naive = f"{name}{NAIVE_READING}"
                if name in arguments.as_logged and (naive, weeks, draw, int(seed or 0)) not in done:
                    read = replace(bench, tasks={weeks: replace(task, query=as_logged(task.query))})
                    keep(score_strategies(read, {naive: strategy}), int(seed or 0))
                if arguments.programs and (f"{name}_program", weeks, draw, int(seed or 0)) not in done:
                    curves = read_curves(bench.model, strategy(task), task.query, bench.truth, bench.scaling)
                    values = follow_program(bench.truth, curves)
                    keep(score_values(bench.truth, values, f"{name}_program", weeks), int(seed or 0))
                progress.advance(bar)
    return table


if __name__ == "__main__":
    main()
