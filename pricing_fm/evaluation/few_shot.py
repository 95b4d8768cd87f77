"""The k-shot curve: what each way of adapting to k weeks earns in held-out categories, beside planners and placebos."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from pricing_fm.evaluation.few_shot_markets import DecisionTruth
from pricing_fm.evaluation.few_shot_planning import plan_prices, read_curves
from pricing_fm.metrics.bootstrap import interquartile_mean, stratified_bootstrap
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.results import ResultRow
from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.inner_loop import adapt_task
from pricing_fm.training.stacked_updates import Stack, repeat

Strategy = Callable[[FewShotTask], Stack]
"""Turns a task's visible weeks into one update per category."""

LEVEL = 0.9  # of every interval


@dataclass(frozen=True)
class Start:
    """Where the adapters of categories start, and how they learn.

    Args:
        update (`Mapping[str, torch.Tensor]`): See `stacked_updates`.
        rates (`Mapping[str, torch.Tensor]`): Learning rate of every tensor.
        steps (`int`): Most steps.
        stops_early (`bool`): Whether the last visible weeks decide how many of them are taken.
    """

    update: Mapping[str, torch.Tensor]
    rates: Mapping[str, torch.Tensor]
    steps: int
    stops_early: bool


@dataclass(frozen=True)
class FewShotBench:
    """Held-out categories, what is visible of them at each k, and what prices are worth there.

    Args:
        model (`PricingFMForPolicy`): The base.
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all held-out categories.
        truth (`DecisionTruth`): Of the same categories.
        optim (`OptimArguments`): Of adaptations.
        scaling (`float`): Of low-rank updates.
    """

    model: PricingFMForPolicy
    tasks: Mapping[int, FewShotTask]
    truth: DecisionTruth
    optim: OptimArguments
    scaling: float


def no_adaptation(update: Mapping[str, torch.Tensor] | None = None) -> Strategy:
    """The base, or the base with one update for every category."""
    return lambda task: repeat(update or {}, len(task.query["loss_weights"]))


def gradient_adaptation(bench: FewShotBench, start: Start) -> Strategy:
    """Gradient steps from a start on the visible weeks; the start alone where there are none."""

    def adapt(task: FewShotTask) -> Stack:
        begin = repeat(start.update, len(task.query["loss_weights"]))
        adapted = adapt_task(
            bench.model, begin, task, start.rates, start.steps, bench.optim, bench.scaling, start.stops_early
        )
        return adapted.stack

    return adapt


def shuffled_outcomes(strategy: Strategy, seed: int) -> Strategy:
    """Placebo: the sales that are learned from are dealt anew among the weeks of each window.

    Contexts keep theirs: what gradients add has to vanish, what reading adds stays.
    """

    def adapt(task: FewShotTask) -> Stack:
        parts = {name: _deal_anew(part, seed) for name, part in vars(task).items() if name != "query"}
        return strategy(replace(task, **parts))

    return adapt


def another_categorys_weeks(strategy: Strategy) -> Strategy:
    """Placebo: every category adapts to the weeks of the next one, and reads its own."""

    def adapt(task: FewShotTask) -> Stack:
        parts = {
            name: {key: tensor.roll(1, dims=0) for key, tensor in part.items()}
            for name, part in vars(task).items()
            if name != "query"
        }
        return strategy(replace(task, **parts))

    return adapt


def mean_of_adapters(adapters: Stack) -> Strategy:
    """One update for every category: the mean of those of training categories.

    Args:
        adapters (`Stack`): One update per training category; low-rank ones are multiplied out before they are averaged.
    """
    return no_adaptation({name: tensor.mean(0) for name, tensor in adapters.items()})


def nearest_adapter(adapters: Stack, known: Mapping[int, FewShotTask], bench: FewShotBench) -> Strategy:
    """Each category takes the update of the training category that reads most like it.

    Nearness is the distance between mean states of the base's static token, with k weeks visible of either.

    Args:
        adapters (`Stack`): One update per training category.
        known (`Mapping[int, FewShotTask]`): Tasks of the training categories, by k.
        bench (`FewShotBench`): The base, and which k a task belongs to.
    """
    weeks_of = {id(task): weeks for weeks, task in bench.tasks.items()}

    def adapt(task: FewShotTask) -> Stack:
        there = describe_categories(bench.model, known[weeks_of[id(task)]].query)
        here = describe_categories(bench.model, task.query)
        chosen = torch.cdist(here, there).argmin(1)
        return {name: tensor[chosen] for name, tensor in adapters.items()}

    return adapt


