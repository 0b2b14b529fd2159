"""Divide the draws of an epoch among classes, and choose the image of each draw."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws
from .counts import class_counts

_BLOCK = 1 << 20
"""Numbers apportioned at a time: some tens of megabytes."""


def apportion(shares: Tensor, total: int, seed: int, epochs: Tensor) -> Tensor:
    """Divide `total` draws among the classes in each of several epochs.

    Each class gets its share of `total`, rounded down or up. The classes that are rounded up are drawn for every
    (seed, epoch), with a probability equal to the remainder, so that over epochs every share is met on average. A share
    of 0 gives no draws.

    Args:
        shares: Share of each class, `(C,)`, not negative; only their ratios matter.
        total: Draws per epoch.
        seed: Seed of the rounding.
        epochs: Epoch numbers, `(E,)`.

    Returns:
        `(E, C)` int64; each row sums to `total`.

    References:
        Madow, "On the theory of systematic sampling, II", 1949. The classes are put in a random order first.

    Example:
        >>> apportion(torch.tensor([0.5, 0.25, 0.25]), 10, seed=0, epochs=torch.arange(2)).tolist()
        [[5, 2, 3], [5, 2, 3]]
    """
    epochs = epochs[:, None]
    order = draws.bits("apportion", seed, epochs, torch.arange(len(shares))).argsort(stable=True)
    ends = shares.double()[order].cumsum(1)
    ends = ends / ends[:, -1:] * total
    # half a grid step off the draw, so that rounding errors of the sums cannot cross an integer
    offset = draws.uniform("remainder", seed, epochs, torch.zeros(1)).double() + 2.0**-25
    steps = (ends + offset).floor().long()
    return torch.empty_like(steps).scatter_(1, order, steps.diff(prepend=torch.zeros_like(epochs)))


def apportioned(shares: Tensor, total: int, seed: int, epochs: range) -> Tensor:
    """Count the draws of each class over several epochs together.

    The time that this takes grows with the number of epochs times the number of classes.

    Args:
        shares: Share of each class, `(C,)`, as in `apportion`.
        total: Draws per epoch.
        seed: Seed of the rounding.
        epochs: The epochs to add up.

    Returns:
        `(C,)` int64.

    Example:
        >>> apportioned(torch.tensor([0.5, 0.25, 0.25]), 10, seed=0, epochs=range(100)).tolist()
        [500, 252, 248]
    """
    found, block = torch.zeros(len(shares), dtype=torch.int64), max(1, _BLOCK // len(shares))
    for first in range(epochs.start, epochs.stop, block):
        found += apportion(shares, total, seed, torch.arange(first, min(first + block, epochs.stop))).sum(0)
    return found


def epoch_order(labels: Tensor, shares: Tensor, total: int, seed: int, epoch: int, before: Tensor) -> Tensor:
    """Return the rows that one epoch visits, in order, when class c gets `shares[c]` of the draws.

    Inside a class, rows come in random order without replacement. When all of them have come, they come again in
    another random order. An epoch continues where the class's earlier draws stopped.

    Args:
        labels: Class of each row, `(N,)`.
        shares: Share of each class, `(C,)`. A class with a share above 0 needs at least one row.
        total: Draws in the epoch.
        seed: Seed of all draws.
        epoch: Number of the epoch.
        before: `(C,)` int64, draws of each class in all earlier epochs, see `apportioned`.

    Returns:
        `(total,)` int64 row indices.

    Example:
        >>> labels, none = torch.tensor([0, 0, 0, 0, 1]), torch.zeros(2, dtype=torch.int64)
        >>> rows = epoch_order(labels, torch.tensor([0.5, 0.5]), 6, seed=0, epoch=0, before=none)
        >>> rows.tolist(), labels[rows].bincount().tolist()
        ([4, 2, 0, 4, 3, 4], [3, 3])
    """
    wanted, counts = apportion(shares, total, seed, torch.tensor([epoch]))[0], class_counts(labels, len(shares))
    size = counts.clamp(min=1)  # a class without rows is not drawn
    # the turn in which this epoch begins, and how many of its rows came before
    first, started = before // size, before % size
    turns = torch.where(wanted > 0, (started + wanted + size - 1) // size, 0)  # turns in this epoch, in part or whole

    # list all rows of a class once per turn, class after class
    label = torch.repeat_interleave(counts * turns)
    place = torch.arange(len(label)) - _starts(counts * turns)[label]
    turn = place // counts[label]
    rows = torch.argsort(labels, stable=True)[_starts(counts)[label] + place % counts[label]]

    # shuffle inside each turn, then drop the rows of earlier and of later epochs
    shuffled = draws.bits("within", seed, first[label] + turn, rows).argsort(stable=True)
    shuffled = shuffled[(_starts(turns)[label] + turn)[shuffled].argsort(stable=True)]
    rows = rows[shuffled][(place >= started[label]) & (place < (started + wanted)[label])]

    # deal positions to the classes; each class fills its own in order
    dealt = draws.permutation(total, "order", seed, epoch)
    positions = (torch.repeat_interleave(wanted) * total + dealt).sort().values % total
    order = torch.empty_like(rows)
    order[positions] = rows
    return order


def occurrences(rows: Tensor) -> Tensor:
    """Count for each entry how often the same row came earlier in the list.

    Args:
        rows: Row indices, `(N,)`.

    Returns:
        `(N,)` int64; 0 for a first visit.

    Example:
        >>> occurrences(torch.tensor([7, 3, 7, 7, 3])).tolist()
        [0, 0, 1, 2, 1]
    """
    place = rows.argsort(stable=True)
    sizes = torch.unique_consecutive(rows[place], return_counts=True)[1]
    found = torch.empty_like(place)
    found[place] = torch.arange(len(rows)) - torch.repeat_interleave(_starts(sizes), sizes)
    return found


def _starts(sizes: Tensor) -> Tensor:
    """The position at which each group begins when groups of these sizes are concatenated."""
    return sizes.cumsum(0) - sizes
