"""How well each class is recognised: confusion, recall, precision, margin, calibration."""

from __future__ import annotations

import torch
from torch import Tensor

from .counts import class_counts


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """`(C, C)` int64: rows are true classes, columns predicted ones."""
    cells = torch.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return cells.view(num_classes, num_classes)


def recall(confusion: Tensor) -> Tensor:
    """`(C,)` float64 in [0, 1]: the share of a class's images that are found; NaN for an absent class."""
    return confusion.diagonal().double() / confusion.sum(1)


def precision(confusion: Tensor) -> Tensor:
    """`(C,)` float64 in [0, 1]: the share of a class's predictions that are right; NaN for one never predicted."""
    return confusion.diagonal().double() / confusion.sum(0)


def f1(confusion: Tensor) -> Tensor:
    """`(C,)` float64 in [0, 1]: 2 TP / (2 TP + FP + FN); NaN for a class that is absent and never predicted."""
    return 2 * confusion.diagonal().double() / (confusion.sum(0) + confusion.sum(1))


def geometric_mean_recall(confusion: Tensor) -> float:
    """In [0, 1]: the geometric mean of the recalls of the classes that are present, 0 where one is never found."""
    found = recall(confusion)
    return float(found[~found.isnan()].log().mean().exp())


def balanced_accuracy(labels: Tensor, predictions: Tensor, num_classes: int) -> float:
    """Mean recall over the classes that are present, in [0, 1]; NaN without rows."""
    return float(recall(confusion_matrix(labels, predictions, num_classes)).nanmean())


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """`(N,)` in logit units: the true class's logit minus the best other; negative where the prediction is wrong.

    Infinite when there is one class only.
    """
    true = labels[:, None]
    return (logits.gather(1, true) - logits.scatter(1, true, -torch.inf).amax(1, keepdim=True)).squeeze(1)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """`(C,)` in [0, 1]: expected calibration error of the top-label confidence, per PREDICTED class.

    Bins of equal width, closed on the right; each weighs by its share of the class's predictions. NaN for a class
    never predicted. Guo et al. 2017, eq. 3, split by predicted class.
    """
    num_classes = logits.shape[1]
    confidence, predicted = logits.double().softmax(1).max(1)
    bin_index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess = torch.zeros(num_classes * bins, dtype=torch.float64, device=logits.device)
    excess.index_add_(0, predicted * bins + bin_index, (predicted == labels).double() - confidence)
    error = excess.view(num_classes, bins).abs().sum(1) / class_counts(predicted, num_classes)
    return error.to(logits.dtype)


def overall_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """In [0, 1]: expected calibration error of the top-label confidence over all rows, each counted once.

    Bins as in `calibration_error`. Guo et al. 2017, eq. 3. NaN without rows.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    bin_index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64, device=logits.device)
    excess.index_add_(0, bin_index, (predicted == labels).double() - confidence)
    return float(excess.abs().sum() / len(labels)) if len(labels) else float("nan")
