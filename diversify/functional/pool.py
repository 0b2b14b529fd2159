"""An unlabelled pool of rows, the rows taken from it so far, and its near copies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .near_copies import copy_space, nearest_copy

_LEAST_LIMIT = 1e-6  # of the median distance within a class: equal rows are copies, whatever the class's own limit is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
    """What the methods know: the pool without labels, and the training rows.

    Attributes:
        features: `(N, D)`, of the pool.
        probabilities: `(N, C)`, of the classes.
        train: `(R, D)`, features of the training rows.
        labels: `(R,)`, their classes.
        seed: Seed of the draws.

    Example:
        >>> pool = Pool(
        ...     features=torch.eye(2), probabilities=torch.tensor([[0.9, 0.1], [0.4, 0.6]]),
        ...     train=torch.eye(2), labels=torch.tensor([0, 1]), seed=0,
        ... )
        >>> pool.predicted.tolist(), [round(one, 2) for one in pool.doubt.tolist()]
        ([0, 1], [0.2, 0.8])
    """

    features: Tensor
    probabilities: Tensor
    train: Tensor
    labels: Tensor
    seed: int

    @property
    def predicted(self) -> Tensor:
        """`(N,)`, the most probable class."""
        return self.probabilities.argmax(1)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.probabilities.shape[1]

    @property
    def doubt(self) -> Tensor:
        """`(N,)`, 1 minus the difference of the two largest probabilities."""
        two = self.probabilities.topk(2, dim=1).values
        return 1 - (two[:, 0] - two[:, 1])


class Taken:
    """The rows taken so far, in order, and those that may still be taken.

    A row is no longer free once it is taken, or one of its near copies is. While rows with room are left, a group gives at
    most its fair share.

    Args:
        wanted: Rows to take.
        free: `(N,)` bool, the rows that may be taken.
        copies: Returns the near copies of a row, itself included; None for none.
        shares: For each kind of group, the group of every row `(N,)`.

    Example:
        >>> taken = Taken(2, torch.ones(4, dtype=torch.bool), shares=(torch.tensor([0, 0, 0, 1]),))
        >>> taken.in_order(torch.tensor([4.0, 3.0, 2.0, 1.0]))
        >>> taken.rows, taken.scores
        ([0, 3], [4.0, 1.0])
    """

    def __init__(
        self,
        wanted: int,
        free: Tensor,
        copies: Callable[[int], Tensor] | None = None,
        shares: Sequence[Tensor] = (),
    ) -> None:
        self.wanted, self.free, self.copies = wanted, free.clone(), copies
        self.rows: list[int] = []
        self.scores: list[float] = []
        self._groups = [torch.unique(share, return_inverse=True)[1] for share in shares]
        self._used = [
            torch.zeros(int(group.max()) + 1 if len(group) else 0, dtype=torch.int64) for group in self._groups
        ]
        self._most = [fair_share(torch.bincount(group[free], minlength=1), wanted) for group in self._groups]

    @property
    def wants(self) -> bool:
        """Whether more rows are wanted and some may be taken."""
        return len(self.rows) < self.wanted and bool(self.free.any())

    @property
    def open(self) -> Tensor:
        """`(N,)` bool, the free rows of groups that are not full; a share grows where all groups with free rows are full."""
        if not bool(self.free.any()):
            return self.free
        while True:
            found = self.free.clone()
            for group, used, most in zip(self._groups, self._used, self._most, strict=True):
                found &= (used < most)[group]
            if bool(found.any()):
                return found
            self._most = [most + 1 for most in self._most]

    def add(self, row: int, score: float) -> None:
        """Take a row."""
        self.rows.append(row)
        self.scores.append(score)
        self.free[row] = False
        if self.copies is not None:
            self.free[self.copies(row)] = False
        for group, used in zip(self._groups, self._used, strict=True):
            used[group[row]] += 1

    def in_order(self, scores: Tensor) -> None:
        """Take the rows with the largest scores, ties to the lower row, until enough are taken."""
        order = scores.argsort(descending=True, stable=True)
        while self.wants:
            there = self.open
            for row in order[there[order]].tolist():
                if not self.wants:
                    return
                if self._may(row):
                    self.add(row, float(scores[row]))

    def best(self, scores: Tensor) -> int:
        """Return the open row with the largest score, ties to the lower row."""
        return int(scores.masked_fill(~self.open, -math.inf).argmax())

    def _may(self, row: int) -> bool:
        room = (used[group[row]] < most for group, used, most in zip(self._groups, self._used, self._most, strict=True))
        return bool(self.free[row]) and all(bool(one) for one in room)


def fair_share(sizes: Tensor, wanted: int) -> int:
    """Return the smallest number of rows per group that gives `wanted` rows in all; small groups give all that they have.

    Args:
        sizes: `(G,)`, rows of each group.
        wanted: Rows to take.

    Example:
        >>> fair_share(torch.tensor([2, 10, 10]), 10)
        4
    """
    low, high = 1, max(1, int(sizes.max())) if len(sizes) else 1
    while low < high:
        middle = (low + high) // 2
        if int(sizes.clamp(max=middle).sum()) >= wanted:
            high = middle
        else:
            low = middle + 1
    return low


class PoolCopies:
    """Near copies within a pool and of training rows, by the distances that `copy_space` learns from the training rows.

    The class of a row of the pool is the predicted one.

    Args:
        pool: The pool.

    Example:
        >>> from diversify.functional import draws
        >>> rows = draws.normal("example", torch.arange(60)[:, None], torch.arange(8))
        >>> labels = torch.arange(60) % 2
        >>> pool = Pool(
        ...     features=torch.cat([rows[:1] + 1e-4, rows[:3] + 5, rows[:1] + 5]), probabilities=torch.eye(2)[[0, 0, 1, 0, 0]],
        ...     train=rows, labels=labels, seed=0,
        ... )
        >>> copies = PoolCopies(pool)
        >>> copies.of_known(rows, labels).tolist(), copies.of(1).nonzero().flatten().tolist()
        ([True, False, False, False, False], [1, 4])
    """

    def __init__(self, pool: Pool) -> None:
        self.classes = pool.predicted
        others = torch.bincount(self.classes, minlength=pool.num_classes)
        space = copy_space(pool.train, pool.labels, pool.num_classes, others)
        self.scales = torch.where(space.scales > 0, space.scales, torch.ones_like(space.scales))
        self.limits = space.limits_others.nan_to_num(0.0).clamp(min=_LEAST_LIMIT)

        known = bool((space.scales > 0).any())  # else no class has two rows that differ, and only equal rows are copies

        def placed(rows: Tensor) -> Tensor:
            found = rows.double() @ space.directions if known else rows.double()
            return found.masked_fill(~rows.any(1)[:, None], torch.nan)

        self._place = placed
        self.placed = placed(pool.features)

    def of(self, row: int) -> Tensor:
        """Return which rows of the pool are near copies of a row, itself included, `(N,)` bool."""
        c = self.classes[row]
        distance = (self.placed - self.placed[row]).square_().sum(1).sqrt_() / self.scales[c]
        found = distance < self.limits[c]
        found[row] = True
        return found

    def of_known(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return which rows of the pool are near copies of one of these rows of known classes, `(N,)` bool."""
        found = torch.zeros(len(self.placed), dtype=torch.bool, device=self.placed.device)
        rows = self._place(features)
        for c in labels.unique().tolist():
            reference = rows[labels == c] / self.scales[c]
            found |= nearest_copy(self.placed / self.scales[c], reference, float(self.limits[c]))[0] >= 0
        return found
