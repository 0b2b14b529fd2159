"""Data sets of images in memory, in files, and of the user's own.

Image files become RGB with 8 bits per channel: transparent pixels become white, the camera's orientation is applied, 16-bit
grey is scaled by its full range, and of several frames or pages the first is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..errors import InputError, must
from ..runtime.progress import StageProgress, Ticker, stage
from ..runtime.user_code import describe, is_passed_on
from .decode import Size, checked, opened, read_image, what_is_wrong
from .examples import ExampleForm

Images = Dataset[Any]
Array = np.ndarray[Any, Any]
Shape = Callable[[Tensor], Tensor]
Result = TypeVar("Result")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


class Batch(Sequence[tuple[Tensor, Tensor]]):
    """A list of `(image, label)` that is stored as two tensors: `images` `(N, C, H, W)` and `labels` `(N,)`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images, self.labels, strict=True)


class ImageArray(Images):
    """Images in memory, of which a batch is fetched by one index operation.

    Args:
        images: `(N, C, H, W)`, uint8 or float in [0, 1].
        labels: `(N,)` int64.
        shape: Resizes and crops the images that are fetched; None leaves them as they are stored.

    Example:
        >>> from diversify.data import ImageArray
        >>> dataset = ImageArray(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
        >>> image, label = dataset[3]
        >>> image.shape, int(label)
        (torch.Size([1, 8, 8]), 3)
    """

    def __init__(self, images: Tensor, labels: Tensor, shape: Shape | None = None) -> None:
        self.images, self.targets, self.shape = images, labels, shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return (self.shape(image) if self.shape else image), self.targets[index]

    def __getitems__(self, indices: list[int]) -> Batch:
        rows = torch.as_tensor(indices)
        rows = torch.where(rows < 0, rows + len(self), rows)
        # images[rows] takes ten times as long on the CPU
        images = self.images.index_select(0, rows.to(self.images.device))
        return Batch(self.shape(images) if self.shape else images, self.targets[rows])

    def shaped(self, shape: Shape) -> ImageArray:
        """Return the same images, resized and cropped by `shape` when they are fetched."""
        return ImageArray(self.images, self.targets, shape)


class Relabelled(Images):
    """A data set with other labels in place of its own."""

    def __init__(self, dataset: Images, labels: Tensor) -> None:
        self.dataset, self.targets = dataset, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.dataset[index][0], self.targets[index]


class Own(Images):
    """A data set of the user's own, as `(image, label)`, whose errors name the data set and the row that was read.

    Args:
        dataset: The data set.
        name: What errors call it.
        labels: `(N,)`, the classes of its examples, where these have others, such as names; None takes those of the examples.
    """

    def __init__(self, dataset: Images, name: str, labels: Tensor | None = None) -> None:
        self.dataset, self.name, self.labels = dataset, name, labels

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self._pair(self.dataset[index], index)
        except Exception as error:  # the user's code may raise anything
            if is_passed_on(error) or (isinstance(error, IndexError) and index >= len(self)):
                raise
            raise self._failed(error, f"row {index}") from error

    def __getitems__(self, indices: list[int]) -> Any:
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is None:
            return [self[index] for index in indices]
        try:
            fetched = fetch(indices)
        except Exception as error:  # the user's code may raise anything
            if is_passed_on(error):
                raise
            listed = ", ".join(map(str, indices[:3])) + ", ..." * (len(indices) > 3)
            raise self._failed(error, f"one of the rows {listed}") from error
        if not isinstance(fetched, list):
            return fetched
        return [self._pair(example, index) for index, example in zip(indices, fetched, strict=True)]

    def _pair(self, example: Any, index: int) -> Any:
        if not isinstance(example, Mapping):
            return example if self.labels is None else (example[0], self.labels[index])
        form = ExampleForm()
        image = form.image(example, index)
        return image, form.label(example, index) if self.labels is None else self.labels[index]

    def _failed(self, error: Exception, place: str) -> InputError:
        return must(self.name, "give every example", f"{describe(error)} (at {place})")


def traced(dataset: Images) -> tuple[Images, Tensor]:
    """Return the data set below subsets and other labels, and the rows of it that they select."""
    if isinstance(dataset, Subset):
        below, rows = traced(dataset.dataset)
        return below, rows[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, Relabelled):
        return traced(dataset.dataset)
    return dataset, torch.arange(len(dataset))  # type: ignore[arg-type]


