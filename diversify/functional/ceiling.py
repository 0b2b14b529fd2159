"""Estimate how well a linear head could classify given features, by heads that are fitted on the other folds."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor

from ..errors import must
from .draws import bits, seed_for
from .logistic import fit_logistic, logistic_scores

HEAD_WORK = 5e10  # multiply-adds per fold above which the number of iterations is reduced
_MOST, _FEWEST = 100, 10  # iterations


def stratified_folds(labels: Tensor, folds: int, *, seed: int, name: str, groups: Tensor | None = None) -> Tensor:
    """Assign rows to folds whose sizes differ by at most 1, in total and within each class.

    With groups, all rows of a group are in one fold, and the folds are as equal as that allows.

    Args:
        labels: Class of each row, `(N,)`.
        folds: Number of folds.
        seed: Seed of the random order.
        name: First part of the key of the draws; different names give independent folds.
        groups: `(N,)`, equal for rows that depend on each other; None if no groups are known.

    Returns:
        `(N,)` int64 in [0, folds). With fewer groups than folds, some folds are empty.

    Example:
        >>> stratified_folds(torch.tensor([0, 0, 0, 0, 1, 1]), 2, seed=0, name="example").tolist()
        [1, 0, 1, 0, 0, 1]
        >>> groups = torch.tensor([7, 7, 8, 8, 7, 8])
        >>> stratified_folds(torch.tensor([0, 0, 0, 0, 1, 1]), 2, seed=0, name="example", groups=groups).tolist()
        [0, 0, 1, 1, 0, 1]
    """
    if groups is not None:
        return _group_folds(labels, folds, groups, seed_for(name, seed))
    rows = torch.arange(len(labels), device=labels.device)
    shuffled = bits(name, seed, rows).argsort(stable=True)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    fold = torch.empty_like(rows)
    fold[order] = rows % folds
    return fold


def _group_folds(labels: Tensor, folds: int, groups: Tensor, seed: int) -> Tensor:
    """Folds that split no group, by scikit-learn's greedy rule on groups in a random order."""
    # scikit-learn wants as many groups as folds, and a class with as many rows
    most = min(folds, len(groups.unique()), int(torch.bincount(labels).max()))
    fold = torch.zeros_like(labels)
    if most < 2:
        return fold
    splitter = StratifiedGroupKFold(most, shuffle=True, random_state=seed % (1 << 32))
    target = labels.cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on classes with fewer rows than folds
        parts = list(splitter.split(target, target, groups.cpu().numpy()))
    for place, (_, rows) in enumerate(parts):
        fold[torch.from_numpy(rows).to(fold.device)] = place
    return fold


def cross_fitted_predictions(
    features: Tensor, labels: Tensor, num_classes: int, *, folds: int = 5, seed: int, balance: bool = True
) -> Tensor:
    """Predict each row by a logistic regression that was fitted on the other folds.

    The balanced accuracy of these predictions minus that of the model's own head is what a better head could gain on
    the same features. The regression is multinomial, on standardised features, with L2 penalty 1. It runs at most 100
    iterations of L-BFGS; fewer, but at least 10, where rows x features x classes would cost more than 5e10
    multiply-adds per fold.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        folds: Number of folds.
        seed: Seed of the folds.
        balance: Weight rows by the inverse frequency of their class.

    Returns:
        `(N,)` int64 predicted classes. A class with a single row is never predicted for that row.

    Raises:
        InputError: `folds` is below 2 or above the number of rows.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
        >>> cross_fitted_predictions(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2, folds=3, seed=0).tolist()
        [0, 0, 0, 1, 1, 1]
    """
    return cross_fit(features, labels, num_classes, folds=folds, seed=seed, balance=balance).predictions


class CrossFit(NamedTuple):
    """The predictions for each row by a head that was fitted without it.

    Attributes:
        predictions: `(N,)` int64, the predicted classes.
        probabilities: `(N, C)` float32; 0 for a class without rows in the other folds.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
        >>> found = cross_fit(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2, folds=3, seed=0)
        >>> bool((found.probabilities.argmax(1) == found.predictions).all())
        True
    """

    predictions: Tensor
    probabilities: Tensor


