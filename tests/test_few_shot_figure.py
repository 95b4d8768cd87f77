"""The figure of the k-shot curve: few lines, each with a name of its own where it ends."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

# A benchmark finds the files beside it, and is no package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
figure = import_module("few_shot_curve_figure")

ENDS = {
    "pooling_pooled": 0.8, "pooling_without_steps_pooled": 0.81, "pooling_pools_another_category": 0.9,
    "fomaml": 0.7, "fomaml_early_stop": 0.72, "joint_without_steps": 0.6, "third": 0.1, "zero_shot": 0.65,
    "zero_init": 0.5, "full_fine_tune": 0.55, "log_log_elasticity": 0.3, "cost_plus": 0.2, "boosted_demand": 0.25,
    "cloning": 0.9,
    "random_adapter": 0.4, "ceiling": 0.95,
}  # fmt: skip


@pytest.fixture
def curve() -> pd.DataFrame:
    return pd.DataFrame({4: {name: end - 0.1 for name, end in ENDS.items()}, 26: ENDS})


def test_the_best_of_each_kind_is_drawn_and_neither_placebos_nor_other_variants_of_ours(curve: pd.DataFrame) -> None:
    chosen = figure.choose_lines(curve, "pooling_pooled", ["pooling", "fomaml", "joint", "third"])
    networks = {"pooling_pooled", "zero_shot", "ceiling", "fomaml_early_stop", "joint_without_steps", "full_fine_tune"}
    assert set(chosen) == networks | {"log_log_elasticity", "boosted_demand"}
    assert len(chosen) == 8


def test_every_line_is_named_and_the_band_spans_the_placebos(curve: pd.DataFrame) -> None:
    (axes,) = figure.plot(curve, "pooling_pooled", ["pooling", "fomaml", "joint"]).axes
    texts = [text.get_text().strip() for text in axes.texts]
    assert texts[:2] == ["0.95  ceiling (knows all but the elasticities)", "0.80  ours: pooling, gradient steps"]
    assert len(set(texts)) == 8
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() != "None"]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 8
    (band,) = axes.collections
    edges = band.get_paths()[0].vertices[:, 1]
    assert edges.min() == pytest.approx(0.3)
    assert edges.max() == pytest.approx(0.9)


def test_labels_that_would_overlap_are_moved_apart_and_keep_their_mean() -> None:
    moved = figure.spread_out(np.array([0.9, 0.52, 0.51, 0.5, 0.1]), 0.05)
    np.testing.assert_allclose(moved, [0.9, 0.56, 0.51, 0.46, 0.1])
