"""What a log of one-step decisions says of its manager and its customers: choices and outcomes, cross-fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pricing_fm.evaluation.off_policy.choice_regression import (
    compute_log_shares,
    fit_binary_regression,
    fit_choice_regression,
)
from pricing_fm.evaluation.off_policy.fitted_q import DecisionFeatures, LeastSquares
from pricing_fm.evaluation.off_policy.log import ModelValues
from pricing_fm.evaluation.off_policy.one_step_log import RandomisedDecisions, rank_within_cells

FOLDS = 3
RUNGS = 9  # a log of some thousand decisions cannot tell the chances of fifty prices in a small cell
RIDGE = 0.01  # of mean outcomes, relative to the mean square of the regressors
_RARE = 0.5  # added to the count of every price of a cell: what a log does not show may still happen


@dataclass(frozen=True)
class OneStepFeatures:
    """Regressors of a decision: the cell, covariates, the action, and products of the last two.

    Attributes:
        rows: Standardised covariates beside indicators of all cells but the first, `(rows, columns)`.
        actions: What a model knows of an action, `(actions, columns)`.
        modifiers: Ranks within the cell, from -1 to 1, of covariates that change the response to the action,
            `(rows, columns)`. Bounded on purpose: with values and their squares a logit says of the few with extreme
            ones that they never get a cheap price, and whoever did gets a huge weight.
    """

    rows: np.ndarray
    actions: np.ndarray
    modifiers: np.ndarray

    def join(self, actions: np.ndarray) -> np.ndarray:
        """Regressors of all rows with given action columns, `(rows, all columns)`, the constant first."""
        products = (self.modifiers[:, :, None] * actions[:, None, :]).reshape(len(self.rows), -1)
        return np.column_stack([np.ones(len(self.rows)), self.rows, actions, products])

    def spread(self, linear: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A linear function of the regressors at every action, `(rows, actions)`."""
        size = self.actions.shape[1]
        start = linear(self.join(np.zeros((len(self.rows), size))))
        slopes = [linear(self.join(np.tile(unit, (len(self.rows), 1)))) - start for unit in np.eye(size)]
        return np.asarray(start[:, None] + np.stack(slopes, axis=1) @ self.actions.T)


def build_features(
    decisions: RandomisedDecisions, action_columns: np.ndarray, modifiers: tuple[str, ...]
) -> OneStepFeatures:
    """Regressors of a log, standardised on the log itself.

    Args:
        decisions: The log.
        action_columns: What a model knows of an action, `(actions, columns)`.
        modifiers: Covariates that change the response; those that the log does not hold are left out.

    Returns:
        The features.
    """
    present = np.unique(decisions.cells)
    members = decisions.cells[:, None] == present[None, :]
    known = [name for name in modifiers if name in decisions.covariate_names]
    ranks = [rank_within_cells(decisions.covariate(name), decisions.cells) for name in known]
    within = np.stack(ranks, axis=1) if ranks else np.zeros((decisions.num_rows, 0))
    rows = np.column_stack([members[:, 1:].astype(np.float64), _standardize(decisions.covariates)])
    return OneStepFeatures(rows, action_columns, within)


def assign_cluster_folds(clusters: np.ndarray, seed: int, folds: int) -> np.ndarray:
    """Parts of equally many whole clusters, drawn by the seed.

    Args:
        clusters: Labels, `(rows,)`.
        seed: Of the draw.
        folds: Number of parts.

    Returns:
        Fold of each row, `(rows,)`.

    Raises:
        ValueError: If there are fewer clusters than folds.
    """
    labels, codes = np.unique(clusters, return_inverse=True)
    if len(labels) < folds:
        raise ValueError(f"the log has {len(labels)} clusters; {folds} folds need at least as many")
    return np.asarray((np.random.default_rng([seed, 2]).permutation(len(labels)) % folds)[codes])


