"""Generation: what the cache makes is what recomputing makes; sampling keeps exactly what it says."""

from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel, UsageError
from compressive_transformer.evaluate import evaluate
from compressive_transformer.generate import choose, generate
from compressive_transformer.model import CompressiveTransformer, Decoder, FeatureDecoder
from compressive_transformer.nn.vocabulary import Head
from tiny import BOUNDARY, SHAPES, corpus_of, some_bytes, tiny_model, tokens_of


def made(model: LanguageModel, prompt: Tensor, **options: Any) -> Tensor:
    """int64 [B, length]."""
    return torch.stack(list(generate(model, prompt, **options)), dim=1)


def recomputed(model: LanguageModel, prompt: Tensor, length: int) -> Tensor:
    """The likeliest tokens, all that came before read anew for each of them."""
    tokens = prompt
    for _ in range(length):
        with torch.no_grad():
            likeliest = model(tokens).logits[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, likeliest], dim=1)
    return tokens[:, prompt.shape[1] :]


def prompts(rows: int, length: int) -> Tensor:
    return torch.cat([tokens_of(some_bytes(length - 1, seed)) for seed in range(rows)])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("prompt_length", [1, 8, 30])
def test_greedy_is_recomputing_everything(shape: dict[str, Any], prompt_length: int):
    model = tiny_model(dtype=torch.float64, **shape)
    prompt = prompts(2, prompt_length)
    assert made(model, prompt, length=30, temperature=0).equal(recomputed(model, prompt, 30))


@pytest.mark.parametrize("segment", [1, 2, 3])
def test_across_many_segments(segment: int):
    model = tiny_model(dtype=torch.float64, segment=segment, memory=4)
    prompt = prompts(1, 5)
    assert made(model, prompt, length=40, temperature=0).equal(recomputed(model, prompt, 40))


def test_rows_are_as_if_alone():
    model, prompt = tiny_model(dtype=torch.float64), prompts(3, 11)
    alone = torch.cat([made(model, row[None], length=30, temperature=0) for row in prompt])
    assert made(model, prompt, length=30, temperature=0).equal(alone)


def test_going_on_from_a_memory_is_a_longer_prompt():
    model, prompt = tiny_model(dtype=torch.float64), prompts(2, 30)
    with torch.no_grad():
        memory = model(prompt[:, :13]).memory
    before = memory.layers[0].window.clone()
    got = made(model, prompt[:, 13:], length=20, memory=memory, seed=5)
    assert got.equal(made(model, prompt, length=20, seed=5))
    assert got.ne(made(model, prompt[:, 13:], length=20, seed=5)).any()
    assert memory.layers[0].window.equal(before)


def test_seeds_reproduce():
    model, prompt = tiny_model(), prompts(2, 4)
    first = made(model, prompt, length=30, seed=1)
    torch.rand(7)  # the global generator has no say
    assert made(model, prompt, length=30, seed=1).equal(first)
    assert made(model, prompt, length=30, seed=2).ne(first).any()


def test_drawn_text_is_as_likely_as_when_it_was_drawn():
    model, likelihood = tiny_model(dtype=torch.float64), []
    model.head.register_forward_hook(lambda _, __, logits: likelihood.append(logits.log_softmax(-1)))
    drawn = made(model, tokens_of(b""), length=50, banned=[BOUNDARY])[0]
    likelihood = [log.flatten() for log in likelihood]
    nats = -sum(float(log[token]) for log, token in zip(likelihood, drawn, strict=True))
    assert evaluate(model, corpus_of(bytes(drawn.tolist()))).total.nats == pytest.approx(nats, rel=1e-9)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("read", [0, 3, 8, 29])
@pytest.mark.parametrize("reset", [False, True], ids=["", "one row reset"])
def test_decoder_is_the_model(shape: dict[str, Any], read: int, reset: bool):
    decoder_is(tiny_model(dtype=torch.float64, **shape), read, reset)


def decoder_is(model: LanguageModel, read: int, reset: bool = False, **sizes: int) -> None:
    """Logits, memory, and keys and values, at every place of several segments."""
    state = model.init_memory(2, **sizes)
    tokens = prompts(2, read + 30).to(state.document.device)
    with torch.no_grad():
        if read:
            state = model(tokens[:, :read], state).memory
        if reset and not model.config.faithful:
            state = state.reset([True, False])
        given = state = model.core.with_cache(state)
        before = state.detach().tensors()
        decoder = Decoder(model, state)
        for token in tokens[:, read:].T:
            logits, state, *_ = model(token[:, None], state)
            got = decoder.read(token), decoder.memory.position, decoder.memory.tensors(), decoder.memory.cache
            expected = logits[:, 0], state.position, state.tensors(), state.cache
            torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(given.tensors(), before, atol=0, rtol=0)


@pytest.mark.parametrize("faithful", [False, True])
def test_features_decoder_is_a_core_with_inputs(faithful: bool):
    model = tiny_model(dtype=torch.float64, faithful=faithful)
    core = CompressiveTransformer(model.config, input_dim=5).double().eval()
    core.load_state_dict(model.core.state_dict(), strict=False)
    inputs = torch.randn(2, 20, 5, dtype=torch.float64)
    with torch.no_grad():
        expected = core(inputs).features
        decoder = FeatureDecoder(core, core.init_memory(2))
        got = torch.stack([decoder.read(x) for x in inputs.unbind(1)], dim=1)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("sizes", [(21, 6), (8, 15), (19, 13), (3, 20)], ids=str)
