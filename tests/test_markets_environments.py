"""Every market as a Gymnasium environment: clean by Gymnasium's own checker, the same one by one and side by side."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pricing_fm.markets import MarketEnv, MarketVectorEnv, RetailSettings, open_batch, register_environments
from pricing_fm.markets.domains import DOMAINS

register_environments()

IDS = {name: f"pricing_fm/{name.title().replace('_', '')}-v0" for name in DOMAINS}
FAMILIES = [(name, family) for name, domain in DOMAINS.items() for family in domain.families]
every_family = pytest.mark.parametrize("name, family", FAMILIES, ids=["/".join(pair) for pair in FAMILIES])


def test_the_environments_have_the_published_names():
    published = {"Retail", "Loans", "Fares", "RideHailing", "Energy", "Clinic"}
    assert set(IDS.values()) <= {f"pricing_fm/{name}-v0" for name in published}
    assert all(name in gym.registry for name in IDS.values())
    register_environments()


@every_family
def test_gymnasium_finds_nothing_to_complain_about(name, family):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(IDS[name], family=family).unwrapped)


@every_family
def test_an_environment_among_others_is_the_environment_alone(name, family):
    many = gym.make_vec(IDS[name], num_envs=4, family=family, num_periods=9)
    assert isinstance(many.unwrapped, MarketVectorEnv)
    alone = gym.make(IDS[name], family=family, num_periods=9)
    many.action_space.seed(0)
    # Two episodes, the second one opened by the next step after the first one's end.
    observations, _ = many.reset(seed=3)
    observation, _ = alone.reset(seed=5)
    for _ in range(2):
        np.testing.assert_array_equal(observations[2], observation)
        for _ in range(9):
            actions = many.action_space.sample()
            observations, rewards, terminations, truncations, infos = many.step(actions)
            observation, reward, terminated, truncated, info = alone.step(actions[2])
            np.testing.assert_array_equal(observations[2], observation)
            assert alone.observation_space.contains(observation)
            assert (rewards[2], terminations[2], truncations[2]) == (reward, terminated, truncated)
            for key, value in info.items():
                np.testing.assert_array_equal(infos[key][2], value)
        assert (terminated, truncated) == ((True, False) if alone.unwrapped._desk.ends else (False, True))
        first = observations
        observations, rewards, terminations, truncations, _ = many.step(actions)
        assert not np.any([rewards, terminations, truncations])
        assert not np.array_equal(observations, first)
        observation, _ = alone.reset()


@every_family
def test_the_truth_is_in_info_alone(name, family):
    env = MarketEnv(name, family)
    env.reset(seed=0)
    observation, reward, *_, info = env.step(env.action_space.sample() * 0.3)
    assert {"mean_demand", "demand", "item_rewards"} <= set(info)
    assert all(value.shape == env.action_space.shape for value in info.values())
    assert info["item_rewards"].sum() == pytest.approx(reward)
    # Two markets that differ in what is hidden alone look the same.
    batch, twin = (open_batch(name, np.array([5]), 0, family) for _ in range(2))
    for hidden in ("shock", "memory"):
        if getattr(twin.state, hidden) is not None:
            twin.state = twin.state._replace(**{hidden: getattr(twin.state, hidden) * 1.5 + 0.1})
    for one, other in zip(batch._view(*[batch._unknown] * 3), twin._view(*[twin._unknown] * 3), strict=True):
        np.testing.assert_array_equal(one, other)
    for key in ("mean_demand", "optimal_price"):
        if key in info and np.any(info[key] % 1.0 != 0):
            uneven = info[key][info[key] % 1.0 != 0].astype(np.float32)
            assert not np.isin(uneven, observation).all()


@every_family
def test_actions_go_from_the_lowest_over_the_list_to_the_highest_price(name, family):
    env = MarketEnv(name, family)
    for action, bound in ((-1.0, 0), (0.0, None), (1.0, 1)):
        env.reset(seed=1)
        market, list_price = env._desk.batch.market, env._desk.batch.state.list_price
        expected = list_price * (1.0 if bound is None else market.price_bounds[bound])
        observation, *_ = env.step(np.full(env.action_space.shape, action))
        seen = observation[:-3].reshape(-1, 7)[:, 1].reshape(expected.shape)
        assert np.all(np.abs(seen - expected) <= 0.5001 * market.price_tick + 1e-6 * expected)


def test_an_observation_is_laid_out_as_documented():
    env = MarketEnv("retail", "shop")
    first, _ = env.reset(seed=0)
    items = first[:-3].reshape(10, 7)
    state = env._desk.batch.state
    assert not items[:, :3].any()
    np.testing.assert_allclose(items[:, 3], state.list_price.ravel(), rtol=1e-6)
    np.testing.assert_allclose(items[:, 4], state.cost.ravel(), rtol=1e-6)
    assert np.all(items[:, 6] == -1)
    np.testing.assert_allclose(first[-3:], [0.0, 1.0, 0.0])
    for _ in range(52):
        observation, *_, info = env.step(np.zeros(10))
    angle = 2 * np.pi * 52 * 7 / 365.25
    np.testing.assert_allclose(observation[-3:], [np.sin(angle), np.cos(angle), 1.0], atol=1e-6)
    inventory = env._desk.batch.state.supply[..., 0].ravel()
    expected = np.where(np.isinf(inventory), -1.0, inventory)
    np.testing.assert_allclose(observation[:-3].reshape(10, 7)[:, 5], expected)
    rival = MarketEnv("retail", "rival")
    observation, _ = rival.reset(seed=0)
    assert (observation[:-3].reshape(10, 7)[:, 6] > 0).any()


def test_rewards_respond_to_prices_and_the_optimum_beats_half_price():
    def total(choose):
        env = MarketEnv("retail", settings=RetailSettings(stocked_share=0.0), num_periods=30)
        env.reset(seed=1)
        info, rewards = {}, []
        for _ in range(30):
            _, reward, _, _, info = env.step(choose(env, info))
            rewards.append(reward)
        return sum(rewards)

    def optimal(env, info):
        if not info:
            return np.zeros(10)
        return np.clip(np.log2(info["optimal_price"] / env._desk.batch.state.list_price.ravel()), -1, 1)

    assert total(optimal) > total(lambda env, info: np.zeros(10)) > 0
    assert total(lambda env, info: np.full(10, -1.0)) < 0


@pytest.mark.parametrize(
    "action, message",
    [(np.zeros(3), "shape"), (np.full(10, np.nan), "item 0 is nan"), (np.full(10, 2.0), r"item 0 is 2.0.*\[-1, 1\]")],
)
def test_bad_actions_are_refused_and_the_market_stays_as_it_was(action, message):
    env, clean = MarketEnv("retail"), MarketEnv("retail")
    env.reset(seed=0), clean.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    np.testing.assert_array_equal(env.step(np.zeros(10))[0], clean.step(np.zeros(10))[0])


def test_a_step_before_the_first_reset_or_after_the_end_is_refused():
    with pytest.raises(ValueError, match="reset"):
        MarketEnv("retail").step(np.zeros(10))
    with pytest.raises(ValueError, match="reset"):
        MarketVectorEnv("retail", num_envs=2).step(np.zeros((2, 10)))
    env = MarketEnv("retail", num_periods=1)
    env.reset(seed=0)
    env.step(np.zeros(10))
    with pytest.raises(ValueError, match="1 periods is over"):
        env.step(np.zeros(10))


def test_impossible_environments_are_refused():
    with pytest.raises(ValueError, match="known retail families"):
        MarketEnv("retail", "bazaar")
    with pytest.raises(ValueError, match="known markets"):
        MarketVectorEnv("bazaar")
    with pytest.raises(ValueError, match="num_envs is 0"):
        MarketVectorEnv("retail", num_envs=0)
    with pytest.raises(ValueError, match="3 seeds"):
        MarketVectorEnv("retail", num_envs=2).reset(seed=[1, 2, 3])
