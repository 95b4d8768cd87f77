"""Coefficients of items within products, stores and categories: state of the fit, and its updates.

Demand is fitted marginally: the mean of the counts is matched whatever the shocks were, so that fitted shocks do not
move with prices over the log. With the shocks inside the regression (generalised least squares) replicates of Frat and
of orange juice showed plain price slopes that were a tenth to a quarter too flat: what all stores of a product did
together went to its shock. Here the shocks decide how far an estimate is trusted: through them eighty stores that cut
together count as one event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.design import Design, Groups
from pricing_fm.markets.fitting.likelihood import WorkingTerms
from pricing_fm.markets.fitting.precision import ItemInformation

_SWEEPS = 5  # over items and layers, between two linearisations


@dataclass
class Level:
    """One layer of the hierarchy: deviations of groups, and the law of shocks that their items share.

    Attributes:
        groups: Which items belong together.
        deviations: Deviation of each group's coefficients from its category's, shape `(groups, coefficients)`.
        posterior: Variance of what all items of a group are off by together, same shape.
        variances: Prior variance by category, shape `(categories, coefficients)`.
        scale: Standard deviation of the log-demand shocks by group, shape `(groups,)`: products differ.
        persistence: Their autocorrelation by category, shape `(categories,)`.
        drift_scale: Standard deviation of slow shocks of persistence `chains.DRIFT` by category, shape `(categories,)`;
            0 in short logs.
    """

    groups: Groups
    deviations: np.ndarray
    posterior: np.ndarray
    variances: np.ndarray
    scale: np.ndarray
    persistence: np.ndarray
    drift_scale: np.ndarray

    def shock_variance(self) -> np.ndarray:
        """Variance of fast and slow log shocks together by group, shape `(groups,)`."""
        return self.scale**2 + self.drift_scale[self.groups.category] ** 2


@dataclass
class Effects:
    """State of the fit; changed in place by the updates.

    Attributes:
        coefficients: Of each item (level, elasticity, promotions), shape `(items, coefficients)`.
        covariances: Their posterior covariances around their groups', shape `(items, coefficients, coefficients)`.
        variances: Variance of items around product and store, by category, shape `(categories, coefficients)`.
        means: Category means, shape `(categories, coefficients)`.
        mean_errors: Their standard errors, same shape.
        season: Coefficients of the calendar, shape `(categories, time columns)`.
        own_scale, own_persistence: Shocks of the items themselves, by category.
        drift_scale: Slow drift of the items, of persistence `chains.DRIFT`, by category; 0 in short logs.
        market: Shocks of whole categories; its deviations are zero.
        layers: "product" and "store", as far as the panel has them.
        dispersion: Excess variance of the counts of each item given the shocks, shape `(items,)`.
    """

    coefficients: np.ndarray
    covariances: np.ndarray
    variances: np.ndarray
    means: np.ndarray
    mean_errors: np.ndarray
    season: np.ndarray
    own_scale: np.ndarray
    own_persistence: np.ndarray
    drift_scale: np.ndarray
    market: Level
    layers: dict[str, Level]
    dispersion: np.ndarray

    def shock_variance(self, design: Design) -> np.ndarray:
        """Variance of the sum of all log shocks of each item, shape `(items,)`."""
        total = (self.own_scale**2 + self.drift_scale**2 + self.market.scale**2)[design.categories.of_item]
        for layer in self.layers.values():
            total = total + layer.shock_variance()[layer.groups.of_item]
        return total

    def total_dispersion(self, design: Design) -> np.ndarray:
        """Excess variance of the counts over all shocks, shape `(items,)`."""
        return (1.0 + self.dispersion) * np.exp(self.shock_variance(design)) - 1.0

    def item_errors(self, design: Design) -> np.ndarray:
        """Standard errors of the items' coefficients, their groups' common errors included."""
        total = np.einsum("ikk->ik", self.covariances) + self.market.posterior[design.categories.of_item]
        for layer in self.layers.values():
            total = total + layer.posterior[layer.groups.of_item]
        return np.sqrt(total)

    def expected(self, design: Design) -> np.ndarray:
        """Prior mean of each item's coefficients: category, product and store, shape `(items, coefficients)`."""
        total = self.means[design.categories.of_item]
        for layer in self.layers.values():
            total = total + layer.deviations[layer.groups.of_item]
        return total

    def predictor(self, design: Design) -> np.ndarray:
        """Log mean count over all shocks, shape `(items, periods)`."""
        seasons = self.season @ design.time.T
        return np.einsum("itk,ik->it", design.covariates, self.coefficients) + seasons[design.categories.of_item]


