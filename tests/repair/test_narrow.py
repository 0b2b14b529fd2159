"""Narrow classes in the head step: who they are, how they are drawn, and that choose_head tries it only where there are some."""

import dataclasses

import pytest
import torch

import diversify as dv
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.repair.narrow import find_narrow_classes, narrow_plan, narrow_shares
from diversify.repair.unseen_candidates import NARROW, NARROW_BY_UNSEEN


@pytest.fixture(scope="module")
def sides() -> tuple[Embeddings, Embeddings, LinearHead]:
    train, heldout, head = dv.make_embeddings((120, 120, 120, 120, 120), heldout=40, spread=0.5)
    features, own = train.features.clone(), train.labels == 2
    features[own] = features[own].mean(0) + 0.1 * (features[own] - features[own].mean(0))
    return dataclasses.replace(train, features=features, logits=head.logits(features)), heldout, head


def test_a_class_whose_training_rows_lie_close_together_is_narrow(sides) -> None:
    train, heldout, head = sides
    assert find_narrow_classes(train, heldout).tolist() == [False, False, True, False, False]
    found = dv.diagnose(train, heldout, head=head)
    assert [one.class_index for one in found.findings if one.kind == "narrow"] == [2]


def test_it_is_drawn_twice_as_often_and_absent_classes_never(sides) -> None:
    train, _, _ = sides
    plan = narrow_plan(train, torch.tensor([False, False, True, False, False]))
    assert plan.draws.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6])
    few = train.select((train.labels != 4).nonzero()[:, 0])
    assert narrow_plan(few, torch.tensor([False, False, True, False, True])).draws[4] == 0


def test_candidates_have_it_only_where_a_class_is_narrow(sides) -> None:
    train, heldout, head = sides
    recipe = dv.HeadRecipe(steps=5)
    (one,) = [each for each in dv.default_candidates(train, head, unseen=heldout, recipe=recipe) if each.name == NARROW]
    assert one.remade is not None
    assert one.fits_heldout
    made = one.options[""](train, head, 0)
    even = next(
        each
        for each in dv.default_candidates(train, head, unseen=heldout, recipe=recipe)
        if each.name == "even draws + unseen"
    )
    assert not torch.equal(made.weight, next(iter(even.options.values()))(train, head, 0).weight)
    alike = dv.default_candidates(heldout, head, unseen=heldout, recipe=recipe)
    assert NARROW not in [each.name for each in alike]


def test_narrow_classes_learn_most_from_their_held_out_rows(sides) -> None:
    train, heldout, head = sides
    listed = {one.name: one for one in dv.default_candidates(train, head, unseen=heldout)}
    one = listed[NARROW_BY_UNSEEN]
    assert one.fits_heldout
    assert one.remade is not None
    found = one.options["penalty 0.03"](train, head, 0)
    share = narrow_shares(find_narrow_classes(train, heldout))
    assert share.tolist() == [0.5, 0.5, 0.9, 0.5, 0.5]
    wanted = dv.refit_head(train, head, unseen=heldout, unseen_share=share)
    even = dv.refit_head(train, head, unseen=heldout)
    rows = [each.logits(heldout.features).softmax(1) for each in (found, wanted, even)]
    torch.testing.assert_close(rows[0], rows[1], atol=2e-3, rtol=0)
    own = heldout.labels == 2
    missed = [float(1 - each[own, 2].mean()) for each in rows]
    assert missed[0] < 0.8 * missed[2]
    assert NARROW_BY_UNSEEN not in [each.name for each in dv.default_candidates(heldout, head, unseen=heldout)]
