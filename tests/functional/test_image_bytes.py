"""Large images of 8 bits are changed as bytes: by the same arithmetic as small ones."""

import numpy as np
import pytest
import torch
from small_data import levels_of_a_warp

from diversify.functional import draws, image_bytes, image_ops
from diversify.functional.image_ops import OPERATIONS, apply_policies, apply_policy, apply_steps, is_large

ROUNDED = (
    "shear_x",
    "shear_y",
    "rotate",
    "zoom",
    "saturation",
    "sharpness",
)  # a value half-way between two levels may become either


def pictures(count=6, channels=3, height=68, width=75):
    """Half of them plain noise, and the others smooth."""
    noise = draws.integers(256, "noise", torch.arange(count * channels * height * width))
    noise = noise.view(count, channels, height, width).to(torch.uint8)
    small = draws.uniform("smooth", torch.arange(count * channels * 16)).view(count, channels, 4, 4)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    noise[::2] = (smooth * 200 + 20).round().to(torch.uint8)[::2]
    return noise


def settings(name, count, strength):
    draw = draws.uniform("draw", name, torch.arange(count))[:, None]
    return torch.full((count, 1), OPERATIONS.index(name)), torch.full((count, 1), strength), draw


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_bytes_are_what_floating_point_gives(name, channels):
    images = pictures(channels=channels)
    before = images.clone()
    for strength in (0.1, 0.37, 1.0):
        its = settings(name, len(images), strength)
        made = apply_policy(images, *its)
        expected = apply_policy(images, *its, by_rows=True)
        if name in ROUNDED:
            exact = apply_policy(images.double() / 255, *its) * 255
            coarse = name in ROUNDED[:4] and levels_of_a_warp() > 2  # OpenCV 4
            assert ((made - exact).abs() < (levels_of_a_warp() + 0.5 if coarse else 0.502)).all()
            assert coarse or float((made != expected).float().mean()) < 0.05
        else:
            assert torch.equal(made, expected)
    assert torch.equal(images, before)
    assert not torch.equal(made, images) or (name, channels) == ("saturation", 1)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 5000), (3, 2, 2100), (3, 2100, 2)])
def test_every_way_gives_the_same_bytes(shape):
    assert is_large(*shape)
    images = pictures(8, *shape)
    places = torch.arange(32).view(8, 4)
    operation = draws.integers(len(OPERATIONS), "operation", places)
    strength, draw = draws.uniform("strength", places), draws.uniform("draw", places)
    whole = apply_policy(images, operation, strength, draw)
    assert not torch.equal(whole, images)
    one = apply_policy(images[3:4], operation[3:4], strength[3:4], draw[3:4])
    assert torch.equal(one, whole[3:4])
    small = torch.rand(3, 8, 8)
    mixed = apply_policies([images[3], small], operation[3:5], strength[3:5], draw[3:5])
    assert torch.equal(mixed[0], whole[3])
    assert mixed[1].shape == small.shape
    steps = zip((OPERATIONS[i] for i in operation[3]), strength[3].tolist(), draw[3].tolist(), strict=True)
    assert np.array_equal(apply_steps(images[3].numpy(), list(steps)), whole[3].numpy())


def test_threads_and_the_memory_of_the_input_do_not_matter():
    images = pictures(9)
    steps = [[(place, 0.5, 0.25), (place + 3, 0.5, 0.25)] for place in range(9)]
    planes = list(images.numpy())
    made = [image_bytes.changed(planes, steps, threads) for threads in (1, 3)]
    assert all(np.array_equal(*pair) for pair in zip(*made, strict=True))
    places = np.empty_like(images.numpy())
    assert image_bytes.changed(planes, [*steps[:-1], []], 1, list(places))[0] is not made[0][0]
    assert all(np.array_equal(*pair) for pair in zip(places[:-1], made[0][:-1], strict=True))
    assert np.array_equal(places[-1], planes[-1])  # without steps, a copy
    still = apply_policies([images[0]], *settings("flip", 1, 0.0))[0]
    assert torch.equal(still, images[0])
    assert still.data_ptr() != images[0].data_ptr()
    turned = images.transpose(2, 3)  # not contiguous
    its = settings("rotate", 9, 0.6)
    assert torch.equal(apply_policy(turned, *its), apply_policy(turned.contiguous(), *its))


def test_the_shape_alone_decides():
    assert is_large(3, 64, 64)
    assert not is_large(3, 63, 64)
    assert not is_large(2, 224, 224)
    assert not is_large(3, 4, 1 << 15)  # wider than OpenCV warps
    assert not is_large(1, 1 << 13, 1 << 13)  # more pixels than OpenCV counts
    assert set(image_bytes._OPERATIONS) == set(image_ops.OPERATIONS)
