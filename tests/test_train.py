"""Training: optimisers, learning rate, the loop and its budgets."""

import copy
import re
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel, ModelConfig, UsageError
from compressive_transformer.data import Lanes
from compressive_transformer.losses import next_token_loss
from compressive_transformer.train import OptimizerConfig, Progress, TrainConfig, Trainer, loop
from compressive_transformer.train.muon import Muon, _by_gram, _by_steps, orthogonalised
from compressive_transformer.train.optimizer import Optimizer, learning_rate_factor
from tiny import SENTENCE, corpus_of, tiny_config

NOT_AT_ALL: dict[str, Any] = {"lr": 1e-30, "muon_lr": 1e-30}
"""Learning rates at which weights stay as they are."""


def new_model(seed: int = 0, **settings: Any) -> LanguageModel:
    """As training begins."""
    torch.manual_seed(seed)
    return LanguageModel(tiny_config(**settings))


def trainer_of(
    model: LanguageModel,
    *,
    data: tuple[bytes, ...] = (SENTENCE * 8,),
    on_record: Callable[[Progress], None] = lambda progress: None,
    validate_at: tuple[float, ...] = (),
    on_pause: Callable[[Trainer, bool], None] = lambda trainer, validate: None,
    optimizer: dict[str, Any] | None = None,
    **settings: Any,
) -> Trainer:
    settings = {"lanes": 2, "precision": "float32", "model": model.config, **settings}
    config = TrainConfig(optimizer=OptimizerConfig(**optimizer or {}), **settings)
    lanes = Lanes(
        corpus_of(*data),
        num_lanes=config.lanes,
        length=config.model.segment * config.unroll,
        seed=config.seed,
        reset_documents=config.reset_documents,
    )
    return Trainer(model, lanes, config, on_record=on_record, validate_at=validate_at, on_pause=on_pause)


def weights_of(model: LanguageModel) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.named_parameters()}


def names_in(model: LanguageModel, parameters: list[Tensor]) -> list[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return sorted(names[id(p)] for p in parameters)


# Optimisers

EVERYTHING: dict[str, Any] = {
    "compressor": "dilated",
    "compression_loss": "auto-encoding",
    "positions": "separate",
}


@pytest.mark.parametrize(
    "settings", [{}, EVERYTHING, {"compressed_memory": 0}, {"compressor": "max"}], ids=str
)
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_parameter_has_one_optimiser(settings: dict[str, Any], name: Any):
    model = new_model(**settings)
    parts = Optimizer(model, OptimizerConfig(name=name)).parts
    held = [p for part in parts for group in part.param_groups for p in group["params"]]
    assert names_in(model, held) == sorted(name for name, _ in model.named_parameters())
    assert isinstance(parts[0], torch.optim.AdamW)
    assert len(parts) == (2 if name == "muon" else 1)


def test_muon_has_the_matrices_of_the_layers():
    model = new_model(**EVERYTHING, num_layers=1)
    muon = Optimizer(model, OptimizerConfig()).parts[1]
    assert isinstance(muon, Muon)
    assert names_in(model, muon.param_groups[0]["params"]) == [
        "core.layers.0.attention.key.weight",
        "core.layers.0.attention.output.weight",
        "core.layers.0.attention.position_keys.0.weight",
        "core.layers.0.attention.position_keys.1.weight",
        "core.layers.0.attention.query.weight",
        "core.layers.0.attention.value.weight",
        "core.layers.0.feed_forward.down.weight",
        "core.layers.0.feed_forward.up.weight",
    ]


@pytest.mark.parametrize("shapes", [[(8, 8), (8, 8), (24, 8), (8, 24), (24, 8)], [(5, 3)]], ids=str)
def test_muon_is_that_of_torch(shapes: list[tuple[int, int]]):
    """Up to what bfloat16 makes of the last bit: a change has singular values of about the learning rate."""
    random = torch.Generator().manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    theirs = copy.deepcopy(ours)
    a, b = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    before = copy.deepcopy(ours)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=random)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, start in zip(ours, theirs, before, strict=True):
        apart, moved = (p - q).detach().norm(), (q - start).detach().norm()
        assert float(apart) < 0.02 * float(moved)


