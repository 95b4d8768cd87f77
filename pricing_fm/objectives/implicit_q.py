"""In-sample value learning on logged actions: targets, expectile regression, advantage-weighted regression."""

import torch


def expectile_loss(residuals: torch.Tensor, expectile: float) -> torch.Tensor:
    """Asymmetric squared error that pulls a value estimate towards the better outcomes.

    Args:
        residuals (`torch.Tensor`, shape `(...)`): Target minus prediction, reward units.
        expectile (`float`): Level in (0, 1); 0.5 is half the squared error (SARSA-style values).

    Returns:
        `torch.Tensor`, shape `(...)`: Loss per element, squared reward units.

    Raises:
        ValueError: If `expectile` is outside (0, 1).

    References:
        Kostrikov et al. 2021, Implicit Q-Learning, arXiv:2110.06169.
    """
    if not 0 < expectile < 1:
        raise ValueError(f"expectile must be in (0, 1), found {expectile}")
    weight = torch.where(residuals > 0, expectile, 1 - expectile)
    return weight * residuals**2


def bootstrapped_targets(
    rewards: torch.Tensor, next_values: torch.Tensor, terminations: torch.Tensor, discount: float
) -> torch.Tensor:
    """One-step targets `r + discount * V(s')`; a termination has no next value, a truncation has one.

    Args:
        rewards (`(...)`): Reward of the step, reward units.
        next_values (`(...)`): Value of the next state, reward units; any finite number where there is none.
        terminations (`(...)`, bool): True = the process itself ended (nearly every end in a sales log is a truncation).
        discount (`float`): Per period, in [0, 1].

    Returns:
        `(...)`.

    Raises:
        ValueError: If `discount` is outside [0, 1].

    References:
        Pardo et al. 2018, Time Limits in Reinforcement Learning, arXiv:1712.00378.
    """
    if not 0 <= discount <= 1:
        raise ValueError(f"discount must be in [0, 1], found {discount}")
    return rewards + discount * torch.where(terminations, torch.zeros_like(next_values), next_values)


def advantage_weights(
    advantages: torch.Tensor, mask: torch.Tensor, inverse_temperature: float, max_weight: float = 20.0
) -> torch.Tensor:
    """Weights `exp(inverse_temperature * standardised advantage)`, clipped, with mean one over the masked entries.

    Standardised, so that one temperature serves every category and currency. With equal advantages every weight is
    one, which is behaviour cloning. Mean and spread are those of the entries given: a batch in several slices gets
    slightly other weights than the batch in one.

    Args:
        advantages (`(...)`): Of the logged actions, in any unit.
        mask (`(...)`, bool): True = counts.
        inverse_temperature (`float`): 0 is behaviour cloning.
        max_weight (`float`): Clip before normalisation.

    Returns:
        `(...)`: 0 where masked.

    References:
        Peng et al. 2019, Advantage-Weighted Regression, arXiv:1910.00177.
    """
    if not bool(mask.any()):
        return torch.zeros_like(advantages)
    chosen = advantages[mask]
    spread = chosen.std(unbiased=False)
    # Equal advantages up to rounding carry no preference; dividing rounding noise by itself would invent one.
    flat = spread <= 1e-6 * chosen.abs().max().clamp(min=1e-6)
    standardised = torch.zeros_like(advantages) if flat else (advantages - chosen.mean()) / spread
    weights = (inverse_temperature * standardised).exp().clamp(max=max_weight) * mask
    return weights / weights[mask].mean()


def effective_sample_size(weights: torch.Tensor) -> torch.Tensor:
    """How many equal weights would tell as much: `(sum w)^2 / sum w^2`.

    Args:
        weights (`(N,)`): Non-negative.

    Returns:
        `()`: 0 .. N.

    References:
        Kish 1965, Survey Sampling.
    """
    return weights.sum() ** 2 / (weights**2).sum().clamp(min=1e-12)


def conservative_penalty(action_values: torch.Tensor, logged_actions: torch.Tensor) -> torch.Tensor:
    """Discrete CQL term `logsumexp_a Q(s, a) - Q(s, logged)`: pushes down values of what was not logged.

    Args:
        action_values (`(..., actions)`): Values, reward units.
        logged_actions (`(...)`, long): What was done.

    Returns:
        `(...)`: Not negative.

    References:
        Kumar et al. 2020, Conservative Q-Learning, arXiv:2006.04779.
    """
    logged = action_values.gather(-1, logged_actions[..., None]).squeeze(-1)
    return action_values.logsumexp(-1) - logged
