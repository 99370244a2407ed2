"""Plain and adaptive vocabularies, beside the formulas written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressive_transformer import LanguageModel, ModelConfig, UsageError
from compressive_transformer.checkpoint import check_shapes
from compressive_transformer.checkpoint.run import save_weights
from compressive_transformer.data import Lanes
from compressive_transformer.formulas import vocabulary_parameters
from compressive_transformer.nn.vocabulary import AdaptiveHead, Head
from compressive_transformer.train import TrainConfig, Trainer
from tiny import SENTENCE, corpus_of, tiny_config, tiny_model

CUTOFFS, FACTOR, VOCAB = (5, 12), 2, 30


def adaptive_model() -> LanguageModel:
    return tiny_model(adaptive_cutoffs=CUTOFFS, adaptive_factor=FACTOR, vocab_size=VOCAB)


def tables(model: LanguageModel) -> tuple[Tensor, list[tuple[int, Tensor, Tensor]]]:
    """The first cluster and the rows that choose a cluster; (first token, narrow, table) of the others."""
    assert isinstance(model.head, AdaptiveHead)
    head, *tails = [p.detach() for p in model.head.parameters()]
    return head, list(zip(CUTOFFS, tails[::2], tails[1::2], strict=True))


def test_an_adaptive_softmax_chooses_a_cluster_and_then_a_word():
    torch.manual_seed(0)
    model = adaptive_model()
    head, clusters = tables(model)
    x = torch.randn(model.config.dim)
    first = (head @ x).softmax(0)
    expected = list(first[: CUTOFFS[0]])
    for i, (_, narrow, table) in enumerate(clusters):
        expected += list(first[CUTOFFS[0] + i] * (table @ (narrow @ x)).softmax(0))
    torch.testing.assert_close(model.head(x[None, None]).exp()[0, 0], torch.stack(expected))
    targets = torch.arange(VOCAB)[None]
    losses = model.head.losses(x.expand(1, VOCAB, -1), targets)
    torch.testing.assert_close(losses[0], -torch.stack(expected).log())


def test_an_adaptive_embedding_is_the_softmax_read_backwards():
    model = adaptive_model()
    head, clusters = tables(model)
    expected = [head[token] for token in range(CUTOFFS[0])]
    for _, narrow, table in clusters:
        expected += [narrow.T @ row for row in table]
    found = model.embedding(torch.arange(VOCAB).view(2, -1)).flatten(0, 1)
    torch.testing.assert_close(found, torch.stack(expected) * model.config.dim**0.5)


@pytest.mark.parametrize("settings", [{}, {"adaptive_cutoffs": CUTOFFS}])
def test_losses_are_those_of_the_logits_and_nothing_where_there_is_no_target(settings: dict[str, Any]):
    model = tiny_model(vocab_size=VOCAB, **settings)
    tokens = torch.randint(VOCAB, (3, 9))
    targets = torch.randint(VOCAB, (3, 9))
    targets[1, 2:] = -1
    logits = model(tokens).logits
    wanted = -logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    wanted[1, 2:] = 0
    torch.testing.assert_close(model(tokens, targets=targets).losses, wanted)


def test_half_precision_features_give_exact_losses():
    for head in (Head(8, VOCAB), AdaptiveHead(8, VOCAB, CUTOFFS, FACTOR)):
        features, targets = torch.randn(2, 3, 8), torch.randint(VOCAB, (2, 3))
        with torch.autocast("cpu", torch.bfloat16):
            losses = head.losses(features.bfloat16(), targets)
        assert losses.dtype == torch.float32
        torch.testing.assert_close(losses, head.losses(features, targets), atol=0.1, rtol=0.05)


def test_every_weight_learns_whatever_words_come():
    model = adaptive_model()
    tokens = torch.zeros(2, 5, dtype=torch.int64)  # no word of a later cluster
    model(tokens, targets=tokens).losses.mean().backward()
    lacks = [name for name, p in model.named_parameters() if p.grad is None and "compressor" not in name]
    assert lacks == []


def test_an_adaptive_model_trains_and_is_saved(tmp_path: Path):
    corpus = corpus_of(SENTENCE * 20)
    config = TrainConfig(
        model=tiny_config(adaptive_cutoffs=(50, 100)), steps=30, lanes=2, reset_documents=False
    )
    model = LanguageModel(config.model, vocab_size=257)
    assert vocabulary_parameters(config.model, 257) == sum(p.numel() for p in model.head.parameters())
    trainer = Trainer(model, Lanes(corpus, num_lanes=2, length=config.model.segment, seed=0), config)
    losses: list[float] = []
    trainer.on_record = lambda progress: losses.append(progress.bits_per_token)
    trainer.run()
    assert losses[-1] < losses[0] - 1
    save_weights(tmp_path, model.state_dict())
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    check_shapes(config.model, 257, shapes, tmp_path)
    for other, vocab_size in ((tiny_config(), 257), (config.model, 256), (tiny_config(dim=8), 257)):
        with pytest.raises(UsageError, match="is not of the model"):
            check_shapes(other, vocab_size, shapes, tmp_path)


@pytest.mark.parametrize("cutoffs", [(5, 5), (9, 3), (0, 4), (-2,)])
def test_cutoffs_must_rise(cutoffs: tuple[int, ...]):
    with pytest.raises(UsageError, match="must rise"):
        ModelConfig(adaptive_cutoffs=cutoffs)


def test_cutoffs_lie_within_the_vocabulary():
    with pytest.raises(UsageError, match="vocabulary of 30; use less"):
        tiny_model(vocab_size=30, adaptive_cutoffs=(5, 30))
