"""What the items of a category say together of the elasticity of each: two numbers of its adapter, without a gradient.

A network that reads one item at a time hedges: each elasticity is drawn towards the prior, and so is the mean of ten
of them, although ten items know their mean much better than one knows itself. What one regression over all of them
says is in no item's answer either. Among categories whose elasticities are known, least squares finds four numbers for
every number of visible weeks (an empirical Bayes estimate; Efron and Morris 1975, doi:10.2307/2285814): a constant, how
far a category's mean is believed, how far the regression, and how far an item's distance from the mean. In a new
category they give

    log factor = slope * log(elasticity of the item) + offset

for the response of every item, which `pooling_head` of the response head applies to interventions.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel

from pricing_fm.adapters.category_regression import CategoryRegression
from pricing_fm.adapters.lora import adapter_parameters
from pricing_fm.artifact import read_json
from pricing_fm.errors import ArtifactError

POOLING_FILE = "category_pooling.json"
POOLING_LINEAR = "demand_head.response.pooling_head"
# Doubt about a category's mean, before its regression: the standard deviation over the mean.
MEAN_SPREAD = 0.45
SMALLEST_ELASTICITY = 0.1  # over the mean: a regression may find that demand does not fall
LARGEST_REGRESSION_SHIFT = 1.0  # of the log elasticity


@dataclass(frozen=True)
class CategoryPooling:
    """What is done to a category's elasticities: `log factor = slope * log(elasticity) + offset`; 0, 0 = nothing."""

    slope: float
    offset: float

    def factors(self, log_elasticities: np.ndarray) -> np.ndarray:
        """Log factors of items `(items,)`."""
        return self.slope * log_elasticities + self.offset


@dataclass(frozen=True)
class PoolingRule:
    """How categories are pooled, by the number of visible weeks.

    Args:
        weeks (`tuple[int, ...]`): Numbers of visible weeks that were learned from, increasing.
        constants, means, regressions, distances (`tuple[float, ...]`): At each of them, the log factor is `constant +
            mean * (mean log elasticity of the category) + regression * (by how much the category's regression moves
            that mean) + distance * (log elasticity of the item - that mean)`.
        typical_mean (`float`): Mean log elasticity of categories of which nothing was seen.

    Raises:
        ValueError: If the tuples differ in length, weeks do not increase, or a number is not finite.
    """

    weeks: tuple[int, ...]
    constants: tuple[float, ...]
    means: tuple[float, ...]
    regressions: tuple[float, ...]
    distances: tuple[float, ...]
    typical_mean: float

    def __post_init__(self) -> None:
        parts = (self.constants, self.means, self.regressions, self.distances)
        lengths = {len(self.weeks), *map(len, parts)}
        if len(lengths) != 1 or not self.weeks or list(self.weeks) != sorted(set(self.weeks)):
            raise ValueError(f"weeks {list(self.weeks)} must increase, with one number of each kind for every one")
        if not np.isfinite([*np.ravel(parts), self.typical_mean]).all():
            raise ValueError("a pooling rule holds a number that is not finite")

    def pool(
        self, log_elasticities: np.ndarray, weeks: float, regression: CategoryRegression | None = None
    ) -> CategoryPooling:
        """The numbers of a category.

        Args:
            log_elasticities (`(items,)`): What the network makes of its items, of one price held and set by us; empty =
                nothing is visible.
            weeks (`float`): Visible weeks. Between the learned numbers the rule is read linearly in `log(1 + weeks)`.
            regression (`CategoryRegression`, *optional*): Over the visible weeks of its items; None = there are none.

        Returns:
            `CategoryPooling`.
        """
        place, known = np.log1p(weeks), np.log1p(self.weeks)
        constant, mean, moved, distance = (
            float(np.interp(place, known, column))
            for column in (self.constants, self.means, self.regressions, self.distances)
        )
        center = float(np.mean(log_elasticities)) if len(log_elasticities) else self.typical_mean
        offset = constant + (mean - distance) * center + moved * regression_shift(center, regression)
        return CategoryPooling(slope=distance, offset=offset)


def regression_shift(mean: float, regression: CategoryRegression | None) -> float:
    """By how much a regression moves the log elasticity of a category that was thought to be so elastic.

    Both are weighed by their precision: that of the mean is `MEAN_SPREAD` of itself.

    Args:
        mean (`float`): Mean log elasticity of the category, as the network has it.
        regression (`CategoryRegression` or None): Of the same items; None = nothing.

    Returns:
        `float`: 0 where the regression knows nothing; at most `LARGEST_REGRESSION_SHIFT` either way.
    """
    if regression is None:
        return 0.0
    thought = float(np.exp(mean))
    doubt, error = (MEAN_SPREAD * thought) ** 2, regression.error**2
    weighed = (regression.elasticity * doubt + thought * error) / (doubt + error)
    shift = np.log(max(weighed, SMALLEST_ELASTICITY * thought)) - mean
    return float(np.clip(shift, -LARGEST_REGRESSION_SHIFT, LARGEST_REGRESSION_SHIFT))


