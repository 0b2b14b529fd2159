"""Losses that know how many images each class has, or how often it is drawn.

Each takes logits `(N, C)` and targets, and returns a scalar mean. Targets are `(N,)` class indices or `(N, C)` class
probabilities of any floating type, each row of sum 1; the loss of probabilities is the expectation over classes of the loss
of an index, so that one-hot rows give what indices give. In half precision a loss is computed, and returned, in float32.

`weight` `(C,)` weighs images by class: the mean is `sum_i w_i l_i / sum_i w_i`, for probabilities
`sum_ic t_ic w_c l_ic / sum_ic t_ic w_c`, and 0 where nothing has a weight. For indices this is the mean of
`torch.nn.functional.cross_entropy(weight=)`; for probabilities that function divides by N instead.

No value of a tensor is looked at on the way, so that a step may be captured on an accelerator: shapes and plain numbers are
checked here, values of counts and weights where a module is made of them (`diversify/losses.py`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from .counts import effective_number


def prior_corrected_cross_entropy(logits: Tensor, targets: Tensor, log_prior: Tensor, strength: float) -> Tensor:
    """Mean cross entropy of `logits + strength * log_prior`.

    0 is cross entropy, to the bit; 1 is balanced softmax (Ren et al. 2020, eq. 4), which is the logit-adjusted loss with
    tau 1 (Menon et al. 2021, eq. 10). The network's own logits are then those of balanced classes, and are to be used as
    they are.

    Args:
        logits: `(N, C)`. In half precision the loss is computed, and returned, in float32.
        targets: `(N,)` class indices, or `(N, C)` class probabilities of any floating type.
        log_prior: `(C,)` logarithm of each class's share of the images drawn, finite; a constant added to all of it changes
            nothing. Partners in mixing are no part of it.

    Raises:
        InputError: the shape of `log_prior` is not `(C,)`, or a negative or infinite `strength`.
    """
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
    """Cross entropy, each image weighed by its class; None weighs all the same.

    Raises:
        InputError: a shape does not fit.
    """
    logits, targets = _checked(logits, targets, weight=weight)
    if weight is None:
        return functional.cross_entropy(logits, targets)
    weight = weight.to(logits)
    total = functional.cross_entropy(logits, targets, weight=weight, reduction="sum")
    return total / _mass(targets, weight)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float, weight: Tensor | None = None) -> Tensor:
    """Mean of `-(1 - p_t)^gamma log p_t` (Lin et al. 2017); with effective-number weights class-balanced focal loss.

    p_t is the network's own probability, which weights do not enter; gamma 0 is cross entropy. Cui et al. 2019 use the
    sigmoid of every logit; this is the softmax form.

    Raises:
        InputError: a shape does not fit, or a negative or infinite gamma.
    """
    _require_power("gamma of the focal loss", gamma)
    logits, targets = _checked(logits, targets, weight=weight)
    log_p = logits.log_softmax(1)
    losses = -(gamma * _log_complement(log_p)).exp() * log_p
    return _mean(losses, targets, weight)


def ldam_loss(
    logits: Tensor, targets: Tensor, margins: Tensor, scale: float = 30.0, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy of `scale * logits`, where the logit of the true class was first lowered by its margin.

    Cao et al. 2019, for logits that are cosines. Where the head has the scale already, `scale` is 1 and the margins are
    to be multiplied by the head's. Of class probabilities: the expectation over classes, each true in turn.

    Args:
        margins: `(C,)`, see `ldam_margins`; all 0 is cross entropy of the scaled logits.

    Raises:
        InputError: a shape does not fit, or a scale that is not positive and finite.
    """
    if not 0 < scale < math.inf:
        raise must("scale", "be positive and finite", scale)
    logits, targets = _checked(logits, targets, margins=margins, weight=weight)
    log_p = (scale * logits).log_softmax(1)
    # the odds of each class against the others: a margin scales them, whatever the number of classes
    log_odds = log_p - _log_complement(log_p)
    losses = -functional.logsigmoid(log_odds - scale * margins.to(logits))
    return _mean(losses, targets, weight)


