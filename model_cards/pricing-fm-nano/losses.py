"""Demand losses. Each returns one number per sample: the mean over its own observed steps.

Per-sample means make the batch loss a plain mean over samples, so that gradient accumulation and data-parallel splits
give the same gradient without exchanging denominators, and padding never enters one.
"""

import torch
from torch.nn import functional

from .counts import negative_binomial_log_prob, negative_binomial_log_survival


def mean_over_observed(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of what was observed, per sample.

    Args:
        values (`(B, H)`): Finite also where masked.
        mask (`(B, H)`, bool): True = observed.

    Returns:
        `(B,)`: 0 for a sample without observed steps.
    """
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def pinball(
    targets: torch.Tensor, quantiles: torch.Tensor, levels: torch.Tensor, censored: torch.Tensor
) -> torch.Tensor:
    """Pinball loss averaged over levels; a sold-out period is a lower bound and only pulls upwards.

    Args:
        targets (`(...)`): Observed units.
        quantiles (`(..., Q)`): Predicted quantiles.
        levels (`(Q,)`): Their probabilities.
        censored (`(...)`, bool): True = sold out, demand was at least `targets`.

    Returns:
        `(...)`: 2 x mean pinball loss, in the units of `targets`.

    References:
        Koenker and Bassett 1978; one-sided form as in Powell 1986 for censored quantile regression.
    """
    error = targets[..., None] - quantiles
    above = torch.where(censored[..., None], torch.zeros_like(error), (levels - 1) * error)
    return 2 * torch.where(error >= 0, levels * error, above).mean(-1)


def count_loss(
    counts: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor, zero_logit: torch.Tensor, censored: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of a zero-inflated negative binomial; sold-out periods count `P(demand >= stock)`.

    In float64: the terms of the likelihood grow with the counts and cancel, and in float32 nothing is left of the
    difference from about 100,000 units a period on.

    Args:
        counts (`(B, H)`): Units sold.
        mean (`(B, H)`): Of the negative-binomial part.
        dispersion (`(B, H)`): Of the negative-binomial part.
        zero_logit (`(B, H)`): Logit of the probability of a structural zero.
        censored (`(B, H)`, bool): True = sold out.

    Returns:
        `(B, H)`: In the type of `mean`.

    References:
        Lambert 1992 (zero inflation); Tobin 1958 (censoring).
    """
    log_zero = functional.logsigmoid(zero_logit.double())
    log_count = functional.logsigmoid(-zero_logit.double())
    wide = counts.double(), mean.double(), dispersion.double()
    log_prob = log_count + negative_binomial_log_prob(*wide)
    log_prob = torch.where(counts == 0, torch.logaddexp(log_zero, log_prob), log_prob)
    survival = negative_binomial_log_survival(*(values[censored] for values in wide))
    log_prob = log_prob.masked_scatter(censored, log_count[censored] + survival)
    return -log_prob.to(mean.dtype)


def bend(values: torch.Tensor, start: float) -> torch.Tensor:
    """Straight up to about `start`, logarithmic beyond: `start * asinh(values / start)`.

    Quantiles of bent values are the bent quantiles, so that a pinball loss of both has the same optimum. But one week
    that sells a thousand times the usual no longer drowns out all others of its batch.

    Args:
        values (`(...)`): In units of the usual.
        start (`float`): Where it bends; 0 = nowhere.

    Returns:
        `(...)`.

    References:
        Koenker and Bassett 1978 (equivariance of quantiles to monotone transformations).
    """
    return values if start == 0 else start * torch.asinh(values / start)


def ensemble_crps(members: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Continuous ranked probability score of an ensemble: smallest when the members are the posterior's quantiles.

    `M` members settle at the levels `(i - 1/2) / M`; so they spread as widely as what is not known.

    Args:
        members (`(..., M)`): Values, in any order.
        targets (`(...)`): The truth.

    Returns:
        `(...)`: In the units of the targets.

    References:
        Gneiting and Raftery 2007, equation 21; Bröcker 2012 (the ensemble that minimises it).
    """
    error = (members - targets[..., None]).abs().mean(-1)
    count = members.shape[-1]
    # Mean absolute difference of all pairs, from the sorted members.
    ranks = 2 * torch.arange(1, count + 1, device=members.device, dtype=members.dtype) - count - 1
    return error - (members.sort(-1).values * ranks).sum(-1) / count**2
