"""Losses as modules: made once of class counts, they keep on their device what `functional/losses.py` is to be given.

Two slots of `Ingredients.criterion` go with them: `Always(loss)` is one loss for every epoch, `Deferred(first, then, epoch)`
another one from an epoch on. What a module keeps is made of its arguments, and no part of its `state_dict`.

    counts = [500, 50, 5]
    weight = class_weights(counts, "effective_number")
    Ingredients(criterion=Deferred(LDAM(counts), LDAM(counts, weight=weight), start_epoch=160))  # LDAM-DRW
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import must, unknown
from ..functional.losses import (
    asymmetric_loss,
    effective_number_weights,
    focal_loss,
    inverse_frequency_weights,
    ldam_loss,
    ldam_margins,
    log_prior_of,
    prior_corrected_cross_entropy,
    scaling_factors,
    square_root_weights,
    vector_scaling_loss,
    weighted_cross_entropy,
)

Loss = Callable[[Tensor, Tensor], Tensor]
Numbers = Tensor | Sequence[float]
RULES = ("inverse_frequency", "square_root", "effective_number")


class _CostSensitive(nn.Module):
    """Keeps `(C,)` tensors beside the module, in float32, out of its state; `weight` is None or one of them."""

    weight: Tensor | None

    def __init__(self, weight: Numbers | None = None, **columns: Tensor) -> None:
        super().__init__()
        kept = None if weight is None else _usable("class weights", weight)
        for name, column in columns.items():
            if kept is not None and kept.shape != column.shape:
                raise must("class weights", f"be {len(column)}, one per class", len(kept))
            self.register_buffer(name, column.float(), persistent=False)
        self.register_buffer("weight", None if kept is None else kept.float(), persistent=False)


class Weighted(_CostSensitive):
    """Cross entropy with weights per class, by a rule of the class counts; a class without images has weight 0.

    Args:
        counts: Training images of every class.
        rule: "inverse_frequency" `1 / n`, "square_root" `1 / sqrt(n)` or "effective_number" `(1 - beta) / (1 - beta^n)`,
            each of mean 1 over the classes that have images.
        beta: For "effective_number", in [0, 1).

    Raises:
        InputError: counts that are no counts, an unknown rule, or a beta outside [0, 1).
    """

    def __init__(self, counts: Numbers, *, rule: str = "effective_number", beta: float = 0.9999) -> None:
        super().__init__(class_weights(counts, rule, beta=beta))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.weighted_cross_entropy`."""
        return weighted_cross_entropy(logits, targets, self.weight)


class Focal(_CostSensitive):
    """Focal loss; with `weight=class_weights(counts, "effective_number")` class-balanced focal loss.

    Raises:
        InputError: a negative or infinite gamma, or weights that are negative, infinite or all 0.
    """

    def __init__(self, *, gamma: float = 2.0, weight: Numbers | None = None) -> None:
        super().__init__(weight)
        self.gamma = _power("gamma of the focal loss", gamma)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.focal_loss`."""
        return focal_loss(logits, targets, self.gamma, self.weight)


class LDAM(_CostSensitive):
    """Margins of `n^(-1/4)`, the rarest class having `max_margin`, on logits that are cosines, which `scale` multiplies.

    For a head that multiplies its cosines by s itself: `scale=1, max_margin=0.5 * s`.

    Raises:
        InputError: counts that are no counts, weights that do not fit, a negative `max_margin`, or a scale that is not
            positive.
    """

    margins: Tensor

    def __init__(
        self, counts: Numbers, *, max_margin: float = 0.5, scale: float = 30.0, weight: Numbers | None = None
    ) -> None:
        super().__init__(weight, margins=ldam_margins(_usable("class counts", counts), max_margin))
        if not 0 < scale < float("inf"):
            raise must("scale", "be positive and finite", scale)
        self.scale = scale

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.ldam_loss`."""
        return ldam_loss(logits, targets, self.margins, self.scale, self.weight)


class BalancedSoftmax(_CostSensitive):
    """Cross entropy of `logits + tau * log prior`: balanced softmax, and with another tau the logit-adjusted loss.

    Raises:
        InputError: counts that are no counts, or a negative or infinite tau.
    """

    log_prior: Tensor

    def __init__(self, counts: Numbers, *, tau: float = 1.0) -> None:
        super().__init__(log_prior=log_prior_of(_usable("class counts", counts)))
        self.tau = _power("tau", tau)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.prior_corrected_cross_entropy`."""
        return prior_corrected_cross_entropy(logits, targets, self.log_prior, self.tau)


