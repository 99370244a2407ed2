"""The state: fixed shapes, no hidden graph, empty slots that count for nothing, other sizes, files."""

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file
from small import (
    COMPRESSORS,
    EXACT,
    assert_same,
    assert_same_memory,
    cuts,
    examples,
    shapes,
    small,
    some_resets,
    stream,
    tensors,
)
from torch import Tensor

from compressive_transformer import CompressiveTransformer, Memory, UsageError
from compressive_transformer.memory import EMPTY, LayerMemory
from compressive_transformer.nn import compression


class TestCapacity:
    @examples(15)
    @given(settings=shapes(), pieces=cuts(30))
    def test_shapes_never_change(self, settings, pieces):
        model = small(**settings)
        memory = model.init_memory(2)
        shapes, size = [x.shape for x in tensors(memory)], memory.num_bytes()
        for x in stream(2, 30, 4).split(pieces, dim=1):
            memory = model(x, memory).memory
            assert [x.shape for x in tensors(memory)] == shapes
        assert memory.num_bytes() == size == sum(x.nbytes for x in tensors(memory))

    def test_the_callers_memory_is_never_written(self):
        model, x = small(compressor="most-used"), stream(2, 20, 4)
        memory = model(x[:, :11]).memory.detach()
        before = [x.clone() for x in tensors(memory)]
        with torch.no_grad():
            for given_memory in (memory, model.with_cache(memory)):
                model(x, given_memory)
                model(x, given_memory.reset())
        assert all(torch.equal(a, b) for a, b in zip(before, tensors(memory), strict=True))


class TestGraph:
    def test_gradients_reach_the_call_before_unless_detached(self):
        model, x = small(), stream(2, 9, 4).requires_grad_()
        memory = model(x).memory
        assert all(layer.window.requires_grad for layer in memory.layers)
        for given_memory, reaches in ((memory, True), (memory.detach(), False)):
            total = model(stream(2, 5, 4, seed=1), given_memory).features.sum()
            (gradient,) = torch.autograd.grad(total, x, allow_unused=True, retain_graph=True)
            assert (gradient is not None and bool(gradient.any())) == reaches

    def test_detached_state_holds_no_graph(self):
        memory = small(compressor="most-used")(stream(2, 21, 4)).memory
        assert any(x.requires_grad for x in tensors(memory))
        assert not any(x.requires_grad for x in tensors(memory.detach()))
        assert_same_memory(memory.detach(), memory)

    def test_evaluation_has_no_compression_loss(self):
        model, x = small(), stream(2, 20, 4)
        assert model(x).compression_losses.all()
        assert not model.eval()(x).compression_losses.any()


def poisoned(memory: Memory) -> Memory:
    """NaN in every slot that holds nothing."""
    layers = []
    for layer in memory.layers:
        empty = (layer.document == EMPTY)[..., None].split(layer.sizes, dim=1)
        tiers = [x.masked_fill(where, math.nan) for x, where in zip(layer[:3], empty, strict=True)]
        layers.append(LayerMemory._make([*tiers, *layer[3:]]))
    return memory._replace(layers=tuple(layers))


def filled(memory: Memory) -> list[Tensor]:
    """What the slots hold that hold something."""
    slots = []
    for layer in memory.layers:
        slots.append(torch.cat(layer[:3], dim=1)[layer.document != EMPTY])
    return slots


class TestEmptySlots:
    @pytest.mark.parametrize("loss", ["attention", "auto-encoding"])
    @pytest.mark.parametrize("compressor", COMPRESSORS)
    @pytest.mark.parametrize("fill", [0, 2, 5, 10, 19])
    @pytest.mark.parametrize("resets", [None, some_resets(2, 14, seed=2)], ids=["", "resets"])
    def test_count_for_nothing(self, compressor, loss, fill, resets):
        """Row 1 has just begun a document, mostly in the middle of a segment."""
        model = small(compressor=compressor, compression_loss=loss, compression_rate=3)
        memory = model(stream(2, fill, 4)).memory.detach() if fill else model.init_memory(2)
        memory = memory.reset([False, True])
        results = []
        for state in (memory, poisoned(memory)):
            x = stream(2, 14, 4, seed=1).requires_grad_()
            output = model(x, state, resets)
            total = output.features.square().sum() + output.compression_loss
            wanted = [x, *model.parameters()]
            gradients = torch.autograd.grad(total, wanted, materialize_grads=True, allow_unused=True)
            results.append([output.features, output.compression_losses, *filled(output.memory), *gradients])
            with torch.no_grad():
                results[-1].append(model(x, model.with_cache(state)).features)
        for clean, poison in zip(*results, strict=True):
            assert_same(poison, clean)

    @pytest.mark.parametrize("name", COMPRESSORS)
    def test_count_for_nothing_in_a_compressor(self, name):
        compressor = compression.COMPRESSORS[name](3, 2).double()
        rows, usage, valid = stream(2, 8, 3), stream(2, 8, seed=1).abs(), torch.ones(2, 8, dtype=torch.bool)
        valid[0, :3] = valid[1, :7] = False
        slots, filled = compressor(rows, valid, usage)
        rows[~valid], usage[~valid] = math.nan, math.inf
        got, got_filled = compressor(rows, valid, usage)
        assert_same(got, slots)
        assert torch.equal(got_filled, filled)
        assert not got[~filled].any()

    def test_hold_zeros(self):
        memory = small()(stream(2, 11, 4)).memory.reset([False, True])
        for layer in memory.layers:
            empty = layer.document == EMPTY
            assert empty.any()
            assert not torch.cat(layer[:3], dim=1)[empty].any()


