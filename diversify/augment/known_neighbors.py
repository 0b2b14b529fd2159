"""Nearest rows of a training side, kept for those who ask again."""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional.neighbors import nearest_others

_MOST = 1 << 26  # numbers that are kept: 256 MB


class KnownNeighbors:
    """Finds the nearest other rows of rows, and keeps them: who asks for as many or fewer again gets them at once.

    Args:
        features: `(N, D)`.
        at_least: Neighbours that are found where fewer are asked for; a later search for so many then costs nothing.

    Example:
        >>> known = KnownNeighbors(torch.tensor([[0.0], [1.0], [5.0]]), at_least=2)
        >>> known(torch.tensor([0, 2]), 1).tolist(), known(torch.tensor([2]), 2).tolist()
        ([[1], [1]], [[1, 0]])
    """

    def __init__(self, features: Tensor, *, at_least: int = 1) -> None:
        self.features, self.at_least = features, at_least
        self.forget()

    def forget(self) -> None:
        """Drop what is kept."""
        self._place = torch.full((len(self.features),), -1, dtype=torch.int32, device=self.features.device)
        self._table = torch.empty(0, 0, dtype=torch.int32, device=self.features.device)

    def __call__(self, rows: Tensor, k: int) -> Tensor:
        """Return the k nearest other rows of some rows, `(Q, k)`, nearest first; k is at most N - 1.

        Args:
            rows: `(Q,)`.
            k: Neighbours per row.
        """
        width = max(k, min(self.at_least, len(self.features) - 1))
        if k > self._table.shape[1]:
            self.forget()
            self._table = self._table.new_empty(0, width)
        new = rows[self._place[rows] < 0].unique()
        if (len(self._table) + len(new)) * self._table.shape[1] > _MOST:
            return nearest_others(self.features, rows, k)
        if len(new):
            found = nearest_others(self.features, new, self._table.shape[1])
            self._place[new] = torch.arange(len(new), dtype=torch.int32, device=new.device) + len(self._table)
            self._table = torch.cat([self._table, found.int()])
        return self._table[self._place[rows].long(), :k].long()
