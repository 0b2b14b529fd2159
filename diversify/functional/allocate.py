"""How many of an epoch's draws each class gets, and which image each of them is."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws
from .counts import class_counts

_BLOCK = 1 << 20
"""How many numbers are apportioned at once: some tens of megabytes."""


def apportion(shares: Tensor, total: int, seed: int, epochs: Tensor) -> Tensor:
    """`(E, C)` int64, rows that sum to `total`: each class's share of it in these epochs `(E,)`, rounded down or up.

    Who is rounded up is drawn anew for every (seed, epoch), each class as often as its remainder says, so that over
    epochs every share is met on average; a share of 0 stays 0. Systematic sampling (Madow 1949) in a random order of the
    classes.
    """
    epochs = epochs[:, None]
    order = draws.bits("apportion", seed, epochs, torch.arange(len(shares))).argsort(stable=True)
    ends = shares.double()[order].cumsum(1)
    ends = ends / ends[:, -1:] * total
    # half a step off the grid of the draw: never so near an integer that rounding errors of the sums could matter
    offset = draws.uniform("remainder", seed, epochs, torch.zeros(1)).double() + 2.0**-25
    steps = (ends + offset).floor().long()
    return torch.empty_like(steps).scatter_(1, order, steps.diff(prepend=torch.zeros_like(epochs)))


def apportioned(shares: Tensor, total: int, seed: int, epochs: range) -> Tensor:
    """`(C,)` int64: what each class gets in all of these epochs together; time grows with epochs times classes."""
    found, block = torch.zeros(len(shares), dtype=torch.int64), max(1, _BLOCK // len(shares))
    for first in range(epochs.start, epochs.stop, block):
        found += apportion(shares, total, seed, torch.arange(first, min(first + block, epochs.stop))).sum(0)
    return found


def epoch_order(labels: Tensor, shares: Tensor, total: int, seed: int, epoch: int, before: Tensor) -> Tensor:
    """`(total,)` int64 rows of `labels` `(N,)`: the order of an epoch in which class c has `shares[c]` of the draws.

    Inside a class rows come in random order without replacement; when all have come, in another random order again.
    That goes on where `before[c]` draws of the class in earlier epochs left off, since the order of a turn through a class
    does not depend on the epoch. Classes with a share above 0 must have a row.
    """
    wanted, counts = apportion(shares, total, seed, torch.tensor([epoch]))[0], class_counts(labels, len(shares))
    size = counts.clamp(min=1)  # a class without rows is not drawn
    first, begun = before // size, before % size  # the turn that this epoch begins in, and how much of it came before
    turns = torch.where(wanted > 0, (begun + wanted + size - 1) // size, 0)  # that this epoch has a part of

    # all rows of a class once per turn, class after class
    label = torch.repeat_interleave(counts * turns)
    place = torch.arange(len(label)) - _starts(counts * turns)[label]
    turn = place // counts[label]
    rows = torch.argsort(labels, stable=True)[_starts(counts)[label] + place % counts[label]]

    # shuffled inside each turn; what came in an earlier epoch and what is left to the next is cut off
    shuffled = draws.bits("within", seed, first[label] + turn, rows).argsort(stable=True)
    shuffled = shuffled[(_starts(turns)[label] + turn)[shuffled].argsort(stable=True)]
    rows = rows[shuffled][(place >= begun[label]) & (place < (begun + wanted)[label])]

    # positions are dealt to the classes; each class fills its own from the first to the last
    dealt = draws.permutation(total, "order", seed, epoch)
    positions = (torch.repeat_interleave(wanted) * total + dealt).sort().values % total
    order = torch.empty_like(rows)
    order[positions] = rows
    return order


def occurrences(rows: Tensor) -> Tensor:
    """`(N,)` int64: how often each of these rows came before in `rows` `(N,)`."""
    place = rows.argsort(stable=True)
    sizes = torch.unique_consecutive(rows[place], return_counts=True)[1]
    found = torch.empty_like(place)
    found[place] = torch.arange(len(rows)) - torch.repeat_interleave(_starts(sizes), sizes)
    return found


def _starts(sizes: Tensor) -> Tensor:
    return sizes.cumsum(0) - sizes
