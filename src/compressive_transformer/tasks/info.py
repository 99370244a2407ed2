"""What a model is, from its config alone."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressive_transformer.checkpoint import model_config, read_config
from compressive_transformer.data import get_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.formulas import costs
from compressive_transformer.model import ModelConfig
from compressive_transformer.train import TrainConfig


def facts(run: str, recipes: dict[str, Any]) -> dict[str, Any]:
    """Shape, costs and, of a run, its training settings.

    Args:
        run: a run folder or the name of a recipe.
        recipes: the recipes by name.
    """
    if run in recipes and not os.path.exists(run):
        config: TrainConfig = recipes[run]()
        tokenizer = get_tokenizer(config.tokenizer)
        return _facts(run, config.model, tokenizer.vocab_size, tokenizer.unit, asdict(config))
    path = Path(run)
    if not os.path.exists(run):
        raise UsageError(f"{run} is neither a run folder nor a recipe ({', '.join(sorted(recipes))})")
    saved = read_config(path)
    unit = get_tokenizer(saved["tokenizer"]).unit
    return _facts(run, model_config(path, saved), saved["vocab_size"], unit, saved["training"])


def _facts(
    name: str, config: ModelConfig, vocab_size: int, unit: str, training: dict[str, Any]
) -> dict[str, Any]:
    c = costs(config)
    embeddings = 2 * vocab_size * config.dim
    return {
        "name": name,
        "model": asdict(config),
        "vocab_size": vocab_size,
        "unit": unit,
        "parameters": c.parameters + embeddings,
        "compressor_parameters": c.compressor_parameters,
        "embedding_parameters": embeddings,
        "temporal_range": c.temporal_range,
        "attention_per_token": c.attention_per_token,
        "state_bytes_per_row": c.state_bytes,
        "training": {k: v for k, v in training.items() if k != "model"},
    }


def describe(found: dict[str, Any]) -> str:
    """The facts in words."""
    m, unit = found["model"], found["unit"]
    loss = f", learned by {m['compression_loss']} loss" if found["compressor_parameters"] else ""
    rows = [
        ("layers", f"{m['num_layers']} of width {m['dim']}, {m['num_heads']} heads, {m['norm']}-norm"),
        ("segment", f"{m['segment']} {unit}s"),
        ("memory", f"{m['memory']} recent + {m['compressed_memory']} compressed slots a layer"),
        ("compression", f"{m['compressor']} at rate {m['compression_rate']}{loss}"),
        ("parameters", f"{found['parameters']:,}"),
        ("", f"{found['compressor_parameters']:,} compress, {found['embedding_parameters']:,} in embeddings"),
        ("reach", f"{found['temporal_range']:,} {unit}s through memory, over all layers"),
        ("attention", f"{found['attention_per_token']:,} keys per {unit} and head, over all layers"),
        ("state", f"{found['state_bytes_per_row'] / 1024:,.0f} KiB a stream, however long it is"),
    ]
    return "\n".join([found["name"], *(f"  {name:<12} {text}" for name, text in rows)])