def test_orthogonalised_matrices_are_nearly_so():
    x = orthogonalised(torch.randn(3, 40, 16, generator=torch.Generator().manual_seed(0))).float()
    assert x.shape == (3, 40, 16)
    for values in torch.linalg.svdvals(x):
        assert 0.5 < float(values.min()) < float(values.max()) < 1.5


@pytest.mark.parametrize("smallest", [1.0, 1e-3, 1e-9])
def test_both_ways_to_orthogonalise_are_one(smallest: float):
    """In float32 to within 0.003 of 1, however unlike the singular values are; bfloat16 comes to 0.1."""
    random = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, n, 32, dtype=torch.float64, generator=random) for n in (32, 80))
    values = smallest ** torch.linspace(0, 1, 32, dtype=torch.float64)
    x = (torch.linalg.qr(left).Q * values) @ torch.linalg.qr(right).Q.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True)
    exact = _by_steps(x)
    torch.testing.assert_close(_by_gram(x), exact, rtol=0, atol=1e-11)
    apart = _by_gram(x.float()).double() - exact
    assert float(torch.linalg.matrix_norm(apart, 2).max()) < 3e-3


def test_the_objectives_are_apart():
    model = new_model(**EVERYTHING, num_layers=1)
    optimizer = Optimizer(model, OptimizerConfig())
    assert names_in(model, list(optimizer.compression)) == [
        "core.layers.0.auto_encoding.decoder.weight",
        "core.layers.0.compressor.kernel.weight",
        "core.layers.0.compressor.taps.0.weight",
        "core.layers.0.compressor.taps.1.weight",
        "core.layers.0.compressor.taps.2.weight",
    ]
    assert len(optimizer.main) + len(optimizer.compression) == len(list(model.parameters()))


def test_vectors_and_biases_do_not_decay():
    model = new_model()
    adamw = Optimizer(model, OptimizerConfig(weight_decay=0.3)).parts[0]
    names = {id(p): name for name, p in model.named_parameters()}
    for group in adamw.param_groups:
        for p in group["params"]:
            spared = p.ndim < 2 or names[id(p)].endswith(("content_bias", "position_bias"))
            assert group["weight_decay"] == (0 if spared else 0.3)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_factor_scales_every_rate(name: Any):
    optimizer = Optimizer(new_model(), OptimizerConfig(name=name, lr=0.4, muon_lr=0.8))
    for factor in (0.5, 0.25, 1.0):  # of the peak, and not of the last
        optimizer.set_factor(factor)
        rates = {type(part).__name__: {g["lr"] for g in part.param_groups} for part in optimizer.parts}
        assert rates == {"AdamW": {0.4 * factor}} | ({"Muon": {0.8 * factor}} if name == "muon" else {})


def stepped(model: LanguageModel, main: float, compression: float) -> tuple[dict[str, Tensor], list[float]]:
    """Weights after one update with random gradients of this size, and the norms that are told."""
    model = copy.deepcopy(model)
    optimizer, random = Optimizer(model, OptimizerConfig(clip=1.0)), torch.Generator().manual_seed(0)
    compressing = {id(p) for p in optimizer.compression}
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=random) * (compression if id(p) in compressing else main)
    norms = [float(norm) for norm in optimizer.clip()]
    optimizer.step()
    optimizer.clear()
    assert all(p.grad is None for p in model.parameters())
    return weights_of(model), norms


