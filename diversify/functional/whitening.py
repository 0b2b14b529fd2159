"""Directions in which the rows of a class vary most, scaled so that the classes vary equally far along each."""

from __future__ import annotations

import torch
from torch import Tensor

from .counts import class_mean

DIMENSIONS = 32  # most directions
ROWS_PER_DIMENSION = 10
LEAST_VARIANCE = 1e-3  # of a direction, as a share of the largest
_MOST_ROWS = 100_000  # that a covariance is taken over
_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB


def within_class_directions(
    features: Tensor, labels: Tensor, num_classes: int, *, means: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the directions of largest variance within the classes, each divided by its standard deviation.

    Distances along them are Mahalanobis distances under the covariance within the classes, cut to at most 32 directions, to
    one for 10 rows, and to those with a thousandth of the largest variance. The covariance is that of at most 100,000 rows, evenly
    spaced.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        means: `(C, D)`, the class means, where they are known.

    Returns:
        The class means `(C, D)` in the dtype of the features, NaN for an absent class, and the directions `(D, k)` float64; k is 0
        where no row differs from its class mean.

    Example:
        >>> rows, labels = torch.tensor([[0.0, 9.0], [2.0, 9.0], [5.0, 1.0], [7.0, 1.0]]), torch.tensor([0, 0, 1, 1])
        >>> means, directions = within_class_directions(rows, labels, 2)
        >>> means.tolist(), directions.abs().tolist()
        ([[1.0, 9.0], [6.0, 1.0]], [[1.0], [0.0]])
    """
    means = class_mean(features, labels, num_classes) if means is None else means
    if len(features) > _MOST_ROWS:
        some = (
            torch.linspace(0, len(features) - 1, _MOST_ROWS, dtype=torch.float64, device=labels.device).round().long()
        )
        features, labels = features[some], labels[some]
    width = features.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    size = max(1, _BLOCK // max(width, 1))
    for rows, own in zip(features.split(size), labels.split(size), strict=True):
        rest = rows.double() - means[own]
        total += rest.T @ rest
    values, vectors = torch.linalg.eigh(total / max(len(features), 1))
    wide = int((values > LEAST_VARIANCE * values.max()).sum()) if float(values.max()) > 0 else 0
    least = len(values) - min(DIMENSIONS, wide, max(1, len(features) // ROWS_PER_DIMENSION))
    return means, vectors[:, least:] / values[least:].sqrt()
