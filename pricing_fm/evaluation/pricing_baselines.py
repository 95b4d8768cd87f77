"""Price rules from a logged panel: what a shop does without a model, each at its own best.

Every rule proposes one price per item, inside the range of prices that the log holds for that item.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.elasticity_estimates import estimate_elasticities
from pricing_fm.panel.panel import Panel

Objective = Literal["margin", "revenue"]

GRID_POINTS = 61  # prices tried between an item's lowest and highest logged price
MARKUP_POINTS = 61  # markups tried between the category's lowest and highest logged markup


class PriceRule(Protocol):
    """A rule that turns a log into one price per item."""

    @property
    def name(self) -> str:
        """Name in result rows."""
        ...

    def propose(self, panel: Panel) -> pd.DataFrame:
        """One price per item.

        Args:
            panel (`Panel`): Logged panel; everything in it may be used.

        Returns:
            `pd.DataFrame`: `item_id, price`, sorted by item.
        """
        ...


@dataclass(frozen=True)
class LastPrice:
    """Keep the manager's last price."""

    name: str = "last_price"

    def propose(self, panel: Panel) -> pd.DataFrame:
        """The last logged price of each item."""
        history = read_price_history(panel)
        return _proposal(history, history["last_price"].to_numpy())


@dataclass(frozen=True)
class CompetitorMatch:
    """Charge what the outside rival charges, inside the item's own logged range.

    Args:
        ratio (`float`): Own price relative to the rival's.
    """

    ratio: float = 1.0
    name: str = "competitor_match"

    def propose(self, panel: Panel) -> pd.DataFrame:
        """The rival's last price; items without a rival keep their last price.

        Raises:
            ValueError: If the panel has no rival prices.
        """
        if names.COMPETITOR_PRICE not in panel.frame:
            raise ValueError(f"panel {panel.name!r} has no competitor_price; leave this rule out")
        history = read_price_history(panel)
        rival = panel.frame.groupby(names.ITEM_ID, sort=True)[names.COMPETITOR_PRICE].last().to_numpy()
        return _proposal(history, np.where(np.isnan(rival), history["last_price"], self.ratio * rival))


@dataclass(frozen=True)
class CostPlus:
    """Cost times one markup per category, fitted to the log.

    Args:
        markup (`str`): `best` takes the markup that would have earned most under the category's log-log demand, inside
            the category's logged markups; `usual` takes the median of the logged ones.
        assumed_cost_share (`float`, *optional*): Cost as a share of the item's median price where the log has no cost.
    """

    markup: Literal["best", "usual"] = "best"
    assumed_cost_share: float | None = None
    name: str = "cost_plus"

    def propose(self, panel: Panel) -> pd.DataFrame:
        """The last cost times the category's markup.

        Raises:
            ValueError: If costs are neither logged nor assumed.
        """
        history = read_price_history(panel)
        cost = _costs(history, panel, self.assumed_cost_share)
        estimates = estimate_elasticities(panel)
        price = np.empty(len(history))
        for _, group in estimates.groupby(names.CATEGORY, sort=True, dropna=False):
            rows = group.index.to_numpy()
            logged = _logged_markups(panel, history.iloc[rows], cost[rows])
            markup = float(np.median(logged))
            if self.markup == "best" and np.isfinite(group["category_elasticity"].iloc[0]):
                markup = _best_markup(group, history.iloc[rows], cost[rows], logged)
            price[rows] = markup * cost[rows]
        return _proposal(history, price)


