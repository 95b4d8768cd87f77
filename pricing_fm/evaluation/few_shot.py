"""The k-shot curve: what each way of adapting to k weeks earns in held-out categories, beside planners and placebos."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from pricing_fm.adapters import PoolingRule
from pricing_fm.adapters.pooling import POOLING_LINEAR
from pricing_fm.adapters.stack import Stack, repeat
from pricing_fm.evaluation.few_shot_bias import curve_elasticities, log_bias
from pricing_fm.evaluation.few_shot_markets import DecisionTruth
from pricing_fm.evaluation.few_shot_planning import PlannedCurves, plan_prices, read_curves
from pricing_fm.metrics.bootstrap import interquartile_mean, stratified_bootstrap
from pricing_fm.models import PricingFMForPolicy
from pricing_fm.results import ResultRow
from pricing_fm.training.arguments import OptimArguments
from pricing_fm.training.few_shot_tasks import FewShotTask
from pricing_fm.training.inner_loop import adapt_task
from pricing_fm.training.pooling import pool_stack

Strategy = Callable[[FewShotTask], Stack]
"""Turns a task's visible weeks into one update per category."""

Planner = Callable[[DecisionTruth, PlannedCurves], np.ndarray]
"""Constant prices `(items,)` from demand curves; of the truth it reads what a seller knows: costs, and his supply."""

LEVEL = 0.9  # of every interval
MARGIN = 0.02  # of the gap: a loss that does not matter
REPLICATES = 2000


@dataclass(frozen=True)
class Start:
    """Where the adapters of categories start, and how they learn.

    Args:
        update (`Mapping[str, torch.Tensor]`): See `adapters.stack`.
        rates (`Mapping[str, torch.Tensor]`): Learning rate of every tensor.
        steps (`int`): Most steps.
        stops_early (`bool`): Whether the last visible weeks decide how many of them are taken.
    """

    update: Mapping[str, torch.Tensor]
    rates: Mapping[str, torch.Tensor]
    steps: int
    stops_early: bool


def plan_for_margin(truth: DecisionTruth, curves: PlannedCurves) -> np.ndarray:
    """The highest expected margin, as if nothing limited sales."""
    return plan_prices(curves, truth.costs)


@dataclass(frozen=True)
class FewShotBench:
    """Held-out categories, what is visible of them at each k, and what prices are worth there.

    Args:
        model (`PricingFMForPolicy`): The base.
        tasks (`Mapping[int, FewShotTask]`): Number of visible weeks to the task of all held-out categories.
        truth (`DecisionTruth`): Of the same categories.
        optim (`OptimArguments`): Of adaptations.
        scaling (`float`): Of low-rank updates.
        plan (`Planner`): How prices follow from curves.
        elasticities (`np.ndarray`, shape `(items,)`, *optional*): True ones, when a held price moves; None = biases are
            not measured.
    """

    model: PricingFMForPolicy
    tasks: Mapping[int, FewShotTask]
    truth: DecisionTruth
    optim: OptimArguments
    scaling: float
    plan: Planner = plan_for_margin
    elasticities: np.ndarray | None = None


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


def pooled(bench: FewShotBench, strategy: Strategy, rule: PoolingRule) -> Strategy:
    """A strategy, and after it what the items of every category say together of the elasticity of each."""
    weeks_of = {id(task.query): weeks for weeks, task in bench.tasks.items()}

    def adapt(task: FewShotTask) -> Stack:
        weeks = weeks_of[id(task.query)]
        return pool_stack(bench.model, strategy(task), task.query, rule, weeks, bench.scaling)

    return adapt


def pools_another_category(bench: FewShotBench, strategy: Strategy, rule: PoolingRule) -> Strategy:
    """Placebo: every category is pooled by the numbers of the next one."""
    own = pooled(bench, strategy, rule)

    def adapt(task: FewShotTask) -> Stack:
        stack = own(task)
        return {
            name: tensor.roll(1, dims=0) if name.startswith(POOLING_LINEAR) else tensor
            for name, tensor in stack.items()
        }

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
        chosen = nearest_categories(bench.model, task.query, known[weeks_of[id(task)]].query)
        return {name: tensor[chosen] for name, tensor in adapters.items()}

    return adapt


