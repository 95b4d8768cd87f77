"""Ceilings of benchmarks/few_shot_curve.py: who is told all but how demand answers, in every domain."""

from __future__ import annotations

import numpy as np

from pricing_fm.evaluation.few_shot_clinics import informed_in_clinics
from pricing_fm.evaluation.few_shot_domains import SHAPES
from pricing_fm.evaluation.few_shot_markets import DecisionTruth, FewShotMarketArguments
from pricing_fm.evaluation.few_shot_particles import informed_by_particles
from pricing_fm.evaluation.few_shot_posterior import informed_prices

# Told what would have been sold at list price in every week, or not (`informed_prices`).
TOLD, KNOWABLE = "ceiling", "knowable"
# Who is told the true demand: nobody has to beat them.
KNOWING = (TOLD, KNOWABLE, "myopic_oracle", "held_oracle")
# Retail families in which demand answers to more than the item's own price of the week.
ANSWERING_TO_MORE = ("stockpiling", "waiting", "rival", "repeated_seasons", "reference_price")


def find_ceilings(
    truth: DecisionTruth, market: FewShotMarketArguments, periods: list[int]
) -> dict[tuple[str, int], np.ndarray]:
    """Prices `(items,)` of who knows all but how demand answers, by name and number of visible periods.

    On a grid where demand answers to the item's own price alone.
    """
    ranges = market.kind.build_settings(SHAPES[market.domain][0], market.stocked_share, market.reference_share)
    if market.domain == "clinic":
        found = informed_in_clinics(truth, periods, ranges)
    elif market.domain in ("loans", "ride_hailing") or market.family in ANSWERING_TO_MORE:
        found = informed_by_particles(truth, periods, ranges)
    else:
        is_shop = market.domain == "retail" and all(log.parameters.shock is not None for log in truth.logs)
        priced = informed_prices(truth, periods, ranges, (True, False) if is_shop else (True,))
        return {(TOLD if is_told else KNOWABLE, number): prices for (is_told, number), prices in priced.items()}
    for number, sizes in found.effective.items():
        low, middle = np.quantile(sizes, [0.1, 0.5])
        print(f"ceiling, {number} periods: effective particles {middle:.0f} ({low:.0f} or more for 90 % of the items)")
    return {(TOLD, number): prices for number, prices in found.prices.items()}
