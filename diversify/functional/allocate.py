"""How many of an epoch's draws each class gets, and which image each of them is."""

from __future__ import annotations

import torch
from torch import Tensor

from . import draws
from .counts import class_counts


def apportion(shares: Tensor, total: int, seed: int, epoch: int) -> Tensor:
    """`(C,)` int64 that sum to `total`: each class's share of it, rounded down or up.

    Who is rounded up is drawn anew for every (seed, epoch), each class as often as its remainder says, so that over
    epochs every share is met on average; a share of 0 stays 0. Systematic sampling (Madow 1949) in a random order of the
    classes.
    """
    order = draws.permutation(len(shares), "apportion", seed, epoch)
    ends = shares.double()[order].cumsum(0)
    ends = ends / ends[-1] * total
    # half a step off the grid of the draw: never so near an integer that rounding errors of the sums could matter
    offset = draws.uniform("remainder", seed, epoch, torch.zeros(1)).double() + 2.0**-25
    steps = (ends + offset).floor().long()
    counts = torch.empty_like(steps)
    counts[order] = steps.diff(prepend=steps.new_zeros(1))
    return counts


def epoch_order(labels: Tensor, shares: Tensor, total: int, seed: int, epoch: int) -> Tensor:
    """`(total,)` int64 rows of `labels` `(N,)`: the order of an epoch in which class c has `shares[c]` of the draws.

    Inside a class rows come in random order without replacement; when all have come, in another random order again.
    Classes with a share above 0 must have a row.
    """
    wanted, counts = apportion(shares, total, seed, epoch), class_counts(labels, len(shares))
    turns = torch.where(wanted > 0, (wanted + counts - 1) // counts.clamp(min=1), 0)  # times through the class

    # all rows of a class once per turn, class after class
    label = torch.repeat_interleave(counts * turns)
    place = torch.arange(len(label)) - _starts(counts * turns)[label]
    turn = place // counts[label]
    rows = torch.argsort(labels, stable=True)[_starts(counts)[label] + place % counts[label]]

    # shuffled inside each turn, and the last turn of a class cut off where the class has its draws
    shuffled = draws.bits("within", seed, epoch, turn, rows).argsort(stable=True)
    shuffled = shuffled[(_starts(turns)[label] + turn)[shuffled].argsort(stable=True)]
    rows = rows[shuffled][place < wanted[label]]

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
