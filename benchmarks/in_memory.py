"""A public data set in memory, for benchmarks that train small networks on parts of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from diversify.data.images import ImageArray
from diversify.data.public import read_source
from diversify.errors import must
from diversify.training.resident import ResidentImages


@dataclasses.dataclass(frozen=True, kw_only=True)
class InMemory:
    """The images of both splits, and how a network takes them.

    Attributes:
        train: The training images, uint8.
        labels: Their classes.
        test: The test images with their classes.
        centre: Mean of each channel, `(K, 1, 1)`, in [0, 1].
        spread: Standard deviation of each channel.
    """

    train: ImageArray
    labels: Tensor
    test: ResidentImages
    centre: Tensor
    spread: Tensor

    @classmethod
    def read(cls, name: str, root: Path) -> InMemory:
        """Read a data set from a folder.

        Raises:
            InputError: Its images are not in memory, or their mean is not known.
        """
        source = read_source(name, root)
        (train, labels), (test, test_labels) = source.splits["train"], source.splits["test"]
        if not (isinstance(train, ImageArray) and isinstance(test, ImageArray) and source.mean and source.std):
            raise must("data", "be images in memory with a mean", name)
        centre, spread = (torch.tensor(values).view(-1, 1, 1) for values in (source.mean, source.std))
        test_side = ResidentImages(images=test.images, labels=test_labels)
        return cls(train=train, labels=labels, test=test_side, centre=centre, spread=spread)

    def prepare(self, images: Tensor) -> Tensor:
        """Return images as inputs of a network: of mean 0 and standard deviation 1."""
        return (images.float() / 255 - self.centre) / self.spread

    def side(self, rows: Tensor) -> ResidentImages:
        """Return some of the training images."""
        return ResidentImages(images=self.train.images[rows], labels=self.labels[rows])

    def unused(self, rows: Tensor) -> Tensor:
        """Return all training rows but these, ascending."""
        left = torch.ones(len(self.labels), dtype=torch.bool)
        left[rows] = False
        return left.nonzero()[:, 0]
