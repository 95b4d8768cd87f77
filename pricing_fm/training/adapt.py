"""Adapts a base to one category from a few logged weeks: demand first, then values and policy, in one LoRA adapter."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd
import torch
from torch import nn

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.models.outputs import DemandOutput
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, SeriesStore, add_assortment, build_store
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.collate import NOTHING_HIDDEN, PretrainBatchSource, TaskMix
from pricing_fm.training.loop import train
from pricing_fm.training.policy_learning import PolicyArguments, PolicyLearner
from pricing_fm.training.validation import time_forward_batches

DECISION_HEAD = "decision_head"
# A decision needs one period before it. Demand needs a third one, which decides whether anything was learned.
FEWEST_PERIODS = 2
# Few weeks of one category: nothing is hidden but a little of the future, so that the adapter does not lean on it.
ADAPTATION_TASKS = TaskMix(
    hide_future=0.0, hide_promotions=0.05, hide_price=0.05, hide_patches=0.0, drop_channel=0.05, drop_category=0.05
)


@dataclass(frozen=True)
class AdaptArguments:
    """How a category is adapted.

    Args:
        weeks (`int`, *optional*): Everything visible of the category is its last `weeks` x 7 days; None = all of it.
        support_end (`str`, *optional*): Visible periods start before this date; default: up to the last period.
        objective (`str`): `forecast` adapts demand, `policy` the decision heads, `both` one after the other.
        demand_steps, policy_steps (`int`): Most optimizer steps of each.
        window_length (`int`): Future steps of a demand window, cut to what the weeks allow.
        batch_size (`int`): Windows per step.
        holdout_share (`float`): Last share of the visible weeks that decides how many demand steps are taken.
        strength (`float`): Share of what the demand side has learned that is kept; below 1 averages base and adapted
            weights, which holds better where the future differs from the past (Wortsman et al. 2022, arXiv:2109.01903).
        loss_bend (`float`): As in `PricingFMConfig`. Straight by default: the items of a panel are no wild mixture.
        volume_exponent (`float`): An item's loss, which is relative to its own mean sales, is weighted with the power
            of these: 0 = every item counts alike, 1 = every unit sold does, as in a pooled loss.
        shift_calendar (`float`): Share of windows that are taken for ones of another time of the year, so that a
            panel's few weeks cannot be learned by heart by their dates.
        holdout_windows (`int`): Most windows of the holdout.
    """

    weeks: int | None = field(default=None, metadata={"help": "visible history in weeks of 7 days; default: all"})
    support_end: str | None = field(
        default=None, metadata={"help": "only periods that start before this date are seen"}
    )
    objective: Literal["both", "forecast", "policy"] = field(
        default="both", metadata={"help": "forecast (demand side), policy (decision side) or both"}
    )
    demand_steps: int = field(default=40, metadata={"help": "most steps of the demand side"})
    policy_steps: int = field(default=40, metadata={"help": "steps of the decision side"})
    window_length: int = field(default=8, metadata={"help": "future steps of a demand window"})
    batch_size: int = field(default=32, metadata={"help": "windows per step"})
    holdout_share: float = field(default=0.25, metadata={"help": "last share of weeks that decides when to stop"})
    strength: float = field(
        default=1.0, metadata={"help": "share of what the demand side has learned that is kept, above 0 and up to 1"}
    )
    loss_bend: float = field(
        default=0.0, metadata={"help": "multiple of usual sales above which errors count by their logarithm; 0 = none"}
    )
    shift_calendar: float = field(
        default=0.0, metadata={"help": "share of windows that are taken for ones of another time of the year"}
    )
    volume_exponent: float = field(
        default=0.0, metadata={"help": "0 = every item counts alike, 1 = every unit sold does; powers in between"}
    )
    holdout_windows: int = field(default=512, metadata={"help": "most windows of the holdout"})

    def __post_init__(self) -> None:
        if self.weeks is not None and self.weeks < 0:
            raise ValueError(f"--weeks must be 0 or more, found {self.weeks}")
        if self.objective not in ("both", "forecast", "policy"):
            raise ValueError(f"--objective must be both, forecast or policy, found {self.objective!r}")
        if min(self.demand_steps, self.policy_steps, self.window_length, self.batch_size) < 1:
            raise ValueError("--demand_steps, --policy_steps, --window_length and --batch_size must be at least 1")
        if not 0 < self.holdout_share < 1:
            raise ValueError(f"--holdout_share must be in (0, 1), found {self.holdout_share}")
        if not 0 < self.strength <= 1:
            raise ValueError(f"--strength must be in (0, 1], found {self.strength}")
        if self.loss_bend < 0:
            raise ValueError(f"--loss_bend must be 0 or more, found {self.loss_bend}")
        if not 0 <= self.volume_exponent <= 1:
            raise ValueError(f"--volume_exponent must be in [0, 1], found {self.volume_exponent}")
        if not 0 <= self.shift_calendar <= 1:
            raise ValueError(f"--shift_calendar must be in [0, 1], found {self.shift_calendar}")
        if self.holdout_windows < 1:
            raise ValueError(f"--holdout_windows must be at least 1, found {self.holdout_windows}")


@dataclass(frozen=True)
class AdaptOptimArguments(OptimArguments):
    """How an adapter's weights move: an adaptation has dozens of steps, so warm-up and average are short."""

    warmup_steps: int = field(default=5, metadata={"help": "Steps of linear warm-up from zero to the peak."})
    ema_decay: float = field(default=0.9, metadata={"help": "Decay of the moving average of the weights; 0 = none."})


