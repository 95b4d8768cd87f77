"""Fits a hierarchical count model of demand to a panel, by penalised likelihood and empirical Bayes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.fitting.design import Design, Groups, build_design, check_design
from pricing_fm.markets.fitting.effects import (
    Effects,
    Level,
    start_effects,
    update_coefficients,
    update_season,
    update_variances,
)
from pricing_fm.markets.fitting.likelihood import WorkingTerms, compute_working_terms, impute_censored
from pricing_fm.markets.fitting.noise import update_noise
from pricing_fm.markets.fitting.precision import ItemInformation, ShockLaw, compute_information
from pricing_fm.markets.streams import DEMAND, build_streams
from pricing_fm.panel import Panel

_LOG_ROUNDS = 4  # on log counts, before the counts themselves


@dataclass(frozen=True)
class FitSettings:
    """How long and how finely to fit.

    Attributes:
        num_iterations: Rounds over all blocks; 15 move category elasticities by less than 0.01 in the last round.
        count_size: Units of one count; None = read off the units.
        use_censoring: False takes sold-out sales for demand. For comparison only: it is biased.

    Raises:
        ValueError: If `num_iterations` is below 3.
    """

    num_iterations: int = 20
    count_size: float | None = None
    use_censoring: bool = True

    def __post_init__(self) -> None:
        if self.num_iterations < 3:
            raise ValueError(f"num_iterations is {self.num_iterations}; it must be 3 or more")


@dataclass(frozen=True)
class Estimates:
    """A fitted market and the data it was fitted to.

    Attributes:
        design: The data as arrays.
        effects: Coefficients, shocks and noise at their estimates.
        last_change: Largest move of a category's mean elasticity in the last round: how far from converged.
    """

    design: Design
    effects: Effects
    last_change: float


def estimate_market(
    panel: Panel, settings: FitSettings | None = None, progress: Callable[[int, int], None] | None = None
) -> Estimates:
    """Fits log mean demand = item level + season + trend - elasticity x log price ratio + promotions + shocks.

    Coefficients of an item scatter around its product's, store's and category's, with variances that the data decide
    (empirical Bayes): an item with little price variation takes the elasticity of its product. Counts are negative
    binomial given autoregressive shocks of the category, of products, of stores and of the item.

    Args:
        panel: Sales log, daily or slower.
        settings: Rounds and options.
        progress: Called with (round, rounds) after each.

    Returns:
        Estimates and data.

    Raises:
        PanelError: If the panel cannot tell an elasticity; see `build_design` and `check_design`.

    References:
        Breslow and Clayton 1993, doi:10.1080/01621459.1993.10594284 (penalised quasi-likelihood).
    """
    settings = settings or FitSettings()
    design = build_design(panel, settings.count_size, settings.use_censoring)
    check_design(design, panel.name)
    effects = start_effects(design)
    streams = build_streams(0, np.arange(len(design.item_ids)))
    change = np.inf
    for turn in range(settings.num_iterations):
        before = effects.means[:, 1].copy()
        linearise = _linearise_logs if turn < _LOG_ROUNDS else _linearise_counts
        update_season(design, effects, linearise(design, effects))
        terms = linearise(design, effects)
        information = _inform(design, effects, terms)
        update_coefficients(design, effects, information)
        if turn >= 1:
            update_variances(design, effects, information)
        if turn >= _LOG_ROUNDS:
            uniforms = streams.uniform(turn, DEMAND, (len(design.timestamps),))
            spread = effects.total_dispersion(design)[:, None]
            update_noise(design, effects, impute_censored(design.data, effects.predictor(design), spread, uniforms))
        change = float(np.abs(effects.means[:, 1] - before).max())
        if progress is not None:
            progress(turn + 1, settings.num_iterations)
    return Estimates(design, effects, change)


def _inform(design: Design, effects: Effects, terms: WorkingTerms) -> ItemInformation:
    items = len(design.item_ids)
    of_category = design.categories.of_item
    single = Groups(design.item_ids, np.arange(items), of_category)

    def open_law(level: Level) -> ShockLaw:
        drift = level.drift_scale[level.groups.category]
        return ShockLaw(level.groups, np.expm1(level.scale**2), level.persistence, np.expm1(drift**2))

    own, drift = (np.expm1(scale[of_category] ** 2) for scale in (effects.own_scale, effects.drift_scale))
    return compute_information(
        design,
        terms,
        np.expm1(effects.shock_variance(design)),
        ShockLaw(single, own, effects.own_persistence, drift),
        open_law(effects.market),
        {name: open_law(layer) for name, layer in effects.layers.items()},
    )


def _linearise_counts(design: Design, effects: Effects) -> WorkingTerms:
    spread = effects.total_dispersion(design)[:, None]
    return compute_working_terms(design.data, effects.predictor(design), spread)


def _linearise_logs(design: Design, effects: Effects) -> WorkingTerms:
    """Normal errors of log counts: a start from which the Newton steps of the counts cannot run away."""
    known = design.data.observed
    counts = np.where(known, design.data.counts, 1.0) + 0.5
    weight = np.where(known, 1.0 / (effects.total_dispersion(design)[:, None] + 1.0 / counts), 0.0)
    return WorkingTerms(weight * (np.log(counts) - effects.predictor(design)), weight)
