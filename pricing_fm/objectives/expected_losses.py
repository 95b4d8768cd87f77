"""Losses of values and policies whose action values are known for the whole ladder: expectations instead of draws.

Structured values say what every rung is worth in a state, so nothing has to rest on the one rung that was logged.
Shapes: K rungs.
"""

import torch

from pricing_fm.objectives.implicit_q import expectile_loss

# One unit of the advantage term: a tenth of an item's reference revenue per period. Rungs far from anything that was
# ever charged are worth minus several of them; beyond the limit they all say the same.
ADVANTAGE_UNIT, ADVANTAGE_LIMIT = 0.1, 3.0


def expected_expectile(
    action_values: torch.Tensor, values: torch.Tensor, action_log_probs: torch.Tensor, expectile: float
) -> torch.Tensor:
    """Expectile regression of a state's value, in expectation over a policy's actions.

    Implicit Q-learning draws the action from the log; where the value of every rung is known and the manager's
    probabilities are modelled, the sum over the ladder is what that draw estimates.

    Args:
        action_values (`(..., K)`): Reward units; they get no gradient.
        values (`(...)`): What is learned.
        action_log_probs (`(..., K)`): Of the policy whose states are valued.
        expectile (`float`): In (0, 1); 0.5 values the policy itself.

    Returns:
        `(...)`: Squared reward units.

    References:
        Kostrikov et al. 2021, arXiv:2110.06169.
    """
    residuals = action_values.detach() - values[..., None]
    return (action_log_probs.detach().exp() * expectile_loss(residuals, expectile)).sum(-1)


def advantage_regression(
    predictions: torch.Tensor, advantages: torch.Tensor, rungs_that_count: torch.Tensor
) -> torch.Tensor:
    """Squared error of advantages that are read from the policy's own features.

    A step of advantage-weighted regression goes along the log-probability of the logged action whatever the advantages
    are, only more or less far: tasks that differ in their advantages alone can hardly be told apart by it. This term
    goes through the same features, and where it goes depends on every advantage.

    Args:
        predictions (`(..., K)`): In units of `ADVANTAGE_UNIT`.
        advantages (`(..., K)`): Reference revenues per period; they get no gradient.
        rungs_that_count (`(..., K)`, bool): Others have no say.

    Returns:
        `(...)`: Mean over the rungs that count; 0 where none does.

    References:
        Mitchell et al. 2021, Offline Meta-Reinforcement Learning with Advantage Weighting (MACAW), arXiv:2008.06043.
    """
    targets = (advantages.detach() / ADVANTAGE_UNIT).clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT)
    errors = torch.where(rungs_that_count, (predictions - targets) ** 2, 0.0)
    return errors.sum(-1) / rungs_that_count.sum(-1).clamp(min=1)
