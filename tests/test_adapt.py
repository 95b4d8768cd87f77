"""Adaptation sees what it may see, moves what it may move, and never ends worse on its holdout than it began."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from pricing_fm.adapters import LoraArguments, adapter_parameters, add_adapter, base_tensors
from pricing_fm.artifact import tensor_fingerprint
from pricing_fm.errors import PanelError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import load_base
from pricing_fm.policy.engine import share_weights
from pricing_fm.training import adapt as adapting
from pricing_fm.training.adapt import (
    AdaptArguments,
    AdaptationResult,
    AdaptOptimArguments,
    DemandLearner,
    adapt,
    usual_scale,
    visible_panel,
)
from pricing_fm.training.arguments import LoopArguments, OutputArguments
from pricing_fm.training.policy_learning import Algorithm, PolicyArguments
from tests.policy_artifacts import panel_of, quick_collections, sales_log, write_base

SHORT = AdaptArguments(weeks=12, demand_steps=4, policy_steps=3, window_length=4, batch_size=8)
OPTIM = AdaptOptimArguments(learning_rate=3e-3, warmup_steps=0, ema_decay=0.0)


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@dataclass(frozen=True)
class Adapted:
    """An adapter, and what its training came to."""

    before: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]
    base: str
    result: AdaptationResult

    @property
    def changed(self) -> set[str]:
        return {name for name, tensor in self.after.items() if not torch.equal(tensor, self.before[name])}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[PricingFMForPolicy, PricingFMProcessor]:
    model, processor, _ = load_base(write_base(tmp_path_factory.mktemp("adapt") / "base"))
    return model, processor


@pytest.fixture(scope="module")
def run(network, tmp_path_factory):
    """Adapts a copy of the network (which shares its weights) to a category of a panel."""

    def call(
        panel: Panel, how: AdaptArguments = SHORT, category: str = "snacks", optim=OPTIM, rewards=None, policy=None
    ) -> Adapted:
        model, processor = network
        copy = share_weights(model)
        wrapped = add_adapter(copy, category, LoraArguments(lora_rank=2), seed=3)
        before = {name: tensor.detach().clone() for name, tensor in adapter_parameters(wrapped, category).items()}
        output = OutputArguments(str(tmp_path_factory.mktemp("run")), checkpoint_every=0, tracker="none", log_every=1)
        result = adapt(
            wrapped,
            copy,
            processor,
            visible_panel(panel, category, how),
            how,
            optim,
            LoopArguments(seed=7, prefetch_batches=0),
            output,
            policy or PolicyArguments(horizon=4),
            rewards or RewardWeights(),
        )
        after = {name: tensor.detach().clone() for name, tensor in adapter_parameters(wrapped, category).items()}
        return Adapted(before, after, tensor_fingerprint(base_tensors(wrapped)), result)

    return call


@pytest.fixture(scope="module")
def panel() -> Panel:
    return panel_of(sales_log())


@pytest.fixture(scope="module")
def both(run, panel: Panel) -> Adapted:
    return run(panel)


def is_decision(name: str) -> bool:
    return "decision_head" in name


def assert_same_adapter(first: Adapted, second: Adapted) -> None:
    assert first.after.keys() == second.after.keys()
    for name, tensor in first.after.items():
        assert torch.equal(tensor, second.after[name]), name


# -- what moves -------------------------------------------------------------------------------------------------------


def only_interventions_reach(name: str) -> bool:
    """What pools a category answers to set prices, which no log holds; a rule writes it, no gradient."""
    return "pooling_head.lora_B" in name


def test_both_sides_change_every_parameter_of_the_adapter(both: Adapted) -> None:
    assert both.result.demand_steps > 0
    assert both.changed == {name for name in both.after if not only_interventions_reach(name)}
    assert both.result.trained_parameters == sum(tensor.numel() for tensor in both.after.values())
    assert all(torch.isfinite(tensor).all() for tensor in both.after.values())


def test_half_the_strength_keeps_half_of_what_demand_has_learned_and_all_decisions(run, panel: Panel) -> None:
    for objective, share in (("forecast", 0.5), ("policy", 1.0)):
        whole, half = (run(panel, replace(SHORT, objective=objective, strength=kept)) for kept in (1.0, 0.5))
        for name, tensor in whole.after.items():
            torch.testing.assert_close(half.after[name], tensor * (share if "lora_B" in name else 1.0))


def test_with_a_volume_exponent_of_one_every_unit_sold_counts_alike(build_tiny_model, tiny_batch) -> None:
    model = build_tiny_model(PricingFMForPolicy)
    with torch.no_grad():
        losses = model.demand_loss(model.encode(tiny_batch), tiny_batch)[0]
        alike, by_units = (DemandLearner(model, model, power, 4.0)(**tiny_batch).loss for power in (0.0, 1.0))
    torch.testing.assert_close(alike, losses.mean())
    torch.testing.assert_close(by_units, (losses * tiny_batch["scale"] / 4.0).mean())
    assert not torch.isclose(alike, by_units)


def test_weights_by_volume_are_one_on_average(panel: Panel) -> None:
    means = panel.frame.groupby("item_id")["units"].mean()
    for power in (0.5, 1.0):
        usual = usual_scale(panel, AdaptArguments(volume_exponent=power))
        assert ((means / usual) ** power).mean() == pytest.approx(1.0)
    assert usual_scale(panel, AdaptArguments()) == 1.0


@pytest.mark.parametrize("objective", ["forecast", "policy"])
def test_each_side_changes_its_own_parameters_and_no_others(run, panel: Panel, objective: str) -> None:
    found = run(panel, replace(SHORT, objective=objective))
    learned = {name for name in found.after if not only_interventions_reach(name)}
    assert found.changed == {name for name in learned if is_decision(name) == (objective == "policy")}
    assert (found.result.adapted_loss is None) == (objective == "policy")
    assert (found.result.policy_loss is None) == (objective == "forecast")


def test_the_base_is_the_same_before_and_after(both: Adapted, network) -> None:
    model, _ = network
    assert both.base == tensor_fingerprint(base_tensors(model))


def test_the_same_weeks_give_the_same_adapter(run, panel: Panel, both: Adapted) -> None:
    torch.manual_seed(123)
    np.random.default_rng(5)
    assert_same_adapter(run(panel), both)


def test_one_category_leaves_no_trace_in_the_next(run, panel: Panel, both: Adapted) -> None:
    run(panel, category="drinks")
    assert_same_adapter(run(panel), both)


def test_another_category_gives_another_adapter(run, panel: Panel, both: Adapted) -> None:
    other = run(panel, category="drinks")
    learned = [name for name in other.after if "pooling_head" not in name]
    assert all(not torch.equal(other.after[name], both.after[name]) for name in learned)


# -- what is seen -----------------------------------------------------------------------------------------------------


def changed_outside(table: pd.DataFrame, weeks: int, end: pd.Timestamp) -> pd.DataFrame:
    """Everything older than the visible weeks, or from `end` on, turned into something else."""
    start = end - pd.Timedelta(days=7 * weeks)
    outside = (table["timestamp"] < start) | (table["timestamp"] >= end)
    assert outside.any()
    changed = table.copy()
    for column, factor in (("units", 3.0), ("price", 2.0), ("list_price", 0.5), ("cost", 0.1)):
        changed.loc[outside, column] = (table.loc[outside, column] * factor + 1).round(2)
    changed.loc[outside, "promotion"] = 1.0 - table.loc[outside, "promotion"]
    return changed


@pytest.mark.parametrize("support_end", [None, "2024-05-06"])
def test_nothing_outside_the_visible_weeks_reaches_the_adapter(run, support_end: str | None) -> None:
    table = sales_log()
    how = replace(SHORT, support_end=support_end)
    end = table["timestamp"].max() + pd.Timedelta(weeks=1) if support_end is None else pd.Timestamp(support_end)
    first = run(panel_of(table), how)
    assert_same_adapter(first, run(panel_of(changed_outside(table, 12, end)), how))
    inside = table.copy()
    row = table.index[(table["timestamp"] == end - pd.Timedelta(weeks=12)) & (table["item_id"] == "i00")]
    inside.loc[row, "units"] += 25
    assert run(panel_of(inside), how).after.keys() == first.after.keys()
    with pytest.raises(AssertionError):
        assert_same_adapter(first, run(panel_of(inside), how))


def gappy(price_before: float, back_after: bool) -> pd.DataFrame:
    """i00 has no rows in the first visible weeks (a price would be carried in), i02 none in the last ones before
    `support_end`, and may come back afterwards."""
    table = sales_log()
    last = table["timestamp"].max()
    end, start = last - pd.Timedelta(weeks=3), last - pd.Timedelta(weeks=15)
    stamps, items = table["timestamp"], table["item_id"]
    table.loc[(items == "i00") & (stamps < start), "price"] = price_before
    absent = (items == "i00") & (stamps >= start) & (stamps < start + pd.Timedelta(weeks=3))
    absent |= (items == "i02") & (stamps >= end - pd.Timedelta(weeks=2)) & ((stamps < end) | (not back_after))
    return table[~absent]


@pytest.mark.parametrize("absent_rows", ["missing", "zero"])
def test_gaps_are_not_filled_from_outside_the_visible_weeks(run, absent_rows: str) -> None:
    how = replace(SHORT, support_end="2024-05-13", objective="forecast")
    found = [
        run(panel_of(gappy(price, back), absent_rows=absent_rows), how)
        for price, back in ((2.0, True), (9.0, True), (2.0, False))
    ]
    assert_same_adapter(found[0], found[1])
    assert_same_adapter(found[0], found[2])


def test_the_visible_weeks_are_counted_in_days_before_the_end(panel: Panel) -> None:
    last = panel.last_observed
    for weeks, end in ((4, None), (4, "2024-05-06"), (1, "2024-05-06"), (None, "2024-05-06")):
        visible = visible_panel(panel, "drinks", replace(SHORT, weeks=weeks, support_end=end))
        stamps = visible.frame["timestamp"]
        stop = last + pd.Timedelta(weeks=1) if end is None else pd.Timestamp(end)
        assert stamps.max() == stop - pd.Timedelta(weeks=1)
        assert set(visible.frame["category"]) == {"drinks"}
        first = panel.frame["timestamp"].min() if weeks is None else stop - pd.Timedelta(weeks=weeks)
        assert stamps.min() == first
    assert visible_panel(panel, "all", SHORT).item_ids == panel.item_ids
    assert visible_panel(panel, "drinks", replace(SHORT, weeks=0)).frame.empty
    whole = visible_panel(panel, "all", AdaptArguments())
    pd.testing.assert_frame_equal(whole.frame, panel.frame)


def test_an_unknown_category_or_an_empty_stretch_is_refused(panel: Panel) -> None:
    with pytest.raises(PanelError, match="no category 'tea'"):
        visible_panel(panel, "tea", SHORT)
    with pytest.raises(PanelError, match="no period in the 12 weeks before 2020-01-01"):
        visible_panel(panel, "snacks", replace(SHORT, support_end="2020-01-01"))


def test_learned_weeks_come_before_the_weeks_that_judge_them(run, panel: Panel, monkeypatch) -> None:
    seen, starts, stores = [], [], {}
    forward, fit, draw = adapting.time_forward_batches, adapting.train, adapting.PretrainBatchSource

    def spy_on_validation(store, start, *rest):
        seen.append(("judged", start, pd.Timestamp(store.timestamps.max())))
        return forward(store, start, *rest)

    def spy_on_source(given, *rest, **more):
        source = draw(given, *rest, **more)
        (stores[source],) = given
        return source

    def spy_on_training(learner, source, *rest):
        store = stores[source]
        starts.append([parameter.detach().clone() for parameter in learner.parameters() if parameter.requires_grad])
        seen.append(("learned", pd.Timestamp(store.timestamps.min()), pd.Timestamp(store.timestamps.max())))
        return fit(learner, source, *rest)

    monkeypatch.setattr(adapting, "time_forward_batches", spy_on_validation)
    monkeypatch.setattr(adapting, "PretrainBatchSource", spy_on_source)
    monkeypatch.setattr(adapting, "train", spy_on_training)
    run(panel)
    (_, judged_from, judged_to), (_, _, learned_to), *final = seen
    assert learned_to < judged_from
    assert judged_to == panel.last_observed
    assert judged_from == panel.last_observed - pd.Timedelta(weeks=2)  # the last quarter of twelve weeks
    assert [(kind, end) for kind, _, end in final] == [("learned", panel.last_observed)] * 2
    assert all(start == panel.last_observed - pd.Timedelta(weeks=11) for _, start, _ in final)
    # Learning again on all weeks begins where the first attempt began.
    assert all(torch.equal(first, again) for first, again in zip(starts[0], starts[1], strict=True))


# -- how long ---------------------------------------------------------------------------------------------------------


def test_the_holdout_never_ends_worse_than_zero_shot(run, panel: Panel) -> None:
    for rate in (3e-3, 0.3):
        optim = replace(OPTIM, learning_rate=rate)
        result = run(panel, replace(SHORT, objective="forecast"), optim=optim).result
        assert result.adapted_loss <= result.zero_shot_loss


def test_training_that_only_hurts_is_undone_completely(run, panel: Panel) -> None:
    ruinous = replace(OPTIM, learning_rate=30.0, gradient_clip=0.0)
    found = run(panel, replace(SHORT, objective="forecast"), optim=ruinous)
    assert found.result.demand_steps == 0
    assert found.result.adapted_loss == found.result.zero_shot_loss
    assert found.changed == set()


def test_the_zero_shot_loss_is_that_of_the_base(run, panel: Panel, network, monkeypatch) -> None:
    kept = []
    forward = adapting.time_forward_batches
    monkeypatch.setattr(adapting, "time_forward_batches", lambda *given: kept.extend(forward(*given)) or kept)
    model, _ = network
    how = replace(SHORT, objective="forecast", loss_bend=model.config.loss_bend)
    found = run(panel, how).result
    with torch.no_grad():
        losses = torch.cat([model.demand_loss(model.encode(batch), batch)[0] for batch in kept])
    assert found.zero_shot_loss == pytest.approx(float(losses.mean()), rel=1e-5)


@pytest.mark.parametrize(
    "weeks, sides", [(0, set()), (1, set()), (2, {"policy"}), (3, {"demand", "policy"}), (4, {"demand", "policy"})]
)
def test_few_weeks_teach_what_they_can(run, panel: Panel, weeks: int, sides: set[str]) -> None:
    found = run(panel, replace(SHORT, weeks=weeks))
    assert (found.result.zero_shot_loss is not None) == ("demand" in sides)
    assert (found.result.policy_loss is not None) == ("policy" in sides)
    if not sides:
        assert found.changed == set()
    if sides == {"policy"}:
        assert found.changed == {name for name in found.after if is_decision(name)}


@pytest.mark.parametrize("algorithm", get_args(Algorithm))
def test_every_algorithm_trains_its_heads(run, panel: Panel, algorithm: str) -> None:
    found = run(panel, replace(SHORT, objective="policy"), policy=PolicyArguments(algorithm=algorithm, horizon=4))
    assert np.isfinite(found.result.policy_loss)
    # Weight decay shrinks what gets no gradient too; an update that is still zero has learned nothing.
    heads = {name.split(".")[3] for name in found.changed if name.endswith("lora_B.weight")}
    wanted = {"behavior_head", "policy_head"} | ({"value_head"} if algorithm != "cloning" else set())
    assert heads == wanted


@pytest.mark.parametrize(
    "arguments",
    [
        {"weeks": -1},
        {"objective": "luck"},
        {"demand_steps": 0},
        {"batch_size": 0},
        {"holdout_share": 0.0},
        {"holdout_share": 1.0},
        {"strength": 0.0},
        {"strength": 1.5},
        {"loss_bend": -1.0},
        {"volume_exponent": 1.5},
        {"holdout_windows": 0},
    ],
)
def test_impossible_arguments_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(arguments))}"):
        AdaptArguments(**arguments)
