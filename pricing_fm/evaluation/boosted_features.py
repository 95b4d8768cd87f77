"""Honest features for boosted trees: what is known at the origin, and what is planned for the step.

A row is one (item, origin, step): one model answers all steps directly. Lags count from the origin, not from the step.
Units are divided by the item's mean before the origin, so that one model serves fast and slow sellers.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.boosted_response import LARGEST_LOG, PRICE_PRIOR, PROMOTION_PRIOR, compute_responses
from pricing_fm.evaluation.grid import PanelGrid, read_attribute
from pricing_fm.evaluation.group_arrays import group_counts, group_means, lowest_of_others, mean_of_known, pick
from pricing_fm.panel.panel import Panel

SMALLEST_SCALE = 0.1  # units per period; items that never sold before the origin
DISCOUNT_WIDTH = 0.06  # log price; how close two discounts must be to count as the same situation
FLAG_PENALTY = 2.0  # weight exp(-2) for each promotion flag that differs
CUT_BELOW = -0.05  # log price ratio; a price lower than this is a price cut, as the publishers of panels define it
UPLIFT_PRIOR = 3.0  # periods at 1.5 times the usual sales that an item's promotion uplift starts from
REFERENCE_PERIODS = 26  # without a list price, discounts are relative to the median price of this many periods


@dataclass(frozen=True)
class FeatureShape:
    """Which past a feature looks at, in periods of one frequency.

    Args:
        lags (`tuple[int, ...]`): Single periods before the origin.
        means (`tuple[int, ...]`): Lengths of rolling means that end at the origin.
        seasons (`tuple[int, ...]`): Season lengths whose last value before the origin is used.
        memory (`int`): Periods searched for situations like the one that is planned.
        half_life (`float`): Age at which such a situation counts half.
    """

    lags: tuple[int, ...]
    means: tuple[int, ...]
    seasons: tuple[int, ...]
    memory: int
    half_life: float


SHAPES = {
    "h": FeatureShape((1, 2, 3, 24, 48, 168), (6, 24, 168, 672), (24, 168), 672, 336.0),
    "D": FeatureShape((1, 2, 3, 7, 14), (7, 14, 28, 91, 364), (7, 364), 728, 180.0),
    "W": FeatureShape((1, 2, 3, 4, 6, 8), (4, 8, 13, 26, 52), (52,), 208, 46.0),
    "MS": FeatureShape((1, 2, 3, 6, 12), (3, 6, 12, 24), (12,), 60, 18.0),
}
OTHER_SHAPE = FeatureShape((1, 2, 3, 4), (4, 8, 16), (), 100, 30.0)


@dataclass(frozen=True)
class ItemCodes:
    """Groups that items belong to, as whole numbers from 0.

    Args:
        columns (`dict[str, np.ndarray]`): Categorical feature to codes, float64, shape `(items,)`; NaN = not known when
            the model was fitted.
        reals (`dict[str, np.ndarray]`): Number features, float64, shape `(items,)`.
        product (`np.ndarray`, int64, shape `(items,)`): Product; each item its own without products.
        category (`np.ndarray`, int64, shape `(items,)`): Category.
        assortment (`np.ndarray`, int64, shape `(items,)`): Items of one category in one place.
    """

    columns: dict[str, np.ndarray]
    reals: dict[str, np.ndarray]
    product: np.ndarray
    category: np.ndarray
    assortment: np.ndarray


def read_vocabulary(panel: Panel) -> dict[str, list[str]]:
    """Values of every categorical attribute that groups at least two items.

    Args:
        panel (`Panel`): Training panel.

    Returns:
        `dict[str, list[str]]`: Column to sorted values; columns that name every item are left out.
    """
    found = {}
    for column in (names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID, names.SEGMENT, *panel.schema.static_categories):
        values = sorted({str(value) for value in read_attribute(panel, column) if not pd.isna(value)})
        if 1 < len(values) < len(panel.item_ids):
            found[column] = values
    return found


def encode_items(panel: Panel, vocabulary: dict[str, list[str]]) -> ItemCodes:
    """Turns the constant attributes of a panel's items into numbers.

    Args:
        panel (`Panel`): Panel whose items are forecast.
        vocabulary (`dict[str, list[str]]`): From `read_vocabulary`.

    Returns:
        `ItemCodes`: In the order of `panel.item_ids`.
    """

    def group(*columns: str) -> np.ndarray:
        parts = pd.DataFrame({column: read_attribute(panel, column).astype(str) for column in columns})
        return parts.groupby(list(columns), sort=True).ngroup().to_numpy(dtype=np.int64)

    columns = {}
    for column, values in vocabulary.items():
        codes = pd.Categorical(read_attribute(panel, column).astype(str), categories=values).codes.astype(np.float64)
        columns[column] = np.where(codes < 0, np.nan, codes)
    reals = {
        column: np.asarray(read_attribute(panel, column), dtype=np.float64) for column in panel.schema.static_reals
    }
    has_products = names.PRODUCT_ID in panel.frame
    product = group(names.PRODUCT_ID) if has_products else np.arange(len(panel.item_ids), dtype=np.int64)
    return ItemCodes(columns, reals, product, group(names.CATEGORY), group(names.LOCATION_ID, names.CATEGORY))


class FeatureBuilder:
    """Computes feature rows of one grid.

    Args:
        grid (`PanelGrid`): History, and the known future where a forecast is asked for.
        codes (`ItemCodes`): Groups of the grid's items.
        unit (`str`): Unit of the panel's frequency, which decides how far features look back.
        use_price (`bool`): Whether prices may be used, past and future.
        use_promotions (`bool`): Whether promotions may be used, past and future.
    """

    def __init__(self, grid: PanelGrid, codes: ItemCodes, unit: str, use_price: bool, use_promotions: bool) -> None:
        self.grid, self.codes, self.shape = grid, codes, SHAPES.get(unit, OTHER_SHAPE)
        self.use_price, self.use_promotions = use_price, use_promotions
        self.promotions = grid.promotions if use_promotions else grid.promotions[..., :0]
        self.log_price = np.log(grid.price)
        usual = pd.DataFrame(self.log_price.T).rolling(REFERENCE_PERIODS, min_periods=1).median().to_numpy().T
        self.log_list = np.where(np.isnan(grid.list_price), usual, np.log(grid.list_price))
        self.discount = self.log_price - self.log_list
        self.product_discount = group_means(self.discount, codes.product)
        self.product_promotions = group_means(self.promotions, codes.product)
        self.assortment_discount = group_means(self.discount, codes.assortment)
        self.assortment_promotions = group_means(self.promotions, codes.assortment)
        self.assortment_size = group_counts(self.discount, codes.assortment)
        self.category_discount = group_means(self.discount, codes.category)
        self.assortment_gap = self.log_price - group_means(self.log_price, codes.assortment)[codes.assortment]
        self.others_lowest = lowest_of_others(self.discount, codes.assortment)
        self.drivers, self.prior = self._response_drivers()
        self.calendar = _calendar(grid.timestamps, unit)

    def scales(self, origin: int) -> np.ndarray:
        """Mean observed units of each item before the origin, floored.

        Args:
            origin (`int`): Column of the grid.

        Returns:
            `np.ndarray`, float64, shape `(items,)`: Units per period.
        """
        return np.maximum(np.nan_to_num(mean_of_known(self.grid.units[:, :origin], axis=1)), SMALLEST_SCALE)

    def rows(self, origin: int, items: np.ndarray, steps: np.ndarray) -> pd.DataFrame:
        """Feature rows of some items and steps at one origin.

        Args:
            origin (`int`): Column of the first period to forecast; nothing of it or later is read but the plan.
            items (`np.ndarray`, int64, shape `(rows,)`): Item of each row.
            steps (`np.ndarray`, int64, shape `(rows,)`): Step from 0 of each row.

        Returns:
            `pd.DataFrame`, float32: One column per feature, the same columns for every origin of a panel.
        """
        scaled = self.grid.units[:, :origin] / self.scales(origin)[:, None]
        features = {
            **self._history(scaled, items),
            **self._season(scaled, items, origin + steps),
            **self._groups(scaled, items),
            "step": steps,
            **{name: codes[items] for name, codes in self.codes.columns.items()},
            **{name: values[items] for name, values in self.codes.reals.items()},
        }
        features["log_scale"] = np.log(self.scales(origin))[items]
        for place in range(self.grid.known_covariates.shape[-1]):
            features[f"known_{place}"] = self.grid.known_covariates[items, origin + steps, place]
        if self.use_price:
            features |= self._prices(origin, items, origin + steps)
            features |= self._rivals(origin, items, origin + steps)
        if self.use_promotions:
            features |= self._promotions(scaled, items, origin + steps)
        if self.use_price or self.use_promotions:
            features |= self._similar_periods(scaled, items, origin + steps)
            features |= self._regular_level(scaled, items)
            features |= self._response(scaled, items, origin + steps)
        return pd.DataFrame({name: np.asarray(values, dtype=np.float32) for name, values in features.items()})

    def _history(self, scaled: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        origin = scaled.shape[1]
        found = {}
        for lag in self.shape.lags:
            found[f"lag_{lag}"] = scaled[items, origin - lag] if origin >= lag else np.full(len(items), np.nan)
        for length in self.shape.means:
            recent = scaled[:, -length:]
            found[f"mean_{length}"] = mean_of_known(recent, axis=1)[items]
        recent = scaled[:, -self.shape.means[2] :]
        found["median"] = pd.DataFrame(recent).median(axis=1).to_numpy()[items]
        found["spread"] = np.sqrt(
            np.maximum(mean_of_known(recent**2, axis=1) - mean_of_known(recent, axis=1) ** 2, 0.0)
        )[items]
        found["share_observed"] = (~np.isnan(recent)).mean(axis=1)[items]
        found["periods_observed"] = (~np.isnan(scaled)).sum(axis=1)[items]
        return found

    def _season(self, scaled: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Units one season before the step, and their neighbours, as far as they lie before the origin."""
        found = {name: values[targets] for name, values in self.calendar.items()}
        category_means = group_means(scaled, self.codes.category)[self.codes.category]
        product_means = group_means(scaled, self.codes.product)[self.codes.product]
        for season in self.shape.seasons:
            columns = self._season_ago(targets, season, scaled.shape[1])
            for shift in (-1, 0, 1):
                found[f"season_{season}_{shift}"] = pick(scaled, items, columns + shift)
            found[f"product_season_{season}"] = pick(product_means, items, columns)
            found[f"category_season_{season}"] = pick(category_means, items, columns)
        return found

    def _groups(self, scaled: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """How the product sells in all places, and the category in this place."""
        found = {}
        product = group_means(scaled[:, -self.shape.means[1] :], self.codes.product)
        for lag in (1, 2, 4):
            found[f"product_lag_{lag}"] = product[self.codes.product[items], -min(lag, product.shape[1])]
        found["product_mean"] = mean_of_known(product, axis=1)[self.codes.product[items]]
        assortment = group_means(scaled[:, -self.shape.means[2] :], self.codes.assortment)
        for length in (self.shape.means[0], self.shape.means[2]):
            found[f"assortment_mean_{length}"] = mean_of_known(assortment[:, -length:], axis=1)[
                self.codes.assortment[items]
            ]
        return found

    def _prices(self, origin: int, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        log_price, log_list, discount = self.log_price, self.log_list, self.discount
        year = slice(max(0, origin - self.shape.means[-1]), origin)
        assortment = self.assortment_discount[self.codes.assortment[items], targets]
        members = self.assortment_size[self.codes.assortment[items], targets]
        own = discount[items, targets]
        found = {
            "discount": own,
            "discount_1_before": discount[items, targets - 1],
            "discount_2_before": discount[items, np.maximum(targets - 2, 0)],
            "discount_recent": mean_of_known(discount[:, max(0, origin - self.shape.means[1]) : origin], axis=1)[items],
            "log_price": log_price[items, targets],
            "price_to_median": log_price[items, targets]
            - pd.DataFrame(log_price[:, year]).median(axis=1).to_numpy()[items],
            "price_to_last": log_price[items, targets] - log_price[items, origin - 1],
            "list_to_mean": log_list[items, targets] - mean_of_known(log_list[:, year], axis=1)[items],
            "assortment_discount": assortment,
            "others_discount": (assortment * members - np.nan_to_num(own)) / np.where(members > 1, members - 1, np.nan),
            "product_discount": self.product_discount[self.codes.product[items], targets],
            "category_discount": self.category_discount[self.codes.category[items], targets],
            "price_to_recent": log_price[items, targets]
            - mean_of_known(log_price[:, max(0, origin - self.shape.means[1]) : origin], axis=1)[items],
        }
        for season in self.shape.seasons:
            columns = self._season_ago(targets, season, origin)
            found[f"discount_season_{season}"] = pick(discount, items, columns)
            found[f"price_to_season_{season}"] = log_price[items, targets] - pick(log_price, items, columns)
        return found

    def _rivals(self, origin: int, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """What the rest of the assortment costs: the deepest cut of the others, their cuts by what they sell."""
        year = slice(max(0, origin - self.shape.means[-1]), origin)
        sold = np.nansum(self.grid.units[:, year], axis=1)
        group = self.codes.assortment
        discount = np.nan_to_num(self.discount[:, targets.min() : targets.max() + 1])
        totals, cuts = np.zeros(group.max() + 1), np.zeros((group.max() + 1, discount.shape[1]))
        np.add.at(totals, group, sold)
        np.add.at(cuts, group, sold[:, None] * discount)
        others = totals[group] - sold
        weighted = (cuts[group] - sold[:, None] * discount) / np.where(others > 0, others, np.nan)[:, None]
        gap = self.assortment_gap[items, targets]
        return {
            "others_weighted_discount": weighted[items, targets - targets.min()],
            "others_lowest_discount": self.others_lowest[items, targets],
            "price_to_assortment": gap,
            "price_to_assortment_change": gap - mean_of_known(self.assortment_gap[:, year], axis=1)[items],
        }

    def _promotions(self, scaled: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        origin = scaled.shape[1]
        found = {}
        for place in range(self.promotions.shape[-1]):
            flag = self.promotions[..., place]
            found[f"promotion_{place}"] = flag[items, targets]
            found[f"promotion_{place}_before"] = flag[items, targets - 1]
            found[f"promotion_{place}_recent"] = mean_of_known(
                flag[:, max(0, origin - self.shape.means[1]) : origin], 1
            )[items]
            found[f"promotion_{place}_assortment"] = self.assortment_promotions[
                self.codes.assortment[items], targets, place
            ]
            for season in self.shape.seasons:
                columns = self._season_ago(targets, season, origin)
                found[f"promotion_{place}_season_{season}"] = pick(flag, items, columns)
            on = np.nan_to_num(flag[:, :origin]) > 0
            with_promotion, without = np.where(on, scaled, np.nan), np.where(on, np.nan, scaled)
            seen = (~np.isnan(with_promotion)).sum(axis=1)
            raised = (np.nansum(with_promotion, axis=1) + UPLIFT_PRIOR * 1.5) / (seen + UPLIFT_PRIOR)
            found[f"promotion_{place}_uplift"] = np.log(raised / np.maximum(mean_of_known(without, axis=1), 0.05))[
                items
            ]
        return found

    def _similar_periods(self, scaled: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Weighted mean of past units under a price and promotions like the planned ones, own and of the product."""
        origin = scaled.shape[1]
        past = slice(max(0, origin - self.shape.memory), origin)
        age = np.arange(scaled[:, past].shape[1])[::-1]
        product = self.codes.product
        product_units = group_means(scaled[:, past], product)
        planned = (np.nan_to_num(self.discount[items, targets]), np.nan_to_num(self.promotions[items, targets]))
        own = ("own", scaled[:, past], self.discount, self.promotions, items)
        everywhere = ("product", product_units, self.product_discount, self.product_promotions, product[items])
        found = {}
        for name, units, all_discounts, all_flags, rows in (own, everywhere):
            discounts, flags = all_discounts[:, past], all_flags[:, past]
            weights = np.where(np.isnan(units[rows]), 0.0, 0.5 ** (age / self.shape.half_life))
            if self.use_price:
                apart = np.nan_to_num(discounts[rows]) - planned[0][:, None]
                weights *= np.exp(-0.5 * (apart / DISCOUNT_WIDTH) ** 2)
            for place in range(flags.shape[-1]):
                apart = np.nan_to_num(flags[rows, :, place]) - planned[1][:, None, place]
                weights *= np.exp(-FLAG_PENALTY * np.abs(apart))
            total = weights.sum(axis=1)
            found[f"similar_{name}"] = (weights * np.nan_to_num(units[rows])).sum(axis=1) / np.maximum(total, 1e-6)
            found[f"similar_{name}_weight"] = total
        return found

    def _regular_level(self, scaled: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        """Mean units of recent periods without a price cut or promotion."""
        origin = scaled.shape[1]
        regular = np.ones(scaled.shape, dtype=bool)
        if self.use_price:
            regular &= ~(self.discount[:, :origin] < CUT_BELOW)
        if self.promotions.shape[-1]:
            regular &= np.nansum(self.promotions[:, :origin], axis=-1) == 0
        units = np.where(regular, scaled, np.nan)
        lengths = (self.shape.means[1], self.shape.means[-2])
        return {f"regular_{length}": mean_of_known(units[:, -length:], axis=1)[items] for length in lengths}

    def _response_drivers(self) -> tuple[np.ndarray, np.ndarray]:
        """What log units are regressed on, (items, periods, drivers), and the coefficients to start from."""
        drivers, prior = [], []
        if self.use_price:
            drivers += [self.discount, self.assortment_discount[self.codes.assortment]]
            prior += [PRICE_PRIOR, 0.0]
        for place in range(self.promotions.shape[-1]):
            drivers.append(self.promotions[..., place])
            prior.append(PROMOTION_PRIOR)
        stacked = np.stack(drivers, axis=-1) if drivers else np.zeros((*self.discount.shape, 0))
        return np.nan_to_num(stacked), np.asarray(prior)

    def _response(self, scaled: np.ndarray, items: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Units that a log-linear response to the planned prices and promotions predicts."""
        past = slice(max(0, scaled.shape[1] - self.shape.memory), scaled.shape[1])
        coefficients, level, recent = compute_responses(
            scaled[:, past],
            self.drivers[:, past],
            self.prior,
            self.codes.product,
            self.codes.category,
            self.shape.means[1],
        )
        effect = (self.drivers[items, targets] * coefficients[items]).sum(axis=1)
        return {
            "response": np.exp(np.clip(level[items] + effect, -LARGEST_LOG, LARGEST_LOG)),
            "response_recent": np.exp(np.clip(recent[items] + effect, -LARGEST_LOG, LARGEST_LOG)),
            "response_effect": effect,
        }

    def _season_ago(self, targets: np.ndarray, season: int, origin: int) -> np.ndarray:
        return targets - season * (1 + (targets - origin) // season)


def _calendar(timestamps: np.ndarray, unit: str) -> dict[str, np.ndarray]:
    stamps = pd.DatetimeIndex(timestamps)
    found = {"day_of_year": stamps.dayofyear.to_numpy(dtype=np.float64)}
    if unit in ("D", "h", "min"):
        found["day_of_week"] = stamps.dayofweek.to_numpy(dtype=np.float64)
    if unit in ("h", "min"):
        found["hour"] = stamps.hour.to_numpy(dtype=np.float64)
    return found
