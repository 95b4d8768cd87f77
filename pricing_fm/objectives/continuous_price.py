"""A continuous price: an actor on the log price that follows structured values and stays near what was logged.

ReBRAC on structured values: the critic's bootstrap and the actor both pay for the distance to the logged action.
Actions are log ratios of a price to the item's reference price. Shapes: B items, H steps, K rungs.
"""

import torch

from pricing_fm.objectives.implicit_q import bootstrapped_targets


def value_at_price(action_values: torch.Tensor, log_rungs: torch.Tensor, log_prices: torch.Tensor) -> torch.Tensor:
    """Action value of any price: the ladder's values, interpolated linearly between its rungs.

    Beyond the ladder the outermost piece goes on, so that the gradient leads back.

    Args:
        action_values (`(B, H, K)`): Of the rungs, reward units.
        log_rungs (`(B, K)`): Log ratio of the rungs to the reference price, rising in equal steps.
        log_prices (`(B, H)`): Log ratios asked for.

    Returns:
        `(B, H)`: Reward units, differentiable in `log_prices`.
    """
    step = log_rungs[:, 1:2] - log_rungs[:, :1]
    place = (log_prices - log_rungs[:, :1]) / step
    low = place.detach().floor().long().clamp(0, action_values.shape[-1] - 2)
    below = action_values.gather(-1, low[..., None]).squeeze(-1)
    above = action_values.gather(-1, low[..., None] + 1).squeeze(-1)
    share = place - low
    return below * (1 - share) + above * share


def behavior_penalty(log_prices: torch.Tensor, logged: torch.Tensor) -> torch.Tensor:
    """Squared distance of log prices `(...)` to the logged ones `(...)`, in squared 10 % moves.

    References:
        Fujimoto and Gu 2021, A Minimalist Approach to Offline Reinforcement Learning (TD3+BC), arXiv:2106.06860.
    """
    return ((log_prices - logged) / 0.1) ** 2


def penalised_targets(
    rewards: torch.Tensor,
    next_values: torch.Tensor,
    next_penalty: torch.Tensor,
    terminations: torch.Tensor,
    discount: float,
    critic_penalty: float,
) -> torch.Tensor:
    """ReBRAC's critic target `r + discount (Q(s', a') - critic_penalty x distance of a' to the logged action)`.

    Args:
        rewards (`(...)`): Of the step, reward units.
        next_values (`(...)`): Value of the actor's next action.
        next_penalty (`(...)`): From `behavior_penalty` of that action.
        terminations (`(...)`, bool): True = the process itself ended.
        discount (`float`): Per period.
        critic_penalty (`float`): Reward units per squared 10 % move; 0 or more.

    Returns:
        `(...)`.

    Raises:
        ValueError: If the penalty is negative or the discount no share.

    References:
        Tarasov et al. 2023, Revisiting the Minimalist Approach to Offline Reinforcement Learning, arXiv:2305.09836.
    """
    if critic_penalty < 0:
        raise ValueError(f"critic_penalty must be 0 or more, found {critic_penalty}")
    return bootstrapped_targets(rewards, next_values - critic_penalty * next_penalty, terminations, discount)


def actor_loss(
    log_prices: torch.Tensor,
    action_values: torch.Tensor,
    log_rungs: torch.Tensor,
    logged: torch.Tensor,
    mask: torch.Tensor,
    actor_penalty: float,
) -> torch.Tensor:
    """Minus the normalised value of the actor's price plus the penalty for leaving the logged one.

    Values are divided by their mean size over the batch, so that one penalty serves every category and currency.

    Args:
        log_prices (`(B, H)`): The actor's; learned.
        action_values (`(B, H, K)`): Structured values of the rungs; no gradient.
        log_rungs (`(B, K)`): As in `value_at_price`.
        logged (`(B, H)`): Logged log ratios.
        mask (`(B, H)`, bool): True = a decision to learn from.
        actor_penalty (`float`): Of a squared 10 % move, in mean sizes of a value; 0 or more.

    Returns:
        `(B, H)`: 0 where masked.

    Raises:
        ValueError: If the penalty is negative.

    References:
        Tarasov et al. 2023, arXiv:2305.09836.
    """
    if actor_penalty < 0:
        raise ValueError(f"actor_penalty must be 0 or more, found {actor_penalty}")
    values = value_at_price(action_values.detach(), log_rungs, log_prices)
    size = values.detach()[mask].abs().mean().clamp(min=1e-6) if bool(mask.any()) else values.new_tensor(1.0)
    loss = -values / size + actor_penalty * behavior_penalty(log_prices, logged)
    return torch.where(mask, loss, 0.0)
