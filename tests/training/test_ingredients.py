"""The parts of the loop that a plan fills: each is called as documented, saved, and resumed.

Run under torchrun as a script, `DIR`, it is one of two processes that train by a plan.
"""

import dataclasses
import math
import os
import sys
import typing
from pathlib import Path

import pytest
import torch
from processes import end
from test_loop import (
    CLASSES,
    COUNT,
    RECIPE,
    Noisy,
    Pictures,
    digest,
    make_net,
    message_of,
    start,
    timeless,
    train,
    val_loader,
)
from torch import nn

from diversify.augment.draw_key import CropFlip
from diversify.augment.sampler import DiversifySampler
from diversify.files import atomic, digests
from diversify.functional.losses import prior_corrected_cross_entropy
from diversify.plan.adaptive import AdaptivePlan
from diversify.plan.plan import Plan
from diversify.plan.policies import (
    ClassPlan,
    FeatureMethod,
    FeaturePolicy,
    ImagePolicy,
    Mixing,
    PriorCorrection,
    Schedule,
)
from diversify.runtime.signals import leave
from diversify.training.ingredients import Ingredients
from diversify.training.loop import evaluate, fit


@pytest.fixture
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    launched = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, folder)
    yield folder, launched
    end(launched)


CORRECTION = torch.tensor([0.25, -1.0, 3.0])


class Told:
    """Keeps the arguments of `set_epoch`."""

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
    """An adaptation that counts the images it sees, and raises the brightness of another part by the count."""

    def __init__(self, part):
        self.part, self.seen, self.updates = part, torch.zeros(CLASSES, dtype=torch.int64), []

    def observe(self, labels, predicted):
        assert labels.shape == predicted.shape == (COUNT,)
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
    """Keeps the features that it receives, and moves the logits of the true class."""

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


# From a plan

LABELS = Pictures().labels
COUNTS = torch.bincount(LABELS, minlength=CLASSES).tolist()
NATURAL = [count / COUNT for count in COUNTS]


def plan_of(
    *, draws=(0.2, 0.3, 0.5), image=(0.3, 0.4, 0.5), mixing="cutmix", methods=("covariance", "eos"), correct=(1, 0.5)
):
    """All parts, or as many as are asked for."""
    classes = tuple(
        ClassPlan(
            name=f"class {c}",
            count=COUNTS[c],
            draws=draws[c],
            image=ImagePolicy(operations=("translate_x", "brightness"), strength=image[c], probability=0.5),
            mixing=Mixing(method=mixing, probability=0.4 if mixing != "none" else 0.0),
            features=tuple(
                FeaturePolicy(
                    method=method,
                    strength=0.3,
                    share=0.2,
                    neighbors=3,
                    toward={f"class {other}": 0.5 for other in range(CLASSES) if other != c}
                    if method == "toward_enemies"
                    else {},
                )
                for method in methods
            ),
        )
        for c in range(CLASSES)
    )
    correction = PriorCorrection(training=correct[0], after=correct[1])
    return Plan(classes=classes, prior_correction=correction, schedule=Schedule(start=0.25, ramp=0.5))


def planned(plan, **options):
    return Ingredients.from_plan(plan, LABELS, seed=RECIPE.seed, epochs=RECIPE.epochs, **options)


def scaled(**options):
    """The network trained by ingredients whose images lie in [0, 1]."""
    return train(dataset=Dimmed(), **options)


class Dimmed(Pictures):
    """Its images lie in [0, 1]."""

    def __getitem__(self, index):
        return self.images[index] / 2, self.labels[index]


def test_a_plan_that_changes_nothing_is_plain_training_to_the_bit():
    plan = Plan.untouched([f"class {c}" for c in range(CLASSES)], COUNTS)
    ingredients = planned(plan)
    assert ingredients == Ingredients()
    plain, history = train(dataset=Noisy(), val=val_loader())
    net, again = train(dataset=Noisy(), val=val_loader(), ingredients=ingredients)
    assert digest(net) == digest(plain)
    assert timeless(again) == timeless(history)


