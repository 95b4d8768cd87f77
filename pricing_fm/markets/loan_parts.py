"""What lending adds to a market: loans that default, and applicants who compare the rate with a remembered one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pricing_fm.markets.memory import ReferencePrice
from pricing_fm.markets.payoffs import Payoff
from pricing_fm.markets.streams import DEFAULT, Streams


@dataclass(frozen=True)
class LoanPayoff(Payoff):
    """Interest on the loans that are paid back, minus losses on those that are not, minus the cost of funds.

    Expected profit of a loan = size x [(1 - d) r - d loss_given_default - funds], d = default_probability +
    default_slope x r cut to [0, 1] (Phillips 2020, Pricing Credit Products). `Market` prices are rates r and its unit
    costs are the cost of funds, both a fraction of the amount lent per period of the loan. The whole profit of a loan
    is booked when it is made.

    Attributes:
        loan_size: Amount lent, currency per loan.
        default_probability: Chance of default at rate zero, in [0, 1].
        default_slope: Rise of that chance per unit of rate, >= 0 (dear loans draw and make bad risks).
        loss_given_default: Share of the amount lost in a default, in [0, 1].
        silent: True where defaults equal their expectation, bool.
    """

    loan_size: np.ndarray
    default_probability: np.ndarray
    default_slope: np.ndarray
    loss_given_default: np.ndarray
    silent: np.ndarray

    def compute_default_probability(self, rates: np.ndarray) -> np.ndarray:
        """Chance of default at the rates charged, in [0, 1], shape of `rates`."""
        return np.clip(self.default_probability + self.default_slope * rates, 0.0, 1.0)

    def compute_reward(self, units: np.ndarray, prices: np.ndarray, cost: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Expected profit of the loans made, currency; see `Payoff`."""
        default = self.compute_default_probability(prices)
        return units * self.loan_size * ((1.0 - default) * prices - default * self.loss_given_default - cost)

    def realize(
        self, expected: np.ndarray, units: np.ndarray, prices: np.ndarray, random: Streams, period: np.ndarray
    ) -> np.ndarray:
        """Profit with the defaults that happen, currency; its mean is the expected profit. See `Payoff`."""
        if self.silent.all():
            return expected
        default = self.compute_default_probability(prices)
        whole = np.floor(units)
        surprise = random.binomial(period, DEFAULT, whole, default) - default * whole
        # A default costs the interest as well as the loss.
        lost = surprise * self.loan_size * (prices + self.loss_given_default)
        return expected - np.where(self.silent, 0.0, lost)


@dataclass(frozen=True)
class ReferenceOdds(ReferencePrice):
    """As `ReferencePrice`, on the odds of taking up: a loan cheaper than remembered is never taken by all and more.

    The demand model's response must be a probability, for `Market.volume` counts applicants.
    """

    def adjust(
        self, mean: np.ndarray, traffic: np.ndarray, state: np.ndarray, prices: np.ndarray, period: np.ndarray
    ) -> np.ndarray:
        """See `Memory`."""
        fall = np.log(state[..., 0] / prices)
        odds = np.exp(np.where(fall > 0, self.gain, self.loss) * fall)
        share = mean / traffic
        return traffic * share * odds / (1.0 - share + share * odds)
