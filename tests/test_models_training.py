"""How the network behaves inside a training loop: number types, checkpointing, data parallelism, batch company."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from pricing_fm.models import PricingFMForDemand, PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.models.channels import INDEX, RAW_CHANNELS
from pricing_fm.models.hidden_demand_evidence import NUM_HIDDEN_DEMAND_EVIDENCE
from pricing_fm.models.local_forecast import NUM_LOCAL_EVIDENCE
from pricing_fm.models.price_evidence import NUM_EVIDENCE, NUM_SIBLING_EVIDENCE
from pricing_fm.panel import RawWindows

Batch = dict[str, torch.Tensor]
Build = Callable[..., PricingFMForPreTraining]


def gradients(model: PricingFMForPreTraining, batch: Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_training_and_evaluation_mode_compute_the_same(tiny_model: PricingFMForPreTraining, tiny_batch: Batch) -> None:
    with torch.no_grad():
        assert torch.equal(tiny_model.train()(**tiny_batch).loss, tiny_model.eval()(**tiny_batch).loss)


def test_a_training_step_returns_the_loss_alone_and_evaluation_the_forecast_too(
    build_tiny_model: Build, tiny_batch: Batch
) -> None:
    model = build_tiny_model(PricingFMForDemand)
    in_training, in_evaluation = model.train()(**tiny_batch), model.eval()(**tiny_batch)
    assert torch.equal(in_training.loss, in_evaluation.loss)
    assert in_training.mean is None
    without_targets = {name: value for name, value in tiny_batch.items() if name != "future_values"}
    forecast = model.train()(**without_targets)
    assert forecast.loss is None
    torch.testing.assert_close(forecast.mean, in_evaluation.mean)


def test_activation_checkpointing_gives_the_same_gradients(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    tiny_model.train()
    plain = gradients(tiny_model, tiny_batch)
    tiny_model.activation_checkpointing_enable()
    assert tiny_model.model.gradient_checkpointing
    calls = []
    layer = tiny_model.model.encoder[0]
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    checkpointed = gradients(tiny_model, tiny_batch)
    assert len(calls) == 2  # once forward, once more on the way back
    assert plain.keys() == checkpointed.keys()
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


def test_half_precision_weights_and_autocast_stay_finite_and_close(build_tiny_model: Build, tiny_batch: Batch) -> None:
    model, tiny_batch = build_tiny_model(), {name: value[:4] for name, value in tiny_batch.items()}
    with torch.no_grad():
        exact, exact_loss = model.demand(model.encode(tiny_batch), tiny_batch), model(**tiny_batch).loss
        half = copy.deepcopy(model).to(torch.bfloat16)
        encoded = half.encode(tiny_batch)
        rough, decided = half.demand(encoded, tiny_batch), half.decide(encoded, tiny_batch)
        assert encoded.context_states.dtype == torch.bfloat16
        for output in (rough, decided):
            assert all(torch.isfinite(value).all() and value.dtype == torch.float32 for value in output.values())
        torch.testing.assert_close(rough.mean, exact.mean, rtol=0.15, atol=0.1)
        torch.testing.assert_close(half(**tiny_batch).loss, exact_loss, rtol=0.05, atol=0.05)
    for network in (half, model):
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(**tiny_batch).loss
        loss.backward()
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.detach(), exact_loss, rtol=0.05, atol=0.05)
        assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    """A process group of one: it waits for gradients as a large one does."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("response", ["monotone", "free"])
def test_data_parallel_pretraining_waits_for_no_gradient_that_never_comes(
    build_tiny_model: Build, tiny_batch: Batch, response: str
) -> None:
    batch = {**tiny_batch, "hidden_values": torch.rand(12, 16), "hidden_mask": torch.rand(12, 16) < 0.3}
    batch = {name: value[:2] for name, value in batch.items()}
    for is_thawed in (False, True):
        model = build_tiny_model(price_response=response).train()
        model.decision_head.requires_grad_(True)
        if not is_thawed:
            model.freeze_unreached_heads()
        wrapped = DistributedDataParallel(model)
        wrapped(**batch).loss.backward()
        if is_thawed:
            with pytest.raises(RuntimeError, match="finished reduction"):
                wrapped(**batch)
        else:
            wrapped(**batch).loss.backward()


