"""Image policies in loader workers: draws are functions of (seed, epoch, index, occurrence), and kinds, sizes and labels stay."""

import copy
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import levels_of_a_warp
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision import tv_tensors

import diversify as dv
from diversify.augment.dataset import DiversifiedDataset
from diversify.augment.draw_key import Drawn
from diversify.augment.sampler import DiversifySampler
from diversify.data.images import Batch, ImageArray
from diversify.errors import InputError
from diversify.functional import draws, image_ops
from diversify.plan.plan import Plan
from diversify.plan.policies import ClassPlan, ImagePolicy, Schedule

POLICY = ImagePolicy(operations=("rotate", "brightness", "erase"), layers=2, strength=0.8, probability=0.5)
COUNT = 240
LABELS = torch.arange(COUNT) % 3
SCRIPT = """
import sys
sys.path[:0] = ["tests", "tests/augment"]
from test_dataset import *
untouched = DiversifiedDataset(ImageArray(images(), LABELS), Plan.untouched("abc", [1, 1, 1]))
list(DataLoader(untouched, batch_size=50))
print(digest_of(DiversifiedDataset(ImageArray(images().float(), LABELS), plan_of(), seed=3, backend=note)))
print(hashlib.sha256(drawn_views(0).numpy().tobytes()).hexdigest())
assert "albumentations" not in sys.modules
"""


def plan_of(*policies: ImagePolicy, schedule: Schedule | None = None, names: str = "abc") -> Plan:
    """By default class a is not augmented and b and c are."""
    policies = policies or (ImagePolicy(), POLICY, POLICY.model_copy(update={"strength": 0.4}))
    share = 1 / len(policies)
    classes = tuple(
        ClassPlan(name=name, count=80, draws=share, image=policy) for name, policy in zip(names, policies, strict=True)
    )
    return Plan(classes=classes, largest_difference=1.0, schedule=schedule or Schedule())


def images(channels: int = 3, side: int = 12, count: int = COUNT) -> torch.Tensor:
    pixels = draws.integers(256, "pixels of the test", torch.arange(count * channels * side * side))
    return pixels.view(count, channels, side, side).to(torch.uint8)


class Pairs(Dataset[Any]):
    """`(image, label)` pairs of any kind that show no labels."""

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def note(image: Any, operation: str, strength: float, draw: float) -> Any:
    """A backend that writes into the image what it was asked for."""
    return image + strength * (1 + image_ops.OPERATIONS.index(operation) + draw)


def epochs_of(dataset: DiversifiedDataset, epochs: int, **options: Any) -> torch.Tensor:
    loader = DataLoader(dataset, batch_size=32, **options)
    read = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        batches = list(loader)
        read.append(torch.cat([batch[0] for batch in batches]))
        assert torch.equal(torch.cat([batch[1] for batch in batches]), LABELS)
    return torch.stack(read)


# Draws


@pytest.fixture(scope="module")
def alone() -> torch.Tensor:
    """Three epochs, read without workers."""
    return epochs_of(DiversifiedDataset(ImageArray(images(), LABELS), plan_of()), 3)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 4, "persistent_workers": True}])
def test_workers_draw_what_is_drawn_without_them(alone: torch.Tensor, options: dict[str, Any]) -> None:
    assert torch.equal(epochs_of(DiversifiedDataset(ImageArray(images(), LABELS), plan_of()), 3, **options), alone)


def test_epochs_and_seeds_differ(alone: torch.Tensor) -> None:
    varied = alone[:, LABELS > 0]
    assert (varied[0] != varied[1]).flatten(1).any(1).float().mean() > 0.6
    assert (varied[0] != varied[2]).flatten(1).any(1).float().mean() > 0.6
    other = epochs_of(DiversifiedDataset(ImageArray(images(), LABELS), plan_of(), seed=1), 1)[0]
    assert (varied[0] != other[LABELS > 0]).flatten(1).any(1).float().mean() > 0.6


