"""Off-policy evaluation on a real panel: what policies would have earned in its own weeks, and whether to launch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.progress import Progress

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.off_policy import (
    BehaviorCalibration,
    BehaviorEstimate,
    Candidate,
    ExperimentSettings,
    LaunchDecision,
    LaunchRules,
    NotIdentified,
    SwitchbackPlan,
    Verdict,
    count_price_episodes,
    decide_launch,
    estimate_t_interval,
    measure_behavior_calibration,
    measure_weekly_variation,
    plan_switchback,
)
from pricing_fm.evaluation.panel_value.arguments import ValueArguments
from pricing_fm.evaluation.panel_value.costs import Costs, read_costs
from pricing_fm.evaluation.panel_value.demand import (
    ESTIMATOR,
    CategoryDemand,
    find_missing_habits,
    fit_category_demand,
    fit_manager,
)
from pricing_fm.evaluation.panel_value.diagnostics import tabulate_calibration
from pricing_fm.evaluation.panel_value.findings import (
    LEVEL,
    ManagerFindings,
    PolicyFindings,
    judge_path,
    value_manager,
)
from pricing_fm.evaluation.panel_value.kept import KeptSteps
from pricing_fm.evaluation.panel_value.proposals import Proposer, find_origins, propose_paths
from pricing_fm.evaluation.panel_value.valuation import Bench, value_log
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks, read_valued_weeks
from pricing_fm.metrics import Interval
from pricing_fm.panel import Panel
from pricing_fm.policy.request import NO_COST


@dataclass(frozen=True)
class PanelValueTask:
    """What is asked.

    Attributes:
        panel: The log.
        origins: Decisions, in periods before the panel's end.
        prediction_length: Periods that prices are held.
        assumed_cost_share: Unit cost over the regular price where the log has none; None = nothing is assumed.
        arguments: Settings.
        seed: Of all luck.
    """

    panel: Panel
    origins: Sequence[int]
    prediction_length: int
    assumed_cost_share: float | None
    arguments: ValueArguments
    seed: int = 0


@dataclass(frozen=True)
class PanelValueEvaluation:
    """What was found.

    Attributes:
        task: What was asked.
        weeks: The valued weeks; items of categories whose prices say nothing are left out.
        costs: Unit costs.
        demands: Demand of every category; empty where the log shows no other prices.
        behavior: The manager's habits; None likewise.
        calibration, calibration_bins: Whether their probabilities are right, overall and by bins; None likewise.
        episodes: Distinct price episodes of the valued weeks.
        manager: Findings about the log; None likewise.
        log_mean: Mean of what was recorded per item and period, currency, with its interval.
        policies: Findings about every policy.
        decision: What to do, and why.
        experiment_by_item: Switchback that shows a gain above zero, if it is the margin, were every item switched on
            its own; None = the log decides.
        left_out: Reason by category that is not valued.
    """

    task: PanelValueTask
    weeks: ValuedWeeks
    costs: Costs
    demands: tuple[CategoryDemand, ...]
    behavior: BehaviorEstimate | None
    calibration: BehaviorCalibration | None
    calibration_bins: pd.DataFrame | None
    episodes: int
    manager: ManagerFindings | None
    log_mean: Interval
    policies: tuple[PolicyFindings, ...]
    decision: LaunchDecision
    experiment_by_item: SwitchbackPlan | None
    left_out: dict[str, str]

    def describe(self) -> str:
        """The decision in words, and what its values are where no cost is known; a line each."""
        lines = [self.decision.describe()]
        if self.costs.objective == "revenue":
            lines.append(f"- {NO_COST}, and so are values (--assumed_cost_share)")
        return "\n".join(lines)


def evaluate_on_panel(
    task: PanelValueTask, build_proposers: Callable[[ValuedWeeks, Costs], Sequence[Proposer]], folder: Path
) -> PanelValueEvaluation:
    """Value policies on a panel's own weeks and judge whether one may be launched.

    Args:
        task: What is asked.
        build_proposers: Policies for the valued items and their costs.
        folder: Where price paths and habits are kept, so that a second start goes on.

    Returns:
        The findings.

    Raises:
        PanelError: If the panel is too short or is one decision unit, or a policy names no price for an item.
    """
    origins = find_origins(task.panel, task.origins, task.prediction_length)
    periods = task.prediction_length * len(origins)
    needed = 2 * (task.arguments.carry_over_periods + 1)
    if periods < needed:
        raise PanelError(f"{periods} valued periods cannot size an experiment; it takes {needed}: add --origins")
    weeks, demands, left_out = _find_telling_categories(task, origins[0])
    if len(np.unique(weeks.clusters)) < 2:
        raise PanelError(
            "the valued items are one decision unit (product x price zone), which no interval can rest on; value more "
            "products, or declare price zones in the schema"
        )
    costs, kept = read_costs(weeks, task.assumed_cost_share, task.arguments.cost_points), KeptSteps(folder)
    proposers = build_proposers(weeks, costs)
    with Progress() as progress:
        paths = {proposer.name: _keep_path(task, weeks, proposer, origins, kept, progress) for proposer in proposers}
        habits = _keep_manager(task, weeks, kept, progress)
        reasons = (*(habits.reasons if isinstance(habits, NotIdentified) else ()), *left_out.values())
        bench = None
        if demands and isinstance(habits, BehaviorEstimate):
            bench = Bench(weeks, demands, habits, task.arguments, task.seed)
        judged = _judge_all(weeks, costs, bench, reasons, paths, progress)
    decision = _decide(task, weeks, costs, judged)
    mean = estimate_t_interval(value_log(weeks, costs.unit_costs).contributions, LEVEL)
    return PanelValueEvaluation(
        task=task,
        weeks=weeks,
        costs=costs,
        demands=demands,
        behavior=None if bench is None else bench.behavior,
        calibration=None if bench is None else measure_behavior_calibration(bench.behavior),
        calibration_bins=None if bench is None else tabulate_calibration(bench.behavior),
        episodes=judged.episodes,
        manager=judged.manager,
        log_mean=mean,
        policies=judged.policies,
        decision=decision,
        experiment_by_item=_plan_by_item(task, weeks, costs, decision, 1.0 if bench is None else float(periods)),
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Judged:
    """Findings before the decision."""

    manager: ManagerFindings | None
    policies: tuple[PolicyFindings, ...]
    episodes: int


def _find_telling_categories(
    task: PanelValueTask, origin: pd.Timestamp
) -> tuple[ValuedWeeks, tuple[CategoryDemand, ...], dict[str, str]]:
    """Weeks and demand of the categories whose prices say something; all weeks and no demand if none does."""
    weeks = read_valued_weeks(task.panel, origin, task.arguments)
    persistence = task.arguments.price_persistence

    def fit(weeks: ValuedWeeks) -> dict[str, CategoryDemand | NotIdentified]:
        return {
            str(label): fit_category_demand(weeks, str(label), persistence) for label in np.unique(weeks.categories)
        }

    answers = fit(weeks)
    left_out = {label: answer.reasons[0] for label, answer in answers.items() if isinstance(answer, NotIdentified)}
    if len(left_out) == len(answers):
        return weeks, (), left_out
    if left_out:
        telling = weeks.item_ids[~np.isin(weeks.categories, list(left_out))]
        weeks = read_valued_weeks(task.panel.select_items(telling), origin, task.arguments)
        answers = fit(weeks)
    found = tuple(answer for answer in answers.values() if isinstance(answer, CategoryDemand))
    return weeks, found, left_out


def _keep_path(
    task: PanelValueTask,
    weeks: ValuedWeeks,
    proposer: Proposer,
    origins: Sequence[pd.Timestamp],
    kept: KeptSteps,
    progress: Progress,
) -> np.ndarray:
    """Price path of a policy, from disk where it was made from the same."""
    bar = progress.add_task(f"prices of {proposer.name}", total=len(origins))

    def build() -> dict[str, np.ndarray]:
        path = propose_paths(weeks, proposer, origins, task.prediction_length, lambda: progress.advance(bar))
        return {"prices": path}

    depends_on = [task.panel.fingerprint(), proposer.identity, list(map(str, weeks.item_ids)), list(map(str, origins))]
    prices = kept.read_or_build(f"prices-{proposer.name}", depends_on, build)["prices"]
    progress.update(bar, completed=len(origins))
    return prices


def _keep_manager(
    task: PanelValueTask, weeks: ValuedWeeks, kept: KeptSteps, progress: Progress
) -> BehaviorEstimate | NotIdentified:
    """The manager's habits, from disk where they were read from the same."""
    missing = find_missing_habits(weeks, task.seed)
    if missing is not None:
        return missing
    bar = progress.add_task("the manager's habits", total=1)

    def build() -> dict[str, np.ndarray]:
        found = fit_manager(weeks, task.seed)
        return {
            "change": found.change_probabilities,
            "rung": found.rung_probabilities,
            "promotion": found.promotion_probabilities,
            "folds": found.folds,
        }

    log = weeks.decisions
    depends_on = [
        *(task.panel.fingerprint(), task.seed, log.price_ladder.tolist()),
        *(list(map(str, log.item_ids)), list(map(str, log.timestamps))),
    ]
    arrays = kept.read_or_build("habits", depends_on, build)
    progress.update(bar, completed=1)
    return BehaviorEstimate(log, arrays["change"], arrays["rung"], arrays["promotion"], arrays["folds"])


