"""Loans: a lender who sets interest rates by product and risk tier, week by week."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pricing_fm.markets.context import Calendar, Costs, HiddenShock, Regimes
from pricing_fm.markets.core import Market
from pricing_fm.markets.customer_base import CustomerBase
from pricing_fm.markets.demand import PurchaseProbability
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.loan_parts import LoanPayoff, ReferenceOdds
from pricing_fm.markets.noise import NOISES, build_noise
from pricing_fm.markets.prices import round_to_tick
from pricing_fm.markets.rivals import MATCHER, UNDERCUTTER, Rivals
from pricing_fm.markets.sampling import Draws, check_ranges
from pricing_fm.markets.supply import PerishableStock

LOANS_FAMILIES = (
    "lender",
    "take_up",
    "adverse_selection",
    "lending_budget",
    "rival_rates",
    "loyalty",
    "funding_regimes",
    "rate_memory",
)
_WEEKS_PER_YEAR = 365.25 / 7.0
_WEEKS_PER_QUARTER = 13
_LENDER_SALT, _ITEM_SALT, _FAMILY_SALT = 21, 22, 23


@dataclass(frozen=True)
class LoansSettings:
    """Ranges from which lenders are drawn. Products are loan products, segments are risk tiers, safest first.

    Pairs are (lowest, highest) of a uniform draw unless said otherwise. Rates are fractions of the amount lent a year.

    Attributes:
        num_products: Loan products (purposes, terms).
        num_segments: Risk tiers.
        noise: How the number of loans scatters, one of `noise.NOISES`; "none" also makes defaults certain.
        dispersion_range: Variance is mean + mean**2 / dispersion under negative binomial noise (log-uniform).
        zero_share_range: Share of weeks without demand under zero-inflated noise.
        applicants_range: Applicants a week of a product and tier (log-uniform).
        budget_applicants_range: The same in the family `lending_budget`, whose stock is counted loan by loan.
        take_up_range: Share of applicants who take the loan at the list rate.
        elasticity_range: Minus d log take-up / d log rate at the list rate.
        funds_range: Cost of funds.
        spread_range: List rate above the rate that covers funds and losses, for the safest tier; grows with the risk.
        default_range: Chance of default at the list rate, safest tier (log-uniform).
        tier_risk_range: Factor on that chance from tier to tier.
        loss_range: Share of the amount lost in a default.
        loan_size_range: Amount lent, currency per loan (log-uniform).
        price_tick: Smallest step of a rate; 0.0001 is one basis point.

    Raises:
        ValueError: If a count, range or name is out of bounds.
    """

    num_products: int = 2
    num_segments: int = 3
    noise: str = "poisson"
    dispersion_range: tuple[float, float] = (5.0, 50.0)
    zero_share_range: tuple[float, float] = (0.02, 0.2)
    applicants_range: tuple[float, float] = (20.0, 300.0)
    budget_applicants_range: tuple[float, float] = (3.0, 12.0)
    take_up_range: tuple[float, float] = (0.2, 0.6)
    elasticity_range: tuple[float, float] = (1.5, 4.0)
    funds_range: tuple[float, float] = (0.015, 0.04)
    spread_range: tuple[float, float] = (0.015, 0.04)
    default_range: tuple[float, float] = (0.004, 0.02)
    tier_risk_range: tuple[float, float] = (1.6, 2.6)
    loss_range: tuple[float, float] = (0.3, 0.7)
    loan_size_range: tuple[float, float] = (3_000.0, 30_000.0)
    price_tick: float = 0.0001

    def __post_init__(self) -> None:
        for name in ("num_products", "num_segments"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        check_ranges(self)
        if self.noise not in NOISES:
            raise ValueError(f"noise is {self.noise!r}; known noises: {NOISES}")
        for name in ("take_up_range", "default_range", "zero_share_range", "loss_range"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high < 1.0:
                raise ValueError(f"{name} is {(low, high)}; both numbers must lie inside (0, 1)")
        for name, low in (
            ("applicants_range", self.applicants_range[0]),
            ("budget_applicants_range", self.budget_applicants_range[0]),
            ("elasticity_range", self.elasticity_range[0]),
            ("funds_range", self.funds_range[0]),
            ("spread_range", self.spread_range[0]),
            ("tier_risk_range", self.tier_risk_range[0]),
            ("loan_size_range", self.loan_size_range[0]),
            ("dispersion_range", self.dispersion_range[0]),
            ("price_tick", self.price_tick),
        ):
            if not low > 0:
                raise ValueError(f"{name} starts at {low}; it must be positive")


def sample_loans(settings: LoansSettings, family: str, market_ids: np.ndarray, seed: int) -> Market:
    """Draw the truth of some lenders; market m is the same whatever other markets are drawn.

    Args:
        settings: Ranges.
        family: One of `LOANS_FAMILIES`.
        market_ids: Integer names of the markets, >= 0, shape `(markets,)`.
        seed: Seed of the whole simulation, >= 0.

    Returns:
        The markets, in the order of `market_ids`.

    Raises:
        ValueError: If the family is unknown, or a market id or the seed is negative.
    """
    if family not in LOANS_FAMILIES:
        raise ValueError(f"family is {family!r}; known loans families: {LOANS_FAMILIES}")
    ids = np.asarray(market_ids, dtype=np.int64)
    size = (settings.num_products, settings.num_segments)
    market = _sample_book(settings, family, ids, seed)
    draws = Draws(seed, ids, _FAMILY_SALT, size)
    if family == "lender":
        return _add_context(replace(market, regimes=_sample_funding(draws)), draws)
    if family == "adverse_selection":
        return _add_selection(market, draws)
    if family == "lending_budget":
        return _add_budget(market, draws, settings)
    if family == "rival_rates":
        return _add_rival(market, draws)
    if family == "loyalty":
        return _add_loyalty(market, draws)
    if family == "funding_regimes":
        return replace(market, regimes=_sample_funding(draws))
    if family == "rate_memory":
        gain = draws.between((1.0, 2.5))
        memory = ReferenceOdds(gain, gain * draws.between((1.5, 3.0)), draws.between((0.5, 0.85)))
        return replace(market, memory=memory)
    return market


def _sample_book(settings: LoansSettings, family: str, ids: np.ndarray, seed: int) -> Market:
    """Static lenders: what all families have in common."""
    size = (settings.num_products, settings.num_segments)
    lender, item = Draws(seed, ids, _LENDER_SALT, (1, 1)), Draws(seed, ids, _ITEM_SALT, size)
    tick = np.full((len(ids), 1, 1), settings.price_tick)
    funds = lender.between(settings.funds_range) * np.ones((1, *size))
    tier = lender.between(settings.tier_risk_range) ** np.arange(size[1])
    default = np.minimum(lender.log_between(settings.default_range) * tier * item.between((0.8, 1.25)), 0.5)
    loss = lender.between(settings.loss_range) * np.ones((1, *size))
    take_up, elasticity = item.between(settings.take_up_range), item.between(settings.elasticity_range)
    break_even = (funds + default * loss) / (1.0 - default)
    # Riskier tiers carry a wider spread, as capital does.
    spread = item.between(settings.spread_range) * np.sqrt(tier)
    rate = round_to_tick(break_even + spread, tick)
    payoff = LoanPayoff(
        loan_size=np.round(lender.log_between(settings.loan_size_range) * item.between((0.5, 1.5)), -2),
        default_probability=default,
        default_slope=np.zeros_like(default),
        loss_given_default=loss,
        silent=np.full((len(ids), 1, 1), settings.noise == "none"),
    )
    sensitivity = elasticity / (1.0 - take_up) / rate
    return Market(
        domain="loans",
        family=family,
        volume=item.log_between(settings.applicants_range),
        demand=PurchaseProbability(np.log(take_up / (1.0 - take_up)) + sensitivity * rate, sensitivity),
        noise=build_noise(
            settings.noise,
            (len(ids), 1, 1),
            item.log_between(settings.dispersion_range) if settings.noise == "negative_binomial" else None,
            item.between(settings.zero_share_range) if settings.noise == "zero_inflated" else None,
        ),
        list_price=rate,
        price_bounds=(0.5, 2.0),
        price_tick=tick,
        num_periods=26,
        costs=Costs(funds),
        payoff=payoff,
    )


def _add_context(market: Market, draws: Draws) -> Market:
    """Seasons of borrowing and hidden demand shocks, which scale demand whatever the rate."""
    calendar = Calendar(
        amplitude=draws.between((0.0, 0.3)),
        phase=draws.uniform(),
        trend=draws.between((-0.1, 0.1)) / _WEEKS_PER_YEAR,
        season_length=_WEEKS_PER_YEAR,
    )
    shock = HiddenShock(draws.between((0.05, 0.3)), draws.between((0.5, 0.9)), draws.between((0.0, 0.7)))
    return replace(market, calendar=calendar, shock=shock, num_periods=52)


def _add_selection(market: Market, draws: Draws) -> Market:
    """40 to 90 % of the chance of default at the list rate is due to the rate."""
    payoff, share = market.payoff, draws.between((0.4, 0.9))
    assert isinstance(payoff, LoanPayoff)
    default = payoff.default_probability
    risen = replace(
        payoff, default_probability=(1.0 - share) * default, default_slope=share * default / market.list_price
    )
    return replace(market, payoff=risen)


def _add_budget(market: Market, draws: Draws, settings: LoansSettings) -> Market:
    """A quarter's allowance of loans, which lapses; 40 to 80 % of what would be lent at the list rate."""
    applicants = draws.log_between(settings.budget_applicants_range)
    rate = np.broadcast_to(market.list_price, market.shape)
    wanted = applicants * market.demand.respond(rate, None) * _WEEKS_PER_QUARTER
    allowance = np.maximum(np.round(wanted * draws.between((0.4, 0.8))), 1.0)
    supply = PerishableStock(allowance, np.zeros_like(allowance))
    return replace(market, volume=applicants, supply=supply, num_periods=_WEEKS_PER_QUARTER, ends=True)


