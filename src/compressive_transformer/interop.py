"""Checkpoints of the authors' code: the cores CompressiveTransformer and TransformerXL of Sonnet v1."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch

from compressive_transformer.errors import UsageError
from compressive_transformer.model import CompressiveTransformer, ModelConfig
from compressive_transformer.nn.layer import NormPlacement

ROOTS = ("compressive_transformer", "transformer_xl")


def load_sonnet(
    variables: Mapping[str, np.ndarray],
    *,
    segment: int,
    memory: int,
    compressed_memory: int = 0,
    norm: NormPlacement = "pre",
    compressor: str | None = None,
    compression_rate: int | None = None,
) -> CompressiveTransformer:
    """Makes a faithful core from the variables of the authors' code, equal to it number by number.

    Widths, layers, heads, convolutions and decoders are read from the names and shapes. The names are
    those in a checkpoint (``tf.train.load_checkpoint``), such as
    ``compressive_transformer/transformer_tower/layer_0/multihead_attention/query/linear/w``; they may
    stand behind a scope of the user's own.

    Args:
        variables: array of each variable; others than the core's are refused.
        segment: chunk length.
        memory: episodic memory size.
        compressed_memory: compressed memory size.
        norm: ``pre`` for the authors' layer norm 'input' (their default), ``post`` for 'output'.
        compressor: ``mean`` or ``max`` for a core that pools, which has no variables of its own.
        compression_rate: needed for pooling; else read from the convolution.

    Returns:
        A core in the dtype of the variables that maps features of their input width.

    Raises:
        UsageError: variables are missing or left over, or need an option that this library does not have (a
            key size unlike the value size, overlapping kernels, norms on both sides, an output projection).
    """
    found = _strip_scope(variables)
    read = _Reader(found)
    tower = "transformer_tower"
    num_layers = 1 + max(int(m[1]) for name in found if (m := re.match(rf"{tower}/layer_(\d+)/", name)))
    first = f"{tower}/layer_0/multihead_attention"
    _, num_heads, _, head_dim = read.shape(f"{first}/r_w_bias")
    input_dim, dim = read.shape("mlp/linear_0/w")
    if num_heads * head_dim != dim or read.shape(f"{first}/value/linear/w") != (dim, dim):
        raise UsageError(
            f"key size {head_dim} x {num_heads} heads is not the model width {dim}; such cores can't be "
            "loaded"
        )
    dilations = _dilations(found)
    if "conv_compressor/conv_1d/w" in found:
        taps = read.shape("conv_compressor/conv_1d/w")[0]
        if compression_rate not in (None, taps):
            raise UsageError(
                f"the convolution has {taps} taps at rate {compression_rate}; overlapping kernels can't "
                "be loaded"
            )
        compression_rate, compressor = taps, "dilated" if dilations else "conv"
    if compressed_memory and (compression_rate is None or compressor is None):
        raise UsageError(
            "no convolution among the variables: give compressor ('mean' or 'max') and compression_rate"
        )
    auto_encoding = "conv_compressor/conv_1d_transpose/w" in found
    config = ModelConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        segment=segment,
        memory=memory,
        mlp_dim=read.shape(f"{tower}/layer_0/mlp/linear_0/w")[1],
        compressed_memory=compressed_memory,
        compression_rate=compression_rate or 1,
        compressor=compressor or "conv",  # pyright: ignore[reportArgumentType]
        compression_loss="auto-encoding" if auto_encoding else "attention",
        dilations=dilations or (1,),
        norm=norm,
        positions="separate" if compressed_memory else "continued",
        final_norm=False,
        activation="relu",
        qk_norm=False,
        faithful=True,
    )
    model = CompressiveTransformer(config, input_dim=input_dim).to(read.dtype(f"{first}/query/linear/w"))
    state = {"input.weight": read.linear("mlp/linear_0/w"), "input.bias": read("mlp/linear_0/b")}
    for i in range(num_layers):
        state |= {f"layers.{i}.{name}": x for name, x in _layer(read, f"{tower}/layer_{i}", config).items()}
        if compressed_memory and compressor in ("conv", "dilated"):
            scope = f"conv_compressor{f'_{i}' if i else ''}"
            state |= {f"layers.{i}.{name}": x for name, x in _compressor(read, scope, config).items()}
    read.refuse_leftovers()
    model.load_state_dict(state)
    return model


class _Reader:
    """Reads variables as tensors, and knows which were never asked for."""

    def __init__(self, variables: Mapping[str, np.ndarray]):
        self.variables, self.used = variables, set()

    def _array(self, name: str) -> np.ndarray:
        if name not in self.variables:
            raise UsageError(f"variable {name} is missing; this is not a whole core of the authors' code")
        return np.asarray(self.variables[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._array(name).shape

    def dtype(self, name: str) -> torch.dtype:
        return torch.as_tensor(self._array(name)).dtype

    def __call__(self, name: str) -> torch.Tensor:
        self.used.add(name)
        return torch.tensor(self._array(name))

    def linear(self, name: str) -> torch.Tensor:
        """Sonnet keeps [in, out], torch [out, in]."""
        return self(name).T

    def refuse_leftovers(self) -> None:
        if left := sorted(set(self.variables) - self.used):
            raise UsageError(f"{len(left)} variables belong to options that can't be loaded, first {left[0]}")


def _strip_scope(variables: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names from behind the core's own scope."""
    pattern = re.compile(rf"^(?:.*/)?(?:{'|'.join(ROOTS)})/")
    found = {
        pattern.sub("", name.removesuffix(":0")): x for name, x in variables.items() if pattern.match(name)
    }
    if not any(name.startswith("transformer_tower/layer_") for name in found):
        raise UsageError(
            f"no variable stands under one of {', '.join(ROOTS)}; give those of the authors' core"
        )
    return found


