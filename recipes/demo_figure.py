"""The demo in one picture: what the model believes of demand beside the truth, and what its prices earn."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pricing_fm.evaluation.figures import BLUE, GREY, INK, ORANGE, SKY
from pricing_fm.markets import SimulatedLog, compute_outcome
from recipes.demo_tables import WORDS

SHOWN_ITEMS = 3
POLICIES = ("last_price", "log_log_elasticity", "base_plan", "adapter_structured", "adapter_in_rules")


def draw_summary(
    curves: pd.DataFrame,
    recommendations: pd.DataFrame,
    prices: pd.DataFrame,
    log: SimulatedLog,
) -> Figure:
    """Demand curves of the items that sell most, and the share of the gap that each way of pricing closes.

    Args:
        curves (`pd.DataFrame`): Answer of `demand_curve` for all items of the market.
        recommendations (`pd.DataFrame`): Answer of `recommend`.
        prices (`pd.DataFrame`): `PricingEvaluation.items`.
        log (`SimulatedLog`): The market, which knows the true demand.

    Returns:
        `Figure`.
    """
    figure = Figure(figsize=(11.0, 3.3), layout="constrained")
    panes = figure.subplots(1, SHOWN_ITEMS + 1, gridspec_kw={"width_ratios": [1.0] * SHOWN_ITEMS + [1.7]})
    totals = curves.groupby(["item_id", "price_multiplier"]).agg(
        price=("price", "mean"), mean=("mean", "mean"), lower=("0.1", "mean"), upper=("0.9", "mean")
    )
    truth = true_demand(log, totals["price"].unstack())
    best_sellers = totals["mean"].groupby("item_id").mean().nlargest(SHOWN_ITEMS).index
    shown = recommendations.set_index("item_id")
    for axes, item in zip(panes, best_sellers):
        draw_item(axes, totals.loc[item], truth.loc[item], shown.loc[item])
        axes.set_title(item.split("|")[0].rsplit("-", 1)[-1], fontsize=9, loc="left")
    panes[0].set_ylabel("units a week", fontsize=9)
    panes[1].set_xlabel("price", fontsize=9)
    draw_gaps(panes[-1], prices)
    handles, labels = panes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def true_demand(log: SimulatedLog, prices: pd.DataFrame) -> pd.DataFrame:
    """Mean weekly units that customers would want at each price (items x multipliers)."""
    items = log.items["item_id"]
    weeks = 8
    columns = {
        multiplier: compute_outcome(log, prices[multiplier].reindex(items).to_numpy(), weeks, num_rollouts=16)
        for multiplier in prices
    }
    return pd.DataFrame({key: outcome.demand.mean(axis=1) for key, outcome in columns.items()}, index=items)


def draw_item(axes: Axes, curve: pd.DataFrame, truth: pd.Series, row: pd.Series) -> None:
    """One item: the model's curve with its band, the true curve, the price now and the price proposed."""
    axes.fill_between(
        curve["price"], curve["lower"], curve["upper"], color=SKY, alpha=0.3, linewidth=0, label="80 % band"
    )
    axes.plot(curve["price"], curve["mean"], color=BLUE, linewidth=1.8, label="pricing_fm")
    axes.plot(curve["price"], truth.to_numpy(), color=INK, linewidth=1.3, linestyle=(0, (4, 2)), label="truth")
    axes.axvline(row["current_price"], color=GREY, linewidth=1.2, label="price now")
    axes.axvline(row["price"], color=ORANGE, linewidth=1.6, label="recommended")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    tidy(axes)


def draw_gaps(axes: Axes, prices: pd.DataFrame) -> None:
    """Share of the gap between the manager and the best prices."""
    totals = prices.groupby("policy")["value"].sum()
    shares = (totals - totals["manager"]) / (totals["oracle"] - totals["manager"])
    order = sorted(POLICIES, key=lambda name: shares[name])
    ours = ["base" in WORDS[name] for name in order]
    axes.barh(range(len(order)), [shares[name] for name in order], color=np.where(ours, BLUE, GREY), height=0.62)
    for place, name in enumerate(order):
        axes.annotate(
            f"{shares[name]:.0%}", (max(shares[name], 0.0), place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [WORDS[name] for name in order], fontsize=8)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlim(min(0.0, float(shares[list(POLICIES)].min())) - 0.05, 1.15)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("0 % = manager, 100 % = best", fontsize=9)
    tidy(axes)


def tidy(axes: Axes) -> None:
    """No frame, small numbers."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
