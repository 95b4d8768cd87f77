"""PricingPolicy: processor, base, adapter and guardrails in one object that answers questions about a panel."""

from pricing_fm.policy.artifacts import CAUTION, LADDER_FILE, LoadedAdapter, load_base, write_ladder
from pricing_fm.policy.policy import PricingPolicy
from pricing_fm.policy.support import CategorySupport, category_support

__all__ = [
    "CAUTION",
    "LADDER_FILE",
    "CategorySupport",
    "LoadedAdapter",
    "PricingPolicy",
    "category_support",
    "load_base",
    "write_ladder",
]
