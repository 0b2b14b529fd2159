"""Measures for images with several labels: each label is a yes-or-no question of its own, its positives against the rest."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from ..errors import must
from .ceiling import stratified_folds
from .draws import integers

_WORK = 5e10  # multiply-adds per fold above which the number of iterations is reduced
_MOST, _FEWEST = 100, 10  # iterations
_LAW = "be 0 or 1 for every label, (N, C)"


def read_multilabels(name: str, labels: Any, *, rows: int | None = None, num_labels: int | None = None) -> Tensor:
    """Return multi-hot labels of any numeric type as `(N, C)` bool on the CPU.

    Args:
        name: What errors call the labels.
        labels: 0 or 1 for every image and label, `(N, C)`: a tensor, an array, or a list of rows.
        rows: Number of images; None if it is not known.
        num_labels: C; None if it is not known.

    Raises:
        InputError: They have another shape, or a value is not 0 or 1.

    Example:
        >>> read_multilabels("labels", [[1, 0, 1], [0.0, 0.0, 0.0]]).tolist()
        [[True, False, True], [False, False, False]]
    """
    try:
        values = labels.detach().cpu() if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    except (TypeError, ValueError):
        advice = "pass the labels as its examples give them" if hasattr(labels, "__getitem__") else ""
        raise must(name, _LAW, f"a {type(labels).__name__} that is no table of numbers", advice) from None
    if values.is_complex():
        raise must(name, _LAW, str(values.dtype).removeprefix("torch."))
    if values.ndim != 2:
        single = "for one label per image, use dv.extract and dv.diagnose, or leave out --multilabel"
        advice = single if values.ndim == 1 else ""
        raise must(name, _LAW, f"shape {tuple(values.shape)}", advice)
    if rows is not None and len(values) != rows:
        raise must(name, f"have one row per image, {rows}", len(values))
    if num_labels is not None and values.shape[1] != num_labels:
        raise must(name, f"have one column per output of the head, {num_labels}", values.shape[1])
    wrong = ~((values == 0) | (values == 1))
    if bool(wrong.any()):
        row, column = (int(place) for place in wrong.nonzero()[0])
        value = float(values[row, column])
        advice = "take the labels from before the images were mixed or smoothed" if 0 < value < 1 else ""
        if value < 0 or value > 1 or math.isnan(value):
            advice = "decide what an unknown label counts as before: leave its image out, or set it to 0"
        raise must(name, _LAW, f"{value:g} at row {row}, label {column}", advice)
    return values.bool()


def require_one_label(name: str, value: object, advice: str = "") -> None:
    """Raise an InputError if a value was made for several labels per image, where only one label is defined.

    Args:
        name: The parameter.
        value: A `MultilabelEmbeddings` or `MultilabelDiagnosis` is refused; everything else passes.
        advice: What to use instead.

    Raises:
        InputError: The value is for several labels per image.

    Example:
        >>> require_one_label("diagnosis", 3)
    """
    if getattr(value, "several_labels", False) is True:
        raise must(name, "be of images with one label each", f"a {type(value).__name__}", advice)


def decision_counts(labels: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, for each label, the true positives, the positives, and the images predicted as positive.

    Args:
        labels: `(N, C)` bool.
        predicted: `(N, C)` bool.

    Returns:
        Three `(C,)` int64. Recall is the first over the second, precision the first over the third.

    Example:
        >>> labels, predicted = torch.tensor([[1, 0], [1, 1]]).bool(), torch.tensor([[1, 1], [0, 1]]).bool()
        >>> [count.tolist() for count in decision_counts(labels, predicted)]
        [[1, 1], [2, 1], [1, 2]]
    """
    return (labels & predicted).sum(0), labels.sum(0), predicted.sum(0)


def f1_of_counts(hits: Tensor, positives: Tensor, predicted: Tensor) -> Tensor:
    """Return the F1 score, 2 TP / (positives + predicted positives).

    Args:
        hits: True positives, of any shape.
        positives: Positives.
        predicted: Images predicted as positive.

    Returns:
        float64 in [0, 1]; NaN where there are no positives.

    Example:
        >>> f1_of_counts(torch.tensor([2, 0]), torch.tensor([4, 0]), torch.tensor([4, 3])).tolist()
        [0.5, nan]
    """
    return (2 * hits.double() / (positives + predicted)).where(positives > 0, torch.nan)