def predict_outcomes(
    decisions: RandomisedDecisions, features: OneStepFeatures, folds: np.ndarray
) -> dict[str, np.ndarray]:
    """Expected outcomes of every action for every row, by models that have not seen the row's cluster.

    Where an outcome says when it occurs: a logistic regression of that, times a linear one of its size where it does.
    Otherwise one linear regression.

    Args:
        decisions: The log.
        features: Of the log.
        folds: Fold of each row, `(rows,)`.

    Returns:
        By outcome, `(rows, actions)`, unit of the outcome.

    Raises:
        ValueError: If an outcome never occurs outside a fold.
    """
    taken = features.join(features.actions[decisions.actions])
    found = {one.name: np.zeros((decisions.num_rows, len(features.actions))) for one in decisions.outcomes}
    for fold in np.unique(folds):
        judged, inside = folds == fold, folds != fold
        part = OneStepFeatures(features.rows[judged], features.actions, features.modifiers[judged])
        chances: dict[bytes, np.ndarray] = {}
        for outcome in decisions.outcomes:
            sized = inside if outcome.occurs is None else inside & outcome.occurs
            if not sized.any():
                raise ValueError(f"{outcome.name} never occurs outside fold {fold}; there is nothing to learn from")
            centre = float(outcome.values[sized].mean())
            size = LeastSquares(RIDGE).fit(taken[sized], outcome.values[sized] - centre)
            found[outcome.name][judged] = centre + part.spread(size)
            if outcome.occurs is not None:
                key = outcome.occurs.tobytes()  # several outcomes of one event share its model
                if key not in chances:
                    chances[key] = _predict_chance(part, taken[inside], outcome.occurs[inside])
                found[outcome.name][judged] *= chances[key]
    return found


def _predict_chance(features: OneStepFeatures, taken: np.ndarray, occurs: np.ndarray) -> np.ndarray:
    """Chance of an event at every action, `(rows, actions)`."""
    fit = fit_binary_regression(taken[:, 1:], occurs.astype(np.float64))  # the constant is the regression's own
    logits = features.spread(lambda rows: fit.compute_logits(rows[:, 1:]))
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


@dataclass(frozen=True)
class EstimatedChoices:
    """How a manager chooses among the rungs of a cell's price ladder.

    Attributes:
        rungs: Rung of each action, codes, `(cells, actions)`.
        probabilities: Of each rung for each row, `(rows, rungs)`.
    """

    rungs: np.ndarray
    probabilities: np.ndarray

    def take(self, decisions: RandomisedDecisions) -> np.ndarray:
        """Probability of the rung of each logged action, `(rows,)`."""
        taken = self.rungs[decisions.cells, decisions.actions]
        return np.asarray(self.probabilities[np.arange(decisions.num_rows), taken])

    def pool(self, decisions: RandomisedDecisions, target: np.ndarray) -> np.ndarray:
        """Probability that a policy takes any price of the logged action's rung, `(rows,)`.

        Within a rung the policy is taken to charge what the log charges there.
        """
        codes = self.rungs[decisions.cells]
        taken = codes[np.arange(decisions.num_rows), decisions.actions]
        return np.einsum("ra,ra->r", target, codes == taken[:, None])


def build_rungs(decisions: RandomisedDecisions, num_rungs: int = RUNGS) -> np.ndarray:
    """Neighbouring prices of a cell joined until the log takes each rung about equally often.

    Args:
        decisions: The log.
        num_rungs: Most rungs; a cell with no more actions keeps them.

    Returns:
        Codes 0 ... `num_rungs` - 1 (or of the actions), `(cells, actions)`.
    """
    actions = decisions.design.shape[1]
    if actions <= num_rungs:
        return np.broadcast_to(np.arange(actions), decisions.design.shape)
    listed = estimate_marginal_choices(decisions, np.arange(decisions.num_rows))
    middle = np.cumsum(listed, axis=1) - 0.5 * listed
    return np.asarray(np.minimum((middle * num_rungs).astype(np.int64), num_rungs - 1))


