"""The bank of features from the training loop: which features are kept, when they are used, and wrong inputs."""

import pytest
import torch

from diversify.augment.draw_key import DrawKey
from diversify.augment.rolling_features import RollingFeatureAugmenter
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.embeddings import Embeddings
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, FeaturePolicy, Schedule

LABELS = torch.tensor([0] * 12 + [1] * 5 + [2] * 2)
FEATURES = draws.uniform("bank", torch.arange(19 * 4)).view(19, 4) + LABELS[:, None]
KEY = DrawKey(seed=0, epoch=1, step=0, indices=torch.arange(19))


def plan_of(method="covariance", schedule=None):
    counts = torch.bincount(LABELS).tolist()
    features = (FeaturePolicy(method=method, strength=0.5, share=1.0, neighbors=2),)
    classes = [ClassPlan(name=f"{c}", count=n, draws=n / 19, features=features) for c, n in enumerate(counts)]
    return Plan(classes=tuple(classes), schedule=schedule or Schedule())


def kept(part):
    return part.state_dict()["features"][:-1], part.state_dict()["seen"][:-1]


def test_the_last_features_of_every_example_are_kept_at_its_place():
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    assert part.state_dict() == {}
    part.remember(FEATURES[:5], LABELS[:5], torch.arange(5))
    part.remember(FEATURES[[7, 3, 3]] + torch.tensor([[0], [1], [2]]), LABELS[[7, 3, 3]], torch.tensor([7, 3, 3]))
    features, seen = kept(part)
    assert seen.nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 7]
    assert torch.equal(features[3], FEATURES[3] + 2)
    assert torch.equal(features[[0, 1, 2, 4, 7]], FEATURES[[0, 1, 2, 4, 7]])


def test_images_that_were_mixed_with_another_class_are_left_out():
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    targets = torch.nn.functional.one_hot(LABELS[:6], 3).float()
    targets[2] = torch.tensor([0.7, 0.3, 0.0])
    targets[4] = torch.tensor([0.0, 1.0, 0.0])
    part.remember(FEATURES[:6], targets, torch.arange(6))
    assert kept(part)[1].nonzero()[:, 0].tolist() == [0, 1, 3, 5]


def test_of_many_images_the_small_classes_are_kept_and_the_large_ones_cut_evenly():
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 2, 0])
    part = RollingFeatureAugmenter(plan_of(), labels, most_rows=12)
    part.remember(FEATURES, labels, torch.arange(19))
    features, _ = kept(part)
    order = [int((row == FEATURES).all(1).nonzero()) for row in features]
    assert order == sorted(order)
    assert torch.bincount(labels[order]).tolist() == [5, 5, 2]
    few = RollingFeatureAugmenter(plan_of(), labels, most_rows=1)
    few.remember(FEATURES, labels, torch.arange(19))
    assert len(kept(few)[0]) == 3


def test_it_acts_from_the_first_epoch_in_which_the_schedule_lets_it_and_something_was_seen():
    part = RollingFeatureAugmenter(plan_of(schedule=Schedule(start=0.5)), LABELS)
    acts = []
    for epoch in range(4):
        part.set_epoch(epoch, 4)
        features, targets = part(FEATURES, LABELS, KEY)
        assert torch.equal(targets, LABELS)
        acts.append(not torch.equal(features, FEATURES))
        part.remember(FEATURES, LABELS, torch.arange(19))
    assert acts == [False, False, True, True]
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    part.set_epoch(0, 4)
    assert torch.equal(part(FEATURES, LABELS, KEY)[0], FEATURES)


def test_it_begins_with_embeddings_that_are_of_these_images():
    def embeddings(labels, indices):
        rows = len(labels)
        return Embeddings(features=FEATURES[:rows], labels=labels, logits=torch.zeros(rows, 3), indices=indices)

    part = RollingFeatureAugmenter(plan_of(), LABELS, embeddings=embeddings(LABELS, torch.arange(19)))
    part.set_epoch(0, 4)
    assert not torch.equal(part(FEATURES, LABELS, KEY)[0], FEATURES)
    law = (
        "embeddings must be of the training images, with their places in the data set as indices, got 19 rows of others"
    )
    before = embeddings(LABELS[-1:], torch.tensor([-1]))  # not the last one counted from behind
    with pytest.raises(InputError, match="got 1 rows of others"):
        RollingFeatureAugmenter(plan_of(), LABELS, embeddings=before)
    RollingFeatureAugmenter(plan_of(), LABELS, embeddings=embeddings(LABELS[:0], torch.arange(0))).set_epoch(0, 4)
    for other in (embeddings(LABELS, torch.arange(19) + 1), embeddings(LABELS.flip(0), torch.arange(19))):
        with pytest.raises(InputError, match=law):
            RollingFeatureAugmenter(plan_of(), LABELS, embeddings=other)


def test_other_numbers_of_classes_are_refused_before_anything_was_seen():
    fewer = Plan.untouched(["0", "1"], [12, 5])
    with pytest.raises(InputError, match=r"^plan must have 3 classes, as the one before, got 2$"):
        RollingFeatureAugmenter(plan_of(), LABELS).use(fewer)
    with pytest.raises(InputError, match=r"^labels must lie in \[0, 1\], the classes of the plan, got 0 to 2$"):
        RollingFeatureAugmenter(fewer, LABELS)


def test_the_bank_is_the_whole_state():
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    part.remember(FEATURES, LABELS, torch.arange(19))
    other = RollingFeatureAugmenter(plan_of(), LABELS)
    other.load_state_dict(part.state_dict())
    part.remember(FEATURES[:3] + 1, LABELS[:3], torch.arange(3))
    part.load_state_dict(other.state_dict())
    for each in (part, other):
        each.set_epoch(1, 4)
    assert torch.equal(part(FEATURES, LABELS, KEY)[0], other(FEATURES, LABELS, KEY)[0])


def test_another_plan_is_followed_at_once_and_in_later_epochs():
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    part.remember(FEATURES, LABELS, torch.arange(19))
    part.set_epoch(1, 4)
    nothing = Plan(classes=tuple(one.model_copy(update={"features": ()}) for one in plan_of().classes))
    part.use(nothing)
    assert part.plan == nothing
    for epoch in (1, 2):
        assert torch.equal(part(FEATURES, LABELS, KEY)[0], FEATURES)
        part.set_epoch(epoch, 4)


def test_everything_is_on_the_device_of_the_features_from_the_first_batch_on():
    part = RollingFeatureAugmenter(plan_of(), LABELS)
    meta = [values.to("meta") for values in (FEATURES, torch.nn.functional.one_hot(LABELS, 3).float())]
    part.remember(*meta, torch.arange(19))
    assert {part._bank.device.type, part._seen.device.type, part._place.device.type} == {"meta"}