def average_precision(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the average precision of each label: precision summed over the steps of recall, without interpolation.

    It is `sklearn.metrics.average_precision_score`, for many labels and many weightings of the images at once. Images
    with equal scores enter together. For scores without any information it is the prevalence of the label.

    Args:
        scores: `(N, C)`; larger means more likely positive.
        labels: `(N, C)` bool.
        weights: `(B, N)`, how often each image counts, for example in bootstrap draws; None counts each once.

    Returns:
        `(C,)`, or `(B, C)` with weights, float64 in [0, 1]; NaN for a label without positives.

    Example:
        >>> scores = torch.tensor([[0.9], [0.8], [0.7], [0.6]])
        >>> average_precision(scores, torch.tensor([[1], [0], [1], [0]]).bool()).tolist()
        [0.8333333333333333]
    """
    rows, num_labels = scores.shape
    times = torch.ones(1, rows, dtype=torch.float64, device=scores.device) if weights is None else weights.double()
    result = times.new_full((len(times), num_labels), torch.nan)
    for c in range(num_labels):
        if rows == 0:
            break
        value, order = scores[:, c].sort(descending=True, stable=True)
        ends = torch.ones(rows, dtype=torch.bool, device=scores.device)
        ends[:-1] = value[:-1] != value[1:]
        weight = times[:, order]
        hits = (weight * labels[order, c]).cumsum(1)[:, ends]
        predicted = weight.cumsum(1)[:, ends]
        step = hits.diff(dim=1, prepend=torch.zeros_like(hits[:, :1]))
        total = hits[:, -1]
        area = (step * hits / predicted.clamp(min=1e-300)).sum(1)
        result[:, c] = (area / total).clamp(max=1).where(total > 0, torch.nan)
    return result[0] if weights is None else result


def bootstrap_weights(rows: int, draws: Tensor, *, seed: int, name: str) -> Tensor:
    """Return how often each image comes in draws of as many images with replacement.

    Args:
        rows: N.
        draws: Numbers of the draws, `(B,)` int64.
        seed: Seed.
        name: First part of the key of the draws.

    Returns:
        `(B, N)` float64; each row sums to N.

    Example:
        >>> bootstrap_weights(4, torch.arange(2), seed=0, name="example").sum(1).tolist()
        [4.0, 4.0]
    """
    place = torch.arange(rows)
    chosen = integers(rows, name, seed, draws[:, None], place)
    times = torch.zeros(len(draws), rows, dtype=torch.float64)
    return times.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))


def binary_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Return the expected calibration error of each label's probability of being present.

    Bins have equal width and are closed on the right; each is weighted by its share of the images.

    Args:
        logits: `(N, C)`; their sigmoid is the probability.
        labels: `(N, C)` bool.
        bins: Number of bins.

    Returns:
        `(C,)` float64 in [0, 1]; NaN without images.

    References:
        Guo et al., "On calibration of modern neural networks", 2017, equation 3; here of the probability of each label.

    Example:
        >>> logits = torch.tensor([[0.0], [0.0]])
        >>> binary_calibration_error(logits, torch.tensor([[1], [1]]).bool()).tolist()
        [0.5]
    """
    rows, num_labels = logits.shape
    probability = logits.double().sigmoid()
    place = ((probability * bins).ceil().long() - 1).clamp(0, bins - 1)
    excess = torch.zeros(bins, num_labels, dtype=torch.float64, device=logits.device)
    excess.scatter_add_(0, place, labels.double() - probability)
    return excess.abs().sum(0) / rows


def cooccurrence(labels: Tensor) -> Tensor:
    """Return, for every two labels, the share of the images with the first that also have the second.

    Args:
        labels: `(N, C)` bool.

    Returns:
        `(C, C)` float64: row a, column b is P(b | a); 1 on the diagonal. A row without positives is NaN.

    Example:
        >>> cooccurrence(torch.tensor([[1, 1], [1, 0]]).bool()).tolist()
        [[1.0, 0.5], [1.0, 1.0]]
    """
    counted = labels.double()
    both = counted.T @ counted
    return both / both.diagonal()[:, None]


def best_thresholds(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the threshold of each label with the largest F1 score; images at or above it are predicted as positive.

    It lies in the middle between two scores. Of several equally good thresholds it is the highest.

    Args:
        scores: `(N, C)`, for example logits.
        labels: `(N, C)` bool.

    Returns:
        `(C,)` float64; NaN for a label without positives.

    References:
        Lipton, Elkan and Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014.

    Example:
        >>> scores = torch.tensor([[3.0], [2.0], [1.0], [0.0]])
        >>> best_thresholds(scores, torch.tensor([[1], [1], [0], [0]]).bool()).tolist()
        [1.5]
    """
    rows, num_labels = scores.shape
    result = torch.full((num_labels,), torch.nan, dtype=torch.float64)
    for c in range(num_labels):
        positives = int(labels[:, c].sum())
        if positives == 0:
            continue
        value, order = scores[:, c].double().sort(descending=True, stable=True)
        ends = torch.ones(rows, dtype=torch.bool, device=scores.device)
        ends[:-1] = value[:-1] != value[1:]
        hits = labels[order, c].double().cumsum(0)
        predicted = torch.arange(1, rows + 1, device=scores.device)
        place = int((2 * hits / (positives + predicted)).masked_fill(~ends, -1).argmax())
        result[c] = value[place] if place == rows - 1 else (value[place] + value[place + 1]) / 2
    return result


def label_folds(labels: Tensor, folds: int, *, seed: int) -> Tensor:
    """Assign images to folds for each label by itself, its positives and negatives evenly; -1 for a label with too few.

    Args:
        labels: `(N, C)` bool.
        folds: Number of folds, at least 2.
        seed: Seed of the random order.

    Returns:
        `(N, C)` int64 in [0, folds); -1 throughout for a label with fewer positives or negatives than folds.

    Example:
        >>> labels = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 1]]).bool()
        >>> label_folds(labels, 2, seed=0)[:, 1].tolist()
        [-1, -1, -1, -1]
    """
    result = torch.full(labels.shape, -1, dtype=torch.int64)
    for c in range(labels.shape[1]):
        positives = int(labels[:, c].sum())
        if min(positives, len(labels) - positives) >= folds:
            result[:, c] = stratified_folds(labels[:, c].long(), folds, seed=seed, name=f"label {c}")
    return result


def cross_fitted_decisions(scores: Tensor, labels: Tensor, fold: Tensor) -> Tensor:
    """Predict each image with the best threshold of the other folds, so that no threshold is judged on its own rows.

    Args:
        scores: `(N, C)`.
        labels: `(N, C)` bool.
        fold: `(N, C)`, from `label_folds`.

    Returns:
        `(N, C)` bool; False for a label without folds.

    Example:
        >>> scores = torch.tensor([[5.0], [4.0], [1.0], [0.0]])
        >>> labels = torch.tensor([[1], [1], [0], [0]]).bool()
        >>> cross_fitted_decisions(scores, labels, torch.tensor([[0], [1], [0], [1]])).flatten().tolist()
        [True, True, False, False]
    """
    predicted = torch.zeros(labels.shape, dtype=torch.bool)
    for c in range(labels.shape[1]):
        for index in fold[:, c].unique().tolist():
            held = fold[:, c] == index
            if index >= 0:
                threshold = best_thresholds(scores[~held, c : c + 1], labels[~held, c : c + 1])
                predicted[held, c] = scores[held, c].double() >= threshold
    return predicted


def cross_fitted_scores(features: Tensor, labels: Tensor, fold: Tensor) -> Tensor:
    """Score each image by a logistic regression of each label that was fitted on the other folds.

    Their average precision minus that of the model's own head is what a better head could gain on the same features.
    Features are standardised, the L2 penalty is 1, and positives and negatives weigh the same.

    Args:
        features: `(N, D)`.
        labels: `(N, C)` bool.
        fold: `(N, C)`, from `label_folds`.

    Returns:
        `(N, C)` float64 logits; NaN for a label without folds.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [0.9], [1.0]])
        >>> labels, fold = torch.tensor([[0], [0], [1], [1]]).bool(), torch.tensor([[0], [1], [0], [1]])
        >>> (cross_fitted_scores(features, labels, fold) > 0).flatten().tolist()
        [False, False, True, True]
    """
    rows = features.detach().cpu().double()
    scores = torch.full(labels.shape, torch.nan, dtype=torch.float64)
    iterations = int(min(_MOST, max(_FEWEST, _WORK / (2 * max(rows.numel() * labels.shape[1], 1)))))
    for c in range(labels.shape[1]):
        for index in fold[:, c].unique().tolist():
            if index < 0:
                continue
            held = fold[:, c] == index
            seen = rows[~held]
            scale, centre = torch.std_mean(seen, dim=0, correction=0)
            scale = scale.masked_fill(scale == 0, 1)
            head = LogisticRegression(class_weight="balanced", max_iter=iterations)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is intended
                head.fit(((seen - centre) / scale).numpy(), labels[~held, c].numpy())
            scores[held, c] = torch.from_numpy(head.decision_function(((rows[held] - centre) / scale).numpy()))
    return scores


def prior_log_odds(positives: Tensor, images: int) -> Tensor:
    """Return the log odds of each label in the training set; subtracting them from logits removes the label's prior.

    Args:
        positives: Training images with each label, `(C,)`.
        images: Number of training images.

    Returns:
        `(C,)` float64. A label that no image or every image has counts as if half an image were otherwise.

    References:
        Menon et al., "Long-tail learning via logit adjustment", 2021, here for each label by itself.

    Example:
        >>> [round(value, 2) for value in prior_log_odds(torch.tensor([50, 10]), 100).tolist()]
        [0.0, -2.2]
    """
    share = positives.double().clamp(0.5, images - 0.5) / images
    return share.logit()
