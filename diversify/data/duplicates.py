"""Exact copies of training images among held-out ones: a model that learned an image by heart is right about its copy."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .decode import as_image
from .images import ImageArray, ImageFiles, Images, Progress, in_threads, traced
from .loader import Split
from .tables import Table


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicates:
    """`pairs` `(M, 2)`: positions in the two splits, for each held-out image that is also in train its first copy there."""

    pairs: Tensor
    same_label: int  # pairs whose two labels agree

    @property
    def count(self) -> int:
        """Held-out images that are also in train."""
        return len(self.pairs)

    def record(self, split: str, images: int) -> dict[str, object]:
        """What `run.json` keeps of copies among the `images` of the held-out split."""
        return {"heldout": split, "images": images, "count": self.count, "same_label": self.same_label}


def copies_in_words(record: Mapping[str, Any]) -> str:
    """A record of copies in a sentence; empty when there are none."""
    if not record["count"]:
        return ""
    other = record["count"] - record["same_label"]
    return (
        f"{record['count']:,} of {record['images']:,} {record['heldout']} images are also in train (exact copies):"
        " recall on them is too good" + (f"; {other:,} of them have another label there" if other else "")
    )


def find_duplicates(train: Split, heldout: Split, progress: Progress | None = None) -> Duplicates:
    """The held-out images whose pixels are, bit for bit and in the same shape, those of a training image.

    Files are compared by what they show, decoded and before any resizing, so that a copy in another lossless format or
    with other metadata is found; images of a data set of your own as it yields them. Each image is read once.
    """
    sides = [traced(split.dataset) for split in (train, heldout)]
    wanted: dict[int, tuple[Images, list[Tensor]]] = {}
    for dataset, rows in sides:
        wanted.setdefault(id(dataset), (dataset, []))[1].append(rows)
    plan = {key: (dataset, torch.unique(torch.cat(rows))) for key, (dataset, rows) in wanted.items()}
    total, done = sum(len(rows) for _, rows in plan.values()), 0
    digests: dict[int, dict[int, bytes]] = {}
    for key, (dataset, rows) in plan.items():
        digests[key] = _digests(dataset, rows.tolist(), _Shifted(progress, done, total))
        done += len(rows)
    first: dict[bytes, int] = {}
    (train_set, train_rows), (heldout_set, heldout_rows) = sides
    for position, row in enumerate(train_rows.tolist()):
        first.setdefault(digests[id(train_set)][row], position)
    copies = [(first.get(digests[id(heldout_set)][row]), row_of) for row_of, row in enumerate(heldout_rows.tolist())]
    pairs = torch.tensor([pair for pair in copies if pair[0] is not None], dtype=torch.int64).view(-1, 2)
    same = train.labels[pairs[:, 0]] == heldout.labels[pairs[:, 1]]
    return Duplicates(pairs=pairs, same_label=int(same.sum()))


@dataclasses.dataclass(frozen=True)
class _Shifted:
    """Progress of one part of the whole."""

    progress: Progress | None
    start: int
    total: int

    def __call__(self, what: str, done: int, _: int) -> None:
        if self.progress is not None:
            self.progress(what, self.start + done, self.total)


def _digests(dataset: Images, rows: Sequence[int], progress: Progress) -> dict[int, bytes]:
    what = "looking for copies"
    if isinstance(dataset, ImageFiles):  # their decoder leaves Python's lock alone
        found = in_threads(lambda row: _digest(dataset.read(rows[row])), len(rows), progress, what)
        return dict(zip(rows, found, strict=True))
    digests = {}
    for done, row in enumerate(rows, start=1):
        if isinstance(dataset, ImageArray):
            image = dataset.images[row]
        else:
            image = dataset.read(row) if isinstance(dataset, Table) else as_image(dataset[row][0])
        digests[row] = _digest(image)
        if done % 1000 == 0 or done == len(rows):
            progress(what, done, len(rows))
    return digests


def _digest(image: Tensor) -> bytes:
    head = f"{image.dtype} {tuple(image.shape)}".encode()
    pixels = image.detach().cpu().contiguous().view(torch.uint8)  # every type of numbers, those NumPy lacks too
    digest = hashlib.blake2b(head, digest_size=16)
    digest.update(pixels.numpy().data)
    return digest.digest()
