"""Exact nearest neighbours, nearest neighbours with another label, and what they say about a class.

Archetypes: Napierala and Stefanowski 2016; in feature space Dablain et al., "Interpretable ML for imbalanced data".
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import must
from .counts import class_mean

_TILE = 4096  # reference rows compared at a time
_GATHERED = 1 << 22  # numbers of gathered pairs at a time: 32 MB
_MANY = 4  # candidates per query and neighbour above which equal rows are looked for


def _pair_distances(queries: Tensor, reference: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances of the listed pairs from the differences themselves, in float64."""
    size = max(1, _GATHERED // max(queries.shape[1], 1))
    parts = [
        (queries[rows].double() - reference[columns].double()).square().sum(1)
        for rows, columns in zip(row.split(size), column.split(size), strict=True)
    ]
    return torch.cat(parts)


def _among_first_equals(rows: Tensor, k: int) -> Tensor:
    """`(R,)` bool: whether fewer than k rows before this one are equal to it."""
    group = torch.unique(rows, dim=0, return_inverse=True)[1]
    sizes = torch.bincount(group)
    order = group.argsort(stable=True)
    earlier = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[group[order]]
    return torch.empty_like(group, dtype=torch.bool).scatter_(0, order, earlier < k)


def nearest_neighbors(
    queries: Tensor, reference: Tensor, k: int, *, same: Tensor | None = None, block: int = 1024
) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `reference` to each of `queries`: Euclidean distances and indices, each `(Q, k)`.

    Exact: nearest first, ties to the lower index. Matrix products about the reference's mean only rule out rows that
    are too far by more than their rounding; the rest are ranked by differences computed directly in float64. Equal
    rows beyond the first k + 1 are passed over; slow only where thousands of rows that differ tie.

    Args:
        queries: Rows to look up, `(Q, D)`.
        reference: Rows to look among, `(R, D)`.
        k: Neighbours per query.
        same: `(Q,)` index of each query in `reference`, which is left out; -1 for none.
        block: Queries at a time; 1024 of them need about 64 MB.

    Raises:
        InputError: a query has fewer than k rows to choose from.
    """
    leaves_out = same is not None and bool((same >= 0).any())
    others = len(reference) - leaves_out
    if not 1 <= k <= others:
        raise must("k", f"lie in [1, {others}], the number of other rows", k)
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    indices = torch.full((len(queries), k), len(reference), dtype=torch.int64, device=queries.device)
    centre = reference.mean(0, dtype=torch.float64)
    rounding = 4 * (queries.shape[1] + 8) * torch.finfo(torch.float64).eps
    for tile_start in range(0, len(reference), _TILE):
        tile = reference[tile_start : tile_start + _TILE].double() - centre
        tile_square = tile.square().sum(1)
        reach = tile_square.max().sqrt()
        first_equals: Tensor | None = None
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            query = queries[part].double() - centre
            query_square = query.square().sum(1, keepdim=True)
            bound = torch.addmm(query_square + tile_square, query, tile.T, alpha=-2)  # (B, T), up to rounding
            slack = rounding * (query_square.sqrt() + reach).square()
            if same is not None:
                own = same[part] - tile_start
                inside = ((own >= 0) & (own < len(tile))).nonzero().flatten()
                bound[inside, own[inside]] = torch.inf
            limit = distances[part, -1:]
            if k <= len(tile):
                limit = torch.minimum(limit, bound.topk(k, dim=1, largest=False).values[:, -1:] + slack)
            near = (bound <= limit + slack) & (bound < torch.inf)
            if near.sum() > _MANY * (k + 1) * len(near):
                if first_equals is None:  # k + 1 of them: a query's own row may be one
                    first_equals = _among_first_equals(reference[tile_start : tile_start + _TILE], k + 1)
                near &= first_equals
            row, column = near.nonzero(as_tuple=True)
            found = _pair_distances(queries[part], reference[tile_start : tile_start + _TILE], row, column)
            distances[part], indices[part] = _merge(distances[part], indices[part], row, column + tile_start, found)
    return distances.sqrt().to(queries.dtype), indices


def _merge(distances: Tensor, indices: Tensor, row: Tensor, column: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The k best per row of those known `(B, k)` and those found, whose indices are all higher and ascend by row."""
    rows, k = distances.shape
    known = torch.arange(rows, device=row.device).repeat_interleave(k)
    all_rows = torch.cat([known, row])
    all_distances = torch.cat([distances.flatten(), found])
    all_indices = torch.cat([indices.flatten(), column])
    order = all_distances.argsort(stable=True)
    order = order[all_rows[order].argsort(stable=True)]
    sizes = torch.bincount(all_rows, minlength=rows)
    best = order[(sizes.cumsum(0) - sizes)[:, None] + torch.arange(k, device=row.device)]
    return all_distances[best], all_indices[best]


def archetypes(neighbor_labels: Tensor, labels: Tensor) -> Tensor:
    """`(N,)` int64: 0 safe (4 or 5 of the 5 neighbours share the label), 1 border (2, 3), 2 rare (1), 3 outlier (0)."""
    if neighbor_labels.shape[1] != 5:
        raise must("neighbor_labels", "have 5 columns", neighbor_labels.shape[1])
    kind = torch.tensor([3, 2, 1, 1, 0, 0], device=labels.device)
    return kind[(neighbor_labels == labels[:, None]).sum(1)]


def archetype_fractions(kinds: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(C, 4)` float64: the share of each class's rows that is safe, border, rare, outlier; NaN for an absent class."""
    return class_mean(torch.nn.functional.one_hot(kinds, 4).double(), labels, num_classes)


def nearest_enemies(queries: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor, k: int) -> Tensor:
    """`(Q, k)` int64: per query, the k nearest rows of `reference` with ANOTHER label, nearest first.

    Raises:
        InputError: fewer than k rows have another label than some query.
    """
    indices = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().flatten()
        enemies = (reference_labels != label).nonzero().flatten()
        indices[rows] = enemies[nearest_neighbors(queries[rows], reference[enemies], k)[1]]
    return indices


def enemy_matrix(neighbor_labels: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(C, C)` float64: of the neighbours of a class's rows with another label, the share of each class.

    `neighbor_labels` is `(E, k)`, `labels` `(E,)`. Rows sum to 1 and the diagonal is 0; a row is NaN
    where the class has no rows or no neighbour with another label.
    """
    pair = (labels[:, None] * num_classes + neighbor_labels)[neighbor_labels != labels[:, None]]
    counts = torch.bincount(pair, minlength=num_classes**2).view(num_classes, num_classes).double()
    return counts / counts.sum(1, keepdim=True)
