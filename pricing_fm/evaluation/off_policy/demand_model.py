"""Demand given price, calendar and price state, fitted to a log by the censored likelihood."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pricing_fm.evaluation.off_policy.censored_counts import read_sales
from pricing_fm.evaluation.off_policy.censored_regression import CountRegression, CountRows, fit_count_regression
from pricing_fm.evaluation.off_policy.shop import Decision, PriceState, Situation, advance_prices


@dataclass(frozen=True)
class DemandLog:
    """What a shop logged. Arrays `(units, periods)` unless said otherwise.

    Attributes:
        units: Units sold, NaN = unknown.
        stock: Units available at the start of the period; infinite = unlimited; 0 = nothing could be sold.
        prices: Currency per unit, NaN = none.
        list_prices: Regular price, currency.
        promotions: 1 in promoted periods, else 0.
        clusters: Decision unit of each unit, labels, `(units,)`.
        weeks: Calendar period of each column (or cell), labels, `(periods,)` or `(units, periods)`.
        log_memory: Log of the price that customers remember before the first period, `(units,)`.
        depth: Recent discount before the first period, `(units,)`; see `shop.PriceState`.
        persistence: Weight of the old price state in the new one, in [0, 1).

    Raises:
        ValueError: If shapes differ, or a price is not positive.
    """

    units: np.ndarray
    stock: np.ndarray
    prices: np.ndarray
    list_prices: np.ndarray
    promotions: np.ndarray
    clusters: np.ndarray
    weeks: np.ndarray
    log_memory: np.ndarray
    depth: np.ndarray
    persistence: float

    def __post_init__(self) -> None:
        shape = self.units.shape
        for name in ("stock", "prices", "list_prices", "promotions"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} have shape {getattr(self, name).shape}; expected {shape}, as units")
        for name in ("clusters", "log_memory", "depth"):
            if getattr(self, name).shape != shape[:1]:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; expected {shape[:1]}")
        if np.any(self.prices <= 0) or not np.all(self.list_prices > 0):
            raise ValueError("prices must be positive (NaN where none was charged), list prices everywhere")
        object.__setattr__(self, "weeks", np.broadcast_to(self.weeks, shape))

    def trace_price_states(self) -> PriceState:
        """Price state before every period, arrays `(units, periods)`."""
        start = self.log_memory[:, None]
        state, rows = PriceState(start, start, self.depth[:, None]), []
        for period in range(self.units.shape[1]):
            rows.append(state)
            here = slice(period, period + 1)
            state = advance_prices(state, self.prices[:, here], self.list_prices[:, here], self.persistence)
        return PriceState(*(np.hstack(column) for column in zip(*rows, strict=True)))


class LearnedResponse(Protocol):
    """Log demand up to an effect of the unit, from a model that was learned elsewhere, best on other decision units."""

    def __call__(
        self, period: int | slice, list_price: np.ndarray, state: PriceState, decision: Decision
    ) -> np.ndarray:
        """Log of mean demand in the shape of `decision.prices`; see `DemandDesign.build` for the arguments."""


@dataclass(frozen=True)
class DemandDesign:
    """Regressors of log demand: the calendar's and covariates', then those of the price.

    Columns: covariates; log(price / list price); promotion; log(remembered price / price), one column or, loss averse,
    one for falls and one for rises; recent discount.

    Attributes:
        covariates: Regressors that no policy moves, `(units, periods, columns)`; known for the whole horizon.
        has_promotion: Whether promotions have an effect beyond their price.
        has_reference_price: Whether customers compare with a remembered price.
        is_loss_averse: Whether rises above the remembered price weigh differently from falls.
        has_recent_discount: Whether recent discounts have bought demand forward. Where no price exceeds the list price
            and that stands still, recent discount and remembered price are the same number: only one can be told.
        offset: Known part of log demand, `(units, periods)`; None = 0.
        has_price: Whether the regression itself has the price; False where `learned` says all about it.
        learned: Part of log demand that another model has learned, as it depends on price and price state (boosted
            trees, a network's demand curve); None = none. The regression then adds the units' own effects, what the
            covariates say beyond it, and overdispersion. Its own error is not in any contribution.
    """

    covariates: np.ndarray
    has_promotion: bool = False
    has_reference_price: bool = True
    is_loss_averse: bool = False
    has_recent_discount: bool = False
    offset: np.ndarray | None = None
    has_price: bool = True
    learned: LearnedResponse | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column."""
        gap = ("fall_below_memory", "rise_above_memory") if self.is_loss_averse else ("gap_to_memory",)
        return (
            *(f"covariate_{i}" for i in range(self.covariates.shape[2])),
            *(("log_price",) if self.has_price else ()),
            *(("promotion",) if self.has_promotion else ()),
            *(gap if self.has_reference_price else ()),
            *(("recent_discount",) if self.has_recent_discount else ()),
        )

    def build(self, period: int | slice, list_price: np.ndarray, state: PriceState, decision: Decision) -> np.ndarray:
        """Regressors of some periods.

        Args:
            period: A period (arrays then are `(units, draws)`), or all of them (`(units, periods)`).
            list_price: Regular price, broadcast.
            state: Price state before the decision.
            decision: Prices and promotions.

        Returns:
            `(units, draws, columns)`, or `(units, periods, columns)`.
        """
        log_price = np.log(decision.prices)
        columns = [log_price - np.log(list_price)] if self.has_price else []
        if self.has_promotion:
            columns.append(decision.promotions)
        if self.has_reference_price:
            gap = state.log_memory - log_price
            columns += [np.maximum(gap, 0.0), np.minimum(gap, 0.0)] if self.is_loss_averse else [gap]
        if self.has_recent_discount:
            columns.append(state.depth)
        given = self.covariates[:, period] if isinstance(period, slice) else self.covariates[:, period, None]
        shared = np.broadcast_to(given, (*log_price.shape, given.shape[-1]))
        if not columns:
            return shared
        return np.concatenate([shared, np.stack(np.broadcast_arrays(*columns), axis=-1)], axis=-1)

    def compute_offset(
        self, period: int | slice, list_price: np.ndarray, state: PriceState, decision: Decision
    ) -> np.ndarray:
        """Part of log demand that is not fitted, in the shape of `decision.prices`; arguments as of `build`."""
        total = np.zeros(decision.prices.shape)
        if self.offset is not None:
            total = total + (self.offset[:, period] if isinstance(period, slice) else self.offset[:, period, None])
        return total if self.learned is None else total + self.learned(period, list_price, state, decision)


@dataclass(frozen=True)
class FittedDemand:
    """Demand as fitted to a log; a `shop.DemandLaw`.

    Attributes:
        log: The log.
        design: Regressors.
        rows: The regression's rows, unit by unit.
        fit: Its maximum.
        added_effects: Log of a factor on each unit's demand, `(units,)`.
    """

    log: DemandLog
    design: DemandDesign
    rows: CountRows
    fit: CountRegression
    added_effects: np.ndarray

    @property
    def overdispersion(self) -> float:
        """See `shop.DemandLaw`."""
        return self.fit.overdispersion

    @property
    def unit_effects(self) -> np.ndarray:
        """Effect of each unit on log demand, `(units,)`."""
        if self.rows.groups is None:
            return self.added_effects
        return self.added_effects + self.fit.effects[self.rows.groups.reshape(self.log.units.shape)[:, 0]]

    def compute_log_mean(self, situation: Situation, decision: Decision) -> np.ndarray:
        """See `shop.DemandLaw`."""
        given = situation.period, situation.list_price, situation.prices, decision
        regressors, offset = self.design.build(*given), self.design.compute_offset(*given)
        return np.asarray(regressors @ self.fit.coefficients + self.unit_effects[:, None] + offset)

    def compute_logged_log_mean(self) -> np.ndarray:
        """Log of mean demand at the logged prices and states, `(units, periods)`."""
        return self.rows.compute_log_mean(self.fit.coefficients, self.fit.effects).reshape(self.log.units.shape)

    def move(self, coefficients: np.ndarray | float = 0.0, log_overdispersion: float = 0.0) -> FittedDemand:
        """The same with other coefficients and overdispersion, by these differences."""
        fit = replace(
            self.fit,
            coefficients=self.fit.coefficients + coefficients,
            overdispersion=self.fit.overdispersion * float(np.exp(log_overdispersion)),
        )
        return replace(self, fit=fit)


def fit_demand(
    log: DemandLog,
    design: DemandDesign,
    groups: np.ndarray | None = None,
    group_penalty: float = 0.0,
    overdispersion: float | None = None,
    weights: np.ndarray | None = None,
) -> FittedDemand:
    """Fit demand to a log: sold-out weeks count as tails, weeks without stock or price not at all.

    Args:
        log: The log.
        design: Regressors.
        groups: Units that share an effect on log demand, codes 0, 1, ..., `(units,)`; None = no effects (the covariates
            then need a constant).
        group_penalty: Precision of a normal prior of the effects around 0; above 0 the covariates need a constant.
        overdispersion: None = estimated; 0 = Poisson.
        weights: Weight of each row, `(units, periods)`; None = 1.

    Returns:
        The fit.

    Raises:
        ValueError: If shapes differ or the likelihood has no maximum (`FitError`).
    """
    shape = log.units.shape
    if design.covariates.shape[:2] != shape:
        raise ValueError(f"covariates have shape {design.covariates.shape}; expected {shape} first")
    charged = np.isfinite(log.prices)
    decision = Decision(np.where(charged, log.prices, log.list_prices), log.promotions)
    given = slice(None), log.list_prices, log.trace_price_states(), decision
    regressors = design.build(*given)
    rows = CountRows(
        counts=read_sales(np.where(charged, log.units, np.nan).ravel(), log.stock.ravel()),
        design=regressors.reshape(-1, regressors.shape[-1]),
        offset=design.compute_offset(*given).ravel(),
        groups=None if groups is None else np.repeat(np.asarray(groups, dtype=np.int64), shape[1]),
        group_penalty=group_penalty,
        weights=None if weights is None else weights.ravel(),
        names=design.names,
    )
    return FittedDemand(log, design, rows, fit_count_regression(rows, overdispersion), np.zeros(shape[0]))
