"""Run folders: what a run is and its weights, and under ``state/`` all that exact resume needs."""

from compressive_transformer.checkpoint.run import (
    AGENT,
    CONFIG,
    REFERENCE,
    REFERENCE_FOLDER,
    TOKENIZER,
    WEIGHTS,
    Run,
    check_shapes,
    is_agent_run,
    load_run,
    model_config,
    read_config,
    run_folder,
    run_tokenizer,
    save_config,
    save_weights,
    weight_shapes,
)
from compressive_transformer.checkpoint.store import STATE, Store
from compressive_transformer.checkpoint.tensors import load_tensors, save_tensors, tensor_shapes

__all__ = [
    "AGENT",
    "CONFIG",
    "REFERENCE",
    "REFERENCE_FOLDER",
    "STATE",
    "TOKENIZER",
    "WEIGHTS",
    "Run",
    "Store",
    "check_shapes",
    "is_agent_run",
    "load_run",
    "load_tensors",
    "model_config",
    "read_config",
    "run_folder",
    "run_tokenizer",
    "save_config",
    "save_tensors",
    "save_weights",
    "tensor_shapes",
    "weight_shapes",
]
