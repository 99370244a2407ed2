"""Chopping, time, rows, resets: what holds for every model and every stream."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
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
)
from torch import Tensor

from compressive_transformer import CompressiveTransformer, Memory
from compressive_transformer.memory import EMPTY

LENGTH = 22
SEEDS = st.integers(0, 2**16)


class Reading(NamedTuple):
    features: Tensor
    memory: Memory
    losses: Tensor
    """Sum over the segments that ended."""


def read(
    model: CompressiveTransformer,
    x: Tensor,
    pieces: list[int],
    memory: Memory | None = None,
    resets: Tensor | None = None,
) -> Reading:
    state = model.init_memory(len(x)) if memory is None else memory
    features, losses = [], torch.zeros(len(model.layers), dtype=x.dtype)
    all_resets = [None] * len(pieces) if resets is None else resets.split(pieces, dim=1)
    for piece, piece_resets in zip(x.split(pieces, dim=1), all_resets, strict=True):
        ended = (state.position + piece.shape[1]) // state.segment - state.position // state.segment
        output = model(piece, state, piece_resets)
        state, losses = output.memory, losses + ended * output.compression_losses
        features.append(output.features)
    return Reading(torch.cat(features, dim=1), state, losses)


def resets_for(model: CompressiveTransformer, batch: int, length: int, seed: int) -> Tensor | None:
    """A faithful model can't begin a document within a call."""
    return None if model.config.faithful else some_resets(batch, length, seed)


class TestChopping:
    @examples(40)
    @given(settings=shapes(), pieces=cuts(LENGTH), position=st.integers(0, 7), seed=SEEDS)
    def test_pieces_give_what_the_whole_gives(self, settings, pieces, position, seed):
        model, x = small(seed=seed, **settings), stream(2, LENGTH, 4, seed=seed)
        resets, memory = resets_for(model, 2, LENGTH, seed), model.init_memory(2, position=position)
        whole = read(model, x, [LENGTH], memory, resets)
        for chopped in (pieces, [1] * LENGTH):
            parts = read(model, x, chopped, memory, resets)
            assert_same(parts.features, whole.features, EXACT)
            assert_same(parts.losses, whole.losses, EXACT)
            assert_same_memory(parts.memory, whole.memory, EXACT)

    @examples(25)
    @given(settings=shapes(), pieces=cuts(LENGTH), start=st.integers(0, 9), seed=SEEDS)
    def test_pieces_with_cached_keys_and_values(self, settings, pieces, start, seed):
        """Also after rows were reset and exchanged."""
        model, x = small(seed=seed, **settings), stream(2, start + LENGTH, 4, seed=seed)
        resets, ended, swap = resets_for(model, 2, LENGTH, seed), torch.tensor([True, False]), [1, 0]
        with torch.no_grad():
            memory = model.init_memory(2)
            memory = model(x[:, :start], memory).memory if start else memory
            expected = read(model, x[:, start:], [LENGTH], memory.reset(ended), resets)
            cached = model.with_cache(memory).reset(ended).reorder(swap)
            swapped, swapped_resets = x[swap, start:], resets if resets is None else resets[swap]
            for chopped in (pieces, [1] * LENGTH):
                got = read(model, swapped, chopped, cached, swapped_resets)
                assert got.memory.cache is not None
                assert_same(got.features[swap], expected.features, EXACT)
                assert_same_memory(got.memory.reorder(swap), expected.memory, EXACT)

    @pytest.mark.parametrize("compressor", COMPRESSORS)
    def test_pieces_give_the_gradients_of_the_whole(self, compressor):
        model, x = small(compressor=compressor), stream(2, LENGTH, 4)
        gradients = []
        for pieces in ([LENGTH], [5, 1, 9, 7]):
            reading = read(model, x, pieces)
            total = reading.features.square().sum() + reading.losses.sum()
            gradients.append(torch.autograd.grad(total, list(model.parameters())))
        for a, b in zip(*gradients, strict=True):
            assert_same(a, b, EXACT)

    @pytest.mark.parametrize("compressor", ["conv", "dilated", "mean", "max"])
    @torch.no_grad()
    def test_single_precision(self, compressor):
        model = small(compressor=compressor, dtype=torch.float32)
        x, resets = stream(2, LENGTH, 4, dtype=torch.float32), some_resets(2, LENGTH, seed=1)
        whole = read(model, x, [LENGTH], resets=resets)
        for memory in (model.init_memory(2), model.with_cache(model.init_memory(2))):
            parts = read(model, x, [1] * LENGTH, memory, resets)
            assert_same(parts.features, whole.features, 1e-5)
            assert_same_memory(parts.memory, whole.memory, 1e-5)


