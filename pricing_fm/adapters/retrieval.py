"""Which adapter suits a category that has none: the one whose category looks most alike to the base."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pricing_fm.artifact import read_json
from pricing_fm.errors import ArtifactError

PROFILE_FILE = "category_profile.json"
LEAST_SPREAD = 0.05  # of the mean spread


@dataclass(frozen=True)
class CategoryProfile:
    """What a category looks like to the base, before any adapter: the mean state of its items.

    Args:
        base_fingerprint (`str`): Of the base; states of different bases do not compare.
        num_items (`int`): Items that were averaged.
        features (`tuple[float, ...]`): Mean over items; no unit.

    Raises:
        ValueError: If there is no item, or a feature is not finite.
    """

    base_fingerprint: str
    num_items: int
    features: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.num_items < 1 or not self.features:
            raise ValueError("a profile needs at least one item and one feature")
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in self.features):
            raise ValueError("features of a profile must be finite numbers")


@dataclass(frozen=True)
class Neighbor:
    """An adapter and how far its category is.

    Args:
        name (`str`): Name of the adapter.
        distance (`float`): Root mean square of the features' differences, each over its spread among the candidates.
    """

    name: str
    distance: float


def write_profile(folder: str | Path, profile: CategoryProfile) -> None:
    """Writes `category_profile.json` into an adapter folder, before it is sealed.

    Args:
        folder (`str` or `Path`): The adapter.
        profile (`CategoryProfile`): Of its category.
    """
    (Path(folder) / PROFILE_FILE).write_text(json.dumps(asdict(profile), indent=1) + "\n", encoding="utf-8")


def read_profile(folder: str | Path) -> CategoryProfile:
    """Reads it back.

    Args:
        folder (`str` or `Path`): The adapter.

    Returns:
        `CategoryProfile`.

    Raises:
        ArtifactError: If it is missing or malformed.
    """
    path = Path(folder) / PROFILE_FILE
    content = read_json(path)
    try:
        fingerprint, items, features = (content[key] for key in ("base_fingerprint", "num_items", "features"))
        return CategoryProfile(str(fingerprint), int(items), tuple(features))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: {error!r}; adapt the category again") from error


def nearest_profiles(profile: CategoryProfile, candidates: Mapping[str, CategoryProfile]) -> list[Neighbor]:
    """Adapters by how much their categories look like this one, nearest first.

    Args:
        profile (`CategoryProfile`): Of the new category.
        candidates (`Mapping[str, CategoryProfile]`): By the adapter's name.

    Returns:
        `list[Neighbor]`: All candidates; equal distances in the order of names.

    Raises:
        ArtifactError: If a candidate was made with another base.
    """
    for name, other in candidates.items():
        if other.base_fingerprint != profile.base_fingerprint or len(other.features) != len(profile.features):
            raise ArtifactError(
                f"the profile of {name!r} was made with the base {other.base_fingerprint}, the category's with "
                f"{profile.base_fingerprint}; compare profiles of one base"
            )
    features = np.array([other.features for other in candidates.values()])
    differences = (features - np.asarray(profile.features)) / _spread(features)
    distances = dict(zip(candidates, np.sqrt(np.mean(differences**2, axis=1)).tolist(), strict=True))
    return [Neighbor(name, distances[name]) for name in sorted(distances, key=lambda name: (distances[name], name))]


def _spread(features: np.ndarray) -> np.ndarray:
    """Standard deviation of each feature over the candidates: `(candidates, features)` -> `(features,)`, above 0."""
    spread = features.std(axis=0)
    usual = spread.mean()
    # Two candidates may agree in a feature by chance; it must not outweigh all others.
    return np.maximum(spread, LEAST_SPREAD * usual) if usual > 0 else np.ones_like(spread)
