"""Unseen rows in the head step."""

import dataclasses

import pytest
import torch
from torch import Tensor

import diversify as dv
from diversify.augment.features import FeatureAugmenter
from diversify.errors import InputError
from diversify.functional import counts, draws
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.policies import FeaturePolicy
from diversify.repair import unseen as unseen_module
from diversify.repair.candidate import even_plan
from diversify.repair.unseen import UnseenRows, unseen_chances

COUNTS = (200, 80, 30, 10)


@pytest.fixture(scope="module")
def rows() -> tuple[Embeddings, Embeddings, LinearHead]:
    return dv.make_embeddings(COUNTS)


def equal(one: LinearHead, other: LinearHead) -> bool:
    return torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


def plan_of(train: Embeddings) -> dv.Plan:
    return dv.Plan.from_counts(list("abcd"), list(COUNTS))


def test_without_rows_or_share_the_head_is_that_of_the_training_rows(rows) -> None:
    train, heldout, head = rows
    plan = plan_of(train)
    plain = dv.retrain_head(train, head, plan, steps=20)
    none = heldout.select(torch.arange(0))
    assert equal(dv.retrain_head(train, head, plan, unseen=none, steps=20), plain)
    assert equal(dv.retrain_head(train, head, plan, unseen=heldout, unseen_share=0.0, steps=20), plain)
    assert not equal(dv.retrain_head(train, head, plan, unseen=heldout, steps=20), plain)
    again = dv.retrain_head(train, head, plan, unseen=heldout, steps=20)
    assert equal(again, dv.retrain_head(train, head, plan, unseen=heldout, steps=20))


def test_the_share_of_a_class_goes_by_how_many_rows_it_has() -> None:
    assert unseen_chances(torch.tensor([0, 10, 90]), 0.5).tolist() == pytest.approx([0.0, 0.25, 0.45])


@pytest.mark.parametrize("soft", [False, True])
def test_rows_are_replaced_within_their_class(rows, soft: bool) -> None:
    _, heldout, _ = rows
    some = heldout.select((heldout.labels != 1) & ((heldout.labels != 2) | (torch.arange(len(heldout)) % 10 == 0)))
    held = counts.class_counts(some.labels, 4)
    unseen = UnseenRows(some, 1.0, 64, 3, torch.device("cpu"))
    steps = torch.arange(40)
    classes = draws.integers(4, "classes", steps[:, None], torch.arange(64))
    features, targets = torch.full((40, 64, some.num_features), -1.0), classes
    if soft:
        targets = torch.full((40, 64, 4), 0.25)
    made, aims, taken = unseen.replace(features, targets, classes, steps)
    place = {tuple(row.tolist()): int(label) for row, label in zip(some.features, some.labels, strict=True)}
    for c in range(4):
        chance = float(taken[classes == c].float().mean())
        assert chance == pytest.approx(float(held[c] / (held[c] + 10)), abs=0.07 if held[c] else 0.0)
    assert bool((made[~taken] == -1).all())
    assert [place[tuple(row.tolist())] for row in made[taken]] == classes[taken].tolist()
    if soft:
        assert torch.equal(aims[taken].argmax(1), classes[taken])
        assert bool((aims[taken].amax(1) == 1).all())
        assert bool((aims[~taken] == 0.25).all())
    else:
        assert torch.equal(aims, classes)


def test_unseen_rows_mend_magnitudes_that_training_rows_do_not_have(rows) -> None:
    """The training rows of the rarest class are twice as long as those that will be met."""
    train, heldout, head = rows
    longer = torch.where((train.labels == 3)[:, None], 3 * train.features, train.features)
    train = dataclasses.replace(train, features=longer, logits=head.logits(longer))
    odd = torch.arange(len(heldout)) % 2 == 1
    unseen, judged = heldout.select(~odd), heldout.select(odd)
    plan = even_plan(counts.class_counts(train.labels, 4))

    def recall(found: LinearHead) -> float:
        right = found.logits(judged.features).argmax(1) == judged.labels
        return float(counts.class_mean(right.double(), judged.labels, 4).mean())

    without = recall(dv.retrain_head(train, head, plan, steps=60))
    assert recall(dv.retrain_head(train, head, plan, unseen=unseen, steps=60)) > without + 0.03


def test_isda_leaves_the_logits_of_unseen_rows(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    train, heldout, head = rows
    plan = plan_of(train)
    policy = FeaturePolicy(method="isda", strength=1.0, share=1.0)
    classes = tuple(one.model_copy(update={"features": (policy,)}) for one in plan.classes)
    plan = plan.model_copy(update={"classes": classes})
    raised: list[int] = []
    usual = FeatureAugmenter.adjust_logits

    def noted(self: FeatureAugmenter, logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        found = usual(self, logits, targets, weight)
        raised.append(int((found != logits).any(1).sum()))
        return found + torch.nan  # so that a row that takes them shows

    monkeypatch.setattr(FeatureAugmenter, "adjust_logits", noted)
    monkeypatch.setattr(unseen_module, "FEW", 0)
    assert bool(dv.retrain_head(train, head, plan, unseen=heldout, unseen_share=1.0, steps=3).weight.isfinite().all())
    assert max(raised) > 0
    with pytest.raises(InputError, match="^learning_rate must be small enough"):
        dv.retrain_head(train, head, plan, steps=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda train, held: {"unseen": held, "unseen_share": 1.5}, r"^unseen_share must lie in \[0, 1\], got 1\.5$"),
        (lambda train, held: {"unseen_share": True}, r"^unseen_share must lie in \[0, 1\], got True$"),
        (
            lambda train, held: {"unseen": held.features},
            "^unseen must be Embeddings, got Tensor; extract makes them of a model and a loader, ",
        ),
        (
            lambda train, held: {"unseen": dv.make_embeddings((9, 9, 9))[0]},
            "^unseen must have the embeddings' ",
        ),
        (
            lambda train, held: {"unseen": train},
            "^unseen must be images that the backbone was not trained on, got the training rows themselves$",
        ),
    ],
)
def test_unseen_rows_that_cannot_be_are_refused(rows, change, message: str) -> None:
    train, heldout, head = rows
    with pytest.raises(InputError, match=message):
        dv.retrain_head(train, head, plan_of(train), steps=1, **change(train, heldout))
