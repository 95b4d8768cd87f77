"""How mean demand responds to prices: each item alone, or all of an assortment together.

`respond` gives demand as a share of `Market.volume` (customers of a segment, or units at the reference price).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import wrightomega

from pricing_fm.markets.parts import Part
from pricing_fm.markets.responses import (
    CONSTANT_ELASTICITY,
    EXPONENTIAL,
    LOGIT,
    compute_elasticity,
    compute_log_response,
    compute_optimal_ratio,
)

# Attraction of buying nothing; an array, because numpy takes longer to convert a number than to add it to one market.
_NOTHING = np.ones((1, 1, 1))


@dataclass(frozen=True)
class Demand(Part):
    """Base of all demand models."""

    is_separable = False

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Mean demand over volume.

        Args:
            prices: Currency per unit, `(markets, products, segments)`.
            rival_prices: Outside rivals' prices, same shape; None = no rivals.

        Returns:
            Same shape, >= 0.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class OwnPriceDemand(Demand):
    """Every item responds to its own price (and its own rival's) alone.

    Attributes:
        family: Index into `responses.FAMILIES`, int, `(markets, 1, 1)`.
        elasticity: Minus d log demand / d log price at the reference price.
        reference_price: Price at which `elasticity` holds and the response is one, currency per unit.
        purchase_share: Share of customers who buy at the reference price, in (0, 1); shapes the logit family alone.
        cross_elasticity: d log demand / d log (rival price / reference price); None = rivals do not matter.
    """

    family: np.ndarray
    elasticity: np.ndarray
    reference_price: np.ndarray
    purchase_share: np.ndarray
    cross_elasticity: np.ndarray | None = None
    is_separable = True

    @cached_property
    def _groups(self) -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]] | None:
        """Markets of each family: code, rows, slope and purchase share; None where families differ inside markets."""
        if self.family.shape[1:] != (1, 1):
            return None
        codes, groups = self.family[:, 0, 0], []
        for code in np.unique(codes).tolist():
            rows = np.flatnonzero(codes == code)
            slope, share = -self.elasticity[rows], self.purchase_share[rows]
            groups.append((code, rows, slope / (1.0 - share) if code == LOGIT else slope, share))
        return groups

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Response relative to the reference price; see `Demand`."""
        ratio = prices / self.reference_price
        groups = self._groups
        if groups is None:
            log_response = compute_log_response(self.family, self.elasticity, self.purchase_share, ratio)
        elif len(groups) == 1:
            code, _, slope, share = groups[0]
            log_response = _respond_in_logs(code, slope, share, ratio)
        else:
            log_response = np.empty(ratio.shape)
            for code, rows, slope, share in groups:
                log_response[rows] = _respond_in_logs(code, slope, share, ratio[rows])
        if rival_prices is not None and self.cross_elasticity is not None:
            log_response = log_response + self.cross_elasticity * np.log(rival_prices / self.reference_price)
        return np.exp(log_response)

    def compute_elasticity(self, prices: np.ndarray) -> np.ndarray:
        """Minus d log demand / d log own price, positive; infinite where linear demand has ended."""
        return compute_elasticity(self.family, self.elasticity, self.purchase_share, prices / self.reference_price)

    def compute_optimal_price(
        self, cost: np.ndarray, bounds: tuple[np.ndarray, np.ndarray], added_elasticity: np.ndarray | float = 0.0
    ) -> np.ndarray:
        """Price, not rounded, that maximises (price - cost) x response inside bounds.

        Args:
            cost: Unit cost, currency, `(markets, products, segments)`.
            bounds: Lowest and highest admissible price, currency, same shape.
            added_elasticity: Constant added to the elasticity (comparison with a remembered price), >= 0.

        Returns:
            Currency per unit, same shape.
        """
        unit = self.reference_price
        shape = np.broadcast_shapes(np.shape(cost), self.elasticity.shape, np.shape(bounds[0]))
        values = (self.family, self.elasticity, self.purchase_share, np.asarray(added_elasticity), cost / unit)
        family, elasticity, share, added, cost_ratio, low, high = (
            np.broadcast_to(one, shape).ravel() for one in (*values, bounds[0] / unit, bounds[1] / unit)
        )
        closed, ratio = _solve_in_closed_form(family, elasticity, share, added, cost_ratio)
        ratio = np.minimum(np.maximum(ratio, low), high)
        if not closed.all():
            left = ~closed
            ratio[left] = compute_optimal_ratio(
                family[left], elasticity[left], share[left], added[left], cost_ratio[left], (low[left], high[left])
            )
        return ratio.reshape(shape) * unit


def _respond_in_logs(code: int, slope: np.ndarray, share: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """`responses.compute_log_response` of one family; the slope is minus the elasticity, over 1 - share for a logit."""
    if code == CONSTANT_ELASTICITY:
        return slope * np.log(ratio)
    if code == EXPONENTIAL:
        return slope * (ratio - 1.0)
    if code == LOGIT:
        odds = np.exp(slope * (ratio - 1.0))
        return np.log(odds / (1.0 - share + share * odds))
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(1.0 + slope * (ratio - 1.0), 0.0))


def _solve_in_closed_form(
    family: np.ndarray, elasticity: np.ndarray, share: np.ndarray, added: np.ndarray, cost_ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where elasticity x margin share = 1 has a closed form, and the price ratio there; arguments `(items,)`."""
    closed, ratio = added == 0.0, np.empty(family.shape)
    for code in np.unique(family):
        here = np.flatnonzero(family == code)
        e, s, a, c = elasticity[here], share[here], added[here], cost_ratio[here]
        if code == CONSTANT_ELASTICITY:
            closed[here] = True
            # Inelastic demand has no optimum but the upper bound.
            ratio[here] = np.where(e + a > 1.0, c * (e + a) / np.maximum(e + a - 1.0, 1e-300), np.inf)
        elif code == EXPONENTIAL:
            closed[here] = True
            half = e * c + 1.0 - a
            ratio[here] = (half + np.sqrt(half * half + 4.0 * e * a * c)) / (2.0 * e)
        elif code == LOGIT:
            slope = e / (1.0 - s)
            odds = np.log(s / (1.0 - s)) + slope * (1.0 - c) - 1.0
            ratio[here] = c + (1.0 + wrightomega(odds)) / slope
        else:
            ratio[here] = 0.5 * (1.0 + 1.0 / e + c)
    return closed, ratio


@dataclass(frozen=True)
class PurchaseProbability(Demand):
    """Every customer of an item buys it with a logit probability of its own price; `Market.volume` counts customers.

    Attributes:
        utility: Log odds of buying at price zero.
        sensitivity: Loss of log odds per unit of currency.
        rival_weight: Log odds gained when the rival's price rises by one unit of currency; None = no rival.
    """

    utility: np.ndarray
    sensitivity: np.ndarray
    rival_weight: np.ndarray | None = None
    is_separable = True

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Purchase probability; see `Demand`."""
        odds = self.utility - self.sensitivity * prices
        if rival_prices is not None and self.rival_weight is not None:
            odds = odds + self.rival_weight * rival_prices
        return 1.0 / (1.0 + np.exp(-odds))


@dataclass(frozen=True)
class LogitDemand(Demand):
    """Multinomial logit: a segment's customers buy one product of the assortment, or nothing (utility 0).

    Attributes:
        utility: Utility of each product at price zero.
        sensitivity: Loss of utility per unit of currency.
        rival_utility: Utility of the rival's offer at price zero, which competes with every product and is priced at
            the rival's mean price; `(markets, 1, segments)`. None = no rival.
    """

    utility: np.ndarray
    sensitivity: np.ndarray
    rival_utility: np.ndarray | None = None

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Choice probabilities; see `Demand`."""
        attraction = self.sensitivity * prices
        np.exp(np.subtract(self.utility, attraction, attraction), attraction)
        everything = np.add.reduce(attraction, axis=1, keepdims=True)
        everything += _NOTHING
        if rival_prices is not None and self.rival_utility is not None:
            price = rival_prices.mean(axis=1, keepdims=True)
            everything += np.exp(self.rival_utility - self.sensitivity.mean(axis=1, keepdims=True) * price)
        # A divisor without axes takes numpy a third of the time of one that is spread over them.
        attraction /= everything if everything.size > 1 else everything.reshape(())
        return attraction


@dataclass(frozen=True)
class NestedLogitDemand(Demand):
    """Nested logit: products of one nest are closer substitutes than products of different nests.

    Attributes:
        utility, sensitivity: As in `LogitDemand`.
        membership: 1 where a product belongs to a nest, `(markets, products, 1, nests)`.
        dissimilarity: Of each nest, in (0, 1]; 1 is the multinomial logit; `(markets, 1, 1, nests)`.
    """

    utility: np.ndarray
    sensitivity: np.ndarray
    membership: np.ndarray
    dissimilarity: np.ndarray

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Choice probabilities; see `Demand` and McFadden 1978."""
        own = (self.membership * self.dissimilarity).sum(axis=-1)
        attraction = np.exp((self.utility - self.sensitivity * prices) / own)
        inclusive = (attraction[..., None] * self.membership).sum(axis=1, keepdims=True)
        nest = inclusive**self.dissimilarity
        chosen = nest / (1.0 + nest.sum(axis=-1, keepdims=True))
        # An assortment of one product leaves a nest empty.
        within = attraction[..., None] * self.membership / np.where(inclusive > 0.0, inclusive, 1.0)
        return (within * chosen).sum(axis=-1)


@dataclass(frozen=True)
class LatentClassDemand(Demand):
    """A mixture of multinomial logits: customers of hidden classes with tastes of their own.

    Attributes:
        utility: `(markets, products, segments, classes)`.
        sensitivity: Loss of utility per unit of currency, `(markets, products or 1, segments or 1, classes)`.
        class_share: Share of each class, sums to one, `(markets, 1, segments or 1, classes)`.
    """

    utility: np.ndarray
    sensitivity: np.ndarray
    class_share: np.ndarray

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Choice probabilities averaged over the classes; see `Demand`."""
        attraction = np.exp(self.utility - self.sensitivity * prices[..., None])
        share = attraction / (1.0 + attraction.sum(axis=1, keepdims=True))
        return (share * self.class_share).sum(axis=-1)


@dataclass(frozen=True)
class LinearSystemDemand(Demand):
    """d = a - B p, cut at zero: substitutes have negative, complements (halo) positive off-diagonal entries of B.

    Attributes:
        intercept: Demand at price zero over volume.
        slope: Loss of demand for product i per unit of price of product j, `(markets, products, 1 or segments,
            products)`.
    """

    intercept: np.ndarray
    slope: np.ndarray

    def respond(self, prices: np.ndarray, rival_prices: np.ndarray | None) -> np.ndarray:
        """Linear demand over volume; see `Demand`."""
        slope = np.broadcast_to(self.slope, (*prices.shape, prices.shape[1]))
        return np.maximum(self.intercept - np.einsum("misj,mjs->mis", slope, prices), 0.0)
