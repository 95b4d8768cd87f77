"""Meta-training: gradients computed by hand, rates that move, strategies that differ, and a run that resumes."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pricing_fm.models import PricingFMForPolicy
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.few_shot_tasks import FewShotTask, TaskArguments, build_task, find_categories
from pricing_fm.training.loop import train
from pricing_fm.training.meta import RATE_SPEED, MetaArguments, MetaLearner, TaskBatchSource
from tests.policy_artifacts import quick_collections
from tests.test_inner_loop import OPTIM, SCALING, demand_start

RATE = 0.1


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


# -- a network of one weight, by hand ---------------------------------------------------------------------------------


class OneWeight(nn.Module):
    """Predicts `weight * x`; the loss of a row is half its squared error."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.line.weight)
        self.requires_grad_(False)

    def encode(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.line(batch["x"])

    def demand_loss(self, encoded: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
        return 0.5 * (encoded - batch["y"])[:, 0] ** 2 * batch["loss_weights"], {}


def rows(targets: list[float]) -> dict[str, torch.Tensor]:
    shape = (len(targets), 1, 1)
    return {"x": torch.ones(shape), "y": torch.tensor(targets).reshape(shape), "loss_weights": torch.ones(shape[:2])}


def toy(strategy: str, start: float = 0.0, **changes: object) -> MetaLearner:
    arguments = MetaArguments(strategy=strategy, inner_rate=RATE, **{"inner_steps": 1, **changes})
    return MetaLearner(OneWeight(), {"line.full": torch.full((1, 1), start)}, arguments, OPTIM, 1.0)


def meta_batch(support: list[float], query: list[float]) -> dict[str, torch.Tensor]:
    parts = ("support.", rows(support)), ("query.", rows(query))
    return {prefix + name: tensor for prefix, part in parts for name, tensor in part.items()}


def test_the_first_order_gradient_is_that_at_the_adapted_weight_plus_the_zero_shot_term() -> None:
    learner = toy("fomaml", zero_shot_weight=0.5)
    output = learner(**meta_batch([1.0, -1.0], [2.0, -0.5]))
    output.loss.backward()
    # AdamW's first step goes one rate against the sign: the weights become +0.1 and -0.1.
    after = [0.5 * (RATE - 2.0) ** 2, 0.5 * (-RATE + 0.5) ** 2]
    before = [0.5 * 2.0**2, 0.5 * 0.5**2]
    assert output.loss.item() == pytest.approx((sum(after) + 0.5 * sum(before)) / 2, rel=1e-4)
    by_hand = ((RATE - 2.0) + (-RATE + 0.5)) / 2 + 0.5 * (-2.0 + 0.5) / 2
    assert learner.start[0].grad.item() == pytest.approx(by_hand, rel=1e-4)


def test_the_gradient_of_a_learned_rate_is_its_numerical_derivative() -> None:
    """One step: the direction does not depend on the rate, so the first-order gradient is exact."""
    batch, shift = meta_batch([1.0, -1.0], [2.0, -0.5]), 1e-3
    learner = toy("fomaml", zero_shot_weight=0.0)
    learner(**batch).loss.backward()
    losses = []
    for sign in (1, -1):
        moved = toy("fomaml", zero_shot_weight=0.0)
        moved.log_rates.data += sign * shift
        losses.append(moved(**batch).loss.item())
    assert learner.log_rates.grad.item() == pytest.approx((losses[0] - losses[1]) / (2 * shift), rel=1e-2)
    rate = learner.rates()["line.full"].item()
    assert rate == pytest.approx(RATE)
    learner.log_rates.data += 0.1
    assert learner.rates()["line.full"].item() == pytest.approx(RATE * math.exp(0.1 * RATE_SPEED), rel=1e-5)


def test_reptile_goes_towards_what_categories_adapt_to() -> None:
    learner = toy("reptile")
    learner(**meta_batch([1.0, 1.0], [3.0, 3.0])).loss.backward()
    assert learner.start[0].grad.item() == pytest.approx(-1.0, rel=1e-4)
    assert not learner.log_rates.requires_grad


def test_joint_training_does_not_adapt() -> None:
    learner = toy("joint")
    output = learner(**meta_batch([1.0, 1.0], [3.0, 5.0]))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.5 * (9 + 25) / 2)
    assert learner.start[0].grad.item() == pytest.approx(-4.0)


def test_without_visible_weeks_every_strategy_learns_from_the_query_alone() -> None:
    batch = meta_batch([1.0], [3.0])
    batch = {name: tensor[:, :0] if name.startswith("support.") else tensor for name, tensor in batch.items()}
    for strategy in ("fomaml", "reptile", "joint"):
        learner = toy(strategy, zero_shot_weight=0.0)
        learner(**batch).loss.backward()
        assert learner.start[0].grad.item() == pytest.approx(-3.0), strategy
        if strategy == "fomaml":
            assert learner.log_rates.grad.item() == 0.0


def test_validation_scores_the_adapted_weights_and_builds_no_graph() -> None:
    learner = toy("fomaml").eval()
    with torch.no_grad():
        loss = learner(**meta_batch([1.0], [2.0])).loss
    assert loss.item() == pytest.approx(0.5 * (RATE - 2.0) ** 2, rel=1e-4)
    assert not loss.requires_grad


# -- the real network -------------------------------------------------------------------------------------------------


@pytest.fixture
def model(build_tiny_model: Callable[..., PricingFMForPolicy]) -> PricingFMForPolicy:
    return build_tiny_model(PricingFMForPolicy).requires_grad_(False)


@pytest.fixture
def tasks(tiny_store, tiny_processor) -> dict[int, FewShotTask]:
    arguments = TaskArguments(weeks=(0, 4), query_weeks=4)
    categories = find_categories(tiny_store, 4, 4, 0)
    return {k: build_task(tiny_store, categories, tiny_processor, k, arguments, 8) for k in arguments.weeks}


def run(model, tasks, folder: Path, steps: int, strategy: str = "fomaml", **output: object) -> MetaLearner:
    learner = MetaLearner(
        model,
        demand_start(model),
        MetaArguments(strategy=strategy, inner_steps=2, categories_per_step=2),
        OptimArguments(weight_decay=0.0),
        SCALING,
    )
    optim = OptimArguments(learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, minimum_learning_rate_ratio=1.0)
    places = OutputArguments(output_dir=str(folder), tracker="none", **{"checkpoint_every": 0, **output})
    # Six steps is what the schedule is made for, however early the run is cut.
    train(learner, TaskBatchSource(tasks, 2, 0), optim, LoopArguments(max_steps=steps, evaluate_every=0), places)
    return learner


def test_strategies_end_in_different_places_and_leave_the_base_alone(model, tasks, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = {name: run(model, tasks, tmp_path / name, 4, name) for name in ("fomaml", "reptile", "joint")}
    starts = [torch.cat([t.flatten() for t in learner.initial().values()]) for learner in found.values()]
    begin = torch.cat([t.flatten() for t in demand_start(model).values()])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (starts[one] - starts[other]).norm() > 0.01 * (starts[one] - begin).norm()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    rates = torch.stack(list(found["fomaml"].rates().values()))
    assert rates.unique().numel() > len(rates) / 2  # learned rates moved, each its own way
    assert torch.stack(list(found["joint"].rates().values())).unique().numel() == 1


def test_a_resumed_run_is_the_uninterrupted_run(model, tasks, tmp_path: Path) -> None:
    whole = run(model, tasks, tmp_path / "whole", 6)
    with pytest.MonkeyPatch.context() as patch:
        calls = {"n": 0}
        original = TaskBatchSource.batch

        def interrupted(self: TaskBatchSource, step: int, *rest: int) -> dict[str, torch.Tensor]:
            calls["n"] += 1
            if step == 4:
                raise KeyboardInterrupt
            return original(self, step, *rest)

        patch.setattr(TaskBatchSource, "batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(model, tasks, tmp_path / "cut", 6, checkpoint_every=2)
    resumed = run(model, tasks, tmp_path / "cut", 6, checkpoint_every=2, resume="latest")
    for name, tensor in whole.initial().items():
        torch.testing.assert_close(resumed.initial()[name], tensor, rtol=0, atol=1e-6)
    torch.testing.assert_close(resumed.log_rates, whole.log_rates, rtol=0, atol=1e-6)


def test_slices_of_a_step_are_its_categories(tasks) -> None:
    source = TaskBatchSource(tasks, 2, seed=3)
    weeks = set()
    for step in range(8):
        whole = source.batch(step)
        parts = [source.batch(step, 0, rank, 2) for rank in range(2)]
        for name, tensor in whole.items():
            assert torch.equal(torch.stack([part[name][0] for part in parts]).nan_to_num(), tensor.nan_to_num()), name
        weeks.add(whole["support.scale"].shape[1])
    assert len(weeks) == 2  # k is mixed
    with pytest.raises(ValueError, match="multiple"):
        source.batch(0, 0, 0, 3)
    with pytest.raises(ValueError, match="4 categories"):
        TaskBatchSource(tasks, 4, 0)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"strategy": "maml"}, {"inner_steps": 0}, {"inner_rate": 0.0}, {"zero_shot_weight": -1.0}):
        with pytest.raises(ValueError, match="--"):
            MetaArguments(**wrong)
