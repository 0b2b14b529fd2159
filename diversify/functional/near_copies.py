"""Find near copies among feature vectors: pairs of rows of a class that lie closer together than independent rows do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtri
from torch import Tensor

from .counts import class_counts
from .neighbors import float32_is_whole
from .whitening import within_class_directions

MOST = 1 / 3  # of the median distance within the class: no copy is farther away
CLOSEST = 0.9  # of the smallest distance between rows of different classes
CHANCE = 0.05  # expected number of independent pairs of a class below the limit
ACROSS = 5  # how much rarer these are to be between a class and other rows, whose distances taught nothing
LEAST_SCALE = 0.25  # of a class's median distance, as a share of the median over the classes
_SAMPLE = 400  # rows of a class that its distances are learned from, evenly spaced
_BETWEEN = 3000  # rows whose distances to rows of other classes are computed, evenly spaced
_BLOCK = 512
_BOUNDS = 1 << 20  # distances at a time in float32: 4 MB
_ROUNDS = 4
_FREEDOM = torch.logspace(-0.5, 2, 251, dtype=torch.float64)
_HALF_TO_QUARTER = torch.from_numpy(chdtri(_FREEDOM.numpy(), 0.5) / chdtri(_FREEDOM.numpy(), 0.75))  # falls


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopySpace:
    """The space in which rows are compared, and the distance below which two rows of a class are near copies.

    A row is placed by its difference from the mean of its class, in the directions of the largest variance within the
    classes, each divided by its standard deviation, and then by the median distance between two rows of the class.

    Attributes:
        means: `(C, D)`, the class means.
        directions: `(D, k)`, the directions, divided by their standard deviations.
        scales: `(C,)`, the median distance between two rows of each class; NaN where nothing can be compared.
        limits: `(C,)`, the distance below which two rows of the class are near copies; 0 where nothing can be compared.
        limits_others: `(C,)`, the same for another row and a row of the class; lower where there are many other rows.

    Example:
        >>> from diversify.functional import draws
        >>> rows = draws.normal("example", torch.arange(60)[:, None], torch.arange(8))
        >>> space = copy_space(rows, torch.arange(60) % 2, 2)
        >>> space.place(rows, torch.arange(60) % 2).shape, [round(limit, 2) for limit in space.limits.tolist()]
        (torch.Size([60, 6]), [0.21, 0.2])
    """

    means: Tensor
    directions: Tensor
    scales: Tensor
    limits: Tensor
    limits_others: Tensor

    def place(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the places `(N, k)` float64 of rows with these classes; NaN for rows that are all 0, which say nothing."""
        rest: Tensor = features.double() - self.means[labels]
        placed = rest @ self.directions / self.scales[labels][:, None]
        return placed.masked_fill(~features.any(1)[:, None], torch.nan)


