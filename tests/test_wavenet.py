"""The WaveNet baseline: its convolutions against torch's own, streams, receptive field, generation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressive_transformer import LanguageModel
from compressive_transformer.errors import UsageError
from compressive_transformer.formulas import costs
from compressive_transformer.generate import generate
from compressive_transformer.memory import Memory
from compressive_transformer.model.wavenet import WaveNetDecoder, WaveNetLayer

DILATIONS = (1, 2, 4, 8, 1, 2)
SETTINGS: dict[str, Any] = {
    "core": "wavenet",
    "dim": 12,
    "num_heads": 1,
    "num_layers": len(DILATIONS),
    "memory": DILATIONS,
    "compressed_memory": 0,
    "segment": 7,
}


def wavenet(**settings: Any) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(vocab_size=257, **(SETTINGS | settings)).double().eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


@torch.no_grad()
def by_convolution(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits, by torch's convolutions over the whole stream."""
    x = model.embedding(tokens).transpose(1, 2)
    skips = torch.zeros_like(x)
    for layer in model.core.layers:
        assert isinstance(layer, WaveNetLayer)
        D = layer.dim
        kernel = torch.stack([layer.gate.weight[:, :D], layer.gate.weight[:, D:]], dim=-1)
        padded = nn.functional.pad(x, (layer.dilation, 0))
        a, b = nn.functional.conv1d(padded, kernel, layer.gate.bias, dilation=layer.dilation).chunk(2, 1)
        made = nn.functional.conv1d(a.tanh() * b.sigmoid(), layer.output.weight[..., None], layer.output.bias)
        x, skips = x + made[:, :D], skips + made[:, D:]
    final = model.core.final_norm
    return model.head(final.map(skips.relu().transpose(1, 2)).relu())


def test_it_is_a_stack_of_dilated_convolutions():
    model, tokens = wavenet(), torch.randint(0, 257, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, by_convolution(model, tokens))


def test_chopping_does_not_matter():
    model, tokens = wavenet(), torch.randint(0, 257, (2, 60))
    with torch.no_grad():
        whole = model(tokens)
        memory, pieces = model.init_memory(2), []
        for size in (1, 1, 5, 7, 13, 2, 20, 11):
            output = model(tokens[:, :size], memory)
            memory, tokens = output.memory, tokens[:, size:]
            pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.logits)
    for a, b in zip(memory.tensors().values(), whole.memory.tensors().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_reset_anywhere_forgets_all_before():
    model, tokens = wavenet(), torch.randint(0, 257, (2, 50))
    resets = torch.zeros(2, 50, dtype=torch.bool)
    resets[0, 17] = True
    with torch.no_grad():
        found = model(tokens, resets=resets)
        apart = model(tokens[:1, 17:], model.init_memory(1, position=17))
        alone = model(tokens[1:])
        torch.testing.assert_close(found.logits[:1, 17:], apart.logits)
        torch.testing.assert_close(found.logits[1:], alone.logits)
        more = torch.randint(0, 257, (2, 9))
        torch.testing.assert_close(model(more, found.memory).logits[:1], model(more[:1], apart.memory).logits)


def test_the_receptive_field_is_that_of_the_dilations():
    model, reach = wavenet(), 1 + sum(DILATIONS)
    embedded = model.embedding(torch.randint(0, 257, (1, 60))).detach().requires_grad_()
    model.core(embedded).features[0, -1].sum().backward()
    assert embedded.grad is not None
    touched = embedded.grad.abs().sum(dim=-1)[0].nonzero()[:, 0]
    assert 60 - int(touched.min()) == reach == costs(model.config).temporal_range + 1


@pytest.mark.parametrize("read", [0, 1, 6, 7, 30])
def test_generation_equals_the_full_pass(read: int):
    model = wavenet()
    tokens = torch.randint(0, 257, (2, read + 25))
    with torch.no_grad():
        memory: Memory = model(tokens[:, :read]).memory if read else model.init_memory(2)
        decoder, expected = WaveNetDecoder(model, memory), model(tokens).logits
        for at in range(read, read + 25):
            torch.testing.assert_close(decoder.read(tokens[:, at]), expected[:, at])


def test_generation_is_that_of_the_model():
    model = wavenet()
    made = torch.stack(list(generate(model, torch.tensor([[256, 3, 4]]), length=20, temperature=0)), dim=1)
    with torch.no_grad():
        whole = torch.cat([torch.tensor([[256, 3, 4]]), made], dim=1)
        assert (model(whole).logits[:, 2:-1].argmax(-1) == made).all()


def test_parameters_are_counted():
    for dim in (12, 20):
        core = wavenet(dim=dim).core.float()
        assert costs(core.config).parameters == sum(p.numel() for p in core.parameters())
        assert costs(core.config).attention_per_token == 0
        memory = core.init_memory(1)
        assert costs(core.config).state_bytes == memory.num_bytes()


def test_dilations_are_asked_for():
    with pytest.raises(UsageError, match="give memory as its dilations"):
        LanguageModel(core="wavenet", memory=4)
