"""Categories of every domain for few-shot tasks: how many items, how long they are logged, what the seller's books say.

Weeks are counted in the periods of the books: a week of energy, fares, rides or appointments is seven of them. A price
is held for `decision_weeks` periods whatever their length, because that is how far the network looks.

Rides are simulated by the quarter of an hour, and so are the drivers who give them. What is decided here is the fare
table above such a market: the fare of a zone in an hour class (the two hours of the morning peak, of the late evening),
kept for eight days. A period of its books is one day of one hour class, eight quarters together; a segment is a class.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.evaluation.market import VISIBLE_COLUMNS
from pricing_fm.markets import SimulatedLog
from pricing_fm.markets.clinic_supply import PrioritySlots
from pricing_fm.markets.core import get_inventory, get_unit_cost
from pricing_fm.markets.domains import DOMAINS, ClinicSettings, RetailSettings, RideHailingSettings
from pricing_fm.markets.loan_parts import LoanPayoff
from pricing_fm.markets.rivals import RIVALS
from pricing_fm.panel.frequency import Frequency

PERIODS_PER_WEEK = {"W": 1, "D": 7}
_ALONE = tuple((size, 1) for size in (8, 9, 10, 11, 12))
_GROUPED = ((4, 2), (5, 2), (3, 3), (4, 3))
# Products x segments of a domain's categories, 8 to 12 items, one log for each.
SHAPES = {
    "retail": _ALONE,
    "fares": _ALONE,
    "loans": _GROUPED,
    "energy": _GROUPED,
    "clinic": ((3, 3), (4, 3)),
    "ride_hailing": _GROUPED,
}
QUARTERS = 8  # of an hour, in an hour class of rides
# What links the other families of rides, riders who ask again and drivers who are carried off, is over within the hour.
BY_DAY = ("spot", "events", "driver_entry", "rival_app", "reference_fare")
# What the seller sees of a log, beside the columns of a plain shop.
SEEN_COLUMNS = (*VISIBLE_COLUMNS, names.SEGMENT, names.COMPETITOR_PRICE)


@dataclass(frozen=True)
class FewShotDomain:
    """A domain as few-shot tasks take it.

    Args:
        name (`str`): Domain, from `SHAPES`.
        family (`str`): One of its families.

    Raises:
        ValueError: If there is no such domain or family.
    """

    name: str
    family: str

    def __post_init__(self) -> None:
        if self.name not in SHAPES:
            raise ValueError(f"--domain is {self.name!r}; few-shot categories are drawn from {', '.join(SHAPES)}")
        known = BY_DAY if self.name == "ride_hailing" else DOMAINS[self.name].families
        if self.family not in known:
            raise ValueError(f"--family is {self.family!r}; families of {self.name} are {', '.join(known)}")

    @property
    def frequency(self) -> Frequency:
        """Length of a period of the books."""
        return Frequency.parse("D" if self.name == "ride_hailing" else DOMAINS[self.name].frequency)

    @property
    def periods_per_week(self) -> int:
        """Periods that a visible week has."""
        return PERIODS_PER_WEEK[self.frequency.name]

    def build_settings(self, shape: tuple[int, int], stocked_share: float, reference_share: float) -> Any:
        """Ranges of markets with so many products and segments; stock and memory are shares of retail shops."""
        products, segments = shape
        if self.name == "retail":
            return RetailSettings(num_products=products, stocked_share=stocked_share, reference_share=reference_share)
        if self.name == "clinic":  # its acuity classes are not chosen
            return ClinicSettings(num_products=products)
        if self.name == "ride_hailing":
            low, high = RideHailingSettings.rides_range
            wanted = (QUARTERS * low, QUARTERS * high)
            return RideHailingSettings(num_products=products, num_segments=segments, rides_range=wanted)
        return DOMAINS[self.name].settings(num_products=products, num_segments=segments)

    def count_periods(self, settings: Any, least: int, decision_periods: int) -> int:
        """Logged periods before a decision: `least`, or, in markets that end, as many more as leave the decision alone.

        Raises:
            ValueError: If the market ends before the decision would.
        """
        market = DOMAINS[self.name].sample(settings, self.family, np.zeros(1, dtype=np.int64), 0)
        if not market.ends:
            return least
        if decision_periods >= market.num_periods:
            raise ValueError(
                f"--decision_weeks is {decision_periods}, but {self.name}/{self.family} ends after"
                f" {market.num_periods} periods; hold prices for fewer"
            )
        return least + (-least - decision_periods) % market.num_periods


def meet_rival(log: SimulatedLog, kind: str) -> SimulatedLog:
    """The same log with a rival who from now on answers in another way.

    Args:
        log (`SimulatedLog`): Markets with rivals.
        kind (`str`): One of `rivals.RIVALS`.

    Raises:
        ValueError: If there is no rival, or no such kind.
    """
    rivals = log.parameters.rivals
    if rivals is None or kind not in RIVALS:
        raise ValueError(
            f"{log.parameters.domain}/{log.parameters.family} with rival {kind!r}: expected a family with a rival, and"
            f" one of {', '.join(RIVALS)}"
        )
    changed = replace(rivals, kind=np.full_like(rivals.kind, RIVALS.index(kind)))
    return replace(log, parameters=replace(log.parameters, rivals=changed))


def find_planning_costs(log: SimulatedLog, unit_costs: np.ndarray | None = None) -> np.ndarray:
    """What a unit costs whoever plans prices, so that price minus cost is in proportion to what is earned.

    A lender adds the losses to be expected at the list rate to the cost of funds: with size x [(1 - d) r - d loss -
    funds] earned per loan, the rate that earns nothing is (funds + d x loss) / (1 - d).

    Args:
        log (`SimulatedLog`): Markets.
        unit_costs (`np.ndarray`, shape `(..., markets, products, segments)`, *optional*): Of other periods than the one
            after the log.

    Returns:
        Same shape; currency (a rate for loans).
    """
    market = log.parameters
    costs = get_unit_cost(market, log.state) if unit_costs is None else unit_costs
    if not isinstance(market.payoff, LoanPayoff):
        return np.asarray(costs)
    default = market.payoff.compute_default_probability(np.broadcast_to(market.list_price, market.shape))
    return np.asarray((costs + default * market.payoff.loss_given_default) / (1.0 - default))


def read_books(log: SimulatedLog) -> pd.DataFrame:
    """The log as its seller keeps it, row for row with `log.panel`; costs are those that prices are planned with.

    Where a capacity is given out in an order, a class could have as many units as those before it left: who finds all
    slots taken by the urgent is turned away, and a clinic knows it.
    """
    columns = [one for one in (*SEEN_COLUMNS, names.PRICE_IS_INTERVENTION) if one in log.panel]
    frame = log.panel[columns].copy()
    costs = np.stack([find_planning_costs(log, cost) for cost in log.arrays.cost])
    frame[names.COST] = np.moveaxis(costs, 0, -1).reshape(-1)
    if isinstance(log.parameters.supply, PrioritySlots):
        units = log.arrays.units
        left = log.arrays.inventory - (np.cumsum(units, axis=-1) - units)
        frame[names.INVENTORY] = np.moveaxis(left, 0, -1).reshape(-1)
    return frame


def plan_after(log: SimulatedLog, periods: int) -> pd.DataFrame:
    """The periods of a decision: list price, no promotion, the stock at the origin, marked as an intervention."""
    frequency = Frequency.parse(log.settings.cadence)
    stock, listed = (np.ravel(values) for values in (get_inventory(log.parameters, log.state), log.state.list_price))
    frame = log.items.loc[np.repeat(log.items.index, periods)].reset_index(drop=True)
    first = np.tile(np.arange(periods) == 0, log.num_items)
    ahead = np.arange(1, periods + 1)
    frame[names.TIMESTAMP] = np.tile(frequency.step(np.repeat(log.timestamps[-1], periods), ahead), log.num_items)
    frame[names.UNITS] = np.nan
    frame[names.PRICE] = frame[names.LIST_PRICE] = np.repeat(listed, periods)
    stocks = np.repeat(stock, periods)
    frame[names.INVENTORY] = np.where(first & np.isfinite(stocks), stocks, np.nan)
    frame["promotion"], frame[names.PRICE_IS_INTERVENTION] = 0.0, 1.0
    return frame
