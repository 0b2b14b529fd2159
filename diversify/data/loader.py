"""Data loaders for a split, as the model sees its images."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import must
from .decode import as_image
from .images import Batch, Images
from .view import View

# Splits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """One of train, val, test: the images, their labels `(N,)`, and each one's index in the source's own list.

    `content` is a digest of what the images are: of the pixels before any resizing for images in memory, of each file's name
    in the tree and its bytes for image files. For Hugging Face tables and data sets of your own it is None: what they are
    would show only by reading every image of them, and may be another one each time.
    """

    dataset: Images
    labels: Tensor
    indices: Tensor
    origin: str  # "source": the data source has this split; "cut": taken from its training images
    source: str  # which list of the source `indices` points into
    content: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """sha256 of the source list's name, the indices and the labels."""
        content = self.source.encode() + self.indices.numpy().tobytes() + self.labels.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()


# Loading


def collate(examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """`(images (N, C, H, W), labels (N,))` from `(image, label)` pairs: images as `as_image` takes them."""
    if isinstance(examples, Batch):
        return examples.images, examples.labels
    images = [as_image(example[0]) for example in examples]
    for image in images:
        if image.shape != images[0].shape:
            got = f"{tuple(images[0].shape)} and {tuple(image.shape)}"
            raise must("images", "have one size", got, "resize them in the data set, or pass --resize N --crop N")
    return torch.stack(images), torch.tensor([_label(example[1]) for example in examples])


def _label(label: Any) -> int:
    """One integer from a number, or from an array or tensor of one element."""
    return int(label if isinstance(label, int) else label.item() if hasattr(label, "item") else label)


class Loaded:
    """A collate function that hands the model what it sees: `view.normalize` after `collate`."""

    def __init__(self, view: View | None) -> None:
        self.view = view

    def __call__(self, examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """`(images, labels)` of a batch."""
        images, labels = collate(examples)
        return (images if self.view is None else self.view.normalize(images)), labels


def make_loader(split: Split, view: View | None, *, batch_size: int = 256, workers: int = 0) -> DataLoader[Any]:
    """Batches of `(images, labels)` in the order of the split, as the model sees them."""
    return DataLoader(split.dataset, batch_size=batch_size, num_workers=workers, collate_fn=Loaded(view))
