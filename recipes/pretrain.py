"""Pretrain a base model on one or several panels.

Example: python recipes/pretrain.py --config recipes/nano/pretrain.yaml --panels data/synthetic/panel.parquet \
    --schemas data/synthetic/schema.yaml --output_dir outputs/base
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file

from pricing_fm.artifact import verify_artifact, write_manifest
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError, PanelError
from pricing_fm.hub import download
from pricing_fm.models import PricingFMConfig, PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.names import CHANNEL_INDEX
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import (
    Panel,
    SeriesStore,
    add_assortment,
    build_store,
    check_spellings,
    load_panel,
    load_shards,
    split_by_category,
)
from pricing_fm.panel.disjoint import check_items_apart, check_stores_apart
from pricing_fm.panel.panel import describe_categories
from pricing_fm.panel.sampler import find_switch_rows
from pricing_fm.recipe import read_recipe, run_recipe, save_recipe
from pricing_fm.results import DataSource, ResultRow, build_results, write_results
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.calibration import estimate_step_correlation
from pricing_fm.training.checkpoint import whole_tensors
from pricing_fm.training.collate import NOTHING_HIDDEN, PretrainBatchSource, TaskMix
from pricing_fm.training.loop import TrainingResult, train
from pricing_fm.training.policy_learning import PolicyArguments, PolicyLearner
from pricing_fm.training.processes import start_accelerator
from pricing_fm.training.sources import Batch
from pricing_fm.training.validation import drawn_batches, time_forward_batches


@dataclass(frozen=True)
class DataArguments:
    """Which panels, which of their periods, and how windows are drawn from them."""

    panels: tuple[str, ...] = field(default=(), metadata={"help": "Tables of panels: paths or Hub dataset ids."})
    schemas: tuple[str, ...] = field(
        default=(), metadata={"help": "Schema of each panel; one for all; none = the columns bear panel names."}
    )
    stores: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Prepared series, trained on whole: folders of prepare_store.py or of a simulated corpus."},
    )
    validation_stores: tuple[str, ...] = field(
        default=(), metadata={"help": "Stores of other series, validated on at origins drawn once."}
    )
    panel_weights: tuple[float, ...] = field(
        default=(), metadata={"help": "Share of training windows from each panel, then each store; default: equal."}
    )
    held_out_categories: tuple[str, ...] = field(
        default=(), metadata={"help": "Categories that training and validation never see."}
    )
    validation_start: str | None = field(
        default=None, metadata={"help": "First validation period of every panel; default: --validation_periods."}
    )
    validation_periods: int = field(
        default=8, metadata={"help": "Last visible periods of each panel that are validated on, not trained on."}
    )
    test_start: str | None = field(default=None, metadata={"help": "Nothing from this period on is read at all."})
    test_periods: int = field(default=0, metadata={"help": "The same, as a number of last periods of each panel."})
    validation_windows: int = field(default=512, metadata={"help": "Most validation windows of each panel."})
    prediction_length: int = field(default=8, metadata={"help": "Future steps of a window."})
    minimum_history: int = field(default=8, metadata={"help": "Fewest periods before a window's forecast origin."})
    history_shares: tuple[float, ...] = field(
        default=(1.0,),
        metadata={"help": "Probability that a step reads the whole context, its half, its quarter, ..."},
    )
    intervention_probability: float = field(
        default=0.5,
        metadata={"help": "Share of simulated windows that begin where prices begin to be drawn at random."},
    )
    batch_size: int = field(
        default=64, metadata={"help": "Windows of a step, over all processes and micro-batches together."}
    )

    def __post_init__(self) -> None:
        if not self.panels and not self.stores:
            raise ValueError("there is nothing to train on: pass --panels or --stores")
        if len(self.schemas) not in {0, 1, len(self.panels)}:
            raise ValueError(f"--schemas has {len(self.schemas)} entries for {len(self.panels)} panels")
        if len(self.panel_weights) not in {0, len(self.panels) + len(self.stores)}:
            raise ValueError(
                f"--panel_weights has {len(self.panel_weights)} entries for {len(self.panels)} panels and "
                f"{len(self.stores)} stores"
            )
        if min(self.validation_periods, self.prediction_length, self.minimum_history, self.batch_size) < 1:
            raise ValueError("--validation_periods, --prediction_length, --minimum_history, --batch_size: 1 or more")
        if self.test_periods < 0 or self.validation_windows < 1:
            raise ValueError("--test_periods must be 0 or more, --validation_windows 1 or more")
        if self.test_start is not None and self.test_periods:
            raise ValueError("--test_start and --test_periods both say where the test begins; pass one of them")


@dataclass(frozen=True)
class ModelArguments:
    """Which network. Its sizes stand in `PricingFMConfig`."""

    initial_base: str | None = field(
        default=None,
        metadata={"help": "Base whose weights to start from, folder or Hub repository; its sizes must be those below."},
    )
    size: Literal["nano", "small", "base"] = field(default="nano", metadata={"help": "Size of the network."})
    price_response: Literal["monotone", "free"] = field(
        default="monotone", metadata={"help": "monotone = demand never rises with price; free = price is an input."}
    )
    covariates: Literal["both", "price", "flags", "none"] = field(
        default="both", metadata={"help": "What is seen besides sales and calendar; for ablations."}
    )
    left_out_evidence: tuple[str, ...] = field(
        default=(),
        metadata={"help": "Evidence not computed (local_forecast, hidden_demand, price, siblings); for ablations."},
    )
    context_length: int = field(default=104, metadata={"help": "Past periods that the network reads."})
    patch_length: int = field(default=4, metadata={"help": "Past periods of a token; divides the context."})


@dataclass(frozen=True)
class ObjectiveArguments:
    """Weights of the parts of the loss beside the quantiles; they stand in `PricingFMConfig`."""

    count_loss_weight: float = field(default=0.1, metadata={"help": "Likelihood of the mean."})
    elasticity_loss_weight: float = field(default=0.5, metadata={"help": "True elasticities of simulated windows."})
    behavior_loss_weight: float = field(default=0.05, metadata={"help": "Logged decisions."})
    patch_loss_weight: float = field(default=0.1, metadata={"help": "Hidden past units."})
    censored_loss: bool = field(
        default=True, metadata={"help": "A sold-out period is a lower bound of demand; else it is taken for demand."}
    )
    loss_bend: float = field(
        default=4.0, metadata={"help": "Multiple of usual sales above which errors count by their logarithm; 0 = none."}
    )


@dataclass(frozen=True)
class DecisionArguments:
    """How long the decision heads learn on the finished trunk, so that no adapter meets random ones."""

    decision_steps: int = field(
        default=200, metadata={"help": "Steps of behaviour, value and policy heads; 0 = leave them random."}
    )
    decision_learning_rate: float = field(default=2e-3, metadata={"help": "Their peak learning rate."})

    def __post_init__(self) -> None:
        if self.decision_steps < 0 or not 0 < self.decision_learning_rate < math.inf:
            raise ValueError("--decision_steps must be 0 or more, --decision_learning_rate above 0")


@dataclass(frozen=True)
class Cut:
    """A panel cut by time: what is trained on, and the same with the validation periods behind it."""

    train: Panel
    validation: Panel
    validation_start: pd.Timestamp


def main(argv: Sequence[str] | None = None) -> TrainingResult:
    kinds = (
        DataArguments,
        TaskMix,
        ModelArguments,
        ObjectiveArguments,
        DecisionArguments,
        PolicyArguments,
        RewardWeights,
        OptimArguments,
        LoopArguments,
        OutputArguments,
    )
    arguments = read_recipe(kinds, argv, description=__doc__)
    data, tasks, architecture, objective, decisions, _, _, optim, loop, output = arguments
    accelerator = start_accelerator(loop, output)
    cuts = [cut_by_time(panel, data) for panel in load_panels(data)]
    set_seed(loop.seed)
    model, processor = build_model(architecture, objective)
    if architecture.initial_base is not None:
        start_from(model, architecture.initial_base)
    # One entry per panel or folder; a folder may hold several shards.
    train_stores: list[tuple[SeriesStore, ...]] = [(add_assortment(build_store(cut.train)),) for cut in cuts]
    train_stores += [load_shards(folder, check_rows=accelerator.is_main_process) for folder in data.stores]
    processor.trained_on_interventions = any(
        len(find_switch_rows(shard)) for shards in train_stores for shard in shards
    )
    batch_source = PretrainBatchSource(
        train_stores,
        data.panel_weights or [1.0] * len(train_stores),
        processor,
        data.batch_size,
        data.prediction_length,
        loop.seed,
        tasks=tasks,
        minimum_history=data.minimum_history,
        history_shares=data.history_shares,
        patch_length=model.config.patch_length,
        intervention_probability=data.intervention_probability,
    )
    validation_batches = build_validation(cuts, processor, data, accelerator.is_main_process)
    result = train(model, batch_source, optim, loop, output, validation_batches, accelerator)
    processor.step_correlation = estimate_step_correlation(model, validation_batches)
    if decisions.decision_steps and architecture.price_response == "monotone":
        learn_decisions(model, processor, train_stores, arguments, accelerator)
    # Shards bear the name and the fingerprint of their whole panel.
    sources = [DataSource(shards[0].name, shards[0].fingerprint) for shards in train_stores]
    save_base(Path(output.output_dir), model, processor, sources, arguments, result, loop.seed, accelerator)
    # Left to the interpreter's shutdown, the communication threads may abort a process that has done its work.
    accelerator.state.destroy_process_group()
    return result


def build_validation(
    cuts: Sequence[Cut], processor: PricingFMProcessor, data: DataArguments, check_rows: bool
) -> list[Batch]:
    """Of panels the periods after those trained on; of stores of other series windows drawn once."""
    batches = [
        batch
        for cut in cuts
        for batch in time_forward_batches(
            add_assortment(build_store(cut.validation)),
            cut.validation_start,
            processor,
            data.prediction_length,
            data.validation_windows,
            data.batch_size,
            data.minimum_history,
        )
    ]
    for folder in data.validation_stores:
        size = min(data.batch_size, data.validation_windows)
        batches += drawn_batches(
            load_shards(folder, check_rows),
            processor,
            data.prediction_length,
            data.validation_windows // size,
            size,
            data.minimum_history,
        )
    return batches


def load_panels(data: DataArguments) -> list[Panel]:
    """Every panel without its held-out categories."""
    schemas = data.schemas if len(data.schemas) == len(data.panels) else data.schemas * len(data.panels)
    panels = [
        load_panel(path, schema=schema) for path, schema in zip(data.panels, schemas or [None] * len(data.panels))
    ]
    known = {category for panel in panels for category in panel.categories}
    if unknown := sorted(set(data.held_out_categories) - known):
        raise PanelError(
            f"--held_out_categories {unknown} are in no panel; {describe_categories(sorted(known), unknown)}"
        )
    kept, splits = [], []
    for panel in panels:
        wanted = set(data.held_out_categories) & set(panel.categories)
        if not wanted:
            kept.append(panel)
            continue
        split = split_by_category(panel, wanted)
        kept.append(split.train)
        splits.append(split)
    # Held out of one panel, a category must not be learned from another one that spells it differently.
    check_spellings((category for panel in kept for category in panel.categories), data.held_out_categories)
    if splits:
        check_items_apart(kept, splits)
        for folder in (*data.stores, *data.validation_stores):
            check_stores_apart(load_shards(folder, check_rows=False), splits)
    return kept


def cut_by_time(panel: Panel, data: DataArguments) -> Cut:
    """Cuts off the test periods, then sets the validation periods apart."""
    visible = panel
    if data.test_start is not None:
        visible = panel.before(data.test_start)
    elif data.test_periods:
        visible = panel.before(panel.frequency.step(panel.last_observed, 1 - data.test_periods))
    if data.validation_start is not None:
        start = pd.Timestamp(data.validation_start)
    else:
        start = visible.frequency.step(visible.last_observed, 1 - data.validation_periods)
    return Cut(visible.before(start), replace(visible, evaluate_from=start), start)


def build_model(
    architecture: ModelArguments, objective: ObjectiveArguments
) -> tuple[PricingFMForPreTraining, PricingFMProcessor]:
    config = PricingFMConfig.from_size(
        architecture.size,
        price_response=architecture.price_response,
        context_length=architecture.context_length,
        patch_length=architecture.patch_length,
        **asdict(objective),
    )
    processor = PricingFMProcessor(
        context_length=config.context_length,
        covariates=architecture.covariates,
        left_out_evidence=architecture.left_out_evidence,
        num_static_buckets=config.num_static_buckets,
        num_response_members=config.num_response_members,
        num_rungs=config.num_rungs,
        ladder_step=config.ladder_step,
        ladder_start=config.ladder_start,
    )
    return PricingFMForPreTraining(config), processor


def start_from(model: PricingFMForPreTraining, base: str) -> None:
    """Takes the weights of a sealed base; the optimizer starts afresh."""
    folder = download(base).folder
    verify_artifact(folder, kind="base")
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ArtifactError(f"{folder}: its weights do not fit the network that was asked for ({error})") from error


def learn_decisions(
    model: PricingFMForPreTraining,
    processor: PricingFMProcessor,
    stores: Sequence[Sequence[SeriesStore]],
    arguments: Sequence[Any],
    accelerator: Accelerator,
) -> TrainingResult:
    """Trains behaviour, value and policy heads on the finished trunk; nothing else moves."""
    data, _, _, _, decisions, policy, rewards, optim, loop, output = arguments
    has_costs = all(
        any(np.isfinite(shard.values[:, CHANNEL_INDEX["cost"]]).any() for shard in shards) for shards in stores
    )
    if not has_costs and policy.assumed_cost_share is None:
        accelerator.print("a panel has no cost and there is no --assumed_cost_share: decisions maximise revenue")
        rewards = replace(rewards, margin=0.0, revenue=1.0)
    model.requires_grad_(False)
    model.decision_head.requires_grad_(True)
    source = PretrainBatchSource(
        stores,
        data.panel_weights or [1.0] * len(stores),
        processor,
        data.batch_size,
        policy.horizon + 1,
        loop.seed,
        tasks=NOTHING_HIDDEN,
        minimum_history=data.minimum_history,
    )
    result = train(
        PolicyLearner(model, model, processor, policy, rewards),
        source,
        replace(optim, learning_rate=decisions.decision_learning_rate, warmup_steps=10),
        replace(loop, max_steps=decisions.decision_steps, evaluate_every=0, patience=0),
        replace(
            output,
            output_dir=str(Path(output.output_dir) / ".stages" / "decisions"),
            checkpoint_dir=None,
            checkpoint_every=0,
            resume=None,
        ),
        accelerator=accelerator,
    )
    model.requires_grad_(True)
    return result


def save_base(
    folder: Path,
    model: PricingFMForPreTraining,
    processor: PricingFMProcessor,
    sources: list[DataSource],
    arguments: Sequence[object],
    result: TrainingResult,
    seed: int,
    accelerator: Accelerator,
) -> None:
    """The artifact: weights, processor, recipe, results, seal and card. Every process has to call this."""
    weights = whole_tensors(model.state_dict())
    if accelerator.is_main_process:
        model.save_pretrained(folder, state_dict=weights)
        processor.save_pretrained(folder)
        save_recipe(folder, arguments)
        rows = []
        if result.best_validation_loss is not None:
            rows.append(
                ResultRow(
                    name="loss",
                    value=result.best_validation_loss,
                    model="pricing_fm",
                    task="+".join(source.name for source in sources),
                    split="validation",
                    seed=seed,
                    train_s=result.seconds,
                )
            )
        write_results(folder, build_results("pretrain", sources, rows, accelerator.device.type))
        write_manifest(folder, "base")
        write_card(folder, CardText(title=folder.name))
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    run_recipe(main)
