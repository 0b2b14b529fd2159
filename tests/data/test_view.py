"""What the model sees: sizes, crops, means and standard deviations."""

import numpy as np
import pytest
import torch
from small_data import VIEW, message_of, random_images, write_npz

from diversify.data.load import load_data
from diversify.data.loader import make_loader
from diversify.data.view import View

IMAGES = random_images(4, 3, 3)
FOUR = np.array([0, 1, 0, 1])


def test_normalize_is_scale_less_mean_over_std():
    pixels = torch.from_numpy(random_images(2, 3, 4, 4))
    view = View(mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))
    expected = torch.empty(2, 3, 4, 4)
    for c in range(3):
        expected[:, c] = (pixels[:, c].float() / 255 - view.mean[c]) / view.std[c]
    assert torch.equal(view.normalize(pixels), expected)
    assert torch.equal(view.normalize(pixels.float() / 255), expected)
    assert view.normalize((pixels / 255).double()).dtype == torch.float32
    grey = view.normalize(pixels[:, :1])
    assert grey.shape == (2, 3, 4, 4)
    assert torch.equal(grey[:, 1], (pixels[:, 0].float() / 255 - 0.25) / 0.25)


def test_resize_takes_the_shorter_side_and_crop_the_centre():
    images = torch.from_numpy(random_images(2, 1, 8, 12))
    assert View(mean=(0,), std=(1,), resize=4).shape(images).shape == (2, 1, 4, 6)
    assert torch.equal(View(mean=(0,), std=(1,), crop=4).shape(images), images[:, :, 2:6, 4:8])
    assert View(mean=(0,), std=(1,)).shape(images) is images


@pytest.mark.parametrize("colour", [False, True])
def test_one_mean_is_repeated_for_every_channel(tmp_path, colour):
    images = random_images(4, 3, 3, 3) if colour else IMAGES
    spec = write_npz(tmp_path / "a.npz", train_images=images, train_labels=FOUR)
    channels = 3 if colour else 1
    assert load_data(spec, **VIEW).view == View(mean=(0.5,) * channels, std=(0.5,) * channels)
    three = {"mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}
    seen, _ = next(iter(make_loader(load_data(spec, holdout=0, **three).train, load_data(spec, **three).view)))
    assert seen.shape == (4, 3, 3, 3)


def test_mean_and_std_are_measured_only_when_asked(tmp_path):
    images = random_images(40, 5, 5, 3)
    spec = write_npz(tmp_path / "a.npz", train_images=images, train_labels=np.arange(40) % 2)
    expected = "mean and std must be those that the model was trained with, got nothing; pass mean=M and std=S"
    assert message_of(lambda: load_data(spec)) == expected
    loaded = load_data(spec, measure_view=True, crop=3)
    seen = images[:, 1:4, 1:4].reshape(-1, 3) / 255
    assert loaded.view_origin == "measured"
    assert loaded.view.mean == tuple(seen.mean(0).round(4))
    assert loaded.view.std == tuple(seen.std(0, ddof=1).round(4))
    assert load_data(spec, measure_view=True, **VIEW).view_origin == "given"
    assert load_data("digits", measure_view=True).view_origin == "usual"


def of_two_channels():
    return load_data("digits", mean=(0.1, 0.2), std=(1, 1))


VIEW_ERRORS = [
    (lambda: View(mean=(1, 2), std=(1,)), "mean and std must have the same length, got 2 and 1"),
    (lambda: View(mean=(0,), std=(0,)), "std must be positive, got 0"),
    (lambda: View(mean=(0,), std=(-1,)), "std must be positive, got -1"),
    (lambda: View(mean=(0, 0), std=(1, float("nan"))), "mean and std must be finite, got 0,0 and 1,nan"),
    (lambda: View(mean=(float("-inf"),), std=(1,)), "mean and std must be finite, got -inf and 1"),
    (lambda: View(mean=(0,), std=(float("inf"),)), "mean and std must be finite, got 0 and inf"),
    (lambda: View(mean=(0,), std=(1,), resize=0), "resize must be at least 1 pixel, got 0"),
    (lambda: View(mean=(0,), std=(1,), crop=-1), "crop must be at least 1 pixel, got -1"),
    (lambda: View(mean=(0,), std=(1,), crop=1.5), "crop must be a whole number of pixels, got 1.5"),
    (lambda: View(mean=(0,), std=(1,), resize="8"), "resize must be a whole number of pixels, got '8'"),
    (lambda: View(mean="55", std="22"), "mean must be one number, or one per channel, got '55'"),
    (lambda: load_data("digits", mean=0.5, std="x"), "std must be one number, or one per channel, got 'x'"),
    (
        lambda: load_data("digits", mean=[[0.5, 0.5]], std=1.0),
        "mean must be one number, or one per channel, got [[0.5, 0.5]]",
    ),
    (lambda: load_data("digits", mean=(0.5,)), "mean and std must be given together, got only one of them"),
    (of_two_channels, "mean and std must have one number, or one per channel, 1, got 2"),
    (
        lambda: View(mean=(0, 0), std=(1, 1)).normalize(torch.zeros(1, 3, 2, 2)),
        "images must have as many channels as mean has numbers, 2, got 3",
    ),
    (
        lambda: View(mean=(0,), std=(1,)).normalize(torch.zeros(1, 1, 2, 2, dtype=torch.int64)),
        "images must be uint8, or float in [0, 1], got torch.int64",
    ),
]


@pytest.mark.parametrize(("call", "message"), VIEW_ERRORS, ids=[text for _, text in VIEW_ERRORS])
def test_a_view_out_of_range(call, message):
    assert message_of(call) == message


@pytest.mark.parametrize("number", [0.5, (0.5,), [0.5], torch.tensor([0.5]), np.array([0.5])])
def test_one_number_may_be_given_as_it_is(number):
    assert View(mean=number, std=number) == View(mean=(0.5,), std=(0.5,))
    assert load_data("digits", mean=number, std=number).view == View(mean=(0.5,), std=(0.5,))
