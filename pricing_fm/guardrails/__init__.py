"""Hard limits on a price, applied in order, with a trail that names the rule that bound."""

from pricing_fm.guardrails.clamp import (
    GuardrailResult,
    GuardrailTable,
    TrailStep,
    apply_guardrails,
    apply_guardrails_to_table,
)
from pricing_fm.guardrails.ladder import admissible_ladder, feasible_prices
from pricing_fm.guardrails.rules import RULES, Guardrails, load_guardrails

__all__ = [
    "RULES",
    "GuardrailResult",
    "GuardrailTable",
    "Guardrails",
    "TrailStep",
    "admissible_ladder",
    "apply_guardrails",
    "apply_guardrails_to_table",
    "feasible_prices",
    "load_guardrails",
]
