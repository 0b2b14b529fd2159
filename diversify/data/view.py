"""Preprocessing of images before they enter the model: size, crop, mean and standard deviation."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tvf

from ..errors import must, unknown
from .decode import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """The preprocessing of images: resize, centre crop, scaling to [0, 1], and normalisation by mean and deviation.

    Attributes:
        mean: Mean per channel, kept as a tuple; or one number. Grey images are repeated to three channels if there are
            three numbers.
        std: Standard deviation per channel, as `mean`.
        resize: Length of the shorter side, in pixels; None for no resize.
        crop: Side of the centre crop, in pixels; None for no crop.
        interpolation: Of the resize, "bilinear" or "bicubic".

    Raises:
        InputError: A number is out of its range, or mean and std have different lengths.

    Example:
        >>> import torch, diversify as dv
        >>> view = dv.View(mean=(0.5,), std=(0.25,), resize=8, crop=6)
        >>> images = view.shape(torch.full((2, 1, 16, 12), 255, dtype=torch.uint8))
        >>> images.shape, view.normalize(images).unique().tolist()
        (torch.Size([2, 1, 6, 6]), [2.0])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    crop: int | None = None
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in ("bilinear", "bicubic"):
            raise unknown("interpolation", self.interpolation, ("bilinear", "bicubic"))
        for name in ("mean", "std"):
            object.__setattr__(self, name, per_channel(name, getattr(self, name)))
        if len(self.mean) != len(self.std):
            raise must("mean and std", "have the same length", f"{len(self.mean)} and {len(self.std)}")
        if not all(map(math.isfinite, (*self.mean, *self.std))):
            got = f"{_numbers(self.mean)} and {_numbers(self.std)}"
            raise must("mean and std", "be finite", got)
        if not all(value > 0 for value in self.std):
            raise must("std", "be positive", _numbers(self.std))
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and (isinstance(size, bool) or not isinstance(size, numbers.Integral)):
                raise must(name, "be a whole number of pixels", repr(size))
            if size is not None and size < 1:
                raise must(name, "be at least 1 pixel", size)

    def shape(self, images: Tensor) -> Tensor:
        """Return images `(..., H, W)` resized and cropped, in their own number type."""
        if self.resize is not None:
            mode = tvf.InterpolationMode(self.interpolation)
            images = tvf.resize(images, [self.resize], interpolation=mode, antialias=True)
        if self.crop is not None:
            images = tvf.center_crop(images, [self.crop, self.crop])
        return images

    def size_after(self, width: int, height: int) -> Size:
        """Return the (width, height) of an image of this size after resize and crop."""
        if self.crop is not None:
            return self.crop, self.crop
        if self.resize is None:
            return width, height
        longer = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, longer) if width <= height else (longer, self.resize)

    def normalize(self, images: Tensor) -> Tensor:
        """Return images `(N, C, H, W)` as normalised float32 for the model.

        Args:
            images: uint8, or float in [0, 1].

        Raises:
            InputError: They have another number type, or another number of channels than `mean`.
        """
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / 255
        elif not images.is_floating_point():
            raise must("images", "be uint8, or float in [0, 1]", images.dtype)
        images = images.to(torch.float32)
        if images.shape[1] == 1 and len(self.mean) == 3:
            images = images.expand(-1, 3, -1, -1)
        if images.shape[1] != len(self.mean):
            raise must("images", f"have as many channels as mean has numbers, {len(self.mean)}", images.shape[1])
        mean, std = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (images - mean) / std

    def __str__(self) -> str:
        size = "".join(f", {n} {v}" for n, v in (("resize", self.resize), ("crop", self.crop)) if v is not None)
        how = "" if self.interpolation == "bilinear" else f", {self.interpolation}"
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}{size}{how}"


def per_channel(name: str, value: Any) -> tuple[float, ...]:
    """Return one number, or a sequence, array or tensor of them, as a tuple.

    Args:
        name: What the error calls it.
        value: The numbers.

    Raises:
        InputError: It holds something else.

    Example:
        >>> per_channel("mean", 0.5), per_channel("mean", [0.5, 0.25, 0.5])
        ((0.5,), (0.5, 0.25, 0.5))
    """
    try:
        if isinstance(value, str | bytes):
            raise TypeError
        return tuple(map(float, [value] if isinstance(value, numbers.Real) else value))
    except (TypeError, ValueError):
        raise must(name, "be one number, or one per channel", repr(value)) from None


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:.4g}" for value in values)
