"""A market fitted to a panel: plain numbers that are kept, replayed at given prices, or drawn anew."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.markets.fitting.category_fit import CategoryFit, ShockFit, summarise_category
from pricing_fm.markets.fitting.chains import DRIFT, Chains
from pricing_fm.markets.fitting.demand_paths import DemandPaths, ShockLayer, draw_demand, open_streams
from pricing_fm.markets.fitting.design import Calendar, Design, build_design, compute_covariates
from pricing_fm.markets.fitting.effects import Level
from pricing_fm.markets.fitting.estimate import Estimates
from pricing_fm.markets.fitting.new_items import draw_new_items
from pricing_fm.markets.fitting.simulated_tables import Simulated, build_tables
from pricing_fm.markets.streams import START, Streams
from pricing_fm.panel import Frequency, Panel

_MARKET = "market.json"
_TABLES = ("items", "products", "stores")


@dataclass(frozen=True, eq=False)
class FittedMarket:
    """Everything that was learned of a panel, and none of its rows.

    Attributes:
        name: Name of the panel.
        fingerprint: Fingerprint of the panel.
        frequency: Name of its frequency.
        calendar: Season and trend.
        promotions: Promotion channels, in the order of the coefficients.
        zeros_unlisted: True if the source lists only what was sold; simulated panels then hide zeros as well.
        categories: One summary per category.
        items: One row per fitted item: ids, reference price, dispersion, coefficients with standard errors, and their
            covariance around the groups' (rows of a Cholesky factor).
        products, stores: One row per group: deviations of the coefficients, the errors its items share, and the scale
            of its shocks.
    """

    name: str
    fingerprint: str
    frequency: str
    calendar: Calendar
    promotions: tuple[str, ...]
    zeros_unlisted: bool
    categories: tuple[CategoryFit, ...]
    items: pd.DataFrame
    products: pd.DataFrame
    stores: pd.DataFrame

    @staticmethod
    def from_estimates(estimates: Estimates, panel: Panel) -> FittedMarket:
        """Keeps what a market is made of and lets the data go.

        Args:
            estimates: A fit.
            panel: The panel that it was fitted to.
        """
        design, effects = estimates.design, estimates.effects
        tables = {}
        for name in ("product", "store"):
            layer = effects.layers.get(name)
            tables[name] = _tabulate_layer(layer, _coefficient_names(design.promotions))
        return FittedMarket(
            name=panel.name,
            fingerprint=panel.fingerprint(),
            frequency=panel.frequency.name,
            calendar=design.calendar,
            promotions=design.promotions,
            zeros_unlisted=design.data.zeros_unlisted,
            categories=tuple(summarise_category(design, effects, c) for c in range(len(effects.means))),
            items=_tabulate_items(estimates),
            products=tables["product"],
            stores=tables["store"],
        )

    def simulate(
        self, num_periods: int | None, seed: int, prices: Panel | None = None, replicate: int = 0
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Draws a market: new items under the fitted manager, or the fitted items at given prices.

        Args:
            num_periods: Periods to draw; with `prices` at most as many as it has, and None means all.
            seed: Seed, >= 0; an item's path does not depend on how many others or later periods are drawn.
            prices: Panel whose items were fitted: its prices, promotions and stock are replayed, its units unused.
            replicate: Which repetition, >= 0.

        Returns:
            Panel in panel columns, and row for row the truth: `demand` (before stock and unlisted zeros) and
            `mean_demand` (given the hidden shock), units per period; `elasticity` (positive); `hidden_shock`, log.

        Raises:
            ValueError: If `num_periods` is None or below 2 without `prices`, or more than `prices` has.
            PanelError: If an item of `prices` was not fitted.
        """
        if prices is not None:
            return self._simulate_known(num_periods, seed, prices, replicate)
        if num_periods is None or num_periods < 2:
            raise ValueError(f"num_periods is {num_periods}; a drawn market needs 2 or more")
        start = np.full(num_periods, self.calendar.start.to_datetime64())
        timestamps = Frequency.parse(self.frequency).step(start, np.arange(num_periods)).astype("datetime64[ns]")
        parts = [self._simulate_category(fit, timestamps, seed, replicate) for fit in self.categories]
        panels, truths = zip(*(build_tables(part, timestamps, self.promotions, self.zeros_unlisted) for part in parts))
        return pd.concat(panels, ignore_index=True), pd.concat(truths, ignore_index=True)

    def replay(self, design: Design, seed: int, replicate: int = 0) -> DemandPaths:
        """Draws demand of fitted items at the prices of a design: coefficients from their posterior, shocks anew.

        Args:
            design: Arrays of a panel whose items were fitted.
            seed: Seed, >= 0.
            replicate: Which repetition, >= 0.

        Returns:
            Demand in counts, shape `(items, periods)` of the design.

        Raises:
            PanelError: If an item was not fitted.
        """
        rows = self._find(design.item_ids)
        table = self.items.iloc[rows]
        streams = open_streams(seed, [f"item|{name}" for name in design.item_ids], replicate)
        coefficients = self.draw_coefficients(design.item_ids, seed, replicate)
        covariates = compute_covariates(
            design.prices, table["reference_price"].to_numpy(), list(np.moveaxis(design.covariates[..., 2:], -1, 0))
        )
        season = np.array([fit.season for fit in self.categories]) @ self.calendar.regressors(design.timestamps).T
        predictor = np.einsum("itk,ik->it", covariates, coefficients) + season[table["category"].to_numpy()]
        return draw_demand(
            predictor, self._open_layers(table, seed, replicate), table["dispersion"].to_numpy(), streams
        )

    def draw_coefficients(self, item_ids: tuple[str, ...], seed: int, replicate: int = 0) -> np.ndarray:
        """Draws coefficients of fitted items from their posterior (normal).

        Args:
            item_ids: Fitted items.
            seed: Seed, >= 0.
            replicate: Which repetition, >= 0.

        Returns:
            Shape `(items, coefficients)`.

        Raises:
            PanelError: If an item was not fitted.
        """
        table = self.items.iloc[self._find(item_ids)]
        size = 2 + len(self.promotions)
        factors = np.zeros((len(table), size, size))
        lower = np.tril_indices(size)
        factors[:, lower[0], lower[1]] = table[[f"factor_{place}" for place in range(len(lower[0]))]].to_numpy()
        normals = open_streams(seed, [f"item|{name}" for name in item_ids], replicate).normal(0, START, (size,))
        coefficients = _coefficient_names(self.promotions)
        drawn = table[coefficients].to_numpy() + np.einsum("ikl,il->ik", factors, normals)
        for layer, groups in (("product", self.products), ("store", self.stores)):
            if len(groups):
                # What all items of a group are off by is drawn once for the group.
                streams = open_streams(seed, [f"{layer}|{label}" for label in groups["name"]], replicate)
                errors = groups[[f"{name}_error" for name in coefficients]].to_numpy()
                drawn = drawn + (errors * streams.normal(0, START, (size,)))[table[layer].to_numpy()]
        return drawn

    def save(self, folder: str | Path) -> None:
        """Writes `market.json` and the tables `items`, `products`, `stores` as Parquet.

        Args:
            folder: Made if absent; files of these names are replaced.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        content = {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "frequency": self.frequency,
            "promotions": list(self.promotions),
            "zeros_unlisted": self.zeros_unlisted,
            "calendar": {**vars(self.calendar), "start": self.calendar.start.isoformat()},
            "categories": [fit.to_dict() for fit in self.categories],
            "settings": self.to_settings_dict(),
        }
        (place / _MARKET).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        for name in _TABLES:
            getattr(self, name).to_parquet(place / f"{name}.parquet", index=False)

    @staticmethod
    def load(folder: str | Path) -> FittedMarket:
        """Reads what `save` wrote.

        Args:
            folder: Folder with `market.json` and the tables.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        place = Path(folder)
        content = json.loads((place / _MARKET).read_text(encoding="utf-8"))
        calendar = {**content["calendar"], "start": pd.Timestamp(content["calendar"]["start"])}
        return FittedMarket(
            name=content["name"],
            fingerprint=content["fingerprint"],
            frequency=content["frequency"],
            calendar=Calendar(**calendar),
            promotions=tuple(content["promotions"]),
            zeros_unlisted=content["zeros_unlisted"],
            categories=tuple(CategoryFit.from_dict(entry) for entry in content["categories"]),
            items=pd.read_parquet(place / "items.parquet"),
            products=pd.read_parquet(place / "products.parquet"),
            stores=pd.read_parquet(place / "stores.parquet"),
        )

    def to_settings_dict(self) -> dict[str, dict[str, float]]:
        """Plain numbers by category from which a general simulator can draw look-alike markets.

        Returns:
            Category to: `elasticity_mean`, `elasticity_deviation` (between items, all layers), `volume_median` (units
            per period at the reference price), `volume_deviation` (log), `season_amplitude` (half the range of log
            demand over the year), `trend` (log per year), `promotion_uplift_<channel>` (factor), `shock_scale`,
            `shock_persistence` (all layers together), `dispersion` (variance is mean + mean**2 / dispersion),
            `cut_share`, `cut_depth` (median share off), and `cost_share` where costs are logged.
        """
        return {fit.name: _summarise(fit, self.calendar, self.promotions) for fit in self.categories}

    def _simulate_category(self, fit: CategoryFit, timestamps: np.ndarray, seed: int, replicate: int) -> Simulated:
        items = draw_new_items(fit, len(timestamps), seed, replicate)
        covariates = compute_covariates(
            items.paths.price, np.ones(len(items.products)), list(np.moveaxis(items.paths.promotions, -1, 0))
        )
        season = np.array(fit.season) @ self.calendar.regressors(timestamps).T
        predictor = np.einsum("itk,ik->it", covariates, items.coefficients) + season
        paths = draw_demand(predictor, items.layers, items.dispersion, items.streams)
        reference = items.reference_prices[:, None]
        ratio = np.log(items.paths.price)
        mean = np.exp(items.coefficients[:, :1]) * np.ones_like(ratio)
        return Simulated(
            item_ids=tuple(f"{product}|{store}" for product, store in zip(items.products, items.stores)),
            static={
                names.CATEGORY: np.full(len(items.products), fit.name, dtype=object),
                names.PRODUCT_ID: items.products,
                names.LOCATION_ID: items.stores,
            },
            prices=items.paths.price * reference,
            list_prices=items.paths.regular * reference,
            flags=items.paths.promotions,
            costs=None if fit.cost is None else reference * fit.cost.draw(ratio, items.streams),
            inventory=None if fit.stock is None else fit.stock.draw(mean, items.streams),
            count_sizes=items.count_sizes,
            elasticities=items.coefficients[:, 1],
            paths=paths,
        )

    def _simulate_known(
        self, num_periods: int | None, seed: int, prices: Panel, replicate: int
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        design = build_design(prices, count_size=1.0)
        length = len(design.timestamps)
        if num_periods is not None and not 1 <= num_periods <= length:
            raise ValueError(f"num_periods is {num_periods}, but prices has {length} periods")
        kept = length if num_periods is None else num_periods
        table = self.items.iloc[self._find(design.item_ids)]
        paths = self.replay(design, seed, replicate)
        sizes = table["count_size"].to_numpy()
        first = prices.frame.drop_duplicates(names.ITEM_ID)
        static = {
            name: first[name].to_numpy()
            for name in (names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID)
            if name in first
        }
        known = names.INVENTORY in prices.frame
        simulated = Simulated(
            item_ids=design.item_ids,
            static=static,
            prices=design.prices,
            list_prices=design.regular_prices,
            flags=design.covariates[..., 2:],
            costs=design.costs if names.COST in prices.frame else None,
            inventory=design.inventory / sizes[:, None] if known else None,
            count_sizes=sizes,
            elasticities=self.draw_coefficients(design.item_ids, seed, replicate)[:, 1],
            paths=paths,
        )
        return build_tables(
            simulated.first_periods(kept), design.timestamps[:kept], self.promotions, self.zeros_unlisted
        )

    def _find(self, item_ids: tuple[str, ...]) -> np.ndarray:
        places = pd.Index(self.items["item_id"]).get_indexer(pd.Index(item_ids))
        if (places < 0).any():
            missing = item_ids[int(np.flatnonzero(places < 0)[0])]
            raise PanelError(f"item {missing!r} was not fitted; replay only items of panel {self.name!r}")
        return places

    def _open_layers(self, table: pd.DataFrame, seed: int, replicate: int) -> list[ShockLayer]:
        category = table["category"].to_numpy()
        everything, every_item = np.arange(len(self.categories)), np.arange(len(table))

        def opened(name: str, labels: Iterable[str]) -> Streams:
            return open_streams(seed, [f"{name}|{label}" for label in labels], replicate)

        markets = [fit.market_shock for fit in self.categories]
        own = [fit.own_shock for fit in self.categories]
        layers = [
            _open_layer(opened("market", [fit.name for fit in self.categories]), category, markets, everything, None),
            _open_layer(opened("item", table["item_id"]), every_item, own, category, None),
        ]
        for name, groups in (("product", self.products), ("store", self.stores)):
            if len(groups):
                fits = [fit.product_shock if name == "product" else fit.store_shock for fit in self.categories]
                scale, of_group = groups["shock_scale"].to_numpy(), groups["category"].to_numpy()
                layers.append(_open_layer(opened(name, groups["name"]), table[name].to_numpy(), fits, of_group, scale))
        return layers


def _coefficient_names(promotions: tuple[str, ...]) -> list[str]:
    return ["level", "elasticity", *(f"promotion_{name}" for name in promotions)]


def _tabulate_layer(layer: Level | None, coefficients: list[str]) -> pd.DataFrame:
    columns = ["name", "category", "shock_scale", *coefficients, *(f"{name}_error" for name in coefficients)]
    if layer is None:
        return pd.DataFrame(columns=columns)
    table: dict[str, Any] = {"name": list(layer.groups.names), "category": layer.groups.category}
    table["shock_scale"] = layer.scale
    values = np.concatenate([layer.deviations, np.sqrt(layer.posterior)], axis=1)
    return pd.DataFrame(table | {name: values[:, place] for place, name in enumerate(columns[3:])})


def _tabulate_items(estimates: Estimates) -> pd.DataFrame:
    design, effects = estimates.design, estimates.effects
    table: dict[str, Any] = {
        "item_id": list(design.item_ids),
        "category": design.categories.of_item,
        "product": -1 if design.products is None else design.products.of_item,
        "store": -1 if design.stores is None else design.stores.of_item,
        "reference_price": design.reference_prices,
        "count_size": design.count_size,
        "dispersion": effects.dispersion,
        "observed_periods": design.data.observed.sum(axis=1),
    }
    errors = effects.item_errors(design)
    for place, name in enumerate(_coefficient_names(design.promotions)):
        table[name] = effects.coefficients[:, place]
        table[f"{name}_error"] = errors[:, place]
    lower = np.tril_indices(effects.means.shape[1])
    factors = np.linalg.cholesky(effects.covariances)
    table |= {f"factor_{place}": factors[:, i, j] for place, (i, j) in enumerate(zip(*lower))}
    return pd.DataFrame(table)


def _open_layer(
    streams: Streams, of_item: np.ndarray, fits: Sequence[ShockFit], category: np.ndarray, scale: np.ndarray | None
) -> ShockLayer:
    typical, persistence, drift = (
        np.array(values)[category] for values in zip(*((fit.scale, fit.persistence, fit.drift_scale) for fit in fits))
    )
    return ShockLayer(streams, of_item, Chains(typical if scale is None else scale, persistence), drift)


def _summarise(fit: CategoryFit, calendar: Calendar, promotions: tuple[str, ...]) -> dict[str, float]:
    deviations = np.sqrt(
        np.square(fit.item_deviations) + np.square(fit.product_deviations) + np.square(fit.store_deviations)
    )
    days = pd.date_range("2001-01-01", periods=365, freq="D").to_numpy()
    waves = calendar.regressors(days)[:, 1 : 1 + 2 * calendar.harmonics] @ np.array(
        fit.season[1 : 1 + 2 * calendar.harmonics]
    )
    shocks = (fit.market_shock, fit.product_shock, fit.store_shock, fit.own_shock)
    variance = sum(shock.variance for shock in shocks)
    memory = sum(shock.scale**2 * shock.persistence + shock.drift_scale**2 * DRIFT for shock in shocks)
    settings = {
        "elasticity_mean": fit.means[1],
        "elasticity_deviation": float(deviations[1]),
        "volume_median": float(np.exp(fit.means[0]) * np.median(fit.count_sizes)),
        "volume_deviation": float(deviations[0]),
        "season_amplitude": float(np.ptp(waves) / 2.0),
        "trend": fit.season[0],
        "shock_scale": float(np.sqrt(variance)),
        "shock_persistence": float(memory / max(variance, 1e-12)),
        "dispersion": 1.0 / fit.dispersion,
        "cut_share": fit.prices.cut_share_mean,
        "cut_depth": float(1.0 - np.exp(-np.median(fit.prices.depth_quantiles))),
    }
    settings |= {f"promotion_uplift_{name}": float(np.exp(fit.means[2 + k])) for k, name in enumerate(promotions)}
    if fit.cost is not None:
        settings["cost_share"] = fit.cost.share
    return settings