def predict_choices(decisions: RandomisedDecisions, features: OneStepFeatures, folds: np.ndarray) -> EstimatedChoices:
    """How a manager chooses: the cell's price ladder, tilted towards cheap or dear by what he knows of the customer.

    Conditional logit over the cell's rungs: log frequency in the cell, the rung's place among them, its square, and
    the place times the modifiers, their squares and products. Without the square everybody would be spread over the
    ladder as widely as all customers together. Cross-fitted.

    Args:
        decisions: The log; which prices a cell has is taken from its design, their probabilities are not.
        features: Of the log.
        folds: Fold of each row, `(rows,)`.

    Returns:
        Probability of each rung.
    """
    rungs, known = build_rungs(decisions), expand_columns(features.modifiers)
    taken = rungs[decisions.cells, decisions.actions]
    ladder = np.zeros((len(rungs), int(rungs.max()) + 1), dtype=bool)
    cells, actions = np.nonzero(decisions.design > 0)
    ladder[cells, rungs[cells, actions]] = True
    found = np.zeros((decisions.num_rows, ladder.shape[1]))
    for fold in np.unique(folds):
        judged, inside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        counts = np.where(ladder, _RARE, 0.0)
        np.add.at(counts, (decisions.cells[inside], taken[inside]), 1.0)
        shares = counts / counts.sum(axis=1, keepdims=True)
        logs = np.log(np.where(ladder, shares, 1.0))
        places = 2.0 * (np.cumsum(shares, axis=1) - 0.5 * shares) - 1.0
        columns = np.stack([logs, places, places**2], axis=2)

        def design(rows: np.ndarray, columns: np.ndarray = columns) -> np.ndarray:
            alone = columns[decisions.cells[rows]]
            return np.concatenate([alone, alone[:, :, 1:2] * known[rows][:, None, :]], axis=2)

        available = ladder[decisions.cells]
        fit = fit_choice_regression(design, inside, taken[inside], available[inside])
        found[judged] = np.exp(compute_log_shares(fit.compute_utilities(design, judged), available[judged]))
    return EstimatedChoices(rungs, found)


def predict_marginal_choices(decisions: RandomisedDecisions) -> EstimatedChoices:
    """The baseline: how often each rung of a cell's ladder is taken, whoever the customer is.

    Args:
        decisions: The log.

    Returns:
        The same probabilities for all rows of a cell.
    """
    rungs, listed = build_rungs(decisions), estimate_marginal_choices(decisions, np.arange(decisions.num_rows))
    shares = np.zeros((len(rungs), int(rungs.max()) + 1))
    np.add.at(shares, (np.arange(len(rungs))[:, None], rungs), listed)
    return EstimatedChoices(rungs, shares[decisions.cells])


def estimate_marginal_choices(decisions: RandomisedDecisions, rows: np.ndarray) -> np.ndarray:
    """How often the log takes each price of a cell, whoever the customer is.

    Args:
        decisions: The log.
        rows: Positions of the rows that are counted.

    Returns:
        `(cells, actions)`; half a decision is added to each price of the cell.
    """
    counts = np.where(decisions.design > 0, _RARE, 0.0)
    np.add.at(counts, (decisions.cells[rows], decisions.actions[rows]), 1.0)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True))


def read_model_values(decisions: RandomisedDecisions, predicted: np.ndarray, target: np.ndarray) -> ModelValues:
    """Predictions at the logged action, and their mean under a policy.

    Args:
        decisions: The log.
        predicted: `(rows, actions)`.
        target: Probability of each action, `(rows, actions)`.

    Returns:
        Values of one step.
    """
    logged = predicted[np.arange(decisions.num_rows), decisions.actions]
    return ModelValues(logged[:, None], (target * predicted).sum(axis=1)[:, None])


def read_decision_features(
    decisions: RandomisedDecisions, features: OneStepFeatures, target: np.ndarray
) -> DecisionFeatures:
    """Features for fitted Q evaluation with a linear critic.

    A linear critic's mean over actions is its value at the mean features: the two alternatives are the logged action
    and that mean, which spares a copy of the features for each price.

    Args:
        decisions: The log.
        features: Of the log.
        target: Probability of each action, `(rows, actions)`.

    Returns:
        Features of one step with two alternatives.
    """
    taken = features.join(features.actions[decisions.actions])
    joined = np.stack([taken, features.join(target @ features.actions)], axis=1)
    rows = decisions.num_rows
    only_mean = np.broadcast_to(np.array([0.0, 1.0]), (rows, 1, 2))
    return DecisionFeatures(joined[:, None], only_mean, np.zeros((rows, 1), dtype=np.int64))


def expand_columns(columns: np.ndarray) -> np.ndarray:
    """Columns, squares and products, `(rows, more columns)`."""
    pairs = [columns[:, a] * columns[:, b] for a in range(columns.shape[1]) for b in range(a, columns.shape[1])]
    return np.column_stack([columns, *pairs])


def _standardize(columns: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and spread 1; what does not vary is 0."""
    spreads = columns.std(axis=0)
    return np.asarray((columns - columns.mean(axis=0)) / np.where(spreads > 0, spreads, 1.0))
