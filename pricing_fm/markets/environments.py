"""Markets of every domain as Gymnasium environments, single and vectorised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector.utils import batch_space

from pricing_fm.markets.arguments import check_count, check_options, check_reals
from pricing_fm.markets.batch import MarketBatch, open_batch
from pricing_fm.markets.core import Observation, get_inventory, get_unit_cost
from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.prices import round_to_tick

_LARGEST = 1e9  # finite, so that observation spaces can be sampled and normalised
# Per item, in this order; then sine and cosine of the season and the share of the episode that is gone.
_FEATURES = ("units", "price", "promotion", "list_price", "cost", "inventory", "competitor_price")
_LOWEST = (0.0, 0.0, 0.0, 0.0, -_LARGEST, -1.0, -1.0)
_CLOCK = 3


class MarketEnv(gym.Env[np.ndarray, np.ndarray]):
    """One market of a domain, priced for an episode.

    Observation, float32: per item units, price and promotion of last period (zero before the first one) and list price,
    cost, inventory (-1 = unlimited) and competitor price (-1 = none, or the report is missing) of this one; then sine
    and cosine of the season (of the episode, where the family has no season) and the share of the episode that is gone.
    Action: per item a number in [-1, 1]: -1 is the lowest, 0 the list and 1 the highest admissible price, geometric in
    between; prices are rounded to the tick.
    Reward: currency of the period, all items together.
    Truth (mean demand, demand, hidden shock, item rewards, and where the family has it optimal price of the period;
    at the reset, where the family has it, willingness to pay; see `MarketTruth`) is in `info` alone, one number per
    item. Every reset opens a new market of the family.

    Args:
        domain: A key of `DOMAINS`.
        family: One of the domain's families; None = its first.
        settings: Ranges from which the markets are drawn; None = the domain's defaults.
        num_periods: Periods of an episode, a whole number >= 1; None = as the family has it.

    Raises:
        ValueError: If the domain, the family or the settings are unknown or `num_periods` is no whole number >= 1.
    """

    metadata = {"render_modes": []}

    def __init__(
        self, domain: str, family: str | None = None, settings: Any = None, num_periods: int | None = None
    ) -> None:
        self._source = (domain, family, settings, num_periods)
        self.observation_space, self.action_space = _build_spaces(self._source)
        self._desk: _Desk | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Open a market; see `gymnasium.Env.reset`.

        Args:
            seed: Seed of this market and those of later resets, a whole number >= 0; None = go on with the generator.
            options: None or empty; a market has none.

        Returns:
            Observation before the first period, and the truth that stays for the episode.

        Raises:
            ValueError: If the seed is no whole number >= 0 or there are options; the environment stays as it was.
        """
        check_options(options)
        super().reset(seed=None if seed is None else check_count("seed", seed, 0))
        self._desk = _open_desk(self._source, [self.np_random], ())
        return self._desk.look(), self._desk.introduce()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Sell for one period; see `gymnasium.Env.step`.

        Raises:
            ValueError: If the action has the wrong shape, is no real number, NaN or out of bounds, or the episode is
                over; the market stays as it was.
        """
        desk = self._desk
        if desk is None:
            raise ValueError("the environment was not reset; call reset() before step()")
        observation, item_rewards, info = desk.sell(check_reals("action", action))
        is_over = desk.batch.periods_left == 0
        return observation, float(np.add.reduce(item_rewards)), is_over and desk.ends, is_over and not desk.ends, info


class MarketVectorEnv(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many `MarketEnv` in one array program; environment i with seed s is the single environment with seed s + i.

    Args:
        domain: A key of `DOMAINS`.
        num_envs: Environments side by side, a whole number >= 1.
        family: One of the domain's families; None = its first.
        settings: Ranges from which the markets are drawn; None = the domain's defaults.
        num_periods: Periods of an episode, a whole number >= 1; None = as the family has it.

    Raises:
        ValueError: If `num_envs` or `num_periods` is no whole number >= 1 or the domain, the family or the settings are
            unknown.
    """

    metadata = {"render_modes": [], "autoreset_mode": gym.vector.AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        domain: str,
        num_envs: int = 1,
        family: str | None = None,
        settings: Any = None,
        num_periods: int | None = None,
    ) -> None:
        self.num_envs = check_count("num_envs", num_envs)
        self._source = (domain, family, settings, num_periods)
        spaces = _build_spaces(self._source)
        self.single_observation_space, self.single_action_space = spaces
        self.observation_space, self.action_space = (batch_space(space, self.num_envs) for space in spaces)
        self._randoms = [np_random(None)[0] for _ in range(self.num_envs)]
        self._desk: _Desk | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | np.ndarray | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Open new markets; see `gymnasium.vector.VectorEnv.reset`.

        Args:
            seed: Seed s = s + i for environment i; or a sequence or array with one seed per environment. None = the
                environment goes on with its generator.
            options: None or empty; markets have none.

        Returns:
            Observations before the first period, and the truth that stays for the episode.

        Raises:
            ValueError: If a seed is no whole number >= 0, there is not one per environment, or there are options; the
                environments stay as they were.
        """
        check_options(options)
        for index, one in enumerate(_spread_seeds(seed, self.num_envs)):
            if one is not None:
                self._randoms[index] = np_random(one)[0]
        return self._open()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Sell for one period; see `gymnasium.vector.VectorEnv.step`.

        After the last period of an episode the next step ignores the actions and opens new markets (`NEXT_STEP`).

        Raises:
            ValueError: If the actions have the wrong shape, are NaN or out of bounds; the markets stay as they were.
        """
        desk = self._desk
        if desk is None:
            raise ValueError("the environment was not reset; call reset() before step()")
        if desk.batch.periods_left == 0:
            # Every episode has the same length, so all environments begin anew together.
            none = np.zeros(self.num_envs, dtype=bool)
            observations, info = self._open()
            return observations, np.zeros(self.num_envs), none, none.copy(), info
        observations, item_rewards, truth = desk.sell(check_reals("actions", actions))
        is_over = desk.batch.periods_left == 0
        terminations, truncations = (np.full(self.num_envs, is_over and desk.ends is ends) for ends in (True, False))
        info = self._mask(truth)
        return observations, np.add.reduce(item_rewards, axis=1), terminations, truncations, info

    def _open(self) -> tuple[np.ndarray, dict[str, Any]]:
        self._desk = _open_desk(self._source, self._randoms, (self.num_envs,))
        return self._desk.look(), self._mask(self._desk.introduce())

    def _mask(self, truth: dict[str, np.ndarray]) -> dict[str, Any]:
        """Gymnasium's form of a vector's info: beside each name a mask of the environments that have it, here all."""
        return truth | {f"_{name}": np.ones(self.num_envs, dtype=bool) for name in truth}


