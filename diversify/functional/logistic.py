"""Logistic regression with a weight for every row, by L-BFGS."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .optimize import minimize

_SCORES = 1 << 17  # logits at a time: 512 kB, which stay in the cache

_Array = np.ndarray[Any, np.dtype[np.float64]]


def fit_logistic(
    rows: Tensor,
    labels: Tensor,
    weight: Tensor,
    num_classes: int,
    *,
    mass: float,
    iterations: int,
    tolerance: float = 1e-4,
    bias: bool = True,
    start: Tensor | None = None,
) -> Tensor:
    """Return the coefficients with the least weighted cross entropy plus L2 penalty, `(C, D + 1)` with the bias last.

    Two classes have one row of coefficients, those of class 1. The objective is the sum of `weight` times the cross entropy,
    plus the squared coefficients, without the bias, over `2 * mass`. It, the start, the steps and when they end are those of
    scikit-learn's `LogisticRegression` with `C = mass / sum of its sample weights`; its checks and its pointwise loss take
    longer than the matrix products.

    Args:
        rows: `(N, D)` float32 on the CPU, of about unit variance.
        labels: `(N,)`.
        weight: `(N,)` float32; it should sum to 1.
        num_classes: C.
        mass: How much the rows count beside the penalty.
        iterations: Most iterations.
        tolerance: The search ends where no slope is steeper.
        bias: Whether there is a bias; it is 0 otherwise.
        start: Where the search begins, a result of this function; zeros by default. A start close to the end saves time.

    See Also:
        logistic_scores: The logits.

    Example:
        >>> rows, labels = torch.tensor([[-1.0], [-0.8], [0.9], [1.0]]), torch.tensor([0, 0, 0, 1])
        >>> weight = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2])
        >>> head = fit_logistic(rows, labels, weight, 2, mass=4.0, iterations=100)
        >>> logistic_scores(rows, head).argmax(0).tolist()
        [0, 0, 1, 1]
    """
    shape = (num_classes if num_classes > 2 else 1, rows.shape[1] + 1)
    size = max(1, _SCORES // num_classes)
    parts = [
        (part, own[None], share)
        for part, own, share in zip(*(each.split(size) for each in (rows, labels, weight)), strict=True)
    ]

    def loss(parameters: _Array) -> tuple[float, _Array]:
        head = torch.from_numpy(parameters).view(shape)
        value = float(head[:, :-1].square().sum()) / (2 * mass)
        slope = torch.cat([head[:, :-1] / mass, torch.zeros(len(head), 1, dtype=torch.float64)], 1)
        for part, own, share in parts:
            scores = logistic_scores(part, head.float())
            top = scores.amax(0)
            right = scores.gather(0, own)[0]
            odds = scores.sub_(top).exp_()
            total = odds.sum(0)
            value += float(((total.log() + top - right) * share).sum(dtype=torch.float64))
            pull = odds.mul_(share / total).scatter_add_(0, own, -share[None])[-len(head) :]
            slope[:, :-1] += pull @ part
            if bias:
                slope[:, -1] += pull.sum(1)
        return value, slope.view(-1).numpy()

    begin = np.zeros(shape[0] * shape[1]) if start is None else start.double().view(-1).numpy()
    found = minimize(loss, begin, maxiter=iterations, maxls=50, gtol=tolerance, ftol=64 * np.finfo(float).eps).x
    return torch.from_numpy(found).view(shape).float()


def logistic_scores(rows: Tensor, head: Tensor) -> Tensor:
    """Return the logits `(C, N)`; with one row of coefficients, those of class 0 are 0.

    Args:
        rows: `(N, D)` float32, scaled as for the fit.
        head: A result of `fit_logistic`.

    Example:
        >>> logistic_scores(torch.tensor([[2.0]]), torch.tensor([[3.0, -1.0]])).tolist()
        [[0.0], [5.0]]
    """
    scores = torch.addmm(head[:, -1:], head[:, :-1], rows.T)
    return scores if len(head) > 1 else torch.cat([torch.zeros_like(scores), scores])
