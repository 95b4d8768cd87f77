"""Adapt a base to one category: a LoRA adapter that forecasts its demand and prices its items.

Example: python recipes/adapt.py --base outputs/base --panel data/frat/panel.parquet --schema data/frat/schema.yaml \
    --category "frozen pizza" --weeks 26 --output_dir outputs/frozen-pizza
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate.utils import set_seed
from peft import PeftModel

from pricing_fm import names
from pricing_fm.adapters import (
    CategoryPooling,
    LoraArguments,
    activate_adapter,
    add_adapter,
    category_slug,
    category_slugs,
    load_adapter,
    read_pooling,
    save_adapter,
    train_only,
    write_pooling,
    write_profile,
)
from pricing_fm.artifact import write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.guardrails import load_guardrails
from pricing_fm.hub import download
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import CategorySupport, category_support, load_base, write_ladder
from pricing_fm.policy.profile import category_profile, read_category
from pricing_fm.policy.request import NO_COST
from pricing_fm.policy.situation import read_situation
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from pricing_fm.training.adapt import (
    FEWEST_PERIODS,
    AdaptArguments,
    AdaptationResult,
    AdaptOptimArguments,
    adapt,
    visible_panel,
)
from pricing_fm.training.arguments import LoopArguments, OutputArguments
from pricing_fm.training.few_shot_tasks import FEWEST_WEEKS
from pricing_fm.training.learned_decisions import DecisionStart, read_decision_start, take_learned_decisions
from pricing_fm.training.learned_steps import InnerRates, read_rates, take_learned_steps
from pricing_fm.training.policy_learning import PolicyArguments

ALL = "all"  # one adapter for every category of the panel


@dataclass(frozen=True)
class SourceArguments:
    """What is adapted to what."""

    base: str = field(metadata={"help": "Folder or Hub repository of the base."})
    panel: str = field(metadata={"help": "Sales log: path or Hub dataset id."})
    schema: str | None = field(
        default=None, metadata={"help": "Schema of the panel; none = its columns bear panel names."}
    )
    category: str = field(default="all", metadata={"help": "Exact value in the data, or all for the whole panel."})
    covariates: Literal["both", "price", "flags", "none"] | None = field(
        default=None,
        metadata={"help": "What may be seen of prices and promotions, for ablations; default: the base's."},
    )
    initial_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Folder or repository of an adapter to start from (recipes/meta_train.py); it sets the rank, and "
            "pools what the category's items say of their elasticities if it has learned how."
        },
    )
    use_learned_rates: bool = field(
        default=True,
        metadata={
            "help": "Take the steps that the initial adapter has learned, of either side, if it has (weekly panels; "
            "options of the ordinary steps have no say in them and are refused)."
        },
    )
    stop_decisions_early: bool = field(
        default=True,
        metadata={
            "help": "Let the last visible weeks (--holdout_share) say how many of the steps of values and policy that "
            "the initial adapter has learned are taken; else all of them."
        },
    )
    guardrails: str | None = field(default=None, metadata={"help": "Rules that belong to the category (YAML or JSON)."})


def main(argv: Sequence[str] | None = None) -> AdaptationResult:
    kinds = (
        SourceArguments,
        AdaptArguments,
        PolicyArguments,
        RewardWeights,
        LoraArguments,
        AdaptOptimArguments,
        LoopArguments,
        OutputArguments,
    )
    source, how, policy, rewards, lora, optim, loop, output = read_recipe(kinds, argv, description=__doc__)
    refuse_loop_keys(loop, output)
    set_seed(loop.seed)
    origin = download(source.base)
    base = origin.folder
    model, processor, fingerprint = load_base(base)
    processor.covariates = source.covariates or processor.covariates
    full = load_panel(source.panel, schema=source.schema)
    category_slugs(full.categories)  # two categories with one slug would overwrite each other's adapters
    panel = visible_panel(full, source.category, how)
    asked, (policy, rewards) = rewards, check_costs(panel, policy, rewards)
    slug = category_slug(source.category)
    network = start_adapter(model, slug, lora, loop.seed, source.initial_adapter, fingerprint)
    initial = None if source.initial_adapter is None else download(source.initial_adapter).folder

    def pool() -> None:
        if initial is not None:
            pool_elasticities(network, slug, model, processor, panel, initial)

    learned = learned_rates(source, how, initial)
    decided = learned_decisions(source, how, policy, initial, panel)
    policy = policy if decided is None else replace(policy, discount=decided.steps.discount)

    parts, share = (network, slug, model, processor, panel), policy.assumed_cost_share
    demand = None if learned is None else partial(take_learned_steps, *parts, learned, how.holdout_share)
    early = how.holdout_share, source.stop_decisions_early
    decide = None if decided is None else partial(take_learned_decisions, *parts, decided, rewards, share, *early)
    result = adapt(network, model, processor, panel, how, optim, loop, output, policy, rewards, pool, demand, decide)
    folder = save_adapter(
        network,
        slug,
        output.output_dir,
        origin.repo_id or base,
        fingerprint,
        origin.revision,
        category=None if source.category == ALL else source.category,
    )
    if len(panel.frame) and model.config.price_response == "monotone":
        activate_adapter(network, None)  # what the category looks like to the base
        write_profile(folder, category_profile(panel, model, processor, fingerprint))
        activate_adapter(network, slug)
    used = source, how, policy, asked, lora, optim, loop, output
    save_rest(folder, processor, full, panel, fingerprint, used, rewards, result)
    return result


def start_adapter(
    model: PricingFMForPolicy, slug: str, lora: LoraArguments, seed: int, initial: str | None, fingerprint: str
) -> PeftModel:
    """A new adapter, at the base or where another one ended, the only thing that is trained."""
    if initial is None:
        return add_adapter(model, slug, lora, seed=seed)
    network = load_adapter(model, slug, download(initial).folder, fingerprint)
    train_only(network, [slug])
    return network


def learned_rates(source: SourceArguments, how: AdaptArguments, initial: Path | None) -> InnerRates | None:
    """Rates and steps of the start, None if ordinary steps are taken; says so if that is because it has none."""
    if initial is None or not source.use_learned_rates or how.objective == "policy":
        return None
    found = read_rates(initial)
    if found is None or found.steps is None:
        print(f"{source.initial_adapter} carries no learned rates: ordinary steps (--demand_steps, --learning_rate)")
        return None
    unheard = ("demand_steps", "window_length", "strength", "loss_bend", "volume_exponent", "shift_calendar")
    refuse_unheard(source, found.steps, unheard, how, AdaptArguments())
    print(f"{source.initial_adapter}: up to {found.steps} steps at learned rates")
    return found


def learned_decisions(
    source: SourceArguments, how: AdaptArguments, policy: PolicyArguments, initial: Path | None, panel: Panel
) -> DecisionStart | None:
    """Steps of the decision side that the start has learned; None if it has none: ordinary ones are taken, all of them.

    Says so where the weeks are too few for learned ones.
    """
    if how.objective == "forecast":
        return None
    found = None if initial is None or not source.use_learned_rates else read_decision_start(initial)
    if found is None:
        if not source.stop_decisions_early:
            raise SystemExit(
                "--stop_decisions_early false is for steps of decisions that an initial adapter has learned; the "
                "ordinary ones (--policy_steps) are all taken anyway: leave it out"
            )
        return None
    steps = found.steps.value_steps + found.steps.policy_steps
    refuse_unheard(source, steps, ("policy_steps",), how, AdaptArguments())
    unheard = ("algorithm", "discount", "horizon", "expectile", "inverse_temperature")
    refuse_unheard(source, steps, unheard, policy, PolicyArguments())
    weeks = panel.frame[names.TIMESTAMP].nunique()
    if weeks < FEWEST_WEEKS:
        instead = "ordinary steps are taken, all of them" if weeks == FEWEST_PERIODS else "no steps are taken"
        print(f"learned steps of decisions need {FEWEST_WEEKS} weeks, one of which judges; {weeks} visible: {instead}")
        return found
    most = "up to " if source.stop_decisions_early else ""
    print(f"{source.initial_adapter}: {most}{steps} steps of values and policy at learned rates")
    return found


def refuse_unheard(source: SourceArguments, steps: int, keys: Sequence[str], given: Any, plain: Any) -> None:
    """Keys that were changed and would change nothing in steps that a start prescribes."""
    changed = [f"--{key}" for key in keys if vars(given)[key] != vars(plain)[key]]
    if changed:
        raise SystemExit(
            f"{', '.join(changed)}: {source.initial_adapter} prescribes {steps} steps at learned rates, in which these "
            "have no say; leave them out, or take ordinary steps with --use_learned_rates false"
        )


def pool_elasticities(
    network: PeftModel, slug: str, model: PricingFMForPolicy, processor: PricingFMProcessor, panel: Panel, initial: Path
) -> None:
    """What the category's items say together goes into its adapter, if the one it started from knows how."""
    rule = read_pooling(initial)
    if rule is None:
        return
    weeks = len(panel.frame) and (panel.last_observed - panel.frame[names.TIMESTAMP].min()).days / 7 + 1
    write_pooling(network, slug, CategoryPooling(0.0, 0.0))  # a rule reads what the network makes of items one by one
    found, regression = read_category(panel, model, processor)
    pooling = rule.pool(found, weeks, regression)
    write_pooling(network, slug, pooling)
    middle = float(np.exp(np.median(found))) if len(found) else float(np.exp(rule.typical_mean))
    pooled = middle * float(np.exp(pooling.factors(np.log(middle))))
    said = "" if regression is None else f" (their regression: {regression.elasticity:.2f} +- {regression.error:.2f})"
    print(f"elasticities of {len(found)} items pooled: {middle:.2f} becomes {pooled:.2f}{said}")


