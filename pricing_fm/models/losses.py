"""Demand losses. Each returns one number per sample: the mean over its own observed steps.

Per-sample means make the batch loss a plain mean over samples, so that gradient accumulation and data-parallel splits
give the same gradient without exchanging denominators, and padding never enters one.
"""

import math

import torch

# Above this stock the survival probability uses the normal approximation instead of summing every count.
MAX_EXACT_STOCK = 1024


def mean_over_observed(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of `values` `(B, H)` where `mask` is True, per sample `(B,)`; 0 for a sample without observed steps."""
    weights = mask.to(values.dtype)
    return torch.where(mask, values, 0.0).sum(-1) / weights.sum(-1).clamp(min=1.0)


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


def negative_binomial_log_prob(counts: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """Log probability of `counts` with variance `mean + mean^2 / dispersion`; also a quasi-likelihood for fractions."""
    total = dispersion + mean
    return (
        torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
        + dispersion * (torch.log(dispersion) - torch.log(total))
        + counts * (torch.log(mean) - torch.log(total))
    )


def negative_binomial_log_survival(stock: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """`log P(demand >= stock)`, by summing counts below the stock, or by the normal approximation for large stocks.

    Args:
        stock, mean, dispersion (`(N,)`): Censoring stock, mean and dispersion.

    Returns:
        `(N,)`.
    """
    deviation = (mean + mean**2 / dispersion).sqrt()
    approximate = torch.special.log_ndtr((mean - (torch.ceil(stock) - 0.5)) / deviation)
    exact_rows = stock <= MAX_EXACT_STOCK
    if not bool(exact_rows.any()):
        return approximate
    limit = torch.ceil(stock[exact_rows])
    counts = torch.arange(int(limit.max().item()), device=stock.device, dtype=stock.dtype)
    log_probs = negative_binomial_log_prob(counts[None], mean[exact_rows, None], dispersion[exact_rows, None])
    below = torch.where(counts[None] < limit[:, None], log_probs.exp(), 0.0).sum(-1)
    exact = torch.log1p(-below.clamp(max=1 - 1e-6))
    return approximate.index_put((exact_rows.nonzero(as_tuple=True)[0],), exact)


def count_loss(
    counts: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor, zero_logit: torch.Tensor, censored: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of a zero-inflated negative binomial; sold-out periods count `P(demand >= stock)`.

    Args:
        counts (`(B, H)`): Units sold.
        mean, dispersion (`(B, H)`): Of the negative-binomial part.
        zero_logit (`(B, H)`): Logit of the probability of a structural zero.
        censored (`(B, H)`, bool): True = sold out.

    Returns:
        `(B, H)`.

    References:
        Lambert 1992 (zero inflation); Tobin 1958 (censoring).
    """
    log_zero = torch.nn.functional.logsigmoid(zero_logit)
    log_count = torch.nn.functional.logsigmoid(-zero_logit)
    log_prob = log_count + negative_binomial_log_prob(counts, mean, dispersion)
    log_prob = torch.where(counts == 0, torch.logaddexp(log_zero, log_prob), log_prob)
    if bool(censored.any()):
        survival = negative_binomial_log_survival(counts[censored], mean[censored], dispersion[censored])
        log_prob = log_prob.masked_scatter(censored, log_count[censored] + survival)
    return -log_prob


def count_quantiles(
    mean: torch.Tensor, dispersion: torch.Tensor, zero_logit: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """Quantiles of the zero-inflated negative binomial: the smallest count whose probability reaches each level.

    Args:
        mean, dispersion, zero_logit (`(N,)`): Parameters.
        levels (`(Q,)`): Probabilities, increasing.

    Returns:
        `(N, Q)`: Whole units.
    """
    spread = (mean + mean**2 / dispersion).sqrt()
    limit = int(torch.ceil(mean + (4 + 6 * math.sqrt(max(1.0, -math.log(1 - float(levels[-1]))))) * spread).max()) + 8
    counts = torch.arange(limit, device=mean.device, dtype=torch.float64)
    log_probs = negative_binomial_log_prob(counts[None], mean.double()[:, None], dispersion.double()[:, None])
    zero = zero_logit.double().sigmoid()[:, None]
    cumulative = zero + (1 - zero) * log_probs.exp().cumsum(-1)
    # Rounding guards against a level that equals a step of the distribution to the last bit.
    return torch.searchsorted((cumulative + 1e-12).contiguous(), levels.double().expand(len(mean), -1).contiguous()).to(
        mean.dtype
    )