def vector_scaling_loss(
    logits: Tensor, targets: Tensor, factors: Tensor, offsets: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy of `factors * logits + offsets`: the VS loss of Kini et al. 2021.

    Factors 1 and offsets 0 give cross entropy; factors 1 and the logarithm of the class prior give balanced softmax.

    Args:
        factors: `(C,)`, the paper's multiplicative Delta, see `scaling_factors`.
        offsets: `(C,)`, its additive iota, `tau * log_prior_of(counts)`.

    Raises:
        InputError: a shape does not fit.
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
    """The single-label form of the asymmetric loss (Ridnik et al. 2021), as the authors' public code has it.

    Of an image of class y, with `t_c = (1 - smoothing) [c = y] + smoothing / C`:

        -t_y (1 - p_y)^gamma_positive log p_y - sum_{c != y} t_c p_c^gamma_negative log p_c

    With both gammas 0 it is cross entropy with label smoothing, and without smoothing cross entropy. Without smoothing
    `gamma_negative` changes nothing, and the loss is focal loss.

    Raises:
        InputError: a shape does not fit, a negative or infinite gamma, or a smoothing outside [0, 1).
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
    """`(C,)` float64: weights proportional to `1 / n`, of mean 1 over the classes that have images, 0 for others."""
    return _of_mean_1(1 / _at_least_rarest(counts), counts)


def square_root_weights(counts: Tensor) -> Tensor:
    """`(C,)` float64: weights proportional to `1 / sqrt(n)`, of mean 1 over the classes that have images, 0 for others."""
    return _of_mean_1(_at_least_rarest(counts).rsqrt(), counts)


def effective_number_weights(counts: Tensor, beta: float = 0.9999) -> Tensor:
    """`(C,)` float64: weights proportional to `(1 - beta) / (1 - beta^n)`, the inverse effective number (Cui et al. 2019).

    Of mean 1 over the classes that have images, 0 for others. beta 0 weighs all the same; toward 1 it becomes `1 / n`.

    Raises:
        InputError: beta outside [0, 1).
    """
    if not 0 <= beta < 1:
        raise must("beta of the effective number", "lie in [0, 1)", beta)
    return _of_mean_1(1 / effective_number(_at_least_rarest(counts), beta), counts)


def ldam_margins(counts: Tensor, max_margin: float = 0.5) -> Tensor:
    """`(C,)` float64: margins proportional to `n^(-1/4)`, the largest of them `max_margin` (Cao et al. 2019).

    Raises:
        InputError: a negative or infinite `max_margin`.
    """
    if not 0 <= max_margin < math.inf:
        raise must("max_margin", "not be negative, and finite", max_margin)
    margins = _at_least_rarest(counts).pow(-0.25)
    return max_margin * margins / margins.max()


def log_prior_of(counts: Tensor) -> Tensor:
    """`(C,)` float64: the logarithm of each class's share of the images."""
    return (_at_least_rarest(counts) / counts.sum()).log()


def scaling_factors(counts: Tensor, gamma: float) -> Tensor:
    """`(C,)` float64: `(n / n_max)^gamma`, what the VS loss multiplies logits by.

    Raises:
        InputError: a negative or infinite gamma.
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
    """Logits in float32 or wider, and targets as int64 or in the type of the logits, once all shapes fit."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise must("logits", "have shape (N, C), of two classes at least", tuple(logits.shape))
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


def _require_power(name: str, gamma: float) -> None:
    if not 0 <= gamma < math.inf:
        raise must(name, "not be negative, and finite", gamma)


def _mean(losses: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over images of the losses `(N, C)` that an image has with each class as its target."""
    weight = None if weight is None else weight.to(losses)
    if targets.is_floating_point():
        shares = targets if weight is None else targets * weight
        total = (shares * losses).sum()
    else:
        own = losses.gather(1, targets[:, None])[:, 0]
        total = own.sum() if weight is None else (weight[targets] * own).sum()
    return total / (len(losses) if weight is None else _mass(targets, weight))


def _mass(targets: Tensor, weight: Tensor) -> Tensor:
    """What a weighted sum is to be divided by; never 0."""
    mass = (targets * weight).sum() if targets.is_floating_point() else weight[targets].sum()
    return mass.clamp_min(torch.finfo(mass.dtype).tiny)


def _log_complement(log_p: Tensor) -> Tensor:
    """`log(1 - p)` of probabilities that sum to 1 in each row, finite where they are 1 but for rounding.

    Of the largest it is the sum of the others, not what is left of 1: there all digits would be lost.
    """
    largest = log_p.argmax(1, keepdim=True) == torch.arange(log_p.shape[1], device=log_p.device)
    others = log_p.masked_fill(largest, -math.inf).logsumexp(1, keepdim=True)
    return others.where(largest, (-log_p.exp().masked_fill(largest, 0.0)).log1p())
