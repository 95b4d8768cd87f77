"""The behaviour model of off-policy evaluation on simulated managers whose true propensities are known.

Every manager prices retail markets of four products for two years; each product is judged by a model of the others. The
baseline is the marginal frequency of rungs and promotions in those. Columns: log loss of the logged action (rung and
promotion); excess of the log loss of the rung over that of the true propensity, all decisions and the second year
alone; mean absolute error of the rung's propensity; expected calibration error of action, change, rung given a change
and promotion, each with its 90 % interval over decision units and, after the slash, what chance alone would show were
the probabilities right; share of decisions below the propensity floor. The true propensity of a demand follower knows
the hidden demand, that of a noisy expert the whole market: no log can recover them. One core, about a minute.

Example: OMP_NUM_THREADS=1 python benchmarks/behavior_model.py --markets 60 --seed 3
"""

import argparse
import time

import numpy as np

from pricing_fm.evaluation.off_policy import (
    BehaviorEstimate,
    CalibrationError,
    fit_behavior,
    fit_marginal_behavior,
    measure_behavior_calibration,
    read_simulated_decisions,
    read_true_propensities,
    trim_propensities,
)
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, simulate_log

PERIODS = 104
# Name in the table: manager, correlation of a demand follower's wish with hidden demand.
MANAGERS = {
    "epsilon_ladder": ("epsilon_ladder", (0.0, 0.0)),
    "demand_follower, plain": ("demand_follower", (0.0, 0.0)),
    "demand_follower, confounded": ("demand_follower", (-0.9, 0.9)),
    "hi_lo": ("hi_lo", (0.0, 0.0)),
    "randomized": ("randomized", (0.0, 0.0)),
    "cost_plus": ("cost_plus", (0.0, 0.0)),
    "markdown_ladder": ("markdown_ladder", (0.0, 0.0)),
    "promotion_timer": ("promotion_timer", (0.0, 0.0)),
    "stock_driven": ("stock_driven", (0.0, 0.0)),
    "noisy_expert": ("noisy_expert", (0.0, 0.0)),
}
HEADER = (
    *("manager", "model", "log loss", "excess", "excess, year 2", "error"),
    *("ECE action", "ECE change", "ECE rung", "ECE promotion", "trimmed"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=60, help="markets per manager, 2 or more")
    parser.add_argument("--seed", type=int, default=3, help="of the markets and managers")
    parser.add_argument("--floor", type=float, default=0.01, help="propensity floor, in [0, 1)")
    arguments = parser.parse_args()
    if arguments.markets < 2:
        parser.error(f"--markets is {arguments.markets}; it must be at least 2")
    started = time.process_time()
    print("| " + " | ".join(HEADER) + " |")
    print("|---" * len(HEADER) + "|")
    for name, (manager, confounding) in MANAGERS.items():
        habits = ManagerSettings(names=(manager,), confounding=confounding)
        size = LogSettings(num_markets=arguments.markets, num_periods=PERIODS, seed=arguments.seed)
        simulated = simulate_log(RetailSettings(num_products=4), habits, size)
        log, true = read_simulated_decisions(simulated), read_true_propensities(simulated)
        for model, estimate in (("behaviour", fit_behavior(log)), ("marginal", fit_marginal_behavior(log))):
            print(render_row(name, model, estimate, true, arguments.floor), flush=True)
    decisions = arguments.markets * 4 * (PERIODS - 1)
    print(f"\n{decisions} decisions per manager, seed {arguments.seed}, floor {arguments.floor:g},", end=" ")
    print(f"{time.process_time() - started:.0f} s of one core")


def render_row(name: str, model: str, estimate: BehaviorEstimate, true: np.ndarray, floor: float) -> str:
    """One line of the table."""
    decided = estimate.log.decided
    logged, rungs = estimate.logged_propensities, estimate.logged_rung_propensities
    excess = np.log(true / rungs)
    calibration = measure_behavior_calibration(estimate)
    trimmed = trim_propensities(logged, floor)
    cells = [
        name,
        model,
        f"{-np.log(logged[decided]).mean():.3f}",
        f"{excess[decided].mean():.3f}",
        f"{excess[:, PERIODS // 2 :][decided[:, PERIODS // 2 :]].mean():.3f}",
        f"{np.abs(rungs - true)[decided].mean():.3f}",
        *(render_error(one) for one in (calibration.action, calibration.change, calibration.rung)),
        render_error(calibration.promotion),
        f"{100 * trimmed.trimmed_mass:.2f} % ({trimmed.num_trimmed})",
    ]
    return "| " + " | ".join(cells) + " |"


def render_error(found: CalibrationError | None) -> str:
    """Value, interval and chance."""
    if found is None:
        return ""
    return f"{found.value:.4f} ({found.lower:.4f}-{found.upper:.4f}) / {found.noise:.4f}"


if __name__ == "__main__":
    main()