def test_no_two_images_and_no_two_epochs_share_a_draw() -> None:
    policy = ImagePolicy(operations=("rotate",), strength=1.0, probability=0.9)
    dataset = DiversifiedDataset(
        TensorDataset(torch.zeros(COUNT, 1, dtype=torch.float64), torch.zeros_like(LABELS)),
        plan_of(policy, names="a"),
        backend=note,
    )
    seen: list[float] = []
    for epoch in range(5):
        dataset.set_epoch(epoch)
        seen += [float(image) for image, _ in (dataset[index] for index in range(COUNT)) if float(image)]
    assert len(set(seen)) == len(seen) > 1000


def test_draws_follow_the_policy() -> None:
    count = 6000
    policy = ImagePolicy(operations=("rotate", "erase", "flip"), layers=1, strength=0.5, probability=0.4)
    blank = TensorDataset(torch.zeros(count, 1, dtype=torch.float64), torch.zeros(count, dtype=torch.int64))
    dataset = DiversifiedDataset(blank, plan_of(policy, names="a"), backend=note)
    asked = torch.stack([image for image, _ in dataset.__getitems__(list(range(count)))]).squeeze(1) / 0.5
    varied = asked[asked > 0] - 1
    assert abs(len(varied) / count - 0.4) < 0.03
    operations = [image_ops.OPERATIONS.index(name) for name in policy.operations]
    assert set(varied.floor().int().tolist()) == set(operations)
    for operation in operations:
        assert abs(float((varied.floor() == operation).float().mean()) - 1 / 3) < 0.04
        draw = varied[varied.floor() == operation] % 1
        assert (
            torch.quantile(draw, torch.tensor([0.1, 0.5, 0.9], dtype=draw.dtype)) - torch.tensor([0.1, 0.5, 0.9])
        ).abs().max() < 0.06


