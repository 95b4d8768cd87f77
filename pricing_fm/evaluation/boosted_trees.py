"""LightGBM quantile regression with the same covariates as the model: the baseline that a claim has to beat."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from pricing_fm.evaluation.boosted_features import FeatureBuilder, encode_items, read_vocabulary
from pricing_fm.evaluation.forecaster import Forecast, ForecastWindow
from pricing_fm.evaluation.grid import PanelGrid, build_grid
from pricing_fm.panel.panel import Panel

Covariates = Literal["both", "price", "flags", "none"]

MOST_ORIGINS = 120  # training origins; features of one origin are computed for all items at once
SHORTEST_HISTORY = 4  # observed periods that an item needs before a training origin
FEATURES_VERSION = 2  # raised whenever features change, so that no cached forecast outlives them
LARGEST_SHARE = 0.999  # targets above this quantile are cut for the mean: units over a mean near zero say nothing
ROWS_AT_ONCE = 50_000  # bounds memory: similar periods are searched in (rows, memory) arrays


@dataclass(frozen=True)
class TreeSettings:
    """Hyper-parameters, chosen on a time-forward validation inside the training part of a retail panel.

    Args:
        rounds (`int`): Trees per quantile level.
        learning_rate (`float`): Shrinkage.
        leaves (`int`): Leaves per tree.
        rows_per_leaf (`int`): Smallest leaf with `rows` rows; proportionally smaller with fewer, at least 20.
        feature_share (`float`): Features tried per tree.
        row_share (`float`): Rows used per tree.
        rows (`int`): Training rows (item, origin, step), drawn at random.
    """

    rounds: int = 150
    learning_rate: float = 0.05
    leaves: int = 31
    rows_per_leaf: int = 500
    feature_share: float = 0.5
    row_share: float = 0.7
    rows: int = 200_000


@dataclass
class BoostedTrees:
    """One LightGBM model per quantile level and one for the mean, over all items, origins and steps.

    Trained once on rows whose target lies before the first origin; at every origin it sees the same features of newer
    history. Targets are scaled by the item's mean before the origin.

    Args:
        prediction_length (`int`): Steps it can forecast.
        quantile_levels (`tuple[float, ...]`): Levels it can forecast.
        covariates (`str`): What it may know of the plan and of its past: `both` prices and promotion flags, `price`,
            `flags` or `none`.
        trees (`TreeSettings`): Hyper-parameters.
        threads (`int`): Threads of LightGBM.
        seed (`int`): Seed of row sampling and bagging.
        name (`str`): Name in result rows.
    """

    prediction_length: int
    quantile_levels: tuple[float, ...]
    covariates: Covariates = "both"
    trees: TreeSettings = field(default_factory=TreeSettings)
    threads: int = 1
    seed: int = 0
    name: str = "lightgbm"
    _quantile_models: list[Any] = field(default_factory=list, repr=False)
    _mean_model: Any = field(default=None, repr=False)
    _vocabulary: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def fit(self, panel: Panel) -> None:
        """Trains all models; minutes for hundreds of thousands of rows on one core.

        Raises:
            ValueError: If the panel has no row with enough history.
        """
        import lightgbm

        self._vocabulary = read_vocabulary(panel)
        features, scaled = self._training_rows(panel)
        parameters = self._parameters(len(features))
        # Quantiles commute with the square root, which tames promotion peaks; the mean does not, so it is fitted as is.
        roots = lightgbm.Dataset(
            features,
            np.sqrt(scaled),
            categorical_feature=list(self._vocabulary),
            params=parameters,
            free_raw_data=False,
        )
        cut = np.minimum(scaled, np.quantile(scaled, LARGEST_SHARE))
        units = lightgbm.Dataset(features, cut, reference=roots, params=parameters, free_raw_data=False)
        self._quantile_models = [
            lightgbm.train({**parameters, "objective": "quantile", "alpha": level}, roots, self.trees.rounds)
            for level in self.quantile_levels
        ]
        self._mean_model = lightgbm.train({**parameters, "objective": "regression"}, units, self.trees.rounds)

    def predict(self, window: ForecastWindow) -> Forecast:
        """Forecasts every item and step of a window.

        Raises:
            ValueError: If it was not fitted, or for other levels or fewer steps.
        """
        if not self._quantile_models:
            raise ValueError("the trees are not fitted; call fit first")
        if window.quantile_levels != self.quantile_levels or window.prediction_length > self.prediction_length:
            raise ValueError(
                f"fitted for {self.prediction_length} steps and levels {self.quantile_levels}; "
                f"asked for {window.prediction_length} and {window.quantile_levels}"
            )
        grid = build_grid(window.history, window.future)
        builder = self._builder(window.history, grid)
        shape = (len(grid.item_ids), window.prediction_length)
        items, steps = (index.ravel() for index in np.indices(shape))
        quantiles, mean = [], []
        for start in range(0, len(items), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            features = builder.rows(grid.origin, items[rows], steps[rows])
            roots = [model.predict(features, num_threads=self.threads) for model in self._quantile_models]
            quantiles.append(np.maximum(np.stack(roots, axis=-1), 0.0) ** 2)
            mean.append(self._mean_model.predict(features, num_threads=self.threads))
        scale = builder.scales(grid.origin)[:, None]
        return Forecast.of(
            np.concatenate(quantiles).reshape(*shape, -1) * scale[..., None],
            np.concatenate(mean).reshape(shape) * scale,
        )

    def settings(self) -> dict[str, object]:
        """Everything but the number of threads."""
        return {
            "prediction_length": self.prediction_length,
            "quantile_levels": list(self.quantile_levels),
            "covariates": self.covariates,
            "features": FEATURES_VERSION,
            "trees": dict(vars(self.trees)),
            "seed": self.seed,
        }

    def _builder(self, panel: Panel, grid: PanelGrid) -> FeatureBuilder:
        return FeatureBuilder(
            grid,
            encode_items(panel, self._vocabulary),
            panel.frequency.unit,
            use_price=self.covariates in ("both", "price"),
            use_promotions=self.covariates in ("both", "flags"),
        )

    def _training_rows(self, panel: Panel) -> tuple[pd.DataFrame, np.ndarray]:
        """Features and scaled targets of random (item, origin, step) rows whose target is observed."""
        grid = build_grid(panel)
        builder = self._builder(panel, grid)
        known = ~np.isnan(grid.units)
        periods = grid.units.shape[1]
        first = max(SHORTEST_HISTORY, min(30, periods // 3))
        origins = np.unique(np.linspace(first, periods - 1, MOST_ORIGINS).astype(int))
        rng = np.random.default_rng(self.seed)
        features, targets = [], []
        for origin in origins:
            ready = known[:, :origin].sum(axis=1) >= SHORTEST_HISTORY
            items, steps = np.nonzero(known[:, origin : origin + self.prediction_length] & ready[:, None])
            if not len(items):
                continue
            chosen = rng.permutation(len(items))[: -(-self.trees.rows // len(origins))]
            items, steps = items[chosen], steps[chosen]
            features.append(builder.rows(int(origin), items, steps))
            targets.append(grid.units[items, origin + steps] / builder.scales(int(origin))[items])
        if not features:
            raise ValueError(f"panel {panel.name!r} has no item with {SHORTEST_HISTORY} observed periods and a target")
        return pd.concat(features, ignore_index=True), np.concatenate(targets)

    def _parameters(self, rows: int) -> dict[str, Any]:
        trees = self.trees
        return {
            "learning_rate": trees.learning_rate,
            "num_leaves": trees.leaves,
            "min_data_in_leaf": max(20, round(trees.rows_per_leaf * min(1.0, rows / trees.rows))),
            "feature_fraction": trees.feature_share,
            "bagging_fraction": trees.row_share,
            "bagging_freq": 1,
            "max_bin": 127,
            "cat_smooth": 20,
            "num_threads": self.threads,
            "seed": self.seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
