"""Names of adapters: what is admitted, and the slug of a category."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from torch import nn

from pricing_fm.errors import ArtifactError

_ADMITTED = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_LONGEST = 64
ALL_CATEGORIES = "all"


def check_adapter_name(name: str) -> str:
    """Refuses names that PEFT would accept and then serve another adapter, or none, for.

    Args:
        name (`str`): Name of an adapter.

    Returns:
        `str`: The same name.

    Raises:
        ArtifactError: If it is not 1 to 64 of `a-z 0-9 _ -` with a letter or digit first, or is reserved.
    """
    if not isinstance(name, str) or not _ADMITTED.fullmatch(name):
        raise ArtifactError(
            f"adapter name {name!r}: expected 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit"
        )
    if _is_reserved(name):
        raise ArtifactError(f"adapter name {name!r} has a meaning inside PEFT or torch; choose another, or add a word")
    return name


def category_slug(category: str) -> str:
    """Name of the adapter of one category.

    Args:
        category (`str`): The exact value in the data.

    Returns:
        `str`: An admitted name: accents dropped, lower case, everything else a hyphen. A reserved word gets
            `-category` appended; a category without Latin letters or digits, or a long one, the start of its SHA-256.

    Raises:
        ArtifactError: If the category is empty.
    """
    if not isinstance(category, str) or not category.strip():
        raise ArtifactError(f"category {category!r} is empty; an adapter needs a category with a name")
    plain = unicodedata.normalize("NFKD", category).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    digest = hashlib.sha256(category.encode()).hexdigest()[:12]
    if not slug:
        return f"category-{digest}"
    if len(slug) > _LONGEST:
        return f"{slug[: _LONGEST - 13].rstrip('-')}-{digest}"
    return f"{slug}-category" if _is_reserved(slug) else slug


def adapter_name(category: str | None) -> str:
    """Name of the adapter of one category, or of the one for all.

    Args:
        category (`str`, *optional*): The exact value in the data; None = every category.

    Returns:
        `str`: `category_slug` of it, or `"all"`.

    Raises:
        ArtifactError: If the category is empty.
    """
    return ALL_CATEGORIES if category is None else category_slug(category)


def category_slugs(categories: Iterable[str]) -> dict[str, str]:
    """Slugs of all categories of a panel.

    Args:
        categories (`Iterable[str]`): The exact values in the data.

    Returns:
        `dict[str, str]`: Category to slug, sorted by category.

    Raises:
        ArtifactError: If two categories get the same slug.
    """
    owner: dict[str, str] = {}
    for category in sorted(set(categories)):
        slug = category_slug(category)
        if slug in owner:
            raise ArtifactError(
                f"categories {owner[slug]!r} and {category!r} both get the name {slug!r}; rename one in the data"
            )
        owner[slug] = category
    return {category: slug for slug, category in owner.items()}


def _is_reserved(name: str) -> bool:
    """Parts of PEFT's key prefix, and attributes of the `ModuleDict` in which PEFT keeps adapters by name."""
    return name in "lora_" or hasattr(nn.ModuleDict(), name)