def test_an_items_answer_does_not_depend_on_its_company_or_place(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    order = torch.tensor([7, 2, 11, 0])
    with torch.no_grad():
        whole = tiny_model.demand(tiny_model.encode(tiny_batch), tiny_batch)
        few = {name: value[order] for name, value in tiny_batch.items()}
        part = tiny_model.demand(tiny_model.encode(few), few)
        decided = tiny_model.decide(tiny_model.encode(tiny_batch), tiny_batch)
        decided_part = tiny_model.decide(tiny_model.encode(few), few)
    for name in ("quantile_values", "mean", "elasticity", "elasticity_std", "member_response"):
        torch.testing.assert_close(part[name], whole[name][order], rtol=1e-5, atol=1e-6)
    for name in ("behavior_log_probs", "policy_log_probs", "state_values"):
        torch.testing.assert_close(decided_part[name], decided[name][order], rtol=1e-5, atol=1e-5)


def rescaled(windows: RawWindows, units: float = 1.0, prices: float = 1.0) -> RawWindows:
    """The windows with every quantity and every price multiplied."""
    past, future = windows.past.copy(), windows.future.copy()
    for array in (past, future):
        array[..., [INDEX["units"], INDEX["inventory"]]] *= units
        array[..., [INDEX[name] for name in ("price", "list_price", "competitor_price", "cost")]] *= prices
    return type(windows)(**{**vars(windows), "past": past, "future": future})


def test_another_currency_changes_no_answer(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    ours, theirs = tiny_processor(tiny_windows), tiny_processor(rescaled(tiny_windows, prices=100.0))
    np.testing.assert_allclose(theirs["reference_price"], 100 * ours["reference_price"], rtol=1e-6)
    with torch.no_grad():
        for name in ("behavior_log_probs", "policy_log_probs", "state_values"):
            mine = tiny_model.decide(tiny_model.encode(ours), ours)[name]
            other = tiny_model.decide(tiny_model.encode(theirs), theirs)[name]
            torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-4)
        mine = tiny_model.demand(tiny_model.encode(ours), ours)
        other = tiny_model.demand(tiny_model.encode(theirs), theirs)
    torch.testing.assert_close(other.mean, mine.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.elasticity, mine.elasticity, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours["logged_actions"], theirs["logged_actions"])


def test_larger_units_scale_the_forecast_but_for_what_enters_as_static_numbers(
    build_tiny_model: Build, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    # The log of the scale is an input on purpose: large and small items do not behave alike. And few sales are noisier
    # than many, which the hidden-demand model counts with.
    model = build_tiny_model(slow_mover_scale=0.0)
    ours, theirs = tiny_processor(tiny_windows), tiny_processor(rescaled(tiny_windows, units=10.0))
    level_slot, first = 0, 8 + NUM_EVIDENCE + NUM_SIBLING_EVIDENCE + NUM_LOCAL_EVIDENCE
    may_change = {level_slot, *range(first, first + NUM_HIDDEN_DEMAND_EVIDENCE)}
    changed = (ours["static_real_features"] != theirs["static_real_features"]).any(0).nonzero().flatten().tolist()
    assert level_slot in changed
    assert set(changed) <= may_change
    theirs["static_real_features"] = ours["static_real_features"]
    with torch.no_grad():
        mine = model.demand(model.encode(ours), ours)
        other = model.demand(model.encode(theirs), theirs)
    torch.testing.assert_close(other.mean, 10 * mine.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.quantile_values, 10 * mine.quantile_values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.elasticity, mine.elasticity, rtol=1e-4, atol=1e-4)


def wild_windows(seed: int) -> RawWindows:
    """48 windows of whatever a panel may hold: gaps, zeros, fractions, sell-outs, prices from a cent to a million."""
    random = np.random.default_rng(seed)
    shape = (48, 16 + 4)
    channels = np.full((*shape, len(RAW_CHANNELS)), np.nan, dtype=np.float32)

    def fill(name: str, values: np.ndarray, presence: float) -> None:
        is_there = (random.random(shape) < presence) & (random.random((48, 1)) < 0.8)
        channels[..., INDEX[name]] = np.where(is_there, values, np.nan)

    level = 10 ** random.uniform(-4, 7, size=(48, 1))
    units = random.choice([0.0, 1.0, 3.7, 50.0], size=shape) * level
    fill("units", np.where(random.random((48, 1)) < 0.5, np.round(units), units), 0.7)
    price = 10 ** random.uniform(-2, 6, size=(48, 1)) * np.exp(random.normal(0, 0.3, size=shape))
    price = np.where(random.random(shape) < 0.02, 100 * price, price)  # cents for currency units
    fill("price", price, 0.9)
    fill("list_price", 1.1 * price, 0.7)
    fill("competitor_price", 0.01 * price, 0.3)
    fill("cost", random.choice([0.0, 0.5, 40.0], size=shape) * price, 0.5)
    fill("inventory", random.choice([0.0, 0.5, 1.0, 5.0], size=shape) * np.where(units > 0, units, 1.0), 0.6)
    fill("traffic", 1e9 * random.random(shape), 0.4)
    for name in ("promotion_1", "known_1", "past_1", "price_imputed", "price_is_intervention"):
        fill(name, (random.random(shape) < 0.2).astype(float), 0.7)
    fill("known_2", random.normal(0, 1e6, size=shape), 0.5)
    start = random.integers(0, 17, size=(48, 1))
    channels[:, :16][np.arange(16) < start] = np.nan
    weeks = np.datetime64("2024-01-01", "s") + np.arange(20) * np.timedelta64(7 * 86400, "s")
    stamps = np.broadcast_to(weeks, shape)
    categories = random.choice(np.array([None, "a", "b"], dtype=object), size=(48, 9))
    categories[:, 0] = "W"
    reals = np.where(random.random((48, 4)) < 0.5, random.normal(0, 1e8, size=(48, 4)), np.nan).astype(np.float32)
    past, future = channels[:, :16], channels[:, 16:]
    keys = random.integers(0, 2**63, size=48).astype(np.uint64)
    ids = tuple(map(str, keys))
    return RawWindows(past, stamps[:, :16], future, stamps[:, 16:], categories, reals, ids, keys)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("response", ["monotone", "free"])
@pytest.mark.parametrize("seed", range(4))
def test_whatever_a_panel_holds_forecasts_losses_and_gradients_are_finite(
    build_tiny_model: Build, tiny_processor: PricingFMProcessor, seed: int, response: str
) -> None:
    batch = tiny_processor(wild_windows(seed))
    model = build_tiny_model(price_response=response)
    with torch.no_grad():
        output = model.demand(model.encode(batch), batch)
        decided = model.decide(model.encode(batch), batch)
    for value in (output.quantile_values, output.mean, *decided.values()):
        assert torch.isfinite(value).all()
    loss = model(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
