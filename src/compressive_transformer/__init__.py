"""Compressive Transformer: a Transformer that reads streams of any length at constant cost."""

from importlib.metadata import PackageNotFoundError, version

from compressive_transformer.errors import UsageError
from compressive_transformer.memory import Memory
from compressive_transformer.model import CompressiveTransformer, LanguageModel, ModelConfig, Output

try:
    __version__ = version("compressive-transformer")
except PackageNotFoundError:  # running from a source tree that was not installed
    __version__ = "0+unknown"

__all__ = [
    "CompressiveTransformer",
    "LanguageModel",
    "Memory",
    "ModelConfig",
    "Output",
    "UsageError",
    "__version__",
]
