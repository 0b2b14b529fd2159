"""Losses for images with several labels: the mean over images and labels, as functions of logits and 0/1 targets.

Targets may lie between 0 and 1, as after mixing images; each loss is linear in them. The modules are in
`training/multilabel_losses.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must


def binary_cross_entropy(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Return the mean of `-w y log p - (1 - y) log(1 - p)`, with p the sigmoid of the logit.

    Args:
        logits: `(N, C)`.
        targets: `(N, C)`, 0 or 1 or in between.
        pos_weight: w, the weight of the positives of each label, `(C,)`; None is 1.

    Raises:
        InputError: A shape does not fit.

    Example:
        >>> logits, targets = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
        >>> round(float(binary_cross_entropy(logits, targets)), 4)
        0.6931
        >>> round(float(binary_cross_entropy(logits, targets, torch.tensor([3.0, 3.0]))), 4)
        1.3863
    """
    logits, targets = _checked(logits, targets, pos_weight=pos_weight)
    weight = None if pos_weight is None else pos_weight.to(logits)
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight)


def binary_focal_loss(logits: Tensor, targets: Tensor, gamma: float, pos_weight: Tensor | None = None) -> Tensor:
    """Return the mean of `-w y (1 - p)^gamma log p - (1 - y) p^gamma log(1 - p)`.

    Args:
        logits: `(N, C)`.
        targets: `(N, C)`, 0 or 1 or in between.
        gamma: At least 0; 0 is binary cross entropy.
        pos_weight: w, `(C,)`; None is 1.

    Raises:
        InputError: A shape does not fit, or gamma is negative or infinite.

    References:
        Lin et al., "Focal loss for dense object detection", 2017.

    Example:
        >>> logits, targets = torch.tensor([[2.0]]), torch.tensor([[1.0]])
        >>> [round(float(binary_focal_loss(logits, targets, gamma)), 3) for gamma in (0.0, 2.0)]
        [0.127, 0.002]
    """
    _require_power("gamma of the focal loss", gamma)
    logits, targets = _checked(logits, targets, pos_weight=pos_weight)
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = -targets * (gamma * log_q).exp() * log_p
    if pos_weight is not None:
        positive = pos_weight.to(logits) * positive
    return (positive - (1 - targets) * (gamma * log_p).exp() * log_q).mean()


def multilabel_asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_positive: float = 0.0, gamma_negative: float = 4.0, clip: float = 0.05
) -> Tensor:
    """Return the mean of the asymmetric loss: negatives are focused more than positives, and easy ones are dropped.

    With `p_m = max(p - clip, 0)` it is `-y (1 - p)^gamma_positive log p - (1 - y) p_m^gamma_negative log(1 - p_m)`.
    The authors sum over labels and images; this is the mean, so that the learning rate does not depend on their number.

    Args:
        logits: `(N, C)`.
        targets: `(N, C)`, 0 or 1 or in between.
        gamma_positive: At least 0.
        gamma_negative: At least 0; with both gammas and `clip` 0, the loss is binary cross entropy.
        clip: Probability below which a negative costs nothing, in [0, 1).

    Raises:
        InputError: A shape does not fit, or a number is out of its range.

    References:
        Ridnik et al., "Asymmetric loss for multi-label classification", 2021, equations 4 to 7.

    Example:
        >>> logits = torch.tensor([[2.0, 2.0, -4.0]])
        >>> round(float(multilabel_asymmetric_loss(logits, torch.tensor([[1.0, 0.0, 0.0]]))), 3)
        0.324
    """
    _require_power("gamma_positive", gamma_positive)
    _require_power("gamma_negative", gamma_negative)
    if not 0 <= clip < 1:
        raise must("clip", "lie in [0, 1)", clip)
    logits, targets = _checked(logits, targets)
    log_p, log_q = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    positive = (gamma_positive * log_q).exp() * log_p
    if clip == 0:
        negative = (gamma_negative * log_p).exp() * log_q
    else:
        shifted = (logits.sigmoid() - clip).clamp(min=torch.finfo(logits.dtype).tiny)
        negative = shifted.pow(gamma_negative) * (-shifted).log1p()
    return -(targets * positive + (1 - targets) * negative).mean()


