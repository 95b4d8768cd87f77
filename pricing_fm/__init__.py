"""pricing_fm: a foundation model for pricing. Importing it registers Auto classes and Gymnasium environments."""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from pricing_fm import markets
from pricing_fm.errors import ArtifactError, GuardrailError, PanelError, PanelWarning, SupportError
from pricing_fm.markets import oracles
from pricing_fm.models import PricingFMConfig, PricingFMModel, PricingFMProcessor
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import PricingPolicy

__version__ = "0.1.0"

AutoConfig.register(PricingFMConfig.model_type, PricingFMConfig, exist_ok=True)
AutoModel.register(PricingFMConfig, PricingFMModel, exist_ok=True)
AutoFeatureExtractor.register(PricingFMConfig, PricingFMProcessor, exist_ok=True)
markets.register_environments()

__all__ = [
    "ArtifactError",
    "GuardrailError",
    "Panel",
    "PanelError",
    "PanelWarning",
    "PricingPolicy",
    "SupportError",
    "__version__",
    "load_panel",
    "markets",
    "oracles",
]
