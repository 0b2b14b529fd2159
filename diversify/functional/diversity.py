"""How diverse a class's features are, by five measures, and their comparison at matched n.

Every measure but the spread and the Hill number of order 0 depends on the number of examples, so classes and splits
are compared on equally many rows. All take `(..., n, D)` batches and ignore how often the whole set is repeated.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .stats import matched_rows

DIVERSITY_MEASURES = ("vendi", "effective_rank", "hill", "spread", "cosine")


def _directions(features: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length in float64, and the share of all-zero rows `(...)`, which stay zero."""
    features = features.double()
    length = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    zero = length == 0
    unit: Tensor = features / length.masked_fill(zero, 1)
    return unit, zero.squeeze(-1).double().mean(-1)


def _gram_eigenvalues(features: Tensor) -> Tensor:
    """Eigenvalues `(..., min(n, D))` of `features @ features.T`, without its surplus zeros; rounding set to 0."""
    wide = features.shape[-1] > features.shape[-2]
    gram = features @ features.mT if wide else features.mT @ features
    values: Tensor = torch.linalg.eigvalsh(gram)
    floor = values[..., -1:] * max(features.shape[-2:]) * torch.finfo(values.dtype).eps
    return values.where(values > floor, 0)


def _entropy(shares: Tensor) -> Tensor:
    terms: Tensor = torch.special.entr(shares)
    return terms.sum(-1)


def vendi_score(features: Tensor) -> Tensor:
    """`(...)` in [1, n]: the effective number of different directions among n rows `(..., n, D)`.

    exp of the entropy of the eigenvalues of K / n, with K the cosine kernel: 1 for rows that point the same way, n for
    orthogonal ones. All-zero rows count as one direction of their own, orthogonal to every other row. Friedman and
    Dieng 2023, definition 3.1.
    """
    unit, zero_share = _directions(features)
    shares = torch.cat([_gram_eigenvalues(unit) / features.shape[-2], zero_share[..., None]], dim=-1)
    return _entropy(shares).exp().to(features.dtype)


def effective_rank(features: Tensor) -> Tensor:
    """`(...)` in [1, min(n, D)]: exp of the entropy of the singular values over their sum; NaN when all are 0.

    Roy and Vetterli 2007, definition 1. Unlike the Vendi score it weighs rows by their length.
    """
    values = _gram_eigenvalues(features.double()).sqrt()
    return _entropy(values / values.sum(-1, keepdim=True)).exp().to(features.dtype)


def _effective_features(counts: Tensor) -> Tensor:
    """exp of the entropy of `counts` `(..., D)` float64 over their sum: the Hill number of order 1 (Hill 1973)."""
    return _entropy(counts / counts.sum(-1, keepdim=True)).exp()


def within_class_spread(features: Tensor) -> Tensor:
    """`(...)`, squared feature units: mean squared distance of the n rows to their mean, divided by n, not n - 1."""
    rows = features.double()
    return (rows - rows.mean(-2, keepdim=True)).square().sum(-1).mean(-1).to(features.dtype)


def mean_cosine(features: Tensor) -> Tensor:
    """`(...)` in [0, 1]: mean cosine over ALL ordered pairs of rows, each with itself too. HIGHER is LESS diverse.

    It equals the squared length of the mean unit vector, so it is 1 for rows that point the same way and 1 / n for
    orthogonal ones. All-zero rows count as one direction of their own, as in `vendi_score`.
    """
    unit, zero_share = _directions(features)
    return (unit.mean(-2).square().sum(-1) + zero_share.square()).to(features.dtype)


def _top_counts(values: Tensor, k: int) -> Tensor:
    """`(..., D)` float64: how many of the rows `(..., n, D)` have a feature among their k largest.

    Features that tie for the last places share them equally, so that the order of the features does not matter: after a
    ReLU many are exactly 0.
    """
    threshold = values.topk(k, dim=-1).values[..., -1:]
    above = values > threshold
    tied = (values == threshold).double()
    share = (k - above.sum(-1, keepdim=True)) / tied.sum(-1, keepdim=True)
    return (above + tied * share).sum(-2)


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
    """Each of `DIVERSITY_MEASURES` as `(draws, C)`, on n rows per class and draw; NaN for a class with fewer.

    Vendi score, effective rank and cosine are taken after subtracting `centre` `(D,)`, the mean of all training
    features, on train and held-out features alike: without it the direction that all ReLU features share hides the
    rest. `hill` is of order 1, over each example's k largest CE of its true class (or its k largest features where
    `weight` is None), not centred. Rows as in `matched_rows`.
    """
    rows = matched_rows(labels, num_classes, n, draws, seed=seed, name=name)
    result = {measure: features.new_full((draws, num_classes), torch.nan) for measure in DIVERSITY_MEASURES}
    for index in (rows >= 0).flatten(1).any(1).nonzero().flatten().tolist():
        chosen = features[rows[index]]  # (draws, n, D)
        centred = chosen.double() - centre.double()
        embedding = chosen if weight is None else chosen * weight[index]
        columns = {
            "vendi": vendi_score(centred),
            "effective_rank": effective_rank(centred),
            "hill": _effective_features(_top_counts(embedding, k)),
            "spread": within_class_spread(centred),
            "cosine": mean_cosine(centred),
        }
        for measure, column in columns.items():
            result[measure][:, index] = column.to(features.dtype)
    return result
