"""The network in a randomised experiment: adapted on one half, asked for the demand curve of its items."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pricing_fm.adapters import LoraArguments, add_adapter
from pricing_fm.evaluation.randomised_panels import BatchedPanel, Experiment, build_batched_panel
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import PricingPolicy
from pricing_fm.policy.engine import share_weights
from pricing_fm.training.adapt import AdaptArguments, AdaptationResult, AdaptOptimArguments, adapt, visible_panel
from pricing_fm.training.arguments import LoopArguments, OutputArguments
from pricing_fm.training.policy_learning import PolicyArguments

ADAPTER = "randomised"
GRID_STEP = 0.05  # of the log price, between the prices a curve is asked for


@dataclass(frozen=True)
class BatchArguments:
    """How decisions become periods, and how often they are dealt anew.

    Args:
        exposure_per_period (`float`): Decisions (or person-years) in a period.
        fewest_periods (`int`): Of an item; items with few decisions get smaller batches.
        adaptation_draws, curve_draws (`int`): Random batchings and orders that are learned from, and averaged over.
    """

    exposure_per_period: float = field(default=200.0, metadata={"help": "decisions of a batch, which is a period"})
    fewest_periods: int = field(default=20, metadata={"help": "of an item; small items get smaller batches"})
    adaptation_draws: int = field(default=4, metadata={"help": "random batchings that an adapter learns from"})
    curve_draws: int = field(default=8, metadata={"help": "random batchings and orders that a curve is the mean of"})

    def __post_init__(self) -> None:
        if self.exposure_per_period <= 0 or min(self.adaptation_draws, self.curve_draws) < 1 or self.fewest_periods < 5:
            raise ValueError("batches hold something, draws are at least 1, and an item has at least 5 periods")


@dataclass(frozen=True)
class DemandCurves:
    """Demand per unit of exposure at many prices.

    Args:
        log_prices (`np.ndarray`, shape `(P,)`): Increasing.
        demand (`dict[str, np.ndarray]`): By item, `(P,)`.
    """

    log_prices: np.ndarray
    demand: dict[str, np.ndarray]

    def at(self, table: pd.DataFrame) -> np.ndarray:
        """Demand per unit of exposure at each row's item and price, `(rows,)`."""
        predicted = np.empty(len(table))
        for item, rows in table.groupby("item").indices.items():
            logs = np.log(table["price"].to_numpy()[rows])
            predicted[rows] = np.exp(np.interp(logs, self.log_prices, np.log(self.demand[str(item)])))
        return predicted

    def mean_elasticity(self, table: pd.DataFrame) -> float:
        """Slope of log demand between the 10 % and the 90 % quantile of the prices, mean over the rows' items."""
        slopes = []
        for item, rows in table.groupby("item").indices.items():
            low, high = np.log(np.quantile(table["price"].to_numpy()[rows], [0.1, 0.9]))
            ends = np.interp([low, high], self.log_prices, np.log(self.demand[str(item)]))
            slopes.append((len(rows), (ends[0] - ends[1]) / (high - low)))
        return float(np.average([s for _, s in slopes], weights=[n for n, _ in slopes]))


def adapt_to_half(
    model: PricingFMForPolicy,
    processor: PricingFMProcessor,
    learned: Experiment,
    batches: BatchArguments,
    how: AdaptArguments,
    lora: LoraArguments,
    optim: AdaptOptimArguments,
    output: OutputArguments,
    seed: int,
) -> tuple[PricingPolicy, AdaptationResult]:
    """A LoRA adapter on the demand of one half; the base stays as it is.

    A share of the decisions, the same in every batching, decides how many steps are taken.

    Args:
        model (`PricingFMForPolicy`): The base.
        processor (`PricingFMProcessor`): Belongs to it.
        learned (`Experiment`): The half.
        batches (`BatchArguments`): Of the panel.
        how (`AdaptArguments`): Steps, batch size and share that decides; `objective` is `forecast`.
        lora (`LoraArguments`): Size.
        optim (`AdaptOptimArguments`): Optimizer.
        output (`OutputArguments`): Folder of the logs.
        seed (`int`): Of batches, adapter and training.

    Returns:
        `tuple[PricingPolicy, AdaptationResult]`: The adapted network, and what it came to.
    """
    random = np.random.default_rng([seed, 1])
    batched = build_batched_panel(
        learned,
        random,
        batches.exposure_per_period,
        batches.fewest_periods,
        batches.adaptation_draws,
        late_share=how.holdout_share,
    )
    # Exactly the periods whose decisions are nowhere else.
    how = replace(how, objective="forecast", holdout_share=batched.late_periods / batched.periods)
    own = share_weights(model)
    network = add_adapter(own, ADAPTER, lora, seed=seed)
    loop = LoopArguments(seed=seed, use_cpu=model.device.type == "cpu")
    output = replace(output, output_dir=str(Path(output.output_dir) / f"order-{seed}"), tracker="none")
    panel = visible_panel(batched.panel, "all", how)
    result = adapt(
        network, own, processor, panel, how, optim, loop, output, PolicyArguments(), RewardWeights(margin=0.0)
    )
    return PricingPolicy(own, processor), result


def read_curves(
    policy: PricingPolicy, learned: Experiment, prices: Sequence[float], batches: BatchArguments, seed: int
) -> DemandCurves:
    """The network's demand curve of every item, given one half of the decisions as its log.

    Args:
        policy (`PricingPolicy`): The network.
        learned (`Experiment`): The half that it may read.
        prices (`Sequence[float]`): Lowest and highest of them end the curve.
        batches (`BatchArguments`): Of the panels.
        seed (`int`): Of batches and orders.

    Returns:
        `DemandCurves`: Mean over the draws, each of them a panel of its own that starts in another season.
    """
    low, high = np.log(min(prices)), np.log(max(prices))
    log_prices = np.linspace(low, high, max(2, int(np.ceil((high - low) / GRID_STEP)) + 1))
    random = np.random.default_rng([seed, 2])
    draws = [
        build_batched_panel(learned, random, batches.exposure_per_period, batches.fewest_periods)
        for _ in range(batches.curve_draws)
    ]
    answers = [_curves_of(policy, draw, log_prices) for draw in draws]
    return DemandCurves(log_prices, {item: np.mean([one[item] for one in answers], axis=0) for item in answers[0]})


def _curves_of(policy: PricingPolicy, batched: BatchedPanel, log_prices: np.ndarray) -> dict[str, np.ndarray]:
    """Demand per unit of exposure on the grid, by item."""
    # The public question multiplies every item's last price by the same factors; they have to span all of them.
    frame = batched.panel.frame
    last = np.log(frame[~frame["price_imputed"]].groupby("item_id")["price"].last())
    low, high = log_prices[0] - last.max(), log_prices[-1] - last.min()
    factors = np.linspace(low, high, max(2, int(np.ceil((high - low) / GRID_STEP)) + 1))
    table = policy.demand_curve(batched.panel, list(np.exp(factors)), prediction_length=1)
    curves = {}
    for item_id, rows in table.groupby("item_id"):
        item = str(item_id).rsplit("#", 1)[0]
        demand = np.interp(log_prices, np.log(rows["price"]), np.log(rows["mean"]))
        curves[item] = np.exp(demand) / batched.exposure[item]
    return curves
