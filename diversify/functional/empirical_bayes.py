"""Parametric empirical Bayes: noisy measurements of many classes, each corrected by what the others say."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 6  # vectors of two numbers from which the spread of the true ones can be estimated
_SMALLEST = 1e-9  # variance of the true vectors along a direction


def shrink_to_mean(values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Shrink noisy vectors toward their mean: the more noise a vector has, the farther.

    The true vectors are taken for draws from one normal distribution. Its mean is that of the vectors. Its covariance is theirs
    less the mean of their noise, without negative variances. So numbers of one vector whose noise is correlated are corrected
    together. Because the covariance is estimated, vectors move by only `(C - q - 2) / (C - 1)` of the way.

    Args:
        values: `(C, q)`; vectors with NaN are left out.
        noise: `(C, q, q)`, the covariance of the noise of each vector.

    Returns:
        Both float64: the shrunk vectors `(C, q)`, and the covariances `(C, q, q)` of the true vectors around them, which allow
        for the estimated mean and covariance. At most q + 3 vectors are returned as they are.

    References:
        Efron and Morris (1972), Empirical Bayes on vector observations: an extension of Stein's method, Biometrika 59, for
        equal noise; the estimate of the covariance by moments allows for unequal noise.
        Morris (1983), Parametric empirical Bayes inference: theory and applications, for the covariances around the results.

    Example:
        >>> values = torch.tensor([[0.1], [-0.1], [0.2], [-0.2], [0.1], [-0.1]])
        >>> shrunk, covariance = shrink_to_mean(values, torch.full((6, 1, 1), 0.05))
        >>> [round(value, 2) for value in shrunk[:, 0].tolist()], round(float(covariance[0]), 3)
        ([0.04, -0.04, 0.08, -0.08, 0.04, -0.04], 0.025)
    """
    found, around = values.double().clone(), noise.double().clone()
    known = ~found.isnan().any(1)
    own, mine = found[known], around[known]
    count, width = own.shape
    left = count - width - 2
    if left < 2:
        return found, around
    residual = own - own.mean(0)
    spread = _without_negative(residual.T @ residual / (count - 1) - mine.mean(0))
    way = mine @ torch.linalg.inv(spread + mine) * (left / (count - 1))
    found[known] = own - (way @ residual[:, :, None])[:, :, 0]
    of_mean = (spread + mine).mean(0) / count
    of_spread = 2 / left * residual[:, :, None] * residual[:, None, :]
    around[known] = mine - way @ mine + way @ (of_mean + of_spread) @ way.mT
    return found, around


def _without_negative(covariance: Tensor) -> Tensor:
    """The covariance with every variance along its axes at least `_SMALLEST`."""
    variances, axes = torch.linalg.eigh(covariance)
    found: Tensor = axes @ torch.diag(variances.clamp(min=_SMALLEST)) @ axes.T
    return found
