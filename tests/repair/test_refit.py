"""A refitted head is the minimum of the class-balanced loss, whatever the unit of its rows, with unseen rows or without."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional

import diversify as dv
from diversify.errors import InputError
from diversify.network.embeddings import Embeddings
from diversify.repair.refit import refit_by_penalty


@pytest.fixture(scope="module")
def sides():
    return dv.make_embeddings((120, 60, 30, 12))


def _shares(labels, classes):
    return (1 / (classes * torch.bincount(labels, minlength=classes).double()))[labels]


def test_the_head_is_that_of_scikit_learn(sides):
    train, heldout, head = sides
    weight = _shares(train.labels, 4)
    effective = 1 / float(weight.square().sum())
    spread = float((train.features - train.features.mean(0)).square().sum(1).mean().sqrt())
    known = LogisticRegression(C=effective / 0.05, tol=1e-8, max_iter=2000)  # of weights that sum to 1
    known.fit(train.features.double().numpy() / spread, train.labels.numpy(), sample_weight=weight.numpy())
    wanted = known.predict_proba(heldout.features.double().numpy() / spread)
    found = dv.refit_head(train, head, penalty=0.05).logits(heldout.features).softmax(1)
    assert np.abs(found.numpy() - wanted).max() < 0.01


def test_the_slope_is_zero_where_it_ends_with_unseen_rows_and_without_a_bias(sides):
    train, heldout, head = sides
    head = dataclasses.replace(head, bias=torch.zeros(4), has_bias=False)
    found = dv.refit_head(train, head, unseen=heldout, unseen_share=0.6, penalty=0.1)
    assert not bool(found.bias.any())
    on_unseen = 0.6 * 50 / 60  # 50 held-out images of every class
    rows = torch.cat([train.features, heldout.features]).double()
    labels = torch.cat([train.labels, heldout.labels])
    weight = torch.cat([(1 - on_unseen) * _shares(train.labels, 4), on_unseen * _shares(heldout.labels, 4)])
    scale = float(rows.square().sum(1).mean().sqrt())
    values = (found.weight.double() * scale).requires_grad_()
    loss = (weight * functional.cross_entropy(rows / scale @ values.T, labels, reduction="none")).sum()
    (loss + 0.05 * float(weight.square().sum()) * values.square().sum()).backward()
    assert float(values.grad.abs().max()) < 1e-3


def test_neither_unit_nor_place_of_the_features_matters(sides):
    train, heldout, head = sides
    moved = dataclasses.replace(train, features=1000 * train.features + 500)
    logits = dv.refit_head(train, head).logits(heldout.features)
    same = dv.refit_head(moved, head).logits(1000 * heldout.features + 500)
    torch.testing.assert_close(same.softmax(1), logits.softmax(1), atol=0.02, rtol=0)
    for unit in (1e-25, 1e19):
        other = dv.refit_head(dataclasses.replace(train, features=unit * train.features), head)
        torch.testing.assert_close(
            other.logits(unit * heldout.features).softmax(1), logits.softmax(1), atol=0.02, rtol=0
        )


def test_unseen_rows_without_weight_change_nothing(sides):
    train, heldout, head = sides
    found = dv.refit_head(train, head, unseen=heldout, unseen_share=0)
    assert torch.equal(found.weight, dv.refit_head(train, head).weight)


def test_two_classes_in_one_logit_or_two():
    train, heldout, _ = dv.make_embeddings((80, 20))
    two = dv.LinearHead(weight=torch.zeros(2, 16), bias=torch.zeros(2))
    one = dv.LinearHead(weight=torch.zeros(1, 16), bias=torch.zeros(1), single_logit=True)
    found, single = (dv.refit_head(train, each) for each in (two, one))
    assert single.single_logit
    torch.testing.assert_close(found.logits(heldout.features).softmax(1), single.logits(heldout.features).softmax(1))
    spread = train.features - train.features.mean(0)
    weight = _shares(train.labels, 2)
    known = LogisticRegression(C=2 / 0.03 / float(weight.square().sum()), tol=1e-8, max_iter=2000)
    rows = spread.double().numpy() / float(spread.square().sum(1).mean().sqrt())
    known.fit(rows, train.labels.numpy(), sample_weight=weight.numpy())
    wanted = torch.from_numpy(known.predict_proba(rows)).float()
    torch.testing.assert_close(found.logits(train.features).softmax(1), wanted, atol=0.02, rtol=0)


def test_a_class_without_training_rows_is_learned_from_its_unseen_ones(sides):
    train, heldout, head = sides
    without = train.select(train.labels != 3)
    assert not bool((dv.refit_head(without, head).logits(heldout.features).argmax(1) == 3).any())
    found = dv.refit_head(without, head, unseen=heldout, unseen_share=0.1).logits(heldout.features).argmax(1)
    assert float((found[heldout.labels == 3] == 3).float().mean()) > 0.8


def test_each_class_may_have_a_share_of_its_own(sides):
    train, heldout, head = sides
    mixed = dv.refit_head(train, head, unseen=heldout, unseen_share=[0.0, 0.0, 0.0, 1.0])
    weight = torch.cat([_shares(train.labels, 4), torch.zeros(len(heldout), dtype=torch.float64)])
    on_unseen = 50 / 60  # the fourth class has 12 training rows and 50 unseen ones
    weight[: len(train)][train.labels == 3] *= 1 - on_unseen
    weight[len(train) :][heldout.labels == 3] = on_unseen / 50 / 4
    features, labels = torch.cat([train.features, heldout.features]), torch.cat([train.labels, heldout.labels])
    used = weight > 0
    centre = features.mean(0)
    scale = float((features - centre).square().sum(1).mean().sqrt())
    known = LogisticRegression(C=1 / 0.03 / float(weight.square().sum()), tol=1e-8, max_iter=2000)
    known.fit(
        ((features - centre) / scale)[used].double().numpy(), labels[used].numpy(), sample_weight=weight[used].numpy()
    )
    wanted = torch.from_numpy(known.predict_proba(((heldout.features - centre) / scale).double().numpy())).float()
    torch.testing.assert_close(mixed.logits(heldout.features).softmax(1), wanted, atol=0.02, rtol=0)
    same = [
        dv.refit_head(train, head, unseen=heldout, unseen_share=share)
        for share in (0.3, [0.3] * 4, torch.full((4,), 0.3), np.full(4, 0.3), {3: 0.3, 2: 0.3, 1: 0.3, 0: 0.3})
    ]
    for one in same[1:]:
        rows = [each.logits(heldout.features).softmax(1) for each in (one, same[0])]
        torch.testing.assert_close(*rows, rtol=0, atol=5e-3)


def test_each_penalty_of_several_gives_the_head_that_it_gives_alone(sides):
    train, heldout, head = sides
    for found, penalty in zip(refit_by_penalty(train, head, [0.3, 0.03]), (0.3, 0.03), strict=True):
        alone = dv.refit_head(train, head, penalty=penalty)
        torch.testing.assert_close(
            found.logits(heldout.features).softmax(1), alone.logits(heldout.features).softmax(1), atol=2e-3, rtol=0
        )


def test_it_goes_back_into_the_module(sides):
    train, heldout, _ = sides
    module = nn.Linear(16, 4)
    found = dv.refit_head(train, module)
    dv.write_head(module, found)
    torch.testing.assert_close(module(heldout.features), found.logits(heldout.features))


def test_what_cannot_be_fitted_is_refused(sides):
    train, _, head = sides
    cosine = dataclasses.replace(head, cosine=True, scale=10.0)
    nothing = train.select(torch.zeros(len(train), dtype=torch.bool))
    for made, law in (
        (lambda: dv.refit_head(train, cosine), "head must be linear, got a cosine head; use dv.retrain_head"),
        (lambda: dv.refit_head(nothing, head), "embeddings must have a row, got 0"),
        (lambda: dv.refit_head(train, head, penalty=0), "penalty must be above 0, and finite, got 0"),
        (lambda: dv.refit_head(train, head, penalty=10**400), "penalty must be above 0, and finite, got 1000"),
        (lambda: dv.refit_head(train, head, penalty=float("nan")), "penalty must be above 0, and finite, got nan"),
        (lambda: dv.refit_head(train, head, unseen_share=2), r"unseen_share must lie in \[0, 1\], got 2"),
        (
            lambda: dv.refit_head(train, head, unseen_share=[0.5, 0.5]),
            "unseen_share must be one number, or 4, one for each class, got 2",
        ),
        (
            lambda: dv.refit_head(train, head, unseen_share=[0.5, 0.5, 0.5, -1]),
            r"unseen_share must lie in \[0, 1\], got -1",
        ),
        (lambda: dv.refit_head(train, head, unseen=train), "unseen must be images that the backbone was not trained"),
        (lambda: dv.refit_head(train, nn.Linear(5, 4)), "head must have the embeddings' 16 features, got 5"),
    ):
        with pytest.raises(InputError, match=f"^{law}"):
            made()


def test_cosine_heads_and_large_sides_are_compared_without_it(sides):
    train, heldout, head = sides
    name = "logistic regression"
    listed = [one.name for one in dv.default_candidates(train, head, unseen=heldout)]
    assert name in listed
    assert f"{name} + unseen" in listed
    cosine = dataclasses.replace(head, cosine=True, scale=10.0)
    assert not [one for one in dv.default_candidates(train, cosine, unseen=heldout) if one.name.startswith(name)]
    rows, classes = 2000, 1200
    many = Embeddings(
        features=torch.zeros(rows, 500),
        labels=torch.arange(rows) % classes,
        logits=torch.zeros(rows, classes),
        indices=torch.arange(rows),
    )
    wide = dv.LinearHead(weight=torch.zeros(classes, 500), bias=torch.zeros(classes))
    found = dv.default_candidates(many, wide)
    assert not [one for one in found if one.name.startswith(name)]
    assert "Logistic regression is not compared: it has 1,200,000,000 rows x features x classes" in found[0].note
