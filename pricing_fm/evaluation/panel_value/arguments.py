"""What can be chosen about valuing policies on a panel's own weeks."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Supply = Literal["follows_sales", "as_logged"]


@dataclass(frozen=True)
class ValueArguments:
    """How policies are valued off-policy on a panel.

    Args:
        off_policy (`bool`): Whether to value prices instead of measuring forecasts.
        history_periods (`int`): Periods before the first origin from which the manager's habits are read.
        price_ladder_step (`float`): Log distance of two rungs: prices closer than half of it count as the same price.
        propensity_floor (`float`): What the manager does less often than this counts as not supported, in (0, 1).
        price_persistence (`float`): Weight of the old remembered price in the new one, per period, in [0, 1).
        cost_points (`float`): How far the assumed cost share may be off, share of the price.
        value_segment (`str`, *optional*): Column of the panel that says for whom prices change; text, or a number that
            is cut into thirds. Default: `segment` where the panel has one.
        least_recorded (`float`): Share of the valued periods in which an item must be recorded to be valued.
        value_supply (`str`): `follows_sales`: what a policy sells more or less than the log is ordered more or less, as
            by whoever fills stock up; `as_logged`: deliveries come as they came, whatever is sold.
        value_lead_time (`int`): Periods from such an order to the one after which it arrives.
        value_draws (`int`): Simulated histories per item, for risk and, with stock, for the value.
        value_replicates (`int`): Bootstrap replicates of every interval.
        launch_margin (`float`): Gain that makes a launch worth its trouble, share of the manager's value.
        carry_over_periods (`int`): Periods for which prices before a change still matter, in an experiment.
    """

    off_policy: bool = field(
        default=False, metadata={"help": "value prices on the panel's own weeks instead of measuring forecasts"}
    )
    history_periods: int = field(
        default=52, metadata={"help": "periods before the first origin that show the manager's habits"}
    )
    price_ladder_step: float = field(
        default=0.1, metadata={"help": "log distance of two rungs; prices within half of it count as one price"}
    )
    propensity_floor: float = field(
        default=0.01, metadata={"help": "what the manager does less often than this is not supported"}
    )
    price_persistence: float = field(
        default=0.7, metadata={"help": "weight of the old remembered price in the new one, per period"}
    )
    cost_points: float = field(
        default=0.1, metadata={"help": "how far the assumed cost share may be off, as a share of the price"}
    )
    value_segment: str | None = field(
        default=None, metadata={"help": "column that says for whom prices change; a number is cut into thirds"}
    )
    least_recorded: float = field(
        default=0.8, metadata={"help": "share of the valued periods in which an item must be recorded"}
    )
    value_supply: Supply = field(
        default="follows_sales",
        metadata={"help": "deliveries of a policy: moved by what it sells beyond the log, or as they came (as_logged)"},
    )
    value_lead_time: int = field(
        default=1, metadata={"help": "periods from an order to the one after which it arrives, with follows_sales"}
    )
    value_draws: int = field(default=16, metadata={"help": "simulated histories per item"})
    value_replicates: int = field(default=1000, metadata={"help": "bootstrap replicates of every interval"})
    launch_margin: float = field(
        default=0.02, metadata={"help": "gain that makes a launch worth its trouble, share of the manager's value"}
    )
    carry_over_periods: int = field(
        default=2, metadata={"help": "periods for which earlier prices still matter, in an experiment"}
    )

    def __post_init__(self) -> None:
        if self.history_periods < 2 or self.value_draws < 2 or self.value_replicates < 100:
            raise ValueError(
                f"--history_periods is {self.history_periods}, --value_draws {self.value_draws} and"
                f" --value_replicates {self.value_replicates}; expected at least 2, 2 and 100"
            )
        if self.value_supply not in get_args(Supply) or self.value_lead_time < 0:
            raise ValueError(
                f"--value_supply is {self.value_supply!r} and --value_lead_time {self.value_lead_time}; expected one of"
                f" {', '.join(get_args(Supply))}, and 0 or more"
            )
        for name in ("price_ladder_step", "propensity_floor", "least_recorded"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must lie in (0, 1]")
        if not (0.0 <= self.price_persistence < 1.0 and 0.0 <= self.cost_points < 1.0):
            raise ValueError(
                f"--price_persistence is {self.price_persistence} and --cost_points {self.cost_points}; expected [0, 1)"
            )
        if not self.launch_margin > 0.0 or self.carry_over_periods < 0:
            raise ValueError(
                f"--launch_margin is {self.launch_margin} and --carry_over_periods {self.carry_over_periods}; expected"
                " above 0 (no log shows a difference of 0), and 0 or more"
            )
