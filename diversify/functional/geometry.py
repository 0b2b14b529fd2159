"""Measure the geometry of features and head: neural collapse, norms, and how far held-out images lie from training.

Neural collapse: Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
training", 2020. Classes without rows are left out of every mean over classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .blocks import joined
from .counts import class_counts, class_mean, class_moments, count_thirds
from .neighbors import float32_is_whole
from .stats import matched_rows

_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB
_TOGETHER = 1024  # classes that are compared with the others at a time


def _distance_to_own_mean(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """The squared distance of each row to the mean of its class, `(N,)` float64."""
    size = max(1, _BLOCK // features.shape[1])
    blocks = zip(features.split(size), labels.split(size), strict=True)
    distances = ((block.double() - means[own].double()).square().sum(1) for block, own in blocks)
    return joined(distances, len(features))


def scatter(features: Tensor, labels: Tensor, num_classes: int, means: Tensor) -> Tensor:
    """Average the squared distance of each class's rows to its row of `means`.

    With training means and held-out rows, it measures how far unseen images lie from the place that training gave the
    class.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        means: `(C, D)`.

    Returns:
        `(C,)`, in squared feature units; NaN for an absent class.

    Example:
        >>> features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
        >>> scatter(features, torch.tensor([0, 0, 1]), 2, torch.tensor([[1.0, 0.0], [5.0, 6.0]])).tolist()
        [1.0, 1.0]
    """
    return class_mean(_distance_to_own_mean(features, labels, means), labels, num_classes).to(features.dtype)


def _present(means: Tensor) -> Tensor:
    """`(C,)` bool: True for the classes that have rows, by their `means` `(C, D)`."""
    return torch.isfinite(means).all(1)


def nc1(features: Tensor, labels: Tensor, num_classes: int, *, moments: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Divide each class's scatter around its mean by the scatter of the class means around their mean.

    Both are traces, that is mean squared distances, and classes weigh equally in the second. The first is divided by n
    - 1, so that a small class does not look collapsed because it is small.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        moments: What `counts.class_moments` returns for these rows, where it is known.

    Returns:
        `(C,)`, at least 0; near 0 the class has collapsed. NaN for a class of fewer than two rows, and where all class
        means coincide.

    References:
        Papyan, Han and Donoho 2020, property NC1, for each class.

    Example:
        >>> features = torch.tensor([[0.0, 1.0], [0.0, -1.0], [4.0, 0.0], [4.0, 0.0]])
        >>> nc1(features, torch.tensor([0, 0, 1, 1]), 2).tolist()
        [0.5, 0.0]
    """
    means, squares = class_moments(features, labels, num_classes) if moments is None else moments
    known = means[_present(means)].double()
    between = (known - known.mean(0)).square().sum(1).mean()
    size = class_counts(labels, num_classes)
    within = squares * size / (size - 1)
    return (within / between).where((between > 0) & (size > 1), torch.nan).to(features.dtype)


def nc2(means: Tensor) -> tuple[float, float]:
    """Return how far the centred class means are from equal norms and from equal, maximal angles.

    Args:
        means: `(C, D)`.

    Returns:
        The coefficient of variation of the norms (standard deviation over C, not C - 1), and the mean over pairs of
        |cosine + 1 / (C - 1)|. Both are 0 at collapse; NaN with fewer than 2 classes, or where a mean coincides with
        the centre.

    References:
        Papyan, Han and Donoho 2020, property NC2.

    Example:
        >>> [round(number, 3) for number in nc2(torch.eye(3))]
        [0.0, 0.0]
    """
    known = means[_present(means)].double()
    count = len(known)
    if count < 2:
        return math.nan, math.nan
    centred = known - known.mean(0)
    norms = torch.linalg.vector_norm(centred, dim=1)
    variation = float(norms.std(correction=0) / norms.mean())
    unit = centred / norms[:, None]
    deviation = sum(float((part + 1 / (count - 1)).abs().sum()) for part in _cosines_of_pairs(unit))
    return variation, deviation / (count * (count - 1) / 2)


def _cosines_of_pairs(unit: Tensor) -> Iterator[Tensor]:
    """The cosines of every two rows of length 1, a block of rows at a time: those of all pairs of many classes are large."""
    for start in range(0, len(unit), _TOGETHER):
        cosines = unit[start : start + _TOGETHER] @ unit[start:].T
        yield cosines[torch.ones_like(cosines, dtype=torch.bool).triu_(1)]


