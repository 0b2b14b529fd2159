"""The loop on the device is the reference loop: same images, same order, same weights."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.data import Sampler, TensorDataset

from diversify.augment.draw_key import CropFlip
from diversify.data.view import View
from diversify.errors import InputError
from diversify.network.networks import build_model
from diversify.network.split import split_head
from diversify.plan.adaptive import AdaptivePlan
from diversify.plan.plan import Plan
from diversify.plan.policies import Mixing
from diversify.plan.strengths import Strengths
from diversify.training.ingredients import Ingredients
from diversify.training.loop import fit
from diversify.training.recipe import Recipe
from diversify.training.resident import ResidentImages, features_of, fit_resident
from diversify.training.state import EpochRecord

COUNTS = [20, 9, 4]
VIEW = View(mean=(0.4,), std=(0.3,))
RECIPE = Recipe(epochs=3, batch_size=8, learning_rate=0.05, precision="fp32", warmup_epochs=1, seed=5)


def images() -> ResidentImages:
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    pixels = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ResidentImages(images=pixels, labels=labels)


def on_the_device_of_fit(data: ResidentImages) -> ResidentImages:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return data.to(found or torch.device("cpu"))


def plan(**changes: object) -> Plan:
    made = Plan.from_counts(["a", "b", "c"], COUNTS, strengths=Strengths(mixing=Mixing()))
    return made.model_copy(update=changes)


def mixing(made: Plan) -> Plan:
    mixed = Mixing(method="cutmix", probability=0.5)
    return made.model_copy(update={"classes": tuple(one.model_copy(update={"mixing": mixed}) for one in made.classes)})


def parts(made: Plan | None, data: ResidentImages, *, pool: bool = False) -> Ingredients:
    base = CropFlip(padding=1, mirror=True)
    if made is None:
        return Ingredients(augment=base)
    given = (data.images, data.labels) if pool else None
    return Ingredients.from_plan(made, data.labels.cpu(), seed=5, epochs=RECIPE.epochs, base=base, pool=given)


def both(
    ingredients: object, recipe: Recipe = RECIPE
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list, list]:
    """Weights and records of `fit` and of `fit_resident`."""
    data = images()
    first, second = (build_model("small_cnn", 3, channels=1, seed=1) for _ in range(2))
    dataset = TensorDataset(data.images, data.labels)
    ours = list(
        fit(first, dataset, recipe=recipe, num_classes=3, ingredients=ingredients(data), prepare=VIEW.normalize)
    )
    data = on_the_device_of_fit(data)
    theirs = list(
        fit_resident(second, data, recipe=recipe, num_classes=3, ingredients=ingredients(data), prepare=VIEW.normalize)
    )
    return first.state_dict(), second.state_dict(), ours, theirs


def assert_same_run(ingredients: object, recipe: Recipe = RECIPE) -> None:
    first, second, ours, theirs = both(ingredients, recipe)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.epoch, one.images, one.learning_rate) == (other.epoch, other.images, other.learning_rate)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.accuracy_train == other.accuracy_train


def test_plain_training_is_that_of_fit() -> None:
    assert_same_run(lambda data: parts(None, data))


def test_a_plan_is_that_of_fit() -> None:
    # drawn more than once an epoch, varied by class, the prior taken out
    rare = plan()
    drawn = [one.model_copy(update={"draws": 1 / 3}) for one in rare.classes]
    assert_same_run(lambda data: parts(rare.model_copy(update={"classes": tuple(drawn)}), data))


def test_mixing_from_a_pool_is_that_of_fit() -> None:
    assert_same_run(lambda data: parts(mixing(plan()), data, pool=True))


class Rotated(Sampler[int]):
    """A user's sampler whose `set_epoch` takes the epoch alone."""

    def __init__(self, length: int) -> None:
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter([(7 * place + 5 * self.epoch) % self.length for place in range(self.length // 2)])


def test_a_sampler_of_ones_own_is_told_the_epoch_as_by_fit() -> None:
    assert_same_run(lambda data: dataclasses.replace(parts(None, data), sampler=Rotated(len(data))))


def test_adapting_is_that_of_fit() -> None:
    def adapting(data: ResidentImages) -> Ingredients:
        adapt = functools.partial(AdaptivePlan, least_seen=1, epochs=3)
        return Ingredients.from_plan(plan(), data.labels.cpu(), seed=5, epochs=3, adapt=adapt)

    assert_same_run(adapting)


def mixed(data: ResidentImages) -> Ingredients:
    return parts(mixing(plan()), data, pool=True)


def drawn_again(data: ResidentImages) -> Ingredients:
    made = plan()
    even = tuple(one.model_copy(update={"draws": 1 / 3}) for one in made.classes)
    adapt = functools.partial(AdaptivePlan, least_seen=1, epochs=3)
    made = made.model_copy(update={"classes": even})
    return Ingredients.from_plan(made, data.labels.cpu(), seed=5, epochs=3, adapt=adapt)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ingredients", [mixed, drawn_again])
def test_a_run_goes_on_where_it_was_interrupted(
    ingredients: Callable[[ResidentImages], Ingredients], optimizer: str, tmp_path: Path
) -> None:
    data, state = images(), tmp_path / "run.safetensors"
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer, learning_rate=0.01)

    def run(epochs: int, file: Path | None) -> tuple[dict[str, torch.Tensor], list[EpochRecord]]:
        model = build_model("small_cnn", 3, channels=1, seed=1)
        given = {"recipe": recipe, "num_classes": 3, "ingredients": ingredients(data), "prepare": VIEW.normalize}
        records = fit_resident(model, data, state=file, identity="noise", **given)
        return model.state_dict(), list(itertools.islice(records, epochs))

    weights, records = run(3, None)
    begun, first = run(2, state)
    assert any(not torch.equal(begun[name], value) for name, value in weights.items())
    resumed, all_of_them = run(3, state)
    for name, value in weights.items():
        assert torch.equal(resumed[name], value), name
    assert all_of_them[:2] == first, "those of before come first, with their seconds"
    assert [one.loss for one in all_of_them] == [one.loss for one in records]


def test_a_state_is_written_as_often_as_is_asked_for_and_is_of_its_run_alone(tmp_path: Path) -> None:
    data, state = images(), tmp_path / "run.safetensors"

    def run(**more: object) -> list[EpochRecord]:
        model = build_model("small_cnn", 3, channels=1, seed=1)
        given = {"recipe": RECIPE, "num_classes": 3, "prepare": VIEW.normalize, "identity": "a"}
        return list(fit_resident(model, data, state=state, **{**given, **more}))

    run(save_every=3600.0)
    assert not state.exists()
    run()
    with pytest.raises(InputError, match="a resumed run must have the data and the model it began with"):
        run(identity="b")
    with pytest.raises(InputError, match=r"learning_rate of a resumed run must stay 0\.05, got 0\.1"):
        run(recipe=dataclasses.replace(RECIPE, learning_rate=0.1))
    state.write_bytes(b"half")
    with pytest.raises(InputError, match="state must be a whole safetensors file"):
        run()


def test_different_runs_are_told_apart() -> None:
    data, other = images(), dataclasses.replace(RECIPE, seed=6)
    first, second = (build_model("small_cnn", 3, channels=1, seed=1) for _ in range(2))
    list(fit_resident(first, data, recipe=RECIPE, num_classes=3, prepare=VIEW.normalize))
    list(fit_resident(second, data, recipe=other, num_classes=3, prepare=VIEW.normalize))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(first.state_dict()["linear.weight"], second.state_dict()["linear.weight"])


def test_the_same_seed_gives_the_same_weights_to_the_bit() -> None:
    found = []
    for _ in range(2):
        model = build_model("small_cnn", 3, channels=1, seed=1)
        data = images()
        list(
            fit_resident(
                model, data, recipe=RECIPE, num_classes=3, ingredients=parts(mixing(plan()), data, pool=True),
                prepare=VIEW.normalize,
            )
        )  # fmt: skip
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_features_are_those_of_the_backbone() -> None:
    data, model = images(), build_model("small_cnn", 3, channels=1, seed=1).eval()
    split = split_head(model)
    got = features_of(split.features, data, prepare=VIEW.normalize, batch_size=5)
    torch.testing.assert_close(got, split.features(VIEW.normalize(data.images)).detach(), rtol=1e-4, atol=1e-5)


def test_progress_counts_steps() -> None:
    seen: list[tuple[int, int]] = []
    model = build_model("small_cnn", 3, channels=1, seed=1)
    list(
        fit_resident(
            model,
            images(),
            recipe=RECIPE,
            num_classes=3,
            prepare=VIEW.normalize,
            progress=lambda *done: seen.append(done),
        )
    )
    assert seen[-1] == (15, 15)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"after": lambda: torch.zeros(3)},
            "ingredients.after must be left to fit, got one with images that stay on the device",
        ),
        (
            {"wrap_dataset": lambda dataset: dataset},
            "ingredients.wrap_dataset must be left to fit, got one with images that stay on the device",
        ),
    ],
)
def test_what_only_fit_does_is_refused(change: dict[str, object], message: str) -> None:
    model = build_model("small_cnn", 3, channels=1)
    with pytest.raises(InputError) as caught:
        next(fit_resident(model, images(), recipe=RECIPE, num_classes=3, ingredients=Ingredients(**change)))
    assert str(caught.value) == message


def test_labels_that_are_no_class_are_refused() -> None:
    model = build_model("small_cnn", 2, channels=1)
    with pytest.raises(InputError, match=r"labels must lie in \[0, 1\], got 2"):
        next(fit_resident(model, images(), recipe=RECIPE, num_classes=2))


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    model = build_model("small_cnn", 3, channels=1)
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30, warmup_epochs=0)
    with pytest.raises(InputError, match="training loss must stay finite"):
        list(fit_resident(model, images(), recipe=recipe, num_classes=3, prepare=VIEW.normalize))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pool", [False, True])
def test_a_captured_step_is_an_eager_one(pool: bool) -> None:
    found = []
    for captured in (False, True):
        data = images().to(torch.device("cuda"))
        model = build_model("small_cnn", 3, channels=1, seed=1)
        made = parts(mixing(plan()) if pool else plan(), data, pool=pool)
        records = list(
            fit_resident(
                model, data, recipe=RECIPE, num_classes=3, ingredients=made, prepare=VIEW.normalize, captured=captured
            )
        )
        found.append((model.state_dict(), [one.loss for one in records]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, rtol=1e-2, atol=1e-3)