def refuse_loop_keys(loop: LoopArguments, output: OutputArguments) -> None:
    """Keys of the loop that would change nothing here: an adaptation has steps and validations of its own."""
    plain = LoopArguments()
    changed = {
        "--max_steps": loop.max_steps != plain.max_steps,
        "--evaluate_every": loop.evaluate_every != plain.evaluate_every,
        "--resume": output.resume is not None,
    }
    ignored = [key for key, was_given in changed.items() if was_given]
    if ignored:
        raise SystemExit(f"{', '.join(ignored)}: an adaptation has --demand_steps and --policy_steps and starts afresh")


def check_costs(panel: Panel, policy: PolicyArguments, rewards: RewardWeights) -> tuple[PolicyArguments, RewardWeights]:
    """Margin needs a cost; without one, and without an assumption, the reward counts revenue and says so."""
    has_cost = "cost" in panel.frame and panel.frame["cost"].notna().any()
    if rewards.margin > 0 and not has_cost and policy.assumed_cost_share is None:
        print(f"{NO_COST}, not margin (map `cost` in the schema or give --assumed_cost_share)")
        return policy, replace(rewards, margin=0.0, revenue=rewards.margin)
    return policy, rewards


def save_rest(
    folder: Path,
    processor: PricingFMProcessor,
    full: Panel,
    visible: Panel,
    fingerprint: str,
    arguments: Sequence[Any],
    rewards: RewardWeights,
    result: AdaptationResult,
) -> None:
    """Everything of the artifact beside the PEFT files: processor, ladder, rules, recipe, results, seal and card."""
    source, how, policy, _, _, _, loop, _ = arguments
    processor.to_json_file(folder / "preprocessor_config.json")  # the code that reads it is the base's
    support = count_support(visible, processor, None if source.category == ALL else source.category)
    trained = result.policy_loss is not None
    write_ladder(folder, support, trained, rewards, policy.discount, policy.dial, policy.caution)
    (folder / "guardrails.json").write_text(json.dumps(load_guardrails(source.guardrails).as_dict(), indent=1) + "\n")
    save_recipe(folder, arguments)
    rows = measured_rows(result, source.category, full.name, how.weeks, loop.seed)
    write_results(folder, build_results("adapt", [DataSource(full.name, full.fingerprint())], rows))
    write_manifest(folder, "adapter", fingerprint)
    write_card(folder, CardText(title=folder.name))
    steps, size = f"{result.demand_steps} demand and {result.policy_steps} policy steps", result.trained_parameters
    print(f"{folder}: {steps}, {size:,} parameters, {result.seconds:.1f} s")


def count_support(visible: Panel, processor: PricingFMProcessor, category: str | None) -> CategorySupport:
    """The rungs that the visible weeks have tried; none without visible weeks (k = 0)."""
    if not len(visible.frame):
        nothing = [[0] * processor.num_rungs for _ in range(2)]
        return CategorySupport(
            category, processor.ladder_start, processor.ladder_step, processor.num_rungs, nothing, nothing
        )
    windows = read_situation(visible, processor.context_length, 1).windows
    references = processor.reference_prices(windows.past, windows.future)
    return category_support(windows, references, processor, category)


def measured_rows(result: AdaptationResult, category: str, panel: str, weeks: int | None, seed: int) -> list[ResultRow]:
    """Holdout losses before and after."""
    losses = {"base": result.zero_shot_loss, "adapter": result.adapted_loss}
    return [
        ResultRow(
            "demand_loss",
            value,
            model,
            panel,
            split="validation",
            category=category,
            k=weeks,
            seed=seed,
            train_s=result.seconds,
        )
        for model, value in losses.items()
        if value is not None
    ]


if __name__ == "__main__":
    run_recipe(main)
