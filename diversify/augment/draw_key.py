"""Augmentation of a whole batch on its device, with a draw per image."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..functional import draws

Number = TypeVar("Number", int, Tensor)


def view_of(index: Number, occurrence: Number) -> Number:
    """One number for the two: the index itself for the first occurrence, 0."""
    return index + (occurrence << 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawKey:
    """What a random choice in training may depend on.

    Attributes:
        indices: `(N,)` the images' places in the training set.
        occurrences: `(N,)` how often each image came before in this epoch, as `DiversifySampler` counts; None where every
            image comes once.
        step: Which step of the epoch; `(N,)` where these are the rows of several steps.
        rows: `(N,)` the images' places in their steps; None where these are the rows of one step, in their order.
    """

    seed: int
    epoch: int
    step: int | Tensor
    indices: Tensor
    occurrences: Tensor | None = None
    rows: Tensor | None = None

    @property
    def views(self) -> Tensor:
        """`(N,)` int64: which view of which image; what the draws of one image are keyed with.

        An image's first view has the image's index, so that it is the same with and without occurrences.
        """
        if self.occurrences is None:
            return self.indices
        return view_of(self.indices, self.occurrences.to(self.indices.device, torch.int64))


def is_whole(targets: Tensor, labels: Tensor) -> Tensor:
    """`(N,)` bool: whose target is its own label alone; the others were mixed with an image of another class."""
    if targets.ndim == 1:
        return targets == labels
    return targets.gather(1, labels[:, None])[:, 0] > 1 - 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropFlip:
    """Zero-pad by `padding` pixels, crop at a random place, mirror half of the images when `mirror`.

    The classic augmentation of small images. Takes and returns `(N, C, H, W)` of any type, and leaves the targets
    alone.
    """

    padding: int
    mirror: bool

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise must("padding", "not be negative", self.padding)

    def __call__(self, images: Tensor, targets: Tensor, key: DrawKey) -> tuple[Tensor, Tensor]:
        """The same batch, cropped and mirrored by draws of (seed, epoch, index, occurrence)."""
        views = key.views.to(images.device)
        if self.padding:
            height, width = images.shape[2:]
            top, left = (
                draws.integers(2 * self.padding + 1, name, key.seed, key.epoch, views) for name in ("top", "left")
            )
            windows = functional.pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
            images = windows[torch.arange(len(images), device=images.device), :, top, left]
        if self.mirror:
            flip = draws.uniform("mirror", key.seed, key.epoch, views) < 0.5
            images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
        return images, targets