@dataclass(frozen=True)
class KnownCategories:
    """Items of categories whose elasticities are known, at one number of visible weeks.

    Args:
        log_elasticities (`np.ndarray`, shape `(items,)`): What the network made of every item.
        log_factors (`np.ndarray`, shape `(items,)`): What they should be multiplied by, in logarithms.
        shifts (`np.ndarray`, shape `(categories,)`): From `regression_shift`.
        categories (`np.ndarray`, shape `(items,)`, int64): Category of every item, from 0 on.

    Raises:
        ValueError: If shapes differ or a number is not finite.
    """

    log_elasticities: np.ndarray
    log_factors: np.ndarray
    shifts: np.ndarray
    categories: np.ndarray

    def __post_init__(self) -> None:
        shapes = {self.log_elasticities.shape, self.log_factors.shape, self.categories.shape}
        if len(shapes) > 1 or self.shifts.shape != (int(self.categories.max()) + 1,):
            raise ValueError(f"shapes differ: items {sorted(shapes)}, categories {self.shifts.shape}")
        if not all(np.isfinite(part).all() for part in (self.log_elasticities, self.log_factors, self.shifts)):
            raise ValueError("a log elasticity is not finite; only positive elasticities can be pooled")


def fit_pooling(known: Mapping[int, KnownCategories], ridge: float = 1.0) -> PoolingRule:
    """Least squares over the items of categories whose elasticities are known.

    Args:
        known (`Mapping[int, KnownCategories]`): By number of visible weeks.
        ridge (`float`): Weight of an item's worth of evidence for doing nothing, per number.

    Returns:
        `PoolingRule`.

    Raises:
        ValueError: If nothing is known.
    """
    if not known:
        raise ValueError("no number of visible weeks to learn a pooling rule at")
    columns: dict[str, list[float]] = {"constants": [], "means": [], "regressions": [], "distances": []}
    for _, one in sorted(known.items()):
        own, categories = one.log_elasticities, one.categories
        center = (np.bincount(categories, own) / np.bincount(categories))[categories]
        features = np.stack([np.ones_like(own), center, one.shifts[categories], own - center], axis=1)
        solved = np.linalg.solve(features.T @ features + ridge * np.eye(4), features.T @ one.log_factors)
        for name, value in zip(columns, solved, strict=True):
            columns[name].append(float(value))
    return PoolingRule(
        weeks=tuple(sorted(known)),
        **{name: tuple(values) for name, values in columns.items()},
        typical_mean=float(known[min(known)].log_elasticities.mean()),
    )


def save_pooling(rule: PoolingRule, folder: Path) -> None:
    """Writes the rule into an adapter's folder."""
    (folder / POOLING_FILE).write_text(json.dumps(asdict(rule), indent=1) + "\n", encoding="utf-8")


def read_pooling(folder: Path) -> PoolingRule | None:
    """The rule in an adapter's folder; None = it has none.

    Raises:
        ArtifactError: If the file is not a rule.
    """
    if not (folder / POOLING_FILE).is_file():
        return None
    content = read_json(folder / POOLING_FILE)
    try:
        typical = float(content.pop("typical_mean"))
        return PoolingRule(**{name: tuple(values) for name, values in content.items()}, typical_mean=typical)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{folder / POOLING_FILE}: {error}; meta-train it again") from error


@torch.no_grad()
def write_pooling(network: PeftModel, name: str, pooling: CategoryPooling) -> None:
    """Puts a category's numbers into its adapter: the update of `pooling_head`, whatever stood there before.

    Args:
        network (`PeftModel`): Base with the adapter in place.
        name (`str`): Name of the adapter.
        pooling (`CategoryPooling`): The numbers.

    Raises:
        ArtifactError: If the network has no such linear (a free price response).
    """
    parameters = adapter_parameters(network, name)
    keys = {part: f"base_model.model.{POOLING_LINEAR}.lora_{part}.weight" for part in "AB"}
    if not set(keys.values()) <= set(parameters):
        raise ArtifactError("this network has no pooling_head: only price_response='monotone' can be pooled")
    config = network.peft_config[name]
    down, up = parameters[keys["A"]], parameters[keys["B"]]
    down.zero_()
    up.zero_()
    down[0] = torch.tensor([pooling.slope, pooling.offset])
    up[0, 0] = config.r / config.lora_alpha