class TestSizes:
    @pytest.mark.parametrize("positions", ["continued", "time", "separate"])
    @pytest.mark.parametrize("compressor", COMPRESSORS)
    def test_enlarged_memory_is_that_of_a_larger_model_that_learnt_as_near(self, compressor, positions):
        sizes: dict[str, Any] = {"memory": (9, 7), "compressed_memory": (5, 8)}
        model = small(compressor=compressor, positions=positions, compression_rate=3)
        large = small(compressor=compressor, positions=positions, compression_rate=3, **sizes)
        large.load_state_dict(model.state_dict())
        x, memory = stream(2, 40, 4), model.init_memory(2, **sizes)
        assert not torch.equal(model(x, memory).features, large(x).features)
        for one, other in zip(large.layers, model.layers, strict=True):
            one.attention.learnt = other.attention.learnt
        assert_same_memory(memory, large.init_memory(2))
        got, expected = model(x, memory), large(x)
        assert torch.equal(got.features, expected.features)
        assert torch.equal(got.compression_losses, expected.compression_losses)
        assert_same_memory(got.memory, expected.memory)
        assert not torch.equal(got.features, model(x).features)

    @pytest.mark.parametrize("rate", [2, 3])
    @pytest.mark.parametrize("compressor", COMPRESSORS)
    def test_no_compressed_memory_is_transformer_xl(self, compressor, rate):
        """As a model of its own, or at evaluation; and so is a compressive one until a slot is filled."""
        model = small(compressor=compressor, compression_rate=rate)
        xl = without_compressor(model)
        x = stream(2, 24, 4)
        expected, shrunk, compressive = xl(x), model(x, model.init_memory(2, compressed_memory=0)), model(x)
        assert_same(shrunk.features, expected.features, EXACT)
        assert_same_memory(shrunk.memory, expected.memory, EXACT)
        assert not shrunk.compression_losses.any()
        first = 8  # two segments of 4 do not overflow 6 slots before the third begins
        assert_same(compressive.features[:, :first], expected.features[:, :first], EXACT)
        assert (compressive.features - expected.features)[:, first:].abs().amin(dim=(0, 1)).all()


def without_compressor(model: CompressiveTransformer) -> CompressiveTransformer:
    """The Transformer-XL of the same weights."""
    xl = CompressiveTransformer(model.config, compressed_memory=0).double()
    assert not any("compressor" in name or "auto_encoding" in name for name in xl.state_dict())
    xl.load_state_dict({name: w for name, w in model.state_dict().items() if name in xl.state_dict()})
    return xl


class TestFiles:
    @pytest.mark.parametrize("compressor", ["conv", "most-used"])
    def test_what_was_saved_is_loaded(self, compressor, tmp_path):
        model = small(compressor=compressor)
        memory = model(stream(2, 23, 4)).memory.reset([False, True])
        memory.save(tmp_path / "memory")
        loaded = Memory.load(tmp_path / "memory")
        assert_same_memory(loaded, memory)
        assert not any(x.requires_grad for x in tensors(loaded))
        x = stream(2, 10, 4, seed=1)
        assert torch.equal(model(x, loaded).features, model(x, memory).features)

    def test_the_cache_is_not_saved(self, tmp_path):
        model = small()
        model.with_cache(model.init_memory(1)).save(tmp_path / "memory")
        assert Memory.load(tmp_path / "memory").cache is None

    def test_what_is_no_memory_is_refused(self, tmp_path):
        path = tmp_path / "memory"

        def refuses(reason: str) -> None:
            with pytest.raises(UsageError, match=reason) as refusal:
                Memory.load(path)
            assert str(path) in str(refusal.value)
            assert "\n" not in str(refusal.value)

        refuses("does not exist")
        small().init_memory(1).save(path)
        whole = path.read_bytes()
        for size in (0, 7, 100, len(whole) - 1):
            path.write_bytes(whole[:size])
            refuses("broken")
        path.unlink()
        path.mkdir()
        refuses("give a file|broken")
        path.rmdir()
        path.write_text("It was the best of times, it was the worst of times.")
        refuses("broken")
        save_file({"weight": torch.zeros(2)}, path)
        refuses("not a saved memory")
        save_file({"weight": torch.zeros(2)}, path, metadata={"memory": json.dumps({"format": "other"})})
        refuses("not a saved memory")
        header = {"format": "compressive-transformer-memory-1", "position": "0", "num_layers": "1"}
        save_file({"document": torch.zeros(2)}, path, metadata={"memory": json.dumps(header)})
        refuses("broken")


class TestMoving:
    def test_to_another_type(self):
        memory = small(compressor="most-used")(stream(2, 23, 4)).memory
        single = memory.to(dtype=torch.float32)
        for a, b in zip(tensors(memory), tensors(single), strict=True):
            assert b.dtype == (torch.float32 if a.is_floating_point() else torch.int64)
            torch.testing.assert_close(b, a.to(b.dtype))
        assert single.position == memory.position

    def test_to_another_device(self):
        model = small()
        memory = model.with_cache(model.init_memory(2)).to("meta")
        assert all(x.device.type == "meta" for x in tensors(memory))
        assert memory.cache is not None
        assert all(kv.keys.device.type == kv.values.device.type == "meta" for kv in memory.cache)
        assert all(
            x.dtype == y.dtype for x, y in zip(tensors(memory), tensors(model.init_memory(2)), strict=True)
        )