def content_digest(dataset: Images) -> str | None:
    """Return a digest of the images in their order, before any resizing; None if they would have to be read for it.

    It covers the pixels of images in memory, and the names and bytes of files, as `check_files` read them.
    """
    below, rows = traced(dataset)
    digest = hashlib.blake2b(digest_size=32)
    if isinstance(below, ImageArray):
        digest.update(f"{below.images.dtype} {tuple(below.images.shape[1:])}".encode())
        for part in rows.split(4096):
            digest.update(below.images[part].contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()
    if isinstance(below, ImageFiles) and below.digests is not None:
        for row in rows.tolist():
            digest.update(os.fsencode(below.name(row)) + b"\0" + (below.digests[row] or b""))
        return digest.hexdigest()
    return None


class ImageFiles(Images):
    """Image files, read as RGB uint8 `(3, H, W)`.

    `check_files` sets `sizes`, the (width, height) of each file, and `digests`, of the bytes of each file.

    Args:
        paths: The files.
        labels: `(N,)` int64.
        shape: Resizes and crops each image; None leaves it as it is stored.
        top: The folder that the names of files are relative to.
    """

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, shape: Shape | None = None, *, top: Path | None = None
    ) -> None:
        self.paths, self.targets, self.shape, self.top = list(paths), labels, shape, top
        self.sizes: list[Size | None] | None = None
        self.digests: list[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.read(index)
        return (self.shape(image) if self.shape else image), self.targets[index]

    def read(self, index: int) -> Tensor:
        """Return an image `(3, H, W)` uint8 without resize or crop."""
        return read_image(self.paths[index])

    def name(self, index: int) -> str:
        """Return the path of a file, relative to `top`."""
        path = self.paths[index]
        return path.relative_to(self.top).as_posix() if self.top and path.is_relative_to(self.top) else str(path)

    def shaped(self, shape: Shape) -> ImageFiles:
        """Return the same files, resized and cropped by `shape`."""
        files = ImageFiles(self.paths, self.targets, shape, top=self.top)
        files.sizes, files.digests = self.sizes, self.digests
        return files

    def chosen(self, rows: Sequence[int]) -> ImageFiles:
        """Return some of the files, in this order."""
        files = ImageFiles(
            [self.paths[row] for row in rows], self.targets[torch.as_tensor(rows)], self.shape, top=self.top
        )
        files.sizes = None if self.sizes is None else [self.sizes[row] for row in rows]
        files.digests = None if self.digests is None else [self.digests[row] for row in rows]
        return files


def with_some_sizes(files: ImageFiles, most: int) -> ImageFiles:
    """Return the same files with `sizes` of at most so many of them; None for the others, and for those that cannot be read.

    Args:
        files: The data set.
        most: Number of files to read, evenly spaced.

    Example:
        >>> with_some_sizes(ImageFiles([Path("no-such-file.png")], torch.tensor([0])), 64).sizes
        [None]
    """
    some = files.chosen(range(len(files)))
    some.sizes = [None] * len(files)
    rows = sorted({place * len(files) // most for place in range(most)}) if len(files) else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        for row in rows:
            try:
                with opened(files.paths[row]) as image:
                    some.sizes[row] = checked(image)
            except Exception:  # `check_files` names what cannot be read
                continue
    return some


def check_files(parts: Sequence[ImageFiles], progress: StageProgress | None = None) -> list[dict[int, str]]:
    """Read every file once, and return for each part the rows that cannot be read, with the reason.

    Sets `sizes` and `digests` of every part. Files are decoded completely, JPEG at an eighth of its size, by several threads.

    Args:
        parts: The data sets to check.
        progress: Called with ("checking images", files done, files in total).
    """
    paths = [path for part in parts for path in part.paths]

    def check(row: int) -> tuple[Size | None, bytes | None, str | None]:
        digest = None
        try:
            content = paths[row].read_bytes()
            digest = hashlib.blake2b(content, digest_size=16).digest()
            with opened(io.BytesIO(content)) as image:
                return checked(image), digest, None
        except MemoryError:
            raise
        except Exception as error:  # decoders raise many kinds of errors for damaged files
            return None, digest, what_is_wrong(error)

    with warnings.catch_warnings():  # decompression bombs are refused here, and unusual metadata is harmless
        warnings.filterwarnings("ignore", module=r"PIL\.")
        found = in_threads(check, len(paths), Ticker(stage(progress, "checking images"), len(paths)))
    bad = []
    for part in parts:
        mine, found = found[: len(part)], found[len(part) :]
        part.sizes = [size for size, _, _ in mine]
        part.digests = [digest for _, digest, _ in mine]
        bad.append({row: wrong for row, (_, _, wrong) in enumerate(mine) if wrong is not None})
    return bad


def in_threads(work: Callable[[int], Result], count: int, tick: Ticker) -> list[Result]:
    """Return `work(0)` to `work(count - 1)`, computed by several threads; for work that releases Python's lock."""
    chunks = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
    done: list[Result] = []
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda rows: [work(row) for row in rows], chunks):
            done += part
            tick(len(part))
    return done