def _add_rival(market: Market, draws: Draws) -> Market:
    """A rival who matches or undercuts; applicants weigh the two rates."""
    demand = market.demand
    assert isinstance(demand, PurchaseProbability)
    shape = (market.shape[0], 1, 1)
    rate = round_to_tick(market.list_price * draws.between((0.95, 1.05)), market.price_tick)
    weight = demand.sensitivity * draws.between((0.3, 0.6))
    rivals = Rivals(
        kind=np.where(draws.uniform((1, 1)) < 0.5, MATCHER, UNDERCUTTER),
        list_price=rate,
        floor=rate * draws.between((0.6, 0.75)),
        speed=draws.between((0.3, 0.9)),
        undercut=draws.between((0.02, 0.06)),
        cycle_length=np.full(shape, 4),
        late_share=np.full(shape, 0.1),
        missing_share=np.full(shape, 0.1),
    )
    # With both at their list rates the take-up is what it was without the rival.
    return replace(
        market, demand=replace(demand, utility=demand.utility - weight * rate, rival_weight=weight), rivals=rivals
    )


def _add_loyalty(market: Market, draws: Draws) -> Market:
    """Customers of the bank apply there until a high rate sends them away for good."""
    base = CustomerBase(
        leave_share=draws.between((0.02, 0.06)),
        join_share=draws.between((0.01, 0.04)),
        strength=draws.between((1.0, 2.5)),
        market_price=market.list_price * draws.between((0.95, 1.05)),
    )
    # Volume counts the customers of all banks; at the list rate the lender's own are as many as before.
    share = base.start(np.broadcast_to(market.list_price, market.shape))[..., 0]
    return replace(market, memory=base, volume=market.volume / share, num_periods=39)


