"""Find nearest neighbours among very many rows: exactly, or in the nearest cells of an index, with a known recall."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .counts import class_mean
from .draws import permutation
from .neighbors import nearest_neighbors, pair_distances

EXACT_WORK = 1e12  # multiply-adds of an exact search, beyond which an index is used: about 15 s on two cores
RECALL = 0.95  # of the index: so many cells are looked into
_CELLS = 1024
_PER_CELL, _ROUNDS = 40, 8  # rows per cell that the centres are learned from, and rounds of k-means
_MOST = 4  # at most one cell in so many is looked into: with more, an exact search is as fast
_MORE = 4  # candidates per neighbour that are ranked by exact distances
_JUDGED = 100  # queries that are also looked up exactly
_BLOCK = 1 << 22  # numbers at a time: 16 MB


class _Cells(NamedTuple):
    """The rows of each cell: `order[start[c] : start[c + 1]]`."""

    centres: Tensor  # (C, D)
    cell: Tensor  # (R,), the cell of each row
    order: Tensor  # (R,)
    start: Tensor  # (C + 1,)


class NeighborSearch:
    """Looks up nearest rows of one reference: exactly, or with an index where an exact search would take long.

    A search with more than `EXACT_WORK` multiply-adds uses an index: the rows are divided into 1,024 cells about centres of
    k-means, a query is compared with all rows of the cells whose centres are nearest to it, and the best are ranked by
    exact distances. 100 queries of the first such search are also looked up exactly. They say how many cells have to be
    looked into for a recall of 95%. Where that is more than a quarter of the cells, every search is exact.

    Args:
        reference: Rows to search, `(R, D)`.
        seed: Seed of the rows that the centres are learned from.
        work: Multiply-adds of a search beyond which an index is used.

    Attributes:
        recall: The share of the nearest rows of those 100 queries that the index finds; NaN if every search was exact.

    References:
        Sivic and Zisserman (2003), Video Google, and Jegou, Douze and Schmid (2011), Product quantization for nearest
        neighbor search, IEEE TPAMI 33, for the inverted file; without quantization here.

    See Also:
        nearest_neighbors: The exact search.

    Example:
        >>> search = NeighborSearch(torch.tensor([[0.0], [1.0], [5.0]]))
        >>> search(torch.tensor([[1.5]]), 2)[1].tolist(), search.recall
        ([[1, 0]], nan)
    """

    def __init__(self, reference: Tensor, *, seed: int = 0, work: float = EXACT_WORK) -> None:
        self.reference, self.seed, self.work = reference, seed, work
        self.recall = math.nan
        self._cells: _Cells | None = None
        self._probes = 0

    def __call__(self, queries: Tensor, k: int, *, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distances and indices `(Q, k)`, nearest first; arguments and errors are those of `nearest_neighbors`."""
        rows, width = self.reference.shape
        count = min(_CELLS, rows // _PER_CELL)
        if float(len(queries)) * rows * width <= self.work or count < _MOST or self._probes > count // _MOST:
            return nearest_neighbors(queries, self.reference, k, same=same)
        if self._cells is None:
            self._cells = _make_cells(self.reference, count, self.seed)
            self._judge(self._cells, queries, k, same)
            return self(queries, k, same=same)
        return self._in_cells(self._cells, queries, k, same)

    def _judge(self, cells: _Cells, queries: Tensor, k: int, same: Tensor | None) -> None:
        """Find out into how many cells a query has to look, from the cells of the true neighbours of some queries."""
        some = torch.linspace(0, len(queries) - 1, min(_JUDGED, len(queries)), device=queries.device).long()
        best = _Best(queries[some], k * _MORE + 1)
        size = max(1, _BLOCK // max(len(some), self.reference.shape[1]))
        for start in range(0, len(self.reference), size):
            part = self.reference[start : start + size]
            best.add(slice(None), part.float(), torch.arange(start, start + len(part), device=part.device))
        true = self._ranked(queries[some], best.rows, k, None if same is None else same[some])[1]
        nearest_first = _squares(queries[some].float(), cells.centres).argsort(dim=1)
        rank = nearest_first.argsort(dim=1)
        needed = rank.gather(1, cells.cell[true]).flatten().sort().values
        self._probes = 1 + int(needed[math.ceil(RECALL * len(needed)) - 1])
        if self._probes <= len(cells.centres) // _MOST:
            self.recall = float((needed < self._probes).double().mean())

    def _in_cells(self, cells: _Cells, queries: Tensor, k: int, same: Tensor | None) -> tuple[Tensor, Tensor]:
        wanted = k * _MORE + 1  # one may be the query itself
        rows = queries.float()
        nearest = torch.cat(
            [
                _squares(part, cells.centres).topk(self._probes, dim=1, largest=False).indices
                for part in rows.split(max(1, _BLOCK // len(cells.centres)))
            ]
        )
        asked = nearest.flatten().argsort(stable=True)  # the queries of each cell, one cell after the other
        sizes = torch.bincount(nearest.flatten(), minlength=len(cells.centres)).tolist()
        best = _Best(rows, wanted)
        for cell, own in enumerate(asked.split(sizes)):
            members = cells.order[cells.start[cell] : cells.start[cell + 1]]
            if not len(own) or not len(members):
                continue
            held = self.reference[members].float()
            for part in (own // self._probes).split(max(1, _BLOCK // len(members))):
                best.add(part, held, members)
        return self._ranked(queries, best.rows, k, same)

    def _ranked(self, queries: Tensor, found: Tensor, k: int, same: Tensor | None) -> tuple[Tensor, Tensor]:
        """The k nearest among the candidates `(Q, W)`, by exact distances, ties to the lower index; -1 is no candidate."""
        absent = found < 0 if same is None else (found < 0) | (found == same[:, None])
        found, order = found.clamp(min=0).sort(dim=1)
        absent = absent.gather(1, order)
        row = torch.arange(len(found), device=found.device).repeat_interleave(found.shape[1])
        exact = pair_distances(queries, self.reference, row, found.flatten()).view(found.shape)
        exact, order = exact.masked_fill(absent, torch.inf).sort(dim=1, stable=True)
        distances, indices = exact[:, :k].sqrt().to(queries.dtype), found.gather(1, order)[:, :k].clone()
        short = exact[:, k - 1].isinf().nonzero()[:, 0]  # their cells hold fewer rows than are asked for
        if len(short):
            own = None if same is None else same[short]
            distances[short], indices[short] = nearest_neighbors(queries[short], self.reference, k, same=own)
        return distances, indices


class _Best:
    """The nearest rows found so far of each query, by distances in float32."""

    def __init__(self, queries: Tensor, wanted: int) -> None:
        self.queries = queries.float()
        self.away = self.queries.new_full((len(queries), wanted), torch.inf)
        self.rows = torch.full((len(queries), wanted), -1, dtype=torch.int64, device=queries.device)

    def add(self, part: Tensor | slice, held: Tensor, names: Tensor) -> None:
        """Look at more rows `held`, whose indices are `names`, for some of the queries."""
        wanted = self.rows.shape[1]
        near = _squares(self.queries[part], held).topk(min(wanted, len(held)), dim=1, largest=False)
        kept = torch.cat([self.away[part], near.values], 1).topk(wanted, dim=1, largest=False)
        self.away[part] = kept.values
        self.rows[part] = torch.cat([self.rows[part], names[near.indices]], 1).gather(1, kept.indices)


def _squares(rows: Tensor, others: Tensor) -> Tensor:
    """Squared distances `(R, O)` in float32."""
    products = torch.addmm(others.square().sum(1)[None], rows, others.T, alpha=-2)
    return products.add_(rows.square().sum(1, keepdim=True))


def _make_cells(reference: Tensor, count: int, seed: int) -> _Cells:
    """Divide the rows by the nearest of `count` centres, which k-means learns from a sample."""
    learned = permutation(len(reference), "neighbour cells", seed)[: count * _PER_CELL].to(reference.device)
    sample = reference[learned].float()
    centres = sample[:count]
    for _ in range(_ROUNDS):
        means = class_mean(sample, _nearest_centre(sample, centres), count)
        centres = torch.where(means.isfinite(), means, centres)
    cell = _nearest_centre(reference, centres)
    sizes = torch.bincount(cell, minlength=count)
    return _Cells(centres, cell, cell.argsort(stable=True), torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))


def _nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    size = max(1, _BLOCK // max(len(centres), rows.shape[1]))
    return torch.cat([_squares(part.float(), centres).argmin(1) for part in rows.split(size)])
