"""Which loss teaches which weights, and that every gradient is the derivative."""

from itertools import product

import pytest
import torch
from small import COMPRESSORS, SMALL, assert_same, generator, small, some_resets, stream
from torch import Tensor, nn
from torch.autograd import gradcheck

from compressive_transformer import LanguageModel, UsageError, ops
from compressive_transformer.losses import AutoEncoding, attention_reconstruction, next_token_loss
from compressive_transformer.nn.compression import Compressor, Conv, DilatedConv, MaxPool, MeanPool, MostUsed

LEARNERS = list(product(["conv", "dilated"], ["attention", "auto-encoding"]))
N = SMALL["segment"]


def is_compressor(name: str) -> bool:
    return ".compressor." in name


def is_decoder(name: str) -> bool:
    return ".auto_encoding." in name


def taught(loss: Tensor, model: nn.Module, *inputs: Tensor) -> set[str]:
    """Names of the parameters (and numbers of the inputs) to which a loss gives any gradient."""
    names = [*dict(model.named_parameters()), *map(str, range(len(inputs)))]
    gradients = torch.autograd.grad(
        loss, [*model.parameters(), *inputs], allow_unused=True, retain_graph=True
    )
    return {name for name, x in zip(names, gradients, strict=True) if x is not None and x.any()}


@pytest.mark.parametrize(("compressor", "loss"), LEARNERS)
class TestWhoLearns:
    @pytest.mark.parametrize(
        "settings", [{}, {"dropout": 0.3}, {"norm": "post"}, {"faithful": True}], ids=str
    )
    def test_auxiliary_loss_teaches_compressor_and_decoder_alone(self, compressor, loss, settings):
        """Parameter by parameter, and no input: also when memory still has its graph."""
        if settings.get("faithful") and (compressor, loss) == ("dilated", "auto-encoding"):
            with pytest.raises(UsageError, match="loses rows"):
                small(compressor=compressor, compression_loss=loss, **settings)
            return
        model = small(compressor=compressor, compression_loss=loss, input_dim=3, segment=6, **settings)
        first, second = (stream(2, 20, 3, seed=seed).requires_grad_() for seed in (0, 1))
        output = model(second, model(first).memory)
        expected = {name for name, _ in model.named_parameters() if is_compressor(name) or is_decoder(name)}
        assert taught(output.compression_loss, model, first, second) == expected
        for layer, layer_loss in enumerate(output.compression_losses):
            own = {name for name in expected if name.startswith(f"layers.{layer}.")}
            assert taught(layer_loss, model, first, second) == own

    def test_main_loss_teaches_the_compressor_through_time_alone(self, compressor, loss):
        model, seen = small(compressor=compressor, compression_loss=loss), stream(2, 5 * N, 4)
        memory, everything = model(seen).memory.detach(), {name for name, _ in model.named_parameters()}
        compressors = set(filter(is_compressor, everything))
        decoders = set(filter(is_decoder, everything))
        for length, expected in [
            (N, everything - compressors - decoders),
            (2 * N, everything - decoders),
        ]:
            x = stream(2, length, 4, seed=1)
            assert taught(model(x, memory).features.square().sum(), model) == expected

    def test_training_changes_every_weight(self, compressor, loss):
        """The auxiliary loss reads through the keys' and values' weights, and must leave them trainable."""
        settings = SMALL | {"compressor": compressor, "compression_loss": loss, "positions": "separate"}
        torch.manual_seed(0)  # for the first weights and dropout
        model = LanguageModel(vocab_size=7, dropout=0.1, **settings).double()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        tokens = torch.randint(7, (2, 61), generator=generator(0))
        memory, before = None, {name: p.detach().clone() for name, p in model.named_parameters()}
        for i in range(0, 60, 20):
            output = model(tokens[:, i : i + 20], memory, some_resets(2, 20, seed=i, share=0.02))
            memory = output.memory.detach()
            total = next_token_loss(output.logits, tokens[:, i + 1 : i + 21]) + output.compression_loss
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad, name
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("compressor", ["mean", "max", "most-used"])
def test_compressors_without_weights_have_no_loss(compressor):
    losses = small(compressor=compressor)(stream(2, 20, 4)).compression_losses
    assert not losses.any()
    assert not losses.requires_grad


@pytest.mark.parametrize("compressor", ["conv", "dilated"])
def test_no_loss_leaves_the_compressor_to_time(compressor):
    model = small(compressor=compressor, compression_loss="none")
    output = model(stream(2, 20, 4))
    assert not output.compression_losses.any()
    compressors = {name for name, _ in model.named_parameters() if is_compressor(name)}
    assert compressors <= taught(output.features.square().sum(), model)


def test_old_rows_are_constant_for_their_compressor():
    """The main loss reaches earlier inputs through the recent memory, never through the compressed."""
    model = small(memory=0, num_layers=1)
    first = stream(1, N, 4).requires_grad_()
    later = model(stream(1, N, 4, seed=1), model(first).memory).features
    assert taught(later.square().sum(), model, first) >= {"layers.0.compressor.kernel.weight"}
    assert "0" not in taught(later.square().sum(), model, first)


