"""Several products: joint prices of one seller, Nash prices of rivals, and second-best prices of a utility."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import brentq

from pricing_fm.markets.oracles.checks import (
    SMALLEST,
    answers_in_floating_point,
    check_integer,
    check_matrix,
    check_number,
    check_numbers,
    show,
)

_SCAN_STEP = 0.05  # largest change of a log share between two points of the scan for stationary markups of a nest
_SCAN_POINTS = 200_000  # at most
_LARGEST_UTILITY = 1e6  # log shares are differences of utilities: above, too few of their digits are left
_SMALLEST_DISSIMILARITY = 1e-6  # utilities are divided by it
_DEFINITE = 1e-12  # smallest eigenvalue of a matrix with twos on the diagonal that counts as positive
_MOST_LOG_ODDS = 400.0  # of the Ramsey number between 0 and its top
_ROUNDS = 1_000  # of a root search; it takes about ten, and hundreds where a number is 1e100


@answers_in_floating_point()
def assortment_prices(
    utilities: Sequence[float],
    price_sensitivities: Sequence[float],
    costs: Sequence[float],
    nests: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Joint prices of an assortment under multinomial or nested logit demand with outside utility 0.

    At the optimum the markup of product i in nest n is dissimilarity / sensitivity_i plus a number common to the nest,
    and that number is tied to the profit R; R is the root of R = sum over nests of the best A_n**dissimilarity x
    (mean markup - R), which falls in R.

    Args:
        utilities: u_i; the utility at price p is u_i - b_i p.
        price_sensitivities: b_i, > 0.
        costs: Unit costs, >= 0.
        nests: Each {"products": positions, "dissimilarity": in (0, 1]}, together holding every product once; None =
            multinomial logit.

    Returns:
        prices, shares (of all customers), profit (per customer).

    Raises:
        ValueError: If lengths differ, a number is out of bounds or the nests are no partition.

    References:
        Gallego and Wang 2014, Operations Research 62(2).
    """
    u = check_numbers("utilities", utilities, most=_LARGEST_UTILITY)
    b = check_numbers("price_sensitivities", price_sensitivities, above=0, length=len(u))
    c = check_numbers("costs", costs, least=0, length=len(u))
    return _price_assortment(u, b, c, _check_nests(nests, len(u)))


@answers_in_floating_point()
def linear_system_prices(
    intercepts: Sequence[float], slopes: Sequence[Sequence[float]], costs: Sequence[float]
) -> dict[str, Any]:
    """Joint and Nash prices under linear demand d = a - B p.

    Args:
        intercepts: a, demand at price zero.
        slopes: B; the diagonal is positive, substitutes have negative entries off it.
        costs: Unit costs, >= 0.

    Returns:
        joint_prices, joint_profit; nash_prices and nash_profits of firms that own one product each.

    Raises:
        ValueError: If sizes differ, the joint profit has no maximum (B + B' not positive definite), or an equilibrium
            would need negative demand, where linear demand says nothing.
    """
    a = check_numbers("intercepts", intercepts)
    matrix = check_matrix("slopes", slopes, len(a), len(a))
    c = check_numbers("costs", costs, least=0, length=len(a))
    # In units that make every own slope one, so that the test for a maximum does not depend on the units of products.
    diagonal = np.diag(matrix)
    unit = 1.0 / np.sqrt(np.maximum(diagonal, SMALLEST))
    scaled = unit[:, None] * matrix * unit
    if diagonal.min() <= 0.0 or np.linalg.eigvalsh(scaled + scaled.T).min() <= _DEFINITE:
        raise ValueError(
            f"slopes is {show(matrix.tolist())}; own slopes must outweigh cross slopes (slopes plus its transpose"
            " positive definite), else profit has no maximum"
        )
    demand, cost, own = unit * a, c / unit, np.eye(len(a))
    joint = unit * np.linalg.solve(scaled + scaled.T, demand + scaled.T @ cost)
    nash = unit * np.linalg.solve(scaled + own, demand + cost)
    for who, prices in (("joint", joint), ("Nash", nash)):
        sold, size = a - matrix @ prices, np.abs(a) + np.abs(matrix) @ np.abs(prices)
        for product in np.flatnonzero(sold < -1e-9 * size):
            raise ValueError(
                f"costs[{product}] is {c[product]:g}; at the {who} prices the demand of product {product} would be"
                f" {sold[product]:.6g}, but must be at least 0. Leave the product out"
            )
    return {
        "joint_prices": joint.tolist(),
        "joint_profit": float((joint - c) @ (a - matrix @ joint)),
        "nash_prices": nash.tolist(),
        "nash_profits": ((nash - c) * (a - matrix @ nash)).tolist(),
    }


