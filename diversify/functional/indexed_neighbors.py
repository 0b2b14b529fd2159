"""Find nearest neighbours among very many rows: exactly, or with an index of faiss and a measured recall."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor

from .draws import permutation
from .neighbors import nearest_neighbors, pair_distances

EXACT_WORK = 1e12  # multiply-adds of an exact search, beyond which an index is used: about 15 s on two cores
_CELLS = 1024  # of the index; each row is in the cell of the nearest centre
_PER_CELL, _ROUNDS = 40, 8  # rows per cell that the centres are learned from, and rounds of k-means
_PROBES = 16  # cells that are looked at for a query, at first
_RECALL = 0.95  # until this is reached, twice as many cells are looked at
_MOST_PROBES = 8  # at most one cell in so many: with more, an exact search is as fast
_MORE = 4  # candidates per neighbour that are ranked by exact distances
_JUDGED = 100  # queries that are also looked up exactly, for the recall
_BLOCK = 65_536  # rows that are added to the index at a time


def can_index() -> bool:
    """Return whether the package faiss is installed."""
    try:
        return importlib.util.find_spec("faiss") is not None
    except ValueError:  # a module without a spec stands in its place
        return False


class NeighborSearch:
    """Looks up nearest rows of one reference: exactly, or with an index where an exact search would take long.

    An index is used where faiss is installed, features are on the CPU, and a search needs more than `EXACT_WORK`
    multiply-adds. It holds the rows in half precision, in 1,024 cells about centres of k-means. A query looks into the
    nearest cells, and what it finds there is ranked by exact distances. 100 queries of the first such search are also
    looked up exactly; `recall` is the share of their nearest rows that the index finds. The number of cells that a query
    looks into doubles until the recall is 95%. Where an eighth of the cells does not reach it, the search is exact.

    Args:
        reference: Rows to search, `(R, D)`.
        seed: Seed of the rows that the centres are learned from.
        work: Multiply-adds of a search beyond which an index is used.

    Attributes:
        recall: NaN if every search was exact.

    References:
        Johnson, Douze and Jegou (2019), Billion-scale similarity search with GPUs, IEEE Transactions on Big Data.

    See Also:
        nearest_neighbors: The exact search.

    Example:
        >>> search = NeighborSearch(torch.tensor([[0.0], [1.0], [5.0]]))
        >>> search(torch.tensor([[1.5]]), 2)[1].tolist(), search.recall
        ([[1, 0]], nan)
    """

    def __init__(self, reference: Tensor, *, seed: int = 0, work: float = EXACT_WORK) -> None:
        self.reference, self.seed, self.work = reference, seed, work
        self.recall = float("nan")
        self._index: Any = None
        self._useless = False

    def __call__(self, queries: Tensor, k: int, *, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return distances and indices `(Q, k)`, nearest first; arguments and errors are those of `nearest_neighbors`."""
        rows, width = self.reference.shape
        few = float(len(queries)) * rows * width <= self.work or k * _MORE >= rows
        if few or self._useless or self.reference.device.type != "cpu" or not can_index():
            return nearest_neighbors(queries, self.reference, k, same=same)
        if self._index is None:
            self._index = self._built()
            judged = torch.linspace(0, len(queries) - 1, min(_JUDGED, len(queries))).long()
            self._set_probes(queries[judged], k, None if same is None else same[judged])
            return self(queries, k, same=same)
        return self._indexed(queries, k, same)

    def _set_probes(self, queries: Tensor, k: int, same: Tensor | None) -> None:
        """Look into so many cells that most of the true neighbours of these queries are found."""
        farthest = nearest_neighbors(queries, self.reference, k, same=same)[0][:, -1:]
        while self._index.nprobe * _MOST_PROBES <= self._index.nlist:
            self.recall = float((self._indexed(queries, k, same)[0] <= farthest).double().mean())
            if self.recall >= _RECALL:
                return
            self._index.nprobe *= 2
        self.recall, self._useless, self._index = float("nan"), True, None

    def _built(self) -> Any:
        """An index of all rows, filled in blocks."""
        faiss = importlib.import_module("faiss")
        faiss.omp_set_num_threads(torch.get_num_threads())
        rows, width = self.reference.shape
        cells = min(_CELLS, rows // _PER_CELL)
        learned = permutation(rows, "neighbour cells", self.seed)[: cells * _PER_CELL].sort().values
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatL2(width), width, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2
        )
        index.cp.seed, index.cp.niter, index.nprobe = self.seed % 2**31, _ROUNDS, min(_PROBES, cells)
        index.by_residual = True  # half precision loses less of a difference to the centre
        index.train(self.reference[learned].float().contiguous().numpy())
        for part in self.reference.split(_BLOCK):
            index.add(part.float().contiguous().numpy())
        return index

    def _indexed(self, queries: Tensor, k: int, same: Tensor | None) -> tuple[Tensor, Tensor]:
        wanted = k * _MORE + 1  # one may be the query itself
        distances = torch.full((len(queries), k), torch.inf, dtype=torch.float64)
        indices = torch.zeros(len(queries), k, dtype=torch.int64)
        for start in range(0, len(queries), 1024):
            part = queries[start : start + 1024]
            near = torch.from_numpy(self._index.search(part.float().contiguous().numpy(), wanted)[1])
            absent = near < 0
            if same is not None:
                absent |= near == same[start : start + 1024, None]
            near = near.clamp(min=0)
            place = torch.arange(len(part)).repeat_interleave(wanted)
            exact = pair_distances(part, self.reference, place, near.flatten()).view_as(near)
            exact = exact.masked_fill(absent, torch.inf)
            near, order = near.sort(dim=1)  # of equally near rows, the lower index comes first
            exact, order = exact.gather(1, order).sort(dim=1, stable=True)
            distances[start : start + 1024] = exact[:, :k].sqrt()
            indices[start : start + 1024] = near.gather(1, order)[:, :k]
        short = distances[:, -1].isinf().nonzero()[:, 0]
        if len(short):  # their cells hold fewer rows than are asked for
            own = None if same is None else same[short]
            distances[short], indices[short] = (
                each.to(kept.dtype)
                for each, kept in zip(
                    nearest_neighbors(queries[short], self.reference, k, same=own), (distances, indices), strict=True
                )
            )
        return distances.to(queries.dtype), indices
