"""Nearest neighbours in the bank, as partners for "eos", "smote" and "borderline_smote"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional import oversample
from ..plan.plan import Plan
from .feature_bank import FeatureBank, keep

BETWEEN_NEIGHBORS = ("eos", "smote", "borderline_smote")
DANGER_NEIGHBORS = 10  # among which "borderline_smote" looks for enemies


class NeighborPartners(nn.Module):
    """Possible partners of a row among its nearest neighbours in the bank, and how many it has.

    If the bank holds the whole training set, the partners of every row are found once and kept as a table. Otherwise they
    are looked up for the features as they come.
    """

    limits: Tensor  # (C, 3) k of every class and method; 0 where a class does not use the method

    def __init__(self, bank: FeatureBank) -> None:
        super().__init__()
        self.bank = bank
        self._found: dict[tuple[str, int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def forget(self) -> None:
        """Drop what was found; to be called when the rows of the bank have changed."""
        self._found.clear()

    def follow(self, plan: Plan) -> None:
        """Use the numbers of neighbours of a plan, and prepare tables for the methods that it uses."""
        device = self.bank.features.device
        columns = [plan.feature_column(method, "neighbors") for method in BETWEEN_NEIGHBORS]
        keep(self, "limits", torch.stack(columns, 1).to(device).clamp(max=len(self.bank)).long())
        self._widest = dict(zip(BETWEEN_NEIGHBORS, self.limits.amax(0).tolist(), strict=True))
        for method in BETWEEN_NEIGHBORS:
            if self.bank.whole and method in plan.feature_methods:
                users = (plan.feature_column(method, "share").to(device) > 0) & (self.bank.count > 0)
                self._prepare(method, users.nonzero().flatten().tolist())

    def _prepare(self, method: str, users: list[int]) -> None:
        """Keep the possible partners `(M, k)` of every row whose class uses the method, and their numbers `(M,)`."""
        table = self.bank.order.new_zeros(len(self.bank), self._widest[method])
        count = self.bank.order.new_zeros(len(self.bank))
        for index in users:
            k = int(self.limits[index, BETWEEN_NEIGHBORS.index(method)])
            rows, partners, found = (values.to(table.device) for values in self._partners_of(method, index, k))
            table[rows, : partners.shape[1]] = partners
            count[rows] = found
        keep(self, f"{method}_table", table)
        keep(self, f"{method}_count", count)

    def _partners_of(self, method: str, index: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of a class, their possible partners, and how many each has."""
        if (method, index, k) not in self._found:
            features, labels = self.bank.features, self.bank.labels
            rows = (labels == index).nonzero().flatten()
            if method == "eos":
                table, count = self._enemies_or_siblings(rows, k)
            else:
                table, count = oversample.siblings(features, labels, rows, k)
            if method == "borderline_smote":
                m = min(DANGER_NEIGHBORS, len(self.bank) - 1)
                enemies = oversample.eos_partners(features, labels, rows, m, nearest=self.bank.nearest)[1]
                count = count * oversample.in_danger(enemies, m)
            self._found[method, index, k] = rows, table, count
        return self._found[method, index, k]

    def _enemies_or_siblings(self, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The enemies among each row's k nearest neighbours, or its k nearest siblings where there is none; and how many."""
        features, labels = self.bank.features, self.bank.labels
        enemies, count = oversample.eos_partners(features, labels, rows, k, nearest=self.bank.nearest)
        table = rows[:, None].repeat(1, k)
        table[:, : enemies.shape[1]] = enemies
        alone = (count == 0).nonzero().flatten()
        table[alone], count[alone] = oversample.siblings(features, labels, rows[alone], k)
        return table, count

    def partners(
        self, method: str, base: Tensor, classes: Tensor, rows: Tensor | None, pick: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Choose one of the possible partners of each row.

        Args:
            method: One of `BETWEEN_NEIGHBORS`.
            base: Features `(N, D)`.
            classes: Their classes `(N,)`.
            rows: Their rows in the bank `(N,)`; None if unknown.
            pick: In [0, 1), `(N,)`: which of the partners.

        Returns:
            Rows of the bank `(N,)`, and whether there is any partner, `(N,)` bool.
        """
        if rows is not None:
            table, count = self.get_buffer(f"{method}_table")[rows], self.get_buffer(f"{method}_count")[rows]
        else:
            table, count = self.look_up(method, base.detach().to(self.bank.features.dtype), classes)
        return oversample.pick(table, count, pick), count > 0

    def look_up(self, method: str, rows: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return possible partners `(R, k)` of features that have no row in the bank, and their numbers `(R,)`."""
        limit = self.limits[classes, BETWEEN_NEIGHBORS.index(method)][:, None]
        width = min(max(self._widest[method], DANGER_NEIGHBORS), len(self.bank))
        rank = torch.arange(width, device=rows.device)
        distance = torch.cdist(rows, self.bank.features)  # (R, M)
        other = self.bank.labels != classes[:, None]
        near = distance.topk(width, dim=1, largest=False).indices
        enemy = other.gather(1, near)
        near_siblings = distance.masked_fill(other, torch.inf).topk(width, dim=1, largest=False)
        found = ((near_siblings.values < torch.inf) & (rank < limit)).sum(1)
        if method == "smote":
            return near_siblings.indices, found
        if method == "borderline_smote":
            m = min(DANGER_NEIGHBORS, width)
            return near_siblings.indices, found * oversample.in_danger(enemy[:, :m].sum(1), m)
        enemy &= rank < limit
        enemies = near.gather(1, enemy.to(torch.uint8).argsort(dim=1, descending=True, stable=True))
        count = enemy.sum(1)
        table = torch.where(count[:, None] > 0, enemies, near_siblings.indices)
        return table, torch.where(count > 0, count, found)
