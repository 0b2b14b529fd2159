"""Small images, and the message of an error, for tests of data and networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diversify.errors import InputError
from diversify.functional import draws

VIEW = {"mean": (0.5,), "std": (0.5,)}


def message_of(call):
    """The message of the InputError that a call raises; it is one line."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def noise(*shape, key=0):
    return draws.integers(256, "noise", key, torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


def random_images(*shape, key=0):
    return draws.integers(256, "images", key, torch.arange(int(np.prod(shape)))).view(shape).to(torch.uint8).numpy()


def images_of(split):
    """All images of a split."""
    return torch.stack([split.dataset[row][0] for row in range(len(split))])


def saved(path: Path, size=(6, 5), key=0):
    """The pixels of a picture of noise, written to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(size[1], size[0], 3, key=key)
    Image.fromarray(pixels).save(path)
    return pixels


def levels_of_a_warp():
    """By how many of 255 levels a warp of OpenCV may miss the exact one: rounding.

    OpenCV 4 rounds places to 1/32 of a pixel, too: it misses by at most 1/64 of 255 levels in each direction, at the steepest edge.
    """
    import cv2

    return 1.001 if int(cv2.__version__.split(".")[0]) >= 5 else 2 * 255 / 64


def write_npz(path: Path, **arrays):
    """The spec of an npz file with these arrays, which is written."""
    np.savez(path, **arrays)
    return f"npz:{path}"