def _sample_funding(draws: Draws) -> Regimes:
    """Easy, normal and tight money: funds get dearer, borrowers more or fewer."""
    stay = draws.between((0.85, 0.97), (1, 1))
    easy, tight = draws.between((0.6, 0.85), (1, 1)), draws.between((1.3, 2.0), (1, 1))
    rush, drought = draws.between((1.0, 1.3), (1, 1)), draws.between((0.6, 1.0), (1, 1))
    ones = np.ones_like(stay)
    leave = 1.0 - stay
    rows = (
        (stay, leave, 0.0 * ones),
        # Normal times last twice as long as either extreme.
        (0.25 * leave, 1.0 - 0.5 * leave, 0.25 * leave),
        (0.0 * ones, leave, stay),
    )
    return Regimes(
        transition=np.stack([np.stack(row, axis=-1) for row in rows], axis=-2),
        volume_factor=np.stack([rush, ones, drought], axis=-1),
        cost_factor=np.stack([easy, ones, tight], axis=-1),
    )


LOANS = Domain(
    name="loans",
    families=LOANS_FAMILIES,
    settings=LoansSettings,
    sample=sample_loans,
    frequency="W",
    unit="a loan",
    description="""\
* State: cost of funds, borrowing season and hidden demand shocks, regime of the funding market, what is left of the
  quarter's allowance, the rival's rates, rates that applicants remember, the lender's share of all bank customers;
  which of them is there depends on the family.
* Action: an interest rate per loan product and risk tier, as a fraction of the amount lent; 0.5 to 2 times the list
  rate, in whole basis points.
* Reward: size x [(1 - d) rate - d x loss given default - cost of funds] for every loan made, booked when it is made,
  with the defaults that happen in place of d; currency a week.
* Dynamics: applicants come, and take the loan with a logit probability in the rate (and the rival's). d is the tier's
  chance of default; in `adverse_selection` it rises with the rate.
* Constraints: bounds on the rate; in `lending_budget` a number of loans a quarter, after which nobody is served.
* Families: `take_up` and `adverse_selection` are static with the optimum of `oracles.loan_rate`; `lender` and
  `funding_regimes` need a rate per regime but no foresight; `lending_budget`, `rival_rates`, `loyalty` and
  `rate_memory` reward foresight.
* Standard baselines: break-even rate plus spread (cost-plus), match the rival, best constant rate, myopic optimum,
  dynamic program.
""",
)
