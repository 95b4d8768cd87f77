"""Seats on several legs sold as itineraries: bid-price control, its bound and the exact optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.oracles import network_bid_prices
from pricing_fm.markets.oracles.checks import check_integer, check_matrix, check_numbers

_MOST_STATES = 2_000_000  # periods x seat combinations of the exact dynamic program


@dataclass(frozen=True)
class NetworkMarket:
    """Requests for itineraries, at most one in a period, with the same chances in every period.

    Attributes:
        fares: Per itinerary, >= 0, currency.
        arrival_probabilities: Chance of a request for every itinerary in a period, together at most 1.
        incidence: Seats of every leg (columns) that an itinerary (rows) takes, whole, >= 0.
        capacities: Seats of every leg, whole, >= 0.
        periods: Whole, >= 1.

    Raises:
        ValueError: If sizes differ or a number is out of bounds.
    """

    fares: tuple[float, ...]
    arrival_probabilities: tuple[float, ...]
    incidence: tuple[tuple[int, ...], ...]
    capacities: tuple[int, ...]
    periods: int

    def __post_init__(self) -> None:
        fares = check_numbers("fares", self.fares, least=0)
        chances = check_numbers("arrival_probabilities", self.arrival_probabilities, least=0, most=1, length=len(fares))
        if chances.sum() > 1.0 + 1e-9:
            raise ValueError(f"arrival_probabilities sums to {chances.sum():g}; it may sum to at most 1")
        for leg, seats in enumerate(check_numbers("capacities", self.capacities, least=0)):
            check_integer(f"capacities[{leg}]", seats)
        for i, row in enumerate(check_matrix("incidence", self.incidence, len(fares), len(self.capacities), least=0)):
            for leg, seats in enumerate(row):
                check_integer(f"incidence[{i}][{leg}]", seats)
        check_integer("periods", self.periods, least=1)

    def scaled(self, factor: int) -> NetworkMarket:
        """The same market with so many times the seats and the periods."""
        times = check_integer("factor", factor, least=1)
        capacities = tuple(times * seats for seats in self.capacities)
        return NetworkMarket(self.fares, self.arrival_probabilities, self.incidence, capacities, times * self.periods)

    def fluid_bound(self) -> float:
        """Most that any control can expect (`oracles.network_bid_prices`), currency."""
        plan = network_bid_prices(self.fares, self.mean_requests(), self.incidence, self.capacities)
        return float(plan["value"]) + 0.0

    def optimal_value(self) -> float:
        """Expected revenue of the best control: exact dynamic program over the seats left on all legs, currency.

        Raises:
            ValueError: If periods x seat combinations are too many.
        """
        shape = tuple(int(seats) + 1 for seats in self.capacities)
        if self.periods * np.prod(shape, dtype=float) > _MOST_STATES:
            raise ValueError(f"capacities is {self.capacities}; with {self.periods} periods that is too many states")
        values = np.zeros(shape)
        for _ in range(self.periods):
            gain = np.zeros(shape)
            for fare, chance, uses in zip(self.fares, self.arrival_probabilities, self.incidence, strict=True):
                if any(use >= size for use, size in zip(uses, shape, strict=True)):
                    continue  # more seats than the leg has
                enough = tuple(slice(use, None) for use in uses)
                after = tuple(slice(None, size - use) for use, size in zip(uses, shape, strict=True))
                gain[enough] += chance * np.maximum(fare + values[after] - values[enough], 0.0)
            values = values + gain
        return float(values[(-1,) * len(shape)])

    def mean_requests(self) -> list[float]:
        """Expected requests for every itinerary over all periods."""
        return [chance * self.periods for chance in self.arrival_probabilities]


@dataclass(frozen=True)
class BidPriceControl:
    """Accepts a request whose fare exceeds the bid prices of the seats it takes, and a share of those that equal them.

    Ties are the rule, not the exception: every leg that is full in the linear program has an itinerary that is accepted
    in part, and its fare equals its bid prices. Accepting all of them would fill the seats with the cheapest.

    Attributes:
        bid_prices: Per leg, >= 0, currency.
        accept_shares: Share of the requests accepted, per itinerary: 1 above the bid prices, 0 below.

    Raises:
        ValueError: If a bid price is negative or a share outside [0, 1].
    """

    bid_prices: tuple[float, ...]
    accept_shares: tuple[float, ...]

    def __post_init__(self) -> None:
        check_numbers("bid_prices", self.bid_prices, least=0)
        check_numbers("accept_shares", self.accept_shares, least=0, most=1)

    def accepts(self, itineraries: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Whether to accept requests if the seats are there.

        Args:
            itineraries: What is asked for, int64, shape `(runs,)`.
            random: Draws the share of ties.

        Returns:
            bool, shape `(runs,)`.
        """
        return random.random(len(itineraries)) < np.asarray(self.accept_shares)[itineraries]


