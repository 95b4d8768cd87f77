"""The network and its processor: torch and transformers only, siblings only, so that the folder exports as Hub code."""

from .configuration_pricing_fm import MODEL_SIZES, PricingFMConfig
from .modeling_pricing_fm import (
    PricingFMForDemand,
    PricingFMForPolicy,
    PricingFMForPreTraining,
    PricingFMModel,
    PricingFMPreTrainedModel,
)
from .processing_pricing_fm import PricingFMProcessor

__all__ = [
    "MODEL_SIZES",
    "PricingFMConfig",
    "PricingFMForDemand",
    "PricingFMForPolicy",
    "PricingFMForPreTraining",
    "PricingFMModel",
    "PricingFMPreTrainedModel",
    "PricingFMProcessor",
]
