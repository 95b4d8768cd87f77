"""What the validation windows say about forecast errors, beyond the loss."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import norm

from pricing_fm.models import PricingFMForDemand
from pricing_fm.training.sources import Batch

# Quantiles end at 1 % and 99 %; what lies outside counts as just outside.
TAIL = 0.005


@torch.inference_mode()
def estimate_step_correlation(model: PricingFMForDemand, batches: Sequence[Batch]) -> float:
    """Correlation of an item's forecast errors between two steps, on the normal scale.

    An item that sells better than expected in one week tends to do so in the next, so the total over weeks is more
    uncertain than independent weeks would make it.

    Args:
        model (`PricingFMForDemand`): In evaluation mode.
        batches (`Sequence[dict]`): Validation batches with targets.

    Returns:
        `float`: In [0, 1]; mean product of the normal scores of two steps over their variance.

    Raises:
        ValueError: If no window has two observed steps.

    References:
        Dawid 1984 (probability integral transform); one-factor Gaussian copula as in Li 2000.
    """
    levels = np.asarray(model.config.quantile_levels)
    scores = []
    for batch in batches:
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items()}
        quantiles = model.demand(model.encode(inputs), inputs).quantile_values[:, 0].double().cpu().numpy()
        targets = batch["future_values"].double().numpy()[..., None]
        known = (batch["future_observed_mask"] & ~batch["future_censored_mask"]).numpy()
        # Middle of the levels that a count may stand for: a zero is not always the lowest quantile.
        ranks = ((quantiles < targets).sum(-1) + (quantiles <= targets).sum(-1)) / 2
        place = np.interp(ranks, np.arange(len(levels) + 1), [TAIL, *((levels[1:] + levels[:-1]) / 2), 1 - TAIL])
        scores.append(np.where(known, norm.ppf(place), np.nan))
    table = np.concatenate(scores)
    table = table - np.nanmean(table)
    known = np.isfinite(table)
    filled = np.where(known, table, 0.0)
    pairs = known.sum(1) * (known.sum(1) - 1)
    if not pairs.sum():
        raise ValueError("no validation window has two observed steps; raise --validation_periods")
    products = filled.sum(1) ** 2 - (filled**2).sum(1)
    return float(np.clip(products.sum() / pairs.sum() / (filled**2).sum() * known.sum(), 0.0, 1.0))