def copy_space(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    others: Tensor | None = None,
    *,
    space: tuple[Tensor, Tensor] | None = None,
) -> CopySpace:
    """Learn from training rows how close two independent rows of a class come.

    The limit of a class is the smallest of three distances: a third of the median distance in the class; 0.9 of the
    smallest distance between rows of different classes, which are no copies of each other; and the distance below which
    0.05 pairs of the class are expected if squared distances follow a scaled chi-squared distribution, whose degrees of
    freedom come from the median and the lower quartile (the geometric mean of those of the class and of the median
    class). Near copies found with these limits are then counted as one row, and the distances are learned again.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        others: `(C,)`, how many other rows, such as held-out ones, are compared with those of each class.
        space: What `whitening.within_class_directions` returns for these rows, where it is known.

    Returns:
        The space, on the device of the features.

    Example:
        >>> from diversify.functional import draws
        >>> rows = draws.normal("example", torch.arange(400)[:, None], torch.arange(64))
        >>> [round(limit, 2) for limit in copy_space(rows, torch.arange(400) % 2, 2).limits.tolist()]
        [0.33, 0.33]
    """
    means, directions = within_class_directions(features, labels, num_classes) if space is None else space
    rest = features.double() - means[labels]
    sizes = class_counts(labels, num_classes)
    kept = directions.shape[1]
    placed, own, there = (rest @ directions).cpu(), labels.cpu(), features.device
    half, quarter = _quartiles(placed, own, num_classes)
    scales = half.sqrt()
    usual = scales.nanmedian()
    if not kept or not float(usual) > 0:  # NaN where no class has two rows
        nothing = torch.full((num_classes,), torch.nan, dtype=torch.float64, device=features.device)
        zeros = torch.zeros_like(nothing)
        return CopySpace(means=means, directions=directions, scales=nothing, limits=zeros, limits_others=zeros)
    sizes, speaks = sizes.cpu(), features.any(1).cpu()
    for _ in range(_ROUNDS):  # copies are counted once when the distances of the class are learned again
        scales = half.sqrt().nan_to_num(float(usual)).clamp(min=LEAST_SCALE * float(usual))
        scaled = placed / scales[own][:, None]
        some = torch.linspace(0, len(placed) - 1, min(len(placed), _BETWEEN)).round().long()
        between = _smallest_between(scaled[some], own[some])
        within, across = sizes * (sizes - 1) / 2, sizes * (torch.zeros_like(sizes) if others is None else others.cpu())
        limits, limits_others = (
            _expected(half, quarter, sizes, pairs, scales).clamp(max=min(MOST, CLOSEST * between))
            for pairs in (within, torch.maximum(within, ACROSS * across))
        )
        first = _first_of_copies(scaled.masked_fill(~speaks[:, None], torch.nan), own, limits)
        different = torch.bincount(own[first], minlength=num_classes)
        if torch.equal(different, sizes):
            break
        sizes = different
        half, quarter = _quartiles(placed[first], own[first], num_classes)
    return CopySpace(
        means=means,
        directions=directions,
        scales=scales.to(there),
        limits=limits.to(there),
        limits_others=limits_others.to(there),
    )


def _first_of_copies(placed: Tensor, labels: Tensor, limits: Tensor) -> Tensor:
    """The rows that are no near copy of an earlier one, directly or through others, ascending."""
    rows = []
    order = torch.argsort(labels, stable=True)
    for c, members in enumerate(order.split(torch.bincount(labels, minlength=len(limits)).tolist())):
        component = copy_components(placed[members], float(limits[c]))
        first = torch.full((len(members),), len(members)).scatter_reduce_(
            0, component, torch.arange(len(members)), "amin"
        )
        rows.append(members[first[first < len(members)]])
    return torch.cat(rows).sort().values


