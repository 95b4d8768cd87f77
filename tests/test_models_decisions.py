"""Decision heads: probabilities of a two-part choice, and nothing of a decision in the state before it."""

import pytest
import torch

from pricing_fm.models import PricingFMForPreTraining, PricingFMProcessor
from pricing_fm.models.channels import INDEX
from pricing_fm.models.decision_head import gated_log_probs
from pricing_fm.panel import RawWindows

Batch = dict[str, torch.Tensor]
STEP = 1


def test_gated_probabilities_sum_to_one_and_keeping_counts_for_the_current_action() -> None:
    logits, current = torch.randn(50, 1 + 6) * 3, torch.randint(6, (50,))
    probabilities = gated_log_probs(logits, current).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(50))
    change, choice = torch.sigmoid(logits[:, 0]), logits[:, 1:].softmax(-1)
    expected = change[:, None] * choice
    expected[torch.arange(50), current] += 1 - change
    torch.testing.assert_close(probabilities, expected)


def test_gated_probabilities_survive_extreme_logits() -> None:
    logits = torch.tensor([[200.0, 0.0, -300.0], [-200.0, 300.0, 0.0]], requires_grad=True)
    log_probs = gated_log_probs(logits, torch.tensor([1, 1]))
    log_probs.gather(-1, torch.tensor([[1], [1]])).sum().backward()
    assert torch.isfinite(log_probs).all()
    assert torch.isfinite(logits.grad).all()


def decide(model: PricingFMForPreTraining, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        encoded = model.encode(batch)
        return {**model.decide(encoded, batch), "states": model.decision_states(encoded, batch)}


@pytest.mark.parametrize("channel", ["units", "price", "promotion_1", "traffic", "past_1", "price_is_intervention"])
def test_nothing_of_a_weeks_decision_or_outcome_reaches_the_state_before_it(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows, channel: str
) -> None:
    before = decide(tiny_model, tiny_processor(tiny_windows))
    future = tiny_windows.future.copy()
    future[:, STEP, INDEX["price_imputed"]] = 0.0
    column = future[:, STEP, INDEX[channel]]
    future[:, STEP, INDEX[channel]] = 1.0 if "promotion" in channel or "price_is" in channel else 3.0 * column + 5.0
    after = decide(tiny_model, tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "future": future})))
    for name, values in before.items():
        assert torch.equal(values[:, : STEP + 1], after[name][:, : STEP + 1]), name
    if channel in ("price", "promotion_1"):
        assert not torch.equal(before["behavior_log_probs"][:, STEP + 1], after["behavior_log_probs"][:, STEP + 1])
    if channel == "price":
        assert not torch.equal(before["state_values"][:, STEP + 1], after["state_values"][:, STEP + 1])


def test_later_stock_stays_out_of_the_state_and_stock_at_the_origin_is_in_it(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    before = decide(tiny_model, tiny_processor(tiny_windows))
    for step, is_seen in ((STEP, False), (0, True)):
        future = tiny_windows.future.copy()
        future[:, step, INDEX["inventory"]] = 3.0
        after = decide(tiny_model, tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "future": future})))
        assert torch.equal(before["states"], after["states"]) != is_seen
        assert torch.equal(before["state_values"], after["state_values"]) != is_seen


def test_the_price_before_the_origin_moves_the_first_decision(
    tiny_model: PricingFMForPreTraining, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    past = tiny_windows.past.copy()
    past[:, -1, INDEX["price"]] *= 0.7
    before = decide(tiny_model, tiny_processor(tiny_windows))
    after = decide(tiny_model, tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "past": past})))
    assert not torch.equal(before["behavior_log_probs"][:, 0], after["behavior_log_probs"][:, 0])


def test_the_manager_of_an_intervention_is_not_imitated(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch, tiny_processor: PricingFMProcessor, tiny_windows: RawWindows
) -> None:
    future = tiny_windows.future.copy()
    future[..., INDEX["price_is_intervention"]] = 1.0
    drawn = tiny_processor(type(tiny_windows)(**{**vars(tiny_windows), "future": future}))
    with torch.no_grad():
        assert (tiny_model.behavior_loss(tiny_model.encode(tiny_batch), tiny_batch) > 0).all()
        assert (tiny_model.behavior_loss(tiny_model.encode(drawn), drawn) == 0).all()


def test_the_whole_pretraining_loss_leaves_the_policy_and_value_heads_and_pooling_alone(
    tiny_model: PricingFMForPreTraining, tiny_batch: Batch
) -> None:
    hidden = torch.rand(12, 16) < 0.3
    tiny_model(**tiny_batch, hidden_values=torch.rand(12, 16), hidden_mask=hidden).loss.backward()
    for name, parameter in tiny_model.named_parameters():
        alone = any(head in name for head in ("policy_head", "value_head", "pooling_head"))
        assert (parameter.grad is None) == alone, name
        if parameter.grad is not None:
            assert parameter.grad.abs().sum() > 0, name
