"""The model: features or tokens in, features or logits out, memory in, memory out."""

from compressive_transformer.model.config import ModelConfig
from compressive_transformer.model.core import CompressiveTransformer, Output
from compressive_transformer.model.decode import Decoder, FeatureDecoder
from compressive_transformer.model.language import LanguageModel

__all__ = ["CompressiveTransformer", "Decoder", "FeatureDecoder", "LanguageModel", "ModelConfig", "Output"]
