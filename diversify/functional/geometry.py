"""The shape of the feature space: neural collapse, the head's norms, and how far unseen images stray.

Neural collapse: Papyan, Han and Donoho 2020. Classes without rows are left out of every mean over classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .counts import class_counts, class_mean, count_thirds
from .stats import matched_rows

_BLOCK = 1 << 20  # numbers per float64 temporary: 8 MB


def _distance_to_own_mean(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """`(N,)` float64: squared distance of each row to the mean of its class."""
    size = max(1, _BLOCK // features.shape[1])
    blocks = zip(features.split(size), labels.split(size), strict=True)
    return torch.cat([(block.double() - means[own].double()).square().sum(1) for block, own in blocks])


def scatter(features: Tensor, labels: Tensor, num_classes: int, means: Tensor) -> Tensor:
    """`(C,)`, squared feature units: mean squared distance of a class's rows to its row of `means` `(C, D)`.

    NaN for an absent class. With the training means and held-out rows it says how far unseen images lie from where
    training put the class.
    """
    return class_mean(_distance_to_own_mean(features, labels, means), labels, num_classes).to(features.dtype)


def _present(means: Tensor) -> Tensor:
    return torch.isfinite(means).all(1)


def nc1(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """`(C,)` >= 0: a class's scatter around its mean, over the scatter of the class means around their mean.

    Both are traces, that is mean squared distances, and classes weigh equally in the second. Near 0: collapsed. NaN for
    a class of fewer than two rows and when the class means coincide. The scatter is divided by n - 1, so that a small
    class does not look collapsed for being small. The per-class form of Papyan et al.'s first property.
    """
    means = class_mean(features, labels, num_classes).double()
    known = means[_present(means)]
    between = (known - known.mean(0)).square().sum(1).mean()
    size = class_counts(labels, num_classes)
    within = class_mean(_distance_to_own_mean(features, labels, means), labels, num_classes) * size / (size - 1)
    return (within / between).where((between > 0) & (size > 1), torch.nan).to(features.dtype)


def nc2(means: Tensor) -> tuple[float, float]:
    """How far the centred class means `(C, D)` are from equal norms and from equal, maximal angles; both 0 at collapse.

    First the coefficient of variation of the norms (standard deviation over C, not C - 1), then the mean over pairs of
    |cosine + 1 / (C - 1)|. NaN with fewer than 2 classes, or where a mean coincides with the centre.
    """
    known = means[_present(means)].double()
    count = len(known)
    if count < 2:
        return math.nan, math.nan
    centred = known - known.mean(0)
    norms = torch.linalg.vector_norm(centred, dim=1)
    variation = float(norms.std(correction=0) / norms.mean())
    unit = centred / norms[:, None]
    first, second = torch.triu_indices(count, count, 1, device=means.device)
    deviation = ((unit @ unit.T)[first, second] + 1 / (count - 1)).abs().mean()
    return variation, float(deviation)


def nc3(weight: Tensor, means: Tensor) -> float:
    """Frobenius distance in [0, 2] of the head and the centred class means, each `(C, D)` and scaled to norm 1.

    0 when the head points at the class means (self-duality). NaN when either matrix is 0.
    """
    present = _present(means)
    known, head = means[present].double(), weight[present].double()
    centred = known - known.mean(0)
    return float(torch.linalg.norm(head / torch.linalg.norm(head) - centred / torch.linalg.norm(centred)))


def nc4(features: Tensor, predictions: Tensor, means: Tensor) -> float:
    """Share of rows in [0, 1] whose nearest class mean is that of the predicted class; NaN without rows.

    Only classes with a mean compete; ties go to the lower class.
    """
    classes = _present(means).nonzero().flatten()
    known = means[classes].double()
    centre = known.mean(0)
    known = known - centre
    agree = 0
    size = max(1, _BLOCK // max(means.shape))
    for block, predicted in zip(features.split(size), predictions.split(size), strict=True):
        score = known.square().sum(1) - 2 * (block.double() - centre) @ known.T
        agree += int((classes[score.argmin(1)] == predicted).sum())
    return agree / len(features) if len(features) else math.nan


def head_norms(weight: Tensor) -> Tensor:
    """`(C,)`: Euclidean norm of each class's row of the head."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms


def minority_cosine(weight: Tensor, counts: Tensor) -> float:
    """Mean cosine in [-1, 1] over the pairs of head rows of the smallest third of the classes; NaN with fewer than two.

    High where the rare classes have collapsed onto one direction (Fang et al. 2021, "minority collapse").
    """
    rows = weight[count_thirds(counts) == 2].double()
    if len(rows) < 2:
        return math.nan
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    first, second = torch.triu_indices(len(rows), len(rows), 1, device=weight.device)
    return float((unit @ unit.T)[first, second].mean())


def _matched_pairs(
    train_labels: Tensor, heldout_labels: Tensor, num_classes: int, n: int, draws: int, seed: int, name: str
) -> tuple[Tensor, Tensor, list[int]]:
    """Rows `(C, draws, n)` of either side, and the classes that have n on both."""
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
    """`(draws, C)`, feature units: distance between a class's mean on n training and on n held-out rows.

    NaN for a class with fewer than n rows on either side. Not 0 without a shift: about the square root of the two
    spreads over n. The feature deviation of Ye et al. 2020 (CDT), at matched n.
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
    """`(draws, C)`, feature units: how far n held-out rows of a class reach beyond n training rows.

    The part above the largest and below the smallest training value of each feature, summed over features. NaN for a
    class with fewer than n rows on either side. The generalization gap of Dablain et al. 2022 (EOS), at matched n
    because ranges grow with n.
    """
    result = train_features.new_full((draws, num_classes), torch.nan)
    train, heldout, classes = _matched_pairs(train_labels, heldout_labels, num_classes, n, draws, seed, "range_gap")
    for index in classes:
        seen, unseen = train_features[train[index]].double(), heldout_features[heldout[index]].double()
        above = (unseen.amax(1) - seen.amax(1)).clamp(min=0)  # (draws, D)
        below = (seen.amin(1) - unseen.amin(1)).clamp(min=0)
        result[:, index] = (above + below).sum(1).to(result.dtype)
    return result
