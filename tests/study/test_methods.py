"""The methods of a study: each runs, and each control changes only what it claims to change."""

import dataclasses
import functools
from typing import Any

import pytest
import torch
from tiny_study import COUNTS, but_for_time, protocol_of, run, write_data
from torch.nn import functional

from diversify.augment.batches import BatchAugmenter
from diversify.augment.draw_key import CropFlip
from diversify.augment.eos import balanced_by_eos
from diversify.errors import InputError
from diversify.functional import draws
from diversify.network.cosine_head import CosineHead
from diversify.network.embeddings import Embeddings
from diversify.network.linear_head import LinearHead
from diversify.plan.default_recipe import recipe
from diversify.plan.plan import Plan
from diversify.plan.policies import ImagePolicy, Mixing
from diversify.repair import retrain as head_module
from diversify.study import methods
from diversify.study.methods import METHODS, between, image_plan, method_named, with_images, with_mix
from diversify.study.protocol import Choice, Method, Setting, Trained
from diversify.study.task import Task, load_task
from diversify.study.trial import run_trial
from diversify.training.ingredients import Ingredients
from diversify.training.losses import LDAM, class_weights

NAMED = (
    *METHODS,
    "ce+images",
    "cuda+mix",
    "logit_adjustment+head",
    "ldam_drw+mix+images",
    "balanced_softmax+images+mix+head",
    "diversify+head",
)
CLASSES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    file = write_data(tmp_path_factory.mktemp("data") / "tiny.npz")
    return load_task(protocol_of(file), device="cpu")


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retrain heads in few steps, which is enough to see that they are retrained."""
    monkeypatch.setattr(methods.heads, "retrain_head", functools.partial(head_module.retrain_head, steps=20))


def setting_of(epochs: int = 10, counts: tuple[int, ...] = COUNTS) -> Setting:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = draws.integers(256, "pixel", torch.arange(len(labels) * 64)).view(-1, 1, 8, 8).to(torch.uint8)
    return Setting(
        images=images,
        labels=labels,
        class_counts=torch.tensor(counts),
        class_names=CLASSES[: len(counts)],
        epochs=epochs,
        seed=0,
        base=CropFlip(padding=1, mirror=False),
    )


def defaults(method: Method, **changed: Any) -> dict[str, Any]:
    return {name: each.default for name, each in method.space.items()} | changed


def made(name: str, setting: Setting | None = None, **changed: Any) -> Ingredients:
    method = method_named(name)
    return method.ingredients(setting or setting_of(), defaults(method, **changed))


def plan_in(ingredients: Ingredients) -> Plan:
    assert isinstance(ingredients.augment, BatchAugmenter)
    return ingredients.augment.plan


def images_of(name: str, **changed: Any) -> list[ImagePolicy]:
    return [one.image for one in plan_in(made(name, **changed)).classes]


def mixing_of(name: str, **changed: Any) -> list[Mixing]:
    return [one.mixing for one in plan_in(made(name, **changed)).classes]


class Read(dict[str, Any]):
    """Parameters that record which of them were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def trained_of(seed: str = "a", *, heldout: bool = True, carried: Any = None, cosine: bool = False) -> Trained:
    """Return features whose first four dimensions indicate the class, with noise, and a head that favours rare classes."""
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    head = LinearHead(
        weight=torch.eye(4, 12) * torch.tensor([1.0, 1.5, 2.0, 2.5])[:, None], bias=torch.zeros(4), cosine=cosine
    )

    def side(name: str) -> Embeddings:
        noise = draws.uniform(name, torch.arange(len(labels) * 12)).view(-1, 12)
        features = functional.one_hot(labels, 12) + 1.5 * noise
        rows = torch.arange(len(labels))
        return Embeddings(features=features, labels=labels, logits=head.logits(features), indices=rows)

    return Trained(
        train=side(f"train {seed}"), heldout=side(f"val {seed}") if heldout else None, head=head, carried=carried
    )


