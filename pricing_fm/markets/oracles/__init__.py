"""Pricing problems with exact answers. Each function takes plain numbers and lists and returns a mapping."""

from pricing_fm.markets.oracles.competition import (
    assortment_prices,
    linear_system_prices,
    logit_duopoly_prices,
    peak_load_prices,
    ramsey_prices,
)
from pricing_fm.markets.oracles.estimation import bandit_value, censored_poisson_rate, censored_poisson_sales
from pricing_fm.markets.oracles.inventory import (
    base_stock,
    gallego_van_ryzin,
    markdown_plan,
    newsvendor,
    reference_price_policy,
    uniform_valuation_dynamic_program,
)
from pricing_fm.markets.oracles.queues import loss_system_prices, priority_waits, queue_tolls
from pricing_fm.markets.oracles.revenue_management import (
    choice_dynamic_program,
    emsr,
    fare_class_dynamic_program,
    littlewood,
    network_bid_prices,
    overbooking_limit,
)
from pricing_fm.markets.oracles.single_price import (
    durable_goods_prices,
    loan_rate,
    market_clearing_price,
    monopoly_price,
    parity_constrained_prices,
    seasonal_clearance,
)

__all__ = [
    "assortment_prices",
    "bandit_value",
    "base_stock",
    "censored_poisson_rate",
    "censored_poisson_sales",
    "choice_dynamic_program",
    "durable_goods_prices",
    "emsr",
    "fare_class_dynamic_program",
    "gallego_van_ryzin",
    "linear_system_prices",
    "littlewood",
    "loan_rate",
    "logit_duopoly_prices",
    "loss_system_prices",
    "market_clearing_price",
    "markdown_plan",
    "monopoly_price",
    "network_bid_prices",
    "newsvendor",
    "overbooking_limit",
    "parity_constrained_prices",
    "peak_load_prices",
    "priority_waits",
    "queue_tolls",
    "ramsey_prices",
    "reference_price_policy",
    "seasonal_clearance",
    "uniform_valuation_dynamic_program",
]
