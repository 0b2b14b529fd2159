"""A split of a data set, and loaders of its preprocessed batches."""

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The training, validation or test images.

    Attributes:
        dataset: The images, as a map-style data set of `(image, label)`.
        labels: `(N,)` int64.
        indices: `(N,)` int64, the index of each image in the source's own list.
        origin: "source" if the data source has this split, "cut" if it was taken from its training images.
        source: Name of the list of the source that `indices` points into.
        content: Digest of the images before any resizing: of the pixels in memory, or of the names and bytes of files. None
            for Hugging Face tables and data sets of your own, whose content is known only by reading every image.

    Example:
        >>> import diversify as dv
        >>> test = dv.load_data("digits").test
        >>> len(test), test.origin, len(test.digest())
        (539, 'source', 64)
    """

    dataset: Images
    labels: Tensor
    indices: Tensor
    origin: str
    source: str
    content: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Return the sha256 of the name of the source's list, the indices and the labels."""
        content = self.source.encode() + self.indices.numpy().tobytes() + self.labels.numpy().tobytes()
        return hashlib.sha256(content).hexdigest()


def collate(examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Return `(images (N, C, H, W), labels (N,))` from `(image, label)` pairs.

    Args:
        examples: Images as tensors, PIL images or numpy arrays, and labels as integers or arrays of one integer.

    Raises:
        InputError: The images have different sizes.

    Example:
        >>> from diversify.data import collate
        >>> images, labels = collate([(torch.zeros(3, 4, 4), 0), (torch.ones(3, 4, 4), torch.tensor(1))])
        >>> images.shape, labels.tolist()
        (torch.Size([2, 3, 4, 4]), [0, 1])
    """
    if isinstance(examples, Batch):
        return examples.images, examples.labels
    images = [as_image(example[0]) for example in examples]
    for image in images:
        if image.shape != images[0].shape:
            got = f"{tuple(images[0].shape)} and {tuple(image.shape)}"
            raise must("images", "have one size", got, "resize them in the data set, or pass resize=N and crop=N")
    return torch.stack(images), torch.tensor([_label(example[1]) for example in examples])


def _label(label: Any) -> int:
    """Return the integer of a number, or of an array or tensor of one element."""
    return int(label if isinstance(label, int) else label.item() if hasattr(label, "item") else label)


class Loaded:
    """The collate function of a loader: `collate`, then `view.normalize`."""

    def __init__(self, view: View | None) -> None:
        self.view = view

    def __call__(self, examples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Return `(images, labels)` of a batch, preprocessed."""
        images, labels = collate(examples)
        return (images if self.view is None else self.view.normalize(images)), labels


def make_loader(split: Split, view: View | None, *, batch_size: int = 256, workers: int = 0) -> DataLoader[Any]:
    """Return a loader of preprocessed batches `(images, labels)`, in the order of the split.

    Args:
        split: The split.
        view: The preprocessing; None leaves images as they are.
        batch_size: Images per batch.
        workers: Processes that read images; 0 reads them in this one.

    Example:
        >>> import diversify as dv
        >>> data = dv.load_data("digits")
        >>> images, labels = next(iter(dv.make_loader(data.test, data.view, batch_size=32)))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.float32, torch.Size([32]))
    """
    return DataLoader(split.dataset, batch_size=batch_size, num_workers=workers, collate_fn=Loaded(view))