# Every method


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_method_runs_as_a_trial_and_as_a_final_run(name: str, task: Task) -> None:
    method = method_named(name)
    space = task.protocol.space_of(method)
    assert method.name == name
    assert method.meaning
    assert method.source
    for each in space.values():
        assert each.default in each.values if isinstance(each, Choice) else each.low <= each.default <= each.high
    parameters = Read({name: each.default for name, each in space.items()})
    trial = run_trial(task, method, parameters, seed=0, split="val")
    assert parameters.names >= set(space), "what is searched is read"
    final = run_trial(task, method, parameters, seed=0, split="test", carried=trial.carried)
    for one, counts in ((trial, (36, 18, 9, 4)), (final, COUNTS)):
        assert all(value is not None and 0 <= value <= 1 for value in one.recall)
        assert one.balanced_accuracy == pytest.approx(sum(one.recall) / 4)
        assert one.class_counts == counts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ldam_drw", "eos", "diversify"])
def test_the_same_seed_gives_the_same_outcome_and_another_another(name: str, task: Task) -> None:
    method = method_named(name)
    first, again, other = (but_for_time(run(task, method, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_methods_are_known_by_their_names() -> None:
    assert all(name == method.name and "+" not in name for name, method in METHODS.items())
    with pytest.raises(InputError) as caught:
        method_named("focus")
    assert str(caught.value) == f"method must be one of {', '.join(METHODS)}, got 'focus'; did you mean 'focal'?"
    with pytest.raises(InputError) as caught:
        method_named("ce+image")
    assert str(caught.value) == (
        "suffix of ce+image must be one of images, mix, head, got 'image'; did you mean 'images'?"
    )
    with pytest.raises(InputError, match="suffix of ce[+] must be one of images, mix, head, got ''"):
        method_named("ce+")


# The controls


@pytest.mark.parametrize("name", ["ce", "balanced_softmax", "ldam_drw", "remix_drw"])
def test_images_are_varied_alike_and_the_loss_is_what_it_was(name: str) -> None:
    policies = images_of(f"{name}+images", image_strength=0.4)
    assert policies == [ImagePolicy(operations=methods.plans.IMAGE_OPERATIONS, strength=0.4, probability=0.9)] * 4
    logits, labels = torch.linspace(-2, 2, 20).view(5, 4), torch.tensor([0, 1, 2, 3, 0])
    own, control = made(name), made(f"{name}+images+mix")
    for epoch in (0, 9):
        assert torch.equal(own.criterion(epoch)(logits, labels), control.criterion(epoch)(logits, labels))


@pytest.mark.parametrize("name", ["ce", "class_balanced_sampling", "diversify"])
def test_mixing_and_images_keep_each_other(name: str) -> None:
    strengths = {"image_strength": 0.3, "mix_probability": 0.7}
    one, other = (made(f"{name}+{order}", **strengths) for order in ("images+mix", "mix+images"))
    assert plan_in(one) == plan_in(other)
    assert images_of(f"{name}+images+mix", **strengths) == images_of(f"{name}+images", **strengths)
    assert mixing_of(f"{name}+mix+images", **strengths) == mixing_of(f"{name}+mix", **strengths)
    assert mixing_of(f"{name}+mix", **strengths) == [Mixing(method="cutmix", probability=0.7)] * 4
    spaces = [dict(method_named(f"{name}+{order}").space) for order in ("images+mix", "mix+images")]
    assert spaces[0] == spaces[1]


@pytest.mark.parametrize("name", ["class_balanced_sampling", "square_root_sampling"])
def test_what_is_drawn_stays_what_it_was(name: str) -> None:
    own, control = made(name), made(f"{name}+images+mix")
    assert list(own.sampler) == list(control.sampler)
    assert sorted(own.sampler) != list(range(sum(COUNTS)))


@pytest.mark.parametrize("name", ["ce", "ldam", "logit_adjustment", "diversify"])
def test_the_head_step_changes_only_the_head(name: str, task: Task) -> None:
    changed = {"head_share": 0.5}
    method = dataclasses.replace(method_named(name), head_step=None if name == "diversify" else METHODS[name].head_step)
    own, control = (run(task, one, changed=changed) for one in (method, methods.with_head(method)))
    assert own.curve == control.curve
    assert own.ece != control.ece


@pytest.mark.parametrize(
    ("name", "suffix", "parameter"),
    [
        ("ce", "images", "image_strength"),
        ("ldam_drw", "images", "image_strength"),
        ("class_balanced_sampling", "images", "image_strength"),
        ("ce", "mix", "mix_probability"),
        ("square_root_sampling", "mix", "mix_probability"),
        ("cuda", "mix", "mix_probability"),
        ("ce", "head", "head_share"),
        ("ldam", "head", "head_share"),
        ("logit_adjustment", "head", "head_share"),
    ],
)
def test_a_control_at_0_is_the_method_itself(name: str, suffix: str, parameter: str, task: Task) -> None:
    own, control = run(task, METHODS[name]), run(task, method_named(f"{name}+{suffix}"), changed={parameter: 0.0})
    assert but_for_time(own) == but_for_time(control)


def test_strengths_that_follow_hits_do_so_with_mixing_too() -> None:
    ingredients = made("cuda+mix")
    labels = setting_of().labels
    assert ingredients.adapt is not None
    ingredients.adapt.observe(labels, labels)
    ingredients.adapt.update(0)
    strengths = [one.image.strength for one in plan_in(ingredients).classes]
    assert strengths == pytest.approx([0.1, 0.1, 0.1, 0.0])  # the last class was seen too rarely to adapt
    assert made("cuda+images").adapt is None, "every class alike"


def test_an_augmentation_of_ones_own_is_not_thrown_away() -> None:
    def own(setting: Setting, parameters: Any) -> Ingredients:
        return Ingredients(augment=lambda images, targets, key: (images, targets))

    method = Method(name="own", meaning="m", source="s", ingredients=own)
    for control in (with_images(method), with_mix(method)):
        with pytest.raises(InputError) as caught:
            control.ingredients(setting_of(), defaults(control))
        assert str(caught.value) == (
            "augment of the method must be the base augmentation or a BatchAugmenter, for +images and +mix, got function"
        )


# What the methods are made of


@pytest.mark.parametrize("name", ["ldam_drw", "ce_drw", "mixup_drw", "remix_drw"])
def test_deferred_reweighting_begins_after_four_fifths_of_the_epochs(name: str) -> None:
    criterion = made(name, setting_of(epochs=20), beta=0.99).criterion
    assert all(criterion(epoch) is criterion(0) for epoch in range(16))
    assert all(criterion(epoch) is criterion(19) for epoch in range(16, 20))
    assert getattr(criterion(0), "weight", None) is None
    torch.testing.assert_close(criterion(16).weight, class_weights(COUNTS, "effective_number", beta=0.99).float())


@pytest.mark.parametrize("name", ["ldam", "ldam_drw"])
def test_margins_on_the_cosine_head_are_the_papers(name: str) -> None:
    method = METHODS[name]
    head = CosineHead(6, 4, method.cosine_head, seed=1)
    features = draws.uniform("features", torch.arange(30)).view(5, 6) - 0.5
    cosines = functional.normalize(features, dim=1) @ functional.normalize(head.weight, dim=1).T
    torch.testing.assert_close(head(features), 30 * cosines)
    labels = torch.tensor([0, 1, 2, 3, 0])
    loss = made(name, max_margin=0.4).criterion(0)
    torch.testing.assert_close(loss(head(features), labels), LDAM(COUNTS, max_margin=0.4, scale=30.0)(cosines, labels))


@pytest.mark.parametrize("name", ["tau_norm", "logit_adjustment"])
def test_tau_0_leaves_the_head_untouched(name: str) -> None:
    trained, step = trained_of(), METHODS[name].head_step
    found = step(setting_of(), {"tau": 0.0}, trained).head
    assert torch.equal(found.weight, trained.head.weight)
    assert torch.equal(found.bias, trained.head.bias)
    assert not torch.equal(
        step(setting_of(), {"tau": 1.0}, trained).head.logits(trained.train.features), trained.train.logits
    )


def test_a_head_part_of_the_way() -> None:
    old, new = (LinearHead(weight=torch.full((4, 6), v), bias=torch.full((4,), -v)) for v in (1.0, 3.0))
    for share, value in ((0.0, 1.0), (0.25, 1.5), (1.0, 3.0)):
        assert torch.equal(between(old, new, share).weight, torch.full((4, 6), value))
        assert torch.equal(between(old, new, share).bias, torch.full((4,), -value))


# Diversifying


def test_the_rarer_the_class_the_more_its_images_are_varied() -> None:
    plan = image_plan(setting_of(), 0.5, grade=0.1)
    strengths = [one.image.strength for one in plan.classes]
    assert strengths == sorted(strengths)
    assert (strengths[0], strengths[-1]) == pytest.approx((0.4, 0.6))
    assert {one.mixing.method for one in plan.classes} == {"none"}
    assert {one.image.strength for one in image_plan(setting_of(), 0.5, grade=0.0).classes} == {0.5}
    assert [one.mixing.probability for one in image_plan(setting_of(), 0.5, mix=0.3).classes] == [0.3] * 4


@pytest.mark.slow
def test_ablations_are_diversify_without_a_part(task: Task) -> None:
    whole = METHODS["diversify"]
    no_head = but_for_time(run(task, whole, changed={"head_share": 0.0})) | {"carried": None}
    assert no_head == but_for_time(run(task, METHODS["diversify_images"]))
    static = but_for_time(run(task, METHODS["diversify_static"]))
    assert static == but_for_time(run(task, whole, changed={"adapt": "none"}))
    assert static != but_for_time(run(task, whole, changed={"adapt": "hits", "image_strength": 0.3}))


def test_in_feature_space_alone_training_is_that_of_balanced_softmax() -> None:
    setting = setting_of()
    ours, theirs = (made(name, setting) for name in ("diversify_features", "balanced_softmax"))
    assert ours.augment is theirs.augment is setting.base
    logits, labels = torch.linspace(-2, 2, 20).view(5, 4), torch.tensor([0, 1, 2, 3, 0])
    torch.testing.assert_close(ours.criterion(0)(logits, labels), theirs.criterion(0)(logits, labels))


@pytest.mark.slow
def test_a_trial_makes_the_plan_on_val_and_the_final_run_is_given_it(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrained: list[Plan] = []

    def retrain(embeddings: Embeddings, head: LinearHead, plan: Plan, *, seed: int) -> LinearHead:
        retrained.append(plan)
        return head_module.retrain_head(embeddings, head, plan, seed=seed, steps=5)

    monkeypatch.setattr(methods.heads, "retrain_head", retrain)
    method = METHODS["diversify"]
    trial = run(task, method)
    assert Plan.from_dict(trial.carried["plan"]) == retrained[0]
    assert retrained[0].made_from == "diagnosis"
    whole, folds = retrained[0], retrained[1:]
    assert len(folds) == 5  # each fold is evaluated with a plan made without it
    retrained.clear()
    monkeypatch.setattr(methods.heads, "diagnose", None)  # a final run has no validation set to diagnose
    final = run(task, method, "test", carried=trial.carried)
    assert final.carried == trial.carried
    assert retrained == [whole.for_counts(COUNTS)]
    assert retrained[0].class_counts.tolist() == list(COUNTS)
    run(task, method, "test", carried=None)
    assert retrained[1] == Plan.from_counts([f"class {c}" for c in range(4)], COUNTS)


def test_the_recipe_is_one_of_two_ways() -> None:
    method, setting = METHODS["recipe"], setting_of()
    full, plain = ({**defaults(method), **start} for start in ({}, *method.first_trials))
    augmented, not_augmented = (method.ingredients(setting, one) for one in (full, plain))
    assert plan_in(augmented) == recipe(CLASSES, COUNTS)
    assert (method.cosine_scale(full), method.cosine_scale(plain)) == (0.0, 30.0)
    assert not_augmented.augment is setting.base  # no policy, no mixing
    logits, labels = torch.linspace(-2, 2, 20).view(5, 4), torch.tensor([0, 1, 2, 3, 0])
    for each in (augmented, not_augmented):
        expected = made("balanced_softmax", setting).criterion(0)(logits, labels)
        torch.testing.assert_close(each.criterion(0)(logits, labels), expected)


def test_a_carried_plan_needs_no_val() -> None:
    step = METHODS["diversify"].head_step
    carry = step(setting_of(), {"head_share": 1.0}, trained_of("a")).carry
    given = trained_of("b", carried=carry)
    without = dataclasses.replace(given, heldout=None)
    heads = [step(setting_of(), {"head_share": 1.0}, one).head for one in (given, without)]
    assert torch.equal(heads[0].weight, heads[1].weight)


def test_controls_of_the_plan_have_plans_of_their_own() -> None:
    setting = setting_of()
    carried = {
        name: METHODS[name].head_step(setting, {"head_share": 1.0}, trained_of()).carry
        for name in ("diversify", "plan_permuted", "plan_from_counts")
    }
    assert carried["plan_from_counts"] is None
    assert carried["diversify"]["plan"]["made_from"] == "diagnosis"
    permuted = carried["plan_permuted"]["plans"]
    assert {plan["made_from"] for plan in permuted} == {"permuted diagnosis"}
    for place, plan in enumerate(permuted):
        others = [other["classes"] for other in permuted[:place]]
        assert plan["classes"] not in [carried["diversify"]["plan"]["classes"], *others]


def test_seeds_go_through_the_permutations_in_turn() -> None:
    step = METHODS["plan_permuted"].head_step
    carry = step(setting_of(), {"head_share": 1.0}, trained_of()).carry
    number = len(carry["plans"])
    alike = {"plans": [carry["plans"][1]] * number}

    def head_of(seed: int, carried: Any) -> torch.Tensor:
        setting = dataclasses.replace(setting_of(), seed=seed)
        return step(setting, {"head_share": 1.0}, trained_of(carried=carried)).head.weight

    assert torch.equal(head_of(1, carry), head_of(1, alike))
    assert torch.equal(head_of(number + 1, carry), head_of(number + 1, alike))
    assert not torch.equal(head_of(2, carry), head_of(2, alike))


def test_eos_begins_at_rows_that_have_an_enemy() -> None:
    trained = trained_of()
    train = trained.train
    found = balanced_by_eos(train, trained.head, k=3, seed=0)
    assert found.labels.bincount().tolist() == [max(COUNTS)] * 4
    assert torch.equal(found.features[: len(train)], train.features)
    distance = torch.cdist(train.features, train.features).fill_diagonal_(torch.inf)
    near = train.labels[distance.topk(3, largest=False).indices]
    bases = (near != train.labels[:, None]).any(1)
    assert 0 < int(bases.sum()) < len(bases)
    for made, label in zip(found.features[len(train) :], found.labels[len(train) :], strict=True):
        own = bases & (train.labels == label)
        if not bool(own.any()):
            continue
        step, base = made - train.features[own], train.features[own]
        ends = train.features[train.labels != label][None] - base[:, None]
        along = (step[:, None] * ends).sum(2) / ends.square().sum(2)
        left = (step[:, None] - along[..., None] * ends).norm(dim=2)
        assert bool(((left < 1e-4) & (along > -1e-5) & (along < 1 + 1e-5)).any()), (
            "between such a row and another class"
        )


def test_cmo_mixes_neither_in_the_first_nor_in_the_last_three_epochs() -> None:
    for epochs, mixed in ((30, range(3, 27)), (7, range(3, 4)), (2, range(2))):
        schedule = made("cmo", setting_of(epochs)).augment.plan.schedule
        assert [epoch for epoch in range(epochs) if schedule.at(epoch, epochs) > 0] == list(mixed)
