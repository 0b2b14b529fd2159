"""Images: in memory, in files, and as Pillow hands them on, read as a person sees them.

Image files become RGB with 8 bits per channel: transparent pixels show white, the camera's orientation is applied, 16-bit
grey is scaled by its full range, and of several frames or pages the first is taken.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from ..errors import InputError, must
from ..runtime.user_code import describe, is_passed_on
from .decode import Size, checked, opened, read_image, what_is_wrong

Images = Dataset[Any]
Array = np.ndarray[Any, Any]
Shape = Callable[[Tensor], Tensor]
Progress = Callable[[str, int, int], None]  # (what, done, in all)
Result = TypeVar("Result")

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


# In memory


class Batch(Sequence[tuple[Tensor, Tensor]]):
    """A list of `(image, label)` that was fetched whole: `images` `(N, C, H, W)` and `labels` `(N,)`."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index], self.labels[index]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.images, self.labels, strict=True)


class ImageArray(Images):
    """Images in memory: `(N, C, H, W)` uint8, or float in [0, 1]; a batch is fetched with one index operation.

    `shape`, where there is one, resizes and crops what is fetched; `images` stay as they are stored.
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
        images = self.images[rows]
        return Batch(self.shape(images) if self.shape else images, self.targets[rows])

    def shaped(self, shape: Shape) -> ImageArray:
        """The same images, each resized and cropped when it is fetched."""
        return ImageArray(self.images, self.targets, shape)


class Relabelled(Images):
    """A data set with other labels than its own."""

    def __init__(self, dataset: Images, labels: Tensor) -> None:
        self.dataset, self.targets = dataset, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        return self.dataset[index][0], self.targets[index]


class Own(Images):
    """A data set of the user's own; an error while an example is read names the data set and the row."""

    def __init__(self, dataset: Images, name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except Exception as error:  # whatever a data set of the user's raises
            if is_passed_on(error) or (isinstance(error, IndexError) and index >= len(self)):
                raise
            raise self._failed(error, f"row {index}") from error

    def __getitems__(self, indices: list[int]) -> Any:
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is None:
            return [self[index] for index in indices]
        try:
            return fetch(indices)
        except Exception as error:  # whatever a data set of the user's raises
            if is_passed_on(error):
                raise
            listed = ", ".join(map(str, indices[:3])) + ", ..." * (len(indices) > 3)
            raise self._failed(error, f"one of the rows {listed}") from error

    def _failed(self, error: Exception, place: str) -> InputError:
        return must(self.name, "give every example", f"{describe(error)} (at {place})")


def traced(dataset: Images) -> tuple[Images, Tensor]:
    """The data set below subsets and other labels, and the rows of it that these are."""
    if isinstance(dataset, Subset):
        below, rows = traced(dataset.dataset)
        return below, rows[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, Relabelled):
        return traced(dataset.dataset)
    return dataset, torch.arange(len(dataset))  # type: ignore[arg-type]


def content_digest(dataset: Images) -> str | None:
    """A digest of what the images are, in their order, before any resizing; None where only reading them all could tell.

    Images in memory count by their pixels, files by their names in the tree and their bytes, as `check_files` saw them.
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


# In files


class ImageFiles(Images):
    """Image files, read as RGB uint8 `(3, H, W)`; `shape`, where there is one, resizes and crops each.

    `top` is the folder that names of files are relative to; `sizes` and `digests`, of the bytes of each file, are known
    once `check_files` has looked.
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
        """`(3, H, W)` uint8 as it is stored, neither resized nor cropped."""
        return read_image(self.paths[index])

    def name(self, index: int) -> str:
        """The path below `top`."""
        path = self.paths[index]
        return path.relative_to(self.top).as_posix() if self.top and path.is_relative_to(self.top) else str(path)

    def shaped(self, shape: Shape) -> ImageFiles:
        """The same files, each resized and cropped."""
        files = ImageFiles(self.paths, self.targets, shape, top=self.top)
        files.sizes, files.digests = self.sizes, self.digests
        return files

    def chosen(self, rows: Sequence[int]) -> ImageFiles:
        """Some of the files, in this order."""
        files = ImageFiles(
            [self.paths[row] for row in rows], self.targets[torch.as_tensor(rows)], self.shape, top=self.top
        )
        files.sizes = None if self.sizes is None else [self.sizes[row] for row in rows]
        files.digests = None if self.digests is None else [self.digests[row] for row in rows]
        return files


def check_files(parts: Sequence[ImageFiles], progress: Progress | None = None) -> list[dict[int, str]]:
    """For each part, what is wrong with each file that cannot be read; sets `sizes` and `digests` of every part.

    Every file is read once and decoded to its end, JPEG at an eighth of its size, by several threads.
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
        except Exception as error:  # whatever a decoder makes of broken bytes
            return None, digest, what_is_wrong(error)

    with warnings.catch_warnings():  # of what Pillow warns, bombs are refused here and odd metadata is no matter
        warnings.filterwarnings("ignore", module=r"PIL\.")
        found = in_threads(check, len(paths), progress, "checking images")
    bad = []
    for part in parts:
        mine, found = found[: len(part)], found[len(part) :]
        part.sizes = [size for size, _, _ in mine]
        part.digests = [digest for _, digest, _ in mine]
        bad.append({row: wrong for row, (_, _, wrong) in enumerate(mine) if wrong is not None})
    return bad


def in_threads(work: Callable[[int], Result], count: int, progress: Progress | None, what: str) -> list[Result]:
    """`work(0)` to `work(count - 1)`, by several threads, in order; for work that leaves Python's lock alone."""
    chunks = [range(start, min(start + 32, count)) for start in range(0, count, 32)]
    done: list[Result] = []
    with ThreadPoolExecutor() as pool:
        for part in pool.map(lambda rows: [work(row) for row in rows], chunks):
            done += part
            if progress is not None:
                progress(what, len(done), count)
    return done