def nearest_categories(
    model: PricingFMForPolicy, here: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Place of the category among those of another query that reads most like each one: `(C,)`, int64."""
    return torch.cdist(describe_categories(model, here), describe_categories(model, there)).argmin(1)


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
    on_score: Callable[[str, int], None] | None = None,
) -> pd.DataFrame:
    """Share of the gap that every strategy closes in every category, at every k.

    Args:
        bench (`FewShotBench`): Held-out categories.
        strategies (`Mapping[str, Strategy]`): By name.
        on_score (`Callable`, *optional*): Called with strategy and k before each score.

    Returns:
        `pd.DataFrame`: `strategy, k, category, gap_closed, seconds` (of adaptation, per category), and, where true
            elasticities are known, `bias` (`few_shot_bias.log_bias`).
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
            prices = bench.plan(bench.truth, curves)
            scores = score_prices(bench.truth, prices, name, weeks).assign(seconds=seconds)
            if bench.elasticities is not None:
                found = curve_elasticities(curves)
                scores["bias"] = log_bias(found, bench.elasticities, bench.truth.categories)
            parts.append(scores)
    return pd.concat(parts, ignore_index=True)


def score_prices(truth: DecisionTruth, prices: np.ndarray, name: str, weeks: int) -> pd.DataFrame:
    """The same table for prices `(items,)` that came about in another way."""
    return score_values(truth, truth.values(prices), name, weeks)


def score_values(truth: DecisionTruth, values: np.ndarray, name: str, weeks: int) -> pd.DataFrame:
    """The same table for expected profits `(items,)`."""
    shares = truth.shares(values)
    return pd.DataFrame({"strategy": name, "k": weeks, "category": truth.names, "gap_closed": shares, "seconds": 0.0})


def few_shot_rows(table: pd.DataFrame, task: str, seed: int, compared_with: str) -> list[ResultRow]:
    """Interquartile means with intervals, and the paired differences to one strategy.

    Args:
        table (`pd.DataFrame`): From `score_strategies`, with `draw` and `seed` if there are several, which are averaged
            within a category; categories without a gap to close are left out.
        task (`str`): Name in result rows.
        seed (`int`): Of the run and the bootstrap.
        compared_with (`str`): Strategy that all others are paired with, at the same k.

    Returns:
        `list[ResultRow]`: `gap_closed` and `gap_closed_gain` of every strategy and k.
    """
    rows, shares = [], average_draws(table)
    for name, weeks in table[["strategy", "k"]].drop_duplicates().itertuples(index=False):
        own, other = shares.get((name, weeks)), shares.get((compared_with, weeks))
        assert own is not None
        group = table[(table["strategy"] == name) & (table["k"] == weeks)]
        pairs = [("gap_closed", own.to_numpy())]
        if name != compared_with and other is not None:
            pairs.append(("gap_closed_gain", (own - other).dropna().to_numpy()))
        for metric, values in pairs:
            found = stratified_bootstrap(values, ["category"] * len(values), level=LEVEL, seed=seed)
            rows.append(
                ResultRow(
                    metric, found.value, str(name), task, lower=found.lower, upper=found.upper,
                    n=len(values), k=int(weeks), seed=seed, train_s=float(group["seconds"].mean()),
                )
            )  # fmt: skip
    return rows


def average_draws(table: pd.DataFrame) -> dict[tuple[str, int], pd.Series]:
    """Mean share of every category over draws and seeds, by strategy and k; categories without a gap are left out."""
    means = table.groupby(["strategy", "k", "category"])["gap_closed"].mean().dropna()
    pairs = dict.fromkeys((str(name), int(weeks)) for name, weeks, _ in means.index)
    return {pair: means.loc[pair] for pair in pairs}


def compare_strategies(table: pd.DataFrame, ours: str, rivals: Sequence[str], seed: int) -> pd.DataFrame:
    """Whether one strategy closes more of the gap than each of the others, paired by category.

    Superiority: one-sided bootstrap p-value of the interquartile mean of the paired differences, multiplied as Holm
    (1979) does over all rivals and all k of at least one week. Non-inferiority: the same against a loss of `MARGIN`,
    not corrected.

    Args:
        table (`pd.DataFrame`): As in `few_shot_rows`.
        ours (`str`): The strategy.
        rivals (`Sequence[str]`): Names; the strategy itself is left out.
        seed (`int`): Of the bootstrap.

    Returns:
        `pd.DataFrame`: `rival, k, gain, lower, upper, p_superior` (corrected; NaN at k = 0), `p_non_inferior`.

    Raises:
        ValueError: If the strategy was not measured.
    """
    shares = average_draws(table)
    if ours not in set(table["strategy"]):
        raise ValueError(f"{ours!r} was not measured; measured are {', '.join(table['strategy'].unique())}")
    rows = []
    for (name, weeks), other in shares.items():
        own = shares.get((ours, weeks))
        if name not in rivals or name == ours or own is None:
            continue
        gains = (own - other).dropna().to_numpy()
        generator = np.random.default_rng(seed)
        drawn = [interquartile_mean(generator.choice(gains, len(gains))) for _ in range(REPLICATES)]
        lower, upper = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        above = [(1 + int((np.asarray(drawn) <= least).sum())) / (1 + REPLICATES) for least in (0.0, -MARGIN)]
        rows.append((name, weeks, interquartile_mean(gains), lower, upper, above[0] if weeks else np.nan, above[1]))
    columns = ["rival", "k", "gain", "lower", "upper", "p_superior", "p_non_inferior"]
    found = pd.DataFrame(rows, columns=columns).sort_values(["k", "gain"], ignore_index=True)
    found["p_superior"] = correct_by_holm(found["p_superior"].to_numpy())
    return found


def correct_by_holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction of p-values `(n,)`; NaN stays and does not count."""
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")[: int(np.isfinite(p_values).sum())]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def tabulate(table: pd.DataFrame, strategies: Sequence[str]) -> pd.DataFrame:
    """Interquartile means, one row per strategy and one column per k."""
    found = pd.Series({key: interquartile_mean(shares.to_numpy()) for key, shares in average_draws(table).items()})
    return found.unstack().reindex(list(strategies)).rename_axis(index="strategy", columns="k")


def spread_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """How much the interquartile mean of a strategy moves with its seed.

    Args:
        table (`pd.DataFrame`): As in `few_shot_rows`, with `draw` and `seed`.

    Returns:
        `pd.DataFrame`: `strategy, k, seeds, mean, deviation, lowest, highest`, one row per strategy with several seeds
            and k; draws are averaged within a category before the interquartile mean of a seed is taken.
    """
    means = table.groupby(["strategy", "k", "seed", "category"])["gap_closed"].mean().dropna()
    by_seed = means.groupby(["strategy", "k", "seed"]).agg(lambda shares: interquartile_mean(shares.to_numpy()))
    found = by_seed.groupby(["strategy", "k"]).agg(
        seeds="size", mean="mean", deviation="std", lowest="min", highest="max"
    )
    return found[found["seeds"] > 1].reset_index()


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
