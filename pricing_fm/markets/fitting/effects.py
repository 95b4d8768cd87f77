"""Coefficients of items within products, stores and categories, updated block by block to their joint mode.

Every block solves its coefficients together with the autoregressive shocks of its own level, which are integrated out
exactly (they are Gaussian chains given the quadratic approximation of the likelihood). So a price cut that comes
together with a common shock is not credited twice, and standard errors know that a chain-wide cut in eighty stores is
one event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.chains import Chains
from pricing_fm.markets.fitting.design import Design, Groups
from pricing_fm.markets.fitting.likelihood import WorkingTerms

_WIDE = 1e-4  # prior precision of category means: a standard deviation of 100


@dataclass
class Level:
    """One layer of the hierarchy: deviations of groups, and shocks that their items share.

    Attributes:
        groups: Which items belong together.
        deviations: Deviation of each group's coefficients from its category's, shape `(groups, coefficients)`.
        posterior: Posterior variance of the deviations, same shape.
        variances: Prior variance by category, shape `(categories, coefficients)`.
        shocks: Log-demand shocks of each group, shape `(groups, periods)`.
        scale: Standard deviation of these shocks by group, shape `(groups,)`: products differ.
        persistence: Their autocorrelation by category, shape `(categories,)`.
    """

    groups: Groups
    deviations: np.ndarray
    posterior: np.ndarray
    variances: np.ndarray
    shocks: np.ndarray
    scale: np.ndarray
    persistence: np.ndarray

    @property
    def chains(self) -> Chains:
        """Prior of the shocks, one chain per group."""
        return Chains(self.scale, self.persistence[self.groups.category])


@dataclass
class Effects:
    """State of the fit; changed in place by the updates.

    Attributes:
        coefficients: Of each item (level, elasticity, promotions), shape `(items, coefficients)`.
        covariances: Their posterior covariances, shape `(items, coefficients, coefficients)`.
        variances: Variance of items around product and store, by category, shape `(categories, coefficients)`.
        means: Category means, shape `(categories, coefficients)`.
        mean_errors: Their standard errors, same shape.
        season: Coefficients of the calendar, shape `(categories, time columns)`.
        own: Shocks of each item, shape `(items, periods)`, and `own_scale`, `own_persistence` by category.
        market: The layer of whole categories (shocks only; its deviations are zero).
        layers: Products and stores, as far as the panel has them.
        dispersion: Excess variance of the counts of each item, shape `(items,)`.
    """

    coefficients: np.ndarray
    covariances: np.ndarray
    variances: np.ndarray
    means: np.ndarray
    mean_errors: np.ndarray
    season: np.ndarray
    own: np.ndarray
    own_scale: np.ndarray
    own_persistence: np.ndarray
    market: Level
    layers: dict[str, Level]
    dispersion: np.ndarray

    def shock_variance(self, design: Design) -> np.ndarray:
        """Variance of the sum of all log shocks of each item, shape `(items,)`."""
        total = self.own_scale[design.categories.of_item] ** 2 + self.market.scale[design.categories.of_item] ** 2
        for layer in self.layers.values():
            total = total + layer.scale[layer.groups.of_item] ** 2
        return total

    def expected(self, design: Design) -> np.ndarray:
        """Prior mean of each item's coefficients: category, product and store, shape `(items, coefficients)`."""
        total = self.means[design.categories.of_item]
        for layer in self.layers.values():
            total = total + layer.deviations[layer.groups.of_item]
        return total

    def fixed_predictor(self, design: Design) -> np.ndarray:
        """Log mean count without any shock, shape `(items, periods)`."""
        seasons = self.season @ design.time.T
        return np.einsum("itk,ik->it", design.covariates, self.coefficients) + seasons[design.categories.of_item]

    def predictor(self, design: Design) -> np.ndarray:
        """Log mean count with all shocks at their modes, shape `(items, periods)`."""
        total = self.fixed_predictor(design) + self.own + self.market.shocks[self.market.groups.of_item]
        for layer in self.layers.values():
            total = total + layer.shocks[layer.groups.of_item]
        return total


