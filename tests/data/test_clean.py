"""A clean loader reads every training image once, in order, without the augmentation that can be recognised."""

import copy
import os
import warnings

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before its import, where the library has not imported it yet
import albumentations
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision import transforms as v1
from torchvision.transforms import v2

import diversify as dv
from diversify.data.clean import random_transforms, without_augmentation
from diversify.errors import InputError

IMAGES = torch.arange(10 * 3 * 8 * 8, dtype=torch.uint8).view(10, 3, 8, 8)


class Pictures(Dataset):
    def __init__(self, transform=None, images=IMAGES):
        self.transform, self.images, self.targets = transform, images, list(range(10))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        image = self.images[index]
        return (self.transform(image) if self.transform else image), self.targets[index]


def noted(loader):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clean = dv.clean_loader(loader)
        images, labels = (torch.cat(each) for each in zip(*clean, strict=True))
    return images, labels.tolist(), [str(each.message) for each in caught]


def scaled(image):
    return image.float() / 255


RANDOM = [
    v1.Compose([v1.RandomCrop(8, padding=2), v1.RandomHorizontalFlip(), v1.Lambda(scaled)]),
    v2.Compose(
        [v2.RandomCrop(8, padding=2), v2.AutoAugment(), v2.ColorJitter(0.4), v2.Lambda(scaled), v2.RandomErasing()]
    ),
    v2.Compose([v2.RandomApply([v2.RandomRotation(20), v2.GaussianBlur(3)], p=0.8), v2.Lambda(scaled)]),
    v2.Compose([v2.Compose([v2.RandomHorizontalFlip()]), v2.RandAugment(), v2.Lambda(scaled)]),
]


@pytest.mark.parametrize("transform", RANDOM, ids=range(len(RANDOM)))
def test_images_are_those_without_the_random_transforms_and_the_loader_stays(transform):
    dataset = Pictures(transform)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True)
    before = torch.get_rng_state()
    dv.clean_loader(loader)
    assert torch.equal(torch.get_rng_state(), before)
    images, labels, notes = noted(loader)
    assert torch.equal(images, IMAGES / 255)
    assert (labels, notes) == (list(range(10)), [])
    assert dataset.transform is transform
    assert loader.dataset is dataset


@pytest.mark.parametrize(
    "make", [lambda d: Subset(d, range(10)), lambda d: ConcatDataset([d])], ids=["subset", "concat"]
)
def test_transforms_below_subsets_are_found(make):
    images, labels, notes = noted(DataLoader(make(Pictures(v2.RandomHorizontalFlip())), batch_size=3, shuffle=True))
    assert torch.equal(images, IMAGES)
    assert (labels, notes) == (list(range(10)), [])


def test_what_is_certain_every_time_stays():
    for transform in (
        v2.RandomHorizontalFlip(p=1),
        v2.CenterCrop(4),
        v2.GaussianBlur(3, sigma=0.5),
        nn.Sequential(v2.Pad(1)),
    ):
        dataset = Pictures(transform)
        assert without_augmentation(dataset) == (dataset, [])
    sequence = Pictures(nn.Sequential(v2.Pad(1), v2.RandomHorizontalFlip()))
    assert len(without_augmentation(sequence)[0].transform) == 1


def test_what_has_no_certain_counterpart_stays_and_is_named():
    transform = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(8, antialias=True)])
    _, _, notes = noted(DataLoader(Pictures(transform)))
    advice = "give it the transform of evaluation"
    assert notes == [f"clean_loader leaves something random: the data set keeps RandomResizedCrop; {advice}"]
    own = Pictures(lambda image: image + torch.randint(0, 9, ()))
    _, _, notes = noted(DataLoader(own))
    assert notes == [
        f"clean_loader leaves something random: the data set gives other images when it is read again; {advice}"
    ]
    larger = Pictures(v2.RandomCrop(5, padding=1))
    assert len(noted(DataLoader(larger))[2]) == 1


def test_transforms_of_albumentations_are_removed():
    pipeline = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.ShiftScaleRotate(p=0.9),
            albumentations.OneOf([albumentations.GaussNoise(), albumentations.RandomBrightnessContrast()]),
            albumentations.Normalize(mean=(0,) * 3, std=(1,) * 3),
        ]
    )
    pixels = IMAGES.permute(0, 2, 3, 1).numpy()
    dataset = Pictures(lambda image: dataset.pipeline(image=image)["image"], pixels)
    dataset.pipeline = pipeline
    clean, kept = without_augmentation(dataset)
    assert [type(each).__name__ for each in clean.pipeline.transforms] == ["Normalize"]
    assert kept == []
    assert np.allclose(clean.pipeline(image=pixels[0])["image"], pixels[0] / 255)
    dataset.pipeline = albumentations.Compose([albumentations.RandomCrop(4, 4)])
    assert without_augmentation(dataset)[1] == ["RandomCrop"]