def test_loss_functions_hold_constant_what_must_not_learn():
    """By themselves too, whatever their caller detached."""
    q, *old = (stream(2, 2, 4, 3, seed=seed).requires_grad_() for seed in range(3))
    new = [stream(2, 2, 2, 3, seed=seed).requires_grad_() for seed in (3, 4)]
    rows, slots = stream(2, 4, 3).requires_grad_(), stream(2, 2, 3, seed=1).requires_grad_()
    every, decoder = torch.ones(2, 4, dtype=torch.bool), AutoEncoding(3, 2).double()
    attention = attention_reconstruction(q, (old[0], old[1]), (new[0], new[1]), every, every[:, :2], every)
    assert taught(attention, nn.Module(), q, *old, *new) == {"3", "4"}
    assert taught(decoder(rows, slots, every), decoder, rows, slots) == {"decoder.weight", "1"}


class TestDerivatives:
    """Against finite differences."""

    @pytest.mark.parametrize("attention", [ops.reference, ops.rotated, ops.fused])
    @pytest.mark.parametrize("tables", [1, 2])
    def test_attention(self, attention, tables):
        case = Attention(tables)
        assert gradcheck(lambda *inputs: case(attention, *inputs)[0], case.inputs)

    @pytest.mark.parametrize("positions", ["continued", "separate"])
    def test_model_by_inputs_of_a_segment(self, positions):
        model, x = small(positions=positions), stream(1, N, 4).requires_grad_()
        memory = model(stream(1, 5 * N, 4, seed=1)).memory.detach()
        assert gradcheck(lambda x: model(x, memory).features, x)

    def test_transformer_xl_by_inputs_of_many_segments(self):
        model, x = small(compressed_memory=0, segment=2, memory=3), stream(1, 6, 4).requires_grad_()
        assert gradcheck(lambda x: model(x).features, x)

    @pytest.mark.parametrize("compressor", ["conv", "dilated"])
    @pytest.mark.parametrize("loss", ["attention", "auto-encoding", "main"])
    def test_model_by_weights_of_the_compressor(self, compressor, loss):
        """Exact over two segments; over more, the rows that are compressed would move with the weights."""
        auxiliary = "none" if loss == "main" else loss
        model = small(compressor=compressor, compression_loss=auxiliary)
        memory, x = model(stream(1, 3 * N, 4)).memory.detach(), stream(1, 2 * N, 4, seed=1)
        if loss != "main":
            x = x[:, :N]
        learners = {n: p for n, p in model.named_parameters() if is_compressor(n) or is_decoder(n)}

        def read(*weights: Tensor) -> Tensor:
            changed = dict(zip(learners, weights, strict=True))
            output = torch.func.functional_call(model, changed, (x, memory))
            return output.features if loss == "main" else output.compression_losses

        assert gradcheck(read, [p.detach().requires_grad_() for p in learners.values()], fast_mode=True)

    @pytest.mark.parametrize("name", [*COMPRESSORS, "dilated, loses rows"])
    def test_compressors(self, name):
        compressor = COMPRESSION[name].double()
        rows, usage = stream(2, 8, 3).requires_grad_(), stream(2, 8, seed=1)
        valid = torch.ones(2, 8, dtype=torch.bool)
        valid[1, :3] = False
        weights = [p.detach().requires_grad_() for p in compressor.parameters()]

        def compress(rows: Tensor, *weights: Tensor) -> Tensor:
            changed = {n: w for (n, _), w in zip(compressor.named_parameters(), weights, strict=True)}
            return torch.func.functional_call(compressor, changed, (rows, valid, usage))[0]

        assert gradcheck(compress, (rows, *weights))
        (gradient,) = torch.autograd.grad(compress(rows, *weights).sum(), rows)
        assert not gradient[~valid].any()


COMPRESSION: dict[str, Compressor] = {
    "conv": Conv(3, 2),
    "dilated": DilatedConv(3, 2, (1, 2)),
    "dilated, loses rows": DilatedConv(3, 2, (1, 2), padded=False),
    "mean": MeanPool(3, 2),
    "max": MaxPool(3, 2),
    "most-used": MostUsed(3, 2),
}


