"""Raw units <-> network inputs: roles, scaling, calendar, masks and the price ladder of one window of history.

Everything is computed from the window's own past: nothing is fitted on a corpus, so nothing can leak from test weeks,
and multiplying prices or units by a constant changes no ratio. Candidate prices never enter a statistic.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import FeatureExtractionMixin

from .calendar_features import NUM_TIME_FEATURES, calendar_features
from .channels import (
    CLIP,
    COST,
    INDEX,
    INTERVENTION,
    INTERVENTION_SLOT,
    INVENTORY,
    INVENTORY_SLOT,
    KNOWN,
    KNOWN_SLOTS,
    LIST,
    LIST_SLOT,
    LOCAL_SLOTS,
    NUM_KNOWN_CHANNELS,
    NUM_PAST_CHANNELS,
    PAST,
    PAST_INTERVENTION_CHANNEL,
    PRICE,
    PRICE_SCALE,
    PRICE_SLOT,
    PRICES,
    PROMOTION_SLOTS,
    PROMOTIONS,
    SOLD_OUT_CHANNEL,
    TRAFFIC,
    UNITS,
    observed_units,
    own_prices,
    scale_covariate,
    sold_out,
)
from .hashing import bootstrap_weights, stable_bucket
from .hidden_demand_evidence import NUM_HIDDEN_DEMAND_EVIDENCE, hidden_demand_evidence, read_sales_record
from .local_forecast import (
    NUM_LOCAL_CHANNELS,
    NUM_LOCAL_EVIDENCE,
    local_forecast,
    read_local_series,
    season_lengths,
)
from .price_evidence import (
    NUM_EVIDENCE,
    NUM_SIBLING_EVIDENCE,
    price_evidence,
    read_logged_series,
    sibling_evidence,
)
from .recursion import states_before
from .window_statistics import WindowStatistics, find_references, read_statistics

COVARIATE_CHOICES: dict[str, tuple[str, ...]] = {
    "both": (),
    "price": ("promotion_1", "promotion_2", "promotion_3", "promotion_4", "known_1", "known_2", "known_3", "known_4"),
    # known_1 holds the price index of the rest of the assortment.
    "flags": ("price", "list_price", "competitor_price", "cost", "known_1"),
}
COVARIATE_CHOICES["none"] = COVARIATE_CHOICES["price"] + COVARIATE_CHOICES["flags"]

# What is computed from the past beside the past itself; a network may be trained without some of it.
EVIDENCE = ("local_forecast", "hidden_demand", "price", "siblings")

RECENT_PERIODS = 8
NUM_DECISION_FEATURES = 8


class PricingFMProcessor(FeatureExtractionMixin):
    """Turns raw windows into the network's batch, and rungs of the price ladder into prices and back.

    Args:
        context_length (`int`): Past periods of a window.
        covariates (`str`): `both`, `price`, `flags` or `none`: what the network may see beside sales and calendar.
        left_out_evidence (`Sequence[str]`): Members of `EVIDENCE` that the network does not see; for ablations.
        num_static_buckets, num_response_members, num_rungs, ladder_step, ladder_start: As in `PricingFMConfig`.
        default_scale (`float`): Units per period assumed for an item without any observed period.
        step_correlation (`float`): Rank correlation of an item's errors between steps; for quantiles of totals.
        trained_on_interventions (`bool`): The network has seen futures marked `price_is_intervention`; only then does
            the mark mean something to it.
        **kwargs: What the library writes into the file beside these.

    Raises:
        ValueError: If `covariates` or an entry of `left_out_evidence` is unknown.
    """

    model_input_names: ClassVar[list[str]] = ["past_values", "past_observed_mask"]

    def __init__(
        self,
        context_length: int = 104,
        covariates: str = "both",
        left_out_evidence: Sequence[str] = (),
        num_static_buckets: int = 2048,
        num_response_members: int = 8,
        num_rungs: int = 43,
        ladder_step: float = 0.025,
        ladder_start: float = -0.7,
        default_scale: float = 10.0,
        step_correlation: float = 1.0,
        trained_on_interventions: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if covariates not in COVARIATE_CHOICES:
            raise ValueError(f"covariates must be one of {sorted(COVARIATE_CHOICES)}, found {covariates!r}")
        if unknown := sorted(set(left_out_evidence) - set(EVIDENCE)):
            raise ValueError(f"left_out_evidence holds {unknown}; choose from {list(EVIDENCE)}")
        self.context_length = context_length
        self.left_out_evidence = list(left_out_evidence)
        self.covariates = covariates
        self.num_static_buckets = num_static_buckets
        self.num_response_members = num_response_members
        self.num_rungs, self.ladder_step, self.ladder_start = num_rungs, ladder_step, ladder_start
        self.default_scale = default_scale
        self.step_correlation = step_correlation
        self.trained_on_interventions = trained_on_interventions

    def __call__(self, windows: Any, siblings: np.ndarray | None = None) -> dict[str, torch.Tensor]:
        """Builds the batch of `B` windows with `T` past and `H` future periods.

        Args:
            windows: Object with the arrays of `pricing_fm.panel.windows.RawWindows`: `past` `(B, T, channels)` and
                `future` `(B, H, channels)` in raw units with NaN = missing, timestamps, static attributes, item keys.
            siblings (`np.ndarray`, shape `(B, 20)`, *optional*): From `read_siblings`; None = no item has any.

        Returns:
            `dict[str, torch.Tensor]`: The arguments of the models' `forward`; the first axis is the window. Targets are
            masked where `future` holds no units.
        """
        past, future = self._hide(windows.past), self._hide(windows.future)
        statistics = read_statistics(past, future, self.default_scale)
        values, mask = _past_channels(past, statistics)
        frequency = windows.static_categories[:, 0]
        past_calendar = _calendar(windows.past_timestamps, frequency)
        future_calendar = _calendar(windows.future_timestamps, frequency)
        calendar = np.concatenate([past_calendar, future_calendar], axis=1)
        local, evidence = self._evidence(past, future, statistics, calendar, season_lengths(frequency), siblings)
        known, known_mask = _future_channels(past, future, statistics, local)
        reals, reals_mask = _static_reals(windows.static_reals, past, statistics, evidence)
        log_ratio = np.log(future[..., PRICE] / statistics.reference[:, None])
        batch = {
            "past_values": values,
            "past_observed_mask": mask,
            "past_time_features": past_calendar,
            "static_categorical_features": self._categories(windows.static_categories),
            "static_real_features": reals,
            "static_real_mask": reals_mask,
            "future_time_features": future_calendar,
            "future_known_values": known,
            "future_known_mask": known_mask,
            "candidate_prices": np.nan_to_num(log_ratio)[:, None, :],
            "scale": statistics.scale,
            "units_are_whole": _units_are_whole(past, statistics.observed),
            "reference_price": np.nan_to_num(statistics.reference, nan=1.0),
            "member_weights": bootstrap_weights(windows.item_keys, self.num_response_members),
        }
        batch |= _targets(future)
        batch |= self._decisions(windows.past, windows.future, statistics)
        return {name: torch.from_numpy(np.ascontiguousarray(_typed(array))) for name, array in batch.items()}

    def _evidence(
        self,
        past: np.ndarray,
        future: np.ndarray,
        statistics: WindowStatistics,
        calendar: np.ndarray,
        season: np.ndarray,
        siblings: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Local forecasts `(B, H, 12)`, and what is evident of item and response `(B, 46)`; NaN where left out."""
        shape, left_out = future.shape[:2], self.left_out_evidence
        local = np.full((*shape, NUM_LOCAL_CHANNELS), np.nan)
        price, others, fit, hidden = (
            np.full((len(past), size), np.nan)
            for size in (NUM_EVIDENCE, NUM_SIBLING_EVIDENCE, NUM_LOCAL_EVIDENCE, NUM_HIDDEN_DEMAND_EVIDENCE)
        )
        if "price" not in left_out:
            price = price_evidence(read_logged_series(past, statistics))
        if siblings is not None and "siblings" not in left_out:
            others = siblings
        if "local_forecast" not in left_out:
            local, fit = local_forecast(read_local_series(past, future, statistics, calendar, season))
        if "hidden_demand" not in left_out:
            hidden = hidden_demand_evidence(read_sales_record(past, statistics.observed, statistics.reference))
        return local, np.concatenate([price, others, fit, hidden], axis=1)

    def read_siblings(self, windows: Any, groups: np.ndarray) -> np.ndarray:
        """What the other items of a group say of each item's price response.

        Periods whose prices were drawn at random have no say here: what siblings pass on is how the log came about.

        Args:
            windows (`RawWindows`): B windows; those of a group have the same origin.
            groups (`(B,)`, int): Equal numbers = siblings; negative = an item without any.

        Returns:
            `(B, 20)`: For the call of the processor, together or in parts; NaN where there are none.
        """
        past = self._hide(windows.past)
        series = read_logged_series(past, read_statistics(past, self._hide(windows.future), self.default_scale))
        usable = series.usable & ~(past[..., INTERVENTION] > 0)
        return sibling_evidence(replace(series, usable=usable), groups)

    def reference_prices(self, past: np.ndarray, future: np.ndarray) -> np.ndarray:
        """Lower median of the last observed prices, else the list price, else 1.

        A price that was really charged, so that the reference rung is exact to the cent. Where it is 1 because no price
        was ever seen, the network is told that it knows no price: a ratio to nothing would be the currency.

        Args:
            past (`(B, T, channels)`): Raw channels.
            future (`(B, H, channels)`): Raw channels; only the first list price counts, where the past has none.

        Returns:
            `(B,)`: Currency.
        """
        return np.nan_to_num(find_references(past, future), nan=1.0)

    def _hide(self, channels: np.ndarray) -> np.ndarray:
        hidden = [INDEX[name] for name in COVARIATE_CHOICES[self.covariates]]
        if not hidden:
            return channels
        channels = channels.copy()
        channels[..., hidden] = np.nan
        return channels

    def _categories(self, static_categories: np.ndarray) -> np.ndarray:
        rows = [
            [stable_bucket(slot, value, self.num_static_buckets) for slot, value in enumerate(row)]
            for row in static_categories
        ]
        return np.asarray(rows, dtype=np.int64)

    # -- price ladder ---------------------------------------------------------------------------------------------

    def rungs(self, prices: np.ndarray, reference_price: np.ndarray) -> np.ndarray:
        """Nearest rung of each price, clipped to the ladder.

        Args:
            prices (`(B, ...)`): Currency. A NaN price has no rung and gets 0: mask it.
            reference_price (`(B,)`): Currency.

        Returns:
            `(B, ...)`, int64.
        """
        return self._rung_of_log(np.log(prices / _per_item(reference_price, prices)))

    def _rung_of_log(self, log_ratio: np.ndarray) -> np.ndarray:
        position = np.rint((log_ratio - self.ladder_start) / self.ladder_step)
        return np.clip(np.nan_to_num(position), 0, self.num_rungs - 1).astype(np.int64)

    def rung_prices(self, reference_price: np.ndarray, decimals: int = 2) -> np.ndarray:
        """Price of every rung, rounded to the currency's smallest unit.

        Args:
            reference_price (`(B,)`): Currency.
            decimals (`int`): Of the currency's smallest unit.

        Returns:
            `(B, num_rungs)`: Never falling; cheap items have equal neighbours.
        """
        multipliers = np.exp(self.ladder_start + self.ladder_step * np.arange(self.num_rungs))
        return np.maximum(np.round(reference_price[:, None] * multipliers, decimals), 10.0**-decimals)

    def _decisions(self, past: np.ndarray, future: np.ndarray, statistics: WindowStatistics) -> dict[str, np.ndarray]:
        """Logged actions, and what was known before each of them."""
        scale, reference = statistics.scale[:, None], statistics.reference[:, None]
        promoted = np.nan_to_num(future[..., PROMOTIONS]).max(-1) > 0
        log_prices = np.log(own_prices(future) / reference)
        state = states_before(
            np.log(own_prices(past) / reference),
            log_prices,
            np.nan_to_num(past[..., PROMOTIONS]).max(-1) > 0,
            promoted,
        )
        costs = _carried_costs(past, future)
        cost_share = costs / reference
        features = np.zeros((*log_prices.shape, NUM_DECISION_FEATURES))
        features[..., :3] = np.stack([state.last, state.memory, state.depth], axis=-1) / PRICE_SCALE
        features[..., 3] = state.started
        # Tomorrow's stock depends on today's decision: only the stock at the origin is known.
        features[:, 0, 4] = np.nan_to_num(np.arcsinh(future[:, 0, INVENTORY] / scale[:, 0]))
        features[:, 0, 5] = np.isfinite(future[:, 0, INVENTORY])
        features[..., 6] = np.nan_to_num(cost_share)
        features[..., 7] = np.isfinite(cost_share)
        return {
            "decision_features": np.clip(features, -CLIP, CLIP),
            "current_actions": state.last_promoted * self.num_rungs + self._rung_of_log(state.last),
            "logged_actions": promoted * self.num_rungs + self._rung_of_log(np.nan_to_num(log_prices)),
            "logged_action_mask": np.isfinite(log_prices) & ~(future[..., INTERVENTION] > 0),
            "unit_costs": costs,
            "future_inventory": future[..., INVENTORY],
        }


