"""Post-hoc repairs that need no training: logit adjustment, tau-normalisation and the nearest class mean."""

from __future__ import annotations

import math
import numbers
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..functional import counts, losses
from ..network.embeddings import Embeddings, require_embeddings
from ..network.linear_head import LinearHead

NEVER = -1e30  # the bias of a class that is never predicted, within the range of float32 and bfloat16


def adjust_logits(head: LinearHead, log_prior: Tensor, tau: float) -> LinearHead:
    """Return the head with `tau * log_prior` subtracted from its logits, through the bias.

    With `tau=0` the head is returned unchanged. For a cosine head the logits are those after its scale. The result has a
    bias, so it cannot be written into a module without one.

    Args:
        head: The head.
        log_prior: Logarithm of each class's share of the training images, `(C,)`, finite; see `log_prior_of`.
        tau: Strength of the adjustment, at least 0.

    Raises:
        InputError: The shape of `log_prior` is not `(C,)`, it is not finite, or tau is negative or infinite.

    References:
        Menon et al. 2021, "Long-Tail Learning via Logit Adjustment", eq. 9.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> adjusted = adjust_logits(head, log_prior_of(torch.tensor([200, 80, 30, 10])), tau=1.0)
        >>> [round(value, 2) for value in (adjusted.bias - head.bias).tolist()]
        [0.47, 1.39, 2.37, 3.47]
    """
    _require_tau(tau)
    if log_prior.shape != (head.num_classes,):
        raise must("log prior", f"have shape ({head.num_classes},)", tuple(log_prior.shape))
    if not log_prior.isfinite().all():
        raise must("log prior", "be finite", "nan or infinite values", "give an absent class that of the rarest one")
    if tau == 0:
        return head
    bias = (head.bias - tau * log_prior.to(head.bias) / head.scale).contiguous()
    return replace(head, bias=bias, has_bias=True)


def log_prior_of(class_counts: Tensor) -> Tensor:
    """Return the log prior, the logarithm of each class's share of the images, `(C,)` float32.

    A class without images gets the log prior of the rarest class that has some.

    Raises:
        InputError: No class has an image.

    Example:
        >>> [round(value, 2) for value in log_prior_of(torch.tensor([90, 10, 0])).tolist()]
        [-0.11, -2.3, -2.3]
    """
    if not int(class_counts.sum()):
        raise must("class counts", "hold at least one image", 0)
    return losses.log_prior_of(class_counts).float()


def normalize_tau(head: LinearHead, tau: float) -> LinearHead:
    """Return the head with each class's weight and bias divided by the norm of its weight to the power of tau.

    Unlike in the paper, the bias is divided like the weight instead of dropped, and the geometric mean of the norms is
    multiplied back, so that the logits keep their scale. Rows of zeros stay unchanged, and so does a cosine head, whose
    rows are normalised already. With `tau=0` the head is returned unchanged.

    Raises:
        InputError: Tau is negative or infinite.

    References:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", eq. 2.

    Example:
        >>> head = LinearHead(weight=torch.tensor([[4.0, 0.0], [0.0, 1.0]]), bias=torch.zeros(2))
        >>> normalize_tau(head, 1.0).weight.norm(dim=1).tolist()
        [2.0, 2.0]
    """
    _require_tau(tau)
    if tau == 0 or head.cosine:
        return head
    norms = head.weight.double().norm(dim=1)
    if not bool((norms > 0).any()):
        return head
    logarithm = norms.log()
    factor = (tau * (logarithm[norms > 0].mean() - logarithm)).exp().where(norms > 0, 1.0)
    weight, bias = (factor[:, None] * head.weight).float(), (factor * head.bias).float()
    return replace(head, weight=weight, bias=bias)


def nearest_mean(embeddings: Embeddings, *, like: LinearHead | None = None) -> LinearHead:
    """Return the classifier that predicts the class with the nearest mean feature, as a linear head.

    Its logits are `f @ mean - |mean|^2 / 2`, which is largest where the distance to the mean is smallest. A class
    without rows is never predicted.

    Args:
        embeddings: Training embeddings, from which the class means are computed.
        like: The present head. If it is a cosine head, the result is one with the same scale: it compares angles
            between normalised features and means.

    References:
        Kang et al. 2020, "Decoupling Representation and Classifier for Long-Tailed Recognition", section 4.1.

    Example:
        >>> import diversify as dv
        >>> train, heldout, head = dv.make_embeddings()
        >>> predicted = nearest_mean(train).logits(heldout.features).argmax(1)
        >>> round(float((predicted == heldout.labels).float().mean()), 2)
        0.94
    """
    require_embeddings("embeddings", embeddings)
    cosine = like is not None and like.cosine
    features = functional.normalize(embeddings.features, dim=1) if cosine else embeddings.features
    means = counts.class_mean(features, embeddings.labels, embeddings.num_classes)
    absent = means.isnan().any(1)
    means = means.nan_to_num(0.0)
    bias = torch.zeros(len(means), device=means.device) if cosine else -means.double().square().sum(1).float() / 2
    bias = bias.masked_fill(absent, NEVER)
    scale = like.scale if like is not None and cosine else 1.0
    single = like is not None and like.single_logit
    return LinearHead(weight=means, bias=bias, cosine=cosine, scale=scale, single_logit=single)


def _require_tau(tau: float) -> None:
    if not isinstance(tau, numbers.Real) or not 0 <= tau < math.inf:
        raise must("tau", "not be negative, and finite", repr(tau))
