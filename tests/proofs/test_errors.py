"""Every mistake is refused in one line that names what was given and what to do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import SMALL, small, stream
from torch import Tensor

from compressive_transformer import CompressiveTransformer, LanguageModel, Memory, ModelConfig, UsageError
from compressive_transformer.nn.attention import RelativeAttention
from compressive_transformer.nn.compression import Conv, DilatedConv, MeanPool, MostUsed

Mistake = Callable[[], Any]


def refuses(mistake: Mistake, given: str, remedy: str) -> None:
    with pytest.raises(UsageError) as refusal:
        mistake()
    message = str(refusal.value)
    assert "\n" not in message
    assert given in message
    assert remedy in message


@pytest.mark.parametrize(
    ("settings", "given", "remedy"),
    [
        ({"dim": 0}, "dim 0", "use 1 or more"),
        ({"num_layers": 0}, "num_layers 0", "use 1 or more"),
        ({"num_heads": -1}, "num_heads -1", "use 1 or more"),
        ({"segment": 0}, "segment 0", "use 1 or more"),
        ({"compression_rate": 0}, "compression_rate 0", "use 1 or more"),
        ({"mlp_dim": 0}, "mlp_dim 0", "use 1 or more"),
        ({"position_features": 0}, "position_features 0", "use 1 or more"),
        ({"dim": 6, "num_heads": 4}, "dim 6 is not divisible by num_heads 4", "change one of them"),
        ({"dropout": 1.0}, "dropout 1.0", "less than 1"),
        ({"dropout": -0.1}, "dropout -0.1", "0 or more"),
        ({"compressor": "LSTM"}, "compressor 'LSTM'", "use one of conv, dilated, mean, max, most-used"),
        ({"compression_loss": "both"}, "'both'", "use one of attention, auto-encoding, none"),
        ({"positions": "absolute"}, "positions 'absolute'", "use one of continued, time, separate"),
        ({"norm": "none"}, "norm 'none'", "use one of pre, post"),
        ({"activation": "tanh"}, "activation 'tanh'", "use one of relu2, gelu, relu"),
        ({"memory": -1}, "memory -1", "use 0 or more"),
        ({"compressed_memory": (3, -2)}, "compressed_memory -2", "use 0 or more"),
        ({"memory": (1, 2, 3)}, "memory has 3 sizes for 2 layers", "give one, or one for each layer"),
        ({"compressed_memory": (1,)}, "compressed_memory has 1 sizes", "give one, or one for each layer"),
        ({"compression_rate": 3, "memory": 1}, "compression_rate 3", "at least 2 slots, not 1: change"),
        ({"compression_rate": 3, "memory": (2, 0)}, "segment 4", "at least 2 slots, not 0: change"),
        ({"memroy": 3}, "unknown setting memroy", "ModelConfig has activation"),
        ({"position_features": 3}, "position_features 3", "use an even number"),
        ({"dim": 5, "num_heads": 1}, "position_features 5", "use an even number"),
        (
            {"faithful": True, "compressor": "dilated", "compression_loss": "auto-encoding"},
            "faithful dilated",
            "use the attention loss, or faithful=False",
        ),
        ({"compressor": "dilated", "dilations": ()}, "dilations ()", "give one or more numbers"),
        ({"compressor": "dilated", "dilations": (1, 0)}, "dilations (1, 0)", "numbers >= 1"),
    ],
    ids=str,
)
def test_settings(settings, given, remedy):
    refuses(lambda: CompressiveTransformer(**SMALL | settings), given, remedy)
    refuses(lambda: LanguageModel(ModelConfig(**SMALL), vocab_size=5, **settings), given, remedy)


def test_a_recent_memory_that_just_holds_the_waiting_rows_is_allowed():
    small(compression_rate=3, memory=2)
    small(compression_rate=4, memory=0)
    small(compression_rate=3, memory=0, compressed_memory=0)


INPUTS: dict[str, tuple[Tensor, str, str]] = {
    "width": (stream(2, 5, 3), "(2, 5, 3)", "give [batch, time >= 1, 4]"),
    "no batch": (stream(5, 4), "(5, 4)", "give [batch, time >= 1, 4]"),
    "no time": (stream(2, 0, 4), "(2, 0, 4)", "give [batch, time >= 1, 4]"),
    "no rows": (stream(0, 5, 4), "batch_size 0", "use at least 1"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs(name):
    inputs, given, remedy = INPUTS[name]
    refuses(lambda: small()(inputs), given, remedy)


def test_inputs_of_the_input_map():
    refuses(lambda: small(input_dim=3)(stream(2, 5, 4)), "(2, 5, 4)", "give [batch, time >= 1, 3]")


TOKENS: dict[str, tuple[Tensor, str, str]] = {
    "too large": (torch.tensor([[0, 5]]), "from 0 to 5", "use ids from 0 to 4"),
    "negative": (torch.tensor([[-1, 4]]), "from -1 to 4", "use ids from 0 to 4"),
    "real": (torch.zeros(1, 3), "torch.float32", "give int64 [batch, time]"),
    "bool": (torch.zeros(1, 3, dtype=torch.bool), "torch.bool", "give int64 [batch, time]"),
    "no rows": (torch.zeros(0, 3, dtype=torch.int64), "(0, 3)", "give int64 [batch, time]"),
    "no batch": (torch.zeros(3, dtype=torch.int64), "(3,)", "give int64 [batch, time]"),
    "no time": (torch.zeros(1, 0, dtype=torch.int64), "(1, 0)", "give int64 [batch, time]"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens(name):
    tokens, given, remedy = TOKENS[name]
    model = LanguageModel(vocab_size=5, **SMALL)
    model(torch.tensor([[0, 4]]))
    refuses(lambda: model(tokens), given, remedy)


def test_vocabulary():
    refuses(lambda: LanguageModel(vocab_size=0, **SMALL), "vocab_size 0", "use 1 or more")


def state(**settings: Any) -> Memory:
    return small(**settings).init_memory(2)


ANEW = "make one by model.init_memory(batch_size)"
MEMORIES: dict[str, tuple[Memory, str, str]] = {
    "layers": (state(num_layers=3), "memory has 3 layers, the model 2", ANEW),
    "rows": (state().reorder([0]), "memory has 1 rows, the inputs 2", ANEW),
    "segment": (state(segment=6), "segment 6 and dim 4", ANEW),
    "dim": (state(dim=8), "segment 4 and dim 8", ANEW),
    "usage": (state(compressor="most-used"), "another compressor", ANEW),
    "dtype": (state(dtype=torch.float32), "memory is torch.float32 on cpu", "use memory.to(device, dtype)"),
    "device": (state().to("meta"), "memory is torch.float64 on meta", "use memory.to(device, dtype)"),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_of_another_model(name):
    memory, given, remedy = MEMORIES[name]
    refuses(lambda: small()(stream(2, 5, 4), memory), given, remedy)
    if name != "rows":
        refuses(lambda: small().with_cache(memory), given, remedy)


def test_memory_that_lacks_what_the_compressor_needs():
    for model in (small(compressor="most-used"), small(compressed_memory=0)):
        refuses(lambda model=model: model(stream(2, 5, 4), state()), "another compressor", ANEW)


def test_cache_with_gradients():
    model, x = small(), stream(2, 5, 4)
    memory = model.with_cache(model.init_memory(2))
    refuses(lambda: model(x, memory), "memory keeps keys and values", "use torch.no_grad()")
    with torch.no_grad():
        model(x, memory)
    model(x, memory._replace(cache=None))


def test_resets():
    model, x, remedy = small(), stream(2, 5, 4), "give bool (2, 5)"
    refuses(lambda: model(x, None, torch.zeros(2, 5)), "torch.float32", remedy)
    refuses(lambda: model(x, None, torch.zeros(2, dtype=torch.bool)), "(2,)", remedy)
    refuses(
        lambda: small(faithful=True)(x, None, torch.zeros(2, 5, dtype=torch.bool)),
        "faithful",
        "use memory.reset(rows) between calls",
    )


def test_init_memory():
    model = small(compression_rate=3)
    refuses(lambda: model.init_memory(0), "batch_size 0", "use at least 1")
    refuses(lambda: model.init_memory(1, position=-1), "position -1", "at least 0")
    refuses(lambda: model.init_memory(1, memory=-1), "memory -1", "use 0 or more")
    refuses(lambda: model.init_memory(1, memory=(6, 1)), "not 1", "at least 2 slots")
    refuses(lambda: model.init_memory(1, compressed_memory=(1, 2, 3)), "3 sizes", "one for each layer")
    xl = small(compressed_memory=(3, 0))
    refuses(lambda: xl.init_memory(1, compressed_memory=2), "compressed_memory 2", "use 0, or train one with")


def test_rows():
    memory = state()
    refuses(lambda: memory.reset([True]), "shape (1,)", "one bool for each of the 2 rows")
    numbers: Any = [0, 1]
    refuses(lambda: memory.reset(numbers), "torch.int64", "one bool for each of the 2 rows")
    refuses(lambda: memory.reorder([0, 2]), "[0, 2]", "use numbers from 0 to 1")
    refuses(lambda: memory.reorder([-1]), "[-1]", "use numbers from 0 to 1")
    refuses(lambda: memory.reorder([True] * 3), "3 bools for 2 rows", "give one for each")
    refuses(lambda: memory.reorder([True]), "1 bools for 2 rows", "give one for each")


def test_parts_by_themselves():
    rows, valid = stream(1, 5, 3), torch.ones(1, 5, dtype=torch.bool)
    refuses(lambda: MeanPool(3, 0), "rate 0", "use 1 or more")
    refuses(lambda: Conv(3, 2).double()(rows, valid), "5 rows", "give a multiple of it")
    refuses(lambda: DilatedConv(3, 2, ()), "dilations ()", "give one or more numbers")
    refuses(lambda: MostUsed(3, 2)(rows, valid), "needs the usage", "use a memory made for it")
    refuses(lambda: RelativeAttention(6, 4, learnt=(0, 0)), "dim 6", "change one of them")
    unknown: Any = "absolute"
    refuses(lambda: RelativeAttention(6, 2, scheme=unknown, learnt=(0, 0)), "'absolute'", "use one of")
