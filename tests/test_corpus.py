"""A training corpus: what its books keep, what it knows of the truth, and that it can be made again."""

import numpy as np
import pytest

from pricing_fm import names
from pricing_fm.markets.corpus import (
    FIRST_SEED_OF_EVALUATION,
    MONTHLY_SHOP,
    CorpusSettings,
    collect_stores,
    label_elasticities,
    plan_logs,
    simulate_corpus,
)
from pricing_fm.markets.domains import RetailSettings
from pricing_fm.markets.logs import LogSettings, SimulatedLog, simulate_log
from pricing_fm.markets.manager_habits import DEMAND_FOLLOWER
from pricing_fm.markets.managers import ManagerSettings
from pricing_fm.markets.record_keeping import RecordSettings, keep_records
from pricing_fm.panel import load_store, save_store

SMALL = CorpusSettings(families=("retail/shop", "fares/single_leg"), num_items=80, items_per_log=40, seed=3)
COMPLETE = RecordSettings(
    list_price_share=1.0,
    cost_share=1.0,
    inventory_share=1.0,
    promotion_share=1.0,
    two_flags_share=0.0,
    assortment_share=1.0,
    absent_share=0.0,
    averaged_share=0.0,
    pack_share=0.0,
)


@pytest.fixture(scope="module")
def log() -> SimulatedLog:
    return simulate_log(
        RetailSettings(num_products=3, families=("constant_elasticity",), reference_share=0.0),
        ManagerSettings(),
        LogSettings(num_markets=40, num_periods=50, randomized_periods=(8, 10)),
    )


def column(values: np.ndarray, name: str) -> np.ndarray:
    return values[..., names.CHANNEL_INDEX[name]]


def test_complete_books_hold_the_log_as_its_panel_does(log: SimulatedLog) -> None:
    values = keep_records(log, COMPLETE, np.random.default_rng(0))
    for name in ("units", "price", "list_price", "cost", "inventory", "price_is_intervention"):
        expected = log.panel[name].to_numpy(dtype=np.float32).reshape(log.num_items, -1)
        assert np.array_equal(column(values, name), expected, equal_nan=True), name


def test_the_promotion_stands_in_one_slot_of_the_category_or_in_two_that_cover_it(log: SimulatedLog) -> None:
    promoted = log.panel["promotion"].to_numpy().reshape(log.num_items, -1)
    slots = [names.CHANNEL_INDEX[name] for name in names.PROMOTION_SLOTS]
    one = keep_records(log, COMPLETE, np.random.default_rng(0))[..., slots]
    assert (np.isfinite(one).all(1).sum(-1) == 1).all()
    assert np.array_equal(np.nanmax(one, axis=-1), promoted)
    assert np.isfinite(one).any(axis=(0, 1)).all()  # every slot is somebody's
    settings = RecordSettings(two_flags_share=1.0, promotion_share=1.0, absent_share=0.0)
    two = keep_records(log, settings, np.random.default_rng(0))[..., slots]
    assert (np.isfinite(two).all(1).sum(-1) == 2).all()
    assert np.array_equal(np.nanmax(two, axis=-1), promoted)
    assert (np.nansum(two, axis=-1) == 2).any()
    assert ((np.nansum(two, axis=-1) == 1) & (promoted == 1)).any()


def test_absent_weeks_carry_the_price_and_nothing_else(log: SimulatedLog) -> None:
    settings = RecordSettings(absent_share=1.0, absent_rate_range=(0.2, 0.2), averaged_share=0.0)
    values = keep_records(log, settings, np.random.default_rng(0))
    absent = column(values, "price_imputed") == 1
    assert absent.mean() == pytest.approx(0.2 * 48 / 50, abs=0.02)
    kept = [names.CHANNEL_INDEX[name] for name in ("price", "price_imputed")]
    assert np.isnan(np.delete(values[absent], kept, axis=-1)).all()
    item, period = (places[0] for places in np.nonzero(absent))
    assert column(values, "price")[item, period] == column(values, "price")[item, period - 1]
    assert not absent[:, [0, -1]].any()


def test_averaged_prices_scatter_and_packs_multiply_units(log: SimulatedLog) -> None:
    plain = keep_records(log, COMPLETE, np.random.default_rng(0))
    settings = RecordSettings(averaged_share=1.0, scatter_range=(0.02, 0.02), pack_share=1.0, absent_share=0.0)
    blurred = keep_records(log, settings, np.random.default_rng(0))
    scatter = np.log(column(blurred, "price") / column(plain, "price"))
    assert scatter.std() == pytest.approx(0.02, rel=0.05)
    sold = column(plain, "units") > 0
    packs = column(blurred, "units")[sold] / column(plain, "units")[sold]
    assert set(np.unique(packs)) <= {1.0, 6.0, 12.0, 64.0}
    assert len(np.unique(packs)) > 2


def test_the_assortment_index_is_the_mean_log_price_of_the_other_products(log: SimulatedLog) -> None:
    values = keep_records(log, COMPLETE, np.random.default_rng(0))
    ratio = np.log(column(values, "price") / column(values, "list_price")).reshape(40, 3, -1)
    assert column(values, "known_1")[0] == pytest.approx((ratio[0, 1] + ratio[0, 2]) / 2, abs=1e-5)


