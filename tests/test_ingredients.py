"""The slots of the loop that a plan fills: each is called as it says, saved, and resumed."""

import dataclasses
import math

import pytest
import torch
from test_training import CLASSES, COUNT, RECIPE, Pictures, digest, make_net, message_of, timeless, train, val_loader
from torch import nn

from diversify.training import Ingredients, evaluate, fit

CORRECTION = torch.tensor([0.25, -1.0, 3.0])


class Told:
    """Notes what it is told about epochs."""

    def __init__(self):
        self.epochs = []

    def __call__(self, images, targets, key):
        return images, targets


class ToldOne(Told):
    def set_epoch(self, epoch):
        self.epochs.append(epoch)


class ToldBoth(Told):
    def set_epoch(self, epoch, epochs=None):
        self.epochs.append((epoch, epochs))


def test_a_part_is_told_the_epoch_and_how_many_there_are_if_it_asks():
    one, both, features = ToldOne(), ToldBoth(), ToldBoth()
    train(ingredients=Ingredients(augment=one, augment_features=features, adapt=None))
    train(ingredients=Ingredients(augment=both))
    assert one.epochs == [0, 1, 2, 3]
    assert both.epochs == features.epochs == [(epoch, 4) for epoch in range(4)]


class Counting:
    """An adaptation that counts what it sees, and raises the brightness of another part by it."""

    def __init__(self, part):
        self.part, self.seen, self.updates = part, torch.zeros(CLASSES, dtype=torch.int64), []

    def observe(self, labels, predicted):
        assert labels.shape == predicted.shape
        self.seen += torch.bincount(labels, minlength=CLASSES)

    def update(self, epoch):
        self.updates.append((epoch, self.seen.tolist()))
        self.part.by += 0.1

    def state_dict(self):
        return {"seen": self.seen.clone(), "by": self.part.by}

    def load_state_dict(self, state):
        self.seen, self.part.by = state["seen"].clone(), state["by"]


class Brighter:
    def __init__(self):
        self.by = 0.0

    def __call__(self, images, targets, key):
        return images + self.by, targets


def adapted():
    part = Brighter()
    return Ingredients(augment=part, adapt=Counting(part))


def test_an_adaptation_sees_every_image_and_is_resumed_with_its_tensors(tmp_path):
    ingredients = adapted()
    whole, history = train(ingredients=ingredients)
    of_classes = torch.bincount(Pictures().labels, minlength=CLASSES)
    assert ingredients.adapt.updates == [(epoch, ((epoch + 1) * of_classes).tolist()) for epoch in range(4)]
    state = tmp_path / "state.safetensors"
    loop = fit(make_net(), Pictures(), recipe=RECIPE, num_classes=CLASSES, ingredients=adapted(), state=state)
    assert next(loop).epoch == 0
    assert next(loop).epoch == 1
    loop.close()
    resumed, again = train(ingredients=adapted(), state=state)
    assert digest(resumed) == digest(whole)
    assert timeless(again) == timeless(history)


def test_a_correction_after_training_is_folded_in_once_and_seen_by_every_look_at_val(tmp_path):
    plain, before = train(val=val_loader())
    state = tmp_path / "state.safetensors"

    def corrected():
        ingredients = Ingredients(after=lambda: CORRECTION)
        return train(ingredients=ingredients, val=val_loader(), state=state)

    net, history = corrected()
    assert torch.equal(net[-1].bias, plain[-1].bias - CORRECTION)
    assert torch.equal(net[-1].weight, plain[-1].weight)
    assert [record.loss for record in history] == [record.loss for record in before]
    assert history[-1].recall_val == evaluate(net, val_loader(), num_classes=CLASSES).tolist()
    assert [record.recall_val for record in history] != [record.recall_val for record in before]
    again, _ = corrected()
    assert digest(again) == digest(net)


def test_an_early_look_at_a_corrected_network_leaves_its_bias_to_the_bit():
    biases = []
    plain = []
    for kept, after in ((biases, lambda: CORRECTION / 3), (plain, None)):
        net = make_net()
        for _ in fit(
            net, Pictures(), recipe=RECIPE, num_classes=CLASSES, ingredients=Ingredients(after=after), val=val_loader()
        ):
            kept.append(net[-1].bias.detach().clone())
    assert all(torch.equal(one, other) for one, other in zip(biases[:-1], plain[:-1], strict=True))
    assert not torch.equal(biases[-1], plain[-1])


class Cosine(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(CLASSES, 32))

    def forward(self, features):
        return 8 * nn.functional.linear(nn.functional.normalize(features), nn.functional.normalize(self.weight))


def with_head(head):
    return nn.Sequential(*list(make_net())[:-1], head)


@pytest.mark.parametrize(
    ("head", "got"), [(nn.Linear(32, CLASSES, bias=False), "one without a bias"), (Cosine(), "Cosine")]
)
def test_a_correction_that_no_bias_can_take_is_refused_before_training(head, got):
    net = with_head(head)
    before = digest(net)
    message = message_of(lambda: train(net=net, ingredients=Ingredients(after=lambda: CORRECTION)))
    assert message == (
        "head must be a linear layer with a bias, for a prior correction after training, got "
        f"{got}; leave the correction after training out, and correct in training instead"
    )
    assert digest(net) == before


class Remembering:
    """Keeps the features it is shown, and moves the logits of the true class."""

    def __init__(self):
        self.shown, self.weights = [], []

    def remember(self, features, targets, indices):
        assert not features.requires_grad
        self.shown.append((features.shape, targets.tolist(), indices.tolist()))

    def __call__(self, features, targets, key):
        return features, targets

    def adjust_logits(self, logits, targets, weight):
        self.weights.append(weight)
        return logits - 2 * nn.functional.one_hot(targets, CLASSES)


def test_features_are_shown_before_they_are_augmented_and_logits_adjusted_for_the_loss_alone():
    part = Remembering()
    net, history = train(ingredients=Ingredients(augment_features=part), recipe=dataclasses.replace(RECIPE, epochs=1))
    _, plain = train(recipe=dataclasses.replace(RECIPE, epochs=1))
    assert [shape for shape, *_ in part.shown] == [(8, 32)] * 5 + [(1, 32)]
    indices = [index for *_, batch in part.shown for index in batch]
    assert sorted(indices) == list(range(COUNT))
    labels = Pictures().labels.tolist()
    assert [label for _, batch, _ in part.shown for label in batch] == [labels[index] for index in indices]
    assert len(part.weights) == math.ceil(COUNT / 8)
    assert all(weight is net[-1].weight for weight in part.weights)
    assert history[0].loss > plain[0].loss + 0.5


def test_a_head_that_is_not_linear_keeps_its_logits_as_they_are():
    part = Remembering()
    train(net=with_head(Cosine()), ingredients=Ingredients(augment_features=part))
    assert part.shown
    assert not part.weights


class Shifting(nn.Module):
    """A module with a buffer: moved to the device, saved and resumed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, images, targets, key):
        self.calls += 1
        return images + self.calls / 50, targets


def test_a_module_is_resumed_with_its_buffers(tmp_path):
    whole, _ = train(ingredients=Ingredients(augment=Shifting()))
    state = tmp_path / "state.safetensors"
    loop = fit(
        make_net(),
        Pictures(),
        recipe=RECIPE,
        num_classes=CLASSES,
        ingredients=Ingredients(augment=Shifting()),
        state=state,
    )
    next(loop)
    loop.close()
    resumed, _ = train(ingredients=Ingredients(augment=Shifting()), state=state)
    assert digest(resumed) == digest(whole)