def cross_fit(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    folds: int = 5,
    seed: int,
    balance: bool = True,
    work: float = HEAD_WORK,
    groups: Tensor | None = None,
) -> CrossFit:
    """Predict each row, with probabilities, by a logistic regression that was fitted on the other folds.

    `cross_fitted_predictions` describes the regression.

    Args:
        features: `(N, D)`.
        labels: `(N,)`.
        num_classes: C.
        folds: Number of folds.
        seed: Seed of the folds.
        balance: Weight rows by the inverse frequency of their class; the probabilities are then those of equally large
            classes.
        work: Multiply-adds per fold above which the number of iterations is reduced.
        groups: `(N,)`, the group of each row: no row is predicted from rows of its group. None if no groups are known.

    Returns:
        Predictions and probabilities.

    Raises:
        InputError: `folds` is below 2 or above the number of rows, or there is one group.

    Example:
        >>> features = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2]])
        >>> found = cross_fit(features, torch.tensor([0, 0, 0, 1, 1, 1]), 2, folds=3, seed=0)
        >>> found.predictions.tolist(), found.probabilities.shape
        ([0, 0, 0, 1, 1, 1], torch.Size([6, 2]))
    """
    if not 2 <= folds <= len(labels):
        raise must("folds", f"lie in [2, {len(labels)}], the number of rows", folds)
    if groups is not None and len(groups.unique()) < 2:
        raise must("groups", "be at least 2", 1)
    fold = stratified_folds(labels, folds, seed=seed, name="head_ceiling", groups=groups).cpu()
    rows, target = features.detach().cpu().float(), labels.cpu()
    predictions = torch.empty(len(target), dtype=torch.int64)
    probabilities = torch.zeros(len(target), num_classes)
    iterations = int(min(_MOST, max(_FEWEST, work / (2 * max(rows.numel() * num_classes, 1)))))
    for index in range(folds):
        held = fold == index
        if not bool(held.any()):
            continue
        seen = rows[~held]
        if len(target[~held].unique()) == 1:
            predictions[held] = only = target[~held][0]
            probabilities[held, only] = 1
            continue
        scale, centre = torch.std_mean(seen, dim=0, correction=0)
        scale = scale.masked_fill(scale == 0, 1)
        classes, own = target[~held].unique(return_inverse=True)
        head = _fitted_head((seen - centre).div_(scale), own, balance=balance, iterations=iterations)
        scores = logistic_scores((rows[held] - centre).div_(scale), head).T
        predictions[held] = classes[scores.argmax(1)]
        chances = torch.zeros(len(scores), num_classes)
        probabilities[held] = chances.index_copy_(1, classes, scores.softmax(1))
    return CrossFit(predictions.to(labels.device), probabilities.to(labels.device))


def balanced_head(rows: Tensor, labels: Tensor, *, start: Tensor | None = None, iterations: int = _MOST) -> Tensor:
    """Return the coefficients of a logistic regression in which every class weighs the same.

    Args:
        rows: `(N, D)` float32, standardised.
        labels: `(N,)`; every class from 0 to the largest label has a row.
        start: Where the search begins, a result of this function; zeros by default. A start close to the end saves time.
        iterations: Most iterations.

    Returns:
        `(C, D + 1)` float32 with the bias last; `(1, D + 1)` for two classes.

    See Also:
        head_scores: The logits.

    Example:
        >>> rows, labels = torch.tensor([[-1.0], [-0.8], [0.9], [1.0]]), torch.tensor([0, 0, 0, 1])
        >>> head = balanced_head(rows, labels)
        >>> head_scores(rows, head).argmax(1).tolist()
        [0, 0, 1, 1]
    """
    return _fitted_head(rows, labels, balance=True, iterations=iterations, start=start)


def head_scores(rows: Tensor, head: Tensor) -> Tensor:
    """Return the logits `(N, C)` of rows under a result of `balanced_head`.

    Args:
        rows: `(N, D)` float32, standardised as for the fit.
        head: The coefficients.

    Example:
        >>> head_scores(torch.tensor([[2.0]]), torch.tensor([[3.0, -1.0]])).tolist()
        [[0.0, 5.0]]
    """
    return logistic_scores(rows, head).T


def _fitted_head(
    rows: Tensor, labels: Tensor, *, balance: bool, iterations: int, start: Tensor | None = None
) -> Tensor:
    """The coefficients of a logistic regression with L2 penalty 1 in all, as `fit_logistic` returns them.

    Args:
        rows: `(N, D)` float32, standardised.
        labels: `(N,)`, every class from 0 on has a row.
        balance: Weight rows by the inverse frequency of their class.
        iterations: Most iterations.
        start: Where the search begins; zeros by default.
    """
    sizes = torch.bincount(labels)
    weight = (len(rows) / (len(sizes) * sizes.double())).float() if balance else torch.ones(len(sizes))
    weight = weight[labels]
    mass = float(weight.double().sum())
    return fit_logistic(rows, labels, weight / mass, len(sizes), mass=mass, iterations=iterations, start=start)
