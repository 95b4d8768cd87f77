"""What a unit costs: as logged, as assumed, or not at all, in which case values are revenue."""

from dataclasses import dataclass

import numpy as np

from pricing_fm.errors import PanelError
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks
from pricing_fm.evaluation.pricing_baselines import Objective


@dataclass(frozen=True)
class Costs:
    """Unit costs of the valued items.

    Attributes:
        unit_costs: Currency, `(N, W)`.
        objective: `margin`, or `revenue` where no cost is known or assumed.
        assumed_share: Of the regular price; None = logged, or none.
        others: Unit costs at other assumed shares.
        note: Where they come from, in words.
    """

    unit_costs: np.ndarray
    objective: Objective
    assumed_share: float | None
    others: dict[float, np.ndarray]
    note: str


def read_costs(weeks: ValuedWeeks, assumed_cost_share: float | None, points: float) -> Costs:
    """Costs of the log, else the assumption.

    Args:
        weeks: The valued weeks.
        assumed_cost_share: Unit cost over the regular price at the first valued period, for items without a cost.
        points: How far the assumption may be off.

    Returns:
        The costs.

    Raises:
        PanelError: If some items have a cost, others none, and nothing is assumed.
    """
    shape = weeks.units.shape
    regular = np.repeat(weeks.regular_prices[:, None], shape[1], axis=1)
    if weeks.costs is None and assumed_cost_share is None:
        note = "The log has no costs and none is assumed (--assumed_cost_share): values are revenue, not margin."
        return Costs(np.zeros(shape), "revenue", None, {}, note)
    logged = np.full(shape, np.nan) if weeks.costs is None else weeks.costs
    missing = ~np.isfinite(logged)
    if missing.any() and assumed_cost_share is None:
        item = str(weeks.item_ids[missing.any(axis=1)][0])
        raise PanelError(f"item {item!r} has no cost while others have; pass --assumed_cost_share or map the cost")
    if not missing.any():
        return Costs(logged, "margin", None, {}, "Unit costs are those of the log.")
    assert assumed_cost_share is not None

    def fill(share: float) -> np.ndarray:
        return np.where(missing, share * regular, logged)

    others = {
        round(share, 4): fill(share)
        for share in (assumed_cost_share - points, assumed_cost_share + points)
        if points > 0.0 and 0.0 <= share < 1.0
    }
    note = (
        f"A unit is assumed to cost {assumed_cost_share:.0%} of the regular price ({missing.any(axis=1).mean():.0%} of"
        " the items have no logged cost). All margins rest on this."
    )
    return Costs(fill(assumed_cost_share), "margin", assumed_cost_share, others, note)
