"""The repair of a head for several labels, and what is refused where one label is needed."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.errors import InputError


@pytest.fixture(scope="module")
def sides():
    return dv.make_multilabel_embeddings(images=300, heldout=200)


def test_thresholds_keep_the_ranking_and_raise_f1_of_the_rare_label(sides):
    train, heldout, head = sides
    repair = dv.repair_multilabel(train, head, heldout=heldout)
    assert torch.equal(repair.head.weight, head.weight)
    assert torch.equal(repair.average_precision_after, repair.average_precision_before)
    assert repair.f1_after[3] > repair.f1_before[3]
    predicted = repair.predict(heldout.features)
    assert torch.equal(predicted, head.logits(heldout.features).double() >= repair.thresholds.logit())


def test_gains_are_not_judged_on_rows_that_fitted_them(sides):
    """Labels without any relation to the scores: the best threshold looks better than 0.5 only on its own rows."""
    train, heldout, head = sides
    noise = dataclasses.replace(heldout, labels=heldout.labels.roll(77, 0))
    repair = dv.repair_multilabel(train, head, heldout=noise)
    own = repair.predict(noise.features)
    hits, called = (own & noise.labels).sum(0), own.sum(0)
    assert bool((repair.f1_after < 2 * hits / (noise.labels.sum(0) + called))[1:].all())


@pytest.mark.parametrize("cosine", [False, True])
def test_a_retrained_head_has_a_smaller_training_loss(sides, cosine):
    train, heldout, head = sides
    head = dataclasses.replace(head, cosine=cosine, scale=8.0 if cosine else 1.0)
    loss = dv.MultilabelCrossEntropy(train.labels.sum(0), images=len(train))
    repair = dv.repair_multilabel(train, head, heldout=heldout, loss=loss, steps=40)
    before, after = (float(loss(one.logits(train.features), train.labels)) for one in (head, repair.head))
    assert after < before
    assert repair.head.cosine == cosine


def test_removing_the_prior_moves_the_bias_by_the_log_odds(sides):
    train, heldout, head = sides
    repair = dv.repair_multilabel(train, head, heldout=heldout, prior="remove")
    odds = train.labels.double().mean(0).logit()
    assert torch.allclose(head.bias - repair.head.bias, odds.float(), atol=1e-5)


def test_a_label_with_too_few_positives_keeps_one_half(sides):
    train, heldout, head = sides
    few = heldout.labels.clone()
    few[few[:, 3].nonzero()[3:, 0], 3] = False
    repair = dv.repair_multilabel(train, head, heldout=dataclasses.replace(heldout, labels=few))
    assert repair.fitted.tolist() == [True, True, True, False]
    assert float(repair.thresholds[3]) == 0.5


def test_what_needs_one_label_per_image_refuses_several_by_name(sides):
    train, heldout, head = sides
    diagnosis = dv.diagnose_multilabel(train, heldout, head=head)
    single = dv.make_embeddings()
    plan = dv.make_plan(dv.diagnose(single[0], single[1], head=single[2]))
    for call, name in (
        (lambda: dv.make_plan(diagnosis), "diagnosis"),
        (lambda: dv.diagnose(train, heldout, head=head), "train"),
        (lambda: dv.choose_exhibits(train, heldout, head=head, diagnosis=diagnosis), "train"),
        (lambda: dv.choose_head(train, heldout, head), "train"),
        (lambda: dv.retrain_head(train, head, plan), "embeddings"),
        (lambda: dv.check(diagnosis, worst_recall=0.5), "diagnosis"),
    ):
        with pytest.raises(InputError, match=rf"^{name} must be of images with one label each, got a Multilabel"):
            call()


def test_wrong_arguments_are_refused(sides):
    train, heldout, head = sides
    with pytest.raises(InputError, match="prior must be one of keep, remove"):
        dv.repair_multilabel(train, head, heldout=heldout, prior="drop")
    with pytest.raises(InputError, match="use dv.choose_head"):
        dv.repair_multilabel(dv.make_embeddings()[0], head, heldout=heldout)