def test_each_slot_is_filled_where_the_plan_asks_for_it():
    def slots(ingredients):
        fields = [field.name for field in dataclasses.fields(ingredients)]
        return {name for name in fields if getattr(ingredients, name) != getattr(Ingredients(), name)}

    nothing = {"image": (0, 0, 0), "mixing": "none", "methods": (), "correct": (0, 0), "draws": NATURAL}
    for asked, filled in (
        ({}, set()),
        ({"draws": (0.2, 0.3, 0.5)}, {"sampler"}),
        ({"image": (0.3, 0.4, 0.5)}, {"augment"}),
        ({"mixing": "mixup"}, {"augment"}),
        ({"methods": ("eos",)}, {"augment_features"}),
        ({"correct": (0.5, 0)}, {"criterion"}),
        ({"correct": (0, 0.5)}, {"criterion", "after"}),
    ):
        assert slots(planned(plan_of(**{**nothing, **asked}))) == filled, asked
    crop = CropFlip(padding=1, mirror=False)
    assert planned(plan_of(**nothing), base=crop).augment is crop
    for mixing, filled in (("none", {"wrap_dataset"}), ("cutmix", {"wrap_dataset", "augment"})):
        plan = plan_of(**{**nothing, "image": (0.3, 0.4, 0.5), "mixing": mixing})
        assert slots(planned(plan, image_space="workers")) == filled
    budget = plan_of(**nothing).model_copy(update={"images_per_epoch": 20})
    assert slots(planned(budget)) == {"sampler"}
    _, history = train(ingredients=planned(budget))
    assert [record.images for record in history] == [20] * 4


def test_the_criterion_takes_out_the_drawn_prior_and_the_rest_is_taken_out_afterwards():
    plan = plan_of()
    ingredients = planned(plan)
    logits = torch.linspace(-1, 1, 12).view(4, 3)
    targets = torch.tensor([0, 1, 2, 0])
    expected = prior_corrected_cross_entropy(logits, targets, plan.log_prior, 1.0)
    assert torch.equal(ingredients.criterion(2)(logits, targets), expected)
    assert torch.allclose(ingredients.after(), 0.5 * torch.tensor([0.2, 0.3, 0.5]).log())


def test_the_criterion_is_one_object_until_the_prior_changes():
    """A captured step can then be replayed in every epoch."""
    plan = plan_of()
    loss = planned(plan).criterion
    first = loss(0)
    classes = tuple(one.model_copy(update={"image": ImagePolicy()}) for one in plan.classes)
    loss.use(plan.model_copy(update={"classes": classes}))
    assert loss(1) is first
    evenly = tuple(one.model_copy(update={"draws": 1 / CLASSES}) for one in plan.classes)
    changed = plan.model_copy(update={"classes": evenly})
    loss.use(changed)
    assert loss(2) is loss(3) is not first
    logits, targets = torch.linspace(-1, 1, 12).view(4, 3), torch.tensor([0, 1, 2, 0])
    expected = prior_corrected_cross_entropy(logits, targets, changed.log_prior, 1.0)
    assert torch.equal(loss(2)(logits, targets), expected)
    loss.use(plan.model_copy(update={"prior_correction": PriorCorrection(training=0.5)}))
    assert not torch.equal(loss(4)(logits, targets), expected)


@pytest.mark.slow
@pytest.mark.parametrize("image_space", ["device", "workers"])
@pytest.mark.parametrize("adapt", [None, AdaptivePlan])
def test_a_run_by_a_plan_that_is_stopped_ends_as_one_that_was_not(tmp_path, image_space, adapt):
    def ingredients():
        pool = (Dimmed().images / 2, LABELS)
        return planned(
            plan_of(), base=CropFlip(padding=1, mirror=True), pool=pool, image_space=image_space, adapt=adapt
        )

    whole, history = scaled(ingredients=ingredients(), val=val_loader(Dimmed(20)))
    for until in (1, 3):
        state = tmp_path / f"{until}.safetensors"
        loop = fit(
            make_net(),
            Dimmed(),
            recipe=RECIPE,
            num_classes=CLASSES,
            ingredients=ingredients(),
            val=val_loader(Dimmed(20)),
            state=state,
        )
        for _ in range(until):
            next(loop)
        loop.close()
        net, again = scaled(ingredients=ingredients(), val=val_loader(Dimmed(20)), state=state)
        assert digest(net) == digest(whole)
        assert timeless(again) == timeless(history)


def test_an_adaptive_plan_moves_every_part_and_its_strengths_may_begin_at_0():
    ingredients = planned(plan_of(image=(0, 0, 0), mixing="none"), adapt=AdaptivePlan)
    before = ingredients.adapt.plan
    scaled(ingredients=ingredients)
    after = ingredients.adapt.plan
    assert after != before
    assert ingredients.augment.plan == after
    assert ingredients.augment_features.plan == after


@pytest.mark.parametrize("method", typing.get_args(FeatureMethod))
def test_every_feature_method_trains_and_acts(method):
    plan = plan_of(image=(0, 0, 0), mixing="none", methods=(method,), correct=(0, 0), draws=NATURAL)
    _, history = train(ingredients=planned(plan))
    _, plain = train()
    losses = [record.loss for record in history]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[0] == pytest.approx(plain[0].loss, rel=1e-5)
    if method != "borderline_smote":  # which leaves rows alone that lie among their own class, as they do here
        assert losses[-1] != pytest.approx(plain[-1].loss, rel=1e-3)


