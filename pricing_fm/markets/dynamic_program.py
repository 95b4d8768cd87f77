"""Exact dynamic programs on a small market's own functional core.

The states of the market's parts (memory, supply, rivals, regime) are put on a grid, prices on a ladder; every demand
that can happen is tabulated with its probability, and `core.settle` says what follows. Integer states (stocks, regimes)
are exact; continuous ones (remembered prices, pantries) are interpolated linearly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy.sparse import csr_matrix

from pricing_fm.markets.core import Market, MarketState, compute_final_value, compute_mean_demand, settle, start
from pricing_fm.markets.parts import is_time_invariant
from pricing_fm.markets.streams import build_streams

_MOST_ROWS = 2_000_000  # states x demands tabulated at once


@dataclass(frozen=True)
class DynamicProgram:
    """The solution of one market on a grid of states and a ladder of prices.

    Attributes:
        market: The market, one alone.
        discount: Worth of a period's reward one period earlier.
        ladder: Price vectors that may be charged, currency, `(rungs, products, segments)`.
        grids: Grid of every coordinate of the state.
        values: Best expected reward from each period and grid state on, currency, `(periods + 1, states)`.
        myopic_values: Same, for the seller who maximises each period's expected reward alone.
        constant_values: Expected reward from the first period on of every rung charged throughout, `(rungs,)`.
        choices, myopic_choices: Rung by period and grid state, int, `(periods, states)`.
        first: Position of the first state on the grid as interpolation weights, `(states,)`.
    """

    market: Market
    discount: float
    ladder: np.ndarray
    grids: tuple[np.ndarray, ...]
    values: np.ndarray
    myopic_values: np.ndarray
    constant_values: np.ndarray
    choices: np.ndarray
    myopic_choices: np.ndarray
    first: np.ndarray

    @property
    def value(self) -> float:
        """Optimal expected reward of the whole episode, currency."""
        return float(self.first @ self.values[0])

    @property
    def myopic_value(self) -> float:
        """Expected reward of the myopic seller over the whole episode, currency."""
        return float(self.first @ self.myopic_values[0])

    @property
    def constant_value(self) -> float:
        """Expected reward of the best price that never changes, currency."""
        return float(self.constant_values.max())

    def choose(self, state: MarketState, myopic: bool = False) -> np.ndarray:
        """Best prices of the ladder in any states of the market, by looking one period ahead.

        Args:
            state: States of many copies of the market side by side, all in the same period.
            myopic: True = the seller who looks at this period's reward alone.

        Returns:
            Prices, currency per unit, `(copies, products, segments)`.

        Raises:
            ValueError: If the copies are in different periods or the episode is over.
        """
        period = int(state.period[0])
        if np.any(state.period != period):
            raise ValueError("the copies are in different periods; choose prices for one period at a time")
        if period >= len(self.choices):
            raise ValueError(f"period is {period}; the episode has {len(self.choices)} periods")
        points = _to_points(state)
        here = _interpolate(points, self.grids)
        if here.nnz == len(points):
            # Every state lies on the grid: the table holds the answer.
            return self.ladder[(self.myopic_choices if myopic else self.choices)[period][here.indices]]
        following = self.discount * _apply_kernels(self.market, self.grids, self.values[period + 1])
        # Copies in the same state get the same answer.
        points, copy_of = np.unique(points, axis=0, return_inverse=True)
        best, rung = np.full(len(points), -np.inf), np.zeros(len(points), dtype=int)
        for index, prices in enumerate(self.ladder):
            reward, transition = _tabulate(self.market, prices, points, self.grids, period)
            value = reward if myopic else reward + transition @ following
            better = value > best
            best, rung = np.where(better, value, best), np.where(better, index, rung)
        return self.ladder[rung[copy_of.reshape(-1)]]


def solve_dynamic_program(
    market: Market, ladder: np.ndarray, grid_points: int = 81, discount: float = 1.0
) -> DynamicProgram:
    """Solve one market exactly on a grid.

    Args:
        market: One market (markets axis of one) without hidden shocks and with costs that stand still.
        ladder: Price vectors, currency, `(rungs, products, segments)`.
        grid_points: Points of every continuous coordinate.
        discount: Worth of a period's reward one period earlier, in (0, 1].

    Returns:
        Values and prices for every period and state.

    Raises:
        ValueError: If the market is not alone, has parts whose state is not on a finite grid, or the ladder has the
            wrong shape or a price that is not positive.
    """
    prices = _check_program(market, ladder)
    grids = _build_grids(market, grid_points)
    points = np.array(list(product(*grids))) if grids else np.zeros((1, 0))
    periods, states = market.num_periods, len(points)
    values, myopic = np.zeros((periods + 1, states)), np.zeros((periods + 1, states))
    constant = np.zeros((len(prices), states))
    if market.ends:
        last = _build_state(market, points, periods)
        final = compute_final_value(market.select(np.zeros(states, dtype=int)), last).sum(axis=(1, 2))
        values[periods] = myopic[periods] = constant[:] = final
    choices, myopic_choices = (np.zeros((periods, states), dtype=int) for _ in range(2))
    invariant = is_time_invariant(market.calendar, market.memory, market.supply, market.rivals)
    tables: list[tuple[np.ndarray, csr_matrix]] = []

    def add_future(rewards: np.ndarray, following: np.ndarray) -> np.ndarray:
        """Reward plus discounted future of every price vector, `(rungs, states)`; one future, or one for each."""
        ahead = [discount * _apply_kernels(market, grids, one) for one in following]
        futures = ahead if len(ahead) == len(tables) else ahead * len(tables)
        return rewards + np.stack([matrix @ one for (_, matrix), one in zip(tables, futures, strict=True)])

    for period in reversed(range(periods)):
        if not tables or not invariant:
            tables = [_tabulate(market, one, points, grids, period) for one in prices]
        rewards = np.stack([reward for reward, _ in tables])
        totals = add_future(rewards, values[period + 1][None])
        choices[period], values[period] = totals.argmax(axis=0), totals.max(axis=0)
        myopic_choices[period] = rewards.argmax(axis=0)
        followed = add_future(rewards, myopic[period + 1][None])
        myopic[period] = np.take_along_axis(followed, myopic_choices[period][None], axis=0)[0]
        constant = add_future(rewards, constant)
    first = _interpolate(_to_points(start(market, build_streams(0, np.zeros(1, dtype=int)))), grids)
    weights = np.asarray(first.todense())[0]
    return DynamicProgram(
        market, discount, prices, grids, values, myopic, constant @ weights, choices, myopic_choices, weights
    )


def _check_program(market: Market, ladder: np.ndarray) -> np.ndarray:
    prices = np.asarray(ladder, dtype=np.float64)
    if market.shape[0] != 1:
        raise ValueError(f"market holds {market.shape[0]} markets; solve them one by one")
    if market.shock is not None or market.costs.is_moving:
        raise ValueError(
            f"{market.domain}/{market.family} has hidden shocks or moving costs, which have no finite grid"
        )
    if prices.ndim != 3 or prices.shape[1:] != market.shape[1:] or not np.all(prices > 0):
        raise ValueError(f"ladder has shape {prices.shape}; it must be (rungs, *{market.shape[1:]}) with prices > 0")
    return prices


def build_price_ladder(market: Market, rungs: int) -> np.ndarray:
    """Price vectors of one market: for one item `rungs` prices, for several items all combinations of theirs.

    Args:
        market: One market.
        rungs: Prices of each item, equally spaced in logarithms over the bounds, in whole coins.

    Returns:
        Currency, `(combinations, products, segments)`, without repetition.
    """
    low, high = market.price_bounds
    tick = market.price_tick[0]
    single = []
    for one in np.broadcast_to(market.list_price, market.shape).ravel() / tick.item():
        # Whole coins inside the bounds; the small slack keeps a bound that is itself a whole coin.
        inside = (np.ceil(one * low - 1e-6), np.floor(one * high + 1e-6))
        coins = np.clip(np.round(one * np.geomspace(low, high, rungs)), *inside)
        single.append(np.unique(coins) * tick.item())
    return np.array(list(product(*single))).reshape(-1, *market.shape[1:])


def count_states(market: Market, grid_points: int = 81) -> float:
    """Grid states of one market's dynamic program; infinite where a part has no finite grid."""
    if market.shock is not None or market.costs.is_moving:
        return np.inf
    try:
        return float(np.prod([len(grid) for grid in _build_grids(market, grid_points)]))
    except ValueError:
        return np.inf