def start_effects(design: Design, dispersion: float = 0.2) -> Effects:
    """A plain start: item levels at the mean log count, everything else nil, wide priors.

    Args:
        design: The data.
        dispersion: First guess of the excess variance.

    Returns:
        Effects to be updated.
    """
    items, size = len(design.item_ids), design.covariates.shape[2]
    categories = len(design.categories.names)
    seen = design.data.observed
    logs = np.log(np.where(seen, design.data.counts, 1.0) + 0.5)
    number = seen.sum(axis=1)
    level = np.where(number > 0, (logs * seen).sum(axis=1) / np.maximum(number, 1), float(logs[seen].mean()))
    coefficients = np.zeros((items, size))
    coefficients[:, 0] = level
    wide = np.r_[1.0, 1.0, np.full(size - 2, 0.25)] * np.ones((categories, 1))
    means = np.zeros((categories, size))
    means[:, 0] = design.categories.sum(level) / design.categories.sizes

    def build_level(groups: Groups) -> Level:
        number = len(groups.names)
        memory, none = np.full(categories, 0.5), np.zeros(categories)
        zeros = np.zeros((number, size))
        return Level(groups, zeros, zeros.copy(), wide.copy(), np.full(number, 0.1), memory, none)

    found = {"product": design.products, "store": design.stores}
    return Effects(
        coefficients=coefficients,
        covariances=np.zeros((items, size, size)),
        variances=wide.copy(),
        means=means,
        mean_errors=np.zeros_like(means),
        season=np.zeros((categories, design.time.shape[1])),
        own_scale=np.full(categories, 0.2),
        own_persistence=np.full(categories, 0.5),
        drift_scale=np.zeros(categories),
        market=build_level(design.categories),
        layers={name: build_level(groups) for name, groups in found.items() if groups is not None},
        dispersion=np.full(items, dispersion),
    )


def update_season(design: Design, effects: Effects, terms: WorkingTerms) -> None:
    """Newton step of season and trend, with the items' own coefficients regressed out.

    Args:
        design: The data.
        effects: Changed in place: `season`.
        terms: Score and weight at the present effects.
    """
    rows, groups = design.covariates, design.categories
    weighted = terms.weight[..., None] * rows
    weight = groups.sum(terms.weight)
    own = groups.sum(np.swapaxes(rows, 1, 2) @ weighted) + 1e-6 * np.eye(rows.shape[-1])
    cross = np.einsum("gtk,tc->gkc", groups.sum(weighted), design.time)
    squares = np.einsum("tc,gt,td->gcd", design.time, weight, design.time)
    pull = groups.sum(terms.score) @ design.time
    pull_own = groups.sum(np.einsum("itk,it->ik", rows, terms.score))
    share = np.linalg.solve(own, cross)
    squares = squares - np.swapaxes(cross, 1, 2) @ share
    pull = pull - np.einsum("gkc,gk->gc", share, pull_own)
    # A unit prior: a season of one log unit or more is not a season.
    precision = squares + np.eye(design.time.shape[1])
    effects.season = effects.season + np.linalg.solve(precision, (pull - effects.season)[..., None])[..., 0]


