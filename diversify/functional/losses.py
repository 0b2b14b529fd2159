"""Losses that use how many images each class has, or how often it is drawn.

Each takes logits `(N, C)` and targets and returns a scalar mean. Targets are `(N,)` class indices, or `(N, C)` class
probabilities of any floating type whose rows sum to 1. The loss of probabilities is the expectation over classes of the
loss of an index, so one-hot rows give the same as indices. In half precision, a loss is computed and returned in
float32.

`weight` `(C,)` weights images by class: the mean is `sum_i w_i l_i / sum_i w_i`, for probabilities `sum_ic t_ic w_c
l_ic / sum_ic t_ic w_c`, and 0 where all weights are 0. For indices this is the mean of
`torch.nn.functional.cross_entropy(weight=)`; for probabilities, that function divides by N instead.

No function of logits reads the values of a tensor, so a training step can be captured as a graph on an accelerator.
Shapes and plain numbers are checked here; values of counts and weights are checked where modules are built
(`diversify/training/losses.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from .counts import effective_number


def prior_corrected_cross_entropy(logits: Tensor, targets: Tensor, log_prior: Tensor, strength: float) -> Tensor:
    """Return the mean cross entropy of `logits + strength * log_prior`.

    Strength 0 is cross entropy, bit for bit. Strength 1 is balanced softmax, which equals the logit-adjusted loss with
    tau 1. The network's own logits are then those of balanced classes: use them without a correction at test time.

    Args:
        logits: `(N, C)`. In half precision the loss is computed and returned in float32.
        targets: `(N,)` class indices, or `(N, C)` class probabilities of any floating type.
        log_prior: `(C,)` logarithm of each class's share of the images drawn, finite. Adding a constant changes
            nothing. The partners of mixed images are not counted.
        strength: At least 0.

    Raises:
        InputError: The shape of `log_prior` is not `(C,)`, or `strength` is negative or infinite.

    References:
        Ren et al., "Balanced meta-softmax for long-tailed visual recognition", 2020, equation 4.
        Menon et al., "Long-tail learning via logit adjustment", 2021, equation 10.

    Example:
        >>> log_prior = torch.tensor([0.9, 0.1]).log()
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([1])
        >>> [round(float(prior_corrected_cross_entropy(logits, targets, log_prior, s)), 2) for s in (0.0, 1.0)]
        [0.69, 2.3]
    """
    _require_classes(logits)
    if log_prior.shape != logits.shape[1:]:
        raise must("log prior", f"have shape {tuple(logits.shape[1:])}", tuple(log_prior.shape))
    if not 0 <= strength < float("inf"):
        raise must("strength of the prior correction", "not be negative, and finite", strength)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if targets.is_floating_point():
        targets = targets.to(logits.dtype)
    if strength:
        logits = logits + strength * log_prior.to(logits)
    return functional.cross_entropy(logits, targets)


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy with each image weighted by its class.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices, or `(N, C)` class probabilities.
        weight: `(C,)`; None weights all classes equally.

    Raises:
        InputError: A shape does not fit.

    Example:
        >>> logits, targets = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> round(float(weighted_cross_entropy(logits, targets)), 2)
        1.13
        >>> round(float(weighted_cross_entropy(logits, targets, torch.tensor([1.0, 3.0]))), 2)
        1.63
    """
    logits, targets = _checked(logits, targets, weight=weight)
    if weight is None:
        return functional.cross_entropy(logits, targets)
    weight = weight.to(logits)
    total = functional.cross_entropy(logits, targets, weight=weight, reduction="sum")
    return total / _mass(targets, weight)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Return the mean of `-(1 - p_t)^gamma log p_t`.

    p_t is the network's own probability of the true class; weights do not enter it. With effective-number weights it is
    the class-balanced focal loss. Cui et al. 2019 use the sigmoid of every logit; this is the softmax form.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices, or `(N, C)` class probabilities.
        gamma: At least 0; 0 is cross entropy.
        weight: `(C,)`; None weights all classes equally.

    Raises:
        InputError: A shape does not fit, or gamma is negative or infinite.

    References:
        Lin et al., "Focal loss for dense object detection", 2017, equation 4.

    Example:
        >>> logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> [round(float(focal_loss(logits, targets, gamma)), 3) for gamma in (0.0, 2.0)]
        [0.127, 0.002]
    """
    _require_power("gamma of the focal loss", gamma)
    logits, targets = _checked(logits, targets, weight=weight)
    log_p = logits.log_softmax(1)
    losses = -(gamma * _log_complement(log_p)).exp() * log_p
    return _mean(losses, targets, weight)


def ldam_loss(
    logits: Tensor, targets: Tensor, margins: Tensor, scale: float = 30.0, weight: Tensor | None = None
) -> Tensor:
    """Return the mean cross entropy of `scale * logits` after the logit of the true class is lowered by its margin.

    Made for logits that are cosines. If the head already multiplies cosines by a scale, set `scale` to 1 and multiply
    the margins by the head's scale. For class probabilities it is the expectation over classes, each true in turn.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices, or `(N, C)` class probabilities.
        margins: `(C,)`, see `ldam_margins`; all 0 is cross entropy of the scaled logits.
        scale: Positive.
        weight: `(C,)`; None weights all classes equally.

    Raises:
        InputError: A shape does not fit, or `scale` is not positive and finite.

    References:
        Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", 2019.

    Example:
        >>> cosines, targets, margins = torch.tensor([[0.1, 0.2]]), torch.tensor([1]), torch.tensor([0.0, 0.5])
        >>> [round(float(ldam_loss(cosines, targets, part * margins)), 2) for part in (0, 1)]
        [0.05, 12.0]
    """
    if not 0 < scale < math.inf:
        raise must("scale", "be positive and finite", scale)
    logits, targets = _checked(logits, targets, margins=margins, weight=weight)
    log_p = (scale * logits).log_softmax(1)
    # a margin divides the odds of a class against all others by a constant, whatever the number of classes
    log_odds = log_p - _log_complement(log_p)
    losses = -functional.logsigmoid(log_odds - scale * margins.to(logits))
    return _mean(losses, targets, weight)


def vector_scaling_loss(
    logits: Tensor, targets: Tensor, factors: Tensor, offsets: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the mean cross entropy of `factors * logits + offsets`.

    Factors 1 and offsets 0 give cross entropy. Factors 1 and the logarithm of the class prior give balanced softmax.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices, or `(N, C)` class probabilities.
        factors: `(C,)`, the paper's multiplicative Delta, see `scaling_factors`.
        offsets: `(C,)`, its additive iota, `tau * log_prior_of(counts)`.
        weight: `(C,)`; None weights all classes equally.

    Raises:
        InputError: A shape does not fit.

    References:
        Kini et al., "Label-imbalanced and group-sensitive classification under overparameterization", 2021.

    Example:
        >>> counts = torch.tensor([100, 10])
        >>> factors, offsets = scaling_factors(counts, 0.2), log_prior_of(counts)
        >>> round(float(vector_scaling_loss(torch.zeros(1, 2), torch.tensor([1]), factors, offsets)), 2)
        2.4
    """
    logits, targets = _checked(logits, targets, factors=factors, offsets=offsets, weight=weight)
    return weighted_cross_entropy(factors.to(logits) * logits + offsets.to(logits), targets, weight)


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_positive: float,
    gamma_negative: float,
    smoothing: float,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the mean of the single-label form of the asymmetric loss, as in the authors' public code.

    For an image of class y, with `t_c = (1 - smoothing) [c = y] + smoothing / C`, the loss is

        -t_y (1 - p_y)^gamma_positive log p_y - sum_{c != y} t_c p_c^gamma_negative log p_c

    With both gammas 0 it is cross entropy with label smoothing. Without smoothing, `gamma_negative` has no effect and
    the loss is focal loss.

    Args:
        logits: `(N, C)`.
        targets: `(N,)` class indices, or `(N, C)` class probabilities.
        gamma_positive: Exponent for the true class, at least 0.
        gamma_negative: Exponent for the other classes, at least 0.
        smoothing: In [0, 1).
        weight: `(C,)`; None weights all classes equally.

    Raises:
        InputError: A shape does not fit, a gamma is negative or infinite, or `smoothing` lies outside [0, 1).

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", 2021.

    Example:
        >>> logits, targets = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> round(float(asymmetric_loss(logits, targets, 0.0, 4.0, smoothing=0.1)), 3)
        0.121
    """
    _require_power("gamma_positive", gamma_positive)
    _require_power("gamma_negative", gamma_negative)
    if not 0 <= smoothing < 1:
        raise must("smoothing", "lie in [0, 1)", smoothing)
    logits, targets = _checked(logits, targets, weight=weight)
    log_p = logits.log_softmax(1)
    elsewhere = smoothing / logits.shape[1]
    positive = -(1 - smoothing + elsewhere) * (gamma_positive * _log_complement(log_p)).exp() * log_p
    negative = -elsewhere * (gamma_negative * log_p).exp() * log_p
    return _mean(positive + negative.sum(1, keepdim=True) - negative, targets, weight)


# Weights, margins and priors from class counts. A class without images is treated as having as many as the rarest class, so
# that no loss becomes infinite, but its weight is 0.


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Return weights proportional to `1 / n`.

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` float64 with mean 1 over the classes that have images; 0 for other classes.

    Example:
        >>> [round(weight, 2) for weight in inverse_frequency_weights(torch.tensor([30, 10, 0])).tolist()]
        [0.5, 1.5, 0.0]
    """
    return _of_mean_1(1 / _at_least_rarest(counts), counts)