def count_outcomes(market: Market, prices: np.ndarray) -> int:
    """Combinations of demands of one market's items that a dynamic program tells apart at the given prices.

    Args:
        market: One market.
        prices: Currency per unit, `(products, segments)`.

    Returns:
        1 where sales are not limited (mean demand is all that matters).
    """
    if market.supply is None:
        return 1
    mean = compute_mean_demand(market, start(market, build_streams(0, np.zeros(1, dtype=int))), prices[None])
    outcomes = 1
    for place in np.ndindex(*market.shape[1:]):
        item = (np.array([0]), np.array([place[0]]), np.array([place[1]]))
        noise = market.noise.select_items(market.shape, item)
        outcomes *= noise.tabulate(mean[:, place[0], place[1]].reshape(1, 1, 1))[1].shape[1]
    return outcomes


def _build_grids(market: Market, points: int) -> tuple[np.ndarray, ...]:
    """One grid per coordinate, in the order of `_to_points`."""
    items = list(np.ndindex(*market.shape))
    grids: list[np.ndarray] = []
    list_price = np.broadcast_to(market.list_price, market.shape)

    def single(part: object, item: tuple[int, ...]) -> object:
        return part.select_items(market.shape, tuple(np.array([index]) for index in item))  # type: ignore[attr-defined]

    if market.memory is not None:
        for item in items:
            one = list_price[item].reshape(1, 1, 1)
            grids += single(market.memory, item).build_grid(one, market.price_bounds, points)  # type: ignore[attr-defined]
    if market.supply is not None:
        if getattr(market.supply, "is_shared", False):
            grids += market.supply.build_grid()
        else:
            for item in items:
                grids += single(market.supply, item).build_grid()  # type: ignore[attr-defined]
    if market.rivals is not None:
        for item in items:
            one = list_price[item].reshape(1, 1, 1)
            grids += single(market.rivals, item).build_grid(one, market.price_bounds, points)  # type: ignore[attr-defined]
    if market.regimes is not None:
        grids.append(np.arange(float(market.regimes.count)))
    return tuple(grids)


