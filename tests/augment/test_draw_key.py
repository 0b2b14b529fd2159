"""Augmentation and order are functions of (seed, epoch, index, occurrence): the same in any batch, and equal to plain Python."""

import pytest
import torch
from reference import draws as plain

from diversify.augment.draw_key import CropFlip, DrawKey
from diversify.augment.sampler import EpochSampler
from diversify.errors import InputError
from diversify.functional import draws

TARGETS = torch.tensor([5, 6, 7, 8, 9, 10])
INDICES = torch.tensor([0, 3, 900, 17, 4, 50_000])


def batch(channels=2, height=4, width=5):
    count = len(INDICES) * channels * height * width
    pixels = 1 + draws.integers(255, "pixels", torch.arange(count))  # none is 0, the padding
    return pixels.view(len(INDICES), channels, height, width).to(torch.uint8)


def key_of(indices=INDICES, seed=1, epoch=2, step=3):
    return DrawKey(seed=seed, epoch=epoch, step=step, indices=indices)


def plain_crop_flip(image, index, padding, mirror, seed=1, epoch=2):
    """One image as nested lists, pixel by pixel."""
    height, width = len(image[0]), len(image[0][0])
    top = left = padding
    if padding:
        top, left = (plain.integer(2 * padding + 1, name, seed, epoch, index) for name in ("top", "left"))
    flip = mirror and plain.uniform("mirror", seed, epoch, index) < 0.5
    result = []
    for channel in image:
        rows = []
        for y in range(height):
            row = []
            for x in range(width):
                source_y, source_x = y + top - padding, x + left - padding
                inside = 0 <= source_y < height and 0 <= source_x < width
                row.append(channel[source_y][source_x] if inside else 0)
            rows.append(row[::-1] if flip else row)
        result.append(rows)
    return result


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_crop_and_mirror_are_those_of_plain_python(padding, mirror, dtype):
    images = batch().to(dtype)
    got, targets = CropFlip(padding=padding, mirror=mirror)(images, TARGETS, key_of())
    pairs = zip(images.tolist(), INDICES.tolist(), strict=True)
    assert got.tolist() == [plain_crop_flip(image, index, padding, mirror) for image, index in pairs]
    assert got.dtype == dtype
    assert targets is TARGETS
    if not padding and not mirror:
        assert torch.equal(got, images)
    else:
        assert not torch.equal(got, images)


def test_an_image_is_augmented_the_same_in_any_batch_and_step():
    augment = CropFlip(padding=2, mirror=True)
    whole, _ = augment(batch(), TARGETS, key_of())
    order = torch.tensor([4, 0, 5])
    part, _ = augment(batch()[order], TARGETS[order], key_of(INDICES[order], step=9))
    assert torch.equal(part, whole[order])
    strided, _ = augment(batch().contiguous(memory_format=torch.channels_last), TARGETS, key_of())
    assert torch.equal(strided, whole)
    assert not torch.equal(augment(batch(), TARGETS, key_of(epoch=3))[0], whole)
    assert not torch.equal(augment(batch(), TARGETS, key_of(seed=2))[0], whole)


def test_each_occurrence_is_another_view_and_the_first_is_that_of_the_index_alone():
    augment = CropFlip(padding=4, mirror=True)
    images, targets = batch()[:1].expand(40, -1, -1, -1), TARGETS[:1].expand(40)
    indices, occurrences = torch.full((40,), 7), torch.arange(40)
    key = DrawKey(seed=1, epoch=2, step=3, indices=indices, occurrences=occurrences)
    views, _ = augment(images, targets, key)
    first, _ = augment(images, targets, key_of(indices))
    assert torch.equal(views[0], first[0])
    assert len({tuple(view.flatten().tolist()) for view in views}) > 25  # of 162
    for occurrence, view in zip(occurrences.tolist(), views.tolist(), strict=True):
        assert view == plain_crop_flip(batch()[0].tolist(), 7 + (occurrence << 32), 4, True)
    assert torch.equal(key_of().views, INDICES)
    small = DrawKey(seed=0, epoch=0, step=0, indices=INDICES.int(), occurrences=torch.ones(6, dtype=torch.uint8))
    assert torch.equal(small.views, INDICES + 2**32)


def test_every_offset_and_both_sides_are_drawn_equally_often():
    indices = torch.arange(9000)
    images = torch.zeros(9000, 1, 3, 3)
    images[:, 0, 1, 1] = 1.0
    images[:, 0, 1, 0] = 0.5  # says which side is left
    got, _ = CropFlip(padding=1, mirror=True)(images, indices, key_of(indices))
    places = (got[:, 0] == 1.0).float().mean(0)
    assert (places - 1 / 9).abs().max() < 0.02
    mirrored, _ = CropFlip(padding=0, mirror=True)(images, indices, key_of(indices))
    assert (mirrored[:, 0, 1, 2] == 0.5).tolist() == [
        plain.uniform("mirror", 1, 2, index) < 0.5 for index in range(9000)
    ]


def test_a_negative_padding_is_refused():
    with pytest.raises(InputError, match=r"^padding must not be negative, got -1$"):
        CropFlip(padding=-1, mirror=False)


def test_the_order_of_an_epoch_is_a_permutation_drawn_from_seed_and_epoch():
    sampler = EpochSampler(50, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert len(sampler) == 50
    assert sorted(orders[0]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != list(range(50))
    assert list(EpochSampler(50, seed=4)) != orders[0]
    words = [plain.word("order", 3, 1, index) for index in range(50)]
    assert orders[1] == sorted(range(50), key=lambda index: plain.signed(words[index]))
