"""Learning sellers in a repeated logit duopoly: how much of the step from competition to joint pricing they gain.

The market is the baseline of Calvano, Calzolari, Denicolo and Pastorello 2020 (Nash price 1.473, joint price 1.925);
index 0 is the one-period equilibrium, 1 joint pricing. `gain` is the mean index over the runs with its standard error,
prices are those of the first and second seller, all over the last 1,000 periods. The short schedule gives Q-learners a
ladder of 7 prices instead of 15, so that every cell of their tables is still visited some 15 times while both explore
(37 in the literature); `--full` adds the literature's schedule (2,000,000 periods: minutes). The impatient Q-learners
(discount 0) show how much of the index is owed to weighing the future. The second table is what a seller of two
products loses by pricing them one by one. One core, about one minute without `--full`.

Example: OMP_NUM_THREADS=1 python benchmarks/competition.py --runs 64 --seed 0
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np

from pricing_fm.markets.competition import Duopoly, build_two_product_market, compute_itemwise_loss
from pricing_fm.markets.learning_sellers import (
    Bandit,
    BestResponse,
    FixedPrice,
    Learner,
    LeastSquares,
    QLearning,
    simulate_competition,
)

# Cells are rungs cubed; both sellers explore for 1 / (2 x exploration_decay) periods in all.
PATIENT = QLearning(exploration_decay=1e-4, rungs=7)
IMPATIENT = QLearning(exploration_decay=1e-4, rungs=7, discount=0.0)
SHORT_PERIODS = 80_000
FULL_PERIODS = 2_000_000


def list_pairs(duopoly: Duopoly, full: bool) -> Iterator[tuple[str, tuple[Learner, Learner], int]]:
    """Name, learners and periods of every row."""
    joint = tuple(FixedPrice(float(price)) for price in duopoly.joint_prices)
    yield "best response x best response", (BestResponse(), BestResponse()), 2_000
    yield "joint price x joint price", (joint[0], joint[1]), 2_000
    yield "joint price x best response", (joint[0], BestResponse()), 2_000
    yield "least squares x least squares", (LeastSquares(), LeastSquares()), 5_000
    yield "least squares x best response", (LeastSquares(), BestResponse()), 5_000
    yield "bandit x bandit", (Bandit(), Bandit()), 20_000
    yield "bandit x best response", (Bandit(), BestResponse()), 20_000
    yield "Q-learning x Q-learning", (PATIENT, PATIENT), SHORT_PERIODS
    yield "impatient Q x impatient Q", (IMPATIENT, IMPATIENT), SHORT_PERIODS
    yield "Q-learning x best response", (PATIENT, BestResponse()), SHORT_PERIODS
    yield "Q-learning x least squares", (PATIENT, LeastSquares()), SHORT_PERIODS
    yield "Q-learning x bandit", (PATIENT, Bandit()), SHORT_PERIODS
    if full:
        yield "Q-learning, schedule of the literature", (QLearning(), QLearning()), FULL_PERIODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64, help="independent runs of every pair")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs")
    parser.add_argument("--full", action="store_true", help="add the literature's schedule")
    arguments = parser.parse_args()
    duopoly, started = Duopoly(), time.perf_counter()
    print(f"{'learners':40s} {'periods':>9s} {'gain':>7s} {'+-':>6s} {'prices':>13s} {'profits':>15s} {'s':>6s}")
    for name, learners, periods in list_pairs(duopoly, arguments.full):
        begun = time.perf_counter()
        ended = simulate_competition(duopoly, learners, np.arange(arguments.runs), periods, seed=arguments.seed)
        prices, profits = ended.prices.mean(axis=0), ended.profits.mean(axis=0)
        print(
            f"{name:40s} {periods:9,d} {ended.mean_profit_gain:7.3f} {ended.standard_error:6.3f}"
            f" {prices[0]:6.3f} {prices[1]:6.3f} {profits[0]:7.4f} {profits[1]:7.4f}"
            f" {time.perf_counter() - begun:6.1f}",
            flush=True,
        )
    print()
    print(f"{'two linear substitutes':40s} {'joint price':>12s} {'itemwise':>9s} {'loss %':>7s}")
    for stated in (0.01, 0.05, 0.1, 0.25):
        loss = compute_itemwise_loss(build_two_product_market(stated))
        joint, itemwise = loss.joint_prices[0, 0], loss.itemwise_prices[0, 0]
        print(f"{f'built for a loss of {stated:.0%}':40s} {joint:12.3f} {itemwise:9.3f} {loss.loss_percent:7.3f}")
    print(f"\n{arguments.runs} runs a pair, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
