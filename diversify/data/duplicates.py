"""Find exact copies of training images among held-out ones; a model that has memorised an image recognises its copy."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..runtime.progress import StageProgress, Ticker, stage
from .decode import as_image
from .hashes import Hasher, ImageHashes, joined_hashes
from .images import ImageArray, ImageFiles, Images, in_threads, traced
from .loader import Split
from .tables import Table

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The held-out images that are also in train.

    Attributes:
        pairs: `(M, 2)` int64: for each such image, the position of its first copy in train, and its own position.
        same_label: Number of pairs with the same label on both sides.
    """

    pairs: Tensor
    same_label: int

    @property
    def count(self) -> int:
        """Number of held-out images that are also in train."""
        return len(self.pairs)

    def record(self, split: str, images: int) -> dict[str, object]:
        """Return what `run.json` keeps; `images` is the number of images in the held-out `split`."""
        return {"heldout": split, "images": images, "count": self.count, "same_label": self.same_label}


def copies_in_words(record: Mapping[str, Any]) -> str:
    """Return a record of copies as a sentence; empty if there are none."""
    if not record["count"]:
        return ""
    other = record["count"] - record["same_label"]
    return (
        f"{record['count']:,} of {record['images']:,} {record['heldout']} images are also in train (exact copies):"
        " recall on them is too high" + (f"; {other:,} of them have another label there" if other else "")
    )


def find_duplicates(train: Split, heldout: Split, progress: StageProgress | None = None) -> Duplicates:
    """Return the held-out images whose pixels and shape are exactly those of a training image.

    Files are decoded, and compared before any resizing, so a copy in another lossless format or with other metadata is found.
    Images of the user's own data sets are compared as they are given. Each image is read once.

    Args:
        train: The training split.
        heldout: The held-out split.
        progress: Called with ("looking for copies", images done, images in total).
    """
    return _exact(train, heldout, *_of_each(train, heldout, _digest, progress))


def duplicates_and_hashes(
    train: Split, heldout: Split, progress: StageProgress | None = None
) -> tuple[Duplicates, tuple[ImageHashes, ImageHashes]]:
    """Return what `find_duplicates` does, and the perceptual hashes of both sides; each image is read once for both.

    Of each image its digest and its hash are kept, never its pixels.

    Raises:
        InputError: The package imagehash is not installed.
    """
    hashed = Hasher()

    def both(image: Tensor) -> tuple[bytes, bytes | None]:
        return _digest(image), hashed(image)

    sides = _of_each(train, heldout, both, progress)
    digests = ([digest for digest, _ in side] for side in sides)
    first, second = (joined_hashes([found for _, found in side]) for side in sides)
    return _exact(train, heldout, *digests), (first, second)


def _exact(train: Split, heldout: Split, digests: Sequence[bytes], others: Sequence[bytes]) -> Duplicates:
    first: dict[bytes, int] = {}
    for position, digest in enumerate(digests):
        first.setdefault(digest, position)
    copies = [(first.get(digest), position) for position, digest in enumerate(others)]
    pairs = torch.tensor([pair for pair in copies if pair[0] is not None], dtype=torch.int64).view(-1, 2)
    same = train.labels[pairs[:, 0]] == heldout.labels[pairs[:, 1]]
    return Duplicates(pairs=pairs, same_label=int(same.sum()))


def _of_each(
    train: Split, heldout: Split, work: Callable[[Tensor], Found], progress: StageProgress | None
) -> tuple[list[Found], list[Found]]:
    """What `work` makes of each image of both sides, before any resizing; each image is read once, in order."""
    sides = [traced(split.dataset) for split in (train, heldout)]
    wanted: dict[int, tuple[Images, list[Tensor]]] = {}  # by the identity of the data set, which both sides may share
    for dataset, rows in sides:
        wanted.setdefault(id(dataset), (dataset, []))[1].append(rows)
    needed = {key: (dataset, torch.unique(torch.cat(rows))) for key, (dataset, rows) in wanted.items()}
    tick = Ticker(stage(progress, "looking for copies"), sum(len(rows) for _, rows in needed.values()))
    found = {key: _of_rows(dataset, rows.tolist(), work, tick) for key, (dataset, rows) in needed.items()}
    first, second = ([found[id(dataset)][row] for row in rows.tolist()] for dataset, rows in sides)
    return first, second


def _of_rows(dataset: Images, rows: Sequence[int], work: Callable[[Tensor], Found], tick: Ticker) -> dict[int, Found]:
    if isinstance(dataset, ImageFiles):  # their decoder releases Python's lock
        done = in_threads(lambda row: work(dataset.read(rows[row])), len(rows), tick)
        return dict(zip(rows, done, strict=True))
    found: dict[int, Found] = {}
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        found |= {row: work(_stored(dataset, row)) for row in part}
        tick(len(part))
    return found


def _stored(dataset: Images, row: int) -> Tensor:
    """An image before any resizing."""
    if isinstance(dataset, ImageArray):
        return dataset.images[row]
    return dataset.read(row) if isinstance(dataset, Table) else as_image(dataset[row][0])


def _digest(image: Tensor) -> bytes:
    head = f"{image.dtype} {tuple(image.shape)}".encode()
    pixels = image.detach().cpu().contiguous().view(torch.uint8)  # as bytes: NumPy lacks some of torch's number types
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(pixels.numpy().data)
    return digest.digest()
