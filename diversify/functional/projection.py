"""Place features on a map of two dimensions that keeps neighbours together."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

METHOD = "t-SNE"
_LEAST_ROWS = 10
_DIMENSIONS = 50  # principal components given to t-SNE


def two_dimensions(features: Tensor, *, seed: int) -> Tensor | None:
    """Return a position in two dimensions for each row, by t-SNE that starts at the principal components.

    Points that are close have similar features. The distance between two groups and their apparent size mean nothing.
    Equal input gives equal output, whatever the number of threads.

    Args:
        features: `(N, D)`.
        seed: Seed of t-SNE.

    Returns:
        `(N, 2)` float64; None below 10 rows, and where all rows are equal.

    References:
        van der Maaten and Hinton, "Visualizing data using t-SNE", 2008.
        Kobak and Berens, "The art of using t-SNE for single-cell transcriptomics", 2019, for the start.

    Example:
        >>> two_dimensions(torch.eye(12), seed=0).shape
        torch.Size([12, 2])
        >>> two_dimensions(torch.eye(4), seed=0) is None
        True
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows = features.detach().double().cpu().numpy()
    if len(rows) < _LEAST_ROWS or not float(rows.var(0).sum()) > 0:
        return None
    wide = min(rows.shape) > _DIMENSIONS
    rows = PCA(_DIMENSIONS, svd_solver="full").fit_transform(rows) if wide else rows - rows.mean(0)
    rows = rows / rows.std(0).max()
    start = PCA(min(2, rows.shape[1]), svd_solver="full").fit_transform(rows)
    # on a line, a map in two dimensions would show structure that is not there
    if rows.shape[1] == 1 or start[:, -1].std() < 1e-6 * start[:, 0].std():
        places = torch.zeros(len(rows), 2, dtype=torch.float64)
        places[:, 0] = torch.from_numpy(start[:, 0].copy())
        return places
    with warnings.catch_warnings(action="ignore"):
        perplexity = min(30.0, (len(rows) - 1) / 3)
        method = TSNE(perplexity=perplexity, init=1e-4 * start / start[:, 0].std(), random_state=seed % (1 << 32))
        return torch.from_numpy(method.fit_transform(rows).astype("float64"))
