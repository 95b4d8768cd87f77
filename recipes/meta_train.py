"""Meta-train where the adapters of new categories start: FOMAML, Reptile, one joint adapter, or pooling alone.

Three strategies learn decisions instead: `offline_rl`, jointly over all categories with an adapter of each in place (a
base with policy and value heads), and `macaw` and `policy_reptile`, where policy and values start on such a base
(recipes/meta_policy.py).

Learns from the categories of panels (their demand after an origin judges), or, without panels, from simulated shops
(what the planned prices would have earned judges). These also teach how far to believe what the items of a category say
together (`category_pooling.json`). With `--as_logged` their logs alone are learned from, as panels are: the naive
rival, who learns the manager. The result is an adapter on a frozen base: load it as it is, or start from it with
`recipes/adapt.py --initial_adapter`.

Example: python recipes/meta_train.py --config recipes/meta/retail.yaml --base model_cards/pricing-fm-nano
"""

import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from accelerate.utils import set_seed

HERE = Path(__file__).resolve().parent
# A script finds its own folder on the path, where evaluate.py would hide the library of that name.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from pricing_fm.adapters import (  # noqa: E402
    LoraArguments,
    adapter_parameters,
    add_adapter,
    save_adapter,
    save_pooling,
    write_pooling,
)
from pricing_fm.adapters.stack import base_name  # noqa: E402
from pricing_fm.evaluation.few_shot_bias import add_elasticities  # noqa: E402
from pricing_fm.evaluation.few_shot_markets import (  # noqa: E402
    FewShotMarketArguments,
    add_costs,
    add_grid,
    build_decision_store,
    decision_categories,
    find_truth,
    grid_regret,
    load_visible,
    simulate_categories,
    store_name,
)
from pricing_fm.hub import download  # noqa: E402
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor  # noqa: E402
from pricing_fm.objectives.reward import RewardWeights  # noqa: E402
from pricing_fm.panel import SeriesStore, build_store, load_panel  # noqa: E402
from pricing_fm.policy import load_base  # noqa: E402
from pricing_fm.recipe import read_recipe, run_recipe  # noqa: E402
from pricing_fm.results import DataSource  # noqa: E402
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments  # noqa: E402
from pricing_fm.training.few_shot_tasks import (  # noqa: E402
    FewShotTask,
    TaskArguments,
    build_task,
    concatenate_tasks,
    find_categories,
)
from pricing_fm.training.learned_steps import InnerRates, write_rates  # noqa: E402
from pricing_fm.training.meta import DECISION_STRATEGIES, MetaArguments  # noqa: E402
from pricing_fm.training.meta_run import MetaResult, check_enough_categories, meta_train, split_categories  # noqa: E402
from pricing_fm.training.policy_inner_loop import DecisionSteps  # noqa: E402
from pricing_fm.training.policy_meta_run import JointResult, PolicyMetaResult  # noqa: E402
from pricing_fm.training.pooling import elasticity_errors, fit_rule  # noqa: E402
from pricing_fm.training.processes import start_accelerator  # noqa: E402
from recipes.meta_artifacts import measured, report, save_start  # noqa: E402
from recipes.meta_policy import BaseParts, learn_decisions  # noqa: E402

NAME = "initial"
DECISION_HEAD = "decision_head"