def update_coefficients(design: Design, effects: Effects, information: ItemInformation) -> None:
    """Sweeps over items, layers and categories towards the mode of the hierarchical normal model.

    Groups move in two ways in turn: to the middle of their items, and together with their items; either alone creeps
    where data are few or many (Yu and Meng 2011, doi:10.1198/jcgs.2011.203main).

    Args:
        design: The data.
        effects: Changed in place: coefficients, covariances, deviations of the layers, category means.
        information: What the data say about each item, at the present effects.
    """
    prior = 1.0 / effects.variances[design.categories.of_item]
    eye = np.eye(prior.shape[1])
    effects.covariances = np.linalg.inv(information.precision + prior[:, :, None] * eye)
    target = information.score + np.einsum("ikl,il->ik", information.precision, effects.coefficients)
    for _ in range(_SWEEPS):
        pull = target + prior * effects.expected(design)
        effects.coefficients = np.einsum("ikl,il->ik", effects.covariances, pull)
        for layer in effects.layers.values():
            _shift_layer(design, effects, layer, information.precision, target)
            _recentre_layer(design, effects, layer)
        rest = effects.coefficients - effects.expected(design)
        effects.means = effects.means + _mean_by_category(rest, design.categories.of_item, len(effects.means))
        shift = _solve_shift(design.categories, effects, information.precision, target, 1e-4 * eye, 0.0)
        effects.means = effects.means + shift
        effects.coefficients = effects.coefficients + shift[design.categories.of_item]


def update_variances(design: Design, effects: Effects, information: ItemInformation) -> None:
    """Variance components by empirical Bayes: squared deviations over what the data determine (MacKay 1992).

    Categories borrow from each other with the weight of two groups.

    Args:
        design: The data.
        effects: Changed in place: variances of items and layers, and standard errors of the category means.
        information: What the data say about each item and group.
    """
    rest = effects.coefficients - effects.expected(design)
    spread = np.einsum("ikk->ik", effects.covariances)
    effects.variances = _compute_variances(rest, spread, effects.variances, design.categories.of_item)
    errors = effects.variances / design.categories.sizes[:, None] + information.market_error
    effects.market.posterior = information.market_error
    for name, layer in effects.layers.items():
        category, groups = layer.groups.category, layer.groups
        blurred = information.group_errors[name] + effects.variances[category] / groups.sizes[:, None]
        posterior = 1.0 / (1.0 / blurred + 1.0 / layer.variances[category])
        layer.posterior = 1.0 / (1.0 / information.group_errors[name] + 1.0 / layer.variances[category])
        layer.variances = _compute_variances(layer.deviations, posterior, layer.variances, category)
        # Groups are weighed by what they know: one without promotions says nothing about promotions.
        weight = np.zeros_like(errors)
        np.add.at(weight, category, 1.0 / (layer.variances[category] + information.group_errors[name]))
        errors = errors + 1.0 / weight
    effects.mean_errors = np.sqrt(errors)


def _shift_layer(design: Design, effects: Effects, layer: Level, precision: np.ndarray, target: np.ndarray) -> None:
    prior = 1.0 / layer.variances[layer.groups.category]
    eye = np.eye(prior.shape[1])
    shift = _solve_shift(layer.groups, effects, precision, target, prior[:, :, None] * eye, prior * layer.deviations)
    layer.deviations = layer.deviations + shift
    effects.coefficients = effects.coefficients + shift[layer.groups.of_item]


def _solve_shift(
    groups: Groups,
    effects: Effects,
    precision: np.ndarray,
    target: np.ndarray,
    prior: np.ndarray,
    held: np.ndarray | float,
) -> np.ndarray:
    pull = groups.sum(target - np.einsum("ikl,il->ik", precision, effects.coefficients)) - held
    return np.linalg.solve(groups.sum(precision) + prior, pull[..., None])[..., 0]


def _recentre_layer(design: Design, effects: Effects, layer: Level) -> None:
    groups = layer.groups
    rest = effects.coefficients - effects.expected(design) + layer.deviations[groups.of_item]
    within, prior = 1.0 / effects.variances[groups.category], 1.0 / layer.variances[groups.category]
    layer.deviations = within * groups.sum(rest) / (within * groups.sizes[:, None] + prior)
    middle = _mean_by_category(layer.deviations, groups.category, len(effects.means))
    layer.deviations = layer.deviations - middle[groups.category]
    effects.means = effects.means + middle


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