def test_clipping_the_one_objective_leaves_the_other_alone():
    model = new_model()
    plain, plain_norms = stepped(model, 1e-3, 1e-3)
    huge_aux, aux_norms = stepped(model, 1e-3, 1e6)
    huge_main, _ = stepped(model, 1e6, 1e-3)
    for name, x in plain.items():
        if ".compressor." in name:
            assert huge_main[name].equal(x)
        else:
            assert huge_aux[name].equal(x)
    assert aux_norms == pytest.approx([plain_norms[0], plain_norms[1] * 1e9], rel=1e-5)


def test_gradients_are_clipped():
    """AdamW's first moment tells how large it took the gradients."""
    model = new_model()
    optimizer = Optimizer(model, OptimizerConfig(name="adamw", clip=0.5))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.clip()
    optimizer.step()
    for parameters in (optimizer.main, optimizer.compression):
        moments = [optimizer.parts[0].state[p]["exp_avg"] / 0.1 for p in parameters]
        assert float(torch.cat([m.flatten() for m in moments]).norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("warmup", [0, 1, 10])
@pytest.mark.parametrize("final", [0.0, 0.1])
@pytest.mark.parametrize(("schedule", "quarter"), [("linear", 0.75), ("cosine", 0.5 + 0.125**0.5)])
def test_the_learning_rate_rises_linearly_and_ends_with_the_budget(
    warmup: int, final: float, schedule: Any, quarter: float
):
    config = OptimizerConfig(warmup_steps=warmup, final_lr=final, schedule=schedule)
    rates = [learning_rate_factor(step / 100, step, config) for step in range(101)]
    assert rates[100] == pytest.approx(final)
    assert learning_rate_factor(1.5, 100, config) == pytest.approx(final)  # minutes may be overrun
    assert learning_rate_factor(0.5, 100, config) == pytest.approx((1 + final) / 2)
    assert learning_rate_factor(0.25, 100, config) == pytest.approx(final + (1 - final) * quarter)
    for step in range(warmup):
        expected = learning_rate_factor(step / 100, 10**6, config) * (step + 1) / warmup
        assert rates[step] == pytest.approx(expected)
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
    assert max(rates) <= 1


# The loop


def test_the_memory_is_carried_and_has_no_history():
    model, given = new_model(), []
    model.register_forward_pre_hook(lambda _, arguments: given.append(arguments[:2]))
    trainer = trainer_of(model, steps=6, optimizer=NOT_AT_ALL, reset_documents=False)
    trainer.run()
    assert not any(x.requires_grad for _, memory in given for layer in memory.layers for x in layer[:3])
    # What the last step was given is what one long call over all before leaves.
    with torch.no_grad():
        expected = model(torch.cat([inputs for inputs, _ in given[:5]], dim=1), None).memory
    memory = given[5][1]
    assert memory.position == 40
    assert memory.layers[1].compressed.ne(0).all()
    torch.testing.assert_close(memory.layers, expected.layers, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reset", [True, False])
def test_documents_begin_empty_or_carry_on(reset: bool):
    seen = []
    model = new_model()
    model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[2]))
    trainer = trainer_of(model, data=(b"one", b"two", SENTENCE), steps=8, reset_documents=reset)
    trainer.run()
    assert any(resets is not None for resets in seen) == reset
    assert bool((trainer.memory.document > 0).all()) == reset


def test_a_document_of_every_token():
    trainer = trainer_of(new_model(), data=(b"a",) * 40, steps=5)
    trainer.run()
    assert trainer.memory.document.tolist() == [20, 20]


def gradients_at_updates(trainer: Trainer) -> dict[int, dict[str, Tensor]]:
    """By step, the gradients that each update of a run has."""
    found, clip = {}, trainer.optimizer.clip

    def recording() -> tuple[Tensor, Tensor]:
        parameters = trainer.model.named_parameters()
        found[trainer.step] = {name: p.grad.clone() for name, p in parameters if p.grad is not None}
        return clip()

    trainer.optimizer.clip = recording
    trainer.run()
    return found