def test_a_data_set_may_say_itself_what_it_is_without_augmentation():
    plan = dv.Plan.from_counts(list("ab"), [6, 4])
    below = TensorDataset(IMAGES, torch.tensor([0] * 6 + [1] * 4))
    images, labels, notes = noted(DataLoader(dv.DiversifiedDataset(below, plan, backend="torch"), shuffle=True))
    assert torch.equal(images, IMAGES)
    assert (labels, notes) == ([0] * 6 + [1] * 4, [])


class Own(torch.utils.data.Sampler):
    def __iter__(self):
        return iter([3, 1])


SAMPLERS = {
    "subset": ({"sampler": SubsetRandomSampler([7, 2, 5])}, [2, 5, 7], 0),
    "weights": ({"sampler": WeightedRandomSampler([0.0, 0.0, *[0.5] * 8], 10)}, list(range(2, 10)), 0),
    "batches": (
        {"batch_sampler": torch.utils.data.BatchSampler(SubsetRandomSampler([7, 2]), 1, drop_last=True)},
        [2, 7],
        0,
    ),
    "own": ({"sampler": Own()}, list(range(10)), 1),
    "own batches": ({"batch_sampler": [[3, 1], [2, 4]]}, list(range(10)), 1),
    "plan": (
        {"sampler": dv.DiversifySampler([0] * 6 + [1] * 4, dv.Plan.from_counts(list("ab"), [6, 4]))},
        list(range(10)),
        0,
    ),
    "distributed": (
        {"sampler": torch.utils.data.DistributedSampler(Pictures(), num_replicas=2, rank=1)},
        list(range(10)),
        0,
    ),
}


@pytest.mark.parametrize(("options", "rows", "notes"), SAMPLERS.values(), ids=SAMPLERS)
def test_images_that_the_sampler_never_draws_stay_out(options, rows, notes):
    _, labels, said = noted(DataLoader(Pictures(), **options))
    assert labels == rows
    assert len(said) == notes
    assert all("draws is not known" in each for each in said)


def test_collate_function_and_batch_size_stay():
    def collate(examples):
        return torch.stack([image for image, _ in examples]) * 0, torch.tensor([label for _, label in examples])

    clean = dv.clean_loader(DataLoader(Pictures(), batch_size=4, collate_fn=collate, shuffle=True))
    batches = list(clean)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert not batches[0][0].any()
    assert copy.copy(clean).dataset is clean.dataset


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([1], "loader must be a DataLoader, got list"),
        (
            DataLoader(Stream()),
            "loader must be of a map-style data set, got Stream; make a loader that reads every training image once, "
            "in order, without augmentation",
        ),
    ],
    ids=["list", "stream"],
)
def test_what_cannot_be_read_in_order_is_refused(loader, message):
    with pytest.raises(InputError) as caught:
        dv.clean_loader(loader)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("transform", "names"),
    [
        (None, []),
        (v1.Compose([v1.RandomCrop(8, padding=1), v1.Resize(8), v1.RandomErasing()]), ["RandomCrop", "RandomErasing"]),
        (v2.RandomApply([v2.ColorJitter(0.1)]), ["RandomApply"]),
        (v2.RandomHorizontalFlip(p=0), []),
        (v2.RandomHorizontalFlip(p=1), []),
        (v2.RandomResizedCrop(8), ["RandomResizedCrop"]),
        (nn.Sequential(v2.GaussianBlur(3, 1.0), v2.RandomRotation(9)), ["RandomRotation"]),
        (albumentations.Compose([albumentations.HorizontalFlip(), albumentations.Normalize()]), ["HorizontalFlip"]),
        (lambda image: image, []),
    ],
)
def test_random_transforms_are_named(transform, names):
    assert random_transforms(Pictures(transform)) == names
    assert random_transforms(ConcatDataset([Pictures(transform), Subset(Pictures(transform), [0])])) == names


def test_a_loader_that_changes_its_batches_and_a_list_of_rows():
    class Scaled(DataLoader):
        def __iter__(self):
            return ((images * 2 - 1, labels) for images, labels in super().__iter__())

    data = TensorDataset(torch.rand(5, 1), torch.arange(5))
    with pytest.warns(
        UserWarning, match="clean_loader leaves out what Scaled does to its batches: it reads the data set"
    ):
        assert len(list(dv.clean_loader(Scaled(data, batch_size=5)))) == 1
    [(_, labels)] = dv.clean_loader(DataLoader(data, batch_size=4, sampler=[4, 1, 4]))
    assert labels.tolist() == [1, 4]
