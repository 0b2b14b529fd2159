"""Cost-sensitive losses as modules, made from class counts; the formulas are in `functional/losses.py`.

`Always` and `Deferred` put them into `Ingredients.criterion`. The tensors that a module computes from its arguments move
with it to another device, and are not part of its `state_dict`.

Example: LDAM with deferred reweighting.
    >>> counts = [500, 50, 5]
    >>> weight = class_weights(counts, "effective_number")
    >>> criterion = Deferred(LDAM(counts), LDAM(counts, weight=weight), start_epoch=160)
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
    """The base of the losses: keeps `(C,)` float32 tensors, and `weight` if there is one, outside the state dict."""

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
    """Cross entropy with class weights computed from the class counts.

    Args:
        counts: Training images per class, `(C,)`.
        rule: "inverse_frequency" is `1 / n`, "square_root" is `1 / sqrt(n)`, and "effective_number" is
            `(1 - beta) / (1 - beta^n)`. Weights have mean 1 over the classes with images; other classes have weight 0.
        beta: For "effective_number", in [0, 1).

    Raises:
        InputError: The counts are negative or all 0, the rule is unknown, or beta is outside [0, 1).

    References:
        Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples".

    See Also:
        `class_weights`, `functional.losses.weighted_cross_entropy`.

    Example:
        >>> loss = Weighted([90, 10], rule="inverse_frequency")
        >>> [round(weight, 2) for weight in loss.weight.tolist()]
        [0.2, 1.8]
        >>> round(float(loss(torch.zeros(2, 2), torch.tensor([0, 1]))), 4)
        0.6931
    """

    def __init__(self, counts: Numbers, *, rule: str = "effective_number", beta: float = 0.9999) -> None:
        super().__init__(class_weights(counts, rule, beta=beta))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits `(N, C)`; see `functional.losses.weighted_cross_entropy`."""
        return weighted_cross_entropy(logits, targets, self.weight)


class Focal(_CostSensitive):
    """Focal loss; with `weight=class_weights(counts, "effective_number")` it is the class-balanced focal loss.

    Args:
        gamma: How strongly well-classified examples are down-weighted; 0 is cross entropy.
        weight: Class weights, `(C,)`; None weighs classes equally.

    Raises:
        InputError: Gamma is negative or infinite, or the weights are negative, infinite or all 0.

    References:
        Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
        >>> round(float(Focal(gamma=2.0)(logits, labels)), 4)
        0.0875
    """

    def __init__(self, *, gamma: float = 2.0, weight: Numbers | None = None) -> None:
        super().__init__(weight)
        self.gamma = _power("gamma of the focal loss", gamma)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits `(N, C)`; see `functional.losses.focal_loss`."""
        return focal_loss(logits, targets, self.gamma, self.weight)


class LDAM(_CostSensitive):
    """Label-distribution-aware margin loss: cross entropy with larger margins for rarer classes.

    Logits must be cosines, as a cosine head without scale gives them. For a head that multiplies its cosines by s
    itself, use `scale=1` and `max_margin=0.5 * s`.

    Args:
        counts: Training images per class, `(C,)`. Margins are proportional to `n^(-1/4)`.
        max_margin: Margin of the rarest class, in units of the logits.
        scale: Factor of the logits after the margin is subtracted.
        weight: Class weights, `(C,)`; None weighs classes equally.

    Raises:
        InputError: The counts or weights are negative or all 0, their numbers differ, `max_margin` is negative, or the
            scale is not positive.

    References:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss".

    Example:
        >>> [round(margin, 3) for margin in LDAM([625, 81, 1]).margins.tolist()]
        [0.1, 0.167, 0.5]
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
        """Return the mean loss of logits `(N, C)`; see `functional.losses.ldam_loss`."""
        return ldam_loss(logits, targets, self.margins, self.scale, self.weight)