@dataclass(frozen=True)
class LogLogElasticity:
    """Best price on a grid under constant-elasticity demand, estimated with shrinkage from the log.

    Args:
        objective (`str`): `margin` or `revenue`.
        week_effects (`bool`): Whether the regression removes the mean of each (category, period) instead of season and
            trend; better where demand shocks are common to a category.
        assumed_cost_share (`float`, *optional*): Cost as a share of the item's median price where the log has no cost.
    """

    objective: Objective = "margin"
    week_effects: bool = False
    assumed_cost_share: float | None = None
    name: str = "log_log_elasticity"

    def propose(self, panel: Panel) -> pd.DataFrame:
        """The price of the grid with the highest expected objective; the last price where no price ever moved.

        Raises:
            ValueError: If the objective is margin and costs are neither logged nor assumed.
        """
        history = read_price_history(panel)
        elasticity = estimate_elasticities(panel, self.week_effects)["elasticity"].to_numpy()
        cost = np.zeros(len(history))
        if self.objective == "margin":
            cost = _costs(history, panel, self.assumed_cost_share)
        low, high = history["lowest_price"].to_numpy(), history["highest_price"].to_numpy()
        last = history["last_price"].to_numpy()
        share = np.linspace(0.0, 1.0, GRID_POINTS)
        grid = low[:, None] * (high / low)[:, None] ** share  # geometric: equal relative steps
        relative = grid / last[:, None]
        value = (grid - cost[:, None]) * relative ** np.nan_to_num(elasticity)[:, None]
        best = grid[np.arange(len(grid)), value.argmax(axis=1)]
        return _proposal(history, np.where(np.isnan(elasticity), last, best))


@dataclass(frozen=True)
class BoostedDemand:
    """Best price on a grid under demand that boosted trees have learned, falling with the price by constraint.

    One model for all items: mean sales of the item, price over the item's mean price, promotion and category.

    Args:
        rounds (`int`): Trees.
        assumed_cost_share (`float`, *optional*): Cost as a share of the item's median price where the log has no cost.
    """

    rounds: int = 100
    assumed_cost_share: float | None = None
    name: str = "boosted_demand"

    def propose(self, panel: Panel) -> pd.DataFrame:
        """The price of the item's logged range with the highest expected margin.

        Raises:
            ValueError: If costs are neither logged nor assumed.
        """
        from lightgbm import LGBMRegressor  # an extra of the package: only this rule needs it

        history = read_price_history(panel)
        cost = _costs(history, panel, self.assumed_cost_share)
        frame = panel.frame[panel.frame[names.PRICE].notna() & panel.frame[names.UNITS].notna()]
        means = frame.groupby(names.ITEM_ID, sort=True)[[names.UNITS, names.PRICE]].mean()
        own = means.loc[frame[names.ITEM_ID]]
        promotions = list(panel.schema.promotions)
        codes = frame[names.CATEGORY].astype("category").cat.codes if names.CATEGORY in frame else 0
        features = np.column_stack(
            [
                np.log(frame[names.PRICE].to_numpy() / own[names.PRICE].to_numpy()),
                np.log(own[names.UNITS].to_numpy() + 1e-3),
                np.broadcast_to(codes, len(frame)),
                frame[promotions].fillna(0.0).to_numpy(),
            ]
        )
        model = LGBMRegressor(
            objective="poisson", n_estimators=self.rounds, learning_rate=0.05, num_leaves=15, min_child_samples=10,
            monotone_constraints=[-1] + [0] * (features.shape[1] - 1), n_jobs=1, verbose=-1,
        )  # fmt: skip
        model.fit(features, frame[names.UNITS].to_numpy())
        first = frame.groupby(names.ITEM_ID, sort=True).cumcount().to_numpy() == 0
        order = np.argsort(frame[names.ITEM_ID].to_numpy()[first], kind="stable")
        asked = np.repeat(features[first][order], GRID_POINTS, axis=0)
        low, high = history["lowest_price"].to_numpy(), history["highest_price"].to_numpy()
        grid = low[:, None] * (high / low)[:, None] ** np.linspace(0.0, 1.0, GRID_POINTS)
        asked[:, 0] = np.log(grid / means[names.PRICE].to_numpy()[:, None]).ravel()
        asked[:, 3:] = 0.0
        value = (grid - cost[:, None]) * np.asarray(model.predict(asked)).reshape(grid.shape)
        return _proposal(history, grid[np.arange(len(grid)), value.argmax(axis=1)])


