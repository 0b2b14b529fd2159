"""Directions in which the rows of a class vary most, scaled so that the classes vary equally far along each."""

from __future__ import annotations

import torch
from scipy.linalg import eigh
from torch import Tensor

from .counts import class_mean
from .neighbors import float32_is_whole

DIMENSIONS = 32  # most directions
ROWS_PER_DIMENSION = 10
LEAST_VARIANCE = 1e-3  # of a direction, as a share of the largest
_MOST_ROWS = 100_000  # that a covariance of at most 512 features is taken over
_WIDE = 512  # features beyond which products are in float32, and a covariance is taken over fewer rows
_TALL = 2048  # rows in a product of many features: with fewer, adding it up takes as long
_LEAST_ROWS = 10  # per feature, that a covariance of more features is taken over
_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB


def covariance_rows(num_features: int) -> int:
    """Return the most rows that a covariance is taken over: 100,000, and fewer beyond 512 features, so that it takes as long.

    These are `100,000 * (512 / D)^2`, but at least 10 for each feature.

    Args:
        num_features: D.

    Example:
        >>> covariance_rows(64), covariance_rows(1024), covariance_rows(2048)
        (100000, 25000, 20480)
    """
    fewer = int(_MOST_ROWS * (_WIDE / max(num_features, 1)) ** 2)
    return min(_MOST_ROWS, max(fewer, _LEAST_ROWS * num_features))


def within_class_directions(
    features: Tensor, labels: Tensor, num_classes: int, *, means: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the directions of largest variance within the classes, each divided by its standard deviation.

    Distances along them are Mahalanobis distances under the covariance within the classes, cut to at most 32 directions, to
    one for 10 rows, and to those with a thousandth of the largest variance. The covariance is that of at most `covariance_rows`
    rows, evenly spaced; beyond 512 features, its products are in float32.

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
    width, most = features.shape[1], covariance_rows(features.shape[1])
    if len(features) > most:
        some = torch.linspace(0, len(features) - 1, most, dtype=torch.float64, device=labels.device).round().long()
        labels = labels[some]
    else:
        some = None
    rows = len(labels)
    total = torch.zeros(width, width, dtype=torch.float64, device=features.device)
    narrow = width > _WIDE and float32_is_whole(features.device)
    size = max(_TALL if narrow else 1, _BLOCK // max(width, 1))
    for start in range(0, rows, size):
        part = slice(start, start + size)
        rest = (features[part] if some is None else features[some[part]]).double() - means[labels[part]]
        rest = rest.float() if narrow else rest
        total += rest.T @ rest
    values, vectors = _largest(total / max(rows, 1), DIMENSIONS)
    wide = int((values > LEAST_VARIANCE * values.max()).sum()) if float(values.max()) > 0 else 0
    least = len(values) - min(DIMENSIONS, wide, max(1, rows // ROWS_PER_DIMENSION))
    return means, vectors[:, least:] / values[least:].sqrt()


def _largest(matrix: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues, ascending, and their eigenvectors: at least so many, if the symmetric matrix has them."""
    width = len(matrix)
    if width <= _WIDE or matrix.device.type != "cpu":
        values, vectors = torch.linalg.eigh(matrix)
        return values, vectors
    found = eigh(matrix.numpy(), subset_by_index=[width - number, width - 1], overwrite_a=True, check_finite=False)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])