def distribution_balanced_loss(
    logits: Tensor,
    targets: Tensor,
    positives: Tensor,
    images: int,
    *,
    alpha: float = 0.1,
    beta: float = 10.0,
    mu: float = 0.2,
    negative_scale: float = 2.0,
    kappa: float = 0.05,
) -> Tensor:
    """Return the mean of the distribution-balanced loss, without a focal factor.

    The weight of label i of an image is `alpha + sigmoid(beta (r - mu))`. r is 1/n_i over the sum of 1/n_j over the
    labels that the image has: the share in which label i alone would have this image drawn. An image without labels has
    the largest weight, the limit for large r. Each term is `y log(1 + exp(-(z - v)))
    + (1 - y) / negative_scale log(1 + exp(negative_scale (z - v)))`, with `v_i = kappa log(images / n_i - 1)`.

    Args:
        logits: z, `(N, C)`.
        targets: y, `(N, C)`, 0 or 1 or in between.
        positives: n, training images with each label, `(C,)`. A label without any counts as if half an image had it.
        images: Number of training images.
        alpha: Smallest weight, at least 0.
        beta: Steepness of the smoothing, at least 0.
        mu: Its centre.
        negative_scale: The paper's lambda, above 0; 1 treats negatives as positives.
        kappa: Strength of the bias for the label's prior, at least 0.

    Raises:
        InputError: A shape does not fit, or a number is out of its range.

    References:
        Wu et al., "Distribution-balanced loss for multi-label classification in long-tailed datasets", 2020.

    Example:
        >>> positives = torch.tensor([80, 5])
        >>> logits, targets = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
        >>> round(float(distribution_balanced_loss(logits, targets, positives, 100)), 3)
        0.481
    """
    for name, value in (("alpha", alpha), ("beta", beta), ("kappa", kappa)):
        _require_power(name, value)
    if not 0 < negative_scale < math.inf:
        raise must("negative_scale", "be positive and finite", negative_scale)
    logits, targets = _checked(logits, targets, positives=positives)
    share = (positives.double().clamp(0.5, images - 0.5) / images).to(logits)
    inverse = 1 / share
    own = (targets * inverse).sum(1, keepdim=True)
    ratio = inverse / own.clamp_min(torch.finfo(logits.dtype).tiny)
    weight = alpha + (beta * (ratio - mu)).sigmoid()
    weight = weight.where(own > 0, alpha + 1)
    shifted = logits - kappa * (1 / share - 1).log()
    positive = functional.softplus(-shifted)
    negative = functional.softplus(negative_scale * shifted) / negative_scale
    return (weight * (targets * positive + (1 - targets) * negative)).mean()


def positive_weights(positives: Tensor, images: int, most: float = 100.0) -> Tensor:
    """Return negatives over positives of each label, at most `most`: the weight that balances its two sides.

    Args:
        positives: Training images with each label, `(C,)`.
        images: Number of training images.
        most: Largest weight.

    Returns:
        `(C,)` float64; 1 for a label without positives or without negatives.

    Raises:
        InputError: `most` is not positive, or a label has more positives than there are images.

    Example:
        >>> positive_weights(torch.tensor([50, 10, 0]), 100).tolist()
        [1.0, 9.0, 1.0]
    """
    if not most > 0:
        raise must("most", "be positive", most)
    if bool((positives > images).any()):
        raise must("positives", f"be at most the {images} images", int(positives.max()))
    counted = positives.double()
    weight = ((images - counted) / counted.clamp(min=1)).clamp(max=most)
    return weight.where((counted > 0) & (counted < images), 1.0)


def _checked(logits: Tensor, targets: Tensor, **columns: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check all shapes; return logits in float32 or wider, and targets in their dtype."""
    if logits.ndim != 2:
        raise must("logits", "have shape (N, C)", tuple(logits.shape))
    if targets.shape != logits.shape:
        advice = "for one label per image, use the losses of dv without Multilabel" if targets.ndim == 1 else ""
        raise must("targets", f"have the shape of the logits, {tuple(logits.shape)}", tuple(targets.shape), advice)
    for name, column in columns.items():
        if column is not None and column.shape != logits.shape[1:]:
            raise must(name, f"have shape ({logits.shape[1]},)", tuple(column.shape))
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return logits, targets.to(logits.dtype)


def _require_power(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise must(name, "not be negative, and finite", value)
