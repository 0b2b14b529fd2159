"""Corrections of a head's logits that are fitted by likelihood on held-out rows: a slope in log n, biases, a temperature.

Every class weighs equally in the likelihood, whatever its number of rows, and each number that is fitted is pulled toward its
usual value by how few rows there are: without rows, each fit is logit adjustment with tau 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..functional import counts, draws
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead
from .post_hoc import adjust_logits

ROUNDS = (0, 2, 4, 8, 16)  # of moving weight to the classes that fare worst
_SPREAD = 0.5  # standard deviation of a class's bias around the slope, before rows are seen
_STEP = 0.3  # of a round, on the logarithm of the weight of the class that fares worst
_SHRUNK = 2.0  # rows with the mean loss of all classes that are added to each class
_LOWEST_TAU, _HIGHEST_TAU = 0.0, 5.0
_SEARCH = 60  # golden sections
_MOST_ROWS = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Held-out rows in float64: their logits under a head, labels, rows per class, and the weight of a row in each class."""

    logits: Tensor
    labels: Tensor
    rows: Tensor

    @classmethod
    def of(cls, heldout: Embeddings, head: LinearHead) -> _Rows:
        some = _some_of_each(heldout.labels.cpu(), head.num_classes)
        logits = head.logits(heldout.features.to(head.weight.device)[some.to(head.weight.device)]).double().cpu()
        labels = heldout.labels.cpu()[some]
        return cls(logits=logits, labels=labels, rows=counts.class_counts(labels, head.num_classes).double())

    def class_losses(self, logits: Tensor) -> Tensor:
        """Return the mean negative log likelihood of each class, `(C,)`; 0 for a class without rows."""
        each = functional.cross_entropy(logits, self.labels, reduction="none")
        return torch.zeros_like(self.rows).index_add(0, self.labels, each) / self.rows.clamp(min=1)

    @property
    def held(self) -> Tensor:
        return self.rows > 0

    @property
    def typical(self) -> float:
        """Rows of a class that has some, on average."""
        return float(self.rows[self.held].mean()) if bool(self.held.any()) else 0.0

    @property
    def pull(self) -> Tensor:
        """Weight of the squared bias of each class against the mean loss over classes, `(C,)`: small where rows are many."""
        return 1 / (2 * _SPREAD**2 * (self.rows + 1) * max(int(self.held.sum()), 1))