def _dilations(names: Mapping[str, np.ndarray]) -> tuple[int, ...]:
    rates = (re.match(r"conv_compressor/conv_rate_(\d+)/w", name) for name in names)
    return tuple(sorted(int(m[1]) for m in rates if m))


def _layer(read: _Reader, scope: str, config: ModelConfig) -> dict[str, torch.Tensor]:
    a, norms = f"{scope}/multihead_attention", ("residual_dropout_wrapper", "residual_dropout_wrapper_1")
    heads = (config.num_heads, config.dim // config.num_heads)
    tables = (
        ["", "_0"] if config.positions == "separate" else [""]
    )  # "" is memory and segment, "_0" compressed
    state = {f"attention.{p}.weight": read.linear(f"{a}/{p}/linear/w") for p in ("query", "key", "value")}
    state["attention.output.weight"] = read.linear(f"{a}/linear/w")
    state["attention.output.bias"] = read(f"{a}/linear/b")
    state["attention.content_bias"] = read(f"{a}/r_w_bias").view(heads)
    state["attention.position_bias"] = torch.stack([read(f"{a}/r_r_bias{t}").view(heads) for t in tables])
    for i, table in enumerate(tables):
        state[f"attention.position_keys.{i}.weight"] = read.linear(f"{a}/relative_keys{table}/linear/w")
    for ours, theirs in zip(("attention_norm", "feed_forward_norm"), norms, strict=True):
        state[f"{ours}.weight"] = read(f"{scope}/{theirs}/layer_norm/gamma")
        state[f"{ours}.bias"] = read(f"{scope}/{theirs}/layer_norm/beta")
    for ours, theirs in (("up", "linear_0"), ("down", "linear_1")):
        state[f"feed_forward.{ours}.weight"] = read.linear(f"{scope}/mlp/{theirs}/w")
        state[f"feed_forward.{ours}.bias"] = read(f"{scope}/mlp/{theirs}/b")
    return state


def _compressor(read: _Reader, scope: str, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Kernels [tap, in, out] become linear maps of the taps laid end to end."""

    def kernel(name: str) -> torch.Tensor:
        return read(f"{scope}/{name}/w").permute(2, 0, 1).flatten(1)

    state = {"compressor.kernel.weight": kernel("conv_1d")}
    if config.compressor == "dilated":
        for i, dilation in enumerate(config.dilations):
            state[f"compressor.taps.{i}.weight"] = kernel(f"conv_rate_{dilation}")
    if config.compression_loss == "auto-encoding":
        decoder = read(f"{scope}/conv_1d_transpose/w")[0]  # [tap, out, in]
        state["auto_encoding.decoder.weight"] = decoder.flatten(0, 1)
    return state
