"""Arguments of markets are checked at the door: what is refused is named, found and told; what goes on is unharmed."""

import gymnasium as gym
import numpy as np
import pytest

from pricing_fm.markets import MarketEnv, MarketVectorEnv, make, open_batch, register_environments
from pricing_fm.markets.core import start, step
from pricing_fm.markets.domains.fares import FaresSettings, sample_fares
from pricing_fm.markets.dynamic_program import build_price_ladder, solve_dynamic_program
from pricing_fm.markets.noise import build_noise
from pricing_fm.markets.rivals import CYCLE, FIXED, Rivals
from pricing_fm.markets.sampling import check_ranges
from pricing_fm.markets.streams import DEMAND, Streams, build_streams

register_environments()

NO_COUNTS = [0, -1, 2.5, 12.0, np.inf, np.nan, True, np.bool_(True), "3", [3], 3 + 0j, np.float64(3)]
NO_SEEDS = [-1, 1.5, 3.0, np.nan, True, "0", [0], 1 + 0j, np.float64(0)]
MAKERS = {
    "make": lambda periods: make("retail", num_periods=periods),
    "open_batch": lambda periods: open_batch("retail", [0], num_periods=periods),
    "env": lambda periods: MarketEnv("retail", num_periods=periods),
    "vector": lambda periods: MarketVectorEnv("retail", num_envs=2, num_periods=periods),
    "gym.make": lambda periods: gym.make("pricing_fm/Fares-v0", num_periods=periods),
    "gym.make_vec": lambda periods: gym.make_vec("pricing_fm/Fares-v0", num_envs=2, num_periods=periods),
}


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("periods", NO_COUNTS, ids=repr)
def test_an_episode_has_a_whole_number_of_periods(maker, periods):
    with pytest.raises(ValueError, match=r"num_periods is .*; it must be a whole number \(an int\), 1 or more"):
        maker(periods)


@pytest.mark.parametrize("count", [*NO_COUNTS, None], ids=repr)
def test_markets_and_environments_are_counted_in_whole_numbers(count):
    with pytest.raises(ValueError, match="num_markets is .* whole number"):
        make("retail", num_markets=count)
    with pytest.raises(ValueError, match="num_envs is .* whole number"):
        MarketVectorEnv("retail", num_envs=count)


def test_integers_of_numpy_count_too():
    batch = make("retail", num_markets=np.int32(2), seed=np.uint64(7), num_periods=np.int64(3))
    assert (batch.shape[0], batch.periods_left) == (2, 3)
    expected = make("retail", num_markets=2, seed=7).step(batch.state.list_price)[1]
    np.testing.assert_array_equal(batch.step(batch.state.list_price)[1], expected)
    assert MarketVectorEnv("retail", num_envs=np.int64(2)).reset(seed=np.int64(1))[0].shape[0] == 2


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
def test_a_seed_is_a_whole_number(seed):
    for use in (
        lambda: make("retail", seed=seed),
        lambda: open_batch("retail", [0], seed),
        lambda: build_streams(seed, np.arange(2)),
    ):
        with pytest.raises(ValueError, match="seed is .* whole number"):
            use()


def test_without_a_seed_there_is_no_batch_but_an_environment_goes_on():
    with pytest.raises(ValueError, match="seed is None"):
        make("retail", seed=None)
    with pytest.raises(ValueError, match="seed is None"):
        build_streams(None, np.arange(2))
    one, other = MarketEnv("retail"), MarketEnv("retail")
    first, _ = one.reset(seed=4)
    np.testing.assert_array_equal(other.reset(seed=4)[0], first)
    second, _ = one.reset(seed=None)
    np.testing.assert_array_equal(other.reset()[0], second)
    assert not np.array_equal(first, second)


