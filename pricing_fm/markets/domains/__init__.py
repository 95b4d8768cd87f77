"""Domains of markets: how the truth of each is drawn."""

from pricing_fm.markets.domains.clinic import CLINIC, CLINIC_FAMILIES, ClinicSettings, sample_clinic
from pricing_fm.markets.domains.domain import Domain
from pricing_fm.markets.domains.energy import ENERGY, ENERGY_FAMILIES, EnergySettings, sample_energy
from pricing_fm.markets.domains.fares import FARES, FARES_FAMILIES, FaresSettings, sample_fares
from pricing_fm.markets.domains.loans import LOANS, LOANS_FAMILIES, LoansSettings, sample_loans
from pricing_fm.markets.domains.retail import RETAIL, RETAIL_FAMILIES, RetailSettings, sample_retail
from pricing_fm.markets.domains.ride_hailing import (
    RIDE_HAILING,
    RIDE_HAILING_FAMILIES,
    RideHailingSettings,
    sample_ride_hailing,
)

DOMAINS = {domain.name: domain for domain in (RETAIL, LOANS, ENERGY, FARES, RIDE_HAILING, CLINIC)}

__all__ = [
    "DOMAINS",
    "ENERGY",
    "ENERGY_FAMILIES",
    "LOANS",
    "LOANS_FAMILIES",
    "RETAIL",
    "RETAIL_FAMILIES",
    "Domain",
    "EnergySettings",
    "LoansSettings",
    "RetailSettings",
    "sample_energy",
    "sample_loans",
    "sample_retail",
    "FARES",
    "FARES_FAMILIES",
    "FaresSettings",
    "sample_fares",
    "RIDE_HAILING",
    "RIDE_HAILING_FAMILIES",
    "RideHailingSettings",
    "sample_ride_hailing",
    "CLINIC",
    "CLINIC_FAMILIES",
    "ClinicSettings",
    "sample_clinic",
]
