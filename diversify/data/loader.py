"""A split of a data set, and loaders of its preprocessed batches."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from ..errors import must
from .clean import READ_TWICE, differs_when_read_again, without_augmentation
from .decode import as_image
from .images import Batch, Images
from .view import View

BATCH_SIZE = 64  # of a clean loader, where the batch sampler names none


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
        groups: `(N,)` int64, equal for images that depend on each other; None if no groups are known.

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
    groups: Tensor | None = None

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


def clean_loader(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader of the same images for a diagnosis: each once, in order, without augmentation where that is known.

    There is no shuffling, weighted drawing or dropped last batch. Images that the sampler never draws stay out: those that
    a `SubsetRandomSampler` leaves out or a `WeightedRandomSampler` gives no weight. Batch size, collate function and
    workers are those of the loader. Neither the loader nor its data set is changed.

    Random transforms of torchvision and albumentations that keep the size of an image are removed from a copy of the data
    set, and a `RandomCrop` does nothing where images already have its size. Transforms that do the same each time stay. A
    data set of your own may have a method `without_augmentation()` that returns it without.

    Args:
        loader: Of a map-style data set.

    Raises:
        InputError: It is no `DataLoader`, or its data set is a stream.

    Warns:
        UserWarning: Something random is left, it is not known which images the sampler draws, or the loader is of a class that
            makes its batches in a way of its own.

    Example:
        >>> import torch, diversify as dv
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.rand(5, 3, 8, 8), torch.arange(5))
        >>> loader = DataLoader(data, batch_size=2, shuffle=True, drop_last=True)
        >>> [labels.tolist() for _, labels in dv.clean_loader(loader)]
        [[0, 1], [2, 3], [4]]
    """
    if not isinstance(loader, DataLoader):
        raise must("loader", "be a DataLoader", type(loader).__name__)
    if isinstance(loader.dataset, IterableDataset):
        advice = "make a loader that reads every training image once, in order, without augmentation"
        raise must("loader", "be of a map-style data set", type(loader.dataset).__name__, advice)
    if type(loader).__iter__ is not DataLoader.__iter__:
        kind = type(loader).__name__
        warnings.warn(f"clean_loader leaves out what {kind} does to its batches: it reads the data set", stacklevel=2)
    dataset, kept = without_augmentation(loader.dataset)
    rows, unknown = _drawn_rows(loader)
    if rows is not None:
        dataset = Subset(dataset, rows)
    if unknown:
        warnings.warn(f"clean_loader reads the whole data set: which images {unknown} draws is not known", stacklevel=2)
    if kept or differs_when_read_again(dataset, range(min(READ_TWICE, len(dataset)))):
        what = (
            f"the data set keeps {', '.join(kept)}" if kept else "the data set gives other images when it is read again"
        )
        warnings.warn(
            f"clean_loader leaves something random: {what}; give it the transform of evaluation", stacklevel=2
        )
    inner = getattr(loader.batch_sampler, "batch_size", None)
    automatic = loader.batch_size is not None or loader.batch_sampler is not None
    return DataLoader(
        dataset,
        batch_size=(loader.batch_size or inner or BATCH_SIZE) if automatic else None,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def _drawn_rows(loader: DataLoader[Any]) -> tuple[list[int] | None, str]:
    """The rows that the sampler may draw, None for all, and the name of a sampler whose rows are not known, or ""."""
    sampler: Any = loader.sampler
    if loader.batch_size is None and loader.batch_sampler is not None:  # a batch sampler of the user's own
        batches: Any = loader.batch_sampler
        if type(batches) is not BatchSampler and not hasattr(batches, "sampler"):
            return None, type(batches).__name__
        sampler = batches.sampler
    if isinstance(sampler, list | tuple):
        return sorted({int(row) for row in sampler}), ""
    if isinstance(sampler, SubsetRandomSampler) or isinstance(getattr(sampler, "indices", None), list | Tensor):
        return sorted({int(row) for row in sampler.indices}), ""
    if isinstance(sampler, WeightedRandomSampler):
        weights = torch.as_tensor(sampler.weights)
        return (None, "") if bool((weights > 0).all()) else (weights.nonzero().flatten().tolist(), "")
    known = isinstance(sampler, SequentialSampler | RandomSampler | DistributedSampler | range)
    return None, "" if known or type(sampler).__module__.startswith("diversify.") else type(sampler).__name__