def test_seeds_of_any_size_keep_all_their_digits():
    path = [
        make("retail", seed=seed).step(make("retail", seed=seed).state.list_price)[1] for seed in (2**60, 2**60 + 1)
    ]
    assert not np.array_equal(*path)
    assert np.isfinite(make("retail", seed=2**70).state.list_price).all()


@pytest.mark.parametrize(
    "ids, message",
    [
        ([1.0], "market_ids holds floats; it must hold whole numbers"),
        (np.array([0.5, np.nan]), "market_ids holds floats"),
        ([], r"market_ids has shape \(0,\); .* one market or more"),
        (np.zeros(0, dtype=int), "one market or more"),
        ([[1, 2]], r"market_ids has shape \(1, 2\); it must be \(markets,\)"),
        (3, r"market_ids has shape \(\)"),
        (None, "market_ids holds Python objects"),
        ([2, -1], "market_ids is -1"),
        ([True, False], "market_ids holds bool"),
        (["7"], "market_ids holds text"),
        ([[1], [2, 3]], "market_ids is no array"),
        ([2**63], r"market_ids is 9223372036854775808 .* below 2\*\*63"),
        ([2**64], "market_ids holds Python objects"),
    ],
)
def test_names_of_markets_are_a_list_of_whole_numbers(ids, message):
    with pytest.raises(ValueError, match=message):
        open_batch("retail", ids)


def test_names_of_any_integer_type_name_the_same_markets():
    prices = open_batch("retail", np.array([5, 9])).state.list_price
    for ids in ([5, 9], (5, 9), np.array([5, 9], dtype=np.uint8), np.array([5, 9], dtype=np.uint64)):
        np.testing.assert_array_equal(open_batch("retail", ids).state.list_price, prices)
    assert open_batch("retail", [2**63 - 1]).shape[0] == 1


def test_a_name_given_twice_is_one_market_under_two_price_plans():
    batch, alone = open_batch("retail", [3, 3]), open_batch("retail", [3])
    for _ in range(3):
        prices = np.array(batch.state.list_price)
        prices[1] *= 1.2
        rewards = batch.step(prices)[1]
        np.testing.assert_array_equal(rewards[0], alone.step(prices[:1])[1][0])
        assert rewards[0] != rewards[1]