def _some_of_each(labels: Tensor, num_classes: int) -> Tensor:
    """Return the rows to fit on: all of them, or where they are very many, as many of each class as keep the fit quick."""
    if len(labels) <= _MOST_ROWS:
        return torch.arange(len(labels))
    order = draws.permutation(len(labels), "fitted rows", 0)
    order = order[labels[order].argsort(stable=True)]
    rows = counts.class_counts(labels, num_classes)
    place = torch.arange(len(labels)) - (rows.cumsum(0) - rows)[labels[order]]
    return order[place < max(1, _MOST_ROWS // num_classes)].sort().values


def fit_slope(heldout: Embeddings, head: LinearHead, log_prior: Tensor, *, usual: float = 1.0) -> float:
    """Return the tau for which `logits - tau * log_prior` is most likely on held-out rows with classes of equal weight.

    One number is fitted, in [0, 5], from class counts alone: what measuring classes one by one must beat. A normal prior
    around `usual` with standard deviation 1 weighs as much as one row, so that tau is `usual` without rows.

    Args:
        heldout: Embeddings of images that the backbone was not trained on.
        head: The head.
        log_prior: Logarithm of each class's share of the training images, `(C,)`.
        usual: The tau to expect: 1 for a head from plain training, 0 for one that was trained to treat classes alike.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> prior = dv.repair.log_prior_of(counts.class_counts(train.labels, train.num_classes))
        >>> round(fit_slope(heldout, head, prior), 1), fit_slope(heldout.select(torch.arange(0)), head, prior)
        (1.2, 1.0)
    """
    side = _Rows.of(heldout, head)
    number = int(side.held.sum())
    if not number:
        return usual
    prior, total = log_prior.double().cpu(), side.typical * number

    def loss(tau: float) -> float:
        found = side.class_losses(side.logits - tau * prior).sum() / number
        return float(found) + (tau - usual) ** 2 / (2 * total)

    return _least(loss, _LOWEST_TAU, _HIGHEST_TAU)


def _least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return where a convex function is least, by golden sections."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    for _ in range(_SEARCH):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return (low + high) / 2


def slope_fitted(heldout: Embeddings, head: LinearHead, log_prior: Tensor, *, usual: float = 1.0) -> LinearHead:
    """Return the head with the log prior subtracted as often as `fit_slope` says.

    Args:
        heldout: Held-out rows.
        head: The head.
        log_prior: `(C,)`.
        usual: See `fit_slope`.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> found = slope_fitted(heldout, head, dv.repair.log_prior_of(torch.tensor([200, 80, 30, 10])))
        >>> round(float((found.logits(heldout.features).argmax(1) == heldout.labels).float().mean()), 2)
        0.95
    """
    return adjust_logits(head, log_prior, fit_slope(heldout, head, log_prior, usual=usual))


def bias_fitted(
    heldout: Embeddings,
    head: LinearHead,
    log_prior: Tensor,
    *,
    temperature: bool = False,
    rounds: Sequence[int] = (0,),
    usual: float = 1.0,
) -> list[LinearHead]:
    """Return heads with a bias per class fitted by likelihood, on top of the fitted slope.

    A class's bias is pulled to the slope like a normal prior of standard deviation 0.5 would do it: with m rows of the class
    the pull is 1 / (m + 1) of that without. With `rounds` above 0 the loss moves toward the classes that fare worst: in each
    round the weight of a class is multiplied by `exp(0.3 * loss / largest loss)`, where the class's mean loss is shrunk to that
    of all classes by two rows. So a class gains only as far as its likelihood says, at the least cost for the others.

    Args:
        heldout: Held-out rows.
        head: The head.
        log_prior: `(C,)`.
        temperature: Fit a temperature as well, by which logits are divided; it is pulled to 1.
        rounds: After how many rounds a head is returned each, ascending.
        usual: See `fit_slope`.

    Returns:
        A head for each of `rounds`.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> prior = dv.repair.log_prior_of(torch.tensor([200, 80, 30, 10]))
        >>> (found,) = bias_fitted(heldout, head, prior)
        >>> round(float((found.logits(heldout.features).argmax(1) == heldout.labels).float().mean()), 2)
        0.95
    """
    base = slope_fitted(heldout, head, log_prior, usual=usual)
    side = _Rows.of(heldout, base)
    number = int(side.held.sum())
    if not number:
        return [base] * len(rounds)
    weight = side.held.double() / number
    bias, scale = torch.zeros(head.num_classes, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    found = []
    for _ in range(max(rounds) + 1):
        bias, scale = _fitted(side, weight, bias, scale, temperature)
        found.append(_with(base, bias, scale))
        losses = side.class_losses(scale.exp() * side.logits + bias)
        shrunk = (side.rows * losses + _SHRUNK * losses[side.held].mean()) / (side.rows + _SHRUNK)
        weight = weight * (_STEP * shrunk / shrunk[side.held].max().clamp(min=1e-12)).exp()
        weight = weight / weight.sum()
    return [found[one] for one in rounds]


def _fitted(side: _Rows, weight: Tensor, bias: Tensor, scale: Tensor, temperature: bool) -> tuple[Tensor, Tensor]:
    """Return the biases and the log scale of logits with the least weighted loss plus pull."""
    bias, scale = bias.clone().requires_grad_(), scale.clone().requires_grad_(temperature)
    numbers = [bias, scale] if temperature else [bias]
    search = torch.optim.LBFGS(numbers, max_iter=100, tolerance_change=1e-12, line_search_fn="strong_wolfe")
    total = side.typical * int(side.held.sum())

    def closure() -> Tensor:
        search.zero_grad()
        loss = (weight * side.class_losses(scale.exp() * side.logits + bias)).sum()
        loss = loss + (side.pull * bias.square()).sum() + scale.square() / (2 * total)
        loss.backward()
        return loss

    with torch.enable_grad():
        search.step(closure)
    return bias.detach(), scale.detach()


def _with(head: LinearHead, bias: Tensor, log_scale: Tensor) -> LinearHead:
    """Return the head whose logits are `exp(log_scale) * logits + bias`."""
    factor = float(log_scale.exp())
    if head.cosine:
        scaled = replace(head, scale=head.scale * factor)
    elif factor == 1:
        scaled = head
    else:
        scaled = replace(head, weight=factor * head.weight, bias=factor * head.bias)
    return adjust_logits(scaled, -bias.float(), 1.0)