def test_a_batch_is_its_images_one_by_one() -> None:
    dataset = DiversifiedDataset(ImageArray(images(), LABELS), plan_of())
    rows = [7, 3, 200, 3, 11]
    batch = dataset.__getitems__(rows)
    assert isinstance(batch, Batch)
    assert torch.equal(batch.images, torch.stack([dataset[row][0] for row in rows]))
    assert torch.equal(batch.labels, LABELS[rows])
    assert torch.equal(dataset[-1][0], dataset[COUNT - 1][0])
    below = Pairs(list(zip(images(), LABELS.tolist(), strict=True)))
    assert torch.equal(DiversifiedDataset(below, plan_of())[4][0], dataset[4][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_varies_a_batch_as_it_varies_its_images(workers: int) -> None:
    def wrapped(source: Dataset[Any]) -> DiversifiedDataset:
        return DiversifiedDataset(source, plan_of(), backend="torch")

    pixels = images()
    whole = wrapped(ImageArray(pixels, LABELS))
    pairs = wrapped(Pairs(list(zip(pixels, LABELS.tolist(), strict=True))))
    read = [epochs_of(each, 2, num_workers=workers) for each in (whole, pairs)]
    assert torch.equal(*read)
    whole.set_epoch(1)
    assert torch.equal(read[0][1], torch.stack([whole[row][0] for row in range(COUNT)]))
    assert torch.equal(pixels, images())  # the source's own
    changed = (read[0] != pixels).flatten(2).any(2)
    assert not changed[:, LABELS == 0].any()
    assert abs(changed[:, LABELS == 1].float().mean() - 0.5) < 0.15


def test_torch_draws_what_albumentations_draws() -> None:
    policy = ImagePolicy(operations=("rotate", "contrast", "erase"), layers=1, strength=0.8, probability=0.7)
    plan = plan_of(policy, policy, policy.model_copy(update={"strength": 0.3}))
    small = draws.uniform("backends", torch.arange(COUNT * 3 * 36)).view(COUNT, 3, 6, 6)
    smooth = torch.nn.functional.interpolate(small, size=(20, 24), mode="bilinear")
    first, second = (
        epochs_of(DiversifiedDataset(ImageArray(smooth, LABELS), plan, backend=backend), 2)
        for backend in ("albumentations", "torch")
    )
    assert (first - second).abs().max() * 255 < levels_of_a_warp()
    assert ((first - smooth).flatten(2).abs().amax(2) * 255 > 1.001).float().mean() > 0.5


def test_torch_takes_images_of_several_forms_in_one_batch() -> None:
    policy = ImagePolicy(operations=("translate_x",), strength=1.0, probability=0.9)
    forms = [images(side=side, count=1)[0] for side in (9, 12)] + [
        images(count=1)[0, 0],
        images(count=1)[0].float() / 255,
    ]
    examples: list[Any] = [(image, 0) for image in forms for _ in range(10)]
    examples[3] = [tv_tensors.Image(forms[0]), 0, "more"]
    examples[4] = (tv_tensors.Mask(forms[0]), 0)
    dataset = DiversifiedDataset(Pairs(examples), plan_of(policy, names="a"), backend="torch")
    made = dataset.__getitems__(list(range(40)))
    for row, (after, before) in enumerate(zip(made, examples, strict=True)):
        assert type(after) is type(before)
        assert len(after) == len(before)
        assert type(after[0]) is type(before[0])
        assert (after[0].shape, after[0].dtype) == (before[0].shape, before[0].dtype)
        assert torch.equal(after[0], dataset[row][0])
    assert sum(not torch.equal(after[0], before[0]) for after, before in zip(made, examples, strict=True)) > 30
    assert all(one[0].untyped_storage().nbytes() == one[0].nbytes for one in made if one[0].dtype == torch.float32)


def test_torch_looks_only_at_images_that_it_varies() -> None:
    pixels = images().float() / 255
    pixels[LABELS == 0] *= 5  # the class that stays as it is
    for source in (pixels, pixels[:, 0]):
        whole = DiversifiedDataset(ImageArray(source, LABELS), plan_of(), backend="torch")
        batch = whole.__getitems__(list(range(COUNT)))
        assert torch.equal(batch.images, torch.stack([whole[row][0] for row in range(COUNT)]))
        assert torch.equal(batch.images[LABELS == 0], source[LABELS == 0])


FEW = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])
TAIL = ImagePolicy(operations=("rotate",), strength=1.0, probability=0.9)


def drawn_views(workers: int, start: int = 0) -> torch.Tensor:
    """`(180, 2)` index and note of the draws of an epoch in which each of three classes has a third: class 2 one image."""
    plan = plan_of(TAIL, TAIL, TAIL).model_copy(update={"images_per_epoch": 180})
    index = torch.arange(len(FEW), dtype=torch.float64)
    dataset = DiversifiedDataset(
        TensorDataset(torch.stack([index, torch.zeros_like(index)], 1), FEW), plan, seed=3, backend=note_second
    )
    sampler = DiversifySampler(FEW, plan, seed=3)
    sampler.load_state_dict({**sampler.state_dict(), "position": start})
    return torch.cat([images for images, _ in DataLoader(dataset, 16, sampler=sampler, num_workers=workers)])


