"""Triton's kernels give what the reference gives, and compile for GPUs that are not here.

Without a GPU they run by Triton's interpreter, see ``tests/conftest.py``; that does not know bfloat16.
"""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from small import generator, small, stream
from torch import Tensor, library

from compressive_transformer import UsageError, ops
from compressive_transformer.nn.attention import RelativeAttention

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES: list[dict[str, int]] = [
    {},
    {"T": 1, "S": 33},
    {"T": 64, "S": 128, "K": 16, "F": 64},
    {"K": 40, "F": 130},
]
"""The first does not fill its tiles, the last is too wide for them."""


class Attention:
    """A call of an attention, with one position table or two."""

    def __init__(
        self, tables: int = 1, *, B: int = 2, H: int = 2, T: int = 70, S: int = 150, K: int = 12, F: int = 10
    ):
        sizes = [(B, H, T, K), (B, H, S, K), (B, H, S, K), (H, K)] + [(H, K, F), (H, K)] * tables
        self.inputs = [stream(*size, seed=seed).to(DEVICE) for seed, size in enumerate(sizes)]
        self.inputs[0] *= K**-0.5
        place, split = torch.arange(T - S, T, device=DEVICE).double(), S // 3 if tables == 2 else 0
        self.places = [place[:split] * 2.5, place[split:]][-tables:]
        self.query_places = torch.arange(T, device=DEVICE).double()
        visible = torch.rand(B, T, S, generator=generator(0)) < 0.6
        visible[:, :-20, :100] = False  # whole tiles
        visible[:, :, -1] = True
        self.visible = visible.to(DEVICE)

    def __call__(self, attention: Any, dtype: torch.dtype, dropout: float = 0.0) -> list[Tensor]:
        """What is attended to, and the gradients of all inputs."""
        inputs = [x.to(dtype).requires_grad_() for x in self.inputs]
        q, k, v, content_bias, *rest = inputs
        exact = torch.promote_types(dtype, torch.float32)
        tables = [
            ops.PositionTable(weight, bias, places.to(exact))
            for weight, bias, places in zip(rest[::2], rest[1::2], self.places, strict=True)
        ]
        place = self.query_places.to(exact)
        attended, _ = attention(q, k, v, content_bias, tables, place, self.visible, dropout)
        slope = stream(*attended.shape, seed=99).to(attended)
        return [x.detach() for x in (attended, *torch.autograd.grad((attended * slope).sum(), inputs))]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tiled_attention_is_the_reference(dtype: torch.dtype, tables: int, sizes: dict[str, int]):
    """Within three times the error of torch's kernels."""
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter takes the bits of bfloat16 for integers")
    case = Attention(tables, **sizes)
    truth, theirs, ours = (
        case(ops.reference, torch.float64),
        case(ops.fused, dtype),
        case(ops.tiled, dtype),
    )
    for x, a, b in zip(truth, theirs, ours, strict=True):
        assert b.dtype == dtype
        assert (b - x).norm() <= 3 * (a - x).norm() + 5e-6 * (1 + x.norm())


def test_what_kernels_cannot_do_is_done():
    case, results = Attention(), []
    for attention in (ops.fused, ops.tiled):
        torch.manual_seed(0)
        results.append(case(attention, torch.float32, dropout=0.5) + case(attention, torch.float64))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("attention", [ops.fused, ops.tiled])
def test_who_sees_nothing_gets_nothing(attention: Any):
    case = Attention()
    case.visible[0, 3] = False
    attended, *gradients = case(attention, torch.float32)
    assert not attended[0, :, 3].any()
    assert not gradients[0][0, :, 3].any()
    assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("attention", [ops.rotated, ops.fused, ops.tiled])
def test_mixed_types(attention: Any):
    """Float32 under autocast, which makes the products in 16 bits."""
    case = Attention()
    with torch.autocast(DEVICE, torch.float16):
        attended, *_ = case(attention, torch.float32)
    assert (attended.double() - case(ops.reference, torch.float64)[0]).norm() < 0.01 * attended.norm()