def _to_points(state: MarketState) -> np.ndarray:
    """Coordinates of states, `(copies, coordinates)`: memory, supply, rivals, regime."""
    copies = len(state.period)
    parts = [values.reshape(copies, -1) for values in (state.memory, state.supply, state.rivals) if values is not None]
    if state.regime is not None:
        parts.append(state.regime[:, None].astype(float))
    return np.concatenate(parts, axis=1) if parts else np.zeros((copies, 0))


def _build_state(market: Market, points: np.ndarray, period: int) -> MarketState:
    """States of copies of one market at given coordinates."""
    pattern = start(market, build_streams(0, np.zeros(1, dtype=int)))
    copies, taken, parts = len(points), 0, {}
    for name in ("memory", "supply", "rivals"):
        values = getattr(pattern, name)
        if values is not None:
            size = values[0].size
            parts[name] = points[:, taken : taken + size].reshape(copies, *values.shape[1:])
            taken += size
    regime = None if pattern.regime is None else np.round(points[:, taken]).astype(int)
    rows = np.zeros(copies, dtype=int)
    return pattern.select(rows)._replace(period=np.full(copies, period), regime=regime, **parts)


def _tabulate(
    market: Market, prices: np.ndarray, points: np.ndarray, grids: tuple[np.ndarray, ...], period: int
) -> tuple[np.ndarray, csr_matrix]:
    """Expected reward and transition probabilities of one price vector from each point."""
    rows = max(1, _MOST_ROWS // 64)
    parts = [
        _tabulate_rows(market, prices, points[first : first + rows], grids, period)
        for first in range(0, len(points), rows)
    ]
    if len(parts) == 1:
        return parts[0]
    # scipy's vstack would do the same; rows are few enough here to go through one array of triplets.
    rewards = np.concatenate([reward for reward, _ in parts])
    indptr = np.concatenate([[0], *[np.diff(matrix.indptr) for _, matrix in parts]]).cumsum()
    indices = np.concatenate([matrix.indices for _, matrix in parts])
    data = np.concatenate([matrix.data for _, matrix in parts])
    return rewards, csr_matrix((data, indices, indptr), shape=(len(points), parts[0][1].shape[1]))


def _tabulate_rows(
    market: Market, prices: np.ndarray, points: np.ndarray, grids: tuple[np.ndarray, ...], period: int
) -> tuple[np.ndarray, csr_matrix]:
    copies = market.select(np.zeros(len(points), dtype=int))
    state = _build_state(market, points, period)
    charged = np.broadcast_to(prices, copies.shape)
    mean = compute_mean_demand(copies, state, charged)
    if market.supply is None:
        demands, probabilities = mean[:, None], np.ones((len(points), 1))
    else:
        demands, probabilities = _tabulate_demand(copies, mean)
    atoms = probabilities.shape[1]
    many = np.repeat(np.arange(len(points)), atoms)
    spread = replace(copies.select(many)) if atoms > 1 else copies
    following, _, reward = settle(
        spread, state.select(many), charged[many], mean[many], demands.reshape(-1, *mean.shape[1:])
    )
    rewards = (reward.sum(axis=(1, 2)).reshape(-1, atoms) * probabilities).sum(axis=1)
    reached = _interpolate(_to_points(following), grids)
    gather = csr_matrix(
        (probabilities.ravel(), np.arange(len(many)), np.arange(0, len(many) + 1, atoms)),
        shape=(len(points), len(many)),
    )
    return rewards, gather @ reached


def _tabulate_demand(market: Market, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Demands `(markets, atoms, products, segments)` of all items together and their probabilities."""
    _, products, segments = mean.shape
    demands = np.zeros((len(mean), 1, 0))
    probabilities = np.ones((len(mean), 1))
    for place in np.ndindex(products, segments):
        everywhere = (np.arange(len(mean)), np.full(len(mean), place[0]), np.full(len(mean), place[1]))
        noise = market.noise.select_items(market.shape, everywhere)
        counts, chances = noise.tabulate(mean[:, place[0], place[1]].reshape(-1, 1, 1))
        before, now = demands.shape[1], counts.shape[1]
        demands = np.concatenate([np.repeat(demands, now, axis=1), np.tile(counts, (1, before))[..., None]], axis=2)
        probabilities = np.repeat(probabilities, now, axis=1) * np.tile(chances, (1, before))
    return demands.reshape(len(mean), -1, products, segments), probabilities


def _interpolate(points: np.ndarray, grids: tuple[np.ndarray, ...]) -> csr_matrix:
    """Multilinear interpolation weights of points on the product of the grids, `(points, states)`."""
    count = len(points)
    columns, weights = np.zeros((count, 1), dtype=np.int64), np.ones((count, 1))
    for axis, grid in enumerate(grids):
        if len(grid) == 1:
            continue
        x = np.clip(points[:, axis], grid[0], grid[-1])
        lower = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
        share = (x - grid[lower]) / (grid[lower + 1] - grid[lower])
        corners = np.stack([lower, lower + 1], axis=1)
        parts = np.stack([1.0 - share, share], axis=1)
        columns = (columns[:, :, None] * len(grid) + corners[:, None, :]).reshape(count, -1)
        weights = (weights[:, :, None] * parts[:, None, :]).reshape(count, -1)
    states = int(np.prod([len(grid) for grid in grids]))
    indptr = np.arange(0, columns.size + 1, columns.shape[1])
    matrix = csr_matrix((weights.ravel(), columns.ravel(), indptr), shape=(count, states))
    matrix.eliminate_zeros()
    return matrix


def _apply_kernels(market: Market, grids: tuple[np.ndarray, ...], values: np.ndarray) -> np.ndarray:
    """Expectation over what moves by itself: the regime and resources that come free."""
    if market.regimes is None and (market.supply is None or not market.supply.is_random):
        return values
    cube = values.reshape([len(grid) for grid in grids])
    if market.regimes is not None:
        cube = np.einsum("...j,ij->...i", cube, market.regimes.transition[0, 0, 0])
    if market.supply is not None and market.supply.is_random:
        pattern = start(market, build_streams(0, np.zeros(1, dtype=int)))
        before = 0 if pattern.memory is None else pattern.memory[0].size
        for layer in range(pattern.supply[0].size):
            kernel = market.supply.build_kernel(layer, grids[before + layer])
            cube = np.moveaxis(np.tensordot(kernel, cube, axes=(1, before + layer)), 0, before + layer)
    return cube.reshape(-1)
