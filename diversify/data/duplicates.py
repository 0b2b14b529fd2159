"""Find exact copies of training images among held-out ones; a model that has memorised an image recognises its copy."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.progress import StageProgress, Ticker, stage
from .decode import as_image
from .images import ImageArray, ImageFiles, Images, in_threads, traced
from .loader import Split
from .tables import Table


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
    sides = [traced(split.dataset) for split in (train, heldout)]
    wanted: dict[int, tuple[Images, list[Tensor]]] = {}  # by the identity of the data set, which both sides may share
    for dataset, rows in sides:
        wanted.setdefault(id(dataset), (dataset, []))[1].append(rows)
    needed = {key: (dataset, torch.unique(torch.cat(rows))) for key, (dataset, rows) in wanted.items()}
    tick = Ticker(stage(progress, "looking for copies"), sum(len(rows) for _, rows in needed.values()))
    digests = {key: _digests(dataset, rows.tolist(), tick) for key, (dataset, rows) in needed.items()}
    first: dict[bytes, int] = {}
    (train_set, train_rows), (heldout_set, heldout_rows) = sides
    for position, row in enumerate(train_rows.tolist()):
        first.setdefault(digests[id(train_set)][row], position)
    copies = [(first.get(digests[id(heldout_set)][row]), row_of) for row_of, row in enumerate(heldout_rows.tolist())]
    pairs = torch.tensor([pair for pair in copies if pair[0] is not None], dtype=torch.int64).view(-1, 2)
    same = train.labels[pairs[:, 0]] == heldout.labels[pairs[:, 1]]
    return Duplicates(pairs=pairs, same_label=int(same.sum()))


def _digests(dataset: Images, rows: Sequence[int], tick: Ticker) -> dict[int, bytes]:
    if isinstance(dataset, ImageFiles):  # their decoder releases Python's lock
        found = in_threads(lambda row: _digest(dataset.read(rows[row])), len(rows), tick)
        return dict(zip(rows, found, strict=True))
    digests: dict[int, bytes] = {}
    for start in range(0, len(rows), 1000):
        part = rows[start : start + 1000]
        digests |= {row: _digest(_stored(dataset, row)) for row in part}
        tick(len(part))
    return digests


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
