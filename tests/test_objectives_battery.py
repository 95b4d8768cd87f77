"""One battery for every algorithm: a confounded bandit with a known best price, whose manager sees demand."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from pricing_fm.objectives.decision_losses import (
    SOFT_VALUE_TEMPERATURE,
    Decisions,
    cloning_losses,
    exact_advantage_losses,
    fitted_losses,
    in_sample_losses,
)
from pricing_fm.objectives.implicit_q import advantage_weights, conservative_penalty, expectile_loss
from pricing_fm.objectives.ladder_policy import (
    advantage_weighted_loss,
    advantage_weighted_target,
    dialled_log_probs,
    soft_action_values,
    squared_value_error,
)

PRICES = torch.tensor([0.8, 0.9, 1.0, 1.1, 1.2])
COST, ELASTICITY = 0.5, 3.0
# Constant elasticity: the best price is cost x e / (e - 1) = 0.75, of the rungs the lowest.
BEST = 0
PROFIT = (PRICES - COST) * PRICES**-ELASTICITY
STEPS, RATE = 150, 0.05


@dataclass(frozen=True)
class Log:
    """What was charged and earned, and what the manager does without knowing demand."""

    actions: torch.Tensor
    rewards: torch.Tensor
    behavior: torch.Tensor


def confounded_log(confounding: float, seed: int = 0, weeks: int = 2000) -> Log:
    """Prices rise with hidden demand (confounding > 0), as a shop does that knows when people come anyway."""
    generator = torch.Generator().manual_seed(seed)
    shock, own = torch.randn((2, weeks), generator=generator)
    wish = confounding * shock + (1 - confounding**2) ** 0.5 * own
    actions = torch.bucketize(wish, torch.tensor([-1.2, -0.4, 0.4, 1.2]))
    rewards = PROFIT[actions] * (0.8 * shock - 0.32).exp()
    shares = torch.bincount(actions, minlength=len(PRICES)) / weeks
    return Log(actions, rewards, shares.log())


def minimise(loss: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    parameter = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([parameter], lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(parameter).backward()
        optimizer.step()
    return parameter.detach()


def standardised(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / values.std()


def raw_values(log: Log) -> torch.Tensor:
    """Fitted Q on what was earned."""
    states = len(log.actions)
    return minimise(lambda q: squared_value_error(q.expand(states, -1), log.actions, log.rewards).mean(), PRICES * 0)


def in_sample(log: Log, values: torch.Tensor) -> torch.Tensor:
    """Implicit value, then advantage-weighted regression on logged actions, whose targets are `values` of them."""
    targets = values[log.actions] if values.dim() == 1 else values
    level = minimise(lambda v: expectile_loss(targets - v, 0.7).mean(), torch.zeros(()))
    weights = advantage_weights(targets - level, torch.ones_like(log.actions, dtype=torch.bool), 2.0)
    return minimise(lambda logits: -(weights * logits.log_softmax(-1)[log.actions]).mean(), PRICES * 0).log_softmax(-1)


def exact(log: Log, values: torch.Tensor) -> torch.Tensor:
    """AWAC with the expectation over the ladder."""
    scaled = standardised(values)
    return minimise(
        lambda logits: advantage_weighted_loss(logits.log_softmax(-1), log.behavior, scaled, 2.0), PRICES * 0
    ).log_softmax(-1)


def clone(log: Log, values: torch.Tensor) -> torch.Tensor:
    return minimise(lambda logits: -logits.log_softmax(-1)[log.actions].mean(), PRICES * 0).log_softmax(-1)


def dialled(log: Log, values: torch.Tensor) -> torch.Tensor:
    return dialled_log_probs(log.behavior, standardised(values)[:, None].expand(-1, 3), 5.0, 0.5, 0.01)


def worth(log_probs: torch.Tensor) -> float:
    """Share of the way from the manager's blind value to the best price's."""
    return float((log_probs.exp() * PROFIT).sum())


ALGORITHMS = [in_sample, exact, dialled]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("confounding", [-0.9, 0.0, 0.5, 0.9])
def test_structured_values_lead_every_algorithm_towards_the_best_price(algorithm, confounding: float) -> None:
    log = confounded_log(confounding)
    found = algorithm(log, PROFIT)
    assert worth(found) > worth(log.behavior) + 0.3 * float(PROFIT[BEST] - worth(log.behavior))
    gained = found - log.behavior
    assert int(gained.argmax()) == BEST


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_raw_rewards_lead_every_algorithm_to_the_price_that_demand_made_look_good(algorithm) -> None:
    """More data does not help: it is a bias, no noise."""
    for weeks in (1000, 8000):
        log = confounded_log(0.9, weeks=weeks)
        values = raw_values(log)
        assert int(values.argmax()) == len(PRICES) - 1
        found = algorithm(log, log.rewards if algorithm is in_sample else values)
        assert worth(found) < worth(log.behavior)


def test_raw_rewards_are_right_where_prices_do_not_follow_demand() -> None:
    values = raw_values(confounded_log(0.0, weeks=8000))
    assert int(values.argmax()) == BEST
    torch.testing.assert_close(values, PROFIT, atol=0.05, rtol=0)


def test_cloning_is_the_manager_and_so_is_every_algorithm_without_temperature() -> None:
    log = confounded_log(0.5)
    torch.testing.assert_close(clone(log, PROFIT).exp(), log.behavior.exp(), atol=1e-3, rtol=0)
    torch.testing.assert_close(advantage_weighted_target(log.behavior, PROFIT, 0.0), log.behavior)
    torch.testing.assert_close(dialled_log_probs(log.behavior, PROFIT[:, None], 0.0, 0.0, 0.0), log.behavior)


def test_a_small_conservative_term_keeps_the_order_and_lowers_what_was_never_logged() -> None:
    log = confounded_log(0.0)
    kept = log.actions != BEST
    actions, targets = log.actions[kept], PROFIT[log.actions[kept]]

    def loss(values: torch.Tensor, weight: float) -> torch.Tensor:
        every = values.expand(len(actions), -1)
        error = squared_value_error(every, actions, targets)
        return (error + weight * conservative_penalty(every, actions)).mean()

    start = torch.full_like(PRICES, 0.3)
    plain, cautious = (minimise(lambda values, weight=weight: loss(values, weight), start) for weight in (0.0, 0.05))
    assert plain[BEST] == start[BEST]  # nothing was said about it
    assert cautious[BEST] < plain[BEST] - 0.1
    assert cautious[1:].argmax() == plain[1:].argmax()


def test_the_dial_goes_from_the_manager_to_the_best_supported_rung() -> None:
    log = confounded_log(0.0)
    members = PROFIT[:, None].expand(-1, 4)
    worths = [worth(dialled_log_probs(log.behavior, members, dial, 0.0, 0.01)) for dial in (0.0, 3.0, 30.0, 3000.0)]
    assert worths == sorted(worths)
    assert worths[-1] == pytest.approx(float(PROFIT[BEST]), abs=1e-4)


def test_a_rung_below_the_threshold_is_never_chosen_however_good_it_looks() -> None:
    behavior = torch.tensor([1e-6, 0.3, 0.7 - 1e-6]).log()
    planted = torch.tensor([100.0, 0.0, 0.1])[:, None]
    assert dialled_log_probs(behavior, planted, 100.0, 0.0, 1e-3).argmax() == 2
    assert dialled_log_probs(behavior, planted, 100.0, 0.0, 0.0).argmax() == 0
    with pytest.raises(ValueError, match="threshold"):
        dialled_log_probs(behavior, planted, 1.0, 0.0, 0.9)


def test_caution_prefers_the_rung_that_members_agree_on() -> None:
    behavior = torch.full((2,), 0.5).log()
    members = torch.tensor([[0.0, 2.0], [0.8, 0.8]])
    assert dialled_log_probs(behavior, members, 50.0, 0.0, 0.0).argmax() == 0
    assert dialled_log_probs(behavior, members, 50.0, 0.5, 0.0).argmax() == 1


def test_the_exact_target_gets_no_gradient_and_needs_no_support_beyond_the_managers() -> None:
    behavior = torch.tensor([0.5, 0.5, 0.0]).log()
    values = torch.tensor([0.0, 1.0, 50.0], requires_grad=True)
    policy = torch.zeros(3, requires_grad=True)
    advantage_weighted_loss(policy.log_softmax(-1), behavior, values, 1.0).backward()
    assert values.grad is None
    assert policy.grad is not None
    assert float(policy.grad[2]) > 0  # pushed down
    assert advantage_weighted_target(behavior, values.detach(), 1.0)[2] == -torch.inf


# -- the losses that the learner calls, on the same bandit ------------------------------------------------------------


CURVE_ALGORITHMS, LOG_ALGORITHMS = ("structured", "awac"), ("raw", "fitted", "conservative")


def learn(algorithm: str, log: Log, temperature: float = 2.0) -> torch.Tensor:
    """Log probabilities that an algorithm ends with: every logged week is a window of one decision, in one state."""
    weeks, rungs = len(log.actions), len(PRICES)

    def loss(parameters: torch.Tensor) -> torch.Tensor:
        logits, value = parameters[:rungs], parameters[rungs]
        # A second promotion type that is never used: the ladder is twice as long as the bandit's arms.
        probabilities = torch.cat([logits, logits * 0 - 20.0]).log_softmax(-1)
        behavior = torch.cat([log.behavior, log.behavior * 0 - 20.0]).log_softmax(-1)
        decisions = Decisions(
            policy_log_probs=probabilities.expand(weeks, 2, -1),
            behavior_log_probs=behavior.expand(weeks, 2, -1),
            values=value.expand(weeks, 2),
            actions=log.actions[:, None].expand(-1, 2),
            mask=torch.tensor([True, False]).expand(weeks, -1),
            num_rungs=rungs,
        )
        rewards, ladder = log.rewards[:, None].expand(-1, 2), PROFIT.expand(weeks, 2, -1)
        found = {
            "structured": lambda: in_sample_losses(decisions, PROFIT[decisions.rungs], 0.7, temperature),
            "raw": lambda: in_sample_losses(decisions, rewards, 0.7, temperature),
            "awac": lambda: exact_advantage_losses(decisions, ladder, temperature),
            "fitted": lambda: fitted_losses(decisions, rewards, 0.0, 0.0),
            "conservative": lambda: fitted_losses(decisions, rewards, 0.0, 0.05),
            "cloning": lambda: cloning_losses(decisions),
        }[algorithm]()
        return (found.policy + found.value).mean()

    return minimise(loss, torch.zeros(rungs + 1))[:rungs].log_softmax(-1)


@pytest.mark.parametrize("algorithm", CURVE_ALGORITHMS)
@pytest.mark.parametrize("confounding", [-0.9, 0.0, 0.5, 0.9])
def test_algorithms_on_the_curve_find_the_best_arm_whatever_the_manager_saw(algorithm: str, confounding: float) -> None:
    log = confounded_log(confounding, weeks=1000)
    found = learn(algorithm, log)
    assert worth(found) > worth(log.behavior) + 0.3 * float(PROFIT[BEST] - worth(log.behavior))
    assert int((found - log.behavior).argmax()) == BEST


@pytest.mark.parametrize("algorithm", LOG_ALGORITHMS)
def test_algorithms_on_logged_rewards_find_it_only_where_prices_do_not_follow_demand(algorithm: str) -> None:
    log = confounded_log(0.0, weeks=4000)
    found = learn(algorithm, log)
    assert int((found - log.behavior).argmax()) == BEST
    assert worth(found) > worth(log.behavior)
    for weeks in (500, 4000):  # more data does not help: it is a bias, no noise
        misled = confounded_log(0.9, weeks=weeks)
        found = learn(algorithm, misled)
        assert worth(found) < worth(misled.behavior)
        assert int((found - misled.behavior).argmax()) == len(PRICES) - 1


@pytest.mark.parametrize("algorithm", [*CURVE_ALGORITHMS, *LOG_ALGORITHMS, "cloning"])
def test_an_algorithm_that_sees_no_difference_is_the_manager(algorithm: str) -> None:
    """Equal advantages are behaviour cloning; fitted Q, which imitates nobody, then prefers nothing."""
    log = confounded_log(0.5)
    if algorithm == "awac":
        found = learn(algorithm, log, temperature=0.0)
    else:
        flat = replace(log, rewards=torch.ones_like(log.rewards))
        found = learn(algorithm, flat, temperature=0.0 if algorithm == "structured" else 2.0)
    if algorithm == "fitted":
        torch.testing.assert_close(found, torch.full_like(found, -torch.tensor(5.0).log()), atol=0.05, rtol=0)
    elif algorithm == "conservative":
        assert int(found.argmax()) == int(log.behavior.argmax())
        assert worth(found) == pytest.approx(worth(log.behavior), abs=0.02)
    else:
        torch.testing.assert_close(found.exp(), log.behavior.exp(), atol=5e-3, rtol=0)


def test_advantages_that_are_equal_up_to_rounding_carry_no_preference() -> None:
    log = confounded_log(0.5)
    rungs = len(PRICES)
    decisions = Decisions(
        PRICES.log_softmax(-1).expand(4, 2, -1),
        log.behavior.expand(4, 2, -1),
        torch.zeros(4, 2),
        torch.zeros(4, 2, dtype=torch.long),
        torch.ones(4, 2, dtype=torch.bool),
        rungs,
    )
    equal = torch.full((4, 2, rungs), 0.3) + 1e-9 * torch.arange(rungs)
    plain = exact_advantage_losses(decisions, equal, 0.0)
    torch.testing.assert_close(exact_advantage_losses(decisions, equal, 8.0).policy, plain.policy)
    different = equal + 0.1 * torch.arange(rungs)
    assert not torch.allclose(exact_advantage_losses(decisions, different, 8.0).policy, plain.policy)
    # Scaled rewards are the same advice: one temperature for every category.
    scaled = exact_advantage_losses(decisions, 100 * different, 8.0)
    torch.testing.assert_close(scaled.policy, exact_advantage_losses(decisions, different, 8.0).policy)


def test_the_exact_values_are_the_policys_own_expectation() -> None:
    """Two rungs worth 0 and 1, taken with chances 1/4 and 3/4: the value that has no loss is 3/4."""
    probabilities = torch.tensor([0.25, 0.75]).log().expand(3, 1, -1)
    worths = torch.tensor([0.0, 1.0]).expand(3, 1, -1)
    for value, loss in ((0.75, 0.0), (0.25, 0.125)):
        decisions = Decisions(
            probabilities, probabilities, torch.full((3, 1), value), torch.zeros(3, 1, dtype=torch.long),
            torch.ones(3, 1, dtype=torch.bool), 2,
        )  # fmt: skip
        found = exact_advantage_losses(decisions, worths, 1.0).value
        torch.testing.assert_close(found, torch.full((3,), loss))


def test_a_value_and_a_policy_stand_for_every_action_value() -> None:
    """Q = V + temperature log pi, V the soft maximum: there and back again."""
    wanted = torch.tensor([[0.3, -0.2, 0.9], [0.0, 0.1, 0.0]])
    values = 0.05 * (wanted / 0.05).logsumexp(-1)
    policy = (wanted / 0.05).log_softmax(-1)
    torch.testing.assert_close(soft_action_values(values, policy, 0.05), wanted)
    logged = torch.tensor([1, 2])
    # At the same temperature the conservative term is imitation.
    penalty = conservative_penalty(wanted / 0.05, logged)
    torch.testing.assert_close(penalty, -policy.gather(-1, logged[:, None]).squeeze(-1))


def test_fitted_values_bootstrap_from_the_best_rung_and_a_last_step_from_nothing() -> None:
    """Two weeks, two rungs: with the right V and pi of a known Q the loss is zero, and only with the right discount."""
    discount, temperature = 0.5, SOFT_VALUE_TEMPERATURE
    second = torch.tensor([0.1, 0.3])  # worth of the rungs in the second week
    first = torch.tensor([0.2 + discount * 0.3, 0.05 + discount * 0.3])
    third = torch.tensor([0.0, 0.0])
    wanted = torch.stack([first, second, third])
    decisions = Decisions(
        (wanted / temperature).log_softmax(-1)[None],
        (wanted * 0).log_softmax(-1)[None],
        (temperature * (wanted / temperature).logsumexp(-1))[None],
        torch.tensor([[0, 1, 0]]),
        torch.tensor([[True, True, False]]),
        2,
    )
    rewards = torch.tensor([[0.2, 0.3, 9.0]])
    assert float(fitted_losses(decisions, rewards, discount, 0.0).value) == pytest.approx(0.0, abs=1e-9)
    assert float(fitted_losses(decisions, rewards, 0.9, 0.0).value) > 1e-3
    assert float(fitted_losses(decisions, rewards, discount, 0.0).policy) == 0.0
    assert float(fitted_losses(decisions, rewards, discount, 0.05).policy) > 0.0
