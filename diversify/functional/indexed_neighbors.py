"""Find nearest neighbours among very many rows: exactly, or in the nearest cells of an index, with a known recall."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .blocks import joined
from .counts import class_mean
from .draws import normal, permutation
from .neighbors import float32_is_whole, nearest_neighbors, pair_distances

EXACT_WORK = 1e12  # multiply-adds of an exact search, beyond which an index is used: about 20 s on two cores
_PAIR = 128  # multiply-adds that a pair of rows costs beside those of its distance, which is compared with others
RECALL = 0.95  # that the index aims at: so many cells are looked into
_LEAST = 0.9  # recall below which a search is exact
_CELLS = 1024
_ROWS = 256  # per cell, at least: with fewer, going from cell to cell takes as long as the distances
_LEARNED, _ROUNDS = 40, 8  # rows per cell that the centres are learned from, and rounds of k-means
_WIDTH, _POWERS = (
    64,
    3,
)  # directions that rows are divided along, and products with the sample's covariance to find them
_DIRECTIONS_FROM = 8192  # rows that these directions are found from, at most
_MOST = 4  # at most one cell in so many is looked into: with more, an exact search is as fast
_FIRST = 4  # cells that are looked into first: few rows of the other cells are then near enough to be ranked
_MORE = 4  # candidates per neighbour that are ranked by exact distances
_JUDGED = 100  # queries that the number of cells is chosen by, and as many that the recall is estimated from
_BLUR = 0.05  # of the squared distance to a neighbour: what float32 may be wrong by
_BLOCK = 1 << 22  # numbers at a time: 16 MB


class _Cells(NamedTuple):
    """The rows of each cell: `order[start[c] : start[c + 1]]`."""

    middle: Tensor  # (D,), the mean of a sample
    directions: Tensor | None  # (D, W), along which rows are divided; None: along all
    places: Tensor  # (C, W), the centres along the directions, about the middle
    centres: Tensor  # (C, D)
    cell: Tensor  # (R,), the cell of each row
    order: Tensor  # (R,)
    start: Tensor  # (C + 1,)
    reach: float  # the distance from a row to the centre of its cell, at most, in the sample

    def placed(self, rows: Tensor) -> Tensor:
        """The rows `(N, D)` along the directions, `(N, W)` float32."""
        centred = (rows - self.middle).float()
        return centred if self.directions is None else centred @ self.directions


class NeighborSearch:
    """Looks up nearest rows of one reference: exactly, or with an index where an exact search would take long.

    A search with more than `EXACT_WORK` multiply-adds uses an index: the rows are divided into at most 1,024 cells about centres
    of k-means along the 64 directions of largest variance, a query is compared with all rows of the cells whose centres are
    nearest to it, and the best are ranked by exact distances. In each search, 200 of the queries are also compared with all
    rows. The first half says how many cells have to be looked into for a recall of 95%, the other half what the recall then
    is. Where more than a quarter of the cells would be needed, the recall is below 90%, or cells are so wide that float32
    cannot tell near rows apart, the search is exact.

    Of equal rows the index may find any; `nearest_neighbors` finds the first.

    Args:
        reference: Rows to search, `(R, D)`.
        seed: Seed of the rows that the centres are learned from.
        work: Multiply-adds of a search beyond which an index is used, 128 of each pair of rows for its comparison included.

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
        self._sharp = False  # whether float32 tells near rows apart

    def __call__(self, queries: Tensor, k: int, *, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distances and indices `(Q, k)`, nearest first; arguments and errors are those of `nearest_neighbors`."""
        rows, width = self.reference.shape
        count = min(_CELLS, rows // _ROWS)
        fits = count >= _MOST and len(queries) > 2 * _JUDGED and 1 <= k < rows // _MORE
        work = float(len(queries)) * rows * (width + _PAIR)
        if work > self.work and fits and float32_is_whole(self.reference.device):
            if self._cells is None:
                self._cells = _make_cells(self.reference, count, self.seed)
            probes, recall = self._judged(self._cells, queries, k, same)
            if recall >= _LEAST:
                self.recall = min(recall, self.recall) if self.recall == self.recall else recall
                return self._in_cells(self._cells, queries, k, same, probes)
        if self._cells is not None and self._sharp and len(queries) <= 2 * _JUDGED and 1 <= k < rows // _MORE:
            return self._in_cells(
                self._cells, queries, k, same, len(self._cells.centres)
            )  # all of them: at hand, and exact
        return nearest_neighbors(queries, self.reference, k, same=same)

    def _judged(self, cells: _Cells, queries: Tensor, k: int, same: Tensor | None) -> tuple[int, float]:
        """Return into how many cells a query has to look, and the recall on other queries; 0 if these are too many."""
        some = torch.linspace(0, len(queries) - 1, 2 * _JUDGED, device=queries.device).round().long()
        first, second = some[::2], some[1::2]
        count = len(cells.centres)
        own = None if same is None else same[some]
        distances, true = self._in_cells(cells, queries[some], k, own, count)
        far = float((queries[some] - cells.middle).norm(dim=1).max())
        rounding = cells.centres.shape[1] ** 0.5 * torch.finfo(torch.float32).eps * far * cells.reach
        if not rounding <= _BLUR * float(distances[:, -1].square().median()):
            return 0, 0.0
        self._sharp = True
        rank = _squares(cells.placed(queries[first]), cells.places).argsort(dim=1).argsort(dim=1)
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
        size = max(1, _BLOCK // max(len(cells.centres), queries.shape[1]))
        nearest = joined(
            (
                _squares(cells.placed(part), cells.places).topk(probes, dim=1, largest=False).indices
                for part in queries.split(size)
            ),
            len(queries),
        )
        best = queries.new_full((len(queries), wanted), torch.inf, dtype=torch.float32)
        found = torch.full((len(queries), wanted), -1, dtype=torch.int64, device=queries.device)
        centred = (queries - cells.middle).float()
        for some in (nearest[:, :_FIRST], nearest[:, _FIRST:]):
            if some.shape[1]:
                self._look_into(cells, centred, some, best, found)
        return self._ranked(queries, found, k, same)

    def _look_into(self, cells: _Cells, queries: Tensor, nearest: Tensor, best: Tensor, found: Tensor) -> None:
        """Bring the candidates' squared distances and rows `(Q, W)` up to date with the rows of more cells.

        Args:
            cells: The cells.
            queries: `(Q, D)` about the middle, float32.
            nearest: `(Q, P)`, the cells of each query.
            best: `(Q, W)`, overwritten; infinite where there is no candidate.
            found: `(Q, W)`, overwritten.
        """
        square = queries.double().square().sum(1)
        asked = nearest.flatten().argsort(stable=True)  # the queries of each cell, one cell after the other
        sizes = torch.bincount(nearest.flatten(), minlength=len(cells.centres)).tolist()
        for cell, own in enumerate(asked.split(sizes)):
            members = cells.order[cells.start[cell] : cells.start[cell + 1]]
            if not len(own) or not len(members):
                continue
            # With h the row and q the query, both about the centre c of the cell: |q - h|^2 = |q|^2 + |h|^2 - 2 q h. About
            # it, float32 tells near rows apart however far the cells are from each other.
            held = (self.reference[members] - cells.centres[cell]).float()
            centre = cells.centres[cell] - cells.middle
            offset = held.square().sum(1).add_(held @ centre, alpha=2)
            for part in (own // nearest.shape[1]).split(max(1, _BLOCK // max(len(members), queries.shape[1]))):
                asking = queries.index_select(0, part)
                away = torch.addmm(offset[None], asking, held.T, alpha=-2)
                apart = square[part] - 2 * (asking @ centre).double() + centre.double().square().sum()
                near = (away.amin(1) + apart.float() < best[part, -1]).nonzero()[:, 0]
                if not len(near):
                    continue
                away, apart, part = away[near], apart[near].float(), part[near]
                least = away.topk(min(best.shape[1], len(members)), dim=1, largest=False)
                kept = torch.cat([best[part], least.values + apart[:, None]], 1).topk(best.shape[1], 1, largest=False)
                best[part] = kept.values
                found[part] = torch.cat([found[part], members[least.indices]], 1).gather(1, kept.indices)

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
    learned = permutation(len(reference), "neighbour cells", seed)[: count * _LEARNED].to(reference.device)
    sample = reference[learned].float()
    middle = sample.mean(0)
    sample -= middle
    directions = _directions(sample[:_DIRECTIONS_FROM], seed) if sample.shape[1] > 2 * _WIDTH else None
    placed = sample if directions is None else sample @ directions
    places = placed[:count].clone()
    for _ in range(_ROUNDS):
        means = class_mean(placed, _nearest_place(placed, places), count)
        places = torch.where(means.isfinite(), means, places)
    own = _nearest_place(placed, places)
    centres = class_mean(sample, own, count)
    centres = torch.where(centres.isfinite(), centres, sample[:count])
    reach = float((sample - centres[own]).norm(dim=1).max())
    start = torch.zeros(count + 1, dtype=torch.int64, device=reference.device)
    cells = _Cells(middle, directions, places, centres + middle, start, start, start, reach)
    size = max(1, _BLOCK // max(count, reference.shape[1]))
    cell = joined((_nearest_place(cells.placed(part), places) for part in reference.split(size)), len(reference))
    start[1:] = torch.bincount(cell, minlength=count).cumsum(0)
    return cells._replace(cell=cell, order=cell.argsort(stable=True))


def _directions(centred: Tensor, seed: int) -> Tensor:
    """About the directions of largest variance of rows about their mean, `(D, _WIDTH)`, by powers of the covariance."""
    width = centred.shape[1]
    found = normal("neighbour directions", seed, torch.arange(width * _WIDTH, device=centred.device))
    found = found.view(width, _WIDTH)
    for _ in range(_POWERS):
        found = torch.linalg.qr(centred.T @ (centred @ found)).Q
    return found


def _nearest_place(rows: Tensor, places: Tensor) -> Tensor:
    blocks = rows.split(max(1, _BLOCK // len(places)))
    return joined((_squares(part, places).argmin(1) for part in blocks), len(rows))
