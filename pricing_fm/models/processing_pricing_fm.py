"""Raw units <-> network inputs: roles, scaling, calendar, masks and the price ladder of one window of history.

Everything is computed from the window's own past: nothing is fitted on a corpus, so nothing can leak from test weeks,
and multiplying prices or units by a constant changes no ratio. Candidate prices never enter a statistic.
"""

import math
import zlib
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import FeatureExtractionMixin

# Order of the raw channels; equals `pricing_fm.names.CHANNELS` (a test compares them: this folder must stand alone).
RAW_CHANNELS = (
    "units",
    "price",
    "list_price",
    "competitor_price",
    "cost",
    "inventory",
    "traffic",
    *(f"promotion_{i}" for i in range(1, 5)),
    *(f"known_{i}" for i in range(1, 5)),
    *(f"past_{i}" for i in range(1, 5)),
    "price_imputed",
    "price_is_intervention",
)
INDEX = {name: i for i, name in enumerate(RAW_CHANNELS)}
UNITS, PRICE, LIST, COST, INVENTORY, TRAFFIC = (
    INDEX[name] for name in ("units", "price", "list_price", "cost", "inventory", "traffic")
)
IMPUTED, INTERVENTION = INDEX["price_imputed"], INDEX["price_is_intervention"]
PROMOTIONS, KNOWN, PAST = slice(7, 11), slice(11, 15), slice(15, 19)
PRICES = [PRICE, LIST, INDEX["competitor_price"], COST]

COVARIATE_CHOICES = {
    "both": (),
    "price": ("promotion_1", "promotion_2", "promotion_3", "promotion_4", "known_1", "known_2", "known_3", "known_4"),
    "flags": ("price", "list_price", "competitor_price", "cost"),
}
COVARIATE_CHOICES["none"] = COVARIATE_CHOICES["price"] + COVARIATE_CHOICES["flags"]

PRICE_SCALE = 0.25  # log price ratios are divided by this: a 25 % move becomes about one
REFERENCE_PERIODS = 26  # the reference price is the median of the last observed prices, so that it follows inflation
SCALE_FLOOR = 0.05  # units per period
CLIP = 8.0
RECENT_PERIODS = 8
REFERENCE_MEMORY = 0.8  # decay per period of the reference price and of the recent discount depth

# What each cadence can see of the calendar beside the year: hours, weekdays, days of the month.
CALENDAR = {"min": (1, 1, 0), "h": (1, 1, 0), "D": (0, 1, 1)}


