"""Compare classifiers that held-out rows cannot tell apart by accuracy: which gives the true classes the most probability."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..functional import counts
from .choice import LOSS_DIGITS

MOST_LOGITS = 1 << 21  # logits of the held-out rows; with more of them accuracy alone decides, and is known better
_STEPS = 30
_FITTED = 2048  # rows from which the factor on the logits is fitted first
_NEVER = -1e29  # below it lie the logits of classes that are never predicted
_FARTHEST = -1e6  # a class that is never predicted has a logit that would hide the differences of the others
_WIDEST = 4.0  # factor by which the temperature changes in a step


def tempered_losses(logits: Tensor, labels: Tensor, share: Tensor) -> Tensor:
    """Return the cross entropy of each row, `(N,)` float64, after the logits are scaled by one number.

    The number makes the mean loss least, so that heads are compared by what they know and not by how sure they are.

    Args:
        logits: `(N, C)`.
        labels: `(N,)`.
        share: Weight of each class in the mean, `(C,)`; it should sum to 1.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
        >>> share = torch.tensor([0.5, 0.5])
        >>> [round(value, 2) for value in tempered_losses(logits, labels, share).tolist()]
        [0.12, 0.31, 1.32]
        >>> torch.allclose(tempered_losses(100 * logits, labels, share), tempered_losses(logits, labels, share))
        True
    """
    logits = logits - logits.amax(1, keepdim=True)
    usual = logits[(logits < 0) & (logits > _NEVER)]
    logits /= float(usual.abs().median()) if len(usual) else 1.0
    logits.clamp_(min=_FARTHEST)
    some = labels.argsort(stable=True)[:: -(-len(labels) // _FITTED)]  # every class in proportion
    factor = _best_factor(logits[some], labels[some], share, 1.0)
    if len(some) < len(labels):
        factor = _best_factor(logits, labels, share, factor)
    logits *= factor
    return (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).double()


def _best_factor(logits: Tensor, labels: Tensor, share: Tensor, factor: float) -> float:
    """The factor on the logits with the least mean loss, by Newton's method from a first one; the loss is convex in it."""
    right = logits.gather(1, labels[:, None])[:, 0].double()
    weight = (share.double() / counts.class_counts(labels, len(share)).clamp(min=1))[labels]
    squared = logits.square()
    for _ in range(_STEPS):
        odds = (factor * logits).softmax(1)
        mean = (odds * logits).sum(1).double()
        slope = float(weight @ (mean - right))
        bend = float(weight @ ((odds * squared).sum(1).double() - mean.square()))
        aim = factor - slope / bend if bend > 0 else 0.0 if slope > 0 else torch.inf
        last, factor = factor, min(max(aim, factor / _WIDEST), factor * _WIDEST)
        if abs(factor - last) <= 1e-4 * last:
            break
    return factor


def likeliest(right: Tensor, losses: Tensor, labels: Tensor, share: Tensor) -> int:
    """Return the classifier with the least loss among those whose accuracy is within one standard error of the highest.

    Args:
        right: How often each of X classifiers is right on each row, `(X, N)`, in [0, 1].
        losses: The loss of each on each row, `(X, N)`.
        labels: `(N,)`.
        share: Weight of the recall and the loss of each class, `(C,)`.

    Returns:
        Its index; of losses that are equal in three digits, the first. A classifier that is not less accurate than one within one
        standard error competes, too.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> right = torch.tensor([[1.0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0]])
        >>> losses = torch.tensor([[0.2, 0.2, 0.2, 2.0], [0.2, 0.2, 0.9, 0.2], [0.0, 0.0, 0.0, 0.0]])
        >>> likeliest(right, losses, labels, torch.tensor([0.5, 0.5]))
        1
    """
    rows = counts.class_counts(labels, len(share))
    held = rows > 0
    order, start = labels.argsort(stable=True), (rows.cumsum(0) - rows)[held].numpy()
    rows, share = rows[held].double(), share[held].double()

    def sums(values: Tensor) -> Tensor:  # over the rows of each class that has some, (X, C)
        return torch.from_numpy(np.add.reduceat(values[:, order].double().numpy(), start, axis=1))

    mean = ((sums(right) / rows) @ share).round(decimals=12)  # so that rounding does not decide between equals
    loss = ((sums(losses) / rows) @ share).round(decimals=LOSS_DIGITS).nan_to_num(nan=torch.inf)
    best = int(mean.argmax())
    behind = right[best] - right
    total, squares = sums(behind), sums(behind.square())
    more = rows + 2  # one row on each side, as in `balanced_difference`
    error = (share.square() * ((squares + 1) / more - (total / more).square()) / more).sum(1).sqrt()
    lowest = mean[mean[best] - mean <= error].min()
    competes = (mean >= lowest).nonzero()[:, 0]
    return int(competes[loss[competes].argmin()])


def as_likely(losses: Tensor, other: Tensor, labels: Tensor, share: Tensor) -> bool:
    """Return whether a classifier's mean loss is above that of another by at most one standard error of the difference.

    The difference of every row is compared with the mean difference over all classes, so that a class of one row counts, too.
    Losses that agree in three digits are equal.

    Args:
        losses: Its loss on each row, `(N,)`.
        other: The loss of the other, `(N,)`.
        labels: `(N,)`.
        share: Weight of the loss of each class, `(C,)`.

    Example:
        >>> labels, share = torch.tensor([0, 0, 1, 1]), torch.tensor([0.5, 0.5])
        >>> one, other = torch.tensor([0.9, 0.2, 0.9, 0.3]), torch.tensor([0.2, 0.5, 0.8, 0.2])
        >>> as_likely(one, other, labels, share), as_likely(one, one - 0.1, labels, share)
        (True, False)
    """
    rows = counts.class_counts(labels, len(share)).double()
    weight = (share.double() / rows.clamp(min=1))[labels]
    used = weight > 0
    weight, losses, other = weight[used] / weight.sum(), losses[used].double(), other[used].double()
    if not bool(losses.isfinite().all() and other.isfinite().all()):
        return bool((weight @ losses).isfinite()) or not bool((weight @ other).isfinite())
    more = losses - other
    mean = float(weight @ more)
    error = float((weight.square() @ (more - mean).square()).sqrt())
    least: float = 10.0**-LOSS_DIGITS / 2
    return mean <= max(error, least)