class VectorScaling(_CostSensitive):
    """The VS loss: cross entropy of `(n / n_max)^gamma * logits + tau * log prior`.

    Raises:
        InputError: counts that are no counts, weights that do not fit, or a negative or infinite gamma or tau.
    """

    factors: Tensor
    offsets: Tensor

    def __init__(self, counts: Numbers, *, gamma: float = 0.3, tau: float = 1.0, weight: Numbers | None = None) -> None:
        counts = _usable("class counts", counts)
        offsets = _power("tau", tau) * log_prior_of(counts)
        super().__init__(weight, factors=scaling_factors(counts, gamma), offsets=offsets)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.vector_scaling_loss`."""
        return vector_scaling_loss(logits, targets, self.factors, self.offsets, self.weight)


class Asymmetric(_CostSensitive):
    """The single-label asymmetric loss; the defaults are those of its authors' code.

    Raises:
        InputError: a negative or infinite gamma, a smoothing outside [0, 1), or weights that do not fit.
    """

    def __init__(
        self,
        *,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        smoothing: float = 0.1,
        weight: Numbers | None = None,
    ) -> None:
        super().__init__(weight)
        self.gamma_positive = _power("gamma_positive", gamma_positive)
        self.gamma_negative = _power("gamma_negative", gamma_negative)
        if not 0 <= smoothing < 1:
            raise must("smoothing", "lie in [0, 1)", smoothing)
        self.smoothing = smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See `functional.losses.asymmetric_loss`."""
        return asymmetric_loss(logits, targets, self.gamma_positive, self.gamma_negative, self.smoothing, self.weight)


class Always(nn.Module):
    """The slot `criterion` with one loss, a module or a function, for every epoch."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, epoch: int) -> Loss:
        """The loss, the same object in every epoch."""
        return self.loss


class Deferred(nn.Module):
    """The slot `criterion` with one loss at first and another from `start_epoch` on, counted from 0.

    With a loss and the same loss weighted it is deferred reweighting (DRW, Cao et al. 2019: from epoch 160 of 200).

    Raises:
        InputError: a negative `start_epoch`.
    """

    def __init__(self, first: Loss, then: Loss, start_epoch: int) -> None:
        super().__init__()
        if start_epoch < 0:
            raise must("start_epoch", "not be negative", start_epoch)
        self.first, self.then, self.start_epoch = first, then, start_epoch

    def forward(self, epoch: int) -> Loss:
        """The loss of an epoch: the same object as long as it stays the same."""
        return self.first if epoch < self.start_epoch else self.then


def class_weights(counts: Numbers, rule: str, *, beta: float = 0.9999) -> Tensor:
    """`(C,)` float64: the weights of a rule (see `Weighted`), of mean 1 over the classes that have images, 0 for others.

    Raises:
        InputError: counts that are no counts, an unknown rule, or a beta outside [0, 1).
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    counts = _usable("class counts", counts)
    if rule == "effective_number":
        return effective_number_weights(counts, beta)
    return inverse_frequency_weights(counts) if rule == "inverse_frequency" else square_root_weights(counts)


def _usable(name: str, numbers: Numbers) -> Tensor:
    """The numbers in float64; an InputError unless they can be counts or weights of two classes or more."""
    values = torch.as_tensor(numbers).detach().cpu().double()
    if values.ndim != 1 or len(values) < 2:
        raise must(name, "be one number per class, of two classes at least", f"shape {tuple(values.shape)}")
    wrong = ~values.isfinite() | (values < 0)
    if wrong.any():
        raise must(name, "not be negative, and finite", f"{float(values[wrong][0]):g}")
    if not values.any():
        raise must(name, "not all be 0", f"{len(values)} zeros")
    return values


def _power(name: str, value: float) -> float:
    if not 0 <= value < float("inf"):
        raise must(name, "not be negative, and finite", value)
    return value
