"""Measure how well each class is recognised: confusion, recall, precision, margin, calibration."""

from __future__ import annotations

import torch
from torch import Tensor

from .blocks import joined, joined_columns
from .counts import class_counts

_BLOCK = 1 << 20  # logits at a time, so that memory-mapped ones stay on the disk


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Count the rows of each true class that are predicted as each class.

    Args:
        labels: `(N,)`.
        predictions: `(N,)`.
        num_classes: C.

    Returns:
        `(C, C)` int64; rows are true classes, columns predicted classes.

    Example:
        >>> confusion_matrix(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    cells = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def recall(confusion: Tensor) -> Tensor:
    """Return the share of each class's images that are predicted as that class.

    Args:
        confusion: `(C, C)`, from `confusion_matrix`.

    Returns:
        `(C,)` float64 in [0, 1]; NaN for an absent class.

    Example:
        >>> recall(torch.tensor([[3, 1], [0, 4]])).tolist()
        [0.75, 1.0]
    """
    return confusion.diagonal().double() / confusion.sum(1)


def precision(confusion: Tensor) -> Tensor:
    """Return the share of each class's predictions that are right.

    Args:
        confusion: `(C, C)`, from `confusion_matrix`.

    Returns:
        `(C,)` float64 in [0, 1]; NaN for a class that is never predicted.

    Example:
        >>> precision(torch.tensor([[3, 1], [0, 4]])).tolist()
        [1.0, 0.8]
    """
    return confusion.diagonal().double() / confusion.sum(0)


def f1(confusion: Tensor) -> Tensor:
    """Return the F1 score of each class, 2 TP / (2 TP + FP + FN).

    Args:
        confusion: `(C, C)`, from `confusion_matrix`.

    Returns:
        `(C,)` float64 in [0, 1]; NaN for a class that is absent and never predicted.

    Example:
        >>> [round(score, 2) for score in f1(torch.tensor([[3, 1], [0, 4]])).tolist()]
        [0.86, 0.89]
    """
    return 2 * confusion.diagonal().double() / (confusion.sum(0) + confusion.sum(1))


def geometric_mean_recall(confusion: Tensor) -> float:
    """Return the geometric mean of the recalls of the classes that are present.

    Args:
        confusion: `(C, C)`, from `confusion_matrix`.

    Returns:
        In [0, 1]; 0 where the recall of any class is 0.

    References:
        Kubat and Matwin, "Addressing the curse of imbalanced training sets: one-sided selection", 1997.

    Example:
        >>> round(geometric_mean_recall(torch.tensor([[9, 1], [6, 4]])), 2)
        0.6
    """
    found = recall(confusion)
    return float(found[~found.isnan()].log().mean().exp())


def balanced_accuracy(labels: Tensor, predictions: Tensor, num_classes: int) -> float:
    """Return the mean recall over the classes that are present.

    Args:
        labels: `(N,)`.
        predictions: `(N,)`.
        num_classes: C.

    Returns:
        In [0, 1]; NaN without rows.

    Example:
        >>> balanced_accuracy(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 0]), 2)
        0.5
    """
    return float(recall(confusion_matrix(labels, predictions, num_classes)).nanmean())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Subtract the largest other logit from the logit of the true class; negative where the prediction is wrong.

    Args:
        logits: `(N, C)`.
        labels: `(N,)`.

    Returns:
        `(N,)` in logit units; infinite when there is only one class.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 4.0]]), torch.tensor([0, 1])).tolist()
        [1.0, -3.0]
    """
    size = max(1, _BLOCK // max(logits.shape[1], 1))
    parts = zip(logits.split(size), labels[:, None].split(size), strict=True)
    found = (rows.gather(1, own) - rows.scatter(1, own, -torch.inf).amax(1, keepdim=True) for rows, own in parts)
    return joined(found, len(logits)).squeeze(1)


def top_confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest probability of each row, `(N,)` float64, and its class, a block of rows at a time.

    Args:
        logits: `(N, C)`.

    Example:
        >>> [each.tolist() for each in top_confidence(torch.tensor([[0.0, 0.0, 40.0]]))]
        [[1.0], [2]]
    """
    blocks = logits.split(max(1, _BLOCK // max(logits.shape[1], 1)))
    confidence, classes = joined_columns((rows.double().softmax(1).max(1) for rows in blocks), len(logits))
    return confidence, classes


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the expected calibration error of the top-label confidence for each PREDICTED class.

    Bins have equal width and are closed on the right. Each bin is weighted by its share of the class's predictions.

    Args:
        logits: `(N, C)`.
        labels: `(N,)`.
        bins: Number of bins.

    Returns:
        `(C,)` in [0, 1]; NaN for a class that is never predicted.

    References:
        Guo et al., "On calibration of modern neural networks", 2017, equation 3; here split by predicted class.

    Example:
        >>> logits = torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log()
        >>> [round(error, 2) for error in calibration_error(logits, torch.tensor([0, 1])).tolist()]
        [0.25, nan]
    """
    confidence, predicted = top_confidence(logits)
    return calibration_error_of(confidence, predicted, labels, logits.shape[1], bins).to(logits.dtype)


def calibration_error_of(
    confidence: Tensor, predicted: Tensor, labels: Tensor, num_classes: int, bins: int = 15
) -> Tensor:
    """Return `calibration_error` `(C,)` float64 from what `top_confidence` returns, which may be joined from blocks of rows.

    Args:
        confidence: `(N,)` float64, the largest probability of each row.
        predicted: `(N,)`, its class.
        labels: `(N,)`.
        num_classes: C.
        bins: Number of bins.

    Example:
        >>> sure, zero = torch.tensor([0.75, 0.75]).double(), torch.tensor([0, 0])
        >>> calibration_error_of(sure, zero, torch.tensor([0, 1]), 2).tolist()
        [0.25, nan]
    """
    bin_index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess = torch.zeros(num_classes * bins, dtype=torch.float64, device=confidence.device)
    excess.index_add_(0, predicted * bins + bin_index, (predicted == labels).double() - confidence)
    return excess.view(num_classes, bins).abs().sum(1) / class_counts(predicted, num_classes)


def overall_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of the top-label confidence over all rows, each counted once.

    Args:
        logits: `(N, C)`.
        labels: `(N,)`.
        bins: Number of bins, as in `calibration_error`.

    Returns:
        In [0, 1]; NaN without rows.

    References:
        Guo et al., "On calibration of modern neural networks", 2017, equation 3.

    Example:
        >>> logits = torch.tensor([[0.75, 0.25], [0.25, 0.75]]).log()
        >>> round(overall_calibration_error(logits, torch.tensor([0, 1])), 2)
        0.25
    """
    confidence, predicted = top_confidence(logits)
    bin_index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    excess.index_add_(0, bin_index, (predicted == labels).double() - confidence)
    return float(excess.abs().sum() / len(labels)) if len(labels) else float("nan")