@answers_in_floating_point()
def logit_duopoly_prices(
    qualities: Sequence[float], costs: Sequence[float], differentiation: float
) -> dict[str, list[float]]:
    """Nash and collusive prices of single-product firms, share_i ~ exp((quality_i - price_i) / differentiation).

    The outside option has weight 1. The index of profit gain of other prices is (average profit - Nash) / (collusive -
    Nash), each an average over the firms.

    Args:
        qualities: One per firm, two or more firms.
        costs: Unit costs, >= 0.
        differentiation: Scale of the taste shocks, > 0.

    Returns:
        nash_prices, nash_profits, collusive_prices, collusive_profits (joint profit maximised), per customer.

    Raises:
        ValueError: If there are fewer than two firms, lengths differ or a number is out of bounds.

    References:
        Anderson, de Palma and Thisse 1992; Calvano et al. 2020, American Economic Review 110(10).
    """
    a = check_numbers("qualities", qualities)
    if len(a) < 2:
        raise ValueError(f"qualities has {len(a)} entries; it must have at least 2")
    c = check_numbers("costs", costs, least=0, length=len(a))
    mu = check_number("differentiation", differentiation, above=0)
    values = (a - c) / mu
    if values.max() > _LARGEST_UTILITY:
        raise ValueError(
            f"differentiation is {mu:g}; it must be at least {(a - c).max() / _LARGEST_UTILITY:g}, a millionth of the"
            " largest quality less cost"
        )

    def excess(log_total: float) -> float:
        """Shares of all firms and the outside option, minus one, when the weights sum to exp(log_total)."""
        odds = [_log_odds_of_best_reply(float(v) - log_total) for v in values]
        return float(special.expit(odds).sum()) + math.expm1(-log_total)

    high = 1.0
    while excess(high) > 0:
        high *= 2.0
    log_total = brentq(excess, 0.0, high, xtol=1e-300, rtol=1e-15, maxiter=_ROUNDS)
    log_odds = np.array([_log_odds_of_best_reply(float(v) - log_total) for v in values])
    # First-order condition: markup = differentiation / (1 - share) = differentiation x (1 + odds).
    markup = mu * (1.0 + np.exp(log_odds))
    # Money in units of the differentiation, and from the cost on.
    together = _price_assortment(values, np.ones(len(a)), np.zeros(len(a)), _check_nests(None, len(a)))
    collusive = mu * np.array(together["prices"])
    return {
        "nash_prices": (c + markup).tolist(),
        "nash_profits": (markup * special.expit(log_odds)).tolist(),
        "collusive_prices": (c + collusive).tolist(),
        "collusive_profits": (collusive * np.array(together["shares"])).tolist(),
    }


@answers_in_floating_point()
def ramsey_prices(
    elasticities: Sequence[float], scales: Sequence[float], costs: Sequence[float], required_surplus: float
) -> dict[str, Any]:
    """Prices that do least harm while earning a required surplus: (p - c) / p = t / elasticity.

    Args:
        elasticities: e_i of demand k_i p ** -e_i, > 0.
        scales: k_i, > 0.
        costs: Unit costs, > 0.
        required_surplus: Sum of (p - c) x demand to be earned, >= 0.

    Returns:
        prices, ramsey_number (t; 0 = marginal cost, 1 = monopoly).

    Raises:
        ValueError: If lengths differ, a number is out of bounds or the surplus cannot be earned.

    References:
        Ramsey 1927, Economic Journal 37(145); Boiteux 1956.
    """
    e = check_numbers("elasticities", elasticities, above=0)
    k = check_numbers("scales", scales, above=0, length=len(e))
    c = check_numbers("costs", costs, above=0, length=len(e))
    required = check_number("required_surplus", required_surplus, least=0)
    if required == 0.0:
        return {"prices": c.tolist(), "ramsey_number": 0.0}
    # Above t = 1 prices exceed the monopoly's; inelastic goods reach any surplus before t reaches their elasticity.
    top = min(1.0, float(e.min()))
    at_top = e > top

    def find_prices(log_odds: float) -> np.ndarray:
        """Prices at the Ramsey number t whose log odds within (0, top) are given: c e / (e - t)."""
        return c * e / (e - top + top * float(special.expit(-log_odds)))

    def excess(log_odds: float) -> float:
        """Log of the surplus sum of k p ** (1 - e) t / e over the required one."""
        log_number = math.log(top) + float(special.log_expit(log_odds))
        return float(special.logsumexp(np.log(k) + (1.0 - e) * np.log(find_prices(log_odds)) - np.log(e))) + (
            log_number - wanted
        )

    # At the top, goods with e = t have an infinite price: surplus k if e is 1, without limit if e is below 1.
    wanted, most, attained = math.log(required), math.inf, bool(at_top.all())
    if top == 1.0:
        dear = np.log(k) - np.log(e) + (1.0 - e) * np.log(c * e / np.where(at_top, e - 1.0, 1.0))
        most = float(special.logsumexp(np.where(at_top, dear, np.log(k))))
    if wanted > most + 1e-12 or (wanted >= most and not attained):
        raise ValueError(f"required_surplus is {required:g}; at most {math.exp(most):.6g} can be earned, by monopolies")
    if excess(-_MOST_LOG_ODDS) >= 0.0:
        # Demand so large that prices exceed costs by less than a digit.
        return {"prices": c.tolist(), "ramsey_number": 0.0}
    if excess(_MOST_LOG_ODDS) <= 0.0:
        if not attained:
            raise ValueError(f"required_surplus is {required:g}; a price would leave the range of floating point")
        return {"prices": (c * e / (e - top)).tolist(), "ramsey_number": top}
    odds = brentq(excess, -_MOST_LOG_ODDS, _MOST_LOG_ODDS, xtol=1e-15, rtol=1e-15, maxiter=_ROUNDS)
    return {"prices": find_prices(odds).tolist(), "ramsey_number": top * float(special.expit(odds))}


