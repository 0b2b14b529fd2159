"""Clusters of rows, found from features alone, and whether one of them is recognised less often than the other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.stats import hypergeom
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances
from torch import Tensor

from ..errors import must

_SEEDS = 1 << 31


def clusters_of(features: Tensor, *, most: int = 4, least: int = 10, seed: int) -> tuple[Tensor, float] | None:
    """Return the clusters of rows by k-means, with the number of clusters that has the largest silhouette.

    Args:
        features: `(n, D)`.
        most: Most clusters.
        least: Fewest rows of a cluster; a number of clusters with a smaller one is not considered.
        seed: Seed of the starts of k-means.

    Returns:
        The cluster of each row `(n,)` int64, and the silhouette in [-1, 1]; None if the rows cannot be divided so.

    Raises:
        InputError: `most` or `least` is too small.

    References:
        Rousseeuw (1987), Silhouettes: a graphical aid to the interpretation and validation of cluster analysis.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
        >>> labels, silhouette = clusters_of(features, least=3, seed=0)
        >>> sorted({labels[0].item() != labels[5].item(), silhouette > 0.9})
        [True]
    """
    if most < 2:
        raise must("most", "be at least 2", most)
    if least < 1:
        raise must("least", "be at least 1", least)
    rows = features.detach().cpu().numpy().astype(np.float64)
    if len(rows) < 2 * least or not np.ptp(rows, axis=0).any():
        return None
    best: tuple[Tensor, float] | None = None
    distances = pairwise_distances(rows)
    for k in range(2, min(most, len(rows) // least, len(np.unique(rows, axis=0))) + 1):
        labels = KMeans(k, n_init=1, random_state=seed % _SEEDS).fit_predict(rows)
        if np.bincount(labels, minlength=k).min() < least:
            continue
        silhouette = _silhouette(distances, labels)
        if best is None or silhouette > best[1]:
            best = torch.from_numpy(labels.astype(np.int64)), silhouette
    return best


def _silhouette(distances: np.ndarray[Any, np.dtype[np.float64]], labels: np.ndarray[Any, np.dtype[np.int32]]) -> float:
    """The mean silhouette, as scikit-learn's, from one product; clusters of one row count 0."""
    inside = labels[:, None] == np.arange(labels.max() + 1)
    sizes = inside.sum(0)
    sums = distances @ inside
    own = sums[inside] / np.maximum(sizes[labels] - 1, 1)
    other = np.where(inside, np.inf, sums / sizes).min(1)
    values = (other - own) / np.maximum(np.maximum(own, other), np.finfo(float).tiny)
    return float(np.where(sizes[labels] > 1, values, 0.0).mean())


def lower_share_p(hits: int, total: int, other_hits: int, other_total: int) -> float:
    """Return the p value of Fisher's exact test that a share is not lower than that of the other rows, one-sided.

    Args:
        hits: Hits among the rows.
        total: The rows.
        other_hits: Hits among the other rows.
        other_total: The other rows.

    Returns:
        In (0, 1].

    References:
        Fisher (1922), On the interpretation of chi squared from contingency tables, and the calculation of P.

    Example:
        >>> round(lower_share_p(1, 10, 9, 10), 4)
        0.0005
    """
    return float(hypergeom.cdf(hits, total + other_total, hits + other_hits, total))