def test_rollouts_are_whole_numbers_one_per_market():
    for rollout, message in (
        (0.5, "rollout holds floats"),
        (True, "rollout holds bool"),
        (-1, "rollout is -1"),
        (np.arange(3), r"rollout has shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            build_streams(0, np.arange(2), rollout)
    with pytest.raises(ValueError, match=r"market_ids has shape \(1, 2\)"):
        build_streams(0, np.arange(2)[None])


NO_REALS = {
    "complex": lambda values: values + 0j,
    "text": lambda values: values.astype(str),
    "bool": lambda values: values > 0,
    "objects": lambda values: values.astype(object),
    "none": lambda values: None,
    "ragged": lambda values: [[1.0], [1.0, 2.0]],
}


@pytest.mark.parametrize("spoil", NO_REALS.values(), ids=NO_REALS)
def test_only_real_numbers_are_prices_and_the_market_stays_as_it_was(spoil):
    batch, clean = (make("retail", num_markets=2) for _ in range(2))
    with pytest.raises(ValueError, match="prices (holds .* real numbers|is no array)"):
        batch.step(spoil(batch.state.list_price))
    np.testing.assert_array_equal(batch.step(batch.state.list_price)[1], clean.step(clean.state.list_price)[1])


def test_a_promotion_is_a_flag_or_a_number_and_nothing_else():
    batch = make("retail", num_markets=2)
    flags = np.ones(batch.shape)
    rewards = []
    for promotions in (flags, flags > 0, flags.astype(int), flags.tolist()):
        batch.reset()
        rewards.append(batch.step(batch.state.list_price, promotions)[1])
    for reward in rewards[1:]:
        np.testing.assert_array_equal(reward, rewards[0])
    for spoil in (flags + 0j, flags.astype(str), flags.astype(object)):
        with pytest.raises(ValueError, match="promotions holds"):
            batch.step(batch.state.list_price, spoil)


@pytest.mark.parametrize("spoil", NO_REALS.values(), ids=NO_REALS)
def test_only_real_numbers_are_actions_and_the_market_stays_as_it_was(spoil):
    env, clean = MarketEnv("retail"), MarketEnv("retail")
    many = MarketVectorEnv("retail", num_envs=2)
    env.reset(seed=0), clean.reset(seed=0), many.reset(seed=0)
    with pytest.raises(ValueError, match="action (holds .* real numbers|is no array)"):
        env.step(spoil(np.zeros(10)))
    with pytest.raises(ValueError, match="actions (holds .* real numbers|is no array)"):
        many.step(spoil(np.zeros((2, 10))))
    expected = clean.step(np.zeros(10, dtype=int))[0]
    np.testing.assert_array_equal(env.step([0.0] * 10)[0], expected)
    np.testing.assert_array_equal(many.step(np.zeros((2, 10), dtype=np.float32))[0][0], expected)


def test_one_seed_per_environment_can_stand_in_any_sequence():
    env = MarketVectorEnv("retail", num_envs=3)
    expected, _ = env.reset(seed=[4, 5, 6])
    for seed in ((4, 5, 6), np.array([4, 5, 6]), range(4, 7), 4, np.int64(4)):
        np.testing.assert_array_equal(env.reset(seed=seed)[0], expected)
    assert not np.array_equal(env.reset(seed=(6, 5, 4))[0], expected)
    # None in the place of a seed: this environment alone goes on.
    env.reset(seed=4)
    other = MarketVectorEnv("retail", num_envs=3)
    other.reset(seed=4)
    np.testing.assert_array_equal(env.reset(seed=(4, None, 6))[0][[0, 2]], expected[[0, 2]])
    np.testing.assert_array_equal(env.reset(seed=(4, 5, 6))[0], expected)
    np.testing.assert_array_equal(other.reset(seed=(4, None, 6))[0][[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
def test_a_refused_reset_leaves_the_environments_as_they_were(seed):
    env, clean = MarketEnv("retail"), MarketEnv("retail")
    env.reset(seed=1), clean.reset(seed=1)
    with pytest.raises(ValueError, match="seed is .* whole number"):
        env.reset(seed=seed)
    np.testing.assert_array_equal(env.step(np.zeros(10))[0], clean.step(np.zeros(10))[0])
    np.testing.assert_array_equal(env.reset()[0], clean.reset()[0])
    many, clean_many = (MarketVectorEnv("retail", num_envs=2) for _ in range(2))
    many.reset(seed=1), clean_many.reset(seed=1)
    for refused, message in ((seed, "seed (is|holds)"), ((3, seed), r"seed\[1\] is"), ((3,), "seed holds 1 seeds")):
        with pytest.raises(ValueError, match=message):
            many.reset(seed=refused)
    np.testing.assert_array_equal(many.reset()[0], clean_many.reset()[0])


def test_options_of_a_reset_are_refused_and_none_at_all_is_fine():
    for env in (MarketEnv("retail"), MarketVectorEnv("retail", num_envs=2)):
        for options in (None, {}):
            env.reset(seed=0, options=options)
        with pytest.raises(ValueError, match="options holds 'reset_mask', 'price'; it must be None or empty"):
            env.reset(options={"reset_mask": None, "price": 2.0})
        for options in ([], "fast", 3):
            with pytest.raises(ValueError, match="options is .*; it must be None or empty"):
                env.reset(options=options)


@pytest.mark.parametrize("field", ["name", "family"])
@pytest.mark.parametrize("value", [3, ["retail"], True], ids=repr)
def test_names_that_are_no_text_are_refused(field, value):
    with pytest.raises(ValueError, match=f"{field} is .*; known"):
        make(**({"name": "retail"} | {field: value}))


@pytest.mark.parametrize(
    "bounds", [(2.0, 1.0), (1.0,), (1.0, np.nan), (0.0, np.inf), ("1", "2"), (0.0, True), 3.0, None]
)
def test_ranges_are_increasing_pairs_of_finite_numbers(bounds):
    with pytest.raises(ValueError, match="shock_range is .*; it needs two finite numbers"):
        check_ranges(_Settings(bounds))
    check_ranges(_Settings((1.0, 1.0)))
    check_ranges(_Settings([0, 2]))


class _Settings:
    def __init__(self, shock_range):
        self.shock_range = shock_range


@pytest.mark.parametrize("markets, shape", [(0, (3, 2)), (1, (0, 2)), (1, (3, 0)), (3, (0,)), (3, (0, 2))])
@pytest.mark.parametrize("dispersion", [2.0, 0.3, np.inf, "mixed"])
def test_overdispersed_counts_of_nothing_are_nothing(markets, shape, dispersion):
    streams = build_streams(0, np.arange(markets))
    mean = np.ones((markets, *shape))
    of = np.where(np.arange(mean.size).reshape(mean.shape) % 2, 2.0, np.inf) if dispersion == "mixed" else dispersion
    for values in (of, np.broadcast_to(of, mean.shape)):
        counts = streams.counts(np.zeros(markets, dtype=np.int64), DEMAND, mean, values)
        assert counts.shape == mean.shape
        assert counts.dtype == np.float64


@pytest.mark.parametrize("name", ["negative_binomial", "zero_inflated"])
def test_noise_on_no_markets_or_no_items_draws_nothing(name):
    for shape in ((0, 3, 2), (1, 0, 2), (2, 3, 0)):
        noise = build_noise(name, (shape[0], 1, 1), np.full((shape[0], 1, 1), 3.0), np.full((shape[0], 1, 1), 0.2))
        streams = Streams(np.arange(shape[0], dtype=np.uint64))
        assert noise.draw(streams, np.zeros(shape[0], dtype=np.int64), np.ones(shape)).shape == shape


def test_a_mean_without_axes_is_refused():
    with pytest.raises(ValueError, match=r"mean has shape \(\)"):
        build_streams(0, np.arange(1)).counts(0, DEMAND, 3.0)


def test_a_rival_who_does_not_answer_has_the_prices_he_takes_as_his_grid():
    market = sample_fares(FaresSettings(), "rival_airline", np.arange(12), 0)
    streams, checked = build_streams(0, np.arange(12)), 0
    state = start(market, streams)
    seen = [state.rivals[..., 0]]
    for _ in range(market.num_periods):
        state, *_ = step(market, state, 0.8 * state.list_price, streams)
        seen.append(state.rivals[..., 0])
    for name in np.flatnonzero(market.rivals.kind == CYCLE):
        item = market.select_items(tuple(np.array([index]) for index in (name, 0, 0)))
        grid = item.rivals.build_grid(item.list_price, item.price_bounds, 81)[0]
        np.testing.assert_array_equal(grid, np.unique([prices[name, 0, 0] for prices in seen]))
        assert len(grid) == 2
        checked += 1
    assert checked > 2
    program = solve_dynamic_program(item, build_price_ladder(item, 5), 9)
    finer = solve_dynamic_program(item, build_price_ladder(item, 5), 33)
    assert program.value == finer.value


@pytest.mark.parametrize("floor, expected", [(1.0, [5.0]), (6.0, [5.0, 6.0])])
def test_the_grid_of_a_fixed_rival_is_his_price(floor, expected):
    one = np.ones((1, 1, 1))
    rivals = Rivals(FIXED * one.astype(int), 5 * one, floor * one, one, 0.2 * one, one.astype(int), 0 * one, 0 * one)
    np.testing.assert_array_equal(rivals.build_grid(4 * one, (0.5, 2.0), 9)[0], expected)
