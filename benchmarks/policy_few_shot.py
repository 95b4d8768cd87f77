"""What learned policies earn in held-out categories from k weeks, beside planning on the curves they are built on.

Trains stage B (joint offline RL with an adapter of every category in place) and stage C (where policy and values start,
with the advantage term of MACAW and without it, and by Reptile) on simulated retail categories, and prices others that
none has met: by the policy alone (its likeliest price), and as recommendations dial it (its log-probability plus the
advantage of holding a price). A start's steps are all taken, or as many as the last visible weeks are in favour of.
Beside them stand the adapters of training categories: their mean, and the nearest one's. Demand sides are pooled as
model_cards/pricing-fm-nano-retail has learned; the trunk is the base's. Every seed is kept as it is done, and a second
start goes on where the first one ended.

Example: OMP_NUM_THREADS=1 python benchmarks/policy_few_shot.py --output_dir outputs/policy_few_shot
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from pricing_fm.adapters import LoraArguments, PoolingRule, adapter_parameters, add_adapter, read_pooling
from pricing_fm.adapters.stack import Stack, from_adapter, repeat
from pricing_fm.evaluation.few_shot import (
    few_shot_rows,
    mean_of_adapters,
    multiply_out,
    nearest_categories,
    score_prices,
    tabulate,
)
from pricing_fm.evaluation.few_shot_markets import (
    DecisionTruth,
    FewShotMarketArguments,
    add_costs,
    add_grid,
    build_decision_store,
    decision_categories,
    find_truth,
    grid_regret,
    simulate_categories,
)
from pricing_fm.evaluation.few_shot_planning import plan_prices, read_curves
from pricing_fm.evaluation.few_shot_policies import dialled_prices, policy_prices
from pricing_fm.evaluation.few_shot_rivals import held_prices, myopic_prices
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import load_base
from pricing_fm.results import DataSource, build_results, write_results
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.decision_stop import adapt_decision_task, fewest_good_steps, policy_shortfalls
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import FewShotTask, TaskArguments, build_task
from pricing_fm.training.inner_loop import adapt_stack, held_losses
from pricing_fm.training.learned_steps import DemandStart, adapt_demand
from pricing_fm.training.meta import QUERY, SUPPORT, MetaArguments, join_task
from pricing_fm.training.meta_run import INNER_OPTIM
from pricing_fm.training.policy_inner_loop import (
    DecisionSteps,
    adapt_decisions,
    decision_losses,
    fix_action_values,
    head_of,
)
from pricing_fm.training.policy_learning import PolicyArguments
from pricing_fm.training.policy_meta import policy_start, query_policy_losses
from pricing_fm.training.policy_meta_run import PolicyMetaResult, learn_jointly, meta_train_policy

LORA = LoraArguments()
SCALING = LORA.lora_alpha / LORA.lora_rank
PLANNER, POOLED = "plan_base_curve", "plan_pooled_curve"
INNER_RATE, OUTER_RATE, VALIDATION_SHARE = 0.05, 3e-3, 0.2
CAUTION = 0.5  # as recommendations have it
# Recommendations drown what policies say: these few show it.
DIALLED = ("zero_init", "joint", "joint_fine_tune", "macaw", "macaw_early_stop")
VALUES_ALONE = 1e7  # an aggressiveness beside which no policy has a say
# How a start is learned, and the policy's steps inside a category: regression on logged rungs with the advantage term
# and without it, and on the ladder's whole target.
VARIANTS = {
    "macaw": ("macaw", DecisionSteps()),
    "awr": ("macaw", DecisionSteps(advantage_weight=0.0)),
    "awac": ("macaw", DecisionSteps(advantage_weight=0.0, expectation="ladder")),
    "reptile": ("policy_reptile", DecisionSteps(advantage_weight=0.0)),
}


@dataclass(frozen=True)
class Side:
    """Categories to learn from, or held out; tables by number of visible weeks.

    Args:
        truth (`DecisionTruth`): What prices are worth.
        tasks, decisions (`dict[int, FewShotTask]`): Windows, and what the decision side reads of them.
        demand (`dict[int, Stack]`): Pooled demand side of every category.
        source (`DataSource`): Where they come from.
    """

    truth: DecisionTruth
    tasks: dict[int, FewShotTask]
    decisions: dict[int, FewShotTask]
    demand: dict[int, Stack]
    source: DataSource


def main() -> None:
    arguments = read_arguments()
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    model, processor, fingerprint = load_base(arguments.base)
    model.requires_grad_(False)
    check_same_run(folder / "run.json", arguments, fingerprint)
    rule = read_pooling(Path(arguments.pooling))
    if rule is None:
        raise SystemExit(f"{arguments.pooling} does not know how to pool; give an adapter of --strategy pooling")
    file = folder / "categories.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    test = read_side(model, processor, rule, arguments, arguments.test_categories, arguments.test_seed)
    sources, train = [test.source], None
    for seed in range(arguments.seeds):
        if len(table) and seed in set(table["seed"]):
            continue
        if train is None:
            train = read_side(model, processor, rule, arguments, arguments.train_categories, arguments.train_seed)
        parts = list(score_seed(model, processor, train, test, arguments, folder, seed))
        table = pd.concat([table, *parts], ignore_index=True)
        table.to_csv(file, index=False, float_format="%.6g")
    rows = few_shot_rows(table, f"shops-{arguments.test_seed}", 0, PLANNER)
    write_results(folder, build_results("policy_few_shot", sources, rows))
    console, names = Console(width=140), list(dict.fromkeys(table["strategy"]))
    console.print(tabulate(table, names).round(3).to_string())
    gains = pd.DataFrame([vars(row) for row in rows if row.name == "gap_closed_gain"])
    console.print(gains[["model", "k", "value", "lower", "upper", "n"]].round(3).to_string(index=False))
    console.print(compare_pairs(table).round(3).to_string(index=False))


def compare_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """What one way gains over another, by the policy alone: stopping early, MACAW, and weeks that are a category's own.

    Paired by category; `differ` is the share of categories and seeds in which the two come to other prices.
    """
    pairs = [(f"{name}_early_stop", other) for name in VARIANTS for other in (name, f"{name}_start")]
    pairs += [("joint_fine_tune_early_stop", "joint_fine_tune"), ("joint_fine_tune_early_stop", "joint")]
    pairs += [("macaw", other) for other in ("macaw_start", "awr", "reptile", "joint_fine_tune", "zero_init")]
    pairs += [(name, f"{name}_another_categorys_weeks") for name in VARIANTS]
    named = [(f"{ours}_alone", f"{other}_alone") for ours, other in pairs] + [("macaw_alone", POOLED)]
    shares = table.pivot(index=["k", "seed", "category"], columns="strategy", values="gap_closed")
    found = []
    for ours, other in named:
        for row in few_shot_rows(table[table["strategy"].isin([ours, other])], "pairs", 0, other):
            if row.name == "gap_closed_gain":
                both = shares.loc[row.k, [ours, other]].dropna()
                found.append((ours, other, row.k, row.value, row.lower, row.upper, (both[ours] != both[other]).mean()))
    return pd.DataFrame(found, columns=["ours", "less", "k", "gain", "lower", "upper", "differ"])


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="model_cards/pricing-fm-nano", help="folder of the base")
    parser.add_argument("--pooling", default="model_cards/pricing-fm-nano-retail", help="adapter that pools")
    parser.add_argument("--output_dir", required=True, help="categories.csv, results.json")
    parser.add_argument("--weeks", nargs="+", type=int, default=[0, 4, 13, 26], help="numbers of visible weeks")
    parser.add_argument("--seeds", type=int, default=1, help="seeds of what is trained")
    parser.add_argument("--train_categories", type=int, default=96, help="categories to learn from")
    parser.add_argument("--test_categories", type=int, default=24, help="held-out categories")
    parser.add_argument("--reference_share", type=float, default=0.25, help="share of categories that remember prices")
    parser.add_argument("--stocked_share", type=float, default=0.7, help="share of categories with a stock")
    parser.add_argument("--train_seed", type=int, default=910_000, help="seed of the training categories")
    parser.add_argument("--test_seed", type=int, default=930_000, help="seed of the held-out categories")
    parser.add_argument("--joint_steps", type=int, default=150, help="steps of stage B")
    parser.add_argument("--warm_steps", type=int, default=300, help="steps of stage C without adaptation")
    parser.add_argument("--meta_steps", type=int, default=80, help="steps of stage C with adaptation")
    parser.add_argument("--categories_per_step", type=int, default=24, help="of a step of stage C")
    parser.add_argument("--tune_steps", type=int, default=40, help="steps of an ordinary adaptation of decisions")
    parser.add_argument("--tune_rate", type=float, default=1e-3, help="its learning rate (AdamW)")
    return parser.parse_args()


def check_same_run(file: Path, arguments: argparse.Namespace, fingerprint: str) -> None:
    """Scores of other settings must not stand beside new ones; seeds may be added."""
    free = ("base", "output_dir", "seeds")
    run = {"base": fingerprint, **{name: value for name, value in vars(arguments).items() if name not in free}}
    if file.is_file() and json.loads(file.read_text()) != run:
        raise SystemExit(f"{file.parent} holds scores of another base or other settings; choose another --output_dir")
    file.write_text(json.dumps(run, indent=1) + "\n")


def read_side(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    rule: PoolingRule,
    arguments: argparse.Namespace,
    count: int,
    seed: int,
) -> Side:
    """Markets, what prices are worth there, and what is visible."""
    market = FewShotMarketArguments(reference_share=arguments.reference_share, stocked_share=arguments.stocked_share)
    logs = simulate_categories(market, count, seed, market.logged_weeks, 0)
    truth = find_truth(logs, market.decision_weeks)
    regret = grid_regret(truth)
    store = build_decision_store(logs, market.decision_weeks, f"shops-{seed}")
    settings = TaskArguments(weeks=tuple(arguments.weeks))
    categories = decision_categories(store, max(settings.weeks), market.decision_weeks)
    tasks, demand, decisions = {}, {}, {}
    for weeks in settings.weeks:
        task = build_task(store, categories, processor, weeks, settings, model.config.patch_length)
        task = replace(task, query=add_grid(add_costs(task.query, truth), truth, regret))
        demand[weeks] = adapt_demand(model, DemandStart({}, None, rule), task, weeks, SCALING)
        decisions[weeks] = read_decision_task(model, processor, task, demand[weeks], SCALING, RewardWeights())
        tasks[weeks] = task
    return Side(truth, tasks, decisions, demand, DataSource(store.name, store.fingerprint))


def score_seed(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    train: Side,
    test: Side,
    arguments: argparse.Namespace,
    folder: Path,
    seed: int,
) -> Iterator[pd.DataFrame]:
    """Trains both stages with one seed and scores every way of pricing: rows of the table."""
    update = fresh_update(model, seed)
    steps = DecisionSteps()
    optim = OptimArguments(learning_rate=OUTER_RATE, warmup_steps=10, ema_decay=0.9)
    calm = replace(optim, learning_rate=1e-3)  # heads in full

    def out(name: str, most: int) -> tuple[LoopArguments, OutputArguments]:
        places = OutputArguments(f"{folder}/runs/{name}-{seed}", checkpoint_every=0, tracker="none", log_every=100)
        return LoopArguments(max_steps=most, evaluate_every=20, seed=seed), places

    run = out("joint", arguments.joint_steps)
    joint = learn_jointly(model, update, train.decisions, steps, 8, VALIDATION_SHARE, SCALING, calm, *run)
    print(f"seed {seed}: stage B {joint.training.seconds:.0f} s, step {joint.training.best_step}", flush=True)
    known = {weeks: fix_action_values(joint.model, task, steps.discount) for weeks, task in test.decisions.items()}
    meta = MetaArguments(
        "macaw",
        inner_rate=INNER_RATE,
        warm_steps=arguments.warm_steps,
        categories_per_step=arguments.categories_per_step,
    )
    starts = {}
    for name, (how, own) in VARIANTS.items():
        begin = policy_start(update, own, processor.num_rungs, seed)
        starts[name] = own, meta_train_policy(
            joint.model, begin, train.decisions, own, replace(meta, strategy=how), VALIDATION_SHARE, SCALING, optim,
            *out(name, arguments.meta_steps),
        )  # fmt: skip
        training = starts[name][1].training
        print(f"seed {seed}: {name} {training.seconds:.0f} s, step {training.best_step}", flush=True)
    adapters = {how: neighbours(joint.model, update, train, arguments, how) for how in ("logged", "told")}
    for weeks in test.tasks:
        near = nearest_categories(model, test.tasks[weeks].query, train.tasks[weeks].query)
        ways = [
            *((name, model, way) for name, way in ordinary(model, "zero_init", update, arguments)),
            *((name, joint.model, way) for name, way in ordinary(joint.model, "joint", update, arguments)),
            *((name, joint.model, way) for name, way in from_starts(joint.model, starts)),
            *((name, joint.model, way) for name, way in borrowed(adapters, near)),
        ]
        yield from score_ways(model, known[weeks], processor, test, weeks, seed, ways)
        yield from (
            scored(test.truth, *one, weeks, seed, 0.0) for one in dissected(joint.model, processor, test, weeks)
        )
        if seed == 0:
            yield from (scored(test.truth, *one, weeks, 0, 0.0) for one in planned(model, test, weeks))


Strategy = Callable[[FewShotTask], Stack]


def score_ways(
    base: PricingFMForPolicy,
    known: FewShotTask,
    processor: PricingFMProcessor,
    test: Side,
    weeks: int,
    seed: int,
    ways: Sequence[tuple[str, PricingFMForPolicy, Strategy]],
) -> Iterator[pd.DataFrame]:
    """Every way of coming to a decision side, by name and the network it belongs to, by what its prices earn."""
    usual = PolicyArguments().aggressiveness
    for name, network, strategy in ways:
        began = time.perf_counter()
        own = decision_side(strategy(test.decisions[weeks] if network is base else known))
        seconds = (time.perf_counter() - began) / len(test.truth.names)
        prices = policy_prices(network, own, test.decisions[weeks].query, processor, test.truth, SCALING)
        yield scored(test.truth, prices, f"{name}_alone", weeks, seed, seconds)
        if name in DIALLED:
            prices = dialled(network, processor, own, test, weeks, usual, CAUTION)
            yield scored(test.truth, prices, f"{name}_dialled", weeks, seed, seconds)


def ordinary(
    network: PricingFMForPolicy, name: str, update: Stack, arguments: argparse.Namespace
) -> Iterator[tuple[str, Strategy]]:
    """Adaptations that no meta-training has prepared, by name; of a learned base also itself, and early stops."""
    begin = decision_side(update)
    rates = {key: torch.tensor(arguments.tune_rate) for key in begin}
    losses, most = decision_losses(DecisionSteps()), arguments.tune_steps

    def adapt(task: FewShotTask, stops_early: bool = False) -> Stack:
        start = repeat(begin, len(task.query["loss_weights"]))
        if task.support["loss_weights"].shape[1] == 0:
            return start
        count = torch.full((len(task.query["loss_weights"]),), most)
        if stops_early:
            judged = held_losses(network, start, task, rates, most, INNER_OPTIM, SCALING, losses, policy_shortfalls)
            count = fewest_good_steps(judged)
        return adapt_stack(network, start, task.support, rates, count, INNER_OPTIM, SCALING, losses).stack

    if name == "zero_init":
        yield name, adapt
        return
    yield name, lambda _: {}
    yield f"{name}_fine_tune", adapt
    yield f"{name}_fine_tune_early_stop", lambda task: adapt(task, stops_early=True)


def from_starts(
    joint: PricingFMForPolicy, starts: dict[str, tuple[DecisionSteps, PolicyMetaResult]]
) -> Iterator[tuple[str, Strategy]]:
    """Every learned start: as it is, after its steps, after as many as held weeks allow, and after another's weeks."""
    for name, (steps, result) in starts.items():

        def start(task: FewShotTask, result: PolicyMetaResult = result) -> Stack:
            return repeat(result.start, len(task.query["loss_weights"]))

        def adapt(task: FewShotTask, steps: DecisionSteps = steps, result: PolicyMetaResult = result) -> Stack:
            begin = repeat(result.start, len(task.query["loss_weights"]))
            return adapt_decisions(joint, begin, task.support, result.rates, steps, SCALING)

        def early(task: FewShotTask, steps: DecisionSteps = steps, result: PolicyMetaResult = result) -> Stack:
            begin = repeat(result.start, len(task.query["loss_weights"]))
            return adapt_decision_task(joint, begin, task, result.rates, steps, SCALING, stops_early=True).stack

        def on_others(task: FewShotTask, adapt: Strategy = adapt) -> Stack:
            support = {key: tensor.roll(1, dims=0) for key, tensor in task.support.items()}
            return adapt(replace(task, support=support))

        yield f"{name}_start", start
        yield name, adapt
        yield f"{name}_early_stop", early
        yield f"{name}_another_categorys_weeks", on_others


