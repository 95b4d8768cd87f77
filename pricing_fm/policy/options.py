"""What items could be priced at, the demand that each price would meet, and the choice among them by planned value."""

from dataclasses import dataclass

import numpy as np

from pricing_fm.policy.engine import PathDemand
from pricing_fm.policy.planning import PlannedValue, best_candidate, cautious_gain, unit_scores
from pricing_fm.policy.situation import Situation

# Columns that stand behind the ladder: the decision unit's current price, the item's own, and its list price. Only the
# first may be chosen; the others serve to compare.
KEEP, OWN, LISTED = -3, -2, -1


@dataclass(frozen=True)
class PriceOptions:
    """Candidate prices of N items, P each, rules applied, and demand at them held over H periods.

    Args:
        situation (`Situation`): The items at the origin.
        costs (`(N,)`): Unit costs, currency.
        list_price (`(N,)`): Currency; NaN = none.
        prices (`(N, P)`): The ladder, then the columns `KEEP`, `OWN`, `LISTED` (the own price where there is no list
            price), currency.
        allowed (`(N, P - 2)`, bool): What the log and the rules leave to choose from; equal for the members of a unit.
        units (`(N,)`, int64): Decision unit of each item: its members share one price.
        demand (`PathDemand`): Along the prices.
        lead (`int`): Leading periods in which the current price is still charged; they do not count.
        levels (`(Q,)`): Quantile levels of `demand`.
        step_correlation (`float`): Of the steps' forecast errors.
    """

    situation: Situation
    costs: np.ndarray
    list_price: np.ndarray
    prices: np.ndarray
    allowed: np.ndarray
    units: np.ndarray
    demand: PathDemand
    lead: int
    levels: np.ndarray
    step_correlation: float

    def __len__(self) -> int:
        return len(self.situation)

    @property
    def current_price(self) -> np.ndarray:
        """Last observed price, `(N,)`, currency."""
        return self.situation.current_price

    @property
    def expected_units(self) -> np.ndarray:
        """Total of the counted periods at every price, `(N, P)`."""
        return self.demand.mean[..., self.lead :].sum(-1)

    @property
    def member_units(self) -> np.ndarray:
        """The same by response member, `(N, P, M)`."""
        mean, factor = self.demand.mean[..., self.lead :], self.demand.member_factor[..., self.lead :]
        return (mean[:, :, None] * factor).sum(-1)

    def choose(self, value: PlannedValue, caution: float) -> np.ndarray:
        """Candidate of each item `(N,)`, int64: most cautious gain over keeping the price, summed over decision units.

        Args:
            value (`PlannedValue`): Of all P prices, currency.
            caution (`float`): Standard deviations over response members that a gain is discounted by; 0 takes the mean.
        """
        count, place = len(self), self.prices.shape[1] + OWN
        revenue = np.maximum(self.prices[:, OWN] * self.expected_units[:, OWN], 1e-9)
        scores = cautious_gain(value, np.full(count, place), caution) / revenue[:, None]
        first = np.unique(self.units, return_index=True)[1]
        scores = unit_scores(scores[:, :OWN], revenue, self.units)[first]
        candidates = self.prices[first, :OWN]
        return best_candidate(scores, self.allowed[first], candidates, self.prices[first, KEEP])[self.units]