def test_labels_are_the_true_elasticities(log: SimulatedLog) -> None:
    labels = label_elasticities(log)
    assert np.allclose(labels.reshape(-1), log.truth["elasticity"], rtol=1e-5)
    assert np.ptp(labels, axis=1).max() < 1e-5
    assert np.ptp(labels[:, 0]) > 0.5


def test_a_corpus_is_the_same_each_time_and_another_with_another_seed() -> None:
    once, again = (collect_stores(simulate_corpus(SMALL), "corpus") for _ in range(2))
    assert set(once) == {"W", "D"}
    other = collect_stores(
        simulate_corpus(CorpusSettings(families=SMALL.families, num_items=80, items_per_log=40)), "c"
    )
    for frequency, store in once.items():
        assert store.fingerprint == again[frequency].fingerprint != other[frequency].fingerprint
        assert len(set(store.item_ids)) == len(store.item_ids) == len(store.lengths)
        assert store.elasticity is not None
        assert np.isfinite(store.elasticity).mean() > 0.9


def test_stores_of_a_corpus_come_back_from_disk_with_their_truth(tmp_path) -> None:  # type: ignore[no-untyped-def]
    store = collect_stores(simulate_corpus(SMALL), "corpus")["W"]
    save_store(store, tmp_path)
    loaded = load_store(tmp_path)
    assert loaded.elasticity is not None
    assert store.elasticity is not None
    assert np.array_equal(loaded.elasticity, store.elasticity, equal_nan=True)
    assert np.array_equal(loaded.values, store.values, equal_nan=True)


def test_held_out_managers_never_appear_and_followers_of_demand_do() -> None:
    found = {manager for _, log, _ in simulate_corpus(SMALL) for manager in log.truth["manager"].unique()}
    assert "noisy_expert" not in found
    assert "demand_follower" in found


def test_strong_confounding_of_both_signs_and_products_without_siblings_are_no_rarity() -> None:
    settings = CorpusSettings(families=("retail/shop",), num_items=2400, items_per_log=60, seed=5)
    logs = [log for _, log, _ in simulate_corpus(settings)]
    follows = [np.where(log.habits.manager == DEMAND_FOLLOWER, log.habits.confounding[:, 0, 0], 0.0) for log in logs]
    markets = np.concatenate(follows)
    assert (markets != 0).mean() > 0.6
    assert (markets < -0.5).mean() > 0.15
    assert (markets > 0.5).mean() > 0.15
    alone = np.array([log.parameters.shape[1] == 1 for log in logs])
    assert 0.1 < alone.mean() < 0.6
    shock = np.concatenate([np.ravel(log.parameters.shock.scale) for log in logs])
    assert (shock > 0.3).mean() > 0.1
    # The range that evaluation holds out.
    elasticity = np.concatenate([np.ravel(log.parameters.demand.elasticity) for log in logs])
    assert elasticity.max() <= 4.5
    assert (elasticity > 4.0).mean() > 0.05


def test_training_seeds_never_reach_those_of_evaluation() -> None:
    plan = plan_logs(CorpusSettings(num_items=5_000, items_per_log=1, seed=89))
    assert max(seed for _, seed in plan) < FIRST_SEED_OF_EVALUATION


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"families": ("retail/none",)}, "families"),
        ({"families": ("shop",)}, "families"),
        ({"shares": (0.5, 0.5)}, "shares"),
        ({"families": ("loans/lender/MS",)}, "retail/shop/MS"),
        ({"held_out_managers": ("nobody",)}, "held_out_managers"),
        ({"num_periods": (20, 30)}, "num_periods"),
        ({"num_items": 0}, "num_items"),
        ({"seed": 90}, "seed"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(changed: dict, word: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=word):
        CorpusSettings(**changed)


def test_shares_that_are_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="cost_share"):
        RecordSettings(cost_share=1.2)


def test_a_shop_by_the_month_has_months_for_periods_and_a_year_of_twelve() -> None:
    settings = CorpusSettings(families=(MONTHLY_SHOP, "retail/shop"), num_items=80, items_per_log=40, seed=3)
    found = {family: log for family, log, _ in simulate_corpus(settings)}
    monthly, weekly = found[MONTHLY_SHOP], found["retail/shop"]
    starts = monthly.timestamps.astype("datetime64[D]")
    assert np.array_equal(starts, starts.astype("datetime64[M]").astype("datetime64[D]"))
    assert np.array_equal(np.diff(starts.astype("datetime64[M]").astype(int)), np.ones(len(starts) - 1))
    calendars = [log.parameters.calendar for log in (monthly, weekly)]
    assert [round(calendar.season_length) for calendar in calendars if calendar is not None] == [12, 52]
    stores = collect_stores(simulate_corpus(settings), "train")
    assert {name: store.frequency.name for name, store in stores.items()} == {"MS": "MS", "W": "W"}


def test_events_fall_into_the_same_weeks_of_every_year() -> None:
    settings = RetailSettings(num_events=3, event_scale=0.5, season_range=(0.0, 0.0), trend_range=(0.0, 0.0))
    found = simulate_log(settings, None, LogSettings(num_markets=5, num_periods=110)).parameters.calendar
    assert found is not None
    assert found.profile is not None
    factors = np.stack([found.compute_log_factor(np.full(5, week))[:, 0, 0] for week in range(104)])
    assert np.array_equal(factors[:52], factors[52:])
    assert ((factors != 0).sum(0) <= 6).all()
    assert (factors != 0).any()
