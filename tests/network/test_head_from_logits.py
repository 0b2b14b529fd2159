"""The head of given features and logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diversify as dv
from diversify import InputError, LinearHead


def features_of(rows: int = 60, width: int = 6) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, width)


def head_of(outputs: int = 3, width: int = 6, *, single: bool = False) -> LinearHead:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(outputs, width, generator=generator) / torch.logspace(-2, 2, width)
    return LinearHead(weight=weight, bias=torch.randn(outputs, generator=generator), single_logit=single)


def test_the_head_of_the_logits_is_found():
    features, head = features_of(), head_of()
    found = dv.head_from_logits(features.numpy(), head.logits(features).double())
    torch.testing.assert_close(found.weight, head.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.bias, head.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounded_logits(dtype):
    features, head = features_of(400), head_of()
    found = dv.head_from_logits(features, head.logits(features).to(dtype))
    torch.testing.assert_close(found.logits(features), head.logits(features), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_a_single_logit(shape):
    features, head = features_of(), head_of(1, single=True)
    found = dv.head_from_logits(features, head.logits(features)[:, 1].reshape(shape))
    assert found.single_logit
    torch.testing.assert_close(found.logits(features), head.logits(features), rtol=1e-4, atol=1e-4)


def test_a_feature_that_never_varies_gets_no_weight():
    features, head = features_of(), head_of()
    features[:, 2] = 5.0
    found = dv.head_from_logits(features, head.logits(features))
    assert found.weight[:, 2].tolist() == [0.0] * 3
    torch.testing.assert_close(found.logits(features), head.logits(features), rtol=1e-4, atol=1e-4)


def test_a_feature_that_varies_in_one_row_alone():
    features, head = features_of(400), head_of()
    features[:, 1] = 0.0
    features[37, 1] = 3.0
    found = dv.head_from_logits(features, head.logits(features))
    torch.testing.assert_close(found.weight, head.weight, rtol=1e-3, atol=1e-5)


REFUSED = {
    "log-probabilities": (lambda f, h: (f, h.logits(f).log_softmax(1)), "logits must be W f \\+ b of the features"),
    "probabilities": (lambda f, h: (f, h.logits(f).softmax(1)), "logits must be W f \\+ b of the features"),
    "a cosine head": (
        lambda f, h: (f, LinearHead(weight=h.weight, bias=h.bias, cosine=True, scale=9.0).logits(f)),
        "logits must be W f \\+ b of the features",
    ),
    "noise": (lambda f, h: (f, h.logits(f) + torch.randn(60, 3)), "logits must be W f \\+ b of the features"),
    "features that repeat": (
        lambda f, h: (torch.cat([f, f[:, :1]], 1), h.logits(f)),
        "features must determine the head of the logits, got 6 of 7 that do not depend on others",
    ),
    "few rows": (
        lambda f, h: (f[:16], h.logits(f)[:16]),
        "features must have at least 17 rows to find the head of the logits, got 16",
    ),
    "the same logits in every row": (
        lambda f, h: (f, torch.zeros(60, 3)),
        "logits must differ from row to row, got the same in every row; pass head=FILE",
    ),
    "other rows": (lambda f, h: (f, h.logits(f)[:9]), "logits must have one row per row of features, 60, got 9"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_head_gives_is_refused(make, message):
    torch.manual_seed(0)
    with pytest.raises(InputError, match=f"^{message}"):
        dv.head_from_logits(*make(features_of(), head_of()))


def test_arrays_of_a_single_logit_are_two_classes():
    features, head = features_of(), head_of(1, single=True)
    logit = head.logits(features)[:, 1]
    labels = (logit > 0).long()
    for logits, given in (
        (logit, None),
        (logit[:, None].numpy(), head),
        (None, LinearHead(weight=head.weight[1:], bias=head.bias[1:])),
    ):
        found = dv.Embeddings.from_arrays(features, labels, head=given, logits=logits)
        torch.testing.assert_close(found.logits, head.logits(features))


LABELS = torch.arange(60) % 2


@pytest.mark.parametrize(
    "labels",
    [LABELS.bool(), LABELS.float(), LABELS.double()[:, None], LABELS.bool().numpy(), LABELS.float().numpy()[:, None]],
)
def test_labels_of_two_classes_in_any_form(labels):
    found = dv.Embeddings.from_arrays(features_of(), labels, head=head_of(1, single=True))
    assert torch.equal(found.labels, LABELS)


@pytest.mark.parametrize("label", [0.5, torch.inf, torch.nan, 1e300])
def test_labels_that_are_no_classes(label):
    labels = LABELS.double()
    labels[3] = label
    for each in (labels, labels.numpy()):
        with pytest.raises(InputError, match="labels must be integers in 1 dimension, got float64"):
            dv.Embeddings.from_arrays(features_of(), each, head=head_of(1, single=True))


@pytest.mark.parametrize(
    "labels", [["no", "yes"] * 30, np.array(["no", "yes"] * 30, dtype=object), torch.eye(2)[LABELS]]
)
def test_labels_that_are_text_or_one_hot(labels):
    head, names = head_of(1, single=True), ["no", "yes"]
    assert torch.equal(dv.Embeddings.from_arrays(features_of(), labels, head=head, class_names=names).labels, LABELS)
    if not isinstance(labels, torch.Tensor):
        with pytest.raises(InputError, match="labels must be class indices where no class names are known"):
            dv.Embeddings.from_arrays(features_of(), labels, head=head)
