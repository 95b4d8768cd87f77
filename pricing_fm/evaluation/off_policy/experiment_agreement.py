"""Does what a log says of policies agree with an experiment on other people? Scores over many random splits."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.9
POWER = 0.8
ANSWER = "answer"  # the experiment in half B, that every other estimator is compared with
COLUMNS = ("split", "manager", "outcome", "policy", "estimator", "value", "error")


def compare_with_answer(estimates: pd.DataFrame) -> pd.DataFrame:
    """Every estimate beside the answer of the same split, policy and outcome.

    The answer is an estimate too. Half A and half B hold different clusters, so the interval of the difference has the
    variance of both; an interval of the log alone would be asked to hold a number that moves by itself.

    Args:
        estimates: `split, manager, outcome, policy, estimator, value, error` (standard error); NaN = not identified.
            Rows of the estimator `answer` are the experiment's.

    Returns:
        The other rows with `answer, answer_error, difference, difference_error`, `is_covered` (the interval of the
        difference holds 0) and `holds_point` (the log's own interval holds the answer's point); rows that are not
        identified are left out.

    Raises:
        ValueError: If a column or an answer is missing, or an answer is there twice.
    """
    if missing := [column for column in COLUMNS if column not in estimates]:
        raise ValueError(f"estimates lack the column(s) {missing}; expected {list(COLUMNS)}")
    keys = ["split", "manager", "outcome", "policy"]
    is_answer = estimates["estimator"] == ANSWER
    answers = estimates[is_answer].rename(columns={"value": "answer", "error": "answer_error"})
    others = estimates[~is_answer].merge(
        answers[[*keys, "answer", "answer_error"]], how="left", on=keys, validate="many_to_one", indicator=True
    )
    if (others.pop("_merge") != "both").any():
        raise ValueError("some estimates have no answer of the same split, manager, outcome and policy")
    found = others.dropna(subset=["value", "answer"]).reset_index(drop=True)
    reach = stats.norm.ppf((1.0 + LEVEL) / 2.0)
    found["difference"] = found["value"] - found["answer"]
    found["difference_error"] = np.hypot(found["error"], found["answer_error"])
    found["is_covered"] = found["difference"].abs() <= reach * found["difference_error"]
    found["holds_point"] = found["difference"].abs() <= reach * found["error"]
    return found


def measure_agreement(compared: pd.DataFrame) -> pd.DataFrame:
    """One line per manager, outcome and estimator over all policies and splits.

    Given the data, splits are independent draws; policies of one split are not, so the Monte Carlo error of the
    coverage is that of the splits' own means. All splits share the same people: what is shown is how the estimators do
    on this data set, and `difference` over many splits tells a bias on it far below what one split can.

    Args:
        compared: From `compare_with_answer`.

    Returns:
        `coverage` and its Monte Carlo `coverage_error`, `lowest_coverage` of a single policy, `holds_point`,
        `expected_to_hold` (share of splits in which the log's own interval would hold the answer's point were the
        estimator right), `bias` (root mean square over policies of the mean difference over the mean answer),
        `rmse` (of the difference, over the mean answer), `half_width` (of the log's interval, same unit), `rank` (mean
        Spearman correlation of policies with the answers) and its Monte Carlo `rank_error`, and `spread_ratio` (mean
        standard error of the difference over its standard deviation across splits; below 1 = too narrow).
    """
    lines = []
    reach = stats.norm.ppf((1.0 + LEVEL) / 2.0)
    for key, rows in compared.groupby(["manager", "outcome", "estimator"], sort=False):
        level = float(rows["answer"].mean())
        by_split = rows.groupby("split")["is_covered"].mean()
        by_policy = rows.groupby("policy")
        ranks = _rank_by_split(rows)
        hope = 2.0 * stats.norm.cdf(reach * rows["error"] / rows["difference_error"]) - 1.0
        spread = by_policy["difference"].std().to_numpy()
        errors = np.sqrt(by_policy["difference_error"].apply(lambda one: (one**2).mean()).to_numpy())
        lines.append(
            {
                **dict(zip(("manager", "outcome", "estimator"), key)),
                "coverage": by_split.mean(),
                "coverage_error": by_split.std() / len(by_split) ** 0.5,
                "lowest_coverage": by_policy["is_covered"].mean().min(),
                "holds_point": rows["holds_point"].mean(),
                "expected_to_hold": hope.mean(),
                "bias": np.sqrt((by_policy["difference"].mean() ** 2).mean()) / level,
                "rmse": np.sqrt((rows["difference"] ** 2).mean()) / level,
                "half_width": reach * rows["error"].mean() / level,
                "rank": np.nanmean(ranks) if np.isfinite(ranks).any() else np.nan,
                "rank_error": np.nanstd(ranks) / len(ranks) ** 0.5 if np.isfinite(ranks).any() else np.nan,
                "spread_ratio": np.sqrt((errors**2).mean() / (spread**2).mean()),
                "splits": len(by_split),
            }
        )
    return pd.DataFrame(lines)


def measure_detectable(compared: pd.DataFrame) -> pd.DataFrame:
    """What a single split can tell: the smallest true difference that its test would find.

    Args:
        compared: From `compare_with_answer`.

    Returns:
        By manager, outcome, estimator and policy: `answer`, `detectable` (difference of log and experiment that a
        two-sided test of 10 % finds with a power of 80 %, unit of the outcome) and `detectable_share` of the answer.
    """
    factor = stats.norm.ppf((1.0 + LEVEL) / 2.0) + stats.norm.ppf(POWER)
    groups = compared.groupby(["manager", "outcome", "estimator", "policy"], sort=False)
    found = pd.DataFrame(
        {
            "answer": groups["answer"].mean(),
            "detectable": factor * groups["difference_error"].apply(lambda one: np.sqrt((one**2).mean())),
        }
    )
    found["detectable_share"] = found["detectable"] / found["answer"].abs()
    return found.reset_index()


def _rank_by_split(rows: pd.DataFrame) -> np.ndarray:
    """Spearman correlation of estimates and answers over the policies of each split; NaN where an estimate is flat."""
    values, answers = (rows.pivot(index="split", columns="policy", values=name) for name in ("value", "answer"))
    ranked = [stats.rankdata(table.to_numpy(), axis=1) for table in (values, answers)]
    centred = [table - table.mean(axis=1, keepdims=True) for table in ranked]
    flat = np.ptp(values.to_numpy(), axis=1) <= 1e-12
    scale = np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    return np.asarray(np.where(flat, np.nan, (centred[0] * centred[1]).sum(axis=1) / np.where(flat, 1.0, scale)))