def build_bid_price_control(market: NetworkMarket, share_ties: bool = True) -> BidPriceControl:
    """Bid prices of the deterministic linear program, kept for the whole sale.

    Args:
        market: The network.
        share_ties: Whether a fare that equals its bid prices is accepted as often as the linear program sells it;
            False = always.

    Returns:
        The control.

    References:
        Talluri and van Ryzin 1998, Management Science 44(11); Reiman and Wang 2008, Mathematics of Operations Research
        33(2) (shares of the linear program).
    """
    demands = market.mean_requests()
    plan = network_bid_prices(market.fares, demands, market.incidence, market.capacities)
    worth = np.asarray(market.incidence) @ np.asarray(plan["bid_prices"])
    fares, wanted = np.asarray(market.fares), np.asarray(demands)
    ties = np.isclose(fares, worth, rtol=1e-9, atol=1e-9 * max(float(fares.max()), 1e-300))
    planned = np.divide(plan["sales"], wanted, out=np.zeros(len(wanted)), where=wanted > 0)
    shares = np.where(ties, np.clip(planned, 0.0, 1.0) + 0.0 if share_ties else 1.0, (fares > worth).astype(float))
    return BidPriceControl(tuple(plan["bid_prices"]), tuple(shares.tolist()))


def build_open_control(market: NetworkMarket) -> BidPriceControl:
    """First come, first served: every request is accepted while there are seats."""
    return BidPriceControl((0.0,) * len(market.capacities), (1.0,) * len(market.fares))


def simulate_network(
    market: NetworkMarket, control: BidPriceControl, runs: int, random: np.random.Generator
) -> np.ndarray:
    """Revenue of a control on a network.

    Args:
        market: The network.
        control: Which requests to accept.
        runs: Independent runs, >= 1.
        random: Draws the requests and ties.

    Returns:
        float64, shape `(runs,)`, currency.

    Raises:
        ValueError: If there is no run or the control is for another number of itineraries.
    """
    runs = check_integer("runs", runs, least=1)
    if len(control.accept_shares) != len(market.fares):
        raise ValueError(f"accept_shares has {len(control.accept_shares)} entries; it must have {len(market.fares)}")
    left = np.tile(np.asarray(market.capacities, dtype=np.int64), (runs, 1))
    uses = np.vstack([np.asarray(market.incidence, dtype=np.int64), np.zeros(len(market.capacities), dtype=np.int64)])
    fares, revenue = np.append(market.fares, 0.0), np.zeros(runs)
    chances = np.cumsum(market.arrival_probabilities)
    for _ in range(market.periods):
        asks = np.searchsorted(chances, random.random(runs), side="right")  # past the last itinerary: nobody
        wanted = uses[asks]
        comes = asks < len(market.fares)
        accepted = comes & control.accepts(np.minimum(asks, len(market.fares) - 1), random)
        sold = accepted & (left >= wanted).all(axis=1)
        left, revenue = left - np.where(sold[:, None], wanted, 0), revenue + np.where(sold, fares[asks], 0.0)
    return revenue
