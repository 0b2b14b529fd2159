"""Find nearest neighbours among very many rows: exactly, or in the nearest cells of an index, with a known recall."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .counts import class_mean
from .draws import permutation
from .neighbors import float32_is_whole, nearest_neighbors, pair_distances

EXACT_WORK = 1e12  # multiply-adds of an exact search, beyond which an index is used: about 20 s on two cores
RECALL = 0.95  # that the index aims at: so many cells are looked into
_LEAST = 0.9  # recall below which a search is exact
_CELLS = 1024
_PER_CELL, _ROUNDS = 40, 8  # rows per cell that the centres are learned from, and rounds of k-means
_MOST = 4  # at most one cell in so many is looked into: with more, an exact search is as fast
_MORE = 4  # candidates per neighbour that are ranked by exact distances
_JUDGED = 100  # queries that the number of cells is chosen by, and as many that the recall is estimated from
_BLUR = 0.05  # of the squared distance to a neighbour: what float32 may be wrong by
_BLOCK = 1 << 22  # numbers at a time: 16 MB


class _Cells(NamedTuple):
    """The rows of each cell: `order[start[c] : start[c + 1]]`."""

    centres: Tensor  # (C, D)
    cell: Tensor  # (R,), the cell of each row
    order: Tensor  # (R,)
    start: Tensor  # (C + 1,)
    reach: float  # the squared distance from a row to the centre of its cell, at most


class NeighborSearch:
    """Looks up nearest rows of one reference: exactly, or with an index where an exact search would take long.

    A search with more than `EXACT_WORK` multiply-adds uses an index: the rows are divided into 1,024 cells about centres of
    k-means, a query is compared with all rows of the cells whose centres are nearest to it, and the best are ranked by
    exact distances. In each search, 200 of the queries are also compared with all rows. The first half says how many cells
    have to be looked into for a recall of 95%, the other half what the recall then is. Where more than a quarter of the cells
    would be needed, the recall is below 90%, or cells are so wide that float32 cannot tell near rows apart, the search is exact.

    Of equal rows the index may find any; `nearest_neighbors` finds the first.

    Args:
        reference: Rows to search, `(R, D)`.
        seed: Seed of the rows that the centres are learned from.
        work: Multiply-adds of a search beyond which an index is used.

    Attributes:
        recall: The lowest estimated recall of a search that used the index; NaN if every search was exact.

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

    def __call__(self, queries: Tensor, k: int, *, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distances and indices `(Q, k)`, nearest first; arguments and errors are those of `nearest_neighbors`."""
        rows, width = self.reference.shape
        count = min(_CELLS, rows // _PER_CELL)
        fits = count >= _MOST and len(queries) > 2 * _JUDGED and 1 <= k < rows // _MORE
        if float(len(queries)) * rows * width > self.work and fits and float32_is_whole(self.reference.device):
            if self._cells is None:
                self._cells = _make_cells(self.reference, count, self.seed)
            probes, recall = self._judged(self._cells, queries, k, same)
            if recall >= _LEAST:
                self.recall = min(recall, self.recall) if self.recall == self.recall else recall
                return self._in_cells(self._cells, queries, k, same, probes)
        return nearest_neighbors(queries, self.reference, k, same=same)

    def _judged(self, cells: _Cells, queries: Tensor, k: int, same: Tensor | None) -> tuple[int, float]:
        """Return into how many cells a query has to look, and the recall on other queries; 0 if these are too many."""
        some = torch.linspace(0, len(queries) - 1, 2 * _JUDGED, device=queries.device).round().long()
        first, second = some[::2], some[1::2]
        count = len(cells.centres)
        own = None if same is None else same[some]
        distances, true = self._in_cells(cells, queries[some], k, own, count)
        rounding = cells.centres.shape[1] ** 0.5 * torch.finfo(torch.float32).eps * cells.reach
        if not rounding <= _BLUR * float(distances[:, -1].square().median()):
            return 0, 0.0
        rank = _squares(queries[first].float(), cells.centres).argsort(dim=1).argsort(dim=1)
        needed = rank.gather(1, cells.cell[true[::2]]).flatten().sort().values
        probes = 1 + int(needed[math.ceil(RECALL * len(needed)) - 1])
        if probes > count // _MOST:
            return probes, 0.0
        own = None if same is None else same[second]
        found = self._in_cells(cells, queries[second], k, own, probes)[0]
        return probes, float((found <= distances[1::2, -1:]).double().mean())

    def _in_cells(
        self, cells: _Cells, queries: Tensor, k: int, same: Tensor | None, probes: int
    ) -> tuple[Tensor, Tensor]:
        """The k nearest rows among those of the `probes` cells that are nearest to each query."""
        wanted = k * _MORE + 1  # one may be the query itself
        size = max(1, _BLOCK // len(cells.centres))
        nearest = torch.cat(
            [
                _squares(part.float(), cells.centres).topk(probes, dim=1, largest=False).indices
                for part in queries.split(size)
            ]
        )
        asked = nearest.flatten().argsort(stable=True)  # the queries of each cell, one cell after the other
        sizes = torch.bincount(nearest.flatten(), minlength=len(cells.centres)).tolist()
        best = queries.new_full((len(queries), wanted), torch.inf, dtype=torch.float32)
        found = torch.full((len(queries), wanted), -1, dtype=torch.int64, device=queries.device)
        for cell, own in enumerate(asked.split(sizes)):
            members = cells.order[cells.start[cell] : cells.start[cell + 1]]
            if not len(own) or not len(members):
                continue
            centre = cells.centres[
                cell
            ]  # about it, float32 tells near rows apart however far the cells are from each other
            held = (self.reference[members] - centre).float()
            for part in (own // probes).split(max(1, _BLOCK // len(members))):
                away = _squares((queries[part] - centre).float(), held)
                near = away.topk(min(wanted, len(members)), dim=1, largest=False)
                kept = torch.cat([best[part], near.values], 1).topk(wanted, dim=1, largest=False)
                best[part] = kept.values
                found[part] = torch.cat([found[part], members[near.indices]], 1).gather(1, kept.indices)
        return self._ranked(queries, found, k, same)

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
    start = torch.cat([cell.new_zeros(1), torch.bincount(cell, minlength=count).cumsum(0)])
    size = max(1, _BLOCK // reference.shape[1])
    parts = zip(reference.split(size), cell.split(size), strict=True)
    reach = max(float((part - centres[own]).square().sum(1).max()) for part, own in parts)
    return _Cells(centres, cell, cell.argsort(stable=True), start, reach)


def _nearest_centre(rows: Tensor, centres: Tensor) -> Tensor:
    size = max(1, _BLOCK // max(len(centres), rows.shape[1]))
    return torch.cat([_squares(part.float(), centres).argmin(1) for part in rows.split(size)])