def _quartiles(placed: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The median and the lower quartile of the squared distances in each class, `(C,)`; NaN below two rows."""
    found = torch.full((2, num_classes), torch.nan, dtype=torch.float64)
    order = torch.argsort(labels, stable=True)
    for c, rows in enumerate(order.split(torch.bincount(labels, minlength=num_classes).tolist())):
        if len(rows) > 1:
            chosen = torch.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE)).round().long()
            squares = torch.pdist(placed[rows[chosen]]).square().numpy()
            places = len(squares) // 2, len(squares) // 4
            squares = np.partition(squares, places)
            found[:, c] = torch.from_numpy(squares[list(places)])
    return found[0], found[1]


def _expected(half: Tensor, quarter: Tensor, sizes: Tensor, pairs: Tensor, scales: Tensor) -> Tensor:
    """The distances below which `CHANCE` pairs of each class of these are expected, in units of the scales; 0 where undefined."""
    freedom = torch.full_like(half, torch.nan)
    known = (quarter > 0) & (sizes >= 5)
    place = (_HALF_TO_QUARTER[None] > (half / quarter)[known][:, None]).sum(1).clamp(1, len(_FREEDOM)) - 1
    freedom[known] = _FREEDOM[place] * sizes[known] / (sizes[known] + 3)
    usual = freedom.nanmedian()
    shared = (freedom * usual).sqrt().nan_to_num(float(usual)).nan_to_num(float(_FREEDOM[0]))
    quantile = chdtri(shared.numpy(), 1 - np.minimum(CHANCE / pairs.clamp(min=1).double().numpy(), 0.5))
    ratio = torch.from_numpy(quantile / chdtri(shared.numpy(), 0.5))
    return torch.where(half > 0, (half * ratio).sqrt() / scales, 0.0)


def _squares(rows: Tensor, others: Tensor) -> Tensor:
    """The squared distances `(R, O)` in float64, where the rounding of a matrix product is far below any limit."""
    rows, others = rows.double(), others.double()
    products = torch.addmm(others.square().sum(1)[None], rows, others.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True)).clamp_(min=0)


def _smallest_between(placed: Tensor, labels: Tensor) -> float:
    """The smallest distance between two rows of different classes; infinity if there is one class."""
    bounds, least = _Bounds(placed), torch.full((len(placed),), torch.inf, dtype=torch.float64)
    for part in bounds.parts(placed):
        least[part] = bounds.of(placed[part]).masked_fill_(labels[part, None] == labels, torch.inf).amin(1).double()
    slack, smallest = bounds.slack(placed), math.inf
    for rows in (least.isfinite() & (least - slack <= (least + slack).min())).nonzero()[:, 0].split(_BLOCK):
        squares = _squares(placed[rows], placed).masked_fill_(labels[rows, None] == labels, torch.inf)
        smallest = min(smallest, float(squares.min())) if len(rows) else smallest
    return math.sqrt(smallest)


class _Bounds:
    """Squared distances to reference rows in float32 on the CPU, several times faster, with the most that rounding can do.

    Args:
        reference: `(R, k)`; rows of NaN are infinitely far away.
    """

    def __init__(self, reference: Tensor) -> None:
        square = reference.double().square().sum(1, keepdim=True)
        empty = square.isnan()
        rows = torch.cat([-2 * reference.double(), torch.ones_like(square), square], 1).masked_fill(empty, 0.0)
        rows[:, -1:].masked_fill_(empty, torch.inf)
        self.reach: Tensor = square.nan_to_num(0).sqrt().max() if len(square) else square.sum()
        narrow = float32_is_whole(reference.device) and 1e-15 < float(self.reach) < 1e15
        self.dtype = torch.float32 if narrow else torch.float64
        self.rows = rows.to(self.dtype)

    def parts(self, queries: Tensor) -> Iterator[slice]:
        """The queries in parts whose distances to all reference rows take at most 4 MB."""
        size = max(1, min(_BLOCK, _BOUNDS // max(len(self.rows), 1)))
        for start in range(0, len(queries) if len(self.rows) else 0, size):
            yield slice(start, start + size)

    def of(self, queries: Tensor) -> Tensor:
        """The squared distances `(Q, R)`, up to rounding."""
        queries = queries.double()
        left = torch.cat([queries, queries.square().sum(1, keepdim=True), queries.new_ones(len(queries), 1)], 1)
        return torch.mm(left.to(self.dtype), self.rows.T)

    def slack(self, queries: Tensor) -> Tensor:
        """What rounding can add to or take from each row's squared distances at most, `(Q,)`."""
        rounding = 4 * (queries.shape[1] + 8) * torch.finfo(self.dtype).eps
        most: Tensor = queries.double().norm(dim=1) + self.reach
        return rounding * most.square()

    def near(self, queries: Tensor, limit: float, same: Tensor | None = None) -> Iterator[Tensor]:
        """The queries that may have a reference row nearer than `limit`, other than `same`, ascending, a part at a time."""
        for part in self.parts(queries):
            bound = self.of(queries[part])
            if same is not None:
                bound.scatter_(1, same[part, None], torch.inf)
            near = (bound.amin(1) <= limit**2 + self.slack(queries[part])).nonzero()[:, 0]
            if len(near):
                yield near + part.start


def copy_components(placed: Tensor, limit: float) -> Tensor:
    """Return a number for each row `(N,)` int64: rows with the same number are near copies, directly or through others.

    Args:
        placed: `(N, k)`, rows of one class as `CopySpace.place` returns them; a row of NaN is a copy of none.
        limit: The distance below which two rows are near copies.

    Example:
        >>> copy_components(torch.tensor([[0.0], [5.0], [0.2], [0.1]]), 0.15).tolist()
        [0, 1, 0, 0]
    """
    component, count = np.arange(len(placed)), len(placed)
    for own in _Bounds(placed).near(placed, limit, torch.arange(len(placed), device=placed.device)):
        start = int(own[0])  # pairs with earlier rows are known
        pairs = (_squares(placed[own], placed[start:]) < limit**2).nonzero()
        row, column = own[pairs[:, 0]].cpu().numpy(), (pairs[:, 1] + start).cpu().numpy()
        count, component = joined_components(component, count, row, column)
    return torch.from_numpy(component.astype(np.int64)).to(placed.device)


def joined_components(
    component: NDArray[Any], count: int, row: NDArray[Any], column: NDArray[Any]
) -> tuple[int, NDArray[Any]]:
    """Return how many components there are, and that of each row `(N,)`, once rows are linked to columns, pair by pair.

    Args:
        component: The number of the component of each row, `(N,)`, below `count`.
        count: The number of components.
        row: The first row of each pair, `(P,)`.
        column: The second row of each pair, `(P,)`.

    Example:
        >>> count, component = joined_components(np.arange(4), 4, np.array([0]), np.array([2]))
        >>> count, component.tolist()
        (3, [0, 1, 0, 2])
    """
    # SciPy 1.11.1 takes indices of 32 bits only: with others it prints an error, goes on, and returns numbers without meaning.
    numbers = component.astype(np.int32)
    links = coo_array((np.ones(len(row), bool), (numbers[row], numbers[column])), shape=(count, count))
    count, merged = connected_components(links, directed=False)
    return count, merged[numbers]


def nearest_copy(queries: Tensor, reference: Tensor, limit: float, *, same: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return the nearest near copy of each query among the reference rows of its class, and how many it has there.

    Args:
        queries: `(Q, k)`, rows of one class as `CopySpace.place` returns them.
        reference: `(R, k)`, rows of the same class.
        limit: The distance below which two rows are near copies.
        same: `(Q,)`, index of each query in `reference`, which is left out.

    Returns:
        Index of the nearest copy, -1 if there is none, `(Q,)` int64; its distance, infinity if there is none; and the
        number of copies, `(Q,)` int64.

    Example:
        >>> reference = torch.tensor([[0.0], [0.1], [4.0]])
        >>> index, distance, number = nearest_copy(torch.tensor([[0.02], [2.0]]), reference, 0.5)
        >>> [index.tolist(), [round(one, 3) for one in distance.tolist()], number.tolist()]
        [[0, -1], [0.02, inf], [2, 0]]
    """
    index = torch.full((len(queries),), -1, dtype=torch.int64, device=queries.device)
    distance = torch.full((len(queries),), torch.inf, dtype=torch.float64, device=queries.device)
    number = torch.zeros_like(index)
    for part in _Bounds(reference).near(queries, limit, same):
        near = _squares(queries[part], reference)
        near.masked_fill_(~(near < limit**2), torch.inf)
        if same is not None:
            near.scatter_(1, same[part, None], torch.inf)
        number[part] = near.isfinite().sum(1)
        squares, index[part] = near.min(1)
        distance[part] = squares.sqrt()
    return index.masked_fill(distance.isinf(), -1), distance, number