@answers_in_floating_point()
def peak_load_prices(
    peak_intercept: float, off_peak_intercept: float, variable_cost: float, capacity_cost: float
) -> dict[str, list[float]]:
    """Welfare-optimal prices of two equally long periods that share a capacity, demands intercept - price.

    Peak users pay for the capacity; where that would make the off-peak load the larger one (the shifting peak), both
    periods fill the capacity and share its cost.

    Args:
        peak_intercept: Demand of the peak period at price zero, >= 0.
        off_peak_intercept: The same for the other period, at most the peak intercept.
        variable_cost: Cost of a unit in either period, >= 0.
        capacity_cost: Cost of a unit of capacity, >= 0.

    Returns:
        prices and loads, peak first. Where nobody pays the cost of capacity the load is 0.

    Raises:
        ValueError: If an argument is out of bounds.

    References:
        Steiner 1957, Quarterly Journal of Economics 71(4).
    """
    peak = check_number("peak_intercept", peak_intercept, least=0)
    off = check_number("off_peak_intercept", off_peak_intercept, least=0, most=peak)
    variable = check_number("variable_cost", variable_cost, least=0)
    capacity = check_number("capacity_cost", capacity_cost, least=0)
    off_load = max(off - variable, 0.0)
    firm = peak - variable - capacity
    if firm >= off_load or off_load == 0.0:
        return {"prices": [variable + capacity, variable], "loads": [max(firm, 0.0), off_load]}
    load = (peak + off - 2.0 * variable - capacity) / 2.0
    if load <= 0.0:
        # Not even both together pay for a unit: at these prices nobody buys.
        return {"prices": [peak, off], "loads": [0.0, 0.0]}
    return {"prices": [peak - load, off - load], "loads": [load, load]}


@dataclass(frozen=True)
class _Nest:
    """Best prices of a nest given the profit of the whole assortment."""

    markups: np.ndarray
    log_attraction: float
    log_shares: np.ndarray  # within the nest
    log_gain: float  # log of attraction ** dissimilarity x (mean markup - profit)


def _price_assortment(
    u: np.ndarray, b: np.ndarray, c: np.ndarray, groups: list[tuple[np.ndarray, float]]
) -> dict[str, Any]:
    """Prices, shares and profit of an assortment whose nests are given by positions and dissimilarity."""

    def log_gain(log_profit: float) -> float:
        """Log of the best total attraction-weighted excess markup, minus log profit: falls in the profit."""
        best = [_best_nest(u[g], b[g], c[g], mu, math.exp(log_profit)).log_gain for g, mu in groups]
        return float(special.logsumexp(best)) - log_profit

    low, high = -1.0, 1.0
    while log_gain(high) > 0:
        high += 1.0
    while log_gain(low) < 0:
        low *= 2.0
    profit = math.exp(brentq(log_gain, low, high, xtol=1e-15, rtol=1e-15, maxiter=_ROUNDS))

    markups, log_weights = np.empty(len(u)), np.empty(len(u))
    for group, mu in groups:
        nest = _best_nest(u[group], b[group], c[group], mu, profit)
        markups[group] = nest.markups
        log_weights[group] = mu * nest.log_attraction + nest.log_shares
    shares = np.exp(log_weights - special.logsumexp(np.append(log_weights, 0.0)))
    return {
        "prices": (c + markups).tolist(),
        "shares": shares.tolist(),
        "profit": float((markups * shares).sum()),
    }


