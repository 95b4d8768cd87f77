"""Runs every estimator on the panels of the elasticity test bed, and keeps what was estimated on disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pricing_fm import names
from pricing_fm.evaluation.elasticity_cells import (
    HIGHEST_ELASTICITY,
    Cell,
    CellData,
    TestBedArguments,
    build_cells,
    simulate_cell,
)
from pricing_fm.evaluation.elasticity_learners import (
    estimate_by_boosted_differences,
    estimate_double_machine_learning,
)
from pricing_fm.evaluation.elasticity_likelihood import ShopLog, ShopModel, ShopPrior
from pricing_fm.evaluation.elasticity_posterior import Posterior, SamplerSettings, read_shop_logs, sample_posterior
from pricing_fm.evaluation.elasticity_regressions import (
    ItemLog,
    estimate_first_differences,
    estimate_hierarchical,
    estimate_log_log,
    estimate_two_stage_least_squares,
    estimate_with_lags,
    read_item_log,
)
from pricing_fm.policy import PricingPolicy

FORMAT_VERSION = 2  # of cached estimates; raise it whenever an estimator changes
# The rivals that a network is measured against; `hierarchical` shrinks the first of them.
RIVALS = (
    "log_log", "first_differences", "lags", "two_stage_least_squares", "double_machine_learning",
    "lightgbm_differences",
)  # fmt: skip
BASELINES = (*RIVALS, "hierarchical", "prior_mean")
CEILINGS = ("posterior", "posterior_told")
BLOCK = 25  # items whose posteriors are kept together on disk
# Cells whose structure the posterior does not know.
WITHOUT_POSTERIOR = ("lifecycle",)


@dataclass(frozen=True)
class Effort:
    """How much is spent, and where estimates are kept.

    Args:
        posterior_items (`int`): Leading items of a cell that get a posterior; 0 = none.
        told (`bool`): Whether to compute `posterior_told` too, see `build_priors`.
        sampler (`SamplerSettings`): Effort of each posterior.
        processes (`int`): Processes for posteriors.
        seed (`int`): Of learners.
        cache (`Path`, *optional*): Folder of cached estimates; None = none is kept.
    """

    posterior_items: int
    told: bool
    sampler: SamplerSettings
    processes: int
    seed: int
    cache: Path | None


@dataclass(frozen=True)
class PriorSummary:
    """What is known before any log is seen: the test bed's own prior of the elasticity at the current price.

    Args:
        mean (`float`): Mean.
        lower, upper (`float`): 10 % and 90 % quantiles.
    """

    mean: float
    lower: float
    upper: float


def summarize_prior(bed: TestBedArguments) -> PriorSummary:
    """Prior of the shop cells, from shops that no cell holds.

    Args:
        bed (`TestBedArguments`): The test bed.

    Returns:
        `PriorSummary`: Of 2,000 shops with a seed of their own; it stands for a training prior in held-out cells too.
    """
    mixed = replace(bed, mixed=("mixed",), held_out=("none",), num_items=2000, test_seed=bed.test_seed + 50)
    truth = simulate_cell(build_cells(mixed)[-1]).truth
    lower, upper = np.quantile(truth, (0.1, 0.9))
    return PriorSummary(float(truth.mean()), float(lower), float(upper))


def estimate_baselines(data: CellData, prior: PriorSummary, effort: Effort) -> pd.DataFrame:
    """All baselines on one cell's panel; none sees the truth.

    Where an estimator has no estimate of an item (its price never moved, its instrument is weak), the median of its
    other items stands in. Estimates are clipped to [0, `HIGHEST_ELASTICITY`].

    Args:
        data (`CellData`): The cell.
        prior (`PriorSummary`): For the prior mean.
        effort (`Effort`): Seed and cache.

    Returns:
        `pd.DataFrame`: `estimator, item_id, elasticity, lower, upper, seconds, filled` (True = the median stands in).
        Estimators without any estimate are absent.
    """
    key = {"data": data.panel.fingerprint(), "prior": asdict(prior), "seed": effort.seed}
    return _cached(effort.cache, f"baselines-{data.cell.name}", key, lambda: _estimate_baselines(data, prior, effort))


def estimate_ceilings(
    data: CellData, bed: TestBedArguments, effort: Effort, on_items: Callable[[int], None] | None = None
) -> pd.DataFrame:
    """Posterior of the leading items of a cell, under the ranges that the cell was drawn from.

    Args:
        data (`CellData`): The cell.
        bed (`TestBedArguments`): The test bed; the confounding is uniform within its `mixed_confounding`.
        effort (`Effort`): Items, sampler, processes, cache.
        on_items (`Callable`, *optional*): Called with the number of items done, block by block.

    Returns:
        `pd.DataFrame`: As `estimate_baselines`, with `rank`, `accepted` and `steps`; empty for cells whose structure
        the posterior does not know.
    """
    parts = []
    shops = read_shop_logs(data.log, data.cell.market)[: effort.posterior_items] if effort.posterior_items else []
    for estimator, prior in build_priors(data.cell, bed, effort.told).items():
        for first in range(0, len(shops), BLOCK):
            block = range(first, min(first + BLOCK, len(shops)))
            key: dict[str, object] = {"data": data.fingerprint, "block": str(block)}
            key |= {"sampler": asdict(effort.sampler), "prior": asdict(prior)}
            run = partial(_sample_items, data, prior, [shops[number] for number in block], block, effort)
            parts.append(_cached(effort.cache, f"posterior-{data.cell.name}", key, run).assign(estimator=estimator))
            if on_items is not None:
                on_items(len(block))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def build_priors(cell: Cell, bed: TestBedArguments, told: bool) -> dict[str, ShopPrior]:
    """What a posterior assumes in a cell, by estimator name.

    Args:
        cell (`Cell`): The cell.
        bed (`TestBedArguments`): The test bed.
        told (`bool`): Whether there is also a posterior that is told what a cell fixes: the confounding of a shop cell,
            the elasticities or the response of `steep` and `linear`.

    Returns:
        `dict[str, ShopPrior]`: `posterior` and, where there is more to tell, `posterior_told`; empty where the
        structure is not known. `posterior` knows the ranges of the shop cells: in `steep` and `linear` they are wrong,
        as they are for whoever learnt from shops. Where prices follow no hidden demand (`cost_plus`, `noisy_expert`)
        they are taken as given.
    """
    if cell.name in WITHOUT_POSTERIOR:
        return {}
    width, follows = bed.mixed_confounding, cell.managers.names == ("demand_follower",)
    knows = ShopPrior(cell.market, (-width, width), cell.managers.keep_share, follows)
    if cell.group == "shop":
        priors = {"posterior": knows, "posterior_told": replace(knows, confounding=cell.managers.confounding)}
    elif cell.name in ("steep", "linear"):
        usual = build_cells(replace(bed, held_out=("none",)))[0].market
        priors = {"posterior": replace(knows, market=usual), "posterior_told": knows}
    else:
        priors = {"posterior": knows}
    return priors if told else {"posterior": priors["posterior"]}


def estimate_with_network(data: CellData, bases: Sequence[PricingPolicy]) -> pd.DataFrame:
    """Networks' elasticity at the current price: the first week of a demand curve that is held at it.

    Args:
        data (`CellData`): The cell.
        bases (`Sequence[PricingPolicy]`): Seeds of the same model.

    Returns:
        `pd.DataFrame`: As `estimate_baselines`, `estimator` is `pricing_fm`, with `seed`.
    """
    parts = []
    for seed, policy in enumerate(bases):
        start = time.perf_counter()
        curve = policy.demand_curve(data.panel, price_multipliers=[1.0])
        first = curve.drop_duplicates(names.ITEM_ID).rename(
            columns={"elasticity_lower": "lower", "elasticity_upper": "upper"}
        )
        # The network speaks of a slope, which is negative.
        slope = first[["elasticity", "lower", "upper"]].to_numpy()
        table = pd.DataFrame(
            {
                names.ITEM_ID: first[names.ITEM_ID].to_numpy(),
                "elasticity": -slope[:, 0],
                "lower": -slope[:, 2],
                "upper": -slope[:, 1],
            }
        )
        seconds = time.perf_counter() - start
        parts.append(_finish(table, data, "pricing_fm", seconds).assign(seed=seed))
    return pd.concat(parts, ignore_index=True)


def add_truth(estimates: pd.DataFrame, data: CellData) -> pd.DataFrame:
    """Adds cell, group, category and truth to estimates of a cell."""
    truth = pd.DataFrame(
        {names.ITEM_ID: list(data.panel.item_ids), names.CATEGORY: data.categories, "truth": data.truth}
    )
    return estimates.merge(truth, on=names.ITEM_ID).assign(cell=data.cell.name, group=data.cell.group)


def _estimate_baselines(data: CellData, prior: PriorSummary, effort: Effort) -> pd.DataFrame:
    panel, log = data.panel, read_item_log(data.panel)
    runs: dict[str, Callable[[], pd.DataFrame]] = {
        "log_log": lambda: estimate_log_log(log),
        "first_differences": lambda: estimate_first_differences(log),
        "lags": lambda: estimate_with_lags(log),
        "two_stage_least_squares": lambda: estimate_two_stage_least_squares(log),
        "double_machine_learning": lambda: estimate_double_machine_learning(log, 1, effort.seed),
        "lightgbm_differences": lambda: estimate_by_boosted_differences(panel, 1, effort.seed),
        "hierarchical": lambda: estimate_hierarchical(log),
        "prior_mean": lambda: _repeat_prior(log, prior),
    }
    parts = []
    for name in BASELINES:
        start = time.perf_counter()
        table = runs[name]()
        if table["elasticity"].notna().any():
            parts.append(_finish(table, data, name, time.perf_counter() - start))
    return pd.concat(parts, ignore_index=True)


def _repeat_prior(log: ItemLog, prior: PriorSummary) -> pd.DataFrame:
    return pd.DataFrame(
        {names.ITEM_ID: log.item_ids, "elasticity": prior.mean, "lower": prior.lower, "upper": prior.upper}
    )


def _finish(table: pd.DataFrame, data: CellData, estimator: str, seconds: float) -> pd.DataFrame:
    """Fills, clips and labels the estimates of a cell."""
    if list(table[names.ITEM_ID]) != list(data.panel.item_ids):
        raise ValueError(f"{estimator} answers for other items than those of cell {data.cell.name}")
    table = table[[names.ITEM_ID, "elasticity", "lower", "upper"]].copy()
    filled = table["elasticity"].isna()
    table["elasticity"] = table["elasticity"].fillna(table["elasticity"].median())
    for column in ("elasticity", "lower", "upper"):
        table[column] = table[column].astype(float).clip(0.0, HIGHEST_ELASTICITY)
    return table.assign(estimator=estimator, seconds=seconds, filled=filled)


def _sample_items(
    data: CellData, prior: ShopPrior, shops: list[ShopLog], numbers: range, effort: Effort
) -> pd.DataFrame:
    start = time.perf_counter()
    place = {item: row for row, item in enumerate(data.panel.item_ids)}
    item_ids = [data.log.items[names.ITEM_ID].iloc[number] for number in numbers]
    jobs = [
        (prior, shop, effort.sampler, number, float(data.truth[place[item]]))
        for number, shop, item in zip(numbers, shops, item_ids, strict=True)
    ]
    if effort.processes > 1:
        # Spawned, not forked: torch's threads do not survive a fork.
        with ProcessPoolExecutor(effort.processes, multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(_sample_one, jobs, chunksize=4))
    else:
        found = [_sample_one(job) for job in jobs]
    table = pd.DataFrame(found, columns=list(Posterior._fields)).assign(**{names.ITEM_ID: item_ids})
    return table.assign(seconds=time.perf_counter() - start, filled=False)


def _sample_one(job: tuple[ShopPrior, ShopLog, SamplerSettings, int, float]) -> Posterior:
    prior, shop, sampler, number, truth = job
    torch.set_num_threads(1)
    return sample_posterior(_build_model(prior), shop, sampler, number, truth)


@lru_cache(maxsize=8)
def _build_model(prior: ShopPrior) -> ShopModel:
    """One model for all items of a cell: its tables take longer than an item."""
    return ShopModel(prior)


def _cached(folder: Path | None, name: str, key: dict[str, object], run: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """What an earlier run stored under the same key, else a new run, stored."""
    if folder is None:
        return run()
    text = json.dumps({"format": FORMAT_VERSION, **key}, sort_keys=True, default=str)
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.parquet"
    if path.is_file():
        return pd.read_parquet(path).assign(cached=True)
    table = run()
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)
    return table.assign(cached=False)
