"""Where each quantity stands in the arrays: raw channels of a window, and the network's past and future slots."""

import numpy as np

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

CLIP = 8.0  # largest absolute value of an input
# Log price ratios are divided by this: a 25 % move becomes about one.
PRICE_SCALE = 0.25

# `past_values`: asinh units, four log price ratios, asinh inventory, traffic, promotions, covariates, sold out,
# intervention. The generic slots 7:19 stand where they stand in the raw channels.
NUM_PAST_CHANNELS = 21
PAST_PRICE_CHANNEL = 1
SOLD_OUT_CHANNEL, PAST_INTERVENTION_CHANNEL = 19, 20

# `future_known_values`: list price, promotions, known covariates, and then what not every pass may see; the forecasts
# from the item's own past know the plan of promotions.
NUM_KNOWN_CHANNELS = 24
LIST_SLOT, PROMOTION_SLOTS, KNOWN_SLOTS = 0, slice(1, 5), slice(5, 9)
INTERVENTION_SLOT, PRICE_SLOT, INVENTORY_SLOT, LOCAL_SLOTS = 9, 10, 11, slice(12, 24)

# Of the local slots: the regression on the recent level, and quantiles of what sales were over such forecasts.
LEVEL_SLOT, RESIDUAL_SLOTS = 13, slice(17, 24)

# `static_real_features`: the slopes, over 3, of the item's regression and of the hidden-demand model.
SLOPE_COLUMNS, SLOPE_SCALE = [37, 43], 3.0


def own_prices(channels: np.ndarray) -> np.ndarray:
    """Prices that were really charged, currency: `(B, T, channels)` -> `(B, T)`, NaN elsewhere, float64."""
    return np.where(channels[..., IMPUTED] > 0, np.nan, channels[..., PRICE].astype(np.float64))


def observed_units(channels: np.ndarray) -> np.ndarray:
    """True where units say something about demand: `(B, T, channels)` -> `(B, T)`; a period without stock does not."""
    return np.isfinite(channels[..., UNITS]) & ~(channels[..., INVENTORY] <= 0)


def sold_out(channels: np.ndarray) -> np.ndarray:
    """True where the whole stock was sold: `(B, T, channels)` -> `(B, T)`; demand was at least that."""
    return channels[..., UNITS] >= channels[..., INVENTORY]


def scale_covariate(values: np.ndarray, past: np.ndarray) -> np.ndarray:
    """Shares and flags as they are; other numbers relative to their own mean size in the past, no centring.

    Args:
        values (`(B, periods)` or `(B, periods, columns)`): Raw, NaN = missing.
        past (`(B, T)` or `(B, T, columns)`): What they are measured against.

    Returns:
        As `values`.
    """
    size = np.where(np.isfinite(past), np.abs(past), 0.0)
    is_share = (size.max(1, initial=0.0) <= 1.0)[:, None]
    mean = size.sum(1) / np.maximum(np.isfinite(past).sum(1), 1)
    relative = np.arcsinh(values / np.maximum(mean, 1e-6)[:, None])
    return np.where(is_share, np.clip(values, -CLIP, CLIP), relative)