def neighbours(joint: PricingFMForPolicy, update: Stack, train: Side, arguments: argparse.Namespace, how: str) -> Stack:
    """Decision side of every training category, from its longest visible history, multiplied out.

    `logged` learns from the log as any category does, `told` also what every price would have earned, as stage C does
    and at its rate.
    """
    steps, longest = DecisionSteps(), max(train.decisions)
    task = fix_action_values(joint, train.decisions[longest], steps.discount)

    def losses(model: PricingFMForPolicy, stack: Stack, batch: Stack, scaling: float) -> torch.Tensor:
        support, query = (
            {key.removeprefix(side): tensor for key, tensor in batch.items() if key.startswith(side)}
            for side in (SUPPORT, QUERY)
        )
        own = decision_losses(steps)(model, stack, support, scaling)
        return own + query_policy_losses(head_of(model, stack, scaling), query, steps) if how == "told" else own

    begin, count = decision_side(update), len(task.query["loss_weights"])
    rates = {name: torch.tensor(OUTER_RATE if how == "told" else arguments.tune_rate) for name in begin}
    batch, most = join_task(task, torch.arange(count)), torch.full((count,), arguments.tune_steps)
    adapted = adapt_stack(joint, repeat(begin, count), batch, rates, most, INNER_OPTIM, SCALING, losses)
    return multiply_out(adapted.stack, SCALING)


