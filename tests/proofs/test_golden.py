"""Our core equals the authors' own code, number by number (see golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from compressive_transformer import CompressiveTransformer, Memory, UsageError
from compressive_transformer.interop import load_sonnet

GOLDEN = Path(__file__).parent / "golden"
NAMES = ["conv_mha", "conv_ae", "pool_mean", "pool_max", "dilated_mha", "txl", "txl_post"]
COMPRESSIVE = [name for name in NAMES if not name.startswith("txl")]
POOLING = {"AVG": "mean", "MAX": "max"}


class Golden:
    def __init__(self, name: str):
        self.arrays = dict(np.load(GOLDEN / f"{name}.npz"))
        self.meta = json.loads(str(self.arrays["meta"]))
        self.config = self.meta["config"]
        self.segment = self.config["grad_segment"]

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): x for k, x in self.arrays.items() if k.startswith(prefix)}

    def tensor(self, key: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
        return torch.tensor(self.arrays[key], dtype=dtype)

    def core(self, variables: dict[str, np.ndarray]) -> CompressiveTransformer:
        c = self.config
        pooling = c["compressor_args"].get("pooling")
        return load_sonnet(
            variables,
            segment=c["segment"],
            memory=c["episodic_memory"],
            compressed_memory=c["compressed_memory"],
            norm="pre" if c["layer_norm"] == "input" else "post",
            compressor=pooling and POOLING[pooling],
            compression_rate=c["compression_rate"] if pooling else None,
        )

    def model(self, dtype: torch.dtype = torch.float64) -> CompressiveTransformer:
        return self.core(self.group("var/")).to(dtype)

    def gradients(self, prefix: str) -> dict[str, torch.Tensor]:
        """Their gradients under our names: the loader is linear, so it maps gradients as it maps weights."""
        found = self.group(prefix)
        filled = {k: found.get(k, np.zeros_like(x)) for k, x in self.group("var/").items()}
        return {k: p.detach().double() for k, p in self.core(filled).named_parameters()}

    def memory_before(self, model: CompressiveTransformer, segment: int) -> Memory:
        with torch.no_grad():
            x = self.tensor("x")[:segment].transpose(0, 1).flatten(1, 2)
            return model(x).memory


@pytest.fixture(params=NAMES)
def golden(request) -> Golden:
    return Golden(request.param)


def assert_gradients(
    model: CompressiveTransformer, expected: dict[str, torch.Tensor], but: tuple[str, ...] = ()
):
    for name, parameter in model.named_parameters():
        got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        want = torch.zeros_like(got) if name.endswith(but) else expected[name]
        scale = want.abs().max().clamp(min=1e-12)
        assert (got - want).abs().max() / scale < 1e-5, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_outputs_memories_and_losses_of_all_segments(golden, dtype, tolerance):
    model, memory = golden.model(dtype), None
    per_layer = golden.arrays.get("loss_per_layer")
    for t, x in enumerate(golden.tensor("x", dtype)):
        with torch.no_grad():
            output = model(x, memory)
        memory = output.memory
        torch.testing.assert_close(output.features, golden.tensor("out", dtype)[t], atol=tolerance, rtol=0)
        # The states were stored in float32, hence the wider tolerance.
        for i, layer in enumerate(memory.layers):
            for ours, key in [(layer.recent, "mem"), (layer.compressed, "cmem")]:
                if key in golden.arrays:
                    torch.testing.assert_close(
                        ours, golden.tensor(key, dtype)[t, i], atol=max(tolerance, 1e-6), rtol=0
                    )
        if per_layer is not None:
            loss = torch.tensor(per_layer[t], dtype=dtype)
            torch.testing.assert_close(output.compression_losses, loss, atol=tolerance, rtol=0)
            torch.testing.assert_close(
                output.compression_loss, golden.tensor("loss", dtype)[t], atol=tolerance, rtol=0
            )


def test_one_call_over_all_segments_is_the_same(golden):
    x = golden.tensor("x").transpose(0, 1).flatten(1, 2)
    with torch.no_grad():
        out = golden.model()(x).features
    expected = golden.tensor("out").transpose(0, 1).flatten(1, 2)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=0)


def test_gradients_of_the_output(golden):
    model = golden.model()
    memory = golden.memory_before(model, golden.segment)
    model(golden.tensor("x")[golden.segment], memory).features.square().sum().backward()
    assert_gradients(model, golden.gradients("grad_out/"))


@pytest.mark.parametrize("name", ["conv_mha", "conv_ae", "dilated_mha"])
def test_gradients_of_the_compression_loss(name):
    """Equal to theirs but for keys and values: the authors' stop-gradient on these does not act."""
    golden = Golden(name)
    model = golden.model()
    memory = golden.memory_before(model, golden.segment)
    model(golden.tensor("x")[golden.segment], memory).compression_loss.backward()
    assert_gradients(
        model, golden.gradients("grad_loss/"), but=("attention.key.weight", "attention.value.weight")
    )


def test_gradients_through_two_segments():
    golden = Golden("conv_mha")
    model, g = golden.model(), golden.segment
    memory = golden.memory_before(model, g - 1)
    x = golden.tensor("x")[g - 1 : g + 1].transpose(0, 1).flatten(1, 2)
    features = model(x, memory).features[:, golden.config["segment"] :]
    features.square().sum().backward()
    expected = golden.gradients("grad_bptt2/")
    assert expected["layers.0.compressor.kernel.weight"].abs().max() > 0
    assert_gradients(model, expected)


@pytest.mark.parametrize("name", COMPRESSIVE)
def test_attention_by_bucket(name):
    """Mean attention of each slot, summed in six buckets of each tier, is the authors' statistic."""
    golden = Golden(name)
    model, c, memory = golden.model(), golden.config, None
    keys = golden.meta["stats_keys"]
    tiers = [("cm", c["compressed_memory"]), ("em", c["episodic_memory"]), ("seq", c["segment"])]
    for t, x in enumerate(golden.tensor("x")):
        with torch.no_grad():
            output = model(x, memory, with_attention=True)
        memory = output.memory
        assert output.attention is not None
        for layer, attention in enumerate(output.attention):
            start = 0
            for tier, size in tiers:
                for bucket in range(6):
                    stop = start + (size // 6 if bucket < 5 else size - 5 * (size // 6))
                    expected = golden.arrays["stats"][t, keys.index(f"{tier}_p{bucket}_l{layer:02d}")]
                    assert attention[start:stop].sum().item() == pytest.approx(expected, abs=1e-10)
                    start = stop


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v | {"compressive_transformer/transformer_tower/linear/w": np.zeros((24, 7))}, "options"),
        (lambda v: {k: x for k, x in v.items() if "layer_1/mlp/linear_1/b" not in k}, "missing"),
        (lambda v: {"w": np.zeros(3)}, "no variable stands under"),
    ],
)
def test_loader_refuses_other_variables(change, message):
    golden = Golden("conv_ae")
    with pytest.raises(UsageError, match=message):
        golden.core(change(golden.group("var/")))


def test_loader_reads_names_behind_a_scope():
    golden = Golden("conv_ae")
    scoped = {f"agent/core/{k}:0": x for k, x in golden.group("var/").items()}
    for a, b in zip(golden.core(scoped).parameters(), golden.model().parameters(), strict=True):
        assert torch.equal(a.double(), b)
