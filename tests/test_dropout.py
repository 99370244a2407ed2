"""Dropout of whole features."""

import torch

from compressive_transformer.nn.dropout import Dropout
from tiny import tiny_model


def test_a_variational_mask_is_the_same_for_all_tokens_of_a_row():
    torch.manual_seed(0)
    x = torch.rand(3, 50, 40) + 1
    y = Dropout(0.25, variational=True)(x)
    dropped = y == 0
    assert (dropped == dropped[:, :1]).all()
    assert not dropped[0].equal(dropped[1])
    assert 0.1 < dropped[:, 0].float().mean() < 0.4
    torch.testing.assert_close(y[~dropped], (x / 0.75)[~dropped])


def test_usual_masks_differ_from_token_to_token():
    y = Dropout(0.5)(torch.ones(1, 50, 40))
    assert not (y == y[:, :1]).all()


def test_nothing_is_dropped_in_evaluation():
    x = torch.rand(2, 3, 4)
    assert Dropout(0.9, variational=True).eval()(x) is x


def test_a_model_can_have_it():
    model = tiny_model(dropout=0.5, variational_dropout=True).train()
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    assert not model(tokens).logits.equal(model(tokens).logits)
    masks = [m for m in model.modules() if isinstance(m, Dropout)]
    assert len(masks) == 1 + 2 * model.config.num_layers - model.config.num_layers
    assert all(mask.variational for mask in masks)
