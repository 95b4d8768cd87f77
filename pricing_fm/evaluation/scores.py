"""From the table of every forecast step to result rows, paired comparisons and the table on the screen."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pricing_fm.metrics.bootstrap import Interval, estimate_wql_interval, estimate_wql_ratio_interval
from pricing_fm.metrics.forecast import compute_coverage, compute_mase, compute_sql, compute_wape, compute_wql
from pricing_fm.results import ResultRow

CUT_BELOW = 0.95  # a price below this share of the list price (or of the usual price) makes it a cut period


def score_steps(
    steps: pd.DataFrame,
    quantile_levels: Sequence[float],
    train_seconds: float,
    inference_seconds: Sequence[float],
    cached: bool = False,
) -> list[ResultRow]:
    """All metrics of one forecaster, one row per metric and window.

    Rows: `wql` (with its product-by-period block-bootstrap interval), `sql`, `mase`, `coverage_80`, `wape`; `wql_cut`
    and `wql_regular` for periods with and without a price cut; `wql_sold_out` for sold-out periods, where the sales
    forecast is demand capped by the stock. What a window cannot measure has no row.

    Args:
        steps (`pd.DataFrame`): Steps of one model and seed, as in `ForecastEvaluation.steps`.
        quantile_levels (`Sequence[float]`): Levels of the quantile columns.
        train_seconds (`float`): Seconds of the fit.
        inference_seconds (`Sequence[float]`): Seconds of each window's forecast.
        cached (`bool`): Whether the forecasts come from an earlier run.

    Returns:
        `list[ResultRow]`: Sorted by window.
    """
    rows = []
    seed = None if pd.isna(steps["seed"].iloc[0]) else int(steps["seed"].iloc[0])
    for window in sorted(set(steps["window"].astype(int))):
        table = steps[steps["window"] == window]
        first = table.iloc[0]
        for name, (value, n) in _metrics(table, quantile_levels).items():
            interval = _wql_interval(table) if name == "wql" else None
            rows.append(
                ResultRow(
                    name=name,
                    value=value,
                    model=str(first["model"]),
                    task=str(first["task"]),
                    lower=None if interval is None else interval.lower,
                    upper=None if interval is None else interval.upper,
                    n=n,
                    window=window,
                    seed=seed,
                    train_s=float(train_seconds),
                    inference_s=float(inference_seconds[window]),
                    cached=cached,
                )
            )
    return rows


def score_categories(steps: pd.DataFrame, cached: bool = False) -> list[ResultRow]:
    """WQL of one forecaster in each category and window.

    Args:
        steps (`pd.DataFrame`): Steps of one model and seed, as in `ForecastEvaluation.steps`.
        cached (`bool`): Whether the forecasts come from an earlier run.

    Returns:
        `list[ResultRow]`: Rows with `category`; none where nothing was sold.
    """
    scored = steps[steps["scored"].astype(bool)]
    sums = scored.groupby(["category", "window"], sort=True).agg(
        loss=("loss", "sum"), units=("units", "sum"), n=("loss", "size")
    )
    seed = None if pd.isna(steps["seed"].iloc[0]) else int(steps["seed"].iloc[0])
    model, task = str(steps["model"].iloc[0]), str(steps["task"].iloc[0])
    rows = []
    for category, window, loss, units, n in sums[sums["units"] > 0].reset_index().itertuples(index=False):
        rows.append(
            ResultRow(
                name="wql",
                value=float(loss / units),
                model=model,
                task=task,
                n=int(n),
                category=str(category),
                window=int(window),
                seed=seed,
                cached=cached,
            )
        )
    return rows


def compare_forecasts(
    steps: pd.DataFrame, model: str, reference: str, window: int | None = None, level: float = 0.95, seed: int = 0
) -> Interval:
    """WQL of a model over WQL of a reference on the same steps, with its paired block-bootstrap interval.

    Several seeds of a forecaster are averaged step by step first.

    Args:
        steps (`pd.DataFrame`): As in `ForecastEvaluation.steps`, of one task.
        model (`str`): Name of the model.
        reference (`str`): Name of the reference.
        window (`int`, *optional*): Window; None pools all of them.
        level (`float`): Nominal coverage of the interval.
        seed (`int`): Seed of the bootstrap.

    Returns:
        `Interval`: Below 1 = the model is better. A claim counts when the interval excludes 1.

    Raises:
        ValueError: If one of them has no scored step, or they were scored on different steps.
    """
    chosen = steps[steps["scored"].astype(bool) & ((steps["window"] == window) if window is not None else True)]
    keys = ["window", "item_id", "timestamp", "product_id"]
    losses = [chosen[chosen["model"] == name].groupby(keys, sort=True)["loss"].mean() for name in (model, reference)]
    for name, loss in zip((model, reference), losses):
        if loss.empty:
            raise ValueError(f"no scored step of {name!r}; the table has {sorted(steps['model'].unique())}")
    if not losses[0].index.equals(losses[1].index):
        raise ValueError(f"{model!r} and {reference!r} were scored on different steps; run them on one task")
    index = losses[0].index
    return estimate_wql_ratio_interval(
        losses[0].to_numpy(),
        losses[1].to_numpy(),
        index.get_level_values("product_id").to_numpy(),
        index.get_level_values("timestamp").to_numpy(),
        level=level,
        seed=seed,
    )


def build_ratio_rows(steps: pd.DataFrame, model: str, references: Sequence[str]) -> list[ResultRow]:
    """Result rows of paired comparisons, pooled over windows.

    Args:
        steps (`pd.DataFrame`): As in `ForecastEvaluation.steps`, of one task.
        model (`str`): Name of the model.
        references (`Sequence[str]`): Names of the references.

    Returns:
        `list[ResultRow]`: Metric `wql_ratio_to_<reference>` of the model.
    """
    task, n = str(steps["task"].iloc[0]), int((steps["scored"].astype(bool) & (steps["model"] == model)).sum())
    rows = []
    for reference in references:
        found = compare_forecasts(steps, model, reference)
        rows.append(
            ResultRow(f"wql_ratio_to_{reference}", found.value, model, task, lower=found.lower, upper=found.upper, n=n)
        )
    return rows


def build_score_table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """One line per model, best first, seeds averaged.

    Args:
        rows (`Sequence[ResultRow]`): Rows of one task; category rows and pooled comparisons are left out.

    Returns:
        `pd.DataFrame`: Index `model`; `wql_0`, `wql_1`, ... by window, the mean of every metric over windows under its
        own name, `train_s` and `inference_s` (per window).
    """
    frame = pd.DataFrame([vars(row) for row in rows if row.category is None and row.window is not None])
    table = frame.pivot_table(index="model", columns="name", values="value")
    wql = frame[frame["name"] == "wql"]
    by_window = wql.pivot_table(index="model", columns="window", values="value")
    table = table.join(by_window.rename(columns={window: f"wql_{window}" for window in by_window}))
    seconds = wql.groupby("model")[["train_s", "inference_s"]].agg("mean").astype(float)
    return table.join(seconds).sort_values("wql")


def print_forecast_table(rows: Sequence[ResultRow], console: Console | None = None) -> None:
    """Prints one line per model: WQL of every window, then means over windows; the best of each column in bold.

    Args:
        rows (`Sequence[ResultRow]`): Rows of one task.
        console (`Console`, *optional*): Where to print.
    """
    scores = build_score_table(rows)
    windows = [name[4:] for name in map(str, scores) if name.startswith("wql_") and name[4:].isdigit()]
    titles = {f"wql_{window}": f"WQL {window}" for window in windows}
    titles |= {"wql": "mean", "mase": "MASE", "wape": "WAPE", "coverage_80": "cov80"}
    titles = {name: title for name, title in titles.items() if name in scores}
    title = f"{rows[0].task}: lower is better, cov80 best at 0.80; fit and run in seconds"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # fits into 80 columns
    table.add_column("model", no_wrap=True)
    for heading in (*titles.values(), "fit", "run"):
        table.add_column(heading, justify="right", no_wrap=True)
    best = {name: (scores[name] - (0.8 if name == "coverage_80" else 0.0)).abs().idxmin() for name in titles}
    for model, values in scores.to_dict("index").items():
        cells = [f"[bold]{values[name]:.3f}[/]" if best[name] == model else f"{values[name]:.3f}" for name in titles]
        table.add_row(str(model), *cells, f"{values['train_s']:.1f}", f"{values['inference_s']:.2f}")
    (console or Console()).print(table)


def is_price_cut(steps: pd.DataFrame) -> np.ndarray:
    """Periods whose price is clearly below the list price (or, without one, below the usual price).

    Args:
        steps (`pd.DataFrame`): As in `ForecastEvaluation.steps`.

    Returns:
        `np.ndarray`, bool, shape `(rows,)`: True = price cut.
    """
    return (steps["price"] < CUT_BELOW * steps["reference_price"]).to_numpy()


def _metrics(table: pd.DataFrame, levels: Sequence[float]) -> dict[str, tuple[float, int]]:
    """Value and number of observations of every metric that one window can measure."""
    items = table["item_id"].nunique()
    shape = (items, len(table) // items)
    targets = table["units"].to_numpy(dtype=np.float64).reshape(shape)
    scored = table["scored"].to_numpy(dtype=bool).reshape(shape)
    quantiles = table[[str(level) for level in levels]].to_numpy(dtype=np.float64).reshape(*shape, len(levels))
    scales = table["seasonal_scale"].to_numpy(dtype=np.float64).reshape(shape)[:, 0]
    found: dict[str, tuple[float, int]] = {}
    if np.nansum(np.where(scored, targets, 0.0)) > 0:
        n = int(scored.sum())
        found["wql"] = (compute_wql(targets, quantiles, levels, scored), n)
        found["wape"] = (compute_wape(targets, table["mean"].to_numpy().reshape(shape), scored), n)
        cut = is_price_cut(table).reshape(shape)
        for name, part in (("wql_cut", scored & cut), ("wql_regular", scored & ~cut)):
            if np.nansum(np.where(part, targets, 0.0)) > 0:
                found[name] = (compute_wql(targets, quantiles, levels, part), int(part.sum()))
    if (np.isfinite(scales) & scored.any(axis=1)).any():
        sql = compute_sql(targets, quantiles, levels, scales, scored)
        found["sql"] = (sql.value, sql.items)
        if 0.5 in levels:
            mase = compute_mase(targets, quantiles[..., list(levels).index(0.5)], scales, scored)
            found["mase"] = (mase.value, mase.items)
    if 0.1 in levels and 0.9 in levels and scored.any():
        lower, upper = (quantiles[..., list(levels).index(level)] for level in (0.1, 0.9))
        found["coverage_80"] = (compute_coverage(targets, lower, upper, scored), int(scored.sum()))
    sold_out = table["sold_out"].to_numpy(dtype=bool).reshape(shape)
    if np.nansum(np.where(sold_out, targets, 0.0)) > 0:
        stock = table["inventory"].to_numpy(dtype=np.float64).reshape(shape)
        sales = np.minimum(quantiles, stock[..., None])
        found["wql_sold_out"] = (compute_wql(targets, sales, levels, sold_out), int(sold_out.sum()))
    return found


def _wql_interval(table: pd.DataFrame) -> Interval:
    scored = table[table["scored"].astype(bool)]
    return estimate_wql_interval(
        scored["loss"].to_numpy(),
        scored["units"].to_numpy(),
        scored["product_id"].astype(str).to_numpy(),
        scored["timestamp"].to_numpy(),
    )
