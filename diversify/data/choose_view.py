"""Choose the preprocessing of a data source, and say where it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import must
from ..functional import draws
from .decode import as_image
from .images import Images
from .sources import Source
from .view import View, per_channel

MEASURED_IMAGES = 1000


def choose_view(
    source: Source,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    resize: int | None,
    crop: int | None,
    measure: bool,
) -> tuple[View | None, str]:
    """Return the preprocessing and its origin: given, as the source gives images, usual for the source, or measured.

    Args:
        source: The data source.
        mean: Mean per channel, or one number for all.
        std: Standard deviation per channel, or one number for all.
        resize: Length of the shorter side.
        crop: Side of the centre crop.
        measure: Measure mean and standard deviation on training images if nothing else gives them.

    Raises:
        InputError: An option does not fit the images, or nothing gives mean and standard deviation.
    """
    dataset, labels = source.splits["train"]
    require_view(source, mean, std, resize, crop, measure)
    if mean is not None and std is not None:
        view = View(mean=per_channel("mean", mean), std=per_channel("std", std), resize=resize, crop=crop)
        return _given(dataset, view), "given"
    if source.ready:
        if not (image := _first_image(dataset)).is_floating_point():
            law, advice = "be floating point, as the model takes them", "scale them there, or pass mean=M and std=S"
            raise must("images of a data set of your own", law, image.dtype, advice)
        return None, "as the source gives them"
    if source.mean is not None and source.std is not None:
        return View(mean=source.mean, std=source.std, resize=resize, crop=crop), "usual"
    return _measured(dataset, len(labels), View(mean=(0.0,), std=(1.0,), resize=resize, crop=crop)), "measured"


def require_view(
    source: Source,
    mean: float | Sequence[float] | None,
    std: float | Sequence[float] | None,
    resize: int | None,
    crop: int | None,
    measure: bool,
) -> None:
    """Check, before any image is read, that the arguments of `choose_view` give a mean and a standard deviation.

    Args:
        source: The data source.
        mean: As `choose_view` takes it.
        std: As `choose_view` takes it.
        resize: Length of the shorter side.
        crop: Side of the centre crop.
        measure: Whether they may be measured.

    Raises:
        InputError: Nothing gives mean and standard deviation, one of the two is missing, or the source does its own
            preprocessing.

    Example:
        >>> import torch
        >>> from diversify.data.images import ImageArray
        >>> images = ImageArray(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.arange(2))
        >>> require_view(Source(splits={"train": (images, images.targets)}), None, None, 8, None, False)
        Traceback (most recent call last):
        diversify.errors.InputError: mean and std must be those that the model was trained with, got nothing; pass mean=M and std=S
    """
    if (mean is None) != (std is None):
        raise must("mean and std", "be given together", "only one of them")
    if mean is not None:
        return
    if source.ready and (resize is not None or crop is not None):
        got = f"resize {resize}" if resize is not None else f"crop {crop}"
        raise must("resize and crop", "be left out for a data set of your own", got, "let the data set resize")
    if not source.ready and (source.mean is None or source.std is None) and not measure:
        raise must("mean and std", "be those that the model was trained with", "nothing", "pass mean=M and std=S")


def _given(dataset: Images, view: View) -> View:
    channels = len(_first_image(dataset))
    if len(view.mean) == 1:
        view = dataclasses.replace(view, mean=view.mean * channels, std=view.std * channels)
    if len(view.mean) != channels and (channels, len(view.mean)) != (1, 3):
        raise must("mean and std", f"have one number, or one per channel, {channels}", len(view.mean))
    return view


def _measured(dataset: Images, count: int, view: View) -> View:
    """The view with mean and standard deviation per channel, over at most `MEASURED_IMAGES` of `count` images."""
    rows = draws.permutation(count, "measure view")[:MEASURED_IMAGES].tolist()
    pixels = [view.shape(as_image(dataset[row][0])) for row in rows]
    flat = torch.cat([(p / 255 if p.dtype == torch.uint8 else p).flatten(1).double() for p in pixels], dim=1)
    mean, std = (tuple(round(float(v), 4) for v in value) for value in (flat.mean(1), flat.std(1).clamp_min(1e-3)))
    return dataclasses.replace(view, mean=mean, std=std)


def _first_image(dataset: Images) -> Tensor:
    example = dataset[0]
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise must("an example of the data set", "be (image, label)", type(example).__name__)
    return as_image(example[0])