def note_second(image: Any, operation: str, strength: float, draw: float) -> Any:
    return image + torch.tensor([0.0, strength * (1 + draw)], dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_an_image_drawn_many_times_in_an_epoch_gets_a_view_for_each_with_any_workers_and_after_a_resume() -> None:
    views = drawn_views(0)
    for index in range(len(FEW)):
        notes = views[views[:, 0] == index, 1]
        varied = notes[notes > 0]
        assert len(notes) in (10, 30, 60)
        assert len(varied) > 0.6 * len(notes)
        assert len(varied.unique()) == len(varied)
    for workers in (1, 4):
        assert torch.equal(drawn_views(workers), views)
    assert torch.equal(drawn_views(0, start=77), views[77:])


def test_the_reference_loop_hands_occurrences_on_to_a_wrapped_data_set() -> None:
    from diversify.training.ingredients import Ingredients
    from diversify.training.loop import fit
    from diversify.training.recipe import Recipe

    plan = plan_of(TAIL, TAIL, TAIL).model_copy(update={"images_per_epoch": 180})
    seen = []

    def keep(pictures: torch.Tensor, targets: torch.Tensor, key: dv.DrawKey) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.stack([key.views.double(), pictures[:, 1].double()], 1))
        return pictures, targets

    ingredients = Ingredients(
        sampler=DiversifySampler(FEW, plan, seed=3),
        wrap_dataset=lambda dataset: DiversifiedDataset(dataset, plan, seed=3, backend=note_second),
        augment=keep,
    )
    recipe = Recipe(epochs=1, batch_size=16, warmup_epochs=0, learning_rate=1e-6, precision="fp32")
    train = TensorDataset(torch.zeros(len(FEW), 2, dtype=torch.float64), FEW)
    network = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(2, 3)).double()
    list(fit(network, train, recipe=recipe, num_classes=3, ingredients=ingredients, workers=2))
    views, notes = torch.cat(seen).T
    assert len(views.unique()) == len(views) == 180
    assert torch.equal(notes, drawn_views(0)[:, 1])


def test_a_first_occurrence_is_drawn_as_a_plain_index() -> None:
    dataset = DiversifiedDataset(ImageArray(images().float(), LABELS), plan_of(), backend=note)
    rows = list(range(60))
    first = dataset.__getitems__(rows).images.clone()
    assert torch.equal(dataset.__getitems__([Drawn(row, 0) for row in rows]).images, first)
    again = dataset.__getitems__([Drawn(row, 1) for row in rows]).images.clone()
    assert not torch.equal(again, first)
    assert torch.equal(torch.stack([dataset[Drawn(row, 1)][0] for row in rows]), again)
    assert torch.equal(dataset[Drawn(-1, 1)][0], dataset[Drawn(COUNT - 1, 1)][0])


def digest_of(dataset: DiversifiedDataset) -> str:
    dataset.set_epoch(1)
    return hashlib.sha256(dataset.__getitems__(list(range(60))).images.numpy().tobytes()).hexdigest()


@pytest.mark.slow
def test_a_fresh_process_draws_the_same_and_imports_albumentations_only_when_asked() -> None:
    root = Path(__file__).parents[2]
    fresh = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, cwd=root)
    here = DiversifiedDataset(ImageArray(images().float(), LABELS), plan_of(), seed=3, backend=note)
    views = hashlib.sha256(drawn_views(0).numpy().tobytes()).hexdigest()
    assert fresh.stdout.split() == [digest_of(here), views]
    here.backend = "albumentations"
    here.use(plan_of())
    assert "albumentations" in sys.modules
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"


def test_a_number_is_what_uniform_gives() -> None:
    rows = torch.tensor([0, 5, 2**40])
    assert [draws.number("a", 3, row, -1) for row in rows.tolist()] == draws.uniform("a", 3, rows, -1).tolist()


# The plan and the epoch


def test_a_plan_that_varies_no_image_hands_on_what_it_gets() -> None:
    examples = [("anything", index) for index in range(3)]
    for plan in (Plan.untouched("abc", [1, 1, 1]), plan_of(*[POLICY.model_copy(update={"strength": 0.0})] * 3)):
        dataset = DiversifiedDataset(Pairs(examples), plan)
        assert all(got is example for got, example in zip(dataset.__getitems__([0, 1, 2]), examples, strict=True))
        assert dataset[1] is examples[1]