@torch.no_grad()
def describe_categories(model: PricingFMForPolicy, query: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean static state of a category's items under the base, `(C, size)`."""
    weights = query["loss_weights"]
    rows = {name: tensor.flatten(0, 1) for name, tensor in query.items()}
    states = model.encode(rows).static_state.unflatten(0, weights.shape)
    return (states * weights[..., None]).mean(1)


def multiply_out(stack: Stack, scaling: float) -> Stack:
    """Low-rank updates `(C, r, in)`, `(C, out, r)` as full ones `(C, out, in)`."""
    linears = sorted({name.rpartition(".")[0] for name in stack})
    return {f"{name}.full": scaling * stack[f"{name}.lora_B"] @ stack[f"{name}.lora_A"] for name in linears}


def score_strategies(
    bench: FewShotBench,
    strategies: Mapping[str, Strategy],
    caution: float = 0.0,
    on_score: Callable[[str, int], None] | None = None,
) -> pd.DataFrame:
    """Share of the gap that every strategy closes in every category, at every k.

    Args:
        bench (`FewShotBench`): Held-out categories.
        strategies (`Mapping[str, Strategy]`): By name.
        caution (`float`): As in `plan_prices`.
        on_score (`Callable`, *optional*): Called with strategy and k before each score.

    Returns:
        `pd.DataFrame`: `strategy, k, category, gap_closed, seconds` (of adaptation, per category).
    """
    parts = []
    for name, strategy in strategies.items():
        for weeks, task in bench.tasks.items():
            if on_score is not None:
                on_score(name, weeks)
            started = time.perf_counter()
            stack = strategy(task)
            seconds = (time.perf_counter() - started) / len(bench.truth.names)
            curves = read_curves(bench.model, stack, task.query, bench.truth, bench.scaling)
            prices = plan_prices(curves, bench.truth.costs, caution)
            parts.append(score_prices(bench.truth, prices, name, weeks).assign(seconds=seconds))
    return pd.concat(parts, ignore_index=True)


def score_prices(truth: DecisionTruth, prices: np.ndarray, name: str, weeks: int) -> pd.DataFrame:
    """The same table for prices `(items,)` that came about in another way."""
    shares = truth.gap_closed(prices)
    return pd.DataFrame({"strategy": name, "k": weeks, "category": truth.names, "gap_closed": shares, "seconds": 0.0})


def few_shot_rows(table: pd.DataFrame, task: str, seed: int, compared_with: str) -> list[ResultRow]:
    """Interquartile means with intervals, and the paired differences to one strategy.

    Args:
        table (`pd.DataFrame`): From `score_strategies`; categories without a gap to close are left out.
        task (`str`): Name in result rows.
        seed (`int`): Of the run and the bootstrap.
        compared_with (`str`): Strategy that all others are paired with, at the same k.

    Returns:
        `list[ResultRow]`: `gap_closed` and `gap_closed_gain` of every strategy and k.
    """
    rows = []
    for name, weeks in table[["strategy", "k"]].drop_duplicates().itertuples(index=False):
        group = table[(table["strategy"] == name) & (table["k"] == weeks)]
        own = group.set_index("category")["gap_closed"].dropna()
        other = table[(table["strategy"] == compared_with) & (table["k"] == weeks)].set_index("category")["gap_closed"]
        seconds = float(group["seconds"].iloc[0])
        pairs = [("gap_closed", own.to_numpy())]
        if name != compared_with and len(other):
            pairs.append(("gap_closed_gain", (own - other.reindex(own.index)).to_numpy()))
        for metric, values in pairs:
            found = stratified_bootstrap(values, ["category"] * len(values), level=LEVEL, seed=seed)
            rows.append(
                ResultRow(
                    metric, found.value, str(name), task, lower=found.lower, upper=found.upper,
                    n=len(values), k=int(weeks), seed=seed, train_s=seconds,
                )
            )  # fmt: skip
    return rows


def tabulate(table: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Interquartile means, one row per strategy and one column per k."""
    found = table.groupby(["strategy", "k"])["gap_closed"].agg(lambda shares: interquartile_mean(shares.to_numpy()))
    return found.unstack("k").reindex(list(strategies))


def _deal_anew(part: Mapping[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """Observed outcomes of each window in another order of its weeks; what was sold out goes with them."""
    generator = torch.Generator().manual_seed(seed)
    mask = part["future_observed_mask"]
    order = torch.where(mask, torch.rand(mask.shape, generator=generator), torch.inf).argsort(-1)
    # Observed weeks come first in `order` and, in their own order, in `place`.
    place = torch.where(mask, torch.arange(mask.shape[-1]), mask.shape[-1] + 1).argsort(-1)
    source = torch.zeros_like(order).scatter(-1, place, order)
    names = ("future_values", "future_censored_mask")
    return {**part, **{name: part[name].gather(-1, source) for name in names}}
