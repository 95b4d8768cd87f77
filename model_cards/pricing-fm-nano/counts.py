"""The negative binomial: probabilities, survival beyond a stock, quantiles."""

import math

import torch

# Above this stock the survival probability uses the normal approximation instead of summing every count.
MAX_EXACT_STOCK = 1024
# Quantiles are exact below this count; above it counts are summed in cells that grow by half a percent.
MAX_EXACT_COUNT = 1024
CELL_GROWTH = 1.005
LARGEST_MEAN = 1e9
# A sell-out that is further beyond expectation, in standard deviations, pulls no harder: gradients have to stay finite.
LARGEST_SURPRISE = 1e4
# Numbers per chunk of the quantiles' table: 8 MiB of float64 each.
CHUNK_SIZE = 2**20


def negative_binomial_log_prob(counts: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """Log probability of `counts` with variance `mean + mean^2 / dispersion`; also a quasi-likelihood for fractions.

    Args:
        counts (`(...)`): Non-negative.
        mean (`(...)`): Positive.
        dispersion (`(...)`): Positive; infinite would be Poisson.

    Returns:
        `(...)`, broadcast.
    """
    return (
        torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
        - dispersion * torch.log1p(mean / dispersion)
        - counts * torch.log1p(dispersion / mean)
    )


def negative_binomial_log_survival(stock: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
    """`log P(demand >= stock)`, by summing counts below the stock, or by the normal approximation for large stocks.

    Args:
        stock (`(N,)`, float64): Units that were all sold.
        mean (`(N,)`, float64): Of demand.
        dispersion (`(N,)`, float64): Of demand.

    Returns:
        `(N,)`, float64: Not below log(1e-12), so that the gradient stays alive where a sell-out came as a surprise.
    """
    deviation = (mean + mean**2 / dispersion).sqrt()
    surprise = (mean - (torch.ceil(stock) - 0.5)) / deviation
    approximate = torch.special.log_ndtr(surprise.clamp(min=-LARGEST_SURPRISE))
    exact_rows = (stock <= MAX_EXACT_STOCK).nonzero(as_tuple=True)[0]
    if not len(exact_rows):
        return approximate
    limit = torch.ceil(stock[exact_rows])
    counts = torch.arange(int(limit.max().item()), device=stock.device, dtype=stock.dtype)
    log_probs = negative_binomial_log_prob(counts[None], mean[exact_rows, None], dispersion[exact_rows, None])
    below = torch.where(counts[None] < limit[:, None], log_probs.exp(), 0.0).sum(-1)
    return approximate.index_put((exact_rows,), torch.log1p(-below.clamp(max=1 - 1e-12)))


def count_cells(largest: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower ends and widths of the cells in which counts are summed, the same whatever is asked of them.

    Args:
        largest (`float`): Largest count that has to be reached.
        device (`torch.device`): Where to put them.

    Returns:
        Two `(cells,)`, float64: single counts up to `MAX_EXACT_COUNT`, then cells that grow by `CELL_GROWTH`.
    """
    exact = torch.arange(min(math.ceil(largest), MAX_EXACT_COUNT) + 1, device=device, dtype=torch.float64)
    growing = max(math.ceil(math.log(max(largest, 1.0) / MAX_EXACT_COUNT) / math.log(CELL_GROWTH)), 0)
    powers = torch.arange(1, growing + 2, device=device, dtype=torch.float64)
    ends = torch.cat([exact, (MAX_EXACT_COUNT * CELL_GROWTH**powers).floor()]) if growing else exact
    return ends[:-1], ends.diff()


def count_quantiles(
    mean: torch.Tensor, dispersion: torch.Tensor, zero_logit: torch.Tensor, levels: torch.Tensor
) -> torch.Tensor:
    """Quantiles of the zero-inflated negative binomial: the smallest count whose probability reaches each level.

    A row's answer does not depend on the other rows. Memory is bounded: a wild mean costs cells, not counts.

    Args:
        mean (`(N, ...)`): Of the negative-binomial part.
        dispersion (broadcasts to `(N, ...)`): Of the negative-binomial part.
        zero_logit (broadcasts to `(N, ...)`): Logit of the probability of a structural zero.
        levels (`(Q,)`): Probabilities, increasing.

    Returns:
        `(N, ..., Q)`: Whole units, in the type of `mean`.
    """
    wide_mean, wide_dispersion = mean.double().clamp(max=LARGEST_MEAN), dispersion.double()
    zero, targets = zero_logit.double().sigmoid(), levels.double()
    spread = (wide_mean + wide_mean**2 / wide_dispersion).sqrt()
    # Twice what a one-sided Chebyshev bound of a light tail would ask for.
    deviations = 4 + 6 * math.sqrt(max(1.0, -math.log(1 - float(levels[-1]))))
    largest = float((wide_mean + deviations * spread).max()) + 8
    starts, widths = count_cells(largest, mean.device)
    middles = starts + (widths - 1) / 2
    results = []
    rows = max(1, CHUNK_SIZE // (len(starts) * mean[0].numel()))
    for part in range(0, len(mean), rows):
        chunk = slice(part, part + rows)
        log_probs = negative_binomial_log_prob(middles, wide_mean[chunk, ..., None], wide_dispersion[chunk, ..., None])
        cumulative = (log_probs.exp_() * widths).cumsum(-1)
        cumulative = zero[chunk, ..., None] + (1 - zero[chunk, ..., None]) * cumulative
        # Rounding guards against a level that equals a step of the distribution to the last bit.
        place = torch.searchsorted(cumulative.add_(1e-12), targets.expand(*cumulative.shape[:-1], -1).contiguous())
        results.append(starts[place.clamp(max=len(starts) - 1)])
    return torch.cat(results).to(mean.dtype)
