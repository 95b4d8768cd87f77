"""Retail markets as Gymnasium environments, single and vectorised."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector.utils import batch_space

from pricing_fm.markets.batch import RetailBatch, RetailTruth, RetailView
from pricing_fm.markets.parameters import RetailSettings, round_to_tick

_PRICE_BOUNDS = (0.5, 2.0)  # multiples of the list price: two to the power of an action in [-1, 1]
_LARGEST = 1e9  # finite, so that observation spaces can be sampled and normalised
_FEATURES = 6  # per item: units, price, promotion of last week; list price, cost, inventory of this week


class RetailEnv(gym.Env[np.ndarray, np.ndarray]):
    """One store x category, priced for a year.

    State: hidden demand shock, stock, remembered prices, costs and list prices that move.
    Observation: per item units, price and promotion of last week (zero before the first week) and list price, cost and
    inventory (-1 where no stock is kept) of this week, then sine and cosine of the week of the year.
    Action: per item the base-2 logarithm of price over list price, in [-1, 1]: 0 is the list price, -1 half of it;
    prices are rounded to the smallest coin.
    Reward: margin of the week, currency. Episodes are truncated after `num_periods` weeks and never terminate.
    Truth (mean demand, hidden shock, optimal price) is in `info` alone. Every reset without a seed opens a new market.

    Args:
        settings: Ranges from which the markets are drawn; None = the defaults with one store.
        num_periods: Weeks of an episode.

    Raises:
        ValueError: If `num_periods` is below 1 or the settings name several stores.
    """

    metadata = {"render_modes": []}

    def __init__(self, settings: RetailSettings | None = None, num_periods: int = 52) -> None:
        self._settings, self._num_periods = _check_settings(settings), num_periods
        self.observation_space, self.action_space = _build_spaces(self._settings)
        self._batch: RetailBatch | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Open a market; see `gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self._batch = _open_batch(self._settings, [self.np_random], self._num_periods)
        return _flatten_view(self._batch.reset())[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Sell for one week; see `gymnasium.Env.step`.

        Raises:
            ValueError: If the action has the wrong shape, is NaN or out of bounds; the market stays as it was.
        """
        if self._batch is None:
            raise ValueError("the environment was not reset; call reset() before step()")
        view, rewards, terminations, truncations, truth = self._batch.step(_to_prices(self._batch, action[None]))
        info = {name: values[0] for name, values in _describe(truth).items()}
        return _flatten_view(view)[0], float(rewards[0]), bool(terminations[0]), bool(truncations[0]), info


class RetailVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many `RetailEnv` in one array program; environment i with seed s is the single environment with seed s + i.

    Args:
        num_envs: Environments side by side.
        settings: Ranges from which the markets are drawn; None = the defaults.
        num_periods: Weeks of an episode.

    Raises:
        ValueError: If `num_envs` or `num_periods` is below 1 or the settings name several stores.
    """

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int = 1, settings: RetailSettings | None = None, num_periods: int = 52) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be 1 or more")
        self.num_envs = num_envs
        self._settings, self._num_periods = _check_settings(settings), num_periods
        self.single_observation_space, self.single_action_space = _build_spaces(self._settings)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._randoms = [np_random(None)[0] for _ in range(num_envs)]
        self._batch: RetailBatch | None = None
        self._ended = False

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Open new markets; see `gymnasium.vector.VectorEnv.reset`."""
        seeds = (
            [None if seed is None else seed + i for i in range(self.num_envs)] if not isinstance(seed, list) else seed
        )
        for index, one in enumerate(seeds):
            if one is not None:
                self._randoms[index] = np_random(one)[0]
        return self._open(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Sell for one week; see `gymnasium.vector.VectorEnv.step`. After a truncation the next step opens new markets.

        Raises:
            ValueError: If the actions have the wrong shape, are NaN or out of bounds; the markets stay as they were.
        """
        if self._batch is None:
            raise ValueError("the environment was not reset; call reset() before step()")
        if self._ended:
            # Every episode has the same length, so all environments begin anew together.
            none = np.zeros(self.num_envs, dtype=bool)
            return self._open(), np.zeros(self.num_envs), none, none.copy(), {}
        view, rewards, terminations, truncations, truth = self._batch.step(_to_prices(self._batch, actions))
        self._ended = bool(truncations.all())
        info: dict[str, Any] = {}
        for name, values in _describe(truth).items():
            info[name], info[f"_{name}"] = values, np.ones(self.num_envs, dtype=bool)
        return _flatten_view(view), rewards, terminations, truncations, info

    def _open(self) -> np.ndarray:
        self._batch, self._ended = _open_batch(self._settings, self._randoms, self._num_periods), False
        return _flatten_view(self._batch.reset())


def register_environments() -> None:
    """Make `gymnasium.make("pricing_fm/Retail-v0")` and `gymnasium.make_vec` find the markets; again does no harm."""
    if "pricing_fm/Retail-v0" in gym.registry:
        return
    gym.register(
        id="pricing_fm/Retail-v0",
        entry_point="pricing_fm.markets.environments:RetailEnv",
        vector_entry_point="pricing_fm.markets.environments:RetailVectorEnv",
    )


def _check_settings(settings: RetailSettings | None) -> RetailSettings:
    chosen = settings or RetailSettings()
    if chosen.num_stores != 1:
        raise ValueError(f"settings.num_stores is {chosen.num_stores}; an environment is one store, so it must be 1")
    return chosen


def _build_spaces(settings: RetailSettings) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    items = settings.num_products * settings.num_segments
    low = np.concatenate([np.tile([0, 0, 0, 0, 0, -1], items), [-1, -1]]).astype(np.float32)
    high = np.concatenate([np.full(items * _FEATURES, _LARGEST), [1, 1]]).astype(np.float32)
    observation_space = gym.spaces.Box(low, high, dtype=np.float32)
    return observation_space, gym.spaces.Box(-1.0, 1.0, shape=(items,), dtype=np.float32)


def _open_batch(settings: RetailSettings, randoms: list[np.random.Generator], num_periods: int) -> RetailBatch:
    """A new market per environment, named by a number from its own generator."""
    market_ids = np.array([random.integers(2**62) for random in randoms])
    return RetailBatch(settings, market_ids, 0, num_periods, _PRICE_BOUNDS)


def _to_prices(batch: RetailBatch, actions: np.ndarray) -> np.ndarray:
    markets, products, segments = batch.shape
    values = np.asarray(actions, dtype=np.float64)
    if values.shape != (markets, products * segments):
        raise ValueError(f"the action has shape {values.shape}; it must be {(markets, products * segments)}")
    if not np.all(np.abs(values) <= 1.0):
        raise ValueError("the action holds a value that is NaN or outside [-1, 1]")
    return round_to_tick(batch.state.list_price * 2.0 ** values.reshape(batch.shape), batch.parameters.price_tick)


def _flatten_view(view: RetailView) -> np.ndarray:
    """float32, `(markets, items * 6 + 2)`."""
    inventory = np.where(np.isinf(view.inventory), -1.0, view.inventory)
    known = [np.nan_to_num(values) for values in (view.units, view.price, view.promotion)]
    parts = np.stack([*known, view.list_price, view.cost, inventory], axis=-1)
    angle = 2.0 * np.pi * view.period[:, None] * 7.0 / 365.25
    flat = [parts.reshape(len(view.period), -1), np.sin(angle), np.cos(angle)]
    return np.minimum(np.concatenate(flat, axis=1), _LARGEST).astype(np.float32)


def _describe(truth: RetailTruth) -> dict[str, np.ndarray]:
    """Hidden truth, `(markets, items)` each."""
    names = ("mean_demand", "demand", "hidden_shock", "optimal_price", "item_rewards")
    return {name: getattr(truth, name).reshape(len(truth.mean_demand), -1) for name in names}
