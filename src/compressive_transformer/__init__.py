"""Compressive Transformer: a Transformer that reads streams of any length at constant cost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressive_transformer.errors import UsageError
    from compressive_transformer.interop import load_sonnet
    from compressive_transformer.memory import Memory
    from compressive_transformer.model import CompressiveTransformer, LanguageModel, ModelConfig, Output

_HOMES = {
    "CompressiveTransformer": "model",
    "LanguageModel": "model",
    "Memory": "memory",
    "ModelConfig": "model",
    "Output": "model",
    "UsageError": "errors",
    "load_sonnet": "interop",
}

__all__ = [
    "CompressiveTransformer",
    "LanguageModel",
    "Memory",
    "ModelConfig",
    "Output",
    "UsageError",
    "load_sonnet",
]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command line answers before torch is loaded."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("compressive-transformer")
        except PackageNotFoundError:  # a source tree that was not installed
            return "0+unknown"
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
