"""What a model is, from its config alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from compressive_transformer.checkpoint import CONFIG, model_config, read_config, run_folder, run_tokenizer
from compressive_transformer.data import get_tokenizer
from compressive_transformer.errors import UsageError
from compressive_transformer.formulas import costs, vocabulary_parameters
from compressive_transformer.model import ModelConfig
from compressive_transformer.tasks.resume import saved_config
from compressive_transformer.train import TrainConfig
from compressive_transformer.train.scaling import scaling


def facts(
    run: str,
    recipes: dict[str, Any],
    vocabularies: Mapping[str, int],
    *,
    processes: int | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Shape, costs and, of a run, its training settings.

    Args:
        run: a run folder or the name of a recipe.
        recipes: the recipes by name.
        vocabularies: tokens of those recipes whose tokenizer may yet have to be made.
        processes: also what a training step costs each of so many.
        changes: settings that are others for these.
    """
    if run in recipes and not os.path.exists(os.path.join(run, CONFIG)):  # data may have its name
        config: TrainConfig = recipes[run]()
        if run in vocabularies and not os.path.exists(config.tokenizer):
            vocab_size, unit = vocabularies[run], "token"
        else:
            tokenizer = get_tokenizer(config.tokenizer)
            vocab_size, unit = tokenizer.vocab_size, tokenizer.unit
        found = _facts(run, config.model, vocab_size, unit, asdict(config))
        return found | _plan(config, vocab_size, processes, changes)
    path = run_folder(run)
    if not os.path.exists(path):
        raise UsageError(f"{run} is neither a run folder nor a recipe ({', '.join(sorted(recipes))})")
    saved = read_config(path)
    unit = run_tokenizer(path, saved).unit
    found = _facts(run, model_config(path, saved), saved["vocab_size"], unit, saved["training"])
    if processes is None:  # a run of an older version can be described, though not planned with
        return found
    return found | _plan(saved_config(path), saved["vocab_size"], processes, changes)


def _plan(
    config: TrainConfig, vocab_size: int, processes: int | None, changes: Mapping[str, Any] | None
) -> dict[str, Any]:
    if processes is None:
        return {}
    config = replace(config, **changes or {})
    found = scaling(config, vocab_size=vocab_size, processes=processes)
    settings = {"processes": processes, "parallel": config.parallel, "lanes": config.lanes}
    totals = {"memory_total": found.memory.total, "sent_total": found.sent.total}
    return {"plan": settings | asdict(found) | totals}


def _facts(
    name: str, config: ModelConfig, vocab_size: int, unit: str, training: dict[str, Any]
) -> dict[str, Any]:
    c = costs(config)
    embeddings = vocabulary_parameters(config, vocab_size)
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
    if m.get("core", "compressive") == "wavenet":
        rows = [
            ("WaveNet", f"{m['num_layers']} gated convolutions of width {m['dim']}"),
            ("segment", f"{m['segment']} {unit}s"),
            ("dilations", f"{', '.join(map(str, m['memory']))}"),
        ]
    else:
        rows = [
            ("layers", f"{m['num_layers']} of width {m['dim']}, {m['num_heads']} heads, {m['norm']}-norm"),
            ("segment", f"{m['segment']} {unit}s"),
            ("memory", f"{m['memory']} recent + {m['compressed_memory']} compressed slots a layer"),
            ("compression", f"{m['compressor']} at rate {m['compression_rate']}{loss}"),
        ]
    rows += [
        ("parameters", f"{found['parameters']:,}"),
        ("", f"{found['compressor_parameters']:,} compress, {found['embedding_parameters']:,} in embeddings"),
        ("reach", f"{found['temporal_range']:,} {unit}s through memory, over all layers"),
        ("attention", f"{found['attention_per_token']:,} keys per {unit} and head, over all layers"),
        ("state", f"{found['state_bytes_per_row'] / 1024:,.0f} KiB a stream, however long it is"),
    ]
    if "plan" in found:
        rows += _describe_plan(found["plan"])
    return "\n".join([found["name"], *(f"  {name:<12} {text}" for name, text in rows)])


def _describe_plan(p: dict[str, Any]) -> list[tuple[str, str]]:
    """A training step, process by process."""

    def parts(which: str) -> str:
        named = sorted(p[which].items(), key=lambda item: -item[1])
        return ", ".join(f"{size_of(n)} {name}" for name, n in named if n) or "nothing"

    saved = p["checkpoint"]
    return [
        ("processes", f"{p['processes']:,} by {p['parallel']}, {p['lanes'] // p['processes']:,} lanes each"),
        ("memory each", f"tensors of at most {size_of(p['memory_total'])}"),
        ("", parts("memory")),
        ("sent each", f"{size_of(p['sent_total'])} a step"),
        ("", parts("sent")),
        ("checkpoint", f"{size_of(saved['whole'])}, and {size_of(saved['weights'])} model.safetensors"),
    ]


def size_of(count: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"