def square_root_weights(counts: Tensor) -> Tensor:
    """Return weights proportional to `1 / sqrt(n)`.

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` float64 with mean 1 over the classes that have images; 0 for other classes.

    Example:
        >>> [round(weight, 2) for weight in square_root_weights(torch.tensor([90, 10, 0])).tolist()]
        [0.5, 1.5, 0.0]
    """
    return _of_mean_1(_at_least_rarest(counts).rsqrt(), counts)


def effective_number_weights(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """Return weights proportional to the inverse effective number, `(1 - beta) / (1 - beta^n)`.

    Args:
        counts: `(C,)`.
        beta: In [0, 1); 0 weights all classes equally, and toward 1 the weights approach `1 / n`.

    Returns:
        `(C,)` float64 with mean 1 over the classes that have images; 0 for other classes.

    Raises:
        InputError: beta lies outside [0, 1).

    References:
        Cui et al., "Class-balanced loss based on effective number of samples", 2019.

    Example:
        >>> [round(weight, 2) for weight in effective_number_weights(torch.tensor([1000, 10]), beta=0.99).tolist()]
        [0.17, 1.83]
    """
    if not 0 <= beta < 1:
        raise must("beta of the effective number", "lie in [0, 1)", beta)
    return _of_mean_1(1 / effective_number(_at_least_rarest(counts), beta), counts)


def ldam_margins(counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """Return margins proportional to `n^(-1/4)`; the largest is `max_margin`.

    Args:
        counts: `(C,)`.
        max_margin: At least 0.

    Returns:
        `(C,)` float64.

    Raises:
        InputError: `max_margin` is negative or infinite.

    References:
        Cao et al., "Learning imbalanced datasets with label-distribution-aware margin loss", 2019.

    Example:
        >>> ldam_margins(torch.tensor([160, 10])).tolist()
        [0.25, 0.5]
    """
    if not 0 <= max_margin < math.inf:
        raise must("max_margin", "not be negative, and finite", max_margin)
    margins = _at_least_rarest(counts).pow(-0.25)
    return max_margin * margins / margins.max()


def log_prior_of(counts: Tensor) -> Tensor:
    """Return the logarithm of each class's share of the images.

    Args:
        counts: `(C,)`.

    Returns:
        `(C,)` float64; a class without images gets the value of the rarest class.

    Example:
        >>> [round(number, 2) for number in log_prior_of(torch.tensor([90, 10])).tolist()]
        [-0.11, -2.3]
    """
    return (_at_least_rarest(counts) / counts.sum()).log()


def scaling_factors(counts: Tensor, gamma: float) -> Tensor:
    """Return the factors of the vector scaling loss, `(n / n_max)^gamma`.

    Args:
        counts: `(C,)`.
        gamma: At least 0; 0 gives factors 1.

    Returns:
        `(C,)` float64.

    Raises:
        InputError: gamma is negative or infinite.

    References:
        Kini et al., "Label-imbalanced and group-sensitive classification under overparameterization", 2021.

    Example:
        >>> scaling_factors(torch.tensor([160, 10]), 0.25).tolist()
        [1.0, 0.5]
    """
    _require_power("gamma of the vector scaling", gamma)
    return (_at_least_rarest(counts) / counts.max()).pow(gamma)


def _at_least_rarest(counts: Tensor) -> Tensor:
    counts = counts.double()
    return counts.clamp(min=counts[counts > 0].min())


def _of_mean_1(weights: Tensor, counts: Tensor) -> Tensor:
    weights = weights.where(counts > 0, 0.0)
    return weights * (counts > 0).sum() / weights.sum()


def _checked(logits: Tensor, targets: Tensor, **columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check all shapes; return logits in float32 or wider, and targets as int64 or in the dtype of the logits."""
    _require_classes(logits)
    rows, classes = logits.shape
    if targets.shape != (logits.shape if targets.is_floating_point() else logits.shape[:1]):
        got = f"{tuple(targets.shape)} of {str(targets.dtype).removeprefix('torch.')}"
        raise must("targets", f"be class indices ({rows},) or class probabilities ({rows}, {classes})", got)
    for name, column in columns.items():
        if column is not None and column.shape != (classes,):
            raise must(name, f"have shape ({classes},)", tuple(column.shape))
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, targets.to(logits.dtype) if targets.is_floating_point() else targets.long()


def _require_classes(logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] < 2:
        single = logits.ndim == 2 and logits.shape[1] == 1
        advice = "pass one logit z as torch.cat([torch.zeros_like(z), z], 1)" if single else ""
        raise must("logits", "have shape (N, C), of two classes at least", tuple(logits.shape), advice)


def _require_power(name: str, gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise must(name, "not be negative, and finite", gamma)


def _mean(losses: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over images, given the losses `(N, C)` that an image has with each class as its target."""
    weight = None if weight is None else weight.to(losses)
    if targets.is_floating_point():
        shares = targets if weight is None else targets * weight
        total = (shares * losses).sum()
    else:
        own = losses.gather(1, targets[:, None])[:, 0]
        total = own.sum() if weight is None else (weight[targets] * own).sum()
    return total / (len(losses) if weight is None else _mass(targets, weight))


def _mass(targets: Tensor, weight: Tensor) -> Tensor:
    """The divisor of a weighted sum; never 0."""
    mass = (targets * weight).sum() if targets.is_floating_point() else weight[targets].sum()
    return mass.clamp_min(torch.finfo(mass.dtype).tiny)


def _log_complement(log_p: Tensor) -> Tensor:
    """`log(1 - p)` of probabilities whose rows sum to 1; finite even where p rounds to 1.

    For the largest probability it is the sum of the others: `1 - p` would lose all digits there.
    """
    largest = log_p.argmax(1, keepdim=True) == torch.arange(log_p.shape[1], device=log_p.device)
    others = log_p.masked_fill(largest, -math.inf).logsumexp(1, keepdim=True)
    return others.where(largest, (-log_p.exp().masked_fill(largest, 0.0)).log1p())
