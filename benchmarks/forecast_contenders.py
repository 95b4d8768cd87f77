"""Who `forecast_speed.py` times: our network and two published architectures, each called as its own package does."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pricing_fm import Panel, PricingPolicy, load_panel, names
from pricing_fm.markets import LogSettings, simulate_log
from pricing_fm.models import PricingFMConfig, PricingFMForPolicy, PricingFMProcessor
from pricing_fm.policy.engine import CHUNK, Engine
from pricing_fm.policy.situation import Situation, read_situation, with_siblings

OURS, OURS_PATHS = "ours", "ours, price paths"
BOLT, CHRONOS_2, CHRONOS_2_PRICES = "chronos-bolt-tiny", "chronos-2-small", "chronos-2-small + price, promotion"
# What is timed: the forward pass alone; from raw arrays to arrays, with all scaling; from one pandas table to another.
NETWORK, ARRAYS, TABLE = "network alone", "raw arrays in, quantiles out", "table in, table out"
EXTRA_HINT = "the package chronos-forecasting is missing: pip install -c constraints.txt -e '.[benchmarks]'"
PRODUCTS_PER_MARKET = 10
PATCH = 16
NUM_COVARIATES = 2  # price, promotion
DECILES = [round(0.1 * level, 1) for level in range(1, 10)]
LEVELS_21 = [0.01, *(round(0.05 * level, 2) for level in range(1, 20)), 0.99]

Run = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """A network, and what of it is timed: calls, and how many series each of them forecasts."""

    name: str
    parameters: int
    runs: dict[str, Run]
    series: dict[str, int]


@dataclass(frozen=True)
class Workload:
    """N simulated items with T past and H future periods, in the form that each package reads."""

    table: pd.DataFrame
    panel: Panel
    situation: Situation
    steps: int

    @property
    def units(self) -> np.ndarray:
        """`(N, T)`."""
        return self._past(names.UNITS)

    @property
    def covariates(self) -> tuple[np.ndarray, np.ndarray]:
        """Price and promotion, `(N, 2, T)` and `(N, 2, H)`."""
        slots = (names.PRICE, names.PROMOTION_SLOTS[0])
        future = self.situation.windows.future
        planned = [future[..., names.CHANNEL_INDEX[slot]] for slot in slots]
        return np.stack([self._past(slot) for slot in slots], axis=1), np.stack(planned, axis=1)

    def _past(self, channel: str) -> np.ndarray:
        return self.situation.windows.past[..., names.CHANNEL_INDEX[channel]]


def build_workload(items: int, context_length: int, steps: int) -> Workload:
    """Weekly retail logs of exactly the context's length."""
    markets = -(-items // PRODUCTS_PER_MARKET)
    log = simulate_log(log=LogSettings(num_markets=markets, num_periods=context_length, start="2010-01-04", seed=1))
    panel = load_panel(log.panel.drop(columns="propensity"))
    panel = panel.select_items(panel.item_ids[:items])
    return Workload(
        panel.frame.drop(columns=names.PRICE_IMPUTED), panel, read_situation(panel, context_length, steps), steps
    )


# -- ours -----------------------------------------------------------------------------------------------------------


def build_policy(base: Path | None, size: str, context_length: int) -> PricingPolicy:
    """A published base, or random weights. No weight depends on the context, so that any base can be timed at any."""
    if base is None:
        torch.manual_seed(0)
        config = PricingFMConfig.from_size(size, context_length=context_length)
        return PricingPolicy(PricingFMForPolicy(config), PricingFMProcessor(context_length=context_length))
    policy = PricingPolicy.from_pretrained(base)
    policy.model.config.context_length = policy.processor.context_length = context_length
    return policy


def build_ours(policy: PricingPolicy, work: Workload, paths: int) -> list[Contender]:
    """Our network with one price path, and with many."""
    return [
        _ours(OURS, policy, work, np.ones(1)),
        _ours(OURS_PATHS, policy, work, np.linspace(0.7, 1.3, paths)),
    ]


def _ours(name: str, policy: PricingPolicy, work: Workload, multipliers: np.ndarray) -> Contender:
    model, processor, situation = policy.model, policy.processor, work.situation
    engine = Engine(model, processor)
    prices = situation.current_price[:, None, None] * multipliers[:, None] * np.ones(work.steps)
    chunk = with_siblings(situation, processor).select(np.arange(min(CHUNK, len(situation))))
    batch = processor(chunk.windows, chunk.siblings)
    paths = torch.from_numpy(np.log(multipliers)).float()[:, None]
    batch["candidate_prices"] = batch["candidate_prices"] + paths

    @torch.inference_mode()
    def network() -> object:
        return model.demand(model.encode(batch), batch)

    runs: dict[str, Run] = {
        NETWORK: network,
        ARRAYS: lambda: engine.demand(with_siblings(situation, processor), prices),
    }
    if len(multipliers) == 1:
        runs[TABLE] = lambda: policy.forecast(load_panel(work.table), work.steps, quantile_levels=DECILES)
    series = {NETWORK: len(chunk), ARRAYS: len(situation), TABLE: len(situation)}
    return Contender(name, model.num_parameters(), runs, series)


# -- architectures of the package chronos-forecasting, random weights ------------------------------------------------


def require_chronos() -> None:
    """Ends the program where the package is missing."""
    if find_spec("chronos") is None:
        raise SystemExit(EXTRA_HINT)


def build_bolt() -> Any:
    """Pipeline with the configuration of chronos-bolt-tiny."""
    from chronos.chronos_bolt import ChronosBoltModelForForecasting, ChronosBoltPipeline
    from transformers import T5Config

    forecasting = {
        "context_length": 2048,
        "prediction_length": 64,
        "input_patch_size": PATCH,
        "input_patch_stride": PATCH,
        "quantiles": DECILES,
        "use_reg_token": True,
    }
    config = T5Config(
        d_model=256,
        d_ff=1024,
        d_kv=64,
        num_layers=4,
        num_decoder_layers=4,
        num_heads=4,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        decoder_start_token_id=0,
        chronos_config=forecasting,
    )
    torch.manual_seed(0)
    return ChronosBoltPipeline(ChronosBoltModelForForecasting(config).eval())


def build_chronos_2() -> Any:
    """Pipeline with the configuration of chronos-2-small: the widths are the defaults of its class."""
    from chronos.chronos2 import Chronos2CoreConfig, Chronos2Model, Chronos2Pipeline

    forecasting = {
        "context_length": 8192,
        "input_patch_size": PATCH,
        "input_patch_stride": PATCH,
        "output_patch_size": PATCH,
        "max_output_patches": 64,
        "quantiles": LEVELS_21,
        "use_reg_token": True,
        "use_arcsinh": True,
    }
    config = Chronos2CoreConfig(d_model=512, d_ff=2048, num_layers=6, num_heads=8, chronos_config=forecasting)
    torch.manual_seed(0)
    return Chronos2Pipeline(Chronos2Model(config).eval())


def time_bolt(pipeline: Any, work: Workload) -> Contender:
    """It reads sales and nothing else."""
    units, steps = work.units, work.steps
    context = torch.from_numpy(units[:CHUNK])
    columns = [names.ITEM_ID, names.TIMESTAMP, names.UNITS]

    @torch.inference_mode()
    def network() -> object:
        return pipeline.model(context=context).quantile_preds

    def arrays() -> object:
        return pipeline.predict_quantiles(torch.from_numpy(units), steps, DECILES)[0].numpy()

    def table() -> object:
        return pipeline.predict_df(work.table[columns], target=names.UNITS, prediction_length=steps)

    return _contender(BOLT, pipeline, work, {NETWORK: network, ARRAYS: arrays, TABLE: table})


def time_chronos_2(pipeline: Any, work: Workload) -> Contender:
    """It reads sales alone here."""
    units, steps = work.units, work.steps
    context = torch.from_numpy(units[:CHUNK])
    groups = torch.arange(len(context))
    columns = [names.ITEM_ID, names.TIMESTAMP, names.UNITS]

    @torch.inference_mode()
    def network() -> object:
        return pipeline.model(context=context, group_ids=groups, num_output_patches=-(-steps // PATCH)).quantile_preds

    def arrays() -> object:
        return torch.stack(pipeline.predict_quantiles(units[:, None], steps, DECILES)[0]).numpy()

    def table() -> object:
        return pipeline.predict_df(work.table[columns], target=names.UNITS, prediction_length=steps)

    return _contender(CHRONOS_2, pipeline, work, {NETWORK: network, ARRAYS: arrays, TABLE: table})


def time_chronos_2_with_prices(pipeline: Any, work: Workload) -> Contender:
    """Sales with price and promotion as covariates known ahead: three rows of its batch for each item."""
    units, steps, (past, future) = work.units, work.steps, work.covariates
    context = torch.from_numpy(np.concatenate([units[:CHUNK, None], past[:CHUNK]], axis=1)).flatten(0, 1)
    patches = -(-steps // PATCH)
    plan = np.full((len(units[:CHUNK]), 1 + NUM_COVARIATES, patches * PATCH), np.nan, dtype=np.float32)
    plan[:, 1:, :steps] = future[:CHUNK]
    known = torch.from_numpy(plan).flatten(0, 1)
    groups = torch.arange(len(plan)).repeat_interleave(1 + NUM_COVARIATES)
    keys, covariates = [names.ITEM_ID, names.TIMESTAMP], [names.PRICE, "promotion"]
    periods = work.situation.windows.future_timestamps.astype("datetime64[ns]")
    ahead = pd.DataFrame({keys[0]: np.repeat(work.situation.item_ids, steps), keys[1]: periods.ravel()})
    ahead[covariates] = future.transpose(0, 2, 1).reshape(-1, NUM_COVARIATES)

    @torch.inference_mode()
    def network() -> object:
        return pipeline.model(
            context=context, group_ids=groups, future_covariates=known, num_output_patches=patches
        ).quantile_preds

    def arrays() -> object:
        inputs = [
            {
                "target": units[row],
                "past_covariates": dict(zip(covariates, past[row])),
                "future_covariates": dict(zip(covariates, future[row])),
            }
            for row in range(len(units))
        ]
        return torch.stack(pipeline.predict_quantiles(inputs, steps, DECILES)[0]).numpy()

    def table() -> object:
        columns = [*keys, names.UNITS, *covariates]
        return pipeline.predict_df(work.table[columns], ahead, target=names.UNITS, prediction_length=steps)

    return _contender(CHRONOS_2_PRICES, pipeline, work, {NETWORK: network, ARRAYS: arrays, TABLE: table})


def _contender(name: str, pipeline: Any, work: Workload, runs: dict[str, Run]) -> Contender:
    items = len(work.situation)
    return Contender(
        name, pipeline.model.num_parameters(), runs, {NETWORK: min(CHUNK, items), ARRAYS: items, TABLE: items}
    )
