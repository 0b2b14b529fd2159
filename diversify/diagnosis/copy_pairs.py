"""Pairs of near copies that a report shows: of each class the least alike, which tell whether the others are copies."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from .near_copies import HASH, NearCopies

PAIRS = 12
_HELDOUT_PER_CLASS = 2  # pairs of a held-out image; of two training images, one


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A row and the training row that it is a near copy of; `bits` and `distance` are None where it was not found by that."""

    class_index: int
    heldout: bool
    row: int
    copy_of: int
    bits: int | None
    distance: float | None


def least_alike(copies: NearCopies, labels: Tensor, labels_heldout: Tensor) -> list[Pair]:
    """Return at most 12 pairs of near copies: of each class two held-out images and a training image, the least alike.

    Args:
        copies: The near copies.
        labels: `(N,)`, the classes of the training rows.
        labels_heldout: `(M,)`, those of the held-out rows.

    Example:
        >>> import torch
        >>> nan = torch.nan
        >>> copies = NearCopies(
        ...     copy_of=torch.tensor([1, 0, -1]), component=torch.tensor([0, 0, 1]), effective_count=torch.tensor([2.0]),
        ...     leaked_from=torch.tensor([2]), copy_distance=torch.tensor([3.0, 3.0, nan]),
        ...     leaked_distance=torch.tensor([5.0]), way="image hash",
        ... )
        >>> [(one.heldout, one.row, one.copy_of, one.bits) for one in least_alike(copies, torch.zeros(3), torch.zeros(1))]
        [(True, 0, 2, 5), (False, 0, 1, 3)]
    """
    both = (_pairs(copies, labels_heldout, heldout=True), _pairs(copies, labels, heldout=False))
    chosen: list[tuple[int, Pair]] = []  # how many of its class and kind come before it, and the pair
    for place, pairs in enumerate(both):
        number: dict[int, int] = {}
        for one in sorted(pairs, key=lambda each: (-(each.bits or -1), -(each.distance or 0.0), each.row)):
            rank = number[one.class_index] = number.get(one.class_index, -1) + 1
            if rank < (1 if place else _HELDOUT_PER_CLASS):
                chosen.append((2 * rank + place, one))
    chosen.sort(key=lambda each: (each[0], each[1].class_index))
    shown = [one for _, one in chosen[:PAIRS]]
    return sorted(shown, key=lambda one: (one.class_index, not one.heldout))


def _pairs(copies: NearCopies, labels: Tensor, *, heldout: bool) -> list[Pair]:
    """All pairs of one side; what both ways found is one pair."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    of_row: dict[int, tuple[int, int]] = {}
    for part in sorted(copies.ways, key=lambda one: one.way != HASH):
        others, distances = (part.leaked_from, part.leaked_distance) if heldout else (part.copy_of, part.copy_distance)
        for row in (others >= 0).nonzero()[:, 0].tolist():
            other = int(others[row])
            key = (row, other) if heldout or row < other else (other, row)
            if key not in found and row in of_row:
                continue  # the other way has found another copy of it
            of_row.setdefault(row, key)
            found.setdefault(key, {})[part.way] = 0.0 if distances is None else float(distances[row])
    return [
        Pair(
            class_index=int(labels[row]),
            heldout=heldout,
            row=row,
            copy_of=other,
            bits=round(ways[HASH]) if HASH in ways else None,
            distance=next((value for way, value in ways.items() if way != HASH), None),
        )
        for (row, other), ways in found.items()
    ]