class TestTime:
    @examples(25)
    @given(settings=shapes(), cut=st.integers(1, LENGTH - 1), seed=SEEDS)
    def test_no_output_depends_on_later_inputs(self, settings, cut, seed):
        model, x = small(seed=seed, **settings), stream(2, LENGTH, 4, seed=seed)
        resets = resets_for(model, 2, LENGTH, seed)
        other, other_resets = x.clone(), resets if resets is None else resets.clone()
        other[:, cut:] = stream(2, LENGTH - cut, 4, seed=seed + 1)
        if other_resets is not None:
            other_resets[:, cut:] ^= True
        before, after = model(x, None, resets).features, model(other, None, other_resets).features
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut], after[:, cut])

    @examples(25)
    @given(settings=shapes(), t=st.integers(0, LENGTH - 1), seed=SEEDS)
    def test_gradients_flow_from_past_to_future_of_one_row(self, settings, t, seed):
        model, x = small(seed=seed, **settings), stream(2, LENGTH, 4, seed=seed).requires_grad_()
        features = model(x, None, resets_for(model, 2, LENGTH, seed)).features
        (gradient,) = torch.autograd.grad(features[0, t].sum(), x)
        assert not gradient[0, t + 1 :].any()
        assert not gradient[1].any()
        assert gradient[0, t].all()


class TestRows:
    @examples(25)
    @given(settings=shapes(), seed=SEEDS)
    def test_other_rows_change_nothing(self, settings, seed):
        model, x = small(seed=seed, **settings), stream(3, LENGTH, 4, seed=seed)
        resets = resets_for(model, 3, LENGTH, seed)
        expected = model(x, None, resets)
        x[1] = stream(LENGTH, 4, seed=seed + 1)
        if resets is not None:
            resets[1] ^= True
        got = model(x, None, resets)
        assert torch.equal(got.features[[0, 2]], expected.features[[0, 2]])
        assert not torch.equal(got.features[1], expected.features[1])
        assert_same_memory(got.memory.reorder([0, 2]), expected.memory.reorder([0, 2]))

    @examples(15)
    @given(settings=shapes(), order=st.lists(st.integers(0, 2), min_size=1, max_size=4), seed=SEEDS)
    def test_picking_rows_commutes_with_reading(self, settings, order, seed):
        model, x = small(seed=seed, **settings), stream(3, LENGTH, 4, seed=seed)
        memory = model(x[:, :9]).memory
        expected = model(x[:, 9:], memory)
        got = model(x[order, 9:], memory.reorder(order))
        assert_same(got.features, expected.features[order], EXACT)
        assert_same_memory(got.memory, expected.memory.reorder(torch.tensor(order)), EXACT)

    def test_a_mask_picks_rows(self):
        memory = small()(stream(3, 9, 4)).memory
        assert_same_memory(memory.reorder([True, False, True]), memory.reorder([0, 2]))
        assert memory.reorder([False] * 3).batch_size == 0


class TestReset:
    @examples(40)
    @given(settings=shapes(), at=st.integers(0, 15), begin=st.integers(0, 5), seed=SEEDS)
    @example(settings={"compressor": "most-used", "faithful": True}, at=2, begin=0, seed=0)
    def test_reset_row_is_a_fresh_one_and_others_do_not_change(self, settings, at, begin, seed):
        model, x = small(seed=seed, **settings), stream(3, at + LENGTH, 4, seed=seed)
        memory = model.init_memory(3, position=begin)
        memory = model(x[:, :at], memory).memory if at else memory
        started = memory.reset([False, True, False])
        assert_same_memory(started.reorder([0, 2]), memory.reorder([0, 2]))
        kept, reset = model(x[:, at:], memory), model(x[:, at:], started)
        fresh = model(x[[1], at:], model.init_memory(1, position=begin + at))
        assert_same(reset.features[[1]], fresh.features, EXACT)
        assert_same_memory(reset.memory.reorder([1]), in_next_document(fresh.memory), EXACT)
        assert torch.equal(reset.features[[0, 2]], kept.features[[0, 2]])
        assert_same_memory(reset.memory.reorder([0, 2]), kept.memory.reorder([0, 2]))

    @examples(25)
    @given(settings=shapes(faithful=False), at=st.integers(0, LENGTH - 1), seed=SEEDS)
    def test_reset_within_a_call_is_a_reset_between_calls(self, settings, at, seed):
        model, x = small(seed=seed, **settings), stream(2, LENGTH, 4, seed=seed)
        resets = torch.zeros(2, LENGTH, dtype=torch.bool)
        kept = model(x, None, resets)
        resets[0, at] = True
        within = model(x, None, resets)
        memory = model(x[:, :at]).memory if at else model.init_memory(2)
        between = model(x[:, at:], memory.reset([True, False]))
        assert_same(within.features[:, at:], between.features, EXACT)
        assert_same_memory(within.memory, between.memory, EXACT)
        assert torch.equal(within.features[1], kept.features[1])
        assert_same_memory(within.memory.reorder([1]), kept.memory.reorder([1]))

    def test_resets_that_are_all_false_are_none(self):
        model, x = small(), stream(2, LENGTH, 4)
        none, all_false = model(x), model(x, None, torch.zeros(2, LENGTH, dtype=torch.bool))
        assert torch.equal(none.features, all_false.features)
        assert_same_memory(none.memory, all_false.memory)

    def test_no_rows_named_are_all_rows(self):
        memory = small()(stream(2, 9, 4)).memory
        assert_same_memory(memory.reset(), memory.reset([True, True]))


def in_next_document(memory: Memory) -> Memory:
    layers = (m._replace(document=m.document + (m.document != EMPTY)) for m in memory.layers)
    return memory._replace(layers=tuple(layers), document=memory.document + 1)