def register_environments() -> None:
    """Make `gymnasium.make("pricing_fm/Retail-v0")` and `gymnasium.make_vec` find the markets; again does no harm."""
    for name in DOMAINS:
        environment_id = f"pricing_fm/{name.title().replace('_', '')}-v0"
        if environment_id not in gym.registry:
            gym.register(
                id=environment_id,
                entry_point="pricing_fm.markets.environments:MarketEnv",
                vector_entry_point="pricing_fm.markets.environments:MarketVectorEnv",
                kwargs={"domain": name},
            )


class _Desk:
    """What stands between actions and markets: prices for actions, observations and truth for what was sold.

    Whatever does not change from period to period is prepared once, in the shape in which it is used: a period of one
    market takes microseconds, and broadcasting or converting a number costs as much as the arithmetic.

    Args:
        batch: The markets.
        rows: Leading shape of everything that goes out or comes in: `(markets,)`, or `()` for one market alone.
    """

    def __init__(self, batch: MarketBatch, rows: tuple[int, ...]) -> None:
        market, shape = batch.market, batch.shape
        items = shape[1] * shape[2]
        self.batch, self.ends, self._items = batch, market.ends, (*rows, items)
        low, high = np.log(market.price_bounds)
        # Steps of log price for an action: spread x action, and tilt x |action| where the bounds are not symmetric.
        self._spread, self._tilt = np.full(self._items, 0.5 * (high - low)), float(0.5 * (high + low))
        self._edge = np.ones(self._items)
        # Prices rise and fall in whole ticks; as in `round_to_tick`, which is slower for a handful of prices.
        tick = market.price_tick
        self._ticks_in_one = None
        if np.all(tick < 1.0):
            self._ticks_in_one = np.array(np.broadcast_to(np.maximum(np.round(1.0 / tick), 1.0), shape))
        season = market.num_periods if market.calendar is None else market.calendar.season_length
        times = np.arange(market.num_periods + 1)
        angle = 2.0 * np.pi * times / season
        clock = np.stack([np.sin(angle), np.cos(angle), times / market.num_periods], axis=1)
        self._clock, self._time = clock.astype(np.float32), 0
        # Observations are written into one array, whose columns per item and for the clock are kept as views.
        width = items * len(_FEATURES)
        self._seen = np.full((*rows, width + _CLOCK), -1.0, dtype=np.float32)
        self._ceiling = np.full_like(self._seen, _LARGEST)
        self._seen_clock = self._seen[..., width:]
        by_item = self._seen[..., :width].reshape(*shape, len(_FEATURES))
        self._columns = {name: by_item[..., index] for index, name in enumerate(_FEATURES)}
        for name in ("units", "price", "promotion"):
            self._columns[name][...] = 0.0
        self._cost = self._list_price = np.empty(0)
        self._count_ticks(batch.state.list_price)
        # A supply limits an item always or never.
        self._is_limited = bool(np.isfinite(get_inventory(market, batch.state)).all())
        batch.get_optimal_prices()  # solved once, and again when costs move
        if not rows:
            # One market draws its random words for many periods at once; doing so here keeps the first step short.
            market.noise.draw(batch.random, batch.state.period, np.zeros(shape))

    def look(self) -> np.ndarray:
        """Observations before the first period, `(*rows, features)`."""
        return self._observe(None)

    def introduce(self) -> dict[str, np.ndarray]:
        """Truth that stays for the episode, by name, `(*rows, items)` each."""
        willingness = self.batch.willingness_to_pay
        return {} if willingness is None else {"willingness_to_pay": willingness.reshape(self._items).copy()}

    def sell(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Observations before the next period, item rewards and truth by name, `(*rows, ...)` each."""
        batch, items = self.batch, self._items
        batch.check_running()
        prices = self._to_prices(actions)
        best = batch.get_optimal_prices()
        observation, item_rewards, truth = batch.sell(prices)
        self._time += 1
        rewards = item_rewards.reshape(items)
        info = {
            "mean_demand": truth.mean_demand.reshape(items),
            "demand": truth.demand.reshape(items),
            "item_rewards": rewards,
        }
        if truth.hidden_shock is not None:
            info["hidden_shock"] = truth.hidden_shock.reshape(items)
        if best is not None:
            info["optimal_price"] = best.reshape(items).copy()
        return self._observe(observation), rewards, info

    def _to_prices(self, actions: np.ndarray) -> np.ndarray:
        if actions.shape != self._items:
            raise ValueError(f"the action has shape {actions.shape}; it must be {self._items}")
        size = np.abs(actions)
        # Counted so that NaN is refused.
        inside = size <= self._edge
        if np.count_nonzero(inside) != inside.size:
            place = tuple(np.argwhere(~inside)[0])
            raise ValueError(f"the action of item {place[-1]} is {actions[place]}; it must lie in [-1, 1]")
        factor = actions * self._spread
        if self._tilt:
            factor += size * self._tilt
        np.exp(factor, factor)
        list_price = self.batch.state.list_price
        factor = factor.reshape(list_price.shape)
        if self._ticks_in_one is None:
            return round_to_tick(list_price * factor, self.batch.market.price_tick)
        if list_price is not self._priced:
            self._count_ticks(list_price)
        factor *= self._list_ticks
        np.rint(factor, factor)
        if not self._is_above_tick:
            np.maximum(factor, 1.0, out=factor)
        factor /= self._ticks_in_one
        return factor

    def _count_ticks(self, list_price: np.ndarray) -> None:
        """List prices in ticks, and whether no admissible price is below one."""
        market = self.batch.market
        self._list_ticks, self._priced = list_price / market.price_tick, list_price
        self._is_above_tick = bool(self._list_ticks.min() * market.price_bounds[0] >= 1.0)

    def _observe(self, sold: Observation | None) -> np.ndarray:
        market, state, columns = self.batch.market, self.batch.state, self._columns
        if sold is not None:
            columns["units"][...] = sold.units
            columns["price"][...] = sold.price
        # What moves rarely stays where it was written.
        cost = get_unit_cost(market, state)
        if cost is not self._cost:
            columns["cost"][...] = self._cost = cost
        if state.list_price is not self._list_price:
            columns["list_price"][...] = self._list_price = state.list_price
        if market.supply is not None:
            available = get_inventory(market, state)
            columns["inventory"][...] = (
                available if self._is_limited else np.where(available == np.inf, -1.0, available)
            )
        if market.rivals is not None:
            reported = market.rivals.report(state.rivals, state.period, self.batch.random)
            columns["competitor_price"][...] = np.where(np.isnan(reported), -1.0, reported)
        self._seen_clock[...] = self._clock[self._time]
        # A new array, which the caller may keep.
        return np.minimum(self._seen, self._ceiling)


def _spread_seeds(seed: Any, num_envs: int) -> list[int | None]:
    """One seed per environment."""
    if seed is None:
        return [None] * num_envs
    is_list = isinstance(seed, Sequence) and not isinstance(seed, str | bytes)
    if not is_list and not (isinstance(seed, np.ndarray) and seed.ndim > 0):
        first = check_count("seed", seed, 0)
        return [first + index for index in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"seed holds {len(seed)} seeds; it needs one for each of {num_envs} environments")
    return [None if one is None else check_count(f"seed[{index}]", one, 0) for index, one in enumerate(seed)]


def _open_desk(
    source: tuple[str, str | None, Any, int | None], randoms: list[np.random.Generator], rows: tuple[int, ...]
) -> _Desk:
    """A new market per environment, named by a number from its own generator."""
    domain, family, settings, num_periods = source
    market_ids = np.array([random.integers(2**62) for random in randoms])
    return _Desk(open_batch(domain, market_ids, 0, family, settings, num_periods), rows)


def _build_spaces(source: tuple[str, str | None, Any, int | None]) -> tuple[gym.spaces.Box, gym.spaces.Box]:
    """Observation and action space of one environment."""
    domain, family, settings, num_periods = source
    _, products, segments = open_batch(domain, np.zeros(1, dtype=np.int64), 0, family, settings, num_periods).shape
    items = products * segments
    low = np.concatenate([np.tile(_LOWEST, items), [-1.0, -1.0, 0.0]]).astype(np.float32)
    high = np.concatenate([np.full(items * len(_FEATURES), _LARGEST), [1.0, 1.0, 1.0]]).astype(np.float32)
    observation_space = gym.spaces.Box(low, high, dtype=np.float32)
    return observation_space, gym.spaces.Box(-1.0, 1.0, shape=(items,), dtype=np.float32)