class BalancedSoftmax(_CostSensitive):
    """Balanced softmax: cross entropy of `logits + tau * log prior`; with another tau, the logit-adjusted loss.

    Args:
        counts: Training images per class, `(C,)`, from which the class prior is computed.
        tau: Strength of the correction; 0 is cross entropy.

    Raises:
        InputError: The counts are negative or all 0, or tau is negative or infinite.

    References:
        Ren et al. 2020, "Balanced Meta-Softmax for Long-Tailed Visual Recognition", eq. 4; Menon et al. 2021,
        "Long-Tail Learning via Logit Adjustment", eq. 10.

    Example:
        >>> loss = BalancedSoftmax([90, 10])
        >>> logits = torch.zeros(1, 2)
        >>> [round(float(loss(logits, torch.tensor([label]))), 2) for label in (0, 1)]
        [0.11, 2.3]
    """

    log_prior: Tensor

    def __init__(self, counts: Numbers, *, tau: float = 1.0) -> None:
        super().__init__(log_prior=log_prior_of(_usable("class counts", counts)))
        self.tau = _power("tau", tau)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits `(N, C)`; see `functional.losses.prior_corrected_cross_entropy`."""
        return prior_corrected_cross_entropy(logits, targets, self.log_prior, self.tau)


class VectorScaling(_CostSensitive):
    """Vector-scaling loss: cross entropy of `(n / n_max)^gamma * logits + tau * log prior`.

    Args:
        counts: Training images per class, `(C,)`.
        gamma: Strength of the factors; 0 leaves balanced softmax.
        tau: Strength of the prior correction.
        weight: Class weights, `(C,)`; None weighs classes equally.

    Raises:
        InputError: The counts or weights are negative or all 0, their numbers differ, or gamma or tau is negative or
            infinite.

    References:
        Kini et al. 2021, "Label-Imbalanced and Group-Sensitive Classification under Overparameterization".

    Example:
        >>> [round(factor, 2) for factor in VectorScaling([100, 1], gamma=0.5).factors.tolist()]
        [1.0, 0.1]
    """

    factors: Tensor
    offsets: Tensor

    def __init__(self, counts: Numbers, *, gamma: float = 0.3, tau: float = 1.0, weight: Numbers | None = None) -> None:
        counts = _usable("class counts", counts)
        offsets = _power("tau", tau) * log_prior_of(counts)
        super().__init__(weight, factors=scaling_factors(counts, gamma), offsets=offsets)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of logits `(N, C)`; see `functional.losses.vector_scaling_loss`."""
        return vector_scaling_loss(logits, targets, self.factors, self.offsets, self.weight)


class Asymmetric(_CostSensitive):
    """Asymmetric loss for single labels; the defaults are those of its authors' code.

    Args:
        gamma_positive: Focusing exponent of the label's own class.
        gamma_negative: Focusing exponent of the other classes.
        smoothing: Label smoothing, in [0, 1).
        weight: Class weights, `(C,)`; None weighs classes equally.

    Raises:
        InputError: A gamma is negative or infinite, the smoothing is outside [0, 1), or the weights are negative,
            infinite or all 0.

    References:
        Ridnik et al. 2021, "Asymmetric Loss for Multi-Label Classification".

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
        >>> round(float(Asymmetric(gamma_negative=0.0, smoothing=0.0)(logits, labels)), 4)
        0.41
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
        """Return the mean loss of logits `(N, C)`; see `functional.losses.asymmetric_loss`."""
        return asymmetric_loss(logits, targets, self.gamma_positive, self.gamma_negative, self.smoothing, self.weight)


class Always(nn.Module):
    """One loss for every epoch, for `Ingredients.criterion`.

    Args:
        loss: A module or a function of logits `(N, C)` and labels `(N,)`.

    Example:
        >>> criterion = Always(Focal())
        >>> criterion(0) is criterion(199)
        True
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, epoch: int) -> Loss:
        """Return the loss, the same object in every epoch."""
        return self.loss


class Deferred(nn.Module):
    """One loss at first and another one later, for `Ingredients.criterion`.

    With a loss and the same loss weighted, this is deferred reweighting (DRW).

    Args:
        first: The loss of the epochs before `start_epoch`.
        then: The loss from `start_epoch` on.
        start_epoch: Counted from 0; DRW uses 160 of 200.

    Raises:
        InputError: `start_epoch` is negative.

    References:
        Cao et al. 2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", algorithm 1.

    Example:
        >>> counts = [500, 50, 5]
        >>> criterion = Deferred(nn.CrossEntropyLoss(), Weighted(counts), start_epoch=160)
        >>> type(criterion(159)).__name__, type(criterion(160)).__name__
        ('CrossEntropyLoss', 'Weighted')
    """

    def __init__(self, first: Loss, then: Loss, start_epoch: int) -> None:
        super().__init__()
        if start_epoch < 0:
            raise must("start_epoch", "not be negative", start_epoch)
        self.first, self.then, self.start_epoch = first, then, start_epoch

    def forward(self, epoch: int) -> Loss:
        """Return the loss of an epoch; the same object for as long as the loss does not change."""
        return self.first if epoch < self.start_epoch else self.then


def class_weights(counts: Numbers, rule: str, *, beta: float = 0.9999) -> Tensor:
    """Return class weights, `(C,)` float64, with mean 1 over the classes with images and 0 for the others.

    Args:
        counts: Training images per class, `(C,)`.
        rule: "inverse_frequency", "square_root" or "effective_number"; see `Weighted`.
        beta: For "effective_number", in [0, 1).

    Raises:
        InputError: The counts are negative or all 0, the rule is unknown, or beta is outside [0, 1).

    Example:
        >>> [round(weight, 2) for weight in class_weights([100, 25], "square_root").tolist()]
        [0.67, 1.33]
    """
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    counts = _usable("class counts", counts)
    if rule == "effective_number":
        return effective_number_weights(counts, beta)
    return inverse_frequency_weights(counts) if rule == "inverse_frequency" else square_root_weights(counts)


def _usable(name: str, numbers: Numbers) -> Tensor:
    """Return counts or weights as `(C,)` float64.

    Raises:
        InputError: They are not one number per class, fewer than two, negative, infinite, or all 0.
    """
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