def _typed(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _per_item(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    return values.reshape((-1,) + (1,) * (like.ndim - 1))


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean over the second axis where True, NaN where nowhere."""
    count = mask.sum(1)
    return np.where(count > 0, np.where(mask, values, 0.0).sum(1) / np.maximum(count, 1), np.nan)


def _units_are_whole(past: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """True where no fraction of a unit was ever sold, `(B,)`."""
    units = np.where(observed, past[..., UNITS], 0.0)
    return np.all(units == np.rint(units), axis=1)


def _log_ratio(prices: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # a cost of zero clips at the lower end
        return np.clip(np.log(prices / _per_item(reference, prices)) / PRICE_SCALE, -CLIP, CLIP)


def _past_channels(past: np.ndarray, statistics: WindowStatistics) -> tuple[np.ndarray, np.ndarray]:
    observed, scale = statistics.observed, statistics.scale[:, None]
    values = np.empty((*past.shape[:2], NUM_PAST_CHANNELS))
    values[..., 0] = np.arcsinh(np.where(observed, past[..., UNITS], np.nan) / scale)
    values[..., 1:5] = _log_ratio(past[..., PRICES], statistics.reference)
    values[..., 5] = np.arcsinh(past[..., INVENTORY] / scale)
    values[..., 6] = scale_covariate(past[..., TRAFFIC], past[..., TRAFFIC])
    generic = slice(PROMOTIONS.start, PAST.stop)
    values[..., generic] = scale_covariate(past[..., generic], past[..., generic])
    knows_stock = np.isfinite(past[..., INVENTORY]) & observed
    values[..., SOLD_OUT_CHANNEL] = np.where(knows_stock, sold_out(past), np.nan)
    is_alive = np.isfinite(past).any(-1)
    values[..., PAST_INTERVENTION_CHANNEL] = np.where(is_alive, np.nan_to_num(past[..., INTERVENTION]), np.nan)
    mask = np.isfinite(values)
    return np.nan_to_num(values), mask


def _future_channels(
    past: np.ndarray, future: np.ndarray, statistics: WindowStatistics, local: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    values = np.full((*future.shape[:2], NUM_KNOWN_CHANNELS), np.nan)
    values[..., LIST_SLOT] = _log_ratio(future[..., LIST], statistics.reference)
    values[..., PROMOTION_SLOTS] = np.clip(future[..., PROMOTIONS], -CLIP, CLIP)
    values[..., KNOWN_SLOTS] = scale_covariate(future[..., KNOWN], past[..., KNOWN])
    values[..., INTERVENTION_SLOT] = np.nan_to_num(future[..., INTERVENTION])  # a log without the mark is a log
    # Only that a price is known: its value is a candidate.
    knows_price = np.isfinite(future[..., PRICE]) & np.isfinite(statistics.reference)[:, None]
    values[..., PRICE_SLOT] = np.where(knows_price, 0.0, np.nan)
    # Stock at the origin only: later stock depends on what is decided and sold until then.
    values[:, :1, INVENTORY_SLOT] = np.arcsinh(future[:, :1, INVENTORY] / statistics.scale[:, None])
    values[..., LOCAL_SLOTS] = local
    mask = np.isfinite(values)
    return np.nan_to_num(values), mask


def _static_reals(
    given: np.ndarray, past: np.ndarray, statistics: WindowStatistics, evidence: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Level, history length, price habits, what is evident of the price response, and the panel's own numbers.

    `(B, 58)` and their presence.
    """
    observed, scale, reference = statistics.observed, statistics.scale[:, None], statistics.reference[:, None]
    units = past[..., UNITS].astype(np.float64)
    log_prices = np.log(own_prices(past) / reference)
    moves = np.abs(np.diff(log_prices, axis=1))
    recent = slice(-RECENT_PERIODS, None)
    costs = past[..., COST] / reference
    count = observed.sum(1)
    columns = [
        np.where(count > 0, np.log(statistics.scale) / 3, np.nan),
        np.log1p(count) / 3,
        _masked_mean(moves > 0.005, np.isfinite(moves)),
        np.sqrt(_masked_mean(log_prices**2, np.isfinite(log_prices))) / PRICE_SCALE,
        _masked_mean(units == 0, observed),
        np.arcsinh(_masked_mean(units[:, recent], observed[:, recent]) / scale[:, 0]),
        _masked_mean(np.abs(units / scale - 1), observed),
        np.clip(_masked_mean(costs, np.isfinite(costs)), 0.0, CLIP),
    ]
    reals = np.concatenate([np.stack(columns, axis=1), evidence, np.arcsinh(given)], axis=1)
    mask = np.isfinite(reals)
    return np.nan_to_num(reals), mask


def _calendar(timestamps: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    features = np.empty((*timestamps.shape, NUM_TIME_FEATURES), dtype=np.float32)
    for name in set(frequency):
        rows = frequency == name
        features[rows] = calendar_features(timestamps[rows], name or "W")
    return features


def _targets(future: np.ndarray) -> dict[str, np.ndarray]:
    mask = observed_units(future)
    return {
        "future_values": np.nan_to_num(future[..., UNITS]),
        "future_observed_mask": mask,
        "future_censored_mask": mask & sold_out(future),
    }


def _carried_costs(past: np.ndarray, future: np.ndarray) -> np.ndarray:
    """Last cost known before each step `(B, H)`; NaN where there is none. The cost of the step itself is known."""
    path = np.concatenate([past[..., COST], future[..., COST]], axis=1)
    known = np.where(np.isfinite(path), np.arange(path.shape[1]), -1)
    latest = np.maximum.accumulate(known, axis=1)[:, past.shape[1] :]
    return np.where(latest >= 0, np.take_along_axis(path, np.maximum(latest, 0), axis=1), np.nan)


PricingFMProcessor.register_for_auto_class("AutoFeatureExtractor")
