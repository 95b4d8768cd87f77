"""The benchmarks of policy learning: one change per trial, paired gains, results that a second start goes on from."""

import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
ablation, trials, report, loop = map(
    import_module, ("policy_ablation", "policy_ablation_trials", "policy_ablation_report", "policy_closed_loop")
)


def flat(trial: object) -> dict[str, object]:
    parts = asdict(trial)  # type: ignore[call-overload]
    return {
        f"{name}.{key}": value
        for name, part in parts.items()
        for key, value in (part.items() if isinstance(part, dict) else [("", part)])
    }


def test_every_trial_is_one_change_from_the_default() -> None:
    built = trials.build_trials(40, 1e-2)
    default = flat(built[trials.DEFAULT])
    for name, trial in built.items():
        changed = {key for key, value in flat(trial).items() if value != default[key]}
        # The scale of an update is alpha / rank: both move together.
        expected = {"lora.lora_rank", "lora.lora_alpha"} if name.startswith("rank") else changed
        assert len(changed) == (0 if name == trials.DEFAULT else len(expected) if len(expected) == 2 else 1), name
    known = {*built, *trials.CONTINUOUS}
    assert {name for group in trials.GROUPS.values() for name in group} == known
    assert set(trials.UNDER_CONFOUNDING) <= set(built)


def test_the_gap_is_closed_by_what_candidates_are_worth() -> None:
    truth = SimpleNamespace(categories=np.array([0, 0, 1]), manager=np.array([10.0, 5.0]), oracle=np.array([20.0, 9.0]))
    values = np.array([[5.0, 9.0], [5.0, 8.0], [5.0, 3.0]])
    arena = ablation.Arena("mixed", truth, None, {}, values)
    scores = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    np.testing.assert_allclose(arena.gap_closed(ablation.take_best(scores)), [0.7, -0.5])
    np.testing.assert_allclose(arena.gap_closed(np.full((3, 2), 0.5)), [0.35, -0.25])


def frame_of(trial: str, how: str, shares: list[float], seed: int = 0) -> pd.DataFrame:
    names = [f"c{number}" for number in range(len(shares))]
    return pd.DataFrame(
        {"market": "mixed", "trial": trial, "choice": how, "seed": seed, "category": names, "gap_closed": shares}
    )


def test_gains_are_paired_by_category_after_seeds_are_averaged() -> None:
    frame = pd.concat(
        [
            frame_of("structured", "dial 0", [0.1, 0.9, np.nan, 0.5]),
            frame_of("structured", "dial 0", [0.3, 0.7, np.nan, 0.5], seed=1),
            frame_of("raw", "dial 0", [0.0, 0.6, np.nan, 0.3]),
            frame_of("plan on the curve", "caution 0.5", [0.4, 0.4, np.nan, 0.4]),
        ]
    )
    found = {(row.model, row.name): row for row in report.summary_rows(frame, seed=0)}
    assert found["structured", "gap_closed"].value == pytest.approx(0.5)
    assert found["structured", "gap_closed"].n == 3
    # Only the seed that both have is compared: -0.1, -0.3 and -0.2.
    assert found["raw", "gain_over_default"].value == pytest.approx(-0.2)
    assert found["raw", "gain_over_default"].upper < 0
    assert report.by_category(frame, "mixed", "structured", "dial 0", like="raw").tolist() == [0.1, 0.9, 0.5]
    assert found["structured", "gain_over_plan"].value == pytest.approx(np.mean([-0.2, 0.4, 0.1]))
    assert ("structured", "gain_over_default") not in found


def test_a_second_start_knows_what_was_measured(tmp_path: Path) -> None:
    table = ablation.Table(tmp_path / "categories.csv")
    assert not table.holds("mixed", "raw", 0)
    table.add([frame_of("raw", "dial 0", [0.1, np.nan])])
    again = ablation.Table(tmp_path / "categories.csv")
    assert again.holds("mixed", "raw", 0)
    assert not again.holds("mixed", "raw", 1)
    assert not again.holds("0.9", "raw", 0)
    again.add([frame_of("raw", "dial 0", [0.2, 0.3], seed=1)])
    assert len(ablation.Table(tmp_path / "categories.csv").frame) == 4


def test_closed_loop_shares_lie_between_the_manager_and_the_optimum() -> None:
    rewards = {"manager": 10.0, "optimum": 20.0, "plan, held eight weeks": 16.0, "raw, policy alone": 8.0}
    table = pd.DataFrame(
        [
            {"family": "fresh", "category": category, "seller": seller, "rollout": rollout, "reward": reward + rollout}
            for seller, reward in rewards.items()
            for category in ("a", "b")
            for rollout in (1, 2)
        ]
    )
    shares = loop.close_gaps(table)
    assert shares.loc[("fresh", "a")].to_dict() == pytest.approx(
        {"manager": 0.0, "optimum": 1.0, "plan, held eight weeks": 0.6, "raw, policy alone": -0.2}
    )
    gains = {row.model: row.value for row in loop.summary_rows(shares, 0) if row.name == "gain_over_plan"}
    assert gains["raw, policy alone"] == pytest.approx(-0.8)
    assert loop.is_done(table, "fresh", "manager", 2)
    assert not loop.is_done(table, "fresh", "manager", 3)