@dataclass(frozen=True)
class AdaptationResult:
    """What an adaptation came to; losses are None where that side was not trained.

    Args:
        demand_steps (`int`): Steps that the holdout chose; 0 = the base was better than any adapter.
        zero_shot_loss, adapted_loss (`float` or None): Demand loss on the holdout before and after.
        policy_loss (`float` or None): Last logged loss of the decision side; without one there is no policy.
        policy_steps (`int`): Steps of the decision side; 0 = where it started was better, or nothing was trained.
        seconds (`float`): Of all training.
        trained_parameters (`int`): Numbers in the adapter.
    """

    demand_steps: int
    zero_shot_loss: float | None
    adapted_loss: float | None
    policy_loss: float | None
    policy_steps: int
    seconds: float
    trained_parameters: int


@dataclass(frozen=True)
class DemandSide:
    """What the demand side of an adaptation came to.

    Args:
        steps (`int`): Steps that the holdout chose; 0 = the start was better than any adapter.
        zero_shot_loss, adapted_loss (`float`): Demand loss on the holdout before and after.
        seconds (`float`): Of training.
    """

    steps: int
    zero_shot_loss: float
    adapted_loss: float
    seconds: float


@dataclass(frozen=True)
class DecisionSide:
    """What the decision side of an adaptation came to.

    Args:
        steps (`int`): That were taken, of values and policy together.
        loss (`float`): Of the last steps.
        seconds (`float`): Of training.
    """

    steps: int
    loss: float
    seconds: float


def visible_panel(panel: Panel, category: str, arguments: AdaptArguments) -> Panel:
    """The category's items in the visible weeks; `all` keeps every category.

    A life begins with its first visible row and ends with its last one: rows that were only filled in because there
    are rows outside the visible weeks, and prices carried in from there, are gone.

    Args:
        panel (`Panel`): Everything that was logged.
        category (`str`): Exact value in the data, or `all`.
        arguments (`AdaptArguments`): Weeks and end.

    Returns:
        `Panel`: Empty for `weeks` = 0.

    Raises:
        PanelError: If nothing is visible.
    """
    chosen = panel if category == "all" else panel.select_category(category)
    end = (
        chosen.frequency.step(chosen.last_observed, 1)
        if arguments.support_end is None
        else pd.Timestamp(arguments.support_end)
    )
    chosen = chosen.before(end)
    if arguments.weeks is not None:
        start = end - pd.Timedelta(days=7 * arguments.weeks)
        chosen = replace(chosen, frame=chosen.frame[chosen.frame[names.TIMESTAMP] >= start])
    chosen = replace(chosen, frame=_lives_inside(chosen.frame).reset_index(drop=True))
    if chosen.frame.empty and arguments.weeks != 0:
        raise PanelError(f"category {category!r} has no period in the {arguments.weeks} weeks before {end}")
    return chosen


