"""Find exact nearest neighbours, and say from them which examples of a class are safe and which classes are close."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from .blocks import joined
from .counts import class_mean
from .sparse_rows import SparseRows

_TILE = 16384  # reference rows compared at a time
_PANEL = 1024  # of these in one matrix product: more would not fit into the cache
_GROUP = 32  # rows in a group, whose smallest bound is looked at first
_GROUPS = 16  # fewest groups per neighbour: with fewer, the smallest bounds say little about the k nearest
_GATHERED = 1 << 17  # numbers of gathered pairs at a time on the CPU: 1 MB, which stays in the cache
_GATHERED_ELSEWHERE = 1 << 22
_RAGGED = 8  # a table of candidates may be this many times larger than its content
_QUERIES = 512  # rows looked up at a time among the others
_MANY = 4  # with more candidates per query and neighbour, equal rows are looked for


def pair_distances(queries: Tensor, reference: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Return the squared distances `(P,)` of the listed pairs in float64, from the differences themselves.

    Args:
        queries: `(Q, D)`.
        reference: `(R, D)`.
        row: `(P,)`, a query of each pair.
        column: `(P,)`, its reference row.

    Example:
        >>> rows = torch.tensor([[0.0], [3.0]])
        >>> pair_distances(rows, rows, torch.tensor([0]), torch.tensor([1])).tolist()
        [9.0]
    """
    numbers = _GATHERED if queries.device.type == "cpu" else _GATHERED_ELSEWHERE
    size = max(1, numbers // max(queries.shape[1], 1))
    parts = (
        queries.index_select(0, rows).double().sub_(reference.index_select(0, columns)).square_().sum(1)
        for rows, columns in zip(row.split(size), column.split(size), strict=True)
    )
    return joined(parts, len(row))


def _kth_smallest(values: Tensor, k: int) -> Tensor:
    """The k-th smallest value of each row, `(B, 1)`; NumPy selects several times faster than torch on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(values.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return values.topk(k, dim=1, largest=False, sorted=False).values.amax(1, keepdim=True)


def _among_first_equals(rows: Tensor, k: int) -> Tensor:
    """True for the rows to which fewer than k earlier rows are equal, `(R,)` bool."""
    group = torch.unique(rows, dim=0, return_inverse=True)[1]
    sizes = torch.bincount(group)
    order = group.argsort(stable=True)
    earlier = torch.arange(len(rows), device=rows.device) - (sizes.cumsum(0) - sizes)[group[order]]
    return torch.empty_like(group, dtype=torch.bool).scatter_(0, order, earlier < k)


def float32_is_whole(device: torch.device) -> bool:
    """Return True if float32 products keep all their bits; off the CPU they may not, because TF32 may be in use.

    Args:
        device: Where the product is computed.

    Example:
        >>> float32_is_whole(torch.device("cuda"))
        False
    """
    try:
        return device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch refuses to answer after its two ways to set the precision were mixed
        return False


class _Tile:
    """Reference rows in the form that the matrix products need, `[-2 r, |r|^2]` about the centre; made once for all.

    They are cut into panels whose products stay in the cache, and the panels into groups whose smallest bounds are
    looked at first. Rows that pad the last panel are infinitely far away.
    """

    def __init__(self, rows: Tensor, dtype: torch.dtype, k: int, block: int) -> None:
        square = rows.square().sum(1, keepdim=True)
        self.count = len(rows)
        self.group = max(1, min(_GROUP, self.count // (_GROUPS * k)))
        width = -(-self.count // -(-self.count // _PANEL))  # panels of nearly equal size
        self.width = -(-width // self.group) * self.group
        self.panels = torch.cat([-2 * rows, square], 1).to(dtype).split(self.width)
        self.reach = square.max().sqrt()
        self.bound = rows.new_full((len(self.panels), block, self.width), torch.inf, dtype=dtype)

    def candidates(self, query: Tensor, limit: Tensor, own: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
        """Rows and columns, ascending, of the pairs that may be among the k nearest: all that are, and few others.

        Args:
            query: `(B, D)`, centred, float64.
            limit: `(B, 1)`, squared distance beyond which nothing is needed.
            own: `(B,)`, a column to leave out for each query; a number outside the tile leaves out none.
            k: Neighbours per query.
        """
        left = torch.cat([query, query.new_ones(len(query), 1)], 1).to(self.bound.dtype)
        bound = self.bound[:, : len(query)]  # (P, B, W): squared distances less the query's own square, up to rounding
        for panel, products in zip(self.panels, bound, strict=True):
            torch.mm(left, panel.T, out=products[:, : len(panel)])
        if own is not None:
            inside = ((own >= 0) & (own < self.count)).nonzero().flatten()
            bound[own[inside] // self.width, inside, own[inside] % self.width] = torch.inf
        square = query.square().sum(1, keepdim=True)
        rounding = 4 * (query.shape[1] + 8) * torch.finfo(bound.dtype).eps
        slack = rounding * (square.sqrt() + self.reach).square()
        limit = limit - square
        groups = bound.unflatten(2, (-1, self.group))
        smallest = groups.amin(3).transpose(0, 1).flatten(1)  # (B, P x W / group)
        if k <= self.count:
            limit = torch.minimum(limit, _kth_smallest(smallest, k).double() + slack)
        limit = (limit + slack).clamp(max=torch.finfo(bound.dtype).max).to(bound.dtype)
        row, near = (smallest <= limit).nonzero(as_tuple=True)
        each, block = groups.shape[2], self.bound.shape[1]
        panel = near // each
        lies = (panel * block + row) * each + (near - panel * each)
        inner = self.bound.view(-1, self.group).index_select(0, lies)  # (N, group)
        place, column = (inner <= limit.index_select(0, row)).nonzero(as_tuple=True)
        return row[place], near[place] * self.group + column


def nearest_neighbors(
    queries: Tensor, reference: Tensor, k: int, *, same: Tensor | None = None, block: int = 256
) -> tuple[Tensor, Tensor]:
    """Find the k nearest rows of `reference` for each query, by Euclidean distance.

    The result is exact: nearest first, ties to the lower index. Matrix products about the reference's mean only rule
    out rows that are too far by more than the rounding error (in float32 where that leaves few rows, else in float64).
    The rest are ranked by differences computed in float64. Equal rows beyond the first k + 1 are skipped; it is slow
    only where thousands of different rows tie.

    Args:
        queries: Rows to look up, `(Q, D)`.
        reference: Rows to search, `(R, D)`.
        k: Neighbours per query.
        same: `(Q,)`, index of each query in `reference`, which is left out; -1 leaves out none.
        block: Queries at a time; 256 of them need about 64 MB.

    Returns:
        Distances and indices, each `(Q, k)`.

    Raises:
        InputError: A query has fewer than k rows to choose from.

    Example:
        >>> reference = torch.tensor([[0.0], [1.0], [5.0]])
        >>> distances, indices = nearest_neighbors(torch.tensor([[1.5]]), reference, 2)
        >>> distances.tolist(), indices.tolist()
        ([[0.5, 1.5]], [[1, 0]])
    """
    leaves_out = same is not None and bool((same >= 0).any())
    others = len(reference) - leaves_out
    if not 1 <= k <= others:
        raise must("k", f"lie in [1, {others}], the number of other rows", k)
    distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=queries.device)
    indices = torch.full((len(queries), k), len(reference), dtype=torch.int64, device=queries.device)
    if not len(queries):
        return distances.to(queries.dtype), indices
    centre = torch.stack([rows.sum(0, dtype=torch.float64) for rows in reference.split(_TILE)]).sum(0) / len(reference)
    for tile_start in range(0, len(reference), _TILE):
        rows = reference[tile_start : tile_start + _TILE]
        centred = rows.double() - centre
        tiles: dict[torch.dtype, _Tile] = {}
        first_equals: Tensor | None = None
        narrow = float32_is_whole(queries.device) and _within_float32(centred)
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            query = queries[part].double() - centre
            own = None if same is None else torch.where(same[part] >= 0, same[part] - tile_start, -1)
            few = _MANY * (k + 1) * len(query)
            limit = distances[part, -1:]
            narrow = narrow and _within_float32(query)
            for dtype in (torch.float32, torch.float64) if narrow else (torch.float64,):
                if dtype not in tiles:
                    tiles[dtype] = _Tile(centred, dtype, k, min(block, len(queries)))
                row, column = tiles[dtype].candidates(query, limit, own, k)
                if len(row) <= few:
                    break
                narrow = False  # rows that tie in float32 here are likely to tie in the other blocks too
            if len(row) > few:
                if first_equals is None:  # k + 1, because one of them may be the query itself
                    first_equals = _among_first_equals(rows, k + 1)
                kept = first_equals[column]
                row, column = row[kept], column[kept]
            found = pair_distances(queries[part], rows, row, column)
            distances[part], indices[part] = _merge(distances[part], indices[part], row, column + tile_start, found)
    return distances.sqrt().to(queries.dtype), indices


def nearest_others(features: Tensor, rows: Tensor, k: int) -> Tensor:
    """Find the k nearest other rows of some rows, `(Q, k)`, nearest first.

    Args:
        features: `(N, D)`.
        rows: `(Q,)`, the rows to look up.
        k: Neighbours per row, at most N - 1.

    Example:
        >>> nearest_others(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([2]), 2).tolist()
        [[1, 0]]
    """
    return nearest_neighbors(features[rows], features, k, same=rows, block=_QUERIES)[1]


def _within_float32(rows: Tensor) -> bool:
    """True if the squares of these numbers neither overflow nor vanish in float32."""
    return bool(rows.numel()) and 1e-15 < float(rows.abs().max()) < 1e15


def _merge(distances: Tensor, indices: Tensor, row: Tensor, column: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """The k best per row, out of those known `(B, k)` and those found.

    The indices of those found are all higher and ascend by row.
    """
    rows, k = distances.shape
    sizes = torch.bincount(row, minlength=rows)
    widest = int(sizes.max())
    if rows > 1 and rows * widest > _RAGGED * (len(row) + rows * k):  # a few rows have far more candidates
        half, cut = rows // 2, int(sizes[: rows // 2].sum())
        parts = (
            _merge(distances[:half], indices[:half], row[:cut], column[:cut], found[:cut]),
            _merge(distances[half:], indices[half:], row[cut:] - half, column[cut:], found[cut:]),
        )
        return torch.cat([parts[0][0], parts[1][0]]), torch.cat([parts[0][1], parts[1][1]])
    place = torch.arange(len(row), device=row.device) - (sizes.cumsum(0) - sizes)[row]
    all_distances = functional.pad(distances, (0, widest), value=torch.inf)
    all_indices = functional.pad(indices, (0, widest))
    all_distances[row, k + place] = found
    all_indices[row, k + place] = column
    order = all_distances.sort(dim=1, stable=True).indices[:, :k]
    return all_distances.gather(1, order), all_indices.gather(1, order)


def archetypes(neighbor_labels: Tensor, labels: Tensor) -> Tensor:
    """Classify each example by how many of its 5 nearest neighbours share its label.

    Args:
        neighbor_labels: `(N, 5)`.
        labels: `(N,)`.

    Returns:
        `(N,)` int64: 0 safe (4 or 5 of them), 1 border (2 or 3), 2 rare (1), 3 outlier (0).

    Raises:
        InputError: `neighbor_labels` does not have 5 columns.

    References:
        Napierala and Stefanowski, "Types of minority class examples and their influence on learning classifiers from
        imbalanced data", 2016; in feature space Dablain et al., "Interpretable ML for imbalanced data", 2022.

    Example:
        >>> archetypes(torch.tensor([[0, 0, 0, 0, 1], [0, 1, 1, 1, 1]]), torch.tensor([0, 0])).tolist()
        [0, 2]
    """
    if neighbor_labels.shape[1] != 5:
        raise must("neighbor_labels", "have 5 columns", neighbor_labels.shape[1])
    kind = torch.tensor([3, 2, 1, 1, 0, 0], device=labels.device)
    return kind[(neighbor_labels == labels[:, None]).sum(1)]


def archetype_fractions(kinds: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the fractions of each class's examples that are safe, border, rare and outlier.

    Args:
        kinds: `(N,)` from `archetypes`.
        labels: `(N,)`.
        num_classes: C.

    Returns:
        `(C, 4)` float64; NaN for an absent class.

    Example:
        >>> archetype_fractions(torch.tensor([0, 0, 3, 1]), torch.tensor([0, 0, 0, 1]), 2)[1].tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    return class_mean(functional.one_hot(kinds, 4).double(), labels, num_classes)


def enemy_matrix(neighbor_labels: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return, among the neighbours of a class's rows that have another label, the share of each class.

    Args:
        neighbor_labels: `(E, k)`.
        labels: `(E,)`.
        num_classes: C.

    Returns:
        `(C, C)` float64. Rows sum to 1 and the diagonal is 0; a row is NaN where the class has no rows, or no neighbour
        with another label.

    Example:
        >>> enemy_matrix(torch.tensor([[0, 1, 2], [1, 2, 2]]), torch.tensor([0, 0]), 3)[0].tolist()
        [0.0, 0.4, 0.6]
    """
    return enemy_rows(neighbor_labels, labels, num_classes).dense().to(labels.device)


def enemy_rows(neighbor_labels: Tensor, labels: Tensor, num_classes: int) -> SparseRows:
    """Return `enemy_matrix` in sparse form, on the CPU: it has at most as many shares other than 0 as there are neighbours.

    Args:
        neighbor_labels: `(E, k)`.
        labels: `(E,)`.
        num_classes: C.

    Example:
        >>> enemy_rows(torch.tensor([[0, 1, 2], [1, 2, 2]]), torch.tensor([0, 0]), 10_000).cells(0)
        (tensor([1, 2]), tensor([0.4000, 0.6000], dtype=torch.float64))
    """
    pairs = (labels[:, None] * num_classes + neighbor_labels)[neighbor_labels != labels[:, None]]
    cells, counts = pairs.cpu().unique(return_counts=True)
    rows, columns = cells // num_classes, cells % num_classes
    total = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, rows, counts.double())
    return SparseRows(rows, columns, counts / total[rows], known=total > 0, width=num_classes)
