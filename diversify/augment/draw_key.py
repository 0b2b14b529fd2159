"""The key of a random draw of augmentation, and the crop-and-flip augmentation."""

from __future__ import annotations

import dataclasses
from typing import Self, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..functional import draws

Number = TypeVar("Number", int, Tensor)


class Drawn(int):
    """An index from a sampler that also says how often the image came before in the epoch.

    It equals the plain integer, and arithmetic on it gives plain integers. `DiversifiedDataset` and `fit` read
    `occurrence` from it (with `occurrence_of`), so that an image that is drawn again is augmented differently.

    Attributes:
        occurrence: How often the image came before in the epoch.
    """

    occurrence: int

    def __new__(cls, index: int, occurrence: int) -> Self:
        """Return the index with its occurrence, counted from 0."""
        self = super().__new__(cls, index)
        self.occurrence = occurrence
        return self

    def __reduce__(self) -> tuple[type[Drawn], tuple[int, int]]:
        return type(self), (int(self), self.occurrence)


def occurrence_of(index: int) -> int:
    """Return how often the image of an index came before in the epoch; 0 for an index that does not say so.

    Example:
        >>> from diversify.augment.draw_key import Drawn, occurrence_of
        >>> occurrence_of(Drawn(7, occurrence=2)), occurrence_of(7)
        (2, 0)
    """
    return index.occurrence if isinstance(index, Drawn) else 0


def view_of(index: Number, occurrence: Number) -> Number:
    """Return one number for index and occurrence: the index itself for occurrence 0."""
    return index + (occurrence << 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawKey:
    """The key of the random draws for a batch: the same key gives the same draws.

    Attributes:
        seed: Seed of the draws.
        epoch: The epoch, counted from 0.
        step: The step of the epoch; `(N,)` if the rows belong to several steps.
        indices: The images' places in the training set, `(N,)`.
        occurrences: How often each image came before in this epoch, `(N,)`; None if every image comes once.
        rows: The images' places in the batches of their steps, `(N,)`; None if these are the rows of one step, in order. In
            one of several processes of `fit`, the places in the batch of all: draws per row depend on them.

    Example:
        >>> import torch, diversify as dv
        >>> dv.DrawKey(seed=0, epoch=0, step=0, indices=torch.tensor([3, 5])).views.tolist()
        [3, 5]
    """

    seed: int
    epoch: int
    step: int | Tensor
    indices: Tensor
    occurrences: Tensor | None = None
    rows: Tensor | None = None

    @property
    def views(self) -> Tensor:
        """One number per view of an image, `(N,)` int64; the draws for single images depend on it.

        The first view of an image has the image's index, so that it is the same with and without occurrences.
        """
        if self.occurrences is None:
            return self.indices
        return view_of(self.indices, self.occurrences.to(self.indices.device, torch.int64))


def is_whole(targets: Tensor, labels: Tensor) -> Tensor:
    """Return for each row if its target is its own label alone, `(N,)` bool; other rows were mixed with another class."""
    if targets.ndim == 1:
        return targets == labels
    return targets.gather(1, labels[:, None])[:, 0] > 1 - 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropFlip:
    """The classic augmentation of small images: pad with zeros, crop at a random place, mirror half of the images.

    Call it with images `(N, C, H, W)` of any type, targets and a `DrawKey`; targets are returned unchanged.

    Attributes:
        padding: Pixels that are added on every side before the crop.
        mirror: Mirror half of the images.

    Raises:
        InputError: the padding is negative.

    Example:
        >>> import torch, diversify as dv
        >>> key = dv.DrawKey(seed=0, epoch=0, step=0, indices=torch.arange(4))
        >>> images, targets = dv.CropFlip(padding=2, mirror=True)(torch.rand(4, 3, 8, 8), torch.arange(4), key)
        >>> images.shape
        torch.Size([4, 3, 8, 8])
    """

    padding: int
    mirror: bool

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise must("padding", "not be negative", self.padding)

    def __call__(self, images: Tensor, targets: Tensor, key: DrawKey) -> tuple[Tensor, Tensor]:
        """Return the batch cropped and mirrored, with draws of (seed, epoch, index, occurrence)."""
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