def _judge_all(
    weeks: ValuedWeeks,
    costs: Costs,
    bench: Bench | None,
    reasons: tuple[str, ...],
    paths: dict[str, np.ndarray],
    progress: Progress,
) -> _Judged:
    """Findings about the log and every policy; refusals alone where the log shows no other prices."""
    first = weeks.first
    rungs, charged = weeks.decisions.rungs[:, first:].astype(np.float64), weeks.decisions.observed[:, first:]
    episodes = count_price_episodes(rungs, weeks.clusters, charged)
    if bench is None:
        told = NotIdentified(ESTIMATOR, reasons)
        refused = [PolicyFindings(name, prices, Candidate(name, told, 0.0, episodes)) for name, prices in paths.items()]
        return _Judged(None, tuple(refused), episodes)
    bar = progress.add_task("values", total=1 + len(paths))
    manager = value_manager(bench, costs.unit_costs, costs.others)
    progress.advance(bar)
    found = []
    for name, prices in paths.items():
        found.append(judge_path(bench, name, prices, costs.unit_costs, costs.others, manager, episodes))
        progress.advance(bar)
    return _Judged(manager, tuple(found), episodes)


def _decide(task: PanelValueTask, weeks: ValuedWeeks, costs: Costs, judged: _Judged) -> LaunchDecision:
    """The launch rule on everything that was found."""
    arguments = task.arguments
    rewards = (weeks.recorded_prices - costs.unit_costs) * weeks.units
    # Where nothing is identified the log's own mean per item and period stands for the manager.
    manager, length = value_log(weeks, costs.unit_costs), 1.0
    if judged.manager is not None:
        manager, length = judged.manager.path.value, float(weeks.units.shape[1])
    experiment = ExperimentSettings(
        measure_weekly_variation(rewards, weeks.clusters), length, arguments.carry_over_periods
    )
    return decide_launch(
        [policy.candidate for policy in judged.policies],
        manager,
        experiment,
        LaunchRules(margin_share=arguments.launch_margin),
        replicates=arguments.value_replicates,
        seed=task.seed,
    )


def _plan_by_item(
    task: PanelValueTask, weeks: ValuedWeeks, costs: Costs, decision: LaunchDecision, length: float
) -> SwitchbackPlan | None:
    """The same experiment with every item switched on its own."""
    if decision.verdict is not Verdict.EXPERIMENT_NEEDED:
        return None
    rewards = (weeks.recorded_prices - costs.unit_costs) * weeks.units
    variation = measure_weekly_variation(rewards, np.arange(len(rewards)))
    return plan_switchback(variation, decision.margin / length, task.arguments.carry_over_periods)
