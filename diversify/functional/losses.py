"""Losses that know how often each class is drawn."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import must


def prior_corrected_cross_entropy(logits: Tensor, targets: Tensor, log_prior: Tensor, strength: float) -> Tensor:
    """Mean cross entropy of `logits + strength * log_prior`.

    0 is cross entropy, to the bit; 1 is balanced softmax (Ren et al. 2020, eq. 4), which is the logit-adjusted loss with
    tau 1 (Menon et al. 2021, eq. 10). The network's own logits are then those of balanced classes, and are to be used as
    they are.

    Args:
        logits: `(N, C)`. In half precision the loss is computed, and returned, in float32.
        targets: `(N,)` class indices, or `(N, C)` class probabilities of any floating type.
        log_prior: `(C,)` logarithm of each class's share of what the loss sees, finite; a constant added to all of it
            changes nothing.

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
