"""Post-hoc fixes that need no training: logit adjustment, tau-normalisation, nearest class mean."""

from __future__ import annotations

import math
import numbers
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must
from ..functional import counts, losses
from ..network.embeddings import Embeddings
from ..network.linear_head import LinearHead

NEVER = -1e30  # the bias of a class that is never to win, within what float32 and bfloat16 hold


# Free fixes


def adjust_logits(head: LinearHead, log_prior: Tensor, tau: float) -> LinearHead:
    """The head with `tau * log_prior` taken off its logits, folded into the bias; 0 is the identity.

    Post-hoc logit adjustment, Menon et al. 2021, eq. 9. Logits are those after the scale of a cosine head, which has a
    bias afterwards.

    Args:
        log_prior: `(C,)` logarithm of each class's share of the training images, finite.

    Raises:
        InputError: the shape of `log_prior` is not `(C,)`, it is not finite, or tau is negative or infinite.
    """
    _require_tau(tau)
    if log_prior.shape != (head.num_classes,):
        raise must("log prior", f"have shape ({head.num_classes},)", tuple(log_prior.shape))
    if not log_prior.isfinite().all():
        raise must("log prior", "be finite", "nan or infinite values", "give an absent class that of the rarest one")
    if tau == 0:
        return head
    return replace(head, bias=(head.bias - tau * log_prior.to(head.bias) / head.scale).contiguous())


def log_prior_of(class_counts: Tensor) -> Tensor:
    """`(C,)` float32 logarithm of each class's share of the images; a class without any has that of the rarest one.

    Raises:
        InputError: no class has an image.
    """
    if not int(class_counts.sum()):
        raise must("class counts", "hold at least one image", 0)
    return losses.log_prior_of(class_counts).float()


def normalize_tau(head: LinearHead, tau: float) -> LinearHead:
    """The head with each class's logit divided by its weight's norm to the power of tau; 0 is the identity.

    Tau-normalisation, Kang et al. 2020, eq. 2, with the bias divided like the weight instead of dropped. The geometric mean
    of the norms is put back, so that logits keep their size. A row of zeros stays, and so does a cosine head, whose rows
    have been normalised already.

    Raises:
        InputError: tau is negative or infinite.
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
    """The nearest class mean as a head: `f @ mean - |mean|^2 / 2` is largest where the distance to the mean is smallest.

    A class without rows never wins. Where `like` is a cosine head so is the result, with its scale: the nearest mean by
    angle, of normalised features.
    """
    cosine = like is not None and like.cosine
    features = functional.normalize(embeddings.features, dim=1) if cosine else embeddings.features
    means = counts.class_mean(features, embeddings.labels, embeddings.num_classes)
    absent = means.isnan().any(1)
    means = means.nan_to_num(0.0)
    bias = torch.zeros(len(means), device=means.device) if cosine else -means.double().square().sum(1).float() / 2
    bias = bias.masked_fill(absent, NEVER)
    return LinearHead(weight=means, bias=bias, cosine=cosine, scale=like.scale if like is not None and cosine else 1.0)


def _require_tau(tau: float) -> None:
    if not isinstance(tau, numbers.Real) or not 0 <= tau < math.inf:
        raise must("tau", "not be negative, and finite", repr(tau))
