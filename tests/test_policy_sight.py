"""A base that never saw a price may forecast, and nothing else."""

import pytest

from pricing_fm import PricingPolicy, SupportError
from pricing_fm.models import PricingFMForPolicy, PricingFMProcessor


@pytest.mark.parametrize("covariates", ["flags", "none"])
def test_a_base_that_never_saw_a_price_forecasts_but_recommends_nothing(tiny_config, tiny_panel, covariates):
    processor = PricingFMProcessor(
        context_length=tiny_config.context_length,
        covariates=covariates,
        num_static_buckets=tiny_config.num_static_buckets,
        num_response_members=tiny_config.num_response_members,
    )
    policy = PricingPolicy(PricingFMForPolicy(tiny_config), processor)
    assert len(policy.forecast(tiny_panel, prediction_length=2)) == 2 * len(tiny_panel.item_ids)
    with pytest.raises(SupportError, match="never saw a price"):
        policy.recommend(tiny_panel)
    with pytest.raises(SupportError, match="never saw a price"):
        policy.demand_curve(tiny_panel)