class Attention:
    """A call of an attention: 2 rows, 2 heads of width 3, 3 queries; 4 keys for each position table."""

    def __init__(self, tables: int):
        S, seeds = 4 * tables, iter(range(100))
        sizes = [(2, 2, 3, 3), (2, 2, S, 3), (2, 2, S, 3), (2, 3)] + [(2, 3, 6), (2, 3)] * tables
        self.inputs = tuple(stream(*size, seed=next(seeds)).requires_grad_() for size in sizes)
        self.places = (torch.arange(4.0).double() * 2.5 - 11, torch.arange(-1.0, 3.0).double())[-tables:]
        self.query_places = torch.arange(3.0).double()
        self.visible = torch.rand(2, 3, S, generator=generator(0)) < 0.6
        self.visible[:, :, -4] = True

    def __call__(self, attention, *inputs: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        q, k, v, content_bias, *rest = inputs
        tables = [
            ops.PositionTable(weight, bias, places)
            for weight, bias, places in zip(rest[::2], rest[1::2], self.places, strict=True)
        ]
        return attention(q, k, v, content_bias, tables, self.query_places, self.visible, dropout)


@pytest.mark.parametrize("tables", [1, 2])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_rotated_attention_is_the_reference(tables, dropout):
    case, results = Attention(tables), []
    for attention in (ops.reference, ops.rotated):
        torch.manual_seed(0)  # for dropout
        outputs = case(attention, *case.inputs, dropout=dropout)
        total = sum((x * stream(*x.shape, seed=9)).sum() for x in outputs)
        assert isinstance(total, Tensor)
        results.append([*outputs, *torch.autograd.grad(total, case.inputs)])
    for expected, got in zip(*results, strict=True):
        assert_same(got, expected, 1e-12)


@pytest.mark.parametrize("tables", [1, 2])
def test_fused_attention_is_the_reference(tables):
    case, results = Attention(tables), []
    for attention in (ops.reference, ops.fused):
        attended, _ = case(attention, *case.inputs)
        total = (attended * stream(*attended.shape, seed=9)).sum()
        results.append([attended, *torch.autograd.grad(total, case.inputs)])
    for expected, got in zip(*results, strict=True):
        assert_same(got, expected, 1e-12)


@pytest.mark.parametrize("positions", ["continued", "time", "separate"])
def test_model_with_fused_attention_is_the_model(positions, monkeypatch):
    """As on a GPU: outputs, memory and what is learnt."""
    results = []
    for attention in (ops.rotated, ops.fused):
        monkeypatch.setattr(ops, "rotated", attention)
        model = small(positions=positions)
        output = model(stream(2, 5 * N, 4))
        (output.features.square().sum() + output.compression_loss).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([output.features, *output.memory.tensors().values(), *gradients])
    for expected, got in zip(*results, strict=True):
        assert_same(got, expected, 1e-10)


@pytest.mark.parametrize("sizes", [(2, 3, 4), (1, 0, 3), (1, 5, 1)], ids=str)
def test_shifted_attention_is_the_reference(sizes: tuple[int, int, int]):
    """Two runs of keys, each one place apart, of which one may be empty; and a single query."""
    T, first, second = sizes
    case, results = Attention(2), []
    q, k, v, *rest = case.inputs
    case.inputs = (q[:, :, :T], k[:, :, : first + second], v[:, :, : first + second], *rest)
    case.query_places = torch.arange(T).double()
    case.places = (torch.arange(first).double() - 9, torch.arange(second).double() + T - second)
    case.visible = case.visible[:, :T, : first + second] | (torch.arange(first + second) == first)
    for attention in (ops.reference, ops.shifted):
        outputs = case(attention, *case.inputs)
        total = sum((x * stream(*x.shape, seed=9)).sum() for x in outputs)
        assert isinstance(total, Tensor)
        results.append([*outputs, *torch.autograd.grad(total, case.inputs)])
    for expected, got in zip(*results, strict=True):
        assert_same(got, expected, 1e-12)


def test_shifted_attention_in_bfloat16():
    """About as near to the truth as the other that a processor may take."""
    case = Attention(1)
    truth, *others = (
        case(attention, *(x.detach().to(dtype) for x in case.inputs))[0].double()
        for attention, dtype in (
            (ops.reference, torch.float64),
            (ops.rotated, torch.bfloat16),
            (ops.shifted, torch.bfloat16),
        )
    )
    rotated, shifted = ((other - truth).norm() for other in others)
    assert shifted < 2 * rotated < 0.05 * truth.norm()


@pytest.mark.parametrize("larger", [0, 3])
@pytest.mark.parametrize("positions", ["continued", "time", "separate"])
def test_model_with_shifted_attention_is_the_model(positions, larger, monkeypatch):
    """Wherever it can be, even if it does not pay: not where slots stand farther apart, or at one place."""
    results, calls, shifted = [], [], ops.shifted
    monkeypatch.setattr(ops, "shifted", lambda *inputs: calls.append(inputs) or shifted(*inputs))
    for always in (False, True):
        monkeypatch.setattr(ops, "shift_pays", lambda *sizes, always=always: always)
        model = small(positions=positions)
        memory = model.init_memory(2, memory=6 + larger, compressed_memory=3 + larger)
        output = model(stream(2, 5 * N, 4), memory)
        (output.features.square().sum() + output.compression_loss).backward()
        gradients = [p.grad for p in model.parameters()]
        results.append([output.features, *output.memory.tensors().values(), *gradients])
    assert bool(calls) == (positions != "time" and not larger)
    for expected, got in zip(*results, strict=True):
        assert_same(got, expected, 1e-10)


def test_rotated_attention_far_away():
    """Distances as in a long compressed memory."""
    case = Attention(2)
    case.places = (case.places[0] - 100_000, case.places[1])
    (reference, _), (rotated, _) = (
        case(attention, *case.inputs) for attention in (ops.reference, ops.rotated)
    )
    assert_same(rotated, reference, 1e-9)