def test_the_source_stays_as_it_is() -> None:
    kept = images()
    source = ImageArray(kept.clone(), LABELS)
    epochs_of(DiversifiedDataset(source, plan_of()), 1)
    assert torch.equal(source.images, kept)
    arrays = Pairs([(image.permute(1, 2, 0).numpy().copy(), 1) for image in kept[:40]])
    policy = ImagePolicy(operations=image_ops.OPERATIONS, layers=4, strength=1.0, probability=0.9)
    varied = DiversifiedDataset(arrays, plan_of(policy, policy, policy))
    assert any((varied[row][0] != arrays[row][0]).any() for row in range(40))
    assert all(
        (array == image.permute(1, 2, 0).numpy()).all()
        for (array, _), image in zip(arrays.examples, kept, strict=False)
    )


def test_the_schedule_acts_once_the_number_of_epochs_is_known() -> None:
    dataset = DiversifiedDataset(
        ImageArray(images().float(), LABELS), plan_of(schedule=Schedule(start=0.5, ramp=0.4, stop=0.9)), backend=note
    )

    def share(epoch: int, epochs: int | None) -> float:
        dataset.set_epoch(epoch, epochs)
        changed = dataset.__getitems__(list(range(COUNT))).images != images().float()
        return float(changed.flatten(1).any(1)[LABELS == 1].float().mean())

    assert share(0, 10) == share(4, 10) == share(9, 10) == 0
    assert 0 < share(5, 10) < 0.35 < share(8, 10)
    assert share(0, None) > 0.35

    asked = []
    listening = DiversifiedDataset(
        dataset.dataset,
        dataset.plan,
        backend=lambda image, operation, strength, draw: asked.append(strength) or image,  # type: ignore[func-returns-value]
    )
    listening.set_epoch(5, 10)  # a quarter of the way
    listening.__getitems__(list(range(COUNT)))
    assert {round(strength, 9) for strength in asked} == {0.2, 0.1}


@pytest.mark.parametrize("workers", [0, 2])
def test_another_plan_reaches_living_workers(workers: int) -> None:
    dataset = DiversifiedDataset(ImageArray(images(), LABELS), plan_of())
    loader = DataLoader(dataset, batch_size=60, num_workers=workers, persistent_workers=workers > 0)

    def changed() -> list[bool]:
        read = torch.cat([batch for batch, _ in loader])
        return [bool((read != images())[label == LABELS].any()) for label in range(3)]

    assert changed() == [False, True, True]
    dataset.use(plan_of(POLICY, ImagePolicy(), ImagePolicy()))
    assert changed() == [True, False, False]
    dataset.use(Plan.untouched("abc", [80, 80, 80]))
    assert changed() == [False, False, False]


def test_a_copy_has_an_epoch_of_its_own() -> None:
    dataset = DiversifiedDataset(ImageArray(images(), LABELS), plan_of())
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):  # noqa: S301
        dataset.set_epoch(0)
        first = dataset.__getitems__(list(range(COUNT))).images
        other.set_epoch(1)
        assert torch.equal(dataset.__getitems__(list(range(COUNT))).images, first)
        assert not torch.equal(other.__getitems__(list(range(COUNT))).images, first)
        read = epochs_of(other, 2, num_workers=1, persistent_workers=True)
        assert torch.equal(read[0], first)
        assert not torch.equal(read[1], first)


# Kinds of images and labels


def kinds() -> dict[str, Any]:
    image = images(count=1)[0]
    array = image.permute(1, 2, 0).numpy()
    return {
        "uint8": image,
        "grey": image[:1],
        "flat": image[0],
        "five channels": images(channels=5, count=1)[0],
        "float32": image.float() / 255,
        "float64": image.double() / 255,
        "bfloat16": image.bfloat16() / 255,
        "tv_tensor": tv_tensors.Image(image),
        "array": array,
        "flat array": array[..., 0],
        "float array": array.astype(np.float64) / 255,
        "PIL": Image.fromarray(array),
        "grey PIL": Image.fromarray(array[..., 0]),
        "wide": Image.fromarray(array).resize((20, 9)),
        "one pixel": image[:, :1, :1],
    }