def build_price_rules(
    panel: Panel, objective: Objective = "margin", assumed_cost_share: float | None = None
) -> list[PriceRule]:
    """The rules that a panel has the columns for.

    Args:
        panel (`Panel`): Logged panel.
        objective (`str`): `margin` or `revenue`; cost-plus needs margin.
        assumed_cost_share (`float`, *optional*): Cost as a share of the item's median price where the log has no cost.

    Returns:
        `list[PriceRule]`: Last price, log-log elasticity and, where they apply, cost-plus and competitor match.
    """
    rules: list[PriceRule] = [LastPrice(), LogLogElasticity(objective, assumed_cost_share=assumed_cost_share)]
    if objective == "margin":
        rules.append(CostPlus(assumed_cost_share=assumed_cost_share))
    if names.COMPETITOR_PRICE in panel.frame:
        rules.append(CompetitorMatch())
    return rules


def read_price_history(panel: Panel) -> pd.DataFrame:
    """Last price and range of logged prices of every item.

    Args:
        panel (`Panel`): Logged panel; carried-over prices and known future rows do not count.

    Returns:
        `pd.DataFrame`: Sorted by item: `item_id, last_price, lowest_price, median_price, highest_price`, currency per
            unit.

    Raises:
        ValueError: If an item has no logged price.
    """
    frame = panel.frame
    logged = frame[names.PRICE].notna() & frame[names.UNITS].notna()
    if names.PRICE_IMPUTED in frame:
        logged &= ~frame[names.PRICE_IMPUTED].astype(bool)
    prices = frame[logged.to_numpy()].groupby(names.ITEM_ID, sort=True)[names.PRICE]
    history = prices.agg(last_price="last", lowest_price="min", median_price="median", highest_price="max")
    history = history.reindex(list(panel.item_ids))
    if history["last_price"].isna().any():
        item = history.index[history["last_price"].isna()][0]
        raise ValueError(f"item {item!r} of panel {panel.name!r} has no logged price; select items with a history")
    return history.rename_axis(names.ITEM_ID).reset_index()


def _proposal(history: pd.DataFrame, price: np.ndarray) -> pd.DataFrame:
    limited = np.clip(price, history["lowest_price"], history["highest_price"])
    return pd.DataFrame({names.ITEM_ID: history[names.ITEM_ID], names.PRICE: np.asarray(limited, dtype=np.float64)})


def _costs(history: pd.DataFrame, panel: Panel, assumed_cost_share: float | None) -> np.ndarray:
    """Last known cost of every item, currency per unit."""
    cost = np.full(len(history), np.nan)
    if names.COST in panel.frame:
        cost = panel.frame.groupby(names.ITEM_ID, sort=True)[names.COST].last().to_numpy(dtype=np.float64)
    if assumed_cost_share is not None:
        cost = np.where(np.isnan(cost), assumed_cost_share * history["median_price"].to_numpy(), cost)
    if np.isnan(cost).any():
        item = history[names.ITEM_ID].to_numpy()[np.isnan(cost)][0]
        raise ValueError(f"item {item!r} has no cost; log it, pass assumed_cost_share, or price for revenue")
    return cost


def _logged_markups(panel: Panel, history: pd.DataFrame, cost: np.ndarray) -> np.ndarray:
    """Price over cost in every logged period of some items, with the last cost where the period has none."""
    frame = panel.frame
    rows = frame[
        frame[names.ITEM_ID].isin(history[names.ITEM_ID]) & frame[names.PRICE].notna() & frame[names.UNITS].notna()
    ]
    last = rows[names.ITEM_ID].map(dict(zip(history[names.ITEM_ID], cost)))
    costs = rows[names.COST].fillna(last) if names.COST in rows else last
    markups = (rows[names.PRICE] / costs).to_numpy(dtype=np.float64)
    return markups[np.isfinite(markups)]


def _best_markup(estimates: pd.DataFrame, history: pd.DataFrame, cost: np.ndarray, logged: np.ndarray) -> float:
    """The one markup that earns most over all items of a category, each price inside its item's logged range."""
    markups = np.geomspace(logged.min(), logged.max(), MARKUP_POINTS)
    prices = np.clip(markups[:, None] * cost, history["lowest_price"].to_numpy(), history["highest_price"].to_numpy())
    level = estimates["log_level"].to_numpy() + estimates["elasticity"].to_numpy() * np.log(prices)
    profit = np.nansum((prices - cost) * np.exp(level), axis=1)
    return float(markups[profit.argmax()])