def borrowed(adapters: dict[str, Stack], near: torch.Tensor) -> Iterator[tuple[str, Strategy]]:
    """What training categories have learned: the mean, and that of the category that reads most alike, `(C,)`."""
    for how, stack in adapters.items():

        def nearest(_: FewShotTask, stack: Stack = stack) -> Stack:
            return {name: tensor[near] for name, tensor in stack.items()}

        yield f"mean_of_{how}_adapters", mean_of_adapters(stack)
        yield f"nearest_{how}_adapter", nearest


def decision_side(stack: Stack) -> Stack:
    """What an update has for the decision heads."""
    return {name: tensor for name, tensor in stack.items() if name.startswith("decision_head.")}


def dialled(
    network: PricingFMForPolicy,
    processor: PricingFMProcessor,
    own: Stack,
    test: Side,
    weeks: int,
    aggressiveness: float,
    caution: float,
) -> np.ndarray:
    """Prices of a decision side on the pooled demand sides."""
    return dialled_prices(
        network, {**test.demand[weeks], **own}, test.tasks[weeks].query, test.decisions[weeks].query, processor,
        test.truth, SCALING, PolicyArguments().discount, aggressiveness, caution,
    )  # fmt: skip


def dissected(
    joint: PricingFMForPolicy, processor: PricingFMProcessor, test: Side, weeks: int
) -> Iterator[tuple[np.ndarray, str]]:
    """What holds recommendations back: caution, the policy beside the values, or what values say of the time after."""
    usual = PolicyArguments().aggressiveness
    yield dialled(joint, processor, {}, test, weeks, usual, 0.0), "joint_dialled_without_caution"
    yield dialled(joint, processor, {}, test, weeks, VALUES_ALONE, 0.0), "joint_values_alone"
    silent = copy.deepcopy(joint)
    silent.decision_head.value_head.head_out.weight.zero_()
    silent.decision_head.value_head.head_out.bias.zero_()
    yield dialled(silent, processor, {}, test, weeks, VALUES_ALONE, 0.0), "held_rewards_alone"