@pytest.mark.parametrize("kind", kinds())
def test_kind_type_and_size_of_an_image_stay(kind: str) -> None:
    image = kinds()[kind]
    policy = ImagePolicy(operations=image_ops.OPERATIONS, layers=2, strength=0.7, probability=0.9)
    dataset = DiversifiedDataset(Pairs([(image, 0, "more")] * 100), plan_of(policy, names="a"))
    changed = 0
    for row in range(100):
        result, label, more = dataset[row]
        assert (label, more) == (0, "more")
        assert type(result) is type(image)
        for name in ("shape", "dtype", "size", "mode"):
            if hasattr(image, name) and not callable(getattr(image, name)):
                assert getattr(result, name) == getattr(image, name)
        after, before = (
            each if isinstance(each, torch.Tensor) else torch.tensor(np.array(each)) for each in (result, image)
        )
        assert after.double().isfinite().all()
        changed += not torch.equal(after, before)
    assert changed > 40


def test_labels_are_given_shown_or_each_examples_own() -> None:
    pixels = images().float()
    shown = TensorDataset(pixels, LABELS)
    silent = Pairs([(image, torch.tensor(label)) for image, label in zip(pixels, LABELS.tolist(), strict=True)])
    relabelled = Pairs(silent.examples)
    one_hot = Pairs([(image, torch.eye(3)[label]) for image, label in silent.examples])
    relabelled.targets, relabelled.target_transform = (LABELS + 1) % 3, int  # type: ignore[attr-defined]
    want = DiversifiedDataset(shown, plan_of(), backend=note).__getitems__(list(range(COUNT)))
    for dataset in (
        DiversifiedDataset(silent, plan_of(), backend=note),
        DiversifiedDataset(relabelled, plan_of(), backend=note),
        DiversifiedDataset(Subset(relabelled, range(COUNT)), plan_of(), backend=note),
        DiversifiedDataset(ConcatDataset([silent]), plan_of(), backend=note),
        DiversifiedDataset(one_hot, plan_of(), backend=note),
        DiversifiedDataset(Pairs([(image, "?") for image in pixels]), plan_of(), labels=LABELS, backend=note),
    ):
        got = dataset.__getitems__(list(range(COUNT)))
        assert all(torch.equal(one[0], other[0]) for one, other in zip(got, want, strict=True))
    assert torch.equal(dv.labels_of(DiversifiedDataset(shown, plan_of(), backend=note)), LABELS)
    assert DiversifiedDataset(silent, plan_of(), backend=note).targets is None


# Wrong input


