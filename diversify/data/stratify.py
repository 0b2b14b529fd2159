"""A hold-out for images with several labels each: every label, and every pair of labels, in proportion on both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from ..errors import must
from ..functional import draws
from ..functional.groups import group_numbers
from ..functional.multilabel import read_multilabels

MOST_PAIRS = 20_000  # pairs of labels that are kept in proportion; with more, labels alone are
MOST_ENTRIES = 20_000_000  # pairs of labels over all images, likewise

_Counts = Any  # a sparse array (units, labels and pairs): how many images of each unit have them
_Array = np.ndarray[Any, Any]


def multilabel_holdout(labels: Any, fraction: float, groups: Any = None) -> tuple[Tensor, Tensor]:
    """Return the positions that are kept and those that are held out, with every label in proportion on both sides.

    This is iterative stratification. The rarest label that is left, or the rarest pair of labels, is shared out first: each
    of its images goes to the side that lacks more of it. Then every label with at least two images gets one on each side, as
    far as that leaves no other label without one. A label with one image stays in training. The result depends on the labels
    and groups alone, so two runs on the same data agree.

    Args:
        labels: `(N, C)`, 0 or 1 for each label: a tensor, an array or a list of rows.
        fraction: Share to hold out, in [0, 1).
        groups: `(N,)` integers or text, equal for images that depend on each other, which then stay on one side; None if no groups
            are known.

    Returns:
        Two ascending tensors of positions.

    Raises:
        InputError: The fraction is out of its range, or there is no second group to hold out.

    References:
        Sechidis, Tsoumakas and Vlahavas (2011), On the stratification of multi-label data, ECML PKDD.
        Szymański and Kajdanowicz (2017), A network perspective on stratification of multi-label data, PMLR 74 (pairs).

    Example:
        >>> labels = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [0, 1]] * 5).bool()
        >>> kept, held = multilabel_holdout(labels, 0.2)
        >>> len(held), labels[held].sum(0).tolist(), labels[kept].sum(0).tolist()
        (6, [3, 3], [12, 12])
    """
    if not 0 <= fraction < 1:
        raise must("holdout", "lie in [0, 1)", fraction)
    marks = read_multilabels("labels", labels)
    images = len(marks)
    if groups is None:
        place = np.arange(images)
        units, word = images, draws.bits("holdout", torch.arange(images))
    else:
        values, inverse = torch.unique(group_numbers("groups", groups, rows=images), return_inverse=True)
        place, units, word = inverse.numpy(), len(values), draws.bits("holdout groups", values)
    sizes = np.bincount(place, minlength=units)
    order = np.empty(units, np.int64)
    order[torch.argsort(word, stable=True).numpy()] = np.arange(units)
    chosen = np.zeros(units, bool)
    if fraction > 0 and units > 1:
        of_unit = sparse.csr_array((np.ones(images, np.int64), (place, np.arange(images))), shape=(units, images))
        single = sparse.csr_array(marks.numpy().astype(np.int64))
        both = sparse.csr_array(of_unit @ sparse.hstack([single, _pairs(single)], format="csr"))
        chosen = _shared_out(both, sizes, order, fraction, marks.shape[1])
        _give_each_label_both_sides(sparse.csr_array(of_unit @ single), chosen, sizes, order)
        if chosen.all():
            chosen[order.argmin()] = False
    if groups is not None and not chosen.any() and round(images * fraction) > 0:
        got = f"{units:,} groups among {images:,} images"
        raise must("group", "leave a group to hold out", got, "bring a validation set, or pass holdout=0")
    held = torch.from_numpy(chosen[place])
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def _pairs(single: _Counts) -> _Counts:
    """Which pairs of labels each image has, `(N, P)` for the P pairs that occur twice; no columns if there are too many."""
    images, labels = single.shape
    nothing = sparse.csr_array((images, 0), dtype=np.int64)
    number = np.diff(single.indptr).astype(np.int64)
    if int((number * (number - 1) // 2).sum()) > MOST_ENTRIES:
        return nothing
    rows, codes = [], []
    for row in np.flatnonzero(number > 1).tolist():
        own = np.sort(single.indices[single.indptr[row] : single.indptr[row + 1]]).astype(np.int64)
        first, second = np.triu_indices(len(own), 1)
        rows.append(np.full(len(first), row))
        codes.append(own[first] * labels + own[second])
    if not rows:
        return nothing
    known, column, times = np.unique(np.concatenate(codes), return_inverse=True, return_counts=True)
    if int((times > 1).sum()) > MOST_PAIRS:
        return nothing
    ones = np.ones(len(column), np.int64)
    found = sparse.csr_array((ones, (np.concatenate(rows), column)), shape=(images, len(known)))
    return sparse.csr_array(found[:, np.flatnonzero(times > 1)])  # a pair of one image cannot be shared


def _shared_out(counts: _Counts, sizes: _Array, order: _Array, fraction: float, num_labels: int) -> _Array:
    """Which units are held out, by iterative stratification; the first `num_labels` columns are labels, the others pairs."""
    by_column = sparse.csc_array(counts)
    total = np.asarray(counts.sum(0), float).ravel()
    held_wanted = total * fraction
    own = total[:num_labels]
    held_wanted[:num_labels] = np.minimum(np.maximum(np.round(own * fraction), own >= 2), np.maximum(own - 1, 0))
    wanted = np.stack([total - held_wanted, held_wanted])  # of each label and pair, still, by side
    images = sizes.sum() * np.array([1 - fraction, fraction])  # still wanted, by side
    left = np.diff(by_column.indptr).astype(float)  # units without a side
    side = np.full(len(sizes), -1)

    def put(unit: int, lacking: _Array) -> None:
        most = int(lacking[1] > lacking[0] or (lacking[1] == lacking[0] and images[1] > images[0]))
        part = slice(counts.indptr[unit], counts.indptr[unit + 1])
        columns = counts.indices[part]
        side[unit] = most
        wanted[most, columns] -= counts.data[part]
        images[most] -= sizes[unit]
        left[columns] -= 1

    while True:
        column = int(np.where(left > 0, left, np.inf).argmin()) if len(left) else 0
        if not len(left) or left[column] <= 0:
            break
        part = slice(by_column.indptr[column], by_column.indptr[column + 1])
        units, number = by_column.indices[part], by_column.data[part]
        free = side[units] < 0
        units, number = units[free], number[free]
        for unit in units[np.lexsort((order[units], -number))].tolist():  # of groups the largest first
            put(unit, wanted[:, column])
    free = np.flatnonzero(side < 0)
    for unit in free[np.lexsort((order[free], -sizes[free]))].tolist():
        put(unit, images)
    return np.asarray(side == 1)


def _give_each_label_both_sides(counts: _Counts, chosen: _Array, sizes: _Array, order: _Array) -> None:
    """Move a unit for each label that has two or more and lacks a side, if no label loses a side by that."""
    by_label = sparse.csc_array(counts)
    units_of = np.diff(by_label.indptr)
    held = np.asarray((counts[chosen] > 0).sum(0)).ravel()
    by_side = np.stack([units_of - held, held])  # units of each label, by side
    for label in np.argsort(units_of, kind="stable").tolist():
        if units_of[label] < 2 or by_side[:, label].all():
            continue
        goal = int(by_side[1, label] == 0)
        units = by_label.indices[by_label.indptr[label] : by_label.indptr[label + 1]]
        for unit in units[np.lexsort((order[units], sizes[units]))].tolist():
            own = counts.indices[counts.indptr[unit] : counts.indptr[unit + 1]]
            if (by_side[1 - goal, own] > 1).all():
                chosen[unit] = bool(goal)
                by_side[goal, own] += 1
                by_side[1 - goal, own] -= 1
                break
