"""Loaders and the batches that they make."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import images_of, message_of, random_images
from torch.utils.data import DataLoader, Subset

import diversify.data
from diversify.data.images import ImageArray
from diversify.data.labels import labels_of
from diversify.data.load import load_data
from diversify.data.loader import Split, collate, make_loader


def test_a_loader_yields_normalised_batches_in_the_order_of_the_split():
    loaded = load_data("digits", imbalance="exp:5")
    for workers in (0, 2):
        batches = list(make_loader(loaded.val, loaded.view, batch_size=16, workers=workers))
        assert [len(labels) for _, labels in batches[:-1]] == [16] * (len(batches) - 1)
        assert torch.equal(torch.cat([labels for _, labels in batches]), loaded.val.labels)
        images = torch.cat([images for images, _ in batches])
        assert torch.equal(images, (images_of(loaded.val).float() / 255 - 0.3053) / 0.3762)


def test_an_array_of_images_is_a_data_set_for_any_loader():
    images, labels = torch.from_numpy(random_images(5, 1, 3, 3)), torch.tensor([4, 3, 2, 1, 0])
    dataset = ImageArray(images, labels)
    (got, found), (rest, _) = DataLoader(dataset, batch_size=3)
    assert torch.equal(torch.cat([got, rest]), images)
    assert found.tolist() == [4, 3, 2]
    assert torch.equal(collate(Subset(dataset, [4, 1]).__getitems__([1, 0]))[0], images[[1, 4]])
    assert [int(label) for _, label in dataset.__getitems__([0, 2])] == [4, 2]
    assert len(dataset.__getitems__([0, 2])) == 2


def test_examples_of_any_kind_are_collated():
    pixels = random_images(2, 3, 3)
    examples = [
        (Image.fromarray(pixels), np.array([3])),
        (pixels, 1),
        (pixels.transpose(2, 0, 1), torch.tensor([2])),
        (torch.from_numpy(pixels).permute(2, 0, 1), np.int64(0)),
    ]
    images, labels = collate([examples[0], examples[1], examples[3]])
    assert torch.equal(images, torch.from_numpy(pixels).permute(2, 0, 1).expand(3, 3, 2, 3))
    assert labels.tolist() == [3, 1, 0]
    assert collate([(pixels[..., 0], 1), (Image.fromarray(pixels[..., 0]), 2)])[0].shape == (2, 1, 2, 3)
    assert collate([(Image.fromarray(pixels[..., 0]).convert("P"), 1)])[0].shape == (1, 3, 2, 3)


EXAMPLE_ERRORS = [
    ([("a.png", 1)], "an image of the data set must be a tensor, a numpy array or a PIL image, got str"),
    (
        [(np.zeros((3, 32, 32)), 1)],
        "an image of the data set must have shape (H, W) or (H, W, C) as a numpy array, got (3, 32, 32)",
    ),
    ([(torch.zeros(7), 1)], "an image of the data set must have shape (C, H, W) or (H, W), got (7,)"),
    (
        [(Image.new("F", (2, 2)), 1)],
        "an image of the data set must have whole numbers for pixels, got floating point, PIL mode F",
    ),
    (
        [(torch.zeros(1, 2, 2), 1), (torch.zeros(1, 2, 2), 1), (torch.zeros(1, 2, 3), 1)],
        "images must have one size, got (1, 2, 2) and (1, 2, 3); "
        "resize them in the data set, or pass resize=N and crop=N",
    ),
]


@pytest.mark.parametrize(("examples", "message"), EXAMPLE_ERRORS, ids=[text[:50] for _, text in EXAMPLE_ERRORS])
def test_examples_that_are_no_images(examples, message):
    assert message_of(lambda: collate(examples)) == message


def test_everything_public_is_importable_from_data():
    assert all(hasattr(diversify.data, name) for name in diversify.data.__all__)
    assert dataclasses.is_dataclass(Split)


def test_a_loader_of_ones_own_reads_a_folder_without_the_files_that_are_damaged(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / label / f"{number}.png")
    (tmp_path / "a" / "damaged.png").write_bytes(b"no image")
    data = load_data(f"folder:{tmp_path}", skip_bad=True, holdout=0, mean=[0.5], std=[0.5])
    images, labels = next(iter(DataLoader(data.train.dataset, batch_size=9)))
    assert (images.shape, images.dtype) == ((6, 3, 8, 8), torch.uint8)
    assert labels.tolist() == labels_of(data.train.dataset).tolist() == [0, 0, 0, 1, 1, 1]
    assert data.skipped == ("a/damaged.png",)