@pytest.mark.parametrize("positions", ["continued", "time", "separate"])
def test_decoder_is_the_model_with_a_larger_memory(positions: Any, sizes: tuple[int, int]):
    model = tiny_model(dtype=torch.float64, positions=positions, compression_rate=3)
    decoder_is(model, 70, memory=sizes[0], compressed_memory=sizes[1])


def test_the_state_does_not_grow(monkeypatch: pytest.MonkeyPatch):
    model, sizes, read = tiny_model(segment=5, num_layers=1), [], Decoder.read

    def measure(decoder: Decoder, tokens: Tensor) -> Tensor:
        memory = decoder.memory
        tensors = [x for layer in (*memory.layers, *(memory.cache or ())) for x in layer if x is not None]
        sizes.append([tuple(x.shape) for x in tensors])
        return read(decoder, tokens)

    monkeypatch.setattr(Decoder, "read", measure)
    list(generate(model, prompts(1, 10), length=1001))
    assert sizes[10] == sizes[995]
    assert len(set(map(str, sizes))) == 5  # one for each fill of the window


def test_without_a_length_it_goes_on():
    assert len(list(islice(generate(tiny_model(), prompts(1, 1)), 25))) == 25
    assert list(generate(tiny_model(), prompts(1, 1), length=0)) == []


def test_banned_tokens_are_never_drawn():
    allowed = {3, 256}
    banned = [token for token in range(257) if token not in allowed]
    for options in ({}, {"temperature": 0}, {"temperature": 1e9}, {"top_k": 5}, {"top_p": 0.99}):
        drawn = made(tiny_model(), prompts(2, 3), length=30, banned=banned, **options)
        assert set(drawn.flatten().tolist()) <= allowed


HALVES = torch.tensor([0.04, 0.5, 0.06, 0.3, 0.1]).log()
"""Logits of tokens that are, from the likeliest on: 1, 3, 4, 2, 0."""


def drawn(logits: Tensor = HALVES, *, number: int = 4000, **options: Any) -> list[float]:
    """How often each token is chosen."""
    options = {"temperature": 1.0, "top_k": None, "top_p": 1.0} | options
    tokens = choose(logits.expand(number, -1), **options, random=torch.Generator().manual_seed(0))
    return (torch.bincount(tokens, minlength=logits.shape[-1]) / number).tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.04, 0.5, 0.06, 0.3, 0.1]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 0.625, 0, 0.375, 0]),
        ({"top_k": 5}, [0.04, 0.5, 0.06, 0.3, 0.1]),
        ({"top_k": 10**30}, [0.04, 0.5, 0.06, 0.3, 0.1]),
        ({"top_p": 1e-60}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.49}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.51}, [0, 0.625, 0, 0.375, 0]),
        ({"top_p": 0.79}, [0, 0.625, 0, 0.375, 0]),
        ({"top_p": 0.81}, [0, 5 / 9, 0, 3 / 9, 1 / 9]),
        ({"top_p": 0.97}, [0.04, 0.5, 0.06, 0.3, 0.1]),
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0, 0]),  # p of what top-k left
        ({"top_k": 2, "top_p": 0.7}, [0, 0.625, 0, 0.375, 0]),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-300}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.5}, [0.0047, 0.7062, 0.0102, 0.2542, 0.0282]),
        ({"temperature": 1e300}, [0.2] * 5),
    ],
    ids=str,
)
def test_what_is_drawn_and_how_often(options: dict[str, Any], expected: list[float]):
    shares = drawn(**options)
    assert [share > 0 for share in shares] == [share > 0 for share in expected]
    assert shares == pytest.approx(expected, abs=0.03)


def test_rows_have_their_own_nucleus():
    logits = torch.stack([HALVES, HALVES.flip(0)])
    options: dict[str, Any] = {"temperature": 1.0, "top_k": None, "top_p": 0.4}
    assert choose(logits, **options, random=torch.Generator()).tolist() == [1, 3]


@pytest.mark.parametrize(
    "options",
    [
        {"length": -1},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_settings_outside_their_range_are_refused_at_once(options: dict[str, Any]):
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        generate(tiny_model(), prompts(1, 1), **options)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_that_diverged_is_refused(temperature: float):
    model = tiny_model()
    torch.nn.init.constant_(model.get_parameter("head.weight"), float("nan"))
    with pytest.raises(UsageError, match="learning rate"):
        made(model, prompts(1, 1), length=1, temperature=temperature)


def test_dropout_is_off():
    model, prompt = tiny_model(dropout=0.5), prompts(1, 3)
    model.train()
    assert made(model, prompt, length=20, temperature=0).equal(
        made(tiny_model(), prompt, length=20, temperature=0)
    )


def test_a_prompt_needs_the_logits_of_its_last_token_only(monkeypatch: pytest.MonkeyPatch):
    model, shapes, whole = tiny_model(), [], Head.forward
    prompt = torch.randint(256, (2, 50))

    def seen(head: Head, features: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(features.shape))
        return whole(head, features)

    monkeypatch.setattr(Head, "forward", seen)
    list(generate(model, prompt, length=1))
    assert shapes == [(2, model.config.dim)]
