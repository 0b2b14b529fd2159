"""Covariances that a class borrows from frequent classes, for "covariance" and "isda"."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..functional import draws, oversample
from ..plan.plan import Plan
from .feature_bank import FeatureBank, keep

ISDA_ROWS = 64  # rows that represent a class's covariance if there are too many features to factor it

Key = tuple[str | int | Tensor, ...]


class BorrowedCovariance(nn.Module):
    """The covariances that the classes of a plan borrow for one method.

    Up to `oversample.FACTORED` features they are kept as factors. Above, "covariance" draws residuals of donors when noise
    is needed, and "isda" keeps a sample of such residuals.

    Attributes:
        classes: The classes that use the method, `(U,)`.
        factors: Factors of their covariances, `(U, M, D)`; missing for "covariance" with many features.
    """

    donors: Tensor
    place: Tensor
    classes: Tensor
    factors: Tensor

    def __init__(self, bank: FeatureBank, plan: Plan, method: str, seed: int) -> None:
        super().__init__()
        self.bank = bank
        device = bank.features.device
        uses = plan.feature_column(method, "share").to(device) > 0
        pooled = plan.feature_column(method, "pooled").to(device) > 0
        similar = oversample.similar_donors(bank.means, bank.count)
        donors = torch.where(pooled[:, None], oversample.pooled_donors(bank.count), similar)
        users = uses.nonzero().flatten()
        keep(self, "donors", donors)
        keep(self, "place", (uses.cumsum(0) - 1).clamp(min=0))
        keep(self, "classes", users)
        if bank.features.shape[1] <= oversample.FACTORED:
            covariance = oversample.donor_covariance(bank.features, bank.labels, donors, users)
            keep(self, "factors", oversample.factor(covariance).float())
        elif method == "isda":
            key = seed, users[:, None], torch.arange(ISDA_ROWS, device=device)
            drawn = draws.uniform("isda donor", *key), draws.uniform("isda row", *key)
            rows = oversample.donor_residuals(bank.features, bank.means, donors[users], bank.by_class, drawn)
            keep(self, "factors", rows / ISDA_ROWS**0.5)

    def noise(self, classes: Tensor, key: Key) -> Tensor:
        """Return noise `(N, D)` with the covariance of each row's class."""
        if classes.device.type != "cpu":
            return self._noise_of(classes, key)
        noise = self.bank.features.new_zeros(len(classes), self.bank.features.shape[1])
        if not len(classes):
            return noise
        order = classes.argsort(stable=True)
        of_order = tuple(part[order] if isinstance(part, Tensor) else part for part in key)
        return noise.index_copy_(0, order, self._noise_of(classes[order], of_order).to(noise))

    def _noise_of(self, classes: Tensor, key: Key) -> Tensor:
        """Noise `(N, D)`; on the CPU the rows have to be sorted by class, so that each class is one matrix product."""
        num_features = self.bank.features.shape[1]
        if num_features <= oversample.FACTORED:
            noise = draws.normal(*key, torch.arange(num_features, device=classes.device))
            if classes.device.type != "cpu":
                return oversample.factored_noise(noise, self.factors[self.place[classes]])
            present, sizes = classes.unique_consecutive(return_counts=True)
            factors = self.factors[self.place[present]]
            return torch.cat([part @ one for part, one in zip(noise.split(sizes.tolist()), factors, strict=True)])
        column = torch.arange(oversample.RESIDUALS, device=classes.device)
        drawn = draws.uniform("donor", *key, column), draws.uniform("donor row", *key, column)
        residuals = oversample.donor_residuals(
            self.bank.features, self.bank.means, self.donors[classes], self.bank.by_class, drawn
        )
        return oversample.combined_noise(draws.normal(*key, column), residuals)