def gradients_of_steps(trainer: Trainer, steps: int) -> list[dict[str, Tensor]]:
    """Of each step alone, the weights as they are."""
    model, found = trainer.model.train(), []
    names, parameters = zip(*model.named_parameters(), strict=True)
    for _ in range(steps):
        batch = next(trainer.lanes)
        output = model(batch.inputs, trainer.memory, batch.resets)
        loss = next_token_loss(output.logits, batch.targets) + output.compression_loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        found.append(dict(zip(names, gradients, strict=True)))
        trainer.memory = output.memory.detach()
    return found


def test_an_update_has_the_mean_gradient_of_its_period():
    settings: dict[str, Any] = {
        "steps": 7,
        "optimizer": {**NOT_AT_ALL, "update_period": 3, "update_period_from": 1},
    }
    got = gradients_at_updates(trainer_of(new_model(), **settings))
    each = gradients_of_steps(trainer_of(new_model(), **settings), 7)
    assert list(got) == [1, 4, 7]
    for step, steps in {1: each[:1], 4: each[1:4], 7: each[4:7]}.items():
        for name, gradient in got[step].items():
            expected = torch.stack([g[name] for g in steps]).mean(0)
            torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
        assert any(".compressor." in name for name in got[step])


@pytest.mark.parametrize(
    ("period", "since", "updates"),
    [
        (1, 0, [1, 2, 3, 4, 5, 6]),
        (2, 0, [2, 4, 6]),
        (4, 0, [4, 6]),  # what the budget leaves of a period is not lost
        (4, 2, [1, 2, 6]),
        (3, 9, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_when_updates_are_due(period: int, since: int, updates: list[int]):
    optimizer = {"update_period": period, "update_period_from": since}
    assert list(gradients_at_updates(trainer_of(new_model(), steps=6, optimizer=optimizer))) == updates


@pytest.mark.parametrize(("loss", "unroll"), [("attention", 1), ("auto-encoding", 1), ("none", 3)], ids=str)
def test_what_teaches_the_compressor(loss: str, unroll: int):
    model = new_model(compression_loss=loss)
    before = weights_of(model)
    trainer_of(model, unroll=unroll, steps=4, optimizer={"weight_decay": 0, "warmup_steps": 0}).run()
    after = weights_of(model)
    compressing = [name for name in before if ".compressor." in name]
    assert compressing
    assert all(after[name].ne(before[name]).any() for name in compressing)
    assert after["head.weight"].ne(before["head.weight"]).any()


@pytest.mark.parametrize(
    ("model", "message"),
    [({"compression_loss": "none"}, "unroll 2"), ({"memory": 0}, "memory 1 or more")],
    ids=str,
)
def test_a_compressor_that_nothing_teaches_is_refused(model: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        TrainConfig(model=ModelConfig(**model))


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_repeated_text_is_learned(name: Any):
    records: list[Progress] = []
    optimizer = {"name": name, "lr": 1e-2, "warmup_steps": 5}
    trainer_of(new_model(), steps=120, optimizer=optimizer, on_record=records.append).run()
    assert records[0].bits_per_token > 6
    assert records[-1].bits_per_token < 3.5


def test_equal_seeds_give_equal_weights():
    def trained(seed: int) -> dict[str, Tensor]:
        model = new_model(seed, dropout=0.2)
        trainer_of(model, data=(SENTENCE, b"x" * 40, SENTENCE[::-1]), steps=8, seed=seed).run()
        return weights_of(model)

    first, again, other = trained(3), trained(3), trained(4)
    assert all(again[name].equal(x) for name, x in first.items())
    assert any(other[name].ne(x).any() for name, x in first.items())


def test_records_say_where_the_run_stands():
    records: list[Progress] = []
    model, losses = new_model(), []
    trainer = trainer_of(model, steps=25, optimizer=NOT_AT_ALL, on_record=records.append)
    trainer.run()
    assert [(r.step, r.tokens, r.done) for r in records] == [(10, 160, 0.4), (20, 320, 0.8), (25, 400, 1.0)]
    fresh = trainer_of(new_model(), steps=25, optimizer=NOT_AT_ALL)
    with torch.no_grad():
        for _ in range(25):
            batch = next(fresh.lanes)
            output = model.train()(batch.inputs, fresh.memory, batch.resets)
            losses.append((next_token_loss(output.logits, batch.targets), output.compression_losses))
            fresh.memory = output.memory
    for record, part in zip(records, (slice(0, 10), slice(10, 20), slice(20, 25)), strict=True):
        bits = torch.stack([loss for loss, _ in losses[part]]).mean() / torch.log(torch.tensor(2.0))
        assert record.bits_per_token == pytest.approx(float(bits), rel=1e-5)
        auxiliary = torch.stack([aux for _, aux in losses[part]]).mean(0)
        assert record.compression_losses == pytest.approx(auxiliary.tolist(), rel=1e-4)
        assert record.gradient_norm > 0


def test_a_loss_that_is_no_number_stops_the_run():
    trainer = trainer_of(new_model(), steps=40, optimizer={"lr": 1e30, "warmup_steps": 0})
    with pytest.raises(UsageError, match=r"use a lower --optimizer\.lr"):
        trainer.run()
    assert trainer.step == 6


# Budgets


def test_steps():
    trainer = trainer_of(new_model(), steps=7)
    trainer.run()
    assert trainer.step == 7


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (16, 1), (17, 2), (160, 10)])
def test_tokens(tokens: int, steps: int):
    trainer = trainer_of(new_model(), tokens=tokens)
    trainer.run()
    assert trainer.step == steps


def test_minutes(monkeypatch: pytest.MonkeyPatch):
    """By a clock that goes on a second whenever it is read."""
    clock = count()
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    trainer = trainer_of(new_model(), minutes=1.0, validate_at=(0.5,))
    trainer.run()
    assert 10 <= trainer.step <= 60
    assert next(clock) < 100


@pytest.mark.parametrize("steps", [1, 4, 5, 30])
def test_checkpoints_come_once_each_and_in_time(steps: int):
    at: list[float] = []

    def evaluating(trainer: Trainer, validate: bool) -> None:
        trainer.model.eval()
        if validate:
            at.append(trainer.done)

    model, modes = new_model(), []
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    trainer_of(model, steps=steps, validate_at=(0.2, 0.4, 0.6, 0.8), on_pause=evaluating).run()
    for fraction in (0.2, 0.4, 0.6, 0.8):
        first = next(step / steps for step in range(1, steps + 1) if step / steps >= fraction)
        assert (first in at) == (first < 1)  # at the end all is scored anyway
    assert len(at) == len(set(at))
    assert modes == [True] * steps


# Settings


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"steps": 1, "tokens": 1}, "steps and tokens are both budgets"),
        ({"minutes": 1.0, "steps": 1, "tokens": 1}, "give one of"),
        ({"steps": 0}, "steps 0"),
        ({"tokens": -1}, "tokens -1"),
        ({"minutes": 0.0}, "minutes 0"),
        ({"minutes": float("nan")}, "minutes nan"),
        ({"lanes": 0}, "lanes 0"),
        ({"unroll": 0}, "unroll 0"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed"),
        ({"model": tiny_config(faithful=True)}, "--no-reset-documents"),
    ],
    ids=str,
)
def test_settings_of_a_run_that_are_refused(settings: dict[str, Any], told: str):
    with pytest.raises(UsageError, match=told):
        TrainConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"muon_lr": -1.0},
        {"clip": 0.0},
        {"weight_decay": -0.1},
        {"warmup_steps": -1},
        {"final_lr": -0.1},
        {"update_period_from": -1},
        {"update_period": 0},
    ],
    ids=str,
)
def test_settings_of_an_optimiser_that_are_refused(settings: dict[str, Any]):
    ((name, value),) = settings.items()
    with pytest.raises(UsageError, match=re.escape(f"{name} {value}")):
        OptimizerConfig(**settings)
