"""What the items of a category say together of the elasticity of each: two numbers of its adapter, without a gradient.

A network that reads one item at a time hedges: each elasticity is drawn towards the prior, and so is the mean of ten
of them, although ten items know their mean much better than one knows itself. Among categories whose elasticities are
known, least squares finds how far a category's mean should be believed, and how far an item's distance from it, for
every number of visible weeks (an empirical Bayes estimate; Efron and Morris 1975, doi:10.2307/2285814). In a new
category these numbers, and the mean of what the network makes of its items, give

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

from pricing_fm.adapters.lora import adapter_parameters
from pricing_fm.artifact import read_json
from pricing_fm.errors import ArtifactError

POOLING_FILE = "category_pooling.json"
POOLING_LINEAR = "demand_head.response.pooling_head"


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
        constants, means, distances (`tuple[float, ...]`): At each of them, the log factor is `constant + mean * (mean
            log elasticity of the category) + distance * (log elasticity of the item - that mean)`.
        typical_mean (`float`): Mean log elasticity of categories of which nothing was seen.

    Raises:
        ValueError: If the tuples differ in length, weeks do not increase, or a number is not finite.
    """

    weeks: tuple[int, ...]
    constants: tuple[float, ...]
    means: tuple[float, ...]
    distances: tuple[float, ...]
    typical_mean: float

    def __post_init__(self) -> None:
        lengths = {len(self.weeks), len(self.constants), len(self.means), len(self.distances)}
        if len(lengths) != 1 or not self.weeks or list(self.weeks) != sorted(set(self.weeks)):
            raise ValueError(f"weeks {list(self.weeks)} must increase, with one number of each kind for every one")
        if not np.isfinite([*self.constants, *self.means, *self.distances, self.typical_mean]).all():
            raise ValueError("a pooling rule holds a number that is not finite")

    def pool(self, log_elasticities: np.ndarray, weeks: float) -> CategoryPooling:
        """The numbers of a category.

        Args:
            log_elasticities (`(items,)`): What the network makes of its items, of one price held and set by us; empty =
                nothing is visible.
            weeks (`float`): Visible weeks. Between the learned numbers the rule is read linearly in `log(1 + weeks)`.

        Returns:
            `CategoryPooling`.
        """
        place, known = np.log1p(weeks), np.log1p(self.weeks)
        constant, mean, distance = (
            float(np.interp(place, known, column)) for column in (self.constants, self.means, self.distances)
        )
        center = float(np.mean(log_elasticities)) if len(log_elasticities) else self.typical_mean
        return CategoryPooling(slope=distance, offset=constant + (mean - distance) * center)


def fit_pooling(
    found: Mapping[int, np.ndarray], true: Mapping[int, np.ndarray], categories: np.ndarray, ridge: float = 1.0
) -> PoolingRule:
    """Least squares over the items of categories whose elasticities are known.

    Args:
        found (`Mapping[int, np.ndarray]`): Number of visible weeks to what the network made of every item: log
            elasticity `(items,)`.
        true (`Mapping[int, np.ndarray]`): Likewise, log of the true elasticity.
        categories (`np.ndarray`, shape `(items,)`, int64): Category of every item, from 0 on.
        ridge (`float`): Weight of an item's worth of evidence for doing nothing, per number.

    Returns:
        `PoolingRule`.

    Raises:
        ValueError: If shapes differ or an elasticity is not finite.
    """
    counts = np.bincount(categories)
    columns: dict[str, list[float]] = {"constants": [], "means": [], "distances": []}
    for weeks in sorted(found):
        own, wanted = (np.asarray(values[weeks], dtype=np.float64) for values in (found, true))
        if not own.shape == wanted.shape == categories.shape:
            raise ValueError(f"shapes differ: {own.shape} found, {wanted.shape} true, {categories.shape} categories")
        if not np.isfinite(own).all() or not np.isfinite(wanted).all():
            raise ValueError(
                f"at {weeks} weeks a log elasticity is not finite; only positive elasticities can be pooled"
            )
        center = (np.bincount(categories, own) / counts)[categories]
        features = np.stack([np.ones_like(own), center, own - center], axis=1)
        solved = np.linalg.solve(features.T @ features + ridge * np.eye(3), features.T @ (wanted - own))
        for name, value in zip(columns, solved, strict=True):
            columns[name].append(float(value))
    first = np.asarray(found[min(found)], dtype=np.float64)
    return PoolingRule(
        weeks=tuple(sorted(found)), **{k: tuple(v) for k, v in columns.items()}, typical_mean=float(first.mean())
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
