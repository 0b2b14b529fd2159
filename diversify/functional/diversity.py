"""Measure how diverse a class's features are, by five measures, and compare classes at matched n.

Every measure but the spread depends on the number of examples, so classes and splits are compared on equally many rows.
All measures take `(..., n, D)` batches; repeating every row equally often does not change them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .stats import matched_rows
from .whitening import within_class_directions

DIVERSITY_MEASURES = ("vendi", "effective_rank", "hill", "spread", "cosine")
_CACHED = 1 << 18  # numbers at a time: 2 MB
BANDWIDTH = 0.35  # of the kernel, as a share of the distance between nearest rows of a usual class


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `(..., D)` scaled to unit length in float64, and which of them are all zero, `(...)`; these stay zero."""
    features = features.double()
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = length == 0
    unit: Tensor = features / length.masked_fill(zero, 1)
    return unit, zero.squeeze(-1)


def _gram_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues `(..., min(n, D))` of `features @ features.T`; those that are only rounding errors are set to 0."""
    wide = features.shape[-1] > features.shape[-2]
    return _kernel_eigenvalues(features @ features.mT if wide else features.mT @ features, max(features.shape[-2:]))


def _kernel_eigenvalues(kernel: Tensor, terms: int) -> Tensor:
    """Eigenvalues of a kernel, ascending; 0 for those that are rounding errors of sums of so many terms."""
    values: Tensor = torch.linalg.eigvalsh(kernel)
    floor = values[..., -1:] * terms * torch.finfo(values.dtype).eps
    return values.where(values > floor, 0)


def _entropy(shares: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(shares)
    return terms.sum(-1)


def vendi_score(features: Tensor) -> Tensor:
    """Count the effective number of different directions among n rows.

    The exponential of the entropy of the eigenvalues of K / n, where K is the cosine kernel. Rows that point the same
    way give 1, orthogonal rows give n. All-zero rows count as one direction of their own, orthogonal to every other
    row.

    Args:
        features: `(..., n, D)`.

    Returns:
        `(...)` in [1, n].

    References:
        Friedman and Dieng, "The Vendi score: a diversity evaluation metric for machine learning", 2023, definition 3.1.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> round(float(vendi_score(rows)), 2), round(float(vendi_score(rows[:2])), 2)
        (2.0, 1.0)
    """
    return _vendi(*_directions(features)).to(features.dtype)


def _vendi(unit: Tensor, zero: Tensor) -> Tensor:
    return _vendi_of(_gram_eigenvalues(unit), zero)


def _vendi_of(values: Tensor, zero: Tensor) -> Tensor:
    shares = torch.cat([values / zero.shape[-1], zero.double().mean(-1)[..., None]], dim=-1)
    return _entropy(shares).exp()


def effective_rank(features: Tensor) -> Tensor:
    """Return the exponential of the entropy of the singular values, which are first divided by their sum.

    Unlike the Vendi score, it weights rows by their length.

    Args:
        features: `(..., n, D)`.

    Returns:
        `(...)` in [1, min(n, D)]; NaN where all features are 0.

    References:
        Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007, definition 1.

    Example:
        >>> round(float(effective_rank(torch.eye(3))), 2), round(float(effective_rank(torch.ones(3, 3))), 2)
        (3.0, 1.0)
    """
    return _rank_of(_gram_eigenvalues(features.double())).to(features.dtype)


def _rank_of(values: Tensor) -> Tensor:
    singular = values.sqrt()
    return _entropy(singular / singular.sum(-1, keepdim=True)).exp()


def _effective_features(counts: Tensor) -> Tensor:
    """exp of the entropy of `counts` `(..., D)` float64 over their sum: the Hill number of order 1 (Hill 1973)."""
    return _entropy(counts / counts.sum(-1, keepdim=True)).exp()


def within_class_spread(features: Tensor) -> Tensor:
    """Average the squared distance of the n rows to their mean; the sum is divided by n, not n - 1.

    Args:
        features: `(..., n, D)`.

    Returns:
        `(...)`, in squared feature units.

    Example:
        >>> float(within_class_spread(torch.tensor([[0.0, 0.0], [2.0, 0.0]])))
        1.0
    """
    rows = features.double()
    return (rows - rows.mean(-2, keepdim=True)).square().sum(-1).mean(-1).to(features.dtype)


def mean_cosine(features: Tensor) -> Tensor:
    """Average the cosine over ALL ordered pairs of rows, each with itself too. HIGHER is LESS diverse.

    It equals the squared length of the mean unit vector: 1 for rows that point the same way, 1 / n for orthogonal rows.
    All-zero rows count as one direction of their own, as in `vendi_score`.

    Args:
        features: `(..., n, D)`.

    Returns:
        `(...)` in [0, 1].

    Example:
        >>> float(mean_cosine(torch.eye(4))), float(mean_cosine(torch.ones(4, 4)))
        (0.25, 1.0)
    """
    return _cosine(*_directions(features)).to(features.dtype)


def _cosine(unit: Tensor, zero: Tensor) -> Tensor:
    return unit.mean(-2).square().sum(-1) + zero.double().mean(-1).square()


def _top_shares(values: Tensor, k: int) -> Tensor:
    """Return for each row `(..., D)` which features are among its k largest, 1 or 0, float64.

    Features that tie for the last places share them equally, so that the order of the features does not matter: after a
    ReLU many features are exactly 0.
    """
    threshold = values.topk(k, dim=-1).values[..., -1:]
    above = values > threshold
    tied = (values == threshold).double()
    share = (k - above.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)
    return above + tied * share


def matched_diversity(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    centre: Tensor,
    weight: Tensor | None,
    k: int,
    n: int = 20,
    draws: int = 50,
    seed: int,
    name: str,
) -> dict[str, Tensor]:
    """Compute every measure of `DIVERSITY_MEASURES` on n rows of each class, in several random draws.

    Vendi score, effective rank, spread and cosine are taken after subtracting `centre`. Without that, the direction
    that all ReLU features share would hide the rest. `hill` is the Hill number of order 1 of the features in each row's
    own top k; it is not centred.

    Args:
        features: `(N, D)`, training or held-out.
        labels: `(N,)`.
        num_classes: C.
        centre: `(D,)`, the mean of all training features; the same one for training and held-out features.
        weight: The head's, `(C, D)`; the top k are then those of features times the row of the true class. None ranks
            the features themselves.
        k: Features in each row's top k, in [1, D].
        n: Rows per class and draw.
        draws: Number of draws.
        seed: Seed of the draws.
        name: First part of the key of the draws, see `stats.matched_rows`.

    Returns:
        Each measure as `(draws, C)`; NaN for a class with fewer than n rows.

    References:
        Hill, "Diversity and evenness: a unifying notation and its consequences", 1973, for `hill`; see the functions of
        this module for the others.

    Example:
        >>> features, labels = torch.eye(4).repeat(2, 1), torch.tensor([0] * 4 + [1] * 4)
        >>> found = matched_diversity(
        ...     features, labels, 2, centre=torch.zeros(4), weight=None, k=1, n=4, draws=2, seed=0, name="example"
        ... )
        >>> found["vendi"].shape, round(float(found["vendi"][0, 0]), 2), round(float(found["hill"][0, 0]), 2)
        (torch.Size([2, 2]), 4.0, 4.0)
    """
    rows = matched_rows(labels, num_classes, n, draws, seed=seed, name=name)
    result = {measure: features.new_full((draws, num_classes), torch.nan) for measure in DIVERSITY_MEASURES}
    for index in (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist():
        own, place = rows[index].unique(return_inverse=True)  # a row is in many draws: what it needs alone is done once
        chosen = features[own]
        shares = _top_shares(chosen if weight is None else chosen * weight[index], k)
        times = torch.zeros(draws, len(own), dtype=torch.float64, device=features.device)
        times.scatter_(1, place, 1.0)  # rows of a draw differ
        columns = _centred_measures(chosen.double() - centre.double(), place)
        columns["hill"] = _effective_features(times @ shares)
        for measure, column in columns.items():
            result[measure][:, index] = column.to(features.dtype)
    return result


def _centred_measures(rest: Tensor, place: Tensor) -> dict[str, Tensor]:
    """Vendi score, effective rank, spread and cosine, `(draws,)` each, of the rows `place` `(draws, n)` of centred `rest` `(R, D)`."""
    if rest.shape[1] <= place.shape[1]:
        centred, (unit, zero) = rest[place], (each[place] for each in _directions(rest))
        return {
            "vendi": _vendi(unit, zero),
            "effective_rank": effective_rank(centred),
            "spread": within_class_spread(centred),
            "cosine": _cosine(unit, zero),
        }
    # With more features than rows, products of the n rows `(draws, n, n)` say it all, and are much smaller.
    size = max(1, _CACHED // (place.shape[1] * rest.shape[1]))
    products = torch.cat([rows @ rows.mT for rows in (rest[part] for part in place.split(size))])
    square = products.diagonal(dim1=1, dim2=2)
    zero, length = square == 0, square.sqrt()
    length = length.masked_fill(zero, 1)
    cosines = products / (length[:, :, None] * length[:, None])
    return {
        "vendi": _vendi_of(_kernel_eigenvalues(cosines, rest.shape[1]), zero),
        "effective_rank": _rank_of(_kernel_eigenvalues(products, rest.shape[1])),
        "spread": square.mean(1) - products.mean((1, 2)),
        "cosine": cosines.mean((1, 2)) + zero.double().mean(1).square(),
    }


def distinct_rows(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    n: int = 20,
    draws: int = 50,
    seed: int,
    name: str,
    space: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Count the effective number of distinct rows among n rows of each class, in several random draws.

    The Vendi score of order 2 with a Gaussian kernel: 1 / mean of K_ij^2 over all pairs of the n rows, K_ij =
    exp(-|x_i - x_j|^2 / 2 h^2). Distances are taken along `whitening.within_class_directions`, and h is 0.35 times the mean
    distance between nearest rows in the draws of the median class. So the kernel sees only rows that lie unusually close
    together, as those of a burst or of a narrow collection do, while `vendi_score` counts directions.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        n: Rows per class and draw.
        draws: Number of draws.
        seed: Seed of the draws.
        name: First part of the key of the draws, see `stats.matched_rows`.
        space: What `whitening.within_class_directions` returns for these rows, where it is known.

    Returns:
        `(draws, C)` float64 in [1, n]; NaN for a class with fewer than n rows.

    References:
        Pasarkar and Dieng, "Cousins of the Vendi score: a family of similarity-based diversity metrics for science and
        machine learning", 2024.

    Example:
        >>> from diversify.functional import draws
        >>> rows, labels = draws.normal("example", torch.arange(60)[:, None], torch.arange(4)), torch.arange(60) % 2
        >>> rows[labels == 1] = rows[labels == 1][::3].repeat_interleave(3, 0)  # 10 rows, each three times
        >>> found = distinct_rows(rows, labels, 2, n=30, draws=1, seed=0, name="example")
        >>> [round(count, 1) for count in found[0].tolist()]
        [30.0, 10.0]
    """
    means, directions = within_class_directions(features, labels, num_classes) if space is None else space
    rows = matched_rows(labels, num_classes, n, draws, seed=seed, name=name)
    present = (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist()
    distances, nearest = {}, []
    for c in present:
        own, place = rows[c].unique(return_inverse=True)
        chosen = ((features[own].double() - means[c]) @ directions)[place]  # (draws, n, k)
        distances[c] = torch.cdist(chosen, chosen, compute_mode="donot_use_mm_for_euclid_dist")
        beside = distances[c].clone()
        beside.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        nearest.append(beside.amin(2).mean())
    result = torch.full((draws, num_classes), torch.nan, dtype=torch.float64, device=features.device)
    if not present:
        return result
    width = BANDWIDTH * torch.stack(nearest).quantile(0.5)
    for c in present:
        squared_kernel = torch.where(distances[c] > 0, (-(distances[c] / width).square()).exp(), 1.0)
        result[:, c] = 1 / squared_kernel.mean((1, 2))
    return result
