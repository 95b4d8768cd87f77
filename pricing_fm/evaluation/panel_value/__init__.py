"""Policies valued off-policy on a real panel's own weeks: value with interval, every doubt, and the launch rule."""

from pricing_fm.evaluation.panel_value.arguments import ValueArguments
from pricing_fm.evaluation.panel_value.costs import Costs
from pricing_fm.evaluation.panel_value.evaluation import PanelValueEvaluation, PanelValueTask, evaluate_on_panel
from pricing_fm.evaluation.panel_value.findings import ManagerFindings, PolicyFindings
from pricing_fm.evaluation.panel_value.proposals import LogLogProposer, NetworkProposer, Proposer
from pricing_fm.evaluation.panel_value.report import write_value_report
from pricing_fm.evaluation.panel_value.tables import build_rows, build_tables
from pricing_fm.evaluation.panel_value.weeks import ValuedWeeks, read_valued_weeks

__all__ = [
    "Costs",
    "LogLogProposer",
    "ManagerFindings",
    "NetworkProposer",
    "PanelValueEvaluation",
    "PanelValueTask",
    "PolicyFindings",
    "Proposer",
    "ValueArguments",
    "ValuedWeeks",
    "build_rows",
    "build_tables",
    "evaluate_on_panel",
    "read_valued_weeks",
    "write_value_report",
]