WRONG: list[tuple[str, Any, str]] = [
    ("length", iter, "data set must be map-style, with a length and an index, got list_iterator"),
    ("backend", "kornia", "backend must be one of albumentations, torch, a function, got 'kornia'"),
    (
        "labels",
        torch.tensor([0, 1, 3]),
        "labels of Pairs must be classes of the plan, in [0, 2], got 3 at row 2",
    ),
    ("labels", [0, 1], "labels of Pairs must be as many as the images, 3, got 2"),
    (
        "example",
        "text",
        "an example of the data set must be a pair (image, label), or a mapping that holds both, got str at row 0",
    ),
    (
        "example",
        (torch.zeros(1, 4, 4), "x"),
        "label of an example must be one class of the plan, got 'x' at row 0; pass labels=LABELS",
    ),
    (
        "example",
        (torch.zeros(1, 4, 4), 5),
        "label of an example must be a class of the plan, in [0, 2], got 5 at row 0",
    ),
    (
        "example",
        ("text", 1),
        "an image of the data set must be a tensor, a numpy array or a PIL image to be augmented, got str",
    ),
    (
        "example",
        (torch.full((1, 4, 4), -1.5), 1),
        "an image of the data set must be uint8, or float in [0, 1], to be augmented, got float from -1.5 to -1.5; normalise it afterwards",
    ),
    (
        "example",
        (torch.zeros(1, 4, 4, dtype=torch.int64), 1),
        "an image of the data set must be uint8, or float in [0, 1], to be augmented, got torch.int64",
    ),
    (
        "example",
        (Image.new("CMYK", (4, 4)), 1),
        "an image of the data set must be of PIL mode L or RGB to be augmented, got CMYK; convert it in the data set's"
        " transform, image.convert('RGB')",
    ),
    (
        "example",
        (np.zeros((3, 8, 8), np.uint8), 1),
        "an image of the data set must have shape (H, W) or (H, W, C) as a numpy array, got (3, 8, 8)",
    ),
    (
        "in torch",
        (Image.new("L", (4, 4)), 1),
        'an image of the data set must be a tensor for the backend "torch", got Image; pass backend="albumentations"',
    ),
    (
        "in torch",
        (torch.zeros(1, 1, 4, 4), 1),
        "an image of the data set must have shape (C, H, W) or (H, W), got (1, 1, 4, 4)",
    ),
    (
        "in torch",
        (torch.zeros(1, 4, 4, device="meta"), 1),
        "an image of the data set must be in the memory of the CPU, got meta; augment it there with a BatchAugmenter",
    ),
    (
        "in torch",
        (torch.full((1, 4, 4), 1.5), 1),
        "an image of the data set must be uint8, or float in [0, 1], to be augmented, got float from 1.5 to 1.5; normalise it afterwards",
    ),
    (
        "in torch",
        (torch.zeros(1, 4, 4, dtype=torch.int64), 1),
        "an image of the data set must be uint8, or float in [0, 1], to be augmented, got torch.int64",
    ),
    (
        "returns",
        lambda image, *_: image.float(),
        "backend must return tensor of uint8 and shape (1, 4, 4), got tensor of float32 and shape (1, 4, 4) (rotate at row 0)",
    ),
    (
        "returns",
        lambda image, *_: image[:, 1:],
        "backend must return tensor of uint8 and shape (1, 4, 4), got tensor of uint8 and shape (1, 3, 4) (rotate at row 0)",
    ),
    (
        "returns",
        lambda image, *_: 1 / 0,
        "backend must augment every image, got ZeroDivisionError: division by zero (rotate at row 0)",
    ),
    ("plan", plan_of(POLICY, POLICY, names="ab"), "plan must have the 3 classes of the plan before it, got 2"),
    ("plan", plan_of(names="abd"), "plan must have the classes of the plan before it, got 'd' for 'c'"),
    ("epoch", -1, "epoch must not be negative, got -1"),
]


@pytest.mark.parametrize(("what", "value", "message"), WRONG)
def test_wrong_input_is_one_clear_line(what: str, value: Any, message: str) -> None:
    policy = ImagePolicy(operations=("rotate",), strength=0.5, probability=0.9)
    plan = plan_of(policy, policy, policy)
    image = torch.zeros(1, 4, 4, dtype=torch.uint8)
    whole = Pairs([(image, 1)] * 3)

    def attempt() -> None:
        if what == "length":
            DiversifiedDataset(iter([1]), plan)  # type: ignore[arg-type]
        elif what == "backend":
            DiversifiedDataset(whole, plan, backend=value)
        elif what == "labels":
            DiversifiedDataset(whole, plan, labels=value)
        elif what == "plan":
            DiversifiedDataset(whole, plan).use(value)
        elif what == "epoch":
            DiversifiedDataset(whole, plan).set_epoch(value)
        else:
            examples = whole.examples if what == "returns" else [value] * 3
            backend = {"example": "albumentations", "in torch": "torch"}.get(what, value)
            DiversifiedDataset(Pairs(examples), plan, backend=backend).__getitems__([0])

    with pytest.raises(InputError) as caught:
        attempt()
    assert str(caught.value) == message