def test_model_with_tiled_attention_is_the_model(monkeypatch: pytest.MonkeyPatch):
    """As on a GPU: outputs, memory and what is learnt."""
    results = []
    for attention in (ops.rotated, ops.tiled):
        monkeypatch.setattr(RelativeAttention, "_attention", lambda *inputs, f=attention: f)
        model = small(dtype=torch.float32).to(DEVICE)
        output = model(stream(2, 20, 4).float().to(DEVICE))
        (output.features.square().sum() + output.compression_loss).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([output.features, *output.memory.tensors().values(), *gradients])
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(y, x, rtol=1e-4, atol=1e-4)


def test_the_kernels_are_operators_of_torch():
    """So that they can be compiled around, and computed again."""
    from compressive_transformer.ops import tiles

    sizes = [(1, 2, 5, 4), (1, 2, 5, 6), (1, 2, 9, 4), (9, 6), (1, 2, 9, 4)]
    inputs = [stream(*size, seed=seed).float().to(DEVICE) for seed, size in enumerate(sizes)]
    for x in inputs[:3] + inputs[4:]:
        x.requires_grad_()
    found = library.opcheck(tiles.attend, (*inputs, torch.ones(1, 5, 9, dtype=torch.bool, device=DEVICE)))
    assert set(found.values()) == {"SUCCESS"}


def test_the_kernels_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COMPRESSIVE_ATTENTION", raising=False)
    assert small().layers[0].attention.on_gpu is ops.fused
    monkeypatch.setenv("COMPRESSIVE_ATTENTION", "triton")
    assert small().layers[0].attention.on_gpu is ops.tiled
    monkeypatch.setenv("COMPRESSIVE_ATTENTION", "flash")
    with pytest.raises(UsageError, match=r"^COMPRESSIVE_ATTENTION=flash is not known; use torch or triton$"):
        small()


COMPILE = """
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from compressive_transformer.ops import tiles

capability, name, precision, K, F = int(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:])
torch.backends.cuda.matmul.fp32_precision = precision
cut = tiles.Tiles(K, F, getattr(torch, name))
kind = {"bfloat16": "*bf16", "float32": "*fp32"}[name]
for kernel in (tiles.forward_kernel, tiles.backward_queries_kernel, tiles.backward_keys_kernel):
    kinds = {"H": "i32", "T": "i32", "S": "i32", "visible_at": "*i1", "norm_at": "*fp32", "mean_at": "*fp32"}
    signature = {n: "constexpr" if n in cut.settings else kinds.get(n, kind) for n in kernel.arg_names}
    names = [(i, n) for i, n in enumerate(kernel.arg_names) if n.endswith("_at") or n in "TS"]
    aligned = {(i,): [["tt.divisibility", 16]] for i, _ in names}
    source = ASTSource(kernel, signature, cut.settings, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=cut.options)
    print(kernel.__name__, len(made.asm["cubin"]), made.metadata.shared)
"""


ON_CHIP = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""KiB that a program may have of a chip, by compute capability (CUDA C++ Programming Guide)."""


@pytest.mark.parametrize(
    ("capability", "dtype", "precision", "K", "F"),
    [
        (90, "bfloat16", "ieee", 64, 64),
        *(
            pytest.param(capability, dtype, precision, K, F, marks=pytest.mark.slow)
            for capability in ON_CHIP
            for dtype, precision in (("bfloat16", "ieee"), ("float32", "ieee"), ("float32", "tf32"))
            for K, F in ((32, 64), (128, 128))
        ),
    ],
)
def test_kernels_compile_for_gpus(capability: int, dtype: str, precision: str, K: int, F: int):
    """To machine code, and within the memory that a program may have."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, *map(str, (capability, dtype, precision, K, F))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 3
    assert all(int(size) > 0 and int(shared) <= ON_CHIP[capability] * 1024 for _, size, shared in rows), (
        done.stdout
    )