def _lives_inside(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows from the first to the last one of each item that the source really has."""
    is_real = frame[names.PRICE].notna() & ~frame[names.PRICE_IMPUTED]
    items = frame[names.ITEM_ID]
    begun = is_real.groupby(items, sort=False).cummax()
    unfinished = is_real[::-1].groupby(items[::-1], sort=False).cummax()[::-1]
    return frame[begun & unfinished]


def usual_scale(panel: Panel, arguments: AdaptArguments) -> float:
    """Units per period at which an item's weight is the mean weight of all items."""
    means = panel.frame.groupby(names.ITEM_ID)[names.UNITS].mean().dropna()
    means = means[means > 0]
    if not len(means) or arguments.volume_exponent == 0:
        return 1.0
    return float((means**arguments.volume_exponent).mean() ** (1 / arguments.volume_exponent))


class DemandLearner(nn.Module):
    """The demand loss alone, on the network inside an adapter.

    Args:
        network (`nn.Module`): What the optimizer sees.
        model (`PricingFMForPolicy`): The same network without any wrapper.
        volume_exponent (`float`): As in `AdaptArguments`.
        usual_scale (`float`): Units per period of an item of weight 1.
    """

    def __init__(
        self, network: nn.Module, model: PricingFMForPolicy, volume_exponent: float = 0.0, usual_scale: float = 1.0
    ):
        super().__init__()
        self.network = network
        self._model = (model,)  # in a tuple: the same parameters must not be registered twice
        self.volume_exponent, self.usual_scale = volume_exponent, usual_scale

    def forward(self, **batch: torch.Tensor) -> DemandOutput:
        """Weighted mean demand loss of the batch."""
        model = self._model[0]
        weights = (batch["scale"] / self.usual_scale) ** self.volume_exponent
        loss, parts = model.demand_loss(model.encode(batch), {**batch, "loss_weights": weights})
        return DemandOutput(loss=loss.mean(), loss_terms=parts)


def adapt(
    network: nn.Module,
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    panel: Panel,
    arguments: AdaptArguments,
    optim: OptimArguments,
    loop: LoopArguments,
    output: OutputArguments,
    policy: PolicyArguments,
    rewards: RewardWeights,
    after_demand: Callable[[], None] = lambda: None,
    learn_demand: Callable[[], DemandSide] | None = None,
    learn_decisions: Callable[[], DecisionSide] | None = None,
) -> AdaptationResult:
    """Trains the adapter in `network` in place: demand as `_Sides.train_demand` says, then decisions built on it.

    Args:
        network (`nn.Module`): Base with the adapter in place; only the adapter has `requires_grad`.
        model (`PricingFMForPolicy`): The same network, unwrapped.
        processor (`PricingFMProcessor`): Belongs to the base.
        panel (`Panel`): From `visible_panel`.
        arguments (`AdaptArguments`): Which sides, and how long.
        optim (`OptimArguments`): Of both sides.
        loop (`LoopArguments`): Seed and device; `max_steps` is replaced by each side's steps.
        output (`OutputArguments`): Where logs go.
        policy (`PolicyArguments`): Of the decision side.
        rewards (`RewardWeights`): Of the decision side.
        after_demand (`Callable`): Called before the decision side builds on the demand side's last weights.
        learn_demand (`Callable`, *optional*): Steps of the demand side that a start prescribes, instead of these.
        learn_decisions (`Callable`, *optional*): The same of the decision side; needs three periods.

    Returns:
        `AdaptationResult`.
    """
    trainable = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    periods = int(panel.frame[names.TIMESTAMP].nunique()) if len(panel.frame) else 0
    if periods < FEWEST_PERIODS:
        after_demand()
        return AdaptationResult(0, None, None, None, 0, 0.0, _count(trainable))
    short = shortened(processor, model, periods)
    sides = _Sides(network, model, short, panel, arguments, optim, loop, output, trainable, periods)
    learns_demand = arguments.objective != "policy" and periods > FEWEST_PERIODS
    demand = (learn_demand or sides.train_demand)() if learns_demand else None
    after_demand()
    decision = None
    if arguments.objective != "forecast":
        decide = learn_decisions if periods > FEWEST_PERIODS else None
        decision = decide() if decide else sides.train_decisions(policy, rewards)
    for parameter in trainable.values():
        parameter.requires_grad_(True)
    return AdaptationResult(
        demand_steps=demand.steps if demand else 0,
        zero_shot_loss=demand.zero_shot_loss if demand else None,
        adapted_loss=demand.adapted_loss if demand else None,
        policy_loss=decision.loss if decision else None,
        policy_steps=decision.steps if decision else 0,
        seconds=(demand.seconds if demand else 0.0) + (decision.seconds if decision else 0.0),
        trained_parameters=_count(trainable),
    )


def _count(parameters: dict[str, nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters.values())


def shortened(processor: PricingFMProcessor, model: PricingFMForPolicy, periods: int) -> PricingFMProcessor:
    """The processor with a context no longer than the visible weeks: computing on hidden ones only costs time."""
    patch = model.config.patch_length
    short = copy.copy(processor)
    short.context_length = min(processor.context_length, -(-periods // patch) * patch)
    return short


def decision_source(
    panel: Panel, processor: PricingFMProcessor, horizon: int, batch_size: int, seed: int
) -> PretrainBatchSource:
    """Windows of logged decisions from all visible weeks, each with the period after its last decision.

    Args:
        panel (`Panel`): From `visible_panel`, two periods or more.
        processor (`PricingFMProcessor`): Reads them.
        horizon (`int`): Most decision periods of a window.
        batch_size (`int`): Windows per step.
        seed (`int`): Of the draws.

    Returns:
        `PretrainBatchSource`.
    """
    periods = int(panel.frame[names.TIMESTAMP].nunique())
    history = max(1, min(8, periods // 2))
    ahead = max(1, min(horizon, periods - history)) + 1
    store = add_assortment(build_store(panel))
    return PretrainBatchSource(
        [store], [1.0], processor, batch_size, ahead, seed, tasks=NOTHING_HIDDEN, minimum_history=history
    )


@dataclass(frozen=True)
class _Sides:
    """The two halves of an adaptation share everything but their loss and their parameters."""

    network: nn.Module
    model: PricingFMForPolicy
    processor: PricingFMProcessor
    panel: Panel
    arguments: AdaptArguments
    optim: OptimArguments
    loop: LoopArguments
    output: OutputArguments
    trainable: dict[str, nn.Parameter]
    periods: int

    def _train_only(self, decisions: bool) -> None:
        for name, parameter in self.trainable.items():
            parameter.requires_grad_((DECISION_HEAD in name) == decisions)

    def _source(self, store: SeriesStore, history: int, steps_ahead: int, tasks: TaskMix) -> PretrainBatchSource:
        return PretrainBatchSource(
            [store],
            [1.0],
            self.processor,
            self.arguments.batch_size,
            steps_ahead,
            self.loop.seed,
            tasks=tasks,
            minimum_history=history,
        )

    def train_demand(self) -> DemandSide:
        """Learns on all visible weeks but the last share, which decides how many steps are right.

        None, if the base predicts it better; else training starts again and takes so many on all of the weeks.
        """
        self._train_only(decisions=False)
        # Steps that a start prescribes were learned with the loss as the base has it; these have their own.
        bend, self.model.demand_head.loss_bend = self.model.demand_head.loss_bend, self.arguments.loss_bend
        learner = DemandLearner(
            self.network, self.model, self.arguments.volume_exponent, usual_scale(self.panel, self.arguments)
        )
        held = max(1, round(self.arguments.holdout_share * self.periods))
        history = max(1, min(8, (self.periods - held) // 2))
        ahead = max(1, min(self.arguments.window_length, self.periods - held - history))
        start = self.panel.frequency.step(self.panel.last_observed, 1 - held)
        tasks = replace(ADAPTATION_TASKS, shift_calendar=self.arguments.shift_calendar)
        validation = time_forward_batches(
            add_assortment(build_store(self.panel)),
            start,
            self.processor,
            min(held, 8),
            self.arguments.holdout_windows,
            self.arguments.batch_size,
            history,
        )
        begin = {name: parameter.detach().clone() for name, parameter in self.trainable.items()}
        steps = self.arguments.demand_steps
        loop = replace(self.loop, max_steps=steps, evaluate_every=max(steps // 8, 1), evaluate_first=True)
        source = self._source(add_assortment(build_store(self.panel.before(start))), history, ahead, tasks)
        chosen = train(learner, source, self.optim, loop, self._stage("holdout"), validation)
        # The loop was told to validate before the first step.
        zero_shot = chosen.history[0]["validation_loss"]
        assert zero_shot is not None
        assert chosen.best_validation_loss is not None
        with torch.no_grad():
            for name, parameter in self.trainable.items():
                parameter.copy_(begin[name])
        seconds = chosen.seconds
        if chosen.best_step > 0:
            source = self._source(add_assortment(build_store(self.panel)), history, ahead, tasks)
            final = replace(loop, max_steps=chosen.best_step, evaluate_every=0, evaluate_first=False)
            seconds += train(learner, source, self.optim, final, self._stage("demand")).seconds
            self._weaken()
        self.model.demand_head.loss_bend = bend
        return DemandSide(chosen.best_step, zero_shot, chosen.best_validation_loss, seconds)

    @torch.no_grad()
    def _weaken(self) -> None:
        """Keeps the asked-for share of the demand side's change: the product of both factors scales with the second."""
        for name, parameter in self.trainable.items():
            if "lora_B" in name and DECISION_HEAD not in name:
                parameter.mul_(self.arguments.strength)

    def train_decisions(self, policy: PolicyArguments, rewards: RewardWeights) -> DecisionSide:
        """Values, behaviour and policy on all visible weeks."""
        self._train_only(decisions=True)
        learner = PolicyLearner(self.network, self.model, self.processor, policy, rewards)
        source = decision_source(self.panel, self.processor, policy.horizon, self.arguments.batch_size, self.loop.seed)
        loop = replace(self.loop, max_steps=self.arguments.policy_steps, evaluate_every=0, evaluate_first=False)
        result = train(learner, source, self.optim, loop, self._stage("policy"))
        loss = result.history[-1]["loss"]
        assert loss is not None
        return DecisionSide(self.arguments.policy_steps, loss, result.seconds)

    def _stage(self, name: str) -> OutputArguments:
        """Each stage logs into its own folder; none of them checkpoints: an adaptation takes seconds."""
        folder = f"{self.output.output_dir}/.stages/{name}"
        return replace(self.output, output_dir=folder, checkpoint_dir=None, checkpoint_every=0, resume=None)