@dataclass(frozen=True)
class SourceArguments:
    """What is learned from, and on which base."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    panels: tuple[str, ...] = field(
        default=(), metadata={"help": "Sales logs with categories, weekly; none = simulated shops."}
    )
    schemas: tuple[str, ...] = field(
        default=(), metadata={"help": "Schema of each panel; none = their columns bear panel names."}
    )
    as_logged: bool = field(
        default=False, metadata={"help": "Read simulated shops as panels: their managers' own weeks judge (naive)."}
    )
    origins_per_category: int = field(default=4, metadata={"help": "Origins drawn in every category of a panel."})
    demand_start: str | None = field(
        default=None,
        metadata={"help": "of decisions: adapter whose demand sides they are built on; default: the base's."},
    )
    assumed_cost_share: float | None = field(
        default=None, metadata={"help": "of decisions: unit cost / reference price where none is known."}
    )
    validation_share: float = field(default=0.2, metadata={"help": "Share of the categories that choose the step."})

    def __post_init__(self) -> None:
        if self.schemas and len(self.schemas) != len(self.panels):
            raise ValueError(f"--schemas has {len(self.schemas)} entries for {len(self.panels)} panels; one for each")
        if self.as_logged and self.panels:
            raise ValueError("--as_logged reads simulated shops as panels are read anyway; leave it or --panels out")
        if self.origins_per_category < 1:
            raise ValueError(f"--origins_per_category must be at least 1, found {self.origins_per_category}")
        if not 0 < self.validation_share <= 0.5:
            raise ValueError(f"--validation_share must be in (0, 0.5], found {self.validation_share}")


def main(argv: Sequence[str] | None = None) -> MetaResult | JointResult | PolicyMetaResult:
    kinds = (
        SourceArguments, TaskArguments, FewShotMarketArguments, MetaArguments, DecisionSteps, RewardWeights,
        LoraArguments, OptimArguments, LoopArguments, OutputArguments,
    )  # fmt: skip
    arguments = read_recipe(kinds, argv, description=__doc__)
    source, tasks, market, meta, _, _, lora, optim, loop, output = arguments
    if source.demand_start is not None and meta.strategy not in DECISION_STRATEGIES:
        raise SystemExit(f"--demand_start is for {', '.join(DECISION_STRATEGIES)}; --strategy is {meta.strategy}")
    accelerator = start_accelerator(loop, output)
    set_seed(loop.seed)
    origin = download(source.base)
    model, processor, fingerprint = load_base(origin.folder)
    is_logged = bool(source.panels) or source.as_logged
    data, found = read_tasks(source, tasks, market, model, processor, judges=meta.strategy != "pooling")
    count = len(next(iter(found.values())).query["loss_weights"])
    check_enough_categories(count, source.validation_share, meta.categories_per_step)
    if is_logged and meta.strategy == "pooling":
        raise SystemExit("--strategy pooling needs known elasticities; leave --panels and --as_logged out")
    if meta.strategy in DECISION_STRATEGIES:
        base = BaseParts(model, processor, fingerprint, origin)
        return learn_decisions(base, source.demand_start, data, found, arguments, accelerator)
    network = add_adapter(copy.deepcopy(model), NAME, lora, seed=loop.seed)
    begin = {base_name(key): tensor for key, tensor in adapter_parameters(network, NAME).items()}
    begin = {name: tensor for name, tensor in begin.items() if not name.startswith(DECISION_HEAD)}
    scaling = lora.lora_alpha / lora.lora_rank
    result = meta_train(
        model, begin, found, meta, source.validation_share, scaling, optim, loop, output, accelerator
    )  # fmt: skip
    for key, parameter in adapter_parameters(network, NAME).items():
        if base_name(key) in result.update:
            parameter.data.copy_(result.update[base_name(key)])
    if accelerator.is_main_process:
        place = origin.repo_id or origin.folder
        rule = None if is_logged else fit_rule(model, result.update, found, scaling)
        if rule is not None and meta.strategy == "pooling":
            write_pooling(network, NAME, rule.pool(np.empty(0), 0))  # as it is, it answers for categories never seen
        folder = save_adapter(network, NAME, output.output_dir, place, fingerprint, origin.revision)
        if rule is not None:
            save_pooling(rule, folder)
        were_learned = meta.strategy == "fomaml" and meta.learns_rates
        rates = {name: float(rate) for name, rate in result.rates.items()}
        write_rates(folder, InnerRates(rates, meta.inner_steps if were_learned else None))
        if meta.strategy == "pooling":
            result = replace(result, losses=pooling_errors(model, found, source.validation_share, scaling))
        results = measured(data, result.losses, result.training, loop.seed, meta.strategy)
        save_start(folder, processor, fingerprint, arguments, results)
    accelerator.wait_for_everyone()
    report(accelerator, result.losses, result.training, meta.strategy)
    return result


def pooling_errors(
    model: PricingFMForPolicy, tasks: dict[int, FewShotTask], share: float, scaling: float
) -> dict[str, dict[int, float]]:
    """Errors of elasticities in the validation categories, of the base and under a rule learned in the others."""
    learned, validation = split_categories(tasks, share)
    rules = {"base": None, "pooled": fit_rule(model, {}, learned, scaling)}
    return {name: elasticity_errors(model, {}, rule, validation, scaling) for name, rule in rules.items()}


def read_tasks(
    source: SourceArguments,
    tasks: TaskArguments,
    market: FewShotMarketArguments,
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    judges: bool,
) -> tuple[list[DataSource], dict[int, FewShotTask]]:
    """The data by name and fingerprint, and the tasks by number of visible weeks."""
    patch = model.config.patch_length
    if not source.panels and not source.as_logged:
        return simulated_tasks(tasks, market, processor, patch, judges=judges)
    stores = [logged_store(market)] if source.as_logged else read_stores(source)
    groups = [
        [
            category
            for seed in range(source.origins_per_category)
            for category in find_categories(store, max(tasks.weeks), tasks.query_weeks, seed)
        ]
        for store in stores
    ]
    rows = max(len(category.items) for group in groups for category in group)
    found = {
        weeks: concatenate_tasks(
            [build_task(store, group, processor, weeks, tasks, patch, rows) for store, group in zip(stores, groups)]
        )
        for weeks in tasks.weeks
    }
    return [DataSource(store.name, store.fingerprint) for store in stores], found


def read_stores(source: SourceArguments) -> list[SeriesStore]:
    """One store per panel."""
    schemas = source.schemas or (None,) * len(source.panels)
    return [build_store(load_panel(panel, schema=schema)) for panel, schema in zip(source.panels, schemas)]


def logged_store(market: FewShotMarketArguments) -> SeriesStore:
    """Logs of simulated categories and nothing else: no truth, and no price in them is marked as set."""
    logs = simulate_categories(market, market.train_categories, market.train_seed, market.logged_weeks, 0)
    return build_store(load_visible(logs, store_name(market, market.train_seed)))


def simulated_tasks(
    tasks: TaskArguments, market: FewShotMarketArguments, processor: PricingFMProcessor, patch: int, judges: bool
) -> tuple[list[DataSource], dict[int, FewShotTask]]:
    """Simulated categories and their true elasticities; if prices are to be judged, also what each of them is worth."""
    if tasks.query_weeks != market.decision_weeks:
        raise SystemExit(
            f"--query_weeks is {tasks.query_weeks} and --decision_weeks {market.decision_weeks}; simulated categories "
            "are judged by the weeks of the decision: give both the same number"
        )
    logs = simulate_categories(market, market.train_categories, market.train_seed, market.logged_weeks, 0)
    truth = find_truth(logs, market.decision_weeks) if judges else None
    regret = None if truth is None else grid_regret(truth)
    store = build_decision_store(logs, market.decision_weeks, store_name(market, market.train_seed))
    per_week = market.kind.periods_per_week
    categories = decision_categories(store, max(tasks.weeks) * per_week, market.decision_weeks)
    found = {}
    for weeks in tasks.weeks:
        task = build_task(store, categories, processor, weeks * per_week, tasks, patch)
        query = add_elasticities(task.query, logs, market.decision_weeks)
        if truth is not None and regret is not None:
            query = add_grid(add_costs(query, truth), truth, regret)
        found[weeks] = replace(task, query=query)
    return [DataSource(store.name, store.fingerprint)], found


if __name__ == "__main__":
    run_recipe(main)
