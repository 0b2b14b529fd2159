"""A head fitted on features is the minimum of its loss, and is the same each time."""

import pytest
import torch
from torch.nn import functional

import diversify as dv
from diversify.errors import InputError
from diversify.repair.fit_head import WEIGHT_DECAY, fit_head


def test_the_gradient_of_the_loss_is_zero_where_it_ends():
    train, _, _ = dv.make_embeddings((60, 30, 12))
    head = fit_head(train.features, train.labels, 3)
    scale = train.features.double().square().mean().sqrt()
    weight, bias = (value.double().requires_grad_() for value in (head.weight * float(scale), head.bias))
    loss = functional.cross_entropy(train.features.double() / scale @ weight.T + bias, train.labels)
    (loss + 0.5 * WEIGHT_DECAY * weight.square().sum()).backward()
    assert float(weight.grad.abs().max()) < 1e-3
    assert float(bias.grad.abs().max()) < 1e-3


def test_it_depends_on_nothing_but_its_rows_whatever_their_unit():
    train, heldout, _ = dv.make_embeddings((60, 30, 12))
    head, again = (fit_head(train.features, train.labels, 3) for _ in range(2))
    assert torch.equal(head.weight, again.weight)
    larger = fit_head(train.features * 100, train.labels, 3)
    logits, same = head.logits(heldout.features), larger.logits(heldout.features * 100)
    torch.testing.assert_close(same, logits, atol=0.05, rtol=0.01)


@pytest.mark.parametrize(
    ("features", "labels", "law"),
    [
        (torch.zeros(0, 2), torch.zeros(0), "features must have shape (N, D) with at least one row, got (0, 2)"),
        (torch.zeros(2, 2), torch.zeros(3), "labels must have one label per row, 2, got (3,)"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, labels, law):
    with pytest.raises(InputError) as caught:
        fit_head(features, labels.long(), 2)
    assert str(caught.value) == law


def test_labels_and_features_in_other_forms():
    train, _, _ = dv.make_embeddings((60, 30, 12))
    head = fit_head(train.features, train.labels, 3)
    one_hot = functional.one_hot(train.labels, 3)
    for labels in (train.labels.tolist(), train.labels.numpy(), train.labels[:, None].double(), one_hot):
        assert torch.equal(fit_head(train.features.numpy(), labels, 3).weight, head.weight)