def test_what_is_refused():
    plan = plan_of()
    assert message_of(lambda: Ingredients.from_plan(plan, [0, 3], seed=0, epochs=1)) == (
        "labels must be classes of the plan, in [0, 2], got 3"
    )
    assert message_of(lambda: planned(plan, image_space="disk")) == (
        "image_space must be one of device, workers, got 'disk'"
    )
    assert (
        message_of(lambda: Ingredients.from_plan(plan, LABELS, seed=0, epochs=0)) == "epochs must be at least 1, got 0"
    )
    isda = planned(plan_of(methods=("isda",), correct=(0, 0)))
    assert message_of(lambda: train(net=with_head(Cosine()), ingredients=isda)) == (
        "head must be a linear layer, for isda, got Cosine; leave isda out of the plan"
    )


@pytest.mark.slow
def test_two_processes_that_train_by_a_plan_do_what_one_does_and_one_goes_on_from_their_state(two_processes):
    folder, launched = two_processes
    _, errors = launched.communicate(timeout=240)
    assert launched.returncode == 0, errors
    first, second = (atomic.read_json(folder / f"rank-{rank}.json", "rank") for rank in (0, 1))
    for name in ("weights", "bank", "plan", "losses"):
        assert first[name] == second[name], name
    assert first["plan"] != shared_plan().to_dict()
    sampler = DiversifySampler(LABELS, shared_plan(), seed=RECIPE.seed)
    for epoch in range(RECIPE.epochs):
        sampler.set_epoch(epoch)
        pairs = [[index, getattr(index, "occurrence", 0)] for index in sampler]
        slices = [batch for both in zip(first["views"][epoch], second["views"][epoch], strict=True) for batch in both]
        assert [pair for each in slices for pair in each] == pairs  # each row once, in the order of one process
    assert max(occurrence for _, occurrence in pairs) > 0

    net, ingredients, history = shared_training()
    assert [record.loss for record in history] == pytest.approx(first["losses"], rel=1e-5)
    assert ingredients.adapt.plan.to_dict() == first["plan"]
    assert int(ingredients.augment_features.state_dict()["seen"][:-1].sum()) == first["seen"]
    with pytest.raises(AssertionError):  # the comparison tells networks apart
        assert_close(net, {name: value + 1e-3 for name, value in net.state_dict().items()})
    assert_close(net, atomic.read_tensors(folder / "whole.safetensors", "weights")[0])
    resumed, _, _ = shared_training(
        state=folder / "state.safetensors"
    )  # of two processes that stopped after two epochs
    assert_close(net, resumed.state_dict())


def assert_close(net, weights):
    for name, value in net.state_dict().items():
        assert torch.allclose(value.double(), weights[name].double(), rtol=1e-3, atol=1e-5), name


def shared_plan():
    return plan_of(methods=("eos", "magnitude"))


def shared_training(until=RECIPE.epochs, base=None, state=None):
    """Train by a plan with every part: each row draws its numbers by its place in the batch of all processes.

    "covariance" is left out: a rounding difference may turn an eigenvector around, and the noise with it.
    """
    net = nn.Sequential(*[part for part in make_net() if not isinstance(part, nn.Dropout)])
    pool = (torch.stack([Dimmed()[row][0] for row in range(COUNT)]), LABELS)
    ingredients = planned(shared_plan(), base=base, pool=pool, adapt=AdaptivePlan)
    recipe = dataclasses.replace(RECIPE, batch_size=9)
    loop = fit(net, Dimmed(), recipe=recipe, num_classes=CLASSES, ingredients=ingredients, state=state)
    history = [record for record, _ in zip(loop, range(until), strict=False)]
    loop.close()
    return net, ingredients, history


def write_one_of_two(folder):
    views = [[] for _ in range(RECIPE.epochs)]

    def base(images, targets, key):
        if key.occurrences is not None:  # those of mixing partners are not known
            views[key.epoch].append(torch.stack([key.indices, key.occurrences], 1).tolist())
        return images, targets

    net, ingredients, history = shared_training(base=base)
    bank = ingredients.augment_features.state_dict()
    result = {
        "weights": digests.digest_tensors(net.state_dict()),
        "bank": digests.digest_tensors(bank),
        "seen": int(bank["seen"][:-1].sum()),
        "plan": ingredients.adapt.plan.to_dict(),
        "losses": [record.loss for record in history],
        "views": views,
    }
    atomic.write_json(folder / f"rank-{os.environ['RANK']}.json", result)
    shared_training(until=2, state=folder / "state.safetensors")
    if os.environ["RANK"] == "0":
        atomic.write_tensors(folder / "whole.safetensors", net.state_dict())


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_one_of_two(Path(sys.argv[1]))
    leave(0)
