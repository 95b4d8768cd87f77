"""The benchmark on markets goes on where it was stopped, and says what it measured."""

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from pricing_fm.evaluation.off_policy import RefusalError

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
benchmark, shops = import_module("off_policy_markets"), import_module("off_policy_market_shops")
tables = import_module("off_policy_market_tables")

TINY = "--repetitions 4 --failing_repetitions 2 --chunk 2 --units 16 --draws 2 --naive_every 2 --trajectories_every 2"
CELLS = "--checks 2 --truth_units 400 --cells plain_13 private_stock_13 --output_dir"


def run(folder: Path, *more: str) -> str:
    benchmark.main([*TINY.split(), *CELLS.split(), str(folder), *more])
    return (folder / "results.json").read_text(encoding="utf-8")


def test_a_run_that_was_stopped_goes_on_from_its_chunks(tmp_path: Path) -> None:
    whole = run(tmp_path)
    chunks = sorted(tmp_path.glob("*.npz"))
    assert [path.stem for path in chunks] == ["plain_13-00000", "plain_13-00002", "private_stock_13-00000"]
    written = {path: path.stat().st_mtime_ns for path in chunks}
    (tmp_path / "results.json").unlink()
    chunks[1].unlink()
    assert run(tmp_path) == whole
    again = {path: path.stat().st_mtime_ns for path in chunks}
    assert [path for path in chunks if again[path] != written[path]] == [chunks[1]]
    chunks[1].unlink()
    assert len(json.loads(run(tmp_path, "--only_report"))["metrics"]) <= len(json.loads(whole)["metrics"])
    assert not chunks[1].exists()
    with pytest.raises(SystemExit, match="other settings"):
        run(tmp_path, "--draws", "3")
    rows = json.loads(whole)["metrics"]
    assert {"bias", "error", "coverage", "gain_bias", "rank_correlation", "regret"} <= {row["name"] for row in rows}
    assert {"structured", "sales_as_demand", "drop_sold_out", "no_memory"} <= {row["model"] for row in rows}


def test_chunks_measured_with_another_base_are_not_mixed(tmp_path: Path) -> None:
    bases = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        manifest = {"format_version": 1, "kind": "base", "base_fingerprint": f"sha256:{name}"}
        manifest["files"] = {"config.json": "sha256:0"}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        bases.append(["--base", str(tmp_path / name)])
    kept = tmp_path / "settings.json"

    def keep(*more: str) -> None:
        benchmark.keep_settings(benchmark.parse_arguments(["--output_dir", str(tmp_path), *more]))

    keep("--nuisances", "network", *bases[0])
    keep("--nuisances", "network", *bases[0])
    with pytest.raises(SystemExit, match="other settings"):
        keep("--nuisances", "network", *bases[1])
    kept.unlink()
    for base in bases:  # the package's own regressions know no base
        keep(*base)
    assert "base" not in json.loads(kept.read_text(encoding="utf-8"))


def test_refusals_are_counted_and_other_errors_are_not_swallowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = benchmark.parse_arguments([*TINY.split(), "--output_dir", str(tmp_path)])

    def fail(error: ValueError) -> None:
        def estimate(name: str, given: object) -> object:
            raise error

        monkeypatch.setattr(benchmark, "estimate_by_trajectories", estimate)

    fail(RefusalError("a state is left by no logged rung"))
    estimates, _ = benchmark.measure(benchmark.CELLS[0], 0, arguments)
    places = [benchmark.ESTIMATORS.index(name) for name in benchmark.TRAJECTORY]
    assert np.isnan(estimates[places]).all()
    fail(ValueError("shapes differ"))
    with pytest.raises(ValueError, match="shapes differ"):
        benchmark.measure(benchmark.CELLS[0], 0, arguments)


def test_every_number_of_a_table_stands_under_its_heading() -> None:
    places = iter(range(1, 100))

    def measured() -> object:
        return tables.Measured(next(places), 0.0)

    one = tables.Summary(
        estimator="structured",
        asked=9,
        answered=8,
        bias=measured(),
        error=measured(),
        coverage=measured(),
        worst_bias=0.07,
        error_ratio=1.25,
        gain_error_ratio=1.75,
        gain_bias=measured(),
        gain_error=measured(),
        gain_coverage=measured(),
        two_way_coverage=measured(),
        two_way_gain_coverage=measured(),
        student_coverage=measured(),
        rank_correlation=measured(),
        regret=measured(),
    )
    table = tables.tabulate_cell("a cell", [one])
    cells = {str(column.header): list(column.cells) for column in table.columns}
    assert len(cells) == len(table.columns), "two columns share a heading"
    assert cells == {
        "estimator": ["structured"],
        "bias %": ["+100.00 (0.00)"],
        "worst": ["+7.00"],
        "RMSE %": ["200.00 (0.00)"],
        "ratio": ["1.25"],
        "coverage": ["3.000 (0.000)"],
        "gain bias %": ["+400.00 (0.00)"],
        "gain RMSE %": ["500.00 (0.00)"],
        "gain ratio": ["1.75"],
        "gain coverage": ["6.000 (0.000)"],
        "Spearman": ["10.00 (0.00)"],
        "regret %": ["1100.00 (0.00)"],
        "n": ["8/9"],
    }


def test_the_markets_are_what_they_are_said_to_be() -> None:
    for confounding, weeks in ((0.0, 13), (0.5, 26)):
        log = shops.draw_log(0, 2000, weeks, confounding, "none")
        stocked = log.demand.stock > 0
        assert (log.demand.units >= log.demand.stock)[stocked].mean() == pytest.approx(0.4, abs=0.03)
        log_prices = np.log(log.demand.prices / log.demand.list_prices)
        assert np.corrcoef(log_prices.ravel(), log.signals.ravel())[0, 1] == pytest.approx(confounding, abs=0.05)
    # The evaluator's shop, run with the logged rules, starts where the log does.
    assert np.all(log.shop.stock.start(1)[:, 0, 0] == log.demand.stock[:, 0])  # type: ignore[attr-defined]
    np.testing.assert_allclose(log.shop.log_last, np.log(shops.LADDER[log.last[:, 0]] * log.demand.list_prices[:, 0]))


def test_a_true_value_is_what_logs_earn_on_average() -> None:
    truth = shops.compute_true_values(1, 8000, 13, 0.5, "none")
    earned = np.array(
        [shops.draw_log([5, number], 1000, 13, 0.5, "none").rewards.sum(axis=1).mean() for number in range(8)]
    )
    error = np.hypot(truth.errors[0], earned.std() / np.sqrt(7))
    assert abs(earned.mean() - truth.values[0]) < 3.5 * error
    assert truth.values[shops.POLICIES.index("raises")] > truth.values[0] > truth.values[shops.POLICIES.index("cuts")]