def nc3(weight: Tensor, means: Tensor) -> float:
    """Return the distance between the head and the centred class means, each scaled to Frobenius norm 1.

    Args:
        weight: The head's, `(C, D)`.
        means: `(C, D)`.

    Returns:
        In [0, 2]; 0 where the head points at the class means (self-duality). NaN where either matrix is 0.

    References:
        Papyan, Han and Donoho 2020, property NC3.

    Example:
        >>> means = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> round(nc3(3 * means, means), 3), round(nc3(-means, means), 3)
        (0.0, 2.0)
    """
    present = _present(means)
    known, head = means[present].double(), weight[present].double()
    centred = known - known.mean(0)
    return float(torch.linalg.norm(head / torch.linalg.norm(head) - centred / torch.linalg.norm(centred)))


def nc4(features: Tensor, predictions: Tensor, means: Tensor) -> float:
    """Return the share of rows whose nearest class mean is that of the predicted class.

    Only classes with a mean compete; ties go to the lower class.

    Args:
        features: `(N, D)`.
        predictions: `(N,)`, the classes that the model predicts.
        means: `(C, D)`.

    Returns:
        In [0, 1]; NaN without rows.

    References:
        Papyan, Han and Donoho 2020, property NC4.

    Example:
        >>> means = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
        >>> nc4(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0]), means)
        0.5
    """
    classes = _present(means).nonzero().flatten()
    known = means[classes].double()
    centre = known.mean(0)
    known = known - centre
    agree = 0
    size = max(1, _BLOCK // max(means.shape))
    for block, predicted in zip(features.split(size), predictions.split(size), strict=True):
        agree += int((classes[_nearest_mean(block.double() - centre, known)] == predicted).sum())
    return agree / len(features) if len(features) else math.nan


def _nearest_mean(rows: Tensor, means: Tensor) -> Tensor:
    """The nearest mean of each row, `(N,)`, ties to the lower index: in float32, and in float64 where that cannot tell."""
    square = means.square().sum(1)
    if not float32_is_whole(rows.device) or len(means) < 2:
        return (square - 2 * rows @ means.T).argmin(1)
    score = square.float() - 2 * rows.float() @ means.float().T
    lowest = score.topk(2, dim=1, largest=False)
    reach = rows.square().sum(1).sqrt() + square.max().sqrt()
    unsure = (
        lowest.values.diff(dim=1)[:, 0] <= 4 * (rows.shape[1] + 8) * torch.finfo(torch.float32).eps * reach.square()
    )
    nearest = lowest.indices[:, 0]
    doubtful = (unsure | ~score.isfinite().all(1)).nonzero()[:, 0]
    if len(doubtful):
        nearest[doubtful] = (square - 2 * rows[doubtful] @ means.T).argmin(1)
    return nearest


def head_norms(weight: Tensor) -> Tensor:
    """Return the Euclidean norm of each class's row of the head.

    Args:
        weight: `(C, D)`.

    Returns:
        `(C,)`.

    References:
        Kang et al., "Decoupling representation and classifier for long-tailed recognition", 2020.

    Example:
        >>> head_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]])).tolist()
        [5.0, 1.0]
    """
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms


def minority_cosine(weight: Tensor, counts: Tensor) -> float:
    """Average the cosine over pairs of head rows of the smallest third of the classes.

    It is high where the rare classes have collapsed onto one direction ("minority collapse").

    Args:
        weight: The head's, `(C, D)`.
        counts: Training images per class, `(C,)`.

    Returns:
        In [-1, 1]; NaN with fewer than two such classes.

    References:
        Fang et al., "Exploring deep neural networks via layer-peeled model: minority collapse in imbalanced training",
        2021.

    Example:
        >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [2.0, 2.0]])
        >>> round(minority_cosine(weight, torch.tensor([60, 50, 40, 30, 20, 10])), 2)
        1.0
    """
    rows = weight[count_thirds(counts) == 2].double()
    if len(rows) < 2:
        return math.nan
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return sum(float(part.sum()) for part in _cosines_of_pairs(unit)) / (len(rows) * (len(rows) - 1) / 2)


def _matched_pairs(
    train_labels: Tensor, heldout_labels: Tensor, num_classes: int, n: int, draws: int, seed: int, name: str
) -> tuple[Tensor, Tensor, list[int]]:
    """Rows `(C, draws, n)` of the training and the held-out side, and the classes that have n rows on both."""
    train = matched_rows(train_labels, num_classes, n, draws, seed=seed, name=f"{name}_train")
    heldout = matched_rows(heldout_labels, num_classes, n, draws, seed=seed, name=f"{name}_heldout")
    both = ((train >= 0) & (heldout >= 0)).flatten(1).any(1)
    return train, heldout, both.nonzero().flatten().tolist()


def feature_deviation(
    train_features: Tensor,
    train_labels: Tensor,
    heldout_features: Tensor,
    heldout_labels: Tensor,
    num_classes: int,
    n: int = 20,
    draws: int = 50,
    *,
    seed: int,
) -> Tensor:
    """Return the distance between a class's mean on n training rows and on n held-out rows.

    It is not 0 without a shift: then it is about the square root of the sum of the two spreads over n.

    Args:
        train_features: `(N, D)`.
        train_labels: `(N,)`.
        heldout_features: `(M, D)`.
        heldout_labels: `(M,)`.
        num_classes: C.
        n: Rows per class, side and draw.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        `(draws, C)`, in feature units; NaN for a class with fewer than n rows on either side.

    References:
        Ye, Chen, Zhan and Chao, "Identifying and compensating for feature deviation in imbalanced deep learning" (CDT),
        2020; here at matched n.

    Example:
        >>> train, heldout = torch.zeros(4, 2), torch.tensor([[3.0, 4.0]] * 4)
        >>> labels = torch.zeros(4, dtype=torch.int64)
        >>> feature_deviation(train, labels, heldout, labels, 1, n=2, draws=3, seed=0).flatten().tolist()
        [5.0, 5.0, 5.0]
    """
    result = train_features.new_full((draws, num_classes), torch.nan)
    train, heldout, classes = _matched_pairs(
        train_labels, heldout_labels, num_classes, n, draws, seed, "feature_deviation"
    )
    for index in classes:
        seen = train_features[train[index]].mean(1, dtype=torch.float64)  # (draws, D)
        unseen = heldout_features[heldout[index]].mean(1, dtype=torch.float64)
        result[:, index] = torch.linalg.vector_norm(unseen - seen, dim=1).to(result.dtype)
    return result


def range_gap(
    train_features: Tensor,
    train_labels: Tensor,
    heldout_features: Tensor,
    heldout_labels: Tensor,
    num_classes: int,
    n: int = 20,
    draws: int = 50,
    *,
    seed: int,
) -> Tensor:
    """Return how far n held-out rows of a class reach beyond the range of n training rows.

    Adds up, over features, the part above the largest and below the smallest training value. It is taken at matched n
    because ranges grow with n.

    Args:
        train_features: `(N, D)`.
        train_labels: `(N,)`.
        heldout_features: `(M, D)`.
        heldout_labels: `(M,)`.
        num_classes: C.
        n: Rows per class, side and draw.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        `(draws, C)`, in feature units; NaN for a class with fewer than n rows on either side.

    References:
        Dablain, Bellinger, Krawczyk and Chawla, "Efficient augmentation for imbalanced deep learning" (EOS), 2022, the
        generalization gap.

    Example:
        >>> train, heldout = torch.tensor([[0.0], [1.0]]), torch.tensor([[-0.5], [3.0]])
        >>> labels = torch.zeros(2, dtype=torch.int64)
        >>> range_gap(train, labels, heldout, labels, 1, n=2, draws=1, seed=0).tolist()
        [[2.5]]
    """
    result = train_features.new_full((draws, num_classes), torch.nan)
    train, heldout, classes = _matched_pairs(train_labels, heldout_labels, num_classes, n, draws, seed, "range_gap")
    for index in classes:
        seen, unseen = train_features[train[index]].double(), heldout_features[heldout[index]].double()
        above = (unseen.amax(1) - seen.amax(1)).clamp(min=0)  # (draws, D)
        below = (seen.amin(1) - unseen.amin(1)).clamp(min=0)
        result[:, index] = (above + below).sum(1).to(result.dtype)
    return result
