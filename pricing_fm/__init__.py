"""pricing_fm: a foundation model for pricing. Importing it registers the Auto classes and the Gymnasium environments."""

from transformers import AutoConfig, AutoModel

from pricing_fm.errors import ArtifactError, GuardrailError, PanelError, PanelWarning, SupportError
from pricing_fm.models import PricingFMConfig, PricingFMModel

__version__ = "0.1.0"

AutoConfig.register(PricingFMConfig.model_type, PricingFMConfig, exist_ok=True)
AutoModel.register(PricingFMConfig, PricingFMModel, exist_ok=True)

__all__ = [
    "ArtifactError",
    "GuardrailError",
    "PanelError",
    "PanelWarning",
    "SupportError",
    "__version__",
]
