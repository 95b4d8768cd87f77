"""Domains of markets: how the truth of each is drawn."""

from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.domains.retail import RETAIL, RETAIL_FAMILIES, RetailSettings, sample_retail

DOMAINS = {domain.name: domain for domain in (RETAIL,)}

__all__ = ["DOMAINS", "RETAIL", "RETAIL_FAMILIES", "Domain", "RetailSettings", "sample_retail"]
