"""Plain-Python losses, one example at a time."""

import math


def balanced_softmax(logits, targets, priors, strength):
    """Mean of `-sum_c t_c log(p_c^s e^z_c / sum_j p_j^s e^z_j)`; `targets` are lists of class probabilities."""
    losses = []
    for row, target in zip(logits, targets, strict=True):
        weights = [prior**strength * math.exp(logit) for prior, logit in zip(priors, row, strict=True)]
        total = math.fsum(weights)
        losses.append(-math.fsum(t * math.log(w / total) for t, w in zip(target, weights, strict=True)))
    return math.fsum(losses) / len(losses)
