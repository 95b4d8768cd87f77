"""Many adapters in one policy: mixed panels, adapters exchanged while others ask, and profiles of categories."""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pricing_fm.errors import ArtifactError, PanelError, SupportError
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.policy import policy as policy_module
from pricing_fm.policy.engine import CHUNK
from pricing_fm.policy.profile import category_profile
from tests.policy_artifacts import base_hash, change_weights, panel_of, sales_log, write_adapter, write_base

CATEGORIES = ("cat 0001", "cat 0010", "cat 0100")
NUMBERS = ["mean", "0.1", "0.5", "0.9"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, an adapter for each of two categories, and another one for the first of them."""
    place = tmp_path_factory.mktemp("many")
    base = write_base(place / "base")
    write_adapter(place / "first", base, CATEGORIES[0], seed=1, has_policy=False)
    write_adapter(place / "second", base, CATEGORIES[1], seed=2, rewards=RewardWeights(margin=0.5))
    write_adapter(place / "exchanged", base, CATEGORIES[0], seed=3, has_policy=False)
    return place


@pytest.fixture(scope="module")
def panel() -> Panel:
    """Nine items of three categories in turn; the last category has no adapter."""
    table = sales_log(items=9, weeks=20)
    number = table["item_id"].str[1:].astype(int)
    return panel_of(table.assign(category=[CATEGORIES[value % 3] for value in number]))


@pytest.fixture
def policy(made: Path) -> PricingPolicy:
    folders = {CATEGORIES[0]: made / "first", CATEGORIES[1]: made / "second"}
    return PricingPolicy.from_pretrained(made / "base", adapter=folders)


def test_a_mixed_panel_is_answered_in_shared_passes_and_as_category_by_category(
    policy: PricingPolicy, made: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    encode = type(policy.model).encode
    monkeypatch.setattr(type(policy.model), "encode", lambda self, batch: passes.append(1) or encode(self, batch))
    forecast, prices = policy.forecast(panel, 2), policy.recommend(panel)
    assert len(panel.item_ids) < CHUNK
    # One forecast, one look at the candidates, one at the policy of the category that has one.
    assert len(passes) == 3
    for category, name in zip(CATEGORIES, ("first", "second", None), strict=True):
        items = panel.select_category(category)
        alone = PricingPolicy.from_pretrained(made / "base", adapter=made / name if name else None)
        expected = alone.forecast(items, 2)
        found = forecast[forecast["item_id"].isin(items.item_ids)].reset_index(drop=True)
        np.testing.assert_allclose(found[NUMBERS], expected[NUMBERS], rtol=1e-5)
        own = prices[prices["item_id"].isin(items.item_ids)].reset_index(drop=True)
        same = ["item_id", "price", "supported", "binding_rule", "explanation"]
        pd.testing.assert_frame_equal(own[same], alone.recommend(items)[same])
    assert prices["explanation"].str.split(":").str[0].nunique() > 1


def test_an_adapter_is_put_in_the_place_of_its_categorys_and_taken_out_again(
    policy: PricingPolicy, made: Path, panel: Panel
) -> None:
    before = policy.forecast(panel, 2)
    policy.load_adapter(made / "exchanged")
    after = policy.forecast(panel, 2)
    first = before["item_id"].isin(panel.select_category(CATEGORIES[0]).item_ids)
    assert not np.allclose(after.loc[first, "mean"], before.loc[first, "mean"], rtol=1e-3)
    pd.testing.assert_frame_equal(after[~first], before[~first])
    policy.load_adapter(made / "first")
    pd.testing.assert_frame_equal(policy.forecast(panel, 2), before)
    policy.remove_adapter(CATEGORIES[0])
    plain = PricingPolicy.from_pretrained(made / "base").forecast(panel, 2)
    pd.testing.assert_frame_equal(policy.forecast(panel, 2)[first], plain[first])
    with pytest.raises(ArtifactError, match=r"no adapter for 'cat 0001'; there are \['cat 0010'\]"):
        policy.remove_adapter(CATEGORIES[0])


def test_an_adapter_that_is_refused_changes_nothing(
    policy: PricingPolicy, made: Path, panel: Panel, tmp_path: Path
) -> None:
    before = policy.forecast(panel, 2)
    bad = write_adapter(tmp_path / "bad", made / "base", CATEGORIES[0], seed=5)
    change_weights(bad, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    with pytest.raises(ArtifactError, match="not finite"):
        policy.load_adapter(bad)
    pd.testing.assert_frame_equal(policy.forecast(panel, 2), before)
    in_memory = PricingPolicy(policy.model, policy.processor)
    with pytest.raises(ArtifactError, match="has no fingerprint"):
        in_memory.load_adapter(made / "first")


def test_adapters_exchanged_under_load_never_give_a_mixture(policy: PricingPolicy, made: Path, panel: Panel) -> None:
    """Every answer is that of the old adapter or that of the new one, for all items of the call; neighbours stay."""
    old = policy.forecast(panel, 2)["mean"].to_numpy()
    policy.load_adapter(made / "exchanged")
    new = policy.forecast(panel, 2)["mean"].to_numpy()
    first = np.repeat([item in panel.select_category(CATEGORIES[0]).item_ids for item in panel.item_ids], 2)
    assert np.array_equal(old[~first], new[~first])
    assert not np.isclose(old[first], new[first], rtol=1e-4).any()
    found: list[np.ndarray] = []
    stopped = threading.Event()

    def ask() -> None:
        for _ in range(4):
            found.append(policy.forecast(panel, 2)["mean"].to_numpy())

    def exchange() -> None:
        while not stopped.is_set():
            for name in ("first", "exchanged"):
                policy.load_adapter(made / name)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places in the middle of nearly everything
    readers, writer = [threading.Thread(target=ask) for _ in range(3)], threading.Thread(target=exchange)
    for thread in (*readers, writer):
        thread.start()
    for thread in readers:
        thread.join()
    stopped.set()
    writer.join()
    sys.setswitchinterval(interval)
    kinds = [(np.array_equal(answer, old), np.array_equal(answer, new)) for answer in found]
    assert len(kinds) == 12
    assert all(any(kind) for kind in kinds)


def test_a_call_is_answered_by_the_adapters_it_began_with(
    policy: PricingPolicy, made: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exchanged exactly between choosing the adapters and running the network."""
    before = policy.forecast(panel, 2)
    kind = policy_module.Engine

    class Late(kind):  # type: ignore[misc, valid-type]
        def demand(self, *arguments, **named):
            policy.load_adapter(made / "exchanged")
            return super().demand(*arguments, **named)

    monkeypatch.setattr(policy_module, "Engine", Late)
    pd.testing.assert_frame_equal(policy.forecast(panel, 2), before)
    monkeypatch.setattr(policy_module, "Engine", kind)
    assert not np.allclose(policy.forecast(panel, 2)["mean"], before["mean"], rtol=1e-4)


# -- profiles ---------------------------------------------------------------------------------------------------------


def test_a_profile_is_the_mean_over_the_categorys_items(made: Path, panel: Panel) -> None:
    model, processor, fingerprint = load_base(made / "base")
    items = panel.select_category(CATEGORIES[0])
    # Items that know nothing of each other, so that each one's state is the same alone.
    frame = items.frame.assign(category=items.frame["item_id"])
    whole = category_profile(replace(items, frame=frame), model, processor, fingerprint)
    assert (whole.num_items, whole.base_fingerprint) == (3, base_hash(made / "base"))
    assert len(whole.features) == 3 * model.config.hidden_size
    each = []
    for item in items.item_ids:
        own = replace(items, frame=frame[frame["item_id"] == item].reset_index(drop=True))
        each.append(category_profile(own, model, processor, fingerprint).features)
    np.testing.assert_allclose(whole.features, np.mean(each, axis=0), atol=1e-5)
    assert np.ptp(each, axis=0).max() > 1e-2


def test_a_profile_needs_a_week_and_a_curve(tmp_path: Path, made: Path, panel: Panel) -> None:
    model, processor, fingerprint = load_base(made / "base")
    with pytest.raises(PanelError, match="no week of the category is visible"):
        category_profile(replace(panel, frame=panel.frame.iloc[:0]), model, processor, fingerprint)
    free = load_base(write_base(tmp_path / "free", price_response="free"))
    with pytest.raises(SupportError, match="need monotone"):
        category_profile(panel, *free)