def _best_nest(u: np.ndarray, b: np.ndarray, c: np.ndarray, mu: float, profit: float) -> _Nest:
    """Markups mu / b_i + profit + extra; extra solves extra = (1 - mu) x share-weighted mean of 1 / b."""

    def evaluate(extra: float) -> _Nest:
        markups = mu / b + profit + extra
        scores = (u - b * (c + markups)) / mu
        log_attraction = float(special.logsumexp(scores))
        log_shares = scores - log_attraction
        inverse = float((np.exp(log_shares) / b).sum())
        # Mean markup - profit = mu x inverse + extra.
        return _Nest(markups, log_attraction, log_shares, mu * log_attraction + math.log(mu * inverse + extra))

    low, high = (1.0 - mu) / b.max(), (1.0 - mu) / b.min()
    if high - low <= 1e-14 * high:
        return evaluate(low)

    def residual(extra: np.ndarray | float) -> np.ndarray:
        scores = (u - b * (c + mu / b + profit + np.expand_dims(extra, -1))) / mu
        weights = special.softmax(scores, axis=-1)
        return extra - (1.0 - mu) * (weights / b).sum(axis=-1)

    # With very different sensitivities and a small dissimilarity there are several stationary points: take the best.
    steps = max((high - low) * (b.max() - b.min()) / mu / _SCAN_STEP, 20.0)
    if steps > _SCAN_POINTS:
        raise ValueError(
            f"price_sensitivities of a nest run from {b.min():g} to {b.max():g}; with dissimilarity {mu:g} they are too"
            " far apart to find the best of its many local optima"
        )
    grid = np.linspace(low, high, int(steps) + 1)
    signs = residual(grid)
    # In exact arithmetic the residual is negative at the lower end and positive at the upper one; rounding may hide it.
    signs[0], signs[-1] = min(signs[0], 0.0), max(signs[-1], 0.0)
    roots = grid[signs == 0.0].tolist()
    for i in np.flatnonzero(signs[:-1] * signs[1:] < 0):
        roots.append(brentq(lambda t: float(residual(t)), grid[i], grid[i + 1], xtol=1e-300, rtol=1e-15))
    return max((evaluate(float(root)) for root in roots), key=lambda nest: nest.log_gain)


def _check_nests(nests: Sequence[Mapping[str, Any]] | None, num_products: int) -> list[tuple[np.ndarray, float]]:
    """Positions and dissimilarity of every nest."""
    if nests is None:
        return [(np.arange(num_products), 1.0)]
    if not isinstance(nests, Sequence) or len(nests) == 0:
        raise ValueError(f"nests is {show(nests)}; it must be a list of at least one nest, or None")
    groups: list[tuple[np.ndarray, float]] = []
    for i, nest in enumerate(nests):
        if not isinstance(nest, Mapping) or set(nest) != {"products", "dissimilarity"}:
            raise ValueError(f"nests[{i}] is {show(nest)}; it must hold 'products' and 'dissimilarity'")
        name = f"nests[{i}]['products']"
        positions = check_numbers(name, nest["products"], least=0, most=num_products - 1)
        whole = [check_integer(f"{name}[{k}]", position) for k, position in enumerate(positions.tolist())]
        mu = check_number(f"nests[{i}]['dissimilarity']", nest["dissimilarity"], least=_SMALLEST_DISSIMILARITY, most=1)
        groups.append((np.array(whole), mu))
    held = sorted(int(p) for group, _ in groups for p in group)
    if held != list(range(num_products)):
        raise ValueError(f"nests hold the products {held}; together they must hold 0 to {num_products - 1} once each")
    return groups


def _log_odds_of_best_reply(value: float) -> float:
    """Log odds z of the share s with log s + 1 / (1 - s) = value, the first-order condition of a logit firm."""
    if value < -40.0:
        return value - 1.0  # to the last digit

    def excess(z: float) -> float:
        """Grows from 0 with z."""
        return math.exp(z) - math.log1p(math.exp(z))

    # log s = z - log(1 + exp(z)) and 1 / (1 - s) = 1 + exp(z), so the condition reads z + 1 + excess(z) = value.
    high = math.log(value) if value > 1.0 else value - 1.0
    low = -5.0 if value > 1.0 else value - 1.0 - excess(high)
    return float(brentq(lambda z: z + 1.0 + excess(z) - value, low - 1e-3, high + 1e-3, xtol=1e-15, rtol=1e-15))