def stable_bucket(slot: int, value: Any, buckets: int) -> int:
    """Embedding row of a static category: the same in every process and on every machine; 0 = missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 0
    return 1 + zlib.crc32(f"{slot}={value}".encode()) % (buckets - 1)


def calendar_features(timestamps: np.ndarray, frequency: str) -> np.ndarray:
    """Sines and cosines of the calendar; those a cadence cannot see are zero.

    Args:
        timestamps (`datetime64`, shape `(...)`): Starts of periods.
        frequency (`str`): `h`, `D`, `W`, `MS`, possibly with a multiple or an anchor (`W-WED`).

    Returns:
        `(..., 18)`: Year (4 harmonics), week (2), day (2), month (1), each as sine and cosine.
    """
    base = frequency.lstrip("0123456789").split("-")[0]
    has_hours, has_weekdays, has_month_days = CALENDAR.get(base, (0, 0, 0))
    harmonics = 4
    day = timestamps.astype("datetime64[D]")
    year = timestamps.astype("datetime64[Y]")
    day_of_year = (day - year.astype("datetime64[D]")).astype(np.float64)
    seconds = (timestamps.astype("datetime64[s]") - day.astype("datetime64[s]")).astype(np.float64)
    weekday = (day.astype(np.int64) + 3) % 7 + seconds / 86400
    month_day = (day - timestamps.astype("datetime64[M]").astype("datetime64[D]")).astype(np.float64)
    phases = [harmonic * day_of_year / 365.25 for harmonic in range(1, harmonics + 1)]
    phases += [has_weekdays and harmonic * weekday / 7 for harmonic in (1, 2)]
    phases += [has_hours and harmonic * seconds / 86400 for harmonic in (1, 2)]
    phases += [has_month_days and month_day / 31]
    shown = [True] * harmonics + [bool(has_weekdays)] * 2 + [bool(has_hours)] * 2 + [bool(has_month_days)]
    features = []
    for phase, is_shown in zip(phases, shown, strict=True):
        angle = 2 * np.pi * np.broadcast_to(phase, timestamps.shape)
        features += [np.sin(angle) * is_shown, np.cos(angle) * is_shown]
    return np.stack(features, axis=-1).astype(np.float32)


def bootstrap_weights(item_keys: np.ndarray, members: int) -> np.ndarray:
    """Bayesian-bootstrap weights (exponential, mean 1), a pure function of the item: `(B, members)`.

    References:
        Rubin 1981, The Bayesian Bootstrap; SplitMix64 (Steele et al. 2014) as the hash.
    """
    with np.errstate(over="ignore"):
        state = item_keys.astype(np.uint64)[:, None] + np.arange(1, members + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    uniform = (state >> np.uint64(11)).astype(np.float64) / 2.0**53
    return -np.log1p(-uniform).astype(np.float32)


class PricingFMProcessor(FeatureExtractionMixin):
    """Turns raw windows into the network's batch, and rungs of the price ladder into prices and back.

    Args:
        context_length (`int`): Past periods of a window.
        covariates (`str`): `both`, `price`, `flags` or `none`: what the network may see beside sales and calendar.
        num_static_buckets, num_response_members, num_rungs, ladder_step, ladder_start: As in `PricingFMConfig`.
        default_scale (`float`): Units per period assumed for an item without any observed period.
        step_correlation (`float`): Rank correlation of an item's forecast errors between steps; for quantiles of totals.
        trained_on_interventions (`bool`): The network has seen futures marked `price_is_intervention`; only then does
            the mark mean something to it.
    """

    model_input_names: ClassVar[list[str]] = ["past_values", "past_observed_mask"]

    def __init__(
        self,
        context_length: int = 104,
        covariates: str = "both",
        num_static_buckets: int = 2048,
        num_response_members: int = 8,
        num_rungs: int = 43,
        ladder_step: float = 0.025,
        ladder_start: float = -0.7,
        default_scale: float = 10.0,
        step_correlation: float = 1.0,
        trained_on_interventions: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if covariates not in COVARIATE_CHOICES:
            raise ValueError(f"covariates must be one of {sorted(COVARIATE_CHOICES)}, found {covariates!r}")
        self.context_length = context_length
        self.covariates = covariates
        self.num_static_buckets = num_static_buckets
        self.num_response_members = num_response_members
        self.num_rungs, self.ladder_step, self.ladder_start = num_rungs, ladder_step, ladder_start
        self.default_scale = default_scale
        self.step_correlation = step_correlation
        self.trained_on_interventions = trained_on_interventions

    def __call__(self, windows: Any, frequencies: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
        """Builds the batch of `B` windows with `T` past and `H` future periods.

        Args:
            windows: Object with the arrays of `pricing_fm.panel.windows.RawWindows`: `past` `(B, T, channels)` and
                `future` `(B, H, channels)` in raw units with NaN = missing, timestamps, static attributes, item keys.

        Returns:
            `dict`: The arguments of the models' `forward`; with targets wherever `future` holds units.
        """
        past, future = self._hide(windows.past), self._hide(windows.future)
        observed = self._observed_units(past)
        scale = self._scale(past, observed)
        reference = self.reference_prices(past, future)
        values, mask = self._past_channels(past, observed, scale, reference)
        known, known_mask = self._future_channels(past, future, scale, reference)
        reals, reals_mask = self._static_reals(windows, past, observed, scale, reference)
        frequency = windows.static_categories[:, 0]
        log_ratio = np.log(future[..., PRICE] / reference[:, None])
        batch = {
            "past_values": values,
            "past_observed_mask": mask,
            "past_time_features": self._calendar(windows.past_timestamps, frequency),
            "static_categorical_features": self._categories(windows.static_categories),
            "static_real_features": reals,
            "static_real_mask": reals_mask,
            "future_time_features": self._calendar(windows.future_timestamps, frequency),
            "future_known_values": known,
            "future_known_mask": known_mask,
            "candidate_prices": np.nan_to_num(log_ratio)[:, None, :],
            "scale": scale,
            "reference_price": reference,
            "member_weights": bootstrap_weights(windows.item_keys, self.num_response_members),
        }
        batch |= self._targets(future)
        batch |= self._decisions(windows.past, windows.future, scale, reference)
        return {name: torch.from_numpy(np.ascontiguousarray(self._typed(array))) for name, array in batch.items()}

    @staticmethod
    def _typed(array: np.ndarray) -> np.ndarray:
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    def _hide(self, channels: np.ndarray) -> np.ndarray:
        hidden = [INDEX[name] for name in COVARIATE_CHOICES[self.covariates]]
        if not hidden:
            return channels
        channels = channels.copy()
        channels[..., hidden] = np.nan
        return channels

    @staticmethod
    def _observed_units(channels: np.ndarray) -> np.ndarray:
        # A period without stock says nothing about demand.
        return np.isfinite(channels[..., UNITS]) & ~(channels[..., INVENTORY] <= 0)

    def _scale(self, past: np.ndarray, observed: np.ndarray) -> np.ndarray:
        """Mean observed in-stock units `(B,)`, without the sold-out periods when there are others."""
        in_stock = observed & ~(past[..., UNITS] >= past[..., INVENTORY])
        used = np.where(in_stock.any(1)[:, None], in_stock, observed)
        count = used.sum(1)
        total = np.where(used, past[..., UNITS], 0.0).sum(1, dtype=np.float64)
        return np.where(count > 0, np.maximum(total / np.maximum(count, 1), SCALE_FLOOR), self.default_scale)

    def reference_prices(self, past: np.ndarray, future: np.ndarray) -> np.ndarray:
        """Lower median of the last observed prices `(B,)`, currency; list price, then 1, where there is none.

        A price that was really charged, so that the reference rung is exact to the cent.

        Args:
            past, future (`(B, T, channels)`, `(B, H, channels)`): Raw channels; of the future only the list price counts.
        """
        prices = np.where(past[..., IMPUTED] > 0, np.nan, past[..., PRICE])
        reference = np.empty(len(past))
        lists = np.concatenate([past[..., LIST], future[..., LIST]], axis=1)
        for row in range(len(past)):
            observed = prices[row][np.isfinite(prices[row])][-REFERENCE_PERIODS:]
            if len(observed):
                reference[row] = np.sort(observed)[(len(observed) - 1) // 2]
            else:
                listed = lists[row][np.isfinite(lists[row])]
                reference[row] = listed[-1] if len(listed) else 1.0
        return reference

    @staticmethod
    def _log_ratio(prices: np.ndarray, reference: np.ndarray) -> np.ndarray:
        shape = (-1,) + (1,) * (prices.ndim - 1)
        with np.errstate(divide="ignore"):  # a cost of zero clips at the lower end
            return np.clip(np.log(prices / reference.reshape(shape)) / PRICE_SCALE, -CLIP, CLIP)

    @staticmethod
    def _covariate(values: np.ndarray, past: np.ndarray) -> np.ndarray:
        """Shares and flags as they are; other numbers relative to their own mean size in the past, no centring."""
        size = np.abs(past)
        count = np.isfinite(size).sum(1)
        mean = np.where(np.isfinite(size), size, 0.0).sum(1) / np.maximum(count, 1)
        largest = np.where(np.isfinite(size), size, 0.0).max(1, initial=0.0)
        divisor = np.where(largest <= 1.0, 1.0, np.maximum(mean, 1e-6))[:, None]
        return np.where(divisor == 1.0, np.clip(values, -CLIP, CLIP), np.arcsinh(values / divisor))

    def _past_channels(self, past, observed, scale, reference):
        values = np.empty((*past.shape[:2], 21), dtype=np.float64)
        values[..., 0] = np.arcsinh(np.where(observed, past[..., UNITS], np.nan) / scale[:, None])
        values[..., 1:5] = self._log_ratio(past[..., PRICES], reference)
        values[..., 5] = np.arcsinh(past[..., INVENTORY] / scale[:, None])
        values[..., 6] = self._covariate(past[..., TRAFFIC], past[..., TRAFFIC])
        values[..., 7:19] = self._covariate(past[..., 7:19], past[..., 7:19])
        sold_out = np.where(
            np.isfinite(past[..., INVENTORY]) & observed, past[..., UNITS] >= past[..., INVENTORY], np.nan
        )
        values[..., 19] = sold_out
        alive = np.isfinite(past).any(-1)
        values[..., 20] = np.where(alive, np.nan_to_num(past[..., INTERVENTION]), np.nan)
        mask = np.isfinite(values)
        return np.nan_to_num(values), mask

    def _future_channels(self, past, future, scale, reference):
        values = np.full((*future.shape[:2], 12), np.nan)
        values[..., 0] = self._log_ratio(future[..., LIST], reference)
        values[..., 1:5] = np.clip(future[..., PROMOTIONS], -CLIP, CLIP)
        values[..., 5:9] = self._covariate(future[..., KNOWN], past[..., KNOWN])
        values[..., 9] = np.nan_to_num(future[..., INTERVENTION])  # a log without the mark is a log
        values[..., 10] = np.where(
            np.isfinite(future[..., PRICE]), 0.0, np.nan
        )  # its presence; the value is a candidate
        values[:, :1, 11] = np.arcsinh(future[:, :1, INVENTORY] / scale[:, None])  # stock at the origin only
        mask = np.isfinite(values)
        return np.nan_to_num(values), mask

    def _static_reals(self, windows, past, observed, scale, reference):
        units = np.where(observed, past[..., UNITS], np.nan)
        prices = np.where(past[..., IMPUTED] > 0, np.nan, past[..., PRICE])
        count = observed.sum(1)
        recent = units[:, -RECENT_PERIODS:]
        recent_count = np.isfinite(recent).sum(1)
        recent_mean = np.where(np.isfinite(recent), recent, 0).sum(1) / np.maximum(recent_count, 1)
        moved = np.abs(np.diff(np.log(prices), axis=1)) > 0.005
        pairs = np.isfinite(np.diff(prices, axis=1)).sum(1)
        log_prices = np.log(prices / reference[:, None])
        finite = np.isfinite(log_prices)
        price_spread = np.sqrt(np.where(finite, log_prices**2, 0).sum(1) / np.maximum(finite.sum(1), 1))
        costs = past[..., COST] / reference[:, None]
        cost_count = np.isfinite(costs).sum(1)
        cost_share = np.where(np.isfinite(costs), costs, 0).sum(1) / np.maximum(cost_count, 1)
        deviation = np.where(np.isfinite(units), np.abs(units / scale[:, None] - 1), 0).sum(1) / np.maximum(count, 1)
        zeros = (units == 0).sum(1) / np.maximum(count, 1)
        has = np.where(count > 0, 0.0, np.nan)
        columns = [
            np.log(scale) / 3 + has,
            np.log1p(count) / 3,
            np.where(pairs > 0, moved.sum(1) / np.maximum(pairs, 1), np.nan),
            np.where(finite.any(1), price_spread / PRICE_SCALE, np.nan),
            zeros + has,
            np.where(recent_count > 0, np.arcsinh(recent_mean / scale), np.nan),
            deviation + has,
            np.where(cost_count > 0, cost_share, np.nan),
        ]
        reals = np.concatenate([np.stack(columns, axis=1), np.arcsinh(windows.static_reals)], axis=1)
        mask = np.isfinite(reals)
        return np.nan_to_num(reals), mask

    def _categories(self, static_categories: np.ndarray) -> np.ndarray:
        rows = [
            [stable_bucket(slot, value, self.num_static_buckets) for slot, value in enumerate(row)]
            for row in static_categories
        ]
        return np.asarray(rows, dtype=np.int64)

    @staticmethod
    def _calendar(timestamps: np.ndarray, frequency: np.ndarray) -> np.ndarray:
        features = np.empty((*timestamps.shape, 18), dtype=np.float32)
        for name in set(frequency):
            rows = frequency == name
            features[rows] = calendar_features(timestamps[rows], name or "W")
        return features

    def _targets(self, future: np.ndarray) -> dict[str, np.ndarray]:
        units, inventory = future[..., UNITS], future[..., INVENTORY]
        mask = self._observed_units(future)
        return {
            "future_values": np.nan_to_num(units),
            "future_observed_mask": mask,
            "future_censored_mask": mask & (units >= inventory),
        }

    # -- price ladder ---------------------------------------------------------------------------------------------

    def rungs(self, prices: np.ndarray, reference_price: np.ndarray) -> np.ndarray:
        """Nearest rung of `prices` `(B, ...)` given `reference_price` `(B,)`; int64, clipped to the ladder."""
        shape = (-1,) + (1,) * (prices.ndim - 1)
        position = (np.log(prices / reference_price.reshape(shape)) - self.ladder_start) / self.ladder_step
        return np.clip(np.rint(np.nan_to_num(position)), 0, self.num_rungs - 1).astype(np.int64)

    def rung_prices(self, reference_price: np.ndarray, decimals: int = 2) -> np.ndarray:
        """Price of every rung, rounded to the currency's smallest unit: `(B, num_rungs)`."""
        multipliers = np.exp(self.ladder_start + self.ladder_step * np.arange(self.num_rungs))
        return np.maximum(np.round(reference_price[:, None] * multipliers, decimals), 10.0**-decimals)

    # -- state before a decision ----------------------------------------------------------------------------------

    def _decisions(self, past, future, scale, reference) -> dict[str, np.ndarray]:
        """Logged actions and the recursion states before each of them.

        The recursion (reference price, recent discount depth, last price) is known, so it needs no network:
        `m' = memory m + (1 - memory) log(p / reference)`; missing prices leave it as it is.
        """
        steps = future.shape[1]
        log_past = np.log(np.where(past[..., IMPUTED] > 0, np.nan, past[..., PRICE]) / reference[:, None])
        log_future = np.log(np.where(future[..., IMPUTED] > 0, np.nan, future[..., PRICE]) / reference[:, None])
        last, memory, depth = (np.zeros(len(past)) for _ in range(3))
        last_promoted = np.zeros(len(past), dtype=np.int64)
        promoted = np.nan_to_num(np.concatenate([past[..., PROMOTIONS], future[..., PROMOTIONS]], 1)).max(-1) > 0
        path = np.concatenate([log_past, log_future], axis=1)
        features = np.zeros((len(past), steps, 8))
        current = np.zeros((len(past), steps), dtype=np.int64)
        started = np.zeros(len(past), dtype=bool)
        for step in range(path.shape[1]):
            ahead = step - past.shape[1]
            if ahead >= 0:
                features[:, ahead, :3] = np.stack([last, memory, depth], 1) / PRICE_SCALE
                current[:, ahead] = last_promoted * self.num_rungs + self._rung_of_log(last)
            price, known = path[:, step], np.isfinite(path[:, step])
            memory = np.where(
                known,
                np.where(started, REFERENCE_MEMORY * memory + (1 - REFERENCE_MEMORY) * np.nan_to_num(price), price),
                memory,
            )
            depth = np.where(
                known, REFERENCE_MEMORY * depth + (1 - REFERENCE_MEMORY) * np.minimum(np.nan_to_num(price), 0), depth
            )
            last = np.where(known, price, last)
            last_promoted = np.where(known, promoted[:, step], last_promoted)
            started |= known
        features = np.clip(np.nan_to_num(features), -CLIP, CLIP)
        features[..., 3] = started[:, None]
        features[:, 0, 4] = np.nan_to_num(np.arcsinh(future[:, 0, INVENTORY] / scale))
        features[:, 0, 5] = np.isfinite(future[:, 0, INVENTORY])
        costs = self._carried_costs(past, future)
        features[..., 6] = np.nan_to_num(costs / reference[:, None])
        features[..., 7] = np.isfinite(costs)
        actions = promoted[:, past.shape[1] :] * self.num_rungs + self._rung_of_log(np.nan_to_num(log_future))
        chosen = np.isfinite(log_future) & ~(future[..., INTERVENTION] > 0)
        return {
            "decision_features": features,
            "current_actions": current,
            "logged_actions": actions.astype(np.int64),
            "logged_action_mask": chosen,
            "unit_costs": costs,
            "future_inventory": future[..., INVENTORY],
        }

    @staticmethod
    def _carried_costs(past: np.ndarray, future: np.ndarray) -> np.ndarray:
        """Last cost known before each step `(B, H)`; NaN where there is none. The cost of the step itself is known."""
        path = np.concatenate([past[..., COST], future[..., COST]], axis=1)
        known = np.where(np.isfinite(path), np.arange(path.shape[1]), -1)
        latest = np.maximum.accumulate(known, axis=1)[:, past.shape[1] :]
        return np.where(latest >= 0, np.take_along_axis(path, np.maximum(latest, 0), axis=1), np.nan)

    def _rung_of_log(self, log_ratio: np.ndarray) -> np.ndarray:
        position = np.rint((log_ratio - self.ladder_start) / self.ladder_step)
        return np.clip(position, 0, self.num_rungs - 1).astype(np.int64)


PricingFMProcessor.register_for_auto_class("AutoFeatureExtractor")