def start_effects(design: Design, dispersion: float = 0.2) -> Effects:
    """A plain start: item levels at the mean log count, everything else nil, wide priors.

    Args:
        design: The data.
        dispersion: First guess of the excess variance.

    Returns:
        Effects to be updated.
    """
    items, periods, size = design.covariates.shape
    categories = len(design.categories.names)
    logs = np.log(np.where(design.data.observed, design.data.counts, np.nan) + 0.5)
    seen = design.data.observed.sum(axis=1)
    average = float(np.nanmean(logs))
    level = np.where(seen > 0, np.nansum(logs, axis=1) / np.maximum(seen, 1), average)
    coefficients = np.zeros((items, size))
    coefficients[:, 0] = level
    wide = np.r_[1.0, 1.0, np.full(size - 2, 0.25)] * np.ones((categories, 1))
    means = np.zeros((categories, size))
    means[:, 0] = design.categories.sum(level) / design.categories.sizes

    def build_level(groups: Groups) -> Level:
        shape = (len(groups.names), size)
        shocks, quiet = np.zeros((shape[0], periods)), np.full(shape[0], 0.1)
        return Level(groups, np.zeros(shape), np.zeros(shape), wide.copy(), shocks, quiet, np.full(categories, 0.5))

    found = {"product": design.products, "store": design.stores}
    return Effects(
        coefficients=coefficients,
        covariances=np.zeros((items, size, size)),
        variances=wide.copy(),
        means=means,
        mean_errors=np.zeros_like(means),
        season=np.zeros((categories, design.time.shape[1])),
        own=np.zeros((items, periods)),
        own_scale=np.full(categories, 0.2),
        own_persistence=np.full(categories, 0.5),
        market=build_level(design.categories),
        layers={name: build_level(groups) for name, groups in found.items() if groups is not None},
        dispersion=np.full(items, dispersion),
    )


def update_items(design: Design, effects: Effects, terms: WorkingTerms) -> None:
    """Newton step of every item's coefficients and own shocks, shrunk to product, store and category.

    Args:
        design: The data.
        effects: Changed in place.
        terms: Score and weight at the present effects.
    """
    of_category = design.categories.of_item
    rows, weight = design.covariates, terms.weight
    target = weight * (np.einsum("itk,ik->it", rows, effects.coefficients) + effects.own) + terms.score
    chains = Chains(effects.own_scale[of_category], effects.own_persistence[of_category])
    right = np.concatenate([weight[..., None] * rows, target[..., None]], axis=-1)
    absorbed = chains.solve(weight, right)
    seen = np.swapaxes(right[..., :-1], 1, 2)
    moments = np.swapaxes(rows, 1, 2) @ right - seen @ absorbed
    prior = 1.0 / effects.variances[of_category]
    precision = moments[..., :-1] + prior[:, :, None] * np.eye(rows.shape[-1])
    effects.covariances = np.linalg.inv(precision)
    pull = moments[..., -1] + prior * effects.expected(design)
    effects.coefficients = np.einsum("ikl,il->ik", effects.covariances, pull)
    effects.own = absorbed[..., -1] - np.einsum("itk,ik->it", absorbed[..., :-1], effects.coefficients)


def update_layer(design: Design, effects: Effects, layer: Level, terms: WorkingTerms) -> None:
    """Newton step of a layer: its groups' coefficients move together with their items and their shared shocks.

    Args:
        design: The data.
        effects: Changed in place: the layer's deviations and shocks and its items' coefficients.
        layer: One of `effects.layers`.
        terms: Score and weight at the present effects.
    """
    groups = layer.groups
    rows = design.covariates
    weighted = terms.weight[..., None] * rows
    weight = groups.sum(terms.weight)
    target = weight * layer.shocks + groups.sum(terms.score)
    right = np.concatenate([groups.sum(weighted), target[..., None]], axis=-1)
    absorbed = layer.chains.solve(weight, right)
    seen = np.swapaxes(right[..., :-1], 1, 2)
    squares = groups.sum(np.swapaxes(rows, 1, 2) @ weighted) - seen @ absorbed[..., :-1]
    pull = groups.sum(np.einsum("itk,it->ik", rows, terms.weight * layer.shocks[groups.of_item] + terms.score))
    pull -= np.einsum("gkt,gt->gk", seen, absorbed[..., -1])
    prior = 1.0 / layer.variances[groups.category]
    eye = np.eye(rows.shape[-1])
    precision = squares + prior[:, :, None] * eye
    shift = np.linalg.solve(precision, (pull - prior * layer.deviations)[..., None])[..., 0]
    layer.deviations = layer.deviations + shift
    layer.shocks = absorbed[..., -1] - np.einsum("gtk,gk->gt", absorbed[..., :-1], shift)
    effects.coefficients = effects.coefficients + shift[groups.of_item]
    # What the data say about a group is blurred by its items' own deviations as well.
    blurred = np.linalg.inv(squares + 1e-9 * eye)
    blurred += (effects.variances[groups.category] / groups.sizes[:, None])[:, :, None] * eye
    posterior = np.linalg.inv(np.linalg.inv(blurred) + prior[:, :, None] * eye)
    layer.posterior = np.einsum("gkk->gk", posterior)