def planned(model: PricingFMForPolicy, test: Side, weeks: int) -> Iterator[tuple[np.ndarray, str]]:
    """Prices planned on curves, and of those who know the market."""
    for name, stack in ((PLANNER, {}), (POOLED, test.demand[weeks])):
        curves = read_curves(model, stack, test.tasks[weeks].query, test.truth, SCALING)
        yield plan_prices(curves, test.truth.costs), name
    yield test.truth.list_prices, "list_price"
    yield myopic_prices(test.truth), "myopic_oracle"
    yield held_prices(test.truth), "held_oracle"


def scored(truth: DecisionTruth, prices: np.ndarray, name: str, weeks: int, seed: int, seconds: float) -> pd.DataFrame:
    """Rows of one way of pricing: share of the gap, and how far prices lie from the list price on average."""
    moved = np.bincount(truth.categories, prices / truth.list_prices - 1) / np.bincount(truth.categories)
    return score_prices(truth, prices, name, weeks).assign(seconds=seconds, seed=seed, moved=moved)


def fresh_update(model: PricingFMForPolicy, seed: int) -> Stack:
    """A low-rank update that changes nothing yet."""
    return from_adapter(adapter_parameters(add_adapter(copy.deepcopy(model), "one", LORA, seed=seed), "one"))


if __name__ == "__main__":
    main()
