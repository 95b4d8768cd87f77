"""Retail markets as Gymnasium environments: clean by Gymnasium's own checker, the same one by one and side by side."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pricing_fm.markets import RetailEnv, RetailSettings, RetailVectorEnv, register_environments

register_environments()


def test_gymnasium_finds_nothing_to_complain_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("pricing_fm/Retail-v0").unwrapped)


def test_an_environment_among_others_is_the_environment_alone():
    many = gym.make_vec("pricing_fm/Retail-v0", num_envs=4)
    assert isinstance(many.unwrapped, RetailVectorEnv)
    alone = gym.make("pricing_fm/Retail-v0")
    many.action_space.seed(0)
    observations, _ = many.reset(seed=3)
    observation, _ = alone.reset(seed=5)
    np.testing.assert_array_equal(observations[2], observation)
    for _ in range(52):
        actions = many.action_space.sample()
        observations, rewards, terminations, truncations, infos = many.step(actions)
        observation, reward, terminated, truncated, info = alone.step(actions[2])
        np.testing.assert_array_equal(observations[2], observation)
        assert (rewards[2], terminations[2], truncations[2]) == (reward, terminated, truncated)
        for name, value in info.items():
            np.testing.assert_array_equal(infos[name][2], value)
    assert truncated
    assert not terminated


def test_a_vector_of_environments_begins_anew_after_the_last_week():
    many = RetailVectorEnv(num_envs=2, num_periods=3)
    first, _ = many.reset(seed=0)
    still = np.zeros(many.action_space.shape)
    for week in range(3):
        *_, truncations, _ = many.step(still)
        assert truncations.all() == (week == 2)
    observations, rewards, _, truncations, _ = many.step(still)
    assert not truncations.any()
    assert not rewards.any()
    assert not np.array_equal(observations, first)
    assert many.observation_space.contains(observations)


def test_rewards_respond_to_prices_and_the_optimum_beats_half_price():
    def total(choose):
        env = RetailEnv(RetailSettings(stocked_share=0.0), num_periods=30)
        env.reset(seed=1)
        info = {}
        rewards = []
        for _ in range(30):
            _, reward, _, _, info = env.step(choose(env, info))
            rewards.append(reward)
        return sum(rewards)

    def optimal(env, info):
        if not info:
            return np.zeros(10)
        return np.clip(np.log2(info["optimal_price"] / env._batch.state.list_price.ravel()), -1, 1)

    assert total(optimal) > total(lambda env, info: np.zeros(10)) > 0
    assert total(lambda env, info: np.full(10, -1.0)) < 0


def test_the_truth_is_in_info_alone():
    env = RetailEnv()
    env.reset(seed=0)
    observation, _, _, _, info = env.step(np.zeros(10))
    assert {"mean_demand", "hidden_shock", "optimal_price"} <= set(info)
    for name in ("mean_demand", "optimal_price"):
        assert not np.isin(info[name].astype(np.float32), observation).any()


@pytest.mark.parametrize(
    "action, message", [(np.zeros(3), "shape"), (np.full(10, np.nan), "NaN"), (np.full(10, 2.0), "1")]
)
def test_bad_actions_are_refused_and_the_market_stays_as_it_was(action, message):
    env, clean = RetailEnv(), RetailEnv()
    env.reset(seed=0), clean.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        env.step(action)
    np.testing.assert_array_equal(env.step(np.zeros(10))[0], clean.step(np.zeros(10))[0])


def test_stepping_before_the_first_reset_is_refused():
    with pytest.raises(ValueError, match="reset"):
        RetailEnv().step(np.zeros(10))
    with pytest.raises(ValueError, match="reset"):
        RetailVectorEnv(num_envs=2).step(np.zeros((2, 10)))
    with pytest.raises(ValueError, match="num_stores"):
        RetailEnv(RetailSettings(num_stores=2))