def update_market(design: Design, effects: Effects, terms: WorkingTerms) -> None:
    """Newton step of whole categories: mean coefficients, season, trend and the shock that all items share.

    Args:
        design: The data.
        effects: Changed in place; a category's shift moves all its items.
        terms: Score and weight at the present effects.
    """
    market, groups = effects.market, design.categories
    rows, size = design.covariates, design.covariates.shape[-1]
    weighted = terms.weight[..., None] * rows
    weight, score = groups.sum(terms.weight), groups.sum(terms.score)
    of_rows = groups.sum(weighted)
    columns = np.concatenate([of_rows, weight[..., None] * design.time], axis=-1)
    right = np.concatenate([columns, (weight * market.shocks + score)[..., None]], axis=-1)
    absorbed = market.chains.solve(weight, right)
    squares = np.zeros((len(weight), columns.shape[-1], columns.shape[-1]))
    squares[:, :size, :size] = groups.sum(np.swapaxes(rows, 1, 2) @ weighted)
    cross = np.einsum("gtk,tc->gkc", of_rows, design.time)
    squares[:, :size, size:], squares[:, size:, :size] = cross, np.swapaxes(cross, 1, 2)
    squares[:, size:, size:] = np.einsum("tc,gt,td->gcd", design.time, weight, design.time)
    reach = terms.weight * market.shocks[groups.of_item] + terms.score
    pull = np.concatenate(
        [groups.sum(np.einsum("itk,it->ik", rows, reach)), (weight * market.shocks + score) @ design.time], axis=-1
    )
    seen = np.swapaxes(columns, 1, 2)
    squares -= seen @ absorbed[..., :-1]
    pull -= np.einsum("gkt,gt->gk", seen, absorbed[..., -1])
    prior = np.r_[np.full(size, _WIDE), np.ones(design.time.shape[1])]
    present = np.concatenate([np.zeros_like(effects.means), effects.season], axis=-1)
    precision = squares + np.diag(prior)
    shift = np.linalg.solve(precision, (pull - prior * present)[..., None])[..., 0]
    effects.means = effects.means + shift[:, :size]
    effects.coefficients = effects.coefficients + shift[groups.of_item, :size]
    effects.season = effects.season + shift[:, size:]
    market.shocks = absorbed[..., -1] - np.einsum("gtk,gk->gt", absorbed[..., :-1], shift)
    market.posterior = np.einsum("gkk->gk", np.linalg.inv(precision))[:, :size]


def recentre(design: Design, effects: Effects) -> None:
    """Moves layers and category means to the middle of what lies below them, given the items' coefficients.

    This and the shifts above are two views of the same model; taking turns converges where either alone creeps
    (Yu and Meng 2011, doi:10.1198/jcgs.2011.203main).

    Args:
        design: The data.
        effects: Changed in place: deviations of the layers and category means.
    """
    for layer in effects.layers.values():
        groups = layer.groups
        rest = effects.coefficients - effects.expected(design) + layer.deviations[groups.of_item]
        within = 1.0 / effects.variances[groups.category]
        prior = 1.0 / layer.variances[groups.category]
        layer.deviations = within * groups.sum(rest) / (within * groups.sizes[:, None] + prior)
    for layer in effects.layers.values():
        middle = _mean_by_category(layer.deviations, layer.groups.category, len(effects.means))
        layer.deviations = layer.deviations - middle[layer.groups.category]
        effects.means = effects.means + middle
    rest = effects.coefficients - effects.expected(design)
    effects.means = effects.means + _mean_by_category(rest, design.categories.of_item, len(effects.means))


def update_variances(design: Design, effects: Effects) -> None:
    """Variance components by empirical Bayes: squared deviations over what the data determine (MacKay 1992).

    Categories borrow from each other with the weight of two groups.

    Args:
        design: The data.
        effects: Changed in place: variances of items and layers, and standard errors of the category means.
    """
    rest = effects.coefficients - effects.expected(design)
    spread = np.einsum("ikk->ik", effects.covariances)
    effects.variances = _compute_variances(rest, spread, effects.variances, design.categories.of_item)
    errors = effects.variances / design.categories.sizes[:, None]
    for layer in effects.layers.values():
        category = layer.groups.category
        layer.variances = _compute_variances(layer.deviations, layer.posterior, layer.variances, category)
        errors = errors + layer.variances / np.bincount(category, minlength=len(errors))[:, None]
    effects.mean_errors = np.sqrt(errors + effects.market.posterior)


def _compute_variances(
    deviations: np.ndarray, posterior: np.ndarray, variances: np.ndarray, category: np.ndarray
) -> np.ndarray:
    determined = np.clip(1.0 - posterior / variances[category], 0.0, 1.0)
    total, known = np.zeros_like(variances), np.zeros_like(variances)
    np.add.at(total, category, deviations**2)
    np.add.at(known, category, determined)
    pooled = total.sum(axis=0) / np.maximum(known.sum(axis=0), 1.0)
    return np.maximum((total + 2.0 * pooled) / (known + 2.0), 1e-5)


def _mean_by_category(values: np.ndarray, category: np.ndarray, num_categories: int) -> np.ndarray:
    total = np.zeros((num_categories, values.shape[1]))
    np.add.at(total, category, values)
    return total / np.maximum(np.bincount(category, minlength=num_categories), 1)[:, None]
